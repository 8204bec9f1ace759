//! A panic of the daemon is an upgrade to itself (DESIGN §10). Where it panics is told by a file, in debug builds alone.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::*;

fn home(processes: &str) -> Home {
    let home = Home::with(processes);
    let file = home.beside("panics").display().to_string();
    home.env("HOB_PANICS", &file)
}

fn panics_at(hob: &Hob, place: &str) {
    let file = hob.home.beside("panics");
    // Whole at once, or it is read before it is written.
    let new = hob.home.beside("panics.new");
    std::fs::write(&new, place).expect("the scratch directory takes a file");
    std::fs::rename(&new, &file).expect("the same folder");
}

fn has_panicked(hob: &Hob, place: &str, times: usize) {
    let message = format!("as a test wants it: {place}");
    wait_for("the panic", || (hob.err().matches(&message).count() == times).then_some(()));
    wait_for("that it goes on", || (hob.err().matches("has panicked, and goes on").count() >= times).then_some(()));
}

#[test]
fn what_runs_goes_on_and_no_line_is_lost() {
    let hob = home(
        "flood: {command: '{prop} count 1000000 100 300', logfile_maxbytes: 100KB, logfile_backups: 150}\n\
         quiet: sleep 1000\n\
         probed: {command: sleep 1000, health: {exec: sleep 0.2, every: 100ms}}\n\
         crashes: {command: 'sh -c \"sleep 0.3; exit 7\"', startsecs: 0}\n",
    )
    .boot();
    let (flood, quiet) = (hob.running("flood"), hob.running("quiet"));
    panics_at(&hob, "signal");
    hob.signal(Signal::SIGWINCH);
    has_panicked(&hob, "signal", 1);
    // While a client is being served, the sockets are out of their place.
    panics_at(&hob, "client");
    hob.http("GET", "/v1/info", None);
    has_panicked(&hob, "client", 1);
    assert_eq!((hob.running("flood"), hob.running("quiet")), (flood, quiet));
    assert_eq!((hob.process("flood").restarts(), hob.process("probed").state()), (0, "RUNNING"));
    let crashes = hob.process("crashes").restarts();
    hob.wait("crashes", "another life", |process| process.restarts() > crashes);
    let ended = hob.shutdown();
    let (first, _) = check_numbered(&pieces(&ended.home().beside("log/flood.log")));
    assert_eq!(first, 0);
}

#[test]
fn a_start_in_which_it_panics_is_tried_again_and_never_twice_at_once() {
    let hob = home("a: {command: 'sleep 1000', autostart: false}\nb: sleep 1000\n").boot();
    let b = hob.running("b");
    panics_at(&hob, "decided");
    hob.hob(&["start", "--no-wait", "a"]);
    has_panicked(&hob, "decided", 1);
    hob.running("a");
    assert_eq!(hob.running("b"), b);
    hob.ok(&["stop", "a"]);
    hob.shutdown();
}

#[test]
fn of_many_that_are_being_started_each_runs_once() {
    let processes: String = (0..60).map(|n| format!("p{n}: {{command: sleep 3217, autostart: false}}\n")).collect();
    let hob = home(&processes).boot();
    panics_at(&hob, "launchers");
    hob.hob(&["start", "all"]);
    has_panicked(&hob, "launchers", 1);
    let all_run = || hob.status().iter().all(|process| process.state() == "RUNNING");
    wait_for("all run", || all_run().then_some(()));
    let there = alive_with(&hob.home.marker()).iter().filter(|(_, line)| line.contains("3217")).count();
    assert_eq!(there, 60);
    hob.shutdown();
}

#[test]
fn one_that_panics_again_and_again_gives_up_and_the_next_one_finds_what_it_left() {
    let mut hob = home("a: sleep 1000\n").boot();
    let a = hob.running("a");
    for times in 1..=3 {
        panics_at(&hob, "signal");
        hob.signal(Signal::SIGWINCH);
        has_panicked(&hob, "signal", times);
        assert_eq!(hob.running("a"), a);
    }
    panics_at(&hob, "signal");
    hob.signal(Signal::SIGWINCH);
    assert_eq!(hob.wait_end_within(Duration::from_secs(10)), 128 + libc::SIGABRT);
    assert!(lives(a));
    let hob = hob.into_home().boot();
    assert_ne!(hob.running("a"), a);
    assert!(!lives(a));
    hob.shutdown();
}
