//! From directories to a tar stream: a tree that is pushed, or everything a build has made, for another machine.
//!
//! A tree is packed as the original platform did (reference/dotcloud.md §5): without `.git`, `.hg`, `*.pyc` and what
//! `.dotcloudignore` names, with those symbolic links that stay inside it. No link is followed.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ignored::{self, Ignored};
use super::prepare::Refused;
use super::script::describe;
use super::store::cannot;

/// The first entry of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub version: u32,
    pub revision: String,
    pub project: String,
    pub services: Vec<String>,
    /// `$HOME` of each build, in the order of the services.
    pub homes: Vec<PathBuf>,
}

/// The name of the manifest in an artifact.
pub const MANIFEST: &str = "hob-artifact.json";

/// The version of artifacts that is written, and the only one that is read.
pub const VERSION: u32 = 1;

/// What is heard about while packing.
pub trait Watcher {
    fn packed(&mut self, files: u64, bytes: u64);
    fn left_out(&mut self, what: String);
}

/// Writes the tree `dir` as a tar stream.
pub fn tree(dir: &Path, out: impl Write, watcher: &mut dyn Watcher) -> Result<(), Refused> {
    let mut packer = Packer { out: tar::Builder::new(out), files: 0, bytes: 0, watcher };
    let (ignored, wrong) = Ignored::of(dir);
    for line in wrong {
        packer.watcher.left_out(format!("{line:?} in {} is no pattern", ignored::FILE));
    }
    packer.below(dir, Path::new(""), &ignored)?;
    packer.finish()
}

/// Writes an artifact: the manifest, `code` and `built/SERVICE`.
pub fn artifact(
    manifest: &Manifest,
    code: &Path,
    built: impl Fn(&str) -> PathBuf,
    out: impl Write,
    watcher: &mut dyn Watcher,
) -> Result<(), Refused> {
    let mut packer = Packer { out: tar::Builder::new(out), files: 0, bytes: 0, watcher };
    let text = serde_json::to_vec_pretty(manifest).unwrap_or_default();
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    packer.out.append_data(&mut header, MANIFEST, text.as_slice()).map_err(|e| not_written(&e))?;
    packer.all(code, Path::new("code"), Links::Inside)?;
    for service in &manifest.services {
        packer.all(&built(service), &Path::new("built").join(service), Links::All)?;
    }
    packer.finish()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Links {
    /// Only those that do not lead out of the tree.
    Inside,
    All,
}

struct Packer<'w, W: Write> {
    out: tar::Builder<W>,
    files: u64,
    bytes: u64,
    watcher: &'w mut dyn Watcher,
}

impl<W: Write> Packer<'_, W> {
    /// Everything in a directory of a tree, but for what is ignored.
    fn below(&mut self, dir: &Path, name: &Path, ignored: &Ignored) -> Result<(), Refused> {
        for entry in sorted(dir)? {
            let (path, name) = (entry.path(), name.join(entry.file_name()));
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if ignored.covers(&name, is_dir) {
                continue;
            }
            self.add(&path, &name, Links::Inside)?;
            if is_dir {
                self.below(&path, &name, ignored)?;
            }
        }
        Ok(())
    }

    /// A directory with everything in it.
    fn all(&mut self, dir: &Path, name: &Path, links: Links) -> Result<(), Refused> {
        self.add(dir, name, links)?;
        for entry in sorted(dir)? {
            let (path, name) = (entry.path(), name.join(entry.file_name()));
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.all(&path, &name, links)?;
            } else {
                self.add(&path, &name, links)?;
            }
        }
        Ok(())
    }

    /// One file, directory or link; of a directory only itself.
    fn add(&mut self, path: &Path, name: &Path, links: Links) -> Result<(), Refused> {
        let meta = match fs::symlink_metadata(path) {
            Ok(meta) => meta,
            // Trees change while they are read.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(cannot("read", path, &e)),
        };
        let mut header = tar::Header::new_gnu();
        header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
        header.set_mode(meta.mode() & 0o777);
        header.set_size(0);
        self.files += 1;
        if meta.is_dir() {
            header.set_entry_type(tar::EntryType::Directory);
            self.out.append_data(&mut header, name, io::empty()).map_err(|e| not_written(&e))?;
        } else if meta.is_symlink() {
            let target = fs::read_link(path).map_err(|e| cannot("read", path, &e))?;
            let folder = name.parent().unwrap_or(Path::new(""));
            if links == Links::Inside && !stays_inside(folder, &target) {
                let told = format!("{} is a link to {}, which leads out of the tree", name.display(), target.display());
                self.watcher.left_out(told);
                return Ok(());
            }
            header.set_entry_type(tar::EntryType::Symlink);
            self.out.append_link(&mut header, name, &target).map_err(|e| not_written(&e))?;
        } else if meta.is_file() {
            let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
            let opened = fs::OpenOptions::new().read(true).custom_flags(flags).open(path);
            let mut file = opened.map_err(|e| cannot("read", path, &e))?;
            self.file(&mut file, header, path, name)?;
        } else {
            self.watcher.left_out(format!("{} is a socket, a FIFO or a device", name.display()));
        }
        self.watcher.packed(self.files, self.bytes);
        Ok(())
    }

    fn file(&mut self, file: &mut File, mut header: tar::Header, path: &Path, name: &Path) -> Result<(), Refused> {
        let size = file.metadata().map_err(|e| cannot("read", path, &e))?.len();
        header.set_size(size);
        let mut exact = Exact { file, left: size, failed: None };
        let appended = self.out.append_data(&mut header, name, &mut exact);
        if let Some(why) = exact.failed {
            return Err(cannot("read", path, &why));
        }
        appended.map_err(|e| not_written(&e))?;
        self.bytes += size;
        Ok(())
    }

    fn finish(mut self) -> Result<(), Refused> {
        self.out.finish().and_then(|()| self.out.get_mut().flush()).map_err(|e| not_written(&e))
    }
}

/// The bytes that were announced: a file that grows or shrinks meanwhile is cut, or filled up with zeroes.
struct Exact<'f> {
    file: &'f mut File,
    left: u64,
    failed: Option<io::Error>,
}

impl Read for Exact<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(out.len());
        if most == 0 {
            return Ok(0);
        }
        let length = match self.file.read(&mut out[..most]) {
            Ok(0) => {
                out[..most].fill(0);
                most
            }
            Ok(length) => length,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => return Err(why),
            Err(why) => {
                let kind = why.kind();
                self.failed = Some(why);
                return Err(kind.into());
            }
        };
        self.left -= length as u64;
        Ok(length)
    }
}

/// Whether a link in `folder` of a tree leads to a place inside that tree.
pub fn stays_inside(folder: &Path, target: &Path) -> bool {
    let mut depth = folder.components().count();
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

/// The same tree makes the same archive.
fn sorted(dir: &Path) -> Result<Vec<fs::DirEntry>, Refused> {
    let entries = fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries = entries.map_err(|e| cannot("read", dir, &e))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    Ok(entries)
}

fn not_written(why: &io::Error) -> Refused {
    Refused::one(111, format!("cannot write the archive: {}", describe(why)))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Notes(Vec<String>);

    impl Watcher for Notes {
        fn packed(&mut self, _: u64, _: u64) {}
        fn left_out(&mut self, what: String) {
            self.0.push(what);
        }
    }

    #[test]
    fn a_tree_is_packed_without_what_is_never_pushed_and_what_is_ignored() {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text) in [
            ("dotcloud.yml", "x"),
            (".git/HEAD", "x"),
            ("sub/.hg/x", "x"),
            ("sub/a.pyc", "x"),
            ("sub/a.py", "x"),
            (".hidden", "x"),
            ("node_modules/x/y", "x"),
            ("big.log", "x"),
            ("kept.log", "x"),
            (".gitignore", "sub\n"),
            (ignored::FILE, "/node_modules/\n*.log\n!kept.log\n"),
        ] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("below")).expect("made");
            fs::write(path, text).expect("written");
        }
        std::os::unix::fs::symlink("sub/a.py", dir.path().join("inside")).expect("linked");
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("outside")).expect("linked");
        let mut out = Vec::new();
        let mut notes = Notes(Vec::new());
        tree(dir.path(), &mut out, &mut notes).expect("packed");
        let mut archive = tar::Archive::new(out.as_slice());
        let mut names: Vec<String> = archive
            .entries()
            .expect("entries")
            .map(|e| e.expect("an entry").path().expect("a path").to_string_lossy().into_owned())
            .collect();
        names.sort();
        let expected =
            [ignored::FILE, ".gitignore", ".hidden", "dotcloud.yml", "inside", "kept.log", "sub", "sub/a.py"];
        assert_eq!(names, expected);
        assert_eq!(notes.0, ["outside is a link to /etc/passwd, which leads out of the tree"]);
    }

    #[test]
    fn a_link_stays_inside_by_where_it_leads_not_by_how_it_looks() {
        let stays = |folder: &str, target: &str| stays_inside(Path::new(folder), Path::new(target));
        assert!(stays("", "a") && stays("a/b", "../../c") && stays("a", "./b/../../c"));
        assert!(!stays("", "..") && !stays("a", "../../x") && !stays("a", "/a") && !stays("a", "b/../../../a/x"));
    }
}
