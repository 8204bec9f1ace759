//! HTTP/1.1 as a codec: bytes in, requests out; answers in, bytes out. No socket, no clock.
//!
//! The head is looked at once, when its end has come, so that a client that sends a byte at a time costs no more than
//! any other. Every part has a limit; what breaks a limit or the grammar is a `Refusal`, after which the connection
//! is of no use any more, since nobody can know where the next request begins.

use std::mem;

/// Request line and headers together.
pub const MAX_HEAD: usize = 16 << 10;
pub const MAX_TARGET: usize = 8 << 10;
pub const MAX_BODY: usize = 1 << 20;
const MAX_HEADERS: usize = 64;
/// The line before a chunk: its size and extensions nobody uses.
const MAX_CHUNK_LINE: usize = 256;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// Decoded, without the query: `/v1/processes/www:hello`.
    pub path: String,
    /// Decoded, in order; a name may come more than once.
    pub query: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Names in lower case, in order; those that are not UTF-8 are left out.
    pub headers: Vec<(String, String)>,
    /// The client may send another request on this connection.
    pub keep_alive: bool,
}

impl Request {
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The value of the first header of that name, which is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn queries<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.query.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Why a request cannot be understood; the connection ends with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub why: &'static str,
}

fn refuse<T>(status: u16, why: &'static str) -> Result<T, Refusal> {
    Err(Refusal { status, why })
}

/// Takes bytes as they come and gives requests when they are whole.
#[derive(Debug, Default)]
pub struct Decoder {
    buf: Vec<u8>,
    /// No head ends before this place of `buf`.
    scanned: usize,
    stage: Stage,
    wants_continue: bool,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Head,
    Body {
        request: Request,
        length: usize,
    },
    ChunkLine {
        request: Request,
    },
    /// `left` bytes of the chunk, then an empty line.
    Chunk {
        request: Request,
        left: usize,
    },
    /// Headers after the last chunk: dropped, but not without end.
    Trailers {
        request: Request,
        seen: usize,
    },
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    /// The next whole request, or `None` until more bytes have come.
    pub fn next(&mut self) -> Result<Option<Request>, Refusal> {
        loop {
            match mem::take(&mut self.stage) {
                Stage::Head => match self.head()? {
                    Some(stage) => self.stage = stage,
                    None => return Ok(None),
                },
                Stage::Body { request, length } if self.buf.len() < length => {
                    self.stage = Stage::Body { request, length };
                    return Ok(None);
                }
                Stage::Body { mut request, length } => {
                    request.body = self.take(length);
                    return Ok(Some(request));
                }
                Stage::ChunkLine { request } => match self.line(MAX_CHUNK_LINE)? {
                    None => {
                        self.stage = Stage::ChunkLine { request };
                        return Ok(None);
                    }
                    Some(line) => match chunk_size(&line)? {
                        0 => self.stage = Stage::Trailers { request, seen: 0 },
                        size if request.body.len() + size > MAX_BODY => return refuse(413, "body over 1 MiB"),
                        size => self.stage = Stage::Chunk { request, left: size },
                    },
                },
                Stage::Chunk { mut request, left } => {
                    let here = self.take(left.min(self.buf.len()));
                    request.body.extend_from_slice(&here);
                    let left = left - here.len();
                    if left == 0 && self.buf.len() >= 2 {
                        if self.take(2) != b"\r\n" {
                            return refuse(400, "a chunk is longer than its size");
                        }
                        self.stage = Stage::ChunkLine { request };
                        continue;
                    }
                    self.stage = Stage::Chunk { request, left };
                    return Ok(None);
                }
                Stage::Trailers { request, seen } => match self.line(MAX_HEAD)? {
                    None => {
                        self.stage = Stage::Trailers { request, seen };
                        return Ok(None);
                    }
                    Some(line) if line.is_empty() => return Ok(Some(request)),
                    Some(line) if seen + line.len() > MAX_HEAD => return refuse(431, "trailers over 16 KiB"),
                    Some(line) => self.stage = Stage::Trailers { request, seen: seen + line.len() + 2 },
                },
            }
        }
    }

    /// Part of a request has come, but not all of it.
    pub fn is_within_request(&self) -> bool {
        !self.buf.is_empty() || !matches!(self.stage, Stage::Head)
    }

    /// The client waits for `100 Continue` before it sends the body. Asked once.
    pub fn take_wants_continue(&mut self) -> bool {
        mem::take(&mut self.wants_continue)
    }

    fn head(&mut self) -> Result<Option<Stage>, Refusal> {
        if self.scanned == 0 {
            // Empty lines before a request come from old clients and mean nothing.
            let blank = self.buf.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
            self.buf.drain(..blank);
        }
        let Some(end) = head_end(&self.buf, self.scanned) else {
            if self.buf.len() >= MAX_HEAD {
                let one_line = !self.buf.contains(&b'\n');
                return if one_line { refuse(414, "request line too long") } else { refuse(431, "head over 16 KiB") };
            }
            // The end may begin in the last two bytes.
            self.scanned = self.buf.len().saturating_sub(2);
            return Ok(None);
        };
        self.scanned = 0;
        if end > MAX_HEAD {
            return refuse(431, "head over 16 KiB");
        }
        let head = self.take(end);
        let (request, body) = parse_head(&head)?;
        let (stage, is_expected) = match body {
            Body::Length { length: 0, .. } => (Stage::Body { request, length: 0 }, false),
            Body::Length { length, is_expected } => (Stage::Body { request, length }, is_expected),
            Body::Chunked { is_expected } => (Stage::ChunkLine { request }, is_expected),
        };
        self.wants_continue = is_expected && self.buf.is_empty();
        Ok(Some(stage))
    }

    /// A line without its end, or `None` until it is whole.
    fn line(&mut self, limit: usize) -> Result<Option<Vec<u8>>, Refusal> {
        match self.buf.iter().take(limit + 2).position(|&b| b == b'\n') {
            Some(end) => {
                let mut line = self.take(end + 1);
                line.pop();
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                Ok(Some(line))
            }
            None if self.buf.len() > limit => refuse(400, "a line of a chunked body is too long"),
            None => Ok(None),
        }
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let rest = self.buf.split_off(length.min(self.buf.len()));
        mem::replace(&mut self.buf, rest)
    }
}

enum Body {
    Length { length: usize, is_expected: bool },
    Chunked { is_expected: bool },
}

/// Where the head ends: after an empty line.
fn head_end(buf: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(found) = buf.get(at..)?.iter().position(|&b| b == b'\n') {
        at += found + 1;
        match buf.get(at..)? {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
    None
}

fn parse_head(head: &[u8]) -> Result<(Request, Body), Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return refuse(400, "not an HTTP request"),
        Err(httparse::Error::TooManyHeaders) => return refuse(431, "more than 64 headers"),
        Err(httparse::Error::Version) => return refuse(505, "only HTTP/1.0 and HTTP/1.1 are spoken here"),
        Err(_) => return refuse(400, "not an HTTP request"),
    }
    let is_10 = parsed.version == Some(0);
    let target = parsed.path.unwrap_or_default();
    if target.len() > MAX_TARGET {
        return refuse(414, "target over 8 KiB");
    }
    let (path, query) = parse_target(target)?;
    let mut request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path,
        query,
        body: Vec::new(),
        headers: Vec::new(),
        keep_alive: !is_10,
    };
    let (mut length, mut is_chunked, mut is_expected) = (None, false, false);
    for header in parsed.headers.iter() {
        let value = header.value.trim_ascii();
        let name = header.name.to_ascii_lowercase();
        if let Ok(text) = std::str::from_utf8(value) {
            request.headers.push((name.clone(), text.to_owned()));
        }
        match name.as_str() {
            "content-length" => {
                let this = content_length(value)?;
                if length.is_some_and(|before| before != this) {
                    return refuse(400, "two different lengths");
                }
                length = Some(this);
            }
            "transfer-encoding" if is_10 || is_chunked => return refuse(400, "bad transfer encoding"),
            "transfer-encoding" if value.eq_ignore_ascii_case(b"chunked") => is_chunked = true,
            "transfer-encoding" => return refuse(501, "no transfer encoding but chunked is understood"),
            "expect" if value.eq_ignore_ascii_case(b"100-continue") => is_expected = !is_10,
            "expect" => return refuse(417, "nothing but 100-continue can be expected"),
            "connection" => {
                for word in value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
                    if word.eq_ignore_ascii_case(b"close") {
                        request.keep_alive = false;
                    } else if word.eq_ignore_ascii_case(b"keep-alive") && is_10 {
                        request.keep_alive = true;
                    }
                }
            }
            _ => {}
        }
    }
    match (length, is_chunked) {
        // A length and chunks at once is how requests are smuggled past a proxy.
        (Some(_), true) => refuse(400, "both a length and chunks"),
        (_, true) => Ok((request, Body::Chunked { is_expected })),
        (length, false) => Ok((request, Body::Length { length: length.unwrap_or(0), is_expected })),
    }
}

fn content_length(value: &[u8]) -> Result<usize, Refusal> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return refuse(400, "a length that is not a number");
    }
    let length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    match length {
        Some(length) if length <= MAX_BODY => Ok(length),
        _ => refuse(413, "body over 1 MiB"),
    }
}

fn chunk_size(line: &[u8]) -> Result<usize, Refusal> {
    let digits = line.split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
    let is_hex = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
    match std::str::from_utf8(digits) {
        Ok(text) if is_hex => match usize::from_str_radix(text, 16) {
            Ok(size) if size <= MAX_BODY => Ok(size),
            _ => refuse(413, "body over 1 MiB"),
        },
        _ => refuse(400, "a chunk size that is not a number"),
    }
}

type Target = (String, Vec<(String, String)>);

fn parse_target(target: &str) -> Result<Target, Refusal> {
    let local = match target.strip_prefix("http://") {
        Some(rest) => rest.find(['/', '?']).map_or("/", |at| &rest[at..]),
        None => target,
    };
    if !local.starts_with('/') {
        return refuse(400, "the target is not a path");
    }
    let local = local.split('#').next().unwrap_or_default();
    let (path, query) = local.split_once('?').unwrap_or((local, ""));
    Ok((percent_decode(path, false)?, pairs(query)?))
}

/// A query, or a form that was posted.
pub fn pairs(text: &str) -> Result<Vec<(String, String)>, Refusal> {
    let mut pairs = Vec::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        pairs.push((percent_decode(key, true)?, percent_decode(value, true)?));
    }
    Ok(pairs)
}

fn percent_decode(text: &str, plus_is_space: bool) -> Result<String, Refusal> {
    if !text.contains(['%', '+']) {
        return Ok(text.to_owned());
    }
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let digit = |b: Option<u8>| (b? as char).to_digit(16);
                match (digit(bytes.next()), digit(bytes.next())) {
                    (Some(high), Some(low)) => (high * 16 + low) as u8,
                    _ => return refuse(400, "a bad % escape in the target"),
                }
            }
            b'+' if plus_is_space => b' ',
            other => other,
        });
    }
    String::from_utf8(out).or_else(|_| refuse(400, "the target is not UTF-8"))
}

/// An answer with a body of known length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// The media type of the body.
    pub content: &'static str,
    pub body: Vec<u8>,
    /// Headers beside the usual ones: `Allow` with 405, `WWW-Authenticate` with 401, `Location`.
    pub headers: Vec<(&'static str, String)>,
}

impl Answer {
    /// The whole answer as bytes. With `head_only` (HEAD) the length is told, but the body is not sent.
    pub fn encode(&self, keep_alive: bool, head_only: bool) -> Vec<u8> {
        let mut out = head(self.status, keep_alive, self.content);
        for (name, value) in &self.headers {
            // A value made of something a client sent cannot begin a header of its own.
            let value: String = value.chars().filter(|c| !c.is_control()).collect();
            out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", self.body.len()).as_bytes());
        if !head_only {
            out.extend_from_slice(&self.body);
        }
        out
    }
}

/// The head of an answer whose body comes as chunks, each a line; the connection ends with it.
pub fn stream_head() -> Vec<u8> {
    let mut out = head(200, false, "application/x-ndjson");
    out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
    out
}

/// As `stream_head`, for the bytes of a log. Proxies are asked not to gather them.
pub fn tail_head(tell_proxies: bool) -> Vec<u8> {
    let mut out = head(200, false, "text/plain;charset=utf-8");
    // Nothing about the end of the connection: Python's client lets go of a socket that is to be closed.
    if let Some(at) = out.windows(CLOSE.len()).position(|window| window == CLOSE) {
        out.drain(at..at + CLOSE.len());
    }
    if tell_proxies {
        out.extend_from_slice(b"X-Accel-Buffering: no\r\n");
    }
    out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
    out
}

const CLOSE: &[u8] = b"Connection: close\r\n";
pub const JSON: &str = "application/json";
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Appends `bytes` as one chunk. Nothing is appended for nothing: an empty chunk would be the last one.
pub fn put_chunk(out: &mut Vec<u8>, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
        out.extend_from_slice(bytes);
        out.extend_from_slice(b"\r\n");
    }
}

/// All headers but the one that tells the length. `Hob-Pid` is our pid as we see it: a client that sees another one
/// in the peer credentials is in another pid namespace and knows that our pids mean nothing to it.
fn head(status: u16, keep_alive: bool, content: &str) -> Vec<u8> {
    let connection = if keep_alive { "keep-alive" } else { "close" };
    format!(
        "HTTP/1.1 {status} {}\r\nServer: hob/{}\r\nHob-Pid: {}\r\nContent-Type: {content}\r\n\
         Cache-Control: no-store\r\nConnection: {connection}\r\n",
        reason(status),
        env!("CARGO_PKG_VERSION"),
        std::process::id()
    )
    .into_bytes()
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        301 => "Moved Permanently",
        303 => "See Other",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        421 => "Misdirected Request",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All requests in `pieces`, and how it ended.
    fn decode(pieces: &[&[u8]]) -> (Vec<Request>, Option<Refusal>) {
        let (mut decoder, mut requests) = (Decoder::default(), Vec::new());
        for piece in pieces {
            decoder.push(piece);
            loop {
                match decoder.next() {
                    Ok(Some(request)) => requests.push(request),
                    Ok(None) => break,
                    Err(refusal) => return (requests, Some(refusal)),
                }
            }
        }
        (requests, None)
    }

    fn status(bytes: &[u8]) -> Option<u16> {
        decode(&[bytes]).1.map(|refusal| refusal.status)
    }

    const PLAIN: &[u8] = b"GET /v1/processes?name=www%3Ahello&name=a+b HTTP/1.1\r\nHost: hob\r\n\r\n";
    const POSTED: &[u8] = b"POST /v1/stop HTTP/1.1\r\nContent-Length: 17\r\n\r\n{\"names\":[\"all\"]}";
    const CHUNKED: &[u8] = b"POST /v1/stop HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
        5\r\n{\"nam\r\nC;x=y\r\nes\":[\"all\"]}\r\n0\r\nTrailer: x\r\n\r\n";

    #[test]
    fn a_request_is_taken_apart() {
        let (requests, end) = decode(&[PLAIN]);
        assert_eq!(end, None);
        let [request] = requests.as_slice() else { panic!("one request") };
        assert_eq!((request.method.as_str(), request.path.as_str()), ("GET", "/v1/processes"));
        assert_eq!(request.queries("name").collect::<Vec<_>>(), ["www:hello", "a b"]);
        assert!(request.keep_alive);
    }

    #[test]
    fn it_does_not_matter_where_the_bytes_are_split() {
        let whole = [PLAIN, POSTED, CHUNKED, PLAIN].concat();
        let expected = decode(&[&whole]);
        assert_eq!(expected.0.len(), 4);
        assert_eq!(expected.0[1].body, expected.0[2].body);
        for at in 0..=whole.len() {
            assert_eq!(decode(&[&whole[..at], &whole[at..]]), expected, "split at {at}");
        }
        let single: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(decode(&single), expected);
    }

    #[test]
    fn an_old_client_closes_unless_it_says_otherwise_and_a_new_one_the_other_way_round() {
        let keeps = |text: &str| decode(&[text.as_bytes()]).0[0].keep_alive;
        assert!(!keeps("GET / HTTP/1.0\r\n\r\n"));
        assert!(keeps("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
        assert!(!keeps("GET / HTTP/1.1\r\nConnection: foo, Close\r\n\r\n"));
    }

    #[test]
    fn hostile_requests_are_refused_by_class() {
        let cases: &[(&[u8], u16)] = &[
            (b"\x16\x03\x01\x02\x00\x01\n\n", 400),
            (b"GET\r\n\r\n", 400),
            (b"GET / HTTP/2.0\r\n\r\n", 505),
            (b"GET hob HTTP/1.1\r\n\r\n", 400),
            (b"GET /%zz HTTP/1.1\r\n\r\n", 400),
            (b"GET /%ff HTTP/1.1\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\nContent-Length: \r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n", 413),
            (b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999999\r\n\r\n", 413),
            (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
            (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n", 400),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n100001\r\n", 413),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", 413),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc", 400),
            (b"POST / HTTP/1.1\r\nExpect: wonders\r\n\r\n", 417),
        ];
        for (bytes, expected) in cases {
            assert_eq!(status(bytes), Some(*expected), "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn bombs_are_refused_before_they_grow() {
        let line = [b"GET /", "x".repeat(MAX_HEAD).as_bytes()].concat();
        let many = "A: b\r\n".repeat(65);
        let big = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(MAX_HEAD));
        let target = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(MAX_TARGET));
        let endless =
            format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{}", "0".repeat(MAX_CHUNK_LINE + 1));
        let chunks = format!(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{}",
            format!("80000\r\n{}\r\n", "x".repeat(0x80000)).repeat(3)
        );
        let trailers =
            format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{}", "A: b\r\n".repeat(MAX_HEAD / 4));
        assert_eq!(status(&line), Some(414));
        assert_eq!(status(format!("GET / HTTP/1.1\r\n{many}\r\n").as_bytes()), Some(431));
        assert_eq!(status(big.as_bytes()), Some(431));
        assert_eq!(status(target.as_bytes()), Some(414));
        assert_eq!(status(endless.as_bytes()), Some(400));
        assert_eq!(status(chunks.as_bytes()), Some(413));
        assert_eq!(status(trailers.as_bytes()), Some(431));
    }

    #[test]
    fn a_client_that_waits_for_continue_is_noticed_once_and_only_if_the_body_is_missing() {
        let mut decoder = Decoder::default();
        decoder.push(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
        assert_eq!(decoder.next(), Ok(None));
        assert!(decoder.take_wants_continue());
        assert!(!decoder.take_wants_continue());
        decoder.push(b"{}");
        assert_eq!(decoder.next().map(|request| request.map(|r| r.body)), Ok(Some(b"{}".to_vec())));
        decoder.push(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}");
        assert!(decoder.next().is_ok_and(|request| request.is_some()));
        assert!(!decoder.take_wants_continue());
    }

    #[test]
    fn an_answer_to_head_tells_the_length_and_keeps_the_body() {
        let headers = vec![("Allow", "GET, HEAD".to_owned())];
        let answer = Answer { status: 405, content: JSON, body: b"{}".to_vec(), headers };
        let text = |head_only| String::from_utf8(answer.encode(true, head_only)).expect("ASCII");
        assert!(text(true).ends_with("Allow: GET, HEAD\r\nContent-Length: 2\r\n\r\n"));
        assert!(text(false).ends_with("\r\n\r\n{}"));
        assert!(text(false).starts_with("HTTP/1.1 405 Method Not Allowed\r\n"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_keep_more_than_its_limits(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20)) {
            let mut decoder = Decoder::default();
            for piece in &pieces {
                decoder.push(piece);
                while let Ok(Some(_)) = decoder.next() {}
            }
            prop_assert!(decoder.buf.len() <= MAX_HEAD + 300);
        }

        #[test]
        fn a_damaged_request_never_panics(at in 0usize..200, byte in any::<u8>(), cut in 0usize..200) {
            let mut bytes = [POSTED, CHUNKED].concat();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            let cut = cut.min(bytes.len());
            let (whole, split) = (decode(&[&bytes]), decode(&[&bytes[..cut], &bytes[cut..]]));
            prop_assert_eq!(whole, split);
        }

        #[test]
        fn a_body_comes_out_as_it_went_in_however_it_is_chunked(body in prop::collection::vec(any::<u8>(), 0..3000), sizes in prop::collection::vec(1usize..500, 1..20)) {
            let mut bytes = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            let (mut rest, mut sizes) = (body.as_slice(), sizes.iter().cycle());
            while !rest.is_empty() {
                let (piece, others) = rest.split_at(rest.len().min(*sizes.next().expect("cycles")));
                put_chunk(&mut bytes, piece);
                rest = others;
            }
            bytes.extend_from_slice(LAST_CHUNK);
            let (requests, end) = decode(&[&bytes]);
            prop_assert_eq!(end, None);
            prop_assert_eq!(&requests[0].body, &body);
        }
    }
}
