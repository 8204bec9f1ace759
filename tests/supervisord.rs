//! hob by the names of supervisord's programs, judged by supervisord's own clients: the conformance suite under
//! `tests/conformance`, whose cases pass on the Python program, and what hob does better than it on purpose.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::support::{hob_bin, need, need_all, venv, wait_for};

/// A virtual environment with the real supervisor and superlance in it.
fn python_clients() -> Option<&'static Path> {
    static VENV: OnceLock<Option<PathBuf>> = OnceLock::new();
    VENV.get_or_init(|| venv("supervisor-4.3.0-superlance-2.0.0", &[&["supervisor==4.3.0", "superlance==2.0.0"]]))
        .as_deref()
}

/// A folder in which hob has the names of supervisord's programs.
fn links() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for name in ["supervisord", "supervisorctl", "pidproxy", "echo_supervisord_conf"] {
        symlink(hob_bin(), dir.path().join(name)).expect("a link");
    }
    dir
}

#[test]
fn the_conformance_suite_passes_with_the_real_clients() {
    if !need_all(&["root"]) {
        return;
    }
    let Some(venv) = python_clients() else { return };
    let links = links();
    let (text, failed) = run_suite(venv, links.path(), &["--jobs", "3"]);
    assert!(text.contains(" passed, "), "{text}");
    if failed.is_empty() {
        return;
    }
    // Several cases measure with the wall clock, which says little on a busy machine: those that failed have one more
    // go, alone.
    eprintln!("once more: {failed:?}");
    let names: Vec<&str> = failed.iter().filter_map(|line| line.split([' ', ':']).nth(1)).collect();
    let (text, failed) = run_suite(venv, links.path(), &["--jobs", "1", "--only", &names.join(",")]);
    assert_eq!(failed, [""; 0], "{text}");
}

/// Its output, and the lines that tell of failures.
fn run_suite(venv: &Path, bin: &Path, more: &[&str]) -> (String, Vec<String>) {
    let suite = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/run.py");
    let mut command = Command::new(venv.join("bin/python"));
    command.arg(suite).arg("--bin").arg(bin).arg("--client-venv").arg(venv).args(["--timeout", "120"]).args(more);
    let out = command.output().expect("python runs");
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    let failed = text.lines().filter(|line| line.starts_with("FAIL ")).map(str::to_owned).collect();
    (text, failed)
}

/// A supervisord in a folder of its own, ended when it goes out of scope.
struct Supervisord {
    dir: tempfile::TempDir,
    links: tempfile::TempDir,
    child: std::process::Child,
}

impl Supervisord {
    fn start(programs: &str) -> Supervisord {
        let (dir, links) = (tempfile::tempdir().expect("a folder"), links());
        write_conf(dir.path(), programs);
        let child = Command::new(links.path().join("supervisord"))
            .args(["-n", "-c"])
            .arg(dir.path().join("s.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("supervisord starts");
        let supervisord = Supervisord { dir, links, child };
        wait_for("its socket", || supervisord.ctl(&["pid"]).contains(char::is_numeric).then_some(()));
        supervisord
    }

    fn ctl(&self, args: &[&str]) -> String {
        let conf = self.dir.path().join("s.conf");
        let ctl = self.links.path().join("supervisorctl");
        let out = Command::new(ctl).arg("-c").arg(conf).args(args).output().expect("supervisorctl runs");
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("s.log")).unwrap_or_default()
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, signal).expect("it runs");
    }

    fn state(&self, name: &str) -> String {
        self.ctl(&["status", name]).split_whitespace().nth(1).unwrap_or_default().to_owned()
    }

    fn pid(&self, name: &str) -> String {
        self.ctl(&["pid", name]).trim().to_owned()
    }
}

impl Drop for Supervisord {
    fn drop(&mut self) {
        self.ctl(&["shutdown"]);
        let ended = wait_for("its end", || self.child.try_wait().expect("our child"));
        assert!(ended.success() || std::thread::panicking(), "{ended}\n{}", self.log());
    }
}

fn write_conf(dir: &Path, programs: &str) {
    let here = dir.display();
    let text = format!(
        "[supervisord]\nlogfile={here}/s.log\npidfile={here}/s.pid\nchildlogdir={here}\n\
         [unix_http_server]\nfile={here}/s.sock\n[supervisorctl]\nserverurl=unix://{here}/s.sock\n\
         [rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n\
         {programs}"
    );
    fs::write(dir.join("s.conf"), text).expect("written");
}

const CAT: &str = "[program:cat]\ncommand=/bin/cat\nstartsecs=0\n";

#[test]
fn a_hup_with_a_broken_file_stops_nothing() {
    let daemon = Supervisord::start(CAT);
    wait_for("cat", || (daemon.state("cat") == "RUNNING").then_some(()));
    let before = daemon.pid("cat");
    write_conf(daemon.dir.path(), "[program:cat]\ncommand=/bin/cat\nstartretries=lots\n");
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    wait_for("the refusal in the log", || daemon.log().contains("everything stays as it is: ").then_some(()));
    assert_eq!((daemon.state("cat"), daemon.pid("cat")), ("RUNNING".into(), before));
    write_conf(daemon.dir.path(), CAT);
}

#[test]
fn a_program_that_dies_at_once_is_never_seen_running_and_ends_fatal() {
    let daemon = Supervisord::start("[program:quick]\ncommand=/bin/false\nstartsecs=1\nstartretries=1\n");
    wait_for("FATAL", || (daemon.state("quick") == "FATAL").then_some(()));
    assert!(!daemon.log().contains("entered RUNNING"), "{}", daemon.log());
    assert_eq!(daemon.log().matches("spawned: 'quick'").count(), 2);
}

#[test]
fn children_of_supervisord_have_default_dispositions_and_no_marks() {
    let daemon = Supervisord::start(CAT);
    wait_for("cat", || (daemon.state("cat") == "RUNNING").then_some(()));
    let pid = daemon.pid("cat");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    assert!(status.contains("SigIgn:\t0000000000000000"), "{status}");
    let environ = fs::read(format!("/proc/{pid}/environ")).expect("it runs");
    assert!(!String::from_utf8_lossy(&environ).contains("HOB"), "{}", String::from_utf8_lossy(&environ));
}

#[test]
fn a_stop_signal_reaches_the_child_alone_unless_its_group_is_meant() {
    let script = "trap 'exit 0' TERM; (trap 'echo got > GOT' TERM; while :; do sleep 0.1; done) & \
                  echo $! > KID; while :; do sleep 0.05; done";
    let dir = tempfile::tempdir().expect("a folder");
    let kid = dir.path().join("kid");
    let got = dir.path().join("got");
    let script = script.replace("GOT", &got.to_string_lossy()).replace("KID", &kid.to_string_lossy());
    fs::write(dir.path().join("run"), script).expect("written");
    let daemon = Supervisord::start(&format!(
        "[program:p]\ncommand=/bin/sh {}/run\nstartsecs=0\nautorestart=false\n",
        dir.path().display()
    ));
    let pid: i32 = wait_for("the child of the child", || fs::read_to_string(&kid).ok()?.trim().parse().ok());
    assert_eq!(daemon.ctl(&["stop", "p"]), "p: stopped\n");
    let kid = nix::unistd::Pid::from_raw(pid);
    assert!(nix::sys::signal::kill(kid, None).is_ok() && !got.exists(), "what is left is left");
    nix::sys::signal::kill(kid, nix::sys::signal::Signal::SIGKILL).expect("still there");
}

#[test]
fn idle_listeners_cost_no_tick_unless_they_ask_for_one() {
    let daemon = Supervisord::start(CAT);
    wait_for("cat", || (daemon.state("cat") == "RUNNING").then_some(()));
    let switches = || {
        let text = fs::read_to_string(format!("/proc/{}/status", daemon.child.id())).expect("it runs");
        let count = text.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok());
        count.expect("a number")
    };
    // What the last command has set in motion is over.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let before = switches();
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(switches(), before, "nothing happens, so nothing wakes it");
}

#[test]
fn what_starts_after_another_stops_before_it_whatever_the_order_of_groups() {
    let daemon = Supervisord::start(
        "[program:a]\ncommand=/bin/sleep 1000\nstartsecs=0\nafter=b\n[program:b]\ncommand=/bin/sleep 1000\nstartsecs=0\n",
    );
    wait_for("a", || (daemon.state("a") == "RUNNING").then_some(()));
    let path = daemon.dir.path().join("s.log");
    let keep = tempfile::NamedTempFile::new().expect("a file");
    daemon.ctl(&["shutdown"]);
    wait_for("both to stop", || {
        let text = fs::read_to_string(&path).ok()?;
        fs::write(keep.path(), &text).ok()?;
        (text.contains("stopped: a ") && text.contains("stopped: b ")).then_some(())
    });
    let text = fs::read_to_string(keep.path()).expect("kept");
    let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what} is not in {text}"));
    assert!(at("spawned: 'b'") < at("spawned: 'a'") && at("stopped: a ") < at("stopped: b "), "{text}");
}

impl Supervisord {
    fn wait_state(&self, name: &str, state: &str) {
        wait_for(&format!("{name} to be {state}"), || (self.state(name) == state).then_some(()));
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }
}

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
    let all: String =
        (1..=4).rev().map(|n| crate::support::sh_ok(&format!("gzip -dc {}", packed(n).display()))).collect();
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
        ("all-exited", "[program:a]\ncommand=/bin/sh -c \"exit 3\"\nstartsecs=0\nautorestart=false\n", 3),
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
