//! Mount namespaces: a process that sees a directory at another path, and nobody else does.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

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

/// Where something is mounted, as this process sees it. Empty without /proc. proc_pid_mountinfo(5).
pub fn points() -> HashSet<PathBuf> {
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    text.split(|&byte| byte == b'\n').filter_map(point).collect()
}

/// The fifth field; blanks and backslashes in it are octal.
fn point(line: &[u8]) -> Option<PathBuf> {
    let field = line.split(|&byte| byte == b' ').nth(4)?;
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, more)) = rest.split_first() {
        let digits = more.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| byte == b'\\') {
            Some(value) => {
                path.push(value);
                rest = &more[3..];
            }
            None => {
                path.push(byte);
                rest = more;
            }
        }
    }
    Some(PathBuf::from(OsString::from_vec(path)))
}

/// A directory as a place, without a link in its last step.
fn open(path: &Path) -> io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_the_fifth_field_with_its_blanks() {
        let line = b"36 35 98:0 /mnt1 /srv/my\\040disk\\134x rw,noatime master:1 - ext3 /dev/root rw";
        assert_eq!(point(line), Some("/srv/my disk\\x".into()));
        assert_eq!(point(b""), None);
        assert!(points().contains(Path::new("/")));
    }
}
