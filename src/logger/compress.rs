//! Rotated files, compressed in the background by a short-lived child of the lowest priority, one at a time.
//!
//! The child only makes a new file beside the old one. Names are changed by the logger itself, between two writes, so
//! that no rotation can come in between. A child that is killed half-way, or a logger, leaves the rotated file as it
//! was and at most a `NAME.new.gz`, which the next child takes away.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::protocol::LogId;
use crate::plan::Compress;
use crate::sys;

/// What there is to compress, and what is being compressed.
#[derive(Default)]
pub struct Compressor {
    waiting: BTreeSet<LogId>,
    job: Option<Job>,
}

/// A rotated file, and the child at work on it.
pub struct Job {
    pub log: LogId,
    pub packed: Packed,
    child: sys::process::Pid,
    /// One byte from the child means that all is written.
    answer: File,
}

/// A file and its compressed copy, which takes its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    pub new: PathBuf,
    /// Which file it is a copy of: its number in the name may be another one by now.
    pub inode: u64,
    pub suffix: &'static str,
}

impl Compressor {
    /// A log has a rotated file that is to be compressed.
    pub fn want(&mut self, log: LogId) {
        self.waiting.insert(log);
    }

    /// The log to look at next, if nothing is being compressed.
    pub fn next(&mut self) -> Option<LogId> {
        if self.job.is_some() { None } else { self.waiting.pop_first() }
    }

    /// Begins; what comes back tells by becoming readable that the child is done.
    pub fn start(&mut self, log: LogId, file: &Path, new: PathBuf, how: Compress) -> io::Result<&impl AsRawFd> {
        let source = open(file)?;
        let inode = source.metadata()?.ino();
        let (rx, tx) = io::pipe()?;
        let (rx, tx): (OwnedFd, OwnedFd) = (rx.into(), tx.into());
        let to = new.clone();
        let child = sys::process::fork(|| {
            sys::process::set_name("hob compress");
            sys::process::close_others(&[source.as_raw_fd(), tx.as_raw_fd()]);
            let _ = sys::limits::set_nice(19);
            match compress(&source, &to, how) {
                Ok(()) => i32::from(File::from(tx).write_all(b"+").is_err()),
                Err(why) => {
                    log::warn!("cannot compress into {}: {why}", to.display());
                    let _ = fs::remove_file(&to);
                    1
                }
            }
        })?;
        let packed = Packed { new, inode, suffix: suffix(how) };
        Ok(&self.job.insert(Job { log, packed, child, answer: rx.into() }).answer)
    }

    /// The child is done: the job, and whether it was done well.
    pub fn finish(&mut self) -> Option<(Job, bool)> {
        let mut job = self.job.take()?;
        let is_good = matches!(job.answer.read(&mut [0]), Ok(1));
        let _ = sys::process::wait_for(job.child);
        Some((job, is_good))
    }

    /// The logger ends: what is not done is left for the next one.
    pub fn give_up(&mut self) {
        if let Some(job) = self.job.take() {
            let _ = sys::process::kill(job.child, libc::SIGKILL);
            let _ = sys::process::wait_for(job.child);
            let _ = fs::remove_file(&job.packed.new);
        }
    }
}

impl AsRawFd for Job {
    fn as_raw_fd(&self) -> i32 {
        self.answer.as_raw_fd()
    }
}

/// The end of a compressed file's name.
pub fn suffix(how: Compress) -> &'static str {
    match how {
        Compress::None => "",
        Compress::Gzip => ".gz",
        Compress::Zstd => ".zst",
    }
}

/// The content of a compressed file.
pub fn reader(path: &Path) -> io::Result<Box<dyn Read>> {
    let file = open(path)?;
    match path.extension().and_then(|end| end.to_str()) {
        Some("zst") => Ok(Box::new(zstd::stream::read::Decoder::new(file)?)),
        _ => Ok(Box::new(flate2::read::MultiGzDecoder::new(file))),
    }
}

/// The folder may belong to the service's user: no link is followed, and no FIFO waited for.
fn open(path: &Path) -> io::Result<File> {
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// The copy has the owner, the mode and the time of the original, and is on the disk before it takes its place.
fn compress(source: &File, to: &Path, how: Compress) -> io::Result<()> {
    let meta = source.metadata()?;
    match fs::remove_file(to) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    let mut options = fs::OpenOptions::new();
    let target = options.write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(to)?;
    let mut source = io::BufReader::with_capacity(COPY, source);
    let target = match how {
        Compress::Zstd => {
            let mut packed = zstd::stream::write::Encoder::new(target, 0)?;
            io::copy(&mut source, &mut packed)?;
            packed.finish()?
        }
        Compress::Gzip | Compress::None => {
            let mut packed = flate2::write::GzEncoder::new(target, flate2::Compression::default());
            io::copy(&mut source, &mut packed)?;
            packed.finish()?
        }
    };
    let _ = std::os::unix::fs::fchown(&target, Some(meta.uid()), Some(meta.gid()));
    target.set_permissions(fs::Permissions::from_mode(meta.mode() & 0o777))?;
    target.set_times(fs::FileTimes::new().set_modified(meta.modified()?))?;
    target.sync_all()
}

const COPY: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_is_read_again_with_its_mode_and_time() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.log.1");
        let text = "a line of a log\n".repeat(10_000);
        fs::write(&path, &text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("ours");
        for how in [Compress::Gzip, Compress::Zstd] {
            let to = dir.path().join(format!("x.log.new{}", suffix(how)));
            fs::write(&to, "left by a child that was killed").expect("written");
            let mut compressor = Compressor::default();
            compressor.start(LogId(7), &path, to.clone(), how).expect("a child");
            assert!(compressor.next().is_none(), "one at a time");
            let (job, is_good) = compressor.finish().expect("it was begun");
            let (old, new) = (fs::metadata(&path).expect("kept"), fs::metadata(&to).expect("made"));
            assert!(is_good && job.packed.inode == old.ino());
            assert_eq!((new.mode(), new.modified().ok()), (old.mode(), old.modified().ok()));
            assert!(new.len() < old.len() / 10);
            let mut back = String::new();
            reader(&to).and_then(|mut reader| reader.read_to_string(&mut back)).expect("read");
            assert!(back == text);
        }
    }

    #[test]
    fn what_cannot_be_compressed_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.log.1");
        std::os::unix::fs::symlink("/etc/passwd", &path).expect("new");
        let mut compressor = Compressor::default();
        assert!(compressor.start(LogId(7), &path, dir.path().join("new.gz"), Compress::Gzip).is_err());
        fs::remove_file(&path).and_then(|()| fs::write(&path, "x")).expect("a file");
        compressor.start(LogId(7), &path, dir.path().join("no/folder.gz"), Compress::Gzip).expect("a child");
        assert!(!compressor.finish().expect("it was begun").1);
        compressor.start(LogId(7), &path, dir.path().join("new.gz"), Compress::Gzip).expect("a child");
        compressor.give_up();
        assert!(!dir.path().join("new.gz").exists() && path.exists());
    }
}
