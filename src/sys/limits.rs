//! Resource limits of this process: descriptors, nice, the out-of-memory score, umask.

use std::io;

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
