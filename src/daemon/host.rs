//! What the control socket may ask of the daemon and tell it to do.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use mio::Token;

use super::conductor::INPUTS;
use super::{Daemon, lookup, now};
use crate::control::{GroupError, Host, LogPiece, LogQuery, Tail, Ticket, too_many_followers};
use crate::plan::{Plan, Reach};
use crate::supervisor::event::{Event, ProcessId, Run, Time};
use crate::supervisor::{Process, Supervisor};
use crate::sys::process::Pid;
use crate::{sys, wire};

impl Host for Daemon {
    fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    fn pid(&self, run: Run) -> Option<i32> {
        self.children.pid(run).map(Pid::as_raw)
    }

    fn now(&self) -> Time {
        now()
    }

    fn info(&self) -> wire::Info {
        let state = match &self.planner {
            _ if self.supervisor.is_shutting_down() => "stopping".to_owned(),
            Some(planner) => planner.step.clone(),
            None => "running".to_owned(),
        };
        wire::Info {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: sys::process::pid().as_raw(),
            state,
            uptime: now().since(self.born).as_secs_f64(),
            upgrades: self.upgrades,
            log_dir: self.options.log_dir.display().to_string(),
            state_dir: self.options.state_dir.display().to_string(),
            source: match &self.conductor {
                Some(_) => "supervisord",
                None if self.deployed => "deployed",
                None => "home",
            }
            .into(),
            socket: self.options.socket.display().to_string(),
            config: self.options.config.iter().map(|p| p.display().to_string()).collect(),
        }
    }

    fn troubles(&self, id: ProcessId) -> Vec<String> {
        let run = self.supervisor.process(id).and_then(|p| p.run());
        let of_run = run.and_then(|r| self.children.troubles.get(&r.number)).into_iter().flatten().cloned();
        of_run.chain(self.logs.troubles(id).map(str::to_owned)).collect()
    }

    fn feed(&mut self, event: Event) {
        self.supervisor.handle(now(), event);
    }

    fn signal(&mut self, run: Run, signal: i32) -> io::Result<()> {
        let process = self.supervisor.process(run.job.process());
        let whole_group = process.is_none_or(|process| process.spec().stop.reach == Reach::Everything);
        if let (Some(_), Some(process), Some(pid)) = (&self.conductor, process, self.children.pid(run)) {
            let (name, signal) = (&process.spec().name.process, crate::sys::signal_names::name(signal));
            log::debug!("sending {name} (pid {pid}) sig SIG{signal}");
        }
        self.children.signal(run, signal, whole_group)
    }

    fn reload(&mut self, ticket: Ticket, deployed: Option<bool>) {
        if self.conductor.is_some() {
            return self.want_applied(ticket);
        }
        if self.planner.is_some() {
            let after = self.reload_after.get_or_insert_default();
            after.tickets.push(ticket);
            after.deployed = deployed.or(after.deployed);
            return;
        }
        self.reload_tickets.push(ticket);
        self.deployed_next = deployed.unwrap_or(self.deployed);
        if let Err(why) = self.plan(true) {
            self.reload_failed = Some(format!("cannot reload: {why}"));
        }
    }

    fn stream_logs(&mut self, socket: OwnedFd, query: LogQuery) {
        let (role, folder) = (self.options.roles.logs, self.options.log_dir.clone());
        self.serve_in_child(socket, move |socket| role(socket, query, &folder));
    }

    fn shutdown(&mut self) {
        self.begin_shutdown();
    }

    fn upgrade(&mut self, ticket: Ticket) {
        self.want_upgrade(ticket);
    }

    fn settle(&mut self) {
        while let Some(action) = self.supervisor.poll_action() {
            self.decided.push_back(action);
        }
    }

    fn identification(&self) -> String {
        self.identifier()
    }

    fn is_ending(&self) -> bool {
        self.supervisor.is_shutting_down()
    }

    fn configured(&self) -> Option<&Plan> {
        self.conductor.as_ref().map(|conductor| conductor.read())
    }

    fn add_group(&mut self, name: &str) -> Result<(), GroupError> {
        self.add_conducted_group(name)
    }

    fn remove_group(&mut self, name: &str) -> Result<(), GroupError> {
        self.remove_conducted_group(name)
    }

    fn changed_in_group(&self, name: &str) -> Result<Vec<ProcessId>, GroupError> {
        self.changed_in_conducted_group(name)
    }

    fn update_group(&mut self, name: &str) -> Result<(), GroupError> {
        self.update_conducted_group(name)
    }

    fn set_enabled(&mut self, ids: &[ProcessId], is_enabled: bool) -> io::Result<()> {
        let specs = ids.iter().filter_map(|id| self.supervisor.process(*id)).map(Process::spec);
        let starts = self.disabled.set(specs, is_enabled)?;
        for id in ids {
            let Some(process) = self.supervisor.process(*id) else { continue };
            let Some(&autostart) = starts.get(&process.spec().name) else { continue };
            self.supervisor.handle(now(), Event::Autostart(*id, autostart));
        }
        if let Some(conductor) = &mut self.conductor {
            for spec in &mut conductor.read.specs {
                spec.autostart = starts.get(&spec.name).copied().unwrap_or(spec.autostart);
            }
        }
        Ok(())
    }

    fn reread(&mut self, ticket: Ticket) {
        self.want_reread(ticket);
    }

    fn restart(&mut self, ticket: Ticket) {
        self.want_restart(Some(ticket));
    }

    fn clear_logs(&mut self, ids: &[ProcessId], main: bool, ticket: Ticket) {
        self.logs.clear(ids, main, ticket.0);
    }

    fn count_logs(&mut self, ticket: Ticket) {
        self.logs.count(ticket.0);
    }

    fn fetch(&mut self, ticket: Ticket, piece: LogPiece) {
        self.start_fetch(ticket, &piece);
    }

    fn look_up(&self, id: ProcessId) -> Result<(), (bool, String)> {
        // hob's own processes are started by a shell, which looks for itself.
        let Some(spec) = self.supervisor.process(id).map(|p| p.spec()).filter(|spec| spec.program.is_some()) else {
            return Ok(());
        };
        let found = lookup::look_up(spec, self.base_env(&spec.name.group));
        found.map(|_| ()).map_err(|missing| (missing.is_absent(), missing.text))
    }

    fn spawn_error(&self, id: ProcessId) -> Option<String> {
        self.conductor.as_ref()?.spawn_error(id).map(str::to_owned)
    }

    fn send_stdin(&mut self, id: ProcessId, bytes: &[u8]) -> io::Result<()> {
        let conductor = self.conductor.as_mut().ok_or(io::ErrorKind::NotFound)?;
        conductor.stdio.send(self.poll.registry(), Token(INPUTS + id.0 as usize), id, bytes)
    }

    fn remote_event(&mut self, kind: &str, data: &str) {
        self.announce("REMOTE_COMMUNICATION", || format!("type:{kind}\n{data}"));
    }

    fn sync_log(&mut self, ticket: Ticket, has_acted: bool) -> bool {
        self.want_synced(ticket, has_acted)
    }

    fn main_log(&self) -> Option<PathBuf> {
        self.conductor.as_ref()?.main_log().map(Path::to_owned)
    }

    fn follow_log(&mut self, socket: OwnedFd, tail: Tail) {
        let role = self.options.roles.tail;
        self.serve_in_child(socket, move |socket| role(socket, tail));
    }
}

impl Daemon {
    /// Somebody who may block takes a connection over.
    fn serve_in_child(&mut self, socket: OwnedFd, serve: impl FnOnce(OwnedFd)) {
        if self.streamers.len() >= STREAMERS_MAX {
            log::warn!("more than {STREAMERS_MAX} clients read logs, one was turned away");
            // The socket takes this at once, or the client has sent for more than it has read.
            let _ = sys::fd::set_nonblocking(&socket);
            let _ = sys::fd::write_some(&socket, &too_many_followers(STREAMERS_MAX));
            return;
        }
        let streamer = sys::process::fork(|| {
            sys::process::set_name("hob logs");
            let _ = sys::process::new_session();
            sys::process::close_others(&[socket.as_raw_fd()]);
            serve(socket);
            0
        });
        match streamer {
            Ok(pid) => self.streamers.push(pid),
            Err(why) => log::error!("cannot start a child to stream logs: {why}"),
        }
    }
}

const STREAMERS_MAX: usize = 64;
