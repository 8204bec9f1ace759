//! What is read from a dotcloud.yml, and every way it can be wrong.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::tests::{stack, try_stack};
use super::*;

/// The problems of a text, one line each.
fn problems(text: &str) -> String {
    match try_stack(text) {
        Err(problems) => problems,
        Ok((stack, _)) => panic!("accepted: {text:?} as {stack:?}"),
    }
}

const FULL: &str = "
www:
  type: custom
  approot: 42
  buildscript: www/builder
  prebuild: rm -f x
  postinstall: ./x.sh
  instances: 2
  ports: { www: http, zmq: tcp, MC: udp }
  systempackages: [libzmq-dev, g++]
  environment: { MODE: fast }
  anything: [at, all]
  processes:
    web: ~/httphello.py
    queue:
      command: ~/worker --queue mail
      autorestart: unexpected
      exitcodes: [0, 2]
      startsecs: 1
      startretries: 0
      stopsignal: INT
      stopwaitsecs: 10
      environment: { MODE: fast }
      directory: ~/queue
      user: nobody
      umask: \"022\"
      priority: 999
      after: [web]
      ready: { http: \"http://127.0.0.1:$PORT_WWW/\", within: 30s }
      health: { http: \"http://127.0.0.1:$PORT_WWW/\", every: 10s, failures: 3 }
      pidfile: ~/queue.pid
      oneshot: false
      restart_delay: 1s
      restart_delay_max: 60s
      logfile_maxbytes: 50MB
      logfile_backups: 10
";

#[test]
fn every_key_is_read() {
    let modes = stack("www: {type: custom, ports: {a: http, b: tcp, c: {type: tcp, mode: balance}, d: udp}}\n");
    let modes: Vec<Mode> = modes.services[0].ports.iter().map(|port| port.mode).collect();
    assert_eq!(modes, [Mode::Balance, Mode::First, Mode::Balance, Mode::First]);
    let stack = stack(FULL);
    let www = &stack.services[0];
    assert_eq!(
        (www.approot.as_str(), www.buildscript.as_str(), www.prebuild.as_str()),
        ("42", "www/builder", "rm -f x")
    );
    assert_eq!((www.postinstall.as_str(), www.postbuild.as_str(), www.instances), ("./x.sh", "", 2));
    assert_eq!(www.systempackages, ["libzmq-dev", "g++"]);
    let ports: Vec<(&str, Protocol)> = www.ports.iter().map(|port| (port.name.as_str(), port.protocol)).collect();
    assert_eq!(ports, [("www", Protocol::Http), ("zmq", Protocol::Tcp), ("MC", Protocol::Udp)]);
    let processes: Vec<(&str, &str)> =
        www.processes.iter().map(|p| (p.name.as_str(), p.command.value.as_str())).collect();
    assert_eq!(processes, [("web", "~/httphello.py"), ("queue", "~/worker --queue mail")]);
    assert_eq!(www.processes[1].after[0].value, "web");
}

#[test]
fn a_service_without_process_or_ports_runs_run_on_www() {
    for text in ["www:\n  type: custom\n", "www: {type: custom, process: }\n", "www: {type: custom, processes: {}}\n"] {
        let www = &stack(text).services[0];
        assert_eq!((www.processes[0].name.as_str(), www.processes[0].command.value.as_str()), ("www", "~/run"));
        assert_eq!(www.ports, [PortDecl { name: "www".to_owned(), protocol: Protocol::Http, mode: Mode::Balance }]);
    }
    assert!(stack("www: {type: custom, ports: {}}\n").services[0].ports.is_empty());
    let default = default_stack(Path::new("/home/dotcloud"));
    assert_eq!(default.services[0].processes[0].command.value, "~/run");
    assert_eq!(default.services[0].ports[0].name, "www");
}

#[test]
fn process_takes_a_mapping_too() {
    let www = &stack("www:\n  type: custom\n  process: {command: ~/x, stopsignal: INT}\n").services[0];
    assert_eq!((www.processes[0].name.as_str(), www.processes[0].command.value.as_str()), ("www", "~/x"));
}

#[test]
fn numbers_are_fine_as_names() {
    let stack = stack("2:\n  type: custom\n  processes: {1: ~/a}\n");
    assert_eq!((stack.services[0].name.as_str(), stack.services[0].processes[0].name.as_str()), ("2", "1"));
}

#[test]
fn services_of_other_types_are_skipped_with_one_warning() {
    let text = "db:\n  type: mysql\nwww:\n  type: custom\napi:\n  type: python-worker\n  requirements: [flask]\n";
    let (stack, warnings) = try_stack(text).unwrap();
    assert_eq!(stack.services.len(), 1);
    assert_eq!(warnings, ["dotcloud.yml: hob runs services of type custom; skipped: db (mysql), api (python-worker)"]);
}

#[test]
fn a_slip_of_the_pen_in_a_free_key_is_a_warning() {
    let (_, warnings) =
        try_stack("www:\n  type: custom\n  proces: ~/x\n  node_version: 1\n  stopsignal: INT\n").unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].starts_with("dotcloud.yml:3:3: service \"www\": \"proces\" is not a key that hob knows; "));
    assert!(warnings[0].ends_with("it becomes SERVICE_PROCES; did you mean \"process\"?"), "{warnings:?}");
    assert!(warnings[1].ends_with("write it below: process: {command: ..., stopsignal: ...}"), "{warnings:?}");
}

/// Text, and the whole of what is said about it.
const WRONG: &[(&str, &str)] = &[
    ("", "dotcloud.yml: \"dotcloud.yml\" is empty!"),
    ("# nothing\n", "dotcloud.yml: \"dotcloud.yml\" is empty!"),
    ("{}\n", "dotcloud.yml:1:1: service(s) dict cannot be empty in \"dotcloud.yml\", line 1, column 1"),
    (
        "- www\n",
        "dotcloud.yml:1:1: Expected a type dictionary but got a type list in \"dotcloud.yml\", line 1, column 1",
    ),
    (
        "www\n",
        "dotcloud.yml:1:1: Expected a type dictionary but got a type string in \"dotcloud.yml\", line 1, column 1",
    ),
    (
        "www: custom\n",
        "dotcloud.yml:1:6: Expected a type dictionary but got a type string in \"dotcloud.yml\", line 1, column 6",
    ),
    ("www:\n", "dotcloud.yml:1:4: Expected a type dictionary but got nothing in \"dotcloud.yml\", line 1, column 4"),
    (
        "www:\n  approot: .\n",
        "dotcloud.yml:2:3: Missing mandatory entry: \"type\" in \"dotcloud.yml\", line 2, column 3; write type: custom",
    ),
    (
        "www:\n  type: cusotm\n",
        "dotcloud.yml:2:9: Unrecognized service \"cusotm\" in \"dotcloud.yml\", line 2, column 9; did you mean \"custom\"?",
    ),
    (
        "www:\n  type: custom\n  ports: {www: htpt}\n",
        "dotcloud.yml:3:16: Unrecognized port \"htpt\" in \"dotcloud.yml\", line 3, column 16; a port is http, tcp or udp; \
         hob chooses the number",
    ),
    (
        "www:\n  type: custom\n  ports: {www: {mode: first}}\n",
        "dotcloud.yml:3:16: Missing mandatory entry: \"type\" in \"dotcloud.yml\", line 3, column 16; a port is http, tcp \
         or udp; hob chooses the number",
    ),
    (
        "www:\n  type: custom\n  ports:\n    a: {type: tcp, mode: balnce}\n    b: {type: tcp, mdoe: first}\n",
        "dotcloud.yml:4:26: service \"www\": port \"a\": mode \"balnce\" is not one of first, balance, failover; did you \
         mean \"balance\"?\n\
         dotcloud.yml:5:20: service \"www\": port \"b\": unknown option \"mdoe\"; did you mean \"mode\"?",
    ),
    (
        "www:\n  type: custom\n  ports: {a: {type: udp, mode: failover}}\n",
        "dotcloud.yml:3:32: service \"www\": port \"a\": a udp port has no other mode than first; HAProxy speaks http \
         and tcp",
    ),
    (
        "a_very_long_service_name:\n  type: custom\n",
        "dotcloud.yml:1:1: Invalid service name (must be <= 16 characters) \"a_very_long_service_name\" in \
         \"dotcloud.yml\", line 1, column 1",
    ),
    (
        "Www:\n  type: custom\n",
        "dotcloud.yml:1:1: Invalid characters (lowercase alphanum only) for service \"Www\" in \"dotcloud.yml\", line 1, \
         column 1",
    ),
    (
        "www:\n  type: custom\n  process: ~/a\n  processes: {b: ~/b}\n",
        "dotcloud.yml:4:3: You can't have both \"process\" and \"processes\" at the same time in service \"www\" in \
         \"dotcloud.yml\", line 4, column 3",
    ),
    (
        "www:\n  type: custom\n  processes: [~/a]\n",
        "dotcloud.yml:3:14: Expected a type dictionary but got a type list in \"dotcloud.yml\", line 3, column 14",
    ),
    (
        "www:\n  type: custom\n  instances: \"2\"\n",
        "dotcloud.yml:3:14: Expected a type int but got a type string in \"dotcloud.yml\", line 3, column 14",
    ),
    (
        "www:\n  type: custom\n  instances: 0\n",
        "dotcloud.yml:3:14: service \"www\": instances \"0\" is not between 1 and 256",
    ),
    (
        "www:\n  type: custom\n  systempackages: [a, -o=x]\n",
        "dotcloud.yml:3:23: systempackages \"-o=x\" is not the name of a package",
    ),
    (
        "www:\n  type: custom\n  approot: [a]\n",
        "dotcloud.yml:3:12: Expected a type string but got a type list in \"dotcloud.yml\", line 3, column 12",
    ),
    (
        "www:\n  type: custom\n  ports: {a-b: tcp, a.b: tcp}\n",
        "dotcloud.yml:3:21: service \"www\": port \"a.b\": PORT_A_B is taken by another port",
    ),
    (
        "web:\n  type: custom\n  process:\n    command: ~/x\n    stopsignal: TREM\n",
        "dotcloud.yml:5:17: service \"web\": stopsignal \"TREM\" is not a signal; did you mean \"TERM\"?",
    ),
    (
        "www:\n  type: custom\n  processes:\n    q:\n      comand: ~/x\n      startsecs: soon\n",
        "dotcloud.yml:5:7: service \"www\": process \"q\": unknown option \"comand\"; did you mean \"command\"?\n\
         dotcloud.yml:5:7: service \"www\": process \"q\": no command given; write command: ~/run\n\
         dotcloud.yml:6:18: service \"www\": process \"q\": startsecs \"soon\" is not a length of time; write 30s, 1m30s or \
         500ms; a bare number is seconds",
    ),
    (
        "www:\n  type: custom\n  processes:\n    all: ~/x\n    a/b: ~/y\n",
        "dotcloud.yml:4:5: service \"www\": a process cannot be named \"all\": on the command line it means every process\n\
         dotcloud.yml:5:5: service \"www\": \"a/b\" cannot be the name of a process: letters, digits, \"_\", \"-\" and \".\", \
         up to 100, and no \"-\" or \".\" first",
    ),
    (
        "www:\n  type: custom\n  process: ~/x 'y\n",
        "dotcloud.yml:3:12: service \"www\": the command has a ' without its other half",
    ),
    (
        "www:\n  type: custom\n  processes:\n    a: {command: x, after: [b]}\n    b: {command: x, after: [c]}\n    c: {command: x, after: [www:a]}\n",
        "dotcloud.yml:6:29: service \"www\": process \"a\": after goes in a circle: a -> b -> c -> a",
    ),
    (
        "www:\n  type: custom\n  processes:\n    a: {command: x, after: bb}\n    bbb: x\n",
        "dotcloud.yml:4:28: service \"www\": process \"a\": after \"bb\" is not a process here; did you mean \"bbb\"?",
    ),
    (
        "www:\n  type: custom\n  process: {command: x, ready: {http: a, tcp: b}, health: {every: 1s}}\n",
        "dotcloud.yml:3:32: service \"www\": ready needs one of http, tcp, exec or notify, and only one\n\
         dotcloud.yml:3:59: service \"www\": health needs one of http, tcp or exec, and only one",
    ),
    (
        "www:\n  type: custom\n  type: custom\n",
        "dotcloud.yml:3:3: duplicate key \"type\"; each key may stand once in a mapping",
    ),
    (
        "www:\n  type: custom\n  environment: {\"A=B\": 1}\n",
        "dotcloud.yml:3:17: service \"www\": environment: \"A=B\" cannot be the name of a variable",
    ),
    ("www:\n\ttype: custom\n", "dotcloud.yml:2:1: a tab in the indentation; indent with spaces"),
];

#[test]
fn every_mistake_is_named_with_its_place() {
    let differs = |(text, expected): &&(&str, &str)| problems(text) != *expected;
    let different: Vec<String> = WRONG
        .iter()
        .filter(differs)
        .map(|(text, expected)| format!("{text}\n{}\n{expected}\n", problems(text)))
        .collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn all_problems_come_at_once_in_the_order_of_the_file() {
    let text = "www:\n  type: cusotm\napi:\n  type: custom\n  approot: {}\n  instances: two\nDb:\n  type: redis\n";
    let places: Vec<String> =
        problems(text).lines().map(|line| line.split(": ").next().unwrap_or_default().to_owned()).collect();
    assert_eq!(places, ["dotcloud.yml:2:9", "dotcloud.yml:5:12", "dotcloud.yml:6:14", "dotcloud.yml:7:1"]);
}

#[test]
fn a_missing_file_and_no_file_at_all_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let error = super::stack(&dir.path().join("dotcloud.yml")).unwrap_err().to_string();
    assert!(error.ends_with(&format!("Couldn't find a dotcloud.yml in {}", dir.path().display())), "{error}");
    let error = super::stack(dir.path()).unwrap_err().to_string();
    assert!(error.ends_with("cannot read it: not a regular file"), "{error}");
}

#[test]
fn a_stack_with_too_many_processes_is_refused() {
    let processes: String = (0..200).map(|i| format!("    p{i}: x\n")).collect();
    let text = format!("www:\n  type: custom\n  instances: 200\n  processes:\n{processes}");
    assert_eq!(problems(&text), "dotcloud.yml: 40000 processes in all; the most is 20000");
}

#[test]
fn a_stack_whose_instances_would_tell_each_other_too_much_is_refused() {
    let services = |count: usize| (0..count).map(|i| format!("s{i}: {{type: custom}}\n")).collect::<String>();
    assert_eq!(stack(&services(500)).services.len(), 500);
    let told = "dotcloud.yml: 2000 instances have 16000000 variables in all; the most is 2000000; every instance is told \
                of the ports of all the others";
    assert_eq!(problems(&services(2000)), told);
}

#[test]
fn a_long_chain_of_after_is_no_problem() {
    let chain: String = (1..5000).map(|i| format!("    p{i}: {{command: x, after: p{}}}\n", i - 1)).collect();
    let began = Instant::now();
    stack(&format!("www:\n  type: custom\n  processes:\n    p0: x\n{chain}"));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_good_file_with_random_damage_is_read_or_refused_quickly(
        edits in proptest::collection::vec((0..FULL.len(), "[-a-z:\\[\\]{}&*!|>'\"%#, \n\t~$0-9]{0,3}", 0usize..4), 1..6)
    ) {
        let mut text: Vec<char> = FULL.chars().collect();
        for (at, insert, remove) in edits {
            let at = at.min(text.len());
            let end = (at + remove).min(text.len());
            text.splice(at..end, insert.chars());
        }
        let text: String = text.into_iter().collect();
        let began = Instant::now();
        let _ = try_stack(&text);
        prop_assert!(began.elapsed() < Duration::from_secs(20));
    }
}
