//! What a supervisord.conf asks for on the way from a pipe to a log: text between two tags taken out as a message, escape
//! sequences taken out, bytes as the text of an event (reference/supervisord.md §5.3, §6.2). Pure.

const BEGIN: &[u8] = b"<!--XSUPERVISOR:BEGIN-->";
const END: &[u8] = b"<!--XSUPERVISOR:END-->";

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// For the log.
    Plain(Vec<u8>),
    /// Stood between the tags; the newest bytes of it, up to the limit.
    Message(Vec<u8>),
}

/// Takes out what stands between the tags, which may be split over reads.
#[derive(Debug)]
pub struct Capture {
    limit: usize,
    /// What may be the beginning of the tag that is looked for.
    held: Vec<u8>,
    /// The message so far, between the tags.
    message: Option<Vec<u8>>,
}

impl Capture {
    pub fn new(limit: u64) -> Capture {
        Capture { limit: usize::try_from(limit).unwrap_or(usize::MAX).min(LARGEST), held: Vec::new(), message: None }
    }

    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut rest = std::mem::take(&mut self.held);
        rest.extend_from_slice(bytes);
        loop {
            let tag = if self.message.is_some() { END } else { BEGIN };
            let Some(at) = find(&rest, tag) else { break };
            let after = rest.split_off(at + tag.len());
            rest.truncate(at);
            self.take(&rest, &mut pieces);
            match self.message.take() {
                Some(message) => pieces.push(Piece::Message(message)),
                None => self.message = Some(Vec::new()),
            }
            rest = after;
        }
        let tag = if self.message.is_some() { END } else { BEGIN };
        let held = (1..tag.len()).rev().find(|&n| rest.ends_with(&tag[..n])).unwrap_or(0);
        self.held = rest.split_off(rest.len() - held);
        self.take(&rest, &mut pieces);
        pieces
    }

    /// Nothing more comes. A message without its end is lost, as it has no end.
    pub fn finish(&mut self) -> Vec<Piece> {
        let rest = std::mem::take(&mut self.held);
        let mut pieces = Vec::new();
        self.take(&rest, &mut pieces);
        self.message = None;
        pieces
    }

    fn take(&mut self, bytes: &[u8], pieces: &mut Vec<Piece>) {
        match &mut self.message {
            Some(message) => {
                message.extend_from_slice(bytes);
                let over = message.len().saturating_sub(self.limit);
                message.drain(..over);
            }
            None if bytes.is_empty() => {}
            None => pieces.push(Piece::Plain(bytes.to_vec())),
        }
    }
}

fn find(bytes: &[u8], tag: &[u8]) -> Option<usize> {
    bytes.windows(tag.len()).position(|window| window == tag)
}

/// Without escape sequences: from ESC `[` up to the first letter that ends one.
pub fn strip_ansi(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = find(rest, b"\x1b[") {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        match rest.iter().position(|b| b"HfABCDRsuJKhlpm".contains(b)) {
            Some(end) => rest = &rest[end + 1..],
            None => return out,
        }
    }
    out.extend_from_slice(rest);
    out
}

/// Bytes as the text of an event: what is no text is told as Python writes it.
pub fn as_text(bytes: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.to_owned();
    }
    let quote = if bytes.contains(&b'\'') && !bytes.contains(&b'"') { '"' } else { '\'' };
    let mut out = format!("Undecodable: b{quote}");
    for &byte in bytes {
        match byte {
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            byte if char::from(byte) == quote => {
                out.push('\\');
                out.push(quote);
            }
            b' '..=b'~' => out.push(char::from(byte)),
            byte => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out.push(quote);
    out
}

/// A message is held in memory.
const LARGEST: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The log and the messages that come of some reads.
    fn read(limit: u64, reads: &[&[u8]]) -> (String, Vec<String>) {
        let mut capture = Capture::new(limit);
        let mut pieces: Vec<Piece> = reads.iter().flat_map(|bytes| capture.feed(bytes)).collect();
        pieces.extend(capture.finish());
        let (mut log, mut messages) = (String::new(), Vec::new());
        for piece in pieces {
            match piece {
                Piece::Plain(bytes) => log.push_str(&String::from_utf8_lossy(&bytes)),
                Piece::Message(bytes) => messages.push(String::from_utf8_lossy(&bytes).into_owned()),
            }
        }
        (log, messages)
    }

    #[test]
    fn what_stands_between_the_tags_leaves_the_log() {
        let text =
            b"a<!--XSUPERVISOR:BEGIN-->one<!--XSUPERVISOR:END-->b<!--XSUPERVISOR:BEGIN-->two<!--XSUPERVISOR:END-->c";
        assert_eq!(read(100, &[text]), ("abc".into(), vec!["one".into(), "two".into()]));
        assert_eq!(read(2, &[text]), ("abc".into(), vec!["ne".into(), "wo".into()]));
        assert_eq!(read(9, &[b"short"]), ("short".into(), vec![]));
        assert_eq!(read(9, &[b"<!--XSUP"]), ("<!--XSUP".into(), vec![]));
        assert_eq!(read(9, &[b"a<!--XSUPERVISOR:BEGIN-->lost"]), ("a".into(), vec![]));
    }

    #[test]
    fn escape_sequences_are_taken_out() {
        assert_eq!(strip_ansi(b"\x1b[1;32mok\x1b[0m\x1b[2Jx"), b"okx");
        assert_eq!(strip_ansi(b"plain [m \x1b]"), b"plain [m \x1b]");
        assert_eq!(strip_ansi(b"a\x1b[12"), b"a");
    }

    #[test]
    fn bytes_that_are_no_text_are_told_as_python_would() {
        assert_eq!(as_text("é\n".as_bytes()), "é\n");
        assert_eq!(as_text(b"a\xff'\\\n"), "Undecodable: b\"a\\xff'\\\\\\n\"");
        assert_eq!(as_text(b"\x00\xff\"'"), "Undecodable: b'\\x00\\xff\"\\''");
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_the_reads_are_split(at in 0usize..130, second in 0usize..130) {
            let text = b"x<!--X<!--XSUPERVISOR:BEGIN-->m<!--XSUP<!--XSUPERVISOR:END-->y<!--XSUPERVISOR:BEGIN-->n<!--XSUPERVISOR:END-->z";
            let (at, second) = (at.min(text.len()), second.min(text.len()));
            let (a, b) = (at.min(second), at.max(second));
            let split = read(1000, &[&text[..a], &text[a..b], &text[b..]]);
            prop_assert_eq!(split, ("x<!--Xyz".to_owned(), vec!["m<!--XSUP".to_owned(), "n".to_owned()]));
        }
    }
}
