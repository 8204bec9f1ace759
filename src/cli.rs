//! The command table: help, man page and completions come from it. Parses, then calls what does the work.

mod booting;
mod by_name;
mod deploying;
mod manual;
mod moving;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use serde::{Deserialize, Serialize};

use self::deploying::Deploying;
use self::moving::Moving;
use crate::client::{self, Act, Daemon, Failed};
use crate::config::{self, Overrides, Settings};
use crate::control::LogQuery;
use crate::daemon::{Roles, handover, launch, messages};
use crate::logger::{self, tail};
use crate::plan::Probe;
use crate::release::prepare::Source;
use crate::sys;
use crate::{init, pidproxy, probe, release};

/// An init and process supervisor that keeps a built $HOME running.
#[derive(Parser)]
#[command(name = "hob", version, max_term_width = 100, disable_help_subcommand = false)]
struct Cli {
    #[command(flatten)]
    places: Places,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Clone, Serialize, Deserialize)]
struct Places {
    /// The settings file [default: /etc/hob.toml as root, else $XDG_CONFIG_HOME/hob/hob.toml]
    #[arg(
        long,
        global = true,
        help_heading = "Paths",
        value_name = "FILE",
        env = "HOB_CONFIG",
        hide_env_values = true
    )]
    config: Option<PathBuf>,
    /// The control socket [default: /run/hob/hob.sock as root, else $XDG_RUNTIME_DIR/hob/hob.sock]
    #[arg(
        long,
        global = true,
        help_heading = "Paths",
        value_name = "FILE",
        env = "HOB_SOCKET",
        hide_env_values = true
    )]
    socket: Option<PathBuf>,
    /// Where hob keeps what it must remember [default: /var/lib/hob as root, else $XDG_STATE_HOME/hob]
    #[arg(
        long,
        global = true,
        help_heading = "Paths",
        value_name = "DIR",
        env = "HOB_STATE_DIR",
        hide_env_values = true
    )]
    state_dir: Option<PathBuf>,
    /// Where the logs are [default: /var/log/supervisor as root, else $XDG_STATE_HOME/hob/log]
    #[arg(
        long,
        global = true,
        help_heading = "Paths",
        value_name = "DIR",
        env = "HOB_LOG_DIR",
        hide_env_values = true
    )]
    log_dir: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon in the foreground, or one command as PID 1
    ///
    /// If an earlier daemon with the same state directory was killed, what it left running is ended before anything is
    /// started: SIGTERM, and SIGKILL after 10 seconds. So no process ever runs twice. The file of each daemon in the
    /// folder `running` of the state directory, and the marks that dotcloud.yml(5) describes under STOPPING, tell whose
    /// it is; daemons that share a state directory leave each other alone. As PID 1 the kernel sees to it.
    Boot {
        /// Boot this built home as one service; without it, what was last deployed
        #[arg(long, value_name = "DIR", env = "HOB_HOME", hide_env_values = true)]
        home: Option<PathBuf>,
        /// The dotcloud.yml of that home [default: DIR/dotcloud.yml, else DIR/code/dotcloud.yml]
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// The service of the dotcloud.yml that the home was built for
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// Instead: a command to run as PID 1, whose exit status becomes hob's
        #[arg(last = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Build a tree and run it in the foreground
    Up {
        /// The tree: where the dotcloud.yml is
        #[arg(default_value = ".", value_name = "DIR")]
        dir: PathBuf,
    },
    /// Build a tree, and print where the built homes are
    Build {
        /// The tree: where the dotcloud.yml is
        #[arg(default_value = ".", value_name = "DIR")]
        dir: PathBuf,
        /// Where to build: the home itself for one service, a folder of homes for several
        #[arg(long, value_name = "DIR")]
        home: Option<PathBuf>,
        /// Write the built homes and the code as one artifact, for hob push on another machine
        #[arg(short, long, value_name = "FILE.tar.zst", conflicts_with = "home")]
        out: Option<PathBuf>,
    },
    #[command(flatten)]
    Deploying(Deploying),
    /// Show the processes; exit status 3 if one that is named is not running
    Status {
        /// Which ones, in any form that `hob help start` shows; all if none is named
        names: Vec<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Tell the story of a process: why it is in its state, and what comes next
    Why {
        /// Which ones, in any form that `hob help start` shows
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Start processes and wait until they are ready
    Start(Names),
    /// Stop processes and wait until nothing of them is left
    Stop(Names),
    /// Stop and start processes, and wait until they are ready
    Restart {
        #[command(flatten)]
        names: Names,
        /// So many at a time, one by default, the next once these are ready again; the first that fails ends it
        #[arg(long, conflicts_with = "no_wait", value_name = "N", num_args = 0..=1, require_equals = true,
              default_missing_value = "1")]
        rolling: Option<std::num::NonZeroUsize>,
    },
    /// Let processes start by themselves again, as their configuration says
    Enable {
        #[command(flatten)]
        names: Known,
        /// Start them as well
        #[arg(long)]
        now: bool,
    },
    /// Keep processes from starting by themselves, over restarts of hob too
    Disable {
        #[command(flatten)]
        names: Known,
        /// Stop them as well
        #[arg(long)]
        now: bool,
    },
    /// Send a signal to the process groups of processes; exit status 3 if one is not running
    Signal {
        /// A name such as HUP, or a number
        signal: String,
        /// Which ones, in any form that `hob help start` shows
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Show the last lines of every file in the log directory, or of those named
    Logs {
        /// Processes, in any form that `hob help start` shows, or files there such as access.log; all if none is named
        names: Vec<String>,
        /// Go on with what is written from now on
        #[arg(short, long)]
        follow: bool,
        /// Lines of each file to begin with [default: 20, or all with --since]
        #[arg(short = 'n', long, value_name = "N")]
        lines: Option<usize>,
        /// Nothing older than `10m`, `2h`, `2026-01-31 12:00` or `2026-01-31T12:00:00Z`, as far as can be told
        #[arg(long, value_name = "TIME", value_parser = since)]
        since: Option<Duration>,
        #[command(flatten)]
        json: JsonLines,
    },
    /// Run a command, or a login shell, inside an instance
    Run {
        /// The service or instance; may be left out when there is only one
        #[arg(value_name = "SVC[.N]")]
        instance: Option<String>,
        /// The command [default: a login shell]
        #[arg(last = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Print recent changes of state as JSON lines
    Events {
        /// Print those from now on instead
        #[arg(short, long)]
        follow: bool,
        /// Print JSON, as without it
        #[arg(long)]
        json: bool,
    },
    /// Show what runs where
    Info {
        /// A service or an instance; all if none is named
        #[arg(value_name = "SVC")]
        service: Option<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Print the URLs of http ports
    Url {
        /// A service or an instance; all if none is named
        #[arg(value_name = "SVC")]
        service: Option<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Show the ports of all instances
    Ports {
        #[command(flatten)]
        json: Json,
    },
    /// Read the configuration again; only what changed restarts
    Reload,
    /// Let the running daemon become the hob that is on disk now; processes do not notice
    Upgrade,
    /// Check dotcloud.yml, hob.toml and supervisord.conf files, and show all errors at once
    Check {
        /// A directory stands for its dotcloud.yml [default: ./dotcloud.yml, and the settings file if there is one]
        files: Vec<PathBuf>,
    },
    #[command(flatten)]
    Moving(Moving),
    /// Stop everything in order, and end the daemon
    Shutdown {
        /// Do not wait until it is gone
        #[arg(long)]
        no_wait: bool,
    },
    /// Run a command that daemonizes, and pass every signal on to the process its pid file names
    Pidproxy {
        /// The file that the daemon writes its pid to
        pidfile: PathBuf,
        /// What starts the daemon, with its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Print a completion script
    Completions { shell: clap_complete::Shell },
    /// Print a manual page, for man(1): hob man | man -l -
    #[command(hide = true)]
    Man {
        #[arg(default_value = "hob", value_parser = ["hob", "dotcloud.yml", "hob.toml", "hob-api", "supervisord", "supervisorctl"])]
        page: String,
    },
}

#[derive(Args)]
struct Json {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct JsonLines {
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Known {
    /// `hello`, `www:hello`, `www.0`, `www`, `all`, or a pattern such as `www:worker_*`
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    json: Json,
}

#[derive(Args)]
struct Names {
    /// `hello`, `www:hello`, `www.0`, `www`, `all`, or a pattern such as `www:worker_*`
    #[arg(required = true)]
    names: Vec<String>,
    /// Return at once
    #[arg(long)]
    no_wait: bool,
    /// Seconds to wait at most
    #[arg(long, value_name = "SECS")]
    timeout: Option<f64>,
    #[command(flatten)]
    json: Json,
}

/// Runs the command of this process and ends it.
pub fn main() -> ! {
    sys::process::fill_standard_fds();
    if let Some(left) = handover::left_by_predecessor() {
        hold_signals();
        finish(left.map_err(Failed::from).and_then(booting::resume));
    }
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    if let Some(role) = by_name::role(&name) {
        std::process::exit(role(&name, args.collect()));
    }
    if Path::new(&name).file_name().is_some_and(|name| name == "supervisord") {
        let words: Vec<OsString> = args.collect();
        std::process::exit(crate::supervisord::main(&name, &words, roles()));
    }
    let mut args = args.peekable();
    if args.next_if(|word| word == launch::STUB).is_some() {
        std::process::exit(launch::exec_stub(args));
    }
    if args.next_if(|word| word.as_bytes() == handover::CHECK.to_bytes()).is_some() {
        std::process::exit(booting::check(args.next().as_deref()));
    }
    if args.peek().is_some_and(|word| word == "boot") {
        hold_signals();
    }
    // Set and empty, as a compose file leaves them, is not set.
    for name in ["HOB_CONFIG", "HOB_SOCKET", "HOB_STATE_DIR", "HOB_LOG_DIR", "HOB_HOME"] {
        if std::env::var_os(name).is_some_and(|value| value.is_empty()) {
            sys::process::take_variable(name);
        }
    }
    let cli = Cli::parse();
    finish(run(cli))
}

fn finish(outcome: Result<i32, Failed>) -> ! {
    let status = outcome.unwrap_or_else(|failed| {
        for line in failed.message.lines() {
            messages::say(&format!("hob: {line}"));
        }
        failed.status
    });
    std::process::exit(status)
}

/// What arrives before the daemon has its handlers waits for them. A PID 1 would never hear of it, since to the kernel
/// it ignores what it has no handler for (pid_namespaces(7)), and a SIGHUP would end any other.
fn hold_signals() {
    let _ = sys::sigwait::block_all();
}

fn run(cli: Cli) -> Result<i32, Failed> {
    let places = cli.places;
    let names = |verb, names: &Names| -> Result<i32, Failed> {
        let act = Act {
            verb,
            names: &names.names,
            signal: None,
            wait: !names.no_wait,
            timeout: names.timeout,
            json: names.json.json,
        };
        client::act(&daemon_at(&places)?, &act)
    };
    let makes_homes = match &cli.command {
        Command::Boot { command, .. } => command.is_empty(),
        Command::Up { .. } | Command::Build { .. } | Command::Deploying(_) => true,
        _ => false,
    };
    if makes_homes {
        sys::limits::usual_umask(sys::process::effective_uid() == 0);
    }
    match cli.command {
        Command::Boot { command, .. } if !command.is_empty() => Ok(init::main(&command)),
        // An entry point of a container whose command is missing.
        Command::Boot { .. } if std::env::args_os().next_back().is_some_and(|word| word == "--") => {
            Err(usage("there is no command behind --: hob boot -- COMMAND [ARGS...]".into()))
        }
        Command::Boot { home, file, service, .. } => {
            hold_signals();
            let source = match home {
                Some(home) => Source::Home { home, file: file.map(absolute), service },
                None if file.is_some() || service.is_some() => {
                    return Err(usage("--file and --service belong to --home".into()));
                }
                None => Source::Deployed,
            };
            let is_init = sys::process::pid().as_raw() == 1;
            booting::boot(source, &places, is_init)
        }
        Command::Up { dir } => booting::up(&dir, &places),
        Command::Build { dir, out: Some(out), .. } => {
            messages::init("info");
            deploying::build_artifact(&dir, out, &places)
        }
        Command::Build { dir, home, out: None } => {
            messages::init("info");
            let settings = settings(&places)?;
            release::build::main(&dir, home.as_deref(), &settings).map_err(failed)
        }
        Command::Deploying(command) => {
            messages::init("info");
            deploying::run(command, &places)
        }
        Command::Status { names, json } => client::status(&daemon_at(&places)?, &names, json.json),
        Command::Why { names, json } => client::why(&daemon_at(&places)?, &names, json.json),
        Command::Start(asked) => names("start", &asked),
        Command::Stop(asked) => names("stop", &asked),
        Command::Restart { names: asked, rolling: None } => names("restart", &asked),
        Command::Restart { names: asked, rolling: Some(width) } => {
            client::roll(&daemon_at(&places)?, &asked.names, width.get(), asked.timeout, asked.json.json)
        }
        Command::Enable { names, now } => {
            client::set_enabled(&daemon_at(&places)?, true, &names.names, now, names.json.json)
        }
        Command::Disable { names, now } => {
            client::set_enabled(&daemon_at(&places)?, false, &names.names, now, names.json.json)
        }
        Command::Signal { signal, names, json } => {
            let act = Act {
                verb: "signal",
                names: &names,
                signal: Some(&signal),
                wait: true,
                timeout: None,
                json: json.json,
            };
            client::act(&daemon_at(&places)?, &act)
        }
        Command::Logs { names, follow, lines, since, json } => {
            let lines = lines.unwrap_or(if since.is_some() { usize::MAX } else { 20 });
            logs(&places, &names, tail::Wanted { names: Vec::new(), lines, follow, since }, json.json)
        }
        Command::Run { instance, command } => run_inside(&places, instance, &command),
        Command::Events { follow, json: _ } => client::events(&daemon_at(&places)?, follow),
        Command::Info { service, json } => client::info(&daemon_at(&places)?, service.as_deref(), json.json),
        Command::Url { service, json } => client::url(&daemon_at(&places)?, service.as_deref(), json.json),
        Command::Ports { json } => client::ports(&daemon_at(&places)?, json.json),
        Command::Reload => client::reload(&daemon_at(&places)?),
        Command::Upgrade => client::upgrade(&daemon_at(&places)?),
        Command::Check { files } => check(&places, files),
        Command::Moving(command) => moving::run(command, &places),
        Command::Shutdown { no_wait } => client::shutdown(&daemon_at(&places)?, !no_wait),
        Command::Pidproxy { pidfile, command } => Ok(pidproxy::main(&pidfile, &command)),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "hob", &mut text);
            Ok(client::print(&String::from_utf8_lossy(&text)).map(|()| 0)?)
        }
        Command::Man { page } => {
            let text = match page.as_str() {
                "dotcloud.yml" => include_str!("../man/dotcloud.yml.5").to_owned(),
                "hob.toml" => include_str!("../man/hob.toml.5").to_owned(),
                "hob-api" => include_str!("../man/hob-api.7").to_owned(),
                "supervisord" => include_str!("../man/supervisord.1").to_owned(),
                "supervisorctl" => include_str!("../man/supervisorctl.1").to_owned(),
                _ => manual::page(Cli::command()),
            };
            Ok(client::print(&text).map(|()| 0)?)
        }
    }
}

fn overrides(places: &Places) -> Overrides {
    let path = |p: &Option<PathBuf>| p.clone().map(absolute);
    Overrides {
        config: path(&places.config),
        socket: path(&places.socket),
        state_dir: path(&places.state_dir),
        log_dir: path(&places.log_dir),
        home: None,
    }
}

fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

fn settings(places: &Places) -> Result<Settings, Failed> {
    config::settings(&overrides(places), &config::own_env())
        .map_err(|problems| Failed { message: problems.to_string(), status: 2 })
}

/// A client needs one path of the settings, and usually has it without them.
fn daemon_at(places: &Places) -> Result<Daemon, Failed> {
    match &places.socket {
        Some(socket) => Ok(Daemon::at(socket)),
        None => Ok(Daemon::at(&settings(places)?.socket)),
    }
}

/// The daemon's word, else what the settings say.
fn daemon_state_dir(places: &Places, settings: &Settings) -> PathBuf {
    let info = daemon_at(places).and_then(|daemon| daemon.get::<crate::wire::Info>("/v1/info"));
    info.map_or_else(|_| settings.state_dir.clone(), |info| info.state_dir.into())
}

fn usage(message: String) -> Failed {
    Failed { message, status: 2 }
}

fn failed(refused: release::prepare::Refused) -> Failed {
    Failed { message: refused.errors.join("\n"), status: refused.status }
}

fn roles() -> Roles {
    Roles {
        logger: |link| logger::run(link, client::has_colour()),
        probe: run_probe,
        pidproxy: pidproxy::role,
        logs: serve_logs,
        tail: |socket, tail| drop(crate::control::serve_tail(socket, &tail)),
    }
}

/// The socket in the file system that every command uses, and the one on the network if there is to be one.
fn run_probe(asked: &Probe) -> (i32, String) {
    probe::run(asked)
}

/// In a child of the daemon that has taken over a client's connection.
fn serve_logs(socket: OwnedFd, query: LogQuery, folder: &Path) {
    let wanted = tail::Wanted {
        names: query.files.iter().filter_map(|file| tail::name_of(folder, &file.path)).collect(),
        lines: query.lines.unwrap_or(if query.since.is_some() { usize::MAX } else { 20 }),
        follow: query.follow,
        since: query.since,
    };
    let _ = crate::control::serve_logs(socket, &query, |_, show| tail::tail(folder, &wanted, show));
}

fn logs(places: &Places, names: &[String], wanted: tail::Wanted, json: bool) -> Result<i32, Failed> {
    let settings = settings(places)?;
    let daemon = Daemon::at(&settings.socket);
    let folder = client::log_dir(&daemon, &settings.log_dir);
    let mut unknown = None;
    let names = client::log_names(&daemon, names, &folder, &mut |name, why| {
        let is_there = tail::is_there(&folder, name);
        if !is_there && wanted.follow {
            tell!("hob: there is no log {name:?} yet: waiting for it");
        } else if !is_there {
            let why = if why.status == 1 { format!(", and {}", why.message) } else { String::new() };
            unknown.get_or_insert(format!("no log {name:?} in {}{why}", folder.display()));
        }
    });
    if let Some(message) = unknown {
        return Err(Failed { message, status: 1 });
    }
    let wanted = tail::Wanted { names, ..wanted };
    let mut show = |name: &str, line: &[u8]| client::log_line(name, line, json);
    // An empty answer would say that nothing was logged.
    std::fs::read_dir(&folder).and_then(|_| tail::tail(&folder, &wanted, &mut show)).map(|()| 0).map_err(|why| {
        let message = format!("cannot read the logs in {}: {}", folder.display(), client::reason(&why));
        Failed { message, status: 1 }
    })
}

/// A moment as Unix time: so long ago, or a date with or without a zone.
fn since(text: &str) -> Result<Duration, String> {
    let ago = config::duration(text).ok().or_else(|| text.parse::<jiff::SignedDuration>().ok()?.try_into().ok());
    let at = if let Some(ago) = ago {
        jiff::Timestamp::now().checked_sub(ago).ok()
    } else if let Ok(at) = text.parse::<jiff::Timestamp>() {
        Some(at)
    } else {
        let local = text.parse::<jiff::civil::DateTime>().ok();
        local.and_then(|at| at.to_zoned(jiff::tz::TimeZone::system()).ok()).map(|at| at.timestamp())
    };
    let seconds = at.map(|at| at.duration_since(jiff::Timestamp::UNIX_EPOCH));
    let length = seconds.and_then(|length| Duration::try_from(length).ok());
    length.ok_or_else(|| "neither a length such as 10m nor a time such as 2026-01-31T12:00:00Z".into())
}

fn run_inside(places: &Places, instance: Option<String>, command: &[OsString]) -> Result<i32, Failed> {
    let daemon = daemon_at(places)?;
    let instance = match instance {
        Some(instance) => instance,
        None => {
            let names: Vec<String> = client::instances(&daemon)?.into_iter().map(|i| i.name).collect();
            match names.as_slice() {
                [only] => only.clone(),
                [] => return Err(Failed { message: "nothing is deployed".into(), status: 1 }),
                several => return Err(usage(format!("say in which instance: {}", several.join(", ")))),
            }
        }
    };
    let environment = client::environment(&daemon, &instance)?;
    release::run::main(&environment, command).map_err(|message| Failed { message, status: 111 })
}

fn check(places: &Places, mut files: Vec<PathBuf>) -> Result<i32, Failed> {
    if files.is_empty() {
        files.extend(settings(places)?.files);
        if Path::new("dotcloud.yml").exists() {
            files.push("dotcloud.yml".into());
        }
        if files.is_empty() {
            return Err(usage("nothing to check: there is no ./dotcloud.yml and no settings file".into()));
        }
    }
    for file in files.iter_mut().filter(|file| file.is_dir()) {
        file.push("dotcloud.yml");
    }
    let (problems, warnings) = config::check(&files, &overrides(places), &config::own_env());
    for warning in &warnings {
        tell!("warning: {warning}");
    }
    let text = problems.to_string();
    if text.is_empty() {
        client::print(&files.iter().map(|f| format!("{}: good\n", f.display())).collect::<String>())?;
        return Ok(0);
    }
    tell!("{}", text.trim_end());
    Ok(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_takes_lengths_and_times() {
        let now = sys::clock::wall();
        let ago = |text: &str| now.saturating_sub(since(text).expect("a time")).as_secs();
        assert!((599..=600).contains(&ago("10m")) && (7199..=7200).contains(&ago("2h")));
        assert!((86399..=86400).contains(&ago("1d")) && (5399..=5400).contains(&ago("1 hour 30 mins")));
        assert_eq!(since("1970-01-02T00:00:00Z"), Ok(Duration::from_secs(86400)));
        assert!(since("2026-01-31 12:00").is_ok() && since("2026-01-31").is_ok());
        assert!(since("soon").is_err() && since("").is_err() && since("1960-01-01T00:00:00Z").is_err());
    }

    #[test]
    fn the_command_table_is_consistent() {
        Cli::command().debug_assert();
    }
}
