//! The stack that is to be put into other words, with everything that the formats share: its plan as it would be
//! elsewhere, names that others accept, and a list of what got lost.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::tree::{Tree, speaks_of_data, speaks_of_environment_files};
use super::{Format, toml, yaml};
use crate::config::{self, Placement, Ports, Problem, Problems, Service, Settings, Stack, variable_part};
use crate::plan::{ExitWhen, Instance, Mode, Protocol, Spec};

/// What a person asks for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The tree that holds the dotcloud.yml.
    pub dir: PathBuf,
    /// The name of the image for containers.
    pub image: Option<String>,
    /// Where the files go; nowhere: to standard output.
    pub out: Option<PathBuf>,
    /// Services that keep `~/data`, and such that do not, whatever their files mention.
    pub data: Vec<String>,
    pub no_data: Vec<String>,
    /// Where the homes are, for units.
    pub home: Option<PathBuf>,
    /// The names of what `hob env` has set. The values are secrets, and none of our business.
    pub secrets: Vec<String>,
}

pub struct App {
    /// The tree.
    pub dir: PathBuf,
    /// The name of the application: letters, digits, `-`.
    pub name: String,
    pub image: String,
    pub services: Vec<Part>,
    pub secrets: Vec<String>,
    pub lost: Vec<String>,
    /// The lines of a hob.toml that hob in an image needs.
    pub settings: String,
    pub exit_when: ExitWhen,
    pub postinstall_timeout: Duration,
    /// Whom everything runs as unless it says otherwise: `user` or `user:group`.
    pub user: String,
    /// From the folder of the output to the tree and back, for files that name each other.
    pub to_tree: String,
    pub to_output: String,
    /// A process about which nothing was said.
    pub plain: Spec,
    /// Services of other types: name and type.
    pub skipped: Vec<(String, String)>,
}

/// A service, and what runs of it.
pub struct Part {
    pub service: Service,
    /// Where its home is.
    pub home: PathBuf,
    /// Containers have one, units one for each instance.
    pub instances: Vec<(Instance, Vec<Spec>)>,
    /// Why it is believed to keep `~/data`.
    pub data: Option<String>,
    /// The first file that reads the environment files.
    pub reads_environment: Option<PathBuf>,
}

impl App {
    pub fn read(format: Format, asked: &Asked, settings: &Settings) -> Result<App, Problems> {
        let dir = std::path::absolute(&asked.dir).unwrap_or_else(|_| asked.dir.clone());
        let (stack, warnings) = config::stack(&dir.join("dotcloud.yml"))?;
        let file = || config::Place::file(&std::sync::Arc::from(stack.file.to_string_lossy()));
        if stack.services.is_empty() {
            return Err(Problem::new(&file(), "cannot export it: no custom service in it").into());
        }
        for (flag, name) in
            asked.data.iter().map(|n| ("--data", n)).chain(asked.no_data.iter().map(|n| ("--no-data", n)))
        {
            if stack.service(name).is_none() {
                let known = stack.services.iter().map(|service| service.name.as_str());
                let problem = Problem::new(&file(), format!("{flag} {name}: there is no custom service of that name"));
                return Err(problem.did_you_mean(name, known).into());
            }
        }
        let project = settings.project.clone().unwrap_or_else(|| {
            let name = std::fs::canonicalize(&dir).unwrap_or_else(|_| dir.clone());
            name.file_name().map_or_else(|| "hob".to_owned(), |name| name.to_string_lossy().into_owned())
        });
        let name = label(&project, "app");
        let places = placements(format, &stack, asked.home.as_deref(), &project);
        let (plan, more) = config::outline(&stack, &places, settings, &mut Ports::in_memory())?;
        let plain = plain(settings)?;
        let tree = Tree::read(&dir);
        let mut app = App {
            dir: dir.clone(),
            exit_when: settings.exit_when,
            postinstall_timeout: settings.postinstall_timeout,
            image: asked.image.clone().unwrap_or_else(|| format!("{name}:latest")),
            name,
            services: Vec::new(),
            secrets: asked.secrets.clone(),
            lost: warnings.into_iter().chain(more).map(|warning| warning.to_string()).collect(),
            settings: format!("project = {}\n{}", toml::string(&project), super::image::settings(settings)),
            user: settings.user.as_ref().map_or_else(|| config::DEFAULT_USER.to_owned(), |user| user.value.clone()),
            to_tree: String::new(),
            to_output: String::new(),
            plain,
            skipped: stack.skipped.clone(),
        };
        let out = asked
            .out
            .as_ref()
            .map_or_else(|| dir.clone(), |out| std::path::absolute(out).unwrap_or_else(|_| out.clone()));
        (app.to_tree, app.to_output) = (relative(&out, &dir), relative(&dir, &out));
        for service in &stack.services {
            let own: Vec<&Instance> = plan.instances.iter().filter(|i| i.service == service.name).collect();
            let with_specs = |instance: &&Instance| {
                let specs = plan.specs.iter().filter(|spec| spec.name.group == instance.name).cloned().collect();
                ((*instance).clone(), specs)
            };
            let files = files_of(service, &stack);
            app.services.push(Part {
                home: own.first().map(|instance| instance.home.clone()).unwrap_or_default(),
                instances: own.iter().map(with_specs).collect(),
                data: data(service, asked, &tree, &files),
                reads_environment: tree.mentions_in(&files, speaks_of_environment_files).map(Path::to_owned),
                service: service.clone(),
            });
        }
        app.shadowed();
        Ok(app)
    }

    /// Notes that something could not be put into the other words. The text is for a comment at its place.
    pub fn lose(&mut self, subject: &str, what: &str) -> String {
        let told = format!("{subject}: {what}");
        // Each instance has the same to say.
        if !self.lost.contains(&told) {
            self.lost.push(told);
        }
        what.to_owned()
    }

    /// hob's own order is `environment:`, then `hob env`; in a container the variables of the container come first.
    fn shadowed(&mut self) {
        for at in 0..self.services.len() {
            let service = &self.services[at].service;
            let both: Vec<&str> = service
                .environment
                .iter()
                .map(|(key, _)| key.as_str())
                .filter(|key| self.secrets.iter().any(|s| s == key))
                .collect();
            if !both.is_empty() {
                let told = format!(
                    "{}: {} of environment is set by hob env too; take it out of the dotcloud.yml, or it wins in a container",
                    service.subject(),
                    both.join(", ")
                );
                self.lost.push(told);
            }
        }
    }

    /// What the variables of one service say about the others: where `address` puts a port. Seen from outside a scaled
    /// service is one address.
    fn neighbours(&self, own: &Part, address: impl Fn(&Part, &Port) -> (String, u16)) -> Pairs {
        let mut all = Vec::new();
        for other in self.services.iter().filter(|other| other.service.name != own.service.name) {
            let name = variable_part(&other.service.name);
            let mut seen_http = false;
            for port in other.ports() {
                let (host, number) = address(other, &port);
                let (word, scheme, end) = match port.protocol {
                    Protocol::Http if seen_http => continue,
                    Protocol::Http => ("HTTP".to_owned(), "http", "/"),
                    Protocol::Tcp => (variable_part(&port.name), "tcp", ""),
                    Protocol::Udp => (variable_part(&port.name), "udp", ""),
                };
                seen_http |= port.protocol == Protocol::Http;
                let mut values = vec![("HOST", host.clone())];
                if port.protocol != Protocol::Http {
                    values.push(("PORT", number.to_string()));
                }
                values.push(("URL", format!("{scheme}://{host}:{number}{end}")));
                for suffix in ["", "_0"] {
                    all.extend(
                        values
                            .iter()
                            .map(|(key, value)| (format!("DOTCLOUD_{name}_{word}_{key}{suffix}"), value.clone())),
                    );
                }
            }
            all.push((format!("DOTCLOUD_{name}_INSTANCES"), "1".to_owned()));
        }
        all
    }

    /// The variables of a container: each once, the later one of a name. What is secret is none of them.
    pub fn variables(&self, own: &Part, address: impl Fn(&Part, &Port) -> (String, u16)) -> Vec<Variable> {
        let mut all: Vec<Variable> = Vec::new();
        let ports = own
            .ports()
            .into_iter()
            .map(|port| (format!("PORT_{}", variable_part(&port.name)), port.number.to_string()));
        let given = own.service.environment.iter().map(|(key, value)| (key.clone(), value.as_variable()));
        let groups: [(Option<&'static str>, Pairs); 3] = [
            (None, ports.collect()),
            (Some("Where the other services are."), self.neighbours(own, address)),
            (Some("As in the dotcloud.yml of the image, which wins: change it there."), given.collect()),
        ];
        for (note, pairs) in groups {
            let mut note = note;
            for (key, value) in pairs.into_iter().filter(|(key, _)| !self.secrets.contains(key)) {
                all.retain(|earlier| earlier.key != key);
                all.push(Variable { key, value, note: note.take() });
            }
        }
        all
    }

    /// Whether hob has to be root in a container: a process that runs as another user than the rest.
    pub fn needs_root(&self) -> bool {
        let specs = || self.services.iter().flat_map(Part::specs);
        is_root(&self.user) || specs().any(|spec| spec.user.as_ref().is_some_and(|user| user.name != self.user))
    }

    /// The opening comment of a file.
    pub fn heading(&self, lines: &[String]) -> String {
        let mut out = String::new();
        for line in lines {
            yaml::comment(&mut out, 0, line);
        }
        if !self.skipped.is_empty() {
            let names: Vec<String> = self.skipped.iter().map(|(name, kind)| format!("{name} ({kind})")).collect();
            yaml::comment(
                &mut out,
                0,
                &format!("Not here, as hob runs services of type custom only: {}.", names.join(", ")),
            );
        }
        out
    }
}

/// Variables by name, in order.
type Pairs = Vec<(String, String)>;

/// A variable of a container, with a comment in front of the first of its kind.
pub struct Variable {
    pub key: String,
    pub value: String,
    pub note: Option<&'static str>,
}

impl Variable {
    pub fn notes(&self) -> Vec<String> {
        self.note.into_iter().map(str::to_owned).collect()
    }
}

/// A port as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub name: String,
    pub protocol: Protocol,
    pub mode: Mode,
    pub number: u16,
    /// The first http port of its service.
    pub is_first_http: bool,
}

impl Part {
    /// Those of its first instance.
    pub fn ports(&self) -> Vec<Port> {
        let ports = self.instances.first().map(|(instance, _)| instance.ports.as_slice()).unwrap_or_default();
        let first = ports.iter().position(|port| port.protocol == Protocol::Http);
        let port = |(at, port): (usize, &crate::plan::Port)| Port {
            name: port.name.clone(),
            protocol: port.protocol,
            mode: port.mode,
            number: port.number,
            is_first_http: first == Some(at),
        };
        ports.iter().enumerate().map(port).collect()
    }

    pub fn specs(&self) -> &[Spec] {
        self.instances.first().map(|(_, specs)| specs.as_slice()).unwrap_or_default()
    }

    /// Words for hob in a container of this service.
    pub fn boot_words(&self) -> Vec<String> {
        ["--home", &self.home.to_string_lossy(), "--service", &self.service.name].map(str::to_owned).to_vec()
    }

    /// How long it takes to stop: the longest chain of processes that wait for each other, and a little for hob.
    pub fn grace(&self) -> u64 {
        let specs = self.specs();
        let mut longest: BTreeMap<String, Duration> = BTreeMap::new();
        // There is no circle in `after`, so the longest chain is known after as many rounds as there are processes.
        for _ in 0..specs.len().min(100) {
            for spec in specs {
                let below = spec.after.iter().filter_map(|name| longest.get(&name.to_string())).max().copied();
                longest.insert(spec.name.to_string(), spec.stop.wait + spec.stop.drain + below.unwrap_or_default());
            }
        }
        seconds(longest.values().max().copied().unwrap_or_default()) + 5
    }
}

/// Whole seconds, at least one.
pub fn seconds(length: Duration) -> u64 {
    (length.as_secs() + u64::from(length.subsec_nanos() > 0)).max(1)
}

pub fn is_root(user: &str) -> bool {
    matches!(user.split(':').next(), Some("root" | "0"))
}

/// A name as Kubernetes takes it (RFC 1035): lower case letters, digits and `-`, a letter first.
pub fn label(name: &str, otherwise: &str) -> String {
    let clean: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).take(40).collect();
    let clean = clean.trim_matches('-');
    match clean.chars().next() {
        None => otherwise.to_owned(),
        Some(c) if c.is_ascii_alphabetic() => clean.to_owned(),
        Some(_) => format!("{otherwise}-{clean}"),
    }
}

/// Where everything is elsewhere.
fn placements(format: Format, stack: &Stack, home: Option<&Path>, project: &str) -> Vec<Placement> {
    let base = home.unwrap_or(Path::new(HOME));
    let is_alone = stack.services.len() == 1;
    let code = if format == Format::Systemd { base.join("code") } else { PathBuf::from(CODE) };
    let mut placements = Vec::new();
    for service in &stack.services {
        // In a container each instance is the first of its own.
        let of = if format == Format::Systemd { service.instances } else { 1 };
        for number in 0..of {
            let mut placement = Placement {
                service: service.name.clone(),
                number,
                of,
                home: base.to_owned(),
                code: code.clone(),
                log_dir: PathBuf::from("/var/log/supervisor"),
                binds: Vec::new(),
                project: Some(project.to_owned()),
            };
            if !is_alone || of > 1 {
                placement.home = base.join(placement.group());
            }
            placements.push(placement);
        }
    }
    placements
}

fn plain(settings: &Settings) -> Result<Spec, Problems> {
    let stack = config::default_stack(Path::new(HOME));
    let settings = Settings { defaults: None, relay_signals: Vec::new(), ..settings.clone() };
    let places = placements(Format::Compose, &stack, None, "plain");
    let plan = config::outline(&stack, &places, &settings, &mut Ports::in_memory())?.0;
    Ok(plan.specs.into_iter().next().expect("the default stack has one process"))
}

/// Which files of the tree are a service's: those of its approot; of a tree that several share, those it names.
pub enum Files {
    Below(PathBuf),
    Named(Vec<String>),
}

fn files_of(service: &Service, stack: &Stack) -> Files {
    if service.approot != "." || stack.services.len() == 1 {
        return Files::Below(PathBuf::from(&service.approot));
    }
    let commands = service.processes.iter().map(|process| process.command.value.as_str());
    let scripts = [&service.buildscript, &service.prebuild, &service.postbuild, &service.postinstall];
    let words = commands.chain(scripts.into_iter().map(String::as_str)).flat_map(str::split_whitespace);
    let name =
        |word: &str| Path::new(word.trim_matches(['"', '\''])).file_name().map(|n| n.to_string_lossy().into_owned());
    Files::Named(words.filter_map(name).chain(["postinstall".to_owned()]).collect())
}

impl Tree {
    fn mentions_in(&self, files: &Files, finds: impl Fn(&str) -> bool) -> Option<&Path> {
        match files {
            Files::Below(folder) => self.mentions(folder, |_, text| finds(text)),
            Files::Named(names) => self.mentions(Path::new("."), |path, text| {
                let name = path.file_name().map(|name| name.to_string_lossy());
                name.is_some_and(|name| names.iter().any(|known| **known == *name)) && finds(text)
            }),
        }
    }
}

fn data(service: &Service, asked: &Asked, tree: &Tree, files: &Files) -> Option<String> {
    if asked.no_data.contains(&service.name) {
        return None;
    }
    if asked.data.contains(&service.name) {
        return Some("as --data says".to_owned());
    }
    let raw: Vec<String> = service.raw.iter().map(|(_, value)| value.as_json()).collect();
    if raw.iter().any(|text| speaks_of_data(text)) {
        return Some("as its dotcloud.yml mentions ~/data".to_owned());
    }
    tree.mentions_in(files, speaks_of_data).map(|path| format!("as {} mentions ~/data", path.display()))
}

/// The way from one folder to another, both absolute.
fn relative(from: &Path, to: &Path) -> String {
    let clean = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (from, to) = (clean(from), clean(to));
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(shared).map(|_| "..".to_owned());
    let down = to.components().skip(shared).map(|part| part.as_os_str().to_string_lossy().into_owned());
    let parts: Vec<String> = up.chain(down).collect();
    if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
}

/// Where homes are in a container, and where units expect them.
pub const HOME: &str = "/home/dotcloud";
/// Where the tree is in a container.
pub const CODE: &str = "/code";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_such_that_others_take_them() {
        for (name, expected) in
            [("www", "www"), ("my_App", "my-app"), ("2", "s-2"), ("__", "s"), ("-x-", "x"), ("é", "s")]
        {
            assert_eq!(label(name, "s"), expected, "{name}");
        }
    }

    #[test]
    fn the_way_between_two_folders() {
        let way = |from: &str, to: &str| relative(Path::new(from), Path::new(to));
        assert_eq!(way("/no/a", "/no/a"), ".");
        assert_eq!(way("/no/a/b", "/no/c"), "../../c");
        assert_eq!(way("/no", "/no/c/d"), "c/d");
    }
}
