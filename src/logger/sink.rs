//! One log file with its rotated ones: takes bytes, writes every one of them, or says which it could not.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::compress::{self, Packed};
use super::rotate::{Cut, LINE_MAX, backup, cut, kept, shift, with};
use crate::plan::{Compress, LogSpec, OnFull};
use crate::sys::{self, clock};

pub struct Sink {
    spec: LogSpec,
    file: Option<File>,
    size: u64,
    /// How much of the end of the file is an unfinished line.
    open_line: u64,
    looked_at: Duration,
    trouble: Option<Trouble>,
    /// A rotated file is to be compressed.
    has_to_compress: bool,
    /// A device, a pipe or our own output: it is neither rotated nor waited for.
    is_stream: bool,
    written: u64,
    lost: u64,
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
    /// Nothing is wrong: whoever reads a stream takes its time.
    is_slow: bool,
}

/// What happened while writing, for the daemon.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    Trouble(String),
    Recovered { dropped: u64 },
}

impl Sink {
    pub fn new(spec: LogSpec) -> Sink {
        Sink {
            // What an earlier logger has left as it was.
            has_to_compress: spec.compress != Compress::None,
            spec,
            file: None,
            size: 0,
            open_line: 0,
            looked_at: Duration::ZERO,
            trouble: None,
            is_stream: false,
            written: 0,
            lost: 0,
        }
    }

    /// Bytes that went into the log, and bytes that never will.
    pub fn counts(&self) -> (u64, u64) {
        (self.written, self.lost)
    }

    pub fn update(&mut self, spec: LogSpec) {
        if spec.path != self.spec.path {
            self.file = None;
        }
        self.spec = spec;
        if self.spec.file().is_none() {
            // What could not be written is not wanted any more.
            self.trouble = None;
        }
    }

    /// Somebody else has renamed the file.
    pub fn reopen(&mut self) {
        let was_open = self.file.take().is_some();
        if was_open && self.spec.extras.is_some() {
            self.touch();
        }
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

    /// Makes the file, if there is to be one. Trouble shows when something is written.
    pub fn touch(&mut self) {
        if self.spec.file().is_some() && self.trouble.is_none() {
            let _ = self.have_file();
        }
    }

    /// Begins anew with an empty file.
    pub fn clear(&mut self) -> io::Result<()> {
        if self.spec.file().is_none() || self.is_stream {
            return Ok(());
        }
        self.file = None;
        match fs::remove_file(&self.spec.path) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
            _ => {}
        }
        self.have_file()
    }

    pub fn write(&mut self, bytes: &[u8]) -> Option<News> {
        self.spec.file()?;
        if let Some(trouble) = &mut self.trouble {
            let before = trouble.dropped;
            trouble.hold(bytes, self.spec.on_full);
            self.lost += trouble.dropped - before;
            return None;
        }
        let mut rest = bytes;
        match self.push(&mut rest) {
            Ok(()) => None,
            Err(why) => {
                let is_slow = why.kind() == io::ErrorKind::WouldBlock;
                let text = format!("cannot write {}: {}", self.spec.path.display(), describe(&why));
                let now = clock::since_boot();
                let mut trouble = Trouble {
                    held: VecDeque::new(),
                    dropped: 0,
                    since: clock::wall(),
                    retry_at: now + if is_slow { PAUSE_SLOW } else { PAUSE_FIRST },
                    pause: if is_slow { PAUSE_SLOW } else { PAUSE_FIRST },
                    why: describe(&why),
                    is_slow,
                };
                trouble.hold(rest, self.spec.on_full);
                self.lost += trouble.dropped;
                self.trouble = Some(trouble);
                self.file = None;
                (!is_slow).then_some(News::Trouble(text))
            }
        }
    }

    /// Tries again what could not be written.
    pub fn retry(&mut self) -> Option<News> {
        let mut trouble = self.trouble.take()?;
        let (text, held_at) = trouble.text(self.spec.on_full, self.open_line > 0);
        let mut rest = &text[..];
        match self.push(&mut rest) {
            Ok(()) => (!trouble.is_slow).then_some(News::Recovered { dropped: trouble.dropped }),
            Err(why) => {
                // The line about the gap is written again where it was cut, with what is lost by then.
                let written = text.len() - rest.len();
                if written >= held_at && held_at > 0 {
                    trouble.dropped = 0;
                }
                let taken = written.saturating_sub(held_at).min(trouble.held.len());
                trouble.held.drain(..taken);
                let longest = if trouble.is_slow { PAUSE_FIRST } else { PAUSE_LAST };
                trouble.pause = (trouble.pause * 2).min(longest);
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
            if self.spec.extras.is_some() {
                self.push_as_supervisord(rest)?;
                continue;
            }
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

    /// supervisord rotates once a file has reached its size, not before it exceeds it. Ours are cut behind a line.
    fn push_as_supervisord(&mut self, rest: &mut &[u8]) -> io::Result<()> {
        let max = if self.is_stream { 0 } else { self.spec.max_bytes };
        let part = match max {
            0 => rest.len(),
            max => {
                let room = usize::try_from(max.saturating_sub(self.size)).unwrap_or(usize::MAX);
                let from = room.saturating_sub(1).min(rest.len());
                rest[from..].iter().take(LINE_MAX).position(|&b| b == b'\n').map_or(rest.len(), |end| from + end + 1)
            }
        };
        match self.write_once(&rest[..part]) {
            Ok(written) => {
                self.count(&rest[..written]);
                *rest = &rest[written..];
                // Behind a line, or where there is none for long.
                let is_line = self.open_line == 0 || self.open_line > LINE_MAX as u64;
                if max > 0 && self.size >= max && is_line { self.rotate() } else { Ok(()) }
            }
            Err(why) if why.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(why) if is_about_room(&why) && self.drop_oldest_backup() => Ok(()),
            Err(why) => Err(why),
        }
    }

    fn write_once(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(file) = self.file.as_ref().filter(|_| self.is_stream) {
            // A pipe that can be written takes PIPE_BUF bytes without blocking.
            if !sys::fd::is_writable(file, Duration::ZERO) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            return (&*file).write(&bytes[..bytes.len().min(4096)]);
        }
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
        self.written += bytes.len() as u64;
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
            if self.is_stream {
                return Ok(());
            }
            if now.saturating_sub(self.looked_at) < Duration::from_secs(1) {
                return Ok(());
            }
            self.looked_at = now;
            let ours = file.metadata()?;
            let same = |m: fs::Metadata| m.ino() == ours.ino() && m.dev() == ours.dev();
            if self.place().and_then(fs::symlink_metadata).is_ok_and(same) {
                return Ok(());
            }
        }
        self.looked_at = now;
        let stream = if self.spec.extras.is_some() { self.open_stream()? } else { None };
        self.is_stream = stream.is_some();
        let file = match stream {
            Some(stream) => {
                self.file = Some(stream);
                return Ok(());
            }
            None => self.open()?,
        };
        self.size = file.metadata()?.len();
        self.open_line = open_line_of(&file, self.size);
        self.file = Some(file);
        Ok(())
    }

    /// What a supervisord.conf may name in place of a file: our own output by its path, a device, a FIFO.
    fn open_stream(&self) -> io::Result<Option<File>> {
        use std::os::fd::AsFd;
        let own = match self.spec.path.to_str() {
            Some("/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1") => Some(io::stdout().as_fd().try_clone_to_owned()?),
            Some("/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2") => Some(io::stderr().as_fd().try_clone_to_owned()?),
            _ => None,
        };
        if let Some(own) = own {
            return Ok(Some(own.into()));
        }
        let path = &self.spec.path;
        // One that has become a link since is somebody's trick.
        let (meta, no_link) = match self.place()? == *path {
            true => (fs::symlink_metadata(path), libc::O_NOFOLLOW),
            false => (fs::metadata(path), 0),
        };
        if meta.is_ok_and(|meta| !meta.is_file() && !meta.is_dir()) {
            let mut options = fs::OpenOptions::new();
            options.write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY | no_link);
            return options.open(path).map(Some);
        }
        Ok(None)
    }

    /// Where its file really lies. A supervisord.conf may name a link, in a folder where only those whom we trust can
    /// have made it.
    fn place(&self) -> io::Result<PathBuf> {
        let path = &self.spec.path;
        if self.spec.extras.is_none() || !fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink()) {
            return Ok(path.clone());
        }
        let folder = path.parent().unwrap_or(Path::new("/"));
        if !sys::file::is_trusted(folder)? {
            return Err(io::Error::other("it is a symbolic link in a folder that others can write to"));
        }
        // Of one that leads nowhere yet the file is made.
        fs::canonicalize(path).or_else(|_| Ok(folder.join(fs::read_link(path)?)))
    }

    fn mode(&self) -> u32 {
        if self.spec.extras.as_ref().is_some_and(|extras| extras.auto) { 0o600 } else { 0o644 }
    }

    fn open(&self) -> io::Result<File> {
        if let Some(folder) = self.spec.path.parent()
            && !folder.exists()
        {
            fs::create_dir_all(folder)?;
            let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o755));
            self.give_away(folder);
        }
        // The folder may belong to the service's user: no link is followed, and no FIFO waited for.
        let mut options = fs::OpenOptions::new();
        options.read(true).append(true).mode(self.mode());
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC);
        let place = self.place()?;
        let made = options.clone().create_new(true).open(&place);
        if made.as_ref().is_err_and(|why| why.kind() == io::ErrorKind::AlreadyExists) {
            let file = options.open(&place)?;
            self.check(&file, &place)?;
            return Ok(file);
        }
        let file = made?;
        let _ = file.set_permissions(fs::Permissions::from_mode(self.mode()));
        if let Some((uid, gid)) = self.spec.owner {
            let _ = std::os::unix::fs::fchown(&file, Some(uid), Some(gid));
        }
        Ok(file)
    }

    /// Who may write to the folder may have given a file of somebody else its name, where the kernel lets him
    /// (fs.protected_hardlinks is 0 unless something sets it).
    fn check(&self, file: &File, place: &Path) -> io::Result<()> {
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let is_owners = self.spec.owner.is_some_and(|(uid, _)| uid == meta.uid());
        if meta.nlink() > 1 && !is_owners && !sys::file::is_trusted(place.parent().unwrap_or(Path::new("/")))? {
            return Err(io::Error::other("it is one of several names of a file, in a folder that others can write to"));
        }
        Ok(())
    }

    fn give_away(&self, path: &Path) {
        if let Some((uid, gid)) = self.spec.owner {
            let _ = std::os::unix::fs::lchown(path, Some(uid), Some(gid));
        }
    }

    /// Moves the unfinished last line to the next file, so that the cut falls between lines. It is copied before it is
    /// taken away: what goes wrong in between cuts the line in two, and loses none of it.
    fn move_open_line(&mut self) -> io::Result<()> {
        let start = self.size - self.open_line;
        let mut line = vec![0; usize::try_from(self.open_line).unwrap_or(0)];
        let old = self.file.as_ref().map(File::try_clone).transpose()?;
        if let Some(file) = &old {
            file.read_exact_at(&mut line, start)?;
        }
        self.rotate()?;
        let counted = self.written;
        let copied = self.write_all(&line);
        self.written = counted;
        match (copied, old) {
            (Ok(()), Some(old)) if self.spec.backups > 0 => old.set_len(start),
            (Ok(()), _) => Ok(()),
            (Err(why), _) => {
                if let Some(file) = &self.file {
                    file.set_len(0)?;
                }
                Err(why)
            }
        }
    }

    fn write_all(&mut self, mut rest: &[u8]) -> io::Result<()> {
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
        self.has_to_compress = self.spec.compress != Compress::None;
        let shift = shift(&self.spec.path, self.spec.backups, &exists);
        shift.removed.iter().for_each(|file| drop(fs::remove_file(file)));
        for (from, to) in shift.renamed {
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
        for (_, file) in (1..=self.spec.backups).flat_map(|n| kept(&self.spec.path, n, &exists)) {
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
        let oldest = (1..=self.spec.backups).rev().find_map(|n| kept(&self.spec.path, n, &exists).next());
        oldest.is_some_and(|(_, file)| fs::remove_file(file).is_ok())
    }

    pub fn has_to_compress(&self) -> bool {
        self.has_to_compress
    }

    /// The same, told once.
    pub fn take_has_to_compress(&mut self) -> bool {
        std::mem::take(&mut self.has_to_compress)
    }

    /// The oldest rotated file that is as it was written, and the name of what its copy is made as.
    pub fn to_compress(&self) -> Option<(PathBuf, PathBuf, Compress)> {
        let how = self.spec.compress;
        let path = self.spec.file().filter(|_| how != Compress::None && !self.is_stream)?;
        let plain = (1..=self.spec.backups).rev().map(|n| backup(path, n)).find(|file| file.exists())?;
        Some((plain, with(path.to_owned(), &format!(".new{}", compress::suffix(how))), how))
    }

    /// A compressed copy is there: it takes the place of its original, whatever number that has by now.
    pub fn compressed(&self, packed: &Packed) -> io::Result<()> {
        let is_it = |file: &PathBuf| fs::symlink_metadata(file).is_ok_and(|meta| meta.ino() == packed.inode);
        let original = (1..=self.spec.backups).map(|n| backup(&self.spec.path, n)).find(is_it);
        let Some(original) = original else {
            // It was the oldest, and has gone.
            return fs::remove_file(&packed.new);
        };
        // First the copy: a crash in between leaves both, and nothing is lost.
        fs::rename(&packed.new, with(original.clone(), packed.suffix))?;
        fs::remove_file(original)
    }
}

impl Trouble {
    fn hold(&mut self, bytes: &[u8], on_full: OnFull) {
        match on_full {
            OnFull::Block => self.held.extend(bytes),
            // Once something is lost the rest is too, so that there is one gap and not many.
            OnFull::DropNewest if self.dropped > 0 => self.dropped += bytes.len() as u64,
            OnFull::DropNewest => {
                let kept = HELD_MAX.saturating_sub(self.held.len()).min(bytes.len());
                self.held.extend(&bytes[..kept]);
                if kept < bytes.len() {
                    let open = self.held.iter().rev().take(LINE_MAX).position(|&b| b == b'\n').unwrap_or(0);
                    self.held.truncate(self.held.len() - open);
                    self.dropped += (bytes.len() - kept + open) as u64;
                }
            }
            OnFull::DropOldest => {
                self.held.extend(bytes);
                let mut over = self.held.len().saturating_sub(HELD_MAX);
                if over > 0 {
                    let line = self.held.range(over - 1..).take(LINE_MAX).position(|&b| b == b'\n');
                    over += line.unwrap_or(0);
                }
                self.held.drain(..over);
                self.dropped += over as u64;
            }
        }
    }

    /// What is to be written, with a line about what is missing at its place: the oldest are missing before what is
    /// held, the newest behind it. The second value is where what is held begins.
    fn text(&self, on_full: OnFull, is_mid_line: bool) -> (Vec<u8>, usize) {
        if self.dropped == 0 {
            return (self.held.iter().copied().collect(), 0);
        }
        if on_full == OnFull::DropNewest {
            let mut text: Vec<u8> = self.held.iter().copied().collect();
            let is_mid_line = text.last().map_or(is_mid_line, |&last| last != b'\n');
            text.extend(gap_line(self, is_mid_line));
            return (text, 0);
        }
        let mut text = gap_line(self, is_mid_line);
        let held_at = text.len();
        text.extend(self.held.iter());
        (text, held_at)
    }
}

fn exists(path: &Path) -> bool {
    path.exists()
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
/// Until a slow reader of a stream is asked again.
const PAUSE_SLOW: Duration = Duration::from_millis(10);
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LAST: Duration = Duration::from_secs(1);

#[cfg(test)]
#[path = "sink_tests.rs"]
mod tests;
