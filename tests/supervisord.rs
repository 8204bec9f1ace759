//! hob by the names of supervisord's programs, judged by supervisord's own clients: the conformance suite under
//! `tests/conformance`, whose cases pass on the Python program, and what hob does better than it on purpose.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::supervisord::*;
use crate::support::{http, need_all, wait_for};

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
fn a_start_and_a_stop_in_one_request_do_not_wait_for_sigkill() {
    let daemon = Supervisord::start("[program:p]\ncommand=/bin/sleep 1000\nautostart=false\nstopwaitsecs=60\n");
    let call = |method: &str, wait: u8| {
        format!(
            "<value><struct><member><name>methodName</name><value>supervisor.{method}</value></member><member>\
             <name>params</name><value><array><data><value>p</value><value><boolean>{wait}</boolean></value>\
             </data></array></value></member></struct></value>"
        )
    };
    let body = format!(
        "<?xml version='1.0'?><methodCall><methodName>system.multicall</methodName><params><param><value><array><data>\
         {}{}</data></array></value></param></params></methodCall>",
        call("startProcess", 0),
        call("stopProcess", 1)
    );
    let (status, text) = http(&daemon.dir.path().join("s.sock"), "POST", "/RPC2", Some(&body)).expect("answered");
    assert!(status == 200 && !text.contains("fault"), "{text}");
    assert_eq!(daemon.state("p"), "STOPPED");
    assert!(!daemon.log().contains("SIGKILL"), "{}", daemon.log());
}

#[test]
fn a_clear_is_answered_although_the_logger_has_just_died_twice() {
    let daemon = Supervisord::start(CAT);
    wait_for("cat", || (daemon.state("cat") == "RUNNING").then_some(()));
    let logger = || -> Option<i32> {
        let pid = daemon.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        let name = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|n| n == "hob logger\n");
        children.split_whitespace().filter_map(|word| word.parse().ok()).find(name)
    };
    let mut last = 0;
    // The second one dies young, so that for a second there is none.
    for _ in 0..2 {
        let pid = wait_for("another logger", || logger().filter(|&pid| pid != last));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).expect("killed");
        last = pid;
    }
    wait_for("its end", || logger().is_none_or(|pid| pid != last).then_some(()));
    assert_eq!(daemon.ctl(&["clear", "cat"]), "cat: cleared\n");
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
    // What the last command has set in motion is over, and the memory of the start is given back.
    wait_for("a second of rest", || {
        let before = switches();
        std::thread::sleep(std::time::Duration::from_secs(1));
        (switches() == before).then_some(())
    });
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

#[test]
fn a_restart_takes_over_another_log_and_pid_file() {
    let daemon = Supervisord::start(CAT);
    let dir = daemon.dir.path();
    let text = fs::read_to_string(dir.join("s.conf")).expect("there");
    fs::write(dir.join("s.conf"), text.replace("s.log", "n.log").replace("s.pid", "n.pid")).expect("written");
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    wait_for("the other log", || daemon.file("n.log").contains("spawned: 'cat'").then_some(()));
    assert_eq!(daemon.file("n.pid").trim(), daemon.child.id().to_string());
    assert!(!dir.join("s.pid").exists());
    assert!(daemon.log().contains("stopped: cat"), "{}", daemon.log());
    assert!(!daemon.file("n.log").contains("stopped: cat"), "{}", daemon.file("n.log"));
}

#[test]
fn without_the_standard_interface_its_methods_do_not_exist() {
    let daemon = Supervisord::start(CAT);
    let conf = daemon.dir.path().join("s.conf");
    let text = fs::read_to_string(&conf).expect("there");
    fs::write(&conf, text.replace("[rpcinterface:supervisor]", "[other]")).expect("written");
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    wait_for("no interface", || {
        daemon.ctl(&["status"]).contains("did not recognize the supervisor namespace").then_some(())
    });
    fs::write(&conf, text).expect("written");
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    daemon.wait_state("cat", "RUNNING");
}

#[test]
fn a_program_whose_folder_is_missing_has_exited_in_the_words_of_its_log() {
    let daemon = Supervisord::start(
        "[program:a]\ncommand=/bin/cat\ndirectory=/no/such\nstartsecs=0\nautorestart=false\nstderr_logfile=%(here)s/a.err\n",
    );
    daemon.wait_state("a", "EXITED");
    assert!(daemon.log().contains("exited: a (exit status 127; not expected)"), "{}", daemon.log());
    assert_eq!(
        daemon.file("a.err"),
        "supervisor: couldn't chdir to /no/such: ENOENT\nsupervisor: child process was not spawned\n"
    );
}

#[test]
fn a_log_that_somebody_has_made_a_link_or_a_fifo_is_not_shown() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let daemon = Supervisord::start(&format!("{CAT}stdout_logfile=%(here)s/o\n"));
    let (dir, secret) = (daemon.dir.path(), daemon.dir.path().join("secret"));
    daemon.wait_state("cat", "RUNNING");
    fs::write(&secret, "secret").expect("written");
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).expect("ours");
    fs::remove_file(dir.join("o")).expect("there");
    symlink(&secret, dir.join("o")).expect("new");
    assert_eq!(daemon.ctl(&["tail", "cat"]), "cat: ERROR (unknown error reading log)\n");
    fs::remove_file(dir.join("o")).expect("there");
    nix::unistd::mkfifo(&dir.join("o"), nix::sys::stat::Mode::S_IRWXU).expect("new");
    assert_eq!(daemon.ctl(&["tail", "cat"]), "cat: ERROR (unknown error reading log)\n");
}

#[test]
fn a_follower_too_many_is_told_so() {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixStream;
    let daemon = Supervisord::start(CAT);
    let mut followers = Vec::new();
    for nth in 0..65 {
        let mut stream = UnixStream::connect(daemon.dir.path().join("s.sock")).expect("it listens");
        stream.write_all(b"GET /mainlogtail HTTP/1.1\r\nHost: x\r\n\r\n").expect("taken");
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).expect("an answer");
        let status = if nth < 64 { "200" } else { "503" };
        assert_eq!(line.split(' ').nth(1), Some(status), "{nth}: {line}");
        followers.push(reader);
    }
}

#[test]
fn what_is_no_file_among_the_included_ones_is_passed_over() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(dir.path().join("conf.d/sub.conf")).expect("new");
    std::os::unix::fs::symlink("/no/such", dir.path().join("conf.d/gone.conf")).expect("new");
    fs::write(dir.path().join("conf.d/a.conf"), CAT).expect("written");
    write_conf(dir.path(), "[include]\nfiles=conf.d/*.conf\n");
    let links = links();
    let mut command = Command::new(links.path().join("supervisord"));
    let out = command.arg("--test").arg("-c").arg(dir.path().join("s.conf")).output().expect("runs");
    let text = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && text.contains("good, 1 processes"), "{text}");
    assert!(text.contains("conf.d/sub.conf is no file and not included"), "{text}");
}
