//! One request to the daemon and its answer, over the control socket. Blocking; a command asks and waits.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::http::{Body, Head, read_head};
use crate::sys::socket_unix;
use crate::wire::Failure;

pub struct Daemon {
    socket: PathBuf,
}

/// Why there is no answer, and what a command exits with for it (DESIGN §2).
#[derive(Debug)]
pub struct Failed {
    pub message: String,
    pub status: i32,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<io::Error> for Failed {
    fn from(why: io::Error) -> Failed {
        Failed { message: format!("cannot talk to hob: {}", reason(&why)), status: 4 }
    }
}

impl Daemon {
    pub fn at(socket: &Path) -> Daemon {
        Daemon { socket: socket.to_owned() }
    }

    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failed> {
        self.ask("GET", path, b"")
    }

    /// As `get`; also whether the daemon's pids mean the same to us, which they do not across a container's wall.
    pub fn get_with_namespace<T: DeserializeOwned>(&self, path: &str) -> Result<(T, bool), Failed> {
        let mut body = self.open("GET", path, b"")?;
        let seen = socket_unix::peer(body.reader.get_ref()).map_or(0, |peer| peer.pid);
        let same = body.own_pid.is_none_or(|pid| pid == seen);
        Ok((read_json(&mut body)?, same))
    }

    pub fn ask<T: DeserializeOwned>(&self, method: &str, path: &str, body: &[u8]) -> Result<T, Failed> {
        read_json(&mut self.open(method, path, body)?)
    }

    /// Calls `line` with each line of a stream until it ends or `line` fails.
    pub fn stream(&self, path: &str, mut line: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), Failed> {
        let mut lines = BufReader::new(self.open("GET", path, b"")?);
        let mut text = Vec::new();
        loop {
            text.clear();
            if lines.read_until(b'\n', &mut text)? == 0 {
                return Ok(());
            }
            line(text.strip_suffix(b"\n").unwrap_or(&text))?;
        }
    }

    /// Sends a request and reads the head of the answer; what is left to read is the body.
    fn open(&self, method: &str, path: &str, body: &[u8]) -> Result<Body<UnixStream>, Failed> {
        let mut stream = UnixStream::connect(&self.socket).map_err(|why| {
            let hint = match why.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => "; is it running? (hob boot)",
                io::ErrorKind::PermissionDenied => "; it belongs to another user",
                _ => "",
            };
            let message = format!("cannot reach hob at {}: {}{hint}", self.socket.display(), reason(&why));
            Failed { message, status: 4 }
        })?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: hob\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        match stream.write_all(&[head.as_bytes(), body].concat()) {
            // One that turns us away has answered and closed before it has read all of this.
            Err(why) if why.kind() != io::ErrorKind::BrokenPipe => return Err(why.into()),
            _ => {}
        }
        // A question is answered at once; what acts may take its time.
        if method == "GET" {
            stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
        }
        let mut reader = BufReader::with_capacity(64 << 10, stream);
        let Head { status, framing, own_pid } = read_head(&mut reader).map_err(|why| match why.kind() {
            io::ErrorKind::WouldBlock => {
                let path = self.socket.display();
                let message = format!("cannot reach hob at {path}: it does not answer; is its process stopped?");
                Failed { message, status: 4 }
            }
            _ => unreadable(why),
        })?;
        reader.get_ref().set_read_timeout(None)?;
        let mut answer = Body { reader, framing, own_pid };
        if status < 400 {
            return Ok(answer);
        }
        let mut text = Vec::new();
        answer.read_to_end(&mut text)?;
        let failure: Failure = serde_json::from_slice(&text)
            .unwrap_or_else(|_| Failure { error: format!("hob answered with status {status}"), errors: Vec::new() });
        let lines = if failure.errors.is_empty() { vec![failure.error] } else { failure.errors };
        Err(Failed { message: lines.join("\n"), status: exit_status(status) })
    }
}

/// 404 is "what you asked about is not so", a request that makes no sense is usage, the rest is the daemon's.
fn exit_status(http: u16) -> i32 {
    match http {
        400 | 422 => 2,
        404 | 409 => 1,
        403 | 401 | 503 => 4,
        _ => 111,
    }
}

fn read_json<T: DeserializeOwned>(body: &mut Body<UnixStream>) -> Result<T, Failed> {
    let mut text = Vec::with_capacity(body.framing.known_length().min(ROOM_MAX));
    body.read_to_end(&mut text)?;
    serde_json::from_slice(&text).map_err(unreadable)
}

const ANSWERS_WITHIN: Duration = Duration::from_secs(15);

/// What is set aside for an answer on its word alone, in bytes.
const ROOM_MAX: usize = 4 << 20;

fn unreadable(why: impl fmt::Display) -> Failed {
    Failed { message: format!("cannot read hob's answer: {why}"), status: 111 }
}

/// For a path or a query: everything but the plainest characters is escaped (RFC 3986).
pub fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

pub fn reason(why: &io::Error) -> String {
    match why.raw_os_error() {
        Some(errno) => nix::errno::Errno::from_raw(errno).desc().to_lowercase(),
        None => why.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_for_a_query() {
        assert_eq!(escape("www.0:hello world*"), "www.0%3Ahello%20world%2A");
    }
}
