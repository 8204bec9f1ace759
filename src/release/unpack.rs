//! From a tar stream to a directory, whoever made the stream.
//!
//! Nothing is written outside the directory: it is fresh, nobody else writes there, and only directories made here are
//! gone through. The work is done by a child that has become the user of the homes. Bounds: what comes out is at most
//! a hundred times what went in (and 256 MiB), and the memory of the child is limited.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::pack::{MANIFEST, Manifest, VERSION, stays_inside};
use super::script::describe;
use crate::plan::Identity;
use crate::sys::clock::since_boot;
use crate::sys::process::{self, Ended, Pid};
use crate::sys::{limits, poll, sigwait};

/// What the stream held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    /// There is one in an artifact, not in a tree.
    pub manifest: Option<Manifest>,
    /// The commit, where `git archive` made the stream.
    pub commit: Option<String>,
    pub files: u64,
    pub bytes: u64,
    /// What was left out, and why; at most a few.
    pub left_out: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    Progress { files: u64, bytes: u64 },
    Done(Unpacked),
    Failed(String),
}

/// A child that unpacks.
pub struct Unpacker {
    pid: Pid,
    rx: BufReader<io::PipeReader>,
}

impl Unpacker {
    /// Begins to unpack `input` into `into`, which is there, is empty and is the user's. It tells of its progress only
    /// to somebody who listens all the time (`tells`).
    pub fn start(input: OwnedFd, into: &Path, user: Option<&Identity>, tells: bool) -> io::Result<Unpacker> {
        let (rx, mut tx) = io::pipe()?;
        let pid = process::fork(move || {
            let _ = process::new_session();
            sigwait::die_with_parent();
            // Else it would hold the other end of its own input.
            process::close_others(&[input.as_raw_fd(), tx.as_raw_fd()]);
            let mut tell = |message: &Message| {
                let mut line = serde_json::to_vec(message).unwrap_or_default();
                line.push(b'\n');
                tx.write_all(&line)
            };
            let work = || -> Result<Unpacked, String> {
                if let Some(user) = user {
                    process::become_user(user.uid, user.gid, &user.groups)
                        .map_err(|(stage, why)| format!("cannot {stage}: {}", describe(&why)))?;
                    sigwait::die_with_parent();
                }
                let _ = limits::set_address_space(MEMORY);
                limits::set_umask(0o022);
                let mut progress = |files, bytes| {
                    if tells {
                        let _ = tell(&Message::Progress { files, bytes });
                    }
                };
                unpack(Patient(input.into()), into, &mut progress)
            };
            let message = work().map_or_else(Message::Failed, Message::Done);
            i32::from(tell(&message).is_err())
        })?;
        Ok(Unpacker { pid, rx: BufReader::new(rx) })
    }

    /// Waits for its end.
    pub fn finish(mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<Unpacked, String> {
        let mut line = String::new();
        let mut result = Err(None);
        loop {
            line.clear();
            match self.rx.read_line(&mut line) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            match serde_json::from_str(&line) {
                Ok(Message::Progress { files, bytes }) => progress(files, bytes),
                Ok(Message::Done(unpacked)) => result = Ok(unpacked),
                Ok(Message::Failed(why)) => result = Err(Some(why)),
                Err(_) => {}
            }
        }
        let ended = process::wait_for(self.pid);
        result.map_err(|why| {
            why.unwrap_or_else(|| match ended {
                Ok(Ended::Signal { signal: libc::SIGABRT, .. }) => "the archive needs too much memory".to_owned(),
                Ok(Ended::Signal { signal, .. }) => format!("unpacking was ended by signal {signal}"),
                _ => "unpacking ended without a result".to_owned(),
            })
        })
    }
}

/// Unpacks a tar stream, as it is or compressed by zstd.
pub fn unpack(input: impl Read, into: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Unpacked, String> {
    let mut input = BufReader::with_capacity(64 << 10, Counted { input, count: 0 });
    let begin = input.fill_buf().map_err(|why| cannot_read(&why))?;
    match begin {
        [] => Err("the archive is empty".to_owned()),
        [0x1f, 0x8b, ..] => Err("cannot read gzip: send it through gunzip first, or compress it by zstd".to_owned()),
        [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', ..] | [b'P', b'K', 3, 4, ..] => {
            Err("it is neither a tar archive nor one compressed by zstd".to_owned())
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(|why| cannot_read(&why))?;
            decoder.window_log_max(27).map_err(|why| cannot_read(&why))?;
            Unpacking::new(into, progress).run(Stream::of(decoder, |decoder| decoder.get_ref().get_ref().count))
        }
        _ => Unpacking::new(into, progress).run(Stream::of(input, |input| input.get_ref().count)),
    }
}

/// Gives up when nothing comes for a long time.
struct Patient(File);

impl Read for Patient {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let begin = since_boot();
        while !poll::readable(&[self.0.as_fd()], Some(SILENCE))?[0] {
            if since_boot().saturating_sub(begin) >= SILENCE {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing came for ten minutes"));
            }
        }
        self.0.read(out)
    }
}

struct Counted<R> {
    input: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = self.input.read(out)?;
        self.count += length as u64;
        Ok(length)
    }
}

/// The archive as tar sees it, with a bound, and a look at how it ends.
struct Stream<R> {
    input: R,
    /// How many bytes have come in.
    raw: fn(&R) -> u64,
    /// How many have come out.
    came: u64,
    /// How many zeroes it ends with, so far.
    zeroes: u64,
}

impl<R: Read> Stream<R> {
    fn of(input: R, raw: fn(&R) -> u64) -> Stream<R> {
        Stream { input, raw, came: 0, zeroes: 0 }
    }
}

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = self.input.read(out)?;
        self.came += length as u64;
        if self.came > (self.raw)(&self.input).saturating_mul(100).saturating_add(HEAD_ROOM) {
            return Err(io::Error::other(TOO_LARGE));
        }
        let trailing = out[..length].iter().rev().take_while(|&&byte| byte == 0).count();
        self.zeroes = if trailing == length { self.zeroes + trailing as u64 } else { trailing as u64 };
        Ok(length)
    }
}

struct Unpacking<'a> {
    into: &'a Path,
    progress: &'a mut dyn FnMut(u64, u64),
    /// The directories made here: what is gone through is one of these, never a link.
    dirs: HashSet<PathBuf>,
    /// Modes and times of directories, to set when everything is in its place.
    settle: Vec<(PathBuf, u32, u64)>,
    result: Unpacked,
    /// How many were left out beyond those that are told.
    untold: u64,
}

impl Unpacking<'_> {
    fn new<'a>(into: &'a Path, progress: &'a mut dyn FnMut(u64, u64)) -> Unpacking<'a> {
        let dirs = HashSet::from([PathBuf::new()]);
        Unpacking { into, progress, dirs, settle: Vec::new(), result: Unpacked::default(), untold: 0 }
    }

    fn run<R: Read>(mut self, stream: Stream<R>) -> Result<Unpacked, String> {
        let mut archive = tar::Archive::new(stream);
        for entry in archive.entries().map_err(|why| cannot_read(&why))? {
            let mut entry = entry.map_err(|why| cannot_read(&why))?;
            self.one(&mut entry)?;
            if self.result.files > MOST_FILES {
                return Err(format!("the archive has more than {MOST_FILES} files"));
            }
            if self.result.files.is_multiple_of(256) {
                (self.progress)(self.result.files, self.result.bytes);
            }
        }
        let mut stream = archive.into_inner();
        // Whoever packs fills it up, and must not be cut off; and a checksum stands at the very end.
        let padding = io::copy(&mut (&mut stream).take(PADDING), &mut io::sink()).map_err(|why| cannot_read(&why))?;
        if padding == PADDING {
            return Err("something follows the end of the archive".to_owned());
        }
        if stream.zeroes < 512 {
            return Err("the archive is cut short: its end is missing".to_owned());
        }
        for (path, mode, time) in self.settle.iter().rev() {
            let path = self.into.join(path);
            File::open(&path)
                .and_then(|dir| dir.set_modified(UNIX_EPOCH + Duration::from_secs(*time)))
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(*mode)))
                .map_err(|why| cannot_write(&path, &why))?;
        }
        if self.untold > 0 {
            self.result.left_out.push(format!("and {} more", self.untold));
        }
        Ok(self.result)
    }

    fn one<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<(), String> {
        let kind = entry.header().entry_type();
        if kind == tar::EntryType::XGlobalHeader {
            let mut text = String::new();
            if entry.take(4096).read_to_string(&mut text).is_ok() {
                self.result.commit = commit_in(&text);
            }
            return Ok(());
        }
        let raw = PathBuf::from(OsString::from_vec(entry.path_bytes().into_owned()));
        let name = plain(&raw).ok_or_else(|| format!("{} in the archive leads out of it", shown(&raw)))?;
        if name.as_os_str().is_empty() {
            return Ok(());
        }
        if self.result.files == 0 && name == Path::new(MANIFEST) {
            return self.manifest(entry);
        }
        self.result.files += 1;
        let mode = entry.header().mode().unwrap_or(0o644);
        let time = entry.header().mtime().unwrap_or(0);
        match kind {
            tar::EntryType::Directory => {
                self.make_dirs(&name)?;
                self.settle.push((name, mode & 0o777 | 0o700, time));
            }
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                if mode & 0o6000 != 0 {
                    self.doubt(&name, "is setuid or setgid", "it is so no longer")?;
                }
                self.clear(&name)?;
                self.file(entry, &name, mode, time)?;
            }
            tar::EntryType::Symlink => self.link(entry, &name)?,
            tar::EntryType::Link => self.second_name(entry, &name)?,
            _ => self.doubt(&name, "is a FIFO or a device", "it was left out")?,
        }
        Ok(())
    }

    fn manifest<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<(), String> {
        let mut text = Vec::new();
        entry.take(1 << 20).read_to_end(&mut text).map_err(|why| cannot_read(&why))?;
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|why| format!("cannot understand {MANIFEST}: {why}"))?;
        if manifest.version != VERSION {
            return Err(format!("the artifact has version {}, and this hob reads {VERSION}", manifest.version));
        }
        self.result.manifest = Some(manifest);
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        name: &Path,
        mode: u32,
        time: u64,
    ) -> Result<(), String> {
        let path = self.into.join(name);
        let size = entry.size();
        // The holes of a sparse file come out of nothing.
        if entry.header().entry_type() == tar::EntryType::GNUSparse && size > HEAD_ROOM {
            return Err(format!("the archive {TOO_LARGE}: {}", shown(name)));
        }
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let mut file = options.open(&path).map_err(|why| cannot_write(&path, &why))?;
        let mut block = vec![0; usize::try_from(size).unwrap_or(usize::MAX).clamp(1, 128 << 10)];
        let mut copied = 0;
        loop {
            let length = match entry.read(&mut block) {
                Ok(0) => break,
                Ok(length) => length,
                Err(why) if why.kind() == io::ErrorKind::Interrupted => continue,
                Err(why) => return Err(cannot_read(&why)),
            };
            copied += length as u64;
            self.result.bytes += length as u64;
            file.write_all(&block[..length]).map_err(|why| cannot_write(&path, &why))?;
        }
        if copied != size {
            return Err(format!("the archive is cut short in {}", shown(name)));
        }
        file.set_modified(UNIX_EPOCH + Duration::from_secs(time))
            .and_then(|()| file.set_permissions(fs::Permissions::from_mode(mode & 0o777)))
            .map_err(|why| cannot_write(&path, &why))
    }

    fn link<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, name: &Path) -> Result<(), String> {
        let target = link_target(entry);
        let in_home = self.result.manifest.is_some() && name.starts_with("built");
        // In a home counted from the home: `built/www` is its root.
        let skip = if in_home { 2 } else { 0 };
        let folder: PathBuf = name.parent().map(|folder| folder.components().skip(skip).collect()).unwrap_or_default();
        let is_good = stays_inside(&folder, &target) || in_home && self.is_known_place(&target);
        if !is_good {
            let what = format!("is a link to {}, which leads out of it", shown(&target));
            return self.doubt(name, &what, "it was left out");
        }
        self.clear(name)?;
        let path = self.into.join(name);
        symlink(&target, &path).map_err(|why| cannot_write(&path, &why))
    }

    /// A hard link, to a file that was unpacked before.
    fn second_name<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, name: &Path) -> Result<(), String> {
        let target = link_target(entry);
        let first = plain(&target).filter(|first| first.parent().is_some_and(|folder| self.dirs.contains(folder)));
        let is_file = |first: &PathBuf| fs::symlink_metadata(self.into.join(first)).is_ok_and(|meta| meta.is_file());
        let Some(first) = first.filter(is_file) else {
            let target = shown(&target);
            return Err(format!("{} is a second name of {target}, which is not in the archive", shown(name)));
        };
        if first == name {
            return Ok(());
        }
        self.clear(name)?;
        let path = self.into.join(name);
        fs::hard_link(self.into.join(first), &path).map_err(|why| cannot_write(&path, &why))
    }

    /// Builders link to their own home by its full path, and to what every machine has.
    fn is_known_place(&self, target: &Path) -> bool {
        let homes = self.result.manifest.iter().flat_map(|manifest| &manifest.homes).map(PathBuf::as_path);
        let mut known = KNOWN_PLACES.iter().map(Path::new).chain(homes);
        let goes_up = target.components().any(|part| part == Component::ParentDir);
        !goes_up && known.any(|place| target.starts_with(place))
    }

    /// In an artifact, which hob has made, this is no accident; of a person's tree it is left out.
    fn doubt(&mut self, name: &Path, what: &str, done: &str) -> Result<(), String> {
        if self.result.manifest.is_some() {
            return Err(format!("{} in the artifact {what}", shown(name)));
        }
        if self.result.left_out.len() < MOST_TOLD {
            self.result.left_out.push(format!("{} {what}: {done}", shown(name)));
        } else {
            self.untold += 1;
        }
        Ok(())
    }

    /// Makes room: the folders above are there, and an earlier entry of the same name is gone.
    fn clear(&mut self, name: &Path) -> Result<(), String> {
        if let Some(folder) = name.parent() {
            self.make_dirs(folder)?;
        }
        let path = self.into.join(name);
        match fs::remove_file(&path) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => Err(cannot_write(&path, &why)),
            _ => Ok(()),
        }
    }

    fn make_dirs(&mut self, name: &Path) -> Result<(), String> {
        if self.dirs.contains(name) {
            return Ok(());
        }
        if let Some(above) = name.parent() {
            self.make_dirs(above)?;
        }
        let path = self.into.join(name);
        match fs::create_dir(&path) {
            Ok(()) => {}
            Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {
                return Err(format!("the archive has {} as a directory and as something else", shown(name)));
            }
            Err(why) => return Err(cannot_write(&path, &why)),
        }
        self.dirs.insert(name.to_owned());
        Ok(())
    }
}

fn link_target<R: Read>(entry: &tar::Entry<'_, R>) -> PathBuf {
    let target = entry.link_name_bytes().map(|target| OsString::from_vec(target.into_owned()));
    target.unwrap_or_default().into()
}

/// The name without `.`; nothing if it is absolute or goes up.
fn plain(name: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => plain.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(plain)
}

/// `52 comment=0123...` in the header that `git archive` writes.
fn commit_in(text: &str) -> Option<String> {
    let commit = text.lines().find_map(|line| line.split_once(" comment="))?.1;
    let is_commit = commit.len() >= 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_commit.then(|| commit.to_ascii_lowercase())
}

/// A name for people: short, and without control characters.
fn shown(path: &Path) -> String {
    let text: String = path.to_string_lossy().chars().filter(|c| !c.is_control()).take(200).collect();
    format!("{text:?}")
}

fn cannot_read(why: &io::Error) -> String {
    let text = why.to_string();
    if text.contains(TOO_LARGE) {
        return format!("the archive {TOO_LARGE}");
    }
    let is_short = why.kind() == io::ErrorKind::UnexpectedEof
        || ["incomplete frame", "unexpected EOF", "failed to read entire block"].iter().any(|t| text.contains(t));
    if is_short { "the archive is cut short".to_owned() } else { format!("cannot read the archive: {}", describe(why)) }
}

fn cannot_write(path: &Path, why: &io::Error) -> String {
    format!("cannot write {}: {}", path.display(), describe(why))
}

const TOO_LARGE: &str = "unpacks to more than a hundred times its size";
/// Bytes that may come out of anything.
const HEAD_ROOM: u64 = 256 << 20;
const MOST_FILES: u64 = 2_000_000;
const MOST_TOLD: usize = 20;
/// Bytes.
const PADDING: u64 = 1 << 20;
const SILENCE: Duration = Duration::from_secs(600);
/// Bytes: the window of zstd has up to 128 MiB.
const MEMORY: u64 = 1 << 30;

/// Where a link of a built home may lead beside the home: programs, libraries, logs, devices that hold nothing.
const KNOWN_PLACES: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/opt",
    "/var/log",
    "/dev/null",
    "/dev/stdout",
    "/dev/stderr",
    "/proc/self",
    "/tmp",
    "/run",
    "/etc/alternatives",
    "/etc/ssl",
];

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
