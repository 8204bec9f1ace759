//! The seam on one page: what the daemon tells the supervisor, and what it is asked to do.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::plan::{Name, Plan};

/// A moment: the time since the machine booted (CLOCK_BOOTTIME), so it can be written down and still
/// means the same after hob has re-executed itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time(pub Duration);

impl std::ops::Add<Duration> for Time {
    type Output = Time;
    fn add(self, length: Duration) -> Time {
        Time(self.0.saturating_add(length))
    }
}

impl Time {
    /// How long ago `earlier` was; nothing if it lies ahead.
    pub fn since(self, earlier: Time) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// A process of the table. Never used again for another process, so a late message cannot reach a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId(pub u32);

/// What a child is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Job {
    Process(ProcessId),
    /// One readiness probe of that process's current run.
    ReadyProbe(ProcessId),
    HealthProbe(ProcessId),
}

impl Job {
    /// The process it is done for.
    pub fn process(self) -> ProcessId {
        match self {
            Job::Process(id) | Job::ReadyProbe(id) | Job::HealthProbe(id) => id,
        }
    }
}

/// One life of one child, from fork to reap. Every event a child causes carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Run {
    pub job: Job,
    /// Counts up over all jobs; no two runs share one.
    pub number: u64,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    Code(u8),
    Signal {
        signal: i32,
        core: bool,
        /// The kernel's out-of-memory killer did it, as far as can be known.
        oom: bool,
    },
    /// It never became the program: which step failed and errno. The steps are `fork`, `setsid`, `descriptors`,
    /// `setgroups`, `setgid`, `setuid`, `chdir`, `shell` (which was to source the profile), `interpreter` (which the
    /// script names) and `exec`.
    CannotExec {
        stage: String,
        errno: i32,
    },
    /// It ended, and no one can say how (adopted after hob itself was killed).
    Unknown,
}

impl Exit {
    /// A start that failed for want of something that comes back (memory, descriptors, process slots): the same
    /// command may well run in a moment. Anything else that keeps a program from starting needs a person.
    pub fn is_passing(&self) -> bool {
        use nix::errno::Errno;
        let Exit::CannotExec { errno, .. } = self else { return false };
        matches!(
            Errno::from_raw(*errno),
            Errno::EAGAIN
                | Errno::ENOMEM
                | Errno::EMFILE
                | Errno::ENFILE
                | Errno::ETXTBSY
                | Errno::EIO
                | Errno::EINTR
                | Errno::ENOBUFS
                | Errno::ESTALE
        )
    }
}

/// `SIGTERM`, or `signal 40` for one without a name of its own.
pub fn signal_name(signal: i32) -> String {
    match nix::sys::signal::Signal::try_from(signal) {
        Ok(known) => known.as_str().to_owned(),
        Err(_) => format!("signal {signal}"),
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exited with code {code}"),
            Exit::Signal { signal, core, oom } => {
                let name = nix::sys::signal::Signal::try_from(*signal).map_or("a signal", |s| s.as_str());
                write!(f, "killed by {name} ({signal})")?;
                if *core {
                    f.write_str(", core dumped")?;
                }
                if *oom {
                    f.write_str(", out of memory")?;
                }
                Ok(())
            }
            Exit::CannotExec { stage, errno } => {
                let why = nix::errno::Errno::from_raw(*errno).desc().to_lowercase();
                write!(f, "cannot exec: {why} (stage {stage})")
            }
            Exit::Unknown => f.write_str("ended, nobody knows how"),
        }
    }
}

/// Something of a run that outlived its stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survivor {
    pub pid: i32,
    pub command: String,
}

/// Something happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Run this plan from now on. Processes are matched by name: a changed spec restarts, a new one starts
    /// (if `autostart`), a missing one stops and is forgotten. An equal spec notices nothing.
    Plan(Plan),
    /// A person asks. Asking for what is already so is fine.
    Start(ProcessId),
    Stop(ProcessId),
    Restart(ProcessId),
    /// Whether it starts by itself at the next start of hob, or once it comes back into the plan. Nothing else changes.
    Autostart(ProcessId, bool),
    /// Stop everything in order and be finished. A second one shortens every grace to `grace`.
    Shutdown {
        grace: Option<Duration>,
    },
    /// A child has been reaped, or could not be made (`CannotExec`).
    Exited(Run, Exit),
    /// The answer to `Action::Sweep`: what is still alive of everything the process ever started.
    Swept(Run, Vec<Survivor>),
    /// READY=1 on the notify socket.
    HeardReady(Run),
    /// This run does not work as it should, for a reason in words: it is restarted.
    Unwell(Run, String),
    /// What a probe has to say (`connection refused`), before it ends. Only for people: its exit code is its answer.
    ProbeSaid {
        run: Run,
        note: String,
    },
}

/// Something to do, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Start a child for this run. Failure comes back as `Event::Exited(run, CannotExec)`.
    Spawn(Run),
    /// Signal the process group of this run. If its child has been reaped in the meantime (in the same batch of
    /// events), nothing.
    Signal(Run, i32),
    /// The child of this run is reaped and its process is being stopped: signal whatever is left of it (helpers that
    /// left the group too, and those of its earlier runs) with `signal`, and answer with `Event::Swept`, at once if
    /// nothing is left; otherwise again whenever fewer are left. Comes again, with SIGKILL, for what outlives its grace.
    Sweep(Run, i32),
    /// The table has a process it did not have: open its log.
    Added(ProcessId),
    /// The spec of a process is another one now, its log may be too.
    Updated(ProcessId),
    /// The table has forgotten a process: close its log when it is drained.
    Removed(ProcessId),
    /// For the log, waiters, listeners and the event stream.
    Changed(Change),
}

/// A transition, with all there is to know about it, since by the time it is read the process has moved on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub id: ProcessId,
    pub name: Name,
    pub from: Phase,
    pub to: Phase,
    pub at: Time,
    /// Why, for a person: `exited with code 1 after 0.3s, next try in 2.0s (try 2 of 4)`.
    pub why: String,
    /// The end that caused it, if one did.
    pub exit: Option<Exit>,
    /// Starts that have failed in a row.
    #[serde(default)]
    pub tries: u32,
}

/// The states by their names alone, which are supervisord's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Phase {
    Stopped,
    Starting,
    Running,
    Backoff,
    Stopping,
    Exited,
    Fatal,
}

impl Phase {
    /// supervisord's number for it (reference/supervisord.md §2.1).
    pub fn code(self) -> u32 {
        match self {
            Phase::Stopped => 0,
            Phase::Starting => 10,
            Phase::Running => 20,
            Phase::Backoff => 30,
            Phase::Stopping => 40,
            Phase::Exited => 100,
            Phase::Fatal => 200,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Stopped => "STOPPED",
            Phase::Starting => "STARTING",
            Phase::Running => "RUNNING",
            Phase::Backoff => "BACKOFF",
            Phase::Stopping => "STOPPING",
            Phase::Exited => "EXITED",
            Phase::Fatal => "FATAL",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
