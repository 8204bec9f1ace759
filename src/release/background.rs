//! What a postinstall script has left running, a warm-up or a daemon: it belongs to the instance and ends with it.
//!
//! No parent knows it any more, since the push that ran the script is over. So it is known by a variable that the
//! script was given; only a program that empties its environment is rid of that.

use std::path::Path;
use std::thread;
use std::time::Duration;

use super::store::Store;
use crate::sys::clock::since_boot;
use crate::sys::family;
use crate::sys::proc::{self, Stat};

/// The variable that marks everything below a postinstall script.
pub const VARIABLE: &str = "HOB_POSTINSTALL";

/// Which scripts are meant: those of a deployment in a state directory, or that of one of its instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark(String);

impl Mark {
    pub fn deployment(state_dir: &Path, generation: u64) -> Mark {
        Mark(format!("{}|{generation}|", state_dir.display()))
    }

    pub fn instance(state_dir: &Path, generation: u64, service: &str, number: u32) -> Mark {
        Mark(format!("{}|{generation}|{service}.{number}|", state_dir.display()))
    }

    /// The value of the variable.
    pub fn value(&self) -> &str {
        &self.0
    }

    /// Ends what has the mark, SIGTERM first; says how many there were. What cannot be ended is told.
    pub fn end(&self) -> Result<usize, String> {
        let first = self.marked();
        let count = first.len();
        for stat in &first {
            let _ = family::signal_seen(stat, libc::SIGTERM);
        }
        let (term_until, kill_until) = (since_boot() + GRACE, since_boot() + GRACE + KILL_WITHIN);
        let mut left = first;
        while !left.is_empty() {
            let now = since_boot();
            if now >= kill_until {
                let pids: Vec<String> = left.iter().map(|stat| format!("{} ({})", stat.pid, stat.command)).collect();
                return Err(format!("what postinstall has left running cannot be ended: {}", pids.join(", ")));
            }
            if now >= term_until {
                // Looked for again: it may have forked.
                for stat in &left {
                    let _ = family::signal_seen(stat, libc::SIGKILL);
                }
            }
            thread::sleep(STEP);
            left =
                if now >= term_until { self.marked() } else { left.into_iter().filter(family::still_lives).collect() };
            if left.is_empty() {
                left = self.marked();
            }
        }
        Ok(count)
    }

    fn marked(&self) -> Vec<Stat> {
        marked(&self.0)
    }
}

/// What postinstall scripts have left running, of whatever instance: for a hob that ends. A deployment that is under way
/// looks after its own.
pub fn of_all(state_dir: &Path) -> Vec<Stat> {
    let store = Store::at(state_dir);
    if !store.has_deployed() {
        return Vec::new();
    }
    let busy = store.try_lock().is_ok_and(|lock| lock.is_none());
    let under_way = store.rolling().ok().flatten().filter(|_| busy);
    let spared = under_way.map_or_else(Vec::new, |rolling| marked(&Mark::deployment(state_dir, rolling.id).0));
    let mut all = marked(&format!("{}|", state_dir.display()));
    all.retain(|stat| !spared.iter().any(|spared| spared.pid == stat.pid));
    all
}

fn marked(beginning: &str) -> Vec<Stat> {
    let wanted = format!("{VARIABLE}={beginning}").into_bytes();
    let is_marked = |stat: &Stat| {
        let environ = proc::environ(stat.pid, proc::owner(stat.pid).ok()).unwrap_or_default();
        environ.split(|&byte| byte == 0).any(|variable| variable.starts_with(&wanted))
    };
    proc::all().into_iter().filter(|stat| family::is_alive(stat) && is_marked(stat)).collect()
}

const GRACE: Duration = Duration::from_secs(2);
const KILL_WITHIN: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn what_carries_the_mark_of_an_instance_or_its_deployment_ends_and_nothing_else() {
        let dir = Path::new("/state/of this test");
        let start = |mark: &Mark, script: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]).env(VARIABLE, mark.value()).stdin(Stdio::null());
            command.spawn().expect("sh starts")
        };
        let one = Mark::instance(dir, 7, "www", 1);
        let mut gentle = start(&one, "exec sleep 1000");
        let mut deaf = start(&one, "trap '' TERM; while :; do sleep 0.1; done");
        let mut eleven = start(&Mark::instance(dir, 7, "www", 11), "exec sleep 1000");
        // The shell has to have set its trap.
        thread::sleep(Duration::from_millis(300));
        assert!(one.end().expect("ended") >= 2);
        assert!(gentle.wait().is_ok() && deaf.wait().is_ok());
        assert!(eleven.try_wait().expect("ours").is_none(), "a neighbour");
        assert_eq!(Mark::deployment(dir, 8).end(), Ok(0));
        assert_eq!(Mark::deployment(dir, 7).end(), Ok(1));
        assert!(eleven.wait().is_ok());
    }
}
