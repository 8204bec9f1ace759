//! What a supervisord.conf may say to hob and to no other supervisord: what its users have asked for.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::supervisord::*;
use crate::support::{lives, need, never_for, sh_ok, wait_for};

#[test]
fn a_program_waits_for_another_to_be_ready_and_is_restarted_when_it_is_not_well() {
    let dir = tempfile::tempdir().expect("a folder");
    let (open, sick) = (dir.path().join("open"), dir.path().join("sick"));
    let daemon = Supervisord::start(&format!(
        "[program:web]\ncommand=/bin/cat\nafter=db\nstartsecs=0\n\
         [program:db]\ncommand=/bin/cat\nready_exec=test -e {open}\nready_within=60s\n\
         health_exec=test ! -e {sick}\nhealth_every=100ms\nhealth_failures=2\n",
        open = open.display(),
        sick = sick.display()
    ));
    daemon.wait_state("db", "STARTING");
    assert_eq!(daemon.state("web"), "STOPPED");
    fs::write(&open, "").expect("written");
    daemon.wait_state("web", "RUNNING");
    assert_eq!(daemon.state("db"), "RUNNING");
    let before = daemon.pid("db");
    fs::write(&sick, "").expect("written");
    wait_for("another db", || {
        let pid = daemon.pid("db");
        (pid != before && pid != "0" && !pid.is_empty()).then_some(())
    });
    fs::remove_file(&sick).expect("there");
    daemon.wait_state("db", "RUNNING");
}

#[test]
fn logs_are_dressed_and_compressed_as_a_program_asks() {
    let daemon = Supervisord::start(
        "[supervisord]\ncreate_log_dirs=true\n[program:json]\ncommand=/bin/sh -c \"echo 'say \\\"hi\\\"'; echo oops >&2; printf open; sleep 0.1\"\n\
         autorestart=false\nstartsecs=0\nlog_format=json\nstdout_logfile=%(here)s/json.log\n\
         stderr_logfile=%(here)s/json.err\n\
         [program:plain]\ncommand=/bin/sh -c \"echo one; echo two; exec sleep 1000\"\ntimestamps=true\n\
         log_prefix=true\nstdout_logfile=%(here)s/logs/plain.log\n\
         [program:big]\ncommand=/bin/sh -c \"yes 0123456789 | head -c 100000; exec sleep 1000\"\n\
         log_compress=gzip\nstdout_logfile=%(here)s/big.log\nstdout_logfile_maxbytes=20000\n",
    );
    daemon.wait_state("json", "EXITED");
    let text = wait_for("all of it", || Some(daemon.file("json.log")).filter(|text| text.lines().count() == 2));
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&lines[0]["message"], &lines[1]["message"]), (&"say \"hi\"".into(), &"open".into()));
    assert_eq!((&lines[0]["name"], &lines[0]["stream"]), (&"json".into(), &"stdout".into()));
    assert!(lines[0]["time"].as_str().is_some_and(|time| time.len() == 24 && time.ends_with('Z')), "{text}");
    wait_for("stderr", || daemon.file("json.err").contains("\"stream\":\"stderr\",\"message\":\"oops\"").then_some(()));
    let plain = wait_for("both lines", || Some(daemon.file("logs/plain.log")).filter(|text| text.lines().count() == 2));
    assert!(plain.lines().all(|line| line[24..].starts_with(" plain | ")), "{plain}");
    let packed = |n: u32| daemon.dir.path().join(format!("big.log.{n}.gz"));
    wait_for("four compressed files", || {
        let plain = (1..9).any(|n| daemon.dir.path().join(format!("big.log.{n}")).exists());
        ((1..=4).all(|n| packed(n).exists()) && !plain).then_some(())
    });
    let all: String = (1..=4).rev().map(|n| sh_ok(&format!("gzip -dc {}", packed(n).display()))).collect();
    assert_eq!(
        all + &daemon.file("big.log"),
        "0123456789\n".repeat(100_000 / 11) + "0123456789\n".get(..10).unwrap_or("")
    );
}

#[test]
fn a_program_that_takes_too_much_memory_is_restarted() {
    if !need("python3") {
        return;
    }
    let script = "import os, sys, time; os.path.exists(sys.argv[1]) or (open(sys.argv[1], 'w'), [b'x' * 80_000_000]); \
                  held = b'x' * (1 if sys.argv[2] == os.environ.get('OFF') else 80_000_000); time.sleep(1000)";
    let daemon = Supervisord::start(&format!(
        "[program:fat]\ncommand=python3 -c \"{script}\" %(here)s/seen big\nmemory_limit=50MB\nstartsecs=0\n\
         [program:slim]\ncommand=python3 -c \"{script}\" %(here)s/seen2 big\nmemory_limit=500MB\nstartsecs=0\n"
    ));
    daemon.wait_state("slim", "RUNNING");
    let (slim, fat) = (daemon.pid("slim"), daemon.pid("fat"));
    wait_for("a restart", || daemon.log().contains("fat: restarts for its memory: ").then_some(()));
    wait_for("another one", || (daemon.pid("fat") != fat && daemon.state("fat") == "RUNNING").then_some(()));
    assert!(daemon.log().contains("MB, its limit is 50.0 MB"), "{}", daemon.log());
    assert_eq!(daemon.pid("slim"), slim);
}

#[test]
fn the_daemon_ends_with_its_program_where_that_is_asked_for() {
    for (when, programs, status) in [
        (
            "any-fatal",
            "[program:a]\ncommand=/bin/sleep 1000\n[program:b]\ncommand=/bin/sh -c \"exit 7\"\nstartretries=0\n",
            7,
        ),
        // A listener only watches the others.
        (
            "all-exited",
            "[program:a]\ncommand=/bin/sh -c \"exit 3\"\nstartsecs=0\nautorestart=false\n\
             [eventlistener:l]\ncommand=/bin/cat\nevents=PROCESS_STATE\n",
            3,
        ),
    ] {
        let (dir, links) = (tempfile::tempdir().expect("a folder"), links());
        write_conf(dir.path(), programs);
        let text = fs::read_to_string(dir.path().join("s.conf")).expect("there");
        fs::write(
            dir.path().join("s.conf"),
            text.replace("[supervisord]\n", &format!("[supervisord]\nexit_when={when}\n")),
        )
        .expect("written");
        let mut daemon = Command::new(links.path().join("supervisord"))
            .args(["-n", "-c"])
            .arg(dir.path().join("s.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("supervisord starts");
        let ended = wait_for("its end", || daemon.try_wait().expect("our child"));
        assert_eq!(ended.code(), Some(status), "{when}");
    }
}

#[test]
fn a_oneshot_is_started_once_it_has_done_its_work_and_what_is_after_it_waits() {
    let daemon = Supervisord::start(
        "[program:migrate]\ncommand=/bin/sh -c \"sleep 0.3; echo done > %(here)s/migrated\"\noneshot=true\n\
         [program:web]\ncommand=/bin/sh -c \"cat %(here)s/migrated; exec sleep 1000\"\nafter=migrate\n\
         stdout_logfile=%(here)s/web.log\n",
    );
    daemon.wait_state("web", "RUNNING");
    assert_eq!((daemon.state("migrate"), daemon.file("web.log")), ("EXITED".into(), "done\n".into()));
    assert_eq!(daemon.ctl(&["start", "migrate"]), "migrate: started\n");
}

#[test]
fn a_configuration_is_tested_without_starting_anything() {
    let (dir, links) = (tempfile::tempdir().expect("a folder"), links());
    let test = || {
        let out = Command::new(links.path().join("supervisord"))
            .args(["--test", "-c"])
            .arg(dir.path().join("s.conf"))
            .output();
        let out = out.expect("supervisord runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&dir.path().display().to_string(), "HERE");
        (out.status.code(), text(&out.stdout), text(&out.stderr))
    };
    write_conf(dir.path(), CAT);
    assert_eq!(test(), (Some(0), "HERE/s.conf: good, 1 processes in 1 groups\n".into(), String::new()));
    write_conf(dir.path(), "[program:a]\ncommand=/bin/cat\nstartsecs=soon\nready_tpc=1\n[program:b]\n");
    let (status, out, err) = test();
    assert_eq!((status, out.as_str()), (Some(2), ""));
    assert!(err.contains("HERE/s.conf:13:1: invalid literal for int() with base 10: 'soon'"), "{err}");
    assert!(err.contains("program section program:b does not specify a command"), "{err}");
    assert!(!dir.path().join("s.pid").exists() && !dir.path().join("s.sock").exists());
}

fn workers(count: u32, command: &str) -> String {
    format!(
        "[supervisord]\nstate_dir=%(here)s/state\n[program:w]\ncommand={command}\nnumprocs={count}\nstartsecs=0\n\
         process_name=%(program_name)s_%(process_num)02d\n[program:other]\ncommand=/bin/sleep 1000\nstartsecs=0\n"
    )
}

#[test]
fn another_number_of_processes_leaves_those_that_run_alone() {
    let daemon = Supervisord::start(&workers(2, "/bin/cat"));
    daemon.wait_state("w:w_01", "RUNNING");
    let (first, second, other) = (daemon.pid("w:w_00"), daemon.pid("w:w_01"), daemon.pid("other"));
    write_conf(daemon.dir.path(), &workers(3, "/bin/cat"));
    assert_eq!(daemon.ctl(&["reread"]), "w: changed\n");
    assert_eq!(daemon.ctl(&["update"]), "w: stopped\nw: updated process group\n");
    daemon.wait_state("w:w_02", "RUNNING");
    assert_eq!(
        (daemon.pid("w:w_00"), daemon.pid("w:w_01"), daemon.pid("other")),
        (first.clone(), second, other.clone())
    );
    // One less than there were, and one that a person has stopped stays so.
    daemon.ctl(&["stop", "w:w_01"]);
    write_conf(daemon.dir.path(), &workers(2, "/bin/cat"));
    assert_eq!(daemon.ctl(&["update", "w"]), "w: stopped\nw: updated process group\n");
    assert!(daemon.ctl(&["status", "w:w_02"]).contains("no such process"));
    assert_eq!((daemon.pid("w:w_00"), daemon.state("w:w_01")), (first.clone(), "STOPPED".into()));
    assert_eq!(daemon.ctl(&["update"]), "", "nothing more to do");
    // Another command is another process for all.
    write_conf(daemon.dir.path(), &workers(2, "/bin/sleep 1000"));
    assert_eq!(daemon.ctl(&["update"]), "w: stopped\nw: updated process group\n");
    daemon.wait_state("w:w_01", "RUNNING");
    daemon.wait_state("w:w_00", "RUNNING");
    assert!(daemon.pid("w:w_00") != first && daemon.pid("other") == other);
}

#[test]
fn one_changed_program_of_a_group_is_exchanged_and_its_neighbours_run_on() {
    let group = |b: &str| {
        format!(
            "[program:a]\ncommand=/bin/cat\nstartsecs=0\n[program:b]\ncommand={b}\nstartsecs=0\n\
             [group:g]\nprograms=a,b\n"
        )
    };
    let daemon = Supervisord::start(&group("/bin/cat"));
    daemon.wait_state("g:b", "RUNNING");
    let (a, b) = (daemon.pid("g:a"), daemon.pid("g:b"));
    write_conf(daemon.dir.path(), &group("/bin/sleep 1000"));
    assert_eq!(daemon.ctl(&["update"]), "g: stopped\ng: updated process group\n");
    daemon.wait_state("g:b", "RUNNING");
    assert!(daemon.pid("g:a") == a && daemon.pid("g:b") != b);
    // The environment that all share is another one: all are exchanged.
    let text = fs::read_to_string(daemon.dir.path().join("s.conf")).expect("there");
    fs::write(
        daemon.dir.path().join("s.conf"),
        text.replace("[supervisord]\n", "[supervisord]\nenvironment=X=\"1\"\n"),
    )
    .expect("written");
    daemon.ctl(&["update"]);
    daemon.wait_state("g:a", "RUNNING");
    let pid = daemon.pid("g:a");
    let environ = fs::read(format!("/proc/{pid}/environ")).expect("it runs");
    assert!(pid != a && String::from_utf8_lossy(&environ).split('\0').any(|pair| pair == "X=1"));
}

#[test]
fn what_is_disabled_does_not_start_by_itself_until_it_is_enabled() {
    let mut daemon = Supervisord::start(&workers(2, "/bin/cat"));
    daemon.wait_state("w:w_01", "RUNNING");
    assert_eq!(
        daemon.ctl(&["disable", "--now", "w:w_01", "other"]),
        "w:w_01: disabled\nother: disabled\nw:w_01: stopped\nother: stopped\n"
    );
    assert!(daemon.ctl(&["avail"]).lines().any(|line| line.starts_with("other ") && line.contains(" manual ")));
    assert_eq!(daemon.ctl(&["update"]), "", "which is no change of the configuration");
    daemon.restart();
    daemon.wait_state("w:w_00", "RUNNING");
    assert_eq!((daemon.state("w:w_01"), daemon.state("other")), ("STOPPED".into(), "STOPPED".into()));
    assert_eq!(daemon.ctl(&["reload"]), "Restarted supervisord\n");
    wait_for("the new start", || daemon.ctl(&["status", "w:w_00"]).contains("RUNNING").then_some(()));
    assert_eq!(daemon.state("other"), "STOPPED");
    assert_eq!(daemon.ctl(&["enable", "oth*"]), "other: enabled\n");
    assert_eq!(daemon.state("other"), "STOPPED", "that starts nothing");
    daemon.restart();
    daemon.wait_state("other", "RUNNING");
    assert_eq!(daemon.state("w:w_01"), "STOPPED");
    assert_eq!(
        daemon.ctl(&["enable", "--now", "w:*"]),
        "w:w_00: enabled\nw:w_01: enabled\nw:w_00: ERROR (already started)\nw:w_01: started\n"
    );
    assert_eq!(daemon.ctl(&["enable", "nobody"]), "nobody: ERROR (no such process)\n");
    assert_eq!(fs::read_to_string(daemon.dir.path().join("state/disabled")).expect("kept"), "");
}

#[test]
fn what_a_killed_supervisord_has_left_is_gone_before_the_next_one_starts_anything() {
    let mut daemon = Supervisord::start(&workers(
        2,
        "/bin/sh -c \"sleep 1000 & echo $$! > %(here)s/kid%(process_num)d; wait\"".replace("$$", "$").as_str(),
    ));
    daemon.wait_state("w:w_01", "RUNNING");
    let kid: i32 = wait_for("the helper", || daemon.file("kid1").trim().parse().ok());
    let old: Vec<i32> = ["w:w_00", "w:w_01", "other"].map(|name| daemon.pid(name).parse().expect("a pid")).into();
    daemon.signal(nix::sys::signal::Signal::SIGKILL);
    daemon.child.wait().expect("our child");
    never_for(Duration::from_millis(300), "they die of that", || !old.iter().all(|pid| lives(*pid)));
    // Somebody else's supervisord leaves them alone.
    let stranger = Supervisord::start(CAT);
    stranger.wait_state("cat", "RUNNING");
    assert!(old.iter().all(|pid| lives(*pid)));
    daemon.boot();
    daemon.wait_state("w:w_01", "RUNNING");
    assert!(!old.iter().any(|pid| lives(*pid)) && !lives(kid), "{old:?} {kid}");
    daemon.ctl(&["shutdown"]);
    wait_for("its end", || daemon.child.try_wait().expect("our child"));
    assert!(!daemon.dir.path().join("s.pid.hob").exists());
    daemon.boot();
}

#[test]
fn a_rolling_restart_goes_one_by_one_and_stops_at_the_first_that_fails() {
    let daemon = Supervisord::start(&workers(3, "/bin/sh -c \"test ! -e %(here)s/bad && exec sleep 1000\""));
    daemon.wait_state("w:w_02", "RUNNING");
    let all = "w:w_00: stopped\nw:w_00: started\nw:w_01: stopped\nw:w_01: started\nw:w_02: stopped\nw:w_02: started\n";
    assert_eq!(daemon.ctl(&["restart", "--rolling", "w:*"]), all);
    let hob = |args: &[&str]| {
        let socket = daemon.dir.path().join("s.sock");
        Command::new(crate::support::hob_bin()).arg("--socket").arg(socket).args(args).output().expect("hob runs")
    };
    let out = hob(&["restart", "--rolling", "w:w_*"]);
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && text.lines().count() == 3 && text.starts_with("w:w_00: "), "{text}");
    assert_eq!(
        daemon.ctl(&["restart", "--rolling=2", "w:*"]),
        "w:w_00: stopped\nw:w_01: stopped\nw:w_00: started\nw:w_01: started\nw:w_02: stopped\nw:w_02: started\n"
    );
    let out = hob(&["restart", "--rolling=2", "w:w_*"]);
    assert!(out.status.success() && String::from_utf8_lossy(&out.stdout).lines().count() == 3);
    assert_eq!(hob(&["restart", "--rolling=0", "w:w_*"]).status.code(), Some(2));
    let last = daemon.pid("w:w_02");
    write_conf(
        daemon.dir.path(),
        &workers(3, "/bin/sh -c \"test ! -e %(here)s/bad && exec sleep 1000\"").replace("startsecs=0", "startsecs=1"),
    );
    daemon.ctl(&["update"]);
    daemon.wait_state("w:w_02", "RUNNING");
    let after = daemon.pid("w:w_02");
    fs::write(daemon.dir.path().join("bad"), "").expect("written");
    let text = daemon.ctl(&["restart", "--rolling", "w:*"]);
    assert_eq!(text, "w:w_00: stopped\nw:w_00: ERROR (spawn error)\nERROR: not restarted: w:w_01 w:w_02\n");
    assert!(after != last && daemon.pid("w:w_02") == after);
}

#[test]
fn a_container_s_output_tells_whose_each_line_is() {
    let (dir, links) = (tempfile::tempdir().expect("a folder"), links());
    let program = |name: &str, more: &str| {
        format!("[program:{name}]\ncommand=/bin/sh -c \"echo of {name}; exec sleep 1000\"\nstartsecs=0\n{more}")
    };
    write_conf(
        dir.path(),
        &[
            "[supervisord]\nsilent=true\n".to_owned(),
            program("shown", "console=true\nstdout_logfile=NONE\n"),
            program("json", "console=true\nlog_format=json\nstdout_logfile=NONE\n"),
            program("prefixed", "log_prefix=true\nstdout_logfile=/dev/stdout\nstdout_logfile_maxbytes=0\n"),
            program("plain", "stdout_logfile=/dev/fd/1\n"),
            program("quiet", ""),
        ]
        .concat(),
    );
    let out = dir.path().join("out");
    let mut child = Command::new(links.path().join("supervisord"))
        .args(["-n", "-c"])
        .arg(dir.path().join("s.conf"))
        .stdout(fs::File::create(&out).expect("a file"))
        .stderr(Stdio::null())
        .spawn()
        .expect("supervisord starts");
    let text = wait_for("four lines", || fs::read_to_string(&out).ok().filter(|text| text.lines().count() >= 4));
    let ctl = || {
        Command::new(links.path().join("supervisorctl"))
            .arg("-c")
            .arg(dir.path().join("s.conf"))
            .arg("shutdown")
            .output()
    };
    ctl().expect("supervisorctl runs");
    child.wait().expect("our child");
    let is = |wanted: &str| text.lines().any(|line| line.trim_end() == wanted);
    assert!(is("prefixed | of prefixed") && is("of plain"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("shown ") && line.ends_with(" | of shown")), "{text}");
    assert!(
        text.lines().any(|line| line.starts_with("{\"time\":\"")
            && line.ends_with("\"name\":\"json\",\"stream\":\"stdout\",\"message\":\"of json\"}")),
        "{text}"
    );
    assert!(!text.contains("of quiet") && text.lines().count() == 4, "{text}");
}
