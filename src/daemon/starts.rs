//! From a run that is decided to a child: one by one, many by launchers, and the probes.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use mio::Token;
use nix::errno::Errno;

use super::conductor::{Conductor, SPEAKERS};
use super::launch::{Launch, Report};
use super::logs::Logs;
use super::marks::Owner;
use super::{Daemon, batch, launch, lookup, marks, rescue};
use crate::control::Host;
use crate::plan::{Ask, Instance, ReadyBy, Spec};
use crate::supervisor::event::{Event, Exit, Job, ProcessId, Run};
use crate::sys;
use crate::sys::process::Pid;

impl Daemon {
    pub(super) fn start_all(&mut self) {
        let mut runs = std::mem::take(&mut self.to_start);
        for run in &runs {
            let id = run.job.process();
            // There was no descriptor left when it was added; this try is for the case that there is one now.
            if self.logs.ends(id).is_none() && self.conductor.is_none() {
                self.provide(id, Logs::add);
            }
            let spec = self.supervisor.process(id).map(|process| process.spec());
            let uid = spec.and_then(|spec| spec.user.as_ref()).map_or(sys::process::effective_uid(), |user| user.uid);
            self.children.begin(*run, uid);
        }
        let launchable = runs.iter().filter(|run| self.can_be_launched(**run)).count();
        if self.has_launchers && launchable >= batch::LEAST {
            let (many, rest): (Vec<Run>, Vec<Run>) = runs.into_iter().partition(|run| self.can_be_launched(*run));
            runs = rest;
            let priority = |run: &Run| Some(self.supervisor.process(run.job.process())?.spec().priority);
            let at_will = many.iter().all(|run| priority(run) == many.first().and_then(priority));
            match batch::start(&many, at_will, &self.marks, &|run| self.launch(run, run.job.process())) {
                Ok((batches, left)) => {
                    self.children.add_batches(batches);
                    rescue::try_here("launchers");
                    runs.extend(left);
                }
                Err(why) => {
                    log::debug!("cannot start launchers: {why}");
                    runs.extend(many);
                }
            }
        }
        for run in runs {
            self.spawn(run);
        }
    }

    /// A process that becomes its program at once. One that stays hob's own code (pidproxy) would keep a launcher waiting,
    /// one of supervisord's gets pipes made for each of its runs, and a deployed instance mounts of its own.
    fn can_be_launched(&self, run: Run) -> bool {
        let spec = self.supervisor.process(run.job.process()).map(|process| process.spec());
        let is_plain = |spec: &Spec| {
            let has_mounts = || self.instance(&spec.name.group).is_some_and(|i| !i.binds.is_empty());
            spec.pidfile.is_none() && spec.program.is_none() && !has_mounts()
        };
        matches!(run.job, Job::Process(_)) && spec.is_some_and(is_plain)
    }

    /// Starts that launchers could not make: once more without them, or a failure.
    pub(super) fn look_at_not_made(&mut self) {
        for (run, why) in self.children.not_made() {
            if batch::is_refusal(&why) {
                log::debug!("starting without launchers from now on: {why}");
                self.has_launchers = false;
                self.spawn(run);
            } else {
                self.cannot_fork(run, &why);
            }
        }
    }

    fn cannot_fork(&mut self, run: Run, why: &io::Error) {
        self.children.call_off(run);
        let errno = why.raw_os_error().unwrap_or(Errno::EAGAIN as i32);
        self.feed(Event::Exited(run, Exit::CannotExec { stage: "fork".into(), errno }));
    }

    fn spawn(&mut self, run: Run) {
        let id = run.job.process();
        let started = match run.job {
            Job::Process(_) if self.conductor.is_some() => self.spawn_conducted(run, id),
            Job::Process(_) => match self.launch(run, id) {
                Some(launch) => sys::process::fork(|| launch.exec()),
                None => Err(Errno::EMFILE.into()),
            },
            Job::ReadyProbe(_) | Job::HealthProbe(_) => self.spawn_probe(run, id),
        };
        match started {
            Ok(pid) => self.children.add(run, pid),
            Err(why) => self.cannot_fork(run, &why),
        }
    }

    /// What a child for this run needs; nothing if its log pipe could not be made.
    fn launch(&self, run: Run, id: ProcessId) -> Option<Launch<'_>> {
        let spec = self.supervisor.process(id)?.spec();
        let (stdout, stderr) = self.logs.ends(id)?;
        let mut extra_env = vec![(marks::VARIABLE.to_owned(), self.marks.value(id, run.number))];
        if let Some(path) = self.readiness.path(id) {
            extra_env.push(("NOTIFY_SOCKET".to_owned(), path.display().to_string()));
        }
        Some(Launch {
            run: run.number,
            spec,
            base_env: self.base_env(&spec.name.group),
            binds: self.instance(&spec.name.group).map_or(&[], |instance| &instance.binds),
            extra_env,
            stdout,
            stderr,
            stdin: self.null.as_fd(),
            reports: self.children.report_tx(),
            exe: self.exe.as_fd(),
            nofile: self.nofile,
            oom_score_adj: self.oom_score_adj,
            marks: &self.marks,
            id,
            pidproxy: self.options.roles.pidproxy,
        })
    }

    /// As any other, but with supervisord's own pipes. An error is that its command cannot be started.
    fn spawn_conducted(&mut self, run: Run, id: ProcessId) -> io::Result<Pid> {
        let Some(mut conductor) = self.conductor.take() else { return Err(io::ErrorKind::NotFound.into()) };
        let opened = self.open_ends(&mut conductor, id);
        self.conductor = Some(conductor);
        let ends = opened?;
        let mut launch = self.launch(run, id).ok_or(Errno::EMFILE)?;
        launch.extra_env.retain(|(name, _)| name != marks::VARIABLE);
        launch.stdin = ends.stdin.as_fd();
        if let Some(stdout) = &ends.stdout {
            launch.stdout = stdout.as_fd();
        }
        let pid = sys::process::fork(|| launch.exec())?;
        log::info!("spawned: '{}' with pid {pid}", launch.spec.name.process);
        Ok(pid)
    }

    /// The child's ends of the pipes that only supervisord's mode has.
    fn open_ends(&mut self, conductor: &mut Conductor, id: ProcessId) -> io::Result<Ends> {
        let spec = self.supervisor.process(id).map(|p| p.spec()).ok_or(io::ErrorKind::NotFound)?;
        if let Err(missing) = lookup::look_up(spec, self.base_env(&spec.name.group)) {
            conductor.set_spawn_error(id, Some(missing.text));
            return Err(missing.errno.into());
        }
        conductor.set_spawn_error(id, None);
        let registry = self.poll.registry();
        let socket = spec.program.as_ref().and_then(|program| program.socket.as_ref());
        let stdin = match socket {
            Some(socket) => conductor.stdio.socket(&spec.name.group, socket).inspect_err(|why| {
                conductor.set_spawn_error(id, Some(format!("cannot listen on {}: {why}", socket.url)));
            })?,
            None => conductor.stdio.new_input(registry, id)?,
        };
        let groups = self.supervisor.plan().supervisord.iter().flat_map(|own| &own.groups);
        let is_listener = groups.filter(|group| group.pool.is_some()).any(|group| group.name == spec.name.group);
        let stdout = match is_listener {
            true => {
                let token = Token(SPEAKERS + id.0 as usize);
                Some(conductor.stdio.new_speaker(registry, token, id, spec.user.as_ref())?)
            }
            false => None,
        };
        self.logs.touch(id);
        Ok(Ends { stdin, stdout })
    }

    pub(super) fn base_env(&self, instance: &str) -> &BTreeMap<String, String> {
        static NOTHING: BTreeMap<String, String> = BTreeMap::new();
        let own = self.supervisor.plan().supervisord.as_ref().map(|own| &own.env);
        own.or_else(|| self.instance(instance).map(|i| &i.env)).unwrap_or(&NOTHING)
    }

    pub(super) fn instance(&self, name: &str) -> Option<&Instance> {
        self.supervisor.plan().instances.iter().find(|instance| instance.name == name)
    }

    fn spawn_probe(&self, run: Run, id: ProcessId) -> io::Result<Pid> {
        let spec = self.supervisor.process(id).map(|p| p.spec()).ok_or(io::ErrorKind::NotFound)?;
        let probe = match run.job {
            Job::HealthProbe(_) => spec.health.as_ref().map(|h| &h.probe),
            _ => spec.ready.as_ref().and_then(|r| match &r.by {
                ReadyBy::Probe(probe) => Some(probe),
                ReadyBy::Notify => None,
            }),
        };
        let probe = probe.ok_or(io::ErrorKind::NotFound)?;
        sys::process::fork(|| {
            sys::process::set_name("hob probe");
            let _ = sys::process::new_session();
            for number in 0..3 {
                let _ = sys::process::place_fd(self.null.as_fd(), number);
            }
            sys::process::close_others(&[self.children.report_tx().as_raw_fd()]);
            sys::process::close_on_exec_from(3);
            self.marks.tag_self(Owner::Process(id));
            let _ = sys::limits::set_nofile(self.nofile.0, self.nofile.1);
            // A file of the home, be it a command or a socket, is where the process itself has it.
            if !matches!(probe.ask, Ask::Tcp(_)) {
                let _ = self.instance(&spec.name.group).map(|instance| launch::enter(&instance.binds));
            }
            let _ = launch::become_user(spec.user.as_ref());
            if matches!(probe.ask, Ask::Exec(_)) {
                let _ = std::env::set_current_dir(&spec.directory);
                let base = self.base_env(&spec.name.group).iter();
                sys::process::replace_environment(base.chain(&spec.env).map(|(k, v)| (k.as_str(), v.as_str())));
            }
            let (status, text) = (self.options.roles.probe)(probe);
            Report::Said { run: run.number, text }.send(self.children.report_tx());
            status
        })
    }
}

/// The child's ends of pipes made for one run.
struct Ends {
    stdin: OwnedFd,
    stdout: Option<OwnedFd>,
}
