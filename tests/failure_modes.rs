//! The failure modes 1 to 8 of reference/peers.md §6; 9 to 15 are in `hostile`.
//!
//! | mode | proved by |
//! |---|---|
//! | 1 a dead daemon | here: killed at any moment under load, its leftovers as root and as an ordinary user, two on one state directory; `systemd` for the unit |
//! | 2 log pipes | here: a stopped daemon; `supervise::an_exit_is_decided_by_the_process_and_not_by_its_pipe`, `logs::a_logger_that_is_killed_is_replaced_and_no_program_notices`, `logs::raw_bytes_and_very_long_lines_pass_untouched`, `hostile` for a line of a gigabyte |
//! | 3 disks | here: read-only and back, a pipe and a file that may not change in the place of a log; `logs` for full, frozen and deleted |
//! | 4 survivors and wrong victims | `stop`: helpers of every kind, chains and swarms, what ignores TERM, what is stopped, a port; here: a stop beside a stranger with the same number |
//! | 5 lost exits | here: 500 deaths at once, SIGCHLD by hand; `pid1` for orphans, `hygiene` for SIGCHLD ignored |
//! | 6 restart storms | here |
//! | 7 pids used again | here; `pidproxy::a_pid_file_that_names_a_stranger_gets_no_signal` |
//! | 8 fork and exec fail | here: ETXTBSY, the limit of processes, of descriptors; `containers::at_the_limit_of_processes_a_start_is_tried_again_and_everything_else_goes_on`, `supervise` and `launch` for ENOENT, EACCES, ENOEXEC, users and directories, `hygiene::hob_itself_keeps_no_more_descriptors_after_a_thousand_lives` |

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::*;

/// Kills the daemon without a word and waits until it is gone.
fn kill_hard(mut hob: Hob) -> Home {
    hob.signal(Signal::SIGKILL);
    assert_eq!(hob.wait_end(), 128 + 9);
    hob.into_home()
}

/// How many processes of this test have this text in their words.
fn copies(home: &Home, text: &str) -> Vec<i32> {
    alive_with(&home.marker()).into_iter().filter(|(_, words)| words.contains(text)).map(|(pid, _)| pid).collect()
}

// ---------------------------------------------------------------- 1: a dead daemon

#[test]
fn mode_1_a_daemon_that_is_killed_under_load_is_followed_by_one_with_exactly_one_copy_of_each() {
    let mut yml = String::new();
    for n in 0..20 {
        yml += &format!("steady{n}: '{{prop}} stamp {{home}}/s tag-{n}-'\n");
        yml += &format!(
            "busy{n}: {{command: '{{prop}} flash {{home}}/f x 1 {}', restart_delay: 0.02, restart_delay_max: 0.05}}\n",
            n * 7
        );
    }
    let mut home = Home::with(&yml).settings("[defaults]\nstopwaitsecs = 2\n");
    for round in 0..8 {
        let hob = home.launch();
        // The first are killed while they start, the later ones in the middle of things.
        std::thread::sleep(Duration::from_millis(3 + round * round * 12));
        if round % 2 == 1 {
            let _ = hob.home.command(&["restart", "--no-wait", "all"]).output();
        }
        home = kill_hard(hob);
    }
    let hob = home.boot();
    for n in 0..20 {
        let pid = hob.running(&format!("steady{n}"));
        assert_eq!(copies(&hob.home, &format!("tag-{n}-")), [pid], "{}", hob.diary());
    }
    let running = hob.home.beside("state/running");
    assert_eq!(fs::read_dir(running).expect("the folder").count(), 1, "the files of the dead are gone");
    hob.shutdown();
}

fn what_a_killed_daemon_left_is_ended(as_nobody: bool) {
    let home = Home::with(
        "one: {command: '{prop} escape {home}/h sdtce {dir}', stopwaitsecs: 1}\n\
         two: '{prop} chain 1 {home}/lock {dir} 2000'\nthree: sleep 1000",
    );
    let hob = if as_nobody { home.run_as_nobody() } else { home }.boot();
    hob.wait_log("two.log", "chained");
    hob.running("three");
    let helper = || {
        let text = fs::read_to_string(hob.home.at("h")).ok()?;
        text.split(' ').nth(1)?.parse::<i32>().ok()
    };
    let helper = wait_for("the helper", helper);
    let before: Vec<i32> = ["one", "two", "three"].iter().map(|name| hob.running(name)).collect();
    let home = kill_hard(hob);
    assert!(before.iter().all(|pid| lives(*pid)) && lives(helper), "a killed hob takes nobody along");
    // Without the processes that held it up: what must be ended is ended although nobody wants it any more.
    home.write("dotcloud.yml", "www:\n  type: custom\n  processes:\n    three: sleep 1000\n");
    let hob = home.boot();
    let three = hob.running("three");
    for pid in before.iter().chain([&helper]) {
        assert!(!lives(*pid), "{pid} {:?}\n{}", cmdline(*pid), hob.diary());
    }
    assert!(hob.err().contains("a hob was killed and left"), "{}", hob.diary());
    let lock = fs::File::open(hob.home.at("lock")).expect("made by the chain");
    let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusiveNonblock);
    assert!(lock.is_ok(), "the chain has ended");
    assert!(lives(three));
    hob.shutdown();
}

#[test]
fn mode_1_what_a_killed_daemon_left_is_ended_by_the_next_one() {
    what_a_killed_daemon_left_is_ended(false);
}

#[test]
fn mode_1_what_an_ordinary_users_killed_daemon_left_is_ended_too() {
    if !need_all(&["root", "setpriv"]) {
        return;
    }
    what_a_killed_daemon_left_is_ended(true);
}

#[test]
fn mode_1_two_daemons_on_one_state_directory_leave_each_other_alone() {
    let first = Home::with("one: sleep 1000").boot();
    let one = first.running("one");
    let state = first.home.beside("state").display().to_string();
    let second = Home::with("two: sleep 1000").env("HOB_STATE_DIR", &state).boot();
    let two = second.running("two");
    let home = kill_hard(second);
    let third = home.boot();
    assert!(!lives(two), "{}", third.diary());
    third.running("two");
    assert_eq!(first.running("one"), one);
    third.shutdown();
    first.shutdown();
}

// ---------------------------------------------------------------- 2: log pipes

#[test]
fn mode_2_a_daemon_that_is_stopped_holds_no_writer_up() {
    let hob = Home::with("one: '{prop} count 400000 100 20'").boot();
    hob.wait_log("one.log", "numbered");
    hob.signal(Signal::SIGSTOP);
    let length = || fs::metadata(hob.log_path("one.log")).map_or(0, |meta| meta.len());
    let begin = length();
    // More than any pipe holds.
    wait_for("two megabytes in the log", || (length() > begin + (2 << 20)).then_some(()));
    hob.signal(Signal::SIGCONT);
    hob.ok(&["stop", "one"]);
    let log = hob.log("one.log");
    let (first, _) = check_numbered(&log);
    assert_eq!(first, 0);
    hob.shutdown();
}

// ---------------------------------------------------------------- 3: disks

#[test]
fn mode_3_a_log_disk_that_turns_read_only_is_told_holds_nobody_up_and_recovers() {
    if !need("root") {
        return;
    }
    let home = Home::with("one: '{prop} count 2000000 100 200'\ntwo: sleep 1000");
    let mount = Mount::tmpfs(&home.beside("log"), 65536);
    let hob = home.boot();
    hob.wait_log("one.log", "numbered");
    // Open files keep a file system writable, so the log is made anew while it is not.
    let at = mount.at.display().to_string();
    fs::rename(hob.log_path("one.log"), hob.log_path("old")).expect("our own file");
    sh_ok(&format!("mount -o remount,ro {at} || {{ mount --bind {at} {at} && mount -o remount,ro,bind {at}; }}"));
    hob.signal(Signal::SIGUSR2);
    hob.wait("one", "a trouble", |p| p.0["troubles"].to_string().contains("read-only"));
    let begin = Instant::now();
    hob.ok(&["restart", "two"]);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    sh_ok(&format!("mount -o remount,rw {at} 2>/dev/null; mount -o remount,rw,bind {at} 2>/dev/null; touch {at}/x"));
    hob.wait("one", "no trouble", |p| p.0["troubles"].as_array().is_none_or(|list| list.is_empty()));
    hob.ok(&["stop", "one"]);
    let all = fs::read_to_string(hob.log_path("old")).expect("there") + &hob.log("one.log");
    check_numbered(&all);
    hob.shutdown();
    sh(&format!("umount {at}"));
}

#[test]
fn mode_3_a_pipe_in_the_place_of_a_log_holds_nobody_up() {
    let home = Home::with("one: {command: '{prop} count 1000 100', on_full: drop_newest}\ntwo: '{prop} count 10'");
    sh_ok(&format!("mkfifo {}", home.beside("log/one.log").display()));
    let hob = home.boot();
    hob.running("one");
    hob.wait_log("two.log", "000000000009");
    let begin = Instant::now();
    hob.ok(&["restart", "two"]);
    hob.ok(&["stop", "one"]);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    hob.shutdown();
}

// ---------------------------------------------------------------- 5: lost exits

#[test]
fn mode_5_five_hundred_deaths_in_one_moment_are_each_told_with_their_status() {
    let mut yml = String::new();
    for n in 0..500 {
        yml += &format!("p{n}: {{command: '{{prop}} gate {{home}}/gate {}', autorestart: false}}\n", n % 200);
    }
    let home = Home::with(&yml);
    sh_ok(&format!("mkfifo {}", home.at("gate").display()));
    let gate = fs::OpenOptions::new().read(true).write(true).open(home.at("gate")).expect("a pipe");
    let hob = home.boot();
    wait_for("all of them", || hob.status().iter().all(|p| p.state() == "RUNNING").then_some(()));
    drop(gate);
    wait_for("every death", || hob.status().iter().all(|p| p.state() == "EXITED").then_some(()));
    for status in hob.status() {
        let n: u64 = status.0["process"].as_str().expect("a name")[1..].parse().expect("a number");
        assert_eq!(status.0["last_exit"]["code"], n % 200, "{status:?}");
    }
    assert!(children_of(hob.pid).iter().all(|c| c.1 != 'Z'), "no zombie");
    hob.shutdown();
}

#[test]
fn mode_5_sigchld_sent_by_hand_changes_nothing() {
    let hob = Home::with("one: sleep 1000").boot();
    let pid = hob.running("one");
    for _ in 0..200 {
        hob.signal(Signal::SIGCHLD);
    }
    assert_eq!(hob.running("one"), pid);
    assert_eq!(hob.process("one").restarts(), 0);
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
    hob.running_again("one", pid);
    hob.shutdown();
}

// ---------------------------------------------------------------- 6: restart storms

#[test]
fn mode_6_two_hundred_that_die_at_once_are_started_by_the_formula_and_cost_next_to_nothing() {
    let mut yml = String::new();
    for n in 0..200 {
        yml += &match n % 2 {
            0 => format!("p{n}: /bin/false\n"),
            _ => format!("p{n}: '{{prop}} flash {{home}}/stamps p{n} 1'\n"),
        };
    }
    let hob = Home::with(&yml).boot();
    let begin = Instant::now();
    let cost = cpu(hob.pid);
    std::thread::sleep(Duration::from_secs(9));
    let (spent, took) = (cpu(hob.pid) - cost, begin.elapsed());
    let all = hob.status();
    // Waits of 1, 2, 4, 8 s, each stretched by at most a half either way: after ten seconds three to five tries.
    for p in &all {
        assert!((2..=5).contains(&p.restarts()), "{p:?}");
        assert!(p.why().contains("try "), "the limit is visible: {p:?}");
    }
    // Some 900 starts of a build that is not optimised; one that spins takes all of it.
    assert!(spent < took / 10, "{spent:?} of {took:?}");
    let mut times: Vec<f64> = fs::read_to_string(hob.home.at("stamps"))
        .expect("stamps")
        .lines()
        .filter_map(|line| line.split(' ').nth(2)?.parse::<f64>().ok().map(|ns| ns / 1e9))
        .collect();
    times.sort_by(f64::total_cmp);
    // The third try of each comes 3 s after the first, give or take: they must not come together.
    let last = &times[times.len() - 100..];
    assert!(last[99] - last[0] > 0.5, "they start together: {last:?}");
    hob.shutdown();
}

// ---------------------------------------------------------------- 7: pids used again

#[test]
fn mode_7_a_stranger_who_has_got_the_pid_of_a_dead_process_is_not_signalled_by_its_stop() {
    if !need_all(&["root", "unshare", "nsenter"]) {
        return;
    }
    let home = Home::with("one: {command: '{prop} flash {home}/s one 0 100', autorestart: false, startsecs: 0}");
    let hob = home.under(&["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "--"]).boot();
    let init = children_of(hob.pid).first().expect("PID 1").0;
    hob.wait_state("one", "EXITED");
    let pid: i32 = hob.wait_file("s").split(' ').nth(1).expect("a pid").parse().expect("a number");
    // An orphan with that number, leader of a session: as a daemon that was started by `docker exec` would be.
    let line = format!(
        "for n in 1 2 3 4 5 6 7 8 9; do echo $(({pid} - 1)) > /proc/sys/kernel/ns_last_pid; \
         (exec setsid sleep 777 >/dev/null 2>&1 </dev/null) & sleep 0.05; \
         [ \"$(cat /proc/{pid}/comm 2>/dev/null)\" = sleep ] && exit 0; done; exit 1"
    );
    let ran =
        run(std::process::Command::new("nsenter").args(["-t", &init.to_string(), "-p", "-m", "--", "sh", "-c", &line]));
    assert_eq!(ran.code, 0, "{ran:?}");
    hob.ok(&["stop", "one"]);
    hob.ok(&["start", "one"]);
    hob.ok(&["stop", "one"]);
    let strangers: Vec<String> = tree_of(init).into_iter().filter(|p| lives(*p)).map(cmdline).collect();
    assert!(strangers.iter().any(|words| words == "sleep 777"), "{strangers:?}\n{}", hob.diary());
    kill(Pid::from_raw(init), Signal::SIGTERM).expect("PID 1 is there");
}

// ---------------------------------------------------------------- 8: fork and exec fail

#[test]
fn mode_8_a_program_that_is_being_written_is_tried_again() {
    let home = Home::with("one: {command: ~/program, restart_delay: 0.2, restart_delay_max: 0.2}");
    fs::copy(prop(), home.at("program")).expect("the home takes a file");
    fs::set_permissions(home.at("program"), fs::Permissions::from_mode(0o755)).expect("our own file");
    let writer = fs::OpenOptions::new().write(true).open(home.at("program")).expect("our own file");
    let hob = home.boot();
    let busy = hob.wait_state("one", "BACKOFF");
    assert!(busy.why().starts_with("cannot exec ~/program: text file busy"), "{busy:?}");
    assert_eq!(busy.0["last_exit"]["stage"], "exec");
    drop(writer);
    // Without words it says what it can do and ends with 2.
    hob.wait("one", "its own end", |p| p.last_exit().contains("code 2"));
    hob.shutdown();
}

#[test]
fn mode_8_at_the_limit_of_processes_of_a_user_a_start_waits_and_nothing_else_notices() {
    if !need_all(&["root", "setpriv", "prlimit"]) {
        return;
    }
    // A user of its own, whose processes nobody else counts.
    let home = Home::with(
        "steady: sleep 1000\nlate: {command: sleep 1001, autostart: false, restart_delay: 0.2, restart_delay_max: 0.2}",
    );
    sh_ok(&format!("chown -R 64999:64999 {}", home.marker()));
    let hob = home.under(&["setpriv", "--reuid", "64999", "--regid", "64999", "--clear-groups", "--"]).boot();
    let steady = hob.running("steady");
    let limit = |count: u32| {
        let user = "setpriv --reuid 64999 --regid 64999 --clear-groups";
        sh_ok(&format!("{user} -- prlimit --pid {} --nproc={count}:", hob.pid));
    };
    limit(1);
    hob.ok(&["start", "--no-wait", "late"]);
    let late = hob.wait_state("late", "BACKOFF");
    assert!(late.why().starts_with("cannot exec sleep: cannot fork: "), "{late:?}");
    assert_eq!(late.0["last_exit"]["stage"], "fork");
    assert_eq!(hob.running("steady"), steady);
    limit(500);
    hob.running("late");
    hob.shutdown();
}

#[test]
fn mode_8_without_descriptors_a_start_is_tried_again_and_everything_else_goes_on() {
    let mut yml = String::new();
    for n in 0..30 {
        yml += &format!("p{n}: sleep 1000\n");
    }
    let home = Home::with(&yml).settings("[defaults]\nrestart_delay = 0.2\nrestart_delay_max = 0.5\n");
    let hob = home.boot();
    let first = hob.running("p0");
    // Room for the planner and for the pipes of a few.
    let limit = |soft: usize| sh_ok(&format!("prlimit --pid {} --nofile={soft}:", hob.pid));
    limit(fd_count(hob.pid) + 20);
    let all = fs::read_to_string(hob.home.at("dotcloud.yml")).expect("our own file") + &more(30..60);
    hob.home.write("dotcloud.yml", &all);
    hob.signal(Signal::SIGHUP);
    wait_for("a start that says why", || hob.err().contains("too many open files").then_some(()));
    never_for(Duration::from_millis(500), "an end of hob or of a neighbour", || !hob.is_alive() || !lives(first));
    limit(2048);
    for n in 0..60 {
        hob.running(&format!("p{n}"));
    }
    assert_eq!(hob.running("p0"), first);
    hob.shutdown();
}

fn more(numbers: std::ops::Range<usize>) -> String {
    numbers.map(|n| format!("    p{n}: sleep 1000\n")).collect()
}
