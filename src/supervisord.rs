//! hob by the name of supervisord: its flags, its search for a configuration, its start (reference/supervisord.md §1.6,
//! §1.7). What runs afterwards is hob's own daemon in supervisord's mode.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::config::{self, Conf, Flags, Level, Main, MainLog, Note, Problems, Setting};
use crate::daemon::{self, Given, Refusal, Roles, mainlog};
use crate::plan::{Address, LogExtras, LogSpec, MainSettings, OnFull, Plan, Server};
use crate::sys::socket_unix::reason;
use crate::sys::{self, process};

/// Whatever the words of the command line say. The result is an exit status; every error of the start is 2.
pub fn main(argv0: &OsString, args: &[OsString], roles: Roles) -> i32 {
    let args: Vec<String> = args.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let program = Path::new(argv0).file_name().map_or("supervisord".into(), |name| name.to_string_lossy());
    let flags = match Flags::parse(&args) {
        Ok(flags) => flags,
        Err(why) => return refuse(argv0, &[why]),
    };
    if flags.has('h') {
        print!("{}", config::supervisord_usage(&program));
        return 0;
    }
    if flags.has('v') {
        println!("{}", crate::control::SUPERVISOR_VERSION);
        return 0;
    }
    match start(argv0, flags, roles) {
        Ok(status) => status,
        Err(errors) => refuse(argv0, &errors),
    }
}

fn refuse(argv0: &OsString, errors: &[String]) -> i32 {
    let mut text: String = errors.iter().map(|error| format!("Error: {error}\n")).collect();
    text.push_str(&format!("For help, use {} -h\n", argv0.to_string_lossy()));
    let _ = io::stderr().write_all(text.as_bytes());
    2
}

fn start(argv0: &OsString, flags: Flags, roles: Roles) -> Result<i32, Vec<String>> {
    let root = process::effective_uid() == 0;
    let file = find(argv0, &flags, root)?;
    let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let env = config::own_env();
    let is_test = flags.has('T');
    let read = {
        let (file, cwd) = (file.clone(), cwd.clone());
        move |env: &config::Env| {
            config::supervisord(&Setting { file: &file, flags: &flags, env, cwd: &cwd, root, seen_in: None })
        }
    };
    let conf = match read(&env) {
        Ok(conf) if is_test => return Ok(tell_good(&conf, &file)),
        Err(problems) if is_test => return Ok(tell_bad(&problems)),
        read => read.map_err(|problems| told(&problems))?,
    };
    let is_daemon = !conf.main.nodaemon;
    let parent = if is_daemon { Some(become_daemon()?) } else { None };
    let result = run(conf, &file, roles, parent, Box::new(read));
    match result {
        Err(errors) if is_daemon => {
            // The one who typed the command still waits for this, and then ends with our status.
            std::process::exit(refuse(argv0, &errors));
        }
        other => other,
    }
}

/// What `--test` says of a configuration that would run.
fn tell_good(conf: &Conf, file: &Path) -> i32 {
    for warning in &conf.warnings {
        tell!("warning: {warning}");
    }
    for note in &conf.notes {
        if let Note::Warning(text) | Note::Critical(text) = note {
            tell!("warning: {text}");
        }
    }
    let groups = conf.plan.supervisord.as_ref().map_or(0, |own| own.groups.len());
    println!("{}: good, {} processes in {groups} groups", file.display(), conf.plan.specs.len());
    0
}

fn tell_bad(problems: &Problems) -> i32 {
    tell!("{problems}");
    2
}

type ReadAgain = dyn Fn(&config::Env) -> Result<Conf, Problems>;

fn find(argv0: &OsString, flags: &Flags, root: bool) -> Result<PathBuf, Vec<String>> {
    if let Some(file) = flags.configuration() {
        return Ok(file);
    }
    let places = config::supervisord_conf_places(argv0);
    let mut say = |why: String| drop(writeln!(io::stderr(), "{why}"));
    config::find_supervisord_conf(&places, if root { 0 } else { 1 }, &mut say).ok_or_else(|| {
        let places: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        vec![format!(
            "No config file found at default paths ({}); use the -c option to specify a config file at a different path",
            places.join(", ")
        )]
    })
}

fn told(problems: &Problems) -> Vec<String> {
    problems.0.iter().map(|problem| problem.message.clone()).collect()
}

/// Everything from the privileges to the end of the daemon.
fn run(
    conf: Conf,
    file: &Path,
    roles: Roles,
    parent: Option<OwnedFd>,
    read: Box<ReadAgain>,
) -> Result<i32, Vec<String>> {
    let Conf { plan, main, notes, .. } = conf;
    mainlog::init(filter(main.loglevel));
    if process::effective_uid() == 0 && main.user.is_none() {
        log::error!(
            target: mainlog::CRITICAL,
            "Supervisor is running as root.  Privileges were not dropped because no user is specified in the config \
             file.  If you intend to run as root, you can set user=root in the config file to avoid this message."
        );
    }
    let dropped = drop_privileges(&main)?;
    set_limits(&main)?;
    sys::limits::set_umask(main.umask);
    if let Some(directory) = &main.directory {
        std::env::set_current_dir(directory)
            .map_err(|why| vec![format!("can't chdir into {}: {}", directory.display(), reason(&why))])?;
    }
    for note in notes {
        match note {
            Note::Warning(text) => log::warn!("{text}"),
            Note::Info(text) => log::info!("{text}"),
            Note::Critical(text) => log::error!(target: mainlog::CRITICAL, "{text}"),
        }
    }
    if let Some(text) = dropped {
        log::info!("{text}");
    }
    if !main.nocleanup {
        remove_old_logs(&main);
    }
    let main_log = main_log(&main);
    check_log(&main_log)?;
    let servers = plan.supervisord.as_ref().map(|own| own.servers.clone()).unwrap_or_default();
    tell_of_stale_sockets(&servers);
    let (pidfile, nocleanup) = (main.pidfile.clone(), main.nocleanup);
    let childlogdir = main.childlogdir.clone();
    if parent.is_some() {
        log::info!("daemonizing the supervisord process");
    }
    let given = Given { plan, main_log: Some(main_log), pidfile, nocleanup, ready: Box::new(move || detach(parent)) };
    let options = daemon::Options {
        socket: runtime_place(&main),
        servers,
        log_dir: match &main.logfile {
            // Automatic logs usually stand where everybody's temporary files do.
            Some(MainLog::File { path, .. }) => path.parent().map_or_else(|| childlogdir.clone(), Path::to_owned),
            _ => childlogdir.clone(),
        },
        state_dir: state_dir(&main, file),
        config: vec![file.to_owned()],
        roles,
        make_plan: Box::new(move |_, _, done| {
            let read = read(&config::own_env());
            done(read.map(with_main).map_err(|problems| Refusal { errors: told(&problems), status: 2 }));
        }),
        far_off: Box::new(Vec::new),
        booted: serde_json::Value::Null,
        supervisord: Some(given),
        deployed: false,
    };
    daemon::boot(options).map_err(|why| {
        vec![match why.kind() {
            io::ErrorKind::AddrInUse => format!(
                "Another program is already listening on a port that one of our HTTP servers is configured to use.  \
                 Shut this program down first before starting supervisord. ({why})"
            ),
            _ => why.to_string(),
        }]
    })
}

/// They are replaced when we listen there.
fn tell_of_stale_sockets(servers: &[Server]) {
    for server in servers {
        if let Address::Unix { path, .. } = &server.address
            && UnixStream::connect(path).is_err_and(|why| why.kind() == io::ErrorKind::ConnectionRefused)
        {
            let _ = writeln!(io::stderr(), "Unlinking stale socket {}", path.display());
        }
    }
}

/// The first of its kind: one fork, a session of its own. The parent waits until the child says that all is well, or
/// ends with the child's status.
fn become_daemon() -> Result<OwnedFd, Vec<String>> {
    let cannot = |why: io::Error| vec![format!("cannot daemonize: {why}")];
    let (mut rx, tx) = io::pipe().map_err(cannot)?;
    match process::fork_and_go_on().map_err(cannot)? {
        None => {
            drop(rx);
            process::new_session().map_err(cannot)?;
            Ok(tx.into())
        }
        Some(child) => {
            drop(tx);
            let mut word = [0];
            match rx.read(&mut word) {
                Ok(1) => process::exit_now(0),
                _ => process::exit_now(process::wait_for(child).map_or(2, process::Ended::status)),
            }
        }
    }
}

/// Lets go of the terminal, and of the parent that waits.
fn detach(parent: Option<OwnedFd>) {
    let Some(parent) = parent else { return };
    if let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        let null = OwnedFd::from(null);
        for number in 0..3 {
            let _ = process::place_fd(std::os::fd::AsFd::as_fd(&null), number);
        }
    }
    let _ = std::fs::File::from(parent).write_all(b"+");
}

/// What is to be said about it in the log.
fn drop_privileges(main: &Main) -> Result<Option<String>, Vec<String>> {
    let Some(user) = &main.user else { return Ok(None) };
    let own = process::effective_uid();
    if own != 0 {
        if own == user.uid {
            return Ok(None);
        }
        return Err(vec!["Can't drop privilege as nonroot user".to_owned()]);
    }
    if user.uid == 0 {
        return Ok(Some("Set uid to user 0 succeeded".to_owned()));
    }
    process::become_user(user.uid, user.gid, &user.groups)
        .map_err(|(step, why)| vec![format!("Could not set uid to user {}: cannot {step}: {why}", user.uid)])?;
    Ok(Some(format!("Set uid to user {} succeeded", user.uid)))
}

fn set_limits(main: &Main) -> Result<(), Vec<String>> {
    let limits: [(&str, &str, u64, sys::limits::Limit); 2] = [
        ("file descriptors", "minfds", main.minfds, sys::limits::Limit::NoFile),
        ("processes", "minprocs", main.minprocs, sys::limits::Limit::NProc),
    ];
    for (what, option, wanted, limit) in limits {
        let Ok((soft, hard)) = sys::limits::get(limit) else { continue };
        if soft >= wanted {
            continue;
        }
        let hard = hard.max(wanted);
        sys::limits::set(limit, wanted, hard).map_err(|_| {
            vec![format!(
                "The minimum number of {what} required to run this process is {wanted} as per the \"{option}\" \
                 command-line argument or config file setting. The current environment will only allow you to use \
                 fewer. Either raise the number of usable {what} in your environment (see README.rst) or lower the \
                 {option} setting in the config file to allow the process to start."
            )]
        })?;
        log::info!("Increased {} limit to {wanted}", if option == "minfds" { "RLIMIT_NOFILE" } else { "RLIMIT_NPROC" });
    }
    Ok(())
}

fn filter(level: Level) -> log::LevelFilter {
    match level {
        Level::Critical | Level::Error => log::LevelFilter::Error,
        Level::Warning => log::LevelFilter::Warn,
        Level::Info => log::LevelFilter::Info,
        Level::Debug => log::LevelFilter::Debug,
        Level::Trace | Level::Blather => log::LevelFilter::Trace,
    }
}

/// Where the main log goes: a file, syslog, and in the foreground our own output too.
fn main_log(main: &Main) -> LogSpec {
    let mut spec = LogSpec {
        on_full: OnFull::DropNewest,
        console: main.nodaemon && !main.silent,
        extras: Some(Box::default()),
        ..LogSpec::default()
    };
    match &main.logfile {
        None => {}
        Some(MainLog::Syslog) => {
            spec.extras = Some(Box::new(LogExtras { syslog: true, ..LogExtras::default() }));
        }
        Some(MainLog::File { path, max_bytes, backups }) => {
            spec.path.clone_from(path);
            (spec.max_bytes, spec.backups) = (*max_bytes, *backups);
            let is_own = path.to_str().is_some_and(|p| ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].contains(&p));
            spec.console &= !is_own;
        }
    }
    spec
}

/// A log that cannot be written is better told now than never.
fn check_log(spec: &LogSpec) -> Result<(), Vec<String>> {
    if let Some(path) = spec.file().filter(|path| !path.starts_with("/dev") && !path.starts_with("/proc")) {
        let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
        opened.map_err(|why| vec![format!("cannot open the log {}: {}", path.display(), reason(&why))])?;
    }
    Ok(())
}

/// With what a restart takes over beside the plan.
fn with_main(conf: Conf) -> Plan {
    let Conf { mut plan, main, .. } = conf;
    if let Some(own) = &mut plan.supervisord {
        let (log, loglevel) = (main_log(&main), filter(main.loglevel).to_string());
        own.main = Some(Box::new(MainSettings { log, loglevel, pidfile: main.pidfile }));
    }
    plan
}

/// Automatic logs of daemons that are gone.
fn remove_old_logs(main: &Main) {
    let mark = format!("---{}-", main.identifier);
    for entry in std::fs::read_dir(&main.childlogdir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if is_old_log(&String::from_utf8_lossy(name.as_bytes()), &mark) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// `NAME---IDENTIFIER-CHANCE.log` and its rotated ones, unless the daemon whose pid stands in it lives.
fn is_old_log(name: &str, mark: &str) -> bool {
    let Some(at) = name.find(mark).filter(|at| *at > 0) else { return false };
    let rest = &name[at + mark.len()..];
    let Some((chance, number)) = rest.rsplit_once(".log") else { return false };
    let number = number.strip_prefix('.').unwrap_or(number);
    let number = [".gz", ".zst"].iter().find_map(|end| number.strip_suffix(end)).unwrap_or(number);
    if chance.is_empty() || chance.contains(char::is_whitespace) || number.len() > 4 {
        return false;
    }
    if !number.bytes().all(|b| b.is_ascii_digit()) {
        return false;
    }
    let owner = chance.split_once('_').and_then(|(pid, _)| pid.parse::<i32>().ok()).filter(|pid| *pid > 1);
    owner.is_none_or(|pid| pid == process::pid().as_raw() || !Path::new(&format!("/proc/{pid}")).exists())
}

/// Where hob remembers what was disabled: by default a folder for each configuration file, which is made when there is
/// something to remember.
fn state_dir(main: &Main, file: &Path) -> PathBuf {
    if let Some(folder) = &main.state_dir {
        return folder.clone();
    }
    let base = match &main.user {
        Some(user) if user.uid != 0 => user.home.join(".local/state/hob"),
        _ if process::effective_uid() == 0 => PathBuf::from("/var/lib/hob"),
        _ => std::env::var_os("XDG_STATE_HOME").filter(|dir| !dir.is_empty()).map_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".local/state/hob"),
            |dir| PathBuf::from(dir).join("hob"),
        ),
    };
    base.join("supervisord").join(std::path::absolute(file).unwrap_or_default().to_string_lossy().replace('/', "-"))
}

/// Beside what the sockets of children are made, where one asks for them.
fn runtime_place(main: &Main) -> PathBuf {
    main.childlogdir.join(format!(".{}-{}", main.identifier, std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_automatic_logs_of_this_identifier_whose_daemon_is_gone_are_old() {
        let mark = "---supervisor-";
        let own = process::pid();
        for (name, is) in [
            ("web-stdout---supervisor-ab12cd34.log", true),
            ("web-stdout---supervisor-ab12cd34.log.1", true),
            ("web-stdout---supervisor-ab12cd34.log.1.gz", true),
            ("web-stdout---other-ab12cd34.log", false),
            ("---supervisor-ab12cd34.log", false),
            ("web-stdout---supervisor-ab12cd34.txt", false),
            ("web-stdout---supervisor-ab12cd34.log.x", false),
            ("web-stdout---supervisor-999999999_ab12cd34.log", true),
        ] {
            assert_eq!(is_old_log(name, mark), is, "{name}");
        }
        assert!(is_old_log(&format!("a---supervisor-{own}_x.log"), mark));
        let parent = nix::unistd::getppid();
        assert!(!is_old_log(&format!("a---supervisor-{parent}_x.log"), mark), "somebody else's, who lives");
    }
}
