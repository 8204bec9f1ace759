//! Every tree under conf/examples builds and serves, as its README says.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::push::{waiting, with_free_ports};
use crate::support::*;

fn get(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.contains(" 200 ").then_some(text)
}

/// `hob up` on a copy of the example with ports that are free, until each port has answered; then Ctrl-C.
#[track_caller]
fn serves(example: &str, ports: &[&str], words: &[&str]) {
    if !need("python3") {
        return;
    }
    let mut home = Home::bare();
    let from = format!("{}/conf/examples/{example}", env!("CARGO_MANIFEST_DIR"));
    let tree = home.beside("tree");
    sh_ok(&format!("cp -a {from} {}", tree.display()));
    let numbers: Vec<u16> = ports.iter().map(|_| free_port()).collect();
    for (name, number) in ports.iter().zip(&numbers) {
        home = home.env(&format!("PORT_{name}"), &number.to_string());
    }
    let out = fs::File::create(home.beside("up.out")).expect("fresh");
    let err = out.try_clone().expect("one more");
    let mut command = home.command(&["up", &tree.display().to_string()]);
    let mut up = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().expect("hob starts");
    let text = || fs::read_to_string(home.beside("up.out")).unwrap_or_default();
    let mut answers = Vec::new();
    for number in &numbers {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = get(*number) {
                answers.push(answer);
                break;
            }
            let ended = up.try_wait().expect("ours");
            if ended.is_some() || std::time::Instant::now() > end {
                let _ = kill(Pid::from_raw(up.id() as i32), Signal::SIGTERM);
                wait_child(&mut up, Duration::from_secs(10));
                panic!("{example}: nobody answers on {number} ({ended:?}): {}", text());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    // Another would build in the home that this one runs in.
    let socket = home.beside("second.sock").display().to_string();
    let second = run(&mut home.command(&["--socket", &socket, "up", &tree.display().to_string()]));
    assert!(second.code == 1 && second.err.contains("is up already: pid"), "{second:?}");
    kill(Pid::from_raw(up.id() as i32), Signal::SIGINT).expect("it runs");
    let code = wait_child(&mut up, PATIENCE);
    let left = alive_with(&home.marker());
    for (pid, _) in &left {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    assert_eq!(code, Some(0), "{}", text());
    assert!(left.is_empty(), "{example} left {left:?}");
    for word in words {
        assert!(answers.iter().any(|a| a.contains(word)), "{example}: {word:?} is not in {answers:?}");
    }
}

#[test]
fn the_smallest_example_serves_and_ends_on_ctrl_c() {
    serves("httphello", &["WWW"], &[]);
}

#[test]
fn the_builder_in_a_subdirectory_works() {
    serves("subdirectory", &["WWW"], &[]);
}

#[test]
fn the_approot_example_works() {
    serves("approot", &["WWW"], &[]);
}

#[test]
fn the_process_example_works() {
    serves("process", &["WWW"], &[]);
}

#[test]
fn the_two_processes_example_serves_on_both_ports() {
    serves("processes", &["WWW", "BYE"], &["ello", "oodbye"]);
}

#[test]
fn the_profile_example_works() {
    serves("profile", &["WWW"], &[]);
}

#[test]
fn the_postinstall_example_works() {
    serves("postinstall", &["WWW"], &["the postinstall script"]);
}

/// A hob that has got the example, with ports that are free; the numbers by their keys.
#[track_caller]
fn pushed(example: &str, keys: &[&str], before: &[&[&str]]) -> (Hob, String, Vec<u16>) {
    // Databases refuse to run as root.
    let user = if nix::unistd::geteuid().is_root() { "user = \"nobody\"" } else { "" };
    let home = waiting(user);
    let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
    let ports = with_free_ports(&home, &keys);
    let hob = home.boot();
    for words in before {
        hob.ok(words);
    }
    let tree = hob.home.beside(example).display().to_string();
    sh_ok(&format!("cp -a {}/conf/examples/{example} {tree}", env!("CARGO_MANIFEST_DIR")));
    let ran = run_within(Duration::from_secs(300), &mut hob.home.command(&["push", &tree]));
    assert_eq!(ran.code, 0, "{example}: {}\n{}", ran.both(), hob.diary());
    (hob, tree, ports)
}

/// Sends lines to a port of this machine and returns what comes back first.
fn talk(port: u16, text: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a good length");
    stream.write_all(text.as_bytes()).expect("it is read");
    let mut answer = [0; 4096];
    let length = stream.read(&mut answer).expect("it answers");
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[test]
fn memcached_runs_beside_a_neighbour_of_another_type() {
    if !need("memcached") {
        return;
    }
    let (hob, _, ports) = pushed("memcached", &["cache.0.MC"], &[]);
    assert_eq!(talk(ports[0], "set a 0 0 1\r\nx\r\n"), "STORED\r\n");
    assert!(hob.ok(&["dlogs"]).out.contains("www"), "the neighbour is named");
    hob.shutdown();
}

#[test]
fn node_serves_from_three_instances_behind_one_address() {
    if !need_all(&["node", "npm", "haproxy"]) {
        return;
    }
    let keys = ["www.0.www", "www.behind.www", "www.1.www", "www.2.www"];
    let (hob, tree, ports) = pushed("nodehello", &keys, &[]);
    let answers = |count: usize| -> Vec<u32> {
        let is_from = |text: &str| (0..3).find(|n| text.contains(&format!("hello from instance {n}")));
        let mut all: Vec<u32> = (0..count).filter_map(|_| is_from(&get(ports[0])?)).collect();
        all.sort();
        all
    };
    assert_eq!(answers(2), [0, 0]);
    hob.ok(&["scale", "www=3"]);
    assert_eq!(answers(6), [0, 0, 1, 1, 2, 2], "{}", hob.diary());
    for (number, port) in ports[1..].iter().enumerate() {
        assert!(get(*port).is_some_and(|text| text.contains(&format!("hello from instance {number}"))));
    }
    run_within(Duration::from_secs(300), &mut hob.home.command(&["push", &tree])).expect(0);
    assert_eq!(answers(3), [0, 1, 2]);
    hob.shutdown();
}

#[test]
fn a_haproxy_of_ones_own_finds_its_backends_in_the_environment_file() {
    if !need_all(&["haproxy", "python3"]) {
        return;
    }
    let keys = ["haproxy.0.frontend", "zmqback1.0.zmq", "zmqback1.1.zmq", "zmqback2.0.zmq", "zmqback1.2.zmq"];
    let (hob, _, ports) = pushed("haproxy", &keys, &[]);
    let heard = |count: usize| {
        let mut all: Vec<String> = (0..count).map(|_| talk(ports[0], "").trim().to_owned()).collect();
        all.sort();
        all
    };
    let three = ["zmqback1.0", "zmqback1.1", "zmqback2.0"];
    wait_for("all are up to HAProxy", || (heard(3) == three).then_some(()));
    hob.ok(&["scale", "zmqback1=3"]);
    hob.ok(&["deploy", "latest"]);
    let four = ["zmqback1.0", "zmqback1.1", "zmqback1.2", "zmqback2.0"];
    wait_for("the new one too", || (heard(4) == four).then_some(()));
    hob.shutdown();
}

#[test]
fn go_builds_the_package_that_the_file_names() {
    if !need("go") {
        return;
    }
    let (hob, _, ports) = pushed("golang", &["www.0.www"], &[]);
    assert!(get(ports[0]).is_some_and(|text| text.contains("hello from go")));
    hob.shutdown();
}

#[test]
fn redis_has_its_password_from_the_variables() {
    if !need("redis-server") {
        return;
    }
    let (hob, tree, ports) = pushed("redis", &["redis.0.redis"], &[&["env", "set", "REDISPASS=s3cret"]]);
    assert!(talk(ports[0], "PING\r\n").starts_with("-NOAUTH"));
    assert_eq!(talk(ports[0], "AUTH s3cret\r\n"), "+OK\r\n");
    hob.ok(&["env", "set", "REDISPASS=other"]);
    assert_eq!(talk(ports[0], "AUTH other\r\n"), "+OK\r\n");
    hob.hob(&["env", "unset", "REDISPASS"]).expect(1).says("set it with hob env set REDISPASS");
    assert_eq!(talk(ports[0], "AUTH other\r\n"), "+OK\r\n", "the old one goes on");
    drop(tree);
    hob.shutdown();
}

#[test]
fn mariadb_keeps_its_tables_over_three_pushes() {
    if !need_all(&["mariadbd", "mariadb"]) {
        return;
    }
    let (hob, tree, ports) = pushed("mariadb", &["db.0.sql"], &[]);
    let sql = |line: &str| {
        let words = ["--no-defaults", "-h127.0.0.1", "-uroot", &format!("-P{}", ports[0]), "-Nse", line];
        run(std::process::Command::new("mariadb").args(words)).expect(0).out
    };
    sql("create database d; create table d.t (n int); insert into d.t values (1)");
    for n in 2..=3 {
        run_within(Duration::from_secs(300), &mut hob.home.command(&["push", &tree])).expect(0);
        assert_eq!(sql("select count(*) from d.t"), format!("{}\n", n - 1));
        sql(&format!("insert into d.t values ({n})"));
    }
    hob.ok(&["deploy", "previous"]);
    assert_eq!(sql("select count(*) from d.t"), "3\n");
    hob.shutdown();
}

#[test]
fn every_example_is_tested_here_and_told_in_the_readme_and_passes_the_check() {
    let dir = format!("{}/conf/examples", env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(format!("{dir}/README.md")).expect("there");
    let own = include_str!("examples.rs");
    let home = Home::bare();
    let mut seen = 0;
    for entry in fs::read_dir(&dir).expect("there") {
        let entry = entry.expect("an entry");
        if !entry.path().is_dir() {
            continue;
        }
        seen += 1;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_tested = ["serves", "pushed"].iter().any(|how| own.contains(&format!("{how}(\"{name}\"")));
        assert!(is_tested, "no test for {name}");
        assert!(readme.contains(&format!("`{name}`")), "{name} is not in the README");
        let file = entry.path().join("dotcloud.yml").display().to_string();
        run(&mut home.command(&["check", &file])).expect(0);
    }
    assert!(seen >= 13, "{seen}");
}
