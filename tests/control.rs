//! The control socket: HTTP and JSON for everyone's tools, and a patient face for hostile ones.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::*;

fn socket(hob: &Hob) -> PathBuf {
    hob.home.beside("hob.sock")
}

fn curl(hob: &Hob, args: &str) -> Ran {
    sh(&format!("curl -sS --max-time 20 --unix-socket {} {args}", socket(hob).display()))
}

#[test]
fn curl_lists_processes_as_json() {
    if !need("curl") {
        return;
    }
    let hob = Home::with("one: sleep 1000\ntwo: sleep 1000").boot();
    let pid = hob.running("one");
    let list = list_of(curl(&hob, "http://hob/v1/processes").expect(0).json(), "processes");
    assert_eq!(list.len(), 2);
    let one = list.iter().find(|p| p["name"] == "www:one").expect("it is there");
    assert_eq!(one["state"], "RUNNING");
    assert_eq!(one["statecode"], 20);
    assert_eq!(one["pid"], pid);
    assert_eq!(one["command"], "sleep 1000");
    assert!(one["logfile"].as_str().is_some_and(|l| l.ends_with("/one.log")));
    let head = curl(&hob, "-o /dev/null -w '%{http_code} %{content_type}' http://hob/v1/processes").expect(0);
    assert!(head.out.starts_with("200 application/json"), "{head:?}");
    let info = curl(&hob, "http://hob/v1/info").json();
    assert_eq!(info["pid"], hob.pid);
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    hob.shutdown();
}

#[test]
fn unknown_paths_and_methods_are_answered_in_json() {
    let hob = Home::with("one: sleep 1000").boot();
    let (code, body) = hob.http("GET", "/v1/nothing/here", None).expect("an answer");
    assert_eq!(code, 404);
    assert!(body["error"].is_string(), "{body}");
    let (code, body) = hob.http("DELETE", "/v1/processes", None).expect("an answer");
    assert_eq!(code, 405, "{body}");
    let (code, _) = hob.http("GET", "/v1/../../etc/passwd", None).expect("an answer");
    assert!(code >= 400);
    hob.shutdown();
}

#[test]
fn many_requests_on_one_connection_are_answered_in_order() {
    let hob = Home::with("one: sleep 1000").boot();
    hob.running("one");
    let mut stream = UnixStream::connect(socket(&hob)).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let one = "GET /v1/info HTTP/1.1\r\nHost: hob\r\n\r\n";
    // All at once, and in pieces.
    stream.write_all(one.repeat(5).as_bytes()).expect("it reads");
    for byte in one.bytes() {
        stream.write_all(&[byte]).expect("it reads");
    }
    stream.write_all(b"GET /v1/info HTTP/1.1\r\nHost: hob\r\nConnection: close\r\n\r\n").expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("seven answers and the end");
    assert_eq!(text.matches("HTTP/1.1 200").count(), 7, "{text}");
    hob.shutdown();
}

#[test]
fn the_socket_is_private_and_goes_with_the_daemon() {
    let hob = Home::with("one: sleep 1000").boot();
    let mode = fs::metadata(socket(&hob)).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let end = hob.shutdown();
    assert!(!end.home().beside("hob.sock").exists());
}

#[test]
fn a_socket_that_is_open_to_all_still_serves_root_its_own_user_and_its_group_alone() {
    if !need_all(&["root", "setpriv", "curl"]) {
        return;
    }
    let hob = Home::with("one: sleep 1000").settings("socket_mode = \"0666\"\nsocket_group = \"4711\"\n").boot();
    let pid = hob.running("one");
    let ask = |who: &str, method: &str, path: &str| {
        let line = format!("setpriv {who} -- curl -sS -o /dev/null -w '%{{http_code}}' -X {method} --unix-socket");
        sh_ok(&format!("{line} {} http://hob{path}", socket(&hob).display()))
    };
    for stranger in ["--reuid 65534 --regid 65534 --clear-groups", "--reuid 65534 --regid 65534 --groups 4710,4712"] {
        for (method, path) in [
            ("GET", "/v1/processes"),
            ("GET", "/v1/health"),
            ("POST", "/v1/stop"),
            ("GET", "/v1/logs"),
            ("POST", "/RPC2"),
            ("GET", "/"),
            ("GET", "/metrics"),
            ("GET", "/logtail/one"),
        ] {
            assert_eq!(ask(stranger, method, path), "403", "{stranger} {path}");
        }
    }
    for member in ["--reuid 65534 --regid 4711 --clear-groups", "--reuid 65534 --regid 65534 --groups 4710,4711"] {
        assert_eq!(ask(member, "GET", "/v1/processes"), "200", "{member}");
        assert_eq!(ask(member, "GET", "/v1/instances/www/environment"), "403", "{member}");
    }
    assert_eq!(ask("--reuid 0", "GET", "/v1/instances/www/environment"), "200");
    let client = format!("setpriv --reuid 65534 --regid 65534 --clear-groups -- {} --socket", hob_bin());
    let refused = sh(&format!("cd / && {client} {} status", socket(&hob).display()));
    assert!(refused.code != 0 && refused.err.contains("uid 65534 may not talk to hob: only root"), "{refused:?}");
    assert_eq!(hob.process("one").pid(), Some(pid));
    hob.shutdown();
}

#[test]
fn a_socket_that_was_removed_comes_back_on_hup_and_on_usr2() {
    let hob = Home::with("one: sleep 1000").boot();
    let pid = hob.running("one");
    for signal in [nix::sys::signal::Signal::SIGHUP, nix::sys::signal::Signal::SIGUSR2] {
        fs::remove_file(socket(&hob)).expect("it is there");
        assert_eq!(hob.hob(&["status"]).code, 4, "nobody can be reached");
        hob.signal(signal);
        wait_for("an answer", || hob.get("/v1/info")["pid"].is_number().then_some(()));
        assert_eq!(hob.process("one").pid(), Some(pid), "{signal}");
    }
    hob.shutdown();
}

#[test]
fn root_may_ask_an_ordinary_users_hob() {
    if !need_all(&["root", "setpriv"]) {
        return;
    }
    let hob = Home::with("one: sleep 1000").run_as_nobody().boot();
    hob.running("one");
    hob.ok(&["stop", "one"]);
    hob.shutdown();
}

#[test]
fn a_slow_or_hostile_client_holds_nobody_up() {
    let hob = Home::with("one: sleep 1000").boot();
    hob.running("one");
    let connect = || UnixStream::connect(socket(&hob)).expect("it listens");
    // Half a request, a header that never ends, a body that never comes, one that reads nothing.
    let mut half = connect();
    half.write_all(b"GET /v1/proc").expect("it reads");
    let mut body = connect();
    body.write_all(b"POST /v1/processes HTTP/1.1\r\nHost: hob\r\nContent-Length: 100000\r\n\r\nabc").expect("it reads");
    let mut deaf = connect();
    for _ in 0..2000 {
        deaf.set_write_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        if deaf.write_all(b"GET /v1/processes HTTP/1.1\r\nHost: hob\r\n\r\n").is_err() {
            break;
        }
    }
    let ran = hob.ok(&["status", "one"]);
    assert!(ran.took < Duration::from_secs(2), "{ran:?}");
    let before = cpu(hob.pid);
    std::thread::sleep(Duration::from_millis(600));
    assert!(cpu(hob.pid) - before < Duration::from_millis(200), "it spins over a client that does not read");
    hob.shutdown();
}

#[test]
fn a_huge_header_or_body_is_refused_and_costs_little() {
    let hob = Home::with("one: sleep 1000").boot();
    hob.running("one");
    let memory = own_kb(hob.pid);
    let big = "x".repeat(1 << 20);
    for request in [
        format!("GET /v1/processes HTTP/1.1\r\nHost: hob\r\nX-Big: {big}\r\n\r\n"),
        format!("GET /v1/{big} HTTP/1.1\r\nHost: hob\r\n\r\n"),
        format!("GET /v1/processes HTTP/1.1\r\nHost: hob\r\n{}\r\n", "A: b\r\n".repeat(20_000)),
        "POST /v1/processes HTTP/1.1\r\nHost: hob\r\nContent-Length: 99999999999\r\n\r\n".into(),
        "\x00\x01\x02\x03 garbage\r\n\r\n".into(),
        "GET /v1/processes HTTP/9.9\r\n\r\n".into(),
        "POST /v1/processes HTTP/1.1\r\nHost: hob\r\nContent-Length: -1\r\n\r\n".into(),
        "POST /v1/processes HTTP/1.1\r\nHost: hob\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc".into(),
    ] {
        let mut stream = UnixStream::connect(socket(&hob)).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let _ = stream.write_all(request.as_bytes());
        let mut answer = [0; 64];
        // A refusal, or the connection simply ends; never an answer as if all were well.
        if let Ok(n) = stream.read(&mut answer) {
            let answer = String::from_utf8_lossy(&answer[..n]).into_owned();
            assert!(
                n == 0 || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 5"),
                "{answer}: {:.80}",
                request
            );
        }
    }
    hob.ok(&["status", "one"]);
    assert!(own_kb(hob.pid) < memory + 4000, "{} kB after {memory}", own_kb(hob.pid));
    hob.shutdown();
}

#[test]
fn two_hundred_idle_connections_leave_room_for_the_next() {
    let hob = Home::with("one: sleep 1000").boot();
    hob.running("one");
    let memory = own_kb(hob.pid);
    let mut idle = Vec::new();
    for _ in 0..200 {
        match UnixStream::connect(socket(&hob)) {
            Ok(stream) => idle.push(stream),
            Err(_) => break,
        }
    }
    let ran = hob.ok(&["status", "one"]);
    assert!(ran.took < Duration::from_secs(3), "{ran:?}");
    assert!(own_kb(hob.pid) < memory + 4000, "{} kB after {memory}", own_kb(hob.pid));
    let before = cpu(hob.pid);
    std::thread::sleep(Duration::from_millis(500));
    assert!(cpu(hob.pid) - before < Duration::from_millis(150), "it spins");
    drop(idle);
    hob.ok(&["status", "one"]);
    hob.shutdown();
}

#[test]
fn a_flood_of_connections_beyond_the_descriptor_limit_does_not_spin_or_kill() {
    if !need("prlimit") {
        return;
    }
    let hob = Home::with("one: sleep 1000").under(&["prlimit", "--nofile=64:64", "--"]).boot();
    hob.running("one");
    let mut all = Vec::new();
    for _ in 0..150 {
        let stream = UnixStream::connect(socket(&hob));
        if let Ok(s) = stream {
            all.push(s);
        }
    }
    let before = cpu(hob.pid);
    std::thread::sleep(Duration::from_secs(1));
    let used = cpu(hob.pid) - before;
    assert!(used < Duration::from_millis(300), "it spins at its descriptor limit: {used:?} in 1 s");
    assert!(hob.is_alive());
    drop(all);
    wait_for("an answer again", || hob.get("/v1/info")["pid"].is_number().then_some(()));
    hob.ok(&["restart", "one"]);
    hob.shutdown();
}

#[test]
fn a_second_daemon_on_the_same_socket_is_refused_and_the_first_goes_on() {
    let hob = Home::with("one: sleep 1000").boot();
    let pid = hob.running("one");
    let mut command = Command::new(hob_bin());
    command.args(["boot", "--home", &hob.home.at("").display().to_string()]);
    hob.home.dress(&mut command);
    let ran = run_within(PATIENCE, &mut command);
    assert_ne!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("hob.sock") && ran.err.contains(&hob.pid.to_string()), "it says by whom: {ran:?}");
    assert_eq!(hob.process("one").pid(), Some(pid));
    assert_eq!(hob.process("one").restarts(), 0);
    hob.shutdown();
}

#[test]
fn a_stale_socket_is_replaced_and_a_file_of_somebody_else_is_not() {
    let home = Home::with("one: sleep 1000");
    let listener = std::os::unix::net::UnixListener::bind(home.beside("hob.sock")).expect("a fresh path");
    drop(listener);
    assert!(home.beside("hob.sock").exists(), "stale");
    let hob = home.boot();
    hob.running("one");
    hob.shutdown();

    let home = Home::with("one: sleep 1000");
    fs::write(home.beside("hob.sock"), "precious").expect("a fresh path");
    let ran = home.boot_fails();
    assert_ne!(ran.code, 0, "{ran:?}");
    assert_eq!(fs::read_to_string(home.beside("hob.sock")).expect("still there"), "precious");
}

#[test]
fn a_socket_path_that_is_too_long_is_a_clear_error() {
    let long = format!("/tmp/{}/hob.sock", "x".repeat(120));
    let ran = Home::with("one: sleep 1000").env("HOB_SOCKET", &long).boot_fails();
    assert_ne!(ran.code, 0);
    assert!(
        ran.err.contains("xxxx") && (ran.err.contains("long") || ran.err.contains("107") || ran.err.contains("108")),
        "{ran:?}"
    );
}

#[test]
fn a_place_where_no_socket_can_be_is_a_clear_error_with_a_way_out() {
    if !need("root") {
        return;
    }
    let ran = Home::with("one: sleep 1000").env("HOB_SOCKET", "/etc/hob.sock").run_as_nobody().boot_fails();
    assert_eq!(ran.code, 111);
    let wanted =
        "hob: cannot bind /etc/hob.sock: permission denied; choose another place with --socket or HOB_SOCKET\n";
    assert_eq!(ran.err, wanted);
}

#[test]
fn a_waiting_client_that_goes_away_is_forgotten() {
    let hob = Home::with("one: {command: '{prop} stubborn 1 {dir}', stopwaitsecs: 4}").boot();
    hob.wait_log("one.log", "stubborn");
    let fds = fd_count(hob.pid);
    let stops: Vec<Background> = (0..20).map(|n| hob.background(&["stop", "one"], &format!("stop{n}"))).collect();
    hob.wait_state("one", "STOPPING");
    drop(stops);
    hob.wait_state("one", "STOPPED");
    wait_for("their descriptors to be closed", || (fd_count(hob.pid) <= fds).then_some(()));
    hob.shutdown();
}

#[test]
fn the_openapi_file_and_the_manual_name_every_path_that_answers() {
    let manual = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/man/hob-api.7")).expect("hob-api(7)");
    let file = sh_ok(&format!(
        "find {}/conf {}/man {}/docs -name '*openapi*' 2>/dev/null || true",
        env!("CARGO_MANIFEST_DIR"),
        env!("CARGO_MANIFEST_DIR"),
        env!("CARGO_MANIFEST_DIR")
    ));
    let path = file.lines().next().expect("an OpenAPI file");
    let text = fs::read_to_string(path).expect("just found");
    let api: Value = if path.ends_with("json") {
        serde_json::from_str(&text).expect("JSON")
    } else {
        serde_json::from_str(&sh_ok(&format!(
            "python3 -c 'import yaml,json,sys; print(json.dumps(yaml.safe_load(open(\"{path}\"))))'"
        )))
        .expect("YAML")
    };
    let hob = Home::with("one: sleep 1000").boot();
    hob.running("one");
    let paths = api["paths"].as_object().expect("paths");
    assert!(paths.len() >= 5, "{paths:?}");
    for (path, methods) in paths {
        assert!(
            manual.replace("\\-", "-").contains(path.split('{').next().expect("a beginning")),
            "{path} is not in hob-api(7)"
        );
        if methods.get("get").is_some() && !path.contains('{') && !path.contains("events") && !path.contains("logs") {
            let (code, body) = hob.http("GET", path, None).expect("an answer");
            assert_ne!(code, 404, "{path}: {body}");
        }
    }
    hob.shutdown();
}

#[test]
fn what_is_disabled_stays_down_over_restarts_and_patterns_name_several() {
    let hob = Home::with("web_1: sleep 1000\nweb_2: sleep 1000\ndb: sleep 1000").boot();
    for name in ["web_1", "web_2", "db"] {
        hob.running(name);
    }
    let out = hob.ok(&["disable", "--now", "web_*"]).out;
    assert!(out.contains("www:web_1: disabled\nwww:web_2: disabled\n") && out.contains("www:web_2: stopped"), "{out}");
    assert!(hob.ok(&["why", "web_1"]).out.contains("autostart  no"));
    let hob = hob.shutdown().into_home().boot();
    hob.running("db");
    assert_eq!((hob.process("web_1").state(), hob.process("web_2").state()), ("STOPPED", "STOPPED"));
    hob.ok(&["reload"]);
    assert_eq!(hob.process("web_1").state(), "STOPPED");
    hob.ok(&["enable", "--now", "web_1"]);
    let first = hob.running("web_1");
    hob.ok(&["restart", "--rolling", "web_?", "db"]);
    assert!(hob.running("web_1") != first && hob.process("web_2").state() == "RUNNING");
    let hob = hob.shutdown().into_home().boot();
    hob.running("web_1");
    assert_eq!(hob.process("web_2").state(), "STOPPED", "it was not enabled");
    hob.hob(&["stop", "zeb*"]).expect(1).says("no process \"zeb*\"");
    hob.shutdown();
}
