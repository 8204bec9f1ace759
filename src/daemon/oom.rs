//! The kernel's out-of-memory killer: whether it has struck here, from the counter of our own memory cgroup, and whom it
//! is to take.

use std::fs;
use std::path::PathBuf;

/// Files under /proc and /sys only: reading them does no I/O that could stall.
pub struct OomCounter {
    file: Option<PathBuf>,
    seen: u64,
}

impl OomCounter {
    pub fn new() -> OomCounter {
        let mut counter = OomCounter { file: find(), seen: 0 };
        counter.seen = counter.read();
        counter
    }

    /// True if it has killed since this was last asked.
    pub fn has_struck(&mut self) -> bool {
        let now = self.read();
        std::mem::replace(&mut self.seen, now) < now
    }

    fn read(&self) -> u64 {
        let text = self.file.as_ref().and_then(|f| fs::read_to_string(f).ok()).unwrap_or_default();
        text.lines().find_map(|l| l.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
    }
}

/// The `oom_score_adj` of a process that has none of its own: so much above hob's that hob is never the largest, not even
/// where the memory goes into many processes that are each smaller (reference/peers.md §6, 15). Everybody may raise it,
/// and lower it again as far; hob could not lower its own without CAP_SYS_RESOURCE, which containers do not have. `None`
/// where it cannot be told.
pub fn score_of_processes() -> Option<i32> {
    let own: i32 = fs::read_to_string("/proc/self/oom_score_adj").ok()?.trim().parse().ok()?;
    let machine = fs::read_to_string("/proc/meminfo").ok()?;
    let machine = machine.lines().find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    let group = find().and_then(|file| {
        let limit = |name| fs::read_to_string(file.with_file_name(name)).ok();
        limit("memory.max").or_else(|| limit("memory.limit_in_bytes"))?.trim().parse().ok()
    });
    score_above(own, machine.map(|kib: u64| kib << 10).into_iter().chain(group).min()?)
}

/// The score counts in thousandths of the memory there is.
fn score_above(own: i32, memory: u64) -> Option<i32> {
    let more = (LARGER_THAN_HOB * 1000).checked_div(memory)?.clamp(1, 1000);
    Some((own + more as i32).min(1000))
}

/// More than hob ever is.
const LARGER_THAN_HOB: u64 = 16 << 20;

/// `memory.events` of version 2, else `memory.oom_control` of version 1. cgroups(7).
fn find() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let of = |wanted: &dyn Fn(&str) -> bool| {
        groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            wanted(controllers).then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let unified = of(&|c| c.is_empty()).map(|path| ("/sys/fs/cgroup", path, "memory.events"));
    let legacy =
        of(&|c| c.split(',').any(|c| c == "memory")).map(|p| ("/sys/fs/cgroup/memory", p, "memory.oom_control"));
    [unified, legacy]
        .into_iter()
        .flatten()
        // In a container the path is the host's while the mount shows our group as its root.
        .flat_map(|(mount, path, file)| [PathBuf::from(mount).join(path).join(file), PathBuf::from(mount).join(file)])
        .find(|file| file.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_less_memory_there_is_the_more_the_score_is_raised() {
        assert_eq!(score_above(0, 32 << 30), Some(1));
        assert_eq!(score_above(0, 1 << 30), Some(15));
        assert_eq!(score_above(-500, 64 << 20), Some(-250));
        assert_eq!(score_above(0, 16 << 20), Some(1000));
        assert_eq!(score_above(1000, 1 << 30), Some(1000));
        assert_eq!(score_above(0, 0), None);
    }

    #[test]
    fn this_machine_gives_one() {
        assert!(score_of_processes().is_some_and(|score| (-999..=1000).contains(&score)));
    }
}
