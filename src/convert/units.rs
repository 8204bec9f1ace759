//! The words of systemd: unit files, quoting (systemd.syntax(7), systemd.service(5)), names.

use std::fmt::Write as _;

use super::yaml;

/// A unit file under construction.
#[derive(Debug, Default)]
pub struct Unit {
    text: String,
}

impl Unit {
    pub fn new(heading: &str) -> Unit {
        let mut unit = Unit::default();
        unit.note(heading);
        unit
    }

    pub fn section(&mut self, name: &str) {
        let gap = if self.text.ends_with("]\n") || self.text.is_empty() { "" } else { "\n" };
        let _ = writeln!(self.text, "{gap}[{name}]");
    }

    /// A line as it is: the value has no blanks, quotes, `%` or `\` that mean something.
    pub fn put(&mut self, key: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.text, "{key}={value}");
    }

    /// A path or a text that stands alone: only `%` means something in it.
    pub fn put_text(&mut self, key: &str, value: &str) {
        self.put(key, plain(value));
    }

    pub fn note(&mut self, text: &str) {
        yaml::comment(&mut self.text, 0, text);
    }

    pub fn finish(self) -> String {
        self.text
    }
}

/// Text without words of its own, such as a path: a specifier is the only thing that could stand in it.
pub fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect::<String>().replace('%', "%%")
}

/// One quoted word, as `Environment=` takes it.
pub fn word(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '%' => out.push_str("%%"),
            c if u32::from(c) < 0x20 || u32::from(c) == 0x7f => drop(write!(out, "\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// One quoted word of a command line, where `$NAME` means something too.
pub fn argument(text: &str) -> String {
    word(text).replace('$', "$$")
}

/// As part of the name of a unit (systemd.unit(5)).
pub fn name(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || ":-_.".contains(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What systemd makes of a value that is one quoted word: specifiers first, then quotes and escapes, then, in a
    /// command line, variables. Anything that would not be taken as it was meant is an error.
    fn read(value: &str, is_command: bool) -> Result<String, String> {
        let value = value.replace("%%", "\u{1}");
        if value.contains('%') {
            return Err("a specifier".into());
        }
        let value = value.replace('\u{1}', "%");
        let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).ok_or("no quotes")?;
        let (mut out, mut chars) = (String::new(), inner.chars());
        while let Some(c) = chars.next() {
            match c {
                '"' => return Err("a quote too early".into()),
                '\n' => return Err("a line that ends".into()),
                '\\' => match chars.next() {
                    Some(c @ ('"' | '\\')) => out.push(c),
                    Some('n') => out.push('\n'),
                    Some('t') => out.push('\t'),
                    Some('r') => out.push('\r'),
                    Some('x') => {
                        let hex: String = chars.by_ref().take(2).collect();
                        out.push(u8::from_str_radix(&hex, 16).map_err(|e| e.to_string())? as char);
                    }
                    other => return Err(format!("escape {other:?}")),
                },
                c => out.push(c),
            }
        }
        if is_command {
            let out = out.replace("$$", "\u{1}");
            return if out.contains('$') { Err("a variable".into()) } else { Ok(out.replace('\u{1}', "$")) };
        }
        Ok(out)
    }

    proptest! {
        #[test]
        fn whatever_goes_in_comes_out(text in "[^\u{0}\u{1}]{0,20}", odd in "[\"'\\\\%$\n\t a-z{}]{0,16}") {
            for text in [&text, &odd] {
                prop_assert_eq!(&read(&word(text), false).map_err(TestCaseError::fail)?, text);
                prop_assert_eq!(&read(&argument(text), true).map_err(TestCaseError::fail)?, text);
            }
        }
    }

    #[test]
    fn names_of_units_have_the_characters_of_names() {
        assert_eq!(name("my app-www.0-a@b"), "my_app-www.0-a_b");
    }
}
