//! What is left of a process after its child has been reaped: helpers that stayed in the group, left the session, or
//! forked twice and lost every parent but us.
//!
//! hob is PID 1 or a subreaper, so whatever outlives its parent hangs below one of hob's own children that is nobody:
//! an orphan. No orphan means that nothing is left, and that is one small read of /proc. Otherwise each orphan is
//! attributed by evidence, strongest first: the tag in its limits, the variable in its environment, its session or
//! group, its log pipe, its parent. What none of this names is a stray; strays are ended when hob itself ends.

use std::collections::{HashMap, HashSet};

use super::marks::{Marks, Owner};
use crate::supervisor::event::ProcessId;
use crate::sys::family;
use crate::sys::proc::{self, Stat};

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
    /// Whose processes came and went while that was found out: they may have left others that nobody has seen.
    restless: HashSet<ProcessId>,
}

/// Says whose each orphan and each process below one is; `is_known` are those of our children that are no orphans.
/// Zombies are nobody: they are reaped, or their parent will.
///
/// A look takes its time, and what forks and ends meanwhile is seen twice or not at all. But nothing leaves the list of
/// our children before we reap it, and whatever lives hangs below one of them: so when a second list shows no orphan
/// that the first had not, everything was seen. Otherwise the look is repeated.
pub fn attribute(is_known: &dyn Fn(i32) -> bool, marks: &Marks, traces: &[Trace]) -> Leftovers {
    let list = || -> HashSet<i32> {
        let children = proc::own_children().unwrap_or_default();
        children.into_iter().filter(|&pid| !is_known(pid)).collect()
    };
    let (mut orphans, mut found) = (list(), Leftovers::default());
    for _ in 0..LOOKS {
        if orphans.is_empty() {
            break;
        }
        found = look(&orphans, marks, traces);
        let now = list();
        // A zombie still has its limits.
        let fresh = now.difference(&orphans);
        found.restless = fresh.filter_map(|&pid| of_process(marks.tagged(pid)?)).collect();
        if found.restless.is_empty() {
            break;
        }
        orphans = now;
    }
    found
}

fn look(orphans: &HashSet<i32>, marks: &Marks, traces: &[Trace]) -> Leftovers {
    let mut found = Leftovers::default();
    let (mut todo, mut seen) = (orphans.iter().map(|&pid| (pid, None)).collect::<Vec<_>>(), HashSet::new());
    while let Some((pid, of_parent)) = todo.pop() {
        let Some(stat) = proc::stat(pid).filter(|stat| seen.insert(pid) && stat.state != b'Z' && stat.state != b'X')
        else {
            continue;
        };
        let owner = owner_of(&stat, marks, traces).map_or(of_parent, of_process);
        todo.extend(proc::children_of(&stat).into_iter().map(|child| (child, owner)));
        match owner {
            Some(id) => found.of.entry(id).or_default().push(stat),
            None => found.strays.push(stat),
        }
    }
    found
}

fn of_process(owner: Owner) -> Option<ProcessId> {
    match owner {
        Owner::Process(id) => Some(id),
        Owner::Helper | Owner::Logger => None,
    }
}

fn owner_of(stat: &Stat, marks: &Marks, traces: &[Trace]) -> Option<Owner> {
    // Before the session: its number is free again once nobody is in it, and may be a neighbour's now.
    if let Some(owner) = marks.tagged(stat.pid) {
        return Some(owner);
    }
    let user = proc::owner(stat.pid).ok();
    if let Ok(environ) = proc::environ(stat.pid, user)
        && let Some(owner) = marks.named(&environ)
    {
        return Some(owner);
    }
    let session = |t: &&Trace| t.leader.is_some_and(|l| l == stat.session || l == stat.group);
    if let Some(trace) = traces.iter().find(session)
        // Ours is dead, so a leader that lives is somebody else's, who has got the number since.
        && trace.leader.is_some_and(|leader| proc::stat(leader).is_none())
    {
        return Some(Owner::Process(trace.id));
    }
    [1, 2].into_iter().find_map(|fd| {
        let target = proc::fd_target(stat.pid, fd, user).ok()?;
        let inode: u64 = target.strip_prefix("pipe:[")?.strip_suffix(']')?.parse().ok()?;
        traces.iter().find(|t| t.pipes.contains(&inode)).map(|t| Owner::Process(t.id))
    })
}

impl Leftovers {
    /// Whether it is sure that nothing of this process is left.
    pub fn is_rid_of(&self, id: ProcessId) -> bool {
        !self.of.contains_key(&id) && !self.restless.contains(&id)
    }

    /// Kills what is left of these processes, and what that forks meanwhile, which is added to what is left.
    pub fn kill(&mut self, ids: &[ProcessId], is_known: &dyn Fn(i32) -> bool, marks: &Marks, traces: &[Trace]) {
        let first = ids.iter().filter_map(|id| self.of.get(id)).flatten().cloned().collect();
        let owner = |stat: &Stat| owner_of(stat, marks, traces).and_then(of_process).filter(|id| ids.contains(id));
        let killed = family::kill_with_offspring(first, is_known, &|stat| owner(stat).is_some());
        for stat in killed {
            // One that is known by its parent alone goes to any of them: it is dead before anybody can ask.
            if let Some(id) = owner(&stat).or(ids.first().copied()) {
                self.of.entry(id).or_default().push(stat);
            }
        }
    }

    /// Kills all strays, and what they fork meanwhile.
    pub fn kill_strays(&mut self, is_known: &dyn Fn(i32) -> bool) {
        let first = self.strays.clone();
        self.strays.extend(family::kill_with_offspring(first, is_known, &|_| true));
    }
}

/// Signals one of them, if it is still the one that was seen. Our own children cannot be anyone else before we reap
/// them; for what is deeper the start time decides.
pub fn signal(stat: &Stat, signal: i32) {
    if let Err(why) = family::signal_seen(stat, signal) {
        log::debug!("cannot send signal {signal} to {} ({}): {why}", stat.pid, stat.command);
    }
}

/// How often a look is repeated at once while processes come and go.
const LOOKS: usize = 2;
