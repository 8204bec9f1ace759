//! The last lines of every file in a log directory, and what follows: also of files that appear later, and across
//! rotation. inotify(7) tells when to look, so nothing is polled.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use super::compress;
use crate::sys::watch::Watch;

/// What to show.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Names of logs as shown (`hello`, `www.0/hello`, `access`); empty for all.
    pub names: Vec<String>,
    /// Lines of each file to begin with.
    pub lines: usize,
    pub follow: bool,
    /// Unix time. Leaves out lines with an older timestamp, and what is in files that were last written before.
    pub since: Option<Duration>,
}

/// Calls `show` with the name of a log and one line, newline excluded, until `show` fails, or to the end of the files
/// without `follow`. Blocks.
pub fn tail(folder: &Path, wanted: &Wanted, show: &mut Show<'_>) -> io::Result<()> {
    // First the watch, then the look: what comes in between is seen twice and read once.
    let since = wanted.since.map(stamp);
    let show: &mut Show<'_> = &mut |name, line| match &since {
        Some(since) if is_older(line, since) => Ok(()),
        _ => show(name, line),
    };
    let watch = if wanted.follow { Some(Watch::new(folder)?) } else { None };
    let mut followed = BTreeMap::new();
    for path in files(folder) {
        if let Some(name) = is_wanted(folder, &path, wanted)
            && let Ok(mut file) = Followed::open(&path)
        {
            let is_recent = wanted.since.is_none_or(|since| file.written_at().is_none_or(|at| at >= since));
            file.seek_last_lines(if is_recent { wanted.lines } else { 0 })?;
            file.read_on(&name, show)?;
            followed.insert(name, file);
        }
    }
    let Some(mut watch) = watch else {
        for (name, file) in &mut followed {
            file.end_line(name, show)?;
        }
        return Ok(());
    };
    loop {
        watch.wait()?;
        for path in files(folder) {
            let Some(name) = is_wanted(folder, &path, wanted) else { continue };
            match followed.get_mut(&name) {
                Some(file) => {
                    file.read_on(&name, show)?;
                    if file.is_another(&path) {
                        // Rotated: the rest of the old file was read above and again here, until it is certain that
                        // the logger has left it. Rotations that came in between are read from the backups.
                        for missed in between(&path, file) {
                            if missed.1.is_empty() {
                                file.switch(&missed.0)?;
                                file.read_on(&name, show)?;
                            } else {
                                file.read_compressed(&missed.0, &name, show)?;
                            }
                        }
                        file.switch(&path)?;
                        file.read_on(&name, show)?;
                    }
                }
                None => {
                    if let Ok(mut file) = Followed::open(&path) {
                        file.read_on(&name, show)?;
                        followed.insert(name, file);
                    }
                }
            }
        }
    }
}

/// Takes the name of a log and one line of it.
type Show<'a> = dyn FnMut(&str, &[u8]) -> io::Result<()> + 'a;

/// A moment as the logger writes it before a line: always the same length, so that it sorts as text.
fn stamp(at: Duration) -> String {
    jiff::Timestamp::UNIX_EPOCH.checked_add(at).map_or(String::new(), |at| format!("{at:.3}"))
}

/// A line without a timestamp is as old as the one before, which nobody knows: it is shown.
fn is_older(line: &[u8], since: &str) -> bool {
    let has_stamp = line.get(10) == Some(&b'T') && line.get(23) == Some(&b'Z') && line[0].is_ascii_digit();
    has_stamp && line.get(..since.len()).is_some_and(|stamp| stamp < since.as_bytes())
}

struct Followed {
    file: File,
    inode: u64,
    at: u64,
    /// A line without its end yet.
    open: Vec<u8>,
}

impl Followed {
    fn open(path: &Path) -> io::Result<Followed> {
        use std::os::unix::fs::OpenOptionsExt;
        // The folder may hold anything: a FIFO must not hang us.
        let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        Ok(Followed { file, inode: meta.ino(), at: 0, open: Vec::new() })
    }

    /// Unix time.
    fn written_at(&self) -> Option<Duration> {
        self.file.metadata().ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()
    }

    fn switch(&mut self, path: &Path) -> io::Result<()> {
        let open = std::mem::take(&mut self.open);
        match Followed::open(path) {
            Ok(next) => *self = Followed { open, ..next },
            Err(why) if why.kind() == io::ErrorKind::NotFound => self.open = open,
            Err(why) => return Err(why),
        }
        Ok(())
    }

    fn is_another(&self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|m| m.ino() != self.inode)
    }

    /// Goes to where the last `lines` lines begin.
    fn seek_last_lines(&mut self, lines: usize) -> io::Result<()> {
        let size = self.file.metadata()?.len();
        if lines == 0 {
            self.at = size;
            return Ok(());
        }
        let mut start = size;
        let mut found = 0;
        let mut block = vec![0; 64 << 10];
        'search: while start > 0 && size - start < LOOK_BACK_MAX {
            let length = start.min(block.len() as u64);
            self.file.seek(SeekFrom::Start(start - length))?;
            let part = &mut block[..usize::try_from(length).unwrap_or(0)];
            self.file.read_exact(part)?;
            for (n, _) in part.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
                let after = start - length + n as u64 + 1;
                // The newline that ends the file ends its last line.
                if after < size {
                    found += 1;
                }
                if found == lines && after < size {
                    start = after;
                    break 'search;
                }
            }
            start -= length;
        }
        self.at = start;
        Ok(())
    }

    fn read_on(&mut self, name: &str, show: &mut Show<'_>) -> io::Result<()> {
        let size = self.file.metadata()?.len();
        if size < self.at {
            // Truncated: from its beginning again.
            self.at = 0;
            self.open.clear();
        }
        self.file.seek(SeekFrom::Start(self.at))?;
        let mut block = vec![0; 64 << 10];
        loop {
            let length = self.file.read(&mut block)?;
            if length == 0 {
                return Ok(());
            }
            self.at += length as u64;
            self.take(&block[..length], name, show)?;
        }
    }

    /// A rotated file that was compressed before anybody looked at it.
    fn read_compressed(&mut self, path: &Path, name: &str, show: &mut Show<'_>) -> io::Result<()> {
        let Ok(reader) = compress::reader(path) else { return Ok(()) };
        // Whoever may write to the folder could have put anything there.
        let mut reader = reader.take(UNPACKED_MAX);
        let mut block = vec![0; 64 << 10];
        while let Ok(length @ 1..) = reader.read(&mut block) {
            self.take(&block[..length], name, show)?;
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8], name: &str, show: &mut Show<'_>) -> io::Result<()> {
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            self.open.extend_from_slice(piece);
            if self.open.ends_with(b"\n") {
                self.open.pop();
                show(name, &self.open)?;
                self.open.clear();
            } else if self.open.len() > LINE_MAX {
                show(name, &self.open)?;
                self.open.clear();
            }
        }
        Ok(())
    }

    fn end_line(&mut self, name: &str, show: &mut Show<'_>) -> io::Result<()> {
        if !self.open.is_empty() {
            show(name, &self.open)?;
            self.open.clear();
        }
        Ok(())
    }
}

/// The rotated files that are newer than the one that was read so far, oldest first, with the end of their names.
fn between(path: &Path, read: &Followed) -> Vec<(PathBuf, &'static str)> {
    let written_at = read.file.metadata().and_then(|meta| meta.modified()).ok();
    let mut newer = Vec::new();
    for n in 1..1000 {
        let exists = |file: &Path| fs::symlink_metadata(file).is_ok();
        let Some((suffix, file)) = super::rotate::kept(path, n, &exists).next() else { break };
        let Ok(meta) = fs::symlink_metadata(&file) else { break };
        // A compressed file is another one, but keeps the time at which its original was written last.
        let is_read = match suffix {
            "" => meta.ino() == read.inode,
            _ => written_at.is_none_or(|at| meta.modified().is_ok_and(|its| its <= at)),
        };
        // The one that was read so far, or nothing more: in that case it has been deleted already.
        if is_read {
            break;
        }
        newer.push((file, suffix));
    }
    newer.reverse();
    newer
}

/// All files of a log directory and of its folders (one for each instance), in order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let list = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.take(ENTRIES_MAX).map(|e| e.path()).collect()
    };
    let mut all = Vec::new();
    for path in list(folder) {
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => all.extend(list(&path).into_iter().filter(|p| p.is_file())),
            Ok(meta) if meta.is_file() => all.push(path),
            _ => {}
        }
    }
    all.sort();
    all
}

/// The name of a log: its path in the directory without `.log`. Rotated and compressed files are none.
pub fn name_of(folder: &Path, path: &Path) -> Option<String> {
    let name = path.strip_prefix(folder).ok()?.to_string_lossy().into_owned();
    let (_, last) = name.rsplit_once('.').unwrap_or(("", &name));
    let rotated = !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit());
    if rotated || ["gz", "zst", "xz", "bz2"].contains(&last) {
        return None;
    }
    Some(name.strip_suffix(".log").unwrap_or(&name).to_owned())
}

/// Whether a log of that name is there.
pub fn is_there(folder: &Path, name: &str) -> bool {
    let wanted = Wanted { names: vec![name.to_owned()], ..Wanted::default() };
    files(folder).iter().any(|path| is_wanted(folder, path, &wanted).is_some())
}

fn is_wanted(folder: &Path, path: &Path, wanted: &Wanted) -> Option<String> {
    let name = name_of(folder, path)?;
    let base = name.rsplit('/').next().unwrap_or(&name);
    let named = wanted.names.iter().any(|w| *w == name || w == base || name.split('/').next() == Some(w));
    (wanted.names.is_empty() || named).then_some(name)
}

const LINE_MAX: usize = 64 << 10;
const LOOK_BACK_MAX: u64 = 16 << 20;
/// What is read of a compressed file.
const UNPACKED_MAX: u64 = 1 << 30;
const ENTRIES_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotations_that_were_missed_are_read_from_the_backups_compressed_or_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("web.log");
        let now = std::time::SystemTime::now();
        let gzip = |name: &str, text: &str, age: u64| {
            use std::io::Write;
            let file = File::create(dir.path().join(name)).expect("a file");
            let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
            packed.write_all(text.as_bytes()).expect("written");
            packed.finish().and_then(|file| file.set_modified(now - Duration::from_secs(age))).expect("set");
        };
        fs::write(&path, "first\n").expect("written");
        let mut file = Followed::open(&path).expect("there");
        file.file.set_modified(now - Duration::from_secs(60)).expect("ours");
        fs::remove_file(&path).expect("it becomes web.log.3.gz");
        gzip("web.log.4.gz", "older\n", 90);
        gzip("web.log.3.gz", "first\n", 60);
        gzip("web.log.2.gz", "second\n", 30);
        fs::write(dir.path().join("web.log.1"), "third\n").expect("written");
        fs::write(&path, "fourth\n").expect("written");
        let names = |file: &Followed| -> Vec<String> {
            between(&path, file).iter().map(|(file, _)| file.file_name().unwrap().to_string_lossy().into()).collect()
        };
        assert_eq!(names(&file), ["web.log.2.gz", "web.log.1"]);
        let mut seen = Vec::new();
        let packed = dir.path().join("web.log.2.gz");
        let show: &mut Show<'_> = &mut |_, line| {
            seen.push(String::from_utf8_lossy(line).into_owned());
            Ok(())
        };
        file.read_compressed(&packed, "web", show).expect("read");
        assert_eq!(seen, ["second"]);
        assert_eq!(name_of(dir.path(), &packed), None);
        assert_eq!(name_of(dir.path(), &dir.path().join("web.log.new.gz")), None);
    }

    #[test]
    fn since_leaves_out_lines_with_an_older_stamp_and_files_that_were_not_written_since() {
        let dir = tempfile::tempdir().expect("a folder");
        let text = "1970-01-01T00:00:01.000Z a\n1970-01-01T00:00:09.500Z b\nplain\n";
        fs::write(dir.path().join("web.log"), text).expect("written");
        fs::write(dir.path().join("open.log"), "no end").expect("written");
        let lines = |since: Duration| {
            let mut seen = Vec::new();
            let wanted = Wanted { lines: 10, since: Some(since), ..Wanted::default() };
            let shown = tail(dir.path(), &wanted, &mut |_, line| {
                seen.push(String::from_utf8_lossy(line).into_owned());
                Ok(())
            });
            shown.expect("read");
            seen
        };
        assert_eq!(lines(Duration::from_secs(5)), ["1970-01-01T00:00:09.500Z b", "plain", "no end"]);
        assert_eq!(lines(Duration::from_secs(1 << 33)), [""; 0]);
    }
}
