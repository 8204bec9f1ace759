//! TOML text to the tree: text only, all syntax errors at once.

use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::value::{Data, Key, Kind, Place, Problem, Problems, Scalar, Value};
use super::yaml::{place_after, text_of};

/// Reads a document; an empty one is an empty mapping.
pub fn parse(file: &Arc<str>, bytes: &[u8]) -> Result<Value, Problems> {
    let text = text_of(file, bytes)?;
    let source = Source { file, text, lines: line_starts(text) };
    match DeTable::parse(text) {
        Ok(table) => Ok(source.table(table.get_ref(), &table.span())),
        Err(_) => {
            let (_, errors) = DeTable::parse_recoverable(text);
            let problems = errors.iter().take(50).map(|error| {
                let at = source.place(error.span().unwrap_or_default().start);
                Problem::new(&at, format!("cannot read as TOML: {}", error.message().to_lowercase()))
            });
            Problems(problems.collect()).or(Value { at: Place::file(file), data: Data::Map(Vec::new()) })
        }
    }
}

struct Source<'a> {
    file: &'a Arc<str>,
    text: &'a str,
    /// The offset of each line's first byte.
    lines: Vec<usize>,
}

impl Source<'_> {
    fn place(&self, offset: usize) -> Place {
        let line = self.lines.partition_point(|start| *start <= offset).saturating_sub(1);
        let start = self.lines.get(line).copied().unwrap_or(0);
        let mut place = place_after(self.file, self.text.get(start..offset).unwrap_or_default());
        place.line = u32::try_from(line + 1).unwrap_or(u32::MAX);
        place
    }

    fn table(&self, table: &DeTable<'_>, span: &Range<usize>) -> Value {
        let mut entries: Vec<(&Spanned<_>, &Spanned<DeValue<'_>>)> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let entries = entries
            .into_iter()
            .map(|(key, value)| {
                let key = Key { text: key.get_ref().to_string(), at: self.place(key.span().start) };
                (key, self.value(value))
            })
            .collect();
        Value { at: self.place(span.start), data: Data::Map(entries) }
    }

    fn value(&self, value: &Spanned<DeValue<'_>>) -> Value {
        let span = value.span();
        let data = match value.get_ref() {
            DeValue::Table(table) => return self.table(table, &span),
            DeValue::Array(items) => Data::List(items.iter().map(|item| self.value(item)).collect()),
            DeValue::String(text) => Data::Scalar(Scalar { text: text.to_string(), kind: Kind::Text }),
            DeValue::Integer(_) => self.as_written(&span, Kind::Int),
            DeValue::Float(_) => self.as_written(&span, Kind::Float),
            DeValue::Boolean(_) => self.as_written(&span, Kind::Bool),
            DeValue::Datetime(_) => self.as_written(&span, Kind::Text),
        };
        Value { at: self.place(span.start), data }
    }

    fn as_written(&self, span: &Range<usize>, kind: Kind) -> Data {
        Data::Scalar(Scalar { text: self.text.get(span.clone()).unwrap_or_default().to_owned(), kind })
    }
}

fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Value, String> {
        parse(&Arc::from("hob.toml"), text.as_bytes()).map_err(|problems| problems.to_string())
    }

    #[test]
    fn values_keep_their_source_text_and_place() {
        let root = read("user = \"x\"\n[defaults]\numask = 0o22\nstartsecs = 1.50\nexitcodes = [0, 2]\n").unwrap();
        let defaults = root.get("defaults").unwrap();
        let umask = defaults.get("umask").unwrap();
        assert_eq!((umask.text(), umask.at.line, umask.at.column), (Some("0o22"), 3, 9));
        assert_eq!(defaults.get("startsecs").unwrap().text(), Some("1.50"));
        assert_eq!(defaults.map().unwrap()[2].0.at.line, 5);
    }

    #[test]
    fn errors_have_their_place_and_come_all_at_once() {
        let error = read("user = \nx = 1\ny = [\n").unwrap_err();
        assert!(error.starts_with("hob.toml:1:8: cannot read as TOML: "), "{error}");
        assert!(error.contains("hob.toml:3:"), "{error}");
        let error = read("a = 1\na = 2\n").unwrap_err();
        assert!(error.starts_with("hob.toml:2:1: cannot read as TOML: duplicate key"), "{error}");
    }

    #[test]
    fn deep_nesting_is_refused() {
        assert!(read(&format!("a = {}", "[".repeat(500_000))).is_err());
    }

    proptest! {
        #[test]
        fn any_text_ends_in_a_tree_or_an_error(text in "[-a\\[\\]{}:,='\"# \n\t.0_]{0,120}") {
            let _ = read(&text);
        }
    }
}
