//! A copy of the output on hob's own stdout, each line with the name of its process.
//!
//! Never waits: what the terminal or the pipe behind it does not take is held up to a bound, then dropped and counted.
//! The files have everything.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::Duration;

use super::protocol::LogId;
use crate::sys;

pub struct Console {
    colour: bool,
    /// The widest name so far: the bars stand in one column.
    width: usize,
    lines: HashMap<LogId, Vec<u8>>,
    out: Vec<u8>,
    dropped: u64,
}

impl Console {
    pub fn new(colour: bool) -> Console {
        Console { colour, width: 0, lines: HashMap::new(), out: Vec::new(), dropped: 0 }
    }

    pub fn name(&mut self, label: &str) {
        self.width = self.width.max(label.len());
    }

    pub fn write(&mut self, id: LogId, label: &str, bytes: &[u8]) {
        let mut open = self.lines.remove(&id).unwrap_or_default();
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            open.extend_from_slice(piece);
            if piece.ends_with(b"\n") || open.len() > LINE_MAX {
                self.line(label, &open);
                open.clear();
            }
        }
        if !open.is_empty() {
            self.lines.insert(id, open);
        }
        self.flush();
    }

    /// The daemon's own log, which needs no prefix.
    pub fn write_plain(&mut self, bytes: &[u8]) {
        if self.out.len() > HELD_MAX {
            self.dropped += bytes.len() as u64;
        } else {
            self.out.extend_from_slice(bytes);
        }
    }

    /// The process is gone: what it wrote last has no newline.
    pub fn end(&mut self, id: LogId, label: &str) {
        if let Some(open) = self.lines.remove(&id) {
            self.line(label, &open);
            self.flush();
        }
    }

    fn line(&mut self, label: &str, line: &[u8]) {
        if self.out.len() > HELD_MAX {
            self.dropped += line.len() as u64;
            return;
        }
        if self.dropped > 0 {
            let note = format!("[hob: {} bytes were not shown here]\n", self.dropped);
            self.out.extend_from_slice(note.as_bytes());
            self.dropped = 0;
        }
        let width = self.width;
        let prefix = match self.colour {
            true => format!("\x1b[{}m{label:width$} |\x1b[0m ", colour_of(label)),
            false => format!("{label:width$} | "),
        };
        self.out.extend_from_slice(prefix.as_bytes());
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        if self.colour {
            self.out.extend(visible(text))
        } else {
            self.out.extend_from_slice(text)
        }
        self.out.push(b'\n');
    }

    /// Writes what stdout takes now; true if something is left.
    pub fn flush(&mut self) -> bool {
        let mut start = 0;
        while start < self.out.len() && sys::fd::is_writable(&io::stdout(), Duration::ZERO) {
            // A pipe that can be written takes PIPE_BUF bytes without blocking.
            let end = self.out.len().min(start + 4096);
            match io::stdout().lock().write(&self.out[start..end]).and_then(|n| io::stdout().flush().map(|()| n)) {
                Ok(written) => start += written,
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => start = self.out.len(),
            }
        }
        self.out.drain(..start);
        !self.out.is_empty()
    }
}

/// On a terminal a program's output must not move the cursor or change the title: control characters are shown, but
/// for tabs and colours.
fn visible(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            0x1b => match colour_sequence(rest) {
                Some(length) => {
                    out.push(byte);
                    out.extend_from_slice(&rest[..length]);
                    rest = &rest[length..];
                }
                None => out.extend_from_slice(b"^["),
            },
            b'\r' if rest.is_empty() => {}
            b'\t' => out.push(byte),
            0..0x20 => out.extend_from_slice(&[b'^', byte + 0x40]),
            0x7f => out.extend_from_slice(b"^?"),
            _ => out.push(byte),
        }
    }
    out
}

/// The length of `[1;32m` and the like (ECMA-48, SGR).
fn colour_sequence(text: &[u8]) -> Option<usize> {
    let inner = text.strip_prefix(b"[")?;
    let end = inner.iter().take(32).position(|b| !b.is_ascii_digit() && *b != b';')?;
    (inner[end] == b'm').then_some(end + 2)
}

fn colour_of(label: &str) -> u32 {
    const COLOURS: [u32; 6] = [36, 33, 32, 35, 34, 96];
    let sum: usize = label.bytes().map(usize::from).sum();
    COLOURS[sum % COLOURS.len()]
}

const LINE_MAX: usize = 16 << 10;
const HELD_MAX: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_pass_and_what_moves_the_cursor_is_shown() {
        assert_eq!(visible(b"\x1b[1;32mok\x1b[0m\t."), b"\x1b[1;32mok\x1b[0m\t.");
        assert_eq!(visible(b"\x1b[2J\x07\x1b]0;title\x07\r"), b"^[[2J^G^[]0;title^G");
    }
}
