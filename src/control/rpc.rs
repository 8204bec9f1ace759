//! supervisord's XML-RPC at `/RPC2`: the table of methods and what each does (reference/supervisord.md §3).
//!
//! A method is found in the table by its whole name and in no other way; walking names as paths is what made
//! CVE-2017-11610. No method waits: one that has to gives a `Waiting`, which `exchange` carries on with.

use std::path::PathBuf;

use super::exchange::{Item, Outcome, Shape, Waiting, Wish};
use super::logs::LogPiece;
use super::rpc_info;
use super::rpc_own;
use super::{GroupError, Host, Ticket};
use crate::plan::{LogSpec, Name};
use crate::supervisor::Process;
use crate::supervisor::event::{Event, Phase, ProcessId};
use crate::sys::socket_unix;
use crate::xmlrpc::{Fault, Value};

pub use crate::xmlrpc::fault;

/// One method.
pub struct Method {
    pub name: &'static str,
    /// The type of the result, then those of the arguments.
    pub signature: &'static [&'static str],
    /// Arguments that may be left out, from the end.
    pub(super) optional: usize,
    pub doc: &'static str,
    pub(super) handler: fn(&mut Asked<'_>) -> Outcome,
}

/// A call on its way through a method.
pub struct Asked<'a> {
    pub host: &'a mut dyn Host,
    pub params: &'a [Value],
    /// For what is answered later.
    pub ticket: Ticket,
}

const NAMES: &[(i32, &str)] = &[
    (fault::UNKNOWN_METHOD, "UNKNOWN_METHOD"),
    (fault::INCORRECT_PARAMETERS, "INCORRECT_PARAMETERS"),
    (fault::BAD_ARGUMENTS, "BAD_ARGUMENTS"),
    (fault::SIGNATURE_UNSUPPORTED, "SIGNATURE_UNSUPPORTED"),
    (fault::SHUTDOWN_STATE, "SHUTDOWN_STATE"),
    (fault::BAD_NAME, "BAD_NAME"),
    (fault::BAD_SIGNAL, "BAD_SIGNAL"),
    (fault::NO_FILE, "NO_FILE"),
    (fault::NOT_EXECUTABLE, "NOT_EXECUTABLE"),
    (fault::FAILED, "FAILED"),
    (fault::ABNORMAL_TERMINATION, "ABNORMAL_TERMINATION"),
    (fault::SPAWN_ERROR, "SPAWN_ERROR"),
    (fault::ALREADY_STARTED, "ALREADY_STARTED"),
    (fault::NOT_RUNNING, "NOT_RUNNING"),
    (fault::ALREADY_ADDED, "ALREADY_ADDED"),
    (fault::STILL_RUNNING, "STILL_RUNNING"),
    (fault::CANT_REREAD, "CANT_REREAD"),
];

/// A fault as it is sent: `BAD_NAME: web`, or its name alone.
pub fn faulted(code: i32, detail: &str) -> Fault {
    let name = NAMES.iter().find(|(number, _)| *number == code).map_or("UNKNOWN", |(_, name)| name);
    // A name is told even where it is empty.
    let is_named = code == fault::BAD_NAME || code == fault::BAD_SIGNAL;
    let text = if detail.is_empty() && !is_named { name.to_owned() } else { format!("{name}: {detail}") };
    Fault { code, text }
}

pub(super) fn fail(code: i32, detail: &str) -> Outcome {
    Outcome::Done(Err(faulted(code, detail)))
}

pub(super) fn done(value: impl Into<Value>) -> Outcome {
    Outcome::Done(Ok(value.into()))
}

/// Runs a method, as far as that goes without waiting. The pages do so too, whatever a client may call.
pub fn call(asked: &mut Asked<'_>, name: &str, is_page: bool) -> Outcome {
    let found = METHODS.iter().chain(rpc_own::METHODS).find(|method| method.name == name);
    let Some(method) = found.filter(|method| is_page || exists(asked, method)) else {
        return fail(fault::UNKNOWN_METHOD, "");
    };
    let most = method.signature.len() - 1;
    if asked.params.len() > most || asked.params.len() < most - method.optional {
        return fail(fault::INCORRECT_PARAMETERS, "");
    }
    let always = name.starts_with("system.") || name == "supervisor.sendRemoteCommEvent";
    if asked.host.is_ending() && !always {
        return fail(fault::SHUTDOWN_STATE, "");
    }
    (method.handler)(asked)
}

/// Those of a namespace exist if the configuration names its interface.
fn exists(asked: &Asked<'_>, method: &Method) -> bool {
    let own = asked.host.supervisor().plan().supervisord.as_ref();
    !method.name.starts_with("supervisor.") || !own.is_some_and(|own| own.lacks_interface)
}

macro_rules! method {
    ($name:literal, [$($type:literal),+], $optional:literal, $doc:literal, $handler:expr) => {
        $crate::control::rpc::Method { name: $name, signature: &[$($type),+], optional: $optional, doc: $doc, handler: $handler }
    };
}
pub(super) use method;

/// All of them, by name.
pub const METHODS: &[Method] = &[
    method!(
        "supervisor.addProcessGroup",
        ["boolean", "string"],
        0,
        "Activates a group of the configuration that was read last.",
        add_group
    ),
    method!("supervisor.clearAllProcessLogs", ["array"], 0, "Empties the logs of all processes.", clear_all),
    method!("supervisor.clearLog", ["boolean"], 0, "Empties the main log.", clear_main),
    method!("supervisor.clearProcessLog", ["boolean", "string"], 0, "Empties the logs of a process.", clear_one),
    method!("supervisor.clearProcessLogs", ["boolean", "string"], 0, "Empties the logs of a process.", clear_one),
    method!("supervisor.getAPIVersion", ["string"], 0, "Tells the version of this interface.", |_| done("3.0")),
    method!(
        "supervisor.getAllConfigInfo",
        ["array"],
        0,
        "Tells the configuration of all processes that was read last.",
        all_config
    ),
    method!("supervisor.getAllProcessInfo", ["array"], 0, "Tells about all processes.", all_info),
    method!("supervisor.getIdentification", ["string"], 0, "Tells the identifier of this daemon.", |a| done(
        a.host.identification()
    )),
    method!("supervisor.getPID", ["int"], 0, "Tells the pid of the daemon.", |_| done(i64::from(std::process::id()))),
    method!("supervisor.getProcessInfo", ["struct", "string"], 0, "Tells about one process.", info),
    method!("supervisor.getState", ["struct"], 0, "Tells the state of the daemon.", state),
    method!("supervisor.getSupervisorVersion", ["string"], 0, "Tells the version of the daemon.", |_| done(VERSION)),
    method!("supervisor.getVersion", ["string"], 0, "Tells the version of this interface.", |_| done("3.0")),
    method!("supervisor.readLog", ["string", "int", "int"], 0, "Reads from the main log: offset, length.", read_main),
    method!(
        "supervisor.readMainLog",
        ["string", "int", "int"],
        0,
        "Reads from the main log: offset, length.",
        read_main
    ),
    method!(
        "supervisor.readProcessLog",
        ["string", "string", "int", "int"],
        0,
        "Reads from the stdout log of a process: name, offset, length.",
        |a| read(a, false)
    ),
    method!(
        "supervisor.readProcessStderrLog",
        ["string", "string", "int", "int"],
        0,
        "Reads from the stderr log of a process: name, offset, length.",
        |a| read(a, true)
    ),
    method!(
        "supervisor.readProcessStdoutLog",
        ["string", "string", "int", "int"],
        0,
        "Reads from the stdout log of a process: name, offset, length.",
        |a| read(a, false)
    ),
    method!(
        "supervisor.reloadConfig",
        ["array"],
        0,
        "Reads the configuration again, and tells which groups are new, changed and gone.",
        reread
    ),
    method!(
        "supervisor.removeProcessGroup",
        ["boolean", "string"],
        0,
        "Forgets a group whose processes are all stopped.",
        remove_group
    ),
    method!(
        "supervisor.restart",
        ["boolean"],
        0,
        "Reads the configuration, stops everything and starts anew.",
        restart
    ),
    method!(
        "supervisor.sendProcessStdin",
        ["boolean", "string", "string"],
        0,
        "Sends text to the stdin of a process.",
        send_stdin
    ),
    method!(
        "supervisor.sendRemoteCommEvent",
        ["boolean", "string", "string"],
        0,
        "Sends an event to listeners: type, data.",
        remote_event
    ),
    method!("supervisor.shutdown", ["boolean"], 0, "Stops everything, and ends.", shutdown),
    method!("supervisor.signalAllProcesses", ["array", "string"], 0, "Sends a signal to all processes.", signal_all),
    method!(
        "supervisor.signalProcess",
        ["boolean", "string", "string"],
        0,
        "Sends a signal to a process: name, signal.",
        signal_one
    ),
    method!(
        "supervisor.signalProcessGroup",
        ["array", "string", "string"],
        0,
        "Sends a signal to the processes of a group: group, signal.",
        signal_group
    ),
    method!(
        "supervisor.startAllProcesses",
        ["array", "boolean"],
        1,
        "Starts everything that does not run: whether to wait.",
        |a| act_all(a, Wish::Start)
    ),
    method!(
        "supervisor.startProcess",
        ["boolean", "string", "boolean"],
        1,
        "Starts a process: name, whether to wait.",
        |a| act_one(a, Wish::Start)
    ),
    method!(
        "supervisor.startProcessGroup",
        ["array", "string", "boolean"],
        1,
        "Starts the processes of a group: group, whether to wait.",
        |a| act_group(a, Wish::Start)
    ),
    method!(
        "supervisor.stopAllProcesses",
        ["array", "boolean"],
        1,
        "Stops everything that runs: whether to wait.",
        |a| act_all(a, Wish::Stop)
    ),
    method!(
        "supervisor.stopProcess",
        ["boolean", "string", "boolean"],
        1,
        "Stops a process: name, whether to wait.",
        |a| act_one(a, Wish::Stop)
    ),
    method!(
        "supervisor.stopProcessGroup",
        ["array", "string", "boolean"],
        1,
        "Stops the processes of a group: group, whether to wait.",
        |a| act_group(a, Wish::Stop)
    ),
    method!(
        "supervisor.tailProcessLog",
        ["array", "string", "int", "int"],
        0,
        "Reads the end of the stdout log of a process: name, offset, length.",
        |a| tail(a, false)
    ),
    method!(
        "supervisor.tailProcessStderrLog",
        ["array", "string", "int", "int"],
        0,
        "Reads the end of the stderr log of a process: name, offset, length.",
        |a| tail(a, true)
    ),
    method!(
        "supervisor.tailProcessStdoutLog",
        ["array", "string", "int", "int"],
        0,
        "Reads the end of the stdout log of a process: name, offset, length.",
        |a| tail(a, false)
    ),
    method!("system.listMethods", ["array"], 0, "Lists all methods.", |a| {
        done(Value::Array(METHODS.iter().filter(|method| exists(a, method)).map(|method| method.name.into()).collect()))
    }),
    method!("system.methodHelp", ["string", "string"], 0, "Tells what a method does.", |a| match find(a) {
        Some(method) => done(method.doc),
        None => fail(fault::SIGNATURE_UNSUPPORTED, ""),
    }),
    method!(
        "system.methodSignature",
        ["array", "string"],
        0,
        "Tells the types of a method's result and arguments.",
        |a| match find(a) {
            Some(method) => done(Value::Array(method.signature.iter().map(|word| (*word).into()).collect())),
            None => fail(fault::SIGNATURE_UNSUPPORTED, ""),
        }
    ),
    // Taken apart before it gets here; within itself it is not allowed.
    method!("system.multicall", ["array", "array"], 0, "Runs several calls in order.", |_| {
        fail(fault::INCORRECT_PARAMETERS, "Recursive system.multicall forbidden")
    }),
];

/// Clients compare it with versions of supervisord.
pub const VERSION: &str = "4.3.0";

fn find(asked: &Asked<'_>) -> Option<&'static Method> {
    let name = asked.params.first()?.as_str()?;
    METHODS.iter().find(|method| method.name == name && exists(asked, method))
}

// -- arguments

impl Asked<'_> {
    pub(super) fn text(&self, nth: usize) -> Result<String, Outcome> {
        let text = self.params.get(nth).and_then(Value::as_str).map(str::to_owned);
        text.ok_or_else(|| fail(fault::INCORRECT_PARAMETERS, ""))
    }

    fn int(&self, nth: usize) -> Result<i64, Outcome> {
        self.params.get(nth).and_then(Value::as_int).ok_or_else(|| fail(fault::INCORRECT_PARAMETERS, ""))
    }

    /// Whether to wait, where nothing is said: yes.
    fn waits(&self, nth: usize) -> Result<bool, Outcome> {
        match self.params.get(nth) {
            None => Ok(true),
            Some(value) => value.as_bool().ok_or_else(|| fail(fault::INCORRECT_PARAMETERS, "")),
        }
    }

    fn processes(&self) -> impl Iterator<Item = &Process> {
        self.host.supervisor().processes()
    }

    /// The one process of a name.
    pub(super) fn process(&self, name: &str) -> Result<ProcessId, Outcome> {
        let bad = || fail(fault::BAD_NAME, name);
        let (group, process) = split(name);
        let process = process.ok_or_else(bad)?;
        let is_it = |p: &&Process| p.spec().name.group == group && p.spec().name.process == process;
        self.processes().find(is_it).map(Process::id).ok_or_else(bad)
    }

    /// All processes of a group, in the order in which they are started.
    fn group(&self, name: &str) -> Result<Vec<ProcessId>, Outcome> {
        let mut found: Vec<&Process> = self.processes().filter(|p| p.spec().name.group == name).collect();
        // A group without processes is a group all the same.
        let is_known = || {
            let own = self.host.supervisor().plan().supervisord.as_ref();
            own.is_some_and(|own| own.groups.iter().any(|group| group.name == name))
        };
        if found.is_empty() && !is_known() {
            return Err(fail(fault::BAD_NAME, name));
        }
        found.sort_by_key(|process| process.spec().program.as_ref().map_or(0, |program| program.priority));
        Ok(found.iter().map(|process| process.id()).collect())
    }

    /// All processes, by groups.
    fn all(&self) -> Vec<ProcessId> {
        let mut groups: Vec<&str> = Vec::new();
        for process in self.processes() {
            if groups.last() != Some(&process.spec().name.group.as_str()) {
                groups.push(&process.spec().name.group);
            }
        }
        groups.dedup();
        groups.iter().filter_map(|group| self.group(group).ok()).flatten().collect()
    }

    fn name(&self, id: ProcessId) -> Option<&Name> {
        self.host.supervisor().process(id).map(|process| &process.spec().name)
    }

    fn phase(&self, id: ProcessId) -> Phase {
        self.host.supervisor().process(id).map_or(Phase::Stopped, Process::phase)
    }
}

/// The group and, unless all of it is meant, the process.
pub fn split(name: &str) -> (&str, Option<&str>) {
    match name.split_once(':') {
        None => (name, Some(name)),
        Some((group, "" | "*")) => (group, None),
        Some((group, process)) => (group, Some(process)),
    }
}

/// As errors name a process.
fn shown(name: &Name) -> String {
    name.to_string()
}

/// Unwraps an argument, or ends the method with the fault.
macro_rules! given {
    ($argument:expr) => {
        match $argument {
            Ok(value) => value,
            Err(outcome) => return outcome,
        }
    };
}
pub(super) use given;

// -- telling

fn state(_asked: &mut Asked<'_>) -> Outcome {
    done(Value::Struct(vec![("statecode".into(), 1.into()), ("statename".into(), "RUNNING".into())]))
}

fn info(asked: &mut Asked<'_>) -> Outcome {
    let name = given!(asked.text(0));
    let id = given!(asked.process(&name));
    match asked.host.supervisor().process(id) {
        Some(process) => done(rpc_info::process(process, asked.host)),
        None => fail(fault::BAD_NAME, &name),
    }
}

fn all_info(asked: &mut Asked<'_>) -> Outcome {
    let mut all: Vec<&Process> = asked.processes().collect();
    all.sort_by(|a, b| a.spec().name.cmp(&b.spec().name));
    done(Value::Array(all.into_iter().map(|process| rpc_info::process(process, asked.host)).collect()))
}

fn all_config(asked: &mut Asked<'_>) -> Outcome {
    done(rpc_info::configuration(asked.host))
}

// -- starting and stopping

fn act_one(asked: &mut Asked<'_>, wish: Wish) -> Outcome {
    let (name, wait) = (given!(asked.text(0)), given!(asked.waits(1)));
    let (group, process) = split(&name);
    if process.is_none() {
        let ids = given!(asked.group(group).map_err(|_| fail(fault::BAD_NAME, &name)));
        return act(asked, ids, wish, wait);
    }
    let id = given!(asked.process(&name));
    if let Err(wrong) = may(asked, id, wish, &name) {
        return Outcome::Done(Err(wrong));
    }
    let item = begin(asked, id, wish, &name);
    if !wait {
        return done(true);
    }
    Outcome::Wait(Waiting::Items { items: vec![item], shape: Shape::One, done: Vec::new() })
}

fn act_group(asked: &mut Asked<'_>, wish: Wish) -> Outcome {
    let (name, wait) = (given!(asked.text(0)), given!(asked.waits(1)));
    let ids = given!(asked.group(&name));
    act(asked, ids, wish, wait)
}

fn act_all(asked: &mut Asked<'_>, wish: Wish) -> Outcome {
    let wait = given!(asked.waits(0));
    let ids = asked.all();
    act(asked, ids, wish, wait)
}

/// Several: those to which it does not apply are left out.
pub(super) fn act(asked: &mut Asked<'_>, ids: Vec<ProcessId>, wish: Wish, wait: bool) -> Outcome {
    let (mut items, mut at_once) = (Vec::new(), Vec::new());
    for id in ids {
        if is_in_running_set(asked.phase(id)) != (wish == Wish::Stop) {
            continue;
        }
        let Some(name) = asked.name(id).cloned() else { continue };
        match may(asked, id, wish, &shown(&name)) {
            Err(wrong) => at_once.push(result(&name, &Err(wrong))),
            Ok(()) => {
                let item = begin(asked, id, wish, &shown(&name));
                if wait { items.push(item) } else { at_once.push(result(&name, &Ok(()))) }
            }
        }
    }
    if items.is_empty() {
        return done(Value::Array(at_once));
    }
    Outcome::Wait(Waiting::Items { items, shape: Shape::Many, done: at_once })
}

/// Whether a wish makes sense now.
fn may(asked: &Asked<'_>, id: ProcessId, wish: Wish, name: &str) -> Result<(), Fault> {
    let phase = asked.phase(id);
    match wish {
        Wish::Start => {
            asked
                .host
                .look_up(id)
                .map_err(|(absent, why)| faulted(if absent { fault::NO_FILE } else { fault::NOT_EXECUTABLE }, &why))?;
            if is_in_running_set(phase) {
                return Err(faulted(fault::ALREADY_STARTED, name));
            }
        }
        Wish::Stop if !is_in_running_set(phase) => return Err(faulted(fault::NOT_RUNNING, name)),
        Wish::Stop => {}
    }
    Ok(())
}

fn begin(asked: &mut Asked<'_>, id: ProcessId, wish: Wish, shown: &str) -> Item {
    let old = asked.host.supervisor().process(id).and_then(Process::run);
    asked.host.feed(match wish {
        Wish::Start => Event::Start(id),
        Wish::Stop => Event::Stop(id),
    });
    // One after the other, so that they are started in this order.
    asked.host.settle();
    let name = asked.name(id).cloned().unwrap_or(Name { group: String::new(), process: String::new() });
    Item::new(id, name, shown.to_owned(), wish, old)
}

/// The states in which supervisord takes a process for one that runs, or will by itself.
pub fn is_in_running_set(phase: Phase) -> bool {
    matches!(phase, Phase::Starting | Phase::Running | Phase::Backoff)
}

/// One element of an array result.
pub fn result(name: &Name, outcome: &Result<(), Fault>) -> Value {
    let (status, description): (i64, String) = match outcome {
        Ok(()) => (fault::SUCCESS.into(), "OK".to_owned()),
        Err(wrong) => (wrong.code.into(), wrong.text.clone()),
    };
    Value::Struct(vec![
        ("name".into(), name.process.as_str().into()),
        ("group".into(), name.group.as_str().into()),
        ("status".into(), status.into()),
        ("description".into(), description.into()),
    ])
}

// -- signals

fn signal_one(asked: &mut Asked<'_>) -> Outcome {
    let name = given!(asked.text(0));
    let (group, process) = split(&name);
    if process.is_none() {
        let ids = given!(asked.group(group).map_err(|_| fail(fault::BAD_NAME, &name)));
        return signal_many(asked, ids, 1);
    }
    let id = given!(asked.process(&name));
    let signal = given!(signal(asked, 1));
    match send_signal(asked, id, signal, &name) {
        Ok(()) => done(true),
        Err(wrong) => Outcome::Done(Err(wrong)),
    }
}

fn signal_group(asked: &mut Asked<'_>) -> Outcome {
    let name = given!(asked.text(0));
    let ids = given!(asked.group(&name));
    signal_many(asked, ids, 1)
}

fn signal_all(asked: &mut Asked<'_>) -> Outcome {
    let ids = asked.all();
    signal_many(asked, ids, 0)
}

fn signal_many(asked: &mut Asked<'_>, ids: Vec<ProcessId>, nth: usize) -> Outcome {
    let signal = signal(asked, nth);
    let mut results = Vec::new();
    for id in ids {
        if !is_signallable(asked.phase(id)) {
            continue;
        }
        let Some(name) = asked.name(id).cloned() else { continue };
        let sent = match &signal {
            Ok(number) => send_signal(asked, id, *number, &shown(&name)),
            Err(_) => Err(faulted(fault::BAD_SIGNAL, &signal_text(asked, nth))),
        };
        results.push(result(&name, &sent));
    }
    done(Value::Array(results))
}

fn signal_text(asked: &Asked<'_>, nth: usize) -> String {
    match asked.params.get(nth) {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.as_int().map(|number| number.to_string()).unwrap_or_default(),
        None => String::new(),
    }
}

fn signal(asked: &Asked<'_>, nth: usize) -> Result<i32, Outcome> {
    let text = signal_text(asked, nth);
    if text.trim() == "0" {
        return Ok(0);
    }
    crate::sys::signal_names::number(text.trim()).ok_or_else(|| fail(fault::BAD_SIGNAL, &text))
}

fn is_signallable(phase: Phase) -> bool {
    matches!(phase, Phase::Starting | Phase::Running | Phase::Stopping)
}

fn send_signal(asked: &mut Asked<'_>, id: ProcessId, signal: i32, shown: &str) -> Result<(), Fault> {
    let run = asked.host.supervisor().process(id).and_then(Process::run);
    match run {
        Some(run) if is_signallable(asked.phase(id)) => {
            asked.host.signal(run, signal).map_err(|why| faulted(fault::FAILED, &socket_unix::reason(&why)))
        }
        _ => Err(faulted(fault::NOT_RUNNING, shown)),
    }
}

// -- the configuration

fn add_group(asked: &mut Asked<'_>) -> Outcome {
    let name = given!(asked.text(0));
    group_done(asked.host.add_group(&name), &name)
}

fn remove_group(asked: &mut Asked<'_>) -> Outcome {
    let name = given!(asked.text(0));
    group_done(asked.host.remove_group(&name), &name)
}

pub(super) fn group_done(result: Result<(), GroupError>, name: &str) -> Outcome {
    match result {
        Ok(()) => done(true),
        Err(GroupError::Unknown) => fail(fault::BAD_NAME, name),
        Err(GroupError::AlreadyAdded) => fail(fault::ALREADY_ADDED, name),
        Err(GroupError::StillRunning) => fail(fault::STILL_RUNNING, name),
    }
}

fn reread(asked: &mut Asked<'_>) -> Outcome {
    asked.host.reread(asked.ticket);
    Outcome::Wait(Waiting::Ticket(asked.ticket))
}

fn restart(asked: &mut Asked<'_>) -> Outcome {
    asked.host.restart(asked.ticket);
    Outcome::Wait(Waiting::Ticket(asked.ticket))
}

fn shutdown(asked: &mut Asked<'_>) -> Outcome {
    asked.host.shutdown();
    done(true)
}

// -- logs

/// The log of a process and channel, if it has a file.
pub fn log_of(process: &Process, stderr: bool) -> Option<PathBuf> {
    let log = &process.spec().log;
    let spec = if stderr { log.stderr.as_deref() } else { Some(log) };
    spec.and_then(LogSpec::file).map(std::path::Path::to_owned)
}

fn read_main(asked: &mut Asked<'_>) -> Outcome {
    let (offset, length) = (given!(asked.int(0)), given!(asked.int(1)));
    match asked.host.main_log() {
        Some(path) => fetch(asked, path, offset, length, false),
        None => fail(fault::NO_FILE, ""),
    }
}

fn read(asked: &mut Asked<'_>, stderr: bool) -> Outcome {
    let name = given!(asked.text(0));
    let id = given!(asked.process(&name));
    let (offset, length) = (given!(asked.int(1)), given!(asked.int(2)));
    let path = asked.host.supervisor().process(id).and_then(|process| log_of(process, stderr));
    match path {
        Some(path) => fetch(asked, path, offset, length, false),
        None => fail(fault::NO_FILE, ""),
    }
}

fn tail(asked: &mut Asked<'_>, stderr: bool) -> Outcome {
    let name = given!(asked.text(0));
    let id = given!(asked.process(&name));
    let (offset, length) = (given!(asked.int(1)), given!(asked.int(2)));
    let path = asked.host.supervisor().process(id).and_then(|process| log_of(process, stderr));
    match path {
        Some(path) => fetch(asked, path, offset, length, true),
        None => done(Value::Array(vec!["".into(), 0.into(), false.into()])),
    }
}

fn fetch(asked: &mut Asked<'_>, path: PathBuf, offset: i64, length: i64, is_tail: bool) -> Outcome {
    if !is_tail && (length < 0 || (offset < 0 && length != 0)) {
        return fail(fault::BAD_ARGUMENTS, "");
    }
    asked.host.fetch(asked.ticket, LogPiece { path, offset, length, is_tail });
    Outcome::Wait(Waiting::Fetch { ticket: asked.ticket, is_tail })
}

fn clear_main(asked: &mut Asked<'_>) -> Outcome {
    if asked.host.main_log().is_none() {
        return fail(fault::NO_FILE, "");
    }
    asked.host.clear_logs(&[], true, asked.ticket);
    Outcome::Wait(Waiting::Ticket(asked.ticket))
}

fn clear_one(asked: &mut Asked<'_>) -> Outcome {
    let name = given!(asked.text(0));
    let id = given!(asked.process(&name));
    asked.host.clear_logs(&[id], false, asked.ticket);
    Outcome::Wait(Waiting::Ticket(asked.ticket))
}

fn clear_all(asked: &mut Asked<'_>) -> Outcome {
    let ids = asked.all();
    let names: Vec<Name> = ids.iter().filter_map(|id| asked.name(*id).cloned()).collect();
    asked.host.clear_logs(&ids, false, asked.ticket);
    Outcome::Wait(Waiting::Cleared { ticket: asked.ticket, names })
}

// -- talking to programs

fn send_stdin(asked: &mut Asked<'_>) -> Outcome {
    let name = given!(asked.text(0));
    let text = match asked.params.get(1) {
        Some(Value::String(text)) => text.clone(),
        other => {
            let shown = other.and_then(Value::as_int).map(|number| number.to_string()).unwrap_or_default();
            return fail(fault::INCORRECT_PARAMETERS, &shown);
        }
    };
    let id = given!(asked.process(&name));
    if asked.host.supervisor().process(id).and_then(Process::run).is_none() {
        return fail(fault::NOT_RUNNING, &name);
    }
    match asked.host.send_stdin(id, text.as_bytes()) {
        Ok(()) => done(true),
        Err(why) if why.kind() == std::io::ErrorKind::StorageFull => {
            fail(fault::FAILED, "it has not read what was sent to it before")
        }
        Err(_) => fail(fault::NO_FILE, &name),
    }
}

fn remote_event(asked: &mut Asked<'_>) -> Outcome {
    let text = |value: Option<&Value>| match value {
        Some(Value::String(text)) => Some(text.clone()),
        Some(value) => value.as_int().map(|number| number.to_string()),
        None => None,
    };
    let (Some(kind), Some(data)) = (text(asked.params.first()), text(asked.params.get(1))) else {
        return fail(fault::INCORRECT_PARAMETERS, "");
    };
    asked.host.remote_event(&kind, &data);
    done(true)
}
