//! `GET /v1/logs`: what to send, and the sending, which a child does, since reading a log may block.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::http::{self, Answer, Request};
use super::rpc::{log_of, split};
use super::{Host, api};
use crate::supervisor::Process;
use crate::sys::file::open_regular;
use crate::sys::{poll, socket_unix};
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

/// The whole answer for a client more than there can be followers of logs.
pub fn too_many_followers(most: usize) -> Vec<u8> {
    let why = format!("{most} clients read logs already; try again when one of them has ended");
    api::failure(503, why).encode(false, false)
}

/// Which part of a file is wanted, in the words of supervisord's clients (reference/supervisord.md §3.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPiece {
    pub path: PathBuf,
    pub offset: i64,
    pub length: i64,
    /// The end of the file and how large it is, in place of a part.
    pub is_tail: bool,
}

/// What was there. Bytes that are no text are U+FFFD.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    pub text: String,
    pub size: u64,
    /// There is more than was asked for.
    pub overflow: bool,
    pub is_missing: bool,
    /// Why there is nothing; of a missing file its path.
    pub error: Option<String>,
}

/// Reads a piece; for a child of the daemon, since reading may block.
pub fn read_piece(piece: &LogPiece) -> Fetched {
    try_read(piece).unwrap_or_else(|why| {
        let is_missing = why.kind() == io::ErrorKind::NotFound;
        let error = if is_missing { piece.path.display().to_string() } else { socket_unix::reason(&why) };
        Fetched { is_missing, error: Some(error), ..Fetched::default() }
    })
}

fn try_read(piece: &LogPiece) -> io::Result<Fetched> {
    if piece.path == Path::new("/dev/null") {
        return Ok(Fetched::default());
    }
    let mut file = open_regular(&piece.path)?;
    let size = file.metadata()?.len();
    let (offset, length) = (piece.offset, u64::try_from(piece.length).unwrap_or(0));
    let (from, length, overflow) = if piece.is_tail {
        let from = u64::try_from(offset).unwrap_or(0);
        let overflow = size > from.saturating_add(length);
        let from = if from >= size { size } else { size.saturating_sub(length) };
        (from, length, overflow)
    } else {
        let from = u64::try_from(offset).unwrap_or_else(|_| size.saturating_sub(offset.unsigned_abs()));
        (from, if length == 0 { u64::MAX } else { length }, false)
    };
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(length.min(PIECE_MAX)).read_to_end(&mut bytes)?;
    // A character that begins before the piece is not shown in part.
    let cut = if from > 0 { bytes.iter().take(3).take_while(|&&b| b & 0xc0 == 0x80).count() } else { 0 };
    Ok(Fetched { text: String::from_utf8_lossy(&bytes[cut..]).into_owned(), size, overflow, ..Fetched::default() })
}

/// A file that is followed byte by byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    pub path: PathBuf,
    pub is_main: bool,
}

/// What a request for a tail is about.
pub fn tail_of(request: &Request, host: &dyn Host) -> Result<Tail, Answer> {
    if request.method != "GET" {
        return Err(api::failure(400, "only GET is possible here".into()));
    }
    let missing = |what: &str| api::failure(404, format!("no log of {}", what.chars().take(100).collect::<String>()));
    if request.path.starts_with("/mainlogtail") {
        let path = host.main_log().ok_or_else(|| missing("the daemon"))?;
        return Ok(Tail { path, is_main: true });
    }
    let rest = request.path.strip_prefix("/logtail/").unwrap_or_default();
    let (name, channel) = rest.split_once('/').unwrap_or((rest, "stdout"));
    let (group, process) = split(name);
    let is_it = |p: &&Process| p.spec().name.group == group && Some(p.spec().name.process.as_str()) == process;
    let process = host.supervisor().processes().find(is_it).ok_or_else(|| missing(name))?;
    let path = match channel {
        "stdout" | "" => log_of(process, false),
        "stderr" => log_of(process, true),
        _ => None,
    };
    let path = path.ok_or_else(|| missing(rest))?;
    Ok(Tail { path, is_main: false })
}

/// For a child of the daemon: the last bytes of a file, then whatever is added, until the client leaves. Goes with the
/// file when it is rotated.
pub fn serve_tail(socket: OwnedFd, tail: &Tail) -> io::Result<()> {
    let mut stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut file = match open_regular(&tail.path) {
        Ok(file) => file,
        Err(why) => {
            let why = api::failure(404, format!("cannot read the log: {}", socket_unix::reason(&why)));
            return stream.write_all(&why.encode(false, false));
        }
    };
    stream.write_all(&http::tail_head(!tail.is_main))?;
    let mut at = file.seek(SeekFrom::End(0))?.saturating_sub(TAIL_FIRST);
    let mut out = Vec::new();
    let mut block = vec![0; 64 << 10];
    loop {
        let meta = file.metadata()?;
        if meta.len() < at {
            at = 0;
            http::put_chunk(&mut out, b"==> File truncated <==\n");
        }
        file.seek(SeekFrom::Start(at))?;
        loop {
            let length = file.read(&mut block)?;
            at += length as u64;
            http::put_chunk(&mut out, &block[..length]);
            stream.write_all(&out)?;
            out.clear();
            if length == 0 {
                break;
            }
        }
        if let Ok(next) = open_regular(&tail.path)
            && next.metadata()?.ino() != meta.ino()
        {
            (file, at) = (next, 0);
            continue;
        }
        // supervisorctl sends an empty line more than it has to. What a client says now means nothing; its end does.
        if poll::readable(&[stream.as_fd()], Some(TAIL_EVERY))?[0] && stream.read(&mut block)? == 0 {
            return Ok(());
        }
    }
}

/// More of a log than this is not sent in one answer.
const PIECE_MAX: u64 = 8 << 20;
/// What a follower gets to begin with.
const TAIL_FIRST: u64 = 1024;
const TAIL_EVERY: Duration = Duration::from_millis(100);

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
