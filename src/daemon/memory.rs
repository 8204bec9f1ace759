//! `memory_limit`: a process that has more memory than it may is restarted.
//!
//! Looked at every few seconds, and only while something that has a limit runs.

use std::time::Duration;

use super::{Daemon, now};
use crate::control::Host;
use crate::supervisor::Process;
use crate::supervisor::event::{Event, ProcessId, Run, Time};
use crate::sys::proc;

impl Daemon {
    /// Something may have begun that has a limit.
    pub(super) fn mind_memory(&mut self, id: ProcessId) {
        let has_limit = |process: &Process| process.run().is_some() && process.spec().memory_limit.is_some();
        if self.memory_at.is_none() && self.supervisor.process(id).is_some_and(has_limit) {
            self.memory_at = Some(now() + LOOK_EVERY);
        }
    }

    pub(super) fn look_at_memory(&mut self, now: Time) {
        if self.memory_at.is_none_or(|at| at > now) {
            return;
        }
        let limited = self.supervisor.processes().filter_map(|process| {
            let (run, limit) = (process.run()?, process.spec().memory_limit?);
            Some((run, limit, self.children.pid(run)?.as_raw()))
        });
        let limited: Vec<(Run, u64, i32)> = limited.collect();
        self.memory_at = (!limited.is_empty()).then(|| now + LOOK_EVERY);
        for (run, limit, pid) in limited {
            let used = memory_of_family(pid);
            if used > limit {
                let why = format!("memory: {} MB, its limit is {} MB", mega(used), mega(limit));
                if let Some(process) = self.supervisor.process(run.job.process()) {
                    log::warn!("{}: restarts for its {why}", process.spec().name);
                }
                self.feed(Event::Unwell(run, why));
            }
        }
    }
}

/// Of a process and of all below it. What several share is counted once: the largest share any of them has.
fn memory_of_family(pid: i32) -> u64 {
    let (mut own, mut shared) = (0, 0);
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len().min(FAMILY_MAX) {
        if let (Some(stat), Some(memory)) = (proc::stat(found[at]), proc::memory(found[at])) {
            own += memory.anonymous;
            shared = shared.max(memory.shared);
            found.extend(proc::children_of(&stat));
        }
        at += 1;
    }
    own + shared
}

/// Of a megabyte, to one digit behind the point.
fn mega(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / (1 << 20) as f64)
}

const LOOK_EVERY: Duration = Duration::from_secs(5);
const FAMILY_MAX: usize = 1000;
