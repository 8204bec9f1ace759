//! What happens to a process, and how one of its states becomes another. The essay is in `process`.

use std::time::Duration;

use super::event::{Action, Change, Exit, Job, Phase, Run, Survivor, Time, signal_name};
use super::probe::{self, Inquiry};
use super::process::Process;
use super::restart::{self, Verdict};
use super::state::{Awaits, Goal, Retry, State, Step, Then};
use super::{Common, SIGKILL, words};
use crate::plan::{Backoff, Reach, ReadyBy};

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
        self.last_start = Some(common.now);
        let now = common.now;
        let awaits = match &self.spec.ready {
            None => Awaits::Time { settled_at: now + self.spec.restart.startsecs },
            Some(ready) => match &ready.by {
                ReadyBy::Notify => Awaits::Notice { give_up_at: now + ready.within },
                ReadyBy::Probe(_) => Awaits::Probe { give_up_at: now + ready.within, inquiry: Inquiry::new(now) },
            },
        };
        self.change(State::Starting { run, started_at: now, awaits }, why, None, common);
        // supervisord tries to make the child first: one that cannot be made was never RUNNING.
        if self.spec.restart.backoff == Backoff::Doubling {
            while self.due(common) {}
        }
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
            State::Backoff { .. } if !self.sweeps() => {
                self.change(State::Stopped, format!("{reason}, before the next try"), None, common);
                self.take_over(common);
            }
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
        if !matches!(self.state, State::Stopping { .. }) {
            self.unwell = None;
        }
        match &self.state {
            State::Starting { started_at, .. } | State::Running { started_at, .. } => {
                let lived = common.now.since(*started_at);
                if self.goal == Goal::Up {
                    let early = self.phase() == Phase::Starting;
                    let verdict = restart::after_death(&self.spec.restart, &mut self.record, &exit, lived, early);
                    let why = words::ended(&exit, &self.spec, lived);
                    self.follow(verdict, run, exit, why, common);
                } else {
                    // It was to be stopped, and only waited for others to go first.
                    let why = format!("{}, while its stop was due", words::ended(&exit, &self.spec, lived));
                    let started_at = *started_at;
                    if self.sweeps() {
                        self.sweep(run, started_at, Some(exit), why, common);
                    } else {
                        self.change(State::Stopped, why, Some(exit), common);
                        self.take_over(common);
                    }
                    if self.goal == Goal::Again {
                        self.goal = Goal::Up;
                    }
                }
            }
            State::Stopping { .. } if !self.sweeps() => self.finish_stop(common),
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

    pub(super) fn found_unwell(&mut self, from: Run, why: String, common: &mut Common) -> bool {
        let is_it = self.run() == Some(from) && self.phase() != Phase::Stopping && self.goal == Goal::Up;
        if is_it {
            self.begin_stop(Then::Unhealthy, why, common);
        }
        is_it
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
        if self.spec.restart.backoff == Backoff::Linear {
            self.pass_through(verdict, run, &exit, &why, common);
        }
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
                let delay = match self.spec.restart.backoff {
                    Backoff::Doubling => common.chance.stretch(delay),
                    Backoff::Linear => delay,
                };
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

    /// The state that supervisord shows on the way to the next one, for those who count on its events: EXITED between
    /// RUNNING and a delayed restart, BACKOFF between the last failure and FATAL.
    fn pass_through(&mut self, verdict: Verdict, run: Run, exit: &Exit, why: &str, common: &mut Common) {
        let at = common.now;
        let is_running = self.phase() == Phase::Running;
        let state = match verdict {
            Verdict::After(_) if is_running && !matches!(exit, Exit::CannotExec { .. }) => {
                State::Exited { run, exit: exit.clone(), at }
            }
            Verdict::GiveUp => State::Backoff { run, retry: Retry::Now },
            _ => return,
        };
        self.change(state, why.to_owned(), Some(exit.clone()), common);
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
        self.unwell = (then == Then::Unhealthy).then(|| reason.clone());
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
        let why = format!("stopped: {}", words::exit(&exit, &self.spec));
        self.change(State::Stopped, why, Some(exit), common);
        self.take_over(common);
    }

    /// Whether a stop also ends what the child has left behind.
    pub(super) fn sweeps(&self) -> bool {
        self.spec.stop.reach == Reach::Everything
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
            tries: self.record.failures,
        }));
        self.why = why;
    }
}

fn signalled(signal: i32, grace: Duration) -> String {
    format!("{}, SIGKILL after {}", signal_name(signal), words::setting(grace))
}

/// Between two SIGKILLs to a child that is not reaped.
const KILL_AGAIN: Duration = Duration::from_secs(2);
/// Between two sweeps with SIGKILL.
const SWEEP_AGAIN: Duration = Duration::from_secs(1);
/// Survivors that are kept, for display.
const SURVIVORS_MAX: usize = 64;
