//! Signals as things to read, for the roles that are plain loops: everything is blocked, nothing is ever handled.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

/// A signal that was sent to this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    pub signal: i32,
    /// Of the process that sent it; 0 for the kernel and for one outside the namespace.
    pub sender: i32,
    /// By the kernel (a terminal, a timer), not by kill(2).
    pub by_kernel: bool,
}

/// Blocks every signal that can be. A fault still kills, as it should. sigprocmask(2).
pub fn block_all() -> io::Result<()> {
    Ok(pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?)
}

/// Blocks every signal until the result is dropped; what is pending then acts as it would have.
pub fn hold() -> io::Result<Held> {
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    Ok(Held(before))
}

pub struct Held(SigSet);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.0), None);
    }
}

/// Every signal, once blocked, as a descriptor to poll.
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// signalfd(2).
    pub fn new() -> io::Result<SignalFd> {
        let all = SigSet::all();
        // SAFETY: a valid set; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, all.as_ref(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        Errno::result(fd)?;
        // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
        Ok(SignalFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next signal that is pending, without waiting. read(2).
    pub fn take(&self) -> Option<Arrived> {
        // SAFETY: all zeroes is a valid signalfd_siginfo.
        let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: `info` is a valid place for `size` bytes.
        let got = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut info).cast(), size) };
        if got != size as isize {
            return None;
        }
        let by_kernel = info.ssi_code > 0;
        let sender = if by_kernel { 0 } else { info.ssi_pid as i32 };
        Some(Arrived { signal: info.ssi_signo as i32, sender, by_kernel })
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Ctrl-C as something to poll. Until it is dropped, SIGINT does not end this process.
pub struct Interrupts {
    fd: OwnedFd,
    before: SigSet,
}

impl Interrupts {
    /// sigprocmask(2), signalfd(2).
    pub fn catch() -> io::Result<Interrupts> {
        let mut set = SigSet::empty();
        set.add(nix::sys::signal::Signal::SIGINT);
        // SAFETY: a valid set; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, set.as_ref(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        Errno::result(fd)?;
        // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut before = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut before))?;
        Ok(Interrupts { fd, before })
    }

    /// Whether one has come. read(2).
    pub fn take(&self) -> bool {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        matches!(nix::unistd::read(&self.fd, &mut info), Ok(length) if length > 0)
    }
}

impl AsFd for Interrupts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}

/// Waits for a signal, for `at_most` or for ever; all must be blocked. `None` when the time is over.
/// sigtimedwait(2).
pub fn wait(at_most: Option<Duration>) -> Option<Arrived> {
    let all = SigSet::all();
    loop {
        // SAFETY: all zeroes is a valid siginfo_t.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let time = at_most
            .map(|d| libc::timespec { tv_sec: d.as_secs() as libc::time_t, tv_nsec: d.subsec_nanos() as libc::c_long });
        let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: valid set, place and (or no) time.
        let signal = unsafe { libc::sigtimedwait(all.as_ref(), &mut info, time) };
        if signal > 0 {
            // SAFETY: for these codes (kill, sigqueue, tkill) the kernel fills in the pid.
            let sender = if info.si_code <= 0 { unsafe { info.si_pid() } } else { 0 };
            return Some(Arrived { signal, sender, by_kernel: info.si_code > 0 });
        }
        if Errno::last() != Errno::EINTR {
            return None;
        }
    }
}

/// Kill this process too when its parent dies; cleared by a change of user, so set it after that. prctl(2).
pub fn die_with_parent() {
    // SAFETY: takes plain numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
}

/// Dies of a signal, without a core dump of its own; comes back if that signal does not kill. raise(3).
pub fn die_of(signal: i32) {
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
    super::process::default_signals();
    super::process::unblock_signals();
    // SAFETY: takes a plain number.
    unsafe { libc::raise(signal) };
}
