//! hob on the network: who gets in, what a browser of another site may not do, and what Prometheus reads.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::*;

/// The answer to a request over TCP: status, and everything that came.
fn ask(port: u16, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, text)
}

fn get(port: u16, path: &str, headers: &str) -> (u16, String) {
    ask(port, &format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{headers}\r\n"))
}

fn post(port: u16, path: &str, headers: &str) -> (u16, String) {
    let head = format!("POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nContent-Length: 0\r\n");
    ask(port, &format!("{head}{headers}\r\n"))
}

const TOKEN: &str = "Authorization: Bearer a long secret\r\n";
// user:a long secret
const BASIC: &str = "Authorization: Basic dXNlcjphIGxvbmcgc2VjcmV0\r\n";
const WRONG: &str = "Authorization: Bearer a long secre\r\n";

fn listening(more: &str) -> (Hob, u16) {
    let port = free_port();
    let toml = format!("listen = \"127.0.0.1:{port}\"\nlisten_password = \"a long secret\"\n{more}");
    let hob = Home::with(
        "one: sleep 1000\ntwo: {command: sleep 1000, autostart: false}\n\
         talks: {command: 'echo exactly; exec sleep 1000', autostart: false}",
    )
    .settings(&toml)
    .boot();
    hob.running("one");
    (hob, port)
}

#[test]
fn nobody_gets_in_without_the_password() {
    let (hob, port) = listening("");
    for (headers, status) in [("", 401), (WRONG, 401), (TOKEN, 200), (BASIC, 200)] {
        for path in ["/v1/processes", "/metrics", "/v1/events?follow=0"] {
            let (code, text) = get(port, path, headers);
            assert_eq!(code, status, "{path} {headers}: {text}");
            assert_eq!(text.contains("WWW-Authenticate: Basic"), status == 401, "{text}");
            assert!(status == 200 || !text.contains("one"), "{text}");
        }
        assert_eq!(post(port, "/v1/processes/two/start", headers).0, status);
    }
    // The unix socket asks the kernel, not for a password.
    assert_eq!(hob.process("two").state(), "RUNNING");
    assert_eq!(post(port, "/v1/processes/one/stop", WRONG).0, 401);
    assert_eq!(hob.process("one").state(), "RUNNING");
    hob.shutdown();
}

#[test]
fn a_user_is_asked_for_where_one_is_set() {
    let (hob, port) = listening("listen_user = \"user\"\n");
    assert_eq!(get(port, "/v1/info", BASIC).0, 200);
    assert_eq!(get(port, "/v1/info", TOKEN).0, 401);
    // somebody:a long secret
    assert_eq!(get(port, "/v1/info", "Authorization: Basic c29tZWJvZHk6YSBsb25nIHNlY3JldA==\r\n").0, 401);
    hob.shutdown();
}

#[test]
fn a_page_of_another_site_cannot_act() {
    let (hob, port) = listening("");
    for foreign in ["Origin: http://evil.example\r\n", "Origin: null\r\n", "Sec-Fetch-Site: cross-site\r\n"] {
        let (code, text) = post(port, "/v1/processes/one/stop", &format!("{TOKEN}{foreign}"));
        assert_eq!(code, 403, "{foreign}{text}");
    }
    assert_eq!(hob.process("one").state(), "RUNNING");
    let own = format!("{TOKEN}Origin: http://127.0.0.1:{port}\r\nSec-Fetch-Site: same-origin\r\n");
    assert_eq!(post(port, "/v1/processes/one/stop", &own).0, 200);
    assert_eq!(hob.process("one").state(), "STOPPED");
    hob.shutdown();
}

#[test]
fn a_hostile_client_of_the_network_costs_nobody_anything() {
    let (hob, port) = listening("");
    // Connections that say nothing, and ones that say too much.
    let silent: Vec<TcpStream> = (0..300).filter_map(|_| TcpStream::connect(("127.0.0.1", port)).ok()).collect();
    let (code, _) = ask(port, &format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20_000)));
    assert!(code == 414 || code == 431 || code == 0, "{code}");
    let before = std::time::Instant::now();
    assert_eq!(get(port, "/v1/info", TOKEN).0, 200);
    hob.ok(&["status"]);
    assert!(before.elapsed() < Duration::from_secs(5));
    drop(silent);
    hob.shutdown();
}

#[test]
fn without_the_setting_there_is_no_port_and_a_bad_one_is_refused() {
    let hob = Home::with("one: sleep 1000").boot();
    let sockets = sh_ok(&format!("ls -l /proc/{}/fd", hob.pid));
    let tcp = sh_ok("cat /proc/net/tcp /proc/net/tcp6");
    let listens = |inode: &str| tcp.lines().any(|l| l.contains(" 0A ") && l.contains(&format!(" {inode} ")));
    let own: Vec<&str> =
        sockets.split("socket:[").skip(1).filter_map(|rest| rest.split(']').next()).filter(|i| listens(i)).collect();
    assert!(own.is_empty(), "{own:?}");
    hob.shutdown();
    let ran = Home::with("one: sleep 1000").settings("listen = \"*:9001\"\n").boot_fails();
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("hob.toml:1:10: listen would let everybody in"), "{}", ran.err);
}

#[test]
fn prometheus_reads_the_metrics() {
    let python = "/usr/bin/python3";
    let import = Command::new(python).args(["-c", "import prometheus_client"]).stderr(Stdio::null()).status();
    if !import.is_ok_and(|status| status.success()) {
        // Debian's package for Debian's python, which is not the first one everywhere.
        let _ = need("python3-prometheus-client");
        return;
    }
    let (hob, port) = listening("");
    hob.ok(&["start", "talks"]);
    hob.wait_log("talks.log", "exactly");
    let pid = hob.running("one");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).expect("it runs");
    hob.running_again("one", pid);
    let (_, text) = get(port, "/metrics", TOKEN);
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains("Content-Type: text/plain; version=0.0.4"), "{head}");
    let script = "import sys, json\n\
                  from prometheus_client.parser import text_string_to_metric_families as read\n\
                  for f in read(sys.stdin.read()):\n\
                  \x20   for s in f.samples: print(json.dumps([f.type, s.name, s.labels.get('name', ''), s.value]))";
    let mut child = Command::new(python)
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python starts");
    child.stdin.take().expect("piped").write_all(body.as_bytes()).expect("it reads");
    let out = child.wait_with_output().expect("it ends");
    assert!(out.status.success());
    let samples: Vec<serde_json::Value> =
        String::from_utf8_lossy(&out.stdout).lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let value = |kind: &str, metric: &str, name: &str| {
        let found = samples.iter().find(|s| s[0] == kind && s[1] == metric && s[2] == name);
        found.and_then(|s| s[3].as_f64()).unwrap_or_else(|| panic!("no {kind} {metric} of {name} in\n{body}"))
    };
    assert_eq!(value("gauge", "node_supervisord_state", "one"), 20.0);
    assert_eq!(value("gauge", "node_supervisord_up", "two"), 0.0);
    assert_eq!(value("gauge", "node_supervisord_exit_status", "one"), -1.0);
    assert_eq!(value("gauge", "supervisor_process_info", "one"), 1.0);
    assert_eq!(value("counter", "hob_process_restarts_total", "one"), 1.0);
    assert!(value("gauge", "hob_process_resident_memory_bytes", "one") > 10_000.0);
    assert!(value("gauge", "node_supervisord_start_time_seconds", "one") > 1.7e9);
    assert_eq!(value("counter", "hob_process_log_bytes_total", "talks"), 8.0);
    assert_eq!(value("counter", "hob_process_log_dropped_bytes_total", "talks"), 0.0);
    assert!(value("counter", "hob_process_cpu_seconds_total", "one") >= 0.0);
    hob.shutdown();
}
