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

use super::event::{Action, Change, Exit, Job, Phase, ProcessId, Run, Survivor, Time, signal_name};
use super::probe::{self, Inquiry};
use super::restart::{self, Record, Verdict};
use super::{Common, SIGKILL, words};
use crate::plan::{Name, ReadyBy, Spec};

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    id: ProcessId,
    // Boxed so that a walk over the table touches little memory.
    spec: Box<Spec>,
    /// The spec of a newer plan that needs a new run: it takes over once the old run is gone.
    incoming: Option<Box<Spec>>,
    goal: Goal,
    state: State,
    /// Why it is in this state, in words.
    why: String,
    /// When it came into this state.
    since: Time,
    starts: u64,
    last_exit: Option<(Exit, Time)>,
    record: Record,
}

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

    pub fn last_exit(&self) -> Option<(&Exit, Time)> {
        self.last_exit.as_ref().map(|(exit, at)| (exit, *at))
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
        self.state == State::Stopped
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
            last_exit: None,
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

    fn take_over(&mut self, common: &mut Common) {
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

    fn grace(&self, common: &Common) -> Duration {
        common.grace.map_or(self.spec.stop.wait, |grace| grace.min(self.spec.stop.wait))
    }
}

// What happens to it.
impl Process {
    /// Those it starts after are ready, and it is wanted.
    pub(super) fn start(&mut self, common: &mut Common) {
        let why = match (self.record.failures, self.starts) {
            (0, 0) => "starts".to_owned(),
            (0, starts) => format!("starts again (restart {starts})"),
            (failures, _) => format!("starts again ({})", words::which_try(failures, &self.spec.restart)),
        };
        let run = common.new_run(Job::Process(self.id));
        common.act(Action::Spawn(run));
        self.goal = Goal::Up;
        self.starts = self.starts.saturating_add(1);
        let now = common.now;
        let awaits = match &self.spec.ready {
            None => Awaits::Time { settled_at: now + self.spec.restart.startsecs },
            Some(ready) => match &ready.by {
                ReadyBy::Notify => Awaits::Notice { give_up_at: now + ready.within },
                ReadyBy::Probe(_) => Awaits::Probe { give_up_at: now + ready.within, inquiry: Inquiry::new(now) },
            },
        };
        self.change(State::Starting { run, started_at: now, awaits }, why, None, common);
        while self.due(common) {}
    }

    /// Those that start after it are gone, and it is not wanted, or not as it is.
    pub(super) fn stop(&mut self, common: &mut Common) {
        let reason = match self.goal {
            _ if common.is_closing() => "hob shuts down",
            Goal::Gone => "no longer in the plan",
            Goal::Again if self.incoming.is_some() => "its settings changed",
            Goal::Again => "restart asked for",
            Goal::Up | Goal::Down | Goal::Rest => "stop asked for",
        };
        match self.state {
            State::Starting { .. } | State::Running { .. } => self.begin_stop(Then::Rest, reason.to_owned(), common),
            State::Backoff { run, .. } | State::Exited { run, .. } | State::Fatal { run, .. } => {
                let now = common.now;
                self.sweep(run, now, None, format!("{reason}; ends what it left behind"), common);
            }
            State::Stopped | State::Stopping { .. } => {}
        }
        if self.goal == Goal::Again {
            self.goal = Goal::Up;
        }
    }

    /// A child of it has been reaped, or could not be made. False if that is none of its business any more; so too
    /// below.
    pub(super) fn exited(&mut self, run: Run, exit: Exit, common: &mut Common) -> bool {
        match run.job {
            Job::Process(_) => self.ended(run, exit, common),
            Job::ReadyProbe(_) => self.ready_answered(run, &exit, common),
            Job::HealthProbe(_) => self.health_answered(run, &exit, common),
        }
    }

    fn ended(&mut self, run: Run, exit: Exit, common: &mut Common) -> bool {
        if self.run() != Some(run) {
            return false;
        }
        // A run whose `startsecs` are over was running, whether the timer or the death was looked at first.
        if !matches!(exit, Exit::CannotExec { .. }) {
            self.settle(common);
        }
        self.drop_probes(common);
        self.last_exit = Some((exit.clone(), common.now));
        match &self.state {
            State::Starting { started_at, .. } | State::Running { started_at, .. } => {
                let lived = common.now.since(*started_at);
                if self.goal == Goal::Up {
                    let early = self.phase() == Phase::Starting;
                    let verdict = restart::after_death(&self.spec.restart, &mut self.record, &exit, lived, early);
                    let why = words::ended(&exit, &self.spec.command, lived);
                    self.follow(verdict, run, exit, why, common);
                } else {
                    // It was to be stopped, and only waited for others to go first.
                    let why = format!("{}, while its stop was due", words::ended(&exit, &self.spec.command, lived));
                    let started_at = *started_at;
                    self.sweep(run, started_at, Some(exit), why, common);
                    if self.goal == Goal::Again {
                        self.goal = Goal::Up;
                    }
                }
            }
            State::Stopping { step, .. } => {
                let (now, signal) = (common.now, self.spec.stop.signal);
                let (signal, step) = match *step {
                    Step::Draining { .. } => {
                        (signal, Step::Sweeping { kill_at: now + self.grace(common), survivors: Vec::new() })
                    }
                    Step::Signalled { kill_at } => (signal, Step::Sweeping { kill_at, survivors: Vec::new() }),
                    Step::Killed { since, .. } => {
                        (SIGKILL, Step::SweepingHard { since, again_at: now + SWEEP_AGAIN, survivors: Vec::new() })
                    }
                    Step::Sweeping { .. } | Step::SweepingHard { .. } => return false,
                };
                common.act(Action::Sweep(run, signal));
                if let State::Stopping { step: old, .. } = &mut self.state {
                    *old = step;
                }
                while self.due(common) {}
            }
            State::Stopped | State::Backoff { .. } | State::Exited { .. } | State::Fatal { .. } => return false,
        }
        true
    }

    /// What is left of it, in answer to a sweep.
    pub(super) fn swept(&mut self, by: Run, left: Vec<Survivor>, common: &mut Common) -> bool {
        let State::Stopping { run, step, .. } = &mut self.state else { return false };
        if *run != by {
            return false;
        }
        let (Step::Sweeping { survivors, .. } | Step::SweepingHard { survivors, .. }) = step else { return false };
        if left.is_empty() {
            self.finish_stop(common);
        } else {
            let first = &left[0];
            self.why = match left.len() {
                1 => format!("waits for what it started to end: {} ({})", first.pid, first.command),
                more => {
                    format!("waits for what it started to end: {} ({}) and {} more", first.pid, first.command, more - 1)
                }
            };
            *survivors = left;
            survivors.truncate(SURVIVORS_MAX);
        }
        true
    }

    pub(super) fn heard_ready(&mut self, from: Run, common: &mut Common) -> bool {
        match &self.state {
            State::Starting { run, awaits: Awaits::Notice { .. }, .. } if *run == from => {
                self.run_on("says it is ready", common);
                true
            }
            _ => false,
        }
    }

    pub(super) fn probe_said(&mut self, run: Run, note: &str) -> bool {
        match &mut self.state {
            State::Starting { awaits: Awaits::Probe { inquiry, .. }, .. }
            | State::Running { health: Some(inquiry), .. } => inquiry.said(run, note),
            _ => false,
        }
    }

    fn ready_answered(&mut self, probe: Run, exit: &Exit, common: &mut Common) -> bool {
        let State::Starting { awaits: Awaits::Probe { inquiry, .. }, .. } = &mut self.state else { return false };
        match inquiry.answered(probe, exit, common.now, probe::ready_pause) {
            None => return false,
            Some(true) => self.run_on("ready", common),
            Some(false) => {
                self.why = format!("not ready yet: {}", inquiry.note());
            }
        }
        true
    }

    fn health_answered(&mut self, probe: Run, exit: &Exit, common: &mut Common) -> bool {
        let State::Running { health: Some(inquiry), .. } = &mut self.state else { return false };
        let Some(health) = &self.spec.health else { return false };
        let every = probe::health_pause(health.every);
        let Some(good) = inquiry.answered(probe, exit, common.now, |_| every) else { return false };
        if !good && inquiry.failures() >= health.failures && self.goal == Goal::Up {
            let why = format!("unhealthy: {} ({} times in a row)", inquiry.note(), inquiry.failures());
            self.begin_stop(Then::Unhealthy, why, common);
        }
        true
    }

    /// Does what is due. True if something was: then ask again, for the next step may be due too.
    pub(super) fn due(&mut self, common: &mut Common) -> bool {
        let now = common.now;
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return false;
        }
        let (signal, grace) = (self.spec.stop.signal, self.grace(common));
        match &mut self.state {
            State::Stopped | State::Exited { .. } | State::Fatal { .. } => {}
            State::Starting { awaits, .. } => match awaits {
                Awaits::Time { .. } => self.settle(common),
                Awaits::Probe { give_up_at, inquiry } if *give_up_at > now => {
                    if let Some(ReadyBy::Probe(probe)) = self.spec.ready.as_ref().map(|ready| &ready.by) {
                        inquiry.due(Job::ReadyProbe(self.id), probe.timeout, common);
                    } else {
                        // The spec no longer asks for it.
                        self.run_on("ready", common);
                    }
                }
                Awaits::Notice { .. } | Awaits::Probe { .. } => self.not_ready(common),
            },
            State::Running { health, .. } => match (&self.spec.health, health.as_mut()) {
                (Some(spec), Some(inquiry)) => inquiry.due(Job::HealthProbe(self.id), spec.probe.timeout, common),
                _ => *health = None,
            },
            State::Backoff { retry, .. } => {
                let at = match retry {
                    Retry::At { passed: false, .. } => common.rate.reserve(now),
                    Retry::At { passed: true, .. } | Retry::Now => now,
                };
                if at > now {
                    *retry = Retry::At { retry_at: at, passed: true };
                    self.why = format!("start rate: many restart, next try in {}", words::length(at.since(now)));
                } else {
                    *retry = Retry::Now;
                }
            }
            State::Stopping { run, step, .. } => match step {
                Step::Draining { .. } => {
                    common.act(Action::Signal(*run, signal));
                    *step = Step::Signalled { kill_at: now + grace };
                    self.why = format!("drained; {}", signalled(signal, grace));
                }
                Step::Signalled { .. } => {
                    common.act(Action::Signal(*run, SIGKILL));
                    *step = Step::Killed { since: now, again_at: now + KILL_AGAIN };
                    self.why = format!("did not end within {}: SIGKILL", words::setting(grace));
                }
                Step::Killed { again_at, .. } => {
                    common.act(Action::Signal(*run, SIGKILL));
                    *again_at = now + KILL_AGAIN;
                }
                Step::Sweeping { survivors, .. } => {
                    common.act(Action::Sweep(*run, SIGKILL));
                    let survivors = std::mem::take(survivors);
                    *step = Step::SweepingHard { since: now, again_at: now + SWEEP_AGAIN, survivors };
                }
                Step::SweepingHard { again_at, .. } => {
                    common.act(Action::Sweep(*run, SIGKILL));
                    *again_at = now + SWEEP_AGAIN;
                }
            },
        }
        true
    }
}

// How one state becomes another.
impl Process {
    /// RUNNING, if it waits for nothing but the time and that has come.
    fn settle(&mut self, common: &mut Common) {
        match self.state {
            State::Starting { awaits: Awaits::Time { settled_at }, .. } if settled_at <= common.now => {
                self.run_on("up", common);
            }
            _ => {}
        }
    }

    fn run_on(&mut self, how: &str, common: &mut Common) {
        let State::Starting { run, started_at, .. } = self.state else { return };
        let lived = common.now.since(started_at);
        let why = if lived.is_zero() { how.to_owned() } else { format!("{how} after {}", words::length(lived)) };
        let health =
            self.spec.health.as_ref().map(|health| Inquiry::new(common.now + probe::health_pause(health.every)));
        self.change(State::Running { run, started_at, health }, why, None, common);
    }

    fn not_ready(&mut self, common: &mut Common) {
        let State::Starting { awaits, started_at, .. } = &self.state else { return };
        let within = self.spec.ready.as_ref().map_or(common.now.since(*started_at), |ready| ready.within);
        let said = match awaits {
            Awaits::Probe { inquiry, .. } => inquiry.note(),
            Awaits::Notice { .. } | Awaits::Time { .. } => "it never said so",
        };
        let why = format!("not ready within {}: {said}", words::setting(within));
        self.begin_stop(Then::Failed { why: why.clone() }, why, common);
    }

    /// What a death means, by the policy.
    fn follow(&mut self, verdict: Verdict, run: Run, exit: Exit, why: String, common: &mut Common) {
        let now = common.now;
        match verdict {
            Verdict::AtOnce => {
                let at = common.rate.reserve(now);
                if at > now {
                    let why = format!("{why}, start rate: next try in {}", words::length(at.since(now)));
                    self.back_off(run, Retry::At { retry_at: at, passed: true }, exit, why, common);
                } else {
                    let state = State::Exited { run, exit: exit.clone(), at: now };
                    self.change(state, format!("{why}, starts again"), Some(exit), common);
                }
            }
            Verdict::After(delay) => {
                let delay = common.chance.stretch(delay);
                let which = words::which_try(self.record.failures, &self.spec.restart);
                let why = format!("{why}, next try in {} ({which})", words::length(delay));
                self.back_off(run, Retry::At { retry_at: now + delay, passed: false }, exit, why, common);
            }
            Verdict::Ended => {
                self.goal = Goal::Rest;
                let why = if restart::expected(&self.spec.restart, &exit) { why } else { format!("{why}, unexpected") };
                self.change(State::Exited { run, exit: exit.clone(), at: now }, why, Some(exit), common);
            }
            Verdict::GiveUp => {
                self.goal = Goal::Rest;
                let why = match self.record.failures {
                    0 | 1 => why,
                    tries => format!("{why}, gave up after {tries} tries"),
                };
                self.change(State::Fatal { run, exit: exit.clone(), at: now }, why, Some(exit), common);
            }
        }
    }

    fn back_off(&mut self, run: Run, retry: Retry, exit: Exit, why: String, common: &mut Common) {
        self.change(State::Backoff { run, retry }, why, Some(exit), common);
        while self.due(common) {}
    }

    fn begin_stop(&mut self, then: Then, reason: String, common: &mut Common) {
        let (State::Starting { run, started_at, .. } | State::Running { run, started_at, .. }) = self.state else {
            return;
        };
        self.drop_probes(common);
        let (now, stop, grace) = (common.now, &self.spec.stop, self.grace(common));
        // Nobody comes to a process that is not ready, or not well; and who is in a hurry has no time to drain.
        let drains = self.is_ready() && then == Then::Rest && common.grace.is_none() && !stop.drain.is_zero();
        let (step, why) = if drains {
            let why = format!("{reason}; drains for {}", words::setting(stop.drain));
            (Step::Draining { signal_at: now + stop.drain }, why)
        } else {
            common.act(Action::Signal(run, stop.signal));
            let why = format!("{reason}; {}", signalled(stop.signal, grace));
            (Step::Signalled { kill_at: now + grace }, why)
        };
        self.change(State::Stopping { run, started_at, step, then }, why, None, common);
        while self.due(common) {}
    }

    /// Ends what a run without a child has left behind.
    fn sweep(&mut self, run: Run, started_at: Time, exit: Option<Exit>, why: String, common: &mut Common) {
        common.act(Action::Sweep(run, self.spec.stop.signal));
        let step = Step::Sweeping { kill_at: common.now + self.grace(common), survivors: Vec::new() };
        self.change(State::Stopping { run, started_at, step, then: Then::Rest }, why, exit, common);
        while self.due(common) {}
    }

    /// Nothing is left of it.
    fn finish_stop(&mut self, common: &mut Common) {
        let State::Stopping { run, started_at, then, .. } = &mut self.state else { return };
        let (run, lived) = (*run, common.now.since(*started_at));
        let exit = self.last_exit.as_ref().map_or(Exit::Unknown, |(exit, _)| exit.clone());
        let then = std::mem::replace(then, Then::Rest);
        if self.goal == Goal::Up && self.incoming.is_none() {
            match then {
                Then::Rest => {}
                Then::Failed { why } => {
                    let verdict = restart::after_no_readiness(&self.spec.restart, &mut self.record);
                    return self.follow(verdict, run, exit, why, common);
                }
                Then::Unhealthy => {
                    self.record.ran(&self.spec.restart, lived);
                    let at = common.rate.reserve(common.now);
                    if at > common.now {
                        let why = format!("unhealthy, start rate: next try in {}", words::length(at.since(common.now)));
                        return self.back_off(run, Retry::At { retry_at: at, passed: true }, exit, why, common);
                    }
                }
            }
        }
        self.change(State::Stopped, format!("stopped: {exit}"), Some(exit), common);
        self.take_over(common);
    }

    fn drop_probes(&mut self, common: &mut Common) {
        match &mut self.state {
            State::Starting { awaits: Awaits::Probe { inquiry, .. }, .. } => inquiry.cancel(common),
            State::Running { health, .. } => {
                if let Some(inquiry) = health.take() {
                    inquiry.cancel(common);
                }
            }
            _ => {}
        }
    }

    fn change(&mut self, to: State, why: String, exit: Option<Exit>, common: &mut Common) {
        let from = self.phase();
        self.state = to;
        self.since = common.now;
        common.act(Action::Changed(Change {
            id: self.id,
            name: self.spec.name.clone(),
            from,
            to: self.phase(),
            at: common.now,
            why: why.clone(),
            exit,
        }));
        self.why = why;
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
    if old.log.stderr_path.is_some() == new.log.stderr_path.is_some() {
        same.log = old.log.clone();
    }
    same != *old
}

fn signalled(signal: i32, grace: Duration) -> String {
    format!("{}, SIGKILL after {}", signal_name(signal), words::setting(grace))
}

/// Between two SIGKILLs to a child that is not reaped.
const KILL_AGAIN: Duration = Duration::from_secs(2);
/// Between two sweeps with SIGKILL.
const SWEEP_AGAIN: Duration = Duration::from_secs(1);
/// After so long with SIGKILL, nothing else waits for it any more.
const HOPELESS: Duration = Duration::from_secs(10);
/// Survivors that are kept, for display.
const SURVIVORS_MAX: usize = 64;
