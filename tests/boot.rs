//! From a home to running processes: what `hob boot`, `hob up` and `hob build` make of a dotcloud.yml.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::support::*;

#[test]
fn a_home_without_a_dotcloud_yml_but_with_a_run_script_boots() {
    let hob = Home::bare().script("run", "#!/bin/sh\necho here I am\nexec sleep 1000\n").boot();
    let all = hob.status();
    assert_eq!(all.len(), 1, "{all:?}");
    let name = all[0].0["process"].as_str().expect("a name").to_string();
    hob.running(&name);
    hob.wait_log(&format!("{name}.log"), "here I am");
    hob.shutdown();
}

#[test]
fn an_empty_home_with_nothing_to_run_is_refused_with_a_reason() {
    let home = Home::bare();
    let ran = home.boot_fails().expect(2);
    assert!(ran.err.contains("dotcloud.yml"), "{ran:?}");
}

#[test]
fn a_lone_process_takes_the_name_of_its_service() {
    let hob = Home::new("web:\n  type: custom\n  process: echo one; exec sleep 1000\n").boot();
    hob.running("web");
    assert_eq!(hob.process("web").name(), "web");
    hob.wait_log("web.log", "one");
    hob.shutdown();
}

#[test]
fn the_default_process_is_the_run_script_of_the_home() {
    let hob = Home::new("www:\n  type: custom\n").script("run", "#!/bin/sh\necho default\nexec sleep 1000\n").boot();
    hob.running("www");
    hob.wait_log("www.log", "default");
    hob.shutdown();
}

#[test]
fn several_processes_are_shown_as_group_and_process_and_log_by_process() {
    let hob = Home::with("hello: sh -c 'echo hi; exec sleep 1000'\ngoodbye: sh -c 'echo bye; exec sleep 1000'").boot();
    hob.running("hello");
    hob.running("goodbye");
    let names: Vec<String> = hob.status().iter().map(|p| p.name().to_string()).collect();
    assert!(names.contains(&"www:hello".into()) && names.contains(&"www:goodbye".into()), "{names:?}");
    hob.wait_log("hello.log", "hi");
    hob.wait_log("goodbye.log", "bye");
    hob.shutdown();
}

#[test]
fn every_unambiguous_form_of_a_name_is_understood() {
    let hob = Home::with("hello: sleep 1000\ngoodbye: sleep 1000").boot();
    hob.running("hello");
    hob.running("goodbye");
    for name in ["hello", "www:hello", "www.0:hello", "www.0", "www", "www:*", "all"] {
        let ran = hob.hob(&["status", name, "--json"]).expect(0);
        let count = list_of(ran.json(), "processes").len();
        let one = matches!(name, "hello" | "www:hello" | "www.0:hello");
        assert_eq!(count, if one { 1 } else { 2 }, "{name}: {ran:?}");
    }
    hob.hob(&["status", "nobody-knows-me"]).expect(1).says("nobody-knows-me");
    hob.shutdown();
}

#[test]
fn the_profile_is_sourced_by_the_shell_that_launches() {
    let hob = Home::with("one: env\ntwo: sh -c 'echo \"two sees $FROM_PROFILE\"; exec sleep 1000'")
        .file("profile", "export FROM_PROFILE=yes\nexport PATH=$HOME/bin:$PATH\n")
        .boot();
    hob.wait_log("one.log", "FROM_PROFILE=yes");
    hob.wait_log("one.log", &format!("PATH={}/bin:", hob.home.at("").display()));
    hob.wait_log("two.log", "two sees yes");
    hob.shutdown();
}

#[test]
fn a_program_of_the_profiles_path_is_found() {
    let hob = Home::with("one: mytool --flag")
        .file("profile", "PATH=~/bin:$PATH\n")
        .script("bin/mytool", "#!/bin/sh\necho mytool $*\nexec sleep 1000\n")
        .boot();
    hob.wait_log("one.log", "mytool --flag");
    hob.running("one");
    hob.shutdown();
}

#[test]
fn postinstall_runs_first_in_the_code_tree_and_may_create_the_run_script_and_the_profile() {
    let home = Home::bare()
        .file("code/dotcloud.yml", "www:\n  type: custom\n")
        .script(
            "code/postinstall",
            "#!/bin/bash\nset -e\npwd > ~/where\necho \"port $PORT_WWW\" >> ~/where\n\
             echo 'export GREETING=made' > ~/profile\n\
             printf '#!/bin/sh\\necho $GREETING by postinstall\\nexec sleep 1000\\n' > ~/run\nchmod +x ~/run\n",
        )
        .boot();
    home.running("www");
    home.wait_log("www.log", "made by postinstall");
    let wrote = fs::read_to_string(home.home.at("where")).expect("postinstall ran");
    assert_eq!(wrote, format!("{}\nport 42800\n", home.home.at("code").display()));
    home.shutdown();
}

#[test]
fn postinstall_runs_in_approot_without_x_bit_and_without_shebang() {
    let hob = Home::bare()
        .file(
            "code/dotcloud.yml",
            "www:\n  type: custom\n  approot: app\n  postinstall: setup\n  process: cat ~/made\n",
        )
        .file("code/app/setup", "echo in $(pwd) > ~/made\n")
        .boot();
    hob.wait_log("www.log", &format!("in {}", hob.home.at("code/app").display()));
    hob.shutdown();
}

#[test]
fn a_postinstall_that_is_only_found_and_not_executable_is_told_and_not_run() {
    let hob = Home::with("one: sleep 1000").file("postinstall", "exit 7\n").boot();
    hob.running("one");
    assert!(hob.err().contains("/postinstall is not executable"), "{}", hob.err());
    hob.shutdown();
}

#[test]
fn a_postinstall_that_fails_starts_nothing_and_its_output_and_status_are_shown() {
    let home = Home::new("www:\n  type: custom\n  process: touch {dir}/started\n")
        .script("postinstall", "#!/bin/sh\necho no database here\nexit 7\n");
    let ran = home.boot_fails();
    assert_ne!(ran.code, 0, "{ran:?}");
    assert!(ran.both().contains("postinstall") && ran.both().contains('7'), "{ran:?}");
    assert!(ran.both().contains("no database here"), "{ran:?}");
    assert!(!home.beside("started").exists());
    assert!(alive_with(&home.marker()).is_empty());
}

#[test]
fn tilde_variables_relative_paths_and_quotes_mean_what_they_mean_in_a_shell() {
    let hob = Home::new(
        "www:\n  type: custom\n  environment: {GREETING: \"hello you\"}\n  processes:\n    \
         tilde: ~/bin/show tilde\n    relative: ./bin/show relative\n    variable: bin/show \"$GREETING\" $PORT_WWW\n    \
         quotes: bin/show 'a  b' \"c  d\" e\\ f\n    assignment: MODE=fast bin/show-mode\n    \
         cd: cd bin && ./show cd\n    pipe: echo one two | tr a-z A-Z; exec sleep 1000\n",
    )
    .script("bin/show", "#!/bin/sh\nfor a; do echo \"[$a]\"; done\nexec sleep 1000\n")
    .script("bin/show-mode", "#!/bin/sh\necho mode $MODE\nexec sleep 1000\n")
    .boot();
    hob.wait_log("tilde.log", "[tilde]");
    hob.wait_log("relative.log", "[relative]");
    hob.wait_log("variable.log", "[hello you]\n[42800]\n");
    hob.wait_log("quotes.log", "[a  b]\n[c  d]\n[e f]\n");
    hob.wait_log("assignment.log", "mode fast");
    hob.wait_log("cd.log", "[cd]");
    hob.wait_log("pipe.log", "ONE TWO");
    hob.shutdown();
}

#[test]
fn scripts_without_the_x_bit_or_without_a_shebang_still_run() {
    let hob = Home::with("noxbit: ~/noxbit\nnoshebang: ~/noshebang\nneither: ~/neither\npython: ~/python")
        .file("noxbit", "#!/bin/bash\necho \"bash $BASH_VERSION\"\nexec sleep 1000\n")
        .script("noshebang", "echo no shebang\nexec sleep 1000\n")
        .file("neither", "echo neither\nexec sleep 1000\n")
        .file("python", "#!/usr/bin/env python3\nimport time\nprint('snake', flush=True)\ntime.sleep(1000)\n")
        .boot();
    hob.wait_log("noxbit.log", "bash 5");
    hob.wait_log("noshebang.log", "no shebang");
    hob.wait_log("neither.log", "neither");
    hob.wait_log("python.log", "snake");
    for name in ["noxbit", "noshebang", "neither", "python"] {
        hob.running(name);
    }
    hob.shutdown();
}

#[test]
fn scripts_without_the_x_bit_run_under_a_profile_too() {
    let hob = Home::with("noxbit: ~/noxbit")
        .file("profile", "export A=1\n")
        .file("noxbit", "echo A is $A\nsleep 1000\n")
        .boot();
    hob.wait_log("noxbit.log", "A is 1");
    hob.running("noxbit");
    hob.shutdown();
}

#[test]
fn service_and_port_variables_are_there() {
    let hob = Home::new(
        "www:\n  type: custom\n  approot: app\n  node_version: 3.10\n  config: {workers: 4}\n  \
         environment: {COLOUR: red}\n  ports: {www: http, zmq: tcp}\n  process: env\n",
    )
    .file("app/keep", "")
    .env("HOB_TEST_SEEN", "1")
    .boot();
    let log = hob.wait_log("www.log", "PORT_ZMQ=");
    let log = if log.contains("SERVICE_NODE") { log } else { hob.wait_log("www.log", "SERVICE_NODE_VERSION") };
    for line in [
        "PORT_WWW=42800",
        "PORT_ZMQ=42801",
        "SERVICE_NAME=www",
        "SERVICE_TYPE=custom",
        "SERVICE_APPROOT=app",
        "SERVICE_NODE_VERSION=3.10",
        "SERVICE_CONFIG_WORKERS=4",
        "SERVICE_PORTS_ZMQ=tcp",
        "SERVICE_INSTANCES=1",
        "COLOUR=red",
        "DOTCLOUD_SERVICE_NAME=www",
        "DOTCLOUD_SERVICE_ID=0",
        "DOTCLOUD_ENVIRONMENT=default",
    ] {
        assert!(log.lines().any(|l| l == line), "{line} is not in\n{log}");
    }
    assert!(log.contains(&format!("HOME={}", hob.home.at("").display())), "{log}");
    hob.shutdown();
}

#[test]
fn a_port_in_hobs_own_environment_wins() {
    let hob = Home::new("www:\n  type: custom\n  process: sh -c 'echo port $PORT_WWW; exec sleep 1000'\n")
        .env("PORT_WWW", "9123")
        .boot();
    hob.wait_log("www.log", "port 9123");
    hob.ok(&["ports"]).says("9123");
    hob.shutdown();
}

#[test]
fn the_environment_files_have_the_shape_that_crude_readers_expect() {
    let hob = Home::new("www:\n  type: custom\n  ports: {www: http, logs: tcp}\n  process: sleep 1000\n").boot();
    hob.running("www");
    let json = fs::read_to_string(hob.home.at("environment.json")).expect("environment.json");
    let data: Value = serde_json::from_str(&json).expect("it is JSON");
    assert_eq!(data["PORT_LOGS"], 42801, "{json}");
    assert_eq!(data["DOTCLOUD_SERVICE_ID"], "0", "{json}");
    assert_eq!(data["DOTCLOUD_WWW_INSTANCES"], 1, "{json}");
    assert!(data["DOTCLOUD_WWW_LOGS_PORT"].is_string(), "{json}");
    assert!(data["DOTCLOUD_WWW_HTTP_URL"].as_str().is_some_and(|u| u.ends_with('/')), "{json}");
    assert!(data["DOTCLOUD_WWW_LOGS_URL"].as_str().is_some_and(|u| u.starts_with("tcp://")), "{json}");
    assert!(data["DOTCLOUD_WWW_LOGS_PORT_0"].is_string(), "{json}");
    // One key a line with four spaces: grep and cut find it.
    let home = hob.home.at("").display().to_string();
    let cut = sh_ok(&format!("grep '^    \"DOTCLOUD_SERVICE_NAME\"' {home}/environment.json | cut -d'\"' -f4"));
    assert_eq!(cut, "www\n");
    for name in ["environment.yml", "environment.yaml"] {
        let port = sh_ok(&format!("grep '^PORT_LOGS:' {home}/{name} | awk '{{print $2}}'"));
        assert_eq!(port, "42801\n", "{name}");
    }
    hob.shutdown();
}

#[test]
fn services_of_other_types_are_named_in_one_warning_and_skipped() {
    let hob =
        Home::new("www:\n  type: custom\n  process: sleep 1000\ndb:\n  type: mysql\napi:\n  type: python\n").boot();
    hob.running("www");
    assert_eq!(hob.status().len(), 1);
    let err = hob.err();
    let lines: Vec<&str> = err.lines().filter(|l| l.contains("mysql") || l.contains("python")).collect();
    assert_eq!(lines.len(), 1, "{err}");
    assert!(lines[0].contains("db") && lines[0].contains("api"), "{}", lines[0]);
    hob.shutdown();
}

#[test]
fn one_service_of_several_can_be_chosen() {
    let yml = "www:\n  type: custom\n  process: sleep 1001\nwork:\n  type: custom\n  process: sleep 1002\n";
    let hob = Home::new(yml).args(&["--service", "work"]).boot();
    hob.running("work");
    assert_eq!(hob.status().len(), 1);
    hob.shutdown();
    let ran = Home::new(yml).args(&["--service", "wurk"]).boot_fails().expect(2);
    assert!(ran.err.contains("wurk"), "{ran:?}");
}

#[test]
fn the_code_tree_is_where_the_dotcloud_yml_is() {
    let home = Home::bare();
    fs::create_dir(home.beside("tree")).expect("fresh");
    fs::write(home.beside("tree/dotcloud.yml"), "www:\n  type: custom\n  process: cat ~/where\n").expect("fresh");
    fs::write(home.beside("tree/postinstall"), "#!/bin/sh\npwd > ~/where\n").expect("fresh");
    fs::set_permissions(home.beside("tree/postinstall"), fs::Permissions::from_mode(0o755)).expect("own");
    let file = home.beside("tree/dotcloud.yml").display().to_string();
    let hob = home.args(&["--file", &file]).boot();
    hob.wait_log("www.log", &format!("{}/tree\n", hob.home.marker()));
    hob.shutdown();
}

#[test]
fn without_a_home_and_nothing_deployed_it_waits() {
    let hob = Home::bare().without_home().boot();
    assert!(hob.status().is_empty());
    assert!(hob.is_alive());
    hob.shutdown();
}

#[test]
fn data_is_never_created_by_hob() {
    let hob = Home::with("one: sleep 1000").boot();
    hob.running("one");
    assert!(!hob.home.at("data").exists());
    hob.shutdown();
}

#[test]
fn run_gives_a_command_the_home_profile_variables_and_its_status() {
    let hob = Home::new("www:\n  type: custom\n  environment: {COLOUR: red}\n  process: sleep 1000\n")
        .file("profile", "export FROM_PROFILE=yes\n")
        .boot();
    hob.running("www");
    let ran = hob.hob(&["run", "www", "--", "sh", "-c", "pwd; echo $COLOUR $FROM_PROFILE $PORT_WWW; exit 7"]).expect(7);
    assert_eq!(ran.out, format!("{}\nred yes 42800\n", hob.home.at("").display()), "{ran:?}");
    let ran = hob.hob(&["run", "--", "true"]);
    assert_eq!(ran.code, 0, "a lone instance need not be named: {ran:?}");
    hob.shutdown();
}

#[test]
fn info_url_and_ports_tell_what_runs_where() {
    let hob = Home::new("www:\n  type: custom\n  ports: {www: http, zmq: tcp}\n  process: sleep 1000\n").boot();
    hob.running("www");
    hob.ok(&["url"]).says("http://").says("42800");
    hob.ok(&["ports"]).says("42801").says("zmq");
    hob.ok(&["info"]).says("www").says(&hob.home.marker());
    hob.ok(&["url", "www.0"]).says("42800");
    hob.hob(&["url", "www.1"]).expect(1).says("no service \"www.1\"; there is www");
    for what in ["ports", "info", "status"] {
        hob.ok(&[what, "--json"]).json();
    }
    hob.shutdown();
}

#[test]
fn why_tells_the_story_of_a_process() {
    let hob = Home::with("bad: sh -c 'echo last words; exit 3'").boot();
    hob.wait("bad", "a second try", |p| p.state() == "BACKOFF");
    let ran = hob.hob(&["why", "bad"]);
    assert!(ran.out.contains("BACKOFF") && ran.out.contains("code 3"), "{ran:?}");
    assert!(ran.out.contains("last words"), "{ran:?}");
    hob.shutdown();
}

const BUILDER: &str = "#!/bin/bash\nset -e\ncp -a code/* ~/\necho home $HOME > ~/built\npwd >> ~/built\n\
                       echo port ${PORT_WWW:-none} approot $SERVICE_APPROOT >> ~/built\nln -sf app ~/run\n";
const APP: &str = "#!/bin/sh\ncat ~/built\necho serving on $PORT_WWW\nexec sleep 1000\n";

fn tree() -> Home {
    Home::bare()
        .file("dotcloud.yml", "www:\n  type: custom\n  buildscript: builder\n")
        .script("builder", BUILDER)
        .script("code/app", APP)
}

#[test]
fn build_runs_the_builder_in_the_tree_with_a_home_and_without_run_variables() {
    let home = tree();
    let dir = home.at("").display().to_string();
    let ran = run(&mut home.command(&["build", &dir]));
    assert_eq!(ran.code, 0, "{ran:?}");
    // The built home is in the state directory, or where the output says.
    let built = sh_ok(&format!("find {} -name built -not -path '*/code/*'", home.marker()));
    let built = built.lines().next().unwrap_or_else(|| panic!("no built home: {ran:?}"));
    let text = fs::read_to_string(built).expect("just found");
    assert!(text.contains("port none approot ."), "{text}");
    assert!(!text.contains(&format!("home {dir}\n")), "the tree is not the home: {text}");
    assert_eq!(text.lines().nth(1), Some(dir.as_str()), "cwd is the root of the tree: {text}");
}

#[test]
fn a_strict_umask_does_not_shut_the_user_out_of_the_home_and_the_artifact_keeps_it() {
    if !need("root") {
        return;
    }
    let home = tree().settings("user = \"nobody\"\n");
    sh_ok(&format!("chmod 755 {}", home.beside("").display()));
    let ask = |words: &[&str]| {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "umask 077; exec \"$@\"", "sh", hob_bin()]).args(words);
        home.dress(&mut command);
        run(&mut command)
    };
    let dir = home.at("").display().to_string();
    let built = ask(&["build", &dir]).expect(0).out;
    assert!(fs::read_to_string(format!("{}/built", built.trim())).expect("built").starts_with("home "));
    let artifact = home.beside("all.tar.zst");
    ask(&["build", &dir, "-o", &artifact.display().to_string()]).expect(0);
    assert_eq!(fs::metadata(artifact).expect("made").permissions().mode() & 0o777, 0o600);
}

#[test]
fn version_help_and_completions_work_without_a_daemon() {
    let home = Home::bare();
    run(&mut home.command(&["--version"])).expect(0).says(env!("CARGO_PKG_VERSION"));
    run(&mut home.command(&["--help"])).expect(0).says("boot").says("status");
    run(&mut home.command(&["help", "boot"])).expect(0).says("--home");
    for shell in ["bash", "zsh", "fish"] {
        run(&mut home.command(&["completions", shell])).expect(0).says("boot");
    }
    let empty = ["HOB_CONFIG", "HOB_SOCKET", "HOB_STATE_DIR", "HOB_LOG_DIR", "HOB_HOME"].map(|name| (name, ""));
    run(home.command(&["completions", "bash"]).envs(empty)).expect(0);
    run(&mut home.command(&["frobnicate"])).expect(2).says("frobnicate");
    run(&mut home.command(&["boot", "--no-such-flag"])).expect(2);
    // An entry point whose command is missing, and output that goes nowhere.
    run(&mut home.command(&["boot", "--"])).expect(2).says("no command");
    sh(&format!("{} check /no/such.yml 2> /dev/full", hob_bin())).expect(2);
    sh(&format!("{} completions bash > /dev/full", hob_bin())).expect(111).says("no space left");
}

#[test]
fn without_a_daemon_every_command_that_needs_one_says_so_with_status_4() {
    let home = Home::bare();
    for command in [&["status"][..], &["stop", "all"], &["shutdown"], &["reload"], &["events"], &["why", "x"]] {
        let ran = run(&mut home.command(command));
        assert_eq!(ran.code, 4, "{command:?}: {ran:?}");
        assert!(ran.err.contains("hob.sock"), "it names the socket: {ran:?}");
    }
}

#[test]
fn a_supervisor_conf_in_the_home_replaces_the_processes_of_the_dotcloud_yml() {
    let conf = "[supervisord]\nnodaemon=true\n[program:web]\n\
        command=/bin/sh -c \"echo $FROM_PROFILE $SERVICE_TYPE at %(here)s; exec sleep 1000\"\n\
        [program:worker]\ncommand=sleep 1000\nnumprocs=2\nprocess_name=%(program_name)s_%(process_num)d\n\
        stdout_logfile=/nowhere/at/all.log\n";
    let home = Home::new("www:\n  type: custom\n  process: ~/never\n")
        .file("profile", "export FROM_PROFILE=profiled\n")
        .file("supervisor.conf", conf);
    let expected = format!("profiled custom at {}", home.at("").display());
    let hob = home.boot();
    hob.running("web");
    hob.running("worker_1");
    hob.wait_log("web.log", expected.trim_end_matches('/'));
    let names: Vec<String> = hob.status().iter().map(|p| p.name().to_string()).collect();
    assert_eq!(names, ["www:web", "www:worker_0", "www:worker_1"]);
    hob.shutdown();
    let hob = Home::bare().file("supervisor.conf", "[program:alone]\ncommand=sleep 1000\n").boot();
    hob.running("alone");
    hob.shutdown();
}

#[test]
fn what_the_environment_says_about_services_elsewhere_reaches_processes_and_files() {
    let home = Home::new(
        "www:\n  type: custom\n  ports: {}\n  process: 'env > ~/seen; sleep 1000'\ndb:\n  type: custom\n  ports: {sql: tcp}\n",
    );
    let home = home.env("DOTCLOUD_DB_SQL_HOST", "db.example").env("DOTCLOUD_DB_INSTANCES", "1");
    let hob = home.args(&["--service", "www"]).boot();
    let seen = hob.wait_file("seen");
    assert!(seen.contains("DOTCLOUD_DB_SQL_HOST=db.example\n") && seen.contains("DOTCLOUD_DB_INSTANCES=1\n"), "{seen}");
    let json: serde_json::Value = serde_json::from_str(&hob.wait_file("environment.json")).expect("JSON");
    assert_eq!((&json["DOTCLOUD_DB_SQL_HOST"], &json["DOTCLOUD_DB_INSTANCES"]), (&"db.example".into(), &1.into()));
    hob.shutdown();
}
