//! Trees and scripts that no person means to push, and how long a push takes.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use crate::push::*;
use crate::support::*;

/// Processes that have this file of the scratch directory among their words.
fn with(hob: &Hob, file: &str) -> Vec<i32> {
    let word = hob.home.beside(file).display().to_string();
    all_pids().into_iter().filter(|pid| lives(*pid) && cmdline(*pid).split(' ').any(|w| w == word)).collect()
}

#[test]
fn what_postinstall_leaves_running_holds_nobody_up_and_ends_with_its_release() {
    let hob = daemon("");
    let yml = "www:\n  type: custom\n  process: sleep 1000\n";
    // One that keeps the output open, one in a session of its own, one that is deaf.
    let leaves = "#!/bin/sh\n{prop} stamp {dir}/open tag &\nsetsid nohup {prop} stamp {dir}/away tag > /dev/null 2>&1 &\n\
                  (trap '' TERM; while :; do sleep 0.2 {dir}/deaf 2> /dev/null || {prop} stamp {dir}/deaf tag; done) &\n\
                  for f in open away deaf; do while ! [ -e {dir}/$f ]; do sleep 0.02; done; done\n";
    let ran = hob.ok(&["push", &tree(&hob, "one", &[("dotcloud.yml", yml), ("postinstall+", leaves)])]);
    assert!(ran.took < Duration::from_secs(20), "{:?}", ran.took);
    for file in ["open", "away", "deaf"] {
        assert_eq!(with(&hob, file).len(), 1, "{file} belongs to the release that serves");
    }
    // One that fails takes what it has left with it; the old release keeps its own.
    let fails =
        "#!/bin/sh\n{prop} stamp {dir}/failed tag &\nwhile ! [ -e {dir}/failed ]; do sleep 0.02; done\nexit 3\n";
    let bad = tree(&hob, "bad", &[("dotcloud.yml", yml), ("postinstall+", fails)]);
    hob.hob(&["push", &bad]).expect(1).says("exited with code 3");
    assert_eq!((with(&hob, "failed").len(), with(&hob, "away").len()), (0, 1));
    // And so does an instance that never serves.
    let dead = "www:\n  type: custom\n  process: {command: 'exit 1', startretries: 1, restart_delay: 10ms}\n";
    let later = "#!/bin/sh\n{prop} stamp {dir}/later tag &\nwhile ! [ -e {dir}/later ]; do sleep 0.02; done\n";
    let bad = tree(&hob, "dead", &[("dotcloud.yml", dead), ("postinstall+", later)]);
    hob.hob(&["push", &bad]).expect(1);
    assert_eq!((with(&hob, "later").len(), with(&hob, "open").len()), (0, 1));

    hob.ok(&["push", &tree(&hob, "two", &[("dotcloud.yml", yml), ("postinstall+", later)])]);
    for file in ["open", "away", "deaf"] {
        assert_eq!(with(&hob, file), [0; 0], "{file} outlives its release");
    }
    assert_eq!(with(&hob, "later").len(), 1);
    hob.ok(&["destroy", "www", "--yes"]);
    assert_eq!(with(&hob, "later"), [0; 0]);
    // Nor does it outlive hob, be it deaf or not.
    hob.ok(&["push", &tree(&hob, "one", &[("dotcloud.yml", yml), ("postinstall+", leaves)])]);
    hob.shutdown();
}

#[test]
fn data_that_is_a_mount_point_is_refused_before_anything_stops_and_a_link_is_kept() {
    if !need("root") {
        return;
    }
    let hob = daemon("home_mode = \"direct\"");
    hob.ok(&["push", &version(&hob, "one")]);
    let pid = hob.running("www");
    let data = std::path::PathBuf::from(inside(&hob, "www", "/dev/null; pwd")).join("data");
    let mount = Mount::tmpfs(&data, 512);
    hob.hob(&["push", &version(&hob, "two")]).expect(1).says("is a mount point").says("a link to it");
    assert_eq!((hob.running("www"), inside(&hob, "www", "version").as_str()), (pid, "one"), "it was not even stopped");
    drop(mount);
    fs::remove_dir(&data).expect("empty again");
    let disk = hob.home.beside("disk");
    fs::create_dir(&disk).expect("a fresh folder");
    fs::write(disk.join("file"), "precious\n").expect("written");
    symlink(&disk, &data).expect("a link");
    hob.ok(&["push", &version(&hob, "two")]);
    assert_eq!((inside(&hob, "www", "version"), inside(&hob, "www", "data/file")), ("two".into(), "precious".into()));
    hob.shutdown();
}

#[test]
fn what_is_mounted_at_the_data_of_the_common_home_is_told_to_be_hidden() {
    if !need("root") {
        return;
    }
    let hob = daemon("home_mode = \"bind\"");
    let mount = Mount::tmpfs(&hob.home.beside("app/data"), 512);
    hob.ok(&["push", &version(&hob, "one")]).says("is hidden by the homes of instances");
    assert_eq!(inside(&hob, "www", "version"), "one");
    hob.shutdown();
    drop(mount);
}

#[test]
fn a_tree_with_sockets_devices_and_very_many_files_is_pushed_without_what_is_no_file() {
    let hob = daemon("");
    let many = version(&hob, "many");
    // A fifth of what was pushed by hand, which says as much.
    sh_ok(&format!(
        "cd {many} && for d in $(seq 40); do mkdir d$d; (cd d$d; seq 500 | split -l 1 -a 3 -d); done; mkfifo fifo"
    ));
    let socket = UnixListener::bind(std::path::Path::new(&many).join("sock")).expect("a socket");
    let has_device = nix::unistd::geteuid().is_root() && sh(&format!("mknod {many}/dev c 1 3")).code == 0;
    let ran = hob.ok(&["push", &many]);
    drop(socket);
    for name in ["fifo", "sock"].into_iter().chain(has_device.then_some("dev")) {
        assert!(ran.out.contains(&format!("left out: {name} is a socket, a FIFO or a device")), "{}", ran.out);
    }
    let code = sh_ok(&format!("find {} -path '*/code' -type d", hob.home.beside("state").display()));
    let code = code.lines().next().expect("the code is kept").to_owned();
    assert_eq!(sh_ok(&format!("find {code} -type f -path '*/d[0-9]*/*' | wc -l")).trim(), "20000");
    for name in ["fifo", "sock", "dev"] {
        assert!(fs::symlink_metadata(format!("{code}/{name}")).is_err(), "{name}");
    }
    assert_eq!(inside(&hob, "www", "version"), "many");
    hob.shutdown();
}

#[test]
fn a_home_that_its_user_cannot_read_is_told_with_the_reason_and_nothing_is_left_of_it() {
    let hob = daemon(if nix::unistd::geteuid().is_root() { "user = \"nobody\"" } else { "" });
    let yml = "www:\n  type: custom\n  buildscript: builder\n  process: sleep 1000\n";
    let dir = tree(&hob, "locked", &[("dotcloud.yml", yml), ("builder", "mkdir ~/locked && chmod 0 ~/locked\n")]);
    let ran = hob.hob(&["push", &dir]).expect(1);
    assert!(
        ran.err.contains("cannot copy the home to") && ran.err.contains("locked: permission denied"),
        "{}",
        ran.err
    );
    assert!(hob.status().is_empty());
    assert_eq!(sh_ok(&format!("find {} -name locked", hob.home.beside("state").display())), "");
    hob.shutdown();
}

#[test]
fn an_unchanged_tree_and_a_rollback_take_less_than_a_second_and_startsecs() {
    let hob = daemon("");
    let one = version(&hob, "one");
    hob.ok(&["push", &one]);
    // startsecs is 50 ms here; a machine that is busy for a moment gets another try.
    let fast = |words: &[&str]| {
        let times: Vec<Duration> = (0..4).map(|_| hob.ok(words).took).collect();
        let best = times.iter().min().copied().expect("four of them");
        assert!(best < Duration::from_millis(1050), "{words:?}: {times:?}");
    };
    fast(&["push", &one]);
    fast(&["deploy", "previous"]);
    hob.shutdown();
}
