//! Many starts at once, which launchers make (src/daemon/batch.rs): what holds for one process holds for each of many.

use std::fs;

use crate::support::*;

/// Enough for several launchers.
const MANY: usize = 24;

/// One of each kind, over and over: lives, ends with a code of its own, dies of a signal, cannot be executed, cannot
/// change its directory, needs a shell for its command, is fronted by pidproxy.
fn all_kinds() -> Home {
    let mut yml = String::new();
    for n in 0..MANY {
        let once = "autorestart: false, startsecs: 0";
        yml += &match n % 8 {
            0 => format!("p{n}: 'sleep 1{n}00'\n"),
            1 => format!("p{n}: {{command: '{{prop}} flash {{home}}/stamps p{n} {n}', {once}}}\n"),
            2 => format!("p{n}: {{command: '{{prop}} raise 6', {once}}}\n"),
            3 => format!("p{n}: '~/no-such-program'\n"),
            4 => format!("p{n}: {{command: sleep 1000, directory: ~/no-such-directory}}\n"),
            5 => format!("p{n}: 'N={n}; echo this is $N; exec sleep 1000'\n"),
            6 => format!("p{n}: '{{prop}} hygiene'\n"),
            _ => format!("p{n}: {{command: 'sh -c \"sleep 1000 & echo \\$! > ~/pid.{n}\"', pidfile: ~/pid.{n}}}\n"),
        };
    }
    Home::with(&yml)
}

fn check_all_kinds(hob: &Hob) {
    let golden = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/hygiene.txt"));
    let golden = golden.expect("the golden file");
    for n in 0..MANY {
        let name = format!("p{n}");
        let wanted = ["RUNNING", "EXITED", "EXITED", "FATAL", "FATAL", "RUNNING", "RUNNING", "RUNNING"][n % 8];
        let process = hob.wait_state(&name, wanted);
        let exit = &process.0["last_exit"];
        match n % 8 {
            0 => {
                let pid = process.pid().expect("it runs");
                assert_eq!(cmdline(pid), format!("sleep 1{n}00"));
                assert_eq!(stat(pid).map(|s| s.1), Some(hob.pid), "a child of hob itself");
            }
            1 => assert_eq!(exit["code"], n, "{process:?}"),
            2 => assert_eq!(exit["signal"], 6, "{process:?}"),
            3 | 4 => assert_eq!(exit["errno"], 2, "{process:?}"),
            5 => drop(hob.wait_log(&format!("{name}.log"), &format!("this is {n}\n"))),
            6 => {
                let log = hob.wait_log(&format!("{name}.log"), "end\n");
                // Whose it is depends on who runs the test; all else is the contract.
                let ours = |line: &&str| !["user", "group id", "groups", "Cap"].iter().any(|w| line.starts_with(w));
                for line in golden.lines().filter(ours) {
                    assert!(log.lines().any(|l| l == line), "{line}: {log}");
                }
            }
            _ => assert!(lives(process.pid().expect("it runs"))),
        }
    }
}

#[test]
fn many_that_start_at_once_each_live_a_life_of_their_own() {
    let hob = all_kinds().boot();
    check_all_kinds(&hob);
    let sleeper = hob.running("p0");
    hob.hob(&["restart", "all"]);
    hob.running_again("p0", sleeper);
    check_all_kinds(&hob);
    hob.shutdown();
}

/// Containers with an old filter have no close_range, no unshare, or neither: then there are no launchers.
#[test]
fn many_start_also_where_a_filter_refuses_what_launchers_need() {
    for denied in ["436", "272", "436,272"] {
        let hob = all_kinds().under(&[prop(), "deny", denied]).boot();
        check_all_kinds(&hob);
        hob.shutdown();
    }
}

#[test]
fn a_stop_that_overtakes_many_starts_stops_each_of_them() {
    let mut yml = String::new();
    for n in 0..200 {
        yml += &format!("p{n}: {{command: '{{prop}} stamp {{home}}/stamps p{n}', autostart: false}}\n");
    }
    let hob = Home::with(&yml).boot();
    for _ in 0..5 {
        hob.hob(&["start", "--no-wait", "all"]);
        hob.ok(&["stop", "all"]);
        let left: Vec<_> = hob.status().into_iter().filter(|p| p.state() != "STOPPED").collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(hob.leftovers().iter().all(|(_, line)| !line.contains(" stamp ")), "{:?}", hob.leftovers());
    }
    hob.shutdown();
}

#[test]
fn many_starts_keep_the_order_of_their_priorities() {
    let mut yml = String::new();
    for n in 0..MANY {
        yml += &format!("p{n}: {{command: sleep 1000, priority: {}}}\n", (n * 7) % MANY);
    }
    let hob = Home::with(&yml).boot();
    // Pids count up, and begin anew at the maximum.
    let most: i32 = sh_ok("cat /proc/sys/kernel/pid_max").trim().parse().expect("a number");
    let since_hob = |n: usize| (hob.running(&format!("p{n}")) - hob.pid).rem_euclid(most);
    let mut pids: Vec<(i32, usize)> = (0..MANY).map(|n| (since_hob(n), (n * 7) % MANY)).collect();
    pids.sort_unstable();
    assert!(pids.is_sorted_by_key(|(_, priority)| *priority), "{pids:?}");
    hob.shutdown();
}

#[test]
fn many_probes_at_once_are_no_starts_for_a_launcher() {
    // Started in the same moment, their probes are due in the same moment.
    let processes: Vec<String> = (0..20)
        .map(|n| format!("p{n}: {{command: sleep 1000, startsecs: 0, health: {{exec: /bin/true, every: 0.2s}}}}"))
        .collect();
    let hob = Home::with(&processes.join("\n")).boot();
    for n in 0..20 {
        hob.running(&format!("p{n}"));
    }
    never_for(std::time::Duration::from_secs(2), "hob ends", || !hob.is_alive());
    assert!(hob.status().iter().all(|p| p.state() == "RUNNING" && p.restarts() == 0), "{:?}", hob.status());
    hob.shutdown();
}
