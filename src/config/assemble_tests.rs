//! The plan that a stack becomes.

use std::path::Path;
use std::time::Duration;

use super::super::settings::{Overrides, settings};
use super::super::tests::{placements, stack};
use super::*;

const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nweb:x:7:7::/srv/web:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n";

fn users(with_default: bool) -> Users {
    let (uid, gid) = crate::sys::user::effective();
    let own = if uid == 0 { String::new() } else { format!("me:x:{uid}:{gid}::/h:/bin/sh\n") };
    let default = if with_default { "dotcloud:x:1000:1000::/home/dotcloud:/bin/bash\n" } else { "" };
    Users::from_texts(&format!("{PASSWD}{own}{default}"), "mail:x:8:web\n")
}

fn env(pairs: &[(&str, &str)]) -> Env {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn try_plan(text: &str, toml: &str, root: bool) -> Result<(Plan, Vec<String>), String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hob.toml");
    std::fs::write(&file, toml).unwrap();
    let own = env(&[("HOME", "/h"), ("HOB_HOME", "/hh"), ("NOTIFY_SOCKET", "x"), ("LANG", "C"), ("PATH", "/bin")]);
    let flags = Overrides { config: Some(file), ..Overrides::default() };
    let mut settings = settings(&flags, &own).unwrap();
    settings.root = root;
    // Whatever is installed here.
    settings.haproxy.get_or_insert_with(|| "/no/haproxy".into());
    if toml.is_empty() {
        settings.proxy = super::super::proxy::When::Never;
    }
    let stack = stack(text);
    let made = plan_with(&stack, &placements(&stack), &settings, &mut Ports::in_memory(), &own, users(true));
    let short = |text: String| {
        text.lines().map(|l| l.rsplit('/').next().unwrap_or_default().to_owned()).collect::<Vec<_>>().join("\n")
    };
    match made {
        Ok((plan, warnings)) => Ok((plan, warnings.into_iter().map(|w| w.to_string()).collect())),
        Err(problems) if problems.to_string().contains("http") => Err(problems.to_string()),
        Err(problems) => Err(short(problems.to_string())),
    }
}

fn plan_of(text: &str) -> Plan {
    try_plan(text, "", true).unwrap_or_else(|error| panic!("{error}")).0
}

const APP: &str = "
www:
  type: custom
  instances: 2
  ports: {www: http, zmq: tcp}
  environment: {MODE: fast, LIST: [a, b]}
  processes:
    web: ~/httphello.py --port $PORT_WWW
    queue:
      command: ~/worker 'a b'
      environment: {MODE: slow}
      directory: queue
      pidfile: ~/run/q.pid
      user: web
      after: [web, 'db:db']
      ready: {tcp: \"127.0.0.1:${PORT_ZMQ}\", within: 3s}
      health: {http: \"http://127.0.0.1:$PORT_WWW/\", every: 1s}
      split_stderr: true
db:
  type: custom
  ports: {}
";

#[test]
fn a_scaled_service_becomes_one_instance_per_number() {
    let plan = plan_of(APP);
    let names: Vec<String> = plan.specs.iter().map(|spec| spec.name.to_string()).collect();
    assert_eq!(names, ["www.0:web", "www.0:queue", "www.1:web", "www.1:queue", "db"]);
    let ports: Vec<u16> = plan.instances.iter().flat_map(|i| &i.ports).map(|port| port.number).collect();
    assert_eq!(ports, [42800, 42801, 42802, 42803]);
    let queue = &plan.specs[3];
    let name = |group: &str, process: &str| Name { group: group.to_owned(), process: process.to_owned() };
    assert_eq!(queue.after, [name("www.1", "web"), name("db", "db")]);
    assert_eq!(queue.directory, Path::new("/homes/www.1/queue"));
    assert_eq!(queue.pidfile.as_deref(), Some(Path::new("/homes/www.1/run/q.pid")));
    assert_eq!(queue.command.kind, CommandKind::Words(vec!["/homes/www.1/worker".to_owned(), "a b".to_owned()]));
    assert_eq!(queue.command.line, "~/worker 'a b'");
    assert_eq!(plan.specs[2].command.kind, CommandKind::Simple);
    assert_eq!(queue.log.path, Path::new("/log/www.1/queue.log"));
    assert_eq!(queue.log.stderr.as_ref().map(|log| log.path.as_path()), Some(Path::new("/log/www.1/queue_error.log")));
    assert_eq!(queue.profile.as_deref(), Some(Path::new("/homes/www.1/profile")));
    let by = ReadyBy::Probe(Probe { ask: Ask::Tcp("127.0.0.1:42803".to_owned()), timeout: Duration::from_secs(5) });
    assert_eq!(queue.ready, Some(Ready { by, within: Duration::from_secs(3) }));
    let health = queue.health.as_ref().unwrap();
    assert_eq!(health.probe.ask, Ask::Http("http://127.0.0.1:42802/".to_owned()));
    assert_eq!((health.every, health.failures), (Duration::from_secs(1), 3));
}

/// What a process gets: its instance's environment and its own.
fn env_of(plan: &Plan, at: usize) -> std::collections::BTreeMap<String, String> {
    let spec = &plan.specs[at];
    let instance = plan.instances.iter().find(|i| i.name == spec.name.group).expect("every process has an instance");
    instance.env.iter().chain(&spec.env).map(|(k, v)| (k.clone(), v.clone())).collect()
}

#[test]
fn the_run_environment_is_complete() {
    let plan = plan_of(APP);
    let web = env_of(&plan, 2);
    let expected = [
        ("HOME", "/homes/www.1"),
        ("USER", "dotcloud"),
        ("LOGNAME", "dotcloud"),
        ("SHELL", "/bin/bash"),
        ("PATH", "/bin"),
        ("LANG", "C"),
        ("SERVICE_NAME", "www"),
        ("SERVICE_PROCESSES_WEB", "~/httphello.py --port $PORT_WWW"),
        ("PORT_WWW", "42802"),
        ("DOTCLOUD_SERVICE_ID", "1"),
        ("DOTCLOUD_PROJECT", "hello"),
        ("DOTCLOUD_WWW_INSTANCES", "2"),
        ("DOTCLOUD_WWW_HTTP_URL", "http://127.0.0.1:42800/"),
        ("MODE", "fast"),
        ("LIST", "[\"a\", \"b\"]"),
    ];
    for (name, value) in expected {
        assert_eq!(web.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert_eq!((web.get("HOB_HOME"), web.get("NOTIFY_SOCKET")), (None, None));
    let queue = env_of(&plan, 3);
    assert_eq!(
        (queue["MODE"].as_str(), queue["USER"].as_str(), queue["HOME"].as_str()),
        ("slow", "web", "/homes/www.1")
    );
}

#[test]
fn root_hands_over_to_the_user_and_others_stay_themselves() {
    let plan = plan_of(APP);
    let user = plan.specs[0].user.as_ref().unwrap();
    assert_eq!((user.name.as_str(), user.uid), ("dotcloud", 1000));
    assert_eq!(plan.specs[1].user.as_ref().unwrap().groups, [7, 8]);
    assert_eq!(plan.specs[1].log.owner, Some((7, 7)));
    let (plan, _) = try_plan(APP, "user = \"nobody\"\n", true).unwrap();
    assert_eq!(plan.specs[0].user.as_ref().unwrap().uid, 65534);
    let (plan, warnings) = try_plan(APP, "", false).unwrap();
    assert!(plan.specs.iter().all(|spec| spec.user.is_none() && spec.log.owner.is_none()));
    assert!(warnings.iter().all(|w| w.contains("cannot become \"web\": hob is not root")), "{warnings:?}");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn root_without_a_user_to_become_is_one_warning() {
    let stack = stack(APP);
    let own = env(&[("HOME", "/h")]);
    let mut settings = settings(&Overrides::default(), &own).unwrap();
    (settings.root, settings.user) = (true, None);
    let made = plan_with(&stack, &placements(&stack), &settings, &mut Ports::in_memory(), &own, users(false));
    let (plan, warnings) = made.unwrap();
    assert_eq!(plan.specs[0].user, None);
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].message, "processes run as root: there is no user \"dotcloud\"");
}

#[test]
fn the_settings_reach_every_process_below_its_own_options() {
    let toml = "exit_when = \"all-exited\"\n[relay_signals]\nUSR1 = [\"www\", \"db\"]\n[defaults]\nstartsecs = 7\nenvironment = { MODE = \"d\" }\n";
    let text =
        "www: {type: custom, instances: 2, processes: {a: {command: x, startsecs: 3}, b: y}}\ndb: {type: custom}\n";
    let (plan, _) = try_plan(text, toml, true).unwrap();
    let starts: Vec<u64> = plan.specs.iter().map(|spec| spec.restart.startsecs.as_secs()).collect();
    assert_eq!(starts, [3, 7, 3, 7, 7]);
    assert_eq!(plan.exit_when, crate::plan::ExitWhen::AllExited);
    assert_eq!(plan.relay_signals[&10], ["www.0:a", "www.0:b", "www.1:a", "www.1:b", "db"]);
    assert_eq!(env_of(&plan, 0)["MODE"], "d");
    assert_eq!(plan.specs[0].umask, Some(0o22));
}

#[test]
fn what_shows_only_in_the_plan_has_its_place_and_a_hint() {
    let wrong = |options: &str| {
        let text = format!("www:\n  type: custom\n  process:\n    command: x\n    {options}\n");
        let error = try_plan(&text, "", true).expect_err(options);
        error.rsplit("dotcloud.yml:").next().unwrap_or_default().to_owned()
    };
    assert_eq!(wrong("user: wbe"), "5:11: service \"www\": there is no user \"wbe\"; did you mean \"web\"?");
    assert_eq!(
        wrong("ready: {tcp: 'h:$PORT_WW'}"),
        "5:18: service \"www\": cannot ask \"h:$PORT_WW\": there is no variable \"PORT_WW\"; did you mean \"PORT_WWW\"?"
    );
    assert!(wrong("ready: {http: 'https://h/'}").contains("hob asks in plain http"));
    assert!(wrong("ready: {http: 'http:///x'}").contains("it has no host"));
    assert!(wrong("ready: {tcp: 'h:0'}").contains("\"0\" is not a port number"));
    assert!(wrong("directory: $NOPE/x").contains("there is no variable \"NOPE\""));
}

#[test]
fn processes_that_would_share_a_log_get_their_group_in_front() {
    let stack = stack("a: {type: custom, processes: {web: x, one: y}}\nb: {type: custom, processes: {web: x}}\n");
    let mut placements = placements(&stack);
    for placement in &mut placements {
        placement.log_dir = PathBuf::from("/log");
    }
    let own = env(&[("HOME", "/h")]);
    let settings = settings(&Overrides::default(), &own).unwrap();
    let made = plan_with(&stack, &placements, &settings, &mut Ports::in_memory(), &own, users(true));
    let logs: Vec<PathBuf> = made.unwrap().0.specs.into_iter().map(|spec| spec.log.path).collect();
    assert_eq!(logs, ["/log/a.web.log", "/log/one.log", "/log/b.web.log"].map(PathBuf::from));
}

#[test]
fn a_thousand_processes_are_planned_quickly() {
    let processes: String = (0..1000).map(|i| format!("    p{i}: {{command: ~/p {i}, stopwaitsecs: 1}}\n")).collect();
    let text = format!("www:\n  type: custom\n  processes:\n{processes}");
    let began = std::time::Instant::now();
    let plan = plan_of(&text);
    assert_eq!(plan.specs.len(), 1000);
    assert!(env_of(&plan, 0).len() < 60, "{}", env_of(&plan, 0).len());
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
}

const SCALED: &str = "
www:
  type: custom
  instances: 2
  ports: {www: http, zmq: tcp, sql: {type: tcp, mode: failover}, log: udp}
";

#[test]
fn a_load_balancer_stands_in_front_of_what_several_instances_share() {
    let (plan, warnings) = try_plan(SCALED, "haproxy = \"/bin/sh\"\nproxy_drain = 1\n", true).unwrap();
    assert_eq!(warnings, [""; 0]);
    let seen = |i: &Instance| i.ports.iter().map(|p| (p.number, p.front, p.public(i.number))).collect::<Vec<_>>();
    let (first, second) = (&plan.instances[0], &plan.instances[1]);
    let own = |n: u16, public| (n, None, public);
    let shared = |n: u16, public| (n, Some(public), Some(public));
    let expected = [shared(42808, 42800), own(42801, Some(42801)), shared(42809, 42802), own(42803, Some(42803))];
    assert_eq!(seen(first), expected);
    assert_eq!(seen(second), [shared(42804, 42800), own(42805, None), shared(42806, 42802), own(42807, None)]);
    for (variable, value) in [
        ("PORT_WWW", "42808"),
        ("DOTCLOUD_WWW_HTTP_URL", "http://127.0.0.1:42800/"),
        ("DOTCLOUD_WWW_HTTP_URL_0", "http://127.0.0.1:42808/"),
        ("DOTCLOUD_WWW_HTTP_URL_1", "http://127.0.0.1:42804/"),
        ("DOTCLOUD_WWW_ZMQ_PORT", "42801"),
        ("DOTCLOUD_WWW_SQL_PORT", "42802"),
        ("DOTCLOUD_WWW_SQL_URL_0", "tcp://127.0.0.1:42809"),
        ("SERVICE_PORTS_SQL", "tcp"),
    ] {
        assert_eq!(first.env.get(variable).map(String::as_str), Some(value), "{variable}");
    }
}

#[test]
fn without_haproxy_one_warning_says_so_and_every_port_is_direct() {
    let (plan, warnings) = try_plan(SCALED, "proxy_drain = 1\n", true).unwrap();
    let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
    assert!(
        warning.ends_with(
            "dotcloud.yml: no load balancer: /no/haproxy is no program (haproxy in hob.toml); each instance is reached \
             at its own port; install the package haproxy, or set proxy = \"never\" in hob.toml"
        ),
        "{warning}"
    );
    assert!(plan.instances.iter().flat_map(|i| &i.ports).all(|port| port.front.is_none()));
    let one = SCALED.replace("instances: 2", "instances: 1");
    assert_eq!(try_plan(&one, "proxy_drain = 1\n", true).unwrap().1, [""; 0]);
    let always = try_plan(&one, "proxy = \"always\"\nhaproxy = \"/bin/sh\"\n", true).unwrap().0;
    assert_eq!(always.instances[0].ports[0].front, Some(42800));
}
