//! supervisord's mode: what the daemon remembers and does only when its plan comes from a supervisord.conf.
//!
//! The configuration that was read last and the one that runs are two things there: a reread only looks, groups are
//! added and removed one by one, and a restart stops everything and begins anew in the same process. Everything here
//! hangs on `Daemon::conductor`; without one nothing of it costs anything.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mio::Token;

use super::auto_logs::name_logs;
use super::mainlog::{self, CRITICAL};
use super::predecessor::{end_leftovers, named};
use super::stdio::Stdio;
use super::{Daemon, now};
use crate::control::{Done, Ticket};
use crate::daemon::logs::News;
use crate::logger::protocol::Said;
use crate::plan::{Group, LogSpec, MainSettings, Plan, Spec};
use crate::supervisor::Process;
use crate::supervisor::event::{Event, ProcessId, Time};
use crate::supervisor::listener::{Deed, Listeners};
use crate::sys;

/// What the start of supervisord hands over.
pub struct Given {
    /// Read before there was a daemon.
    pub plan: Plan,
    /// The main log; nothing keeps it nowhere.
    pub main_log: Option<LogSpec>,
    pub pidfile: PathBuf,
    /// Old automatic logs are kept.
    pub nocleanup: bool,
    /// Called once everything that can fail at the start has gone well.
    pub ready: Box<dyn FnOnce()>,
}

pub struct Conductor {
    /// What was read last.
    pub(super) read: Plan,
    main_log: Option<PathBuf>,
    pidfile: PathBuf,
    pub(super) nocleanup: bool,
    pub(super) listeners: Listeners,
    pub stdio: Stdio,
    /// Why starts could not be made, by the words of supervisord.
    spawn_errors: HashMap<ProcessId, String>,
    /// Why the configuration is read, the first one now.
    pub(super) purposes: VecDeque<Purpose>,
    /// To begin anew with, once everything has stopped.
    pub(super) next: Option<Plan>,
    /// To be told to those who wait, at the next turn.
    pub(super) done: Vec<(Ticket, Done)>,
    /// Who waits for the log to be written.
    syncs: Vec<Ticket>,
    tick_at: Option<Time>,
    ticks: [u64; 3],
    report_at: Option<Time>,
    /// The main log waits for the logger to take its other file; so long at most.
    held_until: Option<Time>,
}

/// The ticket of the log that moves; no client gets that far.
const MOVED: u64 = u64::MAX;

pub(super) enum Purpose {
    Reread(Ticket),
    Restart(Option<Ticket>),
    /// hob's own reload: what is different is applied, process by process.
    Apply(Ticket),
}

/// Tokens of pipes that only this mode has, by process id or number.
pub const INPUTS: usize = 1 << 34;
pub const SPEAKERS: usize = 1 << 35;

impl Conductor {
    pub fn new(given: &Given) -> Conductor {
        Conductor {
            read: given.plan.clone(),
            main_log: given.main_log.as_ref().and_then(LogSpec::file).map(Path::to_owned),
            pidfile: given.pidfile.clone(),
            nocleanup: given.nocleanup,
            listeners: Listeners::default(),
            stdio: Stdio::default(),
            spawn_errors: HashMap::new(),
            purposes: VecDeque::new(),
            next: None,
            done: Vec::new(),
            syncs: Vec::new(),
            tick_at: None,
            ticks: [0; 3],
            report_at: None,
            held_until: None,
        }
    }

    pub fn main_log(&self) -> Option<&Path> {
        self.main_log.as_deref()
    }

    pub fn read(&self) -> &Plan {
        &self.read
    }

    pub fn is_restarting(&self) -> bool {
        self.next.is_some()
    }

    pub fn spawn_error(&self, id: ProcessId) -> Option<&str> {
        self.spawn_errors.get(&id).map(String::as_str)
    }

    pub fn set_spawn_error(&mut self, id: ProcessId, why: Option<String>) {
        match why {
            Some(why) => self.spawn_errors.insert(id, why),
            None => self.spawn_errors.remove(&id),
        };
    }

    fn next_deadline(&self) -> Option<Time> {
        let at_once = (!self.done.is_empty() || !self.syncs.is_empty()).then(Time::default);
        [at_once, self.tick_at, self.report_at, self.held_until, self.listeners.next_deadline()]
            .into_iter()
            .flatten()
            .min()
    }
}

// Beginning and ending.
impl Daemon {
    /// Everything that can fail has gone well: the first plan, and the marks of a daemon.
    pub fn conduct(&mut self, given: Given) -> io::Result<()> {
        let mut conductor = Conductor::new(&given);
        let Given { mut plan, main_log, ready, .. } = given;
        self.disabled.apply(&mut plan.specs);
        if let Some(spec) = main_log {
            mainlog::open(self.logs.add_main(spec)?);
        }
        self.end_predecessors();
        tell_of_servers(&plan);
        write_pidfile(&conductor.pidfile);
        ready();
        log::info!("supervisord started with pid {}", std::process::id());
        conductor.read = plan.clone();
        self.conductor = Some(Box::new(conductor));
        self.activate(plan);
        Ok(())
    }

    /// What a supervisord of this pid file that was killed has left running is gone before anything starts.
    fn end_predecessors(&mut self) {
        let predecessors = std::mem::take(&mut self.predecessors);
        if predecessors.is_empty() {
            return;
        }
        let daemon = sys::process::pid();
        // Nothing runs yet that could be held up by this.
        let child = sys::process::fork(|| {
            for stat in end_leftovers(&predecessors, daemon) {
                log::error!("cannot end {}, which a supervisord that was killed has left", named(&stat));
            }
            0
        });
        match child {
            Ok(pid) => drop(sys::process::wait_for(pid)),
            Err(why) => log::error!("cannot start a child: {why}"),
        }
    }

    /// Runs a whole plan.
    fn activate(&mut self, mut plan: Plan) {
        self.tidy_soon();
        let Some(mut conductor) = self.conductor.take() else { return };
        let groups = plan.supervisord.as_ref().map(|own| own.groups.clone()).unwrap_or_default();
        name_logs(&mut plan.specs, plan.supervisord.as_deref(), &self.supervisor);
        self.supervisor.handle(now(), Event::Plan(plan));
        // Each pool hears of itself and of those after it.
        let identifier = self.identifier();
        for (nth, group) in groups.iter().enumerate() {
            if group.pool.is_some() {
                conductor.listeners.set_pools(&groups[..=nth]);
            }
            let payload = format!("groupname:{}\n", group.name);
            conductor.listeners.notify(now(), &identifier, "PROCESS_GROUP_ADDED", &payload);
        }
        conductor.listeners.set_pools(&groups);
        conductor.listeners.notify(now(), &identifier, "SUPERVISOR_STATE_CHANGE_RUNNING", "");
        conductor.set_tick();
        self.conductor = Some(conductor);
    }

    /// Everything has stopped for a restart: begins anew. False if there is nothing to begin with.
    pub fn start_over(&mut self) -> bool {
        let Some(plan) = self.conductor.as_mut().and_then(|conductor| conductor.next.take()) else { return false };
        let leaving: Vec<(ProcessId, Spec)> =
            self.supervisor.processes().map(|process| (process.id(), process.spec().clone())).collect();
        for (id, spec) in leaving {
            self.forget(id);
            self.remove_automatic_logs(&spec);
        }
        self.supervisor = self.supervisor.successor();
        if let Some(main) = plan.supervisord.as_ref().and_then(|own| own.main.as_deref()) {
            self.take_over(main);
        }
        if let Some(conductor) = &mut self.conductor {
            conductor.read = plan.clone();
            conductor.listeners = Listeners::default();
            conductor.report_at = None;
            conductor.spawn_errors.clear();
            write_pidfile(&conductor.pidfile);
        }
        let servers = plan.supervisord.as_ref().map(|own| own.servers.clone()).unwrap_or_default();
        self.with_control(|control, _| control.set_servers(&servers));
        tell_of_servers(&plan);
        log::info!("supervisord started with pid {}", std::process::id());
        self.activate(plan);
        true
    }

    /// The log and the pid file may be others after a restart.
    fn take_over(&mut self, main: &MainSettings) {
        let Some(conductor) = &mut self.conductor else { return };
        if let Ok(level) = main.loglevel.parse() {
            log::set_max_level(level);
        }
        if self.logs.update_main(&main.log) {
            mainlog::hold();
            self.logs.sync(MOVED);
            conductor.held_until = Some(now() + Duration::from_secs(1));
        }
        conductor.main_log = main.log.file().map(Path::to_owned);
        if conductor.pidfile != main.pidfile {
            remove_pidfile(&conductor.pidfile);
            conductor.pidfile.clone_from(&main.pidfile);
        }
    }

    fn let_log_go_on(&mut self) {
        if let Some(conductor) = &mut self.conductor {
            conductor.held_until = None;
        }
        mainlog::go_on();
    }

    /// Everything is over.
    pub fn end_conducting(&mut self) {
        mainlog::go_on();
        if let Some(conductor) = &self.conductor {
            remove_pidfile(&conductor.pidfile);
            mainlog::close();
        }
    }

    /// What a process that is no longer there leaves with us.
    pub fn forget_conducted(&mut self, id: ProcessId) {
        let Some(conductor) = &mut self.conductor else { return };
        conductor.stdio.close(self.poll.registry(), id);
        conductor.listeners.ends(id);
        conductor.spawn_errors.remove(&id);
    }

    pub fn identifier(&self) -> String {
        self.supervisor.plan().supervisord.as_ref().map_or_else(|| "hob".to_owned(), |own| own.identifier.clone())
    }

    pub(super) fn groups(&self) -> &[Group] {
        self.supervisor.plan().supervisord.as_ref().map_or(&[], |own| &own.groups)
    }

    /// Shutdown, also as the first half of a restart.
    pub fn tell_of_shutdown(&mut self) {
        if self.conductor.is_none() {
            return;
        }
        self.announce("SUPERVISOR_STATE_CHANGE_STOPPING", String::new);
        self.report_waiting();
    }

    pub fn stops_for_restart(&self) -> bool {
        self.conductor.as_ref().is_some_and(|conductor| conductor.is_restarting())
    }

    /// A shutdown that comes during a restart is one.
    pub fn cancel_restart(&mut self) {
        if let Some(conductor) = &mut self.conductor {
            conductor.next = None;
        }
    }

    fn report_waiting(&mut self) {
        let alive: Vec<String> =
            self.supervisor.processes().filter(|p| p.run().is_some()).map(|p| p.spec().name.process.clone()).collect();
        let Some(conductor) = &mut self.conductor else { return };
        conductor.report_at = None;
        if !alive.is_empty() {
            log::info!("waiting for {} to die", alive.join(", "));
            conductor.report_at = Some(now() + Duration::from_secs(3));
        }
    }
}

// Deadlines, descriptors and news.
impl Daemon {
    pub fn conductor_deadline(&self) -> Option<Time> {
        self.conductor.as_ref().and_then(|conductor| conductor.next_deadline())
    }

    pub fn handle_conductor_timeout(&mut self) {
        let (now, identifier) = (now(), self.identifier());
        let Some(conductor) = &mut self.conductor else { return };
        conductor.listeners.handle_timeout(now, &identifier);
        let done = std::mem::take(&mut conductor.done);
        if conductor.tick_at.is_some_and(|at| at <= now) {
            conductor.tick(now, &identifier);
        }
        let reports = conductor.report_at.is_some_and(|at| at <= now);
        for (ticket, done) in done {
            self.with_control(|control, daemon| control.ticket_done(ticket, &done, daemon));
        }
        if reports {
            self.report_waiting();
        }
        if self.conductor.as_ref().is_some_and(|conductor| conductor.held_until.is_some_and(|at| at <= now)) {
            self.let_log_go_on();
        }
        self.do_deeds();
    }

    /// A pipe of this mode is ready.
    pub fn hear_conducted(&mut self, token: usize, is_writable: bool) {
        let registry = self.poll.registry();
        let identifier = self.supervisor.plan().supervisord.as_ref().map(|own| own.identifier.clone());
        let Some(conductor) = &mut self.conductor else { return };
        if token >= SPEAKERS {
            let id = ProcessId((token - SPEAKERS) as u32);
            loop {
                let (heard, more) = conductor.stdio.hear(id);
                if let Some(log) = self.logs.stdout(id)
                    && !heard.is_empty()
                {
                    // Its own log gets it too, but is not waited for.
                    let _ = sys::fd::write_some(&log, &heard);
                }
                conductor.listeners.heard(now(), identifier.as_deref().unwrap_or_default(), id, &heard);
                if !more {
                    break;
                }
            }
        } else if is_writable {
            let id = ProcessId((token - INPUTS) as u32);
            conductor.stdio.writable(registry, Token(token), id);
        }
        self.do_deeds();
    }

    /// Whoever waits for the log gets it once everything that was decided is done and told.
    pub fn sync_logs(&mut self) {
        let Some(conductor) = self.conductor.as_mut().filter(|conductor| !conductor.syncs.is_empty()) else { return };
        let tickets = std::mem::take(&mut conductor.syncs);
        for ticket in tickets {
            if mainlog::is_dirty() && self.logs.logger_pid().is_some() {
                self.logs.sync(ticket.0);
            } else {
                self.with_control(|control, daemon| control.ticket_done(ticket, &Done::Synced, daemon));
            }
        }
        mainlog::clean();
    }

    pub fn want_synced(&mut self, ticket: Ticket, has_acted: bool) -> bool {
        let Some(conductor) = self.conductor.as_mut().filter(|_| has_acted || mainlog::is_dirty()) else {
            return false;
        };
        conductor.syncs.push(ticket);
        true
    }

    /// What the logger has told.
    pub fn hear_log_news(&mut self) {
        for news in self.logs.take_news() {
            match news {
                News::Synced { ticket: MOVED } => self.let_log_go_on(),
                News::Synced { ticket } => {
                    self.with_control(|control, daemon| control.ticket_done(Ticket(ticket), &Done::Synced, daemon));
                }
                News::Cleared { ticket, error } => {
                    let done = Done::Cleared(error);
                    self.with_control(|control, daemon| control.ticket_done(Ticket(ticket), &done, daemon));
                }
                News::Counted { ticket, logs } => {
                    let done = Done::Counted(logs);
                    self.with_control(|control, daemon| control.ticket_done(Ticket(ticket), &done, daemon));
                }
                News::Said { process, stderr, what, text } => self.tell_of_words(process, stderr, what, &text),
            }
        }
    }

    fn tell_of_words(&mut self, id: ProcessId, stderr: bool, what: Said, text: &str) {
        let Some(spec) = self.supervisor.process(id).map(Process::spec) else { return };
        let pid = self.children.leader(id).map_or(0, |pid| pid.as_raw());
        let head = format!("processname:{} groupname:{} pid:{pid}", spec.name.process, spec.name.group);
        let (kind, payload) = match (what, stderr) {
            (Said::Message, false) => ("PROCESS_COMMUNICATION_STDOUT", format!("{head}\n{text}")),
            (Said::Message, true) => ("PROCESS_COMMUNICATION_STDERR", format!("{head}\n{text}")),
            (Said::Output, false) => ("PROCESS_LOG_STDOUT", format!("{head} channel:stdout\n{text}")),
            (Said::Output, true) => ("PROCESS_LOG_STDERR", format!("{head} channel:stderr\n{text}")),
        };
        self.announce(kind, || payload);
    }

    /// An event for listeners; its payload is made only if one wants it.
    pub fn announce(&mut self, kind: &'static str, payload: impl FnOnce() -> String) {
        let identifier = match &self.conductor {
            Some(conductor) if conductor.listeners.wants(kind) => self.identifier(),
            _ => return,
        };
        if let Some(conductor) = &mut self.conductor {
            conductor.listeners.notify(now(), &identifier, kind, &payload());
        }
        self.do_deeds();
    }

    pub(super) fn do_deeds(&mut self) {
        let registry = self.poll.registry();
        let Some(conductor) = &mut self.conductor else { return };
        while let Some(deed) = conductor.listeners.poll_deed() {
            match deed {
                Deed::Send(id, bytes) => {
                    if let Err(why) = conductor.stdio.send(registry, Token(INPUTS + id.0 as usize), id, &bytes) {
                        log::debug!("cannot send an event to process {}: {why}", id.0);
                    }
                }
                Deed::Warn(text) => log::warn!("{text}"),
                Deed::Error(text) => log::error!("{text}"),
            }
        }
    }
}

impl Conductor {
    /// When the next event of time is due, if anybody wants one.
    pub(super) fn set_tick(&mut self) {
        let wall = sys::clock::wall();
        let wanted = TICKS.iter().filter(|(_, kind)| self.listeners.wants(kind));
        let wait = wanted.map(|(period, _)| Duration::from_secs((wall.as_secs() / period + 1) * period) - wall).min();
        if self.tick_at.is_none() {
            // None at the start.
            self.ticks = TICKS.map(|(period, _)| wall.as_secs() / period);
        }
        self.tick_at = wait.map(|wait| now() + wait);
    }

    fn tick(&mut self, now: Time, identifier: &str) {
        let wall = sys::clock::wall().as_secs();
        for (nth, (period, kind)) in TICKS.into_iter().enumerate() {
            let number = wall / period;
            if self.ticks[nth] != number {
                self.ticks[nth] = number;
                self.listeners.notify(now, identifier, kind, &format!("when:{}", number * period));
            }
        }
        self.set_tick();
    }
}

const TICKS: [(u64, &str); 3] = [(5, "TICK_5"), (60, "TICK_60"), (3600, "TICK_3600")];
fn kind_of(section: &str) -> &str {
    section.split(':').next().unwrap_or(section)
}

fn tell_of_servers(plan: &Plan) {
    let Some(own) = &plan.supervisord else { return };
    for server in &own.servers {
        if !own.lacks_interface {
            log::info!("RPC interface 'supervisor' initialized");
        }
        if server.login.is_none() {
            log::error!(
                target: CRITICAL,
                "Server '{}' running without any HTTP authentication checking",
                kind_of(&server.name)
            );
        }
    }
}

/// If it is still ours.
fn remove_pidfile(path: &Path) {
    let own = std::process::id().to_string();
    if fs::read_to_string(path).is_ok_and(|text| text.trim() == own) {
        let _ = fs::remove_file(path);
    }
}

fn write_pidfile(path: &Path) {
    if path.as_os_str().is_empty() {
        return;
    }
    if let Err(why) = fs::write(path, format!("{}\n", std::process::id())) {
        log::error!(target: CRITICAL, "could not write pidfile {}: {why}", path.display());
    }
}
