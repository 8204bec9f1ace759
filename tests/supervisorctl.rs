//! supervisorctl beside Python's: the same commands to the same (Python) supervisord, the same bytes out of both.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::*;

const PROGRAMS: &str = "
[program:up]
command=/bin/cat
startsecs=0
stdout_logfile=%(here)s/up.out
stderr_logfile=%(here)s/up.err
[program:idle]
command=/bin/cat
startsecs=0
autostart=false
[program:bad]
command=/no/such/file
autostart=false
[program:dir]
command=/tmp/
autostart=false
[program:quick]
command=/bin/false
autostart=false
startretries=0
; The original promotes before it reaps: a busy machine may take a second for both.
startsecs=30
[program:quiet]
command=/bin/cat
autostart=false
stdout_logfile=NONE
[program:a_program_with_a_rather_long_name_for_the_column]
command=/bin/cat
autostart=false
[program:m1]
command=/bin/cat
startsecs=0
[program:m2]
command=/bin/cat
startsecs=0
autostart=false
[group:grp]
programs=m1,m2
priority=50
";

/// A Python supervisord, and both clients.
struct Stage {
    dir: tempfile::TempDir,
    daemon: Child,
    theirs: (Child, ChildStdin, BufReader<ChildStdout>),
}

impl Stage {
    /// Nothing where Debian's package `supervisor` is missing.
    fn new(server: &str, client: &str) -> Option<Stage> {
        if !need_all(&["supervisord", "supervisorctl"]) {
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        symlink(hob_bin(), dir.path().join("supervisorctl")).expect("a link");
        let conf = format!(
            "[supervisord]\nlogfile=%(here)s/main.log\npidfile=%(here)s/pid\nchildlogdir=%(here)s\n{server}\n\
             [rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n\
             [supervisorctl]\n{client}\n"
        );
        fs::write(dir.path().join("head"), &conf).expect("written");
        fs::write(dir.path().join("s.conf"), conf + PROGRAMS).expect("written");
        let daemon = Command::new("supervisord")
            .args(["-n", "-c"])
            .arg(dir.path().join("s.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("supervisord starts");
        // The interpreter that has the package.
        let script = fs::read_to_string(which("supervisorctl").expect("looked for")).expect("a script");
        let python = script.lines().next().unwrap_or_default().trim_start_matches("#!").split(' ').next().unwrap_or("");
        let mut theirs = Command::new(python)
            .args(["-W", "ignore", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/ctl.py")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python starts");
        let pipes = (theirs.stdin.take().expect("piped"), BufReader::new(theirs.stdout.take().expect("piped")));
        let mut stage = Stage { dir, daemon, theirs: (theirs, pipes.0, pipes.1) };
        wait_for("the first programs", || {
            let ran = stage.ours(&["status", "up", "grp:m1"], "");
            (ran.1 == 0).then_some(())
        });
        Some(stage)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn with_conf(&self, args: &[&str]) -> Vec<String> {
        let conf = self.at("s.conf").display().to_string();
        let own =
            if args.first().is_some_and(|arg| arg.starts_with('-')) { vec![] } else { vec!["-c".to_owned(), conf] };
        own.into_iter().chain(args.iter().map(|arg| (*arg).to_owned())).collect()
    }

    /// Output and exit status of our client.
    fn ours(&mut self, args: &[&str], stdin: &str) -> (String, i64) {
        let mut child = Command::new(self.at("supervisorctl"))
            .args(self.with_conf(args))
            .current_dir(self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("hob starts");
        let _ = child.stdin.take().expect("piped").write_all(stdin.as_bytes());
        let out = child.wait_with_output().expect("it ends");
        (String::from_utf8_lossy(&out.stdout).into_owned(), i64::from(code_of(out.status)))
    }

    /// Of Python's.
    fn theirs(&mut self, args: &[&str], stdin: &str) -> (String, i64) {
        let asked = json!({ "args": self.with_conf(args), "stdin": stdin });
        writeln!(self.theirs.1, "{asked}").expect("python reads");
        let mut line = String::new();
        self.theirs.2.read_line(&mut line).expect("python answers");
        let answer: Value = serde_json::from_str(&line).expect("JSON");
        (answer[0].as_str().expect("text").to_owned(), answer[1].as_i64().expect("a status"))
    }

    fn same(&mut self, args: &[&str]) {
        self.same_after(&[], args);
    }

    /// The same bytes and the same status, each after the same preparation.
    fn same_after(&mut self, prepare: &[&[&str]], args: &[&str]) {
        prepare.iter().for_each(|args| drop(self.ours(args, "")));
        let theirs = self.theirs(args, "");
        prepare.iter().for_each(|args| drop(self.ours(args, "")));
        let ours = self.ours(args, "");
        assert_eq!((normal(&ours.0), ours.1), (normal(&theirs.0), theirs.1), "{args:?}");
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.theirs.0.kill();
        let _ = self.theirs.0.wait();
        let _ = kill(Pid::from_raw(self.daemon.id() as i32), Signal::SIGTERM);
        if wait_child(&mut self.daemon, PATIENCE).is_none() {
            let _ = self.daemon.kill();
            let _ = self.daemon.wait();
        }
    }
}

/// Pids and uptimes differ between two moments.
fn normal(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let line = match line.split_once("pid ") {
            Some((before, rest)) if rest.contains(", uptime ") => format!("{before}pid N, uptime T"),
            _ => line.to_owned(),
        };
        out.push_str(&line);
        out.push('\n');
    }
    out
}

const UNIX: (&str, &str) = ("[unix_http_server]\nfile=%(here)s/s.sock", "serverurl=unix://%(here)s/s.sock");

#[test]
fn what_looks_prints_the_same_bytes() {
    let Some(mut stage) = Stage::new(UNIX.0, UNIX.1) else { return };
    fs::write(stage.at("up.out"), "0123456789".repeat(300) + "ž☃ <&> end\r\n").expect("written");
    fs::write(stage.at("up.err"), "error one\nerror two\n").expect("written");
    assert!(stage.theirs(&["status"], "").0.contains("RUNNING"), "the comparison is with nothing");
    for line in [
        "status",
        "status all",
        "status up",
        "status up idle up",
        "status grp:*",
        "status grp:",
        "status grp:m1",
        "status m1",
        "status ghost",
        "status ghost:*",
        "status ghost up",
        "status up ghost:* idle",
        "pid",
        "pid up",
        "pid grp:m1",
        "pid idle",
        "pid ghost",
        "pid all",
        "pid up ghost idle",
        "version",
        "version x",
        "avail",
        "avail x",
        "tail up",
        "tail -20 up",
        "tail -20 up stdout",
        "tail up STDERR",
        "tail -5 up stderr",
        "tail -99999 up",
        "tail idle",
        "tail ghost",
        "tail grp:m1",
        "tail quiet",
        "tail up stdlog",
        "tail -x up",
        "tail -20",
        "tail",
        "tail a b c d",
        "maintail -40",
        "maintail -x",
        "maintail x",
        "maintail a b",
        "reread",
        "reread x",
        "frobnicate all",
        "-",
        "help",
        "help start",
        "help help",
        "help nonsense",
        "?stop",
        "!ls",
        "status: up",
        "fg",
        "fg a b",
        "fg ghost",
        "fg idle",
        "clear",
        "clear ghost",
        "clear grp:*",
        "start",
        "stop",
        "restart",
        "signal",
        "signal HUP",
        "open x",
        "add ghost",
        "remove ghost",
        "remove up",
        "add up",
        "update ghost",
        "reload x",
        "shutdown x",
        "help tail",
        "help maintail",
        "help update",
        "help signal",
        "help restart",
        "help clear",
        "help pid",
        "help status",
        "help fg",
        "help open",
        "help exit",
        "help quit",
        "help avail",
        "help add",
        "help remove",
        "help reread",
        "help reload",
        "help shutdown",
        "help version",
        "help stop",
        "help EOF",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        if !words[0].starts_with('-') {
            stage.same(&words);
        }
    }
    stage.same(&["signal HUP", "ghost"]);
    stage.same(&["status  up"]);
}

#[test]
fn what_acts_prints_the_same_bytes_from_the_same_state() {
    let Some(mut stage) = Stage::new(UNIX.0, UNIX.1) else { return };
    let reset: &[&[&str]] = &[&["start", "up", "grp:m1"], &["stop", "idle", "grp:m2", "quiet"]];
    for line in [
        "start up",
        "start ghost",
        "start ghost:*",
        "start bad",
        "start dir",
        "start quick",
        "start m1",
        "start bad up",
        "stop idle",
        "stop ghost",
        "stop ghost:*",
        "restart ghost",
        "signal BOGUS up",
        "signal USR1 idle",
        "signal CONT up grp:* ghost",
        "signal CONT ghost:*",
        "signal CONT all",
        "clear up",
        "clear all",
        "add up",
        "remove up",
    ] {
        stage.same(&line.split(' ').collect::<Vec<_>>());
    }
    for line in [
        "start idle",
        "start grp:*",
        "start idle up ghost",
        "stop grp:*",
        "stop up idle ghost",
        "restart up idle",
        "restart grp:*",
    ] {
        stage.same_after(reset, &line.split(' ').collect::<Vec<_>>());
    }
    // All at once: in the order in which they end.
    let sorted = |(text, status): (String, i64)| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        (lines, status)
    };
    let mut both = Vec::new();
    for ours in [false, true] {
        reset.iter().for_each(|args| drop(stage.ours(args, "")));
        both.push(sorted(if ours { stage.ours(&["stop", "all"], "") } else { stage.theirs(&["stop", "all"], "") }));
    }
    assert_eq!(both[0], both[1]);
    assert_eq!(both[0].0, ["grp:m1: stopped", "up: stopped"]);
}

#[test]
fn changes_of_the_configuration_are_told_in_the_same_words() {
    let Some(mut stage) = Stage::new(UNIX.0, UNIX.1) else { return };
    let head = fs::read_to_string(stage.at("head")).expect("there");
    let changed = PROGRAMS.replace("priority=50", "priority=51").replace("[program:idle]", "[program:renamed]");
    fs::write(stage.at("s.conf"), head.clone() + &changed).expect("written");
    stage.same(&["reread"]);
    // Python's own client brings it back, so that both see the same change.
    for args in [&["update"][..], &["update", "grp", "renamed"], &["update", "all"], &["update", "ghost"]] {
        let mut both = Vec::new();
        for ours in [false, true] {
            fs::write(stage.at("s.conf"), head.clone() + PROGRAMS).expect("written");
            stage.theirs(&["update"], "");
            wait_for("the programs", || (stage.ours(&["status", "up", "grp:m1"], "").1 == 0).then_some(()));
            fs::write(stage.at("s.conf"), head.clone() + &changed).expect("written");
            both.push(if ours { stage.ours(args, "") } else { stage.theirs(args, "") });
        }
        assert_eq!(both[1], both[0], "{args:?}");
    }
    fs::write(stage.at("s.conf"), head + &PROGRAMS.replace("startretries=0", "startretries=lots")).expect("written");
    stage.same(&["reread"]);
    // Where Python shows a line of its source, ours says the same as for reread, with the same status.
    let (text, status) = stage.ours(&["update"], "");
    assert!(text.starts_with("ERROR: CANT_REREAD: ") && status == 1, "{text}");
    assert_eq!(stage.theirs(&["update"], "").1, 1);
}

#[test]
fn what_is_new_works_with_pythons_server_too() {
    let Some(mut stage) = Stage::new(UNIX.0, UNIX.1) else { return };
    let (text, status) = stage.ours(&["status", "--json", "up", "idle"], "");
    let all: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((all[0]["name"].as_str(), all[1]["statename"].as_str(), status), (Some("up"), Some("STOPPED"), 3));
    let (text, status) = stage.ours(&["avail", "--json"], "");
    let all: Value = serde_json::from_str(&text).expect("JSON");
    assert!(all.as_array().is_some_and(|all| all.len() == 9) && status == 0, "{text}");
    assert_eq!(stage.ours(&["pid", "id*"], ""), ("0\n".into(), 7));
    let rolled = stage.ours(&["restart", "--rolling", "grp:*", "up"], "");
    let expected =
        "grp:m1: stopped\ngrp:m1: started\ngrp:m2: ERROR (not running)\ngrp:m2: started\nup: stopped\nup: started\n";
    assert_eq!(rolled, (expected.into(), 0));
    let ended = stage.ours(&["restart", "--rolling", "up", "bad", "grp:*"], "");
    let expected = "up: stopped\nup: started\nbad: ERROR (not running)\nbad: ERROR (no such file)\n\
                    ERROR: not restarted: grp:m1 grp:m2\n";
    assert_eq!(ended, (expected.into(), 1));
    let (text, status) = stage.ours(&["disable", "up"], "");
    assert!(text.starts_with("ERROR: only a hob can disable processes, and unix://") && status == 1, "{text}");
}

#[test]
fn the_shell_answers_a_script_as_pythons_does() {
    let Some(mut stage) = Stage::new(UNIX.0, UNIX.1) else { return };
    for script in [
        "status up\nstop up\n\nstart up\nhelp start\nnonsense\nstatus grp:*\navail\nquit\n",
        "version\n",
        "exit\n",
        "pid all\nEOF\nversion\n",
        "shutdown\nn\nreload\nno\nstatus up\n",
        "",
    ] {
        let theirs = stage.theirs(&[], script);
        let ours = stage.ours(&[], script);
        assert_eq!((normal(&ours.0), ours.1), (normal(&theirs.0), theirs.1), "{script:?}");
    }
}

#[test]
fn a_password_is_taken_from_the_file_the_flags_and_the_environment() {
    let port = free_port();
    let server = format!("[inet_http_server]\nport=127.0.0.1:{port}\nusername=user\npassword=pass:word%%");
    let client = format!("serverurl=http://127.0.0.1:{port}\nusername=user\npassword=pass:word%%");
    let Some(mut stage) = Stage::new(&server, &client) else { return };
    stage.same(&["status"]);
    stage.same(&["stop", "idle"]);
    let url = format!("http://127.0.0.1:{port}");
    let flags = |password| ["-s", &url, "-u", "user", "-p", password, "pid", "idle"].map(str::to_owned);
    let right = flags("pass:word%");
    assert_eq!(stage.ours(&right.each_ref().map(String::as_str), ""), ("0\n".into(), 7));
    let wrong = flags("wrong");
    let wrong = stage.ours(&wrong.each_ref().map(String::as_str), "");
    assert_eq!(wrong, ("Server requires authentication\n".into(), 1));
    fs::create_dir(stage.at("empty")).expect("made");
    let ran = run(Command::new(stage.at("supervisorctl"))
        .args(["-s", &url, "pid", "idle"])
        .current_dir(stage.at("empty"))
        .envs([("SUPERVISOR_USERNAME", "user"), ("SUPERVISOR_PASSWORD", "pass:word%")]));
    assert_eq!((ran.out.as_str(), ran.code), ("0\n", 7));
    // Somebody who is there is asked.
    let asked = stage.ours(&["-i", "-s", &url, "-u", "user", "-p", "wrong", "pid", "idle"], "user\npass:word%\n");
    assert_eq!(asked, ("Server requires authentication\nUsername:Password:\n0\n".into(), 7));
}

#[test]
fn without_a_server_one_line_says_so() {
    let Some(mut stage) = Stage::new(UNIX.0, UNIX.1) else { return };
    let refused = format!("http://127.0.0.1:{}", free_port());
    for url in ["unix:///no/such.sock", &refused] {
        for action in [&["status"][..], &["start", "up"], &["pid"], &["tail", "up"], &["shutdown"], &["version"]] {
            stage.same(&[&["-s", url, "-c", stage.at("s.conf").to_str().expect("UTF-8")][..], action].concat());
        }
        let (text, status) = stage.ours(&["-s", url, "reread"], "");
        let what = if url.starts_with("unix") { "no such file" } else { "refused connection" };
        assert_eq!((text, status), (format!("{url} {what}\n"), 1));
    }
}

#[test]
fn flags_that_are_wrong_are_refused_as_python_refuses_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let program = dir.path().join("supervisorctl");
    symlink(hob_bin(), &program).expect("a link");
    fs::write(dir.path().join("none.conf"), "[program:a]\ncommand=x\n").expect("written");
    let cases: &[(&[&str], &str)] = &[
        (&["-x"], "option -x not recognized"),
        (&["--bogus"], "option --bogus not recognized"),
        (&["-c"], "option -c requires argument"),
        (&["-s", "x", "status"], "invalid value for -s 'x': value 'x' is not a URL"),
        (&["-u", "a", "-u", "b", "status"], "conflicting command line option '-u'"),
        (&["-c", "/no/such.conf", "status"], "could not find config file /no/such.conf"),
        (&["-c", "none.conf", "status"], ".ini file does not include supervisorctl section"),
    ];
    for (args, why) in cases {
        let ran = run(Command::new(&program).args(*args).current_dir(dir.path()));
        assert_eq!(ran.code, 2, "{args:?}");
        assert_eq!(ran.err, format!("Error: {why}\nFor help, use {} -h\n", program.display()), "{args:?}");
        assert_eq!(ran.out, "");
    }
    let help = run(Command::new(&program).arg("-h")).expect(0);
    assert!(help.out.contains("--serverurl") && help.err.is_empty());
}

#[test]
fn the_sample_has_every_option_of_the_original() {
    if !need("echo_supervisord_conf") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    symlink(hob_bin(), dir.path().join("echo_supervisord_conf")).expect("a link");
    let ours = run(&mut Command::new(dir.path().join("echo_supervisord_conf"))).expect(0).out;
    let theirs = run(&mut Command::new("echo_supervisord_conf")).expect(0).out;
    let options = |text: &str| -> Vec<String> {
        let mut section = String::new();
        let mut all = Vec::new();
        for line in text.lines() {
            let bare = line.trim_start_matches(';');
            if bare.starts_with('[') {
                section = bare.split(']').next().unwrap_or_default().to_owned();
            } else if let Some((key, rest)) = bare.split_once('=')
                && key.trim().chars().all(|c| c.is_ascii_lowercase() || "_.".contains(c))
            {
                let value = rest.split_whitespace().next().unwrap_or_default();
                let mark = if line.starts_with(';') { ";" } else { "" };
                all.push(format!("{section}] {mark}{}={value}", key.trim()));
            }
        }
        all
    };
    let ours = options(&ours);
    for option in options(&theirs) {
        assert!(ours.contains(&option), "{option} is missing");
    }
    assert!(ours.len() > 100);
}
