//! The descendants of this process, which as PID 1 or as subreaper none of them can leave.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use super::clock::since_boot;
use super::proc::Stat;
use super::{pidfd, proc, process, sigwait};

/// Everything below this process but zombies. Empty where /proc cannot be read.
pub fn descendants() -> Vec<i32> {
    let all = proc::all();
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for stat in &all {
        children.entry(stat.parent).or_default().push(stat.pid);
    }
    let dead: HashSet<i32> = all.iter().filter(|s| !is_alive(s)).map(|s| s.pid).collect();
    let (mut found, mut next) = (HashSet::new(), vec![process::pid().as_raw()]);
    while let Some(parent) = next.pop() {
        // Two looks at a changing table can show a loop; visit each once.
        next.extend(children.get(&parent).into_iter().flatten().filter(|pid| found.insert(**pid)));
    }
    found.into_iter().filter(|pid| !dead.contains(pid)).collect()
}

/// Whether `pid` is below this process, by the chain of parents. Zombies count.
pub fn is_descendant(pid: i32) -> bool {
    let own = process::pid().as_raw();
    let mut at = pid;
    // A chain is never longer than there are processes; the bound only guards against a table that changes meanwhile.
    for _ in 0..4096 {
        match proc::stat(at) {
            Some(stat) if stat.parent == own => return true,
            Some(stat) if stat.parent > 1 => at = stat.parent,
            _ => return false,
        }
    }
    false
}

/// Signals everything below this process, each by its pidfd after a second look, so no stranger is hit. As PID 1 that
/// is everything there is. Returns how many got it.
pub fn signal_all(signal: i32) -> usize {
    if process::pid().as_raw() == 1 {
        return signal_everybody(signal).is_ok().into();
    }
    descendants().into_iter().filter(|&pid| signal_one(pid, signal).is_ok()).count()
}

/// Every process of the namespace but ourselves. kill(2).
fn signal_everybody(signal: i32) -> io::Result<()> {
    assert!(process::pid().as_raw() == 1, "only for the first process of a namespace");
    // SAFETY: takes plain numbers.
    nix::errno::Errno::result(unsafe { libc::kill(-1, signal) })?;
    Ok(())
}

/// Signals `pid` if it is below this process; ESRCH otherwise.
pub fn signal_one(pid: i32, signal: i32) -> io::Result<()> {
    let stranger = || io::Error::from_raw_os_error(libc::ESRCH);
    match pidfd::open(pid) {
        // Open first: if it is ours after that, it was ours when the descriptor was made.
        Ok(fd) => match is_descendant(pid) {
            true => pidfd::send_signal(fd.as_fd(), signal),
            false => Err(stranger()),
        },
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Err(e),
        Err(_) if is_descendant(pid) => process::kill(process::Pid::from_raw(pid), signal),
        Err(_) => Err(stranger()),
    }
}

/// Signals a process if it is still the one that was seen there, by its start time; ESRCH otherwise.
pub fn signal_seen(seen: &Stat, signal: i32) -> io::Result<()> {
    match proc::stat(seen.pid) {
        Some(now) if now.started == seen.started => process::kill(process::Pid::from_raw(seen.pid), signal),
        _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
    }
}

/// Kills these processes and whatever they fork while that goes on. Returns the latter.
///
/// One that forks as fast as it is looked for is never caught by killing what one look has shown. So everything is
/// stopped first, since what is stopped forks no more, and looked for again until nothing is new; then all of it is
/// killed. Of our own children, which orphans become, those that `is_known` names stay, and `belongs` decides about
/// the others; what hangs below one that goes, goes.
pub fn kill_with_offspring(
    first: Vec<Stat>,
    is_known: &dyn Fn(i32) -> bool,
    belongs: &dyn Fn(&Stat) -> bool,
) -> Vec<Stat> {
    let until = since_boot() + FREEZE_WITHIN;
    let known = first.len();
    let mut seen: HashSet<i32> = first.iter().map(|stat| stat.pid).collect();
    let mut caught = first;
    for stat in &caught {
        let _ = signal_seen(stat, libc::SIGSTOP);
    }
    loop {
        let before = seen.len();
        // The newest comes last and is looked at first: in a chain of processes that each fork one and end, it is the
        // one that lives.
        for pid in proc::own_children().unwrap_or_default().into_iter().rev() {
            if seen.insert(pid)
                && !is_known(pid)
                && let Some(stat) = proc::stat(pid).filter(is_alive)
                && belongs(&stat)
            {
                let _ = process::kill(process::Pid::from_raw(pid), libc::SIGSTOP);
                caught.push(stat);
            }
        }
        // New links come faster than the rest can be looked at.
        if seen.len() > before && since_boot() < until {
            continue;
        }
        let mut at = 0;
        while at < caught.len() {
            for pid in proc::children_of(&caught[at]) {
                if seen.insert(pid)
                    && let Some(stat) = proc::stat(pid).filter(is_alive)
                {
                    let _ = signal_seen(&stat, libc::SIGSTOP);
                    caught.push(stat);
                }
            }
            at += 1;
        }
        if seen.len() == before || since_boot() >= until {
            break;
        }
    }
    for stat in &caught {
        let _ = signal_seen(stat, libc::SIGKILL);
    }
    caught.split_off(known)
}

pub fn is_alive(stat: &Stat) -> bool {
    stat.state != b'Z' && stat.state != b'X'
}

/// Whether a process is still the one that was seen, and no zombie.
pub fn still_lives(seen: &Stat) -> bool {
    proc::stat(seen.pid).is_some_and(|now| now.started == seen.started && is_alive(&now))
}

/// Kills everything below this process, and what that forks meanwhile.
fn kill_everything() {
    if process::pid().as_raw() == 1 {
        // The kernel does it in one go.
        let _ = signal_everybody(libc::SIGKILL);
        return;
    }
    kill_with_offspring(Vec::new(), &|_| false, &|_| true);
}

/// How long all may be stopped and looked for at once. Whoever calls waits for it.
const FREEZE_WITHIN: Duration = Duration::from_millis(50);

/// Whether this process has a child, zombies included. waitid(2).
pub fn has_children() -> bool {
    // SAFETY: all zeroes is a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: `info` is a valid place for the kernel to write to; WNOWAIT leaves every child as it is.
    unsafe { libc::waitid(libc::P_ALL, 0, &mut info, options) == 0 }
}

/// Ends everything below this process and reaps it: SIGTERM, and SIGKILL after `grace` or on a second SIGTERM,
/// SIGINT or SIGQUIT to us. All signals must be blocked. What not even SIGKILL ends within 2 s stays.
pub fn end_all(grace: Duration) {
    for (signal, at_most) in [(libc::SIGTERM, grace), (libc::SIGKILL, Duration::from_secs(2))] {
        let until = since_boot() + at_most;
        if signal == libc::SIGKILL {
            kill_everything();
        } else {
            signal_all(signal);
        }
        loop {
            while process::reap_one().is_some() {}
            if !has_children() {
                return;
            }
            let left = until.saturating_sub(since_boot());
            if left.is_zero() {
                break;
            }
            // What dies can leave children of its own behind that were forked after our look at the table.
            let step = if signal == libc::SIGKILL { left.min(Duration::from_millis(50)) } else { left };
            match sigwait::wait(Some(step)) {
                Some(arrived) if [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT].contains(&arrived.signal) => break,
                _ if signal == libc::SIGKILL => kill_everything(),
                _ => {}
            }
        }
    }
}
