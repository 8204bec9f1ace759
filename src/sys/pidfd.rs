//! Descriptors of processes: as long as one is open it names one process, even after the number has gone to another.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// A descriptor of a process; readable once that has ended. pidfd_open(2), Linux 5.3; ENOSYS or EPERM where it is
/// missing or filtered.
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes plain numbers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Signals that process and no other; ESRCH when it has been reaped. pidfd_send_signal(2).
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let none: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: plain numbers and no siginfo, for which the kernel fills one in as kill(2) does.
    Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) })?;
    Ok(())
}

/// Whether the process is a child of ours that has not been reaped. waitid(2).
pub fn is_child(pidfd: BorrowedFd<'_>) -> bool {
    // SAFETY: all zeroes is a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: `info` is a valid place for the kernel to write to; WNOWAIT leaves the child as it is.
    unsafe { libc::waitid(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t, &mut info, options) == 0 }
}
