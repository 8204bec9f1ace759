//! The power goes at every stage of a push: what is on the disk then is all that the next boot has.
//!
//! The state directory is an ext4 in a file. What the file system has not given to its disk by the moment of the cut is
//! lost, so the cut is a copy of that file, made while everything that could write stands still: unlike after a
//! `kill -9`, nothing is there that was not synced. The journal is committed only when somebody asks for it, and a
//! rename takes no data with it (`commit`, `noauto_da_alloc`), as on the least careful of disks.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::push::{is_whole, version, waiting};
use crate::support::*;

struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    fn new(home: &Home) -> Disk {
        let disk = Disk { image: home.beside("disk.img"), at: home.beside("state") };
        sh_ok(&format!("truncate -s 48M {0} && mkfs.ext4 -q -m0 {0}", disk.image.display()));
        disk.mount();
        disk
    }

    fn mount(&self) {
        let options = "loop,commit=300,noauto_da_alloc";
        sh_ok(&format!("mount -o {options} {} {}", self.image.display(), self.at.display()));
    }

    fn unmount(&self) {
        sh_ok(&format!("umount {}", self.at.display()));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        sh(&format!("umount {0} 2>/dev/null || umount -l {0}", self.at.display()));
    }
}

/// Sends a signal to all that the test has started.
fn all(home: &Home, signal: Signal) {
    for (pid, _) in alive_with(&home.marker()) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Whether the newest deployment has begun a stage.
fn has_begun(state: &Path, stage: &str) -> bool {
    let logs = fs::read_dir(state.join("deployments")).into_iter().flatten().flatten();
    let newest = logs.map(|entry| entry.path()).max();
    let text = newest.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    text.lines().any(|line| line.contains("\"begin\"") && line.contains(&format!("\"stage\":\"{stage}\"")))
}

#[test]
fn a_power_cut_at_any_stage_of_a_push_leaves_the_old_release_or_the_new_one() {
    if !need_all(&["root", "loop", "mkfs.ext4"]) {
        return;
    }
    let mut home = waiting("");
    let disk = Disk::new(&home);
    let hob = home.boot();
    hob.ok(&["push", &version(&hob, "v0")]);
    hob.ok(&["run", "www", "--", "sh", "-c", "mkdir data; echo precious > data/file; sync"]);
    home = hob.shutdown().into_home();
    let mut at = "v0".to_owned();
    let mut seen = Vec::new();
    let stages = ["receive", "build", "snapshot", "home", "stop", "responsive", "record"];
    let cuts = stages.iter().flat_map(|stage| [(stage, 0), (stage, 8)]).chain([(&"record", 25), (&"record", 60)]);
    for (n, (stage, later)) in cuts.enumerate() {
        let mut hob = home.boot();
        let next = format!("v{}", n + 1);
        let before = at.clone();
        let mut push = hob.background(&["push", &version(&hob, &next)], "push.out");
        wait_for(stage, || {
            (has_begun(&disk.at, stage) || push.child.try_wait().is_ok_and(|end| end.is_some())).then_some(())
        });
        std::thread::sleep(Duration::from_millis(later));
        // Twice, for those that were just being made.
        all(&hob.home, Signal::SIGSTOP);
        all(&hob.home, Signal::SIGSTOP);
        let cut = disk.image.with_extension("cut");
        fs::copy(&disk.image, &cut).expect("there is room");
        wait_for("everything is gone", || {
            all(&hob.home, Signal::SIGKILL);
            hob.leftovers().is_empty().then_some(())
        });
        hob.wait_end();
        wait_child(&mut push.child, PATIENCE).expect("it was killed");
        disk.unmount();
        fs::rename(&cut, &disk.image).expect("ours");
        disk.mount();
        let hob = hob.into_home().boot();
        at = is_whole(&hob, &[&before, &next]);
        seen.push(at != before);
        assert!(sh_ok(&format!("ls {}/releases", disk.at.display())).contains("rsync-"));
        home = hob.shutdown().into_home();
    }
    // The first cuts are early enough, and the last ones late enough, to have both.
    assert!(seen.contains(&false) && seen.contains(&true), "{seen:?}");
    let hob = home.boot();
    hob.ok(&["push", &version(&hob, "last")]);
    is_whole(&hob, &["last"]);
    hob.shutdown();
    drop(disk);
}
