//! Many starts at once, made by helpers that end when all are made.
//!
//! A plain fork copies page tables and descriptors, both of which grow with the number of processes: a thousand starts
//! would pay a thousand times for a thousand. A launcher is forked once and starts its share one after the other
//! without a copy, as children of the daemon (`sys::beside`). It alone waits while a program is being loaded, so a
//! binary on a stalled disk holds up the rest of its batch, but never the daemon.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::rc::Rc;

use nix::errno::Errno;

use super::launch::Launch;
use super::marks::{Marks, Owner};
use crate::supervisor::event::Run;
use crate::sys;
use crate::sys::beside::{self, SharedPids};
use crate::sys::process::Pid;

/// The starts that one launcher makes, in order.
pub struct Batch {
    pub launcher: Pid,
    runs: Vec<Run>,
    /// For each run the pid of its child, or a negative errno; 0 while it is not made. All batches of one moment share it.
    pids: Rc<SharedPids>,
    /// Where the first one stands.
    first: usize,
    /// How many of them the daemon has taken.
    taken: usize,
}

impl Batch {
    /// The next start that is made: its child, or why there is none.
    pub fn take(&mut self) -> Option<(Run, io::Result<Pid>)> {
        let run = *self.runs.get(self.taken)?;
        let made = match self.pids.get(self.first + self.taken) {
            0 => return None,
            pid if pid > 0 => Ok(Pid::from_raw(pid)),
            errno => Err(io::Error::from_raw_os_error(-errno)),
        };
        self.taken += 1;
        Some((run, made))
    }

    /// The starts that are not made yet.
    pub fn rest(&self) -> &[Run] {
        &self.runs[self.taken..]
    }
}

/// Forks launchers for these runs, of which there is one at least: one, which keeps their order, or with `at_will` up to one for each processor. The
/// runs of those that could not be forked come back.
pub fn start<'a>(
    runs: &[Run],
    at_will: bool,
    marks: &Marks,
    launch: &dyn Fn(Run) -> Option<Launch<'a>>,
) -> io::Result<(Vec<Batch>, Vec<Run>)> {
    let pids = Rc::new(SharedPids::new(runs.len())?);
    let launchers = if at_will { sys::limits::cpus().min(runs.len() / LEAST).max(1) } else { 1 };
    let share = runs.len().div_ceil(launchers).max(1);
    let (mut batches, mut left) = (Vec::new(), Vec::new());
    for (nth, runs) in runs.chunks(share).enumerate() {
        let first = nth * share;
        match sys::process::fork(|| {
            // If hob is killed now, the next one must not take this for the end of it: it would go on starting.
            marks.tag_self(Owner::Helper);
            make_all(runs, first, &pids, launch)
        }) {
            Ok(launcher) => {
                batches.push(Batch { launcher, runs: runs.to_vec(), pids: pids.clone(), first, taken: 0 });
            }
            Err(why) => {
                log::debug!("cannot fork a launcher: {why}");
                left.extend(runs);
            }
        }
    }
    Ok((batches, left))
}

/// The launcher.
fn make_all<'a>(runs: &[Run], first: usize, pids: &SharedPids, launch: &dyn Fn(Run) -> Option<Launch<'a>>) -> i32 {
    sys::process::set_name("hob launcher");
    // A Ctrl-C in the terminal is for the daemon to decide about.
    let _ = sys::process::new_session();
    let mut stack = vec![0; STACK];
    let mut common = None;
    // Asked here, where nothing is shared and nothing changes: a child that finds out could only fail.
    let refused = beside::keep_fds_below(RawFd::MAX).err().and_then(|why| why.raw_os_error());
    for (slot, run) in (first..).zip(runs) {
        let made = match launch(*run) {
            _ if refused.is_some() => Err(io::Error::from_raw_os_error(refused.unwrap_or(libc::EPERM))),
            Some(launch) => make(launch, &mut common, &mut stack, pids, slot),
            // Its log pipe could not be made.
            None => Err(Errno::EMFILE.into()),
        };
        if let Err(why) = made {
            pids.set(slot, -why.raw_os_error().unwrap_or(libc::EAGAIN));
        }
    }
    0
}

fn make(
    launch: Launch<'_>,
    common: &mut Option<Common>,
    stack: &mut [u8],
    pids: &SharedPids,
    slot: usize,
) -> io::Result<()> {
    let common = match common {
        Some(common) => common,
        None => common.insert(Common::of(&launch)?),
    };
    let (stdout, stderr) = (low(launch.stdout, 6)?, low(launch.stderr, 7)?);
    let launch = Launch {
        stdin: common.null.as_fd(),
        reports: &common.reports,
        exe: common.exe.as_fd(),
        stdout: stdout.as_fd(),
        stderr: stderr.as_fd(),
        ..launch
    };
    beside::clone_beside(stack, pids, slot, &mut || launch.exec_with_fds_below(LOW))
}

/// What every child gets, at numbers below [`LOW`]: a child keeps only those, and so copies none of the others.
struct Common {
    null: OwnedFd,
    reports: UnixDatagram,
    exe: OwnedFd,
}

impl Common {
    fn of(launch: &Launch<'_>) -> io::Result<Common> {
        // Copies first: one of them may stand where another has to go.
        let lift = sys::process::lift_fd;
        let (null, reports, exe) = (lift(launch.stdin)?, lift(launch.reports.as_fd())?, lift(launch.exe)?);
        Ok(Common { null: low(null.as_fd(), 3)?, reports: low(reports.as_fd(), 4)?.into(), exe: low(exe.as_fd(), 5)? })
    }
}

/// A copy with that number. What the daemon has there itself is nothing that a launcher uses, but a log may not be.
fn low(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() < LOW {
        return Err(Errno::EBADF.into());
    }
    sys::process::place_fd(fd, number)?;
    sys::process::take_inherited(number).ok_or_else(|| Errno::EBADF.into())
}

/// Whether a start that a launcher could not make may do better as a plain fork: the kernel, or a filter in front of
/// it, does not know the way; or a descriptor stands where a launcher has no use for it.
pub fn is_refusal(why: &io::Error) -> bool {
    matches!(why.raw_os_error(), Some(libc::EPERM | libc::ENOSYS | libc::EINVAL | libc::EBADF))
}

/// Fewer starts than this are not worth a launcher.
pub const LEAST: usize = 8;
const LOW: RawFd = 8;
const STACK: usize = 256 << 10;
