//! The INI dialect of supervisord, which is that of Python's raw reader in its lenient mode
//! (reference/supervisord.md §1.1). Text to sections of raw values; `percent` expands them.
//!
//! Our own parser, since no crate knows this dialect: continuation by indentation, comments only behind white space,
//! section names as they stand, a default section, and all bad lines of a file told at once.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::value::Place;

/// Larger ones are no configuration.
const BYTES: u64 = 8 << 20;

/// Keys of this section are defaults of every other one.
const DEFAULT: &str = "DEFAULT";

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ini {
    /// In the order in which they first appear; `[DEFAULT]` is not among them.
    sections: Vec<Section>,
    defaults: Section,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    pub name: String,
    /// Each key once, lowercased, in the order in which they first appear.
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: String,
    pub value: String,
    /// Where the key stands.
    pub at: Place,
}

impl Ini {
    pub fn sections(&self) -> impl Iterator<Item = &Section> {
        self.sections.iter()
    }

    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// A value of a section, else of `[DEFAULT]`. Nothing if there is no such section.
    pub fn get(&self, section: &str, key: &str) -> Option<&Entry> {
        let section = self.section(section)?;
        section.entry(key).or_else(|| self.defaults.entry(key))
    }

    /// All entries of a section, then those of `[DEFAULT]` that it does not have itself.
    pub fn entries<'i>(&'i self, section: &'i Section) -> impl Iterator<Item = &'i Entry> {
        let inherited = self.defaults.entries.iter().filter(|entry| section.entry(&entry.key).is_none());
        section.entries.iter().chain(inherited)
    }

    /// Takes in a file that is read after this one: its values win.
    pub fn merge(&mut self, later: Ini) {
        for entry in later.defaults.entries {
            self.defaults.put(entry);
        }
        for section in later.sections {
            let own = self.open(&section.name);
            for entry in section.entries {
                own.put(entry);
            }
        }
    }

    /// Replaces text in every value: an included file's `%(here)s`, which means its own directory.
    pub fn replace(&mut self, from: &str, to: &str) {
        let sections = self.sections.iter_mut().chain([&mut self.defaults]);
        for entry in sections.flat_map(|section| &mut section.entries) {
            entry.value = entry.value.replace(from, to);
        }
    }

    fn open(&mut self, name: &str) -> &mut Section {
        if name == DEFAULT {
            return &mut self.defaults;
        }
        let at = self.sections.iter().position(|section| section.name == name).unwrap_or_else(|| {
            self.sections.push(Section { name: name.to_owned(), entries: Vec::new() });
            self.sections.len() - 1
        });
        &mut self.sections[at]
    }
}

impl Section {
    fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The last one of a key wins, and keeps the place of the first.
    fn put(&mut self, entry: Entry) -> &mut Entry {
        let at = match self.entries.iter().position(|own| own.key == entry.key) {
            Some(at) => {
                self.entries[at] = entry;
                at
            }
            None => {
                self.entries.push(entry);
                self.entries.len() - 1
            }
        };
        &mut self.entries[at]
    }
}

/// Reads a file whole, within bounds.
pub fn read(path: &Path) -> Result<Ini, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).and_then(|file| file.take(BYTES + 1).read_to_end(&mut bytes));
    file.map_err(|why| {
        let why = why.to_string();
        let (why, _) = why.split_once(" (os error").unwrap_or((&why, ""));
        format!("could not read config file {}: {why}", path.display())
    })?;
    if bytes.len() as u64 > BYTES {
        return Err(format!("could not read config file {}: it is larger than 8 MiB", path.display()));
    }
    let text = std::str::from_utf8(&bytes).map_err(|why| {
        let line = bytes[..why.valid_up_to()].split(|&b| b == b'\n').count();
        format!("could not read config file {}: line {line} is not UTF-8", path.display())
    })?;
    parse(&path.to_string_lossy().into(), text)
}

/// Reads a text. The error is worded as Python words it, since people look for those words.
pub fn parse(file: &Arc<str>, text: &str) -> Result<Ini, String> {
    let mut ini = Ini::default();
    let mut bad = String::new();
    // The section that options go to, and in it the option that a deeper line continues.
    let mut section: Option<String> = None;
    let mut open: Option<Entry> = None;
    let mut depth = 0;
    for (number, line) in (1..).zip(lines(text)) {
        let (content, has_comment) = without_comment(line);
        let content = content.trim();
        if content.is_empty() {
            // A blank line is part of a value, a line of comment is not.
            if let Some(entry) = open.as_mut().filter(|_| !has_comment) {
                entry.value.push('\n');
            }
            continue;
        }
        let indent = line.chars().take_while(|c| c.is_whitespace()).count();
        if let Some(entry) = open.as_mut().filter(|_| indent > depth) {
            entry.value.push('\n');
            entry.value.push_str(content);
            continue;
        }
        depth = indent;
        if let Some(name) = header(content) {
            close(&mut ini, section.as_deref(), open.take());
            ini.open(name);
            section = Some(name.to_owned());
            continue;
        }
        if section.is_none() {
            return Err(format!("File contains no section headers.\nfile: '{file}', line: {number}\n{}", repr(line)));
        }
        match content.find(['=', ':']) {
            Some(at) if !content[..at].trim().is_empty() => {
                close(&mut ini, section.as_deref(), open.take());
                let key = content[..at].trim().to_lowercase();
                let value = content[at + 1..].trim().to_owned();
                let at = Place { file: Arc::clone(file), line: number, column: indent as u32 + 1 };
                open = Some(Entry { key, value, at });
            }
            _ => bad.push_str(&format!("\n\t[line {number:2}]: {}", repr(line))),
        }
    }
    close(&mut ini, section.as_deref(), open);
    if bad.is_empty() { Ok(ini) } else { Err(format!("Source contains parsing errors: '{file}'{bad}")) }
}

fn close(ini: &mut Ini, section: Option<&str>, entry: Option<Entry>) {
    if let (Some(section), Some(mut entry)) = (section, entry) {
        entry.value.truncate(entry.value.trim_end().len());
        ini.open(section).put(entry);
    }
}

/// Lines end with `\n`, `\r\n` or `\r`.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
}

/// The line up to a `;` or `#` at its start or behind white space, and whether there is one.
fn without_comment(line: &str) -> (&str, bool) {
    let mut last = ' ';
    for (at, c) in line.char_indices() {
        if matches!(c, ';' | '#') && last.is_whitespace() {
            return (&line[..at], true);
        }
        last = c;
    }
    (line, false)
}

/// The name in a header: up to the last bracket; what follows is ignored.
fn header(content: &str) -> Option<&str> {
    let inner = content.strip_prefix('[')?;
    let name = &inner[..inner.rfind(']')?];
    (!name.is_empty()).then_some(name)
}

/// As Python shows a line.
fn repr(line: &str) -> String {
    let text: String = line.chars().take(200).collect();
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let text = text.replace('\\', "\\\\").replace('\t', "\\t");
    format!("{quote}{}\\n{quote}", if quote == '\'' { text.replace('\'', "\\'") } else { text })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Ini {
        try_read(text).unwrap_or_else(|why| panic!("{why}"))
    }

    fn try_read(text: &str) -> Result<Ini, String> {
        parse(&Arc::from("s.conf"), text)
    }

    fn value(text: &str, key: &str) -> Option<String> {
        read(&format!("[a]\n{text}\n")).get("a", key).map(|entry| entry.value.clone())
    }

    // Every expectation was seen with Python 3.11's RawConfigParser(strict=False, inline_comment_prefixes=(';', '#')).
    #[test]
    fn options_are_split_at_the_first_delimiter() {
        assert_eq!(value("Key = v = w", "key").as_deref(), Some("v = w"));
        assert_eq!(value("key: v=w", "key").as_deref(), Some("v=w"));
        assert_eq!(value("key=", "key").as_deref(), Some(""));
        assert_eq!(value("a key  =  b ", "a key").as_deref(), Some("b"));
    }

    #[test]
    fn a_comment_begins_at_the_start_or_behind_white_space() {
        assert_eq!(value("k=a;b#c", "k").as_deref(), Some("a;b#c"));
        assert_eq!(value("k=a ;b", "k").as_deref(), Some("a"));
        assert_eq!(value("k=a\t#b", "k").as_deref(), Some("a"));
        assert_eq!(value("k=;x", "k").as_deref(), Some(";x"));
        assert_eq!(value("k=a;b ; c # d", "k").as_deref(), Some("a;b"));
        assert_eq!(value("k=sh -c \"a ; b\"", "k").as_deref(), Some("sh -c \"a"));
        assert_eq!(value("# k=1\n  ; k=2", "k"), None);
        assert_eq!(value("rem k=1\nrem=2", "rem").as_deref(), Some("2"));
    }

    #[test]
    fn a_deeper_line_continues_a_value() {
        assert_eq!(value("k=a\n  b\n c", "k").as_deref(), Some("a\nb\nc"));
        assert_eq!(value("k=\n a\n\n b\n\n", "k").as_deref(), Some("\na\n\nb"));
        assert_eq!(value("k=a\n ; not this\n b", "k").as_deref(), Some("a\nb"));
        assert_eq!(value("k=a\n [x]", "k").as_deref(), Some("a\n[x]"));
        assert_eq!(value("  k=a\n  l=b", "l").as_deref(), Some("b"));
        assert_eq!(value("k=a\n l=b", "k").as_deref(), Some("a\nl=b"));
    }

    #[test]
    fn sections_are_taken_as_they_stand() {
        let ini = read("[ program:a ]\nx=1\n[b] trailing\nx=2\n[c]]\nx=3\n");
        let names: Vec<&str> = ini.sections().map(|section| section.name.as_str()).collect();
        assert_eq!(names, [" program:a ", "b", "c]"]);
    }

    #[test]
    fn a_section_may_come_twice_and_the_last_value_wins() {
        let ini = read("[a]\nx=1\ny=1\n[b]\n[a]\nx=2\n");
        assert_eq!(ini.get("a", "x").map(|e| (e.value.as_str(), e.at.line)), Some(("2", 6)));
        assert_eq!(ini.get("a", "y").map(|e| e.value.as_str()), Some("1"));
        assert_eq!(ini.sections().count(), 2);
    }

    #[test]
    fn defaults_reach_every_section() {
        let ini = read("[DEFAULT]\nx=1\ny=1\n[a]\nx=2\n");
        let section = ini.section("a").expect("there");
        let all: Vec<(&str, &str)> = ini.entries(section).map(|e| (e.key.as_str(), e.value.as_str())).collect();
        assert_eq!(all, [("x", "2"), ("y", "1")]);
        assert_eq!(ini.get("a", "y").map(|e| e.value.as_str()), Some("1"));
        assert_eq!(ini.get("none", "y"), None);
        assert!(ini.section("DEFAULT").is_none());
    }

    #[test]
    fn a_later_file_wins() {
        let mut ini = read("[a]\nx=1\ny=1\n");
        let mut later = read("[a]\nx=%(here)s/2\n[b]\nz=3\n");
        later.replace("%(here)s", "/inc");
        ini.merge(later);
        assert_eq!(ini.get("a", "x").map(|e| e.value.as_str()), Some("/inc/2"));
        assert_eq!(ini.get("a", "y").map(|e| e.value.as_str()), Some("1"));
        assert_eq!(ini.get("b", "z").map(|e| e.value.as_str()), Some("3"));
    }

    #[test]
    fn line_ends_of_other_systems_are_line_ends() {
        let ini = read("[a]\r\nx=1\r\n y\r[b]\rz=2");
        assert_eq!(ini.get("a", "x").map(|e| e.value.as_str()), Some("1\ny"));
        assert_eq!(ini.get("b", "z").map(|e| e.value.as_str()), Some("2"));
    }

    #[test]
    fn bad_lines_are_told_all_at_once_in_pythons_words() {
        let bad = try_read("[a]\nfoo\nx=1\n= y\nit's\n").expect_err("bad");
        assert_eq!(
            bad,
            "Source contains parsing errors: 's.conf'\n\t[line  2]: 'foo\\n'\n\t[line  4]: '= y\\n'\n\t[line  5]: \"it's\\n\""
        );
        let bad = try_read("\u{feff}[a]\nx=1\n").expect_err("bad");
        assert!(bad.starts_with("File contains no section headers.\nfile: 's.conf', line: 1\n"), "{bad}");
        assert!(try_read("x=1\n").is_err() && try_read("[]\n").is_err());
        assert_eq!(try_read(""), Ok(Ini::default()));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[\\[\\]=:;# \t\r\nab%é]{0,80}") {
            let _ = try_read(&text);
        }

        #[test]
        fn plain_values_come_out_as_they_went_in(pairs in prop::collection::btree_map("[a-z_]{1,8}", "[a-z0-9/.,=:;#-]{0,20}", 0..8)) {
            let text: String = pairs.iter().map(|(key, value)| format!("{key} ={value}\n")).collect();
            let ini = read(&format!("[s]\n{text}"));
            for (key, value) in &pairs {
                prop_assert_eq!(&ini.get("s", key).expect("there").value, value);
            }
        }
    }
}
