//! supervisord's mode: what the daemon remembers and does only when its plan comes from a supervisord.conf.
//!
//! The configuration that was read last and the one that runs are two things there: a reread only looks, groups are
//! added and removed one by one, and a restart stops everything and begins anew in the same process. Everything here
//! hangs on `Daemon::conductor`; without one nothing of it costs anything.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mio::Token;

use super::mainlog::{self, CRITICAL};
use super::stdio::Stdio;
use super::{Daemon, Planner, Refusal, now};
use crate::control::{Done, GroupError, Ticket};
use crate::daemon::logs::News;
use crate::logger::protocol::Said;
use crate::plan::{Group, LogSpec, Plan, Reach, Spec, Supervisord};
use crate::supervisor::event::{Change, Event, Exit, Phase, ProcessId, Run, Time, signal_name};
use crate::supervisor::listener::{Deed, Listeners};
use crate::supervisor::{Process, Supervisor};
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
    read: Plan,
    main_log: Option<PathBuf>,
    pidfile: PathBuf,
    nocleanup: bool,
    listeners: Listeners,
    pub stdio: Stdio,
    /// Why starts could not be made, by the words of supervisord.
    spawn_errors: HashMap<ProcessId, String>,
    /// Why the configuration is read, the first one now.
    purposes: VecDeque<Purpose>,
    /// To begin anew with, once everything has stopped.
    next: Option<Plan>,
    /// To be told to those who wait, at the next turn.
    done: Vec<(Ticket, Done)>,
    /// Who waits for the log to be written.
    syncs: Vec<Ticket>,
    tick_at: Option<Time>,
    ticks: [u64; 3],
    report_at: Option<Time>,
}

enum Purpose {
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
        [at_once, self.tick_at, self.report_at, self.listeners.next_deadline()].into_iter().flatten().min()
    }
}

// Beginning and ending.
impl Daemon {
    /// Everything that can fail has gone well: the first plan, and the marks of a daemon.
    pub fn conduct(&mut self, given: Given) -> io::Result<()> {
        let mut conductor = Conductor::new(&given);
        let Given { plan, main_log, ready, .. } = given;
        if let Some(spec) = main_log {
            mainlog::open(self.logs.add_main(spec)?);
        }
        for server in plan.supervisord.iter().flat_map(|own| &own.servers) {
            log::info!("RPC interface 'supervisor' initialized");
            if server.login.is_none() {
                log::error!(
                    target: CRITICAL,
                    "Server '{}' running without any HTTP authentication checking",
                    kind_of(&server.name)
                );
            }
        }
        write_pidfile(&conductor.pidfile);
        ready();
        log::info!("supervisord started with pid {}", std::process::id());
        conductor.read = plan.clone();
        self.conductor = Some(Box::new(conductor));
        self.activate(plan);
        Ok(())
    }

    /// Runs a whole plan.
    fn activate(&mut self, mut plan: Plan) {
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
        if let Some(conductor) = &mut self.conductor {
            conductor.read = plan.clone();
            conductor.listeners = Listeners::default();
            conductor.report_at = None;
            conductor.spawn_errors.clear();
            write_pidfile(&conductor.pidfile);
        }
        let servers = plan.supervisord.as_ref().map(|own| own.servers.clone()).unwrap_or_default();
        self.with_control(|control, _| control.set_servers(&servers));
        log::info!("supervisord started with pid {}", std::process::id());
        self.activate(plan);
        true
    }

    /// Everything is over.
    pub fn end_conducting(&mut self) {
        if let Some(conductor) = &self.conductor {
            let own = std::process::id().to_string();
            if fs::read_to_string(&conductor.pidfile).is_ok_and(|text| text.trim() == own) {
                let _ = fs::remove_file(&conductor.pidfile);
            }
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

    fn remove_automatic_logs(&self, spec: &Spec) {
        if self.conductor.as_ref().is_none_or(|conductor| conductor.nocleanup) {
            return;
        }
        for log in [Some(&spec.log), spec.log.stderr.as_deref()].into_iter().flatten() {
            if log.extras.as_ref().is_some_and(|extras| extras.auto) && log.file().is_some() {
                remove_with_backups(log);
            }
        }
    }

    pub fn identifier(&self) -> String {
        self.supervisor.plan().supervisord.as_ref().map_or_else(|| "hob".to_owned(), |own| own.identifier.clone())
    }

    fn groups(&self) -> &[Group] {
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

    fn do_deeds(&mut self) {
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

// The life of processes, in supervisord's words.
impl Daemon {
    /// True if this mode has told of it.
    pub fn tell_of_conducted(&mut self, change: &Change) -> bool {
        if self.conductor.is_none() {
            return false;
        }
        log::debug!("{}: {} {}", change.name, change.to, change.why);
        let Some(process) = self.supervisor.process(change.id) else { return true };
        let spec = process.spec();
        let name = spec.name.process.clone();
        let pid = self.children.leader(change.id).map_or(0, |pid| pid.as_raw());
        let (startsecs, expects) = (spec.restart.startsecs.as_secs(), spec.restart.exitcodes.clone());
        let expected = matches!(&change.exit, Some(Exit::Code(code)) if expects.contains(code));
        let group = change.name.group.clone();
        let is_listener = self.groups().iter().any(|g| g.name == group && g.pool.is_some());
        let mut extra = String::new();
        let kind = match change.to {
            Phase::Starting => {
                extra = format!(" tries:{}", change.tries);
                "PROCESS_STATE_STARTING"
            }
            Phase::Backoff => {
                extra = format!(" tries:{}", change.tries);
                if change.from == Phase::Starting || change.from == Phase::Running {
                    self.tell_of_early_end(change, &name);
                }
                "PROCESS_STATE_BACKOFF"
            }
            Phase::Running => {
                log::info!(
                    "success: {name} entered RUNNING state, process has stayed up for > than {startsecs} seconds (startsecs)"
                );
                extra = format!(" pid:{pid}");
                "PROCESS_STATE_RUNNING"
            }
            Phase::Stopping => {
                log::info!("waiting for {name} to stop");
                extra = format!(" pid:{pid}");
                "PROCESS_STATE_STOPPING"
            }
            Phase::Stopped => {
                let of = if change.from == Phase::Backoff { 0 } else { pid };
                extra = format!(" pid:{of}");
                if let (Some(exit), true) = (&change.exit, change.from != Phase::Backoff) {
                    let text = format!("stopped: {name} ({})", ended(exit));
                    if expected { log::info!("{text}") } else { log::warn!("{text}") }
                }
                "PROCESS_STATE_STOPPED"
            }
            Phase::Exited => {
                extra = format!(" expected:{} pid:{pid}", u8::from(expected));
                if let Some(exit) = &change.exit {
                    match expected {
                        true => log::info!("exited: {name} ({}; expected)", ended(exit)),
                        false => log::warn!("exited: {name} ({}; not expected)", ended(exit)),
                    }
                }
                "PROCESS_STATE_EXITED"
            }
            Phase::Fatal => {
                log::info!("gave up: {name} entered FATAL state, too many start retries too quickly");
                "PROCESS_STATE_FATAL"
            }
        };
        if is_listener {
            self.tell_listener_of_itself(change, &name);
        }
        let payload = || format!("processname:{name} groupname:{group} from_state:{}{extra}", change.from);
        self.announce(kind, payload);
        self.close_unused_socket(change);
        true
    }

    fn tell_of_early_end(&mut self, change: &Change, name: &str) {
        match &change.exit {
            Some(exit @ Exit::CannotExec { .. }) => {
                let own = self.conductor.as_ref().and_then(|conductor| conductor.spawn_error(change.id));
                log::info!("spawnerr: {}", own.map_or_else(|| exit.to_string(), str::to_owned));
            }
            Some(exit) => log::warn!("exited: {name} ({}; not expected)", ended(exit)),
            None => {}
        }
    }

    fn tell_listener_of_itself(&mut self, change: &Change, name: &str) {
        let (now, identifier) = (now(), self.identifier());
        let Some(conductor) = &mut self.conductor else { return };
        match change.to {
            Phase::Starting => conductor.listeners.begins(&change.name.group, change.id, name),
            Phase::Running => conductor.listeners.runs(now, &identifier, change.id),
            // It may still answer while it stops.
            Phase::Stopping => {}
            Phase::Stopped | Phase::Exited | Phase::Fatal | Phase::Backoff => {
                conductor.listeners.ends(change.id);
                conductor.listeners.dispatch(now, &identifier);
            }
        }
        self.do_deeds();
    }

    fn close_unused_socket(&mut self, change: &Change) {
        let Some(conductor) = self.conductor.as_mut().filter(|conductor| conductor.stdio.has_sockets()) else { return };
        if matches!(change.to, Phase::Starting | Phase::Running | Phase::Stopping) {
            return;
        }
        let socket = |process: &Process| process.spec().program.as_ref().and_then(|p| p.socket.clone());
        let Some(own) = self.supervisor.process(change.id).and_then(socket) else { return };
        let is_used = self
            .supervisor
            .processes()
            .any(|p| p.run().is_some() && p.spec().name.group == change.name.group && socket(p).as_ref() == Some(&own));
        // One that is tried again soon keeps it.
        let is_waited_for = change.to == Phase::Backoff || change.to == Phase::Exited;
        if !is_used && !is_waited_for {
            conductor.stdio.close_socket(&change.name.group, &own.url);
        }
    }

    /// The child alone, or its group where that is said, unless hob's own rules hold.
    pub fn signal_target(&self, run: Run, signal: i32) -> bool {
        let reach = self.supervisor.process(run.job.process()).map(|process| process.spec().stop.reach);
        match reach {
            Some(Reach::Child { kill_group, .. }) if signal == libc::SIGKILL => kill_group,
            Some(Reach::Child { stop_group, .. }) => stop_group,
            Some(Reach::Everything) | None => true,
        }
    }

    pub fn tell_of_signal(&self, run: Run, signal: i32) {
        if self.conductor.is_none() {
            return;
        }
        let Some(process) = self.supervisor.process(run.job.process()) else { return };
        let (name, pid) = (&process.spec().name.process, self.children.pid(run).map_or(0, |pid| pid.as_raw()));
        if signal == libc::SIGKILL {
            log::warn!("killing '{name}' ({pid}) with SIGKILL");
        } else {
            let whom = if self.signal_target(run, signal) { " process group" } else { "" };
            log::debug!("killing {name} (pid {pid}){whom} with signal {}", signal_name(signal));
        }
    }
}

// The configuration that was read, and the one that runs.
impl Daemon {
    pub fn want_reread(&mut self, ticket: Ticket) {
        self.want(Purpose::Reread(ticket));
    }

    pub fn want_restart(&mut self, ticket: Option<Ticket>) {
        self.want(Purpose::Restart(ticket));
    }

    pub fn want_applied(&mut self, ticket: Ticket) {
        self.want(Purpose::Apply(ticket));
    }

    fn want(&mut self, purpose: Purpose) {
        let Some(conductor) = &mut self.conductor else { return };
        conductor.purposes.push_back(purpose);
        if conductor.purposes.len() == 1 {
            self.read_for_first_purpose();
        }
    }

    fn read_for_first_purpose(&mut self) {
        while self.conductor.as_ref().is_some_and(|conductor| !conductor.purposes.is_empty()) {
            let (make, wanted) = (&self.options.make_plan, super::Wanted { again: true, deployed: false });
            match Planner::start(make, wanted, &self.marks, &[], self.poll.registry(), super::PLANNER) {
                Ok(planner) => {
                    self.planner = Some(planner);
                    return;
                }
                Err(why) => {
                    let refusal = Refusal { errors: vec![format!("cannot start a child: {why}")], status: 111 };
                    self.have_read(Err(refusal));
                }
            }
        }
    }

    /// The planner is done.
    pub fn hear_conf(&mut self, result: Result<Plan, Refusal>) {
        self.have_read(result);
        self.read_for_first_purpose();
    }

    fn have_read(&mut self, result: Result<Plan, Refusal>) {
        let Some(purpose) = self.conductor.as_mut().and_then(|conductor| conductor.purposes.pop_front()) else {
            return;
        };
        let result = result.map_err(|refusal| refusal.errors.join("; "));
        match (purpose, result) {
            (Purpose::Reread(ticket), Ok(plan)) => {
                let different = self.differences(&plan);
                if let Some(conductor) = &mut self.conductor {
                    conductor.read = plan;
                }
                self.tell_done(ticket, Done::Reread(Ok(different)));
            }
            (Purpose::Reread(ticket), Err(why)) => self.tell_done(ticket, Done::Reread(Err(why))),
            (Purpose::Restart(ticket), Ok(plan)) => {
                if let Some(ticket) = ticket {
                    self.tell_done(ticket, Done::Restart(Ok(())));
                }
                if !self.supervisor.is_shutting_down() {
                    if let Some(conductor) = &mut self.conductor {
                        conductor.next = Some(plan);
                    }
                    self.supervisor.handle(now(), Event::Shutdown { grace: None });
                    self.tell_of_shutdown();
                }
            }
            (Purpose::Restart(ticket), Err(why)) => {
                log::error!(target: CRITICAL, "the configuration is bad, everything stays as it is: {why}");
                if let Some(ticket) = ticket {
                    self.tell_done(ticket, Done::Restart(Err(why)));
                }
            }
            (Purpose::Apply(ticket), Ok(plan)) => {
                let count = plan.specs.len();
                if let Some(conductor) = &mut self.conductor {
                    conductor.read = plan.clone();
                }
                self.run_plan(plan);
                let done = Ok(format!("{count} processes"));
                self.with_control(|control, daemon| control.reload_done(ticket, done, daemon));
            }
            (Purpose::Apply(ticket), Err(why)) => {
                self.with_control(|control, daemon| control.reload_done(ticket, Err(vec![why]), daemon));
            }
        }
    }

    /// At the next turn: whoever asked may still be in the middle of asking.
    fn tell_done(&mut self, ticket: Ticket, done: Done) {
        if let Some(conductor) = &mut self.conductor {
            conductor.done.push((ticket, done));
        }
    }

    /// Groups that are new, changed or gone, compared with what runs.
    fn differences(&self, read: &Plan) -> [Vec<String>; 3] {
        let (mut added, mut changed) = (Vec::new(), Vec::new());
        let active = self.groups();
        let groups: &[Group] = read.supervisord.as_ref().map_or(&[], |own| &own.groups);
        for group in groups {
            match active.iter().find(|other| other.name == group.name) {
                None => added.push(group.name.clone()),
                Some(other) => {
                    let here: Vec<Spec> = specs_of(&read.specs, &group.name).map(unnamed).collect();
                    let running: Vec<Spec> = self
                        .supervisor
                        .processes()
                        .map(Process::spec)
                        .filter(|spec| spec.name.group == group.name)
                        .map(unnamed)
                        .collect();
                    let env = |plan: &Plan| plan.supervisord.as_ref().map(|own| own.env.clone());
                    if group != other || here != running || env(read) != env(self.supervisor.plan()) {
                        changed.push(group.name.clone());
                    }
                }
            }
        }
        let gone = active.iter().map(|group| &group.name);
        let gone = gone.filter(|name| !groups.iter().any(|group| group.name == **name)).cloned().collect();
        [added, changed, gone]
    }

    /// Runs another plan from now on, leaving alone what is the same in both.
    fn run_plan(&mut self, mut plan: Plan) {
        name_logs(&mut plan.specs, plan.supervisord.as_deref(), &self.supervisor);
        let groups = plan.supervisord.as_ref().map(|own| own.groups.clone()).unwrap_or_default();
        let before: Vec<String> = self.groups().iter().map(|group| group.name.clone()).collect();
        self.supervisor.handle(now(), Event::Plan(plan));
        if let Some(conductor) = &mut self.conductor {
            conductor.listeners.set_pools(&groups);
            conductor.set_tick();
        }
        for group in groups.iter().filter(|group| !before.contains(&group.name)) {
            self.announce("PROCESS_GROUP_ADDED", || format!("groupname:{}\n", group.name));
        }
        for name in before.iter().filter(|name| !groups.iter().any(|group| group.name == **name)) {
            self.announce("PROCESS_GROUP_REMOVED", || format!("groupname:{name}\n"));
        }
    }

    pub fn add_conducted_group(&mut self, name: &str) -> Result<(), GroupError> {
        if self.groups().iter().any(|group| group.name == name) {
            return Err(GroupError::AlreadyAdded);
        }
        let read = self.conductor.as_ref().map(|conductor| &conductor.read).ok_or(GroupError::Unknown)?;
        let own = read.supervisord.as_ref().ok_or(GroupError::Unknown)?;
        let group = own.groups.iter().find(|group| group.name == name).ok_or(GroupError::Unknown)?;
        let mut groups = self.groups().to_vec();
        groups.push(group.clone());
        groups.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
        let fresh: Vec<Spec> = specs_of(&read.specs, name).cloned().collect();
        let env = own.env.clone();
        self.run_groups(groups, fresh, Some(env));
        Ok(())
    }

    pub fn remove_conducted_group(&mut self, name: &str) -> Result<(), GroupError> {
        if !self.groups().iter().any(|group| group.name == name) {
            return Err(GroupError::Unknown);
        }
        let is_stopped = |process: &Process| matches!(process.phase(), Phase::Stopped | Phase::Exited | Phase::Fatal);
        if !self.supervisor.processes().filter(|process| process.spec().name.group == name).all(is_stopped) {
            return Err(GroupError::StillRunning);
        }
        let groups = self.groups().iter().filter(|group| group.name != name).cloned().collect();
        self.run_groups(groups, Vec::new(), None);
        Ok(())
    }

    /// The groups that run, with their processes as they are, and those that are new.
    fn run_groups(
        &mut self,
        groups: Vec<Group>,
        fresh: Vec<Spec>,
        env: Option<std::collections::BTreeMap<String, String>>,
    ) {
        let mut specs = Vec::new();
        for group in &groups {
            let running = self.supervisor.processes().map(Process::spec).filter(|spec| spec.name.group == group.name);
            specs.extend(running.cloned());
            specs.extend(specs_of(&fresh, &group.name).cloned());
        }
        let mut plan = Plan { specs, ..self.supervisor.plan().clone() };
        if let Some(own) = &mut plan.supervisord {
            own.groups = groups;
            // What runs already has its environment; a new one gets what was read last.
            own.env = env.unwrap_or_else(|| own.env.clone());
        }
        self.run_plan(plan);
    }
}

impl Conductor {
    /// When the next event of time is due, if anybody wants one.
    fn set_tick(&mut self) {
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

/// How a child ended: `exit status 1`, `terminated by SIGSEGV (core dumped)`.
fn ended(exit: &Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exit status {code}"),
        Exit::Signal { signal, core, .. } => {
            format!("terminated by {}{}", signal_name(*signal), if *core { " (core dumped)" } else { "" })
        }
        Exit::CannotExec { .. } => "exit status 127".to_owned(),
        Exit::Unknown => "unknown termination cause".to_owned(),
    }
}

/// The words for a child that was nobody's.
pub fn tell_of_stranger(pid: sys::process::Pid, ended: sys::process::Ended) {
    match ended {
        sys::process::Ended::Code(code) => log::info!("reaped unknown pid {pid} (exit status {code})"),
        sys::process::Ended::Signal { signal, .. } => {
            log::info!("reaped unknown pid {pid} (terminated by {})", signal_name(signal));
        }
    }
}

fn kind_of(section: &str) -> &str {
    section.split(':').next().unwrap_or(section)
}

fn specs_of<'s>(specs: &'s [Spec], group: &'s str) -> impl Iterator<Item = &'s Spec> {
    specs.iter().filter(move |spec| spec.name.group == group)
}

/// As the configuration has it: an automatic log has no name there.
fn unnamed(spec: &Spec) -> Spec {
    let mut spec = spec.clone();
    let clear = |log: &mut LogSpec| {
        if log.extras.as_ref().is_some_and(|extras| extras.auto) {
            log.path = PathBuf::new();
        }
    };
    clear(&mut spec.log);
    if let Some(stderr) = &mut spec.log.stderr {
        clear(stderr);
    }
    spec
}

/// Gives automatic logs their names; a process that runs already keeps its own.
fn name_logs(specs: &mut [Spec], own: Option<&Supervisord>, running: &Supervisor) {
    let Some(own) = own else { return };
    let before: HashMap<&crate::plan::Name, &Spec> =
        running.processes().map(|process| (&process.spec().name, process.spec())).collect();
    for spec in specs {
        let process = spec.name.process.clone();
        let old = before.get(&spec.name).map(|spec| &spec.log);
        name_log(&mut spec.log, old, own, &process, "stdout");
        if let Some(stderr) = &mut spec.log.stderr {
            name_log(stderr, old.and_then(|log| log.stderr.as_deref()), own, &process, "stderr");
        }
    }
}

fn name_log(log: &mut LogSpec, old: Option<&LogSpec>, own: &Supervisord, process: &str, channel: &str) {
    let is_auto = |log: &LogSpec| log.extras.as_ref().is_some_and(|extras| extras.auto);
    if !is_auto(log) || log.file().is_some() {
        return;
    }
    log.path = match old.filter(|old| is_auto(old) && old.file().is_some()) {
        Some(old) => old.path.clone(),
        None => {
            // Whose it is stands in the name: a daemon of the same identifier leaves it alone.
            let (pid, chance) = (std::process::id(), chance());
            own.childlogdir.join(format!("{process}-{channel}---{}-{pid}_{chance}.log", own.identifier))
        }
    };
}

/// Eight letters and digits that nobody can foresee.
fn chance() -> String {
    let mut number = std::collections::hash_map::RandomState::new().build_hasher().finish();
    let mut text = String::new();
    for _ in 0..8 {
        text.push(char::from(b"abcdefghijklmnopqrstuvwxyz0123456789"[(number % 36) as usize]));
        number /= 36;
    }
    text
}

fn remove_with_backups(log: &LogSpec) {
    let _ = fs::remove_file(&log.path);
    for n in 1..=log.backups.min(1000) {
        let names = ["", ".gz", ".zst"].map(|suffix| format!("{}.{n}{suffix}", log.path.display()));
        if !names.map(|name| fs::remove_file(name).is_ok()).contains(&true) {
            break;
        }
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
