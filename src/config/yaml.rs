//! YAML text to the tree.
//!
//! Built from the parser's events rather than through serde: only there does each value have a position, its source
//! text and its quoting. Bounded in every direction, since the text comes from whoever pushes: bytes, depth, values
//! and what aliases multiply.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_yaml::granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError, Tag, options};

use super::value::{Data, Key, Kind, Place, Problem, Scalar, Value, quoted};

/// Reads one document. `None` is a file with nothing in it but blanks and comments.
pub fn parse(file: &Arc<str>, bytes: &[u8]) -> Result<Option<Value>, Problem> {
    let text = text_of(file, bytes)?;
    let options = options! { emit_comments: false, flow_nesting_limit: DEPTH, block_nesting_limit: DEPTH };
    let mut tree = Tree::new();
    for event in Parser::new_from_str_with_options(text, options) {
        let (mut event, span) = event.map_err(|error| syntax(file, text, &error))?;
        // The parser calls a value that is not there "~".
        if let Event::Scalar(value, ScalarStyle::Plain, ..) = &mut event
            && span.start.index() == span.end.index()
        {
            *value = "".into();
        }
        tree.take(event, place(file, &span.start))?;
    }
    Ok(tree.root)
}

/// The text of a file, if it is one that YAML (or TOML) can be in: bounded, UTF-8, no control characters.
pub fn text_of<'a>(file: &Arc<str>, bytes: &'a [u8]) -> Result<&'a str, Problem> {
    if bytes.len() > BYTES {
        let name = file.rsplit('/').next().unwrap_or(file);
        return Err(Problem::new(&Place::file(file), format!("{name} is larger than 1 MiB")));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let good = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
        let problem = Problem::new(&place_after(file, good), "not valid UTF-8");
        if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
            problem.hint("it looks like UTF-16; save it as UTF-8")
        } else {
            problem.hint("save it as UTF-8")
        }
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match text.char_indices().find(|(_, c)| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}')) {
        Some((at, c)) => {
            let name =
                if c == '\0' { "a NUL byte".to_owned() } else { format!("control character U+{:04X}", c as u32) };
            Err(Problem::new(&place_after(file, &text[..at]), format!("{name} is not allowed in this file"))
                .hint("is it a text file?"))
        }
        None => Ok(text),
    }
}

/// The place just after `before`.
pub fn place_after(file: &Arc<str>, before: &str) -> Place {
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Place { file: Arc::clone(file), line: small(line), column: small(column) }
}

fn place(file: &Arc<str>, marker: &Marker) -> Place {
    Place { file: Arc::clone(file), line: small(marker.line()), column: small(marker.col() + 1) }
}

fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// The tree as far as the events have told it.
struct Tree {
    open: Vec<Open>,
    root: Option<Value>,
    /// Finished values that an alias may ask for, with their cost.
    anchors: HashMap<usize, (Value, Cost)>,
    spent: Cost,
    documents: usize,
}

/// A collection whose end has not been seen yet.
struct Open {
    anchor: usize,
    /// What had been spent before it, to know what a copy of it costs.
    before: Cost,
    at: Place,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Value>),
    Map { entries: Vec<(Key, Value)>, seen: HashSet<String>, key: Option<Key>, merges: Vec<Value> },
}

#[derive(Clone, Copy, Default)]
struct Cost {
    values: usize,
    bytes: usize,
}

impl Tree {
    fn new() -> Tree {
        Tree { open: Vec::new(), root: None, anchors: HashMap::new(), spent: Cost::default(), documents: 0 }
    }

    fn take(&mut self, event: Event<'_>, at: Place) -> Result<(), Problem> {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Problem::new(&at, "a second document begins here").hint("remove the line \"---\""));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => self.scalar(&text, style, anchor, tag.as_deref(), at),
            Event::SequenceStart(_, anchor, tag) => self.begin(anchor, tag.as_deref(), at, OpenKind::List(Vec::new())),
            Event::MappingStart(_, anchor, tag) => {
                let kind = OpenKind::Map { entries: Vec::new(), seen: HashSet::new(), key: None, merges: Vec::new() };
                self.begin(anchor, tag.as_deref(), at, kind)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => self.alias(anchor, at),
            _ => Ok(()),
        }
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        at: Place,
    ) -> Result<(), Problem> {
        // No variable and no command can hold one, and an escape makes one of plain characters.
        if text.contains('\0') {
            return Err(Problem::new(&at, "a NUL character is not allowed in this file").hint("remove the \\0"));
        }
        let is_text = known_tag(tag, &at)? || style != ScalarStyle::Plain;
        let kind = if is_text { Kind::Text } else { kind_of(text) };
        let cost = Cost { values: 1, bytes: text.len() };
        self.spend(cost, &at)?;
        let value = Value { at, data: Data::Scalar(Scalar { text: text.to_owned(), kind }) };
        self.remember(anchor, &value, cost)?;
        self.add(value, style == ScalarStyle::Plain)
    }

    fn begin(&mut self, anchor: usize, tag: Option<&Tag>, at: Place, kind: OpenKind) -> Result<(), Problem> {
        known_tag(tag, &at)?;
        if self.open.len() >= DEPTH {
            return Err(too_deep(&at));
        }
        let before = self.spent;
        self.spend(Cost { values: 1, bytes: 0 }, &at)?;
        self.open.push(Open { anchor, before, at, kind });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Problem> {
        let Some(Open { anchor, before, at, kind }) = self.open.pop() else { return Ok(()) };
        let data = match kind {
            OpenKind::List(items) => Data::List(items),
            OpenKind::Map { mut entries, mut seen, merges, .. } => {
                for merge in merges {
                    merge_into(&mut entries, &mut seen, merge)?;
                }
                Data::Map(entries)
            }
        };
        let value = Value { at, data };
        let cost = Cost { values: self.spent.values - before.values, bytes: self.spent.bytes - before.bytes };
        self.remember(anchor, &value, cost)?;
        self.add(value, false)
    }

    fn alias(&mut self, anchor: usize, at: Place) -> Result<(), Problem> {
        let Some((_, cost)) = self.anchors.get(&anchor) else {
            return Err(Problem::new(&at, "this alias refers to a value that contains it"));
        };
        self.spend(*cost, &at)?;
        let Some((value, _)) = self.anchors.get(&anchor) else { return Ok(()) };
        let value = value.clone();
        self.add(value, false)
    }

    fn remember(&mut self, anchor: usize, value: &Value, cost: Cost) -> Result<(), Problem> {
        if anchor != 0 {
            self.spend(cost, &value.at)?;
            self.anchors.insert(anchor, (value.clone(), cost));
        }
        Ok(())
    }

    fn spend(&mut self, cost: Cost, at: &Place) -> Result<(), Problem> {
        self.spent.values = self.spent.values.saturating_add(cost.values);
        self.spent.bytes = self.spent.bytes.saturating_add(cost.bytes);
        if self.spent.values > VALUES || self.spent.bytes > 4 * BYTES {
            return Err(Problem::new(at, format!("more than {VALUES} values, or 4 MiB of them"))
                .hint("an alias (*name) counts with everything it repeats"));
        }
        Ok(())
    }

    /// Puts a finished value where it belongs. `plain`: an unquoted scalar, so that `<<` means a merge.
    fn add(&mut self, value: Value, plain: bool) -> Result<(), Problem> {
        match self.open.last_mut().map(|open| &mut open.kind) {
            // A file of comments alone comes as one empty scalar.
            None if value.text() == Some("") && plain => {}
            None => self.root = Some(value),
            Some(OpenKind::List(items)) => items.push(value),
            Some(OpenKind::Map { entries, seen, key, merges }) => match key.take() {
                Some(name) if name.text == MERGE => merges.push(value),
                Some(name) => entries.push((name, value)),
                None => *key = Some(key_of(value, plain, seen)?),
            },
        }
        Ok(())
    }
}

/// The text of a merge key in the making: no key can be this, since control characters are refused.
const MERGE: &str = "\0<<";

fn key_of(value: Value, plain: bool, seen: &mut HashSet<String>) -> Result<Key, Problem> {
    let Value { at, data } = value;
    let Data::Scalar(Scalar { text, .. }) = data else {
        return Err(Problem::new(&at, "a key must be a word, not a list or a mapping")
            .hint("put quotes around text that begins with [ or {"));
    };
    if plain && text == "<<" {
        return Ok(Key { text: MERGE.to_owned(), at });
    }
    if !seen.insert(text.clone()) {
        return Err(
            Problem::new(&at, format!("duplicate key {}", quoted(&text))).hint("each key may stand once in a mapping")
        );
    }
    Ok(Key { text, at })
}

/// YAML 1.1's `<<`: entries that are not there already.
fn merge_into(entries: &mut Vec<(Key, Value)>, seen: &mut HashSet<String>, from: Value) -> Result<(), Problem> {
    match from.data {
        Data::Map(more) => {
            for (key, value) in more {
                if seen.insert(key.text.clone()) {
                    entries.push((key, value));
                }
            }
            Ok(())
        }
        Data::List(items) => items.into_iter().try_for_each(|item| merge_into(entries, seen, item)),
        Data::Scalar(_) => Err(Problem::new(&from.at, "\"<<\" merges a mapping, and this is none")),
    }
}

/// Whether the tag makes it text. Tags of the core types change nothing else, since source text is kept.
fn known_tag(tag: Option<&Tag>, at: &Place) -> Result<bool, Problem> {
    let Some(tag) = tag else { return Ok(false) };
    match (tag.handle(), tag.suffix()) {
        ("tag:yaml.org,2002:", "str") | ("", "!") | ("!", "") => Ok(true),
        ("tag:yaml.org,2002:", "int" | "float" | "bool" | "null" | "map" | "seq") => Ok(false),
        (handle, suffix) => Err(Problem::new(at, format!("unknown tag {}", quoted(&format!("{handle}{suffix}"))))
            .hint("put quotes around text that begins with \"!\"")),
    }
}

/// What YAML 1.1, the dialect of the original platform, takes a plain scalar for.
fn kind_of(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
        "yes" | "Yes" | "YES" | "no" | "No" | "NO" | "true" | "True" | "TRUE" | "false" | "False" | "FALSE" | "on"
        | "On" | "ON" | "off" | "Off" | "OFF" => return Kind::Bool,
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let radix = match digits.get(..2) {
        Some("0x") => Some(16),
        Some("0o") => Some(8),
        Some("0b") => Some(2),
        _ => None,
    };
    let whole = |digits: &str, radix| {
        digits.chars().any(|c| c.is_digit(radix)) && digits.chars().all(|c| c.is_digit(radix) || c == '_')
    };
    if radix.is_some_and(|radix| whole(&digits[2..], radix)) {
        return Kind::Int;
    }
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Kind::Text;
    }
    if whole(digits, 10) {
        return Kind::Int;
    }
    let special = matches!(digits, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN");
    if special || digits.parse::<f64>().is_ok() { Kind::Float } else { Kind::Text }
}

/// A syntax error in words, with what usually causes it.
fn syntax(file: &Arc<str>, text: &str, error: &ScanError) -> Problem {
    let at = place(file, error.marker());
    if matches!(error.kind(), ErrorKind::UnknownAnchor) {
        return Problem::new(&at, "this alias has no anchor").hint("put quotes around text that begins with \"*\"");
    }
    let message = error.kind().to_string();
    if message.contains("nest") || message.contains("recursion") {
        return too_deep(&at);
    }
    // The parser often stumbles one line before or after the line that is wrong.
    let line = (at.line as usize).saturating_sub(1);
    let near = text.lines().enumerate().skip(line.saturating_sub(1)).take(3);
    let tab = near
        .filter(|(_, l)| l.bytes().take_while(|b| matches!(b, b' ' | b'\t')).any(|b| b == b'\t'))
        .map(|(i, l)| (i, l.find('\t').unwrap_or(0)))
        .last();
    if let Some((line, column)) = tab {
        let at = Place { file: Arc::clone(file), line: small(line + 1), column: small(column + 1) };
        return Problem::new(&at, "a tab in the indentation").hint("indent with spaces");
    }
    let problem = Problem::new(&at, format!("cannot read as YAML: {}", message.to_lowercase()));
    match text.lines().nth(line) {
        Some(l) if l.matches(": ").count() > 1 || l.contains(": @") || l.contains(": `") || l.contains(": %") => {
            problem.hint("put quotes around the value")
        }
        Some(_) => problem.hint("check the indentation, the colon and the quotes here and on the line before"),
        None => problem.hint("something opened earlier is not closed"),
    }
}

fn too_deep(at: &Place) -> Problem {
    Problem::new(at, format!("nested more than {DEPTH} levels deep"))
}

/// The most bytes of one file.
pub const BYTES: usize = 1 << 20;
const DEPTH: usize = 64;
const VALUES: usize = 100_000;

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Option<Value>, String> {
        parse(&Arc::from("dotcloud.yml"), text.as_bytes()).map_err(|problem| problem.to_string())
    }

    fn refused(text: &str, expected: &str) {
        let error = read(text).expect_err(text);
        assert!(error.starts_with(expected), "{text:?}: {error}");
    }

    fn kinds(text: &str) -> Vec<(String, Kind)> {
        let root = read(text).unwrap().unwrap();
        let items = root.list().unwrap().iter();
        items
            .map(|v| match &v.data {
                Data::Scalar(s) => (s.text.clone(), s.kind),
                other => panic!("a scalar, not {other:?}"),
            })
            .collect()
    }

    #[test]
    fn scalars_keep_their_source_text_and_kind() {
        use Kind::*;
        let expected = [
            ("3.10", Float),
            ("022", Int),
            ("yes", Text),
            ("yes", Bool),
            ("0x10", Int),
            ("~", Null),
            ("", Null),
            ("1.2.3", Text),
            ("~/run", Text),
            ("5", Text),
            ("", Text),
        ];
        let got =
            kinds("[3.10, 022, 'yes', yes, 0x10, ~, , 1.2.3, ~/run, !!str 5, \"\"]".replace(", ,", ", null,").as_str());
        for ((text, kind), (expected_text, expected_kind)) in got.iter().zip(expected) {
            assert_eq!(*kind, expected_kind, "{text}");
            assert!(text == expected_text || text == "null", "{text} {expected_text}");
        }
        assert_eq!(got.len(), expected.len());
    }

    #[test]
    fn every_value_and_key_has_its_place() {
        let root = read("# c\nwww:\n  type: custom\n  processes:\n    wéb:   ~/run\n").unwrap().unwrap();
        let (key, www) = &root.map().unwrap()[0];
        assert_eq!((key.at.line, key.at.column), (2, 1));
        assert_eq!((www.at.line, www.at.column), (3, 3));
        let (key, web) = &www.get("processes").unwrap().map().unwrap()[0];
        assert_eq!((key.at.line, key.at.column), (5, 5));
        assert_eq!((web.at.line, web.at.column), (5, 12));
    }

    #[test]
    fn bad_text_gets_one_clear_error_with_its_place() {
        refused("a: 1\na: 2\n", "dotcloud.yml:2:1: duplicate key \"a\"");
        refused("a:\n\tb: 1\n", "dotcloud.yml:2:1: a tab in the indentation; indent with spaces");
        refused("a:\n  b: 1\n\tc: 1\n", "dotcloud.yml:3:1: a tab in the indentation");
        refused("a: b\0c\n", "dotcloud.yml:1:5: a NUL byte is not allowed");
        refused("a: \"b\\0c\"\n", "dotcloud.yml:1:4: a NUL character is not allowed in this file; remove the \\0");
        refused("\"\\0<<\": {a: 1}\n", "dotcloud.yml:1:1: a NUL character is not allowed");
        refused("a: [1, 2\n", "dotcloud.yml:");
        refused("a: b: c\n", "dotcloud.yml:1:5: cannot read as YAML");
        refused("a: *x\n", "dotcloud.yml:1:4: this alias has no anchor");
        refused("a: 1\n---\nb: 2\n", "dotcloud.yml:2:1: a second document");
        refused("[a]: 1\n", "dotcloud.yml:1:1: a key must be a word");
        refused("a: &x [*x]\n", "dotcloud.yml:1:8: this alias refers to a value that contains it");
        refused("a: !python/object:os.system x\n", "dotcloud.yml:1:");
        refused("<<: 1\na: 2\n", "dotcloud.yml:1:5: \"<<\" merges a mapping");
        let file = Arc::from("dir/dotcloud.yml");
        let error = parse(&file, b"a: 1\nb: \xff\n").unwrap_err().to_string();
        assert_eq!(error, "dir/dotcloud.yml:2:4: not valid UTF-8; save it as UTF-8");
        let error = parse(&file, b"\xff\xfea\0").unwrap_err().to_string();
        assert_eq!(error, "dir/dotcloud.yml:1:1: not valid UTF-8; it looks like UTF-16; save it as UTF-8");
    }

    #[test]
    fn nothing_is_nothing_and_a_byte_order_mark_is_skipped() {
        for empty in ["", "\n\n", "# only a comment\n", "---\n", "\u{feff}"] {
            assert_eq!(read(empty).unwrap(), None, "{empty:?}");
        }
        let root = read("\u{feff}a: 1\r\nb: 2\r\n").unwrap().unwrap();
        assert_eq!(root.get("a").unwrap().text(), Some("1"));
        assert_eq!(root.get("b").unwrap().text(), Some("2"));
    }

    #[test]
    fn merges_and_aliases_copy_what_is_not_there() {
        let root = read("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\nc: *a\n").unwrap().unwrap();
        let b = root.get("b").unwrap();
        assert_eq!((b.get("x").unwrap().text(), b.get("y").unwrap().text()), (Some("1"), Some("3")));
        assert_eq!(root.get("c").unwrap().get("y").unwrap().text(), Some("2"));
    }

    #[test]
    fn bombs_are_refused_quickly() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for i in 1..20 {
            let p = i - 1;
            bomb += &format!("a{i}: &a{i} [*a{p}, *a{p}, *a{p}, *a{p}, *a{p}, *a{p}, *a{p}, *a{p}, *a{p}]\n");
        }
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(500_000), "*a, ".repeat(10_000));
        let huge = "a: 1\n".repeat(2_000_000);
        let deep = "[".repeat(1_000_000);
        let block = "- ".repeat(500_000);
        let maps = "{a: ".repeat(200_000);
        let wide = (0..100_000).map(|i| format!("k{i}: 1\n")).collect::<String>();
        let anchors = (0..60).map(|i| format!("&a{i} [")).collect::<String>() + &"x, ".repeat(90_000) + &"]".repeat(60);
        let quotes = "\"".repeat(999_999);
        let colons = ": ".repeat(500_000);
        let questions = "? ".repeat(500_000);
        let spaces = " ".repeat(1_000_000) + "\t";
        let block = block.as_str();
        let all = [&bomb, &long, &huge, &deep, block, &maps, &wide, &anchors, &quotes, &colons, &questions, &spaces];
        for (i, text) in all.into_iter().enumerate() {
            let began = Instant::now();
            let answer = read(text);
            assert!(answer.is_err() || text == spaces.as_str(), "number {i} was accepted");
            assert!(began.elapsed() < Duration::from_secs(20), "number {i} took {:?}", began.elapsed());
        }
        refused(&huge, "dotcloud.yml: dotcloud.yml is larger than 1 MiB");
        refused(&deep, "dotcloud.yml:1:65: nested more than 64 levels deep");
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_tree_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&Arc::from("f"), &bytes);
        }

        #[test]
        fn any_yaml_like_text_ends_in_a_tree_or_an_error(text in "[-a\\[\\]{}:,&*!|>'\"%@`#? \n\t~<]{0,200}") {
            let _ = read(&text);
        }
    }
}
