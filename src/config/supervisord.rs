//! A supervisord.conf to the same `Plan` that every other format becomes (reference/supervisord.md §1): the files, the
//! sections about the daemon and its servers. The sections about processes are in `program`.
//!
//! What is wrong is told in supervisord's words, but all of it at once. Keys and sections that nobody knows are told as
//! warnings only: add-ons keep their own keys there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::environ::Env;
use super::flags::Flags;
use super::ini::{self, Entry, Ini};
use super::lenient::{self, LogFile};
use super::lexer;
use super::own_keys;
use super::percent::Names;
use super::program;
use super::users::Users;
use super::value::{Place, Problem, Problems, Warning, closest};
use crate::plan::{Address, Identity, Login, Name, Plan, Server, Supervisord};

/// Everything that a file and the flags say.
#[derive(Clone, Debug, Default)]
pub struct Conf {
    pub plan: Plan,
    pub main: Main,
    /// For the log: which files were included, what nobody knows.
    pub notes: Vec<Note>,
    pub warnings: Vec<Warning>,
    /// What is said about variables, for all programs and for each process: the plan has only what differs.
    pub environment: Env,
    pub environments: BTreeMap<Name, Env>,
}

/// A line for the main log, which is not open yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    Info(String),
    Warning(String),
    Critical(String),
}

/// What is said about the daemon itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Main {
    pub logfile: Option<MainLog>,
    pub loglevel: Level,
    pub pidfile: PathBuf,
    pub umask: u32,
    pub nodaemon: bool,
    pub silent: bool,
    pub minfds: u64,
    pub minprocs: u64,
    pub nocleanup: bool,
    pub user: Option<Identity>,
    pub directory: Option<PathBuf>,
    pub strip_ansi: bool,
    pub identifier: String,
    pub childlogdir: PathBuf,
    /// hob's own: where it remembers what was disabled.
    pub state_dir: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MainLog {
    Syslog,
    File { path: PathBuf, max_bytes: u64, backups: u32 },
}

/// Levels of the main log, the most urgent first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Critical,
    Error,
    Warning,
    #[default]
    Info,
    Debug,
    Trace,
    Blather,
}

/// Where and as whom a file is read.
#[derive(Clone, Debug)]
pub struct Setting<'a> {
    pub file: &'a Path,
    pub flags: &'a Flags,
    pub env: &'a Env,
    /// The directory the daemon was started in.
    pub cwd: &'a Path,
    pub root: bool,
    /// For the file of a home: the directory as its processes know it. Such a file needs no `[supervisord]`, and its
    /// paths cannot be looked at from here.
    pub seen_in: Option<&'a Path>,
}

/// Reads a file and everything it includes.
pub fn supervisord(setting: &Setting<'_>) -> Result<Conf, Problems> {
    supervisord_with(setting, Users::system())
}

pub fn supervisord_with(setting: &Setting<'_>, users: Users) -> Result<Conf, Problems> {
    let file = std::path::absolute(setting.file).unwrap_or_else(|_| setting.file.to_owned());
    let label: Arc<str> = file.to_string_lossy().into();
    if !file.exists() {
        let why = format!("could not find config file {}", setting.file.display());
        return Err(Problem::new(&Place::file(&label), why).into());
    }
    let here = setting.seen_in.or(file.parent()).unwrap_or(Path::new("/")).to_owned();
    let mut ini = ini::read(&file).map_err(|why| Problem::new(&Place::file(&label), why))?;
    let mut reader = Reader {
        names: Names::of_env(setting.env),
        home: setting.env.get("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from),
        host: nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        here,
        is_seen_elsewhere: setting.seen_in.is_some(),
        create_log_dirs: false,
        login_environment: false,
        file: label,
        cwd: setting.cwd.to_owned(),
        root: setting.root,
        users,
        problems: Problems::default(),
        warnings: Vec::new(),
        notes: Vec::new(),
        environments: BTreeMap::new(),
    };
    reader.names.text("here", &reader.here.to_string_lossy());
    reader.include(&mut ini);
    if ini.section("supervisord").is_none() && !reader.is_seen_elsewhere {
        reader
            .problems
            .push(Problem::new(&Place::file(&reader.file), ".ini file does not include supervisord section"));
        return reader.problems.or(Conf::default());
    }
    let global = reader.global_environment(&ini);
    let mut main = reader.main(&ini, setting.flags);
    main.state_dir = own_keys::state_dir(&mut reader, &ini);
    let servers = reader.servers(&ini);
    reader.names.add_env(&global);
    let mut env = setting.env.clone();
    if reader.main_switch(&ini, "clean_environment") {
        env.retain(|name, _| is_of_a_login(name));
    }
    env.insert("SUPERVISOR_ENABLED".into(), "1".into());
    if let Some(url) = server_url(&servers) {
        env.insert("SUPERVISOR_SERVER_URL".into(), url);
    }
    env.extend(global.clone());
    reader.create_log_dirs = reader.main_switch(&ini, "create_log_dirs");
    reader.login_environment = reader.main_switch(&ini, "login_environment");
    let exit_when = own_keys::exit_when(&mut reader, &ini);
    let (groups, specs) = program::groups(&mut reader, &ini, &main, &env);
    let lacks_interface = !reader.rpc_interfaces(&ini);
    reader.unknown(&ini);
    let own = Supervisord {
        identifier: main.identifier.clone(),
        groups,
        env,
        servers,
        childlogdir: main.childlogdir.clone(),
        lacks_interface,
        main: None,
    };
    let plan = Plan { specs, exit_when, supervisord: Some(Box::new(own)), ..Plan::default() };
    let Reader { problems, warnings, notes, environments, .. } = reader;
    problems.or(Conf { plan, main, notes, warnings, environment: global, environments })
}

/// What the readers of all sections share.
pub struct Reader {
    pub names: Names,
    pub home: PathBuf,
    pub host: String,
    here: PathBuf,
    /// Paths are those of another place: they are taken as they are.
    pub is_seen_elsewhere: bool,
    /// The folder of a program's log need not be there yet.
    pub create_log_dirs: bool,
    /// What every program starts from: whether it gets HOME and the like of its user.
    pub login_environment: bool,
    pub file: Arc<str>,
    pub cwd: PathBuf,
    pub root: bool,
    pub users: Users,
    pub problems: Problems,
    pub warnings: Vec<Warning>,
    pub notes: Vec<Note>,
    /// What each process says about variables.
    pub environments: BTreeMap<Name, Env>,
}

impl Reader {
    /// A value, expanded and read; the default where it is absent, or wrong, which is noted as a problem.
    pub fn get<T>(
        &mut self,
        ini: &Ini,
        section: &str,
        key: &str,
        names: &Names,
        default: T,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        let Some(entry) = ini.get(section, key) else { return default };
        match names.expand(&entry.value, &format!("{section}.{key}")).and_then(|text| read(&text)) {
            Ok(value) => value,
            Err(why) => {
                self.wrong(entry, section, why);
                default
            }
        }
    }

    pub fn wrong(&mut self, entry: &Entry, section: &str, why: String) {
        let message = if program::is_program_like(section) {
            format!("{why} in section '{section}' (file: '{}')", entry.at.file)
        } else {
            why
        };
        self.problems.push(Problem::new(&entry.at, message));
    }

    /// Something wrong with a section as a whole.
    pub fn wrong_section(&mut self, ini: &Ini, section: &str, why: String) {
        let first = ini.section(section).and_then(|s| ini.entries(s).next());
        let at = first.map_or_else(|| Place::file(&self.file), |entry| entry.at.clone());
        self.problems.push(Problem::new(&at, why));
    }

    /// Takes in the files that `[include]` names. `%(here)s` in each of them is its own directory.
    fn include(&mut self, ini: &mut Ini) {
        if ini.section("include").is_none() {
            return;
        }
        let Some(entry) = ini.get("include", "files").cloned() else {
            let why = ".ini file has [include] section, but no files setting".to_owned();
            self.wrong_section(ini, "include", why);
            return;
        };
        let mut names = self.names.clone();
        names.text("host_node_name", &self.host);
        let globs = match names.expand(&entry.value, "include.files") {
            Ok(globs) => globs,
            Err(why) => return self.wrong(&entry, "include", why),
        };
        ini.replace("%(here)s", &percent_safe(&self.here));
        for pattern in globs.split_whitespace() {
            let pattern = self.here.join(pattern);
            let matches = glob(&pattern);
            if matches.is_empty() {
                self.notes.push(Note::Warning(format!("No file matches via include \"{}\"", pattern.display())));
            }
            for path in matches {
                // supervisord passes over what it cannot read; of these nothing is missed.
                if !path.is_file() {
                    self.notes.push(Note::Warning(format!("{} is no file and not included", path.display())));
                    continue;
                }
                if self.root && is_writable_by_others(&path) {
                    let why = format!("{} can be written by others than root", path.display());
                    self.notes.push(Note::Warning(why));
                }
                match ini::read(&path) {
                    Ok(mut more) => {
                        more.replace("%(here)s", &percent_safe(path.parent().unwrap_or(Path::new("/"))));
                        ini.merge(more);
                        let note = format!("Included extra file \"{}\" during parsing", path.display());
                        self.notes.push(Note::Info(note));
                    }
                    Err(why) => {
                        let file: Arc<str> = path.to_string_lossy().into();
                        self.problems.push(Problem::new(&Place::file(&file), why));
                    }
                }
            }
        }
    }

    fn global_environment(&mut self, ini: &Ini) -> BTreeMap<String, String> {
        let mut names = self.names.clone();
        names.text("host_node_name", &self.host);
        self.get(ini, "supervisord", "environment", &names, BTreeMap::new(), |text| {
            lexer::pairs(text).map(|pairs| pairs.into_iter().collect())
        })
    }

    fn main(&mut self, ini: &Ini, flags: &Flags) -> Main {
        let (home, cwd) = (self.home.clone(), self.cwd.clone());
        let mut main = Main::default();
        let temp = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
        let logfile = self.option(ini, flags, 'l', "logfile", Some(cwd.join("supervisord.log")), |text| {
            match text.to_ascii_lowercase().as_str() {
                "syslog" => Ok(None),
                "" | "none" | "off" => Ok(Some(PathBuf::new())),
                _ => lenient::path(text, &home).map(Some),
            }
        });
        let max_bytes = self.option(ini, flags, 'y', "logfile_maxbytes", 50 << 20, lenient::bytes);
        let backups = self.option(ini, flags, 'z', "logfile_backups", 10, lenient::count);
        main.logfile = match logfile {
            None => Some(MainLog::Syslog),
            Some(path) if path.as_os_str().is_empty() => None,
            Some(path) => Some(MainLog::File { path, max_bytes, backups }),
        };
        main.loglevel = self.option(ini, flags, 'e', "loglevel", Level::Info, Level::read);
        main.pidfile =
            self.option(ini, flags, 'j', "pidfile", cwd.join("supervisord.pid"), |text| lenient::path(text, &home));
        main.umask = self.option(ini, flags, 'm', "umask", 0o022, lenient::octal);
        main.nodaemon = self.switch(ini, flags, 'n', "nodaemon");
        main.silent = self.switch(ini, flags, 's', "silent");
        main.nocleanup = self.switch(ini, flags, 'k', "nocleanup");
        main.strip_ansi = self.switch(ini, flags, 't', "strip_ansi");
        main.minfds = self.option(ini, flags, 'a', "minfds", 1024, |t| lenient::count(t).map(u64::from));
        main.minprocs = self.option(ini, flags, 'p', "minprocs", 200, |t| lenient::count(t).map(u64::from));
        main.identifier = self.option(ini, flags, 'i', "identifier", "supervisor".to_owned(), |t| Ok(t.to_owned()));
        main.childlogdir =
            self.option(ini, flags, 'q', "childlogdir", temp, |text| lenient::existing_directory(text, &home));
        main.directory =
            self.option(ini, flags, 'd', "directory", None, |text| lenient::existing_directory(text, &home).map(Some));
        let mut users = std::mem::replace(&mut self.users, Users::none());
        main.user = self.option(ini, flags, 'u', "user", None, |text| lenient::user(text, &mut users).map(Some));
        self.users = users;
        main
    }

    /// A flag, else the key, else the default.
    fn option<T>(
        &mut self,
        ini: &Ini,
        flags: &Flags,
        flag: char,
        key: &str,
        default: T,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        match flags.value(flag) {
            None => {
                let names = self.names.clone();
                self.get(ini, "supervisord", key, &names, default, read)
            }
            Some(text) => read(text).unwrap_or_else(|why| {
                let shown = if flag == 'p' { format!("--{key}") } else { format!("-{flag}") };
                let why = format!("invalid value for {shown} '{text}': {why}");
                self.problems.push(Problem::new(&Place::file(&self.file), why));
                default
            }),
        }
    }

    /// A flag can turn it on; only the file can turn it off.
    fn switch(&mut self, ini: &Ini, flags: &Flags, flag: char, key: &str) -> bool {
        let names = self.names.clone();
        self.get(ini, "supervisord", key, &names, false, lenient::boolean) || flags.has(flag)
    }

    /// A key of `[supervisord]` that no flag sets.
    fn main_switch(&mut self, ini: &Ini, key: &str) -> bool {
        let names = self.names.clone();
        self.get(ini, "supervisord", key, &names, false, lenient::boolean)
    }

    fn servers(&mut self, ini: &Ini) -> Vec<Server> {
        let mut servers = Vec::new();
        let names: Vec<String> = ini.sections().map(|section| section.name.clone()).collect();
        // Those of the network first, as supervisord opens them.
        for section in names.iter().filter(|name| name.starts_with("inet_http_server")) {
            if ini.get(section, "port").is_none() {
                self.wrong_section(ini, section, format!("section [{section}] has no port value"));
                continue;
            }
            let scope = self.names.clone();
            let (mut host, port) = self.get(ini, section, "port", &scope, (String::new(), 0), lenient::inet);
            let login = self.login(ini, section);
            let anybody = self.get(ini, section, "allow_anonymous", &scope, false, lenient::boolean);
            if login.is_none() && !anybody && port > 0 && !is_loopback(&host) {
                // Better a service that is there than none: from this machine it can be reached as before.
                let why = format!(
                    "[{section}] port={} would let everybody in who reaches it: it is served to this machine alone. Set \
                     username and password, or allow_anonymous=true",
                    ini.get(section, "port").map_or("", |entry| entry.value.trim())
                );
                self.notes.push(Note::Critical(why));
                host = "localhost".to_owned();
            }
            servers.push(Server { name: section.clone(), address: Address::Inet { host, port }, login });
        }
        for section in names.iter().filter(|name| name.starts_with("unix_http_server")) {
            if ini.get(section, "file").is_none() {
                self.wrong_section(ini, section, format!("section [{section}] has no file value"));
                continue;
            }
            let (scope, home) = (self.names.clone(), self.home.clone());
            let path = self.get(ini, section, "file", &scope, PathBuf::new(), |text| {
                Ok(super::expand::clean(&lenient::absolute(text, &home)))
            });
            let mode = self.get(ini, section, "chmod", &scope, 0o700, |text| {
                lenient::octal(text).map_err(|_| format!("Invalid chmod value {text}"))
            });
            let mut users = std::mem::replace(&mut self.users, Users::none());
            let (owner, group) = self.get(ini, section, "chown", &scope, (None, None), |text| {
                let owner = lenient::owner(text, &mut users).map_err(|_| format!("Invalid sockchown value {text}"))?;
                Ok((Some(owner.0), owner.1))
            });
            self.users = users;
            let login = self.login(ini, section);
            let address = Address::Unix { path, mode, owner, group };
            servers.push(Server { name: section.clone(), address, login });
        }
        servers
    }

    fn login(&mut self, ini: &Ini, section: &str) -> Option<Login> {
        let names = self.names.clone();
        let own = |text: &str| Ok(Some(text.to_owned()));
        let username = self.get(ini, section, "username", &names, None, own);
        let home = self.home.clone();
        let password = self.get(ini, section, "password", &names, None, own);
        let password = password.or_else(|| {
            self.get(ini, section, "password_file", &names, None, |text| {
                let path = lenient::absolute(text.trim(), &home);
                let bytes = super::buildfile::read_bounded(&path);
                let bytes = bytes.map_err(|why| format!("cannot read password_file {}: {why}", path.display()))?;
                let text = String::from_utf8_lossy(&bytes);
                match text.lines().next().unwrap_or_default() {
                    "" => Err(format!("password_file {} is empty", path.display())),
                    password => Ok(Some(password.to_owned())),
                }
            })
        });
        match (username, password) {
            (None, None) => None,
            (Some(username), Some(password)) => Some(Login { username, password }),
            _ => {
                let why = format!(
                    "Section [{section}] contains incomplete authentication: If a username or a password is \
                     specified, both the username and password must be specified"
                );
                self.wrong_section(ini, section, why);
                None
            }
        }
    }

    /// The one interface there is may be named; every other one would be Python code in the daemon. True if it is.
    fn rpc_interfaces(&mut self, ini: &Ini) -> bool {
        let mut is_named = false;
        for section in ini.sections().filter(|section| section.name.starts_with("rpcinterface:")) {
            match ini.get(&section.name, "supervisor.rpcinterface_factory") {
                None => {
                    let why = format!("section [{}] does not specify a supervisor.rpcinterface_factory", section.name);
                    self.wrong_section(ini, &section.name, why);
                }
                Some(entry) if entry.value.trim() == "supervisor.rpcinterface:make_main_rpcinterface" => {
                    is_named |= section.name == "rpcinterface:supervisor";
                }
                Some(entry) if !PLUGINS.iter().any(|plugin| entry.value.trim().starts_with(plugin)) => {
                    let factory = entry.value.trim();
                    let why =
                        format!("{factory} cannot be resolved within [{}]: hob runs no Python code", section.name);
                    self.problems.push(Problem::new(&entry.at, why));
                }
                Some(entry) => {
                    let why = format!(
                        "[{}] is left out: {} is Python code, which hob does not run in the daemon",
                        section.name,
                        entry.value.trim()
                    );
                    self.notes.push(Note::Warning(why.clone()));
                    self.warnings.push(Problem::new(&entry.at, why));
                }
            }
        }
        is_named
    }

    fn unknown(&mut self, ini: &Ini) {
        let known = ["supervisord", "supervisorctl", "include", "unix_http_server", "inet_http_server"];
        let prefixes = ["rpcinterface:", "ctlplugin:", "unix_http_server", "inet_http_server"];
        for section in ini.sections() {
            let name = section.name.as_str();
            let keys = if name == "supervisord" { MAIN_KEYS } else { program::keys(name) };
            let is_known = known.contains(&name) || prefixes.iter().any(|p| name.starts_with(p)) || !keys.is_empty();
            if !is_known {
                let at = ini.entries(section).next().map_or_else(|| Place::file(&self.file), |e| e.at.clone());
                let mut note = Problem::new(&at, format!("section [{name}] is nobody's: it is left out"));
                let candidates = ["program:", "group:", "eventlistener:", "fcgi-program:"];
                let word = name.trim().split(':').next().unwrap_or_default().to_owned() + ":";
                if let Some(close) = candidates.into_iter().find(|c| closest(&word, [*c]).is_some()) {
                    note = note.hint(format!("did you mean \"[{close}...]\"?"));
                }
                self.warnings.push(note);
                continue;
            }
            if keys.is_empty() {
                continue;
            }
            let own: Vec<&str> = match name {
                "supervisord" => own_keys::MAIN_KEYS.to_vec(),
                name if own_keys::is_for(name) => own_keys::keys().collect(),
                _ => Vec::new(),
            };
            let known = || keys.iter().chain(&own).copied();
            for entry in ini.entries(section).filter(|entry| !known().any(|key| key == entry.key)) {
                let note = Problem::new(&entry.at, format!("[{name}] {} is nobody's key: it is left out", entry.key));
                self.warnings.push(note.did_you_mean(&entry.key, known()));
            }
        }
    }
}

impl Level {
    pub fn read(text: &str) -> Result<Level, String> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "critical" | "crit" => Level::Critical,
            "error" | "erro" => Level::Error,
            "warn" | "warning" => Level::Warning,
            "info" => Level::Info,
            "debug" | "debg" => Level::Debug,
            "trace" | "trac" => Level::Trace,
            "blather" | "blat" => Level::Blather,
            _ => return Err(format!("bad logging level name '{text}'")),
        })
    }
}

/// What programs need to know of the daemon's environment, and nobody keeps a secret in.
fn is_of_a_login(name: &str) -> bool {
    ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TERM", "TMPDIR"].contains(&name)
        || name.starts_with("LC_")
}

/// Whether only this machine can reach an address. Of a name that is not known.
fn is_loopback(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().map_or(host == "localhost" || host.ends_with(".localhost"), |ip| ip.is_loopback())
}

/// What children find the daemon by.
fn server_url(servers: &[Server]) -> Option<String> {
    let unix = servers.iter().find_map(|server| match &server.address {
        Address::Unix { path, .. } => Some(format!("unix://{}", path.display())),
        Address::Inet { .. } => None,
    });
    let inet = || {
        servers.iter().find_map(|server| match &server.address {
            Address::Inet { host, port } if host.is_empty() => Some(format!("http://localhost:{port}")),
            Address::Inet { host, port } => Some(format!("http://{host}:{port}")),
            Address::Unix { .. } => None,
        })
    };
    unix.or_else(inet)
}

/// In a value that will be expanded once more.
fn percent_safe(path: &Path) -> String {
    path.to_string_lossy().replace('%', "%%")
}

fn is_writable_by_others(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    path.metadata().is_ok_and(|meta| meta.uid() != 0 || meta.mode() & 0o022 != 0)
}

/// The files that a pattern names, sorted: `*`, `?` and `[...]` in any part, as in Python's glob.
fn glob(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/")];
    for part in pattern.components() {
        let part = match part {
            std::path::Component::Normal(part) => part.to_string_lossy().into_owned(),
            std::path::Component::ParentDir => "..".to_owned(),
            _ => continue,
        };
        if !part.contains(['*', '?', '[']) {
            found.iter_mut().for_each(|path| path.push(&part));
            continue;
        }
        found = found.iter().flat_map(|folder| matches_in(folder, &part)).collect();
    }
    found.retain(|path| path.exists());
    found.sort();
    found
}

fn matches_in(folder: &Path, part: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name()).take(10_000);
    names
        .filter(|name| {
            let name = name.to_string_lossy();
            (part.starts_with('.') || !name.starts_with('.')) && fits(part, &name)
        })
        .map(|name| folder.join(name))
        .collect()
}

/// Whether a name fits a pattern, in time proportional to both.
pub fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where the last star stands, and how much of the name it takes so far.
    let mut star: Option<(usize, usize)> = None;
    loop {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some(_) if n < name.len() => {
                if let Some(next) = fits_one(&pattern, p, name[n]) {
                    (p, n) = (next, n + 1);
                    continue;
                }
            }
            None if n == name.len() => return true,
            _ => {}
        }
        match star {
            Some((at, taken)) if taken < name.len() => {
                star = Some((at, taken + 1));
                (p, n) = (at + 1, taken + 1);
            }
            _ => return false,
        }
    }
}

/// Where the pattern goes on if the character fits.
fn fits_one(pattern: &[char], at: usize, c: char) -> Option<usize> {
    match pattern[at] {
        '?' => Some(at + 1),
        '[' => {
            let negated = matches!(pattern.get(at + 1), Some('!' | '^'));
            let first = at + 1 + usize::from(negated);
            // A bracket right at the beginning is one of the characters.
            let Some(length) = pattern.get(first + 1..).unwrap_or(&[]).iter().position(|&c| c == ']') else {
                return (c == '[').then_some(at + 1);
            };
            let set = &pattern[first..first + 1 + length];
            let mut inside = false;
            let mut i = 0;
            while i < set.len() {
                if i + 2 < set.len() && set[i + 1] == '-' {
                    inside |= (set[i]..=set[i + 2]).contains(&c);
                    i += 3;
                } else {
                    inside |= set[i] == c;
                    i += 1;
                }
            }
            (inside != negated).then_some(first + 2 + length)
        }
        other => (other == c).then_some(at + 1),
    }
}

/// Packages with code for the daemon that are in use. A daemon without one of them is better than none.
const PLUGINS: &[&str] = &[
    "supervisor_twiddler.",
    "mr.laforge.",
    "supervisor_quick.",
    "supervisor_cache.",
    "supervisor_logging.",
    "supervisor_agent.",
    "supervisor_wildcards",
    "multivisor.",
    "supvisors.",
    "sd_supervisord.",
    "superlance.",
];

const MAIN_KEYS: &[&str] = &[
    "logfile",
    "logfile_maxbytes",
    "logfile_backups",
    "loglevel",
    "pidfile",
    "umask",
    "nodaemon",
    "silent",
    "minfds",
    "minprocs",
    "nocleanup",
    "childlogdir",
    "user",
    "directory",
    "strip_ansi",
    "environment",
    "identifier",
];

/// An automatic log, or a file, or none.
pub fn log_path(file: &LogFile) -> PathBuf {
    match file {
        LogFile::At(path) => path.clone(),
        LogFile::None | LogFile::Syslog | LogFile::Auto => PathBuf::new(),
    }
}
