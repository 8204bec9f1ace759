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
use super::store::remove;
use crate::config::{self, Placement, Service, Settings};
use crate::sys::{fd, process, sigwait};

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
    let mut old = Vec::new();
    for service in &tree.stack.services {
        old.extend(renew(&folder.join(&service.name)).map_err(one)?);
    }
    discard(old);
    let built = build::build(&tree, |service| folder.join(service), settings)?;
    let mut placements = Vec::new();
    for Built { service, home } in built {
        let Some(service) = tree.stack.service(&service) else { continue };
        keep(&tree, &home).map_err(one)?;
        for number in 0..service.instances {
            let home = if number == 0 {
                replace_data(&beside(&home, ".data"), &home.join("data"))
                    .map_err(|e| one(format!("cannot move ~/data to {}: {}", home.display(), describe(&e))))?;
                home.clone()
            } else {
                another(&tree, service, &home, number).map_err(one)?
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

/// Puts a home that has been run back to what its last build made: a run changes `~/data` alone for good, which waits
/// beside it. The first instance runs where it was built, since paths may be baked into it. The result is what can go.
fn renew(home: &Path) -> Result<Option<PathBuf>, String> {
    let (built, old, data) = (beside(home, ".built"), beside(home, ".old"), beside(home, ".data"));
    let put_aside = |from: &Path| -> io::Result<()> {
        // In a home that was built and has not run since, it is the builder's.
        let has_run = from.join("environment.json").exists();
        if has_run || !data.exists() { replace_data(&from.join("data"), &data) } else { Ok(()) }
    };
    let renew = || -> io::Result<()> {
        // Left over from a start that was cut short.
        put_aside(&old)?;
        remove(&old)?;
        if built.exists() {
            if home.exists() {
                fs::rename(home, &old)?;
            }
            fs::rename(&built, home)?;
            put_aside(&old)?;
        } else if home.join("environment.json").exists() {
            put_aside(home)?;
        }
        Ok(())
    };
    renew().map_err(|e| format!("cannot put back {}: {}", home.display(), describe(&e)))?;
    Ok(old.exists().then_some(old))
}

/// Removes homes while the build is under way: many files on a busy disk take a while. What is left of them when hob
/// ends goes the next time.
fn discard(homes: Vec<PathBuf>) {
    if homes.is_empty() {
        return;
    }
    let _ = process::fork(|| {
        sigwait::die_with_parent();
        process::set_name("hob tidy");
        homes.iter().for_each(|home| drop(remove(home)));
        0
    });
}

/// Keeps a copy of what a build has made, for the next one and for more instances.
fn keep(tree: &Tree, home: &Path) -> Result<(), String> {
    let (built, new) = (beside(home, ".built"), beside(home, ".built.new"));
    let told = |e: io::Error| format!("cannot copy the home to {}: {}", built.display(), describe(&e));
    remove(&new).map_err(told)?;
    make_home(&new, tree.user.as_ref())?;
    copy::home(home, &new, tree.user.as_ref()).map_err(told)?;
    fs::rename(&new, &built).map_err(told)
}

/// `www.old` beside `www`; the name of a service has no dot.
fn beside(home: &Path, suffix: &str) -> PathBuf {
    let mut name = home.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    home.with_file_name(name)
}

/// A fresh copy of the built home, with the `~/data` that this instance had before.
fn another(tree: &Tree, service: &Service, first: &Path, number: u32) -> Result<PathBuf, String> {
    let user = tree.user.as_ref();
    let of_this = |suffix: &str| first.with_file_name(format!("{}.{number}{suffix}", service.name));
    let (home, old, new) = (of_this(""), of_this(".old"), of_this(".new"));
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
    copy::home(&beside(first, ".built"), &new, user).map_err(|e| told("copy the home to", &new, &e))?;
    if home.exists() {
        fs::rename(&home, &old).map_err(|e| told("replace", &home, &e))?;
    }
    fs::rename(&new, &home).map_err(|e| told("replace", &home, &e))?;
    move_data(&old, &home).map_err(|e| told("move ~/data to", &home, &e))?;
    remove(&old).map_err(|e| told("remove", &old, &e))?;
    Ok(home)
}

/// Moves `~/data` from one home to another, if there is one, in place of what a builder may have made.
fn move_data(from: &Path, to: &Path) -> io::Result<()> {
    replace_data(&from.join("data"), &to.join("data"))
}

fn replace_data(from: &Path, to: &Path) -> io::Result<()> {
    if from.symlink_metadata().is_err() {
        return Ok(());
    }
    remove(to)?;
    fs::rename(from, to)
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
        // Both make data, and something that does not survive.
        for (number, home) in homes.iter().enumerate() {
            fs::create_dir(home.join("data")).expect("made");
            fs::write(home.join("data/mine"), number.to_string()).expect("written");
            fs::write(home.join("environment.json"), "{}").expect("written");
        }
        assert_eq!(up(), homes);
        for (number, home) in homes.iter().enumerate() {
            assert_eq!(fs::read_to_string(home.join("data/mine")).expect("kept"), number.to_string());
        }
        for home in &homes {
            assert!(!home.join("environment.json").exists());
            assert_eq!(fs::read_to_string(home.join("built")).expect("copied"), "built\nbuilt\n");
        }
    }

    #[test]
    fn whatever_a_start_was_cut_short_at_the_home_is_as_built_and_the_live_data_is_kept() {
        let mut states: Vec<Vec<(&str, bool, &str)>> = vec![
            vec![("www", true, "live"), ("www.built", false, "builders")],
            vec![("www.old", true, "live"), ("www.built", false, "builders")],
            vec![("www.old", true, "live"), ("www", false, "builders")],
            vec![("www", false, "builders"), ("www.built", false, "builders"), ("", false, "live")],
        ];
        // That of a hob that kept no copy.
        states.push(vec![("www", true, "live")]);
        for state in states {
            let dir = tempfile::tempdir().expect("a directory");
            for (name, has_run, data) in &state {
                let home = dir.path().join(name);
                let folder = if name.is_empty() { dir.path().join("www.data") } else { home.join("data") };
                fs::create_dir_all(&folder).expect("made");
                fs::write(folder.join("of"), data).expect("written");
                if *has_run {
                    fs::write(home.join("environment.json"), "").expect("written");
                }
            }
            let old = renew(&dir.path().join("www")).expect("renewed");
            assert_eq!(fs::read_to_string(dir.path().join("www.data/of")).expect("kept"), "live", "{state:?}");
            let of = fs::read_to_string(dir.path().join("www/data/of")).unwrap_or_default();
            assert_eq!(of, if state.len() > 1 { "builders" } else { "" }, "{state:?}");
            assert!(!dir.path().join("www.built").exists(), "{state:?}");
            assert_eq!(old.is_some(), dir.path().join("www.old").exists(), "{state:?}");
        }
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
