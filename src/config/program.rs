//! The sections of a supervisord.conf that say what runs: `[program:x]`, `[fcgi-program:x]`, `[eventlistener:x]` and
//! `[group:x]` (reference/supervisord.md §1.5). To groups, in supervisord's order, and specs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::environ::Env;
use super::ini::Ini;
use super::lenient::{self, LogFile};
use super::lexer;
use super::options::ProcessOptions;
use super::own_keys::{self, Own};
use super::percent::Names;
use super::supervisord::{Level, Main, Note, Reader, log_path};
use super::users::Users;
use crate::plan::{
    Address, Autorestart, Backoff, Command, CommandKind, Group, Identity, Limits, LogExtras, LogSpec, Name, Pool,
    Program, Reach, Restart, Socket, Spec, Stop,
};

/// The kinds of sections that make processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Program,
    Fcgi,
    Listener,
}

impl Kind {
    fn of(section: &str) -> Option<(Kind, &str)> {
        [(Kind::Program, "program:"), (Kind::Fcgi, "fcgi-program:"), (Kind::Listener, "eventlistener:")]
            .into_iter()
            .find_map(|(kind, prefix)| Some((kind, section.strip_prefix(prefix)?)))
    }
}

/// Whether messages about a section name it and its file.
pub fn is_program_like(section: &str) -> bool {
    Kind::of(section).is_some()
}

/// The keys that a section may have; none if it is no section of ours.
pub fn keys(section: &str) -> &'static [&'static str] {
    match Kind::of(section) {
        Some(_) => KEYS,
        None if section.starts_with("group:") => &["programs", "priority"],
        None => &[],
    }
}

/// Everything that runs. Groups by (priority, name); in a group the processes of its programs as they are listed, in a
/// program by name.
pub fn groups(reader: &mut Reader, ini: &Ini, main: &Main, env: &Env) -> (Vec<Group>, Vec<Spec>) {
    let sections: Vec<String> = ini.sections().map(|section| section.name.clone()).collect();
    let mut made: Vec<(Group, Vec<Spec>)> = Vec::new();
    let mut taken: Vec<String> = Vec::new();
    for section in &sections {
        let Some(name) = section.strip_prefix("group:") else { continue };
        let scope = reader.names.clone();
        let priority = reader.get(ini, section, "priority", &scope, 999, lenient::priority);
        let programs =
            reader.get(ini, section, "programs", &scope, Vec::new(), |text| Ok::<_, String>(lenient::list(text)));
        let mut specs = Vec::new();
        for program in programs {
            let plain = format!("program:{program}");
            let fcgi = format!("fcgi-program:{program}");
            let found = match (sections.contains(&plain), sections.contains(&fcgi)) {
                (true, true) => Err(format!("name {program} is ambiguous (exists as program and fcgi-program)")),
                (true, false) => Ok(plain),
                (false, true) => Ok(fcgi),
                (false, false) => Err(format!("names unknown program or fcgi-program {program}")),
            };
            match found {
                Ok(found) => {
                    specs.extend(processes(reader, ini, main, env, &found, Some(name)));
                    taken.push(found);
                }
                Err(why) => reader.wrong_section(ini, section, format!("[{section}] {why}")),
            }
        }
        match lenient::name(name) {
            Ok(name) => made.push((Group { name, priority, pool: None }, specs)),
            Err(why) => reader.wrong_section(ini, section, why),
        }
    }
    for section in sections.iter().filter(|section| !taken.contains(section)) {
        let Some((kind, name)) = Kind::of(section) else { continue };
        let scope = scope(reader, name, name);
        let default = if kind == Kind::Listener { -1 } else { 999 };
        let priority = reader.get(ini, section, "priority", &scope, default, lenient::priority);
        let pool = (kind == Kind::Listener).then(|| pool(reader, ini, section, &scope)).flatten();
        let specs = processes(reader, ini, main, env, section, None);
        match lenient::name(name) {
            Ok(name) => made.push((Group { name, priority, pool }, specs)),
            Err(why) => reader.wrong_section(ini, section, why),
        }
    }
    made.sort_by(|(a, _), (b, _)| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
    let mut groups: Vec<Group> = Vec::new();
    let mut specs = Vec::new();
    for (group, own) in made {
        // Two of one name: the first wins.
        if groups.iter().any(|earlier| earlier.name == group.name) {
            continue;
        }
        specs.extend(own);
        groups.push(group);
    }
    separate(reader, &specs);
    resolve_after(reader, ini, &mut specs);
    (groups, specs)
}

/// `after=` names programs, groups or processes, as supervisorctl shows them. The names were read as they stand.
fn resolve_after(reader: &mut Reader, ini: &Ini, specs: &mut [Spec]) {
    let all: Vec<Name> = specs.iter().map(|spec| spec.name.clone()).collect();
    for spec in specs.iter_mut().filter(|spec| !spec.after.is_empty()) {
        let mut found = Vec::new();
        for wanted in std::mem::take(&mut spec.after) {
            let word = wanted.process.trim_end_matches(":*");
            let means = |name: &&Name| name.to_string() == word || name.group == word || name.process == word;
            let before = found.len();
            found.extend(all.iter().filter(means).filter(|name| **name != spec.name).cloned());
            if found.len() == before {
                let why = format!("after names unknown program {word}");
                reader.wrong_section(ini, &wanted.group, format!("[{}] {why}", wanted.group));
            }
        }
        spec.after = found;
    }
}

/// Two processes that rotate one file lose what the other has written.
fn separate(reader: &mut Reader, specs: &[Spec]) {
    let mut seen: BTreeMap<PathBuf, String> = BTreeMap::new();
    for spec in specs {
        let logs = [Some(&spec.log), spec.log.stderr.as_deref()];
        for log in logs.into_iter().flatten().filter(|log| log.file().is_some() && log.max_bytes > 0) {
            if log.path.starts_with("/dev") || log.path.starts_with("/proc") {
                continue;
            }
            if let Some(other) = seen.insert(log.path.clone(), spec.name.to_string())
                && reader.notes.len() < 100
            {
                let why = format!("{other} and {} rotate the same log {}", spec.name, log.path.display());
                reader.notes.push(Note::Warning(why));
            }
        }
    }
}

/// The names that the options of a program know.
fn scope(reader: &Reader, program: &str, group: &str) -> Names {
    let mut names = reader.names.clone();
    names.text("program_name", program);
    names.text("group_name", group);
    names.text("host_node_name", &reader.host);
    names
}

fn pool(reader: &mut Reader, ini: &Ini, section: &str, scope: &Names) -> Option<Pool> {
    let buffer_size = reader.get(ini, section, "buffer_size", scope, 10, lenient::integer);
    if buffer_size < 1 {
        let why = format!("[{section}] section sets invalid buffer_size ({buffer_size})");
        reader.wrong_section(ini, section, why);
    }
    let handler = ini.get(section, "result_handler").map(|entry| entry.value.trim().to_owned());
    match handler.as_deref() {
        None | Some("supervisor.dispatchers:default_handler") => {}
        // Prints what it gets, which hob can do by itself.
        Some(known @ "supervisor_stdout:event_handler") => {
            let why = format!("[{section}] result_handler={known} is Python code: the usual one is used");
            reader.notes.push(Note::Warning(why));
        }
        Some(other) => {
            let why = format!("{other} cannot be resolved within [{section}]: hob runs no Python code");
            reader.wrong_section(ini, section, why);
        }
    }
    if ini.get(section, "events").is_none_or(|entry| entry.value.trim().is_empty()) {
        reader.wrong_section(ini, section, format!("[{section}] section requires an \"events\" line"));
        return None;
    }
    let events = reader.get(ini, section, "events", scope, Vec::new(), |text| Ok::<_, String>(lenient::list(text)));
    let events: Vec<String> = events.into_iter().map(|event| event.to_ascii_uppercase()).collect();
    for event in events.iter().filter(|event| !EVENTS.contains(&event.as_str())) {
        reader.wrong_section(ini, section, format!("Unknown event type {event} in [{section}] events"));
    }
    let counts_characters = reader.get(ini, section, "len_counts", scope, false, |text| match text.trim() {
        "bytes" => Ok(false),
        "characters" => Ok(true),
        _ => Err(format!("len_counts is bytes or characters, not '{text}'")),
    });
    Some(Pool { events, buffer_size: usize::try_from(buffer_size).unwrap_or(1), counts_characters })
}

/// The processes of a section, sorted by name.
fn processes(reader: &mut Reader, ini: &Ini, main: &Main, env: &Env, section: &str, group: Option<&str>) -> Vec<Spec> {
    let Some((kind, program)) = Kind::of(section) else { return Vec::new() };
    if let Err(why) = lenient::name(program) {
        reader.wrong_section(ini, section, why);
        return Vec::new();
    }
    let group = group.unwrap_or(program);
    let scope = scope(reader, program, group);
    let numprocs = reader.get(ini, section, "numprocs", &scope, 1, lenient::integer).clamp(0, MOST_PROCESSES);
    let first = reader.get(ini, section, "numprocs_start", &scope, 0, lenient::integer);
    if ini.get(section, "command").is_none() {
        let why = format!(
            "program section {section} does not specify a command in section '{section}' (file: '{}')",
            reader.file
        );
        reader.wrong_section(ini, section, why);
        return Vec::new();
    }
    let process_name = ini.get(section, "process_name").map_or("%(program_name)s", |entry| &entry.value).to_owned();
    if numprocs > 1 && !process_name.contains("%(process_num)") {
        let why = "%(process_num) must be present within process_name when numprocs > 1".to_owned();
        match ini.get(section, "process_name").or(ini.get(section, "numprocs")).cloned() {
            Some(entry) => reader.wrong(&entry, section, why),
            None => reader.wrong_section(ini, section, why),
        }
        return Vec::new();
    }
    let common = Common::read(reader, ini, section, kind, &scope, main);
    let socket = (kind == Kind::Fcgi).then(|| socket(reader, ini, section, &scope, common.user.as_ref())).flatten();
    let mut specs: BTreeMap<String, Spec> = BTreeMap::new();
    let before = reader.problems.0.len();
    for number in 0..numprocs {
        let mut names = scope.clone();
        names.number("process_num", first.saturating_add(number));
        names.number("numprocs", numprocs);
        let name = match names.expand(&process_name, &format!("{section}.process_name")).and_then(|n| lenient::name(&n))
        {
            Ok(name) => name,
            Err(why) => {
                reader.wrong_section(ini, section, format!("{why} in section '{section}' (file: '{}')", reader.file));
                break;
            }
        };
        let spec = process(reader, ini, main, env, section, kind, &common, &mut names, group, &name, socket.clone());
        // Two that expand to one name: the later one replaces the earlier.
        specs.insert(name, spec);
        // The same mistake in each of a thousand is one mistake.
        if reader.problems.0.len() > before {
            break;
        }
    }
    specs.into_values().collect()
}

/// What is the same for all processes of a section.
struct Common {
    priority: i32,
    autostart: bool,
    restart: Restart,
    stop: Stop,
    user: Option<Identity>,
    umask: Option<u32>,
    redirect_stderr: bool,
    serverurl: Option<String>,
}

impl Common {
    fn read(reader: &mut Reader, ini: &Ini, section: &str, kind: Kind, scope: &Names, main: &Main) -> Common {
        let priority = reader.get(ini, section, "priority", scope, 999, lenient::priority);
        let autostart = reader.get(ini, section, "autostart", scope, true, lenient::boolean);
        let seconds = |text: &str| lenient::count(text).map(|n| Duration::from_secs(n.into()));
        let restart = Restart {
            autorestart: reader.get(ini, section, "autorestart", scope, Autorestart::Unexpected, lenient::autorestart),
            exitcodes: reader.get(ini, section, "exitcodes", scope, vec![0], lenient::exit_codes),
            startsecs: reader.get(ini, section, "startsecs", scope, Duration::from_secs(1), seconds),
            // A negative number, of which supervisord makes none at all, is no end of them.
            startretries: reader.get(ini, section, "startretries", scope, Some(3), |text| {
                Ok(if lenient::integer(text)? < 0 { None } else { Some(lenient::count(text)?) })
            }),
            backoff: Backoff::Linear,
            // What else there is comes from hob's own keys, process by process.
            delay: Duration::ZERO,
            delay_max: Duration::ZERO,
            oneshot: false,
        };
        let stop_group = reader.get(ini, section, "stopasgroup", scope, false, lenient::boolean);
        let kill_group = reader.get(ini, section, "killasgroup", scope, stop_group, lenient::boolean);
        if stop_group && !kill_group {
            let why = "Cannot set stopasgroup=true and killasgroup=false".to_owned();
            match ini.get(section, "killasgroup").cloned() {
                Some(entry) => reader.wrong(&entry, section, why),
                None => reader.wrong_section(ini, section, why),
            }
        }
        let stop = Stop {
            signal: reader.get(ini, section, "stopsignal", scope, 15, lenient::signal),
            wait: reader.get(ini, section, "stopwaitsecs", scope, Duration::from_secs(10), seconds),
            drain: Duration::ZERO,
            reach: Reach::Child { stop_group, kill_group },
        };
        let mut users = std::mem::replace(&mut reader.users, Users::none());
        let user = reader.get(ini, section, "user", scope, None, |text| lenient::user(text, &mut users).map(Some));
        reader.users = users;
        let redirect_stderr = reader.get(ini, section, "redirect_stderr", scope, false, lenient::boolean);
        if redirect_stderr && kind == Kind::Listener {
            let why = format!(
                "[{section}] section sets redirect_stderr=true but this is not allowed because it will interfere with \
                 the eventlistener protocol"
            );
            reader.wrong_section(ini, section, why);
        }
        let serverurl = reader.get(ini, section, "serverurl", scope, None, |text| {
            Ok((!text.trim().eq_ignore_ascii_case("auto")).then(|| text.trim().to_owned()))
        });
        let umask = reader.get(ini, section, "umask", scope, None, |text| lenient::octal(text).map(Some));
        let umask = Some(umask.unwrap_or(main.umask));
        Common { priority, autostart, restart, stop, user, umask, redirect_stderr, serverurl }
    }
}

#[allow(clippy::too_many_arguments)]
fn process(
    reader: &mut Reader,
    ini: &Ini,
    main: &Main,
    env: &Env,
    section: &str,
    kind: Kind,
    common: &Common,
    names: &mut Names,
    group: &str,
    name: &str,
    socket: Option<Socket>,
) -> Spec {
    let own: BTreeMap<String, String> = reader.get(ini, section, "environment", names, BTreeMap::new(), |text| {
        lexer::pairs(text).map(|pairs| pairs.into_iter().collect())
    });
    let mut filed = own_keys::environment_file(reader, ini, section, names).unwrap_or_default();
    filed.extend(own);
    let own = filed;
    names.add_env(&own);
    let keys = Own::read(reader, ini, section, names);
    let line = reader.get(ini, section, "command", names, String::new(), |text| Ok(text.trim().to_owned()));
    let directory = reader.get(ini, section, "directory", names, None, |text| Ok(Some(text.to_owned())));
    let (words, unparsable) = match lexer::words(&line) {
        Ok(words) => (words, None),
        Err(why) => (Vec::new(), Some(why.to_owned())),
    };
    let mut log = log(reader, ini, main, section, kind, names, &keys.options, "stdout");
    let stderr = self::log(reader, ini, main, section, kind, names, &keys.options, "stderr");
    if common.redirect_stderr {
        if ini.get(section, "stderr_logfile").is_some() && stderr.file().is_some() {
            let why = format!(
                "For [{section}], redirect_stderr=true but stderr_logfile has also been set to a filename, the filename has been ignored"
            );
            reader.notes.push(Note::Warning(why));
        }
    } else {
        log.stderr = Some(Box::new(stderr));
    }
    let home = reader.home.clone();
    let cwd = main.directory.as_ref().unwrap_or(&reader.cwd).clone();
    let workdir = directory.as_ref().map(|text| cwd.join(super::expand::tilde(text, &home)));
    let mut env_here: BTreeMap<String, String> = [
        ("SUPERVISOR_PROCESS_NAME".to_owned(), name.to_owned()),
        ("SUPERVISOR_GROUP_NAME".to_owned(), group.to_owned()),
    ]
    .into();
    if let Some(url) = &common.serverurl {
        env_here.insert("SUPERVISOR_SERVER_URL".to_owned(), url.clone());
    }
    if let (true, Some(user)) = (keys.login_environment, &common.user) {
        env_here.extend(own_keys::login(user));
    }
    env_here.extend(own.clone());
    let full_name = Name { group: group.to_owned(), process: name.to_owned() };
    reader.environments.insert(full_name.clone(), own);
    let whole = || env.iter().chain(&env_here).map(|(key, value)| (key.clone(), value.clone())).collect::<Env>();
    let (ready, health) = keys.probes(reader, section, &whole);
    let pidfile = keys.pidfile(reader, section, &whole);
    let options = &keys.options;
    env_here.retain(|key, value| env.get(key) != Some(value));
    let program = Program {
        priority: common.priority,
        unparsable,
        directory,
        serverurl: common.serverurl.clone(),
        redirect_stderr: common.redirect_stderr,
        socket,
    };
    Spec {
        name: full_name,
        command: Command { line, kind: CommandKind::Words(words) },
        directory: workdir.unwrap_or(cwd),
        env: env_here,
        profile: None,
        user: common.user.clone(),
        umask: common.umask,
        limits: Limits { nofile: options.nofile, nice: options.nice, oom_score_adj: options.oom_score_adj },
        // The order in a table is that of the groups, which the plan is in.
        priority: 999,
        autostart: common.autostart,
        // Which they are is seen once all are known.
        after: keys.after.iter().map(|word| Name { group: section.to_owned(), process: word.clone() }).collect(),
        restart: Restart {
            delay: options.restart_delay,
            delay_max: options.restart_delay_max.max(options.restart_delay),
            oneshot: options.oneshot,
            ..common.restart.clone()
        },
        stop: Stop { drain: options.drain, ..common.stop.clone() },
        ready,
        health,
        memory_limit: options.memory_limit,
        pidfile,
        log,
        program: Some(Box::new(program)),
        is_helper: false,
    }
}

#[allow(clippy::too_many_arguments)]
fn log(
    reader: &mut Reader,
    ini: &Ini,
    main: &Main,
    section: &str,
    kind: Kind,
    names: &Names,
    own: &ProcessOptions,
    channel: &str,
) -> LogSpec {
    let (home, is_seen_elsewhere) = (reader.home.clone(), reader.is_seen_elsewhere);
    let makes_folders = reader.create_log_dirs;
    let key = |what: &str| format!("{channel}_{what}");
    let file = reader.get(ini, section, &key("logfile"), names, LogFile::Auto, |text| {
        lenient::log_file(text, &home).or_else(|why| match (is_seen_elsewhere, makes_folders) {
            (true, _) => Ok(LogFile::Auto),
            (false, true) => Ok(LogFile::At(lenient::absolute(text, &home))),
            (false, false) => Err(why),
        })
    });
    let is_protocol = kind == Kind::Listener && channel == "stdout";
    let syslog = reader.get(ini, section, &key("syslog"), names, false, lenient::boolean) || file == LogFile::Syslog;
    let events = reader.get(ini, section, &key("events_enabled"), names, false, lenient::boolean);
    let capture = reader.get(ini, section, &key("capture_maxbytes"), names, 0, lenient::bytes);
    let extras = LogExtras {
        auto: file == LogFile::Auto,
        capture: if is_protocol { 0 } else { capture },
        events: events && !is_protocol,
        syslog: syslog && !is_protocol,
        strip_ansi: main.strip_ansi,
        echo: main.loglevel >= Level::Debug,
    };
    let max_bytes = reader.get(ini, section, &key("logfile_maxbytes"), names, 50 << 20, lenient::bytes);
    let mut warn = |text: String| reader.notes.push(Note::Warning(format!("For [{section}], {text}")));
    match file {
        LogFile::Syslog => warn(format!(
            "{channel}_logfile=syslog but this is deprecated and will be removed.  Use {channel}_syslog=true to enable \
             syslog instead."
        )),
        LogFile::Auto if max_bytes == 0 => warn(format!(
            "AUTO logging used for {channel}_logfile without rollover, set maxbytes > 0 to avoid filling up filesystem \
             unintentionally"
        )),
        _ => {}
    }
    LogSpec {
        path: log_path(&file),
        stderr: None,
        max_bytes,
        backups: reader.get(ini, section, &key("logfile_backups"), names, 10, lenient::count),
        max_total: own.logfile_max_total,
        max_age: own.logfile_max_age,
        // A listener's stdout is a protocol, for which nobody wants another form.
        timestamps: own.timestamps && !is_protocol,
        prefix: own.log_prefix && !is_protocol,
        json: own.log_json && !is_protocol,
        compress: own.log_compress,
        on_full: own.on_full,
        console: own.console.unwrap_or(false) && !is_protocol,
        owner: None,
        extras: Some(Box::new(extras)),
    }
}

/// The listening socket of an `[fcgi-program:x]`.
fn socket(reader: &mut Reader, ini: &Ini, section: &str, scope: &Names, user: Option<&Identity>) -> Option<Socket> {
    let Some(entry) = ini.get(section, "socket").cloned() else {
        reader.wrong_section(ini, section, format!("[{section}] section requires a \"socket\" line"));
        return None;
    };
    let url = reader.get(ini, section, "socket", scope, String::new(), |text| Ok(text.trim().to_owned()));
    let backlog = reader.get(ini, section, "socket_backlog", scope, None, |text| match lenient::integer(text) {
        Ok(n @ 1..=65535) => Ok(Some(n as u32)),
        _ => Err(format!("Invalid socket_backlog value {text}")),
    });
    let mode = reader.get(ini, section, "socket_mode", scope, None, |text| match lenient::octal(text) {
        Ok(mode) => Ok(Some(mode)),
        Err(_) => Err(format!("Invalid socket_mode value {text}")),
    });
    let mut users = std::mem::replace(&mut reader.users, Users::none());
    let owner = reader.get(ini, section, "socket_owner", scope, None, |text| {
        lenient::owner(text, &mut users).map(Some).map_err(|_| format!("Invalid socket_owner value {text}"))
    });
    let own = users.own();
    reader.users = users;
    let is_set = mode.is_some() || owner.is_some();
    let address = if let Some(path) = url.strip_prefix("unix://") {
        if !path.starts_with('/') {
            let why = format!("Unix socket path {path} is not an absolute path in [{section}] socket");
            reader.wrong(&entry, section, why);
        }
        let default = user.filter(|user| user.uid != own.uid).map(|user| (user.uid, Some(user.gid)));
        let (owner, group) = owner.or(default).map_or((None, None), |(uid, gid)| (Some(uid), gid));
        Address::Unix { path: PathBuf::from(path), mode: mode.unwrap_or(0o700), owner, group }
    } else if let Some((host, port)) = url.strip_prefix("tcp://").and_then(|rest| rest.split_once(':')) {
        if is_set {
            let why = "socket_owner and socket_mode params should only be used with a Unix domain socket".to_owned();
            reader.wrong(&entry, section, why);
        }
        match port.parse() {
            Ok(port) => Address::Inet { host: host.to_owned(), port },
            Err(_) => {
                reader.wrong(&entry, section, format!("Bad socket format {url} in [{section}] socket"));
                return None;
            }
        }
    } else {
        reader.wrong(&entry, section, format!("Bad socket format {url} in [{section}] socket"));
        return None;
    };
    Some(Socket { url, address, backlog })
}

/// Names of events that a listener may subscribe to (reference §5.1).
pub const EVENTS: &[&str] = &[
    "EVENT",
    "PROCESS_STATE",
    "PROCESS_STATE_STOPPED",
    "PROCESS_STATE_EXITED",
    "PROCESS_STATE_STARTING",
    "PROCESS_STATE_STOPPING",
    "PROCESS_STATE_BACKOFF",
    "PROCESS_STATE_FATAL",
    "PROCESS_STATE_RUNNING",
    "PROCESS_STATE_UNKNOWN",
    "PROCESS_COMMUNICATION",
    "PROCESS_COMMUNICATION_STDOUT",
    "PROCESS_COMMUNICATION_STDERR",
    "PROCESS_LOG",
    "PROCESS_LOG_STDOUT",
    "PROCESS_LOG_STDERR",
    "REMOTE_COMMUNICATION",
    "SUPERVISOR_STATE_CHANGE",
    "SUPERVISOR_STATE_CHANGE_RUNNING",
    "SUPERVISOR_STATE_CHANGE_STOPPING",
    "TICK",
    "TICK_5",
    "TICK_60",
    "TICK_3600",
    "PROCESS_GROUP",
    "PROCESS_GROUP_ADDED",
    "PROCESS_GROUP_REMOVED",
];

/// More in one section is a mistake that would take the machine down.
const MOST_PROCESSES: i64 = 10_000;

const KEYS: &[&str] = &[
    "command",
    "process_name",
    "numprocs",
    "numprocs_start",
    "priority",
    "autostart",
    "startsecs",
    "startretries",
    "autorestart",
    "exitcodes",
    "stopsignal",
    "stopwaitsecs",
    "stopasgroup",
    "killasgroup",
    "user",
    "redirect_stderr",
    "stdout_logfile",
    "stdout_logfile_maxbytes",
    "stdout_logfile_backups",
    "stdout_capture_maxbytes",
    "stdout_events_enabled",
    "stdout_syslog",
    "stderr_logfile",
    "stderr_logfile_maxbytes",
    "stderr_logfile_backups",
    "stderr_capture_maxbytes",
    "stderr_events_enabled",
    "stderr_syslog",
    "environment",
    "directory",
    "umask",
    "serverurl",
    "socket",
    "socket_backlog",
    "socket_owner",
    "socket_mode",
    "events",
    "buffer_size",
    "result_handler",
    "len_counts",
];
