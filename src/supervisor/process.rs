//! The life of one process: its states, and what is true in each.
//!
//! ```text
//!            start            settled, or ready
//!  STOPPED ---------> STARTING ---------------> RUNNING
//!     ^                |   ^ |                   |  |
//!     | stop        early  | | stop         dies |  | stop
//!     |            death   | +----> STOPPING <---+--+      (a death that the policy repeats: STARTING again)
//!     |                v   | later     |         |
//!     |             BACKOFF            |         v
//!     +--------------------------------+       EXITED          FATAL: too many tries, or hopeless
//! ```
//!
//! A state holds exactly what is true in it: there is a run to signal only in STARTING, RUNNING and STOPPING, and a
//! deadline lives inside its state, so leaving the state cancels it. Beside the state stands only what outlives it:
//! what is wanted (`Goal`), the history, and the spec.
//!
//! STOPPING is over when nothing is left, not when the child is reaped: it goes on through `Leaving::Sweeping` until
//! the daemon finds no helper alive any more.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::{Exit, Phase, ProcessId, Run, Survivor, Time};
use crate::plan::Spec;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    pub(super) id: ProcessId,
    pub(super) spec: Spec,
    pub(super) goal: Goal,
    pub(super) state: State,
    pub(super) since: Time,
    pub(super) why: String,
    /// The latest run, also when it is over.
    pub(super) last_run: Option<Run>,
    pub(super) last_exit: Option<(Exit, Time)>,
    /// Runs so far.
    pub(super) starts: u64,
    /// Starts in a row that failed.
    pub(super) failures: u32,
    /// Deaths in a row of runs that lived less than a second; only counts where `startsecs` lets them pass as good.
    pub(super) quick_deaths: u32,
    /// The last answer of a probe, in words.
    pub(super) probe_said: String,
}

/// What is wanted of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Goal {
    Up,
    Down,
    /// Not in the plan any more.
    Gone,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum State {
    /// Not running. If it is wanted up, it waits for others.
    Stopped,
    /// `settled_at`: then it has lived long enough, or, with a readiness probe, then it has failed.
    Starting {
        run: Run,
        began: Time,
        settled_at: Time,
        probe: Probing,
    },
    Running {
        run: Run,
        began: Time,
        probe: Probing,
        failed_probes: u32,
    },
    Backoff {
        retry_at: Time,
    },
    Stopping {
        run: Run,
        leaving: Leaving,
        then: Then,
        survivors: Vec<Survivor>,
    },
    Exited,
    Fatal,
}

/// One question at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probing {
    /// There is nothing to ask.
    Off,
    AskAt(Time),
    Asking(Run),
}

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Leaving {
    /// Not ready any more, not signalled yet.
    Draining {
        signal_at: Time,
    },
    Signalled {
        kill_at: Time,
    },
    /// SIGKILL is sent, and again from time to time: it may not arrive while the process is stuck in the kernel.
    Killed {
        again_at: Time,
    },
    /// The child is reaped; helpers have until `kill_at`.
    Sweeping {
        kill_at: Time,
    },
    SweepingKilled {
        again_at: Time,
    },
}

/// What follows a stop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Then {
    Stay,
    /// A clean start, with this spec if there is another one.
    StartAgain {
        spec: Option<Box<Spec>>,
    },
    /// The start did not succeed: counts as an early death.
    CountFailure {
        why: String,
    },
}

impl Process {
    pub(super) fn new(id: ProcessId, spec: Spec, now: Time) -> Process {
        let goal = if spec.autostart { Goal::Up } else { Goal::Down };
        let why = if spec.autostart { "not started yet" } else { "not started: autostart is false" };
        Process {
            id,
            spec,
            goal,
            state: State::Stopped,
            since: now,
            why: why.into(),
            last_run: None,
            last_exit: None,
            starts: 0,
            failures: 0,
            quick_deaths: 0,
            probe_said: String::new(),
        }
    }

    pub fn id(&self) -> ProcessId {
        self.id
    }

    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    pub fn phase(&self) -> Phase {
        match self.state {
            State::Stopped => Phase::Stopped,
            State::Starting { .. } => Phase::Starting,
            State::Running { .. } => Phase::Running,
            State::Backoff { .. } => Phase::Backoff,
            State::Stopping { .. } => Phase::Stopping,
            State::Exited => Phase::Exited,
            State::Fatal => Phase::Fatal,
        }
    }

    /// The run that lives. A child that is reaped, with helpers left, is none.
    pub fn run(&self) -> Option<Run> {
        match &self.state {
            State::Starting { run, .. } | State::Running { run, .. } => Some(*run),
            State::Stopping { run, leaving, .. } => match leaving {
                Leaving::Draining { .. } | Leaving::Signalled { .. } | Leaving::Killed { .. } => Some(*run),
                Leaving::Sweeping { .. } | Leaving::SweepingKilled { .. } => None,
            },
            State::Stopped | State::Backoff { .. } | State::Exited | State::Fatal => None,
        }
    }

    /// When the run that is starting or running began.
    pub fn started_at(&self) -> Option<Time> {
        match self.state {
            State::Starting { began, .. } | State::Running { began, .. } => Some(began),
            _ => None,
        }
    }

    pub fn since(&self) -> Time {
        self.since
    }

    /// Runs after the first one.
    pub fn restarts(&self) -> u64 {
        self.starts.saturating_sub(1)
    }

    pub fn last_exit(&self) -> Option<(&Exit, Time)> {
        self.last_exit.as_ref().map(|(exit, at)| (exit, *at))
    }

    pub fn is_ready(&self) -> bool {
        match &self.state {
            State::Running { failed_probes, .. } => {
                self.spec.health.as_ref().is_none_or(|h| *failed_probes < h.failures.max(1))
            }
            _ => false,
        }
    }

    pub fn next_try(&self) -> Option<Time> {
        match self.state {
            State::Backoff { retry_at } => Some(retry_at),
            _ => None,
        }
    }

    /// Why it is in its state, for a person.
    pub fn why(&self) -> &str {
        &self.why
    }

    pub fn survivors(&self) -> &[Survivor] {
        match &self.state {
            State::Stopping { survivors, .. } => survivors,
            _ => &[],
        }
    }

    pub fn wants_up(&self) -> bool {
        self.goal == Goal::Up
    }

    /// Something of it lives, or will be dealt with before anything else is.
    pub(super) fn is_alive(&self) -> bool {
        matches!(self.state, State::Starting { .. } | State::Running { .. } | State::Stopping { .. })
    }

    /// Nothing happens any more unless somebody asks.
    pub(super) fn is_settled(&self) -> bool {
        match self.state {
            State::Exited | State::Fatal => true,
            State::Stopped => self.goal != Goal::Up,
            _ => false,
        }
    }

    /// When it is next due.
    pub(super) fn deadline(&self) -> Option<Time> {
        let asked = |probe: &Probing| match probe {
            Probing::AskAt(at) => Some(*at),
            Probing::Off | Probing::Asking(_) => None,
        };
        match &self.state {
            State::Starting { settled_at, probe, .. } => {
                Some(asked(probe).map_or(*settled_at, |at| at.min(*settled_at)))
            }
            State::Running { probe, .. } => asked(probe),
            State::Backoff { retry_at } => Some(*retry_at),
            State::Stopping { leaving, .. } => Some(match leaving {
                Leaving::Draining { signal_at } => *signal_at,
                Leaving::Signalled { kill_at } | Leaving::Sweeping { kill_at } => *kill_at,
                Leaving::Killed { again_at } | Leaving::SweepingKilled { again_at } => *again_at,
            }),
            State::Stopped | State::Exited | State::Fatal => None,
        }
    }
}

/// Whether a running process has to be started anew to be what `new` says; otherwise it just takes it over.
pub(super) fn needs_restart(old: &Spec, new: &Spec) -> bool {
    let program = |s: &Spec| {
        (s.command.clone(), s.directory.clone(), s.env.clone(), s.profile.clone(), s.user.clone(), s.umask, s.limits)
    };
    program(old) != program(new) || old.pidfile != new.pidfile || old.log.stderr_path != new.log.stderr_path
}

/// A length for people: `0.3s`, `12s`, `3m20s`.
pub(super) fn show(length: Duration) -> String {
    let secs = length.as_secs();
    match secs {
        0..10 => format!("{:.1}s", length.as_secs_f64()),
        10..60 => format!("{secs}s"),
        60..3600 => format!("{}m{}s", secs / 60, secs % 60),
        _ => format!("{}h{}m", secs / 3600, secs % 3600 / 60),
    }
}
