//! The commands that talk to the daemon, and how they print. Each returns its exit status (DESIGN §2).

mod http;
mod show;
pub mod supervisorctl;
mod supervisorctl_act;
mod supervisorctl_groups;
mod supervisorctl_logs;
mod supervisorctl_server;
mod supervisorctl_shell;
mod talk;
mod why;

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

pub use self::show::{has_colour, print, table};
pub use self::talk::{Daemon, Failed, escape, reason};
pub use self::why::why;
use crate::sys::proc;
use crate::wire::{Done, Environment, Event, Info, Instance, LogLine, Outcome, Process};

type Answer = Result<i32, Failed>;

/// The table of processes; 3 if one that was named is not running.
pub fn status(daemon: &Daemon, names: &[String], as_json: bool) -> Answer {
    let (processes, same_namespace) = processes(daemon, names)?;
    let usages = if same_namespace { usages(&processes) } else { processes.iter().map(|_| None).collect() };
    if as_json {
        let with_usage = |(process, usage): (_, &Option<Usage>)| WithUsage {
            process,
            cpu_percent: usage.as_ref().map(|u| (u.cpu * 10.0).round() / 10.0),
            memory_bytes: usage.as_ref().map(|u| u.memory),
        };
        let list: Vec<WithUsage<'_>> = processes.iter().zip(&usages).map(with_usage).collect();
        print(&format!("{}\n", serde_json::to_string_pretty(&list).unwrap_or_default()))?;
    } else if processes.is_empty() {
        print(&format!("no processes ({})\n", daemon.get::<Info>("/v1/info")?.state))?;
    } else {
        print(&show::table(&status_rows(&processes, &usages)))?;
    }
    let all_run = processes.iter().all(|p| p.state == "RUNNING");
    Ok(if names.is_empty() || all_run { 0 } else { 3 })
}

/// Those that are named, or all; and whether their pids mean the same to us.
fn processes(daemon: &Daemon, names: &[String]) -> Result<(Vec<Process>, bool), Failed> {
    let ask = |names: &[String]| daemon.get_with_namespace(&format!("/v1/processes{}", query("name", names)));
    let mut parts = names.chunks(NAMES_AT_ONCE);
    let (mut found, same_namespace): (Vec<Process>, bool) = ask(parts.next().unwrap_or_default())?;
    for part in parts {
        let (more, _) = ask(part)?;
        let is_new = |process: &Process| found.iter().all(|known| known.name != process.name);
        let more: Vec<Process> = more.into_iter().filter(is_new).collect();
        found.extend(more);
    }
    Ok((found, same_namespace))
}

/// A request line has 8 KiB at most, and a name some 130 bytes.
const NAMES_AT_ONCE: usize = 50;

fn status_rows(processes: &[Process], usages: &[Option<Usage>]) -> Vec<Vec<String>> {
    let header = ["NAME", "STATE", "PID", "UPTIME", "RESTARTS", "CPU", "MEM", "LAST EXIT"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let dash = || "-".to_owned();
    for (p, usage) in processes.iter().zip(usages) {
        rows.push(vec![
            p.name.clone(),
            show::state(&p.state),
            p.pid.map_or_else(dash, |pid| pid.to_string()),
            p.uptime.map_or_else(dash, show::uptime),
            p.restarts.to_string(),
            usage.as_ref().map_or_else(dash, |u| format!("{:.1}%", u.cpu)),
            usage.as_ref().map_or_else(dash, |u| show::size(u.memory)),
            last_column(p),
        ]);
    }
    rows
}

/// How it ended last; but what keeps it from running, or from running well, says more than that.
fn last_column(p: &Process) -> String {
    let mut text = match (p.state.as_str(), &p.last_exit) {
        ("FATAL" | "BACKOFF", _) => p.why.clone(),
        ("STOPPED", _) if !p.waits_for.is_empty() => format!("waits for {}", p.waits_for.join(", ")),
        ("STOPPING", _) if !p.survivors.is_empty() => format!("cannot be stopped: {}", p.survivors.join(", ")),
        ("RUNNING", None) if !p.ready => "not ready".to_owned(),
        ("RUNNING", Some(exit)) if !p.ready => format!("not ready; {}", exit.text),
        (_, Some(exit)) => exit.text.clone(),
        (_, None) => "-".to_owned(),
    };
    for trouble in &p.troubles {
        text = if text == "-" { trouble.clone() } else { format!("{text}; {trouble}") };
    }
    text
}

struct Usage {
    /// Percent of one processor, over the life of the process.
    cpu: f64,
    /// Resident bytes.
    memory: u64,
}

#[derive(Serialize)]
struct WithUsage<'a> {
    #[serde(flatten)]
    process: &'a Process,
    cpu_percent: Option<f64>,
    memory_bytes: Option<u64>,
}

/// Of each process that runs, as /proc tells it. The kernel takes a few microseconds for each: many are asked for on
/// all processors.
fn usages(processes: &[Process]) -> Vec<Option<Usage>> {
    let share = processes.len().div_ceil(crate::sys::limits::cpus()).max(FEW);
    if processes.len() <= share {
        return usages_of(processes);
    }
    std::thread::scope(|scope| {
        let parts: Vec<_> = processes.chunks(share).map(|part| scope.spawn(|| usages_of(part))).collect();
        parts.into_iter().flat_map(|part| part.join().unwrap_or_default()).collect()
    })
}

/// To read this many takes longer than to start a thread.
const FEW: usize = 64;

fn usages_of(processes: &[Process]) -> Vec<Option<Usage>> {
    let (tick, page) = proc::units();
    let now = crate::sys::clock::since_boot().as_secs_f64();
    let usage = |p: &Process| {
        let stat = proc::stat(p.pid?)?;
        let age = now - stat.started as f64 / tick;
        Some(Usage { cpu: stat.ticks as f64 / tick / age.max(0.01) * 100.0, memory: stat.resident * page })
    };
    processes.iter().map(usage).collect()
}

/// What `start`, `stop`, `restart` and `signal` are asked.
pub struct Act<'a> {
    pub verb: &'a str,
    pub names: &'a [String],
    pub signal: Option<&'a str>,
    pub wait: bool,
    pub timeout: Option<f64>,
    pub json: bool,
}

/// 1 if something could not be done, 3 if there was nobody to get a signal.
pub fn act(daemon: &Daemon, act: &Act<'_>) -> Answer {
    let mut body = json!({ "names": act.names, "wait": act.wait });
    if let Some(signal) = act.signal {
        body["signal"] = json!(signal);
    }
    if let Some(timeout) = act.timeout {
        body["timeout"] = json!(timeout);
    }
    let outcomes: Vec<Outcome> = daemon.ask("POST", &format!("/v1/{}", act.verb), body.to_string().as_bytes())?;
    if act.json {
        print(&format!("{:#}\n", json!(outcomes)))?;
    }
    let mut status = 0;
    for outcome in &outcomes {
        let line = format!("{}: {}", outcome.name, outcome.message);
        match (outcome.ok, act.json) {
            (true, false) => print(&format!("{line}\n"))?,
            (false, false) => tell!("hob: {line}"),
            (_, true) => {}
        }
        let is_up = ["STARTING", "RUNNING", "STOPPING"].contains(&outcome.state.as_str());
        status = match outcome.ok {
            true => status,
            false if act.signal.is_some() && !is_up => status.max(3),
            false => status.max(1),
        };
    }
    Ok(status)
}

/// `width` at a time; the first that does not come back ends it, and the others stay as they are.
pub fn roll(daemon: &Daemon, names: &[String], width: usize, timeout: Option<f64>, json: bool) -> Answer {
    let (processes, _) = processes(daemon, names)?;
    let names: Vec<String> = processes.iter().map(|p| format!("{}:{}", p.group, p.process)).collect();
    for (nth, names) in names.chunks(width).enumerate() {
        let status = act(daemon, &Act { verb: "restart", names, signal: None, wait: true, timeout, json })?;
        if status != 0 {
            let done = processes.len().min((nth + 1).saturating_mul(width));
            let rest: Vec<&str> = processes[done..].iter().map(|p| p.name.as_str()).collect();
            if !rest.is_empty() {
                tell!("hob: not restarted: {}", rest.join(", "));
            }
            return Ok(status);
        }
    }
    Ok(0)
}

/// Whether processes start by themselves, and with `now` whether they run.
pub fn set_enabled(daemon: &Daemon, is_enabled: bool, names: &[String], now: bool, json: bool) -> Answer {
    let verbs = if is_enabled { ["enable", "start"] } else { ["disable", "stop"] };
    let ask = |verb: &str| act(daemon, &Act { verb, names, signal: None, wait: true, timeout: None, json });
    let status = ask(verbs[0])?;
    if now && status == 0 { ask(verbs[1]) } else { Ok(status) }
}

pub fn instances(daemon: &Daemon) -> Result<Vec<Instance>, Failed> {
    daemon.get("/v1/instances")
}

fn named(daemon: &Daemon, name: Option<&str>) -> Result<Vec<Instance>, Failed> {
    match name {
        None => instances(daemon),
        Some(name) => {
            let all = instances(daemon)?;
            let is_meant =
                |i: &&Instance| i.name == name || i.service == name || format!("{}.{}", i.service, i.number) == name;
            let found: Vec<Instance> = all.iter().filter(is_meant).cloned().collect();
            if found.is_empty() {
                let known: Vec<&str> = all.iter().map(|i| i.name.as_str()).collect();
                let known = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
                let message = format!("no service {name:?}; there is {known}");
                return Err(Failed { message, status: 1 });
            }
            Ok(found)
        }
    }
}

/// What runs where.
pub fn info(daemon: &Daemon, service: Option<&str>, as_json: bool) -> Answer {
    let info: Info = daemon.get("/v1/info")?;
    let instances = named(daemon, service)?;
    if as_json {
        print(&format!("{:#}\n", json!({ "hob": info, "instances": instances })))?;
        return Ok(0);
    }
    let mut text = String::new();
    if service.is_none() {
        text += &format!("hob {} pid {}, {}, up {}\n", info.version, info.pid, info.state, show::uptime(info.uptime));
        text += &format!("  logs    {}\n  state   {}\n  socket  {}\n", info.log_dir, info.state_dir, info.socket);
        for file in &info.config {
            text += &format!("  config  {file}\n");
        }
    }
    for i in &instances {
        text += &format!("{}\n  home    {}\n  code    {}\n  logs    {}\n", i.name, i.home, i.code, i.log_dir);
        if let Some(user) = &i.user {
            text += &format!("  user    {user}\n");
        }
        for port in &i.ports {
            let public = port.public_url.as_ref().filter(|_| port.balanced);
            let public = public.map_or_else(String::new, |url| format!(", {} at {url}", port.mode));
            text += &format!("  port    {}: {}{public}\n", port.name, port.url);
        }
        text += &format!("  runs    {}\n", i.processes.join(", "));
    }
    print(&text)?;
    Ok(0)
}

/// `svc: http://...` for each http port.
pub fn url(daemon: &Daemon, service: Option<&str>, as_json: bool) -> Answer {
    let instances = named(daemon, service)?;
    let mut urls: Vec<(String, String)> = Vec::new();
    for i in &instances {
        for port in i.ports.iter().filter(|port| port.protocol == "http") {
            let Some(url) = &port.public_url else { continue };
            let url = (if port.balanced { &i.service } else { &i.name }.clone(), url.clone());
            // Several instances behind one address.
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
    }
    if as_json {
        let list: Vec<_> = urls.iter().map(|(name, url)| json!({ "name": name, "url": url })).collect();
        print(&format!("{:#}\n", json!(list)))?;
    } else {
        print(&urls.iter().map(|(name, url)| format!("{name}: {url}\n")).collect::<String>())?;
    }
    Ok(0)
}

/// Waits until everything that starts by itself serves, then prints the URLs; gives up when the daemon has gone.
pub fn announce(daemon: &Daemon) -> i32 {
    let mut met = false;
    // The first connection may come before the daemon listens.
    for _ in 0..ANNOUNCE_TRIES {
        match daemon.get::<Info>("/v1/info") {
            Err(_) if met => return 1,
            Err(_) => {}
            Ok(info) => {
                met = true;
                let serves = |p: &Process| match p.state.as_str() {
                    "RUNNING" => p.ready,
                    // Not started by itself; one that waits for another will be.
                    "STOPPED" => p.waits_for.is_empty(),
                    state => state == "EXITED",
                };
                let all = || daemon.get::<Vec<Process>>("/v1/processes").is_ok_and(|all| all.iter().all(serves));
                if info.state == "running" && all() {
                    return url(daemon, None, false).unwrap_or(1);
                }
                if info.state == "stopping" {
                    return 1;
                }
            }
        }
        std::thread::sleep(ANNOUNCE_EVERY);
    }
    1
}

const ANNOUNCE_EVERY: std::time::Duration = std::time::Duration::from_millis(100);
/// Ten minutes: what a postinstall may take.
const ANNOUNCE_TRIES: u32 = 6_000;

pub fn ports(daemon: &Daemon, as_json: bool) -> Answer {
    let instances = instances(daemon)?;
    if as_json {
        let ports = |i: &Instance| -> Vec<_> {
            let port = |p: &crate::wire::Port| {
                json!({
                    "instance": i.name, "name": p.name, "protocol": p.protocol, "port": p.port, "url": p.url,
                    "mode": p.mode, "public_port": p.public_port, "public_url": p.public_url, "balanced": p.balanced,
                })
            };
            i.ports.iter().map(port).collect()
        };
        print(&format!("{:#}\n", json!(instances.iter().flat_map(ports).collect::<Vec<_>>())))?;
        return Ok(0);
    }
    let mut rows = vec![["INSTANCE", "NAME", "PROTOCOL", "PORT", "PUBLIC", "VARIABLE"].map(str::to_owned).to_vec()];
    for i in &instances {
        for p in &i.ports {
            let variable = format!("PORT_{}", p.name.to_uppercase());
            let public = p.public_port.map_or_else(|| "-".to_owned(), |number| number.to_string());
            let public = if p.balanced { format!("{public} ({})", p.mode) } else { public };
            rows.push(vec![i.name.clone(), p.name.clone(), p.protocol.clone(), p.port.to_string(), public, variable]);
        }
    }
    print(&show::table(&rows))?;
    Ok(0)
}

/// State changes as JSON lines: recent ones, or from now on.
pub fn events(daemon: &Daemon, follow: bool) -> Answer {
    daemon.stream(&format!("/v1/events?follow={}", u8::from(follow)), |line| {
        // Read and written again, so that what is printed is what is documented.
        match serde_json::from_slice::<Event>(line) {
            Ok(event) => print(&format!("{}\n", json!(event))),
            Err(_) => print(&format!("{}\n", String::from_utf8_lossy(line))),
        }
    })?;
    Ok(0)
}

pub fn reload(daemon: &Daemon) -> Answer {
    let done: serde_json::Value = daemon.ask("POST", "/v1/reload", b"")?;
    print(&format!("reloaded: {}\n", done["message"].as_str().unwrap_or("done")))?;
    Ok(0)
}

/// Waits until the daemon is another program, or has stayed what it was.
pub fn upgrade(daemon: &Daemon) -> Answer {
    let before: Info = daemon.get("/v1/info")?;
    let begun: Done = daemon.ask("POST", "/v1/upgrade", b"")?;
    let give_up_at = Instant::now() + UPGRADED_WITHIN;
    loop {
        // It hears nobody for a moment, and who was connected has to come again.
        match daemon.get::<Info>("/v1/info") {
            Ok(now) if now.upgrades > before.upgrades => break,
            Ok(_) | Err(_) if Instant::now() < give_up_at => std::thread::sleep(Duration::from_millis(5)),
            Ok(_) => {
                let message = "hob is still what it was; what it says on its standard error tells why".to_owned();
                return Err(Failed { message, status: 1 });
            }
            Err(failed) => return Err(failed),
        }
    }
    let processes: Vec<Process> = daemon.get("/v1/processes")?;
    let running = processes.iter().filter(|process| process.pid.is_some()).count();
    print(&format!("{}; {running} processes go on\n", begun.message))?;
    Ok(0)
}

const UPGRADED_WITHIN: Duration = Duration::from_secs(10);

/// Waits until the daemon is gone.
pub fn shutdown(daemon: &Daemon, wait: bool) -> Answer {
    let (before, same_namespace): (Info, bool) = daemon.get_with_namespace("/v1/info")?;
    if !wait {
        return send_shutdown(daemon);
    }
    // Its answer comes when everything has stopped; then it only has to write the last log lines and leave.
    let status = send_shutdown(daemon)?;
    if same_namespace {
        proc::wait_until_gone(before.pid, Duration::from_secs(10));
    }
    Ok(status)
}

fn send_shutdown(daemon: &Daemon) -> Answer {
    match daemon.ask::<serde_json::Value>("POST", "/v1/shutdown", b"") {
        Ok(_) => Ok(0),
        // It may be gone before its answer is read whole.
        Err(failed) if failed.status == 111 => Ok(0),
        Err(failed) => Err(failed),
    }
}

/// Where the log files are: the daemon's word, else what the settings say.
pub fn log_dir(daemon: &Daemon, fallback: &Path) -> std::path::PathBuf {
    daemon.get::<Info>("/v1/info").map_or_else(|_| fallback.to_owned(), |info| info.log_dir.into())
}

/// The files of the named processes, as names that `Tail` understands. What is no process is a file of the
/// application's own: `other` gets its name, and why it is no process.
pub fn log_names(daemon: &Daemon, names: &[String], folder: &Path, other: &mut dyn FnMut(&str, Failed)) -> Vec<String> {
    let mut found = Vec::new();
    for name in names {
        match daemon.get::<Vec<Process>>(&format!("/v1/processes{}", query("name", std::slice::from_ref(name)))) {
            Ok(processes) => found.extend(
                processes
                    .iter()
                    .flat_map(|p| p.stderr_logfile.iter().chain([&p.logfile]))
                    .filter_map(|file| Path::new(file).strip_prefix(folder).ok()?.to_str().map(str::to_owned))
                    .map(|file| file.strip_suffix(".log").unwrap_or(&file).to_owned()),
            ),
            Err(why) => {
                let name = name.strip_suffix(".log").unwrap_or(name);
                other(name, why);
                found.push(name.to_owned());
            }
        }
    }
    found
}

pub fn environment(daemon: &Daemon, instance: &str) -> Result<Environment, Failed> {
    daemon.get(&format!("/v1/instances/{}/environment", escape(instance)))
}

fn query(key: &str, values: &[String]) -> String {
    let pairs: Vec<String> = values.iter().map(|v| format!("{key}={}", escape(v))).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

/// Prints one line of a log with its name.
pub fn log_line(name: &str, line: &[u8], as_json: bool) -> io::Result<()> {
    let line = String::from_utf8_lossy(line);
    match show::has_colour() {
        _ if as_json => print(&format!("{}\n", json!(LogLine { name: name.into(), line: line.into() }))),
        true => print(&format!("\x1b[36m[{name}]\x1b[0m {line}\n")),
        false => print(&format!("[{name}] {line}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::LastExit;

    fn process(name: &str, state: &str) -> Process {
        Process {
            name: name.into(),
            group: "www".into(),
            process: name.into(),
            state: state.into(),
            statecode: 0,
            pid: None,
            since: 0.0,
            uptime: None,
            restarts: 0,
            ready: false,
            last_exit: None,
            next_try: None,
            why: "exited with code 1 after 0.3s, next try in 2.0s (try 2 of 4)".into(),
            waits_for: Vec::new(),
            survivors: Vec::new(),
            logfile: "/l".into(),
            stderr_logfile: None,
            command: "x".into(),
            autostart: true,
            troubles: Vec::new(),
        }
    }

    #[test]
    fn the_table_tells_of_each_process_what_matters_in_its_state() {
        let killed = LastExit {
            text: "killed by SIGKILL (9), out of memory".into(),
            code: None,
            signal: Some(9),
            oom: true,
            stage: None,
            errno: None,
            at: 0.0,
        };
        let processes = [
            Process { pid: Some(4711), uptime: Some(12.0), ready: true, ..process("www:web", "RUNNING") },
            Process {
                pid: Some(12),
                uptime: Some(3.0),
                restarts: 3,
                last_exit: Some(killed),
                ..process("db", "RUNNING")
            },
            process("www:queue", "BACKOFF"),
            Process { waits_for: vec!["db".into()], ..process("www:late", "STOPPED") },
            Process { survivors: vec!["99 (helper)".into()], ..process("www:bad", "STOPPING") },
            Process { troubles: vec!["cannot write /l: disk full".into()], ..process("www:off", "STOPPED") },
        ];
        let mut usages: Vec<Option<Usage>> = processes.iter().map(|_| None).collect();
        usages[0] = Some(Usage { cpu: 0.31, memory: 12_700_000 });
        assert_eq!(
            show::table(&status_rows(&processes, &usages)),
            "\
NAME       STATE     PID   UPTIME   RESTARTS  CPU   MEM    LAST EXIT
www:web    RUNNING   4711  0:00:12  0         0.3%  12.1M  -
db         RUNNING   12    0:00:03  3         -     -      not ready; killed by SIGKILL (9), out of memory
www:queue  BACKOFF   -     -        0         -     -      exited with code 1 after 0.3s, next try in 2.0s (try 2 of 4)
www:late   STOPPED   -     -        0         -     -      waits for db
www:bad    STOPPING  -     -        0         -     -      cannot be stopped: 99 (helper)
www:off    STOPPED   -     -        0         -     -      cannot write /l: disk full
"
        );
    }

    #[test]
    fn a_query_repeats_its_key_and_escapes_its_values() {
        assert_eq!(query("name", &[]), "");
        assert_eq!(query("name", &["www:*".into(), "a&b".into()]), "?name=www%3A%2A&name=a%26b");
    }
}
