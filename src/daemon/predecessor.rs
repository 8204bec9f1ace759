//! What a hob that was killed has left running, which must be gone before the next one starts anything: two copies of
//! a program are worse than none.
//!
//! Each hob has a file in `<state directory>/running`, named by its nonce and locked for as long as it lives; it takes
//! the file away when it ends in order. So a file that nobody has locked is that of a hob that was killed, and the name
//! of the file is on everything which that hob has started (see `marks`). Hobs that share a state directory leave each
//! other alone.
//!
//! There is nothing of this for a PID 1: when it is killed, the kernel ends everything else.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::marks::{self, Owner};
use crate::sys::lent::{Lent, Number};
use crate::sys::proc::{self, Stat};
use crate::sys::{clock, family, fd, process};

/// The file of this hob.
pub struct Registration {
    path: PathBuf,
    /// Locked for as long as it is open.
    file: File,
}

/// The same for the next binary: the lock is the process's, and stays while the descriptor is open.
#[derive(Serialize, Deserialize)]
pub struct Handed {
    path: PathBuf,
    file: Number,
}

impl Registration {
    /// Makes the file of this hob, and finds those of hobs that were killed.
    pub fn new(state_dir: &Path, nonce: u32) -> io::Result<(Registration, Vec<Predecessor>)> {
        let folder = state_dir.join("running");
        fs::create_dir_all(state_dir)?;
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Err(why) if why.kind() != io::ErrorKind::AlreadyExists => return Err(why),
            _ => {}
        }
        // Locked before it has its name: a file without a lock is that of a dead hob.
        let new = folder.join(format!("{nonce:08x}.new"));
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        fd::lock(&file)?;
        writeln!(file, "{}", process::pid())?;
        let path = folder.join(format!("{nonce:08x}"));
        fs::rename(&new, &path)?;
        let predecessors = found_in(&folder, nonce)?;
        Ok((Registration { path, file }, predecessors))
    }

    pub fn hand_over<'r>(&'r self, lent: &mut Lent<'r>) -> Handed {
        Handed { path: self.path.clone(), file: lent.lend(&self.file) }
    }

    pub fn take_over(handed: Handed) -> io::Result<Registration> {
        Ok(Registration { path: handed.path, file: handed.file.adopt()?.into() })
    }

    /// This hob has ended in order, and has left nothing.
    pub fn end(self) {
        let _ = fs::remove_file(&self.path);
    }

    /// The same, for one whose folders are for nothing else.
    pub fn end_with_folders(self) {
        let (running, folder) =
            (self.path.parent().map(Path::to_owned), self.path.ancestors().nth(2).map(Path::to_owned));
        self.end();
        // Those of another one stay.
        for folder in [running, folder].into_iter().flatten() {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// A hob that was killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predecessor {
    path: PathBuf,
    nonce: u32,
}

/// The file of our own `nonce` is not even opened: closing it again would give its lock up.
fn found_in(folder: &Path, own: u32) -> io::Result<Vec<Predecessor>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)?.take(FILES_MAX) {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).filter(|name| name.len() == 8);
        let nonce = name.and_then(|name| u32::from_str_radix(name, 16).ok()).filter(|&nonce| nonce != own);
        let Some(nonce) = nonce else { continue };
        let file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(&path);
        if file.and_then(|file| fd::is_locked_by_another(&file)).is_ok_and(|is_locked| !is_locked) {
            found.push(Predecessor { path, nonce });
        }
    }
    Ok(found)
}

/// Ends everything that these have left: SIGTERM, SIGKILL after the time that a stop has by default. To be called in
/// a child of the daemon, which may wait. Returns what not even that has ended.
pub fn end_leftovers(of: &[Predecessor], daemon: process::Pid) -> Vec<Stat> {
    let look = Look { nonces: of.iter().map(|hob| hob.nonce).collect(), spared: spared(daemon) };
    let first = look.find(&mut |_| {});
    if !first.programs.is_empty() {
        let names: Vec<String> = first.programs.iter().take(10).map(named).collect();
        let more = if first.programs.len() > names.len() { ", ..." } else { "" };
        log::warn!("a hob was killed and left {}{more}: ending that first", names.join(", "));
    }
    let kill_at = clock::since_boot() + GRACE;
    let give_up_at = kill_at + KILLED_WITHIN;
    let mut told: HashSet<(i32, u64)> = HashSet::new();
    loop {
        let is_asking = clock::since_boot() < kill_at;
        let mut has_new = false;
        // At once: one that forks another and ends is gone when all have been looked at.
        let left = look.find_surely(&mut |stat| {
            if is_asking && told.insert((stat.pid, stat.started)) {
                has_new = true;
                let _ = family::signal_seen(stat, libc::SIGTERM);
                let _ = family::signal_seen(stat, libc::SIGCONT);
            }
        });
        let now = clock::since_boot();
        // The logger of a dead hob ends when it has written what the programs have said.
        let is_over = left.programs.is_empty() && (left.logger.is_none() || now >= kill_at);
        if is_over || now >= give_up_at {
            if left.programs.is_empty() {
                of.iter().for_each(|hob| drop(fs::remove_file(&hob.path)));
            }
            return left.programs;
        }
        if !is_asking {
            look.kill(left.programs);
        }
        if !has_new {
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

/// What must not be touched: this process, those it hangs below (a shell that was left too, from which hob was started
/// again) and the children of the new daemon, which may have the marks of a hob above both.
fn spared(daemon: process::Pid) -> HashSet<i32> {
    let mut spared: HashSet<i32> = [1, process::pid().as_raw()].into();
    let mut at = daemon.as_raw();
    while spared.insert(at)
        && let Some(stat) = proc::stat(at)
    {
        at = stat.parent;
    }
    spared.extend(proc::stat(daemon.as_raw()).iter().flat_map(proc::children_of));
    spared
}

struct Look {
    nonces: Vec<u32>,
    spared: HashSet<i32>,
}

#[derive(Default)]
struct Found {
    programs: Vec<Stat>,
    logger: Option<Stat>,
}

impl Look {
    /// Looks again when nothing is found while new processes come: of those that each fork one and end, the one that
    /// lives may have come after the list was made, or be gone when it is looked at.
    fn find_surely(&self, seen: &mut dyn FnMut(&Stat)) -> Found {
        let until = clock::since_boot() + SURE_WITHIN;
        loop {
            let newest = proc::newest();
            let found = self.find(seen);
            let is_sure = newest.is_some() && proc::newest() == newest;
            if !found.programs.is_empty() || is_sure || clock::since_boot() >= until {
                return found;
            }
        }
    }

    /// `seen` gets each program as soon as it is found.
    fn find(&self, seen: &mut dyn FnMut(&Stat)) -> Found {
        let mut found = Found::default();
        // The newest first: they are the soonest to be gone.
        for stat in proc::pids().into_iter().rev().filter_map(|pid| self.check(pid)) {
            match stat {
                (stat, Owner::Logger) => found.logger = Some(stat),
                (stat, _) => {
                    seen(&stat);
                    found.programs.push(stat);
                }
            }
        }
        found
    }

    fn check(&self, pid: i32) -> Option<(Stat, Owner)> {
        if self.spared.contains(&pid) {
            return None;
        }
        // Seen first, so that the marks are those of this process or of none.
        let stat = proc::stat(pid).filter(|stat| stat.state != b'Z' && stat.state != b'X')?;
        let (_, owner) = marks::all_of(pid).into_iter().find(|(nonce, _)| self.nonces.contains(nonce))?;
        Some((stat, owner))
    }

    /// As `family::kill_with_offspring`, for what is not below us: stop all, look for more until nothing is new, kill.
    fn kill(&self, mut caught: Vec<Stat>) {
        let stop = |stat: &Stat| drop(family::signal_seen(stat, libc::SIGSTOP));
        caught.iter().for_each(stop);
        let mut seen: HashSet<i32> = caught.iter().map(|stat| stat.pid).collect();
        let until = clock::since_boot() + FREEZE_WITHIN;
        let mut catch = |pid: i32| {
            if seen.insert(pid)
                && let Some((stat, owner)) = self.check(pid)
                && owner != Owner::Logger
            {
                stop(&stat);
                caught.push(stat);
            }
        };
        loop {
            // The newest first: it is the one that lives, in a chain of processes that each fork one and end. A list of
            // all would be old before it is whole, where nobody has reaped the others yet.
            while let Some(newest) = proc::newest() {
                (newest - NEWEST..=newest).rev().for_each(&mut catch);
                if proc::newest() == Some(newest) || clock::since_boot() >= until {
                    break;
                }
            }
            let newest = proc::newest();
            proc::pids().into_iter().rev().for_each(&mut catch);
            if (newest.is_some() && proc::newest() == newest) || clock::since_boot() >= until {
                break;
            }
        }
        for stat in &caught {
            let _ = family::signal_seen(stat, libc::SIGKILL);
        }
    }
}

/// `812 (python3)`.
pub fn named(stat: &Stat) -> String {
    format!("{} ({})", stat.pid, stat.command)
}

/// The default of `stopwaitsecs`: what these were told to have is not known any more.
const GRACE: Duration = Duration::from_secs(10);
const KILLED_WITHIN: Duration = Duration::from_secs(5);
const FREEZE_WITHIN: Duration = Duration::from_millis(500);
/// On a machine where new processes come all the time nothing is ever sure.
const SURE_WITHIN: Duration = Duration::from_secs(1);
/// Numbers below the newest that are tried without a list.
const NEWEST: i32 = 32;
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Files that are looked at: one for each hob that lives or was killed since the last start.
const FILES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_lock_is_that_of_a_hob_that_was_killed() {
        let dir = tempfile::tempdir().expect("a folder");
        let (living, none) = Registration::new(dir.path(), 7).expect("writable");
        assert_eq!(none, [], "its own lock is not another's, but its own file is not a predecessor");
        // Locks are those of a process, so another one has to ask.
        let asked = process::fork(|| {
            let found = found_in(&dir.path().join("running"), 1).expect("readable");
            i32::from(!found.is_empty())
        });
        assert_eq!(process::wait_for(asked.expect("fork")).expect("our child"), process::Ended::Code(0));
        drop(living);
        let (next, found) = Registration::new(dir.path(), 8).expect("writable");
        assert_eq!(found.iter().map(|hob| hob.nonce).collect::<Vec<_>>(), [7]);
        next.end();
        assert!(!dir.path().join("running/00000008").exists());
    }

    #[test]
    fn what_is_no_name_of_a_hob_is_left_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("running");
        fs::create_dir(&folder).expect("new");
        for name in ["0000000g", "readme", "00000009.new", "123"] {
            fs::write(folder.join(name), "").expect("new");
        }
        std::os::unix::fs::symlink("readme", folder.join("0000000a")).expect("new");
        assert_eq!(found_in(&folder, 1).expect("readable"), []);
    }
}
