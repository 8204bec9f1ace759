//! The logger role: the only process that writes log files.
//!
//! One thread moves bytes from pipes to files. A disk that stalls stalls this process, and then the programs that have
//! filled their pipes; nothing else. What was read and not yet written is at most one buffer, so that is all a killed
//! logger loses; what is still in the pipes the next one reads.

mod console;
pub mod protocol;
mod rotate;
mod sink;
pub mod tail;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use self::console::Console;
use self::protocol::{FromLogger, LogId, ToLogger};
use self::sink::{News, Sink};
use crate::plan::LogSpec;
use crate::sys;
use crate::sys::clock;

/// Runs until the daemon says that it is over, or is gone and all pipes have ended. `colour` is for the console.
pub fn run(link: OwnedFd, colour: bool) -> i32 {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGPIPE] {
        // The last lines of programs that stop at the same signal are still to be written.
        sys::process::ignore_signal(signal);
    }
    match Logger::new(link, colour).and_then(Logger::run) {
        Ok(()) => 0,
        Err(why) => {
            log::error!("the logger cannot go on: {why}");
            111
        }
    }
}

struct Logger {
    link: Option<OwnedFd>,
    poll: Poll,
    logs: BTreeMap<LogId, Log>,
    /// Logs whose pipe may have more than was read in their last turn.
    busy: Vec<LogId>,
    buffer: Vec<u8>,
    console: Console,
    console_waits: bool,
    finish_at: Option<Duration>,
    /// What the daemon has not had room for: it keeps the pipes until it is told that they are closed.
    outgoing: VecDeque<FromLogger>,
}

struct Log {
    label: String,
    pipe: File,
    sink: Sink,
    console: bool,
    /// The pipe has been made larger.
    grown: bool,
    ended: bool,
}

const LINK: Token = Token(0);

impl Logger {
    fn new(link: OwnedFd, colour: bool) -> io::Result<Logger> {
        let poll = Poll::new()?;
        poll.registry().register(&mut SourceFd(&link.as_raw_fd()), LINK, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Logger {
            link: Some(link),
            poll,
            logs: BTreeMap::new(),
            busy: Vec::new(),
            buffer: vec![0; BUFFER_FIRST],
            console: Console::new(colour),
            console_waits: false,
            finish_at: None,
            outgoing: VecDeque::new(),
        })
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut hot = 0;
        self.hear();
        while !self.is_finished() {
            let idle = self.busy.is_empty();
            let timeout = if idle { self.until_next_deadline() } else { Some(Duration::ZERO) };
            match self.poll.poll(&mut events, timeout) {
                Err(why) if why.kind() != io::ErrorKind::Interrupted => return Err(why),
                _ => {}
            }
            for event in &events {
                match event.token() {
                    LINK => {
                        self.hear();
                        self.flush();
                    }
                    Token(id) => self.busy.push(LogId(id as u64)),
                }
            }
            self.busy.sort_unstable();
            self.busy.dedup();
            let mut moved = 0;
            for id in std::mem::take(&mut self.busy) {
                moved += self.pump(id);
            }
            self.handle_timeouts();
            // A program that writes 100 bytes at a time is slowed by a reader that takes each of them: once it is
            // clear that more is coming, let some of it gather. Bounded by the pipe, and only while it is busy.
            hot = if moved == 0 { 0 } else { hot + 1 };
            if hot > HOT_AFTER && moved < GATHER && self.busy.is_empty() {
                std::thread::sleep(GATHER_FOR);
            }
        }
        Ok(())
    }

    fn is_finished(&self) -> bool {
        let asked = self.finish_at.is_some() || self.link.is_none();
        asked && self.logs.is_empty()
    }

    fn until_next_deadline(&self) -> Option<Duration> {
        let console = self.console_waits.then(|| clock::since_boot() + CONSOLE_RETRY);
        let retries = self.logs.values().filter_map(|log| log.sink.retry_at());
        retries.chain(self.finish_at).chain(console).min().map(|at| at.saturating_sub(clock::since_boot()))
    }

    fn handle_timeouts(&mut self) {
        let now = clock::since_boot();
        if self.console_waits {
            self.console_waits = self.console.flush();
        }
        let due: Vec<LogId> = self
            .logs
            .iter()
            .filter(|(_, l)| l.sink.retry_at().is_some_and(|at| at <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let Some(log) = self.logs.get_mut(&id) else { continue };
            let news = log.sink.retry();
            if log.sink.retry_at().is_none() {
                self.busy.push(id);
            }
            if log.ended && log.sink.is_clean() {
                self.close(id);
            }
            self.report(id, news);
        }
        if self.finish_at.is_some_and(|at| at <= now) {
            // Somebody still holds these open; what they have written so far is written.
            for id in self.logs.keys().copied().collect::<Vec<_>>() {
                self.pump(id);
                self.close(id);
            }
        }
    }

    /// Messages of the daemon.
    fn hear(&mut self) {
        let mut text = vec![0; MESSAGE_MAX];
        loop {
            let Some(link) = &self.link else { return };
            match sys::socket::recv(link.as_fd(), &mut text) {
                Ok((0, _)) => {
                    // The daemon is gone. Read on, so that no program sees a closed pipe and no line is lost.
                    let _ = self.poll.registry().deregister(&mut SourceFd(&link.as_raw_fd()));
                    self.link = None;
                }
                Ok((length, fd)) => match serde_json::from_slice(&text[..length]) {
                    Ok(message) => self.obey(message, fd),
                    Err(why) => log::error!("the logger cannot read a message: {why}"),
                },
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn obey(&mut self, message: ToLogger, fd: Option<OwnedFd>) {
        match message {
            ToLogger::Open { id, label, spec, stderr } => {
                if let Some(fd) = fd
                    && let Err(why) = self.open(id, label, spec, stderr, fd)
                {
                    log::error!("the logger cannot read a pipe: {why}");
                }
            }
            ToLogger::Update { id, label, spec } => {
                if let Some(log) = self.logs.get_mut(&id) {
                    log.label = label;
                    log.console = spec.console;
                    log.sink.update(path_of(&spec, false), spec);
                }
            }
            ToLogger::Reopen => self.logs.values_mut().for_each(|log| log.sink.reopen()),
            ToLogger::Finish { within_ms } => {
                self.finish_at = Some(clock::since_boot() + Duration::from_millis(within_ms));
                self.busy.extend(self.logs.keys());
            }
        }
    }

    fn open(&mut self, id: LogId, label: String, spec: LogSpec, stderr: bool, fd: OwnedFd) -> io::Result<()> {
        sys::fd::set_nonblocking(&fd)?;
        let token = Token(usize::try_from(id.0).map_err(io::Error::other)?);
        self.poll.registry().register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
        self.console.name(&label);
        let console = spec.console;
        let sink = Sink::new(path_of(&spec, stderr), spec);
        self.logs.insert(id, Log { label, pipe: fd.into(), sink, console, grown: false, ended: false });
        self.busy.push(id);
        Ok(())
    }

    /// Moves what is in a pipe to its file, up to a turn's worth; returns how much that was.
    fn pump(&mut self, id: LogId) -> usize {
        let mut moved = 0;
        while moved < TURN {
            let Some(log) = self.logs.get_mut(&id) else { return moved };
            if log.ended || !log.sink.is_open() {
                return moved;
            }
            match log.pipe.read(&mut self.buffer) {
                Ok(0) => {
                    log.ended = true;
                    if log.sink.is_clean() {
                        self.close(id);
                    }
                    return moved;
                }
                Ok(length) => {
                    moved += length;
                    let bytes = &self.buffer[..length];
                    let news = log.sink.write(bytes);
                    if log.console {
                        self.console.write(id, &log.label, bytes);
                        self.console_waits = self.console.flush();
                    }
                    if length >= PIPE_DEFAULT && !log.grown {
                        // A busy one. Only the pipe's memory grows, and only while it is full; a user's allowance
                        // may be used up (pipe(7)), which is no reason to complain.
                        log.grown = true;
                        let _ = sys::fd::grow_pipe(&log.pipe, BUFFER_LAST);
                    }
                    if length == self.buffer.len() && length < BUFFER_LAST {
                        self.buffer.resize(BUFFER_LAST, 0);
                    }
                    if news.is_some() {
                        self.report(id, news);
                    }
                }
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return moved,
            }
        }
        self.busy.push(id);
        moved
    }

    fn close(&mut self, id: LogId) {
        if let Some(log) = self.logs.remove(&id) {
            let _ = self.poll.registry().deregister(&mut SourceFd(&log.pipe.as_raw_fd()));
            self.console.end(id, &log.label);
            self.tell(FromLogger::Closed { id });
        }
    }

    fn report(&mut self, id: LogId, news: Option<News>) {
        match news {
            Some(News::Trouble(error)) => self.tell(FromLogger::Trouble { id, error }),
            Some(News::Recovered { dropped }) => self.tell(FromLogger::Recovered { id, dropped_bytes: dropped }),
            None => {}
        }
    }

    fn tell(&mut self, message: FromLogger) {
        // The last word about a log is enough, so a daemon that does not listen costs no more than one for each.
        let id = message.id();
        self.outgoing.retain(|waiting| waiting.id() != id);
        self.outgoing.push_back(message);
        self.flush();
    }

    fn flush(&mut self) {
        while let (Some(link), Some(message)) = (&self.link, self.outgoing.front()) {
            let text = serde_json::to_vec(message).unwrap_or_default();
            match sys::socket::send(link.as_fd(), &text, None) {
                // Full: it is told when there is room.
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => return,
                // Gone, as the link will say.
                Ok(()) | Err(_) => drop(self.outgoing.pop_front()),
            }
        }
    }
}

fn path_of(spec: &LogSpec, stderr: bool) -> std::path::PathBuf {
    match (&spec.stderr_path, stderr) {
        (Some(path), true) => path.clone(),
        _ => spec.path.clone(),
    }
}

const MESSAGE_MAX: usize = 64 << 10;
/// What a pipe holds when it is made (pipe(7)).
const PIPE_DEFAULT: usize = 64 << 10;
const BUFFER_FIRST: usize = 64 << 10;
/// The largest pipe without CAP_SYS_RESOURCE.
const BUFFER_LAST: usize = 1 << 20;
/// What one log may move before the others have their turn.
const TURN: usize = 4 << 20;
const HOT_AFTER: u32 = 4;
const GATHER: usize = 256 << 10;
const GATHER_FOR: Duration = Duration::from_micros(500);
const CONSOLE_RETRY: Duration = Duration::from_millis(20);
