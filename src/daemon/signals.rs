//! Signals, to hob and from it: what each means here (DESIGN §4), the children that have died, and what runs are sent.

use std::time::Duration;

use signal_hook::consts::signal::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR2};

use super::children::Reaped;
use super::{Daemon, conducted_life, now, rescue};
use crate::control::Host;
use crate::plan::Plan;
use crate::supervisor::event::{Event, Phase, Run, signal_name};
use crate::sys;

impl Daemon {
    pub(super) fn signal_run(&mut self, run: Run, signal: i32) {
        if self.to_start.contains(&run) {
            // A client has asked for both in one breath. Without a child now its stop signal would be lost.
            self.start_all();
        }
        self.tell_of_signal(run, signal);
        let whole_group = self.signal_target(run, signal);
        if let Err(why) = self.children.signal(run, signal, whole_group) {
            log::debug!("cannot send signal {signal} to run {}: {why}", run.number);
            return;
        }
        let stopping = self.supervisor.process(run.job.process()).is_some_and(|p| p.phase() == Phase::Stopping);
        // A stopped (SIGSTOP) group would sit on its stop signal until it is killed.
        if stopping && signal != libc::SIGKILL && signal != libc::SIGCONT {
            let _ = self.children.signal(run, libc::SIGCONT, whole_group);
        }
    }

    /// Reaps everything that has died, then looks at the other signals.
    pub(super) fn take_signals(&mut self) {
        let pending: Vec<i32> = self.signals.pending().collect();
        // One SIGCHLD may stand for many deaths; and the look costs little when there was none.
        self.reap();
        for signal in pending.into_iter().filter(|&s| s != SIGCHLD) {
            self.hear_signal(signal);
        }
    }

    /// Listens for the signals that are to be passed on, beside those it always listens for.
    pub(super) fn take_relayed(&self, plan: &Plan) {
        for (&signal, names) in &plan.relay_signals {
            if !names.is_empty()
                && let Err(why) = self.signals.add_signal(signal)
            {
                log::warn!("cannot relay {}: {why}", signal_name(signal));
            }
        }
    }

    pub(super) fn hear_signal(&mut self, signal: i32) {
        rescue::try_here("signal");
        let relayed = self.supervisor.plan().relay_signals.get(&signal).cloned().unwrap_or_default();
        if !relayed.is_empty() {
            let runs: Vec<Run> = self
                .supervisor
                .processes()
                .filter(|p| relayed.contains(&format!("{}:{}", p.spec().name.group, p.spec().name.process)))
                .filter_map(|p| p.run())
                .collect();
            for run in runs {
                let _ = self.children.signal(run, signal, true);
            }
            return;
        }
        match signal {
            SIGTERM | SIGINT | SIGQUIT if self.conductor.is_some() => {
                log::warn!("received {} indicating exit request", signal_name(signal));
                self.begin_shutdown();
            }
            SIGHUP if self.conductor.is_some() => {
                if self.supervisor.is_shutting_down() {
                    log::warn!("ignored SIGHUP indicating restart request (shutdown in progress)");
                } else {
                    log::warn!("received SIGHUP indicating restart request");
                    self.want_restart(None);
                }
            }
            SIGTERM | SIGINT | SIGQUIT => {
                log::info!("stopping everything (signal {signal})");
                self.begin_shutdown();
            }
            SIGHUP => {
                // Somebody who cannot reach hob any more may know no other signal.
                if let Some(control) = &mut self.control {
                    control.rebind();
                }
                if let Err(why) = self.plan(true) {
                    log::error!("cannot reload: {why}");
                }
            }
            SIGUSR2 => {
                if self.conductor.is_some() {
                    log::info!("received SIGUSR2 indicating log reopen request");
                    log::info!("supervisord logreopen");
                }
                self.logs.reopen();
                if let Some(control) = &mut self.control {
                    control.rebind();
                }
            }
            _ => {}
        }
    }

    pub(super) fn begin_shutdown(&mut self) {
        self.manager.say("STOPPING=1");
        let is_first = !self.supervisor.is_shutting_down();
        let again = !is_first && !self.stops_for_restart();
        self.cancel_restart();
        if is_first {
            self.tell_of_shutdown();
        }
        self.feed(Event::Shutdown { grace: again.then_some(Duration::from_secs(1)) });
        if let Some(planner) = &self.planner {
            let signal = if again { libc::SIGKILL } else { libc::SIGTERM };
            let _ = sys::process::kill_group(planner.pid(), signal);
        }
    }

    pub(super) fn reap(&mut self) {
        self.children.take_made();
        while let Some(reaped) = self.children.reap() {
            match reaped {
                Reaped::Run(run, exit) => {
                    if let Some(said) = self.children.said.remove(&run.number) {
                        self.feed(Event::ProbeSaid { run, note: said });
                    }
                    self.feed(Event::Exited(run, exit));
                }
                Reaped::Other(pid, ended) => {
                    let is_helper = self.is_ours(pid.as_raw());
                    if self.conductor.is_some() && !is_helper {
                        conducted_life::tell_of_stranger(pid, ended);
                    }
                    if !self.reaped_checker(pid, ended) && !self.logs.reaped(pid, self.poll.registry(), now()) {
                        self.streamers.retain(|&s| s != pid);
                    }
                    // An orphan, perhaps the last one somebody waits for.
                    for sweep in self.sweeps.values_mut() {
                        sweep.answered = false;
                    }
                }
            }
        }
        self.look_at_not_made();
    }
}
