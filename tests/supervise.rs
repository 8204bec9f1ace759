//! The life of processes as seen from outside: states, back-off, order, readiness, health, signals to hob.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::*;

/// The stamps of `prop stamp` and `prop flash`: (tag, pid, seconds).
fn stamps(hob: &Hob, file: &str) -> Vec<(String, i32, f64)> {
    let text = fs::read_to_string(hob.home.at(file)).unwrap_or_default();
    text.lines()
        .map(|l| {
            let w: Vec<&str> = l.split(' ').collect();
            (w[0].to_string(), w[1].parse().expect("a pid"), w[2].parse::<f64>().expect("ns") / 1e9)
        })
        .collect()
}

fn tags(hob: &Hob, file: &str) -> Vec<String> {
    stamps(hob, file).into_iter().map(|s| s.0).collect()
}

#[test]
fn status_tells_states_pids_and_its_exit_status_is_3_when_something_named_is_not_running() {
    let hob = Home::with("good: sleep 1000\nidle: {command: sleep 1000, autostart: false}").boot();
    let pid = hob.running("good");
    assert_eq!(cmdline(pid), "sleep 1000", "the pid is the program's own");
    assert_eq!(hob.process("idle").state(), "STOPPED");
    hob.hob(&["status", "good"]).expect(0).says("RUNNING").says(&pid.to_string());
    hob.hob(&["status", "idle"]).expect(3).says("STOPPED");
    hob.hob(&["status", "good", "idle"]).expect(3);
    hob.hob(&["status"]).says("www:good").says("www:idle");
    hob.shutdown();
}

#[test]
fn start_stop_and_restart_wait_for_the_outcome() {
    let hob = Home::with("one: sleep 1000\ntwo: sleep 1000").boot();
    let (one, two) = (hob.running("one"), hob.running("two"));
    hob.ok(&["stop", "one"]);
    assert!(!lives(one));
    assert_eq!(hob.process("one").state(), "STOPPED");
    hob.ok(&["stop", "one"]);
    hob.ok(&["start", "one"]);
    let again = hob.process("one");
    assert_eq!(again.state(), "RUNNING", "start waits until it runs");
    assert_ne!(again.pid(), Some(one));
    hob.ok(&["start", "one"]);
    assert_eq!(hob.process("one").pid(), again.pid(), "a second start changes nothing");
    hob.ok(&["restart", "one"]);
    assert_ne!(hob.running("one"), again.pid().expect("it ran"));
    assert_eq!(hob.running("two"), two, "the neighbour noticed nothing");
    hob.hob(&["stop", "thing"]).expect(1).says("thing");
    let begin = Instant::now();
    hob.ok(&["stop", "--no-wait", "all"]);
    assert!(begin.elapsed() < Duration::from_secs(5));
    hob.wait_state("one", "STOPPED");
    hob.wait_state("two", "STOPPED");
    hob.ok(&["start", "all"]);
    hob.running("one");
    hob.shutdown();
}

#[test]
fn signal_reaches_the_process_by_name() {
    let hob = Home::with("one: {prop} signals {home}/got").boot();
    hob.running("one");
    wait_for("the handlers", || fs::read_to_string(hob.home.at("got")).ok().filter(|t| t.contains("begin")));
    hob.ok(&["signal", "USR1", "one"]);
    hob.ok(&["signal", "HUP", "www:one"]);
    wait_for("both signals", || {
        let got = fs::read_to_string(hob.home.at("got")).unwrap_or_default();
        (got.contains("USR1\n") && got.contains("HUP\n")).then_some(())
    });
    hob.hob(&["signal", "NONSENSE", "one"]).expect(2).says("NONSENSE");
    hob.ok(&["stop", "one"]);
    hob.hob(&["signal", "USR1", "one"]).expect(3).says("not running");
    hob.shutdown();
}

#[test]
fn a_missing_program_is_fatal_at_once_with_the_reason() {
    let hob = Home::new("www:\n  type: custom\n  process: ~/missing\n").boot();
    let fatal = hob.wait_state("www", "FATAL");
    let why = format!("{} {}", fatal.why(), fatal.last_exit());
    assert!(why.contains("no such file") && why.contains("missing"), "{fatal:?}");
    assert!(!why.contains("127"), "{fatal:?}");
    let many: Vec<&str> = ["status"].into_iter().chain(["www"; 700]).collect();
    assert_eq!(hob.hob(&many).expect(3).out.lines().count(), 2);
    let ran = hob.hob(&["status", "www"]).expect(3);
    assert!(ran.out.contains("no such file"), "{ran:?}");
    never_for(Duration::from_millis(1500), "another try", || hob.process("www").restarts() > 0);
    let ran = hob.hob(&["start", "www"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.both().contains("no such file"), "{ran:?}");
    hob.shutdown();
}

#[test]
fn an_exec_failure_behind_a_profile_is_reported_as_one() {
    let hob = Home::with("one: ~/missing\ntwo: ~/missing $HOME").file("profile", "export A=1\n").boot();
    for name in ["one", "two"] {
        let fatal = hob.wait_state(name, "FATAL");
        let why = format!("{} {}", fatal.why(), fatal.last_exit());
        assert!(why.contains("no such file"), "{name}: {fatal:?}");
    }
    hob.shutdown();
}

#[test]
fn a_start_that_fails_names_the_command_the_step_and_what_the_step_was_about() {
    let home = Home::with(
        "missing: ~/missing -x\nfolder: {command: ~/good, directory: ~/no/where}\nlocked: ~/locked\n\
         script: ~/script\nforeign: ~/foreign",
    )
    .script("foreign", "\x7fELF\x02\x01\x01\0 of another machine\n")
    .script("good", "#!/bin/sh\nexec sleep 1000\n")
    .script("script", "#!/no/such/shell\n");
    fs::create_dir(home.at("locked")).expect("a fresh name");
    let dir = home.at("no/where").display().to_string();
    let hob = home.boot();
    let folder = format!("cannot exec ~/good: cannot change to {dir}: no such file or directory (stage chdir)");
    for (name, text, stage, errno) in [
        ("missing", "cannot exec ~/missing: no such file or directory", "exec", nix::errno::Errno::ENOENT),
        ("folder", folder.as_str(), "chdir", nix::errno::Errno::ENOENT),
        ("locked", "cannot exec ~/locked: permission denied", "exec", nix::errno::Errno::EACCES),
        ("foreign", "cannot exec ~/foreign: exec format error", "exec", nix::errno::Errno::ENOEXEC),
        (
            "script",
            "cannot exec ~/script: cannot exec the interpreter it names: no such file or directory (stage interpreter)",
            "interpreter",
            nix::errno::Errno::ENOENT,
        ),
    ] {
        let fatal = hob.wait_state(name, "FATAL");
        assert_eq!(fatal.why(), text);
        assert_eq!(fatal.last_exit(), text);
        assert_eq!(fatal.0["last_exit"]["stage"], stage, "{fatal:?}");
        assert_eq!(fatal.0["last_exit"]["errno"], errno as i32, "{fatal:?}");
        hob.hob(&["status", name]).expect(3).says(text);
        hob.hob(&["why", name]).says(text);
        hob.hob(&["start", name]).expect(1).says(text);
    }
    hob.shutdown();
}

#[test]
fn root_without_the_capability_cannot_become_another_user_and_that_is_said() {
    if !need_all(&["root", "setpriv"]) {
        return;
    }
    let hob = Home::with("one: {command: sleep 1000, user: daemon}")
        .under(&["setpriv", "--bounding-set", "-setuid,-setgid", "--"])
        .boot();
    let why = "cannot exec sleep: cannot become user daemon: operation not permitted (stage setgroups)";
    assert_eq!(hob.wait_state("one", "FATAL").why(), why);
    hob.shutdown();
}

#[test]
fn a_stable_process_that_dies_restarts_at_once() {
    let hob = Home::with("one: {command: '{prop} stamp {home}/s one', startsecs: 0.2}").boot();
    let mut pid = hob.running("one");
    for round in 1..=3 {
        // Once it has been RUNNING: no waiting before the next run.
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
        let killed = Instant::now();
        wait_for("the next run's first instruction", || (stamps(&hob, "s").len() > round).then_some(()));
        assert!(killed.elapsed() < Duration::from_millis(900), "a restart took {:?}", killed.elapsed());
        pid = hob.running_again("one", pid);
    }
    let now = hob.process("one");
    assert_eq!(now.restarts(), 3, "{now:?}");
    assert!(now.last_exit().contains("SIGKILL"), "{now:?}");
    hob.shutdown();
}

#[test]
fn a_process_that_dies_young_backs_off_longer_each_time_and_never_gives_up() {
    let hob =
        Home::with("one: {command: '{prop} flash {home}/s one 1', restart_delay: 0.2, restart_delay_max: 0.8}").boot();
    wait_for("six tries", || (stamps(&hob, "s").len() >= 6).then_some(()));
    let times: Vec<f64> = stamps(&hob, "s").into_iter().map(|s| s.2).collect();
    let gaps: Vec<f64> = times.windows(2).map(|w| w[1] - w[0]).collect();
    // Doubling from 0.2 to 0.8 with a jitter of at most a half either way.
    assert!((0.09..0.7).contains(&gaps[0]), "{gaps:?}");
    assert!(gaps[2] > 0.35 && gaps[3] > 0.35 && gaps[4] > 0.35, "{gaps:?}");
    assert!(gaps[1..].iter().all(|g| *g < 2.5), "{gaps:?}");
    let now = hob.wait_state("one", "BACKOFF");
    assert!(now.last_exit().contains("code 1"), "{now:?}");
    assert!(now.0["next_try"].is_number(), "{now:?}");
    hob.shutdown();
}

#[test]
fn startretries_ends_in_fatal_and_a_start_begins_with_a_clean_back_off() {
    let hob = Home::with(
        "one: {command: '{prop} flash {home}/s one 1', startretries: 2, restart_delay: 0.1}\n\
         none: {command: '{prop} flash {home}/n none 1', startretries: 0}",
    )
    .boot();
    hob.wait_state("one", "FATAL");
    assert_eq!(stamps(&hob, "s").len(), 3, "a first try and two retries");
    hob.wait_state("none", "FATAL");
    assert_eq!(stamps(&hob, "n").len(), 1);
    hob.hob(&["start", "one"]).expect(1).says("code 1");
    hob.wait_state("one", "FATAL");
    assert_eq!(stamps(&hob, "s").len(), 6);
    hob.shutdown();
}

#[test]
fn autorestart_never_and_unexpected_end_in_exited() {
    let hob = Home::with(
        "never: {command: '{prop} flash {home}/never x 1 300', autorestart: false, startsecs: 0.1}\n\
         early: {command: '{prop} flash {home}/early x 1', autorestart: false}\n\
         expected: {command: '{prop} flash {home}/expected x 2 300', autorestart: unexpected, exitcodes: [0, 2], startsecs: 0.1}\n\
         unexpected: {command: '{prop} flash {home}/unexpected x 3 300', autorestart: unexpected, startsecs: 0.1}",
    )
    .boot();
    for (name, text) in [("never", "code 1"), ("early", "code 1"), ("expected", "code 2")] {
        let end = hob.wait_state(name, "EXITED");
        assert!(end.last_exit().contains(text), "{end:?}");
    }
    wait_for("an unexpected exit to be restarted", || (stamps(&hob, "unexpected").len() > 2).then_some(()));
    for name in ["never", "early", "expected"] {
        assert_eq!(stamps(&hob, name).len(), 1, "{name}");
    }
    hob.shutdown();
}

#[test]
fn what_is_after_a_oneshot_waits_for_its_good_end() {
    let hob = Home::with(
        "good: {command: '{prop} flash {home}/s good 0 400', oneshot: true}\n\
         follows: {command: '{prop} stamp {home}/s follows', after: [good]}\n\
         bad: {command: '{prop} flash {home}/b bad 1', oneshot: true}\n\
         never: {command: '{prop} stamp {home}/b never', after: [bad]}",
    )
    .boot();
    hob.running("follows");
    let s = stamps(&hob, "s");
    assert_eq!(s.iter().map(|s| s.0.as_str()).collect::<Vec<_>>(), ["good", "follows"]);
    assert!(s[1].2 - s[0].2 > 0.35, "{s:?}");
    hob.wait_state("good", "EXITED");
    hob.wait_state("bad", "EXITED");
    never_for(Duration::from_millis(700), "a start after a failed oneshot", || {
        tags(&hob, "b").contains(&"never".into())
    });
    let waiting = hob.process("never");
    assert!(waiting.0["waits_for"].to_string().contains("bad"), "{waiting:?}");
    hob.shutdown();
}

#[test]
fn priority_orders_starts_and_the_stop_is_the_reverse() {
    let hob = Home::with(
        "late: {command: '{home}/proc late', priority: 30}\nfirst: {command: '{home}/proc first', priority: 10}\n\
         middle: {command: '{home}/proc middle', priority: 20}",
    )
    .script("proc", "#!/bin/bash\necho start $1 >> ~/order\ntrap 'echo stop $1 >> ~/order; exit' TERM\nwhile :; do sleep 0.05; done\n")
    .boot();
    for name in ["first", "middle", "late"] {
        hob.running(name);
    }
    let pids: Vec<i32> = ["first", "middle", "late"].iter().map(|n| hob.process(n).pid().expect("runs")).collect();
    assert!(pids[0] < pids[1] && pids[1] < pids[2], "spawned in the order of priority: {pids:?}");
    hob.shutdown();
}

#[test]
fn after_waits_for_readiness_and_the_stop_is_the_reverse() {
    let port = free_port();
    let hob = Home::with(&format!(
        "web: {{command: '{{prop}} stamp {{home}}/s web', after: [db]}}\n\
         db: {{command: '{{home}}/db', ready: {{tcp: '127.0.0.1:{port}', within: 20s}}, stopwaitsecs: 10}}"
    ))
    .script("db", &format!("#!/bin/bash\ntrap 'echo db-stop 1 $(date +%s%N) >> ~/s; kill %1; exit' TERM\n{{prop}} tcp {port} 700 & \nwait\n"))
    .boot();
    never_for(Duration::from_millis(300), "a start before what it is after is ready", || !stamps(&hob, "s").is_empty());
    assert!(!hob.process("db").ready());
    let web = hob.running("web");
    assert!(hob.process("db").ready());
    assert!(accepts(port));
    // The stop: web first, and db only once web is gone.
    let hob_pid = hob.pid;
    let ran = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            wait_for("db's stop", || tags(&hob, "s").contains(&"db-stop".into()).then_some(()));
            !lives(web)
        });
        let ran = hob.hob(&["shutdown"]);
        assert!(watch.join().expect("watched"), "db was told to stop while web was there");
        ran
    });
    assert_eq!(ran.code, 0, "{ran:?}");
    wait_for("the end", || (!lives(hob_pid)).then_some(()));
}

#[test]
fn a_cycle_of_after_is_refused() {
    let home = Home::with("a: {command: sleep 1, after: [b]}\nb: {command: sleep 1, after: [a]}");
    let ran = home.boot_fails().expect(2);
    assert!(ran.err.contains("after") && ran.err.contains('a') && ran.err.contains('b'), "{ran:?}");
}

#[test]
fn readiness_by_http_exec_and_notify() {
    let port = free_port();
    let hob = Home::with(&format!(
        "http: {{command: '{{prop}} http {port} 300 {{home}}/code', ready: {{http: 'http://127.0.0.1:{port}/', within: 20s}}}}\n\
         exec: {{command: sh -c 'sleep 0.4; touch ~/flag; exec sleep 1000', ready: {{exec: 'test -e ~/flag', within: 20s}}}}\n\
         notify: {{command: '{{prop}} notify 400 READY=1', ready: {{notify: true, within: 20s}}}}\n\
         silent: {{command: '{{prop}} notify 60000 READY=1', ready: {{notify: true, within: 500ms}}, restart_delay: 30s}}\n\
         sick: {{command: '{{prop}} http {sick} 0 {{home}}/sick', ready: {{http: 'http://127.0.0.1:{sick}/', within: 600ms}}, restart_delay: 30s}}",
        sick = free_port()
    ))
    .file("sick", "500\n")
    .boot();
    for name in ["http", "exec", "notify"] {
        let now = hob.wait_state(name, "RUNNING");
        assert!(now.ready(), "{now:?}");
    }
    assert!(hob.home.at("flag").exists());
    for name in ["silent", "sick"] {
        let late = hob.wait_state(name, "BACKOFF");
        assert!(late.why().contains("ready") || late.why().contains("within"), "{late:?}");
        assert!(late.pid().is_none(), "a start that takes too long is stopped: {late:?}");
    }
    hob.shutdown();
}

#[test]
fn a_process_that_fails_its_health_probe_is_restarted() {
    let port = free_port();
    let hob = Home::with(&format!(
        "web: {{command: '{{prop}} http {port} 0 {{home}}/code', startsecs: 0.1,\n  \
         health: {{http: 'http://127.0.0.1:{port}/', every: 200ms, failures: 2, timeout: 1s}}}}"
    ))
    .file("code", "200\n")
    .boot();
    let pid = hob.running("web");
    never_for(Duration::from_millis(900), "a restart while healthy", || hob.process("web").pid() != Some(pid));
    fs::write(hob.home.at("code"), "503\n").expect("our own file");
    wait_for("the old run's end", || (!lives(pid)).then_some(()));
    fs::write(hob.home.at("code"), "404\n").expect("our own file");
    let next = hob.running_again("web", pid);
    never_for(Duration::from_millis(700), "a restart at 404, which is below 500", || {
        hob.process("web").pid() != Some(next)
    });
    fs::write(hob.home.at("code"), "hang\n").expect("our own file");
    wait_for("the end of one that hangs", || (!lives(next)).then_some(()));
    fs::write(hob.home.at("code"), "200\n").expect("our own file");
    hob.running_again("web", next);
    hob.shutdown();
}

#[test]
fn umask_directory_environment_and_limits_of_a_process() {
    let hob = Home::with(
        "one:\n  command: ~/show\n  umask: '027'\n  directory: ~/work\n  environment: {MODE: fast, N: 3}\n  \
         nofile: 321\n  nice: 5\n  oom_score_adj: 300",
    )
    .script(
        "show",
        "#!/bin/bash\necho umask $(umask)\npwd\necho $MODE $N\necho nofile $(ulimit -Sn) $(ulimit -Hn)\n\
         echo nice $(nice)\necho oom $(cat /proc/self/oom_score_adj)\nexec sleep 1000\n",
    )
    .file("work/keep", "")
    .boot();
    let log = hob.wait_log("one.log", "oom ");
    for line in ["umask 0027", "fast 3", "nofile 321 321", "nice 5", "oom 300"] {
        assert!(log.lines().any(|l| l == line), "{line}: {log}");
    }
    assert!(log.contains(&format!("{}\n", hob.home.at("work").display())), "{log}");
    hob.shutdown();
}

#[test]
fn a_limit_that_may_not_be_set_is_a_warning_about_that_process_only() {
    let hob =
        Home::with("one: {command: sleep 1000, oom_score_adj: -900}\ntwo: {command: sleep 1000, nofile: 99999999}")
            .boot();
    hob.running("one");
    hob.running("two");
    assert!(hob.is_alive());
    hob.shutdown();
}

#[test]
fn exit_when_all_exited_ends_hob_with_the_status_that_decided() {
    for (code, status) in [(0, 0), (7, 7)] {
        let mut hob =
            Home::with(&format!("one: {{command: '{{prop}} flash {{home}}/s one {code} 200', autorestart: false}}"))
                .settings("exit_when = \"all-exited\"\n")
                .launch();
        assert_eq!(hob.wait_end(), status, "{}", hob.diary());
        hob.nothing_is_left();
    }
}

#[test]
fn exit_when_any_fatal_stops_the_others_in_order_and_ends_with_a_failure() {
    let mut hob = Home::with(
        "good: sleep 1000\nbad: {command: '{prop} flash {home}/s bad 9', startretries: 1, restart_delay: 0.1}",
    )
    .settings("exit_when = \"any-fatal\"\n")
    .launch();
    assert_eq!(hob.wait_end(), 9, "{}", hob.diary());
    hob.nothing_is_left();
}

#[test]
fn term_int_and_quit_begin_an_orderly_shutdown() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let mut hob = Home::with("one: {prop} onterm 3\ntwo: sleep 1000").boot();
        hob.wait_log("one.log", "waiting");
        hob.signal(signal);
        assert_eq!(hob.wait_end(), 0, "{signal}\n{}", hob.diary());
        hob.nothing_is_left();
        assert_eq!(check_numbered(hob.log("one.log").strip_prefix("waiting\n").expect("first line")), (0, 2));
        assert!(!hob.home.beside("hob.sock").exists(), "the socket goes with it");
    }
}

#[test]
fn a_second_term_shortens_the_grace_to_a_second() {
    let mut hob = Home::with("one: {command: '{prop} stubborn 3 {dir}', stopwaitsecs: 300}").boot();
    hob.wait_log("one.log", "stubborn");
    hob.signal(Signal::SIGTERM);
    never_for(Duration::from_millis(600), "an end within the grace", || !hob.is_alive());
    hob.signal(Signal::SIGTERM);
    let begin = Instant::now();
    hob.wait_end();
    assert!(begin.elapsed() < Duration::from_secs(6), "{:?}", begin.elapsed());
    hob.nothing_is_left();
}

#[test]
fn relayed_signals_reach_the_named_processes_and_others_are_ignored() {
    let hob = Home::with("one: {prop} signals {home}/one\ntwo: {prop} signals {home}/two")
        .settings("[relay_signals]\nUSR1 = [\"one\"]\nALRM = [\"two\"]\n40 = [\"two\"]\n")
        .boot();
    for name in ["one", "two"] {
        wait_for("handlers", || fs::read_to_string(hob.home.at(name)).ok().filter(|t| t.contains("begin")));
    }
    hob.signal(Signal::SIGUSR1);
    // What nobody has asked for is ignored, also where the kernel would end any other process for it.
    for signal in [Signal::SIGWINCH, Signal::SIGIO, Signal::SIGPWR, Signal::SIGVTALRM, Signal::SIGXFSZ] {
        hob.signal(signal);
    }
    hob.signal(Signal::SIGALRM);
    wait_for("the other one", || fs::read_to_string(hob.home.at("two")).ok().filter(|t| t.contains("ALRM\n")));
    sh_ok(&format!("kill -40 {0} && kill -41 {0}", hob.pid));
    wait_for("a real-time signal", || fs::read_to_string(hob.home.at("two")).ok().filter(|t| t.contains("RT\n")));
    wait_for("the relayed signal", || fs::read_to_string(hob.home.at("one")).ok().filter(|t| t.contains("USR1")));
    assert!(!fs::read_to_string(hob.home.at("two")).expect("there").contains("USR1"));
    assert!(hob.is_alive());
    hob.shutdown();
}

#[test]
fn orphans_are_reaped_at_once_also_when_hob_is_not_pid_1() {
    let hob = Home::with("one: {prop} orphans 400").boot();
    hob.wait_log("one.log", "done");
    wait_within(Duration::from_secs(3), "no zombie is left", || {
        children_of(hob.pid).iter().all(|c| c.1 != 'Z').then_some(())
    });
    hob.shutdown();
}

#[test]
fn an_exit_is_decided_by_the_process_and_not_by_its_pipe() {
    // The helper holds stdout open for long; the main process ends and is restarted all the same.
    let hob = Home::with(
        "one: {command: '{prop} escape {home}/h s {dir}', autorestart: false, startsecs: 0}\n\
         two: {command: '{prop} escape {home}/h2 sx {dir}', autorestart: false, startsecs: 0}",
    )
    .boot();
    hob.running("one");
    let begin = Instant::now();
    hob.wait_state("two", "EXITED");
    assert!(begin.elapsed() < Duration::from_secs(5));
    hob.shutdown();
}

#[test]
fn drain_marks_not_ready_before_the_stop_signal() {
    let hob = Home::with("one: {command: '{prop} signals {home}/got', drain: 700ms}").boot();
    hob.running("one");
    assert!(hob.process("one").ready());
    let begin = Instant::now();
    hob.ok(&["stop", "--no-wait", "one"]);
    wait_for("not ready", || (!hob.process("one").ready()).then_some(()));
    hob.wait_state("one", "STOPPED");
    assert!(begin.elapsed() > Duration::from_millis(600), "{:?}", begin.elapsed());
    hob.shutdown();
}

#[test]
fn events_tells_each_change_as_a_json_line() {
    let hob = Home::with("one: sleep 1000").boot();
    let pid = hob.running("one");
    let events = hob.background(&["events", "-f"], "events");
    std::thread::sleep(Duration::from_millis(300));
    hob.ok(&["restart", "one"]);
    hob.running_again("one", pid);
    let text = events.wait_text("\"to\":\"RUNNING\"");
    let lines: Vec<serde_json::Value> =
        text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect();
    let to: Vec<&str> =
        lines.iter().filter(|l| l["name"] == "www:one").map(|l| l["to"].as_str().unwrap_or("")).collect();
    assert!(to.ends_with(&["STOPPING", "STOPPED", "STARTING", "RUNNING"]), "{to:?}");
    drop(events);
    hob.shutdown();
}

#[test]
fn many_processes_with_a_slow_stop_stop_together() {
    let mut yml = String::new();
    for n in 0..100 {
        yml += &format!("p{n}: sh -c 'trap \"sleep 1; exit\" TERM; while :; do sleep 0.1; done'\n");
    }
    let hob = Home::with(&yml).boot();
    wait_for("all of them", || hob.status().iter().all(|p| p.state() == "RUNNING").then_some(()));
    let begin = Instant::now();
    hob.shutdown();
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

#[test]
fn a_process_with_more_memory_than_its_limit_is_restarted_with_all_that_it_started() {
    // Neither the shell nor one of the two is over the limit, but all of them together are.
    let hold = "python3 -c 'import time; held = b\"x\" * 40_000_000; time.sleep(1000)'";
    let hob = Home::with("one: {command: '{home}/two', memory_limit: 70MB, startsecs: 0}\nsmall: {command: sleep 1000, memory_limit: 70MB}")
        .script("two", &format!("#!/bin/sh\ntest -e \"$HOME/again\" && exec sleep 1000\ntouch \"$HOME/again\"\n{hold} &\n{hold}\n"))
        .boot();
    let (one, small) = (hob.running("one"), hob.running("small"));
    hob.running_again("one", one);
    let err = hob.err();
    assert!(err.contains("www:one: restarts for its memory: ") && err.contains(" MB, its limit is 70.0 MB"), "{err}");
    assert_eq!(hob.process("small").pid(), Some(small));
    let story = hob.ok(&["why", "one"]).out;
    assert!(story.contains("last exit  ") && story.contains(", memory: "), "{story}");
    hob.shutdown();
}
