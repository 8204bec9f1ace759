//! Does what the supervisor decides: the one loop, and everything in hob that has a descriptor.
//!
//! One thread, no locks. Whatever could block is a child of the same binary: the logger writes the files, the planner
//! reads the configuration and runs postinstall, probes probe, log streams are read by a child each. Children are
//! reaped before anything else is looked at, so that a client that asks about a process it has just seen die is not
//! told that it runs.

mod auto_logs;
mod batch;
mod children;
mod conducted_life;
mod conducted_plan;
mod conductor;
mod disabled;
mod fetches;
pub mod handover;
mod host;
pub mod launch;
mod leftovers;
mod logs;
mod lookup;
pub mod mainlog;
mod manager;
mod marks;
mod memory;
pub mod messages;
mod oom;
mod planner;
mod predecessor;
mod readiness;
mod reload;
mod rescue;
mod signals;
mod starts;
mod stdio;
mod stops;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use signal_hook::consts::signal::{
    SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGWINCH, SIGXCPU,
    SIGXFSZ,
};
use signal_hook_mio::v1_0::Signals;

pub use self::conductor::Given;
pub use self::planner::{MakePlan, Refusal, Wanted};

use self::children::Children;
use self::conductor::{Conductor, INPUTS};
use self::disabled::Disabled;
use self::fetches::{FETCHES, Fetches};
use self::handover::{Kept, Upgrade};
use self::logs::Logs;
use self::manager::Manager;
use self::marks::Marks;
use self::planner::Planner;
use self::predecessor::{Predecessor, Registration};
use self::readiness::Readiness;
use self::reload::ReloadAfter;
use self::rescue::Rescued;
use self::stops::{Ending, Sweep};
use crate::control::{Control, Host, LogQuery, Tail, Ticket};
use crate::plan::{Probe, Server};
use crate::supervisor::Supervisor;
use crate::supervisor::event::{Action, Change, Event, Job, Phase, ProcessId, Run, Time};
use crate::sys;
use crate::sys::proc::Stat;
use crate::sys::process::Pid;
use crate::sys::rescue::{Watched, Whereabouts};

/// What the daemon needs to be told; everything else is in the plan.
pub struct Options {
    /// Our own socket, to show; also where the sockets of children are made beside.
    pub socket: PathBuf,
    /// What clients connect to.
    pub servers: Vec<Server>,
    pub state_dir: PathBuf,
    pub log_dir: PathBuf,
    /// The files the configuration comes from, to show.
    pub config: Vec<PathBuf>,
    pub roles: Roles,
    /// Whether the first plan is that of what was deployed, and not of a home.
    pub deployed: bool,
    pub make_plan: Box<MakePlan>,
    /// What runs for hob and is none of its children: it ends with it.
    pub far_off: Box<dyn Fn() -> Vec<Stat>>,
    /// What the next binary has to be told of the command line and the settings, after an upgrade.
    pub booted: serde_json::Value,
    /// For the daemon that supervisord is: it has read its configuration already.
    pub supervisord: Option<Given>,
}

/// The other roles of the binary, each run in a forked child.
pub struct Roles {
    pub logger: fn(OwnedFd) -> i32,
    pub probe: fn(&Probe) -> (i32, String),
    pub pidproxy: fn(&Path, &mut dyn FnMut() -> i32) -> i32,
    pub logs: fn(OwnedFd, LogQuery, &Path),
    pub tail: fn(OwnedFd, Tail),
}

/// Runs until there is nothing left to do; returns the exit status. Errors of the start alone are reported as such.
pub fn boot(options: Options) -> io::Result<i32> {
    run(Daemon::new(options, None)?)
}

/// As `boot`, from what the binary before this one has handed over.
pub fn resume(options: Options, state: handover::State) -> io::Result<i32> {
    run(Daemon::new(options, Some(state))?)
}

fn run(daemon: Daemon) -> io::Result<i32> {
    Watched::new(daemon, |panic| messages::say(&format!("hob: {panic}")), Daemon::rescue).run()
}

struct Daemon {
    options: Options,
    poll: Poll,
    signals: Signals,
    supervisor: Supervisor,
    children: Children,
    logs: Logs,
    readiness: Readiness,
    manager: Manager,
    /// Out of its place only while it is being called.
    control: Option<Box<Control>>,
    control_lent: Whereabouts<Control>,
    planner: Option<Planner>,
    /// In supervisord's mode only.
    conductor: Option<Box<Conductor>>,
    /// Who waits for the plan that is being made.
    reload_tickets: Vec<Ticket>,
    /// Why none is being made for them; told when nobody is in the middle of something.
    reload_failed: Option<String>,
    /// Asked for while one was being made, which may have read the files before they were changed.
    reload_after: Option<ReloadAfter>,
    /// Whether the plan is that of what was deployed.
    deployed: bool,
    /// The same of the plan that is being made.
    deployed_next: bool,
    has_plan: bool,
    /// Reaped children of processes that are being stopped: what is left of each is looked for.
    sweeps: BTreeMap<ProcessId, Sweep>,
    /// Runs to start once all actions are fetched: many at once cost less.
    to_start: Vec<Run>,
    /// Whether launchers work here.
    has_launchers: bool,
    /// Forked to stream logs to a client.
    streamers: Vec<Pid>,
    /// Of what runs for hob and is none of its children, what has not ended yet.
    far_off: Vec<Stat>,
    fetches: Fetches,
    ending: Ending,
    tidy: Tidy,
    /// When to look at the memory of those that have a limit.
    memory_at: Option<Time>,
    disabled: Disabled,
    born: Time,
    upgrade: Option<Upgrade>,
    upgrades: u32,
    /// When it has panicked lately.
    panics: Vec<Time>,
    /// What a panic has left, until that is settled.
    rescued: Option<Rescued>,
    marks: Marks,
    registration: Option<Registration>,
    /// Until the first plan is there.
    predecessors: Vec<Predecessor>,
    null: OwnedFd,
    exe: OwnedFd,
    /// Where it was when hob was started; nothing without /proc.
    exe_path: Option<PathBuf>,
    nofile: (u64, u64),
    oom_score_adj: Option<i32>,
    exit_status: i32,
    /// Actions that were fetched early, so that decisions come one after the other.
    decided: VecDeque<Action>,
}

/// When the memory is given back that a plan has taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tidy {
    Done,
    At(Time),
    /// Something is still starting; its next change tells when to look again.
    OnceStarted,
    /// The logger goes first: that it has heard of it wakes this loop.
    AfterLogger(Time),
}

impl Tidy {
    fn deadline(self) -> Option<Time> {
        match self {
            Tidy::At(at) | Tidy::AfterLogger(at) => Some(at),
            Tidy::Done | Tidy::OnceStarted => None,
        }
    }
}

const SIGNALS: Token = Token(0);
const LOGGER: Token = Token(1);
const REPORTS: Token = Token(2);
const PLANNER: Token = Token(3);
/// Notify sockets, by process id.
const NOTIFY: usize = 1 << 20;
const CONTROL: usize = 1 << 40;

impl Daemon {
    fn new(options: Options, left: Option<handover::State>) -> io::Result<Daemon> {
        let poll = Poll::new()?;
        let taken = [SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH];
        let mut signals = Signals::new(taken)?;
        // What would end us, and is no bug of ours: a timer or limit that we were started with, somebody's mistake.
        for signal in [SIGALRM, SIGVTALRM, SIGPROF, SIGIO, libc::SIGPWR, SIGXCPU, SIGXFSZ, libc::SIGSTKFLT]
            .into_iter()
            .chain(34..=64)
        {
            sys::process::ignore_signal(signal);
        }
        sys::process::unblock_signals();
        sys::process::become_subreaper()?;
        poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
        let Kept { supervisor, children, logs, readiness, mut control, marks, registration, predecessors, rest } =
            match left {
                None => Kept::new(&options)?,
                Some(state) => Kept::left_by(state, &options, poll.registry())?,
            };
        poll.registry().register(&mut SourceFd(&children.report_rx().as_raw_fd()), REPORTS, Interest::READABLE)?;
        control.register(poll.registry(), CONTROL)?;
        Ok(Daemon {
            supervisor,
            logs,
            readiness,
            manager: Manager::from_env(),
            control: Some(Box::new(control)),
            control_lent: Whereabouts::UNKNOWN,
            planner: None,
            conductor: None,
            reload_tickets: Vec::new(),
            reload_failed: None,
            reload_after: None,
            deployed: rest.deployed,
            deployed_next: rest.deployed,
            has_plan: rest.has_plan,
            sweeps: rest.sweeps,
            to_start: Vec::new(),
            has_launchers: true,
            streamers: rest.streamers,
            far_off: Vec::new(),
            fetches: Fetches::default(),
            ending: Ending::NotYet,
            tidy: Tidy::Done,
            memory_at: None,
            disabled: rest.disabled,
            born: rest.born,
            upgrade: None,
            upgrades: rest.upgrades,
            panics: Vec::new(),
            marks,
            registration,
            predecessors,
            null: std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").or_else(|_| no_null())?.into(),
            exe: launch::open_own_executable()?,
            exe_path: handover::own_path(),
            nofile: rest.nofile,
            oom_score_adj: oom::score_of_processes(),
            exit_status: rest.exit_status,
            decided: VecDeque::new(),
            rescued: rest.rescued,
            children,
            signals,
            poll,
            options,
        })
    }

    fn run(&mut self) -> io::Result<i32> {
        if self.has_plan {
            self.take_relayed(self.supervisor.plan());
            let rescued = self.rescued.take();
            self.go_on(rescued);
        } else {
            // The plan is what everything waits for; a logger is needed once there is one.
            let given = self.options.supervisord.take();
            if given.is_none() {
                self.plan(false)?;
            }
            self.logs.start(&self.marks, self.poll.registry(), LOGGER, now())?;
            if let Some(given) = given {
                self.conduct(given)?;
            }
        }
        let mut events = Events::with_capacity(1024);
        loop {
            self.carry_out_actions();
            self.sync_logs();
            self.sweep();
            self.step_towards_upgrade();
            self.step_towards_the_end();
            if self.ending == Ending::Done {
                break;
            }
            let is_tidy_time = self.is_tidy_time(now());
            let timeout = self.until_next_deadline();
            if is_tidy_time {
                // Last of all: what runs after it is in memory again.
                sys::memory::release();
            }
            match self.poll.poll(&mut events, timeout) {
                Err(why) if why.kind() != io::ErrorKind::Interrupted => log::error!("cannot wait for events: {why}"),
                _ => {}
            }
            self.children.take_made();
            if events.iter().any(|e| e.token() == SIGNALS) {
                self.take_signals();
            }
            for event in &events {
                match event.token() {
                    SIGNALS => {}
                    LOGGER => {
                        self.logs.ready();
                        self.hear_log_news();
                    }
                    REPORTS => self.children.read_reports(),
                    PLANNER => self.hear_planner(),
                    Token(token) if token >= CONTROL => {
                        self.with_control(|control, daemon| {
                            // The registry is needed while the rest of the daemon is lent out.
                            match daemon.poll.registry().try_clone() {
                                Ok(registry) => {
                                    control.ready(&registry, event, daemon);
                                    rescue::try_here("client");
                                }
                                Err(why) => log::error!("cannot serve a client: {why}"),
                            }
                        });
                    }
                    Token(token) if token >= FETCHES => self.hear_fetch((token - FETCHES) as u64),
                    Token(token) if token >= INPUTS => self.hear_conducted(token, event.is_writable()),
                    Token(token) => self.hear_notify(ProcessId((token - NOTIFY) as u32)),
                }
            }
            self.handle_timeouts();
        }
        if let Some(control) = &mut self.control {
            control.goodbye();
        }
        self.readiness.close();
        self.end_conducting();
        if let Some(registration) = self.registration.take() {
            match self.conductor {
                Some(_) => registration.end_with_folders(),
                None => registration.end(),
            }
        }
        Ok(self.exit_status)
    }

    /// A plan has come.
    fn tidy_soon(&mut self) {
        self.tidy = Tidy::At(now() + TIDY_AFTER);
    }

    /// Whether a plan has come to rest, so that the memory can be given back that reading it and starting everything took.
    fn is_tidy_time(&mut self, now: Time) -> bool {
        let is_over = matches!(self.tidy, Tidy::AfterLogger(at) if at <= now);
        if is_over {
            self.tidy = Tidy::Done;
        } else if matches!(self.tidy, Tidy::At(at) if at <= now) {
            self.tidy = if self.supervisor.processes().any(|process| process.phase() == Phase::Starting) {
                Tidy::OnceStarted
            } else {
                self.logs.tidy();
                Tidy::AfterLogger(now + TIDY_PAUSE)
            };
        }
        is_over
    }

    fn until_next_deadline(&self) -> Option<Duration> {
        let ending = match self.ending {
            Ending::Strays { look_at, .. } => Some(look_at),
            Ending::Logs { until } => Some(until),
            Ending::NotYet | Ending::Done => None,
        };
        [
            self.supervisor.next_deadline(),
            self.control.as_deref().and_then(Control::next_deadline),
            self.manager.next_deadline(),
            self.logs.restart_at(),
            self.tidy.deadline(),
            self.memory_at,
            self.conductor_deadline(),
            self.fetches.next_deadline(),
            self.upgrade_deadline(),
            (!self.decided.is_empty() || self.children.has_more_reports || self.reload_failed.is_some())
                .then(Time::default),
            ending,
        ]
        .into_iter()
        .flatten()
        .min()
        .map(|at| at.since(now()).min(LONGEST_SLEEP))
    }

    fn handle_timeouts(&mut self) {
        if !self.decided.is_empty() {
            // Nothing is RUNNING before it was started.
            self.carry_out_actions();
        }
        if self.children.has_more_reports {
            self.children.read_reports();
        }
        if let Some(why) = self.reload_failed.take() {
            self.answer_reload(&Err(vec![why]));
        }
        let now = now();
        self.supervisor.handle_timeout(now);
        self.manager.handle_timeout(now);
        self.look_at_memory(now);
        if self.logs.restart_at().is_some_and(|at| at <= now)
            && let Err(why) = self.logs.start(&self.marks, self.poll.registry(), LOGGER, now)
        {
            log::error!("cannot start a logger: {why}");
        }
        if self.conductor.is_some() {
            self.handle_conductor_timeout();
        }
        self.tell_failed_fetches();
        self.with_control(|control, daemon| control.handle_timeout(now, daemon));
    }

    fn with_control(&mut self, call: impl FnOnce(&mut Control, &mut Daemon)) {
        if let Some(mut control) = self.control.take() {
            self.control_lent = Whereabouts::of(&control);
            call(&mut control, self);
            self.control = Some(control);
        }
    }

    fn carry_out_actions(&mut self) {
        loop {
            while let Some(action) = self.decided.pop_front().or_else(|| self.supervisor.poll_action()) {
                self.carry_out(action);
            }
            if self.to_start.is_empty() {
                break;
            }
            // Only now: who waits for a start must have been told that it began before it is told that it failed.
            self.start_all();
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Spawn(run) => {
                rescue::try_here("decided");
                self.to_start.push(run);
            }
            Action::Signal(run, signal) => self.signal_run(run, signal),
            Action::Sweep(run, signal) => {
                if let Job::Process(id) = run.job {
                    self.sweeps.insert(id, Sweep { run, signal, left: usize::MAX, answered: false });
                }
            }
            Action::Added(id) => self.provide(id, Logs::add),
            Action::Updated(id) => {
                self.provide(id, Logs::update);
                self.mind_memory(id);
            }
            Action::Removed(id) => self.forget(id),
            Action::Changed(change) => self.tell_of(&change),
        }
    }

    /// Lets go of what a process had that is no longer in the table.
    fn forget(&mut self, id: ProcessId) {
        self.logs.remove(id);
        self.readiness.remove(self.poll.registry(), id);
        self.children.forget(id);
        self.sweeps.remove(&id);
        self.forget_conducted(id);
        if let Some(control) = &mut self.control {
            control.removed();
        }
    }

    /// The pipes and the notify socket of a process.
    fn provide(&mut self, id: ProcessId, log: fn(&mut Logs, ProcessId, &crate::plan::Spec) -> io::Result<()>) {
        let Some(process) = self.supervisor.process(id) else { return };
        let spec = process.spec();
        if let Err(why) = log(&mut self.logs, id, spec) {
            log::error!("{}: cannot make its log pipe: {why}", spec.name);
        }
        let token = Token(NOTIFY + id.0 as usize);
        if let Err(why) = self.readiness.provide(self.poll.registry(), token, id, spec) {
            log::error!("{}: cannot make its notify socket: {why}", spec.name);
        }
    }

    fn tell_of(&mut self, change: &Change) {
        let level = match change.to {
            Phase::Fatal => log::Level::Error,
            Phase::Backoff => log::Level::Warn,
            Phase::Starting | Phase::Stopping => log::Level::Debug,
            Phase::Running | Phase::Stopped | Phase::Exited => log::Level::Info,
        };
        if change.to == Phase::Starting {
            self.mind_memory(change.id);
        }
        if self.tidy == Tidy::OnceStarted && change.from == Phase::Starting {
            self.tidy = Tidy::At(now() + TIDY_PAUSE);
        }
        if !self.tell_of_conducted(change) {
            log::log!(level, "{}: {} {}", change.name, change.to, change.why);
        }
        self.with_control(|control, daemon| control.changed(change, daemon));
    }

    fn hear_notify(&mut self, id: ProcessId) {
        let token = Token(NOTIFY + id.0 as usize);
        if self.readiness.hear(self.poll.registry(), token, id)
            && let Some(run) = self.supervisor.process(id).and_then(|p| p.run())
        {
            self.feed(Event::HeardReady(run));
        }
    }
}

/// epoll counts milliseconds in an int: what is due in 25 days or more would be due never.
const LONGEST_SLEEP: Duration = Duration::from_secs(24 * 3600);

/// How long after a plan its memory is given back, unless something is still starting.
const TIDY_AFTER: Duration = Duration::from_millis(500);
const TIDY_PAUSE: Duration = Duration::from_millis(100);

/// Nothing outlives a PID 1. A supervisord has a folder beside its pid file. No folder to write to is no reason not to
/// run.
fn register(options: &Options, marks: &Marks) -> (Option<Registration>, Vec<Predecessor>) {
    let folder = match &options.supervisord {
        None => options.state_dir.clone(),
        Some(given) => with_ending(&given.pidfile, ".hob"),
    };
    let has_none = options.supervisord.as_ref().is_some_and(|given| given.pidfile.as_os_str().is_empty());
    if sys::process::pid().as_raw() == 1 || has_none {
        return (None, Vec::new());
    }
    match Registration::new(&folder, marks.nonce()) {
        Ok((registration, predecessors)) => (Some(registration), predecessors),
        Err(why) => {
            let folder = folder.display();
            log::warn!("cannot write to {folder}: {why}; when hob is killed, the next one will not find what it left");
            (None, Vec::new())
        }
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn now() -> Time {
    Time(sys::clock::since_boot())
}

/// A root without /dev still gets a stdin that is empty and a place to write to.
fn no_null() -> io::Result<std::fs::File> {
    let (rx, _) = io::pipe()?;
    Ok(std::fs::File::from(OwnedFd::from(rx)))
}
