//! How a process comes to be: its user, its pid, its shell or none.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::support::*;

#[test]
fn a_simple_command_is_the_program_itself_and_anything_else_a_shell() {
    for profile in [false, true] {
        let home = Home::with(
            "plain: {prop} stamp {home}/plain plain\nvariable: {prop} stamp $HOME/variable variable\n\
             tilde: {prop} stamp ~/tilde tilde\ngroup: {prop} stamp {home}/group group; true",
        );
        let hob = if profile { home.file("profile", "export A=1\n") } else { home }.boot();
        for name in ["plain", "variable", "tilde"] {
            let wrote = hob.wait_file(name);
            let pid: i32 = wrote.split(' ').nth(1).and_then(|p| p.parse().ok()).expect("a pid");
            assert_eq!(hob.running(name), pid, "{name} (profile: {profile}) is exec'ed");
            assert!(fs::read_link(format!("/proc/{pid}/exe")).expect("runs").ends_with("prop"), "{name}");
        }
        let wrote = hob.wait_file("group");
        let pid: i32 = wrote.split(' ').nth(1).and_then(|p| p.parse().ok()).expect("a pid");
        assert_ne!(hob.running("group"), pid);
        hob.shutdown();
    }
}

#[test]
fn without_a_profile_and_without_shell_characters_there_is_no_shell_at_all() {
    // A shell would read this file, which BASH_ENV and ENV name.
    let hob = Home::with("one: {prop} stamp {home}/one one")
        .file("trap", "touch {home}/a-shell-was-here\n")
        .env("BASH_ENV", "/nonexistent")
        .boot();
    hob.running("one");
    hob.wait_file("one");
    assert!(!hob.home.at("a-shell-was-here").exists());
    hob.shutdown();
}

#[test]
fn privileges_are_dropped_to_the_user_with_his_groups_and_variables() {
    if !need("root") {
        return;
    }
    let hob = Home::with(
        "one: {command: sh -c 'id -u; id -g; id -G; echo $USER $LOGNAME; echo $SHELL; exec sleep 1000', user: nobody}\n\
         byid: {command: sh -c 'id -u; id -g; exec sleep 1000', user: '65534:65534'}\n\
         root: {command: sh -c 'id -u; exec sleep 1000', user: root}",
    )
    .boot();
    let log = hob.wait_log("one.log", "nobody nobody");
    assert!(log.starts_with("65534\n65534\n65534\n"), "{log}");
    hob.wait_log("byid.log", "65534\n65534\n");
    hob.wait_log("root.log", "0\n");
    let pid = hob.running("one");
    for key in ["CapEff", "CapPrm"] {
        let caps = proc_status(pid, key).expect("there");
        assert!(caps.chars().all(|c| c == '0'), "{key} {caps}");
    }
    hob.shutdown();
}

#[test]
fn the_user_of_the_settings_runs_postinstall_and_processes() {
    if !need("root") {
        return;
    }
    let home = Home::with("one: sh -c 'echo $(id -un) $HOME; exec sleep 1000'\ntwo: {command: sh -c 'id -un; exec sleep 1000', user: root}")
        .script("postinstall", "#!/bin/sh\nid -un > ~/installer\n")
        .settings("user = \"nobody\"\n");
    sh_ok(&format!("chown -R 65534:65534 {}", home.at("").display()));
    let hob = home.boot();
    hob.wait_log("one.log", &format!("nobody {}", hob.home.at("").display()));
    hob.wait_log("two.log", "root\n");
    assert_eq!(fs::read_to_string(hob.home.at("installer")).expect("it ran"), "nobody\n");
    assert_eq!(fs::metadata(hob.home.at("environment.json")).expect("there").uid(), NOBODY);
    hob.shutdown();
}

#[test]
fn running_as_root_is_said_once() {
    if !need("root") {
        return;
    }
    if sh("id dotcloud").code == 0 {
        return;
    }
    let hob = Home::with("one: sleep 1000\ntwo: sleep 1000\nthree: sleep 1000").boot();
    hob.running("three");
    let err = hob.err();
    let said = err.lines().filter(|l| l.to_lowercase().contains("as root")).count();
    assert_eq!(said, 1, "{err}");
    hob.shutdown();
}

#[test]
fn an_ordinary_users_hob_needs_nothing_of_root() {
    if !need_all(&["root", "setpriv"]) {
        return;
    }
    let hob = Home::with("one: sh -c 'id -u; exec sleep 1000'").run_as_nobody().boot();
    hob.wait_log("one.log", "65534");
    hob.running("one");
    hob.ok(&["restart", "one"]);
    hob.shutdown();
}

#[test]
fn a_command_that_is_a_builtin_or_has_an_assignment_runs_as_written() {
    let hob = Home::with(
        "builtin: exec {prop} stamp {home}/builtin b\nloop: for i in 1 2 3; do echo $i; done; exec sleep 1000\n\
         both: A=1 B=2 sh -c 'echo $A$B; exec sleep 1000'\nredirect: echo hidden > ~/redirected; exec sleep 1000",
    )
    .boot();
    hob.wait_file("builtin");
    hob.wait_log("loop.log", "1\n2\n3\n");
    hob.wait_log("both.log", "12");
    assert_eq!(hob.wait_file("redirected"), "hidden\n");
    hob.shutdown();
}

#[test]
fn a_profile_that_fails_or_exits_is_told() {
    let hob = Home::with("one: {command: sleep 1000, startretries: 0}")
        .file("profile", "echo the profile speaks\nexit 3\n")
        .boot();
    let end = hob.wait_state("one", "FATAL");
    assert!(end.last_exit().contains("code 3") || end.why().contains("code 3"), "{end:?}");
    hob.wait_log("one.log", "the profile speaks");
    hob.shutdown();
}
