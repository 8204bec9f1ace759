//! dotcloud.yml to a checked `Stack`.
//!
//! The schema messages are those of the original platform, word for word, with its ` in "dotcloud.yml", line L,
//! column C`. Every key of a service that is not known is kept: it becomes a `SERVICE_` variable. What depends on
//! where the stack will run (users, ports, settings) is left to `assemble`.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::command;
use super::environ::variable_part;
use super::options::{At, Declared, PORT, PROCESS, PortOptions, ProcessOptions, SERVICE, apply};
use super::read::{text, variable_name};
use super::value::{Data, Key, Kind, Place, Problem, Problems, Scalar, Value, Warning, closest, quoted};
use super::yaml;
use crate::plan::{Mode, Protocol};

/// What one dotcloud.yml describes.
#[derive(Clone, Debug, PartialEq)]
pub struct Stack {
    pub file: PathBuf,
    /// The custom services, in the order of the file.
    pub services: Vec<Service>,
    /// Services of other types: name and type.
    pub skipped: Vec<(String, String)>,
    /// Run-only variables of every service, stronger than its own `environment:` (`hob env set`).
    pub variables: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    pub name: String,
    pub at: Place,
    /// The root of the code within the tree; `.` if not given.
    pub approot: String,
    /// Empty: nothing is built.
    pub buildscript: String,
    pub prebuild: String,
    pub postbuild: String,
    /// Empty: an executable `postinstall` at the approot, if there is one.
    pub postinstall: String,
    pub systempackages: Vec<String>,
    pub instances: u32,
    pub ports: Vec<PortDecl>,
    /// The run-only variables, values as written.
    pub environment: Vec<(String, Value)>,
    pub processes: Vec<Process>,
    /// Every key as written, for the `SERVICE_` variables.
    pub raw: Vec<(Key, Value)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortDecl {
    pub name: String,
    pub protocol: Protocol,
    pub mode: Mode,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    pub name: String,
    pub at: Place,
    pub command: At<String>,
    /// The mapping it was given as, if it was one; read again on top of the defaults of hob.toml.
    pub given: Option<Value>,
    /// What it waits for.
    pub after: Vec<At<String>>,
}

impl Stack {
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name)
    }
}

impl Service {
    /// `service "www"`, as messages begin.
    pub fn subject(&self) -> String {
        format!("service \"{}\"", self.name)
    }

    /// `service "www": process "hello"`; the process is left out where it is the only one.
    pub fn process_subject(&self, process: &str) -> String {
        subject_of(&self.name, process)
    }
}

/// Reads and checks a dotcloud.yml.
pub fn stack(file: &Path) -> Result<(Stack, Vec<Warning>), Problems> {
    let name: Arc<str> = Arc::from(file.to_string_lossy());
    let bytes = read_bounded(file).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            let dir = match file.parent() {
                Some(dir) if !dir.as_os_str().is_empty() => dir,
                _ => Path::new("."),
            };
            Problem::new(&Place::file(&name), format!("Couldn't find a dotcloud.yml in {}", dir.display()))
        }
        _ => Problem::new(&Place::file(&name), format!("cannot read it: {error}")),
    })?;
    let mut reader = Reader { file: name, problems: Problems::default(), warnings: Vec::new() };
    let stack = reader.stack(file, &bytes);
    let warnings = reader.warnings;
    reader.problems.or((stack, warnings))
}

/// The stack of a home that has no dotcloud.yml: its `~/run` as the one service `www`.
pub fn default_stack(home: &Path) -> Stack {
    let file: Arc<str> = Arc::from(home.to_string_lossy());
    let at = Place::file(&file);
    let mut reader = Reader { file, problems: Problems::default(), warnings: Vec::new() };
    let kind = Value { at: at.clone(), data: Data::Scalar(Scalar { text: "custom".to_owned(), kind: Kind::Text }) };
    let raw = vec![(Key { text: "type".to_owned(), at: at.clone() }, kind)];
    let service = reader.service("www", &at, &raw);
    Stack { file: home.to_owned(), services: vec![service], skipped: Vec::new(), variables: Vec::new() }
}

/// The whole of a regular file, up to one byte more than `yaml` accepts.
pub fn read_bounded(file: &Path) -> std::io::Result<Vec<u8>> {
    // A FIFO would block, a device might never end.
    let meta = std::fs::metadata(file)?;
    if !meta.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let most = yaml::BYTES as u64 + 1;
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len().min(most)).unwrap_or(0) + 1);
    File::open(file)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Gathers problems and warnings along the way.
struct Reader {
    file: Arc<str>,
    problems: Problems,
    warnings: Vec<Warning>,
}

impl Reader {
    fn stack(&mut self, path: &Path, bytes: &[u8]) -> Stack {
        let mut stack =
            Stack { file: path.to_owned(), services: Vec::new(), skipped: Vec::new(), variables: Vec::new() };
        let root = match yaml::parse(&self.file, bytes) {
            Ok(Some(root)) => root,
            Ok(None) => {
                self.problems.push(Problem::new(&Place::file(&self.file), "\"dotcloud.yml\" is empty!"));
                return stack;
            }
            Err(problem) => {
                self.problems.push(problem);
                return stack;
            }
        };
        let Some(entries) = self.dictionary(&root) else { return stack };
        if entries.is_empty() {
            self.problems.push(schema(&root.at, "service(s) dict cannot be empty"));
        }
        for (key, value) in entries {
            self.service_name(key);
            let Some(raw) = self.dictionary(value) else { continue };
            let Some(kind) = self.service_type(value) else { continue };
            let service = self.service(&key.text, &key.at, raw);
            if kind == "custom" { stack.services.push(service) } else { stack.skipped.push((service.name, kind)) }
        }
        self.skipped(&stack);
        self.orders(&stack);
        self.amount(&stack);
        stack
    }

    fn service_name(&mut self, key: &Key) {
        let name = quoted(&key.text);
        if key.text.chars().count() > 16 {
            let message = format!("Invalid service name (must be <= 16 characters) {name}");
            self.problems.push(schema(&key.at, &message));
        }
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if key.text.is_empty() || !key.text.chars().all(good) {
            let message = format!("Invalid characters (lowercase alphanum only) for service {name}");
            self.problems.push(schema(&key.at, &message));
        }
    }

    fn service_type(&mut self, service: &Value) -> Option<String> {
        let Some(value) = service.get("type") else {
            self.problems.push(schema(&service.at, "Missing mandatory entry: \"type\"").hint("write type: custom"));
            return None;
        };
        let kind = self.text(value)?;
        if kind != "custom" && !OTHER_TYPES.contains(&kind.as_str()) {
            let problem = schema(&value.at, &format!("Unrecognized service {}", quoted(&kind)));
            self.problems.push(problem.did_you_mean(&kind, OTHER_TYPES.iter().copied().chain(["custom"])));
            return None;
        }
        Some(kind)
    }

    fn service(&mut self, name: &str, at: &Place, raw: &[(Key, Value)]) -> Service {
        let mut service = Service {
            name: name.to_owned(),
            at: at.clone(),
            approot: ".".to_owned(),
            buildscript: String::new(),
            prebuild: String::new(),
            postbuild: String::new(),
            postinstall: String::new(),
            systempackages: Vec::new(),
            instances: 1,
            ports: vec![PortDecl { name: "www".to_owned(), protocol: Protocol::Http, mode: Mode::Balance }],
            environment: Vec::new(),
            processes: Vec::new(),
            raw: raw.to_vec(),
        };
        for (key, value) in raw {
            self.key(&mut service, key, value);
        }
        let both = ["process", "processes"].map(|key| raw.iter().find(|(k, _)| k.text == key));
        if let [Some(_), Some((key, _))] = both {
            let message =
                format!("You can't have both \"process\" and \"processes\" at the same time in service \"{name}\"");
            self.problems.push(schema(&key.at, &message));
        }
        if service.processes.is_empty() {
            let command = At { value: "~/run".to_owned(), at: at.clone() };
            let after = Vec::new();
            service.processes.push(Process { name: name.to_owned(), at: at.clone(), command, given: None, after });
        }
        service
    }

    fn key(&mut self, service: &mut Service, key: &Key, value: &Value) {
        let Some(known) = SERVICE.iter().find(|known| known.key == key.text) else {
            self.unknown_key(service, key);
            return;
        };
        match known.declared {
            Declared::Text => {
                let Some(text) = self.text(value) else { return };
                match known.key {
                    "approot" if !text.is_empty() => service.approot = text,
                    "buildscript" => service.buildscript = text,
                    "prebuild" => service.prebuild = text,
                    "postbuild" => service.postbuild = text,
                    "postinstall" => service.postinstall = text,
                    _ => {}
                }
            }
            Declared::Whole => self.instances(service, value),
            Declared::List => {
                let packages = self.list(value);
                if known.key == "systempackages" {
                    service.systempackages = packages.into_iter().filter_map(|at| self.package(at)).collect();
                }
            }
            Declared::Process => self.process(service, value),
            Declared::Dictionary => {
                let Some(entries) = self.dictionary(value) else { return };
                match known.key {
                    "ports" => self.ports(service, entries),
                    "processes" => self.processes(service, entries),
                    "environment" => self.environment(service, entries),
                    _ => {}
                }
            }
        }
    }

    /// Legal; but a slip of the pen is worth a word.
    fn unknown_key(&mut self, service: &Service, key: &Key) {
        let subject = service.subject();
        let told = format!(
            "{} is not a key that hob knows; it becomes SERVICE_{}",
            quoted(&key.text),
            variable_part(&key.text)
        );
        let hint = if PROCESS.iter().any(|option| option.key == key.text) && !["user", "command"].contains(&&*key.text)
        {
            format!("as an option of the process, write it below: process: {{command: ..., {}: ...}}", key.text)
        } else if let Some(close) = closest(&key.text, SERVICE.iter().map(|known| known.key)) {
            format!("did you mean \"{close}\"?")
        } else {
            return;
        };
        self.warnings.push(Problem::new(&key.at, told).hint(hint).within(&subject));
    }

    fn instances(&mut self, service: &mut Service, value: &Value) {
        let is_int = matches!(&value.data, Data::Scalar(Scalar { kind: Kind::Int, .. }));
        if !is_int {
            self.expected("int", value);
            return;
        }
        match value.text().map(|text| text.replace('_', "").parse::<u32>()) {
            Some(Ok(count)) if (1..=MAX_INSTANCES).contains(&count) => service.instances = count,
            _ => {
                let text = quoted(value.text().unwrap_or_default());
                let problem = Problem::new(&value.at, format!("instances {text} is not between 1 and {MAX_INSTANCES}"));
                self.problems.push(problem.within(&service.subject()));
            }
        }
    }

    fn ports(&mut self, service: &mut Service, entries: &[(Key, Value)]) {
        let mut seen = HashSet::new();
        service.ports = Vec::new();
        for (key, value) in entries {
            let Some((protocol, mode)) = self.port(service, key, value) else { continue };
            let variable = format!("PORT_{}", variable_part(&key.text));
            if key.text.is_empty() || !seen.insert(variable.clone()) {
                let told = format!("port {}: {variable} is taken by another port", quoted(&key.text));
                self.problems.push(Problem::new(&key.at, told).within(&service.subject()));
                continue;
            }
            service.ports.push(PortDecl { name: key.text.clone(), protocol, mode });
        }
    }

    /// `tcp`, or a mapping of options.
    fn port(&mut self, service: &Service, key: &Key, value: &Value) -> Option<(Protocol, Mode)> {
        let mut options = PortOptions::default();
        let kind = if let Data::Map(_) = value.data {
            let subject = format!("{}: port {}", service.subject(), quoted(&key.text));
            let problems = apply(PORT, &mut options, value);
            self.problems.0.extend(problems.0.into_iter().map(|problem| problem.within(&subject)));
            let Some(kind) = value.get("type") else {
                self.problems.push(schema(&value.at, "Missing mandatory entry: \"type\"").hint(PORT_HINT));
                return None;
            };
            kind
        } else {
            value
        };
        let word = self.text(kind)?;
        let protocol = match word.as_str() {
            "http" => Protocol::Http,
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => {
                self.problems.push(schema(&kind.at, &format!("Unrecognized port {}", quoted(&word))).hint(PORT_HINT));
                return None;
            }
        };
        let usual = if protocol == Protocol::Http { Mode::Balance } else { Mode::First };
        match options.mode {
            Some(At { value: Mode::Balance | Mode::Failover, at }) if protocol == Protocol::Udp => {
                let told = format!("port {}: a udp port has no other mode than first", quoted(&key.text));
                let problem = Problem::new(&at, told).hint("HAProxy speaks http and tcp");
                self.problems.push(problem.within(&service.subject()));
                None
            }
            mode => Some((protocol, mode.map_or(usual, |mode| mode.value))),
        }
    }

    fn environment(&mut self, service: &mut Service, entries: &[(Key, Value)]) {
        for (key, value) in entries {
            if let Err(problem) = variable_name(&key.text, &key.at) {
                self.problems.push(problem.within(&format!("{}: environment", service.subject())));
            }
            service.environment.push((key.text.clone(), value.clone()));
        }
    }

    fn package(&mut self, package: At<String>) -> Option<String> {
        let name = package.value;
        let good = |c: char| c.is_ascii_alphanumeric() || "+.-:=~_/".contains(c);
        if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(good) {
            return Some(name);
        }
        let told = format!("systempackages {} is not the name of a package", quoted(&name));
        self.problems.push(Problem::new(&package.at, told));
        None
    }

    /// `process:`, the only one.
    fn process(&mut self, service: &mut Service, value: &Value) {
        let empty = value.text().is_some_and(|text| text.trim().is_empty());
        if empty {
            return;
        }
        if let Data::List(_) = value.data {
            self.expected("string", value);
            return;
        }
        let name = service.name.clone();
        let at = value.at.clone();
        service.processes.extend(self.one_process(&service.name, &name, at, value));
    }

    fn processes(&mut self, service: &mut Service, entries: &[(Key, Value)]) {
        for (key, value) in entries {
            if let Err(why) = process_name(&key.text) {
                self.problems.push(Problem::new(&key.at, why).within(&service.subject()));
            }
            if let Data::List(_) = value.data {
                self.expected("string", value);
                continue;
            }
            if value.is_null() && value.text() == Some("") {
                self.expected("string", value);
                continue;
            }
            service.processes.extend(self.one_process(&service.name, &key.text, key.at.clone(), value));
        }
    }

    /// A command line, or a mapping of options.
    fn one_process(&mut self, service: &str, name: &str, at: Place, value: &Value) -> Option<Process> {
        let subject = subject_of(service, name);
        let (command, given, after) = match value.data {
            Data::Map(_) => {
                let (options, problems) = ProcessOptions::layered(&[Some(value)]);
                self.problems.0.extend(problems.0.into_iter().map(|problem| problem.within(&subject)));
                if options.command.is_none() && value.get("command").is_none() {
                    let problem = Problem::new(&value.at, "no command given").hint("write command: ~/run");
                    self.problems.push(problem.within(&subject));
                }
                (options.command?, Some(value.clone()), options.after)
            }
            _ => match text(value) {
                Ok(line) => (At { value: line, at: value.at.clone() }, None, Vec::new()),
                Err(problem) => {
                    self.problems.push(problem.within(&subject));
                    return None;
                }
            },
        };
        if let Err(why) = command::classify(&command.value, Path::new("/")) {
            self.problems.push(Problem::new(&command.at, why).within(&subject));
        }
        Some(Process { name: name.to_owned(), at, command, given, after })
    }

    fn skipped(&mut self, stack: &Stack) {
        let Some((first, _)) = stack.skipped.first() else { return };
        let names: Vec<String> = stack.skipped.iter().map(|(name, kind)| format!("{name} ({kind})")).collect();
        let told = format!("hob runs services of type custom; skipped: {}", names.join(", "));
        let mut warning = Problem::new(&Place::file(&self.file), told);
        if stack.services.is_empty() {
            warning = warning.hint(format!("nothing is left to run; {first} was the first"));
        }
        self.warnings.push(warning);
    }

    /// Each name after `after` exists, and no process waits for itself in the end.
    fn orders(&mut self, stack: &Stack) {
        let mut edges: Edges<'_> = HashMap::new();
        for service in &stack.services {
            for process in &service.processes {
                let from = (service.name.as_str(), process.name.as_str());
                for after in &process.after {
                    match resolve_after(stack, service, &after.value) {
                        Ok(to) => edges.entry(from).or_default().push((to, &after.at)),
                        Err(known) => {
                            let told = format!("after {} is not a process here", quoted(&after.value));
                            let problem = Problem::new(&after.at, told).did_you_mean(&after.value, known);
                            self.problems.push(problem.within(&service.process_subject(&process.name)));
                        }
                    }
                }
            }
        }
        let mut finished = HashSet::new();
        for service in &stack.services {
            for process in &service.processes {
                let from = (service.name.as_str(), process.name.as_str());
                if let Some((circle, at)) = find_circle(from, &edges, &mut finished) {
                    let told = format!("after goes in a circle: {}", circle.join(" -> "));
                    self.problems.push(Problem::new(&at, told).within(&service.process_subject(&process.name)));
                }
            }
        }
    }

    fn amount(&mut self, stack: &Stack) {
        let count: usize = stack.services.iter().map(|s| s.processes.len() * s.instances as usize).sum();
        if count > MAX_PROCESSES {
            let told = format!("{count} processes in all; the most is {MAX_PROCESSES}");
            self.problems.push(Problem::new(&Place::file(&self.file), told));
        }
        // Every instance is told of every port of every instance.
        let instances: usize = stack.services.iter().map(|s| s.instances as usize).sum();
        let told_each: usize = stack.services.iter().map(|s| s.instances as usize * (1 + 3 * s.ports.len())).sum();
        let variables = instances.saturating_mul(told_each);
        if variables > MAX_VARIABLES {
            let told = format!("{instances} instances have {variables} variables in all; the most is {MAX_VARIABLES}");
            let problem = Problem::new(&Place::file(&self.file), told);
            self.problems.push(problem.hint("every instance is told of the ports of all the others"));
        }
    }

    /// A key declared as a string: any scalar, by its source text.
    fn text(&mut self, value: &Value) -> Option<String> {
        match &value.data {
            Data::Scalar(scalar) => Some(scalar.text.trim().to_owned()),
            Data::List(_) | Data::Map(_) => {
                self.expected("string", value);
                None
            }
        }
    }

    fn dictionary<'v>(&mut self, value: &'v Value) -> Option<&'v [(Key, Value)]> {
        let entries = value.map();
        if entries.is_none() {
            self.expected("dictionary", value);
        }
        entries
    }

    fn list(&mut self, value: &Value) -> Vec<At<String>> {
        let Some(items) = value.list() else {
            self.expected("list", value);
            return Vec::new();
        };
        items.iter().filter_map(|item| Some(At { value: self.text(item)?, at: item.at.clone() })).collect()
    }

    fn expected(&mut self, wanted: &str, value: &Value) {
        let is_empty = match &value.data {
            Data::Scalar(scalar) => scalar.text.is_empty(),
            Data::List(items) => items.is_empty(),
            Data::Map(entries) => entries.is_empty(),
        };
        let got = match value.type_word() {
            _ if value.is_null() => "nothing".to_owned(),
            word if is_empty => format!("an empty {word}"),
            word => format!("a type {word}"),
        };
        self.problems.push(schema(&value.at, &format!("Expected a type {wanted} but got {got}")));
    }
}

/// A message of the original schema, with the place in its own words behind it.
fn schema(at: &Place, message: &str) -> Problem {
    Problem::new(at, format!("{message} in \"dotcloud.yml\", line {}, column {}", at.line, at.column))
}

fn subject_of(service: &str, process: &str) -> String {
    if service == process {
        format!("service \"{service}\"")
    } else {
        format!("service \"{service}\": process \"{process}\"")
    }
}

/// Whether a process can have that name.
pub fn process_name(name: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if name == "all" {
        return Err("a process cannot be named \"all\": on the command line it means every process".to_owned());
    }
    if name.is_empty() || name.len() > 100 || !name.chars().all(good) || name.starts_with(['-', '.']) {
        return Err(format!(
            "{} cannot be the name of a process: letters, digits, \"_\", \"-\" and \".\", up to 100, and no \"-\" or \
             \".\" first",
            quoted(name)
        ));
    }
    Ok(())
}

/// The process that a name after `after` means, as (service, process); the names it could have been otherwise.
pub fn resolve_after<'s>(stack: &'s Stack, own: &'s Service, name: &str) -> Result<(&'s str, &'s str), Vec<&'s str>> {
    let (service, process) = match name.split_once(':') {
        Some((service, process)) => (stack.service(service), process),
        None => (Some(own), name),
    };
    let Some(service) = service else { return Err(stack.services.iter().map(|s| s.name.as_str()).collect()) };
    match service.processes.iter().find(|p| p.name == process) {
        Some(found) => Ok((service.name.as_str(), found.name.as_str())),
        None => Err(service.processes.iter().map(|p| p.name.as_str()).collect()),
    }
}

/// A process, by service and name.
type Node<'s> = (&'s str, &'s str);

/// What each process waits for, and where that is said.
type Edges<'s> = HashMap<Node<'s>, Vec<(Node<'s>, &'s Place)>>;

/// A circle that can be reached from `from`, and the place of the `after` that closes it. Walks each node once over
/// all calls; no recursion, since the depth is the file's choice.
fn find_circle<'s>(
    from: Node<'s>,
    edges: &Edges<'s>,
    finished: &mut HashSet<Node<'s>>,
) -> Option<(Vec<String>, Place)> {
    let mut path: Vec<(Node<'s>, usize)> = vec![(from, 0)];
    let mut on_path: HashSet<Node<'s>> = HashSet::from([from]);
    while let Some((node, next)) = path.last_mut() {
        let out = edges.get(node).map(Vec::as_slice).unwrap_or_default();
        let Some((to, at)) = out.get(*next) else {
            finished.insert(*node);
            on_path.remove(node);
            path.pop();
            continue;
        };
        *next += 1;
        if on_path.contains(to) {
            let start = path.iter().position(|(node, _)| node == to).unwrap_or(0);
            let mut names: Vec<String> = path[start..].iter().map(|((_, process), _)| (*process).to_owned()).collect();
            names.push(to.1.to_owned());
            let at = (*at).clone();
            finished.extend(path.iter().map(|(node, _)| *node));
            return Some((names, at));
        }
        if !finished.contains(to) {
            on_path.insert(*to);
            path.push((*to, 0));
        }
    }
    None
}

const PORT_HINT: &str = "a port is http, tcp or udp; hob chooses the number";

/// Types of the original platform that hob does not run.
const OTHER_TYPES: &[&str] = &[
    "java",
    "nodejs",
    "opa",
    "perl",
    "perl-worker",
    "php",
    "php-worker",
    "python",
    "python-worker",
    "ruby",
    "ruby-worker",
    "static",
    "mongodb",
    "mysql",
    "mysql-masterslave",
    "postgis",
    "postgresql",
    "rabbitmq",
    "redis",
    "smtp",
    "solr",
];

/// Each instance lists every other in its environment, so their number squared is what it costs.
pub const MAX_INSTANCES: u32 = 256;
const MAX_PROCESSES: usize = 20_000;
const MAX_VARIABLES: usize = 2_000_000;

#[cfg(test)]
#[path = "buildfile_tests.rs"]
mod tests;
