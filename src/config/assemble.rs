//! Stack, settings and placements to the complete `Plan`: users are numbers, paths absolute, variables expanded.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::Placement;
use super::asks;
use super::buildfile::{PortDecl, Process, Service, Stack, resolve_after};
use super::command;
use super::environ::{self, Env, Var};
use super::expand;
use super::options::{At, ProbeOptions, ProcessOptions};
use super::own_conf;
use super::ports::Ports;
use super::proxy;
use super::settings::{DEFAULT_USER, Settings};
use super::users::{NotFound, Users};
use super::value::{Place, Problem, Problems, Warning, quoted};
use crate::plan::{
    Ask, Autorestart, Backoff, Command, CommandKind, Health, Identity, Instance, Limits, LogSpec, Name, Plan, Port,
    Probe, Reach, Ready, ReadyBy, Restart, Spec, Stop,
};

/// Makes the plan. Every port gets its number in `ports`, which the caller saves.
pub fn plan(
    stack: &Stack,
    placements: &[Placement],
    settings: &Settings,
    ports: &mut Ports,
    own: &Env,
) -> Result<(Plan, Vec<Warning>), Problems> {
    plan_with(stack, placements, settings, ports, own, Users::system())
}

pub fn plan_with(
    stack: &Stack,
    placements: &[Placement],
    settings: &Settings,
    ports: &mut Ports,
    own: &Env,
    users: Users,
) -> Result<(Plan, Vec<Warning>), Problems> {
    made(stack, placements, settings, ports, own, users, true)
}

/// The plan as it would be on some other machine: hob is root there, every user exists (with its name as it is written,
/// and no number), and nothing of this machine's homes, users and variables goes into it.
pub fn outline(
    stack: &Stack,
    placements: &[Placement],
    settings: &Settings,
    ports: &mut Ports,
) -> Result<(Plan, Vec<Warning>), Problems> {
    let at = Place::file(&std::sync::Arc::from(stack.file.to_string_lossy()));
    let user = settings.user.clone().unwrap_or_else(|| At { value: DEFAULT_USER.to_owned(), at });
    let settings = Settings { root: true, user: Some(user), proxy: proxy::When::Never, ..settings.clone() };
    // Or the name of this machine would stand there.
    let own = Env::from([("HOSTNAME".to_owned(), String::new())]);
    let (mut plan, warnings) = made(stack, placements, &settings, ports, &own, Users::any(), false)?;
    let envs = plan.specs.iter_mut().map(|spec| &mut spec.env);
    for env in plan.instances.iter_mut().map(|instance| &mut instance.env).chain(envs) {
        env.remove("HOSTNAME");
        for key in ["USER", "LOGNAME"] {
            if let Some(name) = env.get_mut(key) {
                name.truncate(name.find(':').unwrap_or(name.len()));
            }
        }
    }
    Ok((plan, warnings))
}

fn made(
    stack: &Stack,
    placements: &[Placement],
    settings: &Settings,
    ports: &mut Ports,
    own: &Env,
    mut users: Users,
    looks_into_homes: bool,
) -> Result<(Plan, Vec<Warning>), Problems> {
    let at = Place::file(&std::sync::Arc::from(stack.file.to_string_lossy()));
    let is_for_proxy = |port: &PortDecl, of: u32| proxy::is_for(settings.proxy, port, of);
    let wants_proxy = placements.iter().any(|placement| {
        let service = stack.service(&placement.service);
        service.is_some_and(|service| service.ports.iter().any(|port| is_for_proxy(port, placement.of)))
    });
    let program = if wants_proxy { proxy::program(settings, own).map(Some) } else { Ok(None) };
    let has_proxy = matches!(program, Ok(Some(_)));
    let fronted = |port: &PortDecl, of: u32| has_proxy && is_for_proxy(port, of);
    ports.assign(stack, placements, &fronted, own).map_err(|why| Problem::new(&at, why))?;
    let own_user = users.own();
    let mut maker = Maker {
        stack,
        placements,
        settings,
        ports,
        own,
        users,
        own_user,
        problems: Problems::default(),
        warnings: Vec::new(),
    };
    if let Err(why) = program {
        let told = format!("no load balancer: {why}; each instance is reached at its own port");
        let hint = "install the package haproxy, or set proxy = \"never\" in hob.toml";
        maker.warnings.push(Problem::new(&at, told).hint(hint));
    }
    let user = maker.default_user(&at);
    let mut plan = Plan { exit_when: settings.exit_when, ..Plan::default() };
    for placement in placements {
        let Some(service) = stack.service(&placement.service) else { continue };
        let instance = maker.instance(service, placement, user.clone());
        for process in &service.processes {
            plan.specs.extend(maker.spec(service, process, placement, &instance));
        }
        plan.instances.push(instance);
    }
    // Both layers were checked when they were read.
    let (defaults, _) = ProcessOptions::layered(&[settings.defaults.as_ref()]);
    let log_of = |instance: &Instance, process: &str| {
        let placement = placements.iter().find(|placement| placement.group() == instance.name);
        let owner = instance.user.as_ref();
        placement.map(|placement| log(settings, &defaults, &placement.log_dir, process, owner))
    };
    let replaced = match looks_into_homes {
        true => own_conf::replace(&mut plan, settings.root, &log_of),
        false => Ok(Vec::new()),
    };
    match replaced {
        Ok(more) => maker.warnings.extend(more),
        Err(wrong) => maker.problems.0.extend(wrong.0),
    }
    separate_logs(&mut plan);
    maker.relays(&mut plan);
    let Maker { problems, mut warnings, .. } = maker;
    warnings.dedup();
    problems.or((plan, warnings))
}

/// The run-only variables of an instance: what the environment files show.
pub fn variables(
    stack: &Stack,
    placements: &[Placement],
    settings: &Settings,
    ports: &Ports,
    placement: &Placement,
) -> Vec<(String, Var)> {
    environ::run_variables(&project(settings, placement), stack, placements, ports, placement)
}

/// The name of the application.
fn project(settings: &Settings, placement: &Placement) -> String {
    let directory = || placement.code.file_name().map(|name| name.to_string_lossy().into_owned());
    settings
        .project
        .clone()
        .or_else(|| placement.project.clone())
        .or_else(directory)
        .unwrap_or_else(|| "hob".to_owned())
}

struct Maker<'a> {
    stack: &'a Stack,
    placements: &'a [Placement],
    settings: &'a Settings,
    ports: &'a Ports,
    own: &'a Env,
    users: Users,
    own_user: Identity,
    problems: Problems,
    warnings: Vec<Warning>,
}

impl Maker<'_> {
    /// Whom processes run as, unless they say otherwise. Nothing: as hob itself.
    fn default_user(&mut self, at: &Place) -> Option<Identity> {
        match &self.settings.user {
            Some(user) => self.user(&user.clone(), "user"),
            None if !self.settings.root => None,
            None if self.users.has(DEFAULT_USER) => {
                self.user(&At { value: DEFAULT_USER.to_owned(), at: at.clone() }, "user")
            }
            None => {
                let told = "processes run as root: there is no user \"dotcloud\"";
                self.warnings.push(Problem::new(at, told).hint("create it, or set user in hob.toml"));
                None
            }
        }
    }

    fn user(&mut self, user: &At<String>, subject: &str) -> Option<Identity> {
        match self.users.find(&user.value) {
            Ok(found) if self.settings.root => Some(found),
            Ok(found) if found.uid == self.own_user.uid => None,
            Ok(found) => {
                let told = format!("{subject}: cannot become {}: hob is not root", quoted(&found.name));
                self.warnings.push(Problem::new(&user.at, told).hint(format!("it runs as {}", self.own_user.name)));
                None
            }
            Err(NotFound { message, hint }) => {
                self.problems.push(Problem { at: user.at.clone(), message: format!("{subject}: {message}"), hint });
                None
            }
        }
    }

    fn instance(&self, service: &Service, placement: &Placement, user: Option<Identity>) -> Instance {
        let mut env = environ::inherited(self.own);
        environ::login(&mut env, &placement.home, user.as_ref().unwrap_or(&self.own_user));
        env.extend(environ::service_variables(service));
        let run = variables(self.stack, self.placements, self.settings, self.ports, placement);
        env.extend(run.into_iter().map(|(key, value)| (key, value.as_variable())));
        let number = |name: &str| self.ports.number(service, placement.number, name);
        let port = |port: &PortDecl| {
            let number = number(&port.name);
            let is_fronted = self.ports.is_fronted(service, &port.name);
            let front = is_fronted.then(|| self.ports.public(service, &port.name));
            Port { name: port.name.clone(), protocol: port.protocol, mode: port.mode, number, front }
        };
        Instance {
            name: placement.group(),
            service: service.name.clone(),
            number: placement.number,
            home: placement.home.clone(),
            code: placement.code.clone(),
            log_dir: placement.log_dir.clone(),
            binds: placement.binds.clone(),
            ports: service.ports.iter().map(port).collect(),
            env,
            user,
        }
    }

    fn spec(
        &mut self,
        service: &Service,
        process: &Process,
        placement: &Placement,
        instance: &Instance,
    ) -> Option<Spec> {
        let layers = [self.settings.defaults.as_ref(), process.given.as_ref()];
        // Both layers were checked when they were read.
        let (options, _) = ProcessOptions::layered(&layers);
        let subject = service.process_subject(&process.name);
        let user = match &options.user {
            Some(user) => self.user(user, &subject),
            None => instance.user.clone(),
        };
        let mut env = instance.env.clone();
        if let (Some(user), Some(_)) = (&user, &options.user) {
            environ::login(&mut env, &placement.home, user);
        }
        env.extend(options.environment.iter().cloned());
        let directory = self.path(&options.directory, placement, &env, &subject);
        let pidfile = self.path(&options.pidfile, placement, &env, &subject);
        let ready = options.ready.as_ref().and_then(|ready| self.ready(ready, placement, &env, &subject));
        let health = options.health.as_ref().and_then(|health| self.health(health, placement, &env, &subject));
        let after = self.after(service, process, placement);
        let line = process.command.value.clone();
        let kind = command::classify(&line, &placement.home).unwrap_or(CommandKind::Script);
        Some(Spec {
            name: Name { group: instance.name.clone(), process: process.name.clone() },
            command: Command { line, kind },
            directory: directory.unwrap_or_else(|| placement.home.clone()),
            env: env.into_iter().filter(|(key, value)| instance.env.get(key) != Some(value)).collect(),
            profile: Some(placement.home.join("profile")),
            umask: options.umask,
            limits: Limits { nofile: options.nofile, nice: options.nice, oom_score_adj: options.oom_score_adj },
            priority: options.priority,
            autostart: options.autostart,
            after,
            restart: restart(&options),
            stop: Stop {
                signal: options.stopsignal,
                wait: options.stopwaitsecs,
                drain: options.drain,
                reach: Reach::Everything,
            },
            program: None,
            is_helper: false,
            ready,
            health,
            memory_limit: options.memory_limit,
            pidfile,
            log: log(self.settings, &options, &placement.log_dir, &process.name, user.as_ref()),
            user,
        })
    }

    fn path(&mut self, path: &Option<At<String>>, placement: &Placement, env: &Env, subject: &str) -> Option<PathBuf> {
        let At { value, at } = path.as_ref()?;
        match expand::path(value, &placement.home, env) {
            Ok(path) => Some(path),
            Err(why) => {
                self.problems.push(Problem::new(at, format!("{subject}: {}: {why}", quoted(value))));
                None
            }
        }
    }

    fn ready(&mut self, ready: &At<ProbeOptions>, placement: &Placement, env: &Env, subject: &str) -> Option<Ready> {
        let by = match self.ask(ready, placement, env, subject)? {
            Some(ask) => ReadyBy::Probe(Probe { ask, timeout: ready.value.timeout }),
            None => ReadyBy::Notify,
        };
        Some(Ready { by, within: ready.value.within })
    }

    fn health(&mut self, health: &At<ProbeOptions>, placement: &Placement, env: &Env, subject: &str) -> Option<Health> {
        let ask = self.ask(health, placement, env, subject)??;
        let probe = Probe { ask, timeout: health.value.timeout };
        Some(Health { probe, every: health.value.every, failures: health.value.failures })
    }

    /// The question with its variables expanded; the inner nothing is `notify`.
    fn ask(
        &mut self,
        probe: &At<ProbeOptions>,
        placement: &Placement,
        env: &Env,
        subject: &str,
    ) -> Option<Option<Ask>> {
        let At { value: question, at } = probe.value.asks.first()?;
        match asks::ask(question, env, &placement.home) {
            Ok(ask) => Some(ask),
            Err(why) => {
                let ports = env.keys().map(String::as_str).filter(|name| name.starts_with("PORT_"));
                let told = format!("{subject}: cannot ask {}: {why}", quoted(asks::text(question)));
                let missing = why.split('"').nth(1).unwrap_or_default();
                self.problems.push(Problem::new(at, told).did_you_mean(missing, ports));
                None
            }
        }
    }

    /// Names within the instance; those of another service in all of its instances.
    fn after(&self, service: &Service, process: &Process, placement: &Placement) -> Vec<Name> {
        let mut names = Vec::new();
        for after in &process.after {
            // Names that do not resolve were refused when the file was read.
            let Ok((other, name)) = resolve_after(self.stack, service, &after.value) else { continue };
            let groups: Vec<String> = if other == service.name {
                vec![placement.group()]
            } else {
                self.placements.iter().filter(|p| p.service == other).map(Placement::group).collect()
            };
            for group in groups {
                let name = Name { group, process: name.to_owned() };
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names
    }

    fn relays(&mut self, plan: &mut Plan) {
        for (signal, names) in &self.settings.relay_signals {
            for At { value, at } in names {
                let meant: Vec<String> = plan
                    .specs
                    .iter()
                    .filter(|spec| means(value, spec, &plan.instances))
                    .map(|s| s.name.to_string())
                    .collect();
                if meant.is_empty() {
                    // hob.toml outlives what is deployed.
                    self.warnings
                        .push(Problem::new(at, format!("relay_signals: no process is named {}", quoted(value))));
                }
                plan.relay_signals.entry(*signal).or_default().extend(meant);
            }
        }
    }
}

/// Whether a name from the settings means this process: `all`, group, `group:*`, service, process, `group:process`.
fn means(name: &str, spec: &Spec, instances: &[Instance]) -> bool {
    let group = name.strip_suffix(":*").unwrap_or(name);
    let of_service = || instances.iter().any(|i| i.service == group && i.name == spec.name.group);
    name == "all"
        || group == spec.name.group
        || name == spec.name.process
        || name == format!("{}:{}", spec.name.group, spec.name.process)
        || of_service()
}

/// The log of a process, in a folder.
pub fn log(
    settings: &Settings,
    options: &ProcessOptions,
    folder: &Path,
    name: &str,
    owner: Option<&Identity>,
) -> LogSpec {
    let mut log = LogSpec {
        path: folder.join(format!("{name}.log")),
        stderr: None,
        max_bytes: options.logfile_maxbytes,
        backups: options.logfile_backups,
        max_total: options.logfile_max_total,
        max_age: options.logfile_max_age,
        timestamps: options.timestamps,
        prefix: options.log_prefix,
        json: options.log_json,
        compress: options.log_compress,
        on_full: options.on_full,
        console: options.console.or(settings.console).unwrap_or(settings.console_auto),
        owner: owner.map(|user| (user.uid, user.gid)),
        extras: None,
    };
    if options.split_stderr {
        log.stderr = Some(Box::new(LogSpec { path: folder.join(format!("{name}_error.log")), ..log.clone() }));
    }
    log
}

pub fn restart(options: &ProcessOptions) -> Restart {
    Restart {
        autorestart: options.autorestart.unwrap_or(Autorestart::Always),
        exitcodes: options.exitcodes.clone(),
        startsecs: options.startsecs,
        startretries: options.startretries,
        delay: options.restart_delay,
        delay_max: options.restart_delay_max.max(options.restart_delay),
        oneshot: options.oneshot,
        backoff: Backoff::Doubling,
    }
}

/// Several instances may log into one directory: those that would share a file get their group in front.
fn separate_logs(plan: &mut Plan) {
    let mut count: HashMap<PathBuf, usize> = HashMap::new();
    let paths = |spec: &Spec| [Some(spec.log.path.clone()), spec.log.stderr.as_ref().map(|log| log.path.clone())];
    for path in plan.specs.iter().flat_map(paths).flatten() {
        *count.entry(path).or_default() += 1;
    }
    for spec in &mut plan.specs {
        if paths(spec).iter().flatten().all(|path| count.get(path) == Some(&1)) {
            continue;
        }
        let apart = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            path.with_file_name(format!("{}.{name}", spec.name.group))
        };
        spec.log.path = apart(&spec.log.path);
        if let Some(stderr) = &mut spec.log.stderr {
            stderr.path = apart(&stderr.path);
        }
    }
}

/// For a trial: every instance of a stack in one home.
pub fn trial_placements(stack: &Stack, settings: &Settings) -> Vec<Placement> {
    let code = stack.file.parent().unwrap_or(&stack.file).to_owned();
    let mut placements = Vec::new();
    for service in &stack.services {
        for number in 0..service.instances {
            placements.push(Placement {
                service: service.name.clone(),
                number,
                of: service.instances,
                home: settings.home.clone(),
                code: code.clone(),
                log_dir: settings.log_dir.clone(),
                binds: Vec::new(),
                project: None,
            });
        }
    }
    placements
}

#[cfg(test)]
#[path = "assemble_tests.rs"]
mod tests;
