//! What is left of a process whose child is reaped, and of everything when hob itself ends.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::logs::FINISH_WITHIN;
use super::planner::Planner;
use super::{Daemon, leftovers, now};
use crate::control::Host;
use crate::supervisor::event::{Event, Exit, ProcessId, Run, Survivor, Time};
use crate::sys;
use crate::sys::family;
use crate::sys::process::Pid;

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Sweep {
    pub(super) run: Run,
    pub(super) signal: i32,
    /// How many were left when they were last signalled.
    pub(super) left: usize,
    pub(super) answered: bool,
}

/// The way out, once the supervisor has nothing more to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    NotYet,
    /// Ending orphans that belong to no process, and what is far off.
    Strays {
        since: Time,
        look_at: Time,
    },
    /// Waiting for the logger to write what is left.
    Logs {
        until: Time,
    },
    Done,
}

impl Daemon {
    /// Looks for what is left of processes whose child is reaped, signals it, and answers.
    pub(super) fn sweep(&mut self) {
        if self.sweeps.values().all(|s| s.answered) {
            return;
        }
        self.children.take_made();
        let traces: Vec<leftovers::Trace> = self
            .sweeps
            .keys()
            .map(|&id| leftovers::Trace {
                id,
                leader: self.children.leader(id).map(Pid::as_raw),
                pipes: self.logs.inodes(id),
            })
            .collect();
        let mut found = leftovers::attribute(&|pid| self.is_ours(pid), &self.marks, &traces);
        let to_kill = self.sweeps.iter().filter(|(id, sweep)| sweep.signal == libc::SIGKILL && !found.is_rid_of(**id));
        let to_kill: Vec<ProcessId> = to_kill.map(|(&id, _)| id).collect();
        if !to_kill.is_empty() {
            found.kill(&to_kill, &|pid| self.is_ours(pid), &self.marks, &traces);
        }
        let mut answers = Vec::new();
        self.sweeps.retain(|id, sweep| {
            let is_over = found.is_rid_of(*id);
            let left = found.of.remove(id).unwrap_or_default();
            // Signalled once with each signal, and again when helpers have had children meanwhile.
            if sweep.signal != libc::SIGKILL && (sweep.left == usize::MAX || left.len() > sweep.left) {
                for stat in &left {
                    leftovers::signal(stat, sweep.signal);
                    leftovers::signal(stat, libc::SIGCONT);
                }
            }
            sweep.left = left.len();
            // Some came and went, and none stayed for long enough to be named: their deaths bring the next look.
            sweep.answered = is_over || !left.is_empty();
            if sweep.answered {
                let survivors = left.iter().map(|s| Survivor { pid: s.pid, command: s.command.clone() }).collect();
                answers.push(Event::Swept(sweep.run, survivors));
            }
            !is_over
        });
        for answer in answers {
            self.feed(answer);
        }
        self.carry_out_actions();
    }

    /// A child that is somebody: a run, or a helper of hob itself.
    pub(super) fn is_ours(&self, pid: i32) -> bool {
        let mut helpers = self.logs.logger_pid().into_iter().chain(self.planner.as_ref().map(Planner::pid));
        self.children.is_known(pid)
            || self.streamers.iter().any(|s| s.as_raw() == pid)
            || self.checker().is_some_and(|checker| checker.as_raw() == pid)
            || helpers.any(|helper| helper.as_raw() == pid)
    }

    /// When the supervisor is finished: strays, then the logs, then out.
    pub(super) fn step_towards_the_end(&mut self) {
        let now = now();
        match self.ending {
            Ending::NotYet => {
                let Some(finish) = self.supervisor.finished() else { return };
                if self.planner.is_some() || self.start_over() {
                    return;
                }
                if self.exit_status == 0 {
                    self.exit_status = finish.exit.as_ref().map_or(0, status_of);
                }
                if self.conductor.is_some() {
                    // What programs have left running is none of supervisord's business.
                    self.end_conducting();
                    self.logs.finish();
                    self.ending = Ending::Logs { until: now + FINISH_WITHIN };
                    return;
                }
                self.far_off = (self.options.far_off)();
                self.end_strays(libc::SIGTERM, now, now);
            }
            Ending::Strays { since, .. } if since + STRAY_GRACE <= now => self.end_strays(libc::SIGKILL, since, now),
            Ending::Strays { since, .. } => self.end_strays(0, since, now),
            Ending::Logs { until } => {
                if self.logs.logger_pid().is_none() {
                    self.ending = Ending::Done;
                } else if until <= now {
                    log::error!("the logger cannot write what is left, leaving it behind");
                    self.ending = Ending::Done;
                }
            }
            Ending::Done => {}
        }
    }

    fn end_strays(&mut self, signal: i32, since: Time, now: Time) {
        for streamer in &self.streamers {
            let _ = sys::process::kill(*streamer, libc::SIGKILL);
        }
        let mut left = leftovers::attribute(&|pid| self.is_ours(pid), &self.marks, &[]);
        left.strays.extend(std::mem::take(&mut left.of).into_values().flatten());
        if !self.far_off.is_empty() {
            self.far_off.retain(family::still_lives);
            if self.far_off.is_empty() || signal == libc::SIGKILL {
                // What they have started meanwhile.
                self.far_off = (self.options.far_off)();
            }
        }
        let near = left.strays.len();
        left.strays.extend(self.far_off.iter().cloned());
        match signal {
            libc::SIGKILL => left.kill_strays(&|pid| self.is_ours(pid)),
            0 => {}
            _ => left.strays.iter().for_each(|stat| {
                leftovers::signal(stat, signal);
                leftovers::signal(stat, libc::SIGCONT);
            }),
        }
        let kill_at = since + STRAY_GRACE;
        let given_up = kill_at + STRAY_GRACE <= now;
        if left.strays.is_empty() || given_up {
            for stat in &left.strays {
                log::error!("cannot end {} ({}), leaving it behind", stat.pid, stat.command);
            }
            self.logs.finish();
            self.ending = Ending::Logs { until: now + FINISH_WITHIN };
            return;
        }
        // The deaths of the near ones wake the loop.
        let next = if now < kill_at { kill_at } else { kill_at + STRAY_GRACE };
        let look_at = if left.strays.len() > near { next.min(now + LOOK_EVERY) } else { next };
        self.ending = Ending::Strays { since, look_at };
    }
}

fn status_of(exit: &Exit) -> i32 {
    match exit {
        Exit::Code(code) => (*code).into(),
        Exit::Signal { signal, .. } => 128 + signal,
        Exit::CannotExec { .. } => 127,
        Exit::Unknown => 1,
    }
}

/// What strays get between SIGTERM and SIGKILL when hob ends.
const STRAY_GRACE: Duration = Duration::from_secs(1);
/// For the death of what is no child.
const LOOK_EVERY: Duration = Duration::from_millis(10);
