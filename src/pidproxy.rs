//! Stands for a server that puts itself in the background: starts the command that launches it, finds the server by
//! its pid file, relays signals to it, and ends when and as it ends.
//!
//! As subreaper (or PID 1) this process is an ancestor of everything the command starts, for good. So a pid file is
//! believed exactly if the process it names descends from us; that a file is old, or that its number has gone to
//! somebody else, needs no guessing by times. A signal goes through a pidfd that was opened before that look, so it
//! cannot reach a stranger.
//!
//! Nothing is polled but the pid file before it first appears. Later it is read again when it matters: for each
//! signal to relay, and when the server or the command has ended. That is how a binary upgrade (nginx) and a wrapper
//! that restarts its server (mysqld_safe) are followed.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use crate::sys::clock::since_boot;
use crate::sys::process::{self, Ended, Pid};
use crate::sys::sigwait::{Arrived, SignalFd};
use crate::sys::{command, family, pidfd, poll, proc, sigwait};

pub struct Options<'a> {
    pub pidfile: &'a Path,
    /// How long the pid file may take to name a process that the command started.
    pub within: Duration,
}

/// Long enough for a database that recovers first; a supervisor's own limit (`ready`) may be shorter.
pub const WITHIN: Duration = Duration::from_secs(60);

/// `hob pidproxy PIDFILE CMD ARGS...`: runs the command in the current environment. The result is an exit status.
pub fn main(pidfile: &Path, argv: &[OsString]) -> i32 {
    let Some(words) = command::words(argv) else {
        say("cannot start nothing: usage: pidproxy PIDFILE COMMAND [ARGS...]");
        return 2;
    };
    run(&Options { pidfile, within: WITHIN }, || command::exec(&words, &command::environment())).status()
}

/// The role the daemon forks for a process with `pidfile:`. A server that was killed is told by dying in the same way.
pub fn role(pidfile: &Path, command: &mut dyn FnMut() -> i32) -> i32 {
    let end = run(&Options { pidfile, within: WITHIN }, command);
    if let Ended::Signal { signal, .. } = end {
        sigwait::die_of(signal);
    }
    end.status()
}

/// The same with a command that is started by `command`, in a child of its own that leads a process group.
///
/// Must be called in a process that is there for this alone: it reaps every child, blocks every signal, and once it
/// has forked it closes every descriptor but the standard ones, which are the command's.
pub fn run(options: &Options<'_>, command: impl FnOnce() -> i32) -> Ended {
    match Proxy::start(options, command) {
        Ok(proxy) => proxy.until_the_end(),
        Err(e) => {
            say(&format!("cannot start the command: {e}"));
            Ended::Code(111)
        }
    }
}

struct Proxy<'a> {
    pidfile: &'a Path,
    within: Duration,
    signals: SignalFd,
    /// The command; its end, once reaped.
    command: Pid,
    command_end: Option<Ended>,
    /// The last children reaped: the server may have come and gone before its file was read.
    reaped: VecDeque<(i32, Ended)>,
    phase: Phase,
}

enum Phase {
    /// The pid file has not named a process of ours yet. Signals that found nobody wait for it.
    Starting {
        give_up_at: Duration,
        pending: Vec<i32>,
        step: Duration,
        told: String,
    },
    Following(Server),
    /// The server has ended, but whoever started it is still there and may start another.
    Kept,
    /// Server and command have ended, something of theirs is still there: a successor may show up until then.
    Leaving {
        until: Duration,
        end: Ended,
    },
}

struct Server {
    pid: i32,
    /// Absent where the kernel has no pidfd.
    pidfd: Option<OwnedFd>,
}

enum Next {
    /// Come back when something has happened, or after this time.
    Wait(Option<Duration>),
    /// Look again at once: the phase is another one.
    Again,
    End(Ended),
}

impl<'a> Proxy<'a> {
    fn start(options: &Options<'a>, command: impl FnOnce() -> i32) -> io::Result<Proxy<'a>> {
        sigwait::block_all()?;
        process::become_subreaper()?;
        let command = process::fork(|| {
            let _ = process::lead_group(process::pid());
            command()
        })?;
        // Both sides do it, so that it is done whichever runs first; too late here means done there.
        let _ = process::lead_group(command);
        process::close_others(&[]);
        let signals = SignalFd::new()?;
        Ok(Proxy {
            pidfile: options.pidfile,
            within: options.within,
            signals,
            command,
            command_end: None,
            reaped: VecDeque::new(),
            phase: Phase::Starting {
                give_up_at: since_boot() + options.within,
                pending: Vec::new(),
                step: Duration::from_millis(5),
                told: String::new(),
            },
        })
    }

    fn until_the_end(mut self) -> Ended {
        loop {
            self.reap();
            let wait = match self.decide() {
                Next::Again => continue,
                Next::End(end) => {
                    family::end_all(GRACE);
                    return end;
                }
                Next::Wait(at_most) => at_most,
            };
            let mut fds = vec![self.signals.as_fd()];
            if let Phase::Following(Server { pidfd: Some(fd), .. }) = &self.phase {
                fds.push(fd.as_fd());
            }
            if let Err(e) = poll::readable(&fds, wait) {
                say(&format!("cannot wait for signals: {e}"));
                return Ended::Code(111);
            }
            while let Some(arrived) = self.signals.take() {
                self.relay(arrived);
            }
        }
    }

    fn reap(&mut self) {
        while let Some((pid, end)) = process::reap_one() {
            if pid == self.command {
                self.command_end = Some(end);
            }
            if self.reaped.len() == 64 {
                self.reaped.pop_front();
            }
            self.reaped.push_back((pid.as_raw(), end));
        }
    }

    fn decide(&mut self) -> Next {
        let now = since_boot();
        match &self.phase {
            Phase::Following(server) if server.is_alive() => Next::Wait(None),
            Phase::Following(server) => {
                let end = self.end_of(server.pid);
                self.server_gone(end, now)
            }
            Phase::Starting { .. } => self.still_starting(now),
            Phase::Kept => match (self.find(), self.command_end) {
                (Ok(server), _) => self.follow(server),
                (Err(_), _) if !family::has_children() => Next::End(self.last_end()),
                (Err(_), Some(_)) if self.reaped.back().is_some_and(|(pid, _)| *pid == self.command.as_raw()) => {
                    self.phase = Phase::Leaving { until: now + SUCCESSOR, end: self.last_end() };
                    Next::Again
                }
                (Err(_), _) => Next::Wait(None),
            },
            Phase::Leaving { until, end } => match (self.find(), *until, *end) {
                (Ok(server), _, _) => self.follow(server),
                (Err(_), until, end) if now >= until || !family::has_children() => Next::End(end),
                (Err(_), until, _) => Next::Wait(Some((until - now).min(Duration::from_millis(50)))),
            },
        }
    }

    fn still_starting(&mut self, now: Duration) -> Next {
        let trouble = match self.find() {
            Ok(server) => return self.follow(server),
            Err(trouble) => trouble,
        };
        let file = self.pidfile.display();
        match self.command_end {
            Some(end) if end.status() != 0 => {
                say(&format!("the command {} before {file} named a server", told(end)));
                return Next::End(end);
            }
            Some(_) if !family::has_children() => {
                return match trouble.pid().and_then(|pid| self.end_of(pid)) {
                    Some(end) => Next::End(end),
                    None => {
                        say(&format!("the command ended and left no server behind: {file} {trouble}"));
                        Next::End(Ended::Code(1))
                    }
                };
            }
            _ => {}
        }
        let Phase::Starting { give_up_at, step, told, .. } = &mut self.phase else { return Next::Again };
        if now >= *give_up_at {
            say(&format!(
                "cannot find the server within {:?}: {file} {trouble}; does the server write its pid there?",
                self.within
            ));
            return Next::End(Ended::Code(1));
        }
        let text = trouble.to_string();
        // A file that was left over is replaced in a moment, usually; say it only when that takes its time.
        if now + self.within >= *give_up_at + Duration::from_secs(1) && *told != text {
            say(&format!("{file} {text}; waiting for it, {:.0?} at most", *give_up_at - now));
            *told = text;
        }
        *step = (*step * 2).min(Duration::from_millis(200));
        Next::Wait(Some((*step).min(*give_up_at - now)))
    }

    fn follow(&mut self, server: Server) -> Next {
        if let Phase::Starting { pending, .. } = &mut self.phase {
            for signal in std::mem::take(pending) {
                server.send(signal);
            }
        }
        self.phase = Phase::Following(server);
        Next::Again
    }

    fn server_gone(&mut self, end: Option<Ended>, now: Duration) -> Next {
        if let Ok(next) = self.find() {
            return self.follow(next);
        }
        self.phase = match (end, self.command_end) {
            (Some(end), Some(_)) => Phase::Leaving { until: now + SUCCESSOR, end },
            // Somebody else reaped it, or the command is still there: it is not over yet.
            _ => Phase::Kept,
        };
        Next::Again
    }

    /// Passes a signal on to whom it is meant for.
    fn relay(&mut self, arrived: Arrived) {
        let signal = arrived.signal;
        // SIGCHLD is ours, and so is a SIGPIPE by a closed stderr. A terminal that changes its size does not mean what
        // SIGWINCH means to a server (Apache ends gracefully).
        if signal == libc::SIGCHLD
            || arrived.sender == process::pid().as_raw()
            || (signal == libc::SIGWINCH && arrived.by_kernel)
        {
            return;
        }
        self.reap();
        // The file may name another process than a moment ago, and the signal is meant for that one.
        let named = self.find();
        match (&mut self.phase, named) {
            (Phase::Following(server), Ok(named)) if server.pid != named.pid => {
                named.send(signal);
                self.phase = Phase::Following(named);
            }
            (Phase::Following(server), _) => server.send(signal),
            (_, Ok(named)) => {
                self.follow(named);
                self.relay(arrived);
            }
            (_, Err(_)) if self.command_end.is_none() => {
                if process::kill_group(self.command, signal).is_err() {
                    let _ = process::kill(self.command, signal);
                }
            }
            (Phase::Starting { pending, .. }, Err(_)) => {
                if !pending.contains(&signal) {
                    pending.push(signal);
                }
            }
            (Phase::Kept | Phase::Leaving { .. }, Err(_)) => {
                family::signal_all(signal);
            }
        }
    }

    /// The living process of ours that the pid file names.
    fn find(&self) -> Result<Server, Trouble> {
        let pid = read_pid(self.pidfile)?;
        if pid == process::pid().as_raw() || pid < 2 {
            return Err(Trouble::Stranger(pid));
        }
        let server = match pidfd::open(pid) {
            Ok(fd) => Server { pid, pidfd: Some(fd) },
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Err(Trouble::Dead(pid)),
            // ENOSYS on an old kernel, EPERM under a filter that does not know the call.
            Err(_) => Server { pid, pidfd: None },
        };
        let is_child = server.pidfd.as_ref().is_some_and(|fd| pidfd::is_child(fd.as_fd()));
        match is_child || family::is_descendant(pid) {
            true if server.is_alive() => Ok(server),
            true => Err(Trouble::Dead(pid)),
            false => Err(Trouble::Stranger(pid)),
        }
    }

    fn end_of(&self, pid: i32) -> Option<Ended> {
        self.reaped.iter().rev().find(|(p, _)| *p == pid).map(|(_, end)| *end)
    }

    fn last_end(&self) -> Ended {
        self.reaped.back().map_or(Ended::Code(0), |(_, end)| *end)
    }
}

impl Server {
    fn is_alive(&self) -> bool {
        match &self.pidfd {
            // A pidfd is readable once its process has ended. An error means there is no telling, so: not yet.
            Some(fd) => poll::readable(&[fd.as_fd()], Some(Duration::ZERO)).is_ok_and(|ready| ready == [false]),
            None => family::is_descendant(self.pid) && proc::stat(self.pid).is_some_and(|s| s.state != b'Z'),
        }
    }

    /// An error means that it has just ended, which shows by itself.
    fn send(&self, signal: i32) {
        let _ = match &self.pidfd {
            Some(fd) => pidfd::send_signal(fd.as_fd(), signal),
            None => family::signal_one(self.pid, signal),
        };
    }
}

/// Why the pid file does not lead to a process of ours.
enum Trouble {
    Unreadable(io::Error),
    NotAFile,
    Empty,
    TooLong(u64),
    NoPid(String),
    Dead(i32),
    Stranger(i32),
}

impl Trouble {
    fn pid(&self) -> Option<i32> {
        match self {
            Trouble::Dead(pid) => Some(*pid),
            _ => None,
        }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Unreadable(e) if e.kind() == io::ErrorKind::NotFound => f.write_str("is not there"),
            Trouble::Unreadable(e) => write!(f, "cannot be read: {e}"),
            Trouble::NotAFile => f.write_str("is not a regular file"),
            Trouble::Empty => f.write_str("is empty"),
            Trouble::TooLong(size) => write!(f, "holds {size} bytes, which is no pid"),
            Trouble::NoPid(text) => write!(f, "does not begin with a pid but with {text:?}"),
            Trouble::Dead(pid) => write!(f, "is stale: there is no process {pid}"),
            Trouble::Stranger(pid) => {
                let name = proc::stat(*pid).map(|s| format!(" ({})", s.command)).unwrap_or_default();
                write!(f, "is stale: process {pid}{name} was not started by this command and gets no signal")
            }
        }
    }
}

/// The number on the first line of a pid file. More lines may follow (postmaster.pid has seven).
fn read_pid(path: &Path) -> Result<i32, Trouble> {
    // Looking first keeps us from opening a device; O_NONBLOCK and the second look from waiting for a FIFO's writer.
    let size = fs::metadata(path).map_err(Trouble::Unreadable).and_then(regular_size)?;
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    let file: File = file.map_err(Trouble::Unreadable)?;
    file.metadata().map_err(Trouble::Unreadable).and_then(regular_size)?;
    if size > 4096 {
        return Err(Trouble::TooLong(size));
    }
    let mut text = Vec::new();
    file.take(4096).read_to_end(&mut text).map_err(Trouble::Unreadable)?;
    parse_pid(&text)
}

fn regular_size(meta: fs::Metadata) -> Result<u64, Trouble> {
    if meta.is_file() { Ok(meta.len()) } else { Err(Trouble::NotAFile) }
}

fn parse_pid(text: &[u8]) -> Result<i32, Trouble> {
    let first = text.split(|&b| b == b'\n').next().unwrap_or_default().trim_ascii();
    if text.trim_ascii().is_empty() {
        return Err(Trouble::Empty);
    }
    let no_pid = || Trouble::NoPid(String::from_utf8_lossy(&first[..first.len().min(20)]).into_owned());
    if first.is_empty() || first.len() > 10 || !first.iter().all(u8::is_ascii_digit) {
        return Err(no_pid());
    }
    // Ten digits may still be too many for the type.
    std::str::from_utf8(first).ok().and_then(|word| word.parse().ok()).filter(|&pid| pid > 0).ok_or_else(no_pid)
}

fn told(end: Ended) -> String {
    match end {
        Ended::Code(code) => format!("exited with code {code}"),
        Ended::Signal { signal, .. } => format!("was killed by signal {signal}"),
    }
}

fn say(text: &str) {
    // Nobody may be reading any more, and that is no reason to leave the server alone.
    let _ = writeln!(io::stderr(), "hob pidproxy: {text}");
}

/// For what is left after the server: SIGTERM, this long, SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// How long after the server's end a process that takes its place may take to write the pid file.
const SUCCESSOR: Duration = Duration::from_secs(1);

#[cfg(test)]
#[path = "pidproxy_tests.rs"]
mod tests;
