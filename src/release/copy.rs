//! Copies a home for another instance: files, directories, links, modes and times.
//!
//! The copy is made by a child that has become the user: root neither follows a link that the user has put there nor
//! makes files that the user may not change.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::script::describe;
use crate::plan::Identity;
use crate::sys::process::{self, Ended};

/// Fills `to`, which is there and is the user's, with what `from` holds.
pub fn home(from: &Path, to: &Path, user: Option<&Identity>) -> io::Result<()> {
    let (mut rx, mut tx) = io::pipe()?;
    let pid = process::fork(|| {
        let become_user = |user: &Identity| process::become_user(user.uid, user.gid, &user.groups);
        let copied = user
            .map_or(Ok(()), |user| {
                become_user(user).map_err(|(stage, why)| format!("cannot {stage}: {}", describe(&why)))
            })
            .and_then(|()| tree(from, to));
        copied.map_or_else(|why| tx.write_all(why.as_bytes()).map_or(1, |()| 1), |()| 0)
    })?;
    drop(tx);
    let mut why = Vec::new();
    let read = rx.read_to_end(&mut why);
    match process::wait_for(pid)? {
        Ended::Code(0) => read.map(|_| ()),
        _ if why.is_empty() => Err(io::Error::other("it is not complete")),
        _ => Err(io::Error::other(String::from_utf8_lossy(&why).into_owned())),
    }
}

fn tree(from: &Path, to: &Path) -> Result<(), String> {
    let told =
        |what: &str, path: &Path, why: &io::Error| format!("cannot {what} {}: {}", path.display(), describe(why));
    for entry in fs::read_dir(from).map_err(|e| told("read", from, &e))? {
        let entry = entry.map_err(|e| told("read", from, &e))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        copy_one(&source, &target).map_err(|e| told("copy", &source, &e))?;
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            tree(&source, &target)?;
            // Afterwards: a directory that may not be written to could not have been filled.
            settle(&source, &target).map_err(|e| told("copy", &source, &e))?;
        }
    }
    Ok(())
}

fn copy_one(source: &Path, target: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(source)?;
    if meta.is_symlink() {
        return symlink(fs::read_link(source)?, target);
    }
    if meta.is_dir() {
        return fs::create_dir(target);
    }
    if !meta.is_file() {
        // A socket or a FIFO belongs to a program that ran during the build.
        return Ok(());
    }
    // By reflink or in the kernel, where the file system can.
    fs::copy(source, target)?;
    settle(source, target)
}

/// The mode and the time of change, by which make and Python decide what is old.
fn settle(source: &Path, target: &Path) -> io::Result<()> {
    let meta = fs::metadata(source)?;
    File::open(target)?.set_modified(meta.modified()?)?;
    fs::set_permissions(target, fs::Permissions::from_mode(meta.mode() & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_files_links_modes_and_times_of_the_original() {
        let dir = tempfile::tempdir().expect("a directory");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        for folder in [&from, &to, &from.join("sub"), &from.join("data")] {
            fs::create_dir(folder).expect("made");
        }
        fs::write(from.join("sub/run"), "#!/bin/sh\n").expect("written");
        fs::set_permissions(from.join("sub/run"), fs::Permissions::from_mode(0o750)).expect("changed");
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_300_000_000);
        File::open(from.join("sub/run")).expect("opened").set_modified(old).expect("changed");
        symlink("sub/run", from.join("run")).expect("linked");
        symlink("/nowhere", from.join("dangling")).expect("linked");
        fs::set_permissions(from.join("sub"), fs::Permissions::from_mode(0o555)).expect("changed");

        home(&from, &to, None).expect("copied");

        let meta = fs::metadata(to.join("sub/run")).expect("there");
        assert_eq!((meta.mode() & 0o7777, meta.modified().expect("known")), (0o750, old));
        assert_eq!(fs::metadata(to.join("sub")).expect("there").mode() & 0o7777, 0o555);
        assert_eq!(fs::read_link(to.join("run")).expect("a link"), Path::new("sub/run"));
        assert_eq!(fs::read_link(to.join("dangling")).expect("a link"), Path::new("/nowhere"));
        assert!(to.join("data").is_dir());
    }
}
