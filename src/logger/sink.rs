//! One log file with its rotated ones: takes bytes, writes every one of them, or says which it could not.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::rotate::{Cut, LINE_MAX, backup, cut, renames};
use crate::plan::{LogSpec, OnFull};
use crate::sys::clock;

pub struct Sink {
    path: PathBuf,
    spec: LogSpec,
    file: Option<File>,
    size: u64,
    /// How much of the end of the file is an unfinished line.
    open_line: u64,
    looked_at: Duration,
    trouble: Option<Trouble>,
    at_line_start: bool,
}

/// The disk does not take what we have.
struct Trouble {
    /// Not written yet: all of it with `block`, the newest with `drop_oldest`, nothing with `drop_newest`.
    held: VecDeque<u8>,
    dropped: u64,
    since: Duration,
    retry_at: Duration,
    pause: Duration,
    why: String,
}

/// What happened while writing, for the daemon.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    Trouble(String),
    Recovered { dropped: u64 },
}

impl Sink {
    pub fn new(path: PathBuf, spec: LogSpec) -> Sink {
        Sink {
            path,
            spec,
            file: None,
            size: 0,
            open_line: 0,
            looked_at: Duration::ZERO,
            trouble: None,
            at_line_start: true,
        }
    }

    pub fn update(&mut self, path: PathBuf, spec: LogSpec) {
        if path != self.path {
            self.file = None;
        }
        self.path = path;
        self.spec = spec;
    }

    /// Somebody else has renamed the file.
    pub fn reopen(&mut self) {
        self.file = None;
    }

    /// Whether the program may go on writing.
    pub fn is_open(&self) -> bool {
        self.trouble.is_none() || self.spec.on_full != OnFull::Block
    }

    pub fn retry_at(&self) -> Option<Duration> {
        self.trouble.as_ref().map(|t| t.retry_at)
    }

    /// Nothing is held back.
    pub fn is_clean(&self) -> bool {
        self.trouble.as_ref().is_none_or(|t| t.held.is_empty())
    }

    pub fn write(&mut self, bytes: &[u8]) -> Option<News> {
        if self.spec.timestamps {
            let stamped = self.stamp(bytes);
            return self.write_raw(&stamped);
        }
        self.write_raw(bytes)
    }

    fn write_raw(&mut self, bytes: &[u8]) -> Option<News> {
        if let Some(trouble) = &mut self.trouble {
            trouble.hold(bytes, self.spec.on_full);
            return None;
        }
        let mut rest = bytes;
        match self.push(&mut rest) {
            Ok(()) => None,
            Err(why) => {
                let text = format!("cannot write {}: {}", self.path.display(), describe(&why));
                let now = clock::since_boot();
                let mut trouble = Trouble {
                    held: VecDeque::new(),
                    dropped: 0,
                    since: clock::wall(),
                    retry_at: now + PAUSE_FIRST,
                    pause: PAUSE_FIRST,
                    why: describe(&why),
                };
                trouble.hold(rest, self.spec.on_full);
                self.trouble = Some(trouble);
                self.file = None;
                Some(News::Trouble(text))
            }
        }
    }

    /// Tries again what could not be written.
    pub fn retry(&mut self) -> Option<News> {
        let mut trouble = self.trouble.take()?;
        let mut text = Vec::new();
        if trouble.dropped > 0 {
            text = gap_line(&trouble, self.open_line > 0);
        }
        let gap = text.len();
        text.extend(trouble.held.iter());
        let mut rest = &text[..];
        match self.push(&mut rest) {
            Ok(()) => Some(News::Recovered { dropped: trouble.dropped }),
            Err(why) => {
                let written = text.len() - rest.len();
                if written >= gap {
                    trouble.dropped = 0;
                    trouble.held.drain(..written - gap);
                }
                trouble.pause = (trouble.pause * 2).min(PAUSE_LAST);
                trouble.retry_at = clock::since_boot() + trouble.pause;
                trouble.why = describe(&why);
                self.trouble = Some(trouble);
                self.file = None;
                None
            }
        }
    }

    /// Writes; what is left in `rest` after an error is not written.
    fn push(&mut self, rest: &mut &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            self.have_file()?;
            let part = match cut(rest, self.size, self.open_line, self.spec.max_bytes) {
                Cut::None => rest.len(),
                Cut::After(0) => {
                    self.rotate()?;
                    continue;
                }
                Cut::After(n) => n,
                Cut::AtLineStart => {
                    self.move_open_line()?;
                    continue;
                }
            };
            match self.write_once(&rest[..part]) {
                Ok(written) => {
                    self.count(&rest[..written]);
                    *rest = &rest[written..];
                    if written == part && !rest.is_empty() {
                        self.rotate()?;
                    }
                }
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) => {
                    // Room by the least loss: our own oldest file.
                    if !is_about_room(&why) || !self.drop_oldest_backup() {
                        return Err(why);
                    }
                }
            }
        }
        Ok(())
    }

    fn write_once(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.file {
            Some(file) => match file.write(bytes) {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                other => other,
            },
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn count(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        // Only the end matters, and beyond LINE_MAX the length of the line does not.
        let tail = &bytes[bytes.len().saturating_sub(LINE_MAX + 1)..];
        self.open_line = match tail.iter().rposition(|&b| b == b'\n') {
            Some(end) => (tail.len() - end - 1) as u64,
            None => self.open_line + bytes.len() as u64,
        };
    }

    /// Opens the file if it is not, and again if it was deleted or renamed under our feet, which is looked at no more
    /// than once a second.
    fn have_file(&mut self) -> io::Result<()> {
        let now = clock::since_boot();
        if let Some(file) = &self.file {
            if now.saturating_sub(self.looked_at) < Duration::from_secs(1) {
                return Ok(());
            }
            self.looked_at = now;
            let ours = file.metadata()?;
            let same = |m: fs::Metadata| m.ino() == ours.ino() && m.dev() == ours.dev();
            if fs::symlink_metadata(&self.path).is_ok_and(same) {
                return Ok(());
            }
        }
        self.looked_at = now;
        let file = self.open()?;
        self.size = file.metadata()?.len();
        self.open_line = open_line_of(&file, self.size);
        self.file = Some(file);
        Ok(())
    }

    fn open(&self) -> io::Result<File> {
        if let Some(folder) = self.path.parent()
            && !folder.exists()
        {
            fs::create_dir_all(folder)?;
            let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o755));
            self.give_away(folder);
        }
        // The folder may belong to the service's user: no link is followed, and no FIFO waited for.
        let mut options = fs::OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o644);
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC);
        let fresh = !self.path.exists();
        let file = options.open(&self.path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        if fresh {
            let _ = file.set_permissions(fs::Permissions::from_mode(0o644));
            self.give_away(&self.path);
        }
        Ok(file)
    }

    fn give_away(&self, path: &Path) {
        if let Some((uid, gid)) = self.spec.owner {
            let _ = std::os::unix::fs::lchown(path, Some(uid), Some(gid));
        }
    }

    /// Moves the unfinished last line to the next file, so that the cut falls between lines.
    fn move_open_line(&mut self) -> io::Result<()> {
        let start = self.size - self.open_line;
        let mut line = vec![0; usize::try_from(self.open_line).unwrap_or(0)];
        if let Some(file) = &self.file {
            file.read_exact_at(&mut line, start)?;
            file.set_len(start)?;
        }
        self.size = start;
        self.open_line = 0;
        self.rotate()?;
        self.have_file()?;
        let mut rest = &line[..];
        while !rest.is_empty() {
            let written = self.write_once(rest)?;
            self.count(&rest[..written]);
            rest = &rest[written..];
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        if self.spec.backups == 0 {
            if let Some(file) = &self.file {
                file.set_len(0)?;
            }
            (self.size, self.open_line) = (0, 0);
            return Ok(());
        }
        self.file = None;
        for (from, to) in renames(&self.path, self.spec.backups, |p| p.exists()) {
            match fs::rename(&from, &to) {
                Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
                _ => {}
            }
        }
        self.prune();
        self.have_file()
    }

    /// Enforces the cap on all files together and their age.
    fn prune(&self) {
        if self.spec.max_total == 0 && self.spec.max_age.is_none() {
            return;
        }
        let mut total = self.spec.max_bytes;
        for n in 1..=self.spec.backups {
            let file = backup(&self.path, n);
            let Ok(meta) = fs::metadata(&file) else { continue };
            total += meta.len();
            let age = clock::wall().saturating_sub(Duration::from_secs(u64::try_from(meta.mtime()).unwrap_or(0)));
            let too_old = self.spec.max_age.is_some_and(|max| age > max);
            if too_old || self.spec.max_total > 0 && total > self.spec.max_total {
                let _ = fs::remove_file(&file);
            }
        }
    }

    fn drop_oldest_backup(&self) -> bool {
        let oldest = (1..=self.spec.backups).rev().map(|n| backup(&self.path, n)).find(|file| file.exists());
        oldest.is_some_and(|file| fs::remove_file(file).is_ok())
    }

    /// Puts the time in front of each line.
    fn stamp(&mut self, bytes: &[u8]) -> Vec<u8> {
        let stamp = format!("{:.3} ", jiff::Timestamp::now());
        let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 4);
        for line in bytes.split_inclusive(|&b| b == b'\n') {
            if self.at_line_start {
                out.extend_from_slice(stamp.as_bytes());
            }
            out.extend_from_slice(line);
            self.at_line_start = line.ends_with(b"\n");
        }
        out
    }
}

impl Trouble {
    fn hold(&mut self, bytes: &[u8], on_full: OnFull) {
        match on_full {
            OnFull::Block => self.held.extend(bytes),
            OnFull::DropNewest => {
                let room = HELD_MAX.saturating_sub(self.held.len());
                // Once something is lost the rest is too, so that there is one gap and not many.
                let kept = if self.dropped > 0 { 0 } else { room.min(bytes.len()) };
                self.held.extend(&bytes[..kept]);
                self.dropped += (bytes.len() - kept) as u64;
            }
            OnFull::DropOldest => {
                self.held.extend(bytes);
                let over = self.held.len().saturating_sub(HELD_MAX);
                self.held.drain(..over);
                self.dropped += over as u64;
            }
        }
    }
}

fn gap_line(trouble: &Trouble, mid_line: bool) -> Vec<u8> {
    let stamp = |at: Duration| jiff::Timestamp::UNIX_EPOCH.checked_add(at).map_or(String::new(), |t| format!("{t:.0}"));
    let newline = if mid_line { "\n" } else { "" };
    let (from, to) = (stamp(trouble.since), stamp(clock::wall()));
    format!("{newline}[hob: {} bytes lost between {from} and {to}: {}]\n", trouble.dropped, trouble.why).into_bytes()
}

fn open_line_of(file: &File, size: u64) -> u64 {
    let length = size.min(LINE_MAX as u64 + 1);
    let mut tail = vec![0; usize::try_from(length).unwrap_or(0)];
    if file.read_exact_at(&mut tail, size - length).is_err() {
        return 0;
    }
    tail.iter().rev().take_while(|&&b| b != b'\n').count() as u64
}

fn is_about_room(why: &io::Error) -> bool {
    matches!(why.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG))
}

fn describe(why: &io::Error) -> String {
    match why.raw_os_error() {
        Some(errno) => nix::errno::Errno::from_raw(errno).desc().to_lowercase(),
        None => why.to_string(),
    }
}

const HELD_MAX: usize = 1 << 20;
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LAST: Duration = Duration::from_secs(1);
