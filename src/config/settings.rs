//! hob.toml, and where everything is: flag, then `HOB_*` variable, then file, then default.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::buildfile::read_bounded;
use super::environ::Env;
use super::expand;
use super::kinds::{self, Wrong};
use super::options::{self, At, CONSOLE, DURATION, NOT_A_DEFAULT, Opt, PATH, ProcessOptions};
use super::proxy::When;
use super::read::{located, names, positive, put, scalar, text, tri};
use super::toml;
use super::users::Users;
use super::value::{Place, Problem, Problems, Value, quoted};
use crate::plan::{Address, ExitWhen, Login};
use crate::sys::user;

/// What the command line says about places. Relative paths are from the current directory.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// The settings file; it must exist then.
    pub config: Option<PathBuf>,
    pub socket: Option<PathBuf>,
    pub state_dir: Option<PathBuf>,
    pub log_dir: Option<PathBuf>,
    pub home: Option<PathBuf>,
}

/// Everything that hob.toml, the environment and the flags decide; all paths absolute.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The settings files that were read.
    pub files: Vec<PathBuf>,
    pub socket: PathBuf,
    pub socket_mode: u32,
    pub socket_group: Option<u32>,
    /// Where to listen on the network too.
    pub listen: Option<Listen>,
    pub state_dir: PathBuf,
    pub log_dir: PathBuf,
    pub home: PathBuf,
    pub home_mode: HomeMode,
    pub build_timeout: Duration,
    pub postinstall_timeout: Duration,
    pub responsive_timeout: Duration,
    pub proxy: When,
    /// HAProxy, where it is not the one in PATH.
    pub haproxy: Option<PathBuf>,
    pub proxy_drain: Duration,
    pub user: Option<At<String>>,
    pub project: Option<String>,
    pub exit_when: ExitWhen,
    pub relay_signals: Relays,
    /// Nothing is `auto`.
    pub console: Option<bool>,
    /// What `auto` means for the console; the caller knows, whether it is PID 1 or `hob up`.
    pub console_auto: bool,
    pub log_level: String,
    /// `[defaults]`, checked; read again below the options of each process.
    pub defaults: Option<Value>,
    pub root: bool,
}

/// A server on the network, which nobody gets to without a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub address: Address,
    pub login: Login,
}

/// Where `$HOME` is during build and run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HomeMode {
    /// `Bind` where hob has the privilege, else `Direct`.
    #[default]
    Auto,
    /// Bound over the configured path in a mount namespace.
    Bind,
    /// The release's own versioned directory.
    Direct,
}

/// Signals by number, and the names of processes that get them.
pub type Relays = Vec<(i32, Vec<At<String>>)>;

/// hob.toml as written.
#[derive(Clone, Debug, Default)]
pub struct SettingsFile {
    socket: Option<At<String>>,
    socket_mode: Option<u32>,
    socket_group: Option<At<String>>,
    listen: Option<At<Address>>,
    listen_user: Option<At<String>>,
    listen_password: Option<At<String>>,
    state_dir: Option<At<String>>,
    log_dir: Option<At<String>>,
    home: Option<At<String>>,
    home_mode: HomeMode,
    build_timeout: Duration,
    postinstall_timeout: Duration,
    responsive_timeout: Duration,
    proxy: When,
    haproxy: Option<At<String>>,
    proxy_drain: Duration,
    user: Option<At<String>>,
    project: Option<String>,
    exit_when: ExitWhen,
    console: Option<bool>,
    log_level: String,
    relay_signals: Relays,
    defaults: Option<Value>,
}

/// Reads the settings for this process's user.
pub fn settings(flags: &Overrides, own: &Env) -> Result<Settings, Problems> {
    let root = user::effective().0 == 0;
    settings_for(flags, own, root, &mut Users::system())
}

fn settings_for(flags: &Overrides, own: &Env, root: bool, users: &mut Users) -> Result<Settings, Problems> {
    let places = Places { root, own, own_home: own_home(own, users) };
    let given = flags.config.clone().or_else(|| places.variable("HOB_CONFIG"));
    let path = given.clone().unwrap_or_else(|| places.default_config());
    let name: Arc<str> = Arc::from(path.to_string_lossy());
    let mut problems = Problems::default();
    let mut file = options::defaults(SETTINGS);
    let mut files = Vec::new();
    match read_bounded(&path) {
        Ok(bytes) => {
            files.push(path);
            match toml::parse(&name, &bytes) {
                Ok(root) => problems = options::apply(SETTINGS, &mut file, &root),
                Err(wrong) => return Err(wrong),
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && given.is_none() => {}
        Err(error) => return Err(Problem::new(&Place::file(&name), format!("cannot read it: {error}")).into()),
    }
    let settings = places.settle(flags, file, files, users, &mut problems);
    problems.or(settings)
}

/// What decides about paths.
struct Places<'a> {
    root: bool,
    own: &'a Env,
    own_home: PathBuf,
}

impl Places<'_> {
    fn settle(
        &self,
        flags: &Overrides,
        file: SettingsFile,
        files: Vec<PathBuf>,
        users: &mut Users,
        problems: &mut Problems,
    ) -> Settings {
        let mut choose = |flag: &Option<PathBuf>, variable: &str, option: &Option<At<String>>, otherwise: PathBuf| {
            if let Some(path) = flag.clone().or_else(|| self.variable(variable)) {
                return absolute(path);
            }
            match option {
                Some(option) => self.in_file(option).unwrap_or_else(|problem| {
                    problems.push(problem);
                    otherwise
                }),
                None => otherwise,
            }
        };
        let state_dir = choose(&flags.state_dir, "HOB_STATE_DIR", &file.state_dir, self.default_state());
        let log_dir = choose(&flags.log_dir, "HOB_LOG_DIR", &file.log_dir, self.default_logs());
        let socket = choose(&flags.socket, "HOB_SOCKET", &file.socket, self.default_socket(&state_dir));
        let default_home = self.default_home(file.user.as_ref(), users);
        let home = choose(&flags.home, "HOB_HOME", &file.home, default_home);
        if socket.as_os_str().len() > SOCKET_PATH {
            let at = file.socket.as_ref().map_or_else(|| Place::file(&Arc::from("socket")), |socket| socket.at.clone());
            let length = socket.as_os_str().len();
            let told =
                format!("{} is {length} bytes long; a socket's path has at most {SOCKET_PATH}", socket.display());
            problems.push(Problem::new(&at, told).hint("choose a shorter one with HOB_SOCKET or socket ="));
        }
        let socket_group = file.socket_group.clone().and_then(|group| {
            let found = users.group(&group.value);
            let problem = |why: super::users::NotFound| Problem {
                at: group.at,
                message: format!("socket_group: {}", why.message),
                hint: why.hint,
            };
            found.map_err(|why| problems.push(problem(why))).ok()
        });
        let listen = listen(&file, problems);
        let haproxy =
            file.haproxy.as_ref().and_then(|given| self.in_file(given).map_err(|problem| problems.push(problem)).ok());
        Settings {
            files,
            socket,
            socket_mode: file.socket_mode.unwrap_or(0o600),
            socket_group,
            listen,
            state_dir,
            log_dir,
            home,
            home_mode: file.home_mode,
            build_timeout: file.build_timeout,
            postinstall_timeout: file.postinstall_timeout,
            responsive_timeout: file.responsive_timeout,
            proxy: file.proxy,
            haproxy,
            proxy_drain: file.proxy_drain,
            user: file.user,
            project: file.project,
            exit_when: file.exit_when,
            relay_signals: file.relay_signals,
            console: file.console,
            console_auto: false,
            log_level: file.log_level,
            defaults: file.defaults,
            root: self.root,
        }
    }

    /// A variable with something in it.
    fn variable(&self, name: &str) -> Option<PathBuf> {
        self.own.get(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    fn in_file(&self, option: &At<String>) -> Result<PathBuf, Problem> {
        let path = expand::tilde(&option.value, &self.own_home);
        if path.is_absolute() {
            return Ok(path);
        }
        Err(Problem::new(&option.at, format!("{} is not an absolute path", quoted(&option.value)))
            .hint("begin it with / or ~/"))
    }

    /// A directory of the XDG base directory specification, which wants absolute paths alone.
    fn xdg(&self, variable: &str, otherwise: &str) -> PathBuf {
        self.variable(variable).filter(|path| path.is_absolute()).unwrap_or_else(|| self.own_home.join(otherwise))
    }

    fn default_config(&self) -> PathBuf {
        if self.root {
            PathBuf::from("/etc/hob.toml")
        } else {
            self.xdg("XDG_CONFIG_HOME", ".config").join("hob/hob.toml")
        }
    }

    fn default_state(&self) -> PathBuf {
        if self.root { PathBuf::from("/var/lib/hob") } else { self.xdg("XDG_STATE_HOME", ".local/state").join("hob") }
    }

    fn default_logs(&self) -> PathBuf {
        if self.root {
            PathBuf::from("/var/log/supervisor")
        } else {
            self.xdg("XDG_STATE_HOME", ".local/state").join("hob/log")
        }
    }

    fn default_socket(&self, state_dir: &Path) -> PathBuf {
        if self.root {
            return PathBuf::from("/run/hob/hob.sock");
        }
        match self.variable("XDG_RUNTIME_DIR").filter(|path| path.is_absolute()) {
            Some(dir) => dir.join("hob/hob.sock"),
            None => state_dir.join("hob.sock"),
        }
    }

    fn default_home(&self, user: Option<&At<String>>, users: &mut Users) -> PathBuf {
        if !self.root {
            return self.own_home.clone();
        }
        let name = user.map_or(DEFAULT_USER, |user| user.value.as_str());
        let known = user.is_some() || users.has(DEFAULT_USER);
        let found = known.then(|| users.find(name).ok()).flatten().filter(|found| found.uid != 0);
        found.map_or_else(|| PathBuf::from("/home/dotcloud"), |found| found.home)
    }
}

/// The server on the network, if all of its options go together.
fn listen(file: &SettingsFile, problems: &mut Problems) -> Option<Listen> {
    let (user, password) = (&file.listen_user, &file.listen_password);
    let Some(address) = &file.listen else {
        // One that cannot be understood is an error already.
        if problems.0.iter().any(|problem| problem.message.starts_with("listen ")) {
            return None;
        }
        let useless = [("listen_user", user), ("listen_password", password)];
        for (key, value) in useless.iter().filter_map(|(key, value)| Some((key, value.as_ref()?))) {
            problems.push(Problem::new(&value.at, format!("{key} means nothing without listen")));
        }
        return None;
    };
    let Some(password) = password else {
        let told = "listen would let everybody in who reaches the address";
        problems.push(Problem::new(&address.at, told).hint("set listen_password"));
        return None;
    };
    let username = user.as_ref().map(|user| user.value.clone()).unwrap_or_default();
    let login = Login { username, password: password.value.clone() };
    Some(Listen { address: address.value.clone(), login })
}

/// `9001` and `127.0.0.1:9001` are of this machine, `*:9001` is every address.
fn address(text: &str) -> Result<Address, Wrong> {
    let wrong =
        |message: String| Wrong { message, hint: Some("write 127.0.0.1:9001, [::1]:9001 or *:9001".to_owned()) };
    let (host, port) = text.rsplit_once(':').unwrap_or(("127.0.0.1", text));
    let host = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
    let port = match port.parse::<u16>() {
        Ok(port) if port > 0 => port,
        _ => return Err(wrong(format!("{} is not a port", quoted(port)))),
    };
    match host {
        "*" => Ok(Address::Inet { host: String::new(), port }),
        "localhost" => Ok(Address::Inet { host: "127.0.0.1".to_owned(), port }),
        // A name would have to be looked up, and whoever answers decides where we listen.
        host if host.parse::<std::net::IpAddr>().is_ok() => Ok(Address::Inet { host: host.to_owned(), port }),
        host => Err(wrong(format!("{} is not an address", quoted(host)))),
    }
}

fn own_home(own: &Env, users: &mut Users) -> PathBuf {
    match own.get("HOME") {
        Some(home) if home.starts_with('/') => PathBuf::from(home),
        _ => users.own().home,
    }
}

/// From the current directory, if there still is one.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// Whom processes run as when hob is root, if that user exists.
pub const DEFAULT_USER: &str = "dotcloud";

/// sun_path, but for its NUL.
const SOCKET_PATH: usize = 107;

pub const SETTINGS: &[Opt<SettingsFile>] = &[
    Opt {
        key: "socket",
        kind: PATH,
        default: "",
        doc: "The control socket. Default: /run/hob/hob.sock; $XDG_RUNTIME_DIR/hob/hob.sock for an ordinary user, else \
              hob.sock in the state directory.",
        set: |o, v| put(&mut o.socket, Some(located(v)?)),
    },
    Opt {
        key: "socket_mode",
        kind: "octal number",
        default: "\"0600\"",
        doc: "The permissions of the control socket. Whatever they are, only root, hob's own user and the group are served.",
        set: |o, v| put(&mut o.socket_mode, Some(scalar(v, kinds::octal)?)),
    },
    Opt {
        key: "socket_group",
        kind: "group name or gid",
        default: "",
        doc: "The group of the control socket. Default: hob's own.",
        set: |o, v| put(&mut o.socket_group, Some(located(v)?)),
    },
    Opt {
        key: "listen",
        kind: "address:port",
        default: "",
        doc: "Listen on the network too, for the page, the API and /metrics; the port alone is one of 127.0.0.1, and * \
              every address. Needs listen_password. There is no encryption: let a \
              proxy do that. Read when hob starts.",
        set: |o, v| put(&mut o.listen, Some(At { value: scalar(v, address)?, at: v.at.clone() })),
    },
    Opt {
        key: "listen_password",
        kind: "text",
        default: "",
        doc: "What has to be known there: the password of HTTP Basic authentication, and without listen_user a token too, \
              for Authorization: Bearer. As it is, or as {SHA256} and its SHA-256 in hexadecimal digits; as it is, \
              this file should be readable for its owner only.",
        set: |o, v| put(&mut o.listen_password, Some(located(v)?)),
    },
    Opt {
        key: "listen_user",
        kind: "word",
        default: "",
        doc: "The user that belongs to the password. Default: any.",
        set: |o, v| put(&mut o.listen_user, Some(located(v)?)),
    },
    Opt {
        key: "state_dir",
        kind: PATH,
        default: "",
        doc: "What hob remembers. Default: /var/lib/hob; $XDG_STATE_HOME/hob for an ordinary user.",
        set: |o, v| put(&mut o.state_dir, Some(located(v)?)),
    },
    Opt {
        key: "log_dir",
        kind: PATH,
        default: "",
        doc: "The logs of processes. Default: /var/log/supervisor; $XDG_STATE_HOME/hob/log for an ordinary user.",
        set: |o, v| put(&mut o.log_dir, Some(located(v)?)),
    },
    Opt {
        key: "home",
        kind: PATH,
        default: "",
        doc: "The home that builds and instances see. Default: that of the user, else /home/dotcloud; $HOME for an \
              ordinary user.",
        set: |o, v| put(&mut o.home, Some(located(v)?)),
    },
    Opt {
        key: "home_mode",
        kind: "auto, bind or direct",
        default: "auto",
        doc: "bind: every release's home is bound over the path of home in its own mount namespace. direct: the home is \
              the release's own directory. auto: bind where hob may.",
        set: |o, v| {
            let words = [("auto", HomeMode::Auto), ("bind", HomeMode::Bind), ("direct", HomeMode::Direct)];
            put(&mut o.home_mode, scalar(v, |text| kinds::word(text, &words))?)
        },
    },
    Opt {
        key: "build_timeout",
        kind: DURATION,
        default: "15m",
        doc: "How long each script of a build may take, and the installation of systempackages.",
        set: |o, v| put(&mut o.build_timeout, scalar(v, positive)?),
    },
    Opt {
        key: "postinstall_timeout",
        kind: DURATION,
        default: "10m",
        doc: "How long the postinstall script of an instance may take.",
        set: |o, v| put(&mut o.postinstall_timeout, scalar(v, positive)?),
    },
    Opt {
        key: "responsive_timeout",
        kind: DURATION,
        default: "60s",
        doc: "How long a new instance may take until its processes are ready and its declared http and tcp ports accept \
              connections. After that hob goes back to the release before.",
        set: |o, v| put(&mut o.responsive_timeout, scalar(v, positive)?),
    },
    Opt {
        key: "proxy",
        kind: "auto, always or never",
        default: "auto",
        doc: "Where a load balancer, HAProxy, serves the public port of a service: auto: in front of services with several \
              instances. always: also with one, whose requests then wait while it is replaced. never: each instance is \
              reached at its own port. See PORTS in dotcloud.yml(5).",
        set: |o, v| {
            let words = [("auto", When::Auto), ("always", When::Always), ("never", When::Never)];
            put(&mut o.proxy, scalar(v, |text| kinds::word(text, &words))?)
        },
    },
    Opt {
        key: "haproxy",
        kind: PATH,
        default: "",
        doc: "The program. Default: haproxy in PATH or in /usr/sbin.",
        set: |o, v| put(&mut o.haproxy, Some(located(v)?)),
    },
    Opt {
        key: "proxy_drain",
        kind: DURATION,
        default: "10s",
        doc: "How long a deployment waits for requests and connections that are under way before it stops an instance \
              behind the load balancer. New ones go to the other instances meanwhile.",
        set: |o, v| put(&mut o.proxy_drain, scalar(v, kinds::duration)?),
    },
    Opt {
        key: "user",
        kind: options::USER,
        default: "",
        doc: "Whom scripts and processes run as when hob is root. Default: dotcloud, if there is such a user; otherwise \
              they run as root, and hob says so.",
        set: |o, v| put(&mut o.user, Some(located(v)?)),
    },
    Opt {
        key: "project",
        kind: "word",
        default: "",
        doc: "The name of the application, in DOTCLOUD_PROJECT. Default: the name of the directory of the code.",
        set: |o, v| put(&mut o.project, Some(text(v)?)),
    },
    Opt {
        key: "exit_when",
        kind: "never, any-fatal or all-exited",
        default: "never",
        doc: "When hob ends by itself, with the exit status of the process that decided: never, as soon as one process is \
              FATAL, or when none runs any more; then the last that has failed decides, if one has. The load balancer does \
              not count, nor what happens during a deployment.",
        set: |o, v| put(&mut o.exit_when, scalar(v, kinds::exit_when)?),
    },
    Opt {
        key: "console",
        kind: CONSOLE,
        default: "auto",
        doc: "Copy the output of processes to hob's own, each line behind the name of its process. auto: when hob is PID \
              1 or was started by hob up.",
        set: |o, v| put(&mut o.console, scalar(v, tri)?),
    },
    Opt {
        key: "log_level",
        kind: "off, error, warn, info, debug or trace",
        default: "info",
        doc: "How much hob itself says on its standard error. HOB_LOG is stronger.",
        set: |o, v| {
            let words = ["off", "error", "warn", "info", "debug", "trace"].map(|word| (word, word));
            put(&mut o.log_level, scalar(v, |text| kinds::word(text, &words))?.to_owned())
        },
    },
    Opt {
        key: "relay_signals",
        kind: "table of signals to process names",
        default: "",
        doc: "Signals to pass on to processes when hob gets them, as in USR1 = [\"www\"].",
        set: |o, v| put(&mut o.relay_signals, relays(v)?),
    },
    Opt {
        key: "defaults",
        kind: "table of process options",
        default: "",
        doc: "Defaults for the options of every process; see PROCESS OPTIONS in dotcloud.yml(5).",
        set: |o, v| {
            let (_, mut problems) = ProcessOptions::layered(&[Some(v)]);
            for (key, _) in v.map().unwrap_or_default() {
                if NOT_A_DEFAULT.contains(&key.text.as_str()) {
                    problems.push(Problem::new(&key.at, format!("{} belongs to one process", quoted(&key.text))));
                }
            }
            o.defaults = Some(v.clone());
            problems.or(())
        },
    },
];

fn relays(value: &Value) -> Result<Relays, Problems> {
    let mut problems = Problems::default();
    let mut relays = Vec::new();
    let Some(entries) = value.map() else {
        return Err(Problem::new(&value.at, "must be a table")
            .hint("write [relay_signals] and USR1 = [\"www\"]")
            .into());
    };
    for (key, value) in entries {
        match (relayed_signal(&key.text), names(value)) {
            (Ok(signal), Ok(names)) => relays.push((signal, names)),
            (Err(wrong), _) => {
                problems.push(Problem { at: key.at.clone(), message: wrong.message, hint: wrong.hint });
            }
            (Ok(_), Err(wrong)) => problems.0.extend(wrong.0),
        }
    }
    problems.or(relays)
}

fn relayed_signal(text: &str) -> Result<i32, Wrong> {
    let signal = kinds::signal(text)?;
    // TERM, INT and QUIT begin hob's own shutdown, CHLD is how it works, KILL and STOP never arrive, and the rest of
    // these tell of a bug in hob itself.
    if [2, 3, 4, 6, 7, 8, 9, 11, 15, 17, 19].contains(&signal) {
        let hint = Some("HUP, USR1, USR2, WINCH, ALRM and others can be".to_owned());
        return Err(Wrong { message: format!("{} cannot be relayed", quoted(text)), hint });
    }
    Ok(signal)
}

/// Whether TOML writes a default without quotes.
#[cfg(test)]
pub fn is_bare_in_toml(default: &str) -> bool {
    let number = default.parse::<i64>().is_ok_and(|n| n.to_string() == default);
    number || matches!(default, "true" | "false") || default.starts_with(['[', '"'])
}

/// The keys of `[defaults]`.
#[cfg(test)]
pub fn default_options() -> impl Iterator<Item = &'static Opt<ProcessOptions>> {
    options::PROCESS.iter().filter(|option| !NOT_A_DEFAULT.contains(&option.key))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const PASSWD: &str =
        "root:x:0:0::/root:/bin/sh\ndotcloud:x:1000:1000::/home/dc:/bin/bash\nweb:x:7:7::/srv/web:/bin/sh\n";

    fn load(text: Option<&str>, env: &[(&str, &str)], root: bool, flags: Overrides) -> Result<Settings, String> {
        let dir = tempfile::tempdir().unwrap();
        let config = text.map(|text| {
            let path = dir.path().join("hob.toml");
            fs::write(&path, text).unwrap();
            path
        });
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        // Never the settings of the machine the test runs on.
        let missing = text.is_none() && root;
        let flags = Overrides { config: config.or(flags.config.clone()), ..flags };
        assert!(!missing || !Path::new("/etc/hob.toml").exists());
        let name = dir.path().to_string_lossy().into_owned() + "/";
        let mut users = Users::from_texts(PASSWD, "web:x:7:\n");
        settings_for(&flags, &env, root, &mut users).map_err(|problems| problems.to_string().replace(&name, ""))
    }

    fn path(path: &str) -> PathBuf {
        PathBuf::from(path)
    }

    #[test]
    fn root_and_ordinary_users_have_their_own_places() {
        let root = load(None, &[("HOME", "/root")], true, Overrides::default()).unwrap();
        assert_eq!(root.socket, path("/run/hob/hob.sock"));
        assert_eq!(
            (root.state_dir, root.log_dir, root.home),
            (path("/var/lib/hob"), path("/var/log/supervisor"), path("/home/dc"))
        );
        let env = [("HOME", "/home/nobody-here"), ("XDG_STATE_HOME", "relative")];
        let user = load(None, &env, false, Overrides::default()).unwrap();
        let state = path("/home/nobody-here/.local/state/hob");
        assert_eq!((user.socket, user.log_dir), (state.join("hob.sock"), state.join("log")));
        assert_eq!((user.state_dir, user.home), (state, path("/home/nobody-here")));
        let env = [("HOME", "/home/nobody-here"), ("XDG_STATE_HOME", "/s"), ("XDG_RUNTIME_DIR", "/run/user/7")];
        let user = load(None, &env, false, Overrides::default()).unwrap();
        assert_eq!((user.socket, user.state_dir), (path("/run/user/7/hob/hob.sock"), path("/s/hob")));
    }

    #[test]
    fn a_flag_beats_the_variable_beats_the_file_beats_the_default() {
        let file = Some("state_dir = \"/file\"\nuser = \"web\"\nlog_dir = \"~/log\"\n");
        let from_file = load(file, &[("HOME", "/root")], true, Overrides::default()).unwrap();
        assert_eq!((from_file.state_dir, from_file.log_dir), (path("/file"), path("/root/log")));
        assert_eq!(from_file.home, path("/srv/web"));
        let env = [("HOME", "/root"), ("HOB_STATE_DIR", "/variable")];
        assert_eq!(load(file, &env, true, Overrides::default()).unwrap().state_dir, path("/variable"));
        let flags = Overrides { state_dir: Some(path("/flag")), ..Overrides::default() };
        assert_eq!(load(file, &env, true, flags).unwrap().state_dir, path("/flag"));
    }

    #[test]
    fn mistakes_have_their_place_and_a_hint() {
        let file = "sokcet = \"/x\"\nlog_dir = \"logs\"\nexit_when = \"nevr\"\nsocket_group = \"wbe\"\n[defaults]\nstopsignal = \"TREM\"\ncommand = \"x\"\n[defaults.health]\ntcp = \"h:1\"\nevry = 3\n[relay_signals]\nTERM = [\"a\"]\n";
        let error = load(Some(file), &[("HOME", "/root")], true, Overrides::default()).unwrap_err();
        let expected = [
            "hob.toml:1:1: unknown option \"sokcet\"; did you mean \"socket\"?",
            "hob.toml:2:11: \"logs\" is not an absolute path; begin it with / or ~/",
            "hob.toml:3:13: exit_when \"nevr\" is not one of never, any-fatal, all-exited; did you mean \"never\"?",
            "hob.toml:4:16: socket_group: there is no group \"wbe\"; did you mean \"web\"?",
            "hob.toml:6:14: defaults stopsignal \"TREM\" is not a signal; did you mean \"TERM\"?",
            "hob.toml:7:1: defaults \"command\" belongs to one process",
            "hob.toml:10:1: defaults health unknown option \"evry\"; did you mean \"every\"?",
            "hob.toml:12:1: relay_signals \"TERM\" cannot be relayed; HUP, USR1, USR2, WINCH, ALRM and others can be",
        ];
        assert_eq!(error, expected.join("\n"));
    }

    #[test]
    fn the_network_is_listened_to_only_with_a_login() {
        let listen = |text: &str| {
            let settings = load(Some(text), &[("HOME", "/root")], true, Overrides::default());
            settings.map(|settings| settings.listen.map(|l| (l.address, l.login.username, l.login.password)))
        };
        let at = |host: &str| Address::Inet { host: host.into(), port: 9001 };
        assert_eq!(listen(""), Ok(None));
        let token = listen("listen = 9001\nlisten_password = \"t\"\n");
        assert_eq!(token, Ok(Some((at("127.0.0.1"), String::new(), "t".into()))));
        let user = listen("listen = \"[::1]:9001\"\nlisten_user = \"u\"\nlisten_password = \"p\"\n");
        assert_eq!(user, Ok(Some((at("::1"), "u".into(), "p".into()))));
        let all = listen("listen = \"*:9001\"\nlisten_password = \"t\"\n");
        assert_eq!(all.map(|l| l.map(|l| l.0)), Ok(Some(at(""))));
        let open = "listen would let everybody in who reaches the address; set listen_password";
        let form = "write 127.0.0.1:9001, [::1]:9001 or *:9001";
        for (text, why) in [
            ("listen = 9001\n", format!("1:10: {open}")),
            ("listen = 9001\nlisten_user = \"u\"\n", format!("1:10: {open}")),
            ("listen_password = \"t\"\n", "1:19: listen_password means nothing without listen".into()),
            ("listen = \"h:9001\"\nlisten_password = \"t\"\n", format!("1:10: listen \"h\" is not an address; {form}")),
            ("listen = \"127.0.0.1:0\"\n", format!("1:10: listen \"0\" is not a port; {form}")),
        ] {
            assert_eq!(listen(text), Err(format!("hob.toml:{why}")), "{text}");
        }
    }

    #[test]
    fn a_file_that_was_asked_for_must_be_there() {
        let flags = Overrides { config: Some(path("/no/such/hob.toml")), ..Overrides::default() };
        let error = load(None, &[("HOME", "/h")], false, flags).unwrap_err();
        assert_eq!(error, "/no/such/hob.toml: cannot read it: No such file or directory (os error 2)");
    }

    #[test]
    fn every_default_is_accepted_by_its_own_reader() {
        let file = Arc::from("built-in");
        for option in SETTINGS.iter().filter(|option| !option.default.is_empty()) {
            let value = super::super::yaml::parse(&file, option.default.as_bytes()).unwrap().unwrap();
            assert!((option.set)(&mut SettingsFile::default(), &value).is_ok(), "{}", option.key);
        }
    }
}
