//! Pid to run and back: who of our children is what, and how each of them ended.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::unix::net::UnixDatagram;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::batch::Batch;
use super::launch::{REPORT_MAX, Report};
use super::oom::OomCounter;
use crate::supervisor::event::{Exit, Job, ProcessId, Run};
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
    /// Starts that failed, by run number, until their child is reaped.
    failed: HashMap<u64, (String, i32)>,
    /// What children said that did not end them, by run number.
    pub said: BTreeMap<u64, String>,
    pub troubles: BTreeMap<u64, Vec<String>>,
    oom: OomCounter,
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
            failed: HashMap::new(),
            said: BTreeMap::new(),
            troubles: BTreeMap::new(),
            oom: OomCounter::new(),
        }
    }

    /// Whether launchers are at work, which only this program can follow.
    pub fn is_settled(&self) -> bool {
        self.batches.is_empty() && self.not_made.is_empty()
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
        Ok(children)
    }

    pub fn report_rx(&self) -> &UnixDatagram {
        &self.reports
    }

    pub fn report_tx(&self) -> &UnixDatagram {
        &self.report_tx
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
        let exit = match (self.failed.remove(&run.number), ended) {
            (Some((stage, errno)), Ended::Code(_)) => Exit::CannotExec { stage, errno },
            (_, Ended::Code(code)) => Exit::Code(code),
            (_, Ended::Signal { signal, core }) => {
                let oom = signal == libc::SIGKILL && self.oom.has_struck();
                Exit::Signal { signal, core, oom }
            }
        };
        self.troubles.remove(&run.number);
        Some(Reaped::Run(run, exit))
    }

    /// Takes what children have reported so far.
    pub fn read_reports(&mut self) {
        let mut text = [0; REPORT_MAX];
        while let Ok(length) = self.reports.recv(&mut text) {
            match serde_json::from_slice(&text[..length]) {
                Ok(Report::Failed { run, stage, errno }) => {
                    self.failed.insert(run, (stage, errno));
                }
                Ok(Report::Trouble { run, text }) => {
                    log::warn!("run {run}: {text}");
                    self.troubles.entry(run).or_default().push(text);
                }
                Ok(Report::Said { run, text }) => {
                    self.said.insert(run, text);
                }
                // Only our own code writes to it, but a program may have got hold of the descriptor.
                Err(why) => log::debug!("a report of {length} bytes cannot be read: {why}"),
            }
        }
    }
}
