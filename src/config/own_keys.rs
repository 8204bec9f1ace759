//! hob's own keys in the sections of a supervisord.conf. Nearly all are options of dotcloud.yml(5), by their own names
//! and with their own readers; what is a mapping there is one key for each entry here: `ready_http`, `health_every`.
//!
//! Supervisor itself passes over all of them, so a file that has them still runs there.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::asks;
use super::environ::{self, Env};
use super::expand;
use super::ini::{Entry, Ini};
use super::kinds;
use super::lenient;
use super::options::{HEALTH, Opt, PROCESS, ProbeOptions, ProcessOptions, READY, defaults};
use super::percent::Names;
use super::program;
use super::supervisord::Reader;
use super::value::{Data, Kind, Scalar, Value};
use crate::plan::{ExitWhen, Health, Identity, Probe, Ready, ReadyBy};

/// Options of dotcloud.yml(5) that a program may have as well. The others have a name of supervisord's there.
const OPTIONS: &[&str] = &[
    "after",
    "console",
    "drain",
    "log_compress",
    "log_format",
    "log_prefix",
    "logfile_max_age",
    "logfile_max_total",
    "memory_limit",
    "nice",
    "nofile",
    "on_full",
    "oneshot",
    "oom_score_adj",
    "pidfile",
    "restart_delay",
    "restart_delay_max",
    "timestamps",
];

/// Those that only a program of a supervisord.conf has.
const MORE: &[&str] = &["depends_on", "environment_file", "login_environment"];

/// Those of `[supervisord]`.
pub const MAIN_KEYS: &[&str] = &["clean_environment", "create_log_dirs", "exit_when", "login_environment", "state_dir"];

/// All keys of a program, for messages.
pub fn keys() -> impl Iterator<Item = &'static str> {
    // Made once: a name that is put together has to be kept.
    static PROBES: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
    let probes = PROBES.get_or_init(|| {
        let named = |prefix: &'static str, table: &'static [Opt<ProbeOptions>]| {
            table.iter().map(move |option| format!("{prefix}{}", option.key))
        };
        named("ready_", READY).chain(named("health_", HEALTH)).collect()
    });
    OPTIONS.iter().chain(MORE).copied().chain(probes.iter().map(String::as_str))
}

/// What a section says by these keys.
pub struct Own {
    pub options: ProcessOptions,
    ready: Option<ProbeOptions>,
    health: Option<ProbeOptions>,
    /// Names as they stand.
    pub after: Vec<String>,
    pub login_environment: bool,
}

impl Own {
    pub fn read(reader: &mut Reader, ini: &Ini, section: &str, names: &Names) -> Own {
        let mut options = ProcessOptions {
            restart_delay: Duration::from_secs(1),
            // supervisord's waits have no longest one.
            restart_delay_max: Duration::from_secs(u32::MAX.into()),
            ..ProcessOptions::default()
        };
        for key in OPTIONS.iter().filter(|key| **key != "after") {
            if let Some(option) = PROCESS.iter().find(|option| option.key == *key) {
                apply(reader, ini, section, names, key, option, &mut options);
            }
        }
        let words = |text: &str| Ok::<_, String>(lenient::list(text).into_iter().filter(|w| !w.is_empty()).collect());
        let mut after: Vec<String> = reader.get(ini, section, "after", names, Vec::new(), words);
        after.extend(reader.get::<Vec<String>>(ini, section, "depends_on", names, Vec::new(), words));
        let everybody = reader.login_environment;
        Own {
            options,
            ready: probe(reader, ini, section, names, "ready_", READY),
            health: probe(reader, ini, section, names, "health_", HEALTH),
            after,
            login_environment: reader.get(ini, section, "login_environment", names, everybody, lenient::boolean),
        }
    }

    /// How it tells that it is ready, and that it still works. Variables in a question are those of the process.
    pub fn probes(&self, reader: &mut Reader, section: &str, env: &dyn Fn() -> Env) -> (Option<Ready>, Option<Health>) {
        let mut asked = |options: &Option<ProbeOptions>| {
            let options = options.clone()?;
            let question = options.asks.first()?;
            match asks::ask(&question.value, &env(), &reader.home) {
                Ok(ask) => Some((ask, options.clone())),
                Err(why) => {
                    let text = asks::text(&question.value).to_owned();
                    let entry = Entry { key: String::new(), value: text.clone(), at: question.at.clone() };
                    reader.wrong(&entry, section, format!("cannot ask {text:?}: {why}"));
                    None
                }
            }
        };
        let ready = asked(&self.ready).map(|(ask, options)| {
            let by = match ask {
                Some(ask) => ReadyBy::Probe(Probe { ask, timeout: options.timeout }),
                None => ReadyBy::Notify,
            };
            Ready { by, within: options.within }
        });
        let health = asked(&self.health).and_then(|(ask, options)| {
            let probe = Probe { ask: ask?, timeout: options.timeout };
            Some(Health { probe, every: options.every, failures: options.failures })
        });
        (ready, health)
    }

    /// The file of the program's own pid, where it daemonizes.
    pub fn pidfile(&self, reader: &mut Reader, section: &str, env: &dyn Fn() -> Env) -> Option<PathBuf> {
        let given = self.options.pidfile.as_ref()?;
        match expand::path(&given.value, &reader.home, &env()) {
            Ok(path) => Some(path),
            Err(why) => {
                let entry = Entry { key: String::new(), value: given.value.clone(), at: given.at.clone() };
                reader.wrong(&entry, section, format!("pidfile {:?}: {why}", given.value));
                None
            }
        }
    }
}

/// `exit_when` of `[supervisord]`.
pub fn exit_when(reader: &mut Reader, ini: &Ini) -> ExitWhen {
    let names = reader.names.clone();
    reader.get(ini, "supervisord", "exit_when", &names, ExitWhen::Never, |text| {
        kinds::exit_when(text).map_err(|wrong| format!("exit_when {}", wrong.message))
    })
}

/// `state_dir` of `[supervisord]`.
pub fn state_dir(reader: &mut Reader, ini: &Ini) -> Option<PathBuf> {
    let (names, home) = (reader.names.clone(), reader.home.clone());
    reader.get(ini, "supervisord", "state_dir", &names, None, |text| Ok(Some(lenient::absolute(text.trim(), &home))))
}

/// HOME, USER, LOGNAME and SHELL of a user, as a login sets them.
pub fn login(user: &Identity) -> Env {
    let mut env = Env::new();
    environ::login(&mut env, &user.home, user);
    env.retain(|key, _| ["HOME", "USER", "LOGNAME", "SHELL"].contains(&key.as_str()));
    env
}

/// Reads a key by the option's own reader, if it is there.
fn apply<T>(
    reader: &mut Reader,
    ini: &Ini,
    section: &str,
    names: &Names,
    key: &str,
    option: &Opt<T>,
    target: &mut T,
) -> bool {
    let Some(entry) = ini.get(section, key) else { return false };
    let text = match names.expand(&entry.value, &format!("{section}.{key}")) {
        Ok(text) => text,
        Err(why) => {
            reader.wrong(entry, section, why);
            return true;
        }
    };
    let value = Value { at: entry.at.clone(), data: Data::Scalar(Scalar { text, kind: Kind::Text }) };
    if let Err(problems) = (option.set)(target, &value) {
        for problem in problems.0 {
            let hint = problem.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            reader.wrong(entry, section, format!("{key} {}{hint}", problem.message));
        }
    }
    true
}

fn probe(
    reader: &mut Reader,
    ini: &Ini,
    section: &str,
    names: &Names,
    prefix: &str,
    table: &'static [Opt<ProbeOptions>],
) -> Option<ProbeOptions> {
    let mut options: ProbeOptions = defaults(table);
    let mut last = None;
    for option in table {
        let key = format!("{prefix}{}", option.key);
        if apply(reader, ini, section, names, &key, option, &mut options) {
            last = Some(key);
        }
    }
    let last = last?;
    // One that is wrong has been told.
    if options.asks.len() != 1 && reader.problems.0.is_empty() {
        let asks: Vec<String> = table
            .iter()
            .filter(|option| ["http", "tcp", "exec", "notify"].contains(&option.key))
            .map(|option| format!("{prefix}{}", option.key))
            .collect();
        if let Some(entry) = ini.get(section, &last).cloned() {
            reader.wrong(&entry, section, format!("{last} needs one of {}, and only one", asks.join(", ")));
        }
    }
    (options.asks.len() == 1).then_some(options)
}

/// Lines of `KEY=VALUE`, blank ones and `#` comments left out; quotes around a value go. A `-` in front of the name
/// allows the file to be missing.
pub fn environment_file(
    reader: &mut Reader,
    ini: &Ini,
    section: &str,
    names: &Names,
) -> Option<BTreeMap<String, String>> {
    let home = reader.home.clone();
    reader.get(ini, section, "environment_file", names, None, |text| {
        let (name, may_be_missing) = text.trim().strip_prefix('-').map_or((text.trim(), false), |name| (name, true));
        let path = lenient::absolute(name, &home);
        let text = match super::buildfile::read_bounded(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(why) if may_be_missing && why.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(why) => return Err(format!("cannot read {}: {why}", path.display())),
        };
        let mut pairs = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            let line = line.strip_prefix("export ").unwrap_or(line);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // What the line holds may be a secret, so it is not repeated.
            let Some((key, value)) = line.split_once('=').filter(|(key, _)| !key.trim().is_empty()) else {
                return Err(format!("{}:{number} is not KEY=VALUE", path.display()));
            };
            let value = value.trim();
            let bare = ['"', '\''].iter().find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q));
            pairs.insert(key.trim().to_owned(), bare.unwrap_or(value).to_owned());
        }
        Ok(Some(pairs))
    })
}

/// Whether a section may have these keys.
pub fn is_for(section: &str) -> bool {
    program::is_program_like(section)
}
