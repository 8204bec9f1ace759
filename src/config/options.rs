//! THE option table: every key of dotcloud.yml and hob.toml with its kind, default, meaning and effect.
//!
//! The readers, the error messages, the man pages and `conf/hob.toml` all come from it or are checked against it.
//! To add an option: one entry here, one field in the struct it sets (and in `plan.rs`), and
//! `HOB_REGENERATE=1 cargo test config::manual`, which writes it into the man page and `conf/hob.toml`.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::kinds;
use super::read::{ask, exit_codes, located, names, number, positive, probe, put, scalar, text, tri, variables};
use super::value::{Place, Problem, Problems, Value, quoted};
use super::yaml;
use crate::plan::{Autorestart, Compress, Mode, OnFull};

/// One option of a section whose values are gathered in a `T`.
#[cfg_attr(not(test), expect(dead_code, reason = "the man pages and conf/hob.toml are checked against it"))]
pub struct Opt<T: 'static> {
    pub key: &'static str,
    /// The kind of value, in the words of the man page.
    pub kind: &'static str,
    /// As YAML; empty if there is none.
    pub default: &'static str,
    pub doc: &'static str,
    /// Takes a value over. Messages continue a sentence that begins with the key.
    pub set: fn(&mut T, &Value) -> Result<(), Problems>,
}

/// A value and where it stands, for what can only be checked later.
#[derive(Clone, Debug, PartialEq)]
pub struct At<T> {
    pub value: T,
    pub at: Place,
}

/// Sets every entry of a mapping; unknown keys and wrong values are problems, all of them.
pub fn apply<T>(table: &[Opt<T>], target: &mut T, map: &Value) -> Problems {
    let mut problems = Problems::default();
    let Some(entries) = map.map() else {
        problems.push(Problem::new(&map.at, format!("must be a mapping of options, not a {}", map.type_word())));
        return problems;
    };
    for (key, value) in entries {
        let Some(option) = table.iter().find(|option| option.key == key.text) else {
            let problem = Problem::new(&key.at, format!("unknown option {}", quoted(&key.text)));
            problems.push(problem.did_you_mean(&key.text, table.iter().map(|option| option.key)));
            continue;
        };
        if let Err(wrong) = (option.set)(target, value) {
            problems.0.extend(wrong.0.into_iter().map(|mut problem| {
                problem.message = format!("{} {}", option.key, problem.message);
                problem
            }));
        }
    }
    problems
}

/// A section with nothing but its defaults.
pub fn defaults<T: Default>(table: &[Opt<T>]) -> T {
    let mut target = T::default();
    let file: Arc<str> = Arc::from("built-in defaults");
    for option in table.iter().filter(|option| !option.default.is_empty()) {
        if let Ok(Some(value)) = yaml::parse(&file, option.default.as_bytes()) {
            // A default that its own reader refuses would fail the test below.
            let _ = (option.set)(&mut target, &value);
        }
    }
    target
}

/// What may be said about a process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessOptions {
    pub command: Option<At<String>>,
    pub autostart: bool,
    pub autorestart: Option<Autorestart>,
    pub exitcodes: Vec<u8>,
    pub startsecs: Duration,
    pub startretries: Option<u32>,
    pub restart_delay: Duration,
    pub restart_delay_max: Duration,
    pub oneshot: bool,
    pub stopsignal: i32,
    pub stopwaitsecs: Duration,
    pub drain: Duration,
    pub environment: Vec<(String, String)>,
    pub directory: Option<At<String>>,
    pub user: Option<At<String>>,
    pub umask: Option<u32>,
    pub nofile: Option<u64>,
    pub nice: Option<i32>,
    pub oom_score_adj: Option<i32>,
    pub priority: i32,
    pub after: Vec<At<String>>,
    pub ready: Option<At<ProbeOptions>>,
    pub health: Option<At<ProbeOptions>>,
    pub memory_limit: Option<u64>,
    pub pidfile: Option<At<String>>,
    pub logfile_maxbytes: u64,
    pub logfile_backups: u32,
    pub logfile_max_total: u64,
    pub logfile_max_age: Option<Duration>,
    pub split_stderr: bool,
    pub timestamps: bool,
    pub log_prefix: bool,
    pub log_json: bool,
    pub log_compress: Compress,
    pub on_full: OnFull,
    pub console: Option<bool>,
}

/// What `ready` and `health` say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProbeOptions {
    pub asks: Vec<At<Question>>,
    pub within: Duration,
    pub every: Duration,
    pub failures: u32,
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    Http(String),
    Tcp(String),
    Exec(String),
    Notify,
}

impl ProcessOptions {
    /// The defaults, then those of hob.toml, then the process's own.
    pub fn layered(layers: &[Option<&Value>]) -> (ProcessOptions, Problems) {
        // Read once: there may be thousands of processes.
        static BUILT_IN: OnceLock<ProcessOptions> = OnceLock::new();
        let mut options = BUILT_IN.get_or_init(|| defaults(PROCESS)).clone();
        let mut problems = Problems::default();
        for layer in layers.iter().flatten() {
            problems.0.extend(apply(PROCESS, &mut options, layer).0);
        }
        (options, problems)
    }
}

/// Keys that belong to one process and make no sense under `[defaults]`.
pub const NOT_A_DEFAULT: &[&str] = &["command", "after", "pidfile"];

pub const PROCESS: &[Opt<ProcessOptions>] = &[
    Opt {
        key: "command",
        kind: COMMAND,
        default: "",
        doc: "The command line. Required in a mapping. A leading ~/ is the home of the instance.",
        set: |o, v| put(&mut o.command, Some(located(v)?)),
    },
    Opt {
        key: "autostart",
        kind: BOOLEAN,
        default: "true",
        doc: "Start it when hob starts. Otherwise it waits for a start command.",
        set: |o, v| put(&mut o.autostart, scalar(v, kinds::boolean)?),
    },
    Opt {
        key: "autorestart",
        kind: "true, false or unexpected",
        default: "true",
        doc: "Whether it is started again when it ends: always, never, or only after a signal or an exit code that is \
              not in exitcodes.",
        set: |o, v| put(&mut o.autorestart, Some(scalar(v, kinds::autorestart)?)),
    },
    Opt {
        key: "exitcodes",
        kind: "list of numbers from 0 to 255",
        default: "[0]",
        doc: "The exit codes that are expected, for autorestart: unexpected and for oneshot.",
        set: |o, v| put(&mut o.exitcodes, exit_codes(v)?),
    },
    Opt {
        key: "startsecs",
        kind: DURATION,
        default: "1s",
        doc: "How long it must run for its start to count as good.",
        set: |o, v| put(&mut o.startsecs, scalar(v, kinds::duration)?),
    },
    Opt {
        key: "startretries",
        kind: NUMBER,
        default: "",
        doc: "How many times a start that failed is tried again before the process is FATAL. Absent: hob never gives \
              up.",
        set: |o, v| put(&mut o.startretries, Some(number(v, 0, 1_000_000)?)),
    },
    Opt {
        key: "restart_delay",
        kind: DURATION,
        default: "1s",
        doc: "The wait before the next try after a death within startsecs. It doubles with every failure.",
        set: |o, v| put(&mut o.restart_delay, scalar(v, kinds::duration)?),
    },
    Opt {
        key: "restart_delay_max",
        kind: DURATION,
        default: "60s",
        doc: "The longest wait between two tries.",
        set: |o, v| put(&mut o.restart_delay_max, scalar(v, kinds::duration)?),
    },
    Opt {
        key: "oneshot",
        kind: BOOLEAN,
        default: "false",
        doc: "It runs to its end once. What comes after it waits until it has ended with an expected exit code.",
        set: |o, v| put(&mut o.oneshot, scalar(v, kinds::boolean)?),
    },
    Opt {
        key: "stopsignal",
        kind: "signal name or number",
        default: "TERM",
        doc: "The signal that asks the process group to stop.",
        set: |o, v| put(&mut o.stopsignal, scalar(v, kinds::signal)?),
    },
    Opt {
        key: "stopwaitsecs",
        kind: DURATION,
        default: "10s",
        doc: "How long it may take to stop before it is killed.",
        set: |o, v| put(&mut o.stopwaitsecs, scalar(v, kinds::duration)?),
    },
    Opt {
        key: "drain",
        kind: DURATION,
        default: "0s",
        doc: "How long it is marked as not ready before it gets its stop signal.",
        set: |o, v| put(&mut o.drain, scalar(v, kinds::duration)?),
    },
    Opt {
        key: "environment",
        kind: "mapping of variables",
        default: "",
        doc: "Variables for this process alone, on top of those of its service.",
        set: |o, v| put(&mut o.environment, variables(v)?),
    },
    Opt {
        key: "directory",
        kind: PATH,
        default: "",
        doc: "The working directory. Default: the home of the instance, which a relative path starts from as well.",
        set: |o, v| put(&mut o.directory, Some(located(v)?)),
    },
    Opt {
        key: "user",
        kind: USER,
        default: "",
        doc: "Whom it runs as, when hob is root. Default: the user of hob.toml(5).",
        set: |o, v| put(&mut o.user, Some(located(v)?)),
    },
    Opt {
        key: "umask",
        kind: "octal number",
        default: "\"022\"",
        doc: "The file mode creation mask.",
        set: |o, v| put(&mut o.umask, Some(scalar(v, kinds::octal)?)),
    },
    Opt {
        key: "nofile",
        kind: NUMBER,
        default: "",
        doc: "The limit of open files (RLIMIT_NOFILE), soft and hard. Default: hob's own.",
        set: |o, v| put(&mut o.nofile, Some(number(v, 1, i64::MAX)?)),
    },
    Opt {
        key: "nice",
        kind: "number from -20 to 19",
        default: "",
        doc: "The scheduling priority: 19 yields to everything else. Default: hob's own.",
        set: |o, v| put(&mut o.nice, Some(number(v, -20, 19)?)),
    },
    Opt {
        key: "oom_score_adj",
        kind: "number from -1000 to 1000",
        default: "",
        doc: "How soon the kernel kills it when memory is short: 1000 is first, -1000 is never. Default: a little above \
              hob's own, so that hob is not taken for what its processes use.",
        set: |o, v| put(&mut o.oom_score_adj, Some(number(v, -1000, 1000)?)),
    },
    Opt {
        key: "priority",
        kind: NUMBER,
        default: "999",
        doc: "Lower numbers start first and stop last. It orders without waiting; see after.",
        set: |o, v| put(&mut o.priority, number(v, i64::from(i32::MIN), i64::from(i32::MAX))?),
    },
    Opt {
        key: "after",
        kind: "list of process names",
        default: "[]",
        doc: "Starts after these are ready, and stops before them. A name of the same service, or service:process.",
        set: |o, v| put(&mut o.after, names(v)?),
    },
    Opt {
        key: "ready",
        kind: "mapping",
        default: "",
        doc: "How hob knows that it is ready. Default: it has run for startsecs.",
        set: |o, v| probe(v, READY).map(|probe| o.ready = Some(probe)),
    },
    Opt {
        key: "health",
        kind: "mapping",
        default: "",
        doc: "How hob knows that it still works. It is restarted when it does not.",
        set: |o, v| probe(v, HEALTH).map(|probe| o.health = Some(probe)),
    },
    Opt {
        key: "memory_limit",
        kind: SIZE,
        default: "",
        doc: "It is restarted when it has more resident memory than this, with everything that it started. Looked at \
              every 5 seconds. Absent or 0: no limit.",
        set: |o, v| put(&mut o.memory_limit, Some(scalar(v, kinds::size)?).filter(|&limit| limit > 0)),
    },
    Opt {
        key: "pidfile",
        kind: PATH,
        default: "",
        doc: "The pid file of a program that daemonizes: hob runs it under its built-in pidproxy.",
        set: |o, v| put(&mut o.pidfile, Some(located(v)?)),
    },
    Opt {
        key: "logfile_maxbytes",
        kind: SIZE,
        default: "50MB",
        doc: "The size at which its log is rotated. 0: never.",
        set: |o, v| put(&mut o.logfile_maxbytes, scalar(v, kinds::size)?),
    },
    Opt {
        key: "logfile_backups",
        kind: NUMBER,
        default: "10",
        doc: "How many rotated files are kept; NAME.log.1 is the newest.",
        set: |o, v| put(&mut o.logfile_backups, number(v, 0, 10_000)?),
    },
    Opt {
        key: "logfile_max_total",
        kind: SIZE,
        default: "0",
        doc: "The most bytes of all files of this log together; the oldest rotated ones go first. 0: no cap.",
        set: |o, v| put(&mut o.logfile_max_total, scalar(v, kinds::size)?),
    },
    Opt {
        key: "logfile_max_age",
        kind: DURATION,
        default: "",
        doc: "Rotated files older than this are deleted. Absent: kept.",
        set: |o, v| put(&mut o.logfile_max_age, Some(scalar(v, kinds::duration)?)),
    },
    Opt {
        key: "split_stderr",
        kind: BOOLEAN,
        default: "false",
        doc: "Write standard error to a file of its own, NAME_error.log.",
        set: |o, v| put(&mut o.split_stderr, scalar(v, kinds::boolean)?),
    },
    Opt {
        key: "timestamps",
        kind: BOOLEAN,
        default: "false",
        doc: "Put the time in front of each line.",
        set: |o, v| put(&mut o.timestamps, scalar(v, kinds::boolean)?),
    },
    Opt {
        key: "log_prefix",
        kind: BOOLEAN,
        default: "false",
        doc: "Put its name in front of each line, behind the time if that is there too.",
        set: |o, v| put(&mut o.log_prefix, scalar(v, kinds::boolean)?),
    },
    Opt {
        key: "log_format",
        kind: "text or json",
        default: "text",
        doc: "json: each line becomes an object with time, name, stream and message, in the log and on the console. \
              A line that does not end within a second is two.",
        set: |o, v| put(&mut o.log_json, scalar(v, |text| kinds::word(text, &[("text", false), ("json", true)]))?),
    },
    Opt {
        key: "log_compress",
        kind: "none, gzip or zstd",
        default: "none",
        doc: "Rotated files are compressed, in the background: NAME.log.1.gz or NAME.log.1.zst is the newest then.",
        set: |o, v| {
            let words = [("none", Compress::None), ("gzip", Compress::Gzip), ("zstd", Compress::Zstd)];
            put(&mut o.log_compress, scalar(v, |text| kinds::word(text, &words))?)
        },
    },
    Opt {
        key: "on_full",
        kind: "block, drop_oldest or drop_newest",
        default: "block",
        doc: "What happens to output that the disk does not take: the program waits, or lines are dropped and counted.",
        set: |o, v| {
            let words =
                [("block", OnFull::Block), ("drop_oldest", OnFull::DropOldest), ("drop_newest", OnFull::DropNewest)];
            put(&mut o.on_full, scalar(v, |text| kinds::word(text, &words))?)
        },
    },
    Opt {
        key: "console",
        kind: CONSOLE,
        default: "auto",
        doc: "Copy its output to hob's own, each line behind the name. auto: when hob is PID 1 or was started by hob \
              up.",
        set: |o, v| put(&mut o.console, scalar(v, tri)?),
    },
];

pub const READY: &[Opt<ProbeOptions>] = &[
    HTTP,
    TCP,
    EXEC,
    Opt {
        key: "notify",
        kind: BOOLEAN,
        default: "false",
        doc: "It says so itself: READY=1 on NOTIFY_SOCKET, as with sd_notify(3).",
        set: |o, v| {
            if scalar(v, kinds::boolean)? {
                ask(o, &v.at, Question::Notify)?;
            }
            Ok(())
        },
    },
    Opt {
        key: "within",
        kind: DURATION,
        default: "30s",
        doc: "A start that takes longer has failed.",
        set: |o, v| put(&mut o.within, scalar(v, kinds::duration)?),
    },
    TIMEOUT,
];

pub const HEALTH: &[Opt<ProbeOptions>] = &[
    HTTP,
    TCP,
    EXEC,
    Opt {
        key: "every",
        kind: DURATION,
        default: "10s",
        doc: "The time between two questions.",
        set: |o, v| put(&mut o.every, scalar(v, positive)?),
    },
    Opt {
        key: "failures",
        kind: NUMBER,
        default: "3",
        doc: "So many failures in a row mean a restart.",
        set: |o, v| put(&mut o.failures, number(v, 1, 1_000_000)?),
    },
    TIMEOUT,
];

const HTTP: Opt<ProbeOptions> = Opt {
    key: "http",
    kind: "URL",
    default: "",
    doc: "Any answer below 500 counts. http://host:port/path, or unix:/path/to.sock:/path. $PORT_X and other variables \
          are expanded.",
    set: |o, v| ask(o, &v.at, Question::Http(text(v)?)),
};

const TCP: Opt<ProbeOptions> = Opt {
    key: "tcp",
    kind: "host:port, or a port",
    default: "",
    doc: "A connection that is accepted counts. Variables are expanded.",
    set: |o, v| ask(o, &v.at, Question::Tcp(text(v)?)),
};

const EXEC: Opt<ProbeOptions> = Opt {
    key: "exec",
    kind: COMMAND,
    default: "",
    doc: "A shell runs it with the user, variables and directory of the process; status 0 counts.",
    set: |o, v| ask(o, &v.at, Question::Exec(text(v)?)),
};

const TIMEOUT: Opt<ProbeOptions> = Opt {
    key: "timeout",
    kind: DURATION,
    default: "5s",
    doc: "How long one answer may take.",
    set: |o, v| put(&mut o.timeout, scalar(v, positive)?),
};

pub const BOOLEAN: &str = "true or false";
pub const COMMAND: &str = "command line";
pub const CONSOLE: &str = "auto, true or false";
pub const DURATION: &str = "duration";
pub const NUMBER: &str = "number";
pub const PATH: &str = "path";
pub const SIZE: &str = "size";
pub const USER: &str = "user, uid or user:group";

/// What is said about a port beside its name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PortOptions {
    pub mode: Option<At<Mode>>,
}

pub const PORT: &[Opt<PortOptions>] = &[
    Opt {
        key: "type",
        kind: "http, tcp or udp",
        default: "",
        doc: "The protocol. Required in a mapping.",
        // Read by who reads the short form too, with the words of the original schema.
        set: |_, _| Ok(()),
    },
    Opt {
        key: "mode",
        kind: "first, balance or failover",
        default: "",
        doc: "Which of several instances answers at the public port: instance 0, all of them in turn, or one of them, the \
              lowest that is up. Default: balance for http, first for tcp and udp. udp has no other.",
        set: |o, v| {
            let words = [("first", Mode::First), ("balance", Mode::Balance), ("failover", Mode::Failover)];
            let mode = scalar(v, |text| kinds::word(text, &words))?;
            put(&mut o.mode, Some(At { value: mode, at: v.at.clone() }))
        },
    },
];

/// What the original schema takes a key of a service for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declared {
    Text,
    Whole,
    Dictionary,
    List,
    /// A command line, or a mapping of process options.
    Process,
}

/// A key of a service that dotcloud.yml(5) knows. Any other is legal too, and becomes a SERVICE_ variable.
#[cfg_attr(not(test), expect(dead_code, reason = "the man pages and conf/hob.toml are checked against it"))]
pub struct ServiceKey {
    pub key: &'static str,
    pub declared: Declared,
    pub kind: &'static str,
    pub default: &'static str,
    pub doc: &'static str,
}

const fn service_key(
    key: &'static str,
    declared: Declared,
    kind: &'static str,
    default: &'static str,
    doc: &'static str,
) -> ServiceKey {
    ServiceKey { key, declared, kind, default, doc }
}

pub const SERVICE: &[ServiceKey] = &[
    service_key("type", Declared::Text, "word", "", "Required. hob runs custom; services of other types are skipped."),
    service_key(
        "approot",
        Declared::Text,
        PATH,
        ".",
        "The directory of the service's code, from the root of the tree.",
    ),
    service_key(
        "buildscript",
        Declared::Text,
        PATH,
        "",
        "The script that builds the home, from the root of the tree, where it also runs. Absent: nothing is built.",
    ),
    service_key(
        "prebuild",
        Declared::Text,
        COMMAND,
        "",
        "Runs before the build, in approot. A failure ends the build.",
    ),
    service_key(
        "postbuild",
        Declared::Text,
        COMMAND,
        "",
        "Runs after the build, in approot. A failure ends the build.",
    ),
    service_key(
        "postinstall",
        Declared::Text,
        COMMAND,
        "",
        "Runs in the code tree (approot) before the processes start, with their variables. Default: an executable \
         postinstall in approot, if there is one. What it leaves running \
         ends when the release is replaced.",
    ),
    service_key(
        "process",
        Declared::Process,
        "command line, or mapping of process options",
        "~/run",
        "The one process of the service, named as the service.",
    ),
    service_key(
        "processes",
        Declared::Dictionary,
        "mapping of names to command lines or process options",
        "",
        "Several processes by name. Not together with process.",
    ),
    service_key(
        "ports",
        Declared::Dictionary,
        "mapping of names to http, tcp or udp, or to port options",
        "{www: http}",
        "The ports it listens on; the number is in PORT_NAME. Absent: one http port named www.",
    ),
    service_key("instances", Declared::Whole, NUMBER, "1", "How many copies run."),
    service_key(
        "environment",
        Declared::Dictionary,
        "mapping of variables",
        "{}",
        "Variables for the run, not for the build.",
    ),
    service_key("config", Declared::Dictionary, "mapping", "{}", "Free; becomes SERVICE_CONFIG_NAME."),
    service_key("requirements", Declared::List, "list", "[]", "Not used by custom services."),
    service_key(
        "systempackages",
        Declared::List,
        "list of package names",
        "[]",
        "Installed with apt-get before the build, when hob is root.",
    ),
    service_key("ruby_version", Declared::Text, "word", "", "Not used by custom services."),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Arc<str> {
        Arc::from("dotcloud.yml")
    }

    #[test]
    fn every_default_is_accepted_by_its_own_reader() {
        fn check<T: Default>(table: &[Opt<T>]) {
            for option in table.iter().filter(|option| !option.default.is_empty()) {
                let value = yaml::parse(&file(), option.default.as_bytes()).unwrap().unwrap();
                assert!((option.set)(&mut T::default(), &value).is_ok(), "{}: {}", option.key, option.default);
            }
        }
        check(PROCESS);
        check(READY);
        check(HEALTH);
    }

    #[test]
    fn keys_are_unique_and_documented() {
        let mut keys: Vec<&str> = PROCESS.iter().map(|option| option.key).collect();
        assert!(PROCESS.iter().all(|option| option.doc.ends_with('.') && option.doc.is_ascii()));
        keys.sort_unstable();
        let count = keys.len();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }

    #[test]
    fn layers_override_each_other_key_by_key() {
        let first = yaml::parse(&file(), b"{stopsignal: INT, startsecs: 3}").unwrap().unwrap();
        let second = yaml::parse(&file(), b"{startsecs: 500ms, exitcodes: '0,2', after: web}").unwrap().unwrap();
        let (options, problems) = ProcessOptions::layered(&[Some(&first), None, Some(&second)]);
        assert_eq!(problems, Problems::default());
        assert_eq!((options.stopsignal, options.startsecs), (2, Duration::from_millis(500)));
        assert_eq!((options.exitcodes, options.stopwaitsecs), (vec![0, 2], Duration::from_secs(10)));
        assert_eq!(options.after[0].value, "web");
    }
}
