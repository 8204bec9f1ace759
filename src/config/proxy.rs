//! The load balancer in front of a service: which ports it stands in front of, how HAProxy is started, and what its
//! configuration says. How a running one is brought to follow is in `release::proxy`.
//!
//! The configuration has two parts that change differently. Which ports and instances there are is its structure,
//! named by a tag in its description, and needs a reload. Whether an instance is passed over at the moment is a state,
//! which a running HAProxy takes without one; the word `disabled` in the file is for the next that starts.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::assemble;
use super::buildfile::PortDecl;
use super::environ::Env;
use super::options::ProcessOptions;
use super::settings::Settings;
use super::users::Users;
use crate::plan::{Autorestart, Command, CommandKind, Limits, Mode, Name, Plan, Protocol, Reach, Restart, Spec, Stop};
use crate::sys::limits;

/// `proxy` in hob.toml.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum When {
    /// In front of services with several instances.
    #[default]
    Auto,
    /// Also with one: requests then wait while it is replaced.
    Always,
    Never,
}

/// Whether a port is one for the load balancer, given that there is one.
pub fn is_for(when: When, port: &PortDecl, instances: u32) -> bool {
    let several = match when {
        When::Auto => instances > 1,
        When::Always => true,
        When::Never => false,
    };
    several && port.mode != Mode::First && port.protocol != Protocol::Udp
}

/// HAProxy itself, or why there is none.
pub fn program(settings: &Settings, own: &Env) -> Result<PathBuf, String> {
    if Places::of(settings).longest() > SOCKET_PATH {
        return Err(format!("the path of {} is too long for HAProxy's sockets", settings.state_dir.display()));
    }
    let is_program = |path: &Path| path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    if let Some(given) = &settings.haproxy {
        return match is_program(given) {
            true => Ok(given.clone()),
            false => Err(format!("{} is no program (haproxy in hob.toml)", given.display())),
        };
    }
    let path = own.get("PATH").map_or("", String::as_str);
    let folders = path.split(':').chain(["/usr/local/sbin", "/usr/sbin", "/sbin"]);
    let found = folders.filter(|folder| folder.starts_with('/')).map(|folder| Path::new(folder).join("haproxy"));
    found.into_iter().find(|path| is_program(path)).ok_or_else(|| "HAProxy is not installed".to_owned())
}

/// Where it has what. Only its own user gets in.
#[derive(Clone, Debug)]
pub struct Places {
    pub dir: PathBuf,
    pub file: PathBuf,
    /// Commands to the master process: reload, and to whom a worker that ends still serves.
    pub master: PathBuf,
    /// Commands to the worker process.
    pub worker: PathBuf,
}

impl Places {
    pub fn of(settings: &Settings) -> Places {
        let dir = settings.state_dir.join("haproxy");
        let at = |name: &str| dir.join(name);
        Places { file: at("haproxy.cfg"), master: at("master"), worker: at("worker"), dir }
    }

    fn longest(&self) -> usize {
        self.master.as_os_str().len().max(self.worker.as_os_str().len())
    }
}

/// The name it has among the processes. No service can have the second one.
pub fn name(plan: &Plan) -> &'static str {
    if plan.instances.iter().any(|i| i.service == "haproxy") { "hob-haproxy" } else { "haproxy" }
}

/// Adds HAProxy to a plan in which ports have it in front of them.
pub fn add_to(plan: &mut Plan, settings: &Settings, own: &Env) {
    let is_wanted = plan.instances.iter().any(|i| i.ports.iter().any(|port| port.front.is_some()));
    let Some(program) = is_wanted.then(|| program(settings, own).ok()).flatten() else { return };
    let places = Places::of(settings);
    let text = |path: &Path| path.to_string_lossy().into_owned();
    // Master and worker, in the foreground: the master stays the same process over every reload.
    let words = vec![
        text(&program),
        "-W".to_owned(),
        "-S".to_owned(),
        format!("{},mode,600", text(&places.master)),
        "-f".to_owned(),
        text(&places.file),
    ];
    let name = name(plan).to_owned();
    // Both layers were checked when they were read.
    let (options, _) = ProcessOptions::layered(&[settings.defaults.as_ref()]);
    plan.specs.push(Spec {
        command: Command { line: words.join(" "), kind: CommandKind::Words(words) },
        directory: PathBuf::from("/"),
        env: [("PATH".to_owned(), own.get("PATH").cloned().unwrap_or_default())].into(),
        profile: None,
        user: None,
        umask: Some(0o077),
        memory_limit: None,
        limits: Limits { nofile: Some(descriptors()), ..Limits::default() },
        // It is the last to start and the first that is told to stop.
        priority: 1000,
        autostart: true,
        after: Vec::new(),
        // Whatever is usual for the others.
        restart: Restart { autorestart: Autorestart::Always, startretries: None, ..assemble::restart(&options) },
        // Requests under way get an answer.
        stop: Stop { signal: libc::SIGUSR1, wait: STOP_WITHIN, drain: Duration::ZERO, reach: Reach::Everything },
        program: None,
        is_helper: true,
        ready: None,
        health: None,
        pidfile: None,
        log: assemble::log(settings, &options, &settings.log_dir, &name, None),
        name: Name { group: name.clone(), process: name },
    });
}

/// Every connection takes two, and so does every place for one in HAProxy's tables, used or not.
fn descriptors() -> u64 {
    limits::nofile().map_or(NOFILE, |(_, hard)| hard.min(NOFILE))
}

/// One public port and who answers there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Front {
    /// `www.http`: service and port, in characters that HAProxy takes.
    pub name: String,
    pub number: u16,
    pub protocol: Protocol,
    pub mode: Mode,
    pub servers: Vec<Server>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `www.0`.
    pub name: String,
    pub number: u16,
    /// It is about to end, or does not serve yet.
    pub is_out: bool,
}

impl Front {
    /// A single instance never is: whoever comes meanwhile waits until it is back.
    pub fn passes_over(&self, server: &Server) -> bool {
        server.is_out && self.servers.len() > 1
    }
}

/// The public ports of a plan. `out` has those that are passed over: `www.0`. A port that an instance listens on itself
/// is not there: it is still to go, or has come.
pub fn fronts(plan: &Plan, out: &BTreeSet<String>) -> Vec<Front> {
    let mut fronts: Vec<Front> = Vec::new();
    let direct = |number: u16| {
        let is_it = |port: &crate::plan::Port| port.front.is_none() && port.number == number;
        plan.instances.iter().any(|i| i.ports.iter().any(is_it))
    };
    for instance in &plan.instances {
        for port in &instance.ports {
            let Some(number) = port.front.filter(|number| !direct(*number)) else { continue };
            let name = format!("{}.{}", instance.service, word(&port.name));
            let server = format!("{}.{}", instance.service, instance.number);
            let server = Server { is_out: out.contains(&server), name: server, number: port.number };
            match fronts.iter_mut().find(|front| front.name == name) {
                Some(front) => {
                    front.servers.push(server);
                    // While one release follows another, the newer one is the last that is there.
                    (front.number, front.protocol, front.mode) = (number, port.protocol, port.mode);
                }
                None => {
                    let (protocol, mode) = (port.protocol, port.mode);
                    fronts.push(Front { name, number, protocol, mode, servers: vec![server] });
                }
            }
        }
    }
    for front in &mut fronts {
        // In failover the first that is up serves.
        front.servers.sort_by_key(|server| server.name.rsplit('.').next().and_then(|n| n.parse::<u32>().ok()));
    }
    fronts
}

/// No two ports of a service differ only in what is replaced: their variables would be the same.
fn word(port: &str) -> String {
    port.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

/// What HAProxy is told, and the tag of its structure.
pub fn configuration(fronts: &[Front], settings: &Settings, users: &mut Users) -> (String, String) {
    let worker = settings.root.then(|| users.find("haproxy").or_else(|_| users.find("nobody")).ok()).flatten();
    // A root of its own name space may be the only user there.
    let worker = worker.filter(|worker| is_mapped(worker.uid, "uid_map") && is_mapped(worker.gid, "gid_map"));
    let rest = |states: bool| {
        let mut text = String::new();
        let places = Places::of(settings);
        let _ = writeln!(text, "    stats socket {} mode 600 level admin expose-fd listeners", quoted(&places.worker));
        if let Some(worker) = &worker {
            let _ = writeln!(text, "    uid {}\n    gid {}", worker.uid, worker.gid);
        }
        text += DEFAULTS;
        for front in fronts {
            listen(&mut text, front, states);
        }
        text
    };
    let digest = Sha256::digest(rest(false));
    let tag: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let tag = format!("hob-{tag}");
    (format!("{HEAD}    description {tag}\n{}", rest(true)), tag)
}

fn listen(text: &mut String, front: &Front, states: bool) {
    let Front { name, number, protocol, mode, servers } = front;
    let _ = writeln!(text, "\nlisten {name}\n    bind *:{number}");
    // Apart, so that the address of an IPv4 client looks like one.
    if std::fs::read("/proc/net/if_inet6").is_ok_and(|lines| !lines.is_empty()) {
        let _ = writeln!(text, "    bind :::{number} v6only");
    }
    *text += "    balance roundrobin\n";
    *text += if *protocol == Protocol::Http { HTTP } else { TCP };
    match servers.len() {
        1 => *text += PATIENT,
        // One that is down refuses the connection at once, and the next one gets it: nobody has to ask them all the time.
        count => {
            let _ = writeln!(text, "    retries {}\n    option redispatch 1", count.max(3));
        }
    }
    let fails_over = *mode == Mode::Failover && servers.len() > 1;
    for (at, server) in servers.iter().enumerate() {
        let role = match at {
            _ if !fails_over => "",
            0 => FIRST,
            _ => STAND_IN,
        };
        let state = if states && front.passes_over(server) { " disabled" } else { "" };
        let _ = writeln!(text, "    server {} 127.0.0.1:{}{role}{state}", server.name, server.number);
    }
}

/// Whether a number is one in our user name space. user_namespaces(7).
fn is_mapped(id: u32, file: &str) -> bool {
    let Ok(map) = std::fs::read_to_string(format!("/proc/self/{file}")) else { return true };
    map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        matches!(numbers[..], [first, _, count] if (first..first + count).contains(&u64::from(id)))
    })
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', "'\\''"))
}

const HEAD: &str = "\
# Written by hob, and again whenever instances come and go. What it follows is in hob.toml(5) and dotcloud.yml(5).
global
";

const DEFAULTS: &str = "    log stdout format raw daemon err
    hard-stop-after 1h

defaults
    log global
    option dontlognull
    option log-separate-errors
    timeout connect 5s
    timeout check 3s
    timeout queue 60s
    timeout http-request 60s
    timeout http-keep-alive 60s
    timeout tunnel 1d
";

/// A connection that waits for its next request is not closed by a reload. 60 seconds to answer, as on the original
/// platform. Tried again is what could not connect, and nothing else: a request
/// that ends its instance must not come to the next one.
const HTTP: &str = "    mode http
    option idle-close-on-response
    option httplog
    option forwardfor
    timeout client 60s
    timeout server 60s
    http-request set-header X-Forwarded-Proto http unless { req.hdr(X-Forwarded-Proto) -m found }
    http-request set-header X-Forwarded-Port %[dst_port] unless { req.hdr(X-Forwarded-Port) -m found }
";

/// Nobody is there to take over from a single one: for half a minute its requests wait until it is back. Between two
/// tries there is as long as a connection may take.
const PATIENT: &str = "    timeout connect 250ms\n    retries 120\n";

const TCP: &str = "    mode tcp
    option tcplog
    option clitcpka
    option srvtcpka
    timeout client 1d
    timeout server 1d
";

/// In failover the stand-in is for when the first one is known to be down: when a connection to it fails, or a question is
/// not answered.
const FIRST: &str = " check inter 1s fastinter 200ms downinter 500ms fall 2 rise 1 observe layer4 error-limit 1 on-error mark-down on-marked-up shutdown-backup-sessions";
const STAND_IN: &str = " check inter 1s fastinter 200ms downinter 500ms fall 2 rise 1 observe layer4 error-limit 1 on-error mark-down backup";

const NOFILE: u64 = 20_000;
/// Connections that wait for their next request would have all the time in the world.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// sun_path, but for its NUL and for what HAProxy appends while it makes the socket: `.PID.tmp`.
const SOCKET_PATH: usize = 107 - 12;

#[cfg(test)]
mod tests {
    use super::super::settings::{Overrides, settings};
    use super::*;
    use crate::plan::{Instance, Port};

    fn instance(name: &str, service: &str, number: u32, ports: &[(&str, u16, Option<u16>)]) -> Instance {
        let port = |(name, number, front): &(&str, u16, Option<u16>)| Port {
            name: (*name).to_owned(),
            protocol: Protocol::Http,
            mode: Mode::Balance,
            number: *number,
            front: *front,
        };
        Instance {
            name: name.to_owned(),
            service: service.to_owned(),
            number,
            home: PathBuf::from("/h"),
            code: PathBuf::from("/c"),
            log_dir: PathBuf::from("/l"),
            binds: Vec::new(),
            ports: ports.iter().map(port).collect(),
            env: Env::new(),
            user: None,
        }
    }

    fn fixed() -> Settings {
        let env = [("HOME", "/h"), ("HOB_STATE_DIR", "/state dir")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let mut settings = settings(&Overrides::default(), &env.into()).unwrap();
        settings.root = false;
        settings
    }

    #[test]
    fn a_public_port_appears_when_nobody_listens_on_it_directly_any_more() {
        let old = instance("www", "www", 0, &[("a.b", 1, None)]);
        let new = instance("www.1", "www", 1, &[("a.b", 3, Some(1))]);
        let first = instance("www.0", "www", 0, &[("a.b", 2, Some(1))]);
        let none = BTreeSet::new();
        let seen = |instances: &[&Instance], out: &BTreeSet<String>| {
            let plan = Plan { instances: instances.iter().map(|i| (*i).clone()).collect(), ..Plan::default() };
            let line = |s: &Server| format!("{}:{}{}", s.name, s.number, if s.is_out { " out" } else { "" });
            let fronts = fronts(&plan, out);
            fronts.iter().map(|f| (f.name.clone(), f.number, f.servers.iter().map(line).collect())).collect::<Vec<_>>()
        };
        assert_eq!(seen(&[&old, &new], &none), []);
        let both = vec!["www.0:2".to_owned(), "www.1:3".to_owned()];
        assert_eq!(seen(&[&new, &first], &none), [("www.a_b".to_owned(), 1, both)]);
        let out = BTreeSet::from(["www.0".to_owned()]);
        let one = vec!["www.0:2 out".to_owned(), "www.1:3".to_owned()];
        assert_eq!(seen(&[&first, &new], &out), [("www.a_b".to_owned(), 1, one)]);
    }

    #[test]
    fn who_is_passed_over_is_no_part_of_the_structure() {
        let server = |number: u16, is_out| Server { name: format!("www.{number}"), number, is_out };
        let front =
            |servers| Front { name: "www.a".into(), number: 7, protocol: Protocol::Http, mode: Mode::Balance, servers };
        let settings = fixed();
        let of = |servers| configuration(&[front(servers)], &settings, &mut Users::none());
        let (all, tag) = of(vec![server(0, false), server(1, false)]);
        let (less, same) = of(vec![server(0, true), server(1, false)]);
        let (_, other) = of(vec![server(0, false)]);
        assert_eq!((tag == same, tag == other), (true, false));
        assert_eq!(less.replace(" disabled", ""), all);
        assert!(all.contains(&format!("description {tag}\n")) && all.contains("'/state dir/haproxy/worker'"), "{all}");
    }

    #[test]
    fn a_path_that_is_too_long_for_a_socket_is_told_before_haproxy_fails_on_it() {
        let mut settings = fixed();
        settings.haproxy = Some(PathBuf::from("/bin/sh"));
        assert_eq!(program(&settings, &Env::new()), Ok(PathBuf::from("/bin/sh")));
        settings.haproxy = Some(PathBuf::from("/etc/passwd"));
        assert_eq!(program(&settings, &Env::new()), Err("/etc/passwd is no program (haproxy in hob.toml)".to_owned()));
        settings.state_dir = PathBuf::from(format!("/{}", "s".repeat(90)));
        assert!(program(&settings, &Env::new()).is_err_and(|why| why.contains("too long for HAProxy's sockets")));
    }
}
