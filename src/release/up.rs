//! `hob up`: what a tree needs to run in the foreground, all of it in one folder of the state directory.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::build::{self, Built, Tree, make_home, name_of, say};
use super::copy;
use super::prepare::{Refused, Source};
use super::script::describe;
use crate::config::{self, Placement, Service, Settings};
use crate::sys::fd;

/// Builds a tree and places its instances. The settings are changed so that everything stays in the state directory:
/// ports, logs unless a place was `given` for them, and the socket if another hob has the usual one.
pub fn build(dir: &Path, given: &Given, settings: &mut Settings) -> Result<Source, Refused> {
    let tree = build::read(dir, settings, config::own_env())?;
    for warning in &tree.warnings {
        log::warn!("{warning}");
    }
    let folder = settings.state_dir.join("up").join(name_of(&tree.root));
    if let Some(pid) = living(&folder) {
        return Err(one(format!("{} is up already: pid {pid}", tree.root.display())));
    }
    settings.state_dir = folder.clone();
    if !given.log_dir {
        settings.log_dir = folder.join("log");
    }
    if !given.socket && !is_usable(&settings.socket) {
        settings.socket = folder.join("hob.sock");
        say(&format!("hob status and the like find this one with HOB_SOCKET={}", settings.socket.display()));
    }
    let built = build::build(&tree, |service| folder.join(service), settings)?;
    let mut placements = Vec::new();
    for Built { service, home, had_data } in built {
        let Some(service) = tree.stack.service(&service) else { continue };
        for number in 0..service.instances {
            let home = if number == 0 {
                home.clone()
            } else {
                another(&tree, service, &home, number, had_data).map_err(one)?
            };
            placements.push(Placement {
                service: service.name.clone(),
                number,
                of: service.instances,
                home,
                code: tree.root.clone(),
                log_dir: settings.log_dir.clone(),
                binds: Vec::new(),
                project: None,
            });
        }
    }
    Ok(Source::Stack { file: tree.stack.file, placements })
}

/// What was asked for by flag or variable, and so is not `up`'s to choose.
#[derive(Clone, Copy, Debug)]
pub struct Given {
    pub socket: bool,
    pub log_dir: bool,
}

/// The hob that runs what is in a folder: it has a file there, which it has locked (see `daemon::predecessor`).
fn living(folder: &Path) -> Option<i32> {
    let files = fs::read_dir(folder.join("running")).ok()?;
    files.take(1000).flatten().find_map(|entry| {
        // Opened for writing: only then can the lock of another be asked for.
        let mut options = fs::OpenOptions::new();
        let mut file = options.read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(entry.path()).ok()?;
        if !fd::is_locked_by_another(&file).unwrap_or(false) {
            return None;
        }
        let mut pid = String::new();
        file.by_ref().take(20).read_to_string(&mut pid).ok()?;
        pid.trim().parse().ok()
    })
}

/// A fresh copy of the built home, with the `~/data` that this instance had before.
fn another(tree: &Tree, service: &Service, built: &Path, number: u32, had_data: bool) -> Result<PathBuf, String> {
    let user = tree.user.as_ref();
    let beside = |suffix: &str| built.with_file_name(format!("{}.{number}{suffix}", service.name));
    let (home, old, new) = (beside(""), beside(".old"), beside(".new"));
    let told = |what: &str, path: &Path, e: &io::Error| format!("cannot {what} {}: {}", path.display(), describe(e));
    // Left over from a start that was cut short between the two renames, or before the data was moved.
    if !home.exists() && old.exists() {
        fs::rename(&old, &home).map_err(|e| told("restore", &home, &e))?;
    }
    move_data(&old, &home).map_err(|e| told("move ~/data to", &home, &e))?;
    for leftover in [&old, &new] {
        remove(leftover).map_err(|e| told("remove", leftover, &e))?;
    }
    make_home(&new, user)?;
    // Data that the first instance has made is its own.
    copy::home(built, &new, had_data.then_some("data"), user).map_err(|e| told("copy the home to", &new, &e))?;
    if home.exists() {
        fs::rename(&home, &old).map_err(|e| told("replace", &home, &e))?;
    }
    fs::rename(&new, &home).map_err(|e| told("replace", &home, &e))?;
    move_data(&old, &home).map_err(|e| told("move ~/data to", &home, &e))?;
    remove(&old).map_err(|e| told("remove", &old, &e))?;
    Ok(home)
}

/// Moves `~/data`, if there is one, in place of what a builder may have made.
fn move_data(from: &Path, to: &Path) -> io::Result<()> {
    if from.join("data").symlink_metadata().is_err() {
        return Ok(());
    }
    remove(&to.join("data"))?;
    fs::rename(from.join("data"), to.join("data"))
}

/// Removes what is there, whatever it is; no link is followed.
fn remove(path: &Path) -> io::Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Whether a daemon could listen there: nobody does, and its folder is there or can be made.
fn is_usable(socket: &Path) -> bool {
    if UnixStream::connect(socket).is_ok() {
        return false;
    }
    let Some(folder) = socket.parent() else { return false };
    let probe = folder.join(format!(".hob-{}", std::process::id()));
    fs::create_dir_all(folder).is_ok()
        && fs::OpenOptions::new().write(true).create_new(true).open(&probe).is_ok()
        && fs::remove_file(&probe).is_ok()
}

fn one(error: String) -> Refused {
    Refused { errors: vec![error], status: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(state: &Path) -> Settings {
        let own = [("HOB_STATE_DIR", state.join("state")), ("HOB_SOCKET", state.join("hob.sock"))]
            .map(|(name, path)| (name.to_owned(), path.to_string_lossy().into_owned()));
        let mut settings =
            crate::config::settings(&crate::config::Overrides::default(), &own.into()).expect("good settings");
        // As an ordinary user: the tests must not depend on who runs them.
        settings.root = false;
        settings
    }

    #[test]
    fn instances_get_fresh_homes_and_keep_their_data() {
        let dir = tempfile::tempdir().expect("a directory");
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).expect("made");
        fs::write(tree.join("dotcloud.yml"), "www:\n  type: custom\n  buildscript: builder\n  instances: 2\n")
            .expect("written");
        fs::write(tree.join("builder"), "echo built >> ~/built\n").expect("written");
        let up = || {
            let mut settings = settings(dir.path());
            let source = build(&tree, &Given { socket: true, log_dir: false }, &mut settings).expect("built");
            let Source::Stack { placements, .. } = source else { panic!("a stack") };
            assert!(settings.log_dir.starts_with(dir.path().join("state/up")));
            placements.into_iter().map(|p| p.home).collect::<Vec<_>>()
        };
        let homes = up();
        assert_eq!(homes.len(), 2);
        assert_eq!(fs::read_to_string(homes[1].join("built")).expect("copied"), "built\n");
        // Both make data, and the second also something that does not survive.
        for (number, home) in homes.iter().enumerate() {
            fs::create_dir(home.join("data")).expect("made");
            fs::write(home.join("data/mine"), number.to_string()).expect("written");
        }
        fs::write(homes[1].join("scratch"), "").expect("written");
        assert_eq!(up(), homes);
        for (number, home) in homes.iter().enumerate() {
            assert_eq!(fs::read_to_string(home.join("data/mine")).expect("kept"), number.to_string());
        }
        assert!(!homes[1].join("scratch").exists());
        assert_eq!(fs::read_to_string(homes[1].join("built")).expect("copied"), "built\nbuilt\n");
    }

    #[test]
    fn a_copy_that_was_cut_short_loses_no_data() {
        let dir = tempfile::tempdir().expect("a directory");
        let (old, home) = (dir.path().join("www.1.old"), dir.path().join("www.1"));
        fs::create_dir_all(old.join("data/live")).expect("made");
        fs::create_dir_all(home.join("data/built")).expect("made");
        move_data(&old, &home).expect("moved");
        assert!(home.join("data/live").is_dir() && !home.join("data/built").exists());
        move_data(&old, &home).expect("nothing to move");
        assert!(home.join("data/live").is_dir());
    }
}
