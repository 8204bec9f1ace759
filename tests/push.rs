//! From a pushed tree to a running release, and back: `hob push`, `deploy`, `revisions`, `dlogs`, `env`, `scale`,
//! `destroy`, and what happens when any of it goes wrong.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::*;

/// A daemon that waits for pushes, with a scratch path as the home and short start times.
pub fn daemon(more: &str) -> Hob {
    waiting(more).boot()
}

pub fn waiting(more: &str) -> Home {
    let settings =
        format!("home = \"{{dir}}/app\"\nresponsive_timeout = \"8s\"\n{more}\n[defaults]\nstartsecs = \"50ms\"\n");
    Home::bare().without_home().settings(&settings)
}

/// A tree beside the home; names that end in `+` are executable.
pub fn tree(hob: &Hob, name: &str, files: &[(&str, &str)]) -> String {
    let dir = hob.home.beside(name);
    let _ = fs::remove_dir_all(&dir);
    for (name, text) in files {
        let path = dir.join(name.trim_end_matches('+'));
        fs::create_dir_all(path.parent().expect("in the tree")).expect("a fresh directory");
        fs::write(&path, hob.home.fill(text)).expect("a fresh file");
        let mode = if name.ends_with('+') { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("our own");
    }
    dir.display().to_string()
}

/// Numbers that nobody else uses: other tests run at the same time, and each daemon would begin with the same ones.
pub fn with_free_ports(home: &Home, keys: &[String]) -> Vec<u16> {
    let mut ports = serde_json::Map::new();
    for key in keys {
        let is_new = |port: &u16| *port >= 42_800 && !ports.values().any(|used| used == port);
        let port = std::iter::repeat_with(free_port).find(is_new).expect("some are free");
        ports.insert(key.clone(), port.into());
    }
    let text = serde_json::Value::Object(ports.clone()).to_string();
    fs::write(home.beside("state/ports.json"), text).expect("the state directory takes a file");
    keys.iter().filter_map(|key| ports[key].as_u64()?.try_into().ok()).collect()
}

const YML: &str = "www:\n  type: custom\n  buildscript: builder\n  process: sh -c 'cat ~/version; exec sleep 1000'\n";

/// A tree of one service without a port whose home says which version it is.
pub fn version(hob: &Hob, version: &str) -> String {
    tree(
        hob,
        &format!("tree-{version}"),
        &[("dotcloud.yml", YML), ("builder", &format!("echo {version} > ~/version\n"))],
    )
}

/// A file in the home of an instance, as seen from inside.
#[track_caller]
pub fn inside(hob: &Hob, instance: &str, file: &str) -> String {
    hob.ok(&["run", instance, "--", "sh", "-c", &format!("cat {file}")]).out.trim().to_owned()
}

#[track_caller]
fn runs(hob: &Hob, instance: &str, version: &str) {
    hob.running(instance);
    assert_eq!(inside(hob, instance, "version"), version, "{}", hob.diary());
}

pub fn current(hob: &Hob) -> String {
    let list = list_of(hob.ok(&["revisions", "--json"]).json(), "revisions");
    let current = list.iter().find(|r| r["current"] == true).expect("something is deployed");
    current["revision"].as_str().expect("a word").to_owned()
}

fn find(hob: &Hob, what: &str) -> String {
    sh(&format!("find {} -name '{what}'", hob.home.beside("state").display())).out
}

#[test]
fn a_push_serves_a_second_one_replaces_it_and_a_rollback_brings_the_first_back() {
    let hob = daemon("");
    assert!(hob.status().is_empty());
    let ran = hob.ok(&["push", &version(&hob, "one")]);
    for word in [
        "--> Build started for revision rsync-",
        "[www] buildscript builder",
        "--> Build completed successfully. Compiled image size is 4B",
        "--> Using default scaling for service www (1 instance(s)).",
        "[www.0] Launching...",
        "[www.0] Waiting for the instance to become responsive...",
        "--> Application fully deployed",
        "www: http://127.0.0.1:428",
    ] {
        assert!(ran.out.contains(word), "{word:?} is not in {}", ran.out);
    }
    runs(&hob, "www", "one");
    let first = current(&hob);
    hob.ok(&["push", &version(&hob, "two")]);
    runs(&hob, "www", "two");
    hob.ok(&["deploy", "previous"]);
    runs(&hob, "www", "one");
    assert_eq!(current(&hob), first);
    hob.hob(&["deploy", "previous"]).expect(1).says("there is no release before");
    hob.ok(&["deploy", "latest"]);
    runs(&hob, "www", "two");
    hob.ok(&["deploy", &first]);
    runs(&hob, "www", "one");
    let log = hob.ok(&["dlogs", &current(&hob)]);
    assert!(log.out.contains("Deploying revision") && log.out.contains("fully deployed"), "{}", log.out);
    let table = hob.ok(&["revisions"]).out;
    assert!(table.contains("current") && table.contains("ready"), "{table}");
    hob.shutdown();
}

#[test]
fn what_was_deployed_boots_again_without_a_build_or_postinstall() {
    let hob = daemon("");
    let dir = tree(
        &hob,
        "tree",
        &[
            ("dotcloud.yml", YML),
            ("builder", "echo one > ~/version\n"),
            ("postinstall+", "#!/bin/sh\necho p >> ~/posts\n"),
        ],
    );
    hob.ok(&["push", &dir]);
    fs::remove_dir_all(&dir).expect("the tree is ours to remove");
    assert_eq!(inside(&hob, "www", "posts"), "p");
    let hob = reboot(hob);
    runs(&hob, "www", "one");
    assert_eq!(inside(&hob, "www", "posts"), "p");
    hob.ok(&["reload"]);
    runs(&hob, "www", "one");
    hob.shutdown();
}

/// The same state, another daemon.
#[track_caller]
pub fn reboot(mut hob: Hob) -> Hob {
    assert_eq!(hob.hob(&["shutdown"]).code, 0);
    hob.wait_end();
    let home = std::mem::replace(&mut hob.home, Home::bare());
    drop(hob);
    home.boot()
}

/// What is wrong, the tree, and what is said about it.
type Failing<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);

#[test]
fn whatever_goes_wrong_the_old_release_goes_on() {
    let hob = daemon("");
    hob.ok(&["push", &version(&hob, "good")]);
    let good = current(&hob);
    let worker = "www:\n  type: custom\n  buildscript: builder\n  process: ";
    let cases: &[Failing<'_>] = &[
        ("no builder", &[("dotcloud.yml", YML)], &["cannot find the buildscript \"builder\" in {dir}/bad;"]),
        (
            "a failing builder",
            &[("dotcloud.yml", YML), ("builder", "echo before\necho ${PORT_WWW:?}\n")],
            &["exited with code", "hint: it uses PORT_WWW, set only at run time"],
        ),
        (
            "a failing postinstall",
            &[
                ("dotcloud.yml", YML),
                ("builder", "echo bad > ~/version"),
                ("postinstall+", "#!/bin/sh\necho oh no\nexit 7\n"),
            ],
            &["postinstall \"./postinstall\" exited with code 7", "oh no"],
        ),
        (
            "a program that is not there",
            &[("dotcloud.yml", &format!("{worker}~/missing\n")), ("builder", "echo bad > ~/version")],
            &["cannot exec", "no such file"],
        ),
        (
            "a program that dies at once",
            &[
                (
                    "dotcloud.yml",
                    &format!(
                        "{worker}\n    command: sh -c 'echo last words; exit 3'\n    restart_delay: 10ms\n    startsecs: 1\n"
                    ),
                ),
                ("builder", "echo bad > ~/version"),
            ],
            &["exited with code 3", "last words"],
        ),
        (
            "a program that gives up",
            &[
                (
                    "dotcloud.yml",
                    &format!("{worker}\n    command: sh -c 'exit 3'\n    startretries: 0\n    startsecs: 1\n"),
                ),
                ("builder", "echo bad > ~/version"),
            ],
            &["FATAL"],
        ),
        (
            "a port that nobody answers",
            &[
                ("dotcloud.yml", &format!("{worker}sleep 1000\n  ports: {{web: http}}\n")),
                ("builder", "echo bad > ~/version"),
            ],
            &["nothing accepts connections on port 428", "within 8 s"],
        ),
        ("a bad file", &[("dotcloud.yml", "www:\n  type: cusotm\n")], &["{dir}/bad/dotcloud.yml:2:9: ", "custom"]),
        ("another type alone", &[("dotcloud.yml", "www:\n  type: python\n")], &["no custom service"]),
    ];
    for (what, files, words) in cases {
        let dir = tree(&hob, "bad", files);
        let before = hob.running("www");
        let ran = hob.hob(&["push", &dir]);
        let expected = if *what == "a bad file" || *what == "another type alone" { 2 } else { 1 };
        assert_eq!(ran.code, expected, "{what}: {}", ran.both());
        for word in words.iter().map(|word| hob.home.fill(word)) {
            assert!(ran.err.contains(&word), "{what}: {word:?} is not in {}", ran.err);
        }
        let serves = format!("nothing new was deployed: {good} goes on serving");
        assert_eq!(ran.err.lines().last(), Some(format!("hob: {serves}").as_str()), "{what}");
        let dlogs = hob.ok(&["dlogs", "latest"]).out;
        assert!(dlogs.trim_end().ends_with(&format!("--> {serves}")), "{what}: {dlogs}");
        runs(&hob, "www", "good");
        if !what.starts_with("a p") {
            assert_eq!(hob.running("www"), before, "{what}: it was not even touched");
        }
        assert_eq!(current(&hob), good);
        let left = find(&hob, "builder");
        assert_eq!(left.lines().count(), 1, "{what}: {left}");
        assert!(!hob.home.beside("state/rolling.json").exists());
    }
    let hob = reboot(hob);
    runs(&hob, "www", "good");
    let list = hob.ok(&["revisions"]).out;
    assert!(list.contains("failed") && list.contains("exited with code"), "{list}");
    hob.shutdown();
}

#[test]
fn a_first_push_that_fails_says_that_nothing_was_running_before() {
    let hob = daemon("");
    hob.ok(&["env", "set", "REDISPASS=secret"]);
    let dir = tree(&hob, "bad", &[("dotcloud.yml", YML), ("builder", "echo pass $REDISPASS\nexit 4\n")]);
    let ran = hob.hob(&["push", &dir]).expect(1).says("hint: it uses REDISPASS, set only at run time");
    assert_eq!(ran.err.lines().last(), Some("hob: nothing new was deployed: nothing was running before"));
    hob.shutdown();
}

#[test]
fn a_release_that_is_fatal_is_taken_back_before_exit_when_ends_hob() {
    let mut hob = daemon("exit_when = \"any-fatal\"");
    hob.ok(&["push", &version(&hob, "good")]);
    let fatal = "www:\n  type: custom\n  process: {command: 'exit 3', startretries: 0, startsecs: 1}\n";
    hob.hob(&["push", &tree(&hob, "bad", &[("dotcloud.yml", fatal)])]).expect(1).says("FATAL");
    runs(&hob, "www", "good");
    // The rule holds again afterwards.
    let later =
        "www:\n  type: custom\n  process: {command: 'test -e {dir}/go && sleep 1000; exit 3', startretries: 0}\n";
    fs::write(hob.home.beside("go"), "").expect("written");
    hob.ok(&["push", &tree(&hob, "later", &[("dotcloud.yml", later)])]);
    fs::remove_file(hob.home.beside("go")).expect("it was there");
    hob.ok(&["signal", "TERM", "www"]);
    assert_eq!(hob.wait_end(), 3);
    hob.nothing_is_left();
}

#[test]
fn a_builder_that_hangs_or_leaves_a_daemon_behind_is_ended() {
    let hob = daemon("build_timeout = \"1s\"");
    let dir = tree(&hob, "hangs", &[("dotcloud.yml", YML), ("builder", "echo {dir}\nsleep 1000 & sleep 1001\n")]);
    let ran = hob.hob(&["push", &dir]).expect(1).says("took longer than 1 s");
    assert!(ran.took.as_secs() < 20, "{ran:?}");
    let text = "echo one > ~/version\nsetsid sh -c 'sleep 1002; : {dir}' &\n(setsid sleep 1003 &)\nexec >&-\n";
    let dir = tree(&hob, "daemon", &[("dotcloud.yml", YML), ("builder", text)]);
    hob.ok(&["push", &dir]);
    for pid in all_pids() {
        let line = cmdline(pid);
        let is_ours = environ(pid).iter().any(|v| v.contains(&hob.home.marker()));
        assert!(!(is_ours && line.starts_with("sleep 100") && line != "sleep 1000"), "{line} is left");
    }
    runs(&hob, "www", "one");
    hob.shutdown();
}

#[test]
fn data_is_never_made_and_always_kept() {
    let hob = daemon("");
    let text = |version: &str| format!("echo {version} > ~/version\n");
    let post = "#!/bin/sh\n[ -d ~/data ] && echo had data > ~/seen\nexit 0\n";
    let files =
        |v: &str| vec![("dotcloud.yml", YML.to_owned()), ("builder", text(v)), ("postinstall+", post.to_owned())];
    let push = |v: &str| {
        let files = files(v);
        let files: Vec<(&str, &str)> = files.iter().map(|(n, t)| (*n, t.as_str())).collect();
        hob.ok(&["push", &tree(&hob, "tree", &files)]);
    };
    push("one");
    hob.hob(&["run", "www", "--", "ls", "data"]).expect(2);
    hob.ok(&["run", "www", "--", "sh", "-c", "mkdir data; echo precious > data/file; echo x > scratch"]);
    push("two");
    assert_eq!(inside(&hob, "www", "data/file"), "precious");
    hob.hob(&["run", "www", "--", "ls", "scratch"]).expect(2);
    // It comes after postinstall.
    hob.hob(&["run", "www", "--", "ls", "seen"]).expect(2);
    hob.ok(&["deploy", "previous"]);
    assert_eq!(inside(&hob, "www", "data/file"), "precious");
    let bad = tree(&hob, "bad", &[("dotcloud.yml", &YML.replace("sh -c", "/no/such")), ("builder", "")]);
    hob.hob(&["push", &bad]).expect(1);
    assert_eq!(inside(&hob, "www", "data/file"), "precious");
    hob.ok(&["scale", "www=2"]);
    assert_eq!(inside(&hob, "www.0", "data/file"), "precious");
    hob.ok(&["run", "www.1", "--", "sh", "-c", "mkdir data; echo second > data/file"]);
    hob.ok(&["scale", "www=1"]);
    assert_eq!(inside(&hob, "www", "data/file"), "precious");
    hob.ok(&["scale", "www=2"]);
    assert_eq!(inside(&hob, "www.1", "data/file"), "second");
    hob.shutdown();
}

#[test]
fn data_that_a_builder_makes_is_for_the_first_push_alone() {
    let hob = daemon("");
    let files = [("dotcloud.yml", YML), ("builder", "echo v > ~/version; mkdir -p ~/data; echo built > ~/data/file\n")];
    hob.ok(&["push", &tree(&hob, "tree", &files)]);
    assert_eq!(inside(&hob, "www", "data/file"), "built");
    hob.ok(&["run", "www", "--", "sh", "-c", "echo live > data/file"]);
    hob.ok(&["push", &tree(&hob, "tree", &files)]);
    assert_eq!(inside(&hob, "www", "data/file"), "live");
    hob.shutdown();
}

#[test]
fn the_home_has_one_path_where_hob_may_bind_and_that_of_the_build_otherwise() {
    let builder = "echo $HOME > ~/built-in; echo v > ~/version; pwd > ~/built-at\n";
    let files = [("dotcloud.yml", YML), ("builder", builder)];
    for mode in ["bind", "direct"] {
        if mode == "bind" && !need("root") {
            continue;
        }
        let hob = daemon(&format!("home_mode = \"{mode}\""));
        for _ in 0..2 {
            hob.ok(&["push", &tree(&hob, "tree", &files)]);
            let home = inside(&hob, "www", "built-in; echo $HOME");
            let lines: Vec<&str> = home.lines().collect();
            assert_eq!(lines[0], lines[1], "{mode}");
            assert_eq!(lines[0] == hob.home.beside("app").display().to_string(), mode == "bind", "{lines:?}");
        }
        // The same release again, from what was built and not from what ran.
        hob.ok(&["run", "www", "--", "sh", "-c", "mkdir data; echo d > data/x; echo scratch > scratch"]);
        hob.ok(&["env", "set", "A=1"]);
        hob.hob(&["run", "www", "--", "ls", "scratch"]).expect(2);
        assert_eq!(inside(&hob, "www", "data/x; echo $A"), "d\n1");
        // Logs are in their own folder, which is the log directory for those inside.
        hob.wait_log("www.0/www.log", "v");
        if mode == "bind" {
            let log_dir = hob.home.beside("log").display().to_string();
            assert!(inside(&hob, "www", &format!("{log_dir}/www.log")).contains('v'));
        }
        hob.shutdown();
    }
}

#[test]
fn an_ordinary_user_can_push_to_its_own_hob() {
    if !need_all(&["root", "setpriv"]) {
        return;
    }
    let home = waiting("").run_as_nobody();
    let hob = home.boot();
    let dir = version(&hob, "one");
    sh_ok(&format!("chmod -R a+rX {dir}"));
    let push = |words: &[&str]| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--", hob_bin()]).args(words);
        hob.home.dress(&mut command);
        run(&mut command)
    };
    push(&["push", &dir]).expect(0);
    let log = hob.wait_log("www.0/www.log", "one");
    assert_eq!(log.trim(), "one");
    push(&["deploy", "latest"]).expect(0);
    hob.shutdown();
}

#[test]
fn variables_are_for_all_services_stronger_than_the_file_and_for_nobody_elses_eyes() {
    let hob = daemon("");
    let yml =
        "www:\n  type: custom\n  buildscript: builder\n  environment: {A: file, B: file}\n  process: sleep 1000\n";
    let ran = hob.ok(&["env", "set", "C=early"]);
    assert!(ran.out.contains("Nothing is deployed yet"), "{}", ran.out);
    hob.ok(&["push", &tree(&hob, "tree", &[("dotcloud.yml", yml), ("builder", "echo x$A$C >> ~/built\n")])]);
    hob.ok(&["env", "set", "A=set to ?%[]", "D="]);
    assert_eq!(inside(&hob, "www", "/dev/null; echo \"$A,$B,$C,$D\""), "set to ?%[],file,early,");
    assert_eq!(inside(&hob, "www", "built"), "x", "not in the build, and not built again");
    let json: serde_json::Value = serde_json::from_str(&inside(&hob, "www", "environment.json")).expect("JSON");
    assert_eq!(json["A"], "set to ?%[]");
    let list = hob.ok(&["env", "list"]).out;
    assert_eq!(list, "DOTCLOUD_PROJECT=tree\nDOTCLOUD_ENVIRONMENT=default\nA=set to ?%[]\nC=early\nD=\n");
    let mode = fs::metadata(hob.home.beside("state/deployed.json")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    hob.ok(&["env", "unset", "A"]);
    assert_eq!(inside(&hob, "www", "/dev/null; echo $A"), "file");
    hob.hob(&["env", "unset", "NOPE"]).expect(1).says("not set");
    hob.hob(&["env", "set", "x"]).expect(2).says("is an invalid environment variable expression");
    hob.hob(&["env", "set", "DOTCLOUD_X=1"]).expect(2);
    hob.shutdown();
}

#[test]
fn a_variable_that_breaks_the_application_is_not_kept() {
    let hob = daemon("");
    let yml = "www:\n  type: custom\n  process:\n    command: sh -c '[ -z \"$BAD\" ] || exit 3; exec sleep 1000'\n    \
               startsecs: 1\n    restart_delay: 10ms\n";
    hob.ok(&["push", &tree(&hob, "tree", &[("dotcloud.yml", yml)])]);
    hob.ok(&["env", "set", "GOOD=1"]);
    hob.hob(&["env", "set", "BAD=1"]).expect(1).says("exited with code 3");
    hob.running("www");
    let list = hob.ok(&["env", "list"]).out;
    assert!(list.contains("GOOD=1") && !list.contains("BAD"), "{list}");
    hob.shutdown();
}

#[test]
fn instances_have_their_own_ports_homes_numbers_and_postinstall() {
    let home = waiting("");
    let keys: Vec<String> = (0..3).flat_map(|n| [format!("www.{n}.web"), format!("www.{n}.q")]).collect();
    with_free_ports(&home, &keys);
    let hob = home.boot();
    let yml = "www:\n  type: custom\n  instances: 2\n  ports: {web: http, q: tcp}\n  buildscript: builder\n  process: \
               python3 ~/p.py\n";
    let program = "import os,socket,time\nkeep=[]\nfor k in ('WEB','Q'):\n    s=socket.socket()\n    s.setsockopt(1,2,1)\n    \
                   s.bind(('',int(os.environ['PORT_'+k])))\n    s.listen()\n    keep.append(s)\ntime.sleep(1000)\n";
    let files = [
        ("dotcloud.yml", yml),
        ("p.py", program),
        ("builder", "cp p.py ~/\n"),
        ("postinstall+", "#!/bin/sh\necho $DOTCLOUD_SERVICE_ID > ~/id\n"),
    ];
    if !need("python3") {
        return;
    }
    hob.ok(&["push", &tree(&hob, "tree", &files)]);
    let pids: Vec<i32> = (0..2).map(|n| hob.running(&format!("www.{n}:www"))).collect();
    hob.ok(&["scale", "www=3"]);
    let mut ports = Vec::new();
    for n in 0..3 {
        let instance = format!("www.{n}");
        assert_eq!(inside(&hob, &instance, "id"), n.to_string());
        let json: serde_json::Value = serde_json::from_str(&inside(&hob, &instance, "environment.json")).expect("JSON");
        assert_eq!(json["DOTCLOUD_SERVICE_ID"], n.to_string());
        assert_eq!(json["DOTCLOUD_WWW_INSTANCES"], 3);
        ports.push(json["PORT_WEB"].as_u64().expect("a number"));
        assert_eq!(json[format!("DOTCLOUD_WWW_HTTP_URL_{n}")], format!("http://127.0.0.1:{}/", ports[n]));
        assert!(accepts(ports[n] as u16));
    }
    ports.dedup();
    assert_eq!(ports.len(), 3);
    assert!(!pids.contains(&hob.running("www.0:www")), "they know of the third one");
    hob.hob(&["scale", "www=x"]).expect(2).says("Instance count must be a number");
    hob.hob(&["scale", "nope=2"]).expect(1).says("there is www");
    hob.ok(&["scale", "www=1"]);
    assert_eq!(hob.status().len(), 1);
    // A push keeps the number.
    hob.ok(&["push", &tree(&hob, "tree", &files)]);
    assert_eq!(hob.status().len(), 1);
    hob.shutdown();
}

#[test]
fn instances_are_replaced_one_at_a_time() {
    let hob = daemon("");
    let yml = YML.replace("  process", "  instances: 3\n  process");
    hob.ok(&["push", &tree(&hob, "a", &[("dotcloud.yml", &yml), ("builder", "echo one > ~/version\n")])]);
    let events = hob.background(&["events", "-f"], "events");
    hob.ok(&["push", &tree(&hob, "b", &[("dotcloud.yml", &yml), ("builder", "echo two > ~/version\n")])]);
    wait_for("three new runs", || (events.text().matches("\"to\":\"RUNNING\"").count() == 3).then_some(()));
    let mut down = 0;
    for line in events.text().lines() {
        let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
        match event["to"].as_str() {
            Some("STOPPING") => down += 1,
            Some("RUNNING") => down -= 1,
            _ => {}
        }
        assert!(down <= 1, "{}", events.text());
    }
    // One that fails in the middle is put back with those before it.
    let post = "#!/bin/sh\n[ $DOTCLOUD_SERVICE_ID != 1 ]\n";
    let files = [("dotcloud.yml", yml.as_str()), ("builder", "echo bad > ~/version\n"), ("postinstall+", post)];
    hob.hob(&["push", &tree(&hob, "c", &files)]).expect(1).says("www.1: postinstall");
    for n in 0..3 {
        hob.running(&format!("www.{n}:www"));
        assert_eq!(inside(&hob, &format!("www.{n}"), "version"), "two");
    }
    drop(events);
    hob.shutdown();
}

#[test]
fn services_of_a_stack_are_pushed_together_or_alone_and_leave_on_request() {
    let hob = daemon("");
    let two = "www:\n  type: custom\n  buildscript: b\n  process: sleep 1000\ndb:\n  type: custom\n  buildscript: b\n  \
               ports: {sql: tcp}\n  process:\n    command: sleep 1000\n    ready: {exec: 'true'}\nlegacy:\n  type: python\n";
    let b = "echo $SERVICE_NAME $(cat v) >> ~/version\n";
    let files = |v: &'static str| [("dotcloud.yml", two), ("b", b), ("v", v)];
    let ran = hob.ok(&["push", &tree(&hob, "tree", &files("1"))]);
    assert!(ran.out.contains("legacy"), "the python service is named: {}", ran.out);
    assert_eq!(inside(&hob, "www", "/dev/null; echo $DOTCLOUD_DB_SQL_URL"), "tcp://127.0.0.1:42801");
    let db = hob.running("db");
    hob.ok(&["push", &tree(&hob, "tree", &files("2")), "--service", "www"]);
    assert_eq!(hob.running("db"), db, "it was left alone");
    assert_eq!(inside(&hob, "www", "version"), "www 1\nwww 2");
    assert_eq!(inside(&hob, "db", "version"), "db 1");
    hob.ok(&["scale", "www=2"]);
    assert_eq!(hob.running("db"), db, "scaling another service is none of its business");
    hob.hob(&["push", &tree(&hob, "tree", &files("3")), "--service", "nope"]).expect(2).says("there is www, db");
    hob.ok(&["run", "db", "--", "sh", "-c", "mkdir data; echo rows > data/x"]);
    let one = two.split("db:").next().expect("the first service");
    let ran = hob.ok(&["push", &tree(&hob, "tree", &[("dotcloud.yml", one), ("b", b), ("v", "4")])]);
    assert!(
        ran.out.contains("[db.0] is no longer in dotcloud.yml: stopped, and kept until `hob destroy`"),
        "{}",
        ran.out
    );
    assert_eq!(hob.process("db").state(), "STOPPED");
    let hob = reboot(hob);
    assert_eq!(hob.process("db").state(), "STOPPED");
    hob.running("www.0:www");
    hob.ok(&["push", &tree(&hob, "tree", &files("5"))]);
    assert_eq!(inside(&hob, "db", "data/x"), "rows", "it is back, with its data");
    hob.ok(&["push", &tree(&hob, "tree", &[("dotcloud.yml", one), ("b", b), ("v", "6")])]);
    hob.hob(&["destroy", "db"]).expect(2).says("--yes");
    hob.hob(&["destroy", "nope", "--yes"]).expect(1).says("there is db, www");
    hob.ok(&["destroy", "db", "--yes"]);
    assert!(hob.status().iter().all(|p| p.0["group"] != "db"));
    assert_eq!(sh(&format!("grep -rl rows {}", hob.home.beside("state").display())).out, "");
    hob.ok(&["deploy", "previous"]);
    hob.running("db");
    hob.ok(&["destroy", "db", "--yes"]);
    hob.ok(&["env", "set", "A=1"]);
    assert!(hob.status().iter().all(|p| p.0["group"] != "db"), "a variable does not bring it back");
    hob.running("www.0:www");
    hob.shutdown();
}

#[test]
fn the_build_home_is_kept_unless_clean() {
    let hob = daemon("");
    let dir = tree(&hob, "tree", &[("dotcloud.yml", YML), ("builder", "echo x >> ~/version\n")]);
    hob.ok(&["push", &dir]);
    hob.ok(&["push", &dir]);
    assert_eq!(inside(&hob, "www", "version"), "x\nx");
    let ran = hob.ok(&["push", &dir, "--clean"]);
    assert!(ran.out.contains("(clean build)"), "{}", ran.out);
    assert_eq!(inside(&hob, "www", "version"), "x");
    hob.shutdown();
}

#[test]
fn releases_are_pruned_to_five() {
    let hob = daemon("");
    for n in 0..7 {
        hob.ok(&["push", &version(&hob, &n.to_string())]);
    }
    let list = list_of(hob.ok(&["revisions", "--json"]).json(), "revisions");
    assert_eq!(list.len(), 5, "{list:?}");
    assert_eq!(fs::read_dir(hob.home.beside("state/releases")).expect("there").count(), 5);
    assert_eq!(fs::read_dir(hob.home.beside("state/instances/www.0")).expect("there").count(), 1);
    hob.shutdown();
}

#[test]
fn a_tree_is_pushed_without_what_is_ignored_and_from_the_directory_one_is_in() {
    let hob = daemon("");
    let dir = tree(
        &hob,
        "tree",
        &[
            ("dotcloud.yml", YML),
            ("builder", "find . | sort > ~/version\n"),
            (".dotcloudignore", "*.log\n/skip\n"),
            ("a.log", ""),
            ("skip/x", ""),
            ("sub/skip", ""),
            (".git/HEAD", ""),
            ("x.pyc", ""),
        ],
    );
    symlink("sub/skip", Path::new(&dir).join("inside")).expect("linked");
    symlink("/etc/passwd", Path::new(&dir).join("outside")).expect("linked");
    sh_ok(&format!("mkfifo {dir}/fifo"));
    let mut command = hob.home.command(&["push"]);
    let ran = run(command.current_dir(Path::new(&dir).join("sub"))).expect(0);
    assert!(ran.out.contains("outside is a link to /etc/passwd") && ran.out.contains("fifo"), "{}", ran.out);
    let files = inside(&hob, "www", "version");
    assert_eq!(files, ".\n./.dotcloudignore\n./builder\n./dotcloud.yml\n./inside\n./sub\n./sub/skip");
    hob.shutdown();
}

#[track_caller]
fn push_stream(hob: &Hob, producer: &str) -> Ran {
    let line = format!("{producer} | {} push -", hob_bin());
    let mut command = std::process::Command::new("bash");
    command.args(["-o", "pipefail", "-c", &line]);
    hob.home.dress(&mut command);
    run(&mut command)
}

#[test]
fn a_stream_is_a_tree_too_and_a_commit_gives_it_its_name() {
    let hob = daemon("");
    let dir = version(&hob, "one");
    push_stream(&hob, &format!("tar -C {dir} -cf - .")).expect(0);
    runs(&hob, "www", "one");
    // In a directory of its own, compressed.
    let two = version(&hob, "two");
    let parent = Path::new(&two).parent().expect("above").display().to_string();
    if need("zstd") {
        push_stream(&hob, &format!("tar -C {parent} -cf - tree-two | zstd -q")).expect(0);
        runs(&hob, "www", "two");
        assert_eq!(inside(&hob, "www", "/dev/null; echo $DOTCLOUD_PROJECT"), "tree-two");
    }
    push_stream(&hob, &format!("tar -C {dir} -czf - .")).says("gunzip");
    if need("git") {
        sh_ok(&format!("cd {dir} && git init -q && git add . && git -c user.name=x -c user.email=x@x commit -qm x"));
        let commit = sh_ok(&format!("git -C {dir} rev-parse HEAD"));
        push_stream(&hob, &format!("git -C {dir} archive HEAD")).expect(0);
        assert_eq!(current(&hob), format!("git-{}", &commit[..7]));
        push_stream(&hob, &format!("git -C {dir} archive HEAD")).expect(0);
        assert_eq!(current(&hob), format!("git-{}-2", &commit[..7]));
    }
    hob.shutdown();
}

#[test]
fn a_stream_that_is_cut_short_or_leads_out_changes_nothing() {
    let hob = daemon("");
    let dir = version(&hob, "good");
    hob.ok(&["push", &dir]);
    let base = hob.home.marker();
    sh_ok(&format!("head -c 3000000 /dev/urandom > {dir}/big; mkdir {base}/w; echo evil > {base}/evil"));
    let cases = [
        (format!("tar -C {dir} -cf - . | head -c 100000"), "cut short"),
        (format!("tar -C {dir} -cf - . | head -c 2560"), "cut short"),
        ("true".to_owned(), "the archive is empty"),
        ("echo this is no archive at all".to_owned(), "cannot push"),
        (format!("tar -C {base}/w -P -cf - ../evil"), "leads out of it"),
        (format!("tar -P -cf - {base}/evil"), "leads out of it"),
        (format!("tar -C {base} -cf - w"), "Couldn't find a dotcloud.yml"),
        (
            format!(
                "ln -s {base} {base}/w/x; tar -C {base}/w -cf {base}/t x; tar -C {base} --transform s,^,x/, -rf {base}/t evil; cat {base}/t"
            ),
            "Couldn't find a dotcloud.yml",
        ),
    ];
    for (producer, word) in cases {
        let ran = push_stream(&hob, &producer);
        assert!(ran.code != 0 && ran.err.contains(word), "{producer}: {ran:?}");
        runs(&hob, "www", "good");
    }
    assert_eq!(fs::read_to_string(hob.home.beside("evil")).expect("untouched"), "evil\n");
    assert!(!hob.home.beside("state/releases").join("evil").exists());
    hob.shutdown();
}

fn artifact(hob: &Hob, dir: &str) -> PathBuf {
    let file = hob.home.beside("a.tar.zst");
    run(&mut hob.home.command(&["build", dir, "-o", &file.display().to_string()])).expect(0).says("is ready");
    file
}

#[test]
fn an_artifact_is_built_here_and_pushed_there() {
    let hob = daemon("");
    let builder = "echo one > ~/version; echo $(pwd) >> built; ln -s ~/version ~/abs; ln -s /usr/bin/env ~/env\n";
    let dir = tree(&hob, "hello", &[("dotcloud.yml", YML), ("builder", builder)]);
    let file = artifact(&hob, &dir);
    assert!(hob.status().is_empty());
    assert_eq!(fs::read_dir(hob.home.beside("state/releases")).expect("there").count(), 0, "nothing is left of it");
    hob.ok(&["push", &file.display().to_string()]);
    runs(&hob, "www", "one");
    assert_eq!(inside(&hob, "www", "abs; echo $DOTCLOUD_PROJECT; readlink env"), "one\nhello\n/usr/bin/env");
    assert!(!Path::new(&dir).join("built").exists(), "the tree itself is not built in");
    hob.shutdown();
}

#[test]
fn an_artifact_that_was_tampered_with_is_refused() {
    if !need("zstd") {
        return;
    }
    let hob = daemon("");
    let dir = version(&hob, "good");
    hob.ok(&["push", &dir]);
    let file = artifact(&hob, &dir).display().to_string();
    let base = hob.home.marker();
    sh_ok(&format!("cd {base} && zstd -qdf {file} -o plain.tar && mkdir -p t/built/www t/code && echo evil > evil"));
    let changes = [
        ("truncate", format!("head -c -40 {file} > bad")),
        ("truncate", "head -c 3000 plain.tar | zstd -q > bad".to_owned()),
        ("absolute link", "ln -s /etc/shadow t/built/www/l && tar -C t -rf x.tar built/www/l".to_owned()),
        ("up link", "ln -s ../../../../etc/shadow t/built/www/u && tar -C t -rf x.tar built/www/u".to_owned()),
        ("code link", "ln -s /usr t/code/l && tar -C t -rf x.tar code/l".to_owned()),
        ("up", "tar -C t -P -rf x.tar ../evil".to_owned()),
        ("setuid", "cp evil t/built/www/s && chmod u+s t/built/www/s && tar -C t -rf x.tar built/www/s".to_owned()),
        ("fifo", "mkfifo t/built/www/f && tar -C t -rf x.tar built/www/f".to_owned()),
    ];
    for (what, line) in changes {
        sh_ok(&format!(
            "cd {base} && cp plain.tar x.tar && {{ {line}; }} && {{ [ -s bad ] || zstd -q x.tar -o bad; }}"
        ));
        let ran = hob.hob(&["push", &format!("{base}/bad")]);
        let words = ["cut short", "leads out of it", "setuid", "FIFO"];
        assert!(ran.code == 1 && words.iter().any(|w| ran.err.contains(w)), "{what}: {ran:?}");
        sh_ok(&format!("rm {base}/bad"));
        runs(&hob, "www", "good");
    }
    // Ten gigabytes of nothing in a few kilobytes.
    sh_ok(&format!(
        "cd {base} && truncate -s 10G zeroes && tar --transform s,^,code/, -rf plain.tar --sparse zeroes && zstd -q plain.tar -o bomb"
    ));
    let ran = hob.hob(&["push", &format!("{base}/bomb")]).expect(1).says("hundred times its size");
    assert!(ran.took.as_secs() < 30);
    sh_ok(&format!("cd {base} && rm zeroes && head -c 2G /dev/zero | zstd -q > bomb2"));
    hob.hob(&["push", &format!("{base}/bomb2")]).expect(1);
    let size = sh_ok(&format!("du -sm {base}/state | cut -f1"));
    assert!(size.trim().parse::<u32>().expect("a number") < 20, "{size} MB are left");
    runs(&hob, "www", "good");
    hob.shutdown();
}

#[test]
fn two_pushes_at_once_follow_each_other() {
    let hob = daemon("");
    let slow = tree(&hob, "slow", &[("dotcloud.yml", YML), ("builder", "sleep 1; echo slow > ~/version\n")]);
    let first = hob.background(&["push", &slow], "first");
    first.wait_text("buildscript");
    let second = hob.ok(&["push", &version(&hob, "second")]);
    assert!(second.out.contains("another deployment is under way"), "{}", second.out);
    first.wait_text("Application fully deployed");
    runs(&hob, "www", "second");
    let events = hob.ok(&["revisions"]).out;
    assert_eq!(events.matches("ready").count() + events.matches("current").count(), 2, "{events}");
    drop(first);
    hob.shutdown();
}

#[test]
fn a_person_who_leaves_does_not_stop_it() {
    let hob = daemon("");
    let slow = tree(&hob, "slow", &[("dotcloud.yml", YML), ("builder", "sleep 1; echo slow > ~/version\n")]);
    let mut first = hob.background(&["push", &slow], "first");
    first.wait_text("buildscript");
    kill(Pid::from_raw(first.child.id() as i32), Signal::SIGINT).expect("it runs");
    assert_eq!(wait_child(&mut first.child, PATIENCE), Some(130));
    assert!(first.text().contains("hob dlogs -f latest"), "{}", first.text());
    let ran = hob.ok(&["dlogs", "-f", "latest"]);
    assert!(ran.out.contains("Application fully deployed"), "{}", ran.out);
    runs(&hob, "www", "slow");
    hob.shutdown();
}

#[test]
fn events_are_json_for_programs() {
    let hob = daemon("");
    let ran = hob.ok(&["push", &version(&hob, "one"), "--json"]);
    let events: Vec<serde_json::Value> = ran.out.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let kinds: Vec<&str> = events.iter().filter_map(|e| e["event"].as_str()).collect();
    for kind in ["begin", "done", "line", "revision", "end"] {
        assert!(kinds.contains(&kind), "{kind} is not in {kinds:?}");
    }
    let last = events.last().expect("there is an end");
    assert_eq!((last["event"].as_str(), last["status"].as_i64()), (Some("end"), Some(0)));
    let list = list_of(hob.ok(&["revisions", "--json"]).json(), "revisions");
    let stages: Vec<&str> =
        list[0]["stages"].as_array().expect("a list").iter().filter_map(|s| s["name"].as_str()).collect();
    for stage in ["receive", "build", "snapshot", "home", "responsive", "record"] {
        assert!(stages.contains(&stage), "{stage} is not in {stages:?}");
    }
    hob.shutdown();
}

#[test]
fn a_push_to_a_hob_with_a_home_of_its_own_replaces_that_until_the_next_boot() {
    let own = "www:\n  type: custom\n  process: sh -c 'echo own; exec sleep 1000'\n";
    let hob = Home::new(own).settings("[defaults]\nstartsecs = \"50ms\"\n").boot();
    hob.running("www");
    let bad = tree(&hob, "bad", &[("dotcloud.yml", &YML.replace("sh -c", "/no/such")), ("builder", "")]);
    hob.hob(&["push", &bad]).expect(1);
    hob.running("www");
    assert_eq!(hob.get("/v1/info")["source"], "home");
    hob.ok(&["push", &version(&hob, "pushed")]);
    runs(&hob, "www", "pushed");
    hob.ok(&["push", &version(&hob, "again")]);
    runs(&hob, "www", "again");
    hob.ok(&["reload"]);
    runs(&hob, "www", "again");
    hob.shutdown();
}

#[test]
fn a_push_to_another_machine_goes_through_ssh() {
    let hob = daemon("");
    // What ssh does, but for the wire.
    let ssh = format!(
        "#!/bin/sh\n[ \"$1 $2\" = '-T --' ] || exit 9\necho \"$3\" > {0}/host\nexec sh -c \"$4\"\n",
        hob.home.marker()
    );
    let bin = hob.home.beside("bin");
    fs::create_dir(&bin).expect("fresh");
    fs::write(bin.join("ssh"), ssh).expect("fresh");
    sh_ok(&format!("chmod +x {0}/ssh; ln -s {1} {0}/hob", bin.display(), hob_bin()));
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let ran = run(hob.home.command(&["push", &version(&hob, "far"), "--to", "me@there"]).env("PATH", &path)).expect(0);
    assert!(ran.out.contains("Application fully deployed"), "{}", ran.out);
    runs(&hob, "www", "far");
    assert_eq!(inside(&hob, "www", "/dev/null; echo $DOTCLOUD_PROJECT"), "tree-far");
    assert_eq!(fs::read_to_string(hob.home.beside("host")).expect("written"), "me@there\n");
    let bad = tree(&hob, "bad", &[("dotcloud.yml", YML)]);
    run(hob.home.command(&["push", &bad, "--to", "there"]).env("PATH", &path))
        .expect(1)
        .says("cannot find the buildscript");
    hob.hob(&["push", &bad, "--to", "-oProxyCommand=x"]).expect(2);
    hob.shutdown();
}

#[test]
fn what_is_not_there_is_told() {
    let hob = daemon("");
    hob.hob(&["push", "/no/such"]).expect(2).says("cannot push /no/such");
    hob.hob(&["push", &hob.home.beside("log").display().to_string()]).expect(2).says("Couldn't find a dotcloud.yml in");
    hob.hob(&["deploy", "latest"]).expect(1).says("nothing has been pushed yet");
    hob.hob(&["dlogs", "rsync-1"]).expect(1).says("there is no log");
    hob.hob(&["scale", "www=2"]).expect(1).says("nothing is deployed yet");
    hob.ok(&["push", &version(&hob, "one")]);
    hob.hob(&["deploy", "nope"]).expect(1).says("there is no revision \"nope\"; there is rsync-");
    hob.hob(&["deploy", "../x"]).expect(1);
    hob.ok(&["deploy", "rsync-"]);
    hob.shutdown();
    let home = Home::bare();
    let tree = home.beside("t");
    fs::create_dir(&tree).expect("fresh");
    fs::write(tree.join("dotcloud.yml"), YML).expect("fresh");
    run(&mut home.command(&["push", &tree.display().to_string()])).expect(4).says("hob.sock");
}

/// What a kill -9 at any moment must leave: the old release or the new one, whole, with the data.
#[track_caller]
pub fn is_whole(hob: &Hob, versions: &[&str]) -> String {
    hob.running("www");
    let seen = inside(hob, "www", "version");
    assert!(versions.contains(&seen.as_str()), "{seen:?} is neither of {versions:?}");
    assert_eq!(inside(hob, "www", "data/file"), "precious", "with {seen}");
    assert!(!hob.home.beside("state/rolling.json").exists());
    seen
}

pub fn push_processes(hob: &Hob) -> Vec<i32> {
    let marker = hob.home.marker();
    let is_push = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "hob push")
            && environ(*pid).iter().any(|v| v.contains(&marker))
    };
    all_pids().into_iter().filter(|pid| lives(*pid) && is_push(pid)).collect()
}

fn kill_9(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

#[test]
fn a_push_that_is_killed_at_any_moment_leaves_the_old_release_or_the_new_one() {
    let hob = daemon("");
    hob.ok(&["push", &version(&hob, "v0")]);
    hob.ok(&["run", "www", "--", "sh", "-c", "mkdir data; echo precious > data/file"]);
    let mut at = "v0".to_owned();
    let mut cut = 0;
    // Close together at first: a push takes some tens of milliseconds on a calm machine, and far more on a busy one.
    for (n, moment) in [10, 30, 1, 3, 6, 10, 15, 20, 30, 40, 60, 90, 150, 300].into_iter().enumerate() {
        let next = format!("v{}", n + 1);
        let dir = version(&hob, &next);
        let mut push = hob.background(&["push", &dir], "push.out");
        if n > 1 {
            push.wait_text("Build started");
        }
        std::thread::sleep(std::time::Duration::from_millis(moment));
        let mut pids = push_processes(&hob);
        // The worker alone, whom the guardian cleans up after; or both, which the next who comes has to find.
        pids.sort_unstable();
        let both = n % 2 == 1;
        let victims = if both { pids.clone() } else { pids.iter().copied().skip(1).collect() };
        cut += usize::from(!victims.is_empty());
        victims.iter().for_each(|pid| kill_9(*pid));
        wait_child(&mut push.child, PATIENCE).expect("the push ends");
        wait_for("the push is gone", || push_processes(&hob).is_empty().then_some(()));
        if both {
            // Any deployment, and any reload, first takes back what was begun.
            hob.ok(&["reload"]);
            hob.ok(&["start", "all"]);
        }
        at = is_whole(&hob, &[&at, &next]);
    }
    assert!(cut >= 3, "{cut} pushes were cut short");
    let hob = reboot(hob);
    is_whole(&hob, &[&at]);
    hob.ok(&["push", &version(&hob, "last")]);
    is_whole(&hob, &["last"]);
    hob.shutdown();
}

#[test]
fn a_hob_that_is_killed_during_a_push_boots_the_old_release_or_the_new_one() {
    let mut hob = daemon("");
    hob.ok(&["push", &version(&hob, "v0")]);
    hob.ok(&["run", "www", "--", "sh", "-c", "mkdir data; echo precious > data/file"]);
    let mut at = "v0".to_owned();
    for n in 0..6 {
        let next = format!("v{}", n + 1);
        let dir = version(&hob, &next);
        let mut push = hob.background(&["push", &dir], "push.out");
        std::thread::sleep(std::time::Duration::from_millis(60 + n * 90));
        // The power goes: everything at once.
        let mut victims = push_processes(&hob);
        victims.push(hob.pid);
        victims.extend(tree_of(hob.pid));
        victims.extend(push_processes(&hob));
        victims.iter().for_each(|pid| kill_9(*pid));
        push.child.kill().ok();
        hob.wait_end();
        for (pid, _) in hob.leftovers() {
            kill_9(pid);
        }
        wait_for("nothing is left", || hob.leftovers().is_empty().then_some(()));
        let home = std::mem::replace(&mut hob.home, Home::bare());
        drop(push);
        drop(hob);
        hob = home.boot();
        at = is_whole(&hob, &[&at, &next]);
    }
    hob.shutdown();
}

#[test]
fn a_full_disk_fails_the_push_and_nothing_else() {
    if !need("root") {
        return;
    }
    let home = waiting("home_mode = \"bind\"");
    let mount = Mount::tmpfs(&home.beside("state"), 4096);
    let hob = home.boot();
    hob.ok(&["push", &version(&hob, "good")]);
    let full = "head -c 100M /dev/zero > ~/big\n";
    hob.hob(&["push", &tree(&hob, "full", &[("dotcloud.yml", YML), ("builder", full)])])
        .expect(1)
        .says("exited with code 1");
    runs(&hob, "www", "good");
    // The build fits, the copy for the instance does not.
    let half = "echo bad > ~/version; head -c 2M /dev/urandom > ~/big\n";
    hob.hob(&["push", &tree(&hob, "half", &[("dotcloud.yml", YML), ("builder", half)])])
        .expect(1)
        .says("no space left on device");
    runs(&hob, "www", "good");
    let big = tree(&hob, "big", &[("dotcloud.yml", YML), ("builder", "")]);
    sh_ok(&format!("head -c 10M /dev/urandom > {big}/big"));
    hob.hob(&["push", &big]).expect(1).says("no space left on device");
    runs(&hob, "www", "good");
    hob.ok(&["push", &version(&hob, "better")]);
    runs(&hob, "www", "better");
    hob.shutdown();
    drop(mount);
}
