//! A panic is an upgrade to oneself (DESIGN §10): the process becomes the same program once more, with the table as it
//! was left. Pid and children stay, and what programs write waits in their pipes.
//!
//! What was in the middle of being done is not done again, since it may be what cannot be done. So afterwards table and
//! world are compared: a run without a child has ended, nobody knows how, and a child without a run is ended. A signal
//! that was not sent is followed by SIGKILL, as one that was not heeded.

use std::os::fd::AsFd;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::leftovers::{self, Trace};
use super::{Daemon, messages, now};
use crate::control::Host;
use crate::supervisor::event::{Action, Event, Exit, Job, ProcessId, Run, Time};
use crate::sys::process::{self, Pid};
use crate::sys::{pidfd, poll};

/// More panics than this within `WHILE`, and it would not help to go on.
const MOST: usize = 3;
const WHILE: Duration = Duration::from_secs(60);
/// It does nothing but fork; one that takes longer hangs.
const LAUNCHED_WITHIN: Duration = Duration::from_secs(2);

/// What an upgrade waits for and a panic does not.
#[derive(Serialize, Deserialize)]
pub struct Rescued {
    /// Decided and not done.
    pending: Vec<Action>,
    /// A plan was being made, of what was deployed or not.
    replan: Option<bool>,
    /// The panics of the last minute, this one too.
    panics: Vec<Time>,
    /// They go on making children that nobody waits for.
    launchers: Vec<i32>,
}

/// Panics if a test wants it here: the file that `HOB_PANICS` names has this word in it.
pub(super) fn try_here(place: &str) {
    if cfg!(debug_assertions)
        && let Some(file) = std::env::var_os("HOB_PANICS")
        && std::fs::read_to_string(&file).is_ok_and(|word| word.trim() == place)
    {
        let _ = std::fs::remove_file(&file);
        panic!("as a test wants it: {place}");
    }
}

impl Daemon {
    /// Called on top of a panic. Does not return unless it fails. Nothing is logged here: that may be what panicked.
    pub(super) fn rescue(&self) {
        let now = now();
        let mut panics: Vec<Time> = self.panics.iter().copied().filter(|&at| at + WHILE > now).collect();
        // Before the first plan nothing runs that could be lost; supervisord's state is not handed over.
        if panics.len() >= MOST || !self.has_plan || self.conductor.is_some() {
            return;
        }
        panics.push(now);
        if let Some(planner) = &self.planner {
            let _ = process::kill_group(planner.pid(), libc::SIGKILL);
        }
        let starts = self.to_start.iter().map(|run| Action::Spawn(*run));
        let pending = starts.chain(self.decided.iter().cloned()).collect();
        let replan = self.planner.is_some().then_some(self.deployed_next);
        let launchers = self.children.launchers().map(Pid::as_raw).collect();
        let why = self.become_again(Rescued { pending, replan, panics, launchers });
        messages::say(&format!("hob: cannot go on after a panic: {why}"));
    }

    /// Makes the table say what is so.
    pub(super) fn settle_after_panic(&mut self, rescued: Rescued) {
        log::error!("hob has panicked, and goes on; please report what it said");
        let Rescued { pending, replan, panics, launchers } = rescued;
        self.panics = panics;
        launchers.into_iter().for_each(wait_for_launcher);
        let is_lost = |run: &Run| self.children.pid(*run).is_none() && !pending.contains(&Action::Spawn(*run));
        let lost: Vec<Run> = self.supervisor.runs().into_iter().filter(is_lost).collect();
        self.decided.extend(pending);
        self.end_children_of(&lost);
        for run in lost {
            self.feed(Event::Exited(run, Exit::Unknown));
        }
        if let Some(deployed) = replan {
            self.deployed_next = deployed;
            if let Err(why) = self.plan(true) {
                log::error!("cannot reload: {why}");
            }
        }
    }

    fn end_children_of(&self, runs: &[Run]) {
        let processes = runs.iter().filter(|run| matches!(run.job, Job::Process(_)));
        let ids: Vec<ProcessId> = processes.map(|run| run.job.process()).collect();
        if ids.is_empty() {
            return;
        }
        let leader = |id| self.children.leader(id).map(Pid::as_raw);
        let traces: Vec<Trace> =
            ids.iter().map(|&id| Trace { id, leader: leader(id), pipes: self.logs.inodes(id) }).collect();
        let is_known = |pid| self.is_ours(pid);
        leftovers::attribute(&is_known, &self.marks, &traces).kill(&ids, &is_known, &self.marks, &traces);
    }
}

/// Until it has made what it was to make, marks and all. It is a child of ours and not reaped: the number is its own.
fn wait_for_launcher(pid: i32) {
    let ends = |within| {
        let pidfd = pidfd::open(pid)?;
        poll::readable(&[pidfd.as_fd()], Some(within))
    };
    if !ends(LAUNCHED_WITHIN).is_ok_and(|ended| ended == [true]) {
        let _ = process::kill(Pid::from_raw(pid), libc::SIGKILL);
        let _ = ends(LAUNCHED_WITHIN);
    }
}
