//! The life of processes, in supervisord's words: for its log, and for its event listeners.

use super::{Daemon, now};
use crate::plan::Reach;
use crate::supervisor::Process;
use crate::supervisor::event::{Change, Exit, Phase, Run, signal_name};
use crate::sys;

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
                // A shutdown tells of all of them together.
                if !self.supervisor.is_shutting_down() {
                    log::info!("waiting for {name} to stop");
                }
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
        }
        let whom = if self.signal_target(run, signal) { " process group" } else { "" };
        log::debug!("killing {name} (pid {pid}){whom} with signal {}", signal_name(signal));
    }
}

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
