//! Descriptors that stay open while this process becomes another program, and their numbers on the way there.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use serde::{Deserialize, Serialize};

use super::fd;

/// What the next program gets.
#[derive(Default)]
pub struct Lent<'a>(Vec<BorrowedFd<'a>>);

/// What a descriptor is called, here and there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Number(RawFd);

impl<'a> Lent<'a> {
    pub fn lend(&mut self, fd: &'a impl AsFd) -> Number {
        self.0.push(fd.as_fd());
        Number(fd.as_fd().as_raw_fd())
    }

    /// Lets all of them stay open over exec, or not.
    pub fn keep(&self, keep: bool) -> io::Result<()> {
        self.0.iter().try_for_each(|fd| fd::keep_over_exec(*fd, keep))
    }
}

impl Number {
    pub fn of(number: RawFd) -> Number {
        Number(number)
    }

    /// Takes the descriptor over; once for each.
    pub fn adopt(self) -> io::Result<OwnedFd> {
        fd::adopt(self.0)
    }
}
