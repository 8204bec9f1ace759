//! `hob upgrade`: the running daemon becomes the binary that is now on disk (DESIGN §2), and nothing else notices.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::*;

/// hob runs from a copy of its binary, which may be replaced.
fn with_own_binary(home: Home) -> Home {
    let copy = home.beside("bin-hob");
    fs::copy(hob_bin(), &copy).expect("the scratch directory takes a file");
    let exec = format!("shift; exec {} \"$@\"", copy.display());
    home.under(&["sh", "-c", &exec, "sh"])
}

fn put(home: &Home, put: impl FnOnce(&Path)) {
    let new = home.beside("bin-hob.new");
    put(&new);
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("our own file");
    fs::rename(&new, home.beside("bin-hob")).expect("the same folder");
}

fn upgrade(hob: &Hob) {
    put(&hob.home, |new| {
        fs::copy(hob_bin(), new).expect("the scratch directory takes a file");
    });
    hob.ok(&["upgrade"]).says("processes go on");
}

#[test]
fn an_upgrade_touches_no_process_and_loses_no_line() {
    let home = with_own_binary(Home::with(
        "flood: {command: '{prop} count 1000000 100 300', logfile_maxbytes: 100KB, logfile_backups: 150}\n\
         quiet: sleep 1000\n\
         stopped: {command: sleep 1000, autostart: false}\n\
         crashes: {command: 'sh -c \"sleep 0.3; exit 7\"', startsecs: 0}\n",
    ));
    let hob = home.boot();
    let (flood, quiet) = (hob.running("flood"), hob.running("quiet"));
    let before = hob.get("/v1/info");
    for n in 1..=20 {
        upgrade(&hob);
        assert_eq!(hob.get("/v1/info")["upgrades"], n);
    }
    assert_eq!((hob.running("flood"), hob.running("quiet")), (flood, quiet));
    assert_eq!((hob.process("flood").restarts(), hob.process("stopped").state()), (0, "STOPPED"));
    let after = hob.get("/v1/info");
    assert_eq!(
        (after["pid"].as_i64(), after["log_dir"].as_str()),
        (before["pid"].as_i64(), before["log_dir"].as_str())
    );
    assert!(after["uptime"].as_f64() > before["uptime"].as_f64());
    // Deaths are noticed as before, and every one was.
    let crashes = hob.process("crashes").restarts();
    hob.wait("crashes", "another life", |process| process.restarts() > crashes);
    assert_eq!(hob.process("crashes").last_exit(), "exited with code 7");
    // The history is there too.
    hob.ok(&["events"]).says("\"name\":\"www:quiet\"");
    let ended = hob.shutdown();
    let (first, _) = check_numbered(&pieces(&ended.home().beside("log/flood.log")));
    assert_eq!(first, 0);
}

#[test]
fn a_binary_that_cannot_take_over_changes_nothing() {
    let hob = with_own_binary(Home::with("a: sleep 1000\n")).boot();
    let pid = hob.running("a");
    let scripts = [
        "#!/bin/sh\nexit 0\n",
        "#!/bin/sh\nexit 3\n",
        "#!/bin/sh\necho understood by hob 9\nkill -9 $$\n",
        "garbage",
        "",
    ];
    for text in scripts {
        put(&hob.home, |new| fs::write(new, text).expect("the scratch directory takes a file"));
        let ran = hob.hob(&["upgrade"]).expect(1);
        assert!(ran.err.contains("bin-hob") && ran.err.contains("nothing has changed"), "{text:?}: {ran:?}");
    }
    // One that reads the state and has something to say about it.
    put(&hob.home, |new| fs::write(new, "#!/bin/sh\necho the state is of version 7\nexit 1\n").expect("a file"));
    let ran = hob.hob(&["upgrade"]).expect(1);
    assert!(ran.err.contains("cannot take over: the state is of version 7"), "{ran:?}");
    fs::remove_file(hob.home.beside("bin-hob")).expect("it is there");
    let ran = hob.hob(&["upgrade"]).expect(1);
    assert!(ran.err.to_lowercase().contains("no such file"), "{ran:?}");
    assert_eq!((hob.running("a"), hob.get("/v1/info")["upgrades"].as_u64()), (pid, Some(0)));
    // And it still can, once there is one that does.
    upgrade(&hob);
    assert_eq!(hob.running("a"), pid);
    hob.shutdown();
}

/// One that says yes and then is another program after all would be the end; but one that cannot be executed at the
/// last moment leaves the old one in charge.
#[test]
fn a_binary_that_goes_away_between_question_and_answer_changes_nothing() {
    let hob = with_own_binary(Home::with("a: sleep 1000\n")).boot();
    let pid = hob.running("a");
    let script = format!("#!/bin/sh\nrm {}\nexec {} \"$@\"\n", hob.home.beside("bin-hob").display(), hob_bin());
    put(&hob.home, |new| fs::write(new, script).expect("the scratch directory takes a file"));
    let waits = hob.background(&["upgrade"], "upgrade.out");
    wait_for("the failure is told", || hob.err().contains("nothing has changed").then_some(()));
    drop(waits);
    assert_eq!((hob.running("a"), hob.get("/v1/info")["upgrades"].as_u64()), (pid, Some(0)));
    hob.ok(&["restart", "a"]);
    hob.shutdown();
}

#[test]
fn what_was_asked_for_and_what_is_marked_outlives_the_upgrade() {
    let home = with_own_binary(Home::with(
        "waits: {command: '{prop} notify 1500 READY=1', ready: {notify: true, within: 20s}}\n\
         helper: sh -c 'setsid sh -c \"exec env -i sleep 4321\" </dev/null >/dev/null 2>&1 & exec sleep 1000'\n\
         slow: {command: \"sh -c 'trap : TERM; while :; do sleep 0.1; done'\", stopwaitsecs: 2}\n",
    ));
    let hob = home.boot();
    hob.running("helper");
    hob.running("slow");
    // In the middle of a start and of a stop.
    hob.ok(&["stop", "--no-wait", "slow"]);
    hob.wait_state("slow", "STOPPING");
    assert_eq!(hob.process("waits").state(), "STARTING");
    upgrade(&hob);
    assert_eq!(hob.process("slow").state(), "STOPPING");
    hob.wait("waits", "ready by its notice", |process| process.state() == "RUNNING" && process.ready());
    hob.wait_state("slow", "STOPPED");
    // The helper is found by the tag that the binary before has given it.
    hob.ok(&["stop", "helper"]);
    assert!(alive_with(&hob.home.marker()).iter().all(|(_, line)| !line.contains("4321")));
    // A reload works, and goes by the same files.
    hob.home.write("dotcloud.yml", "www:\n  type: custom\n  processes:\n    new: sleep 1000\n");
    hob.ok(&["reload"]);
    hob.running("new");
    hob.shutdown();
}

#[test]
fn a_signal_and_a_kill_find_the_next_one_as_they_would_have_found_the_last() {
    let mut hob = with_own_binary(Home::with("a: sleep 1000\nb: sleep 1000\n")).boot();
    let old = hob.running("a");
    upgrade(&hob);
    hob.signal(Signal::SIGKILL);
    hob.wait_end();
    assert!(lives(old));
    // Its lock was kept, and is gone with it: so the next one knows what to end first.
    let mut hob = hob.into_home().boot();
    assert_ne!(hob.running("a"), old);
    assert!(!lives(old));
    for _ in 0..5 {
        upgrade(&hob);
    }
    hob.signal(Signal::SIGTERM);
    assert_eq!(hob.wait_end_within(Duration::from_secs(10)), 0);
    hob.nothing_is_left();
}

#[test]
fn clients_that_come_during_an_upgrade_are_served() {
    let hob = with_own_binary(Home::with("a: sleep 1000\n")).boot();
    hob.running("a");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (asked, failed) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let (mut asked, mut failed) = (0, 0);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                asked += 1;
                // Whoever was let in by the binary before is told to come again, or sees the connection end.
                let answer = http(&hob.home.beside("hob.sock"), "GET", "/v1/processes", None);
                failed += u32::from(!matches!(answer, Some((200, _))));
            }
            (asked, failed)
        });
        for _ in 0..20 {
            upgrade(&hob);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        asking.join().expect("the client")
    });
    assert!(asked > 100 && failed <= 20, "{failed} of {asked} failed");
    hob.shutdown();
}

#[test]
fn a_thousand_processes_are_handed_over() {
    let processes: String = (0..1000).map(|n| format!("p{n}: sleep 1000\n")).collect();
    let hob = with_own_binary(Home::with(&processes)).boot();
    wait_for("all run", || hob.status().iter().all(|process| process.state() == "RUNNING").then_some(()));
    let pids = |hob: &Hob| hob.status().iter().map(Proc::pid).collect::<Vec<_>>();
    let before = pids(&hob);
    upgrade(&hob);
    assert_eq!(pids(&hob), before);
    hob.shutdown();
}
