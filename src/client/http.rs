//! The client's half of HTTP/1.1: the head of an answer, and its body however it is framed.

use std::io::{self, BufRead, BufReader, Read};

const HEAD_MAX: usize = 16 << 10;
/// The size of a chunk with its extensions.
const SIZE_MAX: usize = 256;

pub struct Head {
    pub status: u16,
    pub framing: Framing,
    /// The daemon's pid as it sees it itself.
    pub own_pid: Option<i32>,
}

pub struct Body<R> {
    pub reader: BufReader<R>,
    pub framing: Framing,
    pub own_pid: Option<i32>,
}

/// How an answer tells where its body ends.
pub enum Framing {
    /// So many bytes are left.
    Length(u64),
    Chunked(Dechunker),
}

pub fn read_head(reader: &mut impl BufRead) -> io::Result<Head> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > HEAD_MAX || reader.by_ref().take(1024).read_until(b'\n', &mut head)? == 0 {
            return Err(malformed("its head is cut short"));
        }
    }
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    response.parse(&head).map_err(|why| malformed(&why.to_string()))?;
    let header = |name: &str| {
        let found = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
        found.and_then(|h| std::str::from_utf8(h.value).ok()).map(str::trim)
    };
    let framing = match (header("transfer-encoding"), header("content-length").and_then(|n| n.parse().ok())) {
        (Some("chunked"), _) => Framing::Chunked(Dechunker::default()),
        (_, Some(length)) => Framing::Length(length),
        (_, None) => Framing::Length(u64::MAX),
    };
    let own_pid = header("hob-pid").and_then(|pid| pid.parse().ok());
    Ok(Head { status: response.code.unwrap_or(500), framing, own_pid })
}

fn malformed(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

impl<R: Read> Read for Body<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.framing.is_over() || out.is_empty() {
                return Ok(0);
            }
            let bytes = self.reader.fill_buf()?;
            if bytes.is_empty() {
                return Ok(0);
            }
            let (used, put) = self.framing.decode(bytes, out);
            self.reader.consume(used);
            if put > 0 {
                return Ok(put);
            }
        }
    }
}

impl<R: Read> Body<R> {
    /// Appends what is there after at most one read. False at the end of the body.
    pub fn take_some(&mut self, sink: &mut Vec<u8>) -> io::Result<bool> {
        let mut bytes = self.reader.fill_buf()?;
        let length = bytes.len();
        let mut out = [0; 16 << 10];
        while !bytes.is_empty() && !self.framing.is_over() {
            let (used, put) = self.framing.decode(bytes, &mut out);
            sink.extend_from_slice(&out[..put]);
            bytes = &bytes[used..];
        }
        self.reader.consume(length);
        Ok(length > 0 && !self.framing.is_over())
    }
}

impl Framing {
    /// The bytes that are to come, as far as the head has told; 0 where it has not.
    pub fn known_length(&self) -> usize {
        match self {
            Framing::Length(left) if *left < u64::MAX => usize::try_from(*left).unwrap_or(0),
            _ => 0,
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Framing::Length(left) => *left == 0,
            Framing::Chunked(chunks) => matches!(chunks.expects, Expects::Nothing),
        }
    }

    /// Decodes a piece of what has come; tells how much of it was used, and how much was put into `out`.
    fn decode(&mut self, bytes: &[u8], out: &mut [u8]) -> (usize, usize) {
        match self {
            Framing::Length(left) => {
                let length = bytes.len().min(out.len()).min(usize::try_from(*left).unwrap_or(usize::MAX));
                out[..length].copy_from_slice(&bytes[..length]);
                *left -= length as u64;
                (length, length)
            }
            Framing::Chunked(chunks) => chunks.decode(bytes, out),
        }
    }
}

/// Takes chunks apart, wherever the pieces that come are split.
#[derive(Default)]
pub struct Dechunker {
    expects: Expects,
}

enum Expects {
    /// The line with a chunk's size, of which this has come.
    Size(Vec<u8>),
    Data(u64),
    /// Whatever follows the last chunk means nothing here, and neither does what follows a line that is no size.
    Nothing,
}

impl Default for Expects {
    fn default() -> Expects {
        Expects::Size(Vec::new())
    }
}

impl Dechunker {
    fn decode(&mut self, bytes: &[u8], out: &mut [u8]) -> (usize, usize) {
        let (mut used, mut put) = (0, 0);
        while let Some(&byte) = bytes.get(used) {
            match &mut self.expects {
                Expects::Nothing => break,
                Expects::Size(line) => {
                    used += 1;
                    if byte == b'\n' || line.len() > SIZE_MAX {
                        self.expects = expected_after(line);
                    } else {
                        line.push(byte);
                    }
                }
                Expects::Data(left) => {
                    let room = (bytes.len() - used).min(out.len() - put);
                    let length = room.min(usize::try_from(*left).unwrap_or(usize::MAX));
                    if length == 0 {
                        break;
                    }
                    out[put..put + length].copy_from_slice(&bytes[used..used + length]);
                    (used, put) = (used + length, put + length);
                    *left -= length as u64;
                    if *left == 0 {
                        self.expects = Expects::default();
                    }
                }
            }
        }
        (used, put)
    }
}

/// The end of line behind a chunk is an empty line in front of the next size.
fn expected_after(line: &[u8]) -> Expects {
    let text = std::str::from_utf8(line).unwrap_or_default().trim();
    let digits = text.split([';', ' ']).next().unwrap_or_default();
    match u64::from_str_radix(digits, 16) {
        _ if text.is_empty() => Expects::default(),
        Ok(size) if size > 0 => Expects::Data(size),
        _ => Expects::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_chunked_answer_is_read_to_its_last_chunk() {
        let (mut theirs, ours) = UnixStream::pair().expect("a pair");
        theirs
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n5\r\nde\nfg\r\n0\r\n\r\nrest")
            .expect("written");
        let mut reader = BufReader::new(ours);
        let Head { status, framing, own_pid } = read_head(&mut reader).expect("a head");
        let mut text = String::new();
        Body { reader, framing, own_pid }.read_to_string(&mut text).expect("a body");
        assert_eq!((status, text.as_str()), (200, "abcde\nfg"));
    }

    #[test]
    fn it_does_not_matter_where_chunks_are_split() {
        let whole = b"3\r\nabc\r\n\r\nA;x=y\r\n0123456789\r\n0\r\n\r\nrest";
        for piece in 1..whole.len() {
            let (mut theirs, ours) = UnixStream::pair().expect("a pair");
            let mut body = Body {
                reader: BufReader::with_capacity(piece, ours),
                framing: Framing::Chunked(Dechunker::default()),
                own_pid: None,
            };
            theirs.write_all(whole).expect("written");
            let mut sink = Vec::new();
            while body.take_some(&mut sink).expect("read") {}
            assert_eq!(sink, b"abc0123456789", "pieces of {piece}");
        }
    }

    #[test]
    fn a_size_that_is_none_ends_the_body() {
        for bad in ["zz\r\nabc", "-1\r\nabc", "ffffffffffffffffffff\r\nabc"] {
            let mut framing = Framing::Chunked(Dechunker::default());
            framing.decode(bad.as_bytes(), &mut [0; 16]);
            assert!(framing.is_over(), "{bad}");
        }
        let mut framing = Framing::Chunked(Dechunker::default());
        framing.decode(&[b'0'; 1000], &mut [0; 16]);
        assert!(framing.is_over());
    }
}
