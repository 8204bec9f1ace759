//! `hob git-init`: a git push is a deployment, and one that fails is refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::push::{current, daemon, inside, reboot};
use crate::support::*;

const YML: &str = "www:\n  type: custom\n  buildscript: builder\n  process: sh -c 'cat ~/version; exec sleep 1000'\n";

/// A clone's work tree, with nothing in it yet.
fn clone(hob: &Hob, name: &str) -> String {
    let dir = hob.home.beside(name).display().to_string();
    git(&dir, &["init", "-q", "-b", "main", "."]).expect(0);
    dir
}

#[track_caller]
fn git(dir: &str, words: &[&str]) -> Ran {
    fs::create_dir_all(dir).expect("the scratch directory takes one");
    let mut command = Command::new("git");
    command.args(["-c", "user.name=t", "-c", "user.email=t@example.org"]).args(words).current_dir(dir);
    for name in ["HOB_SOCKET", "HOB_LOG_DIR", "HOB_STATE_DIR", "HOB_CONFIG"] {
        command.env_remove(name);
    }
    run(&mut command)
}

/// The commit, seven digits of it.
#[track_caller]
fn commit(dir: &str, builder: &str) -> String {
    fs::write(format!("{dir}/dotcloud.yml"), YML).expect("a file");
    fs::write(format!("{dir}/builder"), builder).expect("a file");
    git(dir, &["add", "-A"]).expect(0);
    git(dir, &["commit", "-q", "-m", "a change"]).expect(0);
    git(dir, &["rev-parse", "HEAD"]).expect(0).out[..7].to_owned()
}

fn names(dir: &str, branch: &str) -> String {
    git(dir, &["rev-parse", "--quiet", "--verify", branch]).out.trim().chars().take(7).collect()
}

#[test]
fn a_git_push_deploys_and_one_that_fails_is_refused() {
    if !need("git") {
        return;
    }
    let hob = daemon("");
    // What a shell would take for more than one word.
    let bare = hob.home.beside("it's $HOME.git").display().to_string();
    hob.ok(&["git-init", &bare]).says("git push hob HEAD:main");
    let dir = clone(&hob, "work");
    let first =
        commit(&dir, "git rev-parse --git-dir 2>&1\nenv | grep -E '^GIT_(DIR|OBJ|QUAR)'\necho one > ~/version\n");
    let ran = git(&dir, &["push", &bare, "main"]).expect(0);
    for word in [
        &format!("--> Build started for revision git-{first}"),
        "not a git repository",
        "--> Application fully deployed",
    ] {
        assert!(ran.err.contains(word), "{word:?} is not in {}", ran.err);
    }
    assert!(!ran.err.contains("] GIT_"), "{}", ran.err);
    assert_eq!(current(&hob), format!("git-{first}"));
    assert_eq!(inside(&hob, "www", "version"), "one");
    let environment: serde_json::Value =
        serde_json::from_str(&inside(&hob, "www", "environment.json")).expect("it is JSON");
    assert_eq!(environment["DOTCLOUD_PROJECT"], "it's $HOME");

    let pid = hob.running("www");
    let second = commit(&dir, "echo the reason\nexit 3\n");
    let ran = git(&dir, &["push", &bare, "main"]).expect(1);
    for word in ["[www] the reason", "exited with code 3", "pre-receive hook declined"] {
        assert!(ran.err.contains(word), "{word:?} is not in {}", ran.err);
    }
    assert_eq!(hob.running("www"), pid, "the old release was not even touched");
    assert_eq!((names(&bare, "main"), current(&hob)), (first.clone(), format!("git-{first}")));
    // The same commit is tried again.
    git(&dir, &["push", &bare, "main"]).expect(1).says(&format!("revision git-{second}"));

    let ran = git(&dir, &["push", &bare, "HEAD:refs/heads/other"]).expect(0);
    assert!(ran.err.contains("other is kept and not deployed: only main is"), "{}", ran.err);
    assert_eq!((names(&bare, "other"), current(&hob)), (second, format!("git-{first}")));

    let third = commit(&dir, "echo three > ~/version\n");
    git(&dir, &["push", "--force", &bare, "main"]).expect(0);
    assert_eq!((current(&hob), inside(&hob, "www", "version")), (format!("git-{third}"), "three".into()));
    let hob = reboot(hob);
    assert_eq!(inside(&hob, "www", "version"), "three");
    hob.shutdown();
}

#[test]
fn without_a_daemon_the_push_is_refused_and_says_why() {
    if !need("git") {
        return;
    }
    let hob = daemon("");
    let bare = hob.home.beside("app.git").display().to_string();
    hob.ok(&["git-init", &bare]);
    let dir = clone(&hob, "work");
    commit(&dir, "true\n");
    let ended = hob.shutdown();
    let ran = git(&dir, &["push", &bare, "main"]).expect(1);
    let socket = ended.home().beside("hob.sock").display().to_string();
    assert!(ran.err.contains("remote: hob: ") && ran.err.contains(&socket), "{}", ran.err);
    assert!(names(&bare, "main").is_empty());
    // The binary is gone too.
    let hook = format!("{bare}/hooks/pre-receive");
    let text = fs::read_to_string(&hook).expect("there").replace(hob_bin(), "/nowhere/hob");
    fs::write(&hook, text).expect("ours");
    let ran = git(&dir, &["push", &bare, "main"]).expect(1);
    assert!(ran.err.contains("there is no /nowhere/hob any more"), "{}", ran.err);
}

#[test]
fn of_two_git_pushes_at_once_one_is_deployed_and_the_other_is_told() {
    if !need_all(&["git", "flock"]) {
        return;
    }
    let hob = daemon("");
    let bare = hob.home.beside("app.git").display().to_string();
    hob.ok(&["git-init", &bare]);
    let go = hob.home.beside("go").display().to_string();
    let (dir, other) = (clone(&hob, "work"), clone(&hob, "other"));
    let first = commit(&dir, &format!("until [ -e {go} ]; do sleep 0.02; done\necho one > ~/version\n"));
    commit(&other, "echo other > ~/version\n");
    let line = format!("cd {dir} && exec git push {bare} main");
    let pusher = std::thread::spawn(move || sh(&line));
    wait_for("the build begins", || hob.ok(&["revisions"]).out.contains("building").then_some(()));
    git(&other, &["push", &bare, "main"]).expect(1).says("another push is being deployed");
    fs::write(&go, "").expect("a file");
    pusher.join().expect("it ends").expect(0);
    git(&other, &["push", &bare, "main"]).expect(1);
    assert_eq!((names(&bare, "main"), current(&hob)), (first.clone(), format!("git-{first}")));
    hob.shutdown();
}

#[test]
fn a_repository_gets_a_new_hook_and_what_is_none_is_refused() {
    if !need("git") {
        return;
    }
    let home = Home::bare();
    let init = |words: &[&str]| run(&mut home.command(&[&["git-init"], words].concat()));
    let at = |name: &str| home.beside(name).display().to_string();
    let bare = at("app.git");
    init(&[&bare]).expect(0).says("is made");
    let hook = format!("{bare}/hooks/pre-receive");
    let good = fs::read_to_string(&hook).expect("there");
    assert_eq!(fs::metadata(&hook).expect("there").permissions().mode() & 0o777, 0o755);
    fs::write(&hook, good.replace("--socket", "--other")).expect("ours");
    init(&[&bare]).expect(0).says("its branch main");
    assert_eq!(fs::read_to_string(&hook).expect("there"), good);
    init(&[&bare, "--branch", "live"]).expect(0).says("its branch live");
    init(&[&bare]).expect(0).says("its branch live");
    init(&[&bare, "--branch", "a..b"]).expect(2).says("no branch can have this name");
    fs::write(&hook, "#!/bin/sh\nexit 0\n").expect("ours");
    init(&[&bare]).expect(1).says("there is one that hob has not made");
    assert_eq!(fs::read_to_string(&hook).expect("there"), "#!/bin/sh\nexit 0\n");

    fs::create_dir(at("full")).expect("fresh");
    fs::write(at("full/file"), "").expect("fresh");
    init(&[&at("full")]).expect(2).says("it is not empty");
    assert!(!Path::new(&at("full/hooks")).exists());
    git(&at("tree"), &["init", "-q"]).expect(0);
    init(&[&at("tree")]).expect(2).says("it has a work tree");
    init(&[&at("full/file")]).expect(2).says("not a directory");
    fs::create_dir(at("empty")).expect("fresh");
    init(&[&at("empty")]).expect(0);
    let ran = run(home.command(&["git-init", &at("new")]).env("PATH", "/nowhere")).expect(111);
    assert!(ran.err.contains("cannot run git") && ran.err.contains("install the package git"), "{}", ran.err);
}
