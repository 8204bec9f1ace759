//! When a new instance serves: its processes run and are ready, and its declared ports accept connections.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::deploy::Site;
use super::prepare::Refused;
use crate::config::Service;
use crate::plan::{Instance, Protocol, Spec};
use crate::sys::clock::since_boot;
use crate::wire::Process;

/// The processes that start by themselves, as the daemon is asked for them.
pub fn automatic(specs: &[&Spec]) -> Vec<String> {
    specs
        .iter()
        .filter(|spec| spec.autostart)
        .map(|spec| format!("{}:{}", spec.name.group, spec.name.process))
        .collect()
}

/// What is known of the ports of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expects {
    Nothing,
    /// The dotcloud.yml declares them.
    Declared,
    /// It says nothing, so that there is one that may be unused; but in the release before somebody listened.
    AsBefore,
}

impl Expects {
    /// `before` is the service in the release before.
    pub fn of(service: &Service, before: &[&Instance]) -> Expects {
        if service.raw.iter().any(|(key, _)| key.text == "ports") {
            return Expects::Declared;
        }
        let has_served = before.iter().flat_map(|instance| listening(instance)).any(accepts);
        if has_served { Expects::AsBefore } else { Expects::Nothing }
    }
}

fn listening(instance: &Instance) -> impl Iterator<Item = u16> {
    instance.ports.iter().filter(|port| port.protocol != Protocol::Udp).map(|port| port.number)
}

/// Until every process runs and is ready, and the ports accept connections; otherwise why not. A process that has
/// something else to be ready by is believed. A port that was only used before is not waited for at length: it is told
/// that nobody listens there.
pub fn wait_until_responsive(
    site: &Site<'_>,
    instance: &Instance,
    specs: &[&Spec],
    expects: Expects,
) -> Result<Option<String>, Refused> {
    let until = since_boot() + site.settings.responsive_timeout;
    let asks_itself = specs.iter().any(|spec| spec.ready.is_some());
    let mut ports: Vec<u16> = Vec::new();
    if expects != Expects::Nothing && !asks_itself {
        ports.extend(listening(instance));
    }
    let mut up_since = None;
    let is_automatic = |p: &Process| specs.iter().any(|spec| spec.autostart && spec.name.process == p.process);
    // A process of that name may have been restarted before, in another release.
    let mut restarts: BTreeMap<String, u64> = BTreeMap::new();
    loop {
        let all = site.link.processes(&instance.name)?;
        let all: Vec<&Process> = all.iter().filter(|p| is_automatic(p)).collect();
        let bad = all.iter().find(|p| {
            let before = *restarts.entry(p.process.clone()).or_insert(p.restarts);
            has_failed(p, p.restarts.saturating_sub(before))
        });
        if let Some(bad) = bad {
            let mut errors = vec![format!("{}: {} {}", bad.name, bad.state, bad.why)];
            errors.extend(last_lines(Path::new(&bad.logfile)));
            return Err(Refused { errors, status: 1 });
        }
        let waits = all.iter().find(|p| !is_up(p));
        if waits.is_none() {
            ports.retain(|port| !accepts(*port));
            if ports.is_empty() {
                return Ok(None);
            }
            let up_since = *up_since.get_or_insert_with(since_boot);
            if expects == Expects::AsBefore && since_boot() >= until.min(up_since + SILENT_FOR) {
                let (name, port) = (&instance.name, ports[0]);
                return Ok(Some(format!(
                    "{name}: nothing accepts connections on port {port}, as in the release before"
                )));
            }
        }
        if since_boot() >= until {
            let limit = site.settings.responsive_timeout.as_secs_f64();
            let mut errors = vec![match waits {
                Some(p) => format!("{}: not ready within {limit} s: {} {}", p.name, p.state, p.why),
                None => {
                    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
                    let ports = ports.join(", ");
                    format!("{}: nothing accepts connections on port {ports} within {limit} s", instance.name)
                }
            }];
            errors.extend(all.iter().take(1).flat_map(|p| last_lines(Path::new(&p.logfile))));
            return Err(Refused { errors, status: 1 });
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn is_up(process: &Process) -> bool {
    match process.state.as_str() {
        "RUNNING" => process.ready,
        // Has run to its end, as it was meant to.
        "EXITED" => true,
        _ => false,
    }
}

/// It has given up, cannot be executed, or has died young again and again.
fn has_failed(process: &Process, restarts: u64) -> bool {
    let died_badly = process.last_exit.as_ref().is_some_and(|exit| exit.code != Some(0));
    match process.state.as_str() {
        "FATAL" => true,
        "EXITED" => died_badly,
        "BACKOFF" => restarts + 1 >= TRIES || process.last_exit.as_ref().is_some_and(|e| e.stage.is_some()),
        _ => false,
    }
}

fn accepts(port: u16) -> bool {
    let at = |ip: std::net::IpAddr| TcpStream::connect_timeout(&SocketAddr::new(ip, port), CONNECT_WITHIN).is_ok();
    at(std::net::Ipv4Addr::LOCALHOST.into()) || at(std::net::Ipv6Addr::LOCALHOST.into())
}

/// The end of a log, indented.
pub fn last_lines(path: &Path) -> Vec<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut text = Vec::new();
    let read = fs::File::open(path).and_then(|mut file| {
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(4 << 10)))?;
        file.take(4 << 10).read_to_end(&mut text)
    });
    if read.is_err() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(5)..].iter().map(|line| format!("  {line}")).collect()
}

/// How many starts in a row may end within `startsecs`.
const TRIES: u64 = 3;
/// For a port that nobody has declared.
const SILENT_FOR: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(25);
const CONNECT_WITHIN: Duration = Duration::from_millis(500);
