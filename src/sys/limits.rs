//! Resource limits of this process: descriptors, file locks, nice, the out-of-memory score, umask.

use std::io;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Soft and hard limit of open descriptors. getrlimit(2).
pub fn nofile() -> io::Result<(u64, u64)> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?)
}

/// setrlimit(2); raising the hard limit needs CAP_SYS_RESOURCE.
pub fn set_nofile(soft: u64, hard: u64) -> io::Result<()> {
    Ok(setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?)
}

/// The most memory this process may map, in bytes. setrlimit(2).
pub fn set_address_space(bytes: u64) -> io::Result<()> {
    Ok(setrlimit(Resource::RLIMIT_AS, bytes, bytes)?)
}

/// Soft and hard limit of file locks. Linux has not looked at it since 2.4.25; it is only kept, shown and inherited.
/// getrlimit(2).
pub fn locks() -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the kernel to write an rlimit to.
    nix::errno::Errno::result(unsafe { libc::getrlimit(libc::RLIMIT_LOCKS, &mut limit) })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Lowering the hard limit is for ever, and for everything this process starts. setrlimit(2).
pub fn set_locks(soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` is a valid rlimit to read from.
    nix::errno::Errno::result(unsafe { libc::setrlimit(libc::RLIMIT_LOCKS, &limit) })?;
    Ok(())
}

/// A limit that supervisord raises for its children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    NoFile,
    NProc,
}

impl Limit {
    fn resource(self) -> Resource {
        match self {
            Limit::NoFile => Resource::RLIMIT_NOFILE,
            Limit::NProc => Resource::RLIMIT_NPROC,
        }
    }
}

/// Soft and hard. getrlimit(2).
pub fn get(limit: Limit) -> io::Result<(u64, u64)> {
    Ok(getrlimit(limit.resource())?)
}

/// setrlimit(2); raising the hard limit needs CAP_SYS_RESOURCE.
pub fn set(limit: Limit, soft: u64, hard: u64) -> io::Result<()> {
    Ok(setrlimit(limit.resource(), soft, hard)?)
}

/// -20 to 19; below the current value needs CAP_SYS_NICE. setpriority(2).
pub fn set_nice(nice: i32) -> io::Result<()> {
    // SAFETY: takes plain numbers; 0 is this process.
    nix::errno::Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) })?;
    Ok(())
}

/// -1000 to 1000; below the current value needs CAP_SYS_RESOURCE. proc_pid_oom_score_adj(5).
pub fn set_oom_score_adj(score: i32) -> io::Result<()> {
    std::fs::write("/proc/self/oom_score_adj", score.to_string())
}

/// The permission bits that new files do not get; returns the ones before. umask(2).
pub fn set_umask(mask: u32) -> u32 {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mask)).bits()
}

/// Takes a umask by which another user reaches what root makes for him (`UMask=0077` in a unit would shut him out of his
/// own home), and by which nobody else may write to anything. An ordinary user may keep others out, but not himself.
pub fn usual_umask(is_root: bool) {
    let before = set_umask(0o022);
    if !is_root {
        set_umask(before & 0o077 | 0o022);
    }
    CALLERS_UMASK.get_or_init(|| before);
}

/// The umask from before, for a file that is the caller's.
pub fn callers_umask() -> u32 {
    CALLERS_UMASK.get().copied().unwrap_or(0o022)
}

static CALLERS_UMASK: OnceLock<u32> = OnceLock::new();

/// How many processors this process may run on. sched_getaffinity(2).
pub fn cpus() -> usize {
    // SAFETY: all zeroes is a valid, empty cpu_set_t.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a valid place of that size for the kernel to write to; 0 is this process.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) } < 0 {
        return 1;
    }
    // SAFETY: reads a set that the kernel has filled in.
    usize::try_from(unsafe { libc::CPU_COUNT(&set) }).unwrap_or(1).max(1)
}

/// No limit, as getrlimit(2) and proc::lock_limits tell it.
pub const UNLIMITED: u64 = libc::RLIM_INFINITY;
