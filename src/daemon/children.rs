//! Pid to run and back: who of our children is what, and how each of them ended.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::os::unix::net::UnixDatagram;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::batch::Batch;
use super::launch::{REPORT_MAX, Report};
use super::oom::OomCounter;
use crate::supervisor::event::{Exit, Job, ProcessId, Run};
use crate::sys;
use crate::sys::lent::{Lent, Number};
use crate::sys::process::{self, Ended, Pid};

/// The children that are somebody: runs of the supervisor. Helpers of hob itself and orphans are not in it.
pub struct Children {
    runs: HashMap<Pid, Run>,
    pids: HashMap<Run, Pid>,
    /// The pid that led the last run of each process.
    leaders: HashMap<ProcessId, Pid>,
    /// Starts that launchers are making, and the signals their children have yet to get.
    batches: Vec<Batch>,
    owed: Vec<(Run, i32)>,
    /// Starts that came to nothing without a child to reap.
    not_made: Vec<(Run, io::Error)>,
    /// The end of the socket that all children report to, and the one they get.
    reports: UnixDatagram,
    report_tx: UnixDatagram,
    /// Reports were left for the next turn.
    pub has_more_reports: bool,
    /// Who may report: each run that begins or has a child, by number, and the user it becomes. A profile that is
    /// sourced between fork and exec can get hold of the socket, and so can whoever may trace the shell.
    reporters: HashMap<u64, u32>,
    /// Starts that failed, by run number, until their child is reaped.
    failed: HashMap<u64, (String, i32)>,
    /// What children said that did not end them, by run number.
    pub said: BTreeMap<u64, String>,
    pub troubles: BTreeMap<u64, Vec<String>>,
    oom: OomCounter,
    /// Runs that have SIGKILL from us.
    killed: HashSet<Run>,
}

/// The same for the next binary.
#[derive(Serialize, Deserialize)]
pub struct Handed {
    runs: Vec<(Run, i32)>,
    leaders: Vec<(ProcessId, i32)>,
    reports: Number,
    report_tx: Number,
    failed: Vec<(u64, String, i32)>,
    said: BTreeMap<u64, String>,
    troubles: BTreeMap<u64, Vec<String>>,
    killed: Vec<Run>,
}

/// A child that has been reaped.
pub enum Reaped {
    Run(Run, Exit),
    /// Not one of the supervisor's: a helper of hob, or an orphan.
    Other(Pid, Ended),
}

impl Children {
    pub fn new() -> io::Result<Children> {
        let (reports, report_tx) = UnixDatagram::pair()?;
        reports.set_nonblocking(true)?;
        sys::socket::tell_senders(&reports)?;
        Ok(Children::with(reports, report_tx))
    }

    fn with(reports: UnixDatagram, report_tx: UnixDatagram) -> Children {
        Children {
            runs: HashMap::new(),
            pids: HashMap::new(),
            leaders: HashMap::new(),
            batches: Vec::new(),
            owed: Vec::new(),
            not_made: Vec::new(),
            reports,
            report_tx,
            has_more_reports: false,
            reporters: HashMap::new(),
            failed: HashMap::new(),
            said: BTreeMap::new(),
            troubles: BTreeMap::new(),
            oom: OomCounter::new(),
            killed: HashSet::new(),
        }
    }

    /// Whether launchers are at work, which only this program can follow.
    pub fn is_settled(&self) -> bool {
        self.batches.is_empty() && self.not_made.is_empty()
    }

    pub fn launchers(&self) -> impl Iterator<Item = Pid> {
        self.batches.iter().map(|batch| batch.launcher)
    }

    pub fn hand_over<'c>(&'c self, lent: &mut Lent<'c>) -> Handed {
        Handed {
            runs: self.pids.iter().map(|(run, pid)| (*run, pid.as_raw())).collect(),
            leaders: self.leaders.iter().map(|(id, pid)| (*id, pid.as_raw())).collect(),
            reports: lent.lend(&self.reports),
            report_tx: lent.lend(&self.report_tx),
            failed: self.failed.iter().map(|(run, (stage, errno))| (*run, stage.clone(), *errno)).collect(),
            said: self.said.clone(),
            troubles: self.troubles.clone(),
            killed: self.killed.iter().copied().collect(),
        }
    }

    pub fn take_over(handed: Handed) -> io::Result<Children> {
        let mut children = Children::with(handed.reports.adopt()?.into(), handed.report_tx.adopt()?.into());
        for (run, pid) in handed.runs {
            children.add(run, Pid::from_raw(pid));
        }
        children.leaders = handed.leaders.into_iter().map(|(id, pid)| (id, Pid::from_raw(pid))).collect();
        children.failed = handed.failed.into_iter().map(|(run, stage, errno)| (run, (stage, errno))).collect();
        (children.said, children.troubles) = (handed.said, handed.troubles);
        children.killed = handed.killed.into_iter().collect();
        Ok(children)
    }

    pub fn report_rx(&self) -> &UnixDatagram {
        &self.reports
    }

    pub fn report_tx(&self) -> &UnixDatagram {
        &self.report_tx
    }

    /// A child for this run is about to be made, which becomes this user.
    pub fn begin(&mut self, run: Run, uid: u32) {
        self.reporters.insert(run.number, uid);
    }

    /// There will be no child for this run.
    pub fn call_off(&mut self, run: Run) {
        self.reporters.remove(&run.number);
    }

    pub fn add(&mut self, run: Run, pid: Pid) {
        self.runs.insert(pid, run);
        self.pids.insert(run, pid);
        if let Job::Process(id) = run.job {
            self.leaders.insert(id, pid);
        }
    }

    pub fn add_batches(&mut self, batches: Vec<Batch>) {
        self.batches.extend(batches);
    }

    /// Takes over the children that launchers have made. To be called before anyone is asked about.
    pub fn take_made(&mut self) {
        for mut batch in std::mem::take(&mut self.batches) {
            self.take_from(&mut batch);
            self.batches.push(batch);
        }
    }

    fn take_from(&mut self, batch: &mut Batch) {
        while let Some((run, made)) = batch.take() {
            match made {
                Ok(pid) => self.add(run, pid),
                Err(why) => self.not_made.push((run, why)),
            }
            for (_, signal) in self.owed.extract_if(.., |owed| owed.0 == run).collect::<Vec<_>>() {
                let _ = self.signal(run, signal, true);
            }
        }
    }

    /// Starts that came to nothing without a child to reap, since this was last asked.
    pub fn not_made(&mut self) -> Vec<(Run, io::Error)> {
        std::mem::take(&mut self.not_made)
    }

    /// The pid that led the last run of a process: the session and group of what that left.
    pub fn leader(&self, id: ProcessId) -> Option<Pid> {
        self.leaders.get(&id).copied()
    }

    /// A process is not in the table any more.
    pub fn forget(&mut self, id: ProcessId) {
        self.leaders.remove(&id);
    }

    pub fn pid(&self, run: Run) -> Option<Pid> {
        self.pids.get(&run).copied()
    }

    pub fn is_known(&self, pid: i32) -> bool {
        let pid = Pid::from_raw(pid);
        self.runs.contains_key(&pid) || self.batches.iter().any(|batch| batch.launcher == pid)
    }

    /// Signals the process group of a run, as soon as there is one, or its leader alone: a child that has not been
    /// reaped, so the number is its own.
    pub fn signal(&mut self, run: Run, signal: i32, whole_group: bool) -> io::Result<()> {
        let Some(pid) = self.pid(run) else {
            if self.batches.iter().any(|batch| batch.rest().contains(&run)) {
                self.owed.push((run, signal));
                return Ok(());
            }
            return Err(Errno::ESRCH.into());
        };
        if signal == libc::SIGKILL {
            self.killed.insert(run);
        }
        if !whole_group {
            return process::kill(pid, signal);
        }
        match process::kill_group(pid, signal) {
            // Between fork and setsid there is no group yet, only the child.
            Err(why) if why.raw_os_error() == Some(Errno::ESRCH as i32) => process::kill(pid, signal),
            outcome => outcome,
        }
    }

    /// One child that has ended.
    pub fn reap(&mut self) -> Option<Reaped> {
        let (pid, ended) = process::reap_one()?;
        if !self.runs.contains_key(&pid) {
            // Made and dead since the last look.
            self.take_made();
        }
        let Some(run) = self.runs.remove(&pid) else {
            if let Some(nth) = self.batches.iter().position(|batch| batch.launcher == pid) {
                let batch = self.batches.swap_remove(nth);
                self.not_made.extend(batch.rest().iter().map(|run| (*run, Errno::EAGAIN.into())));
                self.owed.retain(|(run, _)| !batch.rest().contains(run));
            }
            return Some(Reaped::Other(pid, ended));
        };
        self.pids.remove(&run);
        // Its sender is dead, so a report of a failed start is complete and waiting.
        self.read_reports();
        self.reporters.remove(&run.number);
        let is_ours = self.killed.remove(&run);
        let exit = match (self.failed.remove(&run.number), ended) {
            (Some((stage, errno)), Ended::Code(_)) => Exit::CannotExec { stage, errno },
            (_, Ended::Code(code)) => Exit::Code(code),
            (_, Ended::Signal { signal, core }) => {
                // Asked in any case: what the kernel has killed before must not be taken for the next one.
                let oom = signal == libc::SIGKILL && self.oom.has_struck() && !is_ours;
                Exit::Signal { signal, core, oom }
            }
        };
        self.troubles.remove(&run.number);
        Some(Reaped::Run(run, exit))
    }

    /// Takes what children have reported so far, up to a bound: who floods the socket must not keep the daemon busy. Far
    /// fewer fit into its queue (net.unix.max_dgram_qlen), so whatever a dead child has sent is among them.
    pub fn read_reports(&mut self) {
        let mut text = [0; REPORT_MAX];
        for _ in 0..REPORTS_AT_ONCE {
            let Ok((length, uid)) = sys::socket::recv_from_user(&self.reports, &mut text) else {
                self.has_more_reports = false;
                return;
            };
            match serde_json::from_slice::<Report>(&text[..length]) {
                Ok(report) if self.may_report(report.run(), uid) => self.take_report(report),
                Ok(report) => log::debug!("user {uid} has nothing to report about run {}", report.run()),
                Err(why) => log::debug!("a report of {length} bytes cannot be read: {why}"),
            }
        }
        self.has_more_reports = true;
    }

    fn may_report(&self, run: u64, uid: u32) -> bool {
        let expected = self.reporters.get(&run);
        expected.is_some_and(|&user| uid == user || uid == 0 || uid == process::effective_uid())
    }

    fn take_report(&mut self, report: Report) {
        match report {
            Report::Failed { run, stage, errno } => {
                self.failed.insert(run, (stage, errno));
            }
            Report::Trouble { run, text } => {
                let known = self.troubles.entry(run).or_default();
                if known.len() < TROUBLES_MAX {
                    log::warn!("run {run}: {text}");
                    known.push(text);
                }
            }
            Report::Said { run, text } => {
                self.said.insert(run, text);
            }
        }
    }
}

/// Reports that are read before the rest of the daemon has its turn.
const REPORTS_AT_ONCE: usize = 1024;
/// Of one run.
const TROUBLES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn run(number: u64) -> Run {
        Run { job: Job::Process(ProcessId(1)), number }
    }

    #[test]
    fn only_runs_that_there_are_report_only_by_their_user_and_not_without_end() {
        let mut children = Children::new().expect("a socket");
        let own = process::effective_uid();
        children.begin(run(1), own);
        let trouble = |run: u64| Report::Trouble { run, text: "x".into() };
        for nth in 0..200 {
            trouble(1 + nth % 2).send(children.report_tx());
            children.read_reports();
        }
        assert_eq!(children.troubles.keys().copied().collect::<Vec<_>>(), [1]);
        assert_eq!(children.troubles[&1].len(), TROUBLES_MAX);
        children.begin(run(3), own + 1);
        assert!(children.may_report(3, own + 1) && children.may_report(3, 0) && !children.may_report(3, own + 2));
        children.call_off(run(1));
        assert!(!children.may_report(1, own));
    }

    #[test]
    fn a_flood_of_reports_is_left_for_the_next_turn() {
        let mut children = Children::new().expect("a socket");
        children.begin(run(1), process::effective_uid());
        let (tx, text) = (children.report_tx().try_clone().expect("a copy"), vec![b' '; REPORT_MAX]);
        let flood = std::thread::spawn(move || while tx.send(&text).is_ok() {});
        while !children.has_more_reports {
            children.read_reports();
        }
        drop(children);
        flood.join().expect("its socket is gone");
    }
}
