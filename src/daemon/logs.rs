//! The daemon's side of the logs: a pipe for each process, kept here from its first life to its last, and the logger
//! that reads them.
//!
//! The daemon keeps both ends and touches neither: with the read end open here no program sees SIGPIPE when a logger
//! dies, and the next logger is handed the same pipes. With the write end open here a pipe ends only when the process
//! is forgotten, so what a helper writes after its parent's death still arrives.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use serde::{Deserialize, Serialize};

use super::marks::{Marks, Owner};
use crate::logger::protocol::{CLEARED_MAX, FROM_LOGGER_MAX, FromLogger, LogId, MAIN, Said, ToLogger};
use crate::plan::{LogSpec, Spec};
use crate::supervisor::event::{ProcessId, Time};
use crate::sys;
use crate::sys::lent::{Lent, Number};
use crate::sys::process::Pid;

pub struct Logs {
    pipes: HashMap<LogId, Pipe>,
    of: HashMap<ProcessId, Vec<LogId>>,
    /// Why a log cannot be written, of those that cannot. Empty nearly always: a list of 1,000 processes asks for each.
    troubles: HashMap<LogId, String>,
    next: u64,
    logger: Option<Logger>,
    /// When to start another logger after one that died young.
    restart_at: Option<Time>,
    finishing: bool,
    role: fn(OwnedFd) -> i32,
    /// What was heard and is not ours to deal with.
    news: Vec<News>,
    /// The text of an event that has not come whole yet.
    parts: HashMap<(LogId, Said), String>,
    /// Asked for and not answered, by ticket: the next logger is asked again.
    clears: BTreeMap<u64, Clearing>,
    /// What was counted so far, by process: written, lost.
    counted: HashMap<ProcessId, (u64, u64)>,
}

/// From the logger, for the rest of the daemon.
pub enum News {
    Synced { ticket: u64 },
    Cleared { ticket: u64, error: Option<String> },
    Counted { ticket: u64, logs: HashMap<ProcessId, (u64, u64)> },
    Said { process: ProcessId, stderr: bool, what: Said, text: String },
}

/// Many logs take more than one message, each of which is answered.
#[derive(Default)]
struct Clearing {
    left: VecDeque<ToLogger>,
    error: Option<String>,
}

struct Pipe {
    label: String,
    spec: LogSpec,
    stderr: bool,
    rx: OwnedFd,
    /// Gone once the process is forgotten: the pipe then ends with its last writer.
    tx: Option<OwnedFd>,
    inode: u64,
}

struct Logger {
    pid: Pid,
    link: OwnedFd,
    born: Time,
    outgoing: VecDeque<(ToLogger, Option<LogId>)>,
    /// It was told to let go of the pipes; the next one has to wait for its end, so that no two read the same.
    leaves: bool,
}

/// The same for the next binary. The logger goes on until that has told it to let go.
#[derive(Serialize, Deserialize)]
pub struct Handed {
    pipes: Vec<HandedPipe>,
    of: Vec<(ProcessId, Vec<LogId>)>,
    troubles: Vec<(LogId, String)>,
    next: u64,
    logger: Option<(i32, Number)>,
}

#[derive(Serialize, Deserialize)]
struct HandedPipe {
    id: LogId,
    label: String,
    spec: LogSpec,
    stderr: bool,
    rx: Number,
    tx: Option<Number>,
    inode: u64,
}

impl Logs {
    pub fn new(role: fn(OwnedFd) -> i32) -> Logs {
        Logs {
            pipes: HashMap::new(),
            of: HashMap::new(),
            troubles: HashMap::new(),
            next: MAIN.0 + 1,
            logger: None,
            restart_at: None,
            finishing: false,
            role,
            news: Vec::new(),
            parts: HashMap::new(),
            clears: BTreeMap::new(),
            counted: HashMap::new(),
        }
    }

    pub fn hand_over<'l>(&'l self, lent: &mut Lent<'l>) -> Handed {
        let mut handed = |id: LogId, pipe: &'l Pipe| HandedPipe {
            id,
            label: pipe.label.clone(),
            spec: pipe.spec.clone(),
            stderr: pipe.stderr,
            rx: lent.lend(&pipe.rx),
            tx: pipe.tx.as_ref().map(|tx| lent.lend(tx)),
            inode: pipe.inode,
        };
        let pipes = self.pipes.iter().map(|(id, pipe)| handed(*id, pipe)).collect();
        Handed {
            pipes,
            of: self.of.iter().map(|(id, logs)| (*id, logs.clone())).collect(),
            troubles: self.troubles.iter().map(|(id, why)| (*id, why.clone())).collect(),
            next: self.next,
            logger: self.logger.as_ref().map(|logger| (logger.pid.as_raw(), lent.lend(&logger.link))),
        }
    }

    /// Takes over the pipes, and tells the logger of the program before to let go of them.
    pub fn take_over(
        handed: Handed,
        role: fn(OwnedFd) -> i32,
        registry: &Registry,
        token: Token,
        now: Time,
    ) -> io::Result<Logs> {
        let mut logs = Logs::new(role);
        for HandedPipe { id, label, spec, stderr, rx, tx, inode } in handed.pipes {
            let tx = tx.map(Number::adopt).transpose()?;
            logs.pipes.insert(id, Pipe { label, spec, stderr, rx: rx.adopt()?, tx, inode });
        }
        logs.of = handed.of.into_iter().collect();
        logs.troubles = handed.troubles.into_iter().collect();
        logs.next = handed.next;
        match handed.logger {
            Some((pid, link)) => {
                let link = link.adopt()?;
                registry.register(&mut SourceFd(&link.as_raw_fd()), token, Interest::READABLE | Interest::WRITABLE)?;
                let outgoing = [(ToLogger::LetGo, None)].into();
                logs.logger = Some(Logger { pid: Pid::from_raw(pid), link, born: now, outgoing, leaves: true });
                logs.flush();
            }
            None => logs.restart_at = Some(now),
        }
        Ok(logs)
    }

    /// Makes the pipe of the daemon's own log; what is written into its other end is in the file soon.
    pub fn add_main(&mut self, spec: LogSpec) -> io::Result<OwnedFd> {
        let (rx, tx) = io::pipe()?;
        let (rx, tx): (OwnedFd, OwnedFd) = (rx.into(), tx.into());
        sys::fd::set_nonblocking(&tx)?;
        let ours = tx.try_clone()?;
        let pipe = Pipe { label: "supervisord".into(), spec, stderr: false, rx, tx: Some(tx), inode: 0 };
        let open = pipe.open(MAIN);
        self.pipes.insert(MAIN, pipe);
        self.tell(open, Some(MAIN));
        self.flush();
        Ok(ours)
    }

    /// What is in the pipe goes where it would have gone, all that follows where this says. False if that is the same.
    pub fn update_main(&mut self, spec: &LogSpec) -> bool {
        let Some(pipe) = self.pipes.get_mut(&MAIN).filter(|pipe| pipe.spec != *spec) else { return false };
        pipe.spec.clone_from(spec);
        let update = ToLogger::Update { id: MAIN, label: pipe.label.clone(), spec: spec.clone() };
        self.tell(update, None);
        self.flush();
        true
    }

    /// The program starts: its files are to be there.
    pub fn touch(&mut self, id: ProcessId) {
        for log in self.of.get(&id).cloned().unwrap_or_default() {
            self.tell(ToLogger::Touch { id: log }, None);
        }
        self.flush();
    }

    /// Has the main log written; `News::Synced` follows.
    pub fn sync(&mut self, ticket: u64) {
        self.tell(ToLogger::Sync { ticket }, None);
        self.flush();
    }

    /// Empties the files of some processes, or the main log; `News::Cleared` follows.
    pub fn clear(&mut self, processes: &[ProcessId], main: bool, ticket: u64) {
        let mut ids: Vec<LogId> = processes.iter().filter_map(|id| self.of.get(id)).flatten().copied().collect();
        ids.extend(main.then_some(MAIN));
        let clear = |ids: &[LogId]| ToLogger::Clear { ids: ids.to_vec(), ticket };
        // The answer is wanted also when there is nothing to clear.
        let some = ids.chunks(CLEARED_MAX).map(clear);
        let left: VecDeque<ToLogger> = if ids.is_empty() { [clear(&[])].into() } else { some.collect() };
        for message in left.clone() {
            self.tell(message, None);
        }
        self.clears.insert(ticket, Clearing { left, error: None });
        self.flush();
    }

    /// Asks how much went into each log; `News::Counted` follows.
    pub fn count(&mut self, ticket: u64) {
        self.tell(ToLogger::Count { ticket }, None);
        self.flush();
    }

    pub fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// Starts a logger and hands it every pipe there is.
    pub fn start(&mut self, marks: &Marks, registry: &Registry, token: Token, now: Time) -> io::Result<()> {
        let (link, theirs) = sys::socket::pair()?;
        let role = self.role;
        let pid = sys::process::fork(|| {
            sys::process::set_name("hob logger");
            let _ = sys::process::new_session();
            marks.tag_self(Owner::Logger);
            sys::process::close_others(&[theirs.as_raw_fd()]);
            role(theirs)
        })?;
        registry.register(&mut SourceFd(&link.as_raw_fd()), token, Interest::READABLE | Interest::WRITABLE)?;
        self.restart_at = None;
        let mut outgoing = VecDeque::new();
        let mut ids: Vec<LogId> = self.pipes.keys().copied().collect();
        ids.sort_unstable();
        outgoing.extend(ids.into_iter().map(|id| (self.pipes[&id].open(id), Some(id))));
        outgoing.extend(self.clears.values().flat_map(|clearing| &clearing.left).map(|clear| (clear.clone(), None)));
        if self.finishing {
            outgoing.push_back((FINISH, None));
        }
        self.logger = Some(Logger { pid, link, born: now, outgoing, leaves: false });
        self.flush();
        Ok(())
    }

    pub fn logger_pid(&self) -> Option<Pid> {
        self.logger.as_ref().map(|l| l.pid)
    }

    /// Makes the pipes of a process and tells the logger.
    pub fn add(&mut self, id: ProcessId, spec: &Spec) -> io::Result<()> {
        let log = self.make(spec, &spec.log, false)?;
        self.of.insert(id, vec![log]);
        if let Some(stderr) = &spec.log.stderr {
            match self.make(spec, stderr, true) {
                Ok(log) => self.of.entry(id).or_default().push(log),
                Err(why) => {
                    self.remove(id);
                    return Err(why);
                }
            }
        }
        self.flush();
        Ok(())
    }

    fn make(&mut self, spec: &Spec, log: &LogSpec, stderr: bool) -> io::Result<LogId> {
        let (rx, tx) = io::pipe()?;
        let (rx, tx): (OwnedFd, OwnedFd) = (rx.into(), tx.into());
        let inode = File::from(rx.try_clone()?).metadata()?.ino();
        if let Some(user) = &spec.user {
            // So that it can open /dev/stdout by path (reference/peers.md §4). Only root may give a pipe away.
            let _ = std::os::unix::fs::fchown(&tx, Some(user.uid), Some(user.gid));
        }
        let id = LogId(self.next);
        self.next += 1;
        // supervisord knows a process by its own name in the places where a label shows.
        let label = if spec.program.is_some() { spec.name.process.clone() } else { spec.name.to_string() };
        let pipe = Pipe { label, spec: log.clone(), stderr, rx, tx: Some(tx), inode };
        let open = pipe.open(id);
        self.pipes.insert(id, pipe);
        self.tell(open, Some(id));
        Ok(id)
    }

    /// The options of a process's log may have changed; whether it has one file or two may have as well.
    pub fn update(&mut self, id: ProcessId, spec: &Spec) -> io::Result<()> {
        let logs = self.of.get(&id).cloned().unwrap_or_default();
        let has_two = logs.len() > 1;
        if has_two != spec.log.stderr.is_some() {
            self.remove(id);
            return self.add(id, spec);
        }
        for log in logs {
            let Some(pipe) = self.pipes.get_mut(&log) else { continue };
            let wanted = match &spec.log.stderr {
                Some(stderr) if pipe.stderr => stderr,
                _ => &spec.log,
            };
            if pipe.spec != *wanted {
                pipe.spec = wanted.clone();
                let update = ToLogger::Update { id: log, label: pipe.label.clone(), spec: pipe.spec.clone() };
                self.tell(update, None);
            }
        }
        self.flush();
        Ok(())
    }

    /// Lets go of the write ends of a forgotten process; the logger reads on until the last writer is gone.
    pub fn remove(&mut self, id: ProcessId) {
        for log in self.of.remove(&id).unwrap_or_default() {
            if let Some(pipe) = self.pipes.get_mut(&log) {
                pipe.tx = None;
            }
        }
    }

    /// The descriptors for stdout and stderr of a process.
    pub fn ends(&self, id: ProcessId) -> Option<(BorrowedFd<'_>, BorrowedFd<'_>)> {
        let logs = self.of.get(&id)?;
        let end = |log: &LogId| self.pipes.get(log)?.tx.as_ref().map(AsFd::as_fd);
        Some((end(logs.first()?)?, end(logs.last()?)?))
    }

    pub fn inodes(&self, id: ProcessId) -> Vec<u64> {
        self.of.get(&id).into_iter().flatten().filter_map(|log| Some(self.pipes.get(log)?.inode)).collect()
    }

    pub fn troubles(&self, id: ProcessId) -> impl Iterator<Item = &str> {
        let logs = if self.troubles.is_empty() { None } else { self.of.get(&id) };
        logs.into_iter().flatten().filter_map(|log| self.troubles.get(log).map(String::as_str))
    }

    /// The logger gives back the memory that its start took.
    pub fn tidy(&mut self) {
        self.tell(ToLogger::Tidy, None);
        self.flush();
    }

    /// Somebody else has renamed the files.
    pub fn reopen(&mut self) {
        self.tell(ToLogger::Reopen, None);
        self.flush();
    }

    /// The log pipe of a stream that somebody else reads first.
    pub fn stdout(&self, id: ProcessId) -> Option<BorrowedFd<'_>> {
        self.ends(id).map(|(stdout, _)| stdout)
    }

    /// Ends every pipe. The logger exits when all is written, at the latest after `FINISH_WITHIN`.
    pub fn finish(&mut self) {
        self.finishing = true;
        for pipe in self.pipes.values_mut() {
            pipe.tx = None;
        }
        self.tell(FINISH, None);
        self.flush();
    }

    /// The link can be read or written again.
    pub fn ready(&mut self) {
        self.flush();
        let Some(logger) = &self.logger else { return };
        let mut text = vec![0; FROM_LOGGER_MAX];
        let mut heard = Vec::new();
        while let Ok((length, _)) = sys::socket::recv(logger.link.as_fd(), &mut text) {
            if length == 0 {
                break;
            }
            heard.extend(serde_json::from_slice::<FromLogger>(&text[..length]));
        }
        if logger.leaves {
            // All that it may still tell the next one finds out anew.
            return;
        }
        for message in heard {
            self.hear(message);
        }
    }

    fn hear(&mut self, message: FromLogger) {
        match message {
            FromLogger::Closed { id } => {
                self.pipes.remove(&id);
                self.troubles.remove(&id);
            }
            FromLogger::Trouble { id, error } => {
                if let Some(pipe) = self.pipes.get(&id) {
                    log::error!("{}: {error}", pipe.label);
                    self.troubles.insert(id, error);
                }
            }
            FromLogger::Synced { ticket } => self.news.push(News::Synced { ticket }),
            FromLogger::Cleared { ticket, error } => {
                let mut clearing = self.clears.remove(&ticket).unwrap_or_default();
                clearing.left.pop_front();
                clearing.error = clearing.error.or(error);
                if clearing.left.is_empty() {
                    self.news.push(News::Cleared { ticket, error: clearing.error });
                } else {
                    self.clears.insert(ticket, clearing);
                }
            }
            FromLogger::Counted { ticket, logs, last } => {
                let owners: HashMap<LogId, ProcessId> =
                    self.of.iter().flat_map(|(&process, logs)| logs.iter().map(move |&log| (log, process))).collect();
                for (id, written, lost) in logs {
                    let Some(&process) = owners.get(&id) else { continue };
                    let sum = self.counted.entry(process).or_default();
                    *sum = (sum.0 + written, sum.1 + lost);
                }
                if last {
                    self.news.push(News::Counted { ticket, logs: std::mem::take(&mut self.counted) });
                }
            }
            FromLogger::Said { id, what, text, last } => {
                let whole = self.parts.entry((id, what)).or_default();
                whole.push_str(&text);
                if last
                    && let Some(text) = self.parts.remove(&(id, what))
                    && let Some((&process, _)) = self.of.iter().find(|(_, logs)| logs.contains(&id))
                {
                    let stderr = self.pipes.get(&id).is_some_and(|pipe| pipe.stderr);
                    self.news.push(News::Said { process, stderr, what, text });
                }
            }
            FromLogger::Recovered { id, dropped_bytes } => {
                if let Some(pipe) = self.pipes.get(&id) {
                    log::info!("{}: its log can be written again, {dropped_bytes} bytes were dropped", pipe.label);
                    self.troubles.remove(&id);
                }
            }
        }
    }

    /// A child was reaped: was it the logger? If so another one is due, at once unless this one died young.
    pub fn reaped(&mut self, pid: Pid, registry: &Registry, now: Time) -> bool {
        let Some(logger) = self.logger.take_if(|l| l.pid == pid) else { return false };
        let _ = registry.deregister(&mut SourceFd(&logger.link.as_raw_fd()));
        // What it had said in part has no end any more.
        self.parts.clear();
        self.counted.clear();
        if logger.leaves {
            self.restart_at = Some(now);
        } else if !self.finishing {
            log::error!("the logger ended; no output is lost, another one takes over");
            let young = now.since(logger.born) < Duration::from_secs(1);
            self.restart_at = Some(if young { now + Duration::from_secs(1) } else { now });
        }
        true
    }

    pub fn restart_at(&self) -> Option<Time> {
        self.restart_at
    }

    fn tell(&mut self, message: ToLogger, pipe: Option<LogId>) {
        if let Some(logger) = self.logger.as_mut().filter(|logger| !logger.leaves) {
            logger.outgoing.push_back((message, pipe));
        }
    }

    fn flush(&mut self) {
        let Some(logger) = &mut self.logger else { return };
        while let Some((message, id)) = logger.outgoing.front() {
            let rx = id.and_then(|id| self.pipes.get(&id)).map(|p| p.rx.as_fd());
            if id.is_some() && rx.is_none() {
                logger.outgoing.pop_front();
                continue;
            }
            let text = serde_json::to_vec(message).unwrap_or_default();
            match sys::socket::send(logger.link.as_fd(), &text, rx) {
                Ok(()) => {
                    logger.outgoing.pop_front();
                }
                // Full: mio tells when there is room. Gone: the reaper will notice.
                Err(_) => return,
            }
        }
    }
}

impl Pipe {
    fn open(&self, id: LogId) -> ToLogger {
        ToLogger::Open { id, label: self.label.clone(), spec: self.spec.clone(), stderr: self.stderr }
    }
}

/// How long the logger may take to write what is left when hob ends; a disk that stalls must not hold that up.
pub const FINISH_WITHIN: Duration = Duration::from_secs(3);
const FINISH: ToLogger = ToLogger::Finish { within_ms: 2500 };
