//! Decides. Events and the time go in, actions come out; no clock, no file, no syscall.
//!
//! What one process does next is decided where its state is (`process`); what processes mean to each other (`after`,
//! shutdown, removal) is not propagated but asked again after every batch of events: is it wanted, may it start, may
//! it stop? `handle` only marks the table as touched, so a thousand deaths at once cost one such pass.

pub mod event;
mod order;
mod process;
mod restart;
mod snapshot;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::process::Process;
pub use self::snapshot::Snapshot;

use self::event::{Action, Change, Event, Exit, Job, ProcessId, Run, Survivor, Time};
use self::order::Order;
use self::process::{Goal, Leaving, Probing, State, Then, needs_restart, show};
use self::restart::{Dice, Next, StartRate, backoff, is_expected, next};
use crate::plan::{ExitWhen, Name, Plan, ReadyBy, Spec};

pub struct Supervisor {
    plan: Plan,
    /// In the order of the plan; what the plan has dropped stands at the end until it is gone.
    table: Vec<Process>,
    index: HashMap<ProcessId, usize>,
    order: Order,
    next_id: u32,
    next_run: u64,
    dice: Dice,
    rate: StartRate,
    shutdown: Option<Shutdown>,
    actions: VecDeque<Action>,
    touched: Option<Time>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Shutdown {
    /// Shortens every grace that is longer.
    grace: Option<Duration>,
    finish: Finish,
}

/// How it all ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Finish {
    /// The process whose end decided it, with `exit_when`; nobody when somebody asked for the shutdown.
    pub by: Option<Name>,
    pub exit: Option<Exit>,
}

impl Supervisor {
    /// An empty table. The seed is for jitter alone.
    pub fn new(seed: u64) -> Supervisor {
        Supervisor {
            plan: Plan::default(),
            table: Vec::new(),
            index: HashMap::new(),
            order: Order::default(),
            next_id: 0,
            next_run: 1,
            dice: Dice::new(seed),
            rate: StartRate::new(),
            shutdown: None,
            actions: VecDeque::new(),
            touched: None,
        }
    }

    /// Something happened.
    pub fn handle(&mut self, now: Time, event: Event) {
        self.touched = Some(now);
        match event {
            Event::Plan(plan) => self.take_plan(now, plan),
            Event::Start(id) => self.with(id, |this, at| this.start_asked(now, at)),
            Event::Stop(id) => self.with(id, |this, at| this.stop_asked(now, at)),
            Event::Restart(id) => self.with(id, |this, at| this.restart_asked(now, at)),
            Event::Shutdown { grace } => self.begin_shutdown(now, grace, Finish::default()),
            Event::Exited(run, exit) => self.with(run.job.process(), |this, at| this.exited(now, at, run, exit)),
            Event::Swept(run, left) => self.with(run.job.process(), |this, at| this.swept(now, at, run, left)),
            Event::HeardReady(run) => self.with(run.job.process(), |this, at| this.heard_ready(now, at, run)),
            Event::ProbeSaid(run, text) => self.with(run.job.process(), |this, at| this.table[at].probe_said = text),
        }
    }

    /// Something is due.
    pub fn handle_timeout(&mut self, now: Time) {
        for at in 0..self.table.len() {
            if self.table[at].deadline().is_some_and(|due| due <= now) {
                self.touched = Some(now);
                self.due(now, at);
            }
        }
    }

    /// When to come back.
    pub fn next_deadline(&self) -> Option<Time> {
        self.table.iter().filter_map(Process::deadline).min()
    }

    /// What to do next, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        if let Some(now) = self.touched.take() {
            self.reconcile(now);
        }
        self.actions.pop_front()
    }

    /// How it ended, once everything is stopped after a shutdown. All actions have to be polled before.
    pub fn finished(&self) -> Option<&Finish> {
        let shutdown = self.shutdown.as_ref()?;
        let quiet = self.touched.is_none() && self.actions.is_empty();
        (quiet && self.table.iter().all(Process::is_settled)).then_some(&shutdown.finish)
    }

    pub fn is_shutting_down(&self) -> bool {
        self.shutdown.is_some()
    }

    /// What holds for all; its specs are in the table.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// In the order of the plan.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.table.iter()
    }

    pub fn process(&self, id: ProcessId) -> Option<&Process> {
        self.table.get(*self.index.get(&id)?)
    }

    /// Whom a process waits for before it may start, or stop.
    pub fn waits_for(&self, id: ProcessId) -> Vec<Name> {
        let Some(&at) = self.index.get(&id) else { return Vec::new() };
        let process = &self.table[at];
        let waiting: Vec<usize> = match process.state {
            State::Stopped if process.goal == Goal::Up => self.not_up(at).collect(),
            _ if self.shutdown.is_some() && process.is_alive() => self.dependents_alive(at).collect(),
            _ => Vec::new(),
        };
        waiting.into_iter().map(|n| self.table[n].spec.name.clone()).collect()
    }

    fn with(&mut self, id: ProcessId, act: impl FnOnce(&mut Self, usize)) {
        if let Some(&at) = self.index.get(&id) {
            act(self, at);
        }
    }

    // What a person asks.

    fn start_asked(&mut self, now: Time, at: usize) {
        let process = &mut self.table[at];
        if process.goal == Goal::Gone || self.shutdown.is_some() {
            return;
        }
        process.goal = Goal::Up;
        match &mut process.state {
            State::Starting { .. } | State::Running { .. } | State::Stopped => {}
            State::Stopping { then, .. } => {
                if *then == Then::Stay {
                    *then = Then::StartAgain { spec: None };
                }
            }
            State::Backoff { .. } | State::Exited | State::Fatal => self.stand_ready(now, at, "asked to start"),
        }
    }

    fn stop_asked(&mut self, now: Time, at: usize) {
        if self.table[at].goal != Goal::Gone {
            self.table[at].goal = Goal::Down;
        }
        self.stop(now, at, Then::Stay, "asked to stop");
    }

    fn restart_asked(&mut self, now: Time, at: usize) {
        if self.table[at].goal == Goal::Gone || self.shutdown.is_some() {
            return;
        }
        self.table[at].goal = Goal::Up;
        self.stop(now, at, Then::StartAgain { spec: None }, "asked to restart");
    }

    // What a child causes.

    fn exited(&mut self, now: Time, at: usize, run: Run, exit: Exit) {
        match run.job {
            Job::Process(_) => self.child_exited(now, at, run, exit),
            Job::ReadyProbe(_) | Job::HealthProbe(_) => self.probe_ended(now, at, run, exit == Exit::Code(0)),
        }
    }

    fn child_exited(&mut self, now: Time, at: usize, run: Run, exit: Exit) {
        if self.table[at].run() != Some(run) {
            return;
        }
        self.table[at].last_exit = Some((exit.clone(), now));
        let stop_signal = self.table[at].spec.stop.signal;
        match self.table[at].state.clone() {
            State::Starting { began, probe, .. } => {
                self.cancel(probe);
                // A start without a time to prove itself in was good the moment it was made.
                let proven =
                    self.table[at].spec.ready.is_none() && self.table[at].spec.restart.startsecs <= now.since(began);
                self.died(now, at, began, exit, !proven);
            }
            State::Running { began, probe, .. } => {
                self.cancel(probe);
                self.died(now, at, began, exit, false);
            }
            State::Stopping { run, leaving, then, survivors } => {
                let (leaving, signal) = match leaving {
                    Leaving::Draining { .. } => (Leaving::Sweeping { kill_at: now + self.grace(at) }, stop_signal),
                    Leaving::Signalled { kill_at } => (Leaving::Sweeping { kill_at }, stop_signal),
                    Leaving::Killed { again_at } => (Leaving::SweepingKilled { again_at }, SIGKILL),
                    // `run()` has none in these.
                    Leaving::Sweeping { .. } | Leaving::SweepingKilled { .. } => return,
                };
                self.table[at].state = State::Stopping { run, leaving, then, survivors };
                self.actions.push_back(Action::Sweep(run, signal));
            }
            State::Stopped | State::Backoff { .. } | State::Exited | State::Fatal => {}
        }
    }

    /// It ended and nobody asked it to.
    fn died(&mut self, now: Time, at: usize, began: Time, exit: Exit, early: bool) {
        let lived = now.since(began);
        let process = &mut self.table[at];
        process.quick_deaths = if lived < QUICK { process.quick_deaths + 1 } else { 0 };
        let early = early || process.quick_deaths > QUICK_DEATHS_MAX;
        if !early && lived >= process.spec.restart.startsecs.max(process.spec.restart.delay) {
            process.failures = 0;
        }
        let text = match &exit {
            Exit::CannotExec { .. } => self.tell_exec(at, &exit),
            _ => format!("{exit} after {}", show(lived)),
        };
        let policy = &self.table[at].spec.restart;
        let next = if self.shutdown.is_some() { Next::Enough } else { next(policy, &exit, early) };
        match next {
            Next::Enough => {
                let verdict = if is_expected(policy, &exit) { "expected" } else { "not expected" };
                self.enter(now, at, State::Exited, format!("{text}; {verdict}"), Some(exit));
                self.table[at].goal = self.after_the_end(at);
            }
            Next::Hopeless => self.enter(now, at, State::Fatal, text, Some(exit)),
            Next::Later => self.fail(now, at, text, Some(exit)),
            Next::Again => {
                self.enter(now, at, State::Exited, text, Some(exit));
                match self.rate.take(now) {
                    None => self.start_or_wait(now, at, "restarting at once"),
                    Some(wait) => {
                        let why = format!("too many restarts at once, next try in {}", show(wait));
                        self.enter(now, at, State::Backoff { retry_at: now + wait }, why, None);
                    }
                }
            }
        }
    }

    /// A process that has done its work is still wanted: what is after it may depend on that.
    fn after_the_end(&self, at: usize) -> Goal {
        if self.table[at].goal == Goal::Gone { Goal::Gone } else { Goal::Down }
    }

    fn tell_exec(&self, at: usize, exit: &Exit) -> String {
        let text = exit.to_string();
        match text.strip_prefix("cannot exec: ") {
            Some(why) => format!("cannot exec {}: {why} (stage exec)", self.table[at].spec.command.line),
            None => format!("{text} (of {})", self.table[at].spec.command.line),
        }
    }

    /// A start that failed: later again, or never.
    fn fail(&mut self, now: Time, at: usize, text: String, exit: Option<Exit>) {
        let process = &mut self.table[at];
        process.failures += 1;
        let failures = process.failures;
        if process.spec.restart.startretries.is_some_and(|max| failures > max) {
            process.failures = 0;
            let tries = if failures == 1 { "1 try".to_owned() } else { format!("{failures} tries") };
            return self.enter(now, at, State::Fatal, format!("gave up after {tries}: {text}"), exit);
        }
        let wait = backoff(&process.spec.restart, failures, &mut self.dice);
        let of = process.spec.restart.startretries.map_or(String::new(), |max| format!(" ({failures} of {max})"));
        let why = format!("{text}, retrying in {}{of}", show(wait));
        self.enter(now, at, State::Backoff { retry_at: now + wait }, why, exit);
    }

    fn swept(&mut self, now: Time, at: usize, run: Run, left: Vec<Survivor>) {
        let State::Stopping { run: current, leaving, then, survivors } = &mut self.table[at].state else { return };
        if *current != run || !matches!(leaving, Leaving::Sweeping { .. } | Leaving::SweepingKilled { .. }) {
            return;
        }
        if !left.is_empty() {
            *survivors = left;
            return;
        }
        let then = then.clone();
        self.stopped(now, at, then);
    }

    /// The stop is complete.
    fn stopped(&mut self, now: Time, at: usize, then: Then) {
        let text = match &self.table[at].last_exit {
            Some((exit, when)) if *when >= self.table[at].since => format!("stopped: {exit}"),
            _ => "stopped".to_owned(),
        };
        let exit = self.table[at].last_exit.clone().map(|(exit, _)| exit);
        match then {
            Then::CountFailure { why } if self.shutdown.is_none() && self.table[at].goal == Goal::Up => {
                self.fail(now, at, why, exit);
            }
            Then::StartAgain { spec } => {
                if let Some(spec) = spec {
                    self.take_spec(at, *spec);
                }
                self.forgive(at);
                self.enter(now, at, State::Stopped, text, exit);
            }
            Then::Stay | Then::CountFailure { .. } => {
                self.forgive(at);
                self.enter(now, at, State::Stopped, text, exit);
            }
        }
    }

    fn forgive(&mut self, at: usize) {
        self.table[at].failures = 0;
        self.table[at].quick_deaths = 0;
    }

    // Readiness and health.

    fn heard_ready(&mut self, now: Time, at: usize, run: Run) {
        let by_message = self.table[at].spec.ready.as_ref().is_some_and(|r| r.by == ReadyBy::Notify);
        if by_message && self.table[at].run() == Some(run) && matches!(self.table[at].state, State::Starting { .. }) {
            self.run_well(now, at, "ready: it said so".into());
        }
    }

    fn probe_ended(&mut self, now: Time, at: usize, run: Run, good: bool) {
        let process = &mut self.table[at];
        let limit = process.spec.health.as_ref().map_or(0, |h| h.failures.max(1));
        let every = process.spec.health.as_ref().map_or(Duration::from_secs(10), |h| h.every.max(PROBE_FIRST));
        match &mut process.state {
            State::Starting { began, probe, .. } if *probe == Probing::Asking(run) => {
                if good {
                    let said = format!("ready: {}", process.probe_said);
                    return self.run_well(now, at, said);
                }
                // Eager at first, then calmer: a slow starter is not to be kept busy with questions.
                let pause = (now.since(*began) / 8).clamp(PROBE_FIRST, PROBE_LATER);
                *probe = Probing::AskAt(now + pause);
            }
            State::Running { probe, failed_probes, .. } if *probe == Probing::Asking(run) => {
                *probe = Probing::AskAt(now + every);
                *failed_probes = if good { 0 } else { *failed_probes + 1 };
                if *failed_probes >= limit && limit > 0 {
                    let why = format!("unhealthy: {} failed probes, the last one said: {}", limit, process.probe_said);
                    self.stop(now, at, Then::StartAgain { spec: None }, &why);
                }
            }
            _ => {}
        }
    }

    fn run_well(&mut self, now: Time, at: usize, why: String) {
        let State::Starting { run, began, probe, .. } = self.table[at].state else { return };
        self.cancel(probe);
        let probe = match &self.table[at].spec.health {
            Some(health) => Probing::AskAt(now + health.every.max(PROBE_FIRST)),
            None => Probing::Off,
        };
        self.enter(now, at, State::Running { run, began, probe, failed_probes: 0 }, why, None);
    }

    fn cancel(&mut self, probe: Probing) {
        if let Probing::Asking(run) = probe {
            self.actions.push_back(Action::Signal(run, SIGKILL));
        }
    }

    // What time causes.

    fn due(&mut self, now: Time, at: usize) {
        match self.table[at].state.clone() {
            State::Starting { run, began, settled_at, probe } => {
                if settled_at <= now {
                    return self.settled(now, at, now.since(began));
                }
                let probe = self.ask(at, probe, Job::ReadyProbe(self.table[at].id));
                self.table[at].state = State::Starting { run, began, settled_at, probe };
            }
            State::Running { run, began, probe, failed_probes } => {
                let probe = self.ask(at, probe, Job::HealthProbe(self.table[at].id));
                self.table[at].state = State::Running { run, began, probe, failed_probes };
            }
            State::Backoff { .. } => self.start_or_wait(now, at, "next try"),
            State::Stopping { run, leaving, then, survivors } => {
                let leaving = self.press(now, at, run, leaving);
                self.table[at].state = State::Stopping { run, leaving, then, survivors };
            }
            State::Stopped | State::Exited | State::Fatal => {}
        }
    }

    /// The time to prove itself is over: that is good without a readiness probe and bad with one.
    fn settled(&mut self, now: Time, at: usize, lived: Duration) {
        let Some(ready) = &self.table[at].spec.ready else {
            return self.run_well(now, at, format!("has stayed up for {}", show(lived)));
        };
        let mut why = format!("not ready within {}", show(ready.within));
        if !self.table[at].probe_said.is_empty() {
            why += &format!(": {}", self.table[at].probe_said);
        }
        self.stop(now, at, Then::CountFailure { why: why.clone() }, &why);
    }

    fn ask(&mut self, at: usize, probe: Probing, job: Job) -> Probing {
        if !matches!(probe, Probing::AskAt(_)) {
            return probe;
        }
        debug_assert_eq!(job.process(), self.table[at].id);
        let run = self.new_run(job);
        self.actions.push_back(Action::Spawn(run));
        Probing::Asking(run)
    }

    /// The next, harder step of a stop.
    fn press(&mut self, now: Time, at: usize, run: Run, leaving: Leaving) -> Leaving {
        match leaving {
            Leaving::Draining { .. } => {
                self.actions.push_back(Action::Signal(run, self.table[at].spec.stop.signal));
                Leaving::Signalled { kill_at: now + self.grace(at) }
            }
            Leaving::Signalled { .. } | Leaving::Killed { .. } => {
                self.actions.push_back(Action::Signal(run, SIGKILL));
                Leaving::Killed { again_at: now + KILL_AGAIN }
            }
            Leaving::Sweeping { .. } | Leaving::SweepingKilled { .. } => {
                self.actions.push_back(Action::Sweep(run, SIGKILL));
                Leaving::SweepingKilled { again_at: now + SWEEP_AGAIN }
            }
        }
    }

    fn grace(&self, at: usize) -> Duration {
        let wait = self.table[at].spec.stop.wait;
        self.shutdown.as_ref().and_then(|s| s.grace).map_or(wait, |grace| wait.min(grace))
    }

    // Transitions.

    /// Begins a stop, from whatever state.
    fn stop(&mut self, now: Time, at: usize, then: Then, why: &str) {
        let process = &self.table[at];
        let stop = process.spec.stop.clone();
        match process.state.clone() {
            State::Starting { run, probe, .. } | State::Running { run, probe, .. } => {
                self.cancel(probe);
                let leaving = if stop.drain.is_zero() || self.shutdown.as_ref().is_some_and(|s| s.grace.is_some()) {
                    self.actions.push_back(Action::Signal(run, stop.signal));
                    Leaving::Signalled { kill_at: now + self.grace(at) }
                } else {
                    Leaving::Draining { signal_at: now + stop.drain }
                };
                let state = State::Stopping { run, leaving, then, survivors: Vec::new() };
                self.enter(now, at, state, why.to_owned(), None);
            }
            State::Stopping { run, leaving, survivors, .. } => {
                self.table[at].state = State::Stopping { run, leaving, then, survivors };
            }
            State::Backoff { .. } | State::Exited | State::Fatal => match process.last_run {
                // Helpers of the run that ended may be left, and a stop leaves nothing.
                Some(run) => {
                    let leaving = Leaving::Sweeping { kill_at: now + self.grace(at) };
                    let state = State::Stopping { run, leaving, then, survivors: Vec::new() };
                    self.enter(now, at, state, why.to_owned(), None);
                    self.actions.push_back(Action::Sweep(run, stop.signal));
                }
                None => self.stopped(now, at, then),
            },
            State::Stopped => self.stopped(now, at, then),
        }
    }

    /// Makes a process that has ended one that waits for its start, with a clean record.
    fn stand_ready(&mut self, now: Time, at: usize, why: &str) {
        self.forgive(at);
        self.enter(now, at, State::Stopped, why.to_owned(), None);
    }

    fn start_or_wait(&mut self, now: Time, at: usize, why: &str) {
        if self.shutdown.is_some() || self.table[at].goal != Goal::Up {
            return self.enter(now, at, State::Stopped, why.to_owned(), None);
        }
        if self.not_up(at).next().is_some() {
            let why = format!("waits for {}", self.name_those(self.not_up(at)));
            return self.enter(now, at, State::Stopped, why, None);
        }
        self.start(now, at, why);
    }

    fn start(&mut self, now: Time, at: usize, why: &str) {
        let run = self.new_run(Job::Process(self.table[at].id));
        let process = &mut self.table[at];
        process.starts += 1;
        process.last_run = Some(run);
        process.probe_said.clear();
        let (settled_at, probe) = match &process.spec.ready {
            Some(ready) if matches!(ready.by, ReadyBy::Probe(_)) => {
                (now + ready.within, Probing::AskAt(now + PROBE_FIRST))
            }
            Some(ready) => (now + ready.within, Probing::Off),
            None => (now + process.spec.restart.startsecs, Probing::Off),
        };
        let at_once = process.spec.ready.is_none() && process.spec.restart.startsecs.is_zero();
        self.enter(now, at, State::Starting { run, began: now, settled_at, probe }, why.to_owned(), None);
        self.actions.push_back(Action::Spawn(run));
        if at_once {
            self.run_well(now, at, "started".into());
        }
    }

    fn new_run(&mut self, job: Job) -> Run {
        let number = self.next_run;
        self.next_run += 1;
        Run { job, number }
    }

    /// Changes the state and says so. A change within the same state name is none to the outside.
    fn enter(&mut self, now: Time, at: usize, state: State, why: String, exit: Option<Exit>) {
        let process = &mut self.table[at];
        let from = process.phase();
        process.state = state;
        process.why = why.clone();
        let to = process.phase();
        if from == to {
            return;
        }
        process.since = now;
        let name = process.spec.name.clone();
        self.actions.push_back(Action::Changed(Change { id: process.id, name, from, to, at: now, why, exit }));
    }

    // Order between processes.

    fn not_up(&self, at: usize) -> impl Iterator<Item = usize> {
        self.order.needs(at).iter().copied().filter(|&n| !self.is_up(n))
    }

    /// What is after it may start.
    fn is_up(&self, at: usize) -> bool {
        let process = &self.table[at];
        match (&process.state, &process.last_exit) {
            (State::Exited, Some((exit, _))) => {
                process.spec.restart.oneshot && is_expected(&process.spec.restart, exit)
            }
            _ => process.is_ready() && !process.spec.restart.oneshot,
        }
    }

    fn dependents_alive(&self, at: usize) -> impl Iterator<Item = usize> {
        self.order.needed_by(at).iter().copied().filter(|&n| self.table[n].is_alive())
    }

    fn name_those(&self, those: impl Iterator<Item = usize>) -> String {
        those.map(|n| self.table[n].spec.name.to_string()).collect::<Vec<_>>().join(", ")
    }

    /// Asks of every process whether it may start, stop or go, until nothing moves.
    fn reconcile(&mut self, now: Time) {
        loop {
            let before = self.actions.len();
            for n in 0..self.order.by_priority().len() {
                let at = self.order.by_priority()[n];
                self.advance(now, at);
            }
            self.forget_the_gone();
            self.consider_the_end(now);
            if self.actions.len() == before {
                return;
            }
        }
    }

    fn advance(&mut self, now: Time, at: usize) {
        let process = &self.table[at];
        match &process.state {
            State::Stopped if process.goal == Goal::Up && self.shutdown.is_none() => {
                if self.not_up(at).next().is_none() {
                    self.start(now, at, "starting");
                } else {
                    let why = format!("waits for {}", self.name_those(self.not_up(at)));
                    self.table[at].why = why;
                }
            }
            State::Starting { .. } | State::Running { .. } if self.shutdown.is_some() => {
                if self.dependents_alive(at).next().is_none() {
                    self.table[at].goal = self.after_the_end(at);
                    self.stop(now, at, Then::Stay, "shutting down");
                }
            }
            State::Backoff { .. } | State::Stopped if self.shutdown.is_some() && process.goal == Goal::Up => {
                self.table[at].goal = Goal::Down;
                self.enter(now, at, State::Stopped, "shutting down".into(), None);
            }
            _ => {}
        }
    }

    fn forget_the_gone(&mut self) {
        let gone = |p: &Process| p.goal == Goal::Gone && p.is_settled();
        if self.table.iter().any(gone) {
            self.actions.extend(self.table.iter().filter(|p| gone(p)).map(|p| Action::Removed(p.id)));
            self.table.retain(|p| !gone(p));
            self.rebuild();
        }
    }

    /// Whether `exit_when` says that this is the end.
    fn consider_the_end(&mut self, now: Time) {
        if self.shutdown.is_some() {
            return;
        }
        let failed = |p: &&Process| match (&p.state, &p.last_exit) {
            (State::Fatal, _) => true,
            (State::Exited, Some((exit, _))) => !is_expected(&p.spec.restart, exit),
            _ => false,
        };
        let decides = |p: &&Process| failed(p) && (p.spec.restart.oneshot || p.state == State::Fatal);
        let decided = match self.plan.exit_when {
            ExitWhen::Never => return,
            ExitWhen::AnyFatal => match self.table.iter().find(decides) {
                Some(process) => Some(process),
                None => return,
            },
            ExitWhen::AllExited => {
                let over = self.table.iter().all(Process::is_settled) && self.table.iter().any(|p| p.starts > 0);
                if !over {
                    return;
                }
                self.table.iter().filter(failed).max_by_key(|p| p.last_exit.as_ref().map(|(_, at)| *at))
            }
        };
        let finish = decided.map_or(Finish::default(), |p| Finish {
            by: Some(p.spec.name.clone()),
            exit: p.last_exit.clone().map(|(exit, _)| exit).or(Some(Exit::Code(1))),
        });
        self.begin_shutdown(now, None, finish);
    }

    fn begin_shutdown(&mut self, now: Time, grace: Option<Duration>, finish: Finish) {
        match &mut self.shutdown {
            None => self.shutdown = Some(Shutdown { grace, finish }),
            Some(shutdown) => shutdown.grace = grace.or(shutdown.grace),
        }
        let Some(grace) = grace else { return };
        for at in 0..self.table.len() {
            if let State::Stopping { leaving, .. } = &mut self.table[at].state {
                match leaving {
                    Leaving::Draining { signal_at } => *signal_at = now,
                    Leaving::Signalled { kill_at } | Leaving::Sweeping { kill_at } => {
                        *kill_at = (*kill_at).min(now + grace);
                    }
                    Leaving::Killed { .. } | Leaving::SweepingKilled { .. } => {}
                }
            }
        }
    }

    // Plans.

    fn take_plan(&mut self, now: Time, plan: Plan) {
        if self.shutdown.is_some() {
            return;
        }
        let mut old: HashMap<Name, Process> =
            std::mem::take(&mut self.table).into_iter().map(|p| (p.spec.name.clone(), p)).collect();
        let mut changed = Vec::new();
        let env_of = |plan: &Plan, group: &str| plan.instances.iter().find(|i| i.name == group).map(|i| i.env.clone());
        let groups: HashSet<&str> = plan.specs.iter().map(|s| s.name.group.as_str()).collect();
        let moved: HashSet<String> =
            groups.into_iter().filter(|g| env_of(&self.plan, g) != env_of(&plan, g)).map(str::to_owned).collect();
        for spec in &plan.specs {
            let process = match old.remove(&spec.name) {
                Some(process) => {
                    let moved = moved.contains(&spec.name.group);
                    if process.goal == Goal::Gone || process.spec != *spec || moved {
                        changed.push((process.id, spec.clone(), moved));
                    }
                    process
                }
                None => {
                    let id = ProcessId(self.next_id);
                    self.next_id += 1;
                    self.actions.push_back(Action::Added(id));
                    Process::new(id, spec.clone(), now)
                }
            };
            self.table.push(process);
        }
        let mut dropped: Vec<Process> = old.into_values().collect();
        dropped.sort_by_key(|p| p.id);
        let gone: Vec<ProcessId> = dropped.iter().map(|p| p.id).collect();
        self.table.extend(dropped);
        // The table has the specs from here on.
        self.plan = Plan { specs: Vec::new(), ..plan };
        self.rebuild();
        for (id, spec, moved) in changed {
            self.with(id, |this, at| this.change_spec(now, at, spec, moved));
        }
        for id in gone {
            self.with(id, |this, at| {
                this.table[at].goal = Goal::Gone;
                this.stop(now, at, Then::Stay, "not in the configuration any more");
            });
        }
    }

    /// `moved`: the environment of its instance is another one.
    fn change_spec(&mut self, now: Time, at: usize, spec: Spec, moved: bool) {
        let process = &mut self.table[at];
        let returns = process.goal == Goal::Gone;
        if returns {
            process.goal = if spec.autostart { Goal::Up } else { Goal::Down };
        }
        let other_program = moved || needs_restart(&process.spec, &spec);
        match &mut process.state {
            State::Stopping { then, .. } if process.goal == Goal::Up => {
                *then = Then::StartAgain { spec: Some(Box::new(spec)) }
            }
            State::Starting { .. } | State::Running { .. } if other_program => {
                let then = Then::StartAgain { spec: Some(Box::new(spec)) };
                self.stop(now, at, then, "its configuration changed");
            }
            State::Backoff { .. } | State::Exited | State::Fatal if other_program => {
                if spec.autostart {
                    process.goal = Goal::Up;
                }
                self.take_spec(at, spec);
                self.stand_ready(now, at, "its configuration changed");
            }
            _ => self.take_spec(at, spec),
        }
        self.rebuild();
    }

    fn take_spec(&mut self, at: usize, spec: Spec) {
        self.table[at].spec = spec;
        self.actions.push_back(Action::Updated(self.table[at].id));
        self.rebuild();
    }

    fn rebuild(&mut self) {
        self.index = self.table.iter().enumerate().map(|(at, p)| (p.id, at)).collect();
        self.order = Order::of(&self.table);
    }
}

const SIGKILL: i32 = 9;
/// A life shorter than this is quick; so many quick deaths in a row are as good as early ones.
const QUICK: Duration = Duration::from_secs(1);
const QUICK_DEATHS_MAX: u32 = 10;
const KILL_AGAIN: Duration = Duration::from_secs(2);
const SWEEP_AGAIN: Duration = Duration::from_secs(1);
/// Pause between readiness probes, at first and later.
const PROBE_FIRST: Duration = Duration::from_millis(100);
const PROBE_LATER: Duration = Duration::from_secs(1);
