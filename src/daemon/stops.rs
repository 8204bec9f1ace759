//! What is left of a process whose child is reaped, and of everything when hob itself ends.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::logs::FINISH_WITHIN;
use super::planner::Planner;
use super::{Daemon, leftovers, now};
use crate::control::Host;
use crate::supervisor::event::{Event, Exit, ProcessId, Run, Survivor, Time};
use crate::sys;
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
    /// Ending orphans that belong to no process.
    Strays {
        kill_at: Time,
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
                self.ending = Ending::Strays { kill_at: now + STRAY_GRACE };
                self.end_strays(libc::SIGTERM, now);
            }
            Ending::Strays { kill_at } => self.end_strays(if kill_at <= now { libc::SIGKILL } else { 0 }, now),
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

    pub(super) fn end_strays(&mut self, signal: i32, now: Time) {
        for streamer in &self.streamers {
            let _ = sys::process::kill(*streamer, libc::SIGKILL);
        }
        let mut left = leftovers::attribute(&|pid| self.is_ours(pid), &self.marks, &[]);
        left.strays.extend(std::mem::take(&mut left.of).into_values().flatten());
        match signal {
            libc::SIGKILL => left.kill_strays(&|pid| self.is_ours(pid)),
            0 => {}
            _ => left.strays.iter().for_each(|stat| {
                leftovers::signal(stat, signal);
                leftovers::signal(stat, libc::SIGCONT);
            }),
        }
        let left = left.strays;
        let given_up = matches!(self.ending, Ending::Strays { kill_at } if kill_at + STRAY_GRACE <= now);
        if left.is_empty() || given_up {
            for stat in &left {
                log::error!("cannot end {} ({}), leaving it behind", stat.pid, stat.command);
            }
            self.logs.finish();
            self.ending = Ending::Logs { until: now + FINISH_WITHIN };
        } else if signal == libc::SIGKILL {
            // Their deaths wake the loop; the next look is at the deadline after this one.
            self.ending = Ending::Strays { kill_at: now + STRAY_GRACE };
        }
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
