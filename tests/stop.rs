//! A stop leaves nothing behind: whatever a process started, however it tried to get away.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::*;

/// The pids that helpers wrote down, once there are so many.
fn helpers(hob: &Hob, file: &str, count: usize) -> Vec<i32> {
    wait_for(&format!("{count} helpers in {file}\n{}", hob.diary()), || {
        let text = fs::read_to_string(hob.home.at(file)).ok()?;
        let pids: Vec<i32> = text.lines().filter_map(|l| l.split(' ').nth(1)?.parse().ok()).collect();
        (pids.len() >= count).then_some(pids)
    })
}

/// Starts helpers of many kinds, stops the process, and nothing may be alive when the stop returns.
fn a_stop_ends_every_helper(as_nobody: bool) {
    let ways = ["s", "d", "sd", "sdt", "sdc", "sdtc", "g", "gdt", "sdce", "sdtce"];
    let mut yml = String::new();
    for how in ways {
        yml += &format!("{how}: {{command: '{{prop}} escape {{home}}/{how} {how} {{dir}}', stopwaitsecs: 1}}\n");
    }
    yml += "neighbour: sleep 1000\n";
    let home = Home::with(&yml);
    let hob = if as_nobody { home.run_as_nobody() } else { home }.boot();
    let neighbour = hob.running("neighbour");
    for how in ways {
        hob.running(how);
        let helper = helpers(&hob, how, 1)[0];
        assert!(lives(helper), "{how}: the helper runs");
        let begin = Instant::now();
        let ran = hob.ok(&["stop", how]);
        assert!(
            !lives(helper),
            "{how}: the helper {helper} outlived the stop: {ran:?} {:?}\n{}",
            cmdline(helper),
            hob.diary()
        );
        assert!(begin.elapsed() < Duration::from_secs(6), "{how} took {:?}", begin.elapsed());
        assert_eq!(hob.process(how).state(), "STOPPED");
    }
    assert_eq!(hob.process("neighbour").pid(), Some(neighbour), "a neighbour is not touched");
    assert!(lives(neighbour));
    hob.shutdown();
}

#[test]
fn a_stop_ends_helpers_that_called_setsid_or_forked_twice() {
    a_stop_ends_every_helper(false);
}

#[test]
fn a_stop_ends_them_for_an_ordinary_user_too() {
    if !need_all(&["root", "setpriv"]) {
        return;
    }
    a_stop_ends_every_helper(true);
}

#[test]
fn helpers_that_outlive_their_main_process_are_gone_before_its_next_run_or_its_stop() {
    let hob = Home::with(
        "one: {command: '{prop} escape {home}/h sdx {dir}', startsecs: 0, restart_delay: 0.2, stopwaitsecs: 1}",
    )
    .boot();
    helpers(&hob, "h", 4);
    hob.ok(&["stop", "one"]);
    let left: Vec<i32> = helpers(&hob, "h", 4).into_iter().filter(|p| lives(*p)).collect();
    assert!(left.is_empty(), "{left:?}\n{}", hob.diary());
    hob.shutdown();
}

#[test]
fn a_tree_that_ignores_term_is_killed_after_the_grace() {
    let hob = Home::with("one: {command: '{prop} stubborn 6 {dir}', stopwaitsecs: 1}").boot();
    wait_for("six of them", || (hob.log("one.log").lines().count() == 6).then_some(()));
    let pids: Vec<i32> = hob.log("one.log").lines().map(|l| l[9..].parse().expect("a pid")).collect();
    let begin = Instant::now();
    hob.ok(&["stop", "one"]);
    let took = begin.elapsed();
    assert!(pids.iter().all(|p| !lives(*p)), "{pids:?}");
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(4), "{took:?}");
    assert!(hob.process("one").last_exit().contains("SIGKILL"), "{:?}", hob.process("one"));
    hob.shutdown();
}

#[test]
fn one_that_forks_again_on_every_term_is_caught() {
    let hob = Home::with("one: {command: '{prop} refork {home}/h {dir}', stopwaitsecs: 1}").boot();
    hob.running("one");
    helpers(&hob, "h", 1);
    let begin = Instant::now();
    hob.ok(&["stop", "one"]);
    assert!(begin.elapsed() < Duration::from_secs(8));
    let left: Vec<i32> = helpers(&hob, "h", 1).into_iter().filter(|p| lives(*p)).collect();
    assert!(left.is_empty(), "{left:?}");
    hob.shutdown();
}

/// What nothing marks but its tag, and forks faster than /proc can be read.
fn a_chain_is_caught(as_nobody: bool) {
    let home = Home::with("one: {command: '{prop} chain 2 {home}/lock {dir}', stopwaitsecs: 1}\ntwo: sleep 1000");
    let hob = if as_nobody { home.run_as_nobody() } else { home }.boot();
    hob.wait_log("one.log", "chained");
    let two = hob.running("two");
    assert!(is_locked(&hob, "lock"), "the chains run");
    let begin = Instant::now();
    let ran = hob.hob(&["stop", "one"]);
    let took = begin.elapsed();
    // Its links are too short-lived to be seen in /proc; but when it has ended, so has its lock.
    assert!(!is_locked(&hob, "lock"), "a chain outlived {ran:?}\n{}", hob.diary());
    assert_eq!(ran.code, 0, "{ran:?}\n{}", hob.diary());
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert!(lives(two) && hob.is_alive());
    hob.shutdown();
}

fn is_locked(hob: &Hob, file: &str) -> bool {
    let file = fs::File::open(hob.home.at(file)).expect("made by the chain");
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).is_err()
}

#[test]
fn a_chain_of_processes_that_each_fork_the_next_and_end_is_caught() {
    a_chain_is_caught(false);
}

#[test]
fn a_chain_is_caught_by_an_ordinary_user_too() {
    if !need_all(&["root", "setpriv"]) {
        return;
    }
    a_chain_is_caught(true);
}

#[test]
fn one_that_becomes_many_on_term_is_gone_with_all_of_them() {
    let hob = Home::with("one: {command: '{prop} swarm 300 {dir}', stopwaitsecs: 1}").boot();
    hob.wait_log("one.log", "swarm");
    let begin = Instant::now();
    hob.ok(&["stop", "one"]);
    let took = begin.elapsed();
    let left: Vec<_> = hob.leftovers().into_iter().filter(|c| c.1.contains(" swarm ")).collect();
    assert!(left.is_empty(), "{} of them left\n{}", left.len(), hob.diary());
    assert!(took < Duration::from_secs(3), "{took:?}");
    hob.shutdown();
}

#[test]
fn a_process_that_is_stopped_by_sigstop_still_ends() {
    let hob =
        Home::with("one: {command: '{prop} stopself', stopwaitsecs: 2}\ntwo: {command: sleep 1000, stopwaitsecs: 2}")
            .boot();
    let two = hob.running("two");
    kill(Pid::from_raw(two), Signal::SIGSTOP).expect("it runs");
    hob.running("one");
    let begin = Instant::now();
    hob.ok(&["stop", "one", "two"]);
    assert!(begin.elapsed() < Duration::from_secs(6));
    assert!(!lives(two));
    hob.shutdown();
}

#[test]
fn the_stop_signal_is_the_configured_one_and_goes_to_the_whole_group() {
    let hob = Home::with(
        "one: {command: '{home}/two-of-them', stopsignal: USR1}\n\
         two: {command: '{prop} signals {home}/quit', stopsignal: QUIT, stopwaitsecs: 1}",
    )
    .script(
        "two-of-them",
        "#!/bin/bash\ntrap 'echo child USR1 >> ~/got; exit' USR1\n\
         bash -c 'trap \"echo grandchild USR1 >> ~/got; exit\" USR1; echo ready; while :; do sleep 0.05; done' &\nwhile :; do sleep 0.05; done\n",
    )
    .boot();
    hob.wait_log("one.log", "ready");
    wait_for("handlers", || fs::read_to_string(hob.home.at("quit")).ok().filter(|t| t.contains("begin")));
    hob.ok(&["stop", "one", "two"]);
    let got = fs::read_to_string(hob.home.at("got")).unwrap_or_default();
    assert!(got.lines().any(|l| l == "child USR1") && got.contains("grandchild USR1"), "{got}");
    let quit = fs::read_to_string(hob.home.at("quit")).expect("there");
    assert!(quit.contains("QUIT") && !quit.contains("TERM"), "{quit}");
    hob.shutdown();
}

#[test]
fn a_port_is_free_when_the_stop_returns() {
    let port = free_port();
    let hob = Home::with(&format!(
        "one: {{command: 'sh -c \"setsid {{prop}} tcp {port} 0 & exec sleep 1000\"', stopwaitsecs: 1}}"
    ))
    .boot();
    wait_for("the port", || accepts(port).then_some(()));
    hob.ok(&["stop", "one"]);
    let free = std::net::TcpListener::bind(("127.0.0.1", port));
    assert!(free.is_ok(), "{free:?}");
    hob.shutdown();
}

#[test]
fn a_restart_leaves_nothing_of_the_old_run() {
    let hob = Home::with("one: {command: '{prop} escape {home}/h sdt {dir}', stopwaitsecs: 1}").boot();
    hob.running("one");
    let old = helpers(&hob, "h", 1)[0];
    hob.ok(&["restart", "one"]);
    let new = helpers(&hob, "h", 2)[1];
    assert!(!lives(old) && lives(new));
    hob.shutdown();
}

#[test]
fn a_stop_in_the_middle_of_a_start_or_of_a_back_off_wins() {
    let hob = Home::with(
        "starting: {command: sleep 1000, startsecs: 60}\n\
         backoff: {command: '{prop} flash {home}/b b 1', restart_delay: 30s}\n\
         waiting: {command: '{prop} stamp {home}/w w', after: [starting]}",
    )
    .boot();
    hob.wait_state("starting", "STARTING");
    hob.wait_state("backoff", "BACKOFF");
    hob.ok(&["stop", "all"]);
    for name in ["starting", "backoff", "waiting"] {
        assert_eq!(hob.process(name).state(), "STOPPED", "{name}");
    }
    never_for(Duration::from_millis(500), "a start after the stop", || hob.home.at("w").exists());
    hob.shutdown();
}

#[test]
fn what_cannot_be_killed_is_named_and_not_reported_as_stopped() {
    if !need_all(&["root", "setpriv"]) {
        return;
    }
    // An ordinary user's hob, and a helper that has become root by a set-uid file.
    let home = Home::with("one: {command: '{home}/run-it', stopwaitsecs: 1}")
        .script("run-it", "#!/bin/sh\n{home}/rooted setuid0 {home}/h {dir} &\nexec sleep 1000\n");
    fs::copy(prop(), home.at("rooted")).expect("the home takes a file");
    let home = home.run_as_nobody();
    sh_ok(&format!("chown root:root {0} && chmod 4755 {0}", home.at("rooted").display()));
    sh_ok(&format!("touch {0} && chmod 666 {0}", home.at("h").display()));
    let hob = home.boot();
    hob.running("one");
    let helper = helpers(&hob, "h", 1)[0];
    let ran = hob.hob(&["stop", "one"]);
    assert_eq!(ran.code, 1, "a survivor is a failure: {ran:?}");
    assert!(ran.both().contains(&helper.to_string()), "it is named: {ran:?}");
    assert!(lives(helper));
    kill(Pid::from_raw(helper), Signal::SIGKILL).expect("root may");
    wait_for("the state to follow", || (hob.process("one").state() == "STOPPED").then_some(()));
    hob.shutdown();
}

#[test]
fn a_shutdown_in_the_middle_of_everything_leaves_nothing() {
    let hob = Home::with(
        "a: {command: '{prop} escape {home}/a sdt {dir}', stopwaitsecs: 1}\nb: {prop} stubborn 4 {dir}\n\
         c: {command: '{prop} flash {home}/c c 1', restart_delay: 0.05, restart_delay_max: 0.05}\n\
         d: {command: sleep 1000, startsecs: 60}\ne: {command: sleep 1, after: [d]}",
    )
    .settings("[defaults]\nstopwaitsecs = 1\n")
    .boot();
    helpers(&hob, "a", 1);
    hob.wait_log("b.log", "stubborn");
    let begin = Instant::now();
    hob.shutdown();
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
}
