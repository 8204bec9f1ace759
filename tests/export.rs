//! hob export, judged by those whom it is for: the schemas of Kubernetes and compose, systemd itself, podman.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};

use crate::containers::Podman;
use crate::support::*;
use crate::systemd::clean_cgroups;

/// PyYAML, the schemas of Kubernetes, and that of compose.
fn validators() -> Option<&'static Path> {
    static VENV: OnceLock<Option<PathBuf>> = OnceLock::new();
    VENV.get_or_init(|| {
        // The latter is only a file in a package that does not install on a Python of today.
        let installs: &[&[&str]] = &[&["kubernetes-validate==1.37.0"], &["--no-deps", "docker-compose==1.29.2"]];
        venv("kubernetes-validate-1.37.0-docker-compose-1.29.2", installs)
    })
    .as_deref()
}

#[track_caller]
fn validated(kind: &str, text: &str) -> Vec<Value> {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("out.yaml");
    fs::write(&file, text).expect("written");
    let python = validators().expect("asked for").join("bin/python");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/validate.py");
    let ran = run(Command::new(python).arg(script).arg(kind).arg(&file));
    assert_eq!(ran.code, 0, "{}\n{text}", ran.err);
    list_of(ran.json(), "documents")
}

/// A tree with this dotcloud.yml in a folder `app`, and a home beside it for hob's own places.
struct Tree {
    home: Home,
}

impl Tree {
    fn new(yml: &str) -> Tree {
        let home = Home::bare();
        fs::create_dir(home.beside("app")).expect("a fresh folder");
        let tree = Tree { home };
        tree.file("dotcloud.yml", yml)
    }

    fn file(self, name: &str, text: &str) -> Tree {
        fs::write(self.at(name), text).expect("written");
        self
    }

    fn settings(mut self, toml: &str) -> Tree {
        self.home = self.home.settings(toml);
        self
    }

    fn at(&self, name: &str) -> PathBuf {
        self.home.beside("app").join(name)
    }

    fn export(&self, words: &[&str]) -> Ran {
        let app = self.home.beside("app").display().to_string();
        let words: Vec<&str> = ["export"].into_iter().chain(words.iter().copied()).chain([app.as_str()]).collect();
        run(&mut self.home.command(&words))
    }
}

const APP: &str = "www:
  type: custom
  instances: 2
  ports: {www: http, zmq: tcp}
  environment: {MODE: fast, PRICE: '5$ (${X} $(Y) 100%) yes: #1', LIST: [a, b]}
  systempackages: [curl]
  processes:
    web:
      command: ~/web --port $PORT_WWW
      ready: {http: 'http://127.0.0.1:$PORT_WWW/up', within: 30s}
    queue: {command: ~/worker 50%, after: [web], stopsignal: INT, stopwaitsecs: 30, environment: {MODE: slow}}
db_1:
  type: custom
  buildscript: builder
  ports: {sql: tcp, log: udp}
  process:
    command: ~/server
    ready: {tcp: '$PORT_SQL', within: 60s}
    health: {tcp: '$PORT_SQL', every: 20s, failures: 4, timeout: 3s}
old:
  type: python
";

fn app() -> Tree {
    Tree::new(APP).file("server", "[ -d ~/data ] || init\n").file("web", "true\n").file("builder", "true\n")
}

fn of<'v>(all: &'v [Value], kind: &str, name: &str) -> &'v Value {
    all.iter()
        .find(|d| d["kind"] == kind && d["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn env_of(container: &Value) -> BTreeMap<String, String> {
    let list = container["env"].as_array().expect("a list");
    let pair = |v: &Value| Some((v["name"].as_str()?.to_owned(), v["value"].as_str()?.to_owned()));
    list.iter().filter_map(pair).collect()
}

#[test]
fn kubernetes_takes_the_manifests_and_they_say_what_the_dotcloud_yml_says() {
    if validators().is_none() {
        return;
    }
    let ran = app().export(&["kubernetes", "--image", "registry.example.com/app:1.2"]).expect(0);
    let all = validated("kubernetes", &ran.out);
    let kinds: Vec<&str> = all.iter().filter_map(|d| d["kind"].as_str()).collect();
    assert_eq!(kinds, ["Deployment", "Service", "StatefulSet", "Service", "Service"]);

    let www = of(&all, "Deployment", "www");
    assert_eq!(www["spec"]["replicas"], 2);
    assert_eq!(www["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"], "www");
    let pod = &www["spec"]["template"]["spec"];
    // queue stops first, and web after it.
    assert_eq!(pod["terminationGracePeriodSeconds"], 30 + 10 + 5);
    let container = &pod["containers"][0];
    assert_eq!(container["image"], "registry.example.com/app:1.2");
    assert_eq!(container["args"], json!(["--home", "/home/dotcloud/www", "--service", "www"]));
    assert_eq!(
        (&container["ports"][0]["containerPort"], &container["ports"][1]["name"]),
        (&json!(42800), &json!("zmq"))
    );
    assert_eq!(container["readinessProbe"]["httpGet"], json!({"path": "/up", "port": 42800}));
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    let env = env_of(container);
    assert_eq!(
        (env["PORT_WWW"].as_str(), env["MODE"].as_str(), env["LIST"].as_str()),
        ("42800", "fast", "[\"a\", \"b\"]")
    );
    // Kubernetes makes one dollar of two, and would expand $(Y).
    assert_eq!(env["PRICE"].replace("$$", "$"), "5$ (${X} $(Y) 100%) yes: #1");
    assert!(env["PRICE"].contains("$$(Y)"));
    assert_eq!(env["DOTCLOUD_DB_1_SQL_URL"], "tcp://db-1:42802");
    let port = &of(&all, "Service", "www")["spec"]["ports"][0];
    assert_eq!((&port["port"], &port["targetPort"]), (&json!(80), &json!("www")));

    let db = of(&all, "StatefulSet", "db-1");
    assert_eq!(db["spec"]["serviceName"], "db-1-pods");
    assert_eq!(of(&all, "Service", "db-1-pods")["spec"]["clusterIP"], "None");
    assert_eq!(db["spec"]["volumeClaimTemplates"][0]["metadata"]["name"], "home");
    let container = &db["spec"]["template"]["spec"]["containers"][0];
    let entry = container["command"].as_array().expect("a list");
    assert_eq!(entry[..3], ["/usr/local/bin/refresh", "/built/db_1", "/home/dotcloud/db_1"]);
    assert_eq!(container["volumeMounts"], json!([{"name": "home", "mountPath": "/home/dotcloud/db_1"}]));
    let live = &container["livenessProbe"];
    assert_eq!(
        (&live["periodSeconds"], &live["failureThreshold"], &live["timeoutSeconds"]),
        (&json!(20), &json!(4), &json!(3))
    );
    assert_eq!(live["tcpSocket"]["port"], 42802);
    assert_eq!(container["startupProbe"]["failureThreshold"], 12);
    assert_eq!(env_of(container)["DOTCLOUD_WWW_HTTP_URL"], "http://www:80/");
    let protocols: Vec<&Value> = of(&all, "Service", "db-1")["spec"]["ports"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|p| &p["protocol"])
        .collect();
    assert_eq!(protocols, ["TCP", "UDP"]);
    assert!(ran.out.contains("as server mentions ~/data") && ran.out.contains("old (python)"), "{}", ran.out);
    for told in ["DOTCLOUD_SERVICE_ID", "zmq go to any replica that is ready", "old (python)"] {
        assert!(ran.err.contains(told), "{told}: {}", ran.err);
    }
}

#[test]
fn health_in_a_pod_of_several_processes_is_left_to_hob_and_said_so() {
    if validators().is_none() {
        return;
    }
    let tree = Tree::new(
        "www:\n  type: custom\n  processes:\n    a: {command: ~/a, health: {exec: 'test -e ~/ok'}, ready: {notify: true}}\n    b: {command: ~/b, ready: {exec: 'true'}}\n",
    );
    let ran = tree.export(&["kubernetes"]).expect(0);
    let all = validated("kubernetes", &ran.out);
    let container = &of(&all, "Deployment", "www")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["readinessProbe"]["exec"]["command"], json!(["/usr/local/bin/hob", "status", "a", "b"]));
    assert_eq!(container["livenessProbe"]["exec"]["command"], json!(["/usr/local/bin/hob", "info"]));
    assert!(ran.err.contains("restarts that process alone"), "{}", ran.err);
    let single = Tree::new("www:\n  type: custom\n  process: {command: ~/a, health: {exec: 'test -e \"$HOME/ok\"'}}\n");
    let all = validated("kubernetes", &single.export(&["kubernetes"]).expect(0).out);
    let container = &of(&all, "Deployment", "www")["spec"]["template"]["spec"]["containers"][0];
    let words = json!(["/usr/local/bin/hob", "run", "www", "--", "/bin/sh", "-c", "test -e \"$HOME/ok\""]);
    assert_eq!(container["livenessProbe"]["exec"]["command"], words);
    // Nobody says when it is ready: as in a push, when its port takes connections.
    assert_eq!(container["readinessProbe"]["tcpSocket"]["port"], 42800);
}

#[test]
fn compose_takes_the_file() {
    if validators().is_none() {
        return;
    }
    let ran = app().export(&["compose"]).expect(0);
    let file = validated("compose", &ran.out).remove(0);
    let (www, db) = (&file["services"]["www"], &file["services"]["db_1"]);
    assert_eq!(www["image"], "app:latest");
    assert_eq!(www["ports"], json!(["42800-42801:42800", "42802-42803:42801"]));
    assert_eq!(www["environment"]["PRICE"], "5$$ ($${X} $$(Y) 100%) yes: #1");
    assert_eq!(www["environment"]["DOTCLOUD_DB_1_SQL_HOST"], "db_1");
    assert_eq!(
        (&www["restart"], &www["stop_signal"], &www["stop_grace_period"]),
        (&json!("unless-stopped"), &json!("SIGTERM"), &json!("45s"))
    );
    assert_eq!(www["deploy"]["replicas"], 2);
    assert_eq!(db["ports"], json!(["42804:42802", "42805:42803/udp"]));
    assert_eq!(
        db["healthcheck"],
        json!({"test": ["CMD", "hob", "status", "db_1"], "interval": "20s", "timeout": "3s", "retries": 4, "start_period": "60s"})
    );
    assert_eq!(db["volumes"], json!(["db_1-home:/home/dotcloud/db_1"]));
    assert_eq!(db["entrypoint"][0], "/usr/local/bin/refresh");
    assert_eq!(file["volumes"], json!({"db_1-home": {}}));
    assert!(ran.err.contains("put a proxy in front"), "{}", ran.err);
}

#[test]
fn every_example_can_be_exported_in_every_format() {
    if validators().is_none() || !need("systemd-analyze") {
        return;
    }
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/examples")).expect("there") {
        let dir = entry.expect("an entry").path();
        if !dir.is_dir() {
            continue;
        }
        let home = Home::bare();
        let export =
            |format: &str| run(&mut home.command(&["export", format, &dir.display().to_string()])).expect(0).out;
        validated("kubernetes", &export("kubernetes"));
        validated("compose", &export("compose"));
        let out = home.beside("units").display().to_string();
        run(&mut home.command(&["export", "systemd", &dir.display().to_string(), "-o", &out])).expect(0);
        verify(Path::new(&out));
        // mariadb is the one that keeps data.
        let keeps = export("kubernetes").contains("StatefulSet");
        assert_eq!(keeps, dir.ends_with("mariadb"), "{}", dir.display());
    }
}

/// `systemd-analyze verify`, with nothing to say.
#[track_caller]
fn verify(folder: &Path) {
    let units = fs::read_dir(folder).expect("there").map(|e| e.expect("an entry").path());
    let units: Vec<PathBuf> = units.filter(|path| path.is_file()).collect();
    assert!(units.len() > 2, "{units:?}");
    let ran = run(Command::new("systemd-analyze").args(["verify", "--man=no", "--recursive-errors=no"]).args(&units));
    let own: Vec<&str> =
        ran.err.lines().filter(|line| line.contains(&*folder.to_string_lossy()) || line.contains("app")).collect();
    assert_eq!((ran.code, own.as_slice()), (0, &[] as &[&str]), "{}", ran.both());
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    if !need("systemd-analyze") {
        return;
    }
    let tree = Tree::new(
        "www:
  type: custom
  instances: 2
  ports: {www: http}
  processes:
    web:
      command: ~/web \"50%\" $PORT_WWW 'a b'
      ready: {http: 'http://127.0.0.1:$PORT_WWW/', within: 45s}
      health: {tcp: '$PORT_WWW'}
      startretries: 3
      autorestart: unexpected
      exitcodes: [0, 2]
      logfile_backups: 3
      priority: 5
    queue: {command: ~/queue, after: [web], stopsignal: INT, drain: 2s, nofile: 4096, nice: 5, memory_limit: 1MB, log_prefix: true, oom_score_adj: 10, umask: '077', user: 'mail:mail', directory: ~/q%d, autostart: false}
    once: {command: 'cd ~ && ./once', oneshot: true}
    told: {command: ~/told, ready: {notify: true}, stopsignal: RTMIN+2}
    old: {command: ~/old, pidfile: ~/old.pid, autorestart: false, ready: {exec: 'test -e ~/x'}}
"
        .replace("RTMIN+2", "36")
        .as_str(),
    )
    .file("postinstall", "cat environment.json\n")
    .settings("exit_when = \"all-exited\"\n[relay_signals]\nUSR1 = [\"www\"]\n");
    let out = tree.home.beside("units");
    let ran = tree.export(&["systemd", "-o", &out.display().to_string()]).expect(0);
    verify(&out);
    let text = |name: &str| fs::read_to_string(out.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let web = text("app-www.0-web.service");
    for line in [
        "Requires=app-www.0-postinstall.service",
        "StartLimitBurst=4",
        "Restart=on-failure",
        "SuccessExitStatus=2",
        "RestartForceExitStatus=SIGHUP SIGINT SIGTERM SIGPIPE",
        "TimeoutStartSec=45s",
        "ExecStart=/bin/bash -c \"if [ -e '/home/dotcloud/www.0/profile' ]; then . '/home/dotcloud/www.0/profile'; fi\\nexec ~/web \\\"50%%\\\" $$PORT_WWW 'a b'\"",
    ] {
        assert!(web.lines().any(|l| l == line), "{line}\n{web}");
    }
    let queue = text("app-www.0-queue.service");
    for line in [
        "User=mail",
        "Group=mail",
        "KillSignal=SIGINT",
        "ExecStop=/bin/sleep 2",
        "LimitNOFILE=4096",
        "Nice=5",
        "MemoryMax=1048576",
        "OOMScoreAdjust=10",
        "UMask=0077",
        "WorkingDirectory=/home/dotcloud/www.0/q%%d",
        "Wants=app-www.0-web.service network-online.target",
    ] {
        assert!(queue.lines().any(|l| l == line), "{line}\n{queue}");
    }
    assert!(text("app-www.1-told.service").contains("Type=notify\nNotifyAccess=all\n"));
    assert!(text("app-www.1-told.service").contains("KillSignal=SIGRTMIN+2\n"));
    assert!(text("app-www.1-once.service").contains("Type=oneshot\nRemainAfterExit=yes\n"));
    assert!(text("app-www.1-old.service").contains("PIDFile=/home/dotcloud/www.1/old.pid\n"));
    let target = text("app-www.0.target");
    assert!(target.contains("Wants=app-www.0-web.service") && !target.contains("Wants=app-www.0-queue"), "{target}");
    assert!(text("app-www.1-.service.d/environment.conf").contains("Environment=\"PORT_WWW=42801\"\n"));
    for told in [
        "health",
        "logfile_*",
        "priority 5",
        "log_prefix",
        "pidfile",
        "environment.json",
        "relay_signals",
        "exit_when",
        "proxy in front",
    ] {
        assert!(ran.err.contains(told), "{told}: {}", ran.err);
    }
}

/// Text that a YAML reader, a shell, systemd or Kubernetes could take for something else.
const ODD: &[&str] = &[
    "yes",
    "No",
    "on",
    "null",
    "~",
    "1e3",
    "0x1f",
    "1:30",
    "022",
    "3.10",
    ".inf",
    "2001-01-01",
    "",
    " ",
    "- a",
    "a: b",
    "a:",
    "a #b",
    "#a",
    "&a",
    "*a",
    "!a",
    "%a",
    "@a",
    "`a`",
    "[a",
    "{a}",
    "|",
    ">",
    "'a'",
    "\"a\"",
    " a ",
    "$A",
    "$$",
    "$(A)",
    "${A}",
    "100%",
    "%h",
    "%%",
    "\\n",
    "a\\",
    "é",
    "日本",
    "--",
    "---",
    "=",
    "<<",
    "?",
    ",",
    "$",
    "\u{1f600}",
    "a\u{a0}b",
];

#[test]
fn whatever_string_goes_in_a_yaml_reader_reads_it_back() {
    if validators().is_none() {
        return;
    }
    let mut values: Vec<String> = ODD.iter().map(|text| (*text).to_owned()).collect();
    // A fixed seed: the same strings every time.
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let letters: Vec<char> = "ab019 :#-'\"\\$%{}[]()&*!|>@`~?.,=<yné日\u{2028}\u{feff}\u{1f600}".chars().collect();
    for _ in 0..400 {
        let mut text = String::new();
        for _ in 0..seed % 9 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.push(letters[(seed >> 33) as usize % letters.len()]);
        }
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        values.push(text);
    }
    values.extend(["a\nb".into(), "a\tb\n".into(), " a\n  b\n\n".into(), "first\n\nsecond: x\n".into()]);
    let environment: BTreeMap<String, &String> = values.iter().enumerate().map(|(n, v)| (format!("V{n}"), v)).collect();
    // JSON is YAML.
    let yml = json!({"www": {"type": "custom", "environment": environment, "process": "~/run"}});
    let tree = Tree::new(&yml.to_string());
    let once = |text: &str| text.replace("$$", "$");
    let all = validated("kubernetes", &tree.export(&["kubernetes"]).expect(0).out);
    let env = env_of(&of(&all, "Deployment", "www")["spec"]["template"]["spec"]["containers"][0]);
    let file = validated("compose", &tree.export(&["compose"]).expect(0).out).remove(0);
    for (key, value) in &environment {
        assert_eq!(once(&env[key]), **value, "{key}");
        assert_eq!(once(file["services"]["www"]["environment"][key].as_str().expect("a string")), **value, "{key}");
    }
}

#[test]
fn the_same_tree_gives_the_same_text_and_nothing_is_overwritten() {
    let tree = app();
    for format in ["kubernetes", "compose", "systemd"] {
        let first = tree.export(&[format]).expect(0);
        let app = tree.home.beside("app").display().to_string();
        let mut again = tree.home.command(&["export", format]);
        again.current_dir(app).env("HOSTNAME", "elsewhere").env("PORT_WWW", "80").env("PATH", "/bin").env("USER", "x");
        assert_eq!(run(&mut again).expect(0).out, first.out);
        assert!(!first.out.contains("hobt."), "a path of this machine: {}", first.out);
    }
    let out = tree.home.beside("out");
    let words = ["kubernetes", "-o", &out.display().to_string()];
    let ran = tree.export(&words).expect(0);
    assert!(ran.out.contains("kubernetes.yaml\n") && ran.out.contains("Containerfile\n"), "{}", ran.out);
    fs::write(out.join("kubernetes.yaml"), "mine\n").expect("ours");
    fs::remove_file(out.join("Containerfile")).expect("ours");
    tree.export(&words).expect(1).says("kubernetes.yaml").says("it is there already");
    assert_eq!(fs::read_to_string(out.join("kubernetes.yaml")).expect("ours"), "mine\n");
    assert!(!out.join("Containerfile").exists(), "half of it was written");
}

#[test]
fn secrets_are_named_and_never_written() {
    let tree = Tree::new(
        "www:\n  type: custom\n  ports: {}\n  environment: {PASSWORD: dummy, A: b}\n  process: {command: sleep 1000, startsecs: 0}\n",
    );
    let daemon = Tree { home: Home::bare() };
    let hob = daemon.home.without_home().boot();
    hob.ok(&["push", &tree.home.beside("app").display().to_string()]);
    hob.ok(&["env", "set", "PASSWORD=s3cr3t-word", "TOKEN=t0k3n"]);
    for format in ["kubernetes", "compose", "systemd"] {
        let out = hob.home.beside(format);
        let app = tree.home.beside("app").display().to_string();
        let ran = hob.hob(&["export", format, &app]).expect(0);
        let ran_out = hob.hob(&["export", format, &app, "-o", &out.display().to_string()]).expect(0);
        let mut text = ran.both() + &ran_out.both();
        for file in sh_ok(&format!("find {} -type f", out.display())).lines() {
            text += &fs::read_to_string(file).expect("written");
        }
        assert!(!text.contains("s3cr3t") && !text.contains("t0k3n"), "{text}");
        assert!(text.contains("TOKEN") && text.contains("secrets.env"), "{text}");
        assert!(text.contains("PASSWORD of environment is set by hob env too"), "{text}");
        if format == "compose" {
            let mode = fs::metadata(out.join("secrets.env")).expect("written");
            assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
        }
        if format == "kubernetes" && validators().is_some() {
            let all = validated("kubernetes", &ran.out);
            let env = &of(&all, "Deployment", "www")["spec"]["template"]["spec"]["containers"][0]["env"];
            let token = env.as_array().expect("a list").iter().find(|v| v["name"] == "TOKEN").expect("named");
            assert_eq!(token["valueFrom"]["secretKeyRef"], json!({"name": "app-env", "key": "TOKEN"}));
        }
    }
    hob.shutdown();
}

#[test]
fn what_matters_of_the_settings_goes_into_the_image_and_no_password() {
    let tree = Tree::new("www:\n  type: custom\n  process: {command: ~/a, user: web}\n").settings(
        "user = \"www-data\"\nexit_when = \"all-exited\"\nlisten = 9001\nlisten_password = \"s3cr3t\"\nlog_dir = \"/elsewhere\"\n\
         build_timeout = \"1h\"\n[relay_signals]\nUSR1 = [\"www\"]\n[defaults]\nstopwaitsecs = \"1m\"\numask = 0o27\n\
         environment = { LANG = \"it's\" }\n",
    );
    let out = tree.home.beside("out");
    let ran = tree.export(&["kubernetes", "-o", &out.display().to_string()]).expect(0);
    let image = fs::read_to_string(out.join("Containerfile")).expect("written");
    let manifests = fs::read_to_string(out.join("kubernetes.yaml")).expect("written");
    // Between the quotes of a shell.
    let start = image.find("RUN printf '%s\\n' \\\n").expect("the settings are written") + 4;
    let end = start + image[start..].find("\n    > /etc/hob.toml").expect("there");
    let settings = sh_ok(image[start..end].trim_end_matches(" \\"));
    for line in [
        "project = \"app\"",
        "user = \"www-data\"",
        "exit_when = \"all-exited\"",
        "build_timeout = \"3600000ms\"",
        "USR1 = [\"www\"]",
        "stopwaitsecs = \"1m\"",
        "umask = \"0o27\"",
        "environment = { LANG = \"it's\" }",
    ] {
        assert!(settings.lines().any(|l| l == line), "{line}\n{settings}");
    }
    fs::write(tree.home.beside("image.toml"), &settings).expect("written");
    let check = run(&mut tree.home.command(&["check", &tree.home.beside("image.toml").display().to_string()]));
    assert_eq!(check.code, 0, "{check:?}");
    let all = image + &manifests + &ran.both();
    assert!(!all.contains("s3cr3t") && !all.contains("elsewhere"), "{all}");
    assert!(manifests.contains("terminationGracePeriodSeconds: 65") && ran.err.contains("exit_when"), "{all}");
    // web is another user than www-data: hob stays root.
    assert!(!all.contains("\nUSER ") && all.contains("useradd --system web"), "{all}");
    let tree = tree.file("dotcloud.yml", "www:\n  type: custom\n");
    let ran = tree.export(&["kubernetes"]).expect(0);
    assert!(!ran.out.contains("runAsUser: ") && ran.err.contains("the number of www-data"), "{}", ran.both());
    assert!(tree.export(&["compose"]).expect(0).out.contains("restart: on-failure"));
}

#[test]
fn what_cannot_be_exported_is_refused_with_the_reason() {
    let empty = Tree { home: Home::bare() };
    run(&mut empty.home.command(&["export", "compose", &empty.home.marker()]))
        .expect(2)
        .says("Couldn't find a dotcloud.yml");
    Tree::new("www:\n  type: python\n").export(&["compose"]).expect(2).says("no custom service");
    let bad = Tree::new("www:\n  type: custom\n  process: {command: x, stopsignal: TREM}\n");
    bad.export(&["systemd"]).expect(2).says("TREM").says(":3:");
    app().export(&["kubernetes", "--data", "ww"]).expect(2).says("did you mean \"www\"?");
    app().export(&["kubernetes", "--image", "a b"]).expect(2).says("a b");
    app().export(&["systemd", "--home", "relative"]).expect(2).says("absolute");
    app().export(&["swarm"]).expect(2).says("kubernetes");
    let ran = app().export(&["kubernetes", "--no-data", "db_1"]).expect(0);
    assert!(!ran.out.contains("StatefulSet"));
    assert!(app().export(&["kubernetes", "--data", "www"]).expect(0).out.contains("as --data says"));
}

#[test]
fn the_units_run_under_systemd_as_the_processes_do_under_hob() {
    if !need_all(&["root", "systemd-nspawn", "nsenter"]) {
        return;
    }
    let odd = "it's \\ \"50%\" $A ${B} %h";
    let yml = json!({"www": {
        "type": "custom",
        "ports": {"www": "tcp"},
        "environment": {"ODD": odd, "MODE": "fast", "LINES": "a\nb"},
        "processes": {
            "show": {"command": "~/show \"$PORT_WWW\" '50%' \"$FROM_PROFILE\" a\\ b \\$x", "oneshot": true, "umask": "077"},
            "later": {"command": "cd / && env -0 > ~/later && sleep 1000", "after": ["show"], "environment": {"MODE": "slow"}},
            "ready": {"command": "/opt/prop tcp $PORT_WWW 500", "ready": {"tcp": "$PORT_WWW"}},
            "last": {"command": "sh -c 'echo up > ~/last; exec sleep 1000'", "after": ["ready"], "user": "other"},
        },
    }});
    let tree = Tree::new(&yml.to_string()).file("postinstall", "pwd > ~/postinstalled\n");
    let units = tree.home.beside("units");
    tree.export(&["systemd", "-o", &units.display().to_string()]).expect(0);
    let built = tree.home.at("");
    fs::create_dir(built.join("code")).expect("a fresh folder");
    let show = "#!/bin/sh\n{ printf '%s\\n' \"$@\"; umask; pwd; id -un; } > ~/show.out\nenv -0 > ~/show.env\n";
    fs::write(built.join("show"), show).expect("written");
    fs::write(built.join("profile"), "export FROM_PROFILE='from profile'\n").expect("written");
    fs::copy(tree.at("postinstall"), built.join("code/postinstall")).expect("copied");
    sh_ok(&format!("chmod +x {0}/show {0}/code/postinstall; chown -R 1000:1000 {0}; chmod 777 {0}", built.display()));
    fs::write(
        tree.home.beside("passwd"),
        "root:x:0:0:root:/root:/bin/sh\ndotcloud:x:1000:1000::/home/dotcloud:/bin/bash\nother:x:1001:1001::/:/bin/sh\n",
    )
    .expect("written");
    fs::write(tree.home.beside("group"), "root:x:0:\ndotcloud:x:1000:\nother:x:1001:\n").expect("written");

    let lock = fs::File::create("/tmp/hob-tests.nspawn.lock").expect("a lock file");
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| e).expect("the lock");
    clean_cgroups();
    let console = fs::File::create(tree.home.beside("console")).expect("a fresh file");
    let mut nspawn = Command::new("systemd-nspawn");
    nspawn.args(["--directory=/", "--volatile=yes", "--boot", "--register=no", "--keep-unit", "--private-network"]);
    nspawn.args(["--console=pipe", "--quiet"]);
    let bind = |what: &Path, at: &str| format!("{}:{at}", what.display());
    nspawn.arg("--bind-ro").arg(bind(Path::new(prop()), "/opt/prop"));
    for name in ["passwd", "group"] {
        nspawn.arg("--bind-ro").arg(bind(&tree.home.beside(name), &format!("/etc/{name}")));
    }
    for entry in fs::read_dir(&units).expect("written") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        nspawn.arg("--bind-ro").arg(bind(&path, &format!("/etc/systemd/system/{name}")));
    }
    nspawn.arg("--bind").arg(bind(&built, "/home/dotcloud"));
    nspawn.args(["systemd.unit=basic.target", "systemd.wants=app.target"]);
    nspawn.stdin(Stdio::null()).stdout(console.try_clone().expect("one more")).stderr(console);
    let mut nspawn = nspawn.spawn().expect("systemd-nspawn starts");
    let outer = nspawn.id() as i32;
    let end = Instant::now() + PATIENCE;
    while !built.join("last").exists() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    let said = fs::read_to_string(tree.home.beside("console")).unwrap_or_default();
    let init = children_of(outer).first().map(|child| child.0);
    if let Some(init) = init {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(init), nix::sys::signal::Signal::SIGKILL);
    }
    let _ = wait_child(&mut nspawn, Duration::from_secs(5));
    let _ = nspawn.kill();
    let _ = nspawn.wait();
    clean_cgroups();

    let read = |name: &str| fs::read_to_string(built.join(name)).unwrap_or_else(|e| panic!("{name}: {e}\n{said}"));
    assert_eq!(read("postinstalled"), "/home/dotcloud/code\n");
    assert_eq!(read("show.out"), "42800\n50%\nfrom profile\na b\n$x\n0077\n/home/dotcloud\ndotcloud\n");
    let env = |name: &str| -> BTreeMap<String, String> {
        let text = read(name);
        text.split('\0').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    };
    let (show, later) = (env("show.env"), env("later"));
    assert_eq!((show["ODD"].as_str(), show["LINES"].as_str(), show["MODE"].as_str()), (odd, "a\nb", "fast"));
    assert_eq!((later["MODE"].as_str(), later["ODD"].as_str(), later["PWD"].as_str()), ("slow", odd, "/"));
    assert_eq!((show["HOME"].as_str(), show["DOTCLOUD_SERVICE_NAME"].as_str()), ("/home/dotcloud", "www"));
    assert_eq!(show["SERVICE_ENVIRONMENT_ODD"], odd);
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(built.join("last")).expect("seen"));
    assert_eq!(owner, 1001);
}

#[test]
fn the_image_builds_and_a_home_with_data_is_refreshed_around_it() {
    if !need_all(&["root", "podman", "runc", "busybox"]) {
        return;
    }
    let podman = Podman::new();
    let home = &podman.home;
    // A stand-in for Debian, with what the Containerfile calls; its user is there already.
    let base = home.beside("base");
    for folder in ["bin", "tmp", "etc", "usr/local/bin"] {
        fs::create_dir_all(base.join(folder)).expect("a fresh folder");
    }
    fs::copy(which("busybox").expect("asked for"), base.join("bin/busybox")).expect("copied");
    for applet in ["sh", "sleep", "cat", "id", "mkdir", "chown", "printf", "find", "cp", "rm", "test", "["] {
        symlink("busybox", base.join("bin").join(applet)).expect("a fresh link");
    }
    fs::write(base.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\ndotcloud:x:1000:1000::/home/dotcloud:/bin/sh\n")
        .expect("written");
    fs::write(base.join("etc/group"), "root:x:0:\ndotcloud:x:1000:\n").expect("written");
    // The libraries of a hob that is not static.
    sh_ok(&format!("ldd {} | grep -o '/[^ ]*' | xargs -I{{}} cp -L --parents {{}} {}", hob_bin(), base.display()));
    sh_ok(&format!("tar -C {0} -cf {0}.tar .", base.display()));
    podman.ok(&["import", "-q", "base.tar", "docker.io/library/debian:stable-slim"]);

    let app = home.beside("app");
    fs::create_dir(&app).expect("a fresh folder");
    let yml = "db:\n  type: custom\n  buildscript: builder\n  ports: {}\n  process: {command: ~/server, startsecs: 0}\nwww:\n  type: custom\n  buildscript: builder\n  ports: {}\n";
    fs::write(app.join("dotcloud.yml"), yml).expect("written");
    let server = "#!/bin/sh\nif [ ! -d ~/data ]; then mkdir ~/data; echo first > ~/data/start; fi\nid -u; cat ~/data/start ~/version; echo served by $DOTCLOUD_PROJECT; exec sleep 1000\n";
    fs::write(app.join("server"), server).expect("written");
    fs::write(app.join("builder"), "cp server ~/server; cp version ~/version; echo 'exec sleep 1000' > ~/run\n")
        .expect("written");
    fs::write(app.join("version"), "one\n").expect("written");
    fs::write(app.join(".dotcloudignore"), "/private\n*.tmp\n").expect("written");
    for name in ["private", "a.tmp", "secrets.env"] {
        fs::write(app.join(name), "x\n").expect("written");
    }
    fs::copy(hob_bin(), app.join(".hob")).expect("copied");
    let out = home.beside("out").display().to_string();
    let ran = run(&mut home.command(&["export", "compose", &app.display().to_string(), "-o", &out])).expect(0);
    assert!(ran.err.is_empty(), "{}", ran.err);
    let compose = fs::read_to_string(home.beside("out/compose.yaml")).expect("written");
    assert!(compose.contains("context: ../app") && compose.contains("dockerfile: ../out/Containerfile"), "{compose}");
    let entry: Vec<String> = compose
        .lines()
        .find_map(|line| line.trim().strip_prefix("entrypoint: [")?.strip_suffix(']'))
        .map(|words| words.split(", ").map(str::to_owned).collect())
        .expect("the service with data has one");
    assert_eq!(entry[0], "/usr/local/bin/refresh");

    let build = || {
        let file = home.beside("out/Containerfile").display().to_string();
        podman.ok(&[
            "build",
            "--format",
            "docker",
            "--isolation",
            "chroot",
            "--pull-never",
            "-q",
            "-t",
            "app:latest",
            "-f",
            &file,
            "app",
        ]);
    };
    let serve = |name: &str, words: &[&str], text: &str| {
        podman.ok(&[&["run", "-d", "--name", name, "--no-healthcheck"], words].concat());
        let logs = wait_for(text, || {
            let logs = podman.ok(&["logs", name]).both();
            logs.contains(text).then_some(logs)
        });
        podman.ok(&["stop", "--time", "10", name]);
        assert_eq!(podman.ok(&["inspect", name, "--format", "{{.State.ExitCode}}"]).out.trim(), "0", "{logs}");
        logs
    };
    let volume = ["-v", "db-home:/home/dotcloud/db", "--entrypoint", entry[0].as_str(), "app:latest"];
    let rest: Vec<&str> = entry[1..].iter().map(String::as_str).collect();
    let db = [&volume[..], &rest, &["--home", "/home/dotcloud/db", "--service", "db"]].concat();
    let db = db.as_slice();
    build();
    let logs = serve("one", db, "served by app");
    assert!(logs.contains("| 1000\n") && logs.contains("| first\n") && logs.contains("| one\n"), "{logs}");
    fs::write(app.join("version"), "two\n").expect("written");
    // What the first start left is what the second one finds.
    podman.ok(&[
        "run",
        "--rm",
        "--user",
        "0:0",
        "-v",
        "db-home:/volume",
        "--entrypoint",
        "/bin/sh",
        "app:latest",
        "-c",
        "echo kept > /volume/data/start; echo x > /volume/stray",
    ]);
    build();
    let logs = serve("two", db, "served by app");
    assert!(logs.contains("| kept\n") && logs.contains("| two\n"), "{logs}");
    let left = podman.ok(&[
        "run",
        "--rm",
        "-v",
        "db-home:/volume",
        "--entrypoint",
        "/bin/sh",
        "app:latest",
        "-c",
        "test ! -e /volume/stray && echo gone",
    ]);
    assert_eq!(left.out, "gone\n");
    // What a push leaves out is not in the image either.
    let code = "cd /code && test -f server && for f in private a.tmp secrets.env; do test ! -e $f || echo $f; done";
    let left = podman.ok(&["run", "--rm", "--entrypoint", "/bin/sh", "app:latest", "-c", code]);
    assert_eq!(left.out, "");
    serve("three", &["app:latest", "--home", "/home/dotcloud/www", "--service", "www"], "www");
}
