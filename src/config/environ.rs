//! The variables of builds and runs, and the environment files.
//!
//! `SERVICE_*` come from the keys of the service and are there at the build and at the run; `PORT_*`, `DOTCLOUD_*` and
//! `environment:` only at the run. Readers of the environment files are crude (grep, cut, sed, awk), so their format
//! is part of the contract: one key per line, four spaces, bare integers. There is no SSH into an instance, so the
//! `DOTCLOUD_<SERVICE>_SSH_*` of the original are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Placement;
use super::buildfile::{Service, Stack};
use super::ports::Ports;
use super::value::{Data, Value, is_odd_in_yaml, json_string};
use crate::plan::{Identity, Protocol};

/// Variables by name.
pub type Env = BTreeMap<String, String>;

/// The value of a variable, as the environment files show it.
#[derive(Clone, Debug, PartialEq)]
pub enum Var {
    Text(String),
    Number(u32),
    /// As the user wrote it: a list stays a list.
    Given(Value),
}

impl Var {
    pub fn as_variable(&self) -> String {
        match self {
            Var::Text(text) => text.clone(),
            Var::Number(number) => number.to_string(),
            Var::Given(value) => value.as_variable(),
        }
    }

    fn as_json(&self) -> String {
        match self {
            Var::Text(text) => json_string(text),
            Var::Number(number) => number.to_string(),
            Var::Given(value) => value.as_json(),
        }
    }

    fn as_yaml(&self) -> String {
        match self {
            Var::Text(text) => yaml_string(text),
            Var::Number(number) => number.to_string(),
            Var::Given(value) => {
                let json = value.as_json();
                match &value.data {
                    Data::Scalar(scalar) if json.starts_with('"') => yaml_string(&scalar.text),
                    // JSON on one line is YAML too.
                    _ => json,
                }
            }
        }
    }
}

/// hob's own environment without what is meant for hob alone.
pub fn inherited(own: &Env) -> Env {
    let private = |name: &str| name.starts_with("HOB_") || NOT_PASSED_ON.contains(&name);
    own.iter().filter(|(name, _)| !private(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// hob's own environment as text; what is not UTF-8 is passed over.
pub fn own_env() -> Env {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// The variables of a login: HOME, USER, LOGNAME, SHELL, and PATH and HOSTNAME where hob has none.
pub fn login(env: &mut Env, home: &Path, user: &Identity) {
    env.insert("HOME".to_owned(), home.to_string_lossy().into_owned());
    env.insert("USER".to_owned(), user.name.clone());
    env.insert("LOGNAME".to_owned(), user.name.clone());
    env.insert("SHELL".to_owned(), user.shell.to_string_lossy().into_owned());
    if env.get("PATH").is_none_or(String::is_empty) {
        env.insert("PATH".to_owned(), DEFAULT_PATH.to_owned());
    }
    if !env.contains_key("HOSTNAME")
        && let Ok(name) = std::fs::read_to_string("/proc/sys/kernel/hostname")
    {
        env.insert("HOSTNAME".to_owned(), name.trim().to_owned());
    }
}

/// The environment of a build: what the scripts may rely on before there is an instance.
pub fn build_env(service: &Service, home: &Path, user: &Identity, own: &Env) -> Env {
    let mut env = inherited(own);
    env.retain(|name, _| !name.starts_with("PORT_") && !name.starts_with("DOTCLOUD_"));
    login(&mut env, home, user);
    env.extend(service_variables(service));
    env
}

/// `SERVICE_<KEY>` for every key of the service; a mapping gives one per entry, one level deep.
pub fn service_variables(service: &Service) -> Vec<(String, String)> {
    let mut variables = vec![
        ("SERVICE_NAME".to_owned(), service.name.clone()),
        ("SERVICE_APPROOT".to_owned(), ".".to_owned()),
        ("SERVICE_INSTANCES".to_owned(), "1".to_owned()),
    ];
    for (key, value) in &service.raw {
        let name = format!("SERVICE_{}", variable_part(&key.text));
        match value.map() {
            Some(_) if key.text == "process" => {
                variables.push((name, value.get("command").unwrap_or(value).as_variable()));
            }
            // Every process gets a copy of every variable: their number squared is what it costs.
            Some(entries) if key.text == "processes" && entries.len() > MAX_PROCESS_VARIABLES => {}
            Some(entries) => variables.extend(entries.iter().map(|(sub, value)| {
                // With options it is first of all what it is without any.
                let text = match key.text.as_str() {
                    "processes" => value.get("command").unwrap_or(value).as_variable(),
                    "ports" => value.get("type").unwrap_or(value).as_variable(),
                    _ => value.as_variable(),
                };
                (format!("{name}_{}", variable_part(&sub.text)), text)
            })),
            None if key.text == "approot" && value.text().is_some_and(|text| text.trim().is_empty()) => {}
            None => variables.push((name, declared_text(value))),
        }
    }
    variables
}

/// A scalar by its source text, `~` included.
fn declared_text(value: &Value) -> String {
    value.text().map_or_else(|| value.as_variable(), str::to_owned)
}

/// The run-only variables of one instance, in the order of the environment files.
pub fn run_variables(
    project: &str,
    stack: &Stack,
    placements: &[Placement],
    ports: &Ports,
    instance: &Placement,
) -> Vec<(String, Var)> {
    let text = |text: &str| Var::Text(text.to_owned());
    let mut variables = vec![
        ("DOTCLOUD_PROJECT".to_owned(), text(project)),
        ("DOTCLOUD_ENVIRONMENT".to_owned(), text("default")),
        ("DOTCLOUD_SERVICE_NAME".to_owned(), text(&instance.service)),
        ("DOTCLOUD_SERVICE_ID".to_owned(), Var::Text(instance.number.to_string())),
    ];
    if let Some(service) = stack.service(&instance.service) {
        variables.extend(service.ports.iter().map(|port| {
            let number = ports.number(service, instance.number, &port.name);
            (format!("PORT_{}", variable_part(&port.name)), Var::Number(u32::from(number)))
        }));
    }
    for service in &stack.services {
        let name = variable_part(&service.name);
        for placement in placements.iter().filter(|placement| placement.service == service.name) {
            if placement.number == 0 {
                let public = addresses(&name, service, |port| ports.public(service, port));
                variables.extend(public.into_iter().map(|(key, value)| (key, Var::Text(value))));
            }
            let own = addresses(&name, service, |port| ports.number(service, placement.number, port));
            let numbered =
                own.into_iter().map(|(key, value)| (format!("{key}_{}", placement.number), Var::Text(value)));
            variables.extend(numbered);
        }
        let count = placements.iter().filter(|placement| placement.service == service.name).count();
        // Of a service that runs elsewhere we know nothing, not even that there is none.
        if count > 0 {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            variables.push((format!("DOTCLOUD_{name}_INSTANCES"), Var::Number(count)));
        }
    }
    let user = stack.service(&instance.service).map(|service| service.environment.as_slice()).unwrap_or_default();
    let of_service = user.iter().map(|(key, value)| (key, Var::Given(value.clone())));
    let of_all = stack.variables.iter().map(|(key, value)| (key, text(value)));
    for (key, value) in of_service.chain(of_all) {
        variables.retain(|(name, _)| name != key);
        variables.push((key.clone(), value));
    }
    variables
}

/// What hob's own environment says about the services of a stack that run elsewhere: in a container of one service
/// others are in containers of their own, and whoever made it knows where.
pub fn from_elsewhere(stack: &Stack, placements: &[Placement], own: &Env) -> Vec<(String, Var)> {
    let is_here = |service: &&Service| placements.iter().any(|placement| placement.service == service.name);
    let elsewhere = stack.services.iter().filter(|service| !is_here(service));
    let prefixes: Vec<String> = elsewhere.map(|s| format!("DOTCLOUD_{}_", variable_part(&s.name))).collect();
    let known = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()));
    let value = |name: &str, text: &str| match text.parse() {
        Ok(count) if name.ends_with("_INSTANCES") => Var::Number(count),
        _ => Var::Text(text.to_owned()),
    };
    own.iter().filter(|(name, _)| known(name)).map(|(name, text)| (name.clone(), value(name, text))).collect()
}

/// Where ports are reached that have these numbers. For http the word HTTP stands for the port's name; of two ports
/// with one word the first has it.
fn addresses(name: &str, service: &Service, number: impl Fn(&str) -> u16) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    let mut seen = BTreeSet::new();
    for port in &service.ports {
        let number = number(&port.name);
        let is_http = port.protocol == Protocol::Http;
        let word = if is_http { "HTTP".to_owned() } else { variable_part(&port.name) };
        if !seen.insert(word.clone()) {
            continue;
        }
        let scheme = match port.protocol {
            Protocol::Http => {
                variables.push((format!("DOTCLOUD_{name}_HTTP_HOST"), HOST.to_owned()));
                variables.push((format!("DOTCLOUD_{name}_HTTP_URL"), format!("http://{HOST}:{number}/")));
                continue;
            }
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let prefix = format!("DOTCLOUD_{name}_{word}");
        variables.push((format!("{prefix}_HOST"), HOST.to_owned()));
        variables.push((format!("{prefix}_PORT"), number.to_string()));
        variables.push((format!("{prefix}_URL"), format!("{scheme}://{HOST}:{number}")));
    }
    variables
}

/// `environment.json` and `environment.yml`.
pub fn environment_files(variables: &[(String, Var)]) -> (String, String) {
    let lines: Vec<String> =
        variables.iter().map(|(key, value)| format!("    {}: {}", json_string(key), value.as_json())).collect();
    let json = format!("{{\n{}\n}}\n", lines.join(",\n"));
    let yaml = variables.iter().map(|(key, value)| format!("{}: {}\n", yaml_string(key), value.as_yaml())).collect();
    (json, yaml)
}

/// A string in YAML: bare where every reader takes it for a string.
fn yaml_string(text: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "_./:@+-=,%?&;()$<>^~ ".contains(c);
    if text.parse::<std::net::Ipv4Addr>().is_ok() {
        return text.to_owned();
    }
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '_' | '.'));
    let number = text.strip_prefix('.').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let word = WORDS.contains(&text.to_ascii_lowercase().as_str());
    let colon = text.contains(": ") || text.ends_with([':', ' ']);
    let plain = starts && text.chars().all(safe) && !number && !word && !colon;
    if plain {
        text.to_owned()
    } else if text.chars().any(|c| c.is_control() || is_odd_in_yaml(c)) {
        json_string(text)
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

/// A name as part of a variable: upper case, and `_` for what a shell cannot have in a name.
pub fn variable_part(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

/// Words that YAML readers take for something else, and the start of a document.
const WORDS: &[&str] = &["yes", "no", "true", "false", "on", "off", "y", "n", "null", ".inf", ".nan", "..."];

/// Services with more processes have no `SERVICE_PROCESSES_*`.
const MAX_PROCESS_VARIABLES: usize = 50;

/// All instances are on this machine.
const HOST: &str = "127.0.0.1";

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the service manager or the caller's shell meant for hob itself.
const NOT_PASSED_ON: &[&str] = &[
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "MAINPID",
    "MANAGERPID",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "SYSTEMD_EXEC_PID",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
    "PWD",
    "OLDPWD",
    "SHLVL",
    "_",
    "MAIL",
];

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::super::tests::{placements, stack};
    use super::*;

    const APP: &str = "
www:
  type: custom
  approot: hello
  instances: 2
  ports: {www: http, zmq: tcp}
  config: {build_package: main, deep: {a: 1, b: [x, 3.10]}}
  node_version: 3.10
  hubot: {name: bob}
  flags: [a, b]
  mask: 022
  empty:
  processes: {web: ~/web, queue: {command: ~/queue -v, stopsignal: INT}}
  environment:
    MODE: fast
    URLS: [a, b]
    LEVEL: 3
    VERSION: 3.10
    ODD: 'it''s: \"x\" #1'
db:
  type: custom
  ports: {MC: udp}
";

    fn variables(instance: usize) -> Vec<(String, Var)> {
        let stack = stack(APP);
        let placements = placements(&stack);
        let mut ports = Ports::in_memory();
        ports.assign(&stack, &placements, &|_, _| false, &Env::new()).unwrap();
        run_variables("hello", &stack, &placements, &ports, &placements[instance])
    }

    #[test]
    fn service_variables_have_the_source_text_of_every_key() {
        let env: Env = service_variables(&stack(APP).services[0]).into_iter().collect();
        let expected = [
            ("SERVICE_NAME", "www"),
            ("SERVICE_TYPE", "custom"),
            ("SERVICE_APPROOT", "hello"),
            ("SERVICE_INSTANCES", "2"),
            ("SERVICE_PORTS_WWW", "http"),
            ("SERVICE_CONFIG_BUILD_PACKAGE", "main"),
            ("SERVICE_CONFIG_DEEP", "{\"a\": 1, \"b\": [\"x\", \"3.10\"]}"),
            ("SERVICE_NODE_VERSION", "3.10"),
            ("SERVICE_HUBOT_NAME", "bob"),
            ("SERVICE_FLAGS", "[\"a\", \"b\"]"),
            ("SERVICE_MASK", "022"),
            ("SERVICE_EMPTY", ""),
            ("SERVICE_PROCESSES_WEB", "~/web"),
            ("SERVICE_PROCESSES_QUEUE", "~/queue -v"),
            ("SERVICE_ENVIRONMENT_MODE", "fast"),
        ];
        for (name, value) in expected {
            assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
        }
        let env: Env = service_variables(&stack(APP).services[1]).into_iter().collect();
        assert_eq!((env["SERVICE_APPROOT"].as_str(), env["SERVICE_INSTANCES"].as_str()), (".", "1"));
        assert_eq!(env["SERVICE_PORTS_MC"], "udp");
    }

    #[test]
    fn a_build_sees_neither_ports_nor_dotcloud_variables() {
        let own =
            ["PORT_X", "DOTCLOUD_Y", "HOB_SOCKET", "NOTIFY_SOCKET", "LANG"].map(|k| (k.to_owned(), "1".to_owned()));
        let user = super::super::users::Users::from_texts("d:x:7:7::/home/d:/bin/bash", "").find("d").unwrap();
        let env = build_env(&stack(APP).services[0], Path::new("/h"), &user, &Env::from(own));
        for name in ["PORT_X", "PORT_WWW", "DOTCLOUD_Y", "DOTCLOUD_PROJECT", "HOB_SOCKET", "NOTIFY_SOCKET", "MODE"] {
            assert_eq!(env.get(name), None, "{name}");
        }
        for (name, value) in
            [("HOME", "/h"), ("USER", "d"), ("SHELL", "/bin/bash"), ("LANG", "1"), ("SERVICE_NAME", "www")]
        {
            assert_eq!(env[name], value);
        }
        assert!(env.contains_key("PATH"));
    }

    #[test]
    fn the_environment_files_have_the_exact_shape() {
        let (json, yaml) = environment_files(&variables(1));
        assert_eq!(json, EXPECTED_JSON);
        assert_eq!(yaml, EXPECTED_YAML);
    }

    #[test]
    fn crude_readers_find_what_they_look_for() {
        let (json, yaml) = environment_files(&variables(0));
        let shell = |script: &str, input: &str| {
            let mut child =
                Command::new("sh").arg("-c").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim().to_owned()
        };
        assert_eq!(shell("grep '\"DOTCLOUD_WWW_HTTP_URL\"' | cut -d\\\" -f4", &json), "http://127.0.0.1:42800/");
        assert_eq!(shell("grep '\"DOTCLOUD_WWW_ZMQ_PORT\"' | cut -d\\\" -f4", &json), "42801");
        assert_eq!(shell("sed -n 's/.*\"PORT_ZMQ\": \\([0-9]*\\).*/\\1/p'", &json), "42801");
        assert_eq!(shell("grep ^PORT_WWW | awk '{print $2}'", &yaml), "42800");
        assert_eq!(shell("sed -n 's/^DOTCLOUD_WWW_INSTANCES: \\([0-9][0-9]*\\)$/\\1/p'", &yaml), "2");
        assert_eq!(shell("grep '^DOTCLOUD_DB_MC_URL:' | awk '{print $2}'", &yaml), "udp://127.0.0.1:42804");
    }

    #[test]
    fn both_files_say_the_same_to_a_real_reader() {
        let (json, yaml) = environment_files(&variables(0));
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let tree =
            super::super::yaml::parse(&std::sync::Arc::from("environment.yml"), yaml.as_bytes()).unwrap().unwrap();
        for (key, value) in tree.map().unwrap() {
            let there: serde_json::Value = serde_json::from_str(&value.as_json()).unwrap();
            assert_eq!(json[&key.text], there, "{}", key.text);
        }
        assert_eq!(json["LEVEL"], 3);
        assert_eq!(json["VERSION"], "3.10");
        assert_eq!(json["URLS"], serde_json::json!(["a", "b"]));
    }

    #[test]
    fn strings_that_look_like_something_else_are_quoted_in_yaml() {
        for (text, shown) in [
            ("0", "'0'"),
            ("yes", "'yes'"),
            ("", "''"),
            ("a: b", "'a: b'"),
            ("- a", "'- a'"),
            ("a #b", "'a #b'"),
            ("tcp://h:1", "tcp://h:1"),
            ("fast", "fast"),
            ("it's", "'it''s'"),
            ("a\nb", "\"a\\nb\""),
            ("~", "'~'"),
            (".5", "'.5'"),
            ("a b", "a b"),
            ("a ", "'a '"),
            ("é", "'é'"),
            ("\u{7f}", "\"\\u007f\""),
            ("a\u{85}b", "\"a\\u0085b\""),
            ("a\u{2028}b", "\"a\\u2028b\""),
            ("\u{feff}", "\"\\ufeff\""),
        ] {
            assert_eq!(yaml_string(text), shown);
        }
    }

    #[test]
    fn of_two_ports_with_one_word_the_first_has_it() {
        let stack = stack("www: {type: custom, ports: {www: http, http: tcp, more: http}}\n");
        let names: Vec<String> =
            addresses("WWW", &stack.services[0], |_| 1).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["DOTCLOUD_WWW_HTTP_HOST", "DOTCLOUD_WWW_HTTP_URL"]);
    }

    const EXPECTED_JSON: &str = r#"{
    "DOTCLOUD_PROJECT": "hello",
    "DOTCLOUD_ENVIRONMENT": "default",
    "DOTCLOUD_SERVICE_NAME": "www",
    "DOTCLOUD_SERVICE_ID": "1",
    "PORT_WWW": 42802,
    "PORT_ZMQ": 42803,
    "DOTCLOUD_WWW_HTTP_HOST": "127.0.0.1",
    "DOTCLOUD_WWW_HTTP_URL": "http://127.0.0.1:42800/",
    "DOTCLOUD_WWW_ZMQ_HOST": "127.0.0.1",
    "DOTCLOUD_WWW_ZMQ_PORT": "42801",
    "DOTCLOUD_WWW_ZMQ_URL": "tcp://127.0.0.1:42801",
    "DOTCLOUD_WWW_HTTP_HOST_0": "127.0.0.1",
    "DOTCLOUD_WWW_HTTP_URL_0": "http://127.0.0.1:42800/",
    "DOTCLOUD_WWW_ZMQ_HOST_0": "127.0.0.1",
    "DOTCLOUD_WWW_ZMQ_PORT_0": "42801",
    "DOTCLOUD_WWW_ZMQ_URL_0": "tcp://127.0.0.1:42801",
    "DOTCLOUD_WWW_HTTP_HOST_1": "127.0.0.1",
    "DOTCLOUD_WWW_HTTP_URL_1": "http://127.0.0.1:42802/",
    "DOTCLOUD_WWW_ZMQ_HOST_1": "127.0.0.1",
    "DOTCLOUD_WWW_ZMQ_PORT_1": "42803",
    "DOTCLOUD_WWW_ZMQ_URL_1": "tcp://127.0.0.1:42803",
    "DOTCLOUD_WWW_INSTANCES": 2,
    "DOTCLOUD_DB_MC_HOST": "127.0.0.1",
    "DOTCLOUD_DB_MC_PORT": "42804",
    "DOTCLOUD_DB_MC_URL": "udp://127.0.0.1:42804",
    "DOTCLOUD_DB_MC_HOST_0": "127.0.0.1",
    "DOTCLOUD_DB_MC_PORT_0": "42804",
    "DOTCLOUD_DB_MC_URL_0": "udp://127.0.0.1:42804",
    "DOTCLOUD_DB_INSTANCES": 1,
    "MODE": "fast",
    "URLS": ["a", "b"],
    "LEVEL": 3,
    "VERSION": "3.10",
    "ODD": "it's: \"x\" #1"
}
"#;

    const EXPECTED_YAML: &str = r#"DOTCLOUD_PROJECT: hello
DOTCLOUD_ENVIRONMENT: default
DOTCLOUD_SERVICE_NAME: www
DOTCLOUD_SERVICE_ID: '1'
PORT_WWW: 42802
PORT_ZMQ: 42803
DOTCLOUD_WWW_HTTP_HOST: 127.0.0.1
DOTCLOUD_WWW_HTTP_URL: http://127.0.0.1:42800/
DOTCLOUD_WWW_ZMQ_HOST: 127.0.0.1
DOTCLOUD_WWW_ZMQ_PORT: '42801'
DOTCLOUD_WWW_ZMQ_URL: tcp://127.0.0.1:42801
DOTCLOUD_WWW_HTTP_HOST_0: 127.0.0.1
DOTCLOUD_WWW_HTTP_URL_0: http://127.0.0.1:42800/
DOTCLOUD_WWW_ZMQ_HOST_0: 127.0.0.1
DOTCLOUD_WWW_ZMQ_PORT_0: '42801'
DOTCLOUD_WWW_ZMQ_URL_0: tcp://127.0.0.1:42801
DOTCLOUD_WWW_HTTP_HOST_1: 127.0.0.1
DOTCLOUD_WWW_HTTP_URL_1: http://127.0.0.1:42802/
DOTCLOUD_WWW_ZMQ_HOST_1: 127.0.0.1
DOTCLOUD_WWW_ZMQ_PORT_1: '42803'
DOTCLOUD_WWW_ZMQ_URL_1: tcp://127.0.0.1:42803
DOTCLOUD_WWW_INSTANCES: 2
DOTCLOUD_DB_MC_HOST: 127.0.0.1
DOTCLOUD_DB_MC_PORT: '42804'
DOTCLOUD_DB_MC_URL: udp://127.0.0.1:42804
DOTCLOUD_DB_MC_HOST_0: 127.0.0.1
DOTCLOUD_DB_MC_PORT_0: '42804'
DOTCLOUD_DB_MC_URL_0: udp://127.0.0.1:42804
DOTCLOUD_DB_INSTANCES: 1
MODE: fast
URLS: ["a", "b"]
LEVEL: 3
VERSION: '3.10'
ODD: 'it''s: "x" #1'
"#;
}
