//! The life of one process: which state follows which event, and when it is due.
//!
//! Pure: the daemon tells it what happened and does what it asks. Two things say all: the *goal*, what is wanted of it,
//! and the *state*, what is so. A state holds exactly what is true in it; its deadline lives inside it, so leaving the
//! state cancels the deadline, and only a state with a run has something to signal.
//!
//! Events change the goal, or end and begin states that nobody else has a say in. Whether a process *may* start or
//! stop depends on others, so that is asked by `Supervisor` after the events: `wants_start`, `wants_stop`, and then
//! `start` and `stop`.
//!
//! ```text
//!   STOPPED -> STARTING -> RUNNING -> EXITED     a death: starts again at once if its policy says so
//!                 |  ^        |
//!                 v  |        |                  an early death: waits, tries again; too many are FATAL
//!               BACKOFF ------+--> STOPPING -> STOPPED
//! ```
//!
//! STOPPING lasts until nothing is left of everything the process ever started. The child is signalled, killed when its
//! grace is over and reaped; then what it left behind is swept in the same way. What survives SIGKILL keeps the
//! process in STOPPING, by name: it is never reported as stopped. EXITED, FATAL and BACKOFF have no child, but may have
//! left helpers, so a stop sweeps there too.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Common;
use super::event::{Action, Exit, Phase, ProcessId, Run, Survivor, Time};
use super::probe::Inquiry;
use super::restart::{self, Record};
use super::state::{Awaits, Goal, Retry, State, Step, Then};
use super::words;
use crate::plan::{Name, Spec};

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    pub(super) id: ProcessId,
    // Boxed so that a walk over the table touches little memory.
    pub(super) spec: Box<Spec>,
    /// The spec of a newer plan that needs a new run: it takes over once the old run is gone.
    pub(super) incoming: Option<Box<Spec>>,
    pub(super) goal: Goal,
    pub(super) state: State,
    /// Why it is in this state, in words.
    pub(super) why: String,
    /// When it came into this state.
    pub(super) since: Time,
    pub(super) starts: u64,
    pub(super) last_start: Option<Time>,
    pub(super) last_exit: Option<(Exit, Time)>,
    /// Why the run that ended last was ended by us although it was to stay up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unwell: Option<String>,
    pub(super) record: Record,
}

// What anybody may ask.
impl Process {
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// What it runs by. A newer spec waits here until the old run is gone.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    pub fn name(&self) -> &Name {
        &self.spec.name
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn phase(&self) -> Phase {
        match self.state {
            State::Stopped => Phase::Stopped,
            State::Starting { .. } => Phase::Starting,
            State::Running { .. } => Phase::Running,
            State::Backoff { .. } => Phase::Backoff,
            State::Stopping { .. } => Phase::Stopping,
            State::Exited { .. } => Phase::Exited,
            State::Fatal { .. } => Phase::Fatal,
        }
    }

    /// The run whose child has not been reaped.
    pub fn run(&self) -> Option<Run> {
        match &self.state {
            State::Starting { run, .. } | State::Running { run, .. } => Some(*run),
            State::Stopping { run, step, .. } => match step {
                Step::Draining { .. } | Step::Signalled { .. } | Step::Killed { .. } => Some(*run),
                Step::Sweeping { .. } | Step::SweepingHard { .. } => None,
            },
            State::Stopped | State::Backoff { .. } | State::Exited { .. } | State::Fatal { .. } => None,
        }
    }

    /// The probe of it that has not been reaped.
    pub(super) fn probe(&self) -> Option<Run> {
        match &self.state {
            State::Starting { awaits: Awaits::Probe { inquiry, .. }, .. }
            | State::Running { health: Some(inquiry), .. } => inquiry.run(),
            _ => None,
        }
    }

    /// When that run began.
    pub fn started_at(&self) -> Option<Time> {
        self.run()?;
        match self.state {
            State::Starting { started_at, .. }
            | State::Running { started_at, .. }
            | State::Stopping { started_at, .. } => Some(started_at),
            State::Stopped | State::Backoff { .. } | State::Exited { .. } | State::Fatal { .. } => None,
        }
    }

    /// When the state last changed.
    pub fn since(&self) -> Time {
        self.since
    }

    /// Runs after the first one.
    pub fn restarts(&self) -> u64 {
        self.starts.saturating_sub(1)
    }

    /// Starts that failed since the last stable run.
    #[cfg(test)]
    pub fn failures(&self) -> u32 {
        self.record.failures
    }

    /// When the last run began, whether or not it is over.
    pub fn last_start(&self) -> Option<Time> {
        self.last_start
    }

    pub fn last_exit(&self) -> Option<(&Exit, Time)> {
        self.last_exit.as_ref().map(|(exit, at)| (exit, *at))
    }

    /// An end of it in words: `cannot exec ~/missing: no such file or directory`.
    pub fn told(&self, exit: &Exit) -> String {
        words::exit(exit, &self.spec)
    }

    /// The last end with what was the matter, if that was our reason for it: `killed by SIGTERM (15), unhealthy: ...`.
    pub fn last_exit_told(&self) -> Option<String> {
        let told = self.told(&self.last_exit.as_ref()?.0);
        Some(match &self.unwell {
            Some(why) => format!("{told}, {why}"),
            None => told,
        })
    }

    /// Whether it serves: RUNNING, which it is only once it has said so where it can; for a oneshot, done and well.
    pub fn is_ready(&self) -> bool {
        match &self.state {
            State::Running { .. } => !self.spec.restart.oneshot,
            State::Exited { exit, .. } => self.spec.restart.oneshot && restart::expected(&self.spec.restart, exit),
            State::Stopped
            | State::Starting { .. }
            | State::Backoff { .. }
            | State::Stopping { .. }
            | State::Fatal { .. } => false,
        }
    }

    /// When it is tried again, in BACKOFF.
    pub fn next_try(&self) -> Option<Time> {
        match self.state {
            State::Backoff { retry: Retry::At { retry_at, .. }, .. } => Some(retry_at),
            _ => None,
        }
    }

    pub fn why(&self) -> &str {
        &self.why
    }

    /// What a stop has not ended yet, as last seen.
    pub fn survivors(&self) -> &[Survivor] {
        match &self.state {
            State::Stopping {
                step: Step::Sweeping { survivors, .. } | Step::SweepingHard { survivors, .. }, ..
            } => survivors,
            _ => &[],
        }
    }

    pub fn wants_up(&self) -> bool {
        matches!(self.goal, Goal::Up | Goal::Again)
    }

    /// When it has to be looked at again.
    pub(super) fn deadline(&self) -> Option<Time> {
        match &self.state {
            State::Stopped | State::Exited { .. } | State::Fatal { .. } => None,
            State::Starting { awaits, .. } => match awaits {
                Awaits::Time { settled_at } => Some(*settled_at),
                // Whether it would get ready matters no more once it is to stop, and its turn for that may come later.
                Awaits::Notice { .. } | Awaits::Probe { .. } if self.goal != Goal::Up => None,
                Awaits::Notice { give_up_at } => Some(*give_up_at),
                Awaits::Probe { give_up_at, inquiry } => Some(inquiry.deadline().min(*give_up_at)),
            },
            State::Running { .. } if self.goal != Goal::Up => None,
            State::Running { health, .. } => health.as_ref().map(Inquiry::deadline),
            State::Backoff { retry, .. } => match retry {
                Retry::At { retry_at, .. } => Some(*retry_at),
                Retry::Now => None,
            },
            State::Stopping { step, .. } => Some(match step {
                Step::Draining { signal_at } => *signal_at,
                Step::Signalled { kill_at } | Step::Sweeping { kill_at, .. } => *kill_at,
                Step::Killed { again_at, .. } | Step::SweepingHard { again_at, .. } => *again_at,
            }),
        }
    }
}

// What the order between processes asks.
impl Process {
    /// It would start now, if those it starts after are ready.
    pub(super) fn wants_start(&self) -> bool {
        match &self.state {
            State::Stopped => matches!(self.goal, Goal::Up | Goal::Again),
            State::Exited { .. } | State::Fatal { .. } | State::Backoff { retry: Retry::Now, .. } => {
                self.goal == Goal::Up
            }
            State::Backoff { .. } | State::Starting { .. } | State::Running { .. } | State::Stopping { .. } => false,
        }
    }

    /// It would stop now, if those that start after it are gone.
    pub(super) fn wants_stop(&self) -> bool {
        match self.state {
            State::Stopped | State::Stopping { .. } => false,
            State::Exited { .. } | State::Fatal { .. } if !self.sweeps() => false,
            State::Starting { .. }
            | State::Running { .. }
            | State::Backoff { .. }
            | State::Exited { .. }
            | State::Fatal { .. } => matches!(self.goal, Goal::Down | Goal::Again | Goal::Gone),
        }
    }

    /// It serves, and nobody is about to end that.
    pub(super) fn is_leaned_on(&self) -> bool {
        self.is_ready() && !self.wants_stop()
    }

    /// It is meant to end and has not: what it starts after has to wait with its own stop. What even SIGKILL does not
    /// end is not waited for for ever.
    pub(super) fn holds_up(&self, now: Time) -> bool {
        match &self.state {
            State::Stopping { .. } => !self.is_hopeless(now),
            _ => self.wants_stop(),
        }
    }

    /// SIGKILL was sent long ago and something is still there: it waits in the kernel, and may for ever.
    pub(super) fn is_hopeless(&self, now: Time) -> bool {
        match &self.state {
            State::Stopping { step: Step::Killed { since, .. } | Step::SweepingHard { since, .. }, .. } => {
                now.since(*since) >= HOPELESS
            }
            _ => false,
        }
    }

    /// Nothing is left of it, and nothing more will come of it.
    pub(super) fn is_stopped(&self) -> bool {
        match self.state {
            State::Stopped => true,
            State::Exited { .. } | State::Fatal { .. } => !self.sweeps() && self.goal != Goal::Up,
            _ => false,
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        self.is_stopped() && self.goal == Goal::Gone
    }

    /// How it ended for good by itself, and when.
    pub(super) fn end(&self) -> Option<(&Exit, Time)> {
        match &self.state {
            State::Exited { exit, at, .. } | State::Fatal { exit, at, .. } => Some((exit, *at)),
            _ => None,
        }
    }

    /// Whether that end is one that was not wished for.
    pub(super) fn has_failed(&self) -> bool {
        match &self.state {
            State::Fatal { .. } => true,
            State::Exited { exit, .. } => !restart::expected(&self.spec.restart, exit),
            _ => false,
        }
    }

    /// What a person reads while it waits for others to be ready.
    pub(super) fn waits(&mut self, text: &mut String) {
        if self.why != *text {
            std::mem::swap(&mut self.why, text);
        }
    }
}

// What is asked of it.
impl Process {
    pub(super) fn new(id: ProcessId, spec: Spec, now: Time) -> Process {
        let goal = if spec.autostart { Goal::Up } else { Goal::Down };
        let why = if spec.autostart { "not started yet" } else { "not started: autostart is off" }.to_owned();
        Process {
            id,
            spec: Box::new(spec),
            incoming: None,
            goal,
            state: State::Stopped,
            why,
            since: now,
            starts: 0,
            last_start: None,
            last_exit: None,
            unwell: None,
            record: Record::default(),
        }
    }

    pub(super) fn asked_to_start(&mut self) {
        if self.goal == Goal::Gone {
            return;
        }
        self.goal = Goal::Up;
        match &mut self.state {
            State::Stopped | State::Exited { .. } | State::Fatal { .. } => self.record = Record::default(),
            State::Backoff { retry, .. } => {
                *retry = Retry::Now;
                self.record = Record::default();
            }
            State::Starting { .. } | State::Running { .. } | State::Stopping { .. } => {}
        }
    }

    pub(super) fn asked_to_stop(&mut self) {
        if self.is_stopped() && self.goal == Goal::Up {
            "stopped before it could start".clone_into(&mut self.why);
        }
        if self.goal != Goal::Gone {
            self.end_with(Goal::Down);
        }
    }

    pub(super) fn asked_to_restart(&mut self) {
        match self.state {
            _ if self.goal == Goal::Gone => {}
            State::Stopped | State::Stopping { .. } => self.end_with(Goal::Up),
            State::Exited { .. } | State::Fatal { .. } if !self.sweeps() => self.end_with(Goal::Up),
            _ => self.end_with(Goal::Again),
        }
    }

    /// A person, a new plan or the end of hob settles what comes after the stop; a start after it begins afresh.
    fn end_with(&mut self, goal: Goal) {
        self.goal = goal;
        self.record = Record::default();
        if let State::Stopping { then, .. } = &mut self.state {
            *then = Then::Rest;
        }
    }

    /// The plan does not name it any more. Whether that is news.
    pub(super) fn leave(&mut self) -> bool {
        if self.goal == Goal::Gone {
            return false;
        }
        self.incoming = None;
        self.end_with(Goal::Gone);
        true
    }

    /// The plan names it, and by this spec. Whether anything changed.
    pub(super) fn replan(&mut self, spec: Spec, moved: bool, common: &mut Common) -> bool {
        let returns = self.goal == Goal::Gone;
        if *self.incoming.as_deref().unwrap_or(&self.spec) == spec && !returns && !moved {
            return false;
        }
        let fresh = if spec.autostart { Goal::Up } else { Goal::Down };
        if moved || needs_new_run(&self.spec, &spec) {
            match self.state {
                State::Stopped | State::Backoff { .. } | State::Exited { .. } | State::Fatal { .. } => {
                    let was_up = self.goal == Goal::Up;
                    self.incoming = Some(Box::new(spec));
                    self.take_over(common);
                    match self.state {
                        // A person who has corrected the command wants to see it run, and at once.
                        State::Exited { .. } | State::Fatal { .. } if self.goal == Goal::Rest => self.goal = fresh,
                        State::Backoff { .. } if was_up => self.asked_to_start(),
                        _ => {}
                    }
                }
                State::Starting { .. } | State::Running { .. } => {
                    self.incoming = Some(Box::new(spec));
                    if self.goal == Goal::Up {
                        self.end_with(Goal::Again);
                    }
                }
                State::Stopping { .. } => self.incoming = Some(Box::new(spec)),
            }
        } else {
            self.incoming = None;
            if *self.spec != spec {
                common.order_changed |= self.spec.after != spec.after || self.spec.priority != spec.priority;
                *self.spec = spec;
                common.act(Action::Updated(self.id));
            }
        }
        if returns {
            self.goal = match self.state {
                State::Starting { .. } | State::Running { .. } if self.incoming.is_some() => Goal::Again,
                State::Starting { .. } | State::Running { .. } => Goal::Up,
                _ => fresh,
            };
        }
        true
    }

    pub(super) fn set_autostart(&mut self, autostart: bool) {
        self.spec.autostart = autostart;
        if let Some(incoming) = &mut self.incoming {
            incoming.autostart = autostart;
        }
    }

    pub(super) fn take_over(&mut self, common: &mut Common) {
        if let Some(spec) = self.incoming.take() {
            common.order_changed |= self.spec.after != spec.after || self.spec.priority != spec.priority;
            self.spec = spec;
            self.record = Record::default();
            common.act(Action::Updated(self.id));
        }
    }

    /// hob ends; with a grace, sooner than the spec says.
    pub(super) fn shut_down(&mut self, common: &mut Common) {
        self.incoming = None;
        let goal = if self.goal == Goal::Gone { Goal::Gone } else { Goal::Down };
        self.end_with(goal);
        let kill_by = common.now + self.grace(common);
        if let (State::Stopping { step, .. }, Some(_)) = (&mut self.state, common.grace) {
            match step {
                Step::Draining { signal_at } => *signal_at = common.now,
                Step::Signalled { kill_at } | Step::Sweeping { kill_at, .. } => *kill_at = kill_by.min(*kill_at),
                Step::Killed { .. } | Step::SweepingHard { .. } => {}
            }
            while self.due(common) {}
        }
    }

    pub(super) fn grace(&self, common: &Common) -> Duration {
        common.grace.map_or(self.spec.stop.wait, |grace| grace.min(self.spec.stop.wait))
    }
}

/// Whether a process that runs by one spec has to be started anew to run by the other. Not for what is only looked at
/// later: when it ends, when it is stopped, or by the logger. A second log stream needs a second pipe, though.
fn needs_new_run(old: &Spec, new: &Spec) -> bool {
    let mut same = new.clone();
    same.autostart = old.autostart;
    same.priority = old.priority;
    same.after.clone_from(&old.after);
    same.restart = old.restart.clone();
    same.stop = old.stop.clone();
    if old.log.stderr.is_some() == new.log.stderr.is_some() {
        same.log = old.log.clone();
    }
    same != *old
}

/// After so long with SIGKILL, nothing else waits for it any more.
const HOPELESS: Duration = Duration::from_secs(10);
