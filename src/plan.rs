//! What is to run: the checked, complete description that every config format becomes.
//!
//! Plain data. Names are resolved, users are numbers, paths are absolute, variables that hob itself
//! expands are expanded, so nothing here needs a file or a look-up again. `config` makes a plan,
//! `supervisor` decides by it, `daemon` and `logger` carry it out.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Everything that is to run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The running copies of services, in the order of the file.
    pub instances: Vec<Instance>,
    /// The processes of all instances, in the order of the file. Names are unique and `after` has no cycle.
    pub specs: Vec<Spec>,
    pub exit_when: ExitWhen,
    /// Signals (by number) to pass on to processes when hob gets them: signal to process ids (`group:process`).
    pub relay_signals: BTreeMap<i32, Vec<String>>,
    /// Set when the plan comes from a supervisord.conf: hob then keeps supervisord's rules.
    pub supervisord: Option<Box<Supervisord>>,
}

/// What a supervisord.conf says beside its processes. There are no instances then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Supervisord {
    pub identifier: String,
    /// By priority, then by name. The specs of the plan come in the same order, those of one group together.
    pub groups: Vec<Group>,
    /// The environment of every process, before it adds its own.
    pub env: BTreeMap<String, String>,
    pub servers: Vec<Server>,
    /// Where automatic logs are made.
    pub childlogdir: PathBuf,
    /// Nothing names the standard `[rpcinterface:x]`: the methods `supervisor.*` do not exist.
    #[serde(default)]
    pub lacks_interface: bool,
    /// What else of `[supervisord]` a restart takes over.
    #[serde(default)]
    pub main: Option<Box<MainSettings>>,
}

/// Of supervisord itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MainSettings {
    pub log: LogSpec,
    /// As `log::LevelFilter` names it.
    pub loglevel: String,
    pub pidfile: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    pub name: String,
    pub priority: i32,
    /// Its processes are event listeners.
    pub pool: Option<Pool>,
}

/// What an event listener subscribes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Names of events; a general one means all below it.
    pub events: Vec<String>,
    /// Events that wait at most.
    pub buffer_size: usize,
    /// `len:` counts characters, as supervisord under Python 3 does, and not bytes, as its manual says.
    #[serde(default)]
    pub counts_characters: bool,
}

/// What only a supervisord.conf says about a process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// The order within its group when a person starts several.
    pub priority: i32,
    /// Why the command line cannot be split into words.
    pub unparsable: Option<String>,
    /// As written: `none` is for the configuration report.
    pub directory: Option<String>,
    pub serverurl: Option<String>,
    pub redirect_stderr: bool,
    /// Descriptor 0 is this listening socket, shared with the other processes of the section.
    pub socket: Option<Socket>,
}

/// The socket of an `[fcgi-program:x]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    pub url: String,
    pub address: Address,
    pub backlog: Option<u32>,
}

/// Something that clients of the daemon connect to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// What it is called in the configuration, for messages.
    pub name: String,
    pub address: Address,
    /// Without one, whoever can connect is let in.
    pub login: Option<Login>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Address {
    Unix {
        path: PathBuf,
        mode: u32,
        /// uid and gid of the file, where they are not our own.
        owner: Option<u32>,
        group: Option<u32>,
    },
    /// An empty host is every address of the machine.
    Inet { host: String, port: u16 },
}

/// User and password of HTTP Basic authentication. The password is plain, `{SHA}` and the hexadecimal SHA-1, or
/// `{SHA256}` and the hexadecimal SHA-256 of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    pub username: String,
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({})", self.username)
    }
}

/// One running copy of a service: `www` while there is one, `www.0`, `www.1`, ... when scaled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Also the group of its processes in supervisord's sense.
    pub name: String,
    pub service: String,
    pub number: u32,
    /// As its processes see it.
    pub home: PathBuf,
    /// The pushed tree: the directory that holds the dotcloud.yml.
    pub code: PathBuf,
    pub log_dir: PathBuf,
    /// What its processes see at other paths than where it lies: the home and the log directory of a deployed instance.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub binds: Vec<Bind>,
    pub ports: Vec<Port>,
    /// The complete run environment of the instance, before a process adds its own.
    pub env: BTreeMap<String, String>,
    pub user: Option<Identity>,
}

impl Port {
    /// Where clients of the service reach it; nothing if they do not reach this one.
    pub fn public(&self, instance: u32) -> Option<u16> {
        match (self.front, self.mode) {
            (None, Mode::First) if instance > 0 => None,
            (front, _) => Some(front.unwrap_or(self.number)),
        }
    }

    /// `http://127.0.0.1:42800/`, `tcp://127.0.0.1:42801`.
    pub fn url(&self, number: u16) -> String {
        match self.protocol {
            Protocol::Http => format!("http://127.0.0.1:{number}/"),
            Protocol::Tcp => format!("tcp://127.0.0.1:{number}"),
            Protocol::Udp => format!("udp://127.0.0.1:{number}"),
        }
    }
}

/// A directory that is seen at another path, in a mount namespace of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    pub from: PathBuf,
    pub to: PathBuf,
}

impl Instance {
    /// Where its home lies for everybody else.
    pub fn real_home(&self) -> &Path {
        self.binds.iter().find(|bind| bind.to == self.home).map_or(&self.home, |bind| &bind.from)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    pub name: String,
    pub protocol: Protocol,
    #[serde(default)]
    pub mode: Mode,
    /// What the instance itself listens on: `PORT_<NAME>`.
    pub number: u16,
    /// What the load balancer listens on for it, where one stands in front.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub front: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Http,
    Tcp,
    Udp,
}

/// Which of several instances answers at the public port of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Instance 0.
    #[default]
    First,
    /// All of them in turn.
    Balance,
    /// One, and another as soon as that one is down.
    Failover,
}

/// A user with everything that becoming it needs; looked up once, when the plan is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// All supplementary groups, the primary one included.
    pub groups: Vec<u32>,
    pub home: PathBuf,
    pub shell: PathBuf,
}

/// The name of a process. Shown as `group:process`, or as one word when both are the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Name {
    pub group: String,
    pub process: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group == self.process { f.write_str(&self.group) } else { write!(f, "{}:{}", self.group, self.process) }
    }
}

/// One process: the unit that is started, stopped and logged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    pub name: Name,
    pub command: Command,
    pub directory: PathBuf,
    /// What differs from the environment of its instance: with 1,000 processes the rest is not kept 1,000 times.
    pub env: BTreeMap<String, String>,
    /// Sourced by a shell first, if it exists at the moment of the start.
    pub profile: Option<PathBuf>,
    pub user: Option<Identity>,
    pub umask: Option<u32>,
    pub limits: Limits,
    pub priority: i32,
    pub autostart: bool,
    /// Names (as displayed) of those that must be ready before this one starts, and that stop after it.
    pub after: Vec<Name>,
    pub restart: Restart,
    pub stop: Stop,
    pub ready: Option<Ready>,
    pub health: Option<Health>,
    /// Resident bytes of it and of all below it; with more it is restarted.
    #[serde(default)]
    pub memory_limit: Option<u64>,
    /// The daemonized server's pid file: the command is run under the built-in pidproxy.
    pub pidfile: Option<PathBuf>,
    pub log: LogSpec,
    pub program: Option<Box<Program>>,
    /// hob itself has added it, to serve the others: `exit_when` does not look at it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_helper: bool,
}

/// A command line as it was written, and what was understood of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    pub line: String,
    pub kind: CommandKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandKind {
    /// Nothing in it needs a shell: these are its words, a leading `~/` already made absolute.
    /// Still started by a shell if there is a profile to source.
    Words(Vec<String>),
    /// A simple command (no operators, no builtin, no leading assignment) with something for a shell to
    /// expand: the shell expands it and the program takes the shell's place, so that the pid is its own.
    Simple,
    /// Anything else: runs in the shell, as written.
    Script,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// RLIMIT_NOFILE, soft and hard.
    pub nofile: Option<u64>,
    /// -20 to 19.
    pub nice: Option<i32>,
    /// -1000 to 1000.
    pub oom_score_adj: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Autorestart {
    Always,
    Never,
    /// Only after an exit code that is not among the expected ones, or a signal.
    Unexpected,
}

/// When a process that has ended is started again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    pub autorestart: Autorestart,
    pub exitcodes: Vec<u8>,
    /// How long a process must live for its start to count as good.
    pub startsecs: Duration,
    /// How many more tries follow a first one that failed; `None` never gives up.
    pub startretries: Option<u32>,
    /// The first wait after a death within `startsecs`; grows up to `delay_max`.
    pub delay: Duration,
    pub delay_max: Duration,
    #[serde(default)]
    pub backoff: Backoff,
    /// Runs to its end once; what is `after` it waits for a good exit.
    pub oneshot: bool,
}

/// How the waits grow, and with it whose rules hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backoff {
    /// By twice, with a little chance.
    #[default]
    Doubling,
    /// supervisord's: the n-th wait is n times `delay`, exactly. Every end within `startsecs` is a failed start, whatever
    /// its code, and so is a program that is not there.
    Linear,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// A signal number.
    pub signal: i32,
    /// Between the stop signal and SIGKILL.
    pub wait: Duration,
    /// How long a process is not ready before it gets its stop signal.
    pub drain: Duration,
    #[serde(default)]
    pub reach: Reach,
}

/// Whom the signals of a stop reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// The process group, and afterwards whatever is left of it anywhere.
    #[default]
    Everything,
    /// supervisord's: the child alone, or its process group where that is said. What is left is left.
    Child { stop_group: bool, kill_group: bool },
}

/// How a process tells that it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    pub by: ReadyBy,
    /// A start that takes longer has failed: the run is stopped and counts as an early death.
    pub within: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadyBy {
    /// READY=1 on NOTIFY_SOCKET (sd_notify(3)).
    Notify,
    Probe(Probe),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub probe: Probe,
    pub every: Duration,
    /// So many failures in a row mean a restart.
    pub failures: u32,
}

/// One question to a process; asked in a process of its own, see `crate::probe`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub ask: Ask,
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ask {
    /// Any answer below 500 counts. `http://host:port/path` or `unix:/path/to.sock:/path`.
    Http(String),
    /// `host:port`; a connection that is accepted counts.
    Tcp(String),
    /// A command line run by a shell with the process's user, environment and directory; status 0 counts.
    Exec(String),
}

/// Where the output of a process goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpec {
    /// Empty: it is read and kept nowhere.
    pub path: PathBuf,
    /// For stderr, where it is apart; otherwise both go to `path`, in order.
    pub stderr: Option<Box<LogSpec>>,
    /// Bytes in one file; 0 never rotates.
    pub max_bytes: u64,
    /// Rotated files kept: `path.1` is the newest.
    pub backups: u32,
    /// Bytes in all files of this log together; 0 is no cap.
    pub max_total: u64,
    /// Rotated files older than this are deleted.
    pub max_age: Option<Duration>,
    /// Each line has the time in front.
    pub timestamps: bool,
    /// Each line has the name of the process in front.
    #[serde(default)]
    pub prefix: bool,
    /// Each line becomes a JSON object, which has time and name anyway.
    #[serde(default)]
    pub json: bool,
    /// What becomes of rotated files.
    #[serde(default)]
    pub compress: Compress,
    pub on_full: OnFull,
    /// Copied to hob's own stdout with a `name | ` prefix.
    pub console: bool,
    /// uid and gid that own the files.
    pub owner: Option<(u32, u32)>,
    pub extras: Option<Box<LogExtras>>,
}

impl LogSpec {
    /// The file, if there is one.
    pub fn file(&self) -> Option<&std::path::Path> {
        (!self.path.as_os_str().is_empty()).then_some(&self.path)
    }
}

/// What only a supervisord.conf says about a log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogExtras {
    /// The path is made up when the process is added, and nobody but hob's user may read the file.
    pub auto: bool,
    /// What stands between the two tags leaves the log and becomes an event, of so many bytes at most. 0: never.
    pub capture: u64,
    /// Everything becomes an event, too.
    pub events: bool,
    /// Everything goes to syslog, too.
    pub syslog: bool,
    /// Colours and other escape sequences are taken out.
    pub strip_ansi: bool,
    /// Everything goes to the main log, too.
    pub echo: bool,
}

/// How rotated log files are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compress {
    /// As they are.
    #[default]
    None,
    Gzip,
    Zstd,
}

/// What to do with output that the disk does not take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// The program waits.
    #[default]
    Block,
    DropOldest,
    DropNewest,
}

/// When hob itself ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitWhen {
    #[default]
    Never,
    AnyFatal,
    AllExited,
}
