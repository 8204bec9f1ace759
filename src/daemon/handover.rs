//! An upgrade: the running daemon becomes the binary that is now on disk, and its children do not notice.
//!
//! execve(2) keeps the pid, the children, the descriptors that are told to stay and what is blocked of signals. So all
//! that the next binary needs is a file in memory with the state: the table, whose child is which, which descriptor is
//! what. Before anything is given up, a child of this daemon runs the new binary on that state; only if it says that it
//! understands all of it does the daemon go. A program that is none of hob's, a broken one, an older one that knows
//! nothing of this: each leaves everything as it is.
//!
//! The logger is the one helper that holds bytes. The next daemon tells it to let go of the pipes and starts another
//! one when it has ended; meanwhile what programs write stays in the pipes.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mio::{Registry, Token};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::children::{self, Children};
use super::disabled::Disabled;
use super::logs::{self, Logs};
use super::marks::{Marks, Owner};
use super::predecessor::{self, Predecessor, Registration};
use super::readiness::{self, Readiness};
use super::rescue::Rescued;
use super::stops::Sweep;
use super::{Daemon, LOGGER, NOTIFY, Options, now};
use crate::control::{self, Control, Ticket};
use crate::supervisor::event::{ProcessId, Time};
use crate::supervisor::{Snapshot, Supervisor};
use crate::sys::lent::{Lent, Number};
use crate::sys::process::{Ended, Pid};
use crate::sys::{self, sigwait};

/// Everything that the next binary needs to go on.
#[derive(Serialize, Deserialize)]
pub struct State {
    version: Version,
    /// What the command line and the settings said, in the words of whoever booted the daemon.
    pub booted: serde_json::Value,
    pub(super) snapshot: Snapshot,
    pub(super) children: children::Handed,
    pub(super) logs: logs::Handed,
    pub(super) readiness: readiness::Handed,
    pub(super) control: control::Handed,
    pub(super) registration: Option<predecessor::Handed>,
    pub(super) disabled: Disabled,
    pub(super) sweeps: Vec<Sweep>,
    pub(super) streamers: Vec<i32>,
    pub(super) deployed: bool,
    pub(super) nonce: u32,
    pub(super) nofile: (u64, u64),
    pub(super) born: Time,
    pub(super) upgrades: u32,
    pub(super) exit_status: i32,
    #[serde(default)]
    pub(super) rescued: Option<Rescued>,
}

/// The one shape that is written and read; the table in it has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
struct Version;

const CURRENT: u32 = 1;

impl From<Version> for u32 {
    fn from(_: Version) -> u32 {
        CURRENT
    }
}

impl TryFrom<u32> for Version {
    type Error = String;

    fn try_from(version: u32) -> Result<Version, String> {
        match version {
            CURRENT => Ok(Version),
            other => Err(format!("the running hob hands over state of version {other}, this one knows {CURRENT}")),
        }
    }
}

/// What a daemon begins with: nothing, or what the binary before it has handed over.
pub(super) struct Kept {
    pub supervisor: Supervisor,
    pub children: Children,
    pub logs: Logs,
    pub readiness: Readiness,
    pub control: Control,
    pub marks: Marks,
    pub registration: Option<Registration>,
    pub predecessors: Vec<Predecessor>,
    pub rest: Rest,
}

/// Of that, what is plain data.
pub(super) struct Rest {
    pub has_plan: bool,
    pub disabled: Disabled,
    pub sweeps: BTreeMap<ProcessId, Sweep>,
    pub streamers: Vec<Pid>,
    pub deployed: bool,
    pub nofile: (u64, u64),
    pub born: Time,
    pub upgrades: u32,
    pub exit_status: i32,
    pub rescued: Option<Rescued>,
}

impl Kept {
    pub fn new(options: &Options) -> io::Result<Kept> {
        let nofile = sys::limits::nofile()?;
        // Each process costs two descriptors here.
        let _ = sys::limits::set_nofile(nofile.1, nofile.1);
        let children = Children::new()?;
        let control = Control::bind(&options.servers)?;
        let born = now();
        let seed = born.0.as_nanos() as u64 ^ u64::from(std::process::id()) << 32;
        let marks = Marks::new((seed ^ seed >> 32) as u32);
        let (registration, predecessors) = super::register(options, &marks);
        Ok(Kept {
            supervisor: Supervisor::new(seed),
            children,
            logs: Logs::new(options.roles.logger),
            readiness: Readiness::new(&options.socket),
            control,
            marks,
            registration,
            predecessors,
            rest: Rest {
                has_plan: false,
                disabled: Disabled::load(&options.state_dir),
                sweeps: BTreeMap::new(),
                streamers: Vec::new(),
                deployed: options.deployed,
                nofile,
                born,
                upgrades: 0,
                exit_status: 0,
                rescued: None,
            },
        })
    }

    pub fn left_by(state: State, options: &Options, registry: &Registry) -> io::Result<Kept> {
        let notify = |id: ProcessId| Token(NOTIFY + id.0 as usize);
        Ok(Kept {
            supervisor: Supervisor::restore(state.snapshot),
            children: Children::take_over(state.children)?,
            logs: Logs::take_over(state.logs, options.roles.logger, registry, LOGGER, now())?,
            readiness: Readiness::take_over(state.readiness, registry, notify)?,
            control: Control::take_over(state.control)?,
            marks: Marks::new(state.nonce),
            registration: state.registration.map(Registration::take_over).transpose()?,
            predecessors: Vec::new(),
            rest: Rest {
                has_plan: true,
                disabled: state.disabled,
                sweeps: state.sweeps.into_iter().map(|sweep| (sweep.run.job.process(), sweep)).collect(),
                streamers: state.streamers.into_iter().map(Pid::from_raw).collect(),
                deployed: state.deployed,
                nofile: state.nofile,
                born: state.born,
                upgrades: state.upgrades,
                exit_status: state.exit_status,
                rescued: state.rescued,
            },
        })
    }
}

/// How far an upgrade has come that somebody has asked for.
pub(super) struct Upgrade {
    /// Who waits for it.
    tickets: Vec<Ticket>,
    question: Option<Question>,
}

/// Whether another binary can take over.
struct Question {
    checker: Pid,
    /// What the checker says.
    answer: File,
    give_up_at: Time,
    verdict: Option<Result<String, String>>,
}

impl Daemon {
    /// Goes on where the binary before this one has stopped.
    pub(super) fn go_on(&mut self, rescued: Option<Rescued>) {
        // What died in between is reaped before anything is done about it.
        self.reap();
        if let Some(rescued) = rescued {
            self.settle_after_panic(rescued);
        }
        let ids: Vec<ProcessId> = self.supervisor.processes().map(|process| process.id()).collect();
        for id in &ids {
            self.mind_memory(*id);
        }
        self.tidy_soon();
        log::info!("hob {} goes on with {} processes", env!("CARGO_PKG_VERSION"), ids.len());
        self.manager.say(&format!("READY=1\nSTATUS={} processes", ids.len()));
    }

    /// Somebody wants an upgrade, which begins as soon as nobody is in the middle of something.
    pub(super) fn want_upgrade(&mut self, ticket: Ticket) {
        let upgrade = self.upgrade.get_or_insert(Upgrade { tickets: Vec::new(), question: None });
        upgrade.tickets.push(ticket);
    }

    fn can_upgrade(&self) -> Result<(), String> {
        if self.conductor.is_some() {
            return Err("supervisord cannot become another binary: restart it".to_owned());
        }
        match &self.planner {
            Some(planner) => Err(format!("not now: {}; try again when that is done", planner.step)),
            None if !self.has_plan => Err("not now: hob is not up yet".to_owned()),
            None => Ok(()),
        }
    }

    /// Has the binary on disk look at a copy of the state.
    fn ask_next(&self) -> io::Result<Question> {
        let next = self.next_binary()?;
        let (state, _lent) = self.state(None)?;
        let (rx, tx) = io::pipe()?;
        sys::fd::set_nonblocking(&rx)?;
        let words = [next, CString::from(CHECK), CString::new(state.as_raw_fd().to_string())?];
        let checker = sys::process::fork(|| {
            sys::process::set_name("hob check");
            let _ = sys::process::new_session();
            self.marks.tag_self(Owner::Helper);
            sys::process::close_others(&[state.as_raw_fd(), tx.as_raw_fd()]);
            let ready =
                sys::fd::keep_over_exec(state.as_fd(), true).and_then(|()| sys::process::place_fd(tx.as_fd(), 1));
            match ready {
                Ok(()) => tell(&sys::process::become_program(&words[0], &words, &own_environment(None))),
                Err(why) => tell(&why),
            }
        })?;
        let answer = File::from(OwnedFd::from(rx));
        Ok(Question { checker, answer, give_up_at: now() + CHECKED_WITHIN, verdict: None })
    }

    /// A child was reaped: was it the checker?
    pub(super) fn reaped_checker(&mut self, pid: Pid, ended: Ended) -> bool {
        let question = self.upgrade.as_mut().and_then(|upgrade| upgrade.question.as_mut());
        let Some(question) = question.filter(|question| question.checker == pid) else { return false };
        let mut said = Vec::new();
        // Nothing more comes once it is dead; an error is that nothing was said.
        let _ = (&question.answer).take(ANSWER_MAX).read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said);
        let path = self.exe_path.as_deref().unwrap_or(Path::new("hob")).display();
        question.verdict = Some(match (ended, said.trim().strip_prefix(UNDERSTOOD)) {
            (Ended::Code(0), Some(version)) => Ok(version.trim().to_owned()),
            _ if said.trim().is_empty() => Err(format!("{path} is no hob that can take over; nothing has changed")),
            _ => Err(format!("{path} cannot take over: {}; nothing has changed", said.trim())),
        });
        true
    }

    pub(super) fn upgrade_deadline(&self) -> Option<Time> {
        match &self.upgrade.as_ref()?.question {
            None => Some(Time::default()),
            Some(question) => question.verdict.is_none().then_some(question.give_up_at),
        }
    }

    pub(super) fn checker(&self) -> Option<Pid> {
        Some(self.upgrade.as_ref()?.question.as_ref()?.checker)
    }

    /// Goes on with an upgrade, once its checker has spoken and nothing is half done that only this program knows of.
    pub(super) fn step_towards_upgrade(&mut self) {
        let verdict = match &mut self.upgrade {
            None => return,
            Some(_) if self.supervisor.is_shutting_down() => Err("hob is stopping".to_owned()),
            Some(Upgrade { question: Some(question), .. }) => match &question.verdict {
                Some(verdict) => verdict.clone(),
                None => {
                    if question.give_up_at <= now() {
                        // Its death brings the verdict.
                        let _ = sys::process::kill_group(question.checker, libc::SIGKILL);
                        question.give_up_at = now() + CHECKED_WITHIN;
                    }
                    return;
                }
            },
            Some(Upgrade { question: None, .. }) => {
                let asked =
                    self.can_upgrade().and_then(|()| self.ask_next().map_err(|why| format!("cannot ask: {why}")));
                match (asked, &mut self.upgrade) {
                    (Ok(asked), Some(upgrade)) => {
                        upgrade.question = Some(asked);
                        return;
                    }
                    (Ok(_), None) => return,
                    (Err(why), _) => Err(why),
                }
            }
        };
        let is_settled =
            self.planner.is_none() && self.children.is_settled() && self.to_start.is_empty() && self.decided.is_empty();
        if verdict.is_ok() && !is_settled {
            return;
        }
        let Some(upgrade) = self.upgrade.take() else { return };
        match verdict {
            Err(why) => self.answer_upgrade(upgrade.tickets, &Err(why)),
            Ok(version) => {
                let message = format!("hob {} becomes hob {version}", env!("CARGO_PKG_VERSION"));
                log::info!("{message}");
                self.answer_upgrade(upgrade.tickets, &Ok(message));
                let why = self.become_next();
                log::error!("cannot become hob {version}: {why}; nothing has changed");
            }
        }
    }

    fn answer_upgrade(&mut self, tickets: Vec<Ticket>, answer: &Result<String, String>) {
        for ticket in tickets {
            self.with_control(|control, daemon| control.upgrade_done(ticket, answer.clone(), daemon));
        }
    }

    /// Does not return unless it fails, and then this daemon is what it was.
    fn become_next(&mut self) -> io::Error {
        if let Some(control) = &mut self.control {
            control.part("hob is being upgraded: ask again");
        }
        self.next_binary().and_then(|next| self.become_file(&next, None)).unwrap_or_else(|why| why)
    }

    /// As `become_next`, with the binary that runs now, whatever there is on disk.
    pub(super) fn become_again(&self, rescued: Rescued) -> io::Error {
        self.become_file(c"/proc/self/exe", Some(rescued)).unwrap_or_else(|why| why)
    }

    fn become_file(&self, file: &CStr, rescued: Option<Rescued>) -> io::Result<io::Error> {
        let (state, mut lent) = self.state(rescued)?;
        lent.lend(&state);
        let words: Vec<CString> = std::env::args_os().filter_map(|word| CString::new(word.into_vec()).ok()).collect();
        let environment = own_environment(Some(state.as_fd()));
        // They stay blocked until the next binary has its handlers: none is lost, and none ends it.
        let _held = sigwait::hold()?;
        lent.keep(true)?;
        let why = sys::process::become_program(file, &words, &environment);
        lent.keep(false)?;
        Ok(why)
    }

    /// The path that this binary was started from; there may be another file by now.
    fn next_binary(&self) -> io::Result<CString> {
        let path = self.exe_path.as_ref().ok_or_else(|| io::Error::other("it is not known where hob's file is"))?;
        Ok(CString::new(path.as_os_str().as_bytes())?)
    }

    fn state(&self, rescued: Option<Rescued>) -> io::Result<(File, Lent<'_>)> {
        let mut lent = Lent::default();
        let control = self.control.as_deref().or_else(|| self.control_lent.look());
        let Some(control) = control else { return Err(io::Error::other("a client is being served")) };
        let state = State {
            version: Version,
            booted: self.options.booted.clone(),
            snapshot: self.supervisor.snapshot(),
            children: self.children.hand_over(&mut lent),
            logs: self.logs.hand_over(&mut lent),
            readiness: self.readiness.hand_over(&mut lent),
            control: control.hand_over(&mut lent),
            registration: self.registration.as_ref().map(|registration| registration.hand_over(&mut lent)),
            disabled: self.disabled.clone(),
            sweeps: self.sweeps.values().cloned().collect(),
            streamers: self.streamers.iter().map(|pid| pid.as_raw()).collect(),
            deployed: self.deployed,
            nonce: self.marks.nonce(),
            nofile: self.nofile,
            born: self.born,
            upgrades: self.upgrades + u32::from(rescued.is_none()),
            exit_status: self.exit_status,
            rescued,
        };
        let mut file = sys::fd::memory_file()?;
        file.write_all(&serde_json::to_vec(&state)?)?;
        Ok((file, lent))
    }
}

/// What a checker has to say that does not understand, or cannot even be started.
fn tell(why: &io::Error) -> i32 {
    let _ = writeln!(io::stdout(), "{why}");
    1
}

/// This process's environment, with the number of the descriptor that the state is in.
fn own_environment(state: Option<BorrowedFd<'_>>) -> Vec<CString> {
    let more = state.map(|fd| (OsString::from(VARIABLE), OsString::from(fd.as_raw_fd().to_string())));
    let variables = std::env::vars_os().filter(|(name, _)| name != VARIABLE).chain(more);
    let joined = variables.map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
    joined.filter_map(|variable| CString::new(variable).ok()).collect()
}

/// The state that the program before this one in the same process has left, if there is one. To be asked before
/// anything else: nothing else may see the variable.
pub fn left_by_predecessor() -> Option<io::Result<State>> {
    let number = sys::process::take_variable(VARIABLE)?;
    Some(read(number.to_str().and_then(|number| number.parse().ok())))
}

/// The role of the checker: says whether this binary understands the state in a descriptor, `booted` included.
pub fn check<Booted: DeserializeOwned>(number: Option<&str>) -> i32 {
    let state = read(number.and_then(|number| number.parse().ok()));
    let understood = state.and_then(|state| Ok(serde_json::from_value::<Booted>(state.booted)?));
    match understood {
        Ok(_) => {
            let _ = writeln!(io::stdout(), "{UNDERSTOOD}{}", env!("CARGO_PKG_VERSION"));
            0
        }
        Err(why) => tell(&why),
    }
}

fn read(number: Option<i32>) -> io::Result<State> {
    let number = number.ok_or_else(|| io::Error::other("no descriptor with the state is given"))?;
    let mut file = File::from(Number::of(number).adopt()?);
    file.rewind()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Where this binary's file is; nothing without /proc.
pub(super) fn own_path() -> Option<PathBuf> {
    std::env::current_exe().ok().filter(|path| path.is_absolute())
}

/// The word for the checker's role.
pub const CHECK: &std::ffi::CStr = c"__understands";
/// What a checker says that understands everything, in front of its version.
const UNDERSTOOD: &str = "understood by hob ";
/// The descriptor with the state.
const VARIABLE: &str = "HOB_STATE_FD";
const CHECKED_WITHIN: Duration = Duration::from_secs(10);
const ANSWER_MAX: u64 = 4 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_an_error_before_anything_else_is_read() {
        for text in ["0", "2", "\"1\"", "null"] {
            assert!(serde_json::from_str::<Version>(text).is_err(), "{text}");
        }
        assert_eq!(serde_json::to_string(&Version).expect("a number"), "1");
    }

    #[test]
    fn no_state_is_taken_from_a_number_that_is_no_descriptor() {
        for number in [None, Some(-1), Some(0), Some(2), Some(99_999)] {
            assert!(read(number).is_err(), "{number:?}");
        }
    }

    #[test]
    fn the_environment_goes_on_and_has_the_number_once() {
        let file = sys::fd::memory_file().expect("a file");
        let count = |all: &[CString]| {
            all.iter().filter(|v| v.as_bytes().starts_with(format!("{VARIABLE}=").as_bytes())).count()
        };
        assert_eq!(count(&own_environment(None)), 0);
        let with = own_environment(Some(file.as_fd()));
        assert_eq!(count(&with), 1);
        assert!(with.iter().any(|variable| variable.as_bytes().starts_with(b"PATH=")));
    }
}
