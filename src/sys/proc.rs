//! What /proc tells of other processes. Every answer may be out of date at once; none of them is trusted for a kill
//! without a second look.

use std::fs;
use std::io::{self, Read};

/// The few fields of /proc/PID/stat that tell who is whose. proc_pid_stat(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    pub pid: i32,
    pub command: String,
    pub state: u8,
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    /// User and system time, in clock ticks.
    pub ticks: u64,
    pub threads: u64,
    /// Clock ticks after boot: with the pid it names one process for as long as the machine is up.
    pub started: u64,
    /// Resident pages.
    pub resident: u64,
}

/// `None` when there is no such process (any more) or no /proc.
pub fn stat(pid: i32) -> Option<Stat> {
    let mut block = [0; 4096];
    let length = read_small(&format!("/proc/{pid}/stat"), &mut block).ok()?;
    parse_stat(&block[..length])
}

fn parse_stat(text: &[u8]) -> Option<Stat> {
    // The command may hold spaces and parentheses; the last one ends it. All else is numbers.
    let begins = text.iter().position(|&byte| byte == b'(')?;
    let ends = text.iter().rposition(|&byte| byte == b')')?;
    let pid = std::str::from_utf8(&text[..begins]).ok()?.trim_end();
    let command = text.get(begins + 1..ends)?;
    let rest = std::str::from_utf8(&text[ends + 1..]).ok()?;
    let mut fields = [""; 22];
    for (field, text) in fields.iter_mut().zip(rest.split_ascii_whitespace()) {
        *field = text;
    }
    let number = |n: usize| fields.get(n)?.parse::<i64>().ok();
    Some(Stat {
        pid: pid.parse().ok()?,
        command: String::from_utf8_lossy(command).into_owned(),
        state: *fields.first()?.as_bytes().first()?,
        parent: number(1)? as i32,
        group: number(2)? as i32,
        session: number(3)? as i32,
        threads: number(17)? as u64,
        ticks: (number(11)? + number(12)?) as u64,
        started: number(19)? as u64,
        resident: number(21)? as u64,
    })
}

/// Every process that can be seen, zombies included.
pub fn all() -> Vec<Stat> {
    pids().into_iter().filter_map(stat).collect()
}

/// The number that the last process got which was made in this pid namespace. proc_loadavg(5).
pub fn newest() -> Option<i32> {
    let mut block = [0; 4096];
    let length = read_small("/proc/loadavg", &mut block).ok()?;
    std::str::from_utf8(&block[..length]).ok()?.split_ascii_whitespace().nth(4)?.parse().ok()
}

/// The numbers of all processes that can be seen.
pub fn pids() -> Vec<i32> {
    numbers_in("/proc").collect()
}

/// The children of this process, zombies included, in the order in which they became ours; `None` without /proc.
/// Reliable for a process that reaps them itself and is not at it.
pub fn own_children() -> Option<Vec<i32>> {
    let pid = super::process::pid().as_raw();
    children_of_thread(pid, pid).or_else(|| children_in_table(pid))
}

/// The children of another process, zombies included. They may change meanwhile, unless it is stopped.
pub fn children_of(parent: &Stat) -> Vec<i32> {
    let threads: Vec<i32> = match parent.threads {
        0 | 1 => vec![parent.pid],
        _ => numbers_in(&format!("/proc/{}/task", parent.pid)).collect(),
    };
    let children: Option<Vec<Vec<i32>>> =
        threads.into_iter().map(|thread| children_of_thread(parent.pid, thread)).collect();
    match children {
        Some(children) => children.concat(),
        None if stat(parent.pid).is_none() => Vec::new(),
        None => children_in_table(parent.pid).unwrap_or_default(),
    }
}

/// proc_tid_children(5); `None` where the kernel does not list them (CONFIG_PROC_CHILDREN), or the thread is gone.
fn children_of_thread(pid: i32, thread: i32) -> Option<Vec<i32>> {
    let mut text = String::new();
    fs::File::open(format!("/proc/{pid}/task/{thread}/children")).ok()?.read_to_string(&mut text).ok()?;
    Some(text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect())
}

fn children_in_table(parent: i32) -> Option<Vec<i32>> {
    let all = all();
    (!all.is_empty()).then(|| all.into_iter().filter(|s| s.parent == parent).map(|s| s.pid).collect())
}

fn numbers_in(folder: &str) -> impl Iterator<Item = i32> {
    fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok())
}

/// The environment a process was started with, at most 256 KiB of it. `as_user` is tried as uid and gid when our own
/// rights do not suffice: root without CAP_SYS_PTRACE may not look at another user's process, but that user may.
pub fn environ(pid: i32, as_user: Option<(u32, u32)>) -> io::Result<Vec<u8>> {
    with_user(as_user, || {
        let mut text = Vec::new();
        fs::File::open(format!("/proc/{pid}/environ"))?.take(256 << 10).read_to_end(&mut text)?;
        Ok(text)
    })
}

/// The soft and hard limit of file locks of a process, which everybody may see. proc_pid_limits(5).
pub fn lock_limits(pid: i32) -> Option<(u64, u64)> {
    let mut block = [0; 4096];
    let length = read_small(&format!("/proc/{pid}/limits"), &mut block).ok()?;
    parse_lock_limits(&block[..length])
}

fn parse_lock_limits(text: &[u8]) -> Option<(u64, u64)> {
    let line = text.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"Max file locks"))?;
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let mut number = || match words.next()? {
        "unlimited" => Some(super::limits::UNLIMITED),
        word => word.parse().ok(),
    };
    Some((number()?, number()?))
}

/// Resident memory of a process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub anonymous: u64,
    /// Of files and shared memory, which others may have too.
    pub shared: u64,
}

/// Told without waiting for a lock of that process, unlike what /proc/PID/smaps tells. proc_pid_status(5).
pub fn memory(pid: i32) -> Option<Memory> {
    let mut text = Vec::new();
    // The list of groups in it may be long.
    fs::File::open(format!("/proc/{pid}/status")).ok()?.take(1 << 20).read_to_end(&mut text).ok()?;
    parse_memory(&text)
}

fn parse_memory(text: &[u8]) -> Option<Memory> {
    let text = String::from_utf8_lossy(text);
    let kilobytes = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
    };
    let (files, shared) = (kilobytes("RssFile")?, kilobytes("RssShmem")?);
    Some(Memory { anonymous: kilobytes("RssAnon")? << 10, shared: (files + shared) << 10 })
}

/// What a descriptor of another process refers to, such as `pipe:[4711]`.
pub fn fd_target(pid: i32, fd: i32, as_user: Option<(u32, u32)>) -> io::Result<String> {
    with_user(as_user, || Ok(fs::read_link(format!("/proc/{pid}/fd/{fd}"))?.to_string_lossy().into_owned()))
}

/// The effective uid and gid of a process, from the owner of its folder.
pub fn owner(pid: i32) -> io::Result<(u32, u32)> {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(format!("/proc/{pid}"))?;
    Ok((meta.uid(), meta.gid()))
}

fn with_user<T>(as_user: Option<(u32, u32)>, look: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let first = look();
    match (&first, as_user) {
        (Err(e), Some((uid, gid))) if e.kind() == io::ErrorKind::PermissionDenied => {
            // The file-system ids are this thread's alone and are what /proc's permission check looks at.
            let (old_gid, old_uid) = (set_fsgid(gid), set_fsuid(uid));
            let second = look();
            set_fsuid(old_uid);
            set_fsgid(old_gid);
            second
        }
        _ => first,
    }
}

/// setfsuid(2); returns the one before.
fn set_fsuid(uid: u32) -> u32 {
    // SAFETY: takes a plain number.
    unsafe { libc::setfsuid(uid) as u32 }
}

/// setfsgid(2); returns the one before.
fn set_fsgid(gid: u32) -> u32 {
    // SAFETY: takes a plain number.
    unsafe { libc::setfsgid(gid) as u32 }
}

/// Clock ticks in a second and bytes in a page. sysconf(3).
pub fn units() -> (f64, u64) {
    // SAFETY: takes a plain number.
    let get = |name| unsafe { libc::sysconf(name) };
    (get(libc::_SC_CLK_TCK).max(1) as f64, u64::try_from(get(libc::_SC_PAGESIZE)).unwrap_or(4096))
}

/// The process that listens on a TCP port of this network namespace, as far as we may see.
pub fn listener_of(port: u16) -> Option<(i32, String)> {
    let wanted = format!(":{port:04X}");
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| {
        let text = fs::read_to_string(table).ok()?;
        text.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            // Field 3 is the state, 0A being LISTEN.
            let listens = fields.get(1)?.ends_with(&wanted) && *fields.get(3)? == "0A";
            listens.then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))?
        })
    })?;
    let holder = all().into_iter().find(|stat| {
        let fds = fs::read_dir(format!("/proc/{}/fd", stat.pid)).into_iter().flatten().flatten();
        fds.filter_map(|e| fs::read_link(e.path()).ok()).any(|target| target.as_os_str() == inode.as_str())
    })?;
    Some((holder.pid, holder.command))
}

/// Waits until a process has ended, at most so long. pidfd_open(2), or not at all where that is refused.
pub fn wait_until_gone(pid: i32, within: std::time::Duration) {
    // SAFETY: takes plain numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let Ok(fd) = i32::try_from(fd) else { return };
    if fd < 0 {
        return;
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    let fd = unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) };
    let mut fds = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&fd), nix::poll::PollFlags::POLLIN)];
    let _ = nix::poll::poll(&mut fds, nix::poll::PollTimeout::try_from(within).unwrap_or(nix::poll::PollTimeout::ZERO));
}

/// A file of /proc that is short enough to come whole with the first read, which saves the one that finds its end.
fn read_small(path: &str, block: &mut [u8; 4096]) -> io::Result<usize> {
    fs::File::open(path)?.read(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_spaces_and_parentheses_is_read_whole() {
        let line = b"42 (a) b (c)) S 7 42 42 0 -1 4194560 1 2 3 4 11 22 0 0 20 0 1 0 99 1000 55 18446744073709551615 1";
        let stat = parse_stat(line).expect("a valid line");
        assert_eq!((stat.pid, stat.command.as_str(), stat.parent), (42, "a) b (c)", 7));
        assert_eq!((stat.ticks, stat.threads, stat.started, stat.resident), (33, 1, 99, 55));
    }

    #[test]
    fn the_limits_of_file_locks_are_found_in_their_table() {
        let table = b"Limit                     Soft Limit           Hard Limit           Units     \n\
            Max address space         unlimited            unlimited            bytes     \n\
            Max file locks            4711                 unlimited            locks     \n\
            Max pending signals       31547                31547                signals   \n";
        assert_eq!(parse_lock_limits(table), Some((4711, u64::MAX)));
        for text in [&b""[..], b"Max file locks\n", b"Max file locks  x y locks", b"Max file locks 1\n"] {
            assert_eq!(parse_lock_limits(text), None);
        }
        assert_eq!(lock_limits(std::process::id() as i32), crate::sys::limits::locks().ok());
    }

    #[test]
    fn resident_memory_is_told_by_its_kinds() {
        let text = b"Name:\tx\nVmRSS:\t   12 kB\nRssAnon:\t    1 kB\nRssFile:\t    4 kB\nRssShmem:\t    7 kB\n";
        assert_eq!(parse_memory(text), Some(Memory { anonymous: 1 << 10, shared: 11 << 10 }));
        // A kernel thread, or one that is over, has none.
        assert_eq!(parse_memory(b"Name:\tkthreadd\nRssAnon:\tx kB\n"), None);
        assert!(memory(std::process::id() as i32).is_some_and(|own| own.anonymous > 100_000));
    }

    #[test]
    fn what_is_not_a_stat_line_is_refused() {
        for text in [&b""[..], b"42", b"42 (x", b"42 (x) ", b"x (y) S 1 2 3", b"\xff (\xff) \xff"] {
            assert_eq!(parse_stat(text), None);
        }
    }
}
