//! What a process inherits is the same, however odd the conditions under which hob itself was started.

use std::fs;

use crate::support::*;

const CONDITIONS: [&str; 8] = [
    "SIGPIPE ignored",
    "SIGCHLD ignored",
    "SIGHUP ignored, as under nohup, and what glibc keeps to itself, as under runc",
    "200 open descriptors",
    "descriptors 0, 1 and 2 closed",
    "an odd umask",
    "all signals blocked",
    "all of it together",
];

#[test]
fn the_hygiene_contract_holds_under_eight_hostile_start_conditions() {
    if !need("root") {
        return;
    }
    let golden =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/hygiene.txt")).expect("the golden file");
    for (n, condition) in CONDITIONS.iter().enumerate() {
        let number = (n + 1).to_string();
        let hob = Home::with("one: {command: '{prop} hygiene', user: nobody}\nshell: {command: 'cd / && exec {prop} hygiene', user: nobody}")
            .under(&[prop(), "hostile", &number])
            .boot();
        for name in ["one", "shell"] {
            let log = hob.wait_log(&format!("{name}.log"), "end\n");
            assert_eq!(log, golden, "{condition} ({name})");
        }
        // The dispositions that were inherited do not cost hob its own work either.
        let pid = hob.running("one");
        hob.ok(&["restart", "one"]);
        hob.running_again("one", pid);
        hob.shutdown();
    }
}

#[test]
fn two_processes_share_no_descriptor_and_hobs_own_stay_with_hob() {
    let hob = Home::with("a: sleep 1000\nb: sleep 1000\nc: sh -c 'sleep 1000; true'").boot();
    let mut pipes = Vec::new();
    for name in ["a", "b", "c"] {
        let pid = hob.running(name);
        assert_eq!(fd_count(pid), 3, "{name}");
        pipes.push(fs::read_link(format!("/proc/{pid}/fd/1")).expect("stdout"));
    }
    pipes.sort();
    pipes.dedup();
    assert_eq!(pipes.len(), 3);
    hob.shutdown();
}

#[test]
fn hob_itself_keeps_no_more_descriptors_after_a_thousand_lives() {
    let hob = Home::with(
        "ok: {command: /bin/true, startsecs: 0, restart_delay: 0, restart_delay_max: 0}\n\
         bad: {command: ~/missing, autostart: false}\nidle: sleep 1000",
    )
    .boot();
    hob.running("idle");
    let before = fd_count(hob.pid);
    wait_for("two hundred lives", || (hob.process("ok").restarts() >= 200).then_some(()));
    for _ in 0..30 {
        hob.hob(&["start", "bad"]);
    }
    hob.ok(&["stop", "ok"]);
    wait_for("the descriptors to settle", || (fd_count(hob.pid) <= before + 2).then_some(()));
    assert!(children_of(hob.pid).iter().all(|c| c.1 != 'Z'));
    hob.shutdown();
}

#[test]
fn a_umask_that_keeps_even_the_owner_out_keeps_hob_from_nothing() {
    if !need("root") {
        return;
    }
    let home = Home::with("one: {command: sh -c 'echo hello; exec sleep 1000'}");
    ["log", "state"].iter().for_each(|dir| fs::remove_dir(home.beside(dir)).expect("empty"));
    let hob = home.under(&["sh", "-c", "umask 777; exec \"$@\"", "sh"]).run_as_nobody().boot();
    hob.wait_log("one.log", "hello");
    assert!(!hob.err().to_lowercase().contains("permission denied"), "{}", hob.err());
    hob.shutdown();
}

#[test]
fn a_private_umask_of_root_keeps_no_service_from_its_home() {
    if !need("root") {
        return;
    }
    let home = Home::bare().without_home().settings("user = \"nobody\"\nproxy = \"never\"\nhome_mode = \"direct\"\n");
    fs::remove_dir(home.beside("state")).expect("empty");
    fs::create_dir(home.beside("app")).expect("a fresh directory");
    let yml = "www:\n  type: custom\n  ports: {}\n  process: sh -c 'ls ~/environment.json && exec sleep 1000'\n";
    fs::write(home.beside("app/dotcloud.yml"), yml).expect("a fresh file");
    let hob = home.under(&["sh", "-c", "umask 77; exec \"$@\"", "sh"]).boot();
    let mut push = std::process::Command::new("sh");
    push.args(["-c", "umask 77; exec \"$@\"", "sh", hob_bin(), "push", "app"]);
    hob.home.dress(&mut push);
    run(&mut push).expect(0);
    hob.wait_log("www.0/www.log", "environment.json");
    hob.shutdown();
}
