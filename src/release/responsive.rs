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

/// Whether the dotcloud.yml says which ports there are. The one that every service has otherwise may be unused.
pub fn declares_ports(service: &Service) -> bool {
    service.raw.iter().any(|(key, _)| key.text == "ports")
}

/// Until every process runs and is ready, and the ports accept connections; otherwise why not. A process that has
/// something else to be ready by is believed.
pub fn wait_until_responsive(
    site: &Site<'_>,
    instance: &Instance,
    specs: &[&Spec],
    with_ports: bool,
) -> Result<(), Refused> {
    let until = since_boot() + site.settings.responsive_timeout;
    let asks_itself = specs.iter().any(|spec| spec.ready.is_some());
    let mut ports: Vec<u16> = Vec::new();
    if with_ports && !asks_itself {
        ports.extend(instance.ports.iter().filter(|port| port.protocol != Protocol::Udp).map(|port| port.number));
    }
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
                return Ok(());
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
const LOOK_EVERY: Duration = Duration::from_millis(25);
const CONNECT_WITHIN: Duration = Duration::from_millis(500);
