//! Every tree under conf/examples builds and serves, as its README says.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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
        assert!(own.contains(&format!("serves(\"{name}\"")), "no test for {name}");
        assert!(readme.contains(&format!("`{name}`")), "{name} is not in the README");
        let file = entry.path().join("dotcloud.yml").display().to_string();
        run(&mut home.command(&["check", &file])).expect(0);
    }
    assert!(seen >= 7, "{seen}");
}
