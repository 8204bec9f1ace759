//! What runs, what is wanted, and what to do about the difference.
//!
//! The supervisor is a value: events and the time go in, actions come out. It reads no clock and touches no file and
//! no process, so a test can live through years of it. `process` knows one process, `order` who starts before whom;
//! here is the table of all, and what they decide together.
//!
//! The order between processes is not propagated, it is asked for again after the events: who wants to stop and may
//! (nobody alive still needs it)? Who wants to start and may (all it needs is ready)? `handle` only changes goals and
//! single states, so a thousand events cost one such round, which happens when the first action is fetched.
//!
//! The daemon's loop: `handle` what happened, `handle_timeout`, then `poll_action` until there is none, then `finished`,
//! then sleep until `next_deadline`.

pub mod event;
mod life;
pub mod listener;
mod order;
mod probe;
mod process;
mod replan;
mod restart;
mod snapshot;
mod state;
mod words;

#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub mod world;

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::event::{Action, Event, Exit, Job, ProcessId, Run, Time};
use self::order::Order;
use self::restart::{Chance, Rate};
use crate::plan::{ExitWhen, Name, Plan};

pub use self::process::Process;
pub use self::snapshot::Snapshot;
#[allow(unused_imports)] // The parts of a state are for whoever looks into one.
pub use self::state::{Awaits, Goal, Retry, State, Step, Then};

pub struct Supervisor {
    table: Table,
    // The rest follows from the table. It is kept so that a death among a thousand processes costs a look at a few.
    order: Order,
    /// The places to look at in the next round: those that something happened to, and those that wait for others.
    attention: Vec<usize>,
    /// For each place, its deadline; right for all that `attention` does not name.
    deadlines: Vec<Time>,
    /// The first of them.
    due_at: Option<Time>,
}

/// Why hob may end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finish {
    /// How the process ended that decided; `None` if a person did.
    pub exit: Option<Exit>,
    pub by: Option<Name>,
}

/// All that is known, as it goes into a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Table {
    /// Without its specs: those are in the rows.
    plan: Plan,
    /// In plan order; behind them those that leave.
    rows: Vec<Process>,
    next_id: u32,
    common: Common,
    /// Something happened since who may start and stop was last asked.
    unsettled: bool,
}

/// What all processes share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Common {
    /// The latest moment heard of.
    now: Time,
    actions: VecDeque<Action>,
    next_run: u64,
    rate: Rate,
    chance: Chance,
    stage: Stage,
    /// The most that a stop may take before SIGKILL, once hob ends in a hurry.
    grace: Option<Duration>,
    /// A spec was replaced by one with another place in the order.
    order_changed: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Stage {
    Serving,
    Closing(Finish),
    Closed(Finish),
}

impl Supervisor {
    /// An empty table. The seed is for the chance in waiting times; 0 means none.
    pub fn new(seed: u64) -> Supervisor {
        let common = Common {
            now: Time::default(),
            actions: VecDeque::new(),
            next_run: 1,
            rate: Rate::default(),
            chance: Chance(seed),
            stage: Stage::Serving,
            grace: None,
            order_changed: false,
        };
        let table = Table { plan: Plan::default(), rows: Vec::new(), next_id: 1, common, unsettled: false };
        Supervisor::restore(Snapshot::of(table))
    }

    /// An empty table for after this one; none of its processes and runs can be taken for one of this one's.
    pub fn successor(&self) -> Supervisor {
        let mut next = Supervisor::new(0);
        next.table.next_id = self.table.next_id;
        let (own, common) = (&mut next.table.common, &self.table.common);
        own.next_run = common.next_run;
        own.now = common.now;
        own.chance = common.chance.clone();
        next
    }

    /// Something happened.
    pub fn handle(&mut self, now: Time, event: Event) {
        self.table.common.now = self.table.common.now.max(now);
        let closing = self.is_shutting_down();
        let noticed = match event {
            Event::Plan(_) | Event::Start(_) | Event::Stop(_) | Event::Restart(_) if closing => false,
            Event::Plan(plan) => {
                let changed = replan::replan(&mut self.table, plan);
                // Places have moved, and the next event already needs the new ones.
                if changed {
                    self.look_anew();
                }
                changed
            }
            Event::Start(id) => self.tell(id, |process, _| process.asked_to_start()),
            Event::Stop(id) => self.tell(id, |process, _| process.asked_to_stop()),
            Event::Restart(id) => self.tell(id, |process, _| process.asked_to_restart()),
            Event::Autostart(id, autostart) => self.tell(id, |process, _| process.set_autostart(autostart)),
            Event::Shutdown { grace } => self.shut_down(grace),
            Event::Exited(run, exit) => self.ask(run, |process, common| process.exited(run, exit, common)),
            Event::Swept(run, left) => self.ask(run, |process, common| process.swept(run, left, common)),
            Event::HeardReady(run) => self.ask(run, |process, common| process.heard_ready(run, common)),
            Event::Unwell(run, why) => self.ask(run, |process, common| process.found_unwell(run, why, common)),
            Event::ProbeSaid { run, note } => self.ask(run, |process, _| process.probe_said(run, &note)),
        };
        self.table.unsettled |= noticed;
    }

    /// Something may be due.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.table.unsettled {
            self.find_due();
        }
        let Table { rows, common, unsettled, .. } = &mut self.table;
        common.now = common.now.max(now);
        if self.due_at.is_none_or(|due_at| due_at > common.now) {
            return;
        }
        for (place, deadline) in self.deadlines.iter().enumerate() {
            if *deadline > common.now {
                continue;
            }
            while rows[place].due(common) {
                *unsettled = true;
            }
            self.attention.push(place);
        }
    }

    /// When to come back with `handle_timeout`, once all actions are fetched.
    pub fn next_deadline(&self) -> Option<Time> {
        if self.table.unsettled { Some(self.table.common.now) } else { self.due_at }
    }

    /// What to do, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        if self.table.unsettled {
            self.reconcile();
        }
        self.table.common.actions.pop_front()
    }

    /// Everything it knows, as data.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of(self.table.clone())
    }

    pub fn restore(snapshot: Snapshot) -> Supervisor {
        let mut supervisor = Supervisor {
            table: snapshot.table,
            order: Order::default(),
            attention: Vec::new(),
            deadlines: Vec::new(),
            due_at: None,
        };
        supervisor.look_anew();
        supervisor.find_due();
        supervisor
    }

    /// Set once everything has ended, after a shutdown or as `exit_when` says, and all actions are fetched. What even
    /// SIGKILL did not end is still in the table.
    pub fn finished(&self) -> Option<Finish> {
        match &self.table.common.stage {
            Stage::Closed(finish) if self.table.common.actions.is_empty() => Some(finish.clone()),
            _ => None,
        }
    }

    pub fn is_shutting_down(&self) -> bool {
        self.table.common.is_closing()
    }

    /// The plan without its specs: each is in its process, as `Process::spec`, so that a thousand environments are
    /// held once.
    pub fn plan(&self) -> &Plan {
        &self.table.plan
    }

    /// All processes in plan order; behind them those that are leaving.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.table.rows.iter()
    }

    /// What was to be started by the actions fetched so far, probes too, and of whose end nobody has told.
    pub fn runs(&self) -> Vec<Run> {
        let is_fetched = |run: &Run| !self.table.common.actions.contains(&Action::Spawn(*run));
        self.processes().flat_map(|process| [process.run(), process.probe()]).flatten().filter(is_fetched).collect()
    }

    pub fn process(&self, id: ProcessId) -> Option<&Process> {
        self.table.rows.get(self.order.place(id)?)
    }

    /// The processes that this one waits for before it may start or stop, as things stand.
    pub fn waits_for(&self, id: ProcessId) -> Vec<Name> {
        let Some(place) = self.order.place(id) else { return Vec::new() };
        let rows = &self.table.rows;
        let names = |places: &mut dyn Iterator<Item = usize>| places.map(|place| rows[place].name().clone()).collect();
        if rows[place].wants_start() {
            names(&mut self.not_ready_for(place))
        } else if rows[place].wants_stop() {
            names(&mut self.order.dependents(place).iter().copied().filter(|other| self.holds_up(*other)))
        } else {
            Vec::new()
        }
    }

    fn tell(&mut self, id: ProcessId, message: impl FnOnce(&mut Process, &mut Common)) -> bool {
        let Some(place) = self.order.place(id) else { return false };
        message(&mut self.table.rows[place], &mut self.table.common);
        self.attention.push(place);
        true
    }

    fn ask(&mut self, run: Run, message: impl FnOnce(&mut Process, &mut Common) -> bool) -> bool {
        let Some(place) = self.order.place(run.job.process()) else { return false };
        let noticed = message(&mut self.table.rows[place], &mut self.table.common);
        if noticed {
            self.attention.push(place);
        }
        noticed
    }

    /// A person ends it; a second time perhaps with less patience.
    fn shut_down(&mut self, grace: Option<Duration>) -> bool {
        let common = &mut self.table.common;
        if let Some(grace) = grace {
            common.grace = Some(common.grace.map_or(grace, |earlier| earlier.min(grace)));
        } else if common.is_closing() {
            return false;
        }
        self.close(Finish::default());
        true
    }

    fn close(&mut self, finish: Finish) {
        let Table { rows, common, .. } = &mut self.table;
        if common.stage == Stage::Serving {
            common.stage = Stage::Closing(finish);
        }
        for process in rows {
            process.shut_down(common);
        }
        self.look_anew();
    }
}

// Who may.
impl Supervisor {
    /// Asks everyone who wants to stop or start whether he may, until nothing moves.
    fn reconcile(&mut self) {
        loop {
            if self.table.common.order_changed {
                self.look_anew();
            }
            let order = &self.order;
            self.attention.sort_unstable_by_key(|place| order.rank(*place));
            self.attention.dedup();
            let mut moved = self.stop_all_who_may();
            moved |= self.forget_the_gone();
            if !self.is_shutting_down() {
                moved |= self.start_all_who_may();
            }
            if !moved && !self.has_ended() {
                break;
            }
        }
        self.table.unsettled = false;
        self.find_due();
        let rows = &self.table.rows;
        self.attention.retain(|place| rows[*place].wants_start() || rows[*place].wants_stop());
    }

    fn stop_all_who_may(&mut self) -> bool {
        let mut moved = false;
        let turn = self.group_to_end();
        for nth in (0..self.attention.len()).rev() {
            let place = self.attention[nth];
            if self.table.rows[place].wants_stop()
                && turn.as_ref().is_none_or(|group| *group == self.table.rows[place].name().group)
                && !self.order.dependents(place).iter().any(|other| self.holds_up(*other))
            {
                self.table.rows[place].stop(&mut self.table.common);
                moved = true;
            }
        }
        moved
    }

    /// At supervisord's shutdown one group goes after the other, the last first: the one whose turn it is.
    fn group_to_end(&self) -> Option<String> {
        if self.table.plan.supervisord.is_none() || !self.is_shutting_down() {
            return None;
        }
        let (rows, now) = (&self.table.rows, self.table.common.now);
        // One that others start after has to wait for them, wherever they stand.
        let is_next = |place: &usize| {
            let process = &rows[*place];
            let is_there = !process.is_stopped() && !process.is_hopeless(now);
            is_there && !self.order.dependents(*place).iter().any(|other| self.holds_up(*other))
        };
        (0..rows.len()).rfind(is_next).map(|last| rows[last].name().group.clone())
    }

    fn start_all_who_may(&mut self) -> bool {
        let mut moved = false;
        let mut text = String::new();
        for nth in 0..self.attention.len() {
            let place = self.attention[nth];
            if !self.table.rows[place].wants_start() {
                continue;
            }
            if self.not_ready_for(place).next().is_none() {
                self.table.rows[place].start(&mut self.table.common);
                moved = true;
            } else {
                let rows = &self.table.rows;
                words::waits_for(&mut text, self.not_ready_for(place).map(|other| rows[other].name()));
                self.table.rows[place].waits(&mut text);
            }
        }
        moved
    }

    /// Those that a process starts after and that are not ready.
    fn not_ready_for(&self, place: usize) -> impl Iterator<Item = usize> {
        self.order.after(place).iter().copied().filter(|other| !self.table.rows[*other].is_leaned_on())
    }

    fn holds_up(&self, place: usize) -> bool {
        self.table.rows[place].holds_up(self.table.common.now)
    }

    fn forget_the_gone(&mut self) -> bool {
        let Table { rows, common, .. } = &mut self.table;
        if !self.attention.iter().any(|place| rows[*place].is_gone()) {
            return false;
        }
        rows.retain(|process| {
            if process.is_gone() {
                common.act(Action::Removed(process.id()));
            }
            !process.is_gone()
        });
        self.look_anew();
        true
    }

    /// Whether hob ends, or has ended, now that nothing moves. True if that makes something move again.
    fn has_ended(&mut self) -> bool {
        match &self.table.common.stage {
            Stage::Serving => match self.decide() {
                Some(finish) => {
                    self.close(finish);
                    true
                }
                None => false,
            },
            Stage::Closing(finish) => {
                let now = self.table.common.now;
                if self.table.rows.iter().all(|process| process.is_stopped() || process.is_hopeless(now)) {
                    self.table.common.stage = Stage::Closed(finish.clone());
                }
                false
            }
            Stage::Closed(_) => false,
        }
    }

    /// Whether a process has decided that hob ends.
    fn decide(&self) -> Option<Finish> {
        let rows = &self.table.rows;
        let finish = |process: &Process| Finish {
            exit: process.last_exit().map(|(exit, _)| exit.clone()),
            by: Some(process.name().clone()),
        };
        let ended_at = |process: &&Process| process.last_exit().map(|(_, at)| at);
        match self.table.plan.exit_when {
            ExitWhen::Never => None,
            ExitWhen::AnyFatal => rows
                .iter()
                .filter(|process| match process.state() {
                    State::Fatal { .. } => true,
                    State::Exited { .. } => process.spec().restart.oneshot && process.has_failed(),
                    _ => false,
                })
                .min_by_key(ended_at)
                .map(finish),
            ExitWhen::AllExited => {
                // Event listeners only watch the others, and a load balancer serves them.
                let groups = self.table.plan.supervisord.iter().flat_map(|own| &own.groups);
                let watchers: Vec<&str> =
                    groups.filter(|group| group.pool.is_some()).map(|group| group.name.as_str()).collect();
                let is_own = |process: &&Process| {
                    !process.spec().is_helper && !watchers.contains(&process.name().group.as_str())
                };
                let rows = || rows.iter().filter(is_own);
                let at_rest = |process: &Process| process.is_stopped() || process.end().is_some();
                if !rows().all(at_rest) || !rows().any(|process| process.last_exit().is_some()) {
                    return None;
                }
                let failed = rows().filter(|process| process.has_failed()).max_by_key(ended_at);
                let last = || rows().max_by_key(ended_at);
                Some(match failed {
                    Some(process) => finish(process),
                    None => Finish { exit: Some(Exit::Code(0)), by: last().map(|process| process.name().clone()) },
                })
            }
        }
    }

    /// Forgets what followed from an earlier table.
    fn look_anew(&mut self) {
        self.order = Order::of(self.table.rows.iter().map(|process| (process.id(), process.spec())));
        self.attention = (0..self.table.rows.len()).collect();
        self.deadlines = vec![NEVER; self.table.rows.len()];
        self.table.common.order_changed = false;
    }

    fn find_due(&mut self) {
        for place in &self.attention {
            self.deadlines[*place] = self.table.rows[*place].deadline().unwrap_or(NEVER);
        }
        self.due_at = match self.table.common.stage {
            Stage::Closed(_) => None,
            Stage::Serving | Stage::Closing(_) => self.deadlines.iter().copied().min().filter(|first| *first < NEVER),
        };
    }
}

impl Common {
    fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    fn new_run(&mut self, job: Job) -> Run {
        let number = self.next_run;
        self.next_run += 1;
        Run { job, number }
    }

    fn is_closing(&self) -> bool {
        self.stage != Stage::Serving
    }
}

const SIGKILL: i32 = 9;
const NEVER: Time = Time(Duration::MAX);
