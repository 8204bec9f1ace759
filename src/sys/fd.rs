//! Descriptors.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// fcntl(2).
pub fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Whether a write of a few bytes would not block now, waiting up to `within` for it. poll(2).
pub fn is_writable(fd: &impl AsFd, within: Duration) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
    let timeout = PollTimeout::try_from(within).unwrap_or(PollTimeout::ZERO);
    matches!(poll(&mut fds, timeout), Ok(1)) && fds[0].revents().is_some_and(|r| r.contains(PollFlags::POLLOUT))
}

/// Writes everything of the file system that `fd` is on to its disk. syncfs(2).
pub fn sync_file_system(fd: &impl AsFd) -> io::Result<()> {
    Ok(nix::unistd::syncfs(fd)?)
}

/// Writes what fits into a pipe right now, in pieces that fit whole; what does not fit is left out. write(2).
pub fn write_some(pipe: &impl AsFd, bytes: &[u8]) -> io::Result<()> {
    for part in bytes.chunks(4096) {
        if !is_writable(pipe, Duration::ZERO) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        nix::unistd::write(pipe, part)?;
    }
    Ok(())
}

/// A file in memory, without a name. memfd_create(2).
pub fn memory_file() -> io::Result<File> {
    // SAFETY: a constant C string.
    let fd = unsafe { libc::memfd_create(c"hob".as_ptr(), libc::MFD_CLOEXEC) };
    nix::errno::Errno::result(fd)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Whether a descriptor stays open when this process becomes another program. fcntl(2), F_SETFD.
pub fn keep_over_exec(fd: BorrowedFd<'_>, keep: bool) -> io::Result<()> {
    let flags = if keep { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
    fcntl(fd, FcntlArg::F_SETFD(flags))?;
    Ok(())
}

/// Takes over a descriptor that the program before this one in the same process has kept open, once for each number.
pub fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: takes plain numbers; an error says that it is no descriptor.
    nix::errno::Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and the program that this process was has left it to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes a pipe hold more. fcntl(2), F_SETPIPE_SZ.
pub fn grow_pipe(pipe: &impl AsFd, bytes: usize) -> io::Result<()> {
    let bytes = i32::try_from(bytes).map_err(io::Error::other)?;
    fcntl(pipe, FcntlArg::F_SETPIPE_SZ(bytes))?;
    Ok(())
}

/// Locks a whole file for this process, until it ends or closes any descriptor of that file; a fork does not have the
/// lock. An error when another process has it. fcntl(2), F_SETLK.
pub fn lock(file: &impl AsFd) -> io::Result<()> {
    fcntl(file, FcntlArg::F_SETLK(&whole_file()))?;
    Ok(())
}

/// Whether another process has locked a file in that way. fcntl(2), F_GETLK.
pub fn is_locked_by_another(file: &impl AsFd) -> io::Result<bool> {
    let mut found = whole_file();
    fcntl(file, FcntlArg::F_GETLK(&mut found))?;
    Ok(i32::from(found.l_type) != libc::F_UNLCK)
}

fn whole_file() -> libc::flock {
    // SAFETY: all zeroes is a valid flock: from the start to the end of the file.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock
}
