//! Mount namespaces: a process that sees a directory at another path, and nobody else does.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Gives this process mounts of its own and binds each directory over another: first what is to be seen, then where.
/// What is mounted outside later still shows, and nothing from inside shows outside. unshare(2), mount(2).
///
/// Everything is opened before the first bind, which may cover what a later one starts from.
pub fn enter<'a>(binds: impl Iterator<Item = (&'a Path, &'a Path)>) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
    // Not earlier: a descriptor from outside belongs to the mounts there.
    let mut opened = Vec::new();
    for (from, to) in binds {
        opened.push((open(from)?, open(to)?));
    }
    for (from, to) in &opened {
        let path = |file: &std::fs::File| format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(path(from).as_str()), path(to).as_str(), None::<&str>, flags, None::<&str>)?;
    }
    Ok(())
}

/// A directory as a place, without a link in its last step.
fn open(path: &Path) -> io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)
}
