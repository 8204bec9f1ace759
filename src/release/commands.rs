//! What a person asks about releases, and a push to another machine.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::follow::{Style, follow_file, size};
use super::pack::{self, Watcher};
use super::prepare::Refused;
use super::push::{Origin, say};
use super::report::{Event, read};
use super::script::describe;
use super::store::{Record, State, Store, cannot};

/// A release as it is listed.
#[derive(Debug, Serialize)]
pub struct Listed {
    #[serde(flatten)]
    record: Record,
    /// It is what runs.
    current: bool,
}

/// Newest first.
pub fn revisions(state_dir: &Path) -> Result<Vec<Listed>, Refused> {
    let store = Store::at(state_dir);
    let current = store.deployed()?.revision;
    let list = store.records()?.into_iter().rev();
    Ok(list.map(|record| Listed { current: current.as_ref() == Some(&record.revision), record }).collect())
}

/// As a table.
pub fn rows(list: &[Listed]) -> Vec<Vec<String>> {
    let mut rows = vec![["REVISION", "CREATED", "SIZE", "STATE", "SERVICES"].map(str::to_owned).to_vec()];
    for Listed { record, current } in list {
        let created = i64::try_from(record.created).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let created = created.map(|at| at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string());
        let state = match (record.state, current) {
            (State::Ready, true) => "current".to_owned(),
            (State::Ready, false) => "ready".to_owned(),
            (State::Building, _) => "building".to_owned(),
            (State::Failed, _) => "failed".to_owned(),
        };
        let services: Vec<&str> = record.services.iter().map(|service| service.name.as_str()).collect();
        let (size, services) = match (record.state, &record.why) {
            (State::Ready, _) => (size(record.size), services.join(", ")),
            (State::Building | State::Failed, why) => ("-".to_owned(), why.clone().unwrap_or_default()),
        };
        rows.push(vec![record.revision.clone(), created.unwrap_or_default(), size, state, services]);
    }
    rows
}

/// The variables of all services: those that are set, behind the two that are always there.
pub fn variables(state_dir: &Path) -> Result<Vec<(String, String)>, Refused> {
    let store = Store::at(state_dir);
    let deployed = store.deployed()?;
    let mut list = Vec::new();
    let record = deployed.revision.as_ref().map(|revision| store.record(revision)).transpose()?.flatten();
    if let Some(record) = record {
        list.push(("DOTCLOUD_PROJECT".to_owned(), record.project));
    }
    list.push(("DOTCLOUD_ENVIRONMENT".to_owned(), "default".to_owned()));
    list.extend(deployed.env);
    Ok(list)
}

/// Prints what a deployment has said: the last one of a revision, or the last one of all.
pub fn dlogs(state_dir: &Path, revision: &str, on: bool, style: Style) -> Result<i32, Refused> {
    let store = Store::at(state_dir);
    let folder = store.root.join("deployments");
    let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
    let mut logs: Vec<_> =
        entries.map(|entry| entry.path()).filter(|p| p.extension().is_some_and(|e| e == "log")).collect();
    logs.sort();
    let is_of = |path: &Path| {
        let Ok((events, _)) = read(path, 0) else { return false };
        events.iter().any(|event| matches!(event, Event::Revision { revision: of, .. } if of.starts_with(revision)))
    };
    let found = match revision {
        "latest" => logs.pop(),
        _ => logs.into_iter().rev().find(|path| is_of(path)),
    };
    let Some(path) = found else {
        let why = match revision {
            "latest" => "nothing has been deployed yet: hob push DIR".to_owned(),
            _ => format!("there is no log of a deployment of {revision:?}; hob revisions lists them"),
        };
        return Err(Refused::one(1, why));
    };
    let mut go_on = || {
        if !on {
            return false;
        }
        std::thread::sleep(Duration::from_millis(100));
        // Whoever deploys holds the lock; the last lines may come just before it is given back.
        store.try_lock().is_ok_and(|lock| lock.is_none())
    };
    follow_file(&path, style, &mut go_on)
}

/// A push to another machine.
#[derive(Clone, Debug)]
pub struct Remote {
    pub host: String,
    pub clean: bool,
    pub services: Vec<String>,
    pub project: Option<String>,
    pub json: bool,
}

/// Sends what is pushed through ssh to the hob of another machine; the exit status is that of the push there.
pub fn push_to(asked: &Remote, from: &Origin) -> Result<i32, Refused> {
    let host = &asked.host;
    if host.is_empty() || host.starts_with('-') {
        return Err(Refused::one(2, format!("cannot push to {host:?}: it is not the name of a machine")));
    }
    let mut words = vec!["hob".to_owned(), "push".to_owned(), "-".to_owned()];
    words.extend(asked.clean.then(|| "--clean".to_owned()));
    words.extend(asked.json.then(|| "--json".to_owned()));
    words.extend(asked.services.iter().map(|service| format!("--service={service}")));
    let own_name = match from {
        Origin::Tree(dir) => dir.file_name().map(|name| name.to_string_lossy().into_owned()),
        Origin::Archive(_) | Origin::Stdin => None,
    };
    words.extend(asked.project.clone().or(own_name).map(|project| format!("--project={project}")));
    let line = shlex::try_join(words.iter().map(String::as_str))
        .map_err(|_| Refused::one(2, "a name with a NUL byte in it".to_owned()))?;
    let mut ssh = Command::new("ssh");
    ssh.args(["-T", "--", host, &line]);
    ssh.stdin(match from {
        Origin::Tree(_) => Stdio::piped(),
        Origin::Archive(file) => fs::File::open(file).map_err(|e| cannot("open", file, &e))?.into(),
        Origin::Stdin => Stdio::inherit(),
    });
    let told = |e: &io::Error| Refused::one(111, format!("cannot run ssh: {}", describe(e)));
    let mut child = ssh.spawn().map_err(|e| told(&e))?;
    let sent = match (from, child.stdin.take()) {
        (Origin::Tree(dir), Some(pipe)) => send(dir, pipe),
        _ => Ok(()),
    };
    let status = child.wait().map_err(|e| told(&e))?;
    match (status.code(), sent) {
        (Some(0), Err(refused)) => Err(refused),
        (Some(255), _) => Err(Refused::one(4, format!("ssh cannot reach {host}, or hob could not be run there"))),
        (Some(127), _) => Err(Refused::one(4, format!("there is no hob in the path of {host}"))),
        (code, _) => Ok(code.unwrap_or(1)),
    }
}

fn send(dir: &Path, pipe: impl Write) -> Result<(), Refused> {
    let told = |e: io::Error| Refused::one(111, format!("cannot send the tree: {}", describe(&e)));
    let mut packed = zstd::stream::write::Encoder::new(pipe, 0).map_err(told)?;
    pack::tree(dir, &mut packed, &mut Aloud)?;
    packed.finish().and_then(|mut pipe| pipe.flush()).map_err(told)
}

struct Aloud;

impl Watcher for Aloud {
    fn packed(&mut self, _: u64, _: u64) {}

    fn left_out(&mut self, what: String) {
        say(&format!("left out: {what}"));
    }
}
