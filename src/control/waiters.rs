//! Those who asked for something and want to know how it went.
//!
//! A `Waiters` entry is one request: a wish for each of its processes, and what has become of it so far. It is looked
//! at on each `Change` of one of its processes and when a deadline passes; when every wish has its outcome, the
//! answer goes to the connection that asked. Decisions are made from the process as it is and the `Run` it is in,
//! never from the change that was told: by then the process may have moved on.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::supervisor::event::{Exit, Phase, ProcessId, Run, Time};
use crate::supervisor::{Process, Supervisor};
use crate::wire::Outcome;

/// How long after SIGKILL a process may still be there before a stop is reported as failed.
const AFTER_KILL: Duration = Duration::from_secs(5);
/// Nobody waits longer than this, whatever they ask for.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Start,
    Stop,
    Restart,
}

/// The connection that asked, so that an answer cannot reach a later one in the same slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Client {
    pub slot: usize,
    pub serial: u64,
}

/// One process of a request: what was wished, and how it stood before.
#[derive(Clone, Debug)]
pub struct Item {
    id: ProcessId,
    name: String,
    wish: Wish,
    was: Phase,
    asked_at: Time,
    /// The life that the wish ends; what happens in it is not its outcome.
    old: Option<Run>,
    /// The first life that the wish began.
    begun: Option<Run>,
    outcome: Option<Outcome>,
}

impl Item {
    /// To be made before the supervisor hears of the wish.
    pub fn new(process: &Process, wish: Wish, now: Time) -> Item {
        let old = match wish {
            Wish::Start if process.phase() != Phase::Stopping => None,
            _ => process.run(),
        };
        Item {
            id: process.id(),
            name: process.spec().name.to_string(),
            wish,
            was: process.phase(),
            asked_at: now,
            old,
            begun: None,
            outcome: None,
        }
    }

    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// The answer for one that does not want to wait.
    pub fn asked(&self, supervisor: &Supervisor) -> Outcome {
        let message = match self.wish {
            Wish::Start => "asked to start",
            Wish::Stop => "asked to stop",
            Wish::Restart => "asked to restart",
        };
        let state = supervisor.process(self.id).map_or(self.was, Process::phase);
        Outcome { name: self.name.clone(), ok: true, state: state.to_string(), message: message.into() }
    }

    /// Looks at the process; the next moment to look again if nothing changes until then.
    fn look(&mut self, supervisor: &Supervisor, now: Time) -> Option<Time> {
        let Some(process) = supervisor.process(self.id) else {
            let ok = self.wish == Wish::Stop;
            self.finish(ok, Phase::Stopped, "no longer configured".into());
            return None;
        };
        match self.wish {
            Wish::Stop => self.look_at_stop(process, now),
            Wish::Start | Wish::Restart => self.look_at_start(process, now),
        }
    }

    fn look_at_stop(&mut self, process: &Process, now: Time) -> Option<Time> {
        match process.phase() {
            phase @ (Phase::Stopped | Phase::Exited | Phase::Fatal) => {
                let was_down = matches!(self.was, Phase::Stopped | Phase::Exited | Phase::Fatal);
                match survivors(process) {
                    Some(text) => self.finish(false, phase, text),
                    None if was_down => self.finish(true, phase, "already stopped".into()),
                    None => self.finish(true, phase, "stopped".into()),
                }
                None
            }
            Phase::Stopping => self.look_at_stopping(process, now),
            Phase::Starting | Phase::Running | Phase::Backoff => None,
        }
    }

    /// Its stop is under way; it has its whole grace, and a little more to be killed in.
    fn look_at_stopping(&mut self, process: &Process, now: Time) -> Option<Time> {
        let stop = &process.spec().stop;
        let due = (process.since() + stop.drain + stop.wait).max(self.asked_at) + AFTER_KILL;
        if now < due {
            return Some(due);
        }
        let text = survivors(process).unwrap_or_else(|| "still there after SIGKILL".into());
        self.finish(false, Phase::Stopping, text);
        None
    }

    fn look_at_start(&mut self, process: &Process, now: Time) -> Option<Time> {
        let (phase, run) = (process.phase(), process.run());
        if let Some(run) = run.filter(|run| Some(*run) != self.old) {
            match self.begun {
                None => self.begun = Some(run),
                Some(begun) if begun != run => {
                    let why = last_exit(process).unwrap_or_else(|| "ended".into());
                    self.finish(false, phase, why);
                    return None;
                }
                Some(_) => {}
            }
        }
        let oneshot = process.spec().restart.oneshot;
        match phase {
            Phase::Running if self.begun.is_some() && process.is_ready() && !oneshot => {
                let message = match (self.wish, self.was) {
                    (Wish::Start, Phase::Running) => "already started",
                    (Wish::Restart, _) => "restarted",
                    _ => "started",
                };
                self.finish(true, phase, message.into());
                None
            }
            Phase::Stopping if self.begun.is_none() => self.look_at_stopping(process, now),
            Phase::Running | Phase::Starting | Phase::Stopping => None,
            Phase::Stopped | Phase::Exited | Phase::Fatal | Phase::Backoff => {
                self.look_at_end(process);
                None
            }
        }
    }

    /// It does not run: has it not yet begun, is it done, or has it failed?
    fn look_at_end(&mut self, process: &Process) {
        // It waits for others, or for the supervisor to get to it.
        if self.begun.is_none() && process.wants_up() {
            return;
        }
        let phase = process.phase();
        let good = match process.last_exit() {
            Some((Exit::Code(code), _)) => process.spec().restart.exitcodes.contains(code),
            _ => false,
        };
        match phase {
            Phase::Exited if process.spec().restart.oneshot && good && self.begun.is_some() => {
                let text = last_exit(process).unwrap_or_default();
                self.finish(true, phase, format!("done, {text}"));
            }
            Phase::Stopped => self.finish(false, phase, format!("not started: {}", process.why())),
            _ => self.finish(false, phase, format!("{phase}: {}", process.why())),
        }
    }

    /// Its time is up.
    fn give_up(&mut self, supervisor: &Supervisor, reason: &str) {
        let Some(process) = supervisor.process(self.id) else { return };
        let waits: Vec<String> = supervisor.waits_for(self.id).iter().map(ToString::to_string).collect();
        let message = match survivors(process) {
            Some(text) => text,
            None if !waits.is_empty() => format!("{reason}: {} waits for {}", process.phase(), waits.join(", ")),
            None => format!("{reason}: {}", process.phase()),
        };
        self.finish(false, process.phase(), message);
    }

    fn outcome_at_the_end(self) -> Outcome {
        let (name, state) = (self.name, self.was.to_string());
        self.outcome.unwrap_or(Outcome { name, ok: false, state, message: "hob has been shut down".into() })
    }

    fn finish(&mut self, ok: bool, phase: Phase, message: String) {
        self.outcome = Some(Outcome { name: self.name.clone(), ok, state: phase.to_string(), message });
    }
}

fn survivors(process: &Process) -> Option<String> {
    let named: Vec<String> = process.survivors().iter().map(|s| format!("{} ({})", s.pid, s.command)).collect();
    (!named.is_empty()).then(|| format!("cannot be stopped: {} still there", named.join(", ")))
}

fn last_exit(process: &Process) -> Option<String> {
    process.last_exit().map(|(exit, _)| exit.to_string())
}

#[derive(Debug)]
struct Entry {
    items: Vec<Item>,
    open: usize,
    /// The client's own limit.
    deadline: Time,
    /// When the first of its items wants to be looked at again.
    look_at: Time,
}

/// An answer that is ready.
pub type Finished = (Client, Vec<Outcome>);

#[derive(Debug, Default)]
pub struct Waiters {
    entries: BTreeMap<Client, Entry>,
    by_process: HashMap<ProcessId, Vec<(Client, usize)>>,
}

impl Waiters {
    /// To be called when the supervisor has heard of the wishes; answers at once if nothing is left to wait for.
    pub fn begin(
        &mut self,
        client: Client,
        items: Vec<Item>,
        timeout: Option<Duration>,
        supervisor: &Supervisor,
        now: Time,
    ) -> Option<Finished> {
        let deadline = now + timeout.unwrap_or(LONGEST).min(LONGEST);
        for (at, item) in items.iter().enumerate() {
            self.by_process.entry(item.id).or_default().push((client, at));
        }
        self.entries.insert(client, Entry { open: items.len(), items, deadline, look_at: deadline });
        self.look_at_all(client, supervisor, now)
    }

    /// The client is gone.
    pub fn forget(&mut self, client: Client) {
        self.remove(client);
    }

    /// Something happened to this process.
    pub fn changed(&mut self, id: ProcessId, supervisor: &Supervisor, now: Time) -> Vec<Finished> {
        let Some(places) = self.by_process.get(&id).cloned() else { return Vec::new() };
        let mut finished = Vec::new();
        for (client, at) in places {
            self.look(client, at, supervisor, now);
            finished.extend(self.take_if_finished(client));
        }
        finished
    }

    /// Everything is looked at with the next `handle_timeout`.
    pub fn look_soon(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.look_at = Time::default());
    }

    pub fn next_deadline(&self) -> Option<Time> {
        self.entries.values().map(|entry| entry.look_at).min()
    }

    pub fn handle_timeout(&mut self, supervisor: &Supervisor, now: Time) -> Vec<Finished> {
        let due: Vec<Client> =
            self.entries.iter().filter(|(_, entry)| entry.look_at <= now).map(|(client, _)| *client).collect();
        due.into_iter().filter_map(|client| self.look_at_all(client, supervisor, now)).collect()
    }

    /// Answers everybody with what is known, because hob ends.
    pub fn end(&mut self) -> Vec<Finished> {
        self.by_process.clear();
        let entries = std::mem::take(&mut self.entries);
        let answer = |(client, entry): (Client, Entry)| {
            (client, entry.items.into_iter().map(Item::outcome_at_the_end).collect())
        };
        entries.into_iter().map(answer).collect()
    }

    fn look_at_all(&mut self, client: Client, supervisor: &Supervisor, now: Time) -> Option<Finished> {
        let entry = self.entries.get_mut(&client)?;
        entry.look_at = entry.deadline;
        for at in 0..entry.items.len() {
            self.look(client, at, supervisor, now);
        }
        let entry = self.entries.get_mut(&client)?;
        if entry.open > 0 && now >= entry.deadline {
            entry.give_up(supervisor, "timed out");
        }
        self.take_if_finished(client)
    }

    fn look(&mut self, client: Client, at: usize, supervisor: &Supervisor, now: Time) {
        let Some(entry) = self.entries.get_mut(&client) else { return };
        let Some(item) = entry.items.get_mut(at).filter(|item| item.outcome.is_none()) else { return };
        if let Some(next) = item.look(supervisor, now) {
            entry.look_at = entry.look_at.min(next);
        }
        if item.outcome.is_some() {
            entry.open -= 1;
            let id = item.id;
            self.unlink(client, at, id);
        }
    }

    fn take_if_finished(&mut self, client: Client) -> Option<Finished> {
        if self.entries.get(&client)?.open > 0 {
            return None;
        }
        let entry = self.remove(client)?;
        Some((client, entry.items.into_iter().filter_map(|item| item.outcome).collect()))
    }

    fn remove(&mut self, client: Client) -> Option<Entry> {
        let entry = self.entries.remove(&client)?;
        for (at, item) in entry.items.iter().enumerate() {
            self.unlink(client, at, item.id);
        }
        Some(entry)
    }

    fn unlink(&mut self, client: Client, at: usize, id: ProcessId) {
        if let Some(places) = self.by_process.get_mut(&id) {
            places.retain(|place| *place != (client, at));
            if places.is_empty() {
                self.by_process.remove(&id);
            }
        }
    }
}

impl Entry {
    fn give_up(&mut self, supervisor: &Supervisor, reason: &str) {
        for item in self.items.iter_mut().filter(|item| item.outcome.is_none()) {
            item.give_up(supervisor, reason);
        }
        self.open = 0;
    }
}
