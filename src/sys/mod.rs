//! Every syscall and all unsafe code; knows nothing of hob.
//!
//! One syscall per function, a SAFETY comment on each unsafe block that says whose promise makes it sound, and
//! safe types out (`OwnedFd`, `Pid`). A file per topic.

pub mod beside;
pub mod clock;
pub mod command;
pub mod family;
pub mod fd;
pub mod file;
pub mod lent;
pub mod limits;
pub mod listener;
pub mod memory;
pub mod mount;
pub mod pidfd;
pub mod poll;
pub mod proc;
pub mod process;
pub mod random;
pub mod rescue;
pub mod resolve;
pub mod signal_names;
pub mod sigwait;
pub mod socket;
pub mod socket_unix;
pub mod terminal;
pub mod user;
pub mod watch;
