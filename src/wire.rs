//! The JSON shapes that both ends of the control socket use. Documented in hob-api(7).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One process, as `GET /v1/processes` lists it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// As shown to a person: `www:hello`, or `www` when group and process are the same word.
    pub name: String,
    pub group: String,
    pub process: String,
    /// supervisord's state name and number.
    pub state: String,
    pub statecode: u32,
    pub pid: Option<i32>,
    /// Unix time, in seconds, of the last change of state.
    pub since: f64,
    /// Seconds since the current run began; absent when nothing runs.
    pub uptime: Option<f64>,
    /// Runs after the first one.
    pub restarts: u64,
    /// False while a running process has not said it is ready, drains, or fails its health probe.
    pub ready: bool,
    pub last_exit: Option<LastExit>,
    /// Seconds until the next try, in BACKOFF.
    pub next_try: Option<f64>,
    /// Why it is in this state, in words.
    pub why: String,
    /// Names of the processes it waits for before it starts or stops.
    pub waits_for: Vec<String>,
    /// What a stop could not end: `4711 (helper)`.
    pub survivors: Vec<String>,
    pub logfile: String,
    pub stderr_logfile: Option<String>,
    pub command: String,
    /// Whether it starts by itself: false as its configuration says, or because it was disabled.
    #[serde(default = "yes")]
    pub autostart: bool,
    /// A trouble that does not stop it: a log that cannot be written, a limit that could not be set.
    pub troubles: Vec<String>,
}

fn yes() -> bool {
    true
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastExit {
    /// `exited with code 1`, `killed by SIGKILL (9), out of memory`, `cannot exec: no such file or directory`.
    pub text: String,
    pub code: Option<u8>,
    pub signal: Option<i32>,
    pub oom: bool,
    /// The step of the start that failed, and its errno.
    pub stage: Option<String>,
    pub errno: Option<i32>,
    /// Unix time in seconds.
    pub at: f64,
}

/// `GET /v1/instances`: what runs where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    pub name: String,
    pub service: String,
    pub number: u32,
    pub home: String,
    pub code: String,
    pub log_dir: String,
    pub ports: Vec<Port>,
    pub user: Option<String>,
    pub processes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Port {
    pub name: String,
    pub protocol: String,
    /// What the instance itself listens on.
    pub port: u16,
    /// `http://127.0.0.1:42800/`, `tcp://127.0.0.1:42801`: the instance itself.
    pub url: String,
    /// Which of several instances answers at the public port: `first`, `balance` or `failover`.
    pub mode: String,
    /// What clients of the service connect to: the load balancer, or the instance itself. Null for an instance that is
    /// not reached that way.
    pub public_port: Option<u16>,
    pub public_url: Option<String>,
    /// Whether that is the load balancer.
    pub balanced: bool,
}

/// `GET /v1/instances/NAME/environment`: for `hob run`. Only for root and hob's own user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    pub home: String,
    pub profile: Option<String>,
    /// Directories that are seen at other paths inside, the home among them.
    pub binds: Vec<crate::plan::Bind>,
    pub user: Option<crate::plan::Identity>,
    pub variables: BTreeMap<String, String>,
}

/// `GET /v1/info`: the daemon itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Info {
    pub version: String,
    pub pid: i32,
    /// `starting`, `postinstall`, `running`, `stopping`.
    pub state: String,
    pub uptime: f64,
    /// How often it has become another binary since it was started. A hob that cannot do that does not tell.
    #[serde(default)]
    pub upgrades: u32,
    pub log_dir: String,
    pub state_dir: String,
    /// `deployed`, `home` or `supervisord`: what the plan comes from.
    pub source: String,
    pub socket: String,
    pub config: Vec<String>,
}

/// One line of `GET /v1/events`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Unix time in seconds.
    pub time: f64,
    pub name: String,
    pub from: String,
    pub to: String,
    pub why: String,
    pub pid: Option<i32>,
    pub exit: Option<LastExit>,
}

/// The answer to start, stop, restart and signal: one entry for each process that was named.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub name: String,
    pub ok: bool,
    pub state: String,
    /// `started`, `already stopped`, `FATAL: cannot exec ~/missing: no such file or directory`.
    pub message: String,
}

/// Any answer with a status of 400 or more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// What could not be done, to what, why, and what to try.
    pub error: String,
    /// Every error, where there may be several (a configuration that was refused).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

/// What start, stop, restart and signal are asked with; every field may be left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Act {
    /// Any form a person may type: `hello`, `www:hello`, `www.0`, `all`. Empty where the path names the process.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Answer when it is done, instead of at once.
    pub wait: bool,
    /// Seconds to wait at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<f64>,
    /// `HUP`, `SIGHUP` or `1`; for signal alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
}

impl Default for Act {
    fn default() -> Act {
        Act { names: Vec::new(), wait: true, timeout: None, signal: None }
    }
}

/// What reload is asked with, if it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reload {
    /// True: read what was deployed from now on. False: read the home that hob was booted with. A deployment says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployed: Option<bool>,
}

/// The answer to reload, upgrade and shutdown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    pub message: String,
}

/// `GET /v1/health`: 200 when `ok`, else 503.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Health {
    pub ok: bool,
    /// Each process that should run and be ready but is not, with the reason.
    pub problems: Vec<String>,
}

/// One line of `GET /v1/logs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// The process, or the file in the log directory.
    pub name: String,
    /// Without its newline; bytes that are not UTF-8 are replaced.
    pub line: String,
}
