//! YAML as a person would write it: blocks, two spaces, comments; quotes where a reader could take a word for anything
//! but itself.
//!
//! The dialect is what YAML 1.1 and 1.2 readers agree on: kubectl, compose and hob itself are of both kinds.

use std::fmt::Write as _;

/// A value to be written.
#[derive(Clone, Debug, PartialEq)]
pub enum Yaml {
    Text(String),
    /// A number, `true` or `false`.
    Bare(String),
    List(Vec<Yaml>),
    /// On one line, for short words.
    Row(Vec<Yaml>),
    Map(Map),
    /// `*name`, the mapping that has this anchor.
    Alias(String),
}

/// A mapping under construction, in the order in which its entries are put.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map {
    entries: Vec<Entry>,
    /// `&name`, by which it can be repeated.
    anchor: Option<String>,
    /// `<<: *name`, what it has besides.
    merged: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    /// Comments in front of it, a paragraph each.
    notes: Vec<String>,
    key: String,
    value: Yaml,
    /// A comment behind it.
    aside: Option<String>,
}

impl From<&str> for Yaml {
    fn from(text: &str) -> Yaml {
        Yaml::Text(text.to_owned())
    }
}

impl From<String> for Yaml {
    fn from(text: String) -> Yaml {
        Yaml::Text(text)
    }
}

impl From<u64> for Yaml {
    fn from(number: u64) -> Yaml {
        Yaml::Bare(number.to_string())
    }
}

impl From<bool> for Yaml {
    fn from(yes: bool) -> Yaml {
        Yaml::Bare(yes.to_string())
    }
}

impl From<Map> for Yaml {
    fn from(map: Map) -> Yaml {
        Yaml::Map(map)
    }
}

impl From<Vec<Yaml>> for Yaml {
    fn from(list: Vec<Yaml>) -> Yaml {
        Yaml::List(list)
    }
}

/// Words in one row.
pub fn row<T: Into<Yaml>>(words: impl IntoIterator<Item = T>) -> Yaml {
    Yaml::Row(words.into_iter().map(Into::into).collect())
}

impl Map {
    pub fn new() -> Map {
        Map::default()
    }

    /// Without an entry of its own; what it has of another does not count.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn put(&mut self, key: &str, value: impl Into<Yaml>) -> &mut Map {
        self.put_with(key, value, &[])
    }

    /// With comments in front, a paragraph each.
    pub fn put_with(&mut self, key: &str, value: impl Into<Yaml>, notes: &[String]) -> &mut Map {
        let (key, value) = (key.to_owned(), value.into());
        self.entries.push(Entry { notes: notes.to_vec(), key, value, aside: None });
        self
    }

    /// With a short comment on the same line.
    pub fn put_aside(&mut self, key: &str, value: impl Into<Yaml>, aside: &str) -> &mut Map {
        self.put(key, value);
        if let Some(entry) = self.entries.last_mut() {
            entry.aside = Some(aside.to_owned());
        }
        self
    }

    /// Puts comments in front of the whole.
    pub fn comment_first(&mut self, notes: &[String]) {
        if let Some(entry) = self.entries.first_mut() {
            entry.notes.splice(0..0, notes.iter().cloned());
        }
    }

    /// Gives it a name, to be repeated by.
    pub fn anchor(&mut self, name: &str) {
        self.anchor = Some(name.to_owned());
    }

    /// What is left to say when the mapping of an anchor is merged into this one: the entries that differ. Nothing if
    /// that one has an entry which this one has not.
    pub fn beside(&self, anchored: &Map) -> Option<Map> {
        let find = |map: &Map, key: &str| map.entries.iter().find(|entry| entry.key == key).cloned();
        let merged = anchored.anchor.clone()?;
        if anchored.entries.iter().any(|entry| find(self, &entry.key).is_none()) {
            return None;
        }
        let differs = |entry: &&Entry| find(anchored, &entry.key).is_none_or(|other| other.value != entry.value);
        let entries = self.entries.iter().filter(differs).cloned().collect();
        Some(Map { entries, anchor: None, merged: Some(merged) })
    }

    /// The same for those who chain.
    pub fn with(mut self, key: &str, value: impl Into<Yaml>) -> Map {
        self.put(key, value);
        self
    }

    /// The document.
    pub fn write(&self) -> String {
        let mut out = String::new();
        self.write_at(&mut out, 0);
        out
    }

    fn write_at(&self, out: &mut String, indent: usize) {
        if let Some(name) = &self.merged {
            let _ = writeln!(out, "{:indent$}<<: *{name}", "");
        }
        for entry in &self.entries {
            for note in &entry.notes {
                comment(out, indent, note);
            }
            let _ = write!(out, "{:indent$}{}:", "", scalar(&entry.key));
            entry.value.write_behind(out, indent, entry.aside.as_deref());
        }
    }
}

impl Yaml {
    /// Behind a key.
    fn write_behind(&self, out: &mut String, indent: usize, aside: Option<&str>) {
        let aside = aside.map(|text| format!("  # {text}")).unwrap_or_default();
        match self {
            Yaml::List(items) if !items.is_empty() => {
                let _ = writeln!(out, "{aside}");
                for item in items {
                    item.write_item(out, indent + 2);
                }
            }
            Yaml::Map(map) if !map.is_empty() => {
                let anchor = map.anchor.as_ref().map(|name| format!(" &{name}")).unwrap_or_default();
                let _ = writeln!(out, "{anchor}{aside}");
                map.write_at(out, indent + 2);
            }
            Yaml::Text(text) if is_block(text) => {
                let _ = writeln!(out, " {}{aside}", if text.ends_with('\n') { "|" } else { "|-" });
                block(out, indent + 2, text);
            }
            short => {
                let _ = writeln!(out, " {}{aside}", short.on_one_line());
            }
        }
    }

    fn write_item(&self, out: &mut String, indent: usize) {
        match self {
            Yaml::Map(map) if !map.is_empty() => {
                let mut text = String::new();
                map.write_at(&mut text, indent + 2);
                // A comment in front of the first entry goes in front of the dash.
                let body = text.trim_start_matches(' ');
                if body.starts_with('#') {
                    let first = text.lines().take_while(|line| line.trim_start().starts_with('#')).count();
                    for line in text.lines().take(first) {
                        let _ = writeln!(out, "{:indent$}{}", "", line.trim_start());
                    }
                    text = text.lines().skip(first).flat_map(|line| [line, "\n"]).collect();
                }
                let _ = write!(out, "{:indent$}- {}", "", text.trim_start_matches(' '));
            }
            Yaml::Text(text) if is_block(text) => {
                let _ = writeln!(out, "{:indent$}- {}", "", if text.ends_with('\n') { "|" } else { "|-" });
                block(out, indent + 2, text);
            }
            short => {
                let _ = writeln!(out, "{:indent$}- {}", "", short.on_one_line());
            }
        }
    }

    fn on_one_line(&self) -> String {
        match self {
            Yaml::Text(text) => scalar(text),
            Yaml::Bare(text) => text.clone(),
            Yaml::Alias(name) => format!("*{name}"),
            Yaml::List(items) | Yaml::Row(items) => {
                let items: Vec<String> = items.iter().map(Yaml::in_a_row).collect();
                format!("[{}]", items.join(", "))
            }
            Yaml::Map(map) => {
                let entries: Vec<String> = map
                    .entries
                    .iter()
                    .map(|entry| {
                        format!("{}: {}", quote(&entry.key, is_plain_in_a_row(&entry.key)), entry.value.in_a_row())
                    })
                    .collect();
                if entries.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", entries.join(", ")) }
            }
        }
    }

    fn in_a_row(&self) -> String {
        match self {
            Yaml::Text(text) => quote(text, is_plain_in_a_row(text)),
            other => other.on_one_line(),
        }
    }
}

/// Comment lines, wrapped.
pub fn comment(out: &mut String, indent: usize, text: &str) {
    for line in wrapped(text, 110_usize.saturating_sub(indent)) {
        let _ = writeln!(out, "{:indent$}#{}{line}", "", if line.is_empty() { "" } else { " " });
    }
}

/// Paragraphs, each in lines of at most so many characters where its words allow it. Control characters would end the
/// comment they stand in.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        // An indented line is an example, and stays as it is.
        if paragraph.starts_with(' ') {
            lines.push(shown(paragraph));
            continue;
        }
        let mut line = String::new();
        for word in paragraph.split_whitespace().map(shown) {
            if !line.is_empty() && line.chars().count() + word.chars().count() >= width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&word);
        }
        lines.push(line);
    }
    lines
}

/// Without what could end a line for some reader.
fn shown(text: &str) -> String {
    text.chars().map(|c| if is_printable(c) { c } else { '?' }).collect()
}

/// Whether a text of several lines can stand as it is: a script, as a rule.
fn is_block(text: &str) -> bool {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let is_line = |line: &str| line.chars().all(is_printable) && !line.ends_with(' ');
    body.contains('\n') && !body.ends_with('\n') && !body.starts_with([' ', '\n']) && body.split('\n').all(is_line)
}

fn block(out: &mut String, indent: usize, text: &str) {
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        let indent = if line.is_empty() { 0 } else { indent };
        let _ = writeln!(out, "{:indent$}{line}", "");
    }
}

/// A string on one line.
pub fn scalar(text: &str) -> String {
    quote(text, is_plain(text))
}

fn quote(text: &str, plain: bool) -> String {
    if plain {
        return text.to_owned();
    }
    if text.chars().all(is_printable) {
        return format!("'{}'", text.replace('\'', "''"));
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if is_printable(c) => out.push(c),
            c if u32::from(c) <= 0xff => drop(write!(out, "\\x{:02X}", u32::from(c))),
            c if u32::from(c) <= 0xffff => drop(write!(out, "\\u{:04X}", u32::from(c))),
            c => drop(write!(out, "\\U{:08X}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// What every reader takes for a character like another. Letters of all languages are; what only looks like a blank
/// and what turns the direction of writing is escaped.
fn is_printable(c: char) -> bool {
    c.is_ascii_graphic() || c == ' ' || (!c.is_ascii() && c.is_alphanumeric() && u32::from(c) < 0x1_0000)
}

/// Whether it may stand without quotes: it begins like a word, a path or a flag, or is a number with its unit; it is
/// none of the words that mean something, and holds nothing that ends it.
fn is_plain(text: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphabetic();
    let begins = text.starts_with(|c: char| is_letter(c) || c == '/' || c == '_')
        || ["~/", "./", "../"].iter().any(|prefix| text.starts_with(prefix));
    let flag = text.trim_start_matches('-');
    let is_flag = text.len() - flag.len() <= 2 && flag.starts_with(is_letter);
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let is_amount = unit.len() < text.len() && UNITS.contains(&unit);
    (begins || is_flag || is_amount)
        && text.chars().all(is_printable)
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.ends_with([':', ' '])
}

/// In `[a, b]` and `{a: b}` the marks of those mean something too.
fn is_plain_in_a_row(text: &str) -> bool {
    is_plain(text) && !text.contains([',', '[', ']', '{', '}', ':', '#', '?'])
}

/// Behind a number they make a word of it for every reader.
const UNITS: &[&str] = &["ms", "s", "m", "h", "d", "KB", "MB", "GB", "Gi"];

/// Words that some reader takes for something else.
const WORDS: &[&str] = &["yes", "no", "true", "false", "on", "off", "y", "n", "null"];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What hob's own reader makes of it; the tests of the whole program ask others.
    fn read(text: &str) -> serde_json::Value {
        crate::config::yaml_as_json(text).unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    #[test]
    fn words_that_could_be_misread_are_quoted() {
        for text in [
            "",
            " ",
            "yes",
            "No",
            "TRUE",
            "on",
            "off",
            "y",
            "N",
            "null",
            "~",
            "1",
            "1e3",
            "0x1f",
            "1:30",
            ".5",
            ".inf",
            "-",
            "- a",
            "a: b",
            "a:",
            "a #b",
            "#a",
            "&a",
            "*a",
            "!a",
            "%a",
            "@a",
            "`a",
            "[a",
            "{a",
            "|",
            ">",
            "'a'",
            "\"a\"",
            "a ",
            " a",
            "a\nb",
            "a\tb",
            "=",
            "<<",
            "?",
            "---",
            "2001-01-01",
            "é",
            "a\u{2028}b",
            "a\u{feff}",
        ] {
            let written = scalar(text);
            assert!(written.starts_with(['\'', '"']) || text == "é", "{text:?}: {written}");
        }
        for text in [
            "web",
            "~/run",
            "--home",
            "-c",
            "10s",
            "/usr/bin/x -a --b=c",
            "a:b",
            "a#b",
            "$PORT_WWW",
            "it's",
            "http://h:1/",
        ] {
            assert_eq!(scalar(text).starts_with('\''), text.starts_with('$'), "{text}");
        }
    }

    #[test]
    fn a_document_reads_as_a_person_would_write_it() {
        let mut inner = Map::new().with("name", "www");
        inner.put_aside("port", 80, "for http");
        let mut map = Map::new();
        map.put_with("list", vec![inner.into(), Yaml::from("b: c")], &["Two of them.".to_owned()]);
        map.put("row", row(["a", "b,c"])).put("none", Map::new()).put("flag", true);
        let expected = "# Two of them.\nlist:\n  - name: www\n    port: 80  # for http\n  - 'b: c'\nrow: [a, 'b,c']\nnone: {}\nflag: true\n";
        assert_eq!(map.write(), expected);
    }

    #[test]
    fn a_comment_cannot_be_left() {
        let mut out = String::new();
        comment(&mut out, 2, "one\rkey: value\u{2028}x\n  $ as it is\n");
        assert_eq!(out, "  # one key: value x\n  #   $ as it is\n");
        assert!(wrapped(&"word ".repeat(100), 40).iter().all(|line| line.len() <= 40));
    }

    proptest! {
        #[test]
        fn whatever_goes_in_comes_out(key in "\\PC{1,12}", text in any::<String>(), odd in "[-:#'\"\\\\ \t\n,\\[\\]{}&*!|>%@`~?.=<0-9a-fyeYESnoNO]{0,12}", script in "([-a-z :#'\"$]{0,6}\n){0,4}[a-z ]{0,3}") {
            let mut map = Map::new();
            map.put(&key, text.as_str());
            map.put("odd-key", odd.as_str());
            map.put("script", script.as_str()).put("scripts", vec![Yaml::from(script.as_str()), Map::new().with("x", script.as_str()).into()]);
            map.put("row", row([odd.as_str(), text.as_str()]));
            map.put("list", vec![Yaml::from(odd.as_str()), Map::new().with(&odd, text.as_str()).into()]);
            prop_assume!(!["odd-key", "row", "list", "script", "scripts"].contains(&key.as_str()));
            let read = read(&map.write());
            prop_assert_eq!(&read[&key], &text);
            prop_assert_eq!(&read["odd-key"], &odd);
            prop_assert_eq!((&read["script"], &read["scripts"]), (&serde_json::json!(script), &serde_json::json!([script, {"x": script}])));
            prop_assert_eq!(&read["row"], &serde_json::json!([odd, text]));
            prop_assert_eq!(&read["list"], &serde_json::json!([odd, {&odd: text}]));
        }
    }
}
