//! `GET /v1/logs`: what to send, and the sending, which a child does, since reading a log may block.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use super::http;
use crate::sys::socket_unix;
use crate::wire::LogLine;

/// A client that takes nothing for this long is left.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFile {
    pub name: String,
    pub path: PathBuf,
}

/// Which lines of which logs. Files if some are named, otherwise every file in the folders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    pub files: Vec<LogFile>,
    pub dirs: Vec<PathBuf>,
    /// Of each file, from its end; `None` leaves it to the reader.
    pub lines: Option<usize>,
    pub follow: bool,
    /// Unix time.
    pub since: Option<Duration>,
}

/// For a child of the daemon: takes a connection over, and ends with its client, which is noticed also while there is
/// nothing to send. Otherwise as `send_logs`.
pub fn serve_logs(
    socket: OwnedFd,
    query: &LogQuery,
    follow: impl FnOnce(&LogQuery, &mut Show<'_>) -> io::Result<()>,
) -> io::Result<()> {
    socket_unix::end_with_peer(socket.as_fd())?;
    send_logs(socket, query, follow)
}

/// Takes the name of a log and one line of it.
pub type Show<'a> = dyn FnMut(&str, &[u8]) -> io::Result<()> + 'a;

/// Writes the whole answer, head and chunks, until `follow` comes to its end or the client leaves.
pub(super) fn send_logs(
    socket: OwnedFd,
    query: &LogQuery,
    follow: impl FnOnce(&LogQuery, &mut Show<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&http::stream_head())?;
    let mut out = Vec::with_capacity(16 << 10);
    let followed = follow(query, &mut |name, line| {
        put_line(&mut out, name, line);
        // Somebody who follows wants each line; otherwise a few hundred at once are quicker.
        if query.follow || out.len() > 8 << 10 {
            stream.write_all(&out)?;
            out.clear();
        }
        Ok(())
    });
    if let Err(error) = &followed
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        put_line(&mut out, "hob", socket_unix::reason(error).as_bytes());
    }
    out.extend_from_slice(http::LAST_CHUNK);
    stream.write_all(&out)?;
    followed
}

fn put_line(out: &mut Vec<u8>, name: &str, line: &[u8]) {
    let line = LogLine { name: name.to_owned(), line: String::from_utf8_lossy(line).into_owned() };
    let mut text = serde_json::to_vec(&line).unwrap_or_default();
    text.push(b'\n');
    http::put_chunk(out, &text);
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn lines_are_sent_as_chunks_of_json_and_the_end_is_told() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        send_logs(ours.into(), &LogQuery::default(), |_, line| line("web", b"caf\xc3\xa9 \xff")).expect("served");
        let mut text = String::new();
        theirs.read_to_string(&mut text).expect("read");
        let (_, body) = text.split_once("\r\n\r\n").expect("a head");
        assert_eq!(body, "22\r\n{\"name\":\"web\",\"line\":\"café \u{fffd}\"}\n\r\n0\r\n\r\n");
    }

    #[test]
    fn a_client_that_left_ends_its_follower() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        drop(theirs);
        let query = LogQuery { follow: true, ..LogQuery::default() };
        let mut written = 0;
        let served = send_logs(ours.into(), &query, |_, line| {
            loop {
                written += 1;
                line("web", b"x")?;
            }
        });
        assert!(served.is_err() && written <= 1);
    }
}
