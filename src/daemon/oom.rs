//! Whether the kernel's out-of-memory killer has struck here, from the counter of our own memory cgroup.

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
