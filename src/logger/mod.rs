//! The logger role: the only process that writes log files.
//!
//! One thread moves bytes from pipes to files. A disk that stalls stalls this process, and then the programs that have
//! filled their pipes; nothing else. What was read and not yet written is at most one buffer, so that is all a killed
//! logger loses; what is still in the pipes the next one reads.

mod capture;
mod compress;
mod console;
mod dress;
pub mod protocol;
mod rotate;
mod sink;
mod syslog;
pub mod tail;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use self::capture::{Capture, Piece};
use self::compress::Compressor;
use self::console::Console;
use self::dress::Dress;
use self::protocol::{COUNTED_MAX, FromLogger, LogId, MAIN, SAID_MAX, Said, ToLogger};
use self::sink::{News, Sink};
use self::syslog::Syslog;
use crate::plan::{LogExtras, LogSpec};
use crate::sys;
use crate::sys::clock;

/// Runs until the daemon says that it is over, or is gone and all pipes have ended. `colour` is for the console.
pub fn run(link: OwnedFd, colour: bool) -> i32 {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGPIPE, libc::SIGXFSZ] {
        // The last lines of programs that stop at the same signal are still to be written; a reader that has left and a
        // file that may not grow are errors to be told.
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
    syslog: Syslog,
    compressor: Compressor,
    finish_at: Option<Duration>,
    /// Another logger waits for the end of this one.
    lets_go: bool,
    /// Memory is to be given back before the next sleep.
    tidies: bool,
    /// When to write what is held back of lines that have not come whole.
    end_lines_at: Option<Duration>,
    /// What the daemon has not had room for: it keeps the pipes until it is told that they are closed.
    outgoing: VecDeque<FromLogger>,
}

struct Log {
    label: String,
    pipe: File,
    sink: Sink,
    console: bool,
    /// What is put around its lines.
    dress: Option<Box<Dress>>,
    stderr: bool,
    filter: Option<Box<Filter>>,
    /// The pipe has been made larger.
    grown: bool,
    /// Nobody holds the other end: no event will come for what is left, or for the end behind it.
    hung_up: bool,
    ended: bool,
}

/// What happens to output on its way to a log, where a supervisord.conf asks for it.
struct Filter {
    wants: LogExtras,
    capture: Option<Capture>,
    /// The beginning of a line for syslog.
    open_line: Vec<u8>,
}

fn stream_name(stderr: bool) -> &'static str {
    if stderr { "stderr" } else { "stdout" }
}

impl Filter {
    /// Nothing where all that is wanted is the file, as usual.
    fn of(id: LogId, spec: &LogSpec) -> Option<Box<Filter>> {
        let wants = spec.extras.as_deref()?;
        let LogExtras { auto: _, capture, events, syslog, strip_ansi, echo } = *wants;
        // The daemon's own lines go to syslog at most.
        let needs = if id == MAIN { syslog } else { capture > 0 || events || syslog || strip_ansi || echo };
        needs.then(|| {
            let capture = (capture > 0).then(|| Capture::new(capture));
            Box::new(Filter { wants: wants.clone(), capture, open_line: Vec::new() })
        })
    }
}

const LINK: Token = Token(0);
/// Far beyond the number of any log.
const COMPRESSED: Token = Token(usize::MAX >> 1);

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
            syslog: Syslog::new("supervisord"),
            compressor: Compressor::default(),
            finish_at: None,
            lets_go: false,
            tidies: false,
            end_lines_at: None,
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
            if std::mem::take(&mut self.tidies) {
                // Here, since what runs after it is in memory again.
                sys::memory::release();
            }
            match self.poll.poll(&mut events, timeout) {
                Err(why) if why.kind() != io::ErrorKind::Interrupted => return Err(why),
                _ => {}
            }
            for event in &events {
                match event.token() {
                    LINK => {
                        self.flush();
                        self.hear();
                    }
                    COMPRESSED => self.have_compressed(),
                    Token(id) => {
                        let id = LogId(id as u64);
                        if event.is_read_closed()
                            && let Some(log) = self.logs.get_mut(&id)
                        {
                            log.hung_up = true;
                        }
                        self.busy.push(id);
                    }
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
            if moved == 0 && self.buffer.len() > BUFFER_FIRST {
                self.buffer = vec![0; BUFFER_FIRST];
            }
            if hot > HOT_AFTER && moved < GATHER && self.busy.is_empty() {
                std::thread::sleep(GATHER_FOR);
            }
        }
        self.compressor.give_up();
        Ok(())
    }

    fn is_finished(&self) -> bool {
        let asked = self.finish_at.is_some() || self.lets_go || self.link.is_none();
        asked && self.logs.is_empty()
    }

    fn until_next_deadline(&self) -> Option<Duration> {
        let console = self.console_waits.then(|| clock::since_boot() + CONSOLE_RETRY);
        let retries = self.logs.values().filter_map(|log| log.sink.retry_at());
        retries
            .chain(self.finish_at)
            .chain(self.end_lines_at)
            .chain(console)
            .min()
            .map(|at| at.saturating_sub(clock::since_boot()))
    }

    fn handle_timeouts(&mut self) {
        let now = clock::since_boot();
        if self.console_waits {
            self.console_waits = self.console.flush();
        }
        if self.end_lines_at.is_some_and(|at| at <= now) {
            self.end_lines_at = None;
            for id in self.logs.keys().copied().collect::<Vec<_>>() {
                self.end_line(id);
            }
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
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => return,
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                // The error is that it was killed and had not yet read what we have told it.
                Ok((0, _)) | Err(_) => {
                    // The daemon is gone. Read on, so that no program sees a closed pipe and no line is lost.
                    let _ = self.poll.registry().deregister(&mut SourceFd(&link.as_raw_fd()));
                    self.link = None;
                }
                Ok((length, fd)) => match serde_json::from_slice(&text[..length]) {
                    Ok(message) => self.obey(message, fd),
                    Err(why) => log::error!("the logger cannot read a message: {why}"),
                },
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
                // What was said before goes where it would have gone.
                self.pump(id);
                if let Some(log) = self.logs.get_mut(&id) {
                    log.dress = Dress::of(&spec, &label, stream_name(log.stderr));
                    log.label = label;
                    log.console = spec.console;
                    match (&mut log.filter, &spec.extras) {
                        (Some(filter), Some(extras)) => filter.wants = (**extras).clone(),
                        (filter, _) => *filter = Filter::of(id, &spec),
                    }
                    log.sink.update(spec);
                }
            }
            ToLogger::Touch { id } => {
                if let Some(log) = self.logs.get_mut(&id) {
                    log.sink.touch();
                }
            }
            ToLogger::Sync { ticket } => {
                self.pump(MAIN);
                self.tell(FromLogger::Synced { ticket });
            }
            ToLogger::Clear { ids, ticket } => {
                let mut error = None;
                for id in ids {
                    // What was said before belongs to what is cleared.
                    self.pump(id);
                    let cleared = self.logs.get_mut(&id).map_or(Ok(()), |log| log.sink.clear());
                    error = error.or(cleared.err().map(|why| why.to_string()));
                }
                self.tell(FromLogger::Cleared { ticket, error });
            }
            ToLogger::Count { ticket } => self.tell_counts(ticket),
            ToLogger::Tidy => self.tidies = true,
            ToLogger::Reopen => self.logs.values_mut().for_each(|log| log.sink.reopen()),
            ToLogger::LetGo => self.let_go(),
            ToLogger::Finish { within_ms } => {
                self.finish_at = Some(clock::since_boot() + Duration::from_millis(within_ms));
                self.busy.extend(self.logs.keys());
            }
        }
    }

    /// What is in the pipes is the next logger's; what was read is written first, even if the disk has to be waited for.
    fn let_go(&mut self) {
        self.lets_go = true;
        for id in self.logs.keys().copied().collect::<Vec<_>>() {
            self.end_line(id);
            let Some(log) = self.logs.get_mut(&id) else { continue };
            log.ended = true;
            if log.sink.is_clean() {
                self.close(id);
            }
        }
    }

    fn open(&mut self, id: LogId, label: String, spec: LogSpec, stderr: bool, fd: OwnedFd) -> io::Result<()> {
        sys::fd::set_nonblocking(&fd)?;
        let token = Token(usize::try_from(id.0).map_err(io::Error::other)?);
        self.poll.registry().register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
        self.console.name(&label);
        let console = spec.console;
        let dress = Dress::of(&spec, &label, stream_name(stderr));
        let filter = Filter::of(id, &spec);
        let is_made_now = spec.extras.as_ref().is_some_and(|extras| extras.auto);
        let mut sink = Sink::new(spec);
        if is_made_now {
            sink.touch();
        }
        self.logs.insert(
            id,
            Log {
                label,
                pipe: fd.into(),
                sink,
                console,
                dress,
                stderr,
                filter,
                grown: false,
                hung_up: false,
                ended: false,
            },
        );
        self.busy.push(id);
        self.look_for_rotated(id);
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
            let room = self.buffer.len();
            match log.pipe.read(&mut self.buffer) {
                Ok(0) => {
                    log.ended = true;
                    if let Some(capture) = log.filter.as_mut().and_then(|filter| filter.capture.as_mut()) {
                        let pieces = capture.finish();
                        self.pass(id, pieces);
                    }
                    self.end_line(id);
                    let Some(log) = self.logs.get(&id) else { return moved };
                    if log.sink.is_clean() {
                        self.close(id);
                    }
                    return moved;
                }
                Ok(length) => {
                    moved += length;
                    let bytes = &self.buffer[..length];
                    if log.filter.is_some() {
                        let bytes = bytes.to_vec();
                        self.filter(id, &bytes);
                        continue;
                    }
                    if log.dress.is_some() {
                        let bytes = bytes.to_vec();
                        let news = self.put(id, &bytes);
                        self.report(id, news);
                        continue;
                    }
                    let news = log.sink.write(bytes);
                    if id == MAIN && log.console {
                        self.console.write_plain(bytes);
                        self.console_waits = self.console.flush();
                    } else if log.console {
                        self.console.write(id, &log.label, bytes);
                        self.console_waits = self.console.flush();
                    }
                    let (has_rotated, hung_up) = (log.sink.has_to_compress(), log.hung_up);
                    if length >= PIPE_FULL && !log.grown {
                        // A busy one. Only the pipe's memory grows, and only while it is full; a user's allowance
                        // may be used up (pipe(7)), which is no reason to complain.
                        log.grown = true;
                        let _ = sys::fd::grow_pipe(&log.pipe, BUFFER_LAST);
                    }
                    if log.grown && room < BUFFER_LAST {
                        self.buffer.resize(BUFFER_LAST, 0);
                    }
                    if news.is_some() {
                        self.report(id, news);
                    }
                    if has_rotated {
                        self.look_for_rotated(id);
                    }
                    // That was all there was; the next write wakes us. To go on at once would be to fight with a
                    // program that writes 100 bytes at a time for the pipe's lock, and to get 100 bytes each time.
                    if length < room.min(BULK) && !hung_up {
                        return moved;
                    }
                }
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return moved,
            }
        }
        self.busy.push(id);
        moved
    }

    /// Writes bytes of a log that has something put around its lines, or a filter.
    fn put(&mut self, id: LogId, bytes: &[u8]) -> Option<News> {
        let log = self.logs.get_mut(&id)?;
        let dressed = log.dress.as_mut().map(|dress| (dress.put(bytes), dress.is_json()));
        let written = dressed.as_ref().map_or(bytes, |(dressed, _)| dressed);
        let news = log.sink.write(written);
        if log.console {
            match &dressed {
                Some((lines, true)) => self.console.write_plain(lines),
                _ if id == MAIN => self.console.write_plain(bytes),
                _ => self.console.write(id, &log.label, bytes),
            }
            self.console_waits = self.console.flush();
        }
        if self.end_lines_at.is_none() && log.dress.as_ref().is_some_and(|dress| dress.holds_back()) {
            self.end_lines_at = Some(clock::since_boot() + HOLD_BACK);
        }
        self.look_for_rotated(id);
        news
    }

    /// What there is of a line that was held back.
    fn end_line(&mut self, id: LogId) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        let Some(rest) = log.dress.as_mut().map(|dress| dress.finish()).filter(|rest| !rest.is_empty()) else { return };
        let news = log.sink.write(&rest);
        if log.console {
            self.console.write_plain(&rest);
            self.console_waits = self.console.flush();
        }
        self.report(id, news);
    }

    fn look_for_rotated(&mut self, id: LogId) {
        if self.logs.get_mut(&id).is_some_and(|log| log.sink.take_has_to_compress()) {
            self.compressor.want(id);
            self.compress_next();
        }
    }

    fn compress_next(&mut self) {
        while let Some(id) = self.compressor.next() {
            let Some((file, new, how)) = self.logs.get(&id).and_then(|log| log.sink.to_compress()) else { continue };
            let started = self.compressor.start(id, &file, new, how).and_then(|answer| {
                let fd = answer.as_raw_fd();
                self.poll.registry().register(&mut SourceFd(&fd), COMPRESSED, Interest::READABLE)
            });
            if let Err(why) = started {
                log::warn!("cannot compress {}: {why}", file.display());
                self.compressor.give_up();
            }
        }
    }

    fn have_compressed(&mut self) {
        let Some((job, is_good)) = self.compressor.finish() else { return };
        let _ = self.poll.registry().deregister(&mut SourceFd(&job.as_raw_fd()));
        if let Some(log) = self.logs.get(&job.log).filter(|_| is_good) {
            match log.sink.compressed(&job.packed) {
                // There may be more of them.
                Ok(()) => self.compressor.want(job.log),
                Err(why) => log::warn!("cannot put {} in its place: {why}", job.packed.new.display()),
            }
        } else {
            let _ = std::fs::remove_file(&job.packed.new);
        }
        self.compress_next();
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

    /// Output on its way through a filter.
    fn filter(&mut self, id: LogId, bytes: &[u8]) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        let Some(filter) = &mut log.filter else { return };
        let pieces = match &mut filter.capture {
            Some(capture) => capture.feed(bytes),
            None => vec![Piece::Plain(bytes.to_vec())],
        };
        self.pass(id, pieces);
    }

    fn pass(&mut self, id: LogId, pieces: Vec<Piece>) {
        for piece in pieces {
            let Some(log) = self.logs.get_mut(&id) else { return };
            let Some(filter) = &mut log.filter else { return };
            let bytes = match piece {
                Piece::Plain(bytes) => bytes,
                Piece::Message(bytes) => {
                    let text = capture::as_text(&bytes);
                    let events = filter.wants.events;
                    if events {
                        self.say(id, Said::Output, text.clone());
                    }
                    self.say(id, Said::Message, text);
                    continue;
                }
            };
            let bytes = if filter.wants.strip_ansi { capture::strip_ansi(&bytes) } else { bytes };
            let (wants_syslog, echo, events) = (filter.wants.syslog, filter.wants.echo, filter.wants.events);
            let news = self.put(id, &bytes);
            let Some(log) = self.logs.get_mut(&id) else { return };
            let Some(filter) = &mut log.filter else { return };
            if wants_syslog {
                filter.open_line.extend_from_slice(&bytes);
                while let Some(end) = filter.open_line.iter().position(|&b| b == b'\n') {
                    let line: Vec<u8> = filter.open_line.drain(..=end).collect();
                    let text = String::from_utf8_lossy(&line[..end]);
                    let whose = if id == MAIN { String::new() } else { format!("{} ", log.label) };
                    self.syslog.line(syslog::INFO, &format!("{whose}{text}"));
                }
                let over = filter.open_line.len().saturating_sub(SYSLOG_LINE_MAX);
                filter.open_line.drain(..over);
            }
            if echo {
                let text =
                    format!("'{}' {} output:\n{}", log.label, stream_name(log.stderr), String::from_utf8_lossy(&bytes));
                self.echo(&text);
            }
            if events {
                self.say(id, Said::Output, capture::as_text(&bytes));
            }
            self.report(id, news);
        }
    }

    /// A program's output, in the daemon's own log.
    fn echo(&mut self, text: &str) {
        let Some(main) = self.logs.get_mut(&MAIN) else { return };
        let line = protocol::main_line("DEBG", text.strip_suffix('\n').unwrap_or(text));
        let news = main.sink.write(line.as_bytes());
        if main.console {
            self.console.write_plain(line.as_bytes());
            self.console_waits = self.console.flush();
        }
        self.report(MAIN, news);
    }

    /// Tells the daemon what a program said, in parts.
    fn say(&mut self, id: LogId, what: Said, text: String) {
        if self.outgoing.len() > OUTGOING_MAX {
            log::warn!("events of a program come faster than they are taken: some are lost");
            return;
        }
        let mut rest = text.as_str();
        loop {
            let mut end = rest.len().min(SAID_MAX);
            while !rest.is_char_boundary(end) {
                end -= 1;
            }
            let (part, more) = rest.split_at(end);
            self.tell(FromLogger::Said { id, what, text: part.to_owned(), last: more.is_empty() });
            if more.is_empty() {
                return;
            }
            rest = more;
        }
    }

    fn tell_counts(&mut self, ticket: u64) {
        let all = self.logs.iter().map(|(&id, log)| {
            let (written, lost) = log.sink.counts();
            (id, written, lost)
        });
        let mut rest: Vec<(LogId, u64, u64)> = all.collect();
        loop {
            let more = rest.split_off(rest.len().min(COUNTED_MAX));
            let last = more.is_empty();
            self.tell(FromLogger::Counted { ticket, logs: std::mem::replace(&mut rest, more), last });
            if last {
                return;
            }
        }
    }

    fn tell(&mut self, message: FromLogger) {
        // The last word about a log is enough, so a daemon that does not listen costs no more than one for each.
        if let Some(id) = message.of_log() {
            self.outgoing.retain(|waiting| waiting.of_log() != Some(id));
        }
        self.outgoing.push_back(message);
        self.flush();
    }

    fn flush(&mut self) {
        while let (Some(link), Some(message)) = (&self.link, self.outgoing.front()) {
            let text = serde_json::to_vec(message).unwrap_or_default();
            match sys::socket::send(link.as_fd(), &text, None) {
                // Full: epoll tells when there is room.
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => return,
                _ => drop(self.outgoing.pop_front()),
            }
        }
        if self.link.is_none() {
            self.outgoing.clear();
        }
    }
}

const MESSAGE_MAX: usize = 64 << 10;
/// A pipe holds 64 KiB when it is made (pipe(7)), but less of small writes: none is split over two pages.
const PIPE_FULL: usize = 32 << 10;
const BUFFER_FIRST: usize = 64 << 10;
/// The largest pipe without CAP_SYS_RESOURCE.
const BUFFER_LAST: usize = 1 << 20;
/// What one log may move before the others have their turn.
const TURN: usize = 4 << 20;
/// Messages for the daemon that may wait.
const OUTGOING_MAX: usize = 1000;
const SYSLOG_LINE_MAX: usize = 8 << 10;
const HOT_AFTER: u32 = 4;
/// A program that has written this much since the last read writes in large pieces, and is best read without a pause.
const BULK: usize = 64 << 10;
const GATHER: usize = 256 << 10;
const GATHER_FOR: Duration = Duration::from_micros(250);
/// How long the beginning of a line waits for its end, where lines are written whole.
const HOLD_BACK: Duration = Duration::from_secs(1);
const CONSOLE_RETRY: Duration = Duration::from_millis(20);
