//! The JSON handlers: from a request and the supervisor's table to an answer, or to what must be waited for.
//!
//! No handler waits, and none touches a descriptor: what takes time is a `Reply` that the connection carries on with.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::Host;
use super::events::Ring;
use super::http::{Answer, JSON, Request};
use super::logs::{LogFile, LogQuery};
use super::names::{self, Unresolved};
use super::waiters::{Item, Wish};
use crate::plan;
use crate::supervisor::event::{Change, Event, Exit, Phase, ProcessId, Time};
use crate::supervisor::{Process, Supervisor};
use crate::sys::{clock, signal_names};
use crate::wire;

/// One request on its way through a handler.
pub struct Call<'a> {
    pub host: &'a mut dyn Host,
    pub request: &'a Request,
    /// What stands in the path for `{name}`.
    pub name: &'a str,
    pub ring: &'a Ring,
}

/// How it goes on.
#[derive(Debug)]
pub enum Reply {
    Answer(Answer),
    /// The supervisor has been told; the answer comes when all of these have their outcome.
    Wait {
        items: Vec<Item>,
        timeout: Option<Duration>,
    },
    Events {
        recent: Vec<String>,
        follow: bool,
    },
    Logs(LogQuery),
    /// The answer is `Control::reload_done`'s.
    Reload {
        deployed: Option<bool>,
    },
    /// The answer is `Control::upgrade_done`'s.
    Upgrade,
    /// What the logger counts is asked for; the answer is `metrics::answer`.
    Metrics,
    /// The answer is `Control::goodbye`'s.
    Shutdown,
}

type Handled = Result<Reply, Answer>;

pub fn processes(call: &mut Call<'_>) -> Handled {
    let wanted: Vec<&str> = call.request.queries("name").collect();
    let ids: Vec<ProcessId> = if wanted.is_empty() {
        call.host.supervisor().processes().map(Process::id).collect()
    } else {
        resolve(call.host.supervisor(), &wanted)?
    };
    let host = &*call.host;
    let supervisor = host.supervisor();
    // One after the other, each gone once it is written: a thousand of them at once would be most of what this costs.
    let mut list = Vec::with_capacity(ids.len() * SHOWN_LENGTH + 3);
    list.push(b'[');
    for process in ids.iter().filter_map(|&id| supervisor.process(id)) {
        if list.len() > 1 {
            list.push(b',');
        }
        if let Err(why) = serde_json::to_writer(&mut list, &process_shown(process, host)) {
            return Err(failure(500, why.to_string()));
        }
    }
    list.extend_from_slice(b"]\n");
    Ok(Reply::Answer(Answer { status: 200, content: JSON, body: list, headers: Vec::new() }))
}

/// What a process takes as JSON, in bytes, unless its command is long.
const SHOWN_LENGTH: usize = 400;

pub fn process(call: &mut Call<'_>) -> Handled {
    let host = &*call.host;
    let ids = resolve(host.supervisor(), &[call.name])?;
    match ids.as_slice() {
        [id] => match host.supervisor().process(*id) {
            Some(process) => json(&process_shown(process, host)),
            None => Err(failure(404, format!("no process {:?}", call.name))),
        },
        several => {
            let why = format!("{:?} names {} processes: ask /v1/processes?name={0}", call.name, several.len());
            Err(failure(400, why))
        }
    }
}

pub fn start(call: &mut Call<'_>) -> Handled {
    act(call, Wish::Start)
}

pub fn stop(call: &mut Call<'_>) -> Handled {
    act(call, Wish::Stop)
}

pub fn restart(call: &mut Call<'_>) -> Handled {
    act(call, Wish::Restart)
}

fn act(call: &mut Call<'_>, wish: Wish) -> Handled {
    let (asked, ids) = act_body(call)?;
    if asked.signal.is_some() {
        return Err(failure(400, "\"signal\" belongs to /v1/signal".into()));
    }
    let timeout = match asked.timeout.map(Duration::try_from_secs_f64).transpose() {
        Ok(timeout) => timeout,
        Err(_) => return Err(failure(400, "\"timeout\" is not a number of seconds".into())),
    };
    if call.host.supervisor().is_shutting_down() && wish != Wish::Stop {
        return Err(failure(503, "hob is shutting down".into()));
    }
    let (supervisor, now) = (call.host.supervisor(), call.host.now());
    let items: Vec<Item> =
        ids.iter().filter_map(|&id| supervisor.process(id)).map(|process| Item::new(process, wish, now)).collect();
    for id in items.iter().map(Item::id) {
        call.host.feed(match wish {
            Wish::Start => Event::Start(id),
            Wish::Stop => Event::Stop(id),
            Wish::Restart => Event::Restart(id),
        });
    }
    if asked.wait {
        return Ok(Reply::Wait { items, timeout });
    }
    json(&items.iter().map(|item| item.asked(call.host.supervisor())).collect::<Vec<_>>())
}

pub fn signal(call: &mut Call<'_>) -> Handled {
    let (asked, ids) = act_body(call)?;
    let Some(text) = asked.signal else {
        return Err(failure(400, "\"signal\" is missing: a name such as \"HUP\", or a number".into()));
    };
    let Some(signal) = signal_names::number(&text) else {
        return Err(failure(400, format!("{:?} is not a signal", text.chars().take(40).collect::<String>())));
    };
    let mut outcomes = Vec::new();
    for id in ids {
        let Some(process) = call.host.supervisor().process(id) else { continue };
        let (name, state, run) = (process.spec().name.to_string(), process.phase().to_string(), process.run());
        let sent = match run {
            Some(run) => call.host.signal(run, signal).map_err(|e| crate::sys::socket_unix::reason(&e)),
            None => Err("not running".to_owned()),
        };
        let (ok, message) = match sent {
            Ok(()) => (true, format!("got {}", signal_names::name(signal))),
            Err(why) => (false, why),
        };
        outcomes.push(wire::Outcome { name, ok, state, message });
    }
    json(&outcomes)
}

pub fn enable(call: &mut Call<'_>) -> Handled {
    set_enabled(call, true)
}

pub fn disable(call: &mut Call<'_>) -> Handled {
    set_enabled(call, false)
}

fn set_enabled(call: &mut Call<'_>, is_enabled: bool) -> Handled {
    let (_, ids) = act_body(call)?;
    call.host.set_enabled(&ids, is_enabled).map_err(|why| failure(500, why.to_string()))?;
    let supervisor = call.host.supervisor();
    let told = |process: &Process| {
        let message = match (is_enabled, process.spec().autostart) {
            (true, true) => "enabled",
            (true, false) => "enabled, but its configuration says autostart: false",
            (false, _) => "disabled",
        };
        let (name, state) = (process.spec().name.to_string(), process.phase().to_string());
        wire::Outcome { name, ok: true, state, message: message.into() }
    };
    json(&ids.iter().filter_map(|id| supervisor.process(*id)).map(told).collect::<Vec<_>>())
}

/// The body of an act, and the processes it is about: those of the body, or the one of the path.
fn act_body(call: &Call<'_>) -> Result<(wire::Act, Vec<ProcessId>), Answer> {
    let asked = read_act(call)?;
    let wanted: Vec<&str> = match (call.name, asked.names.as_slice()) {
        ("", []) => return Err(failure(400, "\"names\" is missing or empty; [\"all\"] names all".into())),
        ("", names) => names.iter().map(String::as_str).collect(),
        (name, []) => vec![name],
        (_, _) => return Err(failure(400, "the path names the process: no \"names\" in the body".into())),
    };
    let ids = resolve(call.host.supervisor(), &wanted)?;
    Ok((asked, ids))
}

fn read_act(call: &Call<'_>) -> Result<wire::Act, Answer> {
    match call.request.body.trim_ascii() {
        b"" => Ok(wire::Act::default()),
        body => serde_json::from_slice(body).map_err(|e| failure(400, format!("cannot read the body: {e}"))),
    }
}

pub fn instances(call: &mut Call<'_>) -> Handled {
    let supervisor = call.host.supervisor();
    // Once for all: a thousand instances do not look through a thousand processes each.
    let mut processes: HashMap<&str, Vec<String>> = HashMap::new();
    for name in supervisor.processes().map(|process| &process.spec().name) {
        processes.entry(&name.group).or_default().push(name.to_string());
    }
    let shown = |instance: &plan::Instance| {
        instance_shown(instance, processes.get(instance.name.as_str()).cloned().unwrap_or_default())
    };
    json(&supervisor.plan().instances.iter().map(shown).collect::<Vec<_>>())
}

pub fn instance(call: &mut Call<'_>) -> Handled {
    let supervisor = call.host.supervisor();
    let instance = named_instance(supervisor.plan(), call.name)?;
    let names = specs_of(instance, supervisor).map(|spec| spec.name.to_string());
    json(&instance_shown(instance, names.collect()))
}

pub fn environment(call: &mut Call<'_>) -> Handled {
    let supervisor = call.host.supervisor();
    let instance = named_instance(supervisor.plan(), call.name)?;
    let profile = specs_of(instance, supervisor).find_map(|spec| spec.profile.as_ref());
    json(&wire::Environment {
        home: instance.home.display().to_string(),
        profile: profile.map(|path| path.display().to_string()),
        binds: instance.binds.clone(),
        user: instance.user.clone(),
        variables: instance.env.clone(),
    })
}

/// The table has the specs; the plan has given them away.
fn specs_of<'s>(instance: &'s plan::Instance, supervisor: &'s Supervisor) -> impl Iterator<Item = &'s plan::Spec> {
    supervisor.processes().map(Process::spec).filter(|spec| spec.name.group == instance.name)
}

fn named_instance<'p>(plan: &'p plan::Plan, name: &str) -> Result<&'p plan::Instance, Answer> {
    let at = names::resolve_instance(name, &plan.instances).map_err(unresolved)?;
    plan.instances.get(at).ok_or_else(|| failure(404, format!("no instance {name:?}")))
}

pub fn info(call: &mut Call<'_>) -> Handled {
    json(&call.host.info())
}

pub fn events(call: &mut Call<'_>) -> Handled {
    let follow = flag(call.request, "follow", true)?;
    let count = number(call.request, "recent")?.unwrap_or(if follow { 0 } else { usize::MAX });
    Ok(Reply::Events { recent: call.ring.last(count).map(str::to_owned).collect(), follow })
}

pub fn logs(call: &mut Call<'_>) -> Handled {
    let wanted: Vec<&str> = call.request.queries("name").collect();
    let supervisor = call.host.supervisor();
    let ids = if wanted.is_empty() { Vec::new() } else { resolve(supervisor, &wanted)? };
    let mut files = Vec::new();
    for process in ids.iter().filter_map(|&id| supervisor.process(id)) {
        let (name, log) = (process.spec().name.to_string(), &process.spec().log);
        let both = [log.stderr.as_deref(), Some(log)].into_iter().flatten().filter_map(plan::LogSpec::file);
        files.extend(both.map(|path| LogFile { name: name.clone(), path: path.to_owned() }));
    }
    let mut dirs: Vec<PathBuf> = Vec::new();
    if files.is_empty() {
        for instance in &supervisor.plan().instances {
            if !dirs.contains(&instance.log_dir) {
                dirs.push(instance.log_dir.clone());
            }
        }
    }
    let since = match call.request.query("since").map(|text| text.parse::<f64>().map(Duration::try_from_secs_f64)) {
        None => None,
        Some(Ok(Ok(since))) => Some(since),
        Some(_) => return Err(failure(400, "\"since\" is not a Unix time in seconds".into())),
    };
    let lines = number(call.request, "lines")?;
    Ok(Reply::Logs(LogQuery { files, dirs, lines, follow: flag(call.request, "follow", false)?, since }))
}

pub fn reload(call: &mut Call<'_>) -> Handled {
    if call.host.supervisor().is_shutting_down() {
        return Err(failure(503, "hob is shutting down".into()));
    }
    let asked: wire::Reload = match call.request.body.trim_ascii() {
        b"" => wire::Reload::default(),
        body => serde_json::from_slice(body).map_err(|e| failure(400, format!("cannot read the body: {e}")))?,
    };
    Ok(Reply::Reload { deployed: asked.deployed })
}

pub fn upgrade(call: &mut Call<'_>) -> Handled {
    if call.host.supervisor().is_shutting_down() {
        return Err(failure(503, "hob is shutting down".into()));
    }
    Ok(Reply::Upgrade)
}

pub fn shutdown(call: &mut Call<'_>) -> Handled {
    let asked = read_act(call)?;
    call.host.shutdown();
    if asked.wait { Ok(Reply::Shutdown) } else { json(&wire::Done { message: "stopping everything".into() }) }
}

pub fn health(call: &mut Call<'_>) -> Handled {
    let host = &*call.host;
    let supervisor = host.supervisor();
    let mut problems: Vec<String> = Vec::new();
    if supervisor.is_shutting_down() {
        problems.push("hob is stopping".into());
    } else if supervisor.processes().next().is_none() && host.info().state != "running" {
        problems.push(format!("hob is not up yet: {}", host.info().state));
    }
    problems.extend(supervisor.processes().filter_map(problem));
    let health = wire::Health { ok: problems.is_empty(), problems };
    let status = if health.ok { 200 } else { 503 };
    Ok(Reply::Answer(Answer { status, content: JSON, body: body(&health), headers: Vec::new() }))
}

/// Why a process that should run does not; nothing for one that was stopped by hand or has done its work.
fn problem(process: &Process) -> Option<String> {
    let (phase, policy) = (process.phase(), &process.spec().restart);
    let has_failed = match process.last_exit() {
        Some((Exit::Code(code), _)) => !policy.exitcodes.contains(code),
        Some(_) => true,
        None => false,
    };
    let is_bad = match phase {
        Phase::Running => !process.is_ready(),
        Phase::Exited => policy.oneshot && has_failed,
        Phase::Fatal => true,
        Phase::Stopped | Phase::Starting | Phase::Backoff | Phase::Stopping => process.wants_up(),
    };
    is_bad.then(|| format!("{}: {phase} {}", process.spec().name, process.why()))
}

/// A process as the API shows it.
pub fn process_shown(process: &Process, host: &dyn Host) -> wire::Process {
    let (spec, now, supervisor) = (process.spec(), host.now(), host.supervisor());
    let run = process.run();
    wire::Process {
        name: spec.name.to_string(),
        group: spec.name.group.clone(),
        process: spec.name.process.clone(),
        state: process.phase().to_string(),
        statecode: process.phase().code(),
        pid: run.and_then(|run| host.pid(run)),
        since: unix(process.since(), now),
        uptime: run.and(process.started_at()).map(|at| millis(now.since(at))),
        restarts: process.restarts(),
        ready: process.is_ready(),
        last_exit: process
            .last_exit()
            .map(|(exit, at)| exit_shown(exit, process.last_exit_told().unwrap_or_default(), unix(at, now))),
        next_try: process.next_try().map(|at| millis(at.since(now))),
        why: process.why().to_owned(),
        waits_for: supervisor.waits_for(process.id()).iter().map(ToString::to_string).collect(),
        survivors: process.survivors().iter().map(|s| format!("{} ({})", s.pid, s.command)).collect(),
        logfile: spec.log.path.display().to_string(),
        stderr_logfile: spec.log.stderr.as_ref().map(|log| log.path.display().to_string()),
        command: spec.command.line.clone(),
        autostart: spec.autostart,
        troubles: host.troubles(process.id()),
    }
}

/// A change as the API shows it.
pub fn change_shown(change: &Change, host: &dyn Host) -> wire::Event {
    let at = unix(change.at, host.now());
    let process = host.supervisor().process(change.id);
    let run = process.and_then(Process::run);
    let told = |exit: &Exit| process.map_or_else(|| exit.to_string(), |process| process.told(exit));
    wire::Event {
        time: at,
        name: change.name.to_string(),
        from: change.from.to_string(),
        to: change.to.to_string(),
        why: change.why.clone(),
        pid: run.and_then(|run| host.pid(run)),
        exit: change.exit.as_ref().map(|exit| exit_shown(exit, told(exit), at)),
    }
}

fn exit_shown(exit: &Exit, text: String, at: f64) -> wire::LastExit {
    let mut shown = wire::LastExit { text, code: None, signal: None, oom: false, stage: None, errno: None, at };
    match exit {
        Exit::Code(code) => shown.code = Some(*code),
        Exit::Signal { signal, oom, .. } => (shown.signal, shown.oom) = (Some(*signal), *oom),
        Exit::CannotExec { stage, errno } => (shown.stage, shown.errno) = (Some(stage.clone()), Some(*errno)),
        Exit::Unknown => {}
    }
    shown
}

fn instance_shown(instance: &plan::Instance, processes: Vec<String>) -> wire::Instance {
    let protocol = |port: &plan::Port| match port.protocol {
        plan::Protocol::Http => "http",
        plan::Protocol::Tcp => "tcp",
        plan::Protocol::Udp => "udp",
    };
    let mode = |port: &plan::Port| match port.mode {
        plan::Mode::First => "first",
        plan::Mode::Balance => "balance",
        plan::Mode::Failover => "failover",
    };
    let port = |port: &plan::Port| {
        let public_port = port.public(instance.number);
        wire::Port {
            name: port.name.clone(),
            protocol: protocol(port).into(),
            port: port.number,
            url: port.url(port.number),
            mode: mode(port).into(),
            public_port,
            public_url: public_port.map(|number| port.url(number)),
            balanced: port.front.is_some(),
        }
    };
    wire::Instance {
        name: instance.name.clone(),
        service: instance.service.clone(),
        number: instance.number,
        home: instance.real_home().display().to_string(),
        code: instance.code.display().to_string(),
        log_dir: instance.log_dir.display().to_string(),
        ports: instance.ports.iter().map(port).collect(),
        user: instance.user.as_ref().map(|user| user.name.clone()),
        processes,
    }
}

/// Our clock goes on through a change of the wall clock; people read the wall clock.
fn unix(at: Time, now: Time) -> f64 {
    let wall = clock::wall();
    millis(if at > now { wall + at.since(now) } else { wall.saturating_sub(now.since(at)) })
}

fn millis(length: Duration) -> f64 {
    length.as_millis() as f64 / 1000.0
}

fn resolve(supervisor: &Supervisor, wanted: &[&str]) -> Result<Vec<ProcessId>, Answer> {
    let processes: Vec<&Process> = supervisor.processes().collect();
    let table: Vec<&plan::Name> = processes.iter().map(|process| &process.spec().name).collect();
    let places = names::resolve(wanted.iter().copied(), &table, &supervisor.plan().instances).map_err(unresolved)?;
    Ok(places.into_iter().filter_map(|at| processes.get(at)).map(|process| process.id()).collect())
}

fn unresolved(unresolved: Unresolved) -> Answer {
    let status = if unresolved.is_unknown { 404 } else { 400 };
    failures(status, unresolved.errors)
}

fn flag(request: &Request, name: &str, default: bool) -> Result<bool, Answer> {
    match request.query(name) {
        None => Ok(default),
        Some("" | "1" | "true" | "yes") => Ok(true),
        Some("0" | "false" | "no") => Ok(false),
        Some(_) => Err(failure(400, format!("{name:?} is neither true nor false"))),
    }
}

fn number(request: &Request, name: &str) -> Result<Option<usize>, Answer> {
    let read = |text: &str| text.parse().map_err(|_| failure(400, format!("{name:?} is not a number")));
    request.query(name).map(read).transpose()
}

pub fn failure(status: u16, error: String) -> Answer {
    failures(status, vec![error])
}

pub fn failures(status: u16, errors: Vec<String>) -> Answer {
    let error = errors.first().cloned().unwrap_or_default();
    // A configuration that was refused is told in the same way however many errors it has.
    let errors = if errors.len() > 1 || status == 422 { errors } else { Vec::new() };
    Answer { status, content: JSON, body: body(&wire::Failure { error, errors }), headers: Vec::new() }
}

pub fn good(value: &impl Serialize) -> Answer {
    Answer { status: 200, content: JSON, body: body(value), headers: Vec::new() }
}

fn json(value: &impl Serialize) -> Handled {
    Ok(Reply::Answer(good(value)))
}

fn body(value: &impl Serialize) -> Vec<u8> {
    // Our own shapes have string keys and no failing serializer; an empty body beats a panic all the same.
    let mut body = serde_json::to_vec(value).unwrap_or_default();
    body.push(b'\n');
    body
}
