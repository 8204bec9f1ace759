//! One question to a process: does it answer over HTTP, does it accept a connection, does a command say yes?
//!
//! Blocking, in a process of its own that is there for one probe, with one time-out over everything: connecting,
//! reading, running. No TLS and no redirects; an `exec` probe can call curl for those. An address and `localhost` need
//! no resolver; another name is looked up by the C library in a thread, since nothing else can give up on it.

use std::ffi::CString;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use crate::plan::{Ask, Probe};
use crate::sys::clock::since_boot;
use crate::sys::process::{self, Ended};
use crate::sys::{command, fd, pidfd, poll, proc, socket_unix};

/// Asks. 0 for a good answer, 1 for any other, and in a line what it was.
pub fn run(probe: &Probe) -> (i32, String) {
    let deadline = Deadline { at: since_boot().saturating_add(probe.timeout), timeout: probe.timeout };
    let answer = match &probe.ask {
        Ask::Http(url) => http(url, &deadline),
        Ask::Tcp(address) => connect(address, &deadline).map(|_| "accepts connections".to_owned()),
        Ask::Exec(line) => exec(line, &deadline),
    };
    match answer {
        Ok(good) => (0, one_line(&good)),
        Err(bad) => (1, one_line(&bad)),
    }
}

struct Deadline {
    at: Duration,
    timeout: Duration,
}

impl Deadline {
    /// What is left; an error once that is nothing.
    fn left(&self, what: &str) -> Result<Duration, String> {
        let left = self.at.saturating_sub(since_boot());
        if left.is_zero() { Err(self.passed(what)) } else { Ok(left) }
    }

    fn passed(&self, what: &str) -> String {
        format!("{what} took longer than {:?}", self.timeout)
    }
}

/// Sockets differ in their type alone.
trait Stream: Read + Write {
    fn set_timeout(&self, left: Duration) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn set_timeout(&self, left: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(left))?;
        self.set_write_timeout(Some(left))
    }
}

impl Stream for UnixStream {
    fn set_timeout(&self, left: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(left))?;
        self.set_write_timeout(Some(left))
    }
}

fn http(url: &str, deadline: &Deadline) -> Result<String, String> {
    if url.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return Err(format!("cannot ask {url:?}: it holds a blank or a control character"));
    }
    let (mut stream, host, path): (Box<dyn Stream>, &str, &str) = if let Some(rest) = url.strip_prefix("http://") {
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        (Box::new(connect(&with_port(authority), deadline)?), authority, path)
    } else if let Some(rest) = url.strip_prefix("unix:") {
        let (socket, path) = rest.split_once(':').unwrap_or((rest, "/"));
        (Box::new(connect_unix(Path::new(socket), deadline)?), "localhost", path)
    } else {
        return Err(format!("cannot ask {url}: it must begin with http:// or unix:"));
    };
    let path = path.split('#').next().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    let request = format!(
        "GET {slash}{path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: hob/{}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    );
    stream.set_timeout(deadline.left("the answer")?).map_err(|e| told("cannot ask", &e))?;
    stream.write_all(request.as_bytes()).map_err(|e| told("cannot ask", &e))?;
    let line = status_line(stream.as_mut(), deadline)?;
    let status = parse_status(&line).ok_or_else(|| {
        let start = String::from_utf8_lossy(&line[..line.len().min(60)]).into_owned();
        format!("the answer is not HTTP: {start:?}")
    })?;
    if status < 500 {
        Ok(format!("answers with status {status}"))
    } else {
        Err(format!("answers with status {status}"))
    }
}

/// The first line of an answer, at most 1 KiB of it.
fn status_line(stream: &mut dyn Stream, deadline: &Deadline) -> Result<Vec<u8>, String> {
    let mut line = Vec::new();
    while line.len() < 1024 {
        // Each read gets only what is left: one byte every so often would never end otherwise.
        stream.set_timeout(deadline.left("the answer")?).map_err(|e| told("cannot read the answer", &e))?;
        let mut block = [0; 1024];
        match stream.read(&mut block) {
            Ok(0) if line.is_empty() => return Err("it closes the connection without an answer".into()),
            Ok(0) => break,
            Ok(length) => line.extend_from_slice(&block[..length]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(deadline.passed("the answer"));
            }
            Err(e) => return Err(told("cannot read the answer", &e)),
        }
        if let Some(end) = line.iter().position(|&b| b == b'\n') {
            line.truncate(end);
            break;
        }
    }
    Ok(line)
}

/// `HTTP/1.1 200 OK`: 200.
fn parse_status(line: &[u8]) -> Option<u16> {
    let mut words = line.strip_prefix(b"HTTP/")?.splitn(3, |&b| b == b' ').skip(1);
    let word = words.next()?.trim_ascii();
    let status: u16 = std::str::from_utf8(word).ok()?.parse().ok()?;
    (word.len() == 3 && status >= 100).then_some(status)
}

/// Port 80 is what a URL without one means.
fn with_port(authority: &str) -> String {
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']') && !port.is_empty());
    if has_port { authority.to_owned() } else { format!("{}:80", authority.trim_end_matches(':')) }
}

fn connect(address: &str, deadline: &Deadline) -> Result<TcpStream, String> {
    let mut last = format!("{address} has no address");
    for target in resolve(address, deadline)? {
        match TcpStream::connect_timeout(&target, deadline.left(&format!("connecting to {address}"))?) {
            Ok(stream) => return Ok(stream),
            Err(e) if e.kind() == ErrorKind::TimedOut => {
                last = deadline.passed(&format!("connecting to {address}"));
            }
            Err(e) => last = told(&format!("cannot connect to {address}"), &e),
        }
    }
    Err(last)
}

fn resolve(address: &str, deadline: &Deadline) -> Result<Vec<SocketAddr>, String> {
    let wrong = || format!("cannot connect to {address:?}: it is not host:port");
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![(ip, port).into()]);
    }
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]);
    }
    let (tx, rx) = mpsc::channel();
    let wanted = (host.to_owned(), port);
    let look_up = move || {
        let found = wanted.to_socket_addrs().map(|found| found.take(8).collect::<Vec<_>>());
        // Nobody listens once the time is over.
        let _ = tx.send(found);
    };
    std::thread::Builder::new().spawn(look_up).map_err(|e| told("cannot look up the name", &e))?;
    match rx.recv_timeout(deadline.left("looking up the name")?) {
        Ok(found) => found.map_err(|e| told(&format!("cannot find {host}"), &e)),
        Err(_) => Err(deadline.passed(&format!("looking up {host}"))),
    }
}

fn connect_unix(path: &Path, deadline: &Deadline) -> Result<UnixStream, String> {
    loop {
        match socket_unix::connect_at_once(path) {
            Ok(stream) => {
                return stream.set_nonblocking(false).map(|()| stream).map_err(|e| told("cannot connect", &e));
            }
            // Its queue is full, and unlike with TCP there is nothing to wait on.
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let left = deadline.left(&format!("connecting to {}", path.display()))?;
                std::thread::sleep(left.min(Duration::from_millis(10)));
            }
            Err(e) => return Err(told(&format!("cannot connect to {}", path.display()), &e)),
        }
    }
}

/// Runs a command line; its status decides, and the last line it printed is the reason.
fn exec(line: &str, deadline: &Deadline) -> Result<String, String> {
    let start = || -> io::Result<(process::Pid, OwnedFd)> {
        let (rx, tx) = io::pipe()?;
        let null: OwnedFd = std::fs::File::open("/dev/null")?.into();
        let words = [c"/bin/sh".to_owned(), c"-c".to_owned(), CString::new(line)?];
        let pid = process::fork(|| {
            let _ = process::new_session();
            for (from, number) in [(null.as_fd(), 0), (tx.as_fd(), 1), (tx.as_fd(), 2)] {
                let _ = process::place_fd(from, number);
            }
            process::close_on_exec_from(3);
            command::exec(&words, &command::environment())
        })?;
        Ok((pid, rx.into()))
    };
    let (pid, rx) = start().map_err(|e| told("cannot start the command", &e))?;
    let result = watch(pid, &rx, deadline);
    // Also what it has left in the background. The leader is not reaped before this, so the group is still its own.
    let _ = process::kill_group(pid, libc::SIGKILL);
    let _ = process::kill(pid, libc::SIGKILL);
    let reaped = process::wait_for(pid);
    let last = result?;
    let said = if last.is_empty() { String::new() } else { format!(": {last}") };
    match reaped.map_err(|e| told("cannot wait for the command", &e))? {
        Ended::Code(0) => Ok(format!("the command exited with code 0{said}")),
        Ended::Code(code) => Err(format!("the command exited with code {code}{said}")),
        Ended::Signal { signal, .. } => Err(format!("the command was killed by signal {signal}{said}")),
    }
}

/// Waits for the end of the command and gives its last line; does not reap it.
fn watch(pid: process::Pid, rx: &OwnedFd, deadline: &Deadline) -> Result<String, String> {
    let trouble = |e: io::Error| told("cannot wait for the command", &e);
    fd::set_nonblocking(rx).map_err(trouble)?;
    let mut tail = Tail(Vec::new());
    let mut reader = std::fs::File::from(rx.try_clone().map_err(trouble)?);
    let pidfd = pidfd::open(pid.as_raw()).ok();
    let mut open = true;
    loop {
        let left = deadline.left("the command")?;
        let ended = match &pidfd {
            Some(pidfd) => {
                let fds = if open { vec![pidfd.as_fd(), rx.as_fd()] } else { vec![pidfd.as_fd()] };
                poll::readable(&fds, Some(left)).map_err(trouble)?.first() == Some(&true)
            }
            // A kernel without pidfd: look every so often.
            None => {
                std::thread::sleep(left.min(Duration::from_millis(10)));
                proc::stat(pid.as_raw()).is_none_or(|stat| stat.state == b'Z')
            }
        };
        open = open && tail.fill(&mut reader);
        if ended {
            return Ok(tail.last_line());
        }
    }
}

/// The last 512 bytes of an output.
struct Tail(Vec<u8>);

impl Tail {
    /// Reads what there is, but not for ever; false at the end of the file.
    fn fill(&mut self, reader: &mut impl Read) -> bool {
        let mut block = [0; 4096];
        for _ in 0..64 {
            match reader.read(&mut block) {
                Ok(0) => return false,
                Ok(length) => {
                    self.0.extend_from_slice(&block[..length]);
                    let over = self.0.len().saturating_sub(512);
                    self.0.drain(..over);
                }
                Err(e) => return e.kind() == ErrorKind::WouldBlock,
            }
        }
        true
    }

    fn last_line(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned()
    }
}

fn told(what: &str, why: &io::Error) -> String {
    format!("{what}: {}", socket_unix::reason(why))
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
