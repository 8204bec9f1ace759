//! What is put around lines on their way to a log, where that is asked for: the time, the name, or all of it as JSON.

use jiff::Timestamp;
use serde::Serialize;

use super::rotate::LINE_MAX;
use crate::plan::LogSpec;

pub struct Dress {
    timestamps: bool,
    prefix: Option<String>,
    json: Option<Source>,
    /// For text: whether the last piece ended its line.
    at_line_start: bool,
    /// For JSON: a line that has not come whole yet.
    open: Vec<u8>,
}

/// Whose lines these are.
struct Source {
    name: String,
    stream: &'static str,
}

#[derive(Serialize)]
struct Line<'a> {
    time: &'a str,
    name: &'a str,
    stream: &'a str,
    message: &'a str,
}

impl Dress {
    /// Nothing where lines stay as they are.
    pub fn of(spec: &LogSpec, label: &str, stream: &'static str) -> Option<Box<Dress>> {
        (spec.timestamps || spec.prefix || spec.json).then(|| {
            Box::new(Dress {
                timestamps: spec.timestamps,
                prefix: spec.prefix.then(|| format!("{label} | ")),
                json: spec.json.then(|| Source { name: label.to_owned(), stream }),
                at_line_start: true,
                open: Vec::new(),
            })
        })
    }

    pub fn is_json(&self) -> bool {
        self.json.is_some()
    }

    /// The bytes as they are written. Of JSON only whole lines; the rest comes with the next bytes, or with `finish`.
    pub fn put(&mut self, bytes: &[u8]) -> Vec<u8> {
        let stamp = format!("{:.3}", Timestamp::now());
        let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 4);
        if self.json.is_none() {
            for line in bytes.split_inclusive(|&b| b == b'\n') {
                if self.at_line_start {
                    self.begin_line(&stamp, &mut out);
                }
                out.extend_from_slice(line);
                self.at_line_start = line.ends_with(b"\n");
            }
            return out;
        }
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            self.open.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                self.open.pop();
                self.end_line(&stamp, &mut out);
            }
            while self.open.len() >= LINE_MAX {
                let rest = self.open.split_off(LINE_MAX);
                self.end_line(&stamp, &mut out);
                self.open = rest;
            }
        }
        out
    }

    pub fn holds_back(&self) -> bool {
        !self.open.is_empty()
    }

    /// There is nothing more for now: what there is of a line.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.open.is_empty() {
            self.end_line(&format!("{:.3}", Timestamp::now()), &mut out);
        }
        out
    }

    fn begin_line(&self, stamp: &str, out: &mut Vec<u8>) {
        if self.timestamps {
            out.extend_from_slice(stamp.as_bytes());
            out.push(b' ');
        }
        if let Some(prefix) = &self.prefix {
            out.extend_from_slice(prefix.as_bytes());
        }
    }

    fn end_line(&mut self, time: &str, out: &mut Vec<u8>) {
        let open = std::mem::take(&mut self.open);
        let Some(source) = &self.json else { return };
        let message = String::from_utf8_lossy(&open);
        let line = Line { time, name: &source.name, stream: source.stream, message: &message };
        // To memory, from strings: nothing can go wrong.
        let _ = serde_json::to_writer(&mut *out, &line);
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dress(tune: impl Fn(&mut LogSpec)) -> Dress {
        let mut spec = LogSpec::default();
        tune(&mut spec);
        *Dress::of(&spec, "web", "stderr").expect("something to put on")
    }

    #[test]
    fn lines_without_a_wish_are_left_alone() {
        assert!(Dress::of(&LogSpec::default(), "web", "stdout").is_none());
    }

    #[test]
    fn each_line_has_time_and_name_once_however_it_comes() {
        let mut dress = dress(|spec| (spec.timestamps, spec.prefix) = (true, true));
        let mut text = dress.put(b"one\ntw");
        text.extend(dress.put(b"o\n"));
        text.extend(dress.finish());
        let text = String::from_utf8(text).expect("text");
        let lines: Vec<&str> = text.lines().map(|line| &line["2026-01-31T12:00:00.000Z ".len()..]).collect();
        assert_eq!(lines, ["web | one", "web | two"]);
        assert!(text.parse::<Timestamp>().is_err() && text[..24].parse::<Timestamp>().is_ok(), "{text}");
    }

    #[test]
    fn json_has_one_object_for_each_line_whatever_the_line_holds() {
        let mut dress = dress(|spec| spec.json = true);
        let mut text = dress.put(b"say \"hi\"\tand \xff\nhalf");
        text.extend(dress.put(b" a line\n\nend"));
        text.extend(dress.finish());
        let text = String::from_utf8(text).expect("text");
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
        let messages: Vec<&str> = lines.iter().filter_map(|line| line["message"].as_str()).collect();
        assert_eq!(messages, ["say \"hi\"\tand \u{fffd}", "half a line", "", "end"]);
        assert!(lines.iter().all(|line| line["name"] == "web" && line["stream"] == "stderr"), "{text}");
    }

    #[test]
    fn a_line_without_an_end_does_not_grow_without_an_end() {
        let mut dress = dress(|spec| spec.json = true);
        let out = dress.put(&vec![b'x'; 3 * LINE_MAX + 1]);
        assert_eq!((out.iter().filter(|&&b| b == b'\n').count(), dress.open.len()), (3, 1));
    }
}
