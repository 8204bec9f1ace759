//! Waiting for a few descriptors at once.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};

/// Waits until one of `fds` can be read or has ended, at most `at_most` (or for ever); tells which. An interruption
/// counts as a time-out. poll(2).
pub fn readable(fds: &[BorrowedFd<'_>], at_most: Option<Duration>) -> io::Result<Vec<bool>> {
    let mut polled: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    // Round up: a rest of half a millisecond must not become a busy loop.
    let timeout = at_most.map_or(PollTimeout::NONE, |d| {
        PollTimeout::try_from(d.saturating_add(Duration::from_micros(999))).unwrap_or(PollTimeout::MAX)
    });
    match nix::poll::poll(&mut polled, timeout) {
        Ok(_) => Ok(polled.iter().map(|p| p.any().unwrap_or(true)).collect()),
        Err(Errno::EINTR) => Ok(vec![false; fds.len()]),
        Err(errno) => Err(errno.into()),
    }
}
