//! The daemon of hob's own modes: what it is booted with, and what is left of that after an upgrade.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Places, failed, roles, settings};
use crate::client::{self, Daemon, Failed};
use crate::config::Settings;
use crate::daemon::{self, MakePlan, Refusal, handover, messages};
use crate::plan::{Address, Server};
use crate::release::prepare::{Prepared, Source, prepare, save_ports};
use crate::{release, sys};

/// Decided when hob is started, and for good: what a reload or another binary must not change.
#[derive(Clone, Serialize, Deserialize)]
struct Booted {
    source: Source,
    places: Places,
    /// What `console = "auto"` means.
    console: bool,
    socket: PathBuf,
    state_dir: PathBuf,
    log_dir: PathBuf,
    files: Vec<PathBuf>,
    log_level: String,
}

/// `hob boot`.
pub fn boot(source: Source, places: &Places, console: bool) -> Result<i32, Failed> {
    serve(source, places, read_settings(places, console)?)
}

/// `hob up`.
pub fn up(dir: &Path, places: &Places) -> Result<i32, Failed> {
    let mut settings = read_settings(places, true)?;
    let given = release::up::Given { socket: places.socket.is_some(), log_dir: places.log_dir.is_some() };
    let built = release::up::build(dir, &given, &mut settings).map_err(failed)?;
    let socket = settings.socket.clone();
    // It ends as soon as it has something to say, or when the daemon has gone without that.
    let _ = sys::process::fork(|| {
        sys::process::set_name("hob url");
        client::announce(&Daemon::at(&socket))
    });
    serve(built, places, settings)
}

/// After an upgrade: the command line was the business of the binary before.
pub fn resume(state: handover::State) -> Result<i32, Failed> {
    let booted: Booted = serde_json::from_value(state.booted.clone()).map_err(|why| system(&why))?;
    messages::init(&booted.log_level);
    daemon::resume(options(booted, None), state).map_err(|why| system(&why))
}

/// Says whether this binary could go on with the state in a descriptor.
pub fn check(number: Option<&OsStr>) -> i32 {
    handover::check::<Booted>(number.and_then(OsStr::to_str))
}

fn serve(source: Source, places: &Places, settings: Settings) -> Result<i32, Failed> {
    let booted = Booted {
        source,
        places: places.clone(),
        console: settings.console_auto,
        socket: settings.socket.clone(),
        state_dir: settings.state_dir.clone(),
        log_dir: settings.log_dir.clone(),
        files: settings.files.clone(),
        log_level: settings.log_level.clone(),
    };
    daemon::boot(options(booted, Some(settings))).map_err(|why| system(&why))
}

fn system(why: &impl ToString) -> Failed {
    Failed { message: why.to_string(), status: 111 }
}

fn read_settings(places: &Places, console: bool) -> Result<Settings, Failed> {
    let mut settings = settings(places)?;
    settings.console_auto = console;
    messages::init(&settings.log_level);
    Ok(settings)
}

/// `first` are the settings as they were read at the start, if this is one.
fn options(booted: Booted, first: Option<Settings>) -> daemon::Options {
    daemon::Options {
        socket: booted.socket.clone(),
        servers: first.as_ref().map(servers).unwrap_or_default(),
        state_dir: booted.state_dir.clone(),
        log_dir: booted.log_dir.clone(),
        config: booted.files.clone(),
        roles: roles(),
        booted: serde_json::to_value(&booted).unwrap_or_default(),
        supervisord: None,
        deployed: matches!(booted.source, Source::Deployed),
        far_off: Box::new({
            let state_dir = booted.state_dir.clone();
            move || release::background::of_all(&state_dir)
        }),
        make_plan: make_plan(booted, first),
    }
}

fn make_plan(booted: Booted, first: Option<Settings>) -> Box<MakePlan> {
    Box::new(move |wanted, step, done| {
        // A reload sees what the settings say now; paths stay where the daemon has them.
        let (log_dir, state_dir) = (booted.log_dir.clone(), booted.state_dir.clone());
        let settings = match first.as_ref().filter(|_| !wanted.again) {
            Some(settings) => Ok(settings.clone()),
            None => read_settings(&booted.places, booted.console).map(|fresh| Settings { log_dir, state_dir, ..fresh }),
        };
        let source = if wanted.deployed { &Source::Deployed } else { &booted.source };
        let lines = |text: &str| text.lines().map(str::to_owned).collect();
        let prepared = settings.map_err(|f| Refusal { errors: lines(&f.message), status: f.status }).and_then(|s| {
            prepare(source, &s, wanted.again, step).map_err(|r| Refusal { errors: r.errors, status: r.status })
        });
        match prepared {
            Ok(Prepared { plan, ports }) => {
                done(Ok(plan));
                save_ports(ports);
            }
            Err(refusal) => done(Err(refusal)),
        }
    })
}

fn servers(settings: &Settings) -> Vec<Server> {
    let (path, mode, group) = (settings.socket.clone(), settings.socket_mode, settings.socket_group);
    let own = Server { name: "hob".into(), address: Address::Unix { path, mode, owner: None, group }, login: None };
    let listen = settings.listen.clone();
    let inet = listen.map(|l| Server { name: "listen".into(), address: l.address, login: Some(l.login) });
    [own].into_iter().chain(inet).collect()
}
