//! Pid to run and back: who of our children is what, and how each of them ended.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::unix::net::UnixDatagram;

use nix::errno::Errno;

use super::launch::{REPORT_MAX, Report};
use super::oom::OomCounter;
use crate::supervisor::event::{Exit, Run};
use crate::sys::process::{self, Ended, Pid};

/// The children that are somebody: runs of the supervisor. Helpers of hob itself and orphans are not in it.
pub struct Children {
    runs: HashMap<Pid, Run>,
    pids: HashMap<Run, Pid>,
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

/// A child that has been reaped.
pub enum Reaped {
    Run(Run, Exit),
    /// Not one of the supervisor's: a helper of hob, or an orphan.
    Other(Pid),
}

impl Children {
    pub fn new() -> io::Result<Children> {
        let (reports, report_tx) = UnixDatagram::pair()?;
        reports.set_nonblocking(true)?;
        Ok(Children {
            runs: HashMap::new(),
            pids: HashMap::new(),
            reports,
            report_tx,
            failed: HashMap::new(),
            said: BTreeMap::new(),
            troubles: BTreeMap::new(),
            oom: OomCounter::new(),
        })
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
    }

    pub fn pid(&self, run: Run) -> Option<Pid> {
        self.pids.get(&run).copied()
    }

    pub fn is_known(&self, pid: i32) -> bool {
        self.runs.contains_key(&Pid::from_raw(pid))
    }

    /// Signals the process group of a run. Its leader is a child that has not been reaped, so the number is its own.
    pub fn signal(&self, run: Run, signal: i32) -> io::Result<()> {
        let Some(pid) = self.pid(run) else { return Err(Errno::ESRCH.into()) };
        match process::kill_group(pid, signal) {
            // Between fork and setsid there is no group yet, only the child.
            Err(why) if why.raw_os_error() == Some(Errno::ESRCH as i32) => process::kill(pid, signal),
            outcome => outcome,
        }
    }

    /// One child that has ended.
    pub fn reap(&mut self) -> Option<Reaped> {
        let (pid, ended) = process::reap_one()?;
        let Some(run) = self.runs.remove(&pid) else { return Some(Reaped::Other(pid)) };
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
