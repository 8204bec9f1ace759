//! The states of a process and its goal, as data: what is true in each, and nothing else.

use serde::{Deserialize, Serialize};

use super::event::{Exit, Run, Survivor, Time};
use super::probe::Inquiry;

/// What is wanted of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Goal {
    Up,
    Down,
    /// A stop, and then `Up`.
    Again,
    /// A stop, and then to be forgotten.
    Gone,
    /// It has ended by itself for good, and nobody has asked for anything since.
    Rest,
}

/// What is so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    Stopped,
    Starting { run: Run, started_at: Time, awaits: Awaits },
    Running { run: Run, started_at: Time, health: Option<Inquiry> },
    Backoff { run: Run, retry: Retry },
    Stopping { run: Run, started_at: Time, step: Step, then: Then },
    Exited { run: Run, exit: Exit, at: Time },
    Fatal { run: Run, exit: Exit, at: Time },
}

/// What makes a starting process a running one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Awaits {
    /// To be still there then.
    Time {
        settled_at: Time,
    },
    Notice {
        give_up_at: Time,
    },
    Probe {
        give_up_at: Time,
        inquiry: Inquiry,
    },
}

/// When a process in BACKOFF tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Retry {
    /// Then, if the start rate allows; with `passed`, it already does.
    At { retry_at: Time, passed: bool },
    /// As soon as those are ready that it starts after.
    Now,
}

/// How far a stop has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Not ready any more, so that nobody new comes, before the stop signal.
    Draining { signal_at: Time },
    /// The stop signal is sent.
    Signalled { kill_at: Time },
    /// SIGKILL is sent, and again: it cannot be missed, but a group can fork while it is being killed.
    Killed { since: Time, again_at: Time },
    /// The child is reaped. What it left behind has the stop signal.
    Sweeping { kill_at: Time, survivors: Vec<Survivor> },
    /// What it left behind has SIGKILL, and gets it again.
    SweepingHard { since: Time, again_at: Time, survivors: Vec<Survivor> },
}

/// What a finished stop counts as, where the goal does not say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Then {
    Rest,
    /// The run did not become ready: an early death.
    Failed {
        why: String,
    },
    /// The run was unhealthy: an automatic restart.
    Unhealthy,
}
