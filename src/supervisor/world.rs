//! A simulated world for tests: its own clock, and children that do what their script says.
//!
//! It does what the daemon does, in no time, and watches the rules while it does: at every action and after every step
//! it compares what the supervisor believes with what is so. It can throw the supervisor away and rebuild it from its
//! snapshot at every step, and nothing may change by that.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use super::event::{Action, Change, Event, Exit, Job, Phase, ProcessId, Run, Survivor, Time, signal_name};
use super::{Finish, Process, SIGKILL, Snapshot, State, Step, Supervisor};
use crate::plan::{
    Ask, Autorestart, Backoff, Command, CommandKind, Health, Limits, LogSpec, Name, Plan, Probe, Reach, Ready, ReadyBy,
    Restart, Spec, Stop,
};

/// One life of a child.
#[derive(Clone, Debug)]
pub struct Life {
    /// It ends by itself after so long, and how.
    pub lives: Option<Duration>,
    pub exit: Exit,
    /// How long it takes to obey a stop signal; `None` ignores it.
    pub obeys: Option<Duration>,
    /// What it leaves behind: how long each takes to obey.
    pub helpers: Vec<Option<Duration>>,
    /// When it is ready and begins to say so; `None` is never.
    pub ready_after: Option<Duration>,
    /// When its health probes begin to fail.
    pub sick_after: Option<Duration>,
    /// Its probes never answer.
    pub mutes_probes: bool,
    /// Not even SIGKILL ends it.
    pub immortal: bool,
}

pub fn life() -> Life {
    Life {
        lives: None,
        exit: Exit::Code(0),
        obeys: Some(10.ms()),
        helpers: Vec::new(),
        ready_after: Some(Duration::ZERO),
        sick_after: None,
        mutes_probes: false,
        immortal: false,
    }
}

impl Life {
    pub fn dies(self, after: Duration, exit: Exit) -> Life {
        Life { lives: Some(after), exit, ..self }
    }
    pub fn cannot_exec(self, errno: i32) -> Life {
        self.dies(Duration::ZERO, Exit::CannotExec { stage: "exec".into(), errno })
    }
    pub fn ignores_stop(self) -> Life {
        Life { obeys: None, ..self }
    }
    pub fn leaves(mut self, helper: Option<Duration>) -> Life {
        self.helpers.push(helper);
        self
    }
    pub fn ready_after(self, ready_after: Option<Duration>) -> Life {
        Life { ready_after, ..self }
    }
    pub fn sick_after(self, after: Duration) -> Life {
        Life { sick_after: Some(after), ..self }
    }
}

struct Kid {
    run: Run,
    life: Life,
    spawned_at: Time,
    /// What its spec said when it was spawned.
    startsecs: Duration,
    must_settle_at: Time,
    /// It has said so and was heard.
    heard_ready: Option<bool>,
    signalled: bool,
    /// When SIGKILL is due, and not before.
    kill_at: Option<Time>,
    killed: bool,
}

impl Kid {
    fn is_ready(&self, now: Time) -> bool {
        self.heard_ready.unwrap_or(now.since(self.spawned_at) >= self.startsecs)
    }
}

struct Helper {
    pid: i32,
    obeys: Option<Duration>,
    immortal: bool,
}

enum Happening {
    Dies(Run, Exit),
    HelperDies(ProcessId, i32),
    SaysReady(Run),
    ProbeEnds(Run),
    AnswersSweep(Run),
}

/// What the world remembers of a process, to judge the next step by.
struct Watch {
    phase: Phase,
    since: Time,
    /// A person has said stop and not start since.
    unwanted: bool,
    /// Runs in a row that died before they were ready.
    early: u32,
    /// A oneshot that has ended well.
    done: bool,
}

pub struct World {
    pub supervisor: Supervisor,
    pub now: Time,
    /// Rebuild the supervisor from its snapshot all the time.
    pub restores: bool,
    pub finish: Option<Finish>,
    pub lines: Vec<String>,
    pub changes: Vec<Change>,
    pub spawns: Vec<(Time, ProcessId)>,
    pub steps: u64,
    scripts: HashMap<String, VecDeque<Life>>,
    /// Lives by chance, for those without a script.
    pub chance: Option<fn(&mut Dice) -> Life>,
    pub dice: Dice,
    agenda: BTreeMap<(Time, u64), Happening>,
    kids: BTreeMap<Run, Kid>,
    helpers: BTreeMap<ProcessId, Vec<Helper>>,
    graves: Vec<Run>,
    logs: BTreeSet<ProcessId>,
    watches: BTreeMap<ProcessId, Watch>,
    closing: Option<(Time, Option<Time>)>,
    sequence: u64,
    /// Prints each action.
    pub talks: bool,
}

impl World {
    /// A world in which this is to run. Nothing is by chance.
    pub fn with(specs: impl IntoIterator<Item = Spec>) -> World {
        let mut world = World::empty(0);
        world.plan(specs);
        world
    }

    pub fn empty(seed: u64) -> World {
        World {
            supervisor: Supervisor::new(seed),
            now: DAWN,
            restores: false,
            finish: None,
            lines: Vec::new(),
            changes: Vec::new(),
            spawns: Vec::new(),
            steps: 0,
            scripts: HashMap::new(),
            chance: None,
            dice: Dice(seed),
            agenda: BTreeMap::new(),
            kids: BTreeMap::new(),
            helpers: BTreeMap::new(),
            graves: Vec::new(),
            logs: BTreeSet::new(),
            watches: BTreeMap::new(),
            closing: None,
            sequence: 0,
            talks: false,
        }
    }

    /// The lives of that process, one after the other; the last is lived again and again.
    pub fn script(&mut self, name: &str, lives: impl IntoIterator<Item = Life>) {
        self.scripts.insert(name.to_owned(), lives.into_iter().collect());
    }

    pub fn plan(&mut self, specs: impl IntoIterator<Item = Spec>) {
        self.whole_plan(Plan { specs: specs.into_iter().collect(), ..Plan::default() });
    }

    pub fn whole_plan(&mut self, plan: Plan) {
        for spec in &plan.specs {
            let row = self.supervisor.processes().find(|row| *row.name() == spec.name);
            if let Some(row) = row {
                let changed = *row.spec() != *spec;
                let returns = row.spec() == spec && !row.wants_up();
                let id = row.id();
                if let Some(watch) = self.watches.get_mut(&id) {
                    watch.early = if changed { 0 } else { watch.early };
                    // It may have been leaving, and a stop by a person is then forgotten.
                    watch.unwanted &= !(changed || returns);
                }
            }
        }
        self.tell(Event::Plan(plan));
    }

    pub fn id(&self, name: &str) -> ProcessId {
        self.row(name).id()
    }

    pub fn row(&self, name: &str) -> &Process {
        self.supervisor.processes().find(|row| row.name().to_string() == name).expect("a process of that name")
    }

    pub fn start(&mut self, name: &str) {
        self.tell(Event::Start(self.id(name)));
    }

    pub fn stop(&mut self, name: &str) {
        self.tell(Event::Stop(self.id(name)));
    }

    pub fn restart(&mut self, name: &str) {
        self.tell(Event::Restart(self.id(name)));
    }

    pub fn shut_down(&mut self) {
        self.tell(Event::Shutdown { grace: None });
    }

    /// Something from outside.
    pub fn tell(&mut self, event: Event) {
        match &event {
            Event::Start(id) | Event::Restart(id) => self.wished(*id, false),
            Event::Stop(id) => self.wished(*id, true),
            Event::Shutdown { grace } => {
                let by = grace.map(|grace| self.now + grace);
                let (since, earlier) = self.closing.unwrap_or((self.now, None));
                let by = [earlier, by].into_iter().flatten().min();
                self.closing = Some((since, by));
            }
            _ => {}
        }
        self.restore();
        self.deliver(event);
        self.settle();
    }

    fn wished(&mut self, id: ProcessId, unwanted: bool) {
        if let (Some(watch), None) = (self.watches.get_mut(&id), self.closing) {
            watch.unwanted = unwanted;
            watch.early = 0;
        }
    }

    /// Feeds events without looking at the actions: a batch.
    pub fn deliver(&mut self, event: Event) {
        self.supervisor.handle(self.now, event);
    }

    pub fn run_for(&mut self, length: Duration) {
        let until = self.now + length;
        while self.finish.is_none() && self.step(until) {}
        self.now = until.max(self.now);
    }

    /// Everything that happens at the next moment at which anything does; false if there is none until then.
    pub fn step(&mut self, until: Time) -> bool {
        let planned = self.agenda.first_key_value().map(|((at, _), _)| *at);
        let Some(next) = [planned, self.supervisor.next_deadline()].into_iter().flatten().min() else { return false };
        if next > until {
            return false;
        }
        self.now = self.now.max(next);
        self.steps += 1;
        self.restore();
        while let Some(entry) = self.agenda.first_entry()
            && entry.key().0 <= self.now
        {
            let happening = entry.remove();
            self.happen(happening);
            // The daemon may hear of one death at a time, or of many.
            if self.chance.is_none() || self.dice.one_in(2) {
                self.carry_out();
            }
        }
        self.settle();
        true
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Dies(run, exit) => self.dies(run, exit),
            Happening::HelperDies(id, pid) => {
                let helpers = self.helpers.entry(id).or_default();
                helpers.retain(|helper| helper.pid != pid);
                if let Some(run) = self.supervisor.process(id).and_then(state_run) {
                    self.later(Duration::ZERO, Happening::AnswersSweep(run));
                }
            }
            Happening::SaysReady(run) => {
                if let Some(kid) = self.kids.get_mut(&run) {
                    kid.heard_ready = Some(true);
                    self.deliver(Event::HeardReady(run));
                }
            }
            Happening::ProbeEnds(run) => self.probe_ends(run),
            Happening::AnswersSweep(run) => {
                let left = self.helpers.entry(run.job.process()).or_default();
                let left = left.iter().map(|helper| Survivor { pid: helper.pid, command: "helper".into() }).collect();
                self.deliver(Event::Swept(run, left));
            }
        }
    }

    fn dies(&mut self, run: Run, exit: Exit) {
        let Some(kid) = self.kids.remove(&run) else { return };
        self.graves.push(run);
        let id = run.job.process();
        if let Job::Process(_) = run.job {
            for obeys in &kid.life.helpers {
                self.sequence += 1;
                let pid = self.sequence as i32;
                let helper = Helper { pid, obeys: *obeys, immortal: kid.life.immortal };
                self.helpers.entry(id).or_default().push(helper);
            }
            if let (Some(watch), Some(row)) = (self.watches.get_mut(&id), self.supervisor.process(id)) {
                watch.early = if kid.is_ready(self.now) { 0 } else { watch.early + 1 };
                watch.done = matches!(exit, Exit::Code(code) if row.spec().restart.exitcodes.contains(&code));
            }
        }
        self.deliver(Event::Exited(run, exit));
    }

    fn probe_ends(&mut self, run: Run) {
        let id = run.job.process();
        let main = self.kids.values_mut().find(|kid| kid.run.job == Job::Process(id));
        let good = main.is_some_and(|kid| {
            let age = self.now.since(kid.spawned_at);
            match run.job {
                Job::HealthProbe(_) => kid.life.sick_after.is_none_or(|sick| age < sick),
                _ => kid.life.ready_after.is_some_and(|ready| age >= ready),
            }
        });
        if !self.kids.contains_key(&run) {
            return;
        }
        if good && matches!(run.job, Job::ReadyProbe(_)) {
            let main = self.kids.values_mut().find(|kid| kid.run.job == Job::Process(id));
            main.expect("it was good").heard_ready = Some(true);
        }
        if !good {
            self.deliver(Event::ProbeSaid { run, note: "connection refused".into() });
        }
        self.dies(run, Exit::Code(u8::from(!good)));
    }

    fn restore(&mut self) {
        if !self.restores {
            return;
        }
        let text = serde_json::to_string(&self.supervisor.snapshot()).expect("a snapshot is plain data");
        let snapshot: Snapshot = serde_json::from_str(&text).expect("it reads what it wrote");
        self.supervisor = Supervisor::restore(snapshot);
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.supervisor.poll_action() {
            if self.talks {
                println!("{:10.3} {action:?}", self.clock());
            }
            self.act(action);
            if self.dice.one_in(8) {
                self.restore();
            }
        }
        if self.finish.is_none() {
            self.finish = self.supervisor.finished();
        }
    }

    /// The end of a step: what is due is done, and then the rules hold.
    fn settle(&mut self) {
        if self.dice.one_in(8) {
            self.restore();
        }
        self.supervisor.handle_timeout(self.now);
        self.carry_out();
        self.check();
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Spawn(run) => self.spawn(run),
            Action::Signal(run, signal) => self.signal(run, signal),
            Action::Sweep(run, signal) => self.sweep(run, signal),
            Action::Added(id) => {
                assert!(self.logs.insert(id), "a process is added once");
                let watch = Watch { phase: Phase::Stopped, since: self.now, unwanted: false, early: 0, done: false };
                self.watches.insert(id, watch);
            }
            Action::Updated(id) => {
                assert!(self.logs.contains(&id));
                self.lines.push(format!("{:.1} {} updated", self.clock(), self.name(id)));
            }
            Action::Removed(id) => {
                assert!(self.logs.remove(&id), "only what was added is removed");
                self.watches.remove(&id);
                assert!(
                    self.helpers.remove(&id).is_none_or(|left| left.is_empty()),
                    "removed with something left of it"
                );
                assert!(!self.kids.keys().any(|run| run.job == Job::Process(id)), "removed while it runs");
                self.lines.push(format!("{:.1} process {} removed", self.clock(), id.0));
            }
            Action::Changed(change) => self.changed(change),
        }
    }

    fn spawn(&mut self, run: Run) {
        let id = run.job.process();
        assert!(!self.kids.contains_key(&run) && !self.graves.contains(&run), "a run begins once");
        // A probe that nobody waits for any more may still be dying.
        let mut others = self.kids.values().filter(|other| other.run.job == run.job);
        assert!(
            others.all(|other| other.killed && !matches!(run.job, Job::Process(_))),
            "two lives of one process: {run:?}"
        );
        assert!(self.finish.is_none());
        let row = self.supervisor.process(id).expect("what is spawned is in the table");
        let spec = row.spec().clone();
        let name = spec.name.to_string();
        let mut kid = Kid {
            run,
            life: life(),
            spawned_at: self.now,
            startsecs: spec.restart.startsecs,
            must_settle_at: self.now + spec.ready.as_ref().map_or(spec.restart.startsecs, |ready| ready.within),
            heard_ready: spec.ready.as_ref().map(|_| false),
            signalled: false,
            kill_at: None,
            killed: false,
        };
        if let Job::Process(_) = run.job {
            assert!(self.closing.is_none(), "{name} is spawned during the shutdown");
            self.check_order_of_start(&spec);
            let watch = self.watches.get_mut(&id).expect("a log before a child");
            assert!(!watch.unwanted, "{name} is spawned against a person's wish");
            assert!(
                spec.restart.startretries.is_none_or(|retries| watch.early <= retries),
                "{name} is tried once more after {} failures",
                watch.early
            );
            watch.done = false;
            kid.life = self.next_life(&name);
            if let Some(after) = kid.life.lives {
                self.later(after, Happening::Dies(run, kid.life.exit.clone()));
            }
            if let (Some(Ready { by: ReadyBy::Notify, .. }), Some(after)) = (&spec.ready, kid.life.ready_after) {
                self.later(after, Happening::SaysReady(run));
            }
            self.spawns.push((self.now, id));
        } else {
            let main = self.kids.values().find(|other| other.run.job == Job::Process(id));
            let main = main.expect("a probe only for what runs");
            if !main.life.mutes_probes {
                self.later(5.ms(), Happening::ProbeEnds(run));
            }
        }
        self.kids.insert(run, kid);
    }

    fn next_life(&mut self, name: &str) -> Life {
        if let Some(lives) = self.scripts.get_mut(name) {
            return if lives.len() > 1 { lives.pop_front() } else { lives.front().cloned() }
                .expect("a script has a life");
        }
        self.chance.map_or_else(life, |chance| chance(&mut self.dice))
    }

    fn check_order_of_start(&self, spec: &Spec) {
        for before in &spec.after {
            let Some(row) = self.supervisor.processes().find(|row| row.name() == before) else { continue };
            let ready = if row.spec().restart.oneshot {
                self.watches[&row.id()].done
            } else {
                self.kids.values().any(|kid| kid.run.job == Job::Process(row.id()) && kid.is_ready(self.now))
            };
            assert!(ready, "{} is spawned before {before} is ready", spec.name);
        }
    }

    fn signal(&mut self, run: Run, signal: i32) {
        let id = run.job.process();
        let now = self.now;
        let is_main = matches!(run.job, Job::Process(_));
        if is_main {
            self.lines.push(format!("{:.1} {} <- {}", self.clock(), self.name(id), signal_name(signal)));
            if signal != SIGKILL {
                self.check_order_of_stop(id);
            }
        }
        let wait = self.supervisor.process(id).map_or(Duration::ZERO, |row| row.spec().stop.wait);
        let hurry = self.closing.and_then(|(_, by)| by);
        let Some(kid) = self.kids.get_mut(&run) else {
            assert!(self.graves.contains(&run) && !is_main, "only what has begun is signalled");
            return;
        };
        let first = !kid.killed;
        if is_main && signal == SIGKILL {
            let due = kid.kill_at.expect("SIGKILL only after the stop signal");
            assert!(now >= hurry.map_or(due, |by| by.min(due)), "SIGKILL before the grace is over");
        } else if is_main {
            assert!(!kid.signalled, "one stop signal is enough");
            kid.signalled = true;
            kid.kill_at = Some(now + wait);
        }
        kid.killed |= signal == SIGKILL;
        let exit = Exit::Signal { signal, core: false, oom: false };
        let after = match kid.life.obeys {
            _ if signal == SIGKILL => (first && !kid.life.immortal).then_some(1.ms()),
            obeys => obeys,
        };
        if let Some(after) = after {
            self.later(after, Happening::Dies(run, exit));
        }
    }

    fn check_order_of_stop(&self, id: ProcessId) {
        let Some((since, _)) = self.closing else { return };
        let watch = &self.watches[&id];
        if watch.phase == Phase::Stopping && watch.since <= since {
            return;
        }
        let name = self.supervisor.process(id).expect("in the table").name();
        for row in self.supervisor.processes().filter(|row| row.spec().after.contains(name)) {
            let alive = self.kids.keys().any(|run| run.job == Job::Process(row.id()))
                || self.helpers.get(&row.id()).is_some_and(|left| !left.is_empty());
            assert!(!alive || row.is_hopeless(self.now), "{name} is stopped before {}", row.name());
        }
    }

    fn sweep(&mut self, run: Run, signal: i32) {
        let id = run.job.process();
        assert!(!self.kids.keys().any(|other| other.job == Job::Process(id)), "a sweep comes after the child's end");
        assert!(run.job == Job::Process(id));
        let mut dying = Vec::new();
        for helper in self.helpers.entry(id).or_default() {
            let after = if signal == SIGKILL { (!helper.immortal).then_some(1.ms()) } else { helper.obeys };
            dying.extend(after.map(|after| (helper.pid, after)));
        }
        for (pid, after) in dying {
            self.later(after, Happening::HelperDies(id, pid));
        }
        self.later(Duration::ZERO, Happening::AnswersSweep(run));
    }

    fn changed(&mut self, change: Change) {
        let watch = self.watches.get_mut(&change.id).expect("only what was added changes");
        assert_eq!(watch.phase, change.from, "the changes of {} have no gap", change.name);
        assert!(!change.why.is_empty());
        watch.phase = change.to;
        watch.since = change.at;
        if change.to == Phase::Stopped {
            watch.early = 0;
            watch.done = false;
            let left = self.helpers.get(&change.id).is_some_and(|left| !left.is_empty());
            let runs = self.kids.keys().any(|run| run.job == Job::Process(change.id));
            assert!(!left && !runs, "{} is reported as stopped while something lives", change.name);
        }
        self.lines.push(format!("{:.1} {} {} {}", self.clock(), change.name, change.to, change.why));
        self.changes.push(change);
    }

    /// What is always so once all actions are carried out.
    fn check(&self) {
        let deadline = self.supervisor.next_deadline();
        assert!(deadline.is_none_or(|at| at > self.now), "a deadline that has passed is reported again");
        for row in self.supervisor.processes() {
            self.check_row(row);
        }
        for run in self.kids.keys() {
            if let Job::Process(id) = run.job {
                let row = self.supervisor.process(id).expect("a child without a process");
                assert_eq!(row.run(), Some(*run), "a child that the table does not know");
            }
        }
        if let Some(finish) = &self.finish {
            self.check_end(finish);
        }
    }

    fn check_row(&self, row: &Process) {
        let (id, name, now) = (row.id(), row.name(), self.now);
        let watch = &self.watches[&id];
        assert_eq!((watch.phase, watch.since), (row.phase(), row.since()), "{name} has changed without a word");
        let kid = row.run().map(|run| self.kids.get(&run).unwrap_or_else(|| panic!("{name} runs only in the table")));
        let age = now.since(row.since());
        match row.phase() {
            Phase::Starting => {
                let kid = kid.expect("STARTING has a child");
                assert!(now < kid.must_settle_at || row.wants_stop(), "{name} is STARTING for too long");
            }
            Phase::Running => assert!(kid.is_some()),
            Phase::Backoff => {
                let bound = row.spec().restart.delay_max.max(MAX_DELAY) * 11 / 10 + Duration::from_secs(5);
                assert!(age <= bound || !self.supervisor.waits_for(id).is_empty(), "{name} is in BACKOFF for too long");
            }
            Phase::Stopping => {
                let bound = MAX_DRAIN + MAX_WAIT + Duration::from_secs(5);
                assert!(age <= bound || self.is_immortal(id), "{name} is STOPPING for too long");
            }
            Phase::Stopped | Phase::Exited | Phase::Fatal => assert!(kid.is_none()),
        }
        if let (Some(kid), State::Stopping { step: Step::Signalled { .. }, .. }) = (kid, row.state()) {
            assert!(kid.kill_at.is_some_and(|at| now < at), "{name} outlives its grace");
        }
        if row.wants_stop() || (row.wants_start() && self.closing.is_none()) {
            let blockers = self.supervisor.waits_for(id);
            assert!(!blockers.is_empty(), "{name} waits for nobody: {row:?}");
        }
        assert!(row.next_try().is_none_or(|at| at > now));
    }

    fn check_end(&self, finish: &Finish) {
        for (run, kid) in &self.kids {
            let ended = matches!(run.job, Job::Process(_)) && kid.life.immortal;
            assert!(kid.killed || ended, "{run:?} outlives the shutdown");
            assert!(!matches!(run.job, Job::Process(_)) || ended, "{run:?} outlives the shutdown");
        }
        assert!(self.helpers.values().flatten().all(|helper| helper.immortal), "a helper outlives the shutdown");
        assert_eq!(self.supervisor.next_deadline(), None);
        assert_eq!(self.supervisor.finished().as_ref(), Some(finish));
    }

    fn is_immortal(&self, id: ProcessId) -> bool {
        self.kids.values().any(|kid| kid.run.job == Job::Process(id) && kid.life.immortal)
            || self.helpers.get(&id).is_some_and(|left| left.iter().any(|helper| helper.immortal))
    }

    /// Late news of a run that is over, which must be no news.
    pub fn late_event(&mut self) {
        if self.graves.is_empty() {
            return;
        }
        let run = self.graves[self.dice.below(self.graves.len() as u64) as usize];
        if self.supervisor.process(run.job.process()).and_then(state_run) == Some(run) {
            return;
        }
        let event = match self.dice.below(6) {
            0 => Event::Exited(run, Exit::Code(0)),
            1 => Event::Exited(run, Exit::CannotExec { stage: "exec".into(), errno: 2 }),
            2 => Event::Swept(run, Vec::new()),
            3 => Event::HeardReady(run),
            4 => Event::Unwell(run, "late".into()),
            _ => Event::ProbeSaid { run, note: "late".into() },
        };
        self.settle();
        let before = self.supervisor.snapshot();
        self.tell(event.clone());
        assert_eq!(before, self.supervisor.snapshot(), "a late event changes something: {event:?}");
    }

    /// The plan it already has.
    pub fn same_plan(&mut self, plan: &Plan) {
        self.settle();
        let before = self.supervisor.snapshot();
        self.tell(Event::Plan(plan.clone()));
        assert_eq!(before, self.supervisor.snapshot(), "the same plan changes something");
    }

    pub fn transcript(&mut self) -> String {
        std::mem::take(&mut self.lines).join("\n")
    }

    fn later(&mut self, after: Duration, happening: Happening) {
        self.sequence += 1;
        self.agenda.insert((self.now + after, self.sequence), happening);
    }

    fn name(&self, id: ProcessId) -> String {
        self.supervisor.process(id).map_or_else(|| id.0.to_string(), |row| row.name().to_string())
    }

    pub fn clock(&self) -> f64 {
        self.now.since(DAWN).as_secs_f64()
    }
}

/// The run that the state of a process is about.
fn state_run(row: &Process) -> Option<Run> {
    match row.state() {
        State::Stopped => None,
        State::Starting { run, .. }
        | State::Running { run, .. }
        | State::Backoff { run, .. }
        | State::Stopping { run, .. }
        | State::Exited { run, .. }
        | State::Fatal { run, .. } => Some(*run),
    }
}

/// A process with the defaults of dotcloud.yml.
pub fn process(name: &str) -> Spec {
    let name = Name { group: name.to_owned(), process: name.to_owned() };
    Spec {
        command: Command { line: format!("~/{name}"), kind: CommandKind::Words(vec![format!("/home/u/{name}")]) },
        directory: "/home/u".into(),
        env: BTreeMap::new(),
        profile: None,
        user: None,
        umask: None,
        limits: Limits::default(),
        priority: 999,
        autostart: true,
        after: Vec::new(),
        restart: Restart {
            autorestart: Autorestart::Always,
            exitcodes: vec![0],
            startsecs: 1.secs(),
            startretries: None,
            delay: 1.secs(),
            delay_max: 60.secs(),
            oneshot: false,
            backoff: Backoff::Doubling,
        },
        stop: Stop { signal: 15, wait: 10.secs(), drain: Duration::ZERO, reach: Reach::Everything },
        program: None,
        is_helper: false,
        ready: None,
        health: None,
        memory_limit: None,
        pidfile: None,
        log: LogSpec {
            path: format!("/log/{name}.log").into(),
            max_bytes: 50 << 20,
            backups: 10,
            ..LogSpec::default()
        },
        name,
    }
}

/// Specs in few words.
pub trait Tuned: Sized {
    fn tuned(self, tune: impl FnOnce(&mut Spec)) -> Self;

    fn start_retries(self, retries: u32) -> Self {
        self.tuned(|spec| spec.restart.startretries = Some(retries))
    }
    fn start_secs(self, length: Duration) -> Self {
        self.tuned(|spec| spec.restart.startsecs = length)
    }
    fn autorestart(self, autorestart: Autorestart) -> Self {
        self.tuned(|spec| spec.restart.autorestart = autorestart)
    }
    fn oneshot(self) -> Self {
        self.tuned(|spec| spec.restart.oneshot = true)
    }
    fn off(self) -> Self {
        self.tuned(|spec| spec.autostart = false)
    }
    fn priority(self, priority: i32) -> Self {
        self.tuned(|spec| spec.priority = priority)
    }
    fn after(self, name: &str) -> Self {
        self.tuned(|spec| spec.after.push(Name { group: name.to_owned(), process: name.to_owned() }))
    }
    fn drains(self, length: Duration) -> Self {
        self.tuned(|spec| spec.stop.drain = length)
    }
    fn probed(self, within: Duration) -> Self {
        self.tuned(|spec| spec.ready = Some(Ready { by: ReadyBy::Probe(probe()), within }))
    }
    fn notifies(self, within: Duration) -> Self {
        self.tuned(|spec| spec.ready = Some(Ready { by: ReadyBy::Notify, within }))
    }
    fn health(self, every: Duration, failures: u32) -> Self {
        self.tuned(|spec| spec.health = Some(Health { probe: probe(), every, failures }))
    }
    fn command(self, line: &str) -> Self {
        self.tuned(|spec| spec.command = Command { line: line.to_owned(), kind: CommandKind::Script })
    }
}

impl Tuned for Spec {
    fn tuned(mut self, tune: impl FnOnce(&mut Spec)) -> Spec {
        tune(&mut self);
        self
    }
}

fn probe() -> Probe {
    Probe { ask: Ask::Tcp("127.0.0.1:8080".into()), timeout: 2.secs() }
}

/// Lengths in few words.
pub trait Length {
    fn ms(self) -> Duration;
    fn secs(self) -> Duration;
}

impl Length for u64 {
    fn ms(self) -> Duration {
        Duration::from_millis(self)
    }
    fn secs(self) -> Duration {
        Duration::from_secs(self)
    }
}

/// The world's own chance (splitmix64), so that a seed is a world.
#[derive(Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    pub fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize].clone()
    }
}

/// When worlds begin: not at zero, so that a moment that was never set shows.
pub const DAWN: Time = Time(Duration::from_secs(1_000));
/// Bounds for specs of random worlds.
pub const MAX_DRAIN: Duration = Duration::from_secs(5);
pub const MAX_WAIT: Duration = Duration::from_secs(10);
pub const MAX_DELAY: Duration = Duration::from_secs(60);
