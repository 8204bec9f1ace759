//! Where `$HOME` is while building and running (DESIGN §3): bound over one path in mount namespaces where hob may do
//! that, else the release's own directory.

use std::fs;
use std::path::{Path, PathBuf};

use super::prepare::Refused;
use super::script::describe;
use super::store::{Store, cannot, make_dir};
use crate::config::{HomeMode, Settings};
use crate::plan::Identity;
use crate::sys::process::{self, Ended};
use crate::sys::{mount, sigwait};

/// The path that homes are bound over, or nothing: they are used where they lie.
pub fn seen_at(store: &Store, settings: &Settings, user: Option<&Identity>) -> Result<Option<PathBuf>, Refused> {
    if settings.home_mode == HomeMode::Direct {
        return Ok(None);
    }
    match try_bind(store, settings, user) {
        Ok(path) => Ok(Some(path)),
        Err(why) if settings.home_mode == HomeMode::Bind => {
            let home = settings.home.display();
            Err(Refused::one(1, format!("home_mode is bind, and homes cannot be bound over {home}: {why}")))
        }
        Err(why) => {
            log::debug!("homes are used where they lie: {why}");
            Ok(None)
        }
    }
}

fn try_bind(store: &Store, settings: &Settings, user: Option<&Identity>) -> Result<PathBuf, String> {
    if !settings.root {
        return Err("hob is not root".to_owned());
    }
    let home = &settings.home;
    let told = |e: &std::io::Error| describe(e);
    if fs::metadata(home).is_err() {
        make_dir(home).map_err(|e| told(&e))?;
        if let Some(user) = user {
            std::os::unix::fs::lchown(home, Some(user.uid), Some(user.gid)).map_err(|e| told(&e))?;
        }
    }
    let home = fs::canonicalize(home).map_err(|e| told(&e))?;
    for needed in [&store.root, &settings.log_dir] {
        let needed = fs::canonicalize(needed).unwrap_or_else(|_| needed.clone());
        if needed.starts_with(&home) {
            return Err(format!("{} is below it and could not be seen any more", needed.display()));
        }
    }
    let from = store.root.join("instances");
    // Whether it works is seen by doing it, in a child whose mounts end with it.
    let child = process::fork(|| {
        sigwait::die_with_parent();
        match mount::enter([(from.as_path(), home.as_path())].into_iter()) {
            Ok(()) => 0,
            Err(why) => why.raw_os_error().filter(|errno| (1..=255).contains(errno)).unwrap_or(255),
        }
    });
    match child.and_then(process::wait_for).map_err(|e| told(&e))? {
        Ended::Code(0) => Ok(home),
        Ended::Code(errno) => Err(describe(&std::io::Error::from_raw_os_error(errno.into()))),
        Ended::Signal { signal, .. } => Err(format!("the trial was ended by signal {signal}")),
    }
}

/// The bytes of the regular files in a directory.
pub fn size(dir: &Path) -> u64 {
    let mut size = 0;
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => dirs.push(entry.path()),
                Ok(meta) if meta.is_file() => size += meta.len(),
                _ => {}
            }
        }
    }
    size
}

/// Makes the directories above a home.
pub fn make_above(home: &Path) -> Result<(), Refused> {
    let Some(above) = home.parent() else { return Ok(()) };
    make_dir(above).map_err(|e| cannot("make", above, &e))
}
