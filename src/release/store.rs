//! What is kept in the state directory: releases, where the instances of the current one run, and what a deployment
//! that is under way has done so far.
//!
//! ```text
//! releases/REV/release.json   the record: when, how large, which state, how long each stage took
//! releases/REV/code           the pushed tree
//! releases/REV/built/SVC      the home as its build left it
//! releases/REV/homes/SVC      where it is built and runs when there are no mount namespaces
//! instances/SVC.N/ID          the home of an instance, bound over the configured path
//! data/SVC.N                  ~/data of an instance that there is none of at the moment
//! deployments/ID.log          what a deployment printed
//! deployed.json               what is to run; replaced whole, so that a crash leaves the old one or the new one
//! rolling.json                what runs while a deployment replaces one by the other, and how to take it back
//! push.lock                   held by whoever deploys
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::prepare::Refused;
use super::script::describe;
use crate::sys::{clock, fd, user};

#[derive(Clone, Debug)]
pub struct Store {
    pub root: PathBuf,
}

/// One release, as its record tells it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub revision: String,
    /// Unix time in milliseconds.
    pub created: u64,
    pub state: State,
    /// Why it is of no use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The name of the application.
    pub project: String,
    /// The path of `$HOME` that the builds saw, where every service had the same: it is bound over that path.
    pub home: Option<PathBuf>,
    /// In the order of the dotcloud.yml.
    pub services: Vec<BuiltService>,
    /// Bytes of all homes.
    pub size: u64,
    /// What took how long.
    #[serde(default)]
    pub stages: Vec<Stage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Building,
    Ready,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltService {
    pub name: String,
    /// The revision whose tree and home it has; another one when it was left out of a push.
    pub revision: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    pub seconds: f64,
}

/// What is to run, and with what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployed {
    /// The release of the last deployment that went well.
    pub revision: Option<String>,
    /// `hob env set`.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// `hob scale`; stronger than `instances:`.
    #[serde(default)]
    pub scale: BTreeMap<String, u32>,
    /// The deployments that the instances are of.
    #[serde(default)]
    pub generations: Vec<Generation>,
    #[serde(default)]
    pub instances: Vec<Running>,
    /// Those that a load balancer passes over at the moment, `www.0`: they are about to end, or do not serve yet.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub out: BTreeSet<String>,
}

/// One deployment: the world as its instances see it, whatever others do later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Unix time in milliseconds; no two are the same.
    pub id: u64,
    pub services: Vec<Scaled>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scaled {
    pub name: String,
    pub revision: String,
    pub instances: u32,
}

/// One instance and where it lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    pub service: String,
    pub number: u32,
    /// The deployment it is of.
    pub generation: u64,
    /// Where the home lies.
    pub home: PathBuf,
    /// The path it is bound over; nothing: it is used where it lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_at: Option<PathBuf>,
    /// Its service has left the stack: it is kept, and does not start by itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
}

/// A deployment under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rolling {
    /// That of the generation that is to be the current one.
    pub id: u64,
    pub revision: String,
    /// What runs at the moment: old ones and new ones.
    pub now: Deployed,
    /// Renames to take back, the last one first, if it comes to nothing.
    pub renames: Vec<(PathBuf, PathBuf)>,
}

impl Deployed {
    pub fn generation(&self, id: u64) -> Option<&Generation> {
        self.generations.iter().find(|generation| generation.id == id)
    }

    pub fn instance(&self, service: &str, number: u32) -> Option<&Running> {
        self.instances.iter().find(|i| i.service == service && i.number == number)
    }

    /// Forgets the deployments that no instance is of any more, but the newest.
    pub fn drop_unused(&mut self) {
        let newest = self.generations.iter().map(|generation| generation.id).max();
        let used: BTreeSet<u64> = self.instances.iter().map(|i| i.generation).chain(newest).collect();
        self.generations.retain(|generation| used.contains(&generation.id));
    }
}

impl Generation {
    pub fn service(&self, name: &str) -> Option<&Scaled> {
        self.services.iter().find(|service| service.name == name)
    }
}

/// Held for as long as nobody else may deploy: by this value and by the children forked while it lives.
pub struct Lock(File);

impl Lock {
    /// Leaves word of who holds it, for those that wait.
    pub fn note(&mut self, who: &str) {
        // Nothing depends on it.
        let _ = self.0.set_len(0).and_then(|()| self.0.write_all(who.as_bytes()));
    }
}

impl Store {
    pub fn at(state_dir: &Path) -> Store {
        Store { root: state_dir.to_owned() }
    }

    pub fn release(&self, revision: &str) -> PathBuf {
        self.root.join("releases").join(revision)
    }

    pub fn code(&self, revision: &str) -> PathBuf {
        self.release(revision).join("code")
    }

    pub fn built(&self, revision: &str, service: &str) -> PathBuf {
        self.release(revision).join("built").join(service)
    }

    /// Where a service is built and instance 0 runs without mount namespaces.
    pub fn direct_home(&self, revision: &str, service: &str, number: u32) -> PathBuf {
        let name = if number == 0 { service.to_owned() } else { format!("{service}.{number}") };
        self.release(revision).join("homes").join(name)
    }

    pub fn bound_home(&self, service: &str, number: u32, generation: u64) -> PathBuf {
        self.root.join("instances").join(format!("{service}.{number}")).join(generation.to_string())
    }

    pub fn parked_data(&self, service: &str, number: u32) -> PathBuf {
        self.root.join("data").join(format!("{service}.{number}"))
    }

    pub fn log(&self, deployment: &str) -> PathBuf {
        self.root.join("deployments").join(format!("{deployment}.log"))
    }

    /// Makes what has to be there. The directories are open to all, since the user of the homes has to get through.
    pub fn create(&self) -> Result<(), Refused> {
        for name in ["", "releases", "instances", "data", "deployments"] {
            let path = if name.is_empty() { self.root.clone() } else { self.root.join(name) };
            make_dir(&path).map_err(|e| cannot("make", &path, &e))?;
        }
        Ok(())
    }

    /// What is to run after a boot: what was last deployed whole.
    pub fn deployed(&self) -> Result<Deployed, Refused> {
        Ok(read_json(&self.root.join("deployed.json"))?.unwrap_or_default())
    }

    /// Whether anything ever was.
    pub fn has_deployed(&self) -> bool {
        self.root.join("deployed.json").exists()
    }

    pub fn rolling(&self) -> Result<Option<Rolling>, Refused> {
        read_json(&self.root.join("rolling.json"))
    }

    /// What is to run now, and whether a deployment is under way. One that was cut short is taken back first, unless
    /// somebody is at it.
    pub fn current(&self) -> Result<(Deployed, bool), Refused> {
        let rolling = self.rolling()?;
        if rolling.is_some() || fs::symlink_metadata(self.root.join("rolling.json")).is_ok() {
            match (self.try_lock()?, rolling) {
                (Some(lock), _) => self.recover(&lock)?,
                (None, Some(rolling)) => return Ok((rolling.now, true)),
                (None, None) => {}
            }
        }
        Ok((self.deployed()?, false))
    }

    /// Writes down where a deployment is, before the next step.
    pub fn save_rolling(&self, rolling: &Rolling) -> Result<(), Refused> {
        let path = self.root.join("rolling.json");
        // What is renamed has to be found again after a power cut; the rest only after a crash.
        replace(&path, rolling, !rolling.renames.is_empty()).map_err(|e| cannot("write", &path, &e))
    }

    /// From here on the new state is the one that counts. Everything it refers to reaches the disk before it does.
    pub fn commit(&self, deployed: &Deployed) -> Result<(), Refused> {
        let path = self.root.join("deployed.json");
        File::open(&self.root)
            .and_then(|dir| fd::sync_file_system(&dir))
            .map_err(|e| cannot("sync", &self.root, &e))?;
        replace(&path, deployed, true).map_err(|e| cannot("write", &path, &e))?;
        // Done. What is left of the journal says so itself.
        if let Err(refused) = self.end_rolling() {
            log::warn!("{}", refused.errors.join("; "));
        }
        Ok(())
    }

    pub fn end_rolling(&self) -> Result<(), Refused> {
        let path = self.root.join("rolling.json");
        remove(&path).map_err(|e| cannot("remove", &path, &e))
    }

    /// The variables and numbers alone, while nothing is deployed.
    pub fn save_deployed(&self, deployed: &Deployed) -> Result<(), Refused> {
        let path = self.root.join("deployed.json");
        replace(&path, deployed, true).map_err(|e| cannot("write", &path, &e))
    }

    pub fn try_lock(&self) -> Result<Option<Lock>, Refused> {
        let file = self.lock_file()?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(e)) => Err(cannot("lock", &self.root.join("push.lock"), &e)),
        }
    }

    /// Waits until nobody deploys.
    pub fn lock(&self) -> Result<Lock, Refused> {
        let file = self.lock_file()?;
        file.lock().map_err(|e| cannot("lock", &self.root.join("push.lock"), &e))?;
        Ok(Lock(file))
    }

    /// The word that was left.
    pub fn lock_holder(&self) -> String {
        fs::read_to_string(self.root.join("push.lock")).unwrap_or_default()
    }

    fn lock_file(&self) -> Result<File, Refused> {
        let path = self.root.join("push.lock");
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.open(&path).map_err(|e| cannot("open", &path, &e))
    }

    /// Takes back what a deployment that was cut short has done, and removes what it left. Nothing to do is the rule.
    pub fn recover(&self, _held: &Lock) -> Result<(), Refused> {
        let deployed = self.deployed()?;
        if let Some(rolling) = self.rolling()? {
            let is_done = deployed.generations.iter().any(|generation| generation.id == rolling.id);
            if !is_done {
                log::warn!("the deployment of {} was cut short; going back to what ran before", rolling.revision);
                take_back(&rolling.renames)?;
            }
        }
        // One that was empty is no journal.
        self.end_rolling()?;
        for name in names_in(&self.root.join("releases")) {
            if self.record(&name)?.is_none() {
                let path = self.release(&name);
                remove(&path).map_err(|e| cannot("remove", &path, &e))?;
            }
        }
        for mut record in self.records()? {
            if record.state == State::Building {
                record.state = State::Failed;
                record.why = Some("it was cut short".into());
                self.fail(&record)?;
            }
        }
        self.sweep(&deployed);
        Ok(())
    }

    /// Keeps the record of a release that came to nothing, and nothing else of it.
    pub fn fail(&self, record: &Record) -> Result<(), Refused> {
        // First the space, which may be what was missing.
        for name in ["code", "built", "homes", "code.new", "artifact"] {
            let path = self.release(&record.revision).join(name);
            remove(&path).map_err(|e| cannot("remove", &path, &e))?;
        }
        self.save_record(record)
    }

    pub fn save_record(&self, record: &Record) -> Result<(), Refused> {
        let dir = self.release(&record.revision);
        make_dir(&dir).map_err(|e| cannot("make", &dir, &e))?;
        let path = dir.join("release.json");
        replace(&path, record, record.state == State::Ready).map_err(|e| cannot("write", &path, &e))
    }

    pub fn record(&self, revision: &str) -> Result<Option<Record>, Refused> {
        if revision.contains('/') || revision.starts_with('.') {
            return Ok(None);
        }
        let record: Option<Record> = read_json(&self.release(revision).join("release.json"))?;
        // The directory is right, should a renaming have been cut short.
        Ok(record.map(|record| Record { revision: revision.to_owned(), ..record }))
    }

    /// All of them, oldest first.
    pub fn records(&self) -> Result<Vec<Record>, Refused> {
        let mut all = Vec::new();
        for name in names_in(&self.root.join("releases")) {
            if let Some(record) = self.record(&name)? {
                all.push(record);
            }
        }
        all.sort_by(|a, b| (a.created, &a.revision).cmp(&(b.created, &b.revision)));
        Ok(all)
    }

    /// The release that a person means: a revision, an unambiguous beginning of one, `latest` or `previous`.
    pub fn find(&self, name: &str) -> Result<Record, Refused> {
        let records = self.records()?;
        let good: Vec<&Record> = records.iter().filter(|record| record.state == State::Ready).collect();
        let none = || Refused::one(1, "nothing has been pushed yet: hob push DIR".to_owned());
        match name {
            "latest" => good.last().map(|record| (*record).clone()).ok_or_else(none),
            "previous" => {
                let current = self.deployed()?.revision.ok_or_else(none)?;
                let at = good.iter().position(|record| record.revision == current).unwrap_or(good.len());
                let before = at.checked_sub(1).and_then(|at| good.get(at)).map(|record| (*record).clone());
                before.ok_or_else(|| Refused::one(1, format!("there is no release before {current}")))
            }
            name => {
                let exact = records.iter().filter(|record| record.revision == name);
                let begun = records.iter().filter(|record| !name.is_empty() && record.revision.starts_with(name));
                let found: Vec<&Record> = match exact.collect::<Vec<_>>() {
                    exact if !exact.is_empty() => exact,
                    _ => begun.collect(),
                };
                let known = || good.iter().rev().map(|r| r.revision.as_str()).collect::<Vec<_>>().join(", ");
                match found.as_slice() {
                    [one] if one.state == State::Ready => Ok((*one).clone()),
                    [one] => {
                        let why = one.why.as_deref().unwrap_or("it is still being built");
                        Err(Refused::one(1, format!("cannot deploy {}: {why}", one.revision)))
                    }
                    [] if good.is_empty() => Err(none()),
                    [] => Err(Refused::one(1, format!("there is no revision {name:?}; there is {}", known()))),
                    _ => Err(Refused::one(1, format!("{name:?} is the beginning of several; there is {}", known()))),
                }
            }
        }
    }

    /// A revision nobody has yet: `base` itself, or with a number behind it.
    pub fn unused_revision(&self, base: &str) -> String {
        let is_free = |name: &str| fs::symlink_metadata(self.release(name)).is_err();
        let numbered = (2..).map(|n| format!("{base}-{n}"));
        std::iter::once(base.to_owned()).chain(numbered).find(|name| is_free(name)).unwrap_or_default()
    }

    /// Removes all but the newest releases, those in use, and what is needed by one that stays; and old logs.
    pub fn prune(&self, deployed: &Deployed, keep: usize) -> Result<(), Refused> {
        let records = self.records()?;
        let mut kept: BTreeSet<String> = deployed.revision.iter().cloned().collect();
        kept.extend(deployed.generations.iter().flat_map(|g| &g.services).map(|service| service.revision.clone()));
        for state in [State::Ready, State::Failed] {
            let of_state = records.iter().rev().filter(|record| record.state == state);
            kept.extend(of_state.take(keep).map(|record| record.revision.clone()));
        }
        let of_kept = records.iter().filter(|record| kept.contains(&record.revision)).flat_map(|r| &r.services);
        let needed: Vec<String> = of_kept.map(|service| service.revision.clone()).collect();
        kept.extend(needed);
        for record in records.iter().filter(|r| r.state != State::Building && !kept.contains(&r.revision)) {
            let path = self.release(&record.revision);
            remove(&path).map_err(|e| cannot("remove", &path, &e))?;
        }
        let mut logs: Vec<String> = names_in(&self.root.join("deployments")).collect();
        logs.sort();
        for old in logs.iter().rev().skip(LOGS_KEPT) {
            let _ = fs::remove_file(self.root.join("deployments").join(old));
        }
        Ok(())
    }

    /// Removes the homes that no instance has. What cannot be removed is left for the next time.
    pub fn sweep(&self, deployed: &Deployed) {
        let used: BTreeSet<&Path> = deployed.instances.iter().map(|i| i.home.as_path()).collect();
        let mut folders: Vec<PathBuf> =
            names_in(&self.root.join("instances")).map(|name| self.root.join("instances").join(name)).collect();
        folders.extend(names_in(&self.root.join("releases")).map(|name| self.release(&name).join("homes")));
        for folder in folders {
            for name in names_in(&folder) {
                let home = folder.join(name);
                if !used.contains(home.as_path())
                    && let Err(why) = remove(&home)
                {
                    log::warn!("cannot remove {}: {}", home.display(), describe(&why));
                }
            }
            // Goes when it is empty.
            let _ = fs::remove_dir(&folder);
        }
    }
}

/// Undoes renames, the last one first. One that was not done, or is undone already, is passed over.
pub fn take_back(renames: &[(PathBuf, PathBuf)]) -> Result<(), Refused> {
    for (from, to) in renames.iter().rev() {
        if fs::symlink_metadata(from).is_err() && fs::symlink_metadata(to).is_ok() {
            fs::rename(to, from).map_err(|e| cannot("put back", from, &e))?;
        }
    }
    Ok(())
}

/// Removes what is there, whatever it is; no link is followed.
pub fn remove(path: &Path) -> io::Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => match fs::remove_dir_all(path) {
            // Go's module cache has directories that even their owner may not write to. Root needs nothing of this, and
            // must not change modes where a user may put links.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && user::effective().0 != 0 => {
                make_writable(path);
                fs::remove_dir_all(path)
            }
            other => other,
        },
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Lets the owner remove what the directories below hold.
fn make_writable(dir: &Path) {
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_writable(&entry.path());
        }
    }
}

pub fn make_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// Unix time in milliseconds.
pub fn now() -> u64 {
    u64::try_from(clock::wall().as_millis()).unwrap_or(u64::MAX)
}

pub fn cannot(what: &str, path: &Path, why: &io::Error) -> Refused {
    let hint = match why.kind() {
        io::ErrorKind::PermissionDenied => "; run it as the user that hob runs as",
        _ => "",
    };
    Refused::one(111, format!("cannot {what} {}: {}{hint}", path.display(), describe(why)))
}

fn names_in(folder: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// Nothing if the file is not there, or has nothing in it: it was new, and not yet on the disk when the power went. What
/// counts is synced before it gets its name.
fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Refused> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        Err(e) => return Err(cannot("read", path, &e)),
    };
    if text.iter().all(|byte| *byte == 0 || byte.is_ascii_whitespace()) {
        return Ok(None);
    }
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|e| Refused::one(111, format!("cannot understand {}: {e}", path.display())))
}

/// A whole new file in the place of the old one. For nobody else's eyes: variables hold passwords.
fn replace(path: &Path, value: &impl Serialize, lasting: bool) -> io::Result<()> {
    let fresh = path.with_extension("json.new");
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    let write = || -> io::Result<()> {
        remove(&fresh)?;
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(&text)?;
        if lasting {
            file.sync_all()?;
        }
        fs::rename(&fresh, path)?;
        match path.parent() {
            Some(folder) if lasting => File::open(folder)?.sync_all(),
            _ => Ok(()),
        }
    };
    let written = write();
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&fresh);
    }
    written
}

const LOGS_KEPT: usize = 50;

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
