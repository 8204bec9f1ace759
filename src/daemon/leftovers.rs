//! What is left of a process after its child has been reaped: helpers that stayed in the group, left the session, or
//! forked twice and lost every parent but us.
//!
//! hob is PID 1 or a subreaper, so whatever outlives its parent hangs below one of hob's own children that is nobody:
//! an orphan. No orphan means that nothing is left, and that is one small read of /proc. Otherwise each orphan is
//! attributed by evidence, strongest first: the marker variable in its environment, its session or group, its log
//! pipe, its parent. What none of this names is a stray; strays are ended when hob itself ends.

use std::collections::HashMap;

use crate::supervisor::event::ProcessId;
use crate::sys::proc::{self, Stat};

/// The variable that marks everything a run starts.
pub const MARKER: &str = "HOB_RUN";

/// What names the processes of one `ProcessId`.
pub struct Trace {
    pub id: ProcessId,
    /// The pid of the child that was reaped: the session and group of what it left.
    pub leader: Option<i32>,
    /// The inodes of its log pipes.
    pub pipes: Vec<u64>,
}

/// Everything below hob that is not (below) one of its own children in good standing.
#[derive(Default)]
pub struct Leftovers {
    pub of: HashMap<ProcessId, Vec<Stat>>,
    pub strays: Vec<Stat>,
}

/// The orphans among our children; `None` if it cannot be told (no /proc).
pub fn orphans(is_known: &dyn Fn(i32) -> bool) -> Option<Vec<i32>> {
    let own = sys_children()?;
    Some(own.into_iter().filter(|&pid| !is_known(pid)).collect())
}

fn sys_children() -> Option<Vec<i32>> {
    if let Some(children) = proc::own_children() {
        return Some(children);
    }
    let own = crate::sys::process::pid().as_raw();
    let all = proc::all();
    if all.is_empty() { None } else { Some(all.into_iter().filter(|s| s.parent == own).map(|s| s.pid).collect()) }
}

/// Says whose each orphan and each process below one is. Zombies are nobody: they are reaped, or their parent will.
pub fn attribute(orphans: &[i32], nonce: &str, traces: &[Trace]) -> Leftovers {
    let all = proc::all();
    let mut below: HashMap<i32, Vec<&Stat>> = HashMap::new();
    for stat in &all {
        below.entry(stat.parent).or_default().push(stat);
    }
    let mut found = Leftovers::default();
    let mut todo: Vec<(&Stat, Option<ProcessId>)> =
        all.iter().filter(|s| orphans.contains(&s.pid)).map(|s| (s, None)).collect();
    while let Some((stat, of_parent)) = todo.pop() {
        let owner = owner_of(stat, nonce, traces).or(of_parent);
        todo.extend(below.get(&stat.pid).into_iter().flatten().map(|child| (*child, owner)));
        if stat.state == b'Z' || stat.state == b'X' {
            continue;
        }
        match owner {
            Some(id) => found.of.entry(id).or_default().push(stat.clone()),
            None => found.strays.push(stat.clone()),
        }
    }
    found
}

fn owner_of(stat: &Stat, nonce: &str, traces: &[Trace]) -> Option<ProcessId> {
    let user = proc::owner(stat.pid).ok();
    if let Ok(environ) = proc::environ(stat.pid, user)
        && let Some(id) = marked(&environ, nonce)
    {
        return Some(id);
    }
    let session = |t: &&Trace| t.leader.is_some_and(|l| l == stat.session || l == stat.group);
    if let Some(trace) = traces.iter().find(session) {
        return Some(trace.id);
    }
    [1, 2].into_iter().find_map(|fd| {
        let target = proc::fd_target(stat.pid, fd, user).ok()?;
        let inode: u64 = target.strip_prefix("pipe:[")?.strip_suffix(']')?.parse().ok()?;
        traces.iter().find(|t| t.pipes.contains(&inode)).map(|t| t.id)
    })
}

/// The marker of a run: which hob, which process, which run.
pub fn marker(nonce: &str, id: ProcessId, run: u64) -> String {
    format!("{nonce}.{}.{run}", id.0)
}

fn marked(environ: &[u8], nonce: &str) -> Option<ProcessId> {
    let value = environ.split(|&b| b == 0).find_map(|v| v.strip_prefix(MARKER.as_bytes())?.strip_prefix(b"="))?;
    let mut parts = std::str::from_utf8(value).ok()?.split('.');
    (parts.next()? == nonce).then_some(())?;
    Some(ProcessId(parts.next()?.parse().ok()?))
}

/// Signals one of them, if it is still the one that was seen. Our own children cannot be anyone else before we reap
/// them; for what is deeper the start time decides.
pub fn signal(stat: &Stat, signal: i32) {
    let same = proc::stat(stat.pid).is_some_and(|now| now.started == stat.started);
    if same && let Err(why) = crate::sys::process::kill(crate::sys::process::Pid::from_raw(stat.pid), signal) {
        log::debug!("cannot send signal {signal} to {} ({}): {why}", stat.pid, stat.command);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_marker_of_this_hob_counts() {
        let mine = b"PATH=/bin\0HOB_RUN=abc.7.12\0HOME=/\0";
        assert_eq!(marked(mine, "abc"), Some(ProcessId(7)));
        assert_eq!(marked(mine, "abd"), None);
        for bad in [&b"HOB_RUN=abc"[..], b"HOB_RUN=abc.x.1", b"XHOB_RUN=abc.7.1", b"", b"HOB_RUN=abc.\xff"] {
            assert_eq!(marked(bad, "abc"), None);
        }
        assert_eq!(marker("abc", ProcessId(7), 12), "abc.7.12");
    }
}
