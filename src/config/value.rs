//! One tree with positions, which every format becomes, and the problems found in it.
//!
//! A scalar keeps its *source text*, so `3.10` stays `3.10` and `022` stays `022`; what the format would make of it
//! (`Kind`) is kept beside it for the few rules that ask. Nothing here knows an option.

use std::fmt;
use std::sync::Arc;

/// Where something stands. Line and column count from 1, the column in characters; line 0 is the file as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub file: Arc<str>,
    pub line: u32,
    pub column: u32,
}

impl Place {
    /// The file as a whole.
    pub fn file(file: &Arc<str>) -> Place {
        Place { file: Arc::clone(file), line: 0, column: 0 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}:{}", self.file, self.column),
        }
    }
}

/// One value, and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    pub at: Place,
    pub data: Data,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    Scalar(Scalar),
    List(Vec<Value>),
    /// In the order of the file, each key once.
    Map(Vec<(Key, Value)>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scalar {
    pub text: String,
    pub kind: Kind,
}

/// What the format itself takes a scalar for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Null,
    Bool,
    Int,
    Float,
    Text,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    pub text: String,
    pub at: Place,
}

impl Value {
    /// The source text of a scalar.
    pub fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Scalar(scalar) => Some(&scalar.text),
            Data::List(_) | Data::Map(_) => None,
        }
    }

    pub fn map(&self) -> Option<&[(Key, Value)]> {
        match &self.data {
            Data::Map(entries) => Some(entries),
            Data::Scalar(_) | Data::List(_) => None,
        }
    }

    pub fn list(&self) -> Option<&[Value]> {
        match &self.data {
            Data::List(items) => Some(items),
            Data::Scalar(_) | Data::Map(_) => None,
        }
    }

    /// The entry of a mapping; nothing if this is no mapping.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map()?.iter().find(|(k, _)| k.text == key).map(|(_, value)| value)
    }

    pub fn is_null(&self) -> bool {
        matches!(&self.data, Data::Scalar(Scalar { kind: Kind::Null, .. }))
    }

    /// What it becomes as a Unix variable: the source text of a scalar, nothing for a null, JSON for the rest.
    pub fn as_variable(&self) -> String {
        match &self.data {
            Data::Scalar(Scalar { kind: Kind::Null, .. }) => String::new(),
            Data::Scalar(scalar) => scalar.text.clone(),
            Data::List(_) | Data::Map(_) => self.as_json(),
        }
    }

    /// JSON on one line. A number stays a number only if JSON readers give its text back unchanged: `3.10` and
    /// `022` become strings.
    pub fn as_json(&self) -> String {
        match &self.data {
            Data::Scalar(scalar) => scalar.as_json(),
            Data::List(items) => {
                let items: Vec<String> = items.iter().map(Value::as_json).collect();
                format!("[{}]", items.join(", "))
            }
            Data::Map(entries) => {
                let entries: Vec<String> =
                    entries.iter().map(|(k, v)| format!("{}: {}", json_string(&k.text), v.as_json())).collect();
                format!("{{{}}}", entries.join(", "))
            }
        }
    }

    /// The word the original platform used for the type of a value.
    pub fn type_word(&self) -> &'static str {
        match &self.data {
            Data::Scalar(_) => "string",
            Data::List(_) => "list",
            Data::Map(_) => "dictionary",
        }
    }
}

impl Scalar {
    fn as_json(&self) -> String {
        let same = match self.kind {
            Kind::Null => return "null".to_owned(),
            Kind::Bool => matches!(self.text.as_str(), "true" | "false"),
            Kind::Int => self.text.parse::<i64>().is_ok_and(|n| n.to_string() == self.text),
            Kind::Float => self.text.parse::<f64>().is_ok_and(|n| n.to_string() == self.text && n.is_finite()),
            Kind::Text => false,
        };
        if same { self.text.clone() } else { json_string(&self.text) }
    }
}

/// A JSON string literal, quotes included. It is one for YAML too, which has more line breaks, and characters that it
/// does not take as they are.
pub fn json_string(text: &str) -> String {
    let literal = serde_json::Value::from(text).to_string();
    let is_odd = |c: char| c.is_control() || is_odd_in_yaml(c);
    if !literal.contains(is_odd) {
        return literal;
    }
    literal.chars().map(|c| if is_odd(c) { format!("\\u{:04x}", c as u32) } else { c.to_string() }).collect()
}

/// Line breaks and marks outside of ASCII (YAML 1.1 §4.1).
pub fn is_odd_in_yaml(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// Something wrong in a configuration file, told so that the reader can mend it. Warnings have the same shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub at: Place,
    pub message: String,
    /// The likely fix, without a full stop.
    pub hint: Option<String>,
}

/// Something odd that stops nothing.
pub type Warning = Problem;

impl Problem {
    pub fn new(at: &Place, message: impl Into<String>) -> Problem {
        Problem { at: at.clone(), message: message.into(), hint: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = Some(hint.into());
        self
    }

    /// With the closest of the known words as the hint, if one is close.
    pub fn did_you_mean<'a>(mut self, word: &str, known: impl IntoIterator<Item = &'a str>) -> Problem {
        if let Some(close) = closest(word, known) {
            self.hint = Some(format!("did you mean \"{close}\"?"));
        }
        self
    }

    /// With the subject in front: `service "web": ...`.
    pub fn within(mut self, subject: &str) -> Problem {
        self.message = format!("{subject}: {}", self.message);
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong, in the order of the files. One line each when shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// `Ok` if there are none; sorted by place otherwise.
    pub fn or<T>(mut self, good: T) -> Result<T, Problems> {
        if self.0.is_empty() {
            return Ok(good);
        }
        self.sort();
        Err(self)
    }

    pub fn sort(&mut self) {
        self.0.sort_by(|a, b| a.at.cmp(&b.at));
        self.0.dedup();
    }

    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Problems {
        Problems(vec![problem])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // More would scroll the first one, which is usually the cause, off the screen.
        const SHOWN: usize = 50;
        for (i, problem) in self.0.iter().take(SHOWN).enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n... and {more} more"),
        }
    }
}

impl std::error::Error for Problems {}

/// A word as it can be shown in a message: quoted, control characters escaped, cut when long.
pub fn quoted(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    let dots = if short.len() < text.len() { "..." } else { "" };
    let escaped: String =
        short.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect();
    format!("\"{escaped}{dots}\"")
}

/// The known word that was probably meant.
pub fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    if word.is_empty() || word.len() > 40 {
        return None;
    }
    let allowed = (word.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|k| (distance(&word, &k.to_lowercase()), k))
        .filter(|(d, _)| *d <= allowed)
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// Edits between two words: insert, delete, replace, or swap two neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swapped_letter_is_recognized_and_a_stranger_is_not() {
        assert_eq!(closest("TREM", ["INT", "TERM"]), Some("TERM"));
        assert_eq!(closest("comand", ["command", "umask"]), Some("command"));
        assert_eq!(closest("zzz", ["command", "umask"]), None);
    }

    #[test]
    fn numbers_stay_numbers_in_json_only_if_their_text_survives() {
        let json = |text: &str, kind| Scalar { text: text.to_owned(), kind }.as_json();
        assert_eq!(json("3", Kind::Int), "3");
        assert_eq!(json("022", Kind::Int), "\"022\"");
        assert_eq!(json("1.5", Kind::Float), "1.5");
        assert_eq!(json("3.10", Kind::Float), "\"3.10\"");
        assert_eq!(json("yes", Kind::Bool), "\"yes\"");
        assert_eq!(json("true", Kind::Bool), "true");
        assert_eq!(json("3", Kind::Text), "\"3\"");
    }
}
