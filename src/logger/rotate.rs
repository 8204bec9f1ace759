//! Where a log is cut, and which files a rotation renames and deletes. Pure.

use std::path::{Path, PathBuf};

/// A line longer than this may be cut in the middle.
pub const LINE_MAX: usize = 64 << 10;

/// How far the bytes of one write go into the current file before it has to be rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// All of it fits.
    None,
    /// So many bytes, perhaps none, then rotate.
    After(usize),
    /// The unfinished line at the end of the file moves to the next file: rotate at its beginning.
    AtLineStart,
}

/// `size` is that of the file, `open_line` of them belong to its unfinished last line.
pub fn cut(bytes: &[u8], size: u64, open_line: u64, max: u64) -> Cut {
    if max == 0 || size + bytes.len() as u64 <= max {
        return Cut::None;
    }
    let room = usize::try_from(max.saturating_sub(size)).unwrap_or(usize::MAX).min(bytes.len());
    if let Some(end) = last_newline(&bytes[..room]) {
        return Cut::After(end + 1);
    }
    // The line that has to go on is open_line bytes in the file and what follows here.
    let first = bytes.iter().take(LINE_MAX + 1).position(|&b| b == b'\n').map_or(bytes.len(), |end| end + 1);
    let line = open_line + first as u64;
    if size == 0 || (line > LINE_MAX as u64 || line > max) && open_line == size {
        // It fills a file alone.
        return Cut::After(if size == 0 { room.max(1) } else { room });
    }
    if line > LINE_MAX as u64 { Cut::After(room) } else { Cut::AtLineStart }
}

fn last_newline(bytes: &[u8]) -> Option<usize> {
    bytes.iter().rposition(|&b| b == b'\n')
}

/// The name of the n-th rotated file, 1 being the newest.
pub fn backup(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

/// The ends that the name of a rotated file may have: it is as it was written, or compressed.
pub const SUFFIXES: [&str; 3] = ["", ".gz", ".zst"];

/// The files that are the n-th rotated one, however they are kept: one, but for what a crash has left.
pub fn kept<'a>(
    path: &'a Path,
    n: u32,
    exists: &'a dyn Fn(&Path) -> bool,
) -> impl Iterator<Item = (&'static str, PathBuf)> + 'a {
    SUFFIXES.into_iter().map(move |suffix| (suffix, with(backup(path, n), suffix))).filter(|(_, file)| exists(file))
}

pub fn with(path: PathBuf, suffix: &str) -> PathBuf {
    let mut name = path.into_os_string();
    name.push(suffix);
    name.into()
}

/// What one rotation does, in order.
#[derive(Debug, PartialEq, Eq)]
pub struct Shift {
    pub removed: Vec<PathBuf>,
    pub renamed: Vec<(PathBuf, PathBuf)>,
}

/// The gaps a crash has left are closed on the way: only files that exist move, and each to the next number.
pub fn shift(path: &Path, backups: u32, exists: &dyn Fn(&Path) -> bool) -> Shift {
    // Up to the first number that is free: what is beyond it need not move.
    let free = (1..backups).find(|&n| kept(path, n, exists).next().is_none()).unwrap_or(backups);
    let oldest = kept(path, free, exists).map(|(_, file)| file);
    let mut moves: Vec<(PathBuf, PathBuf)> = Vec::new();
    for n in (1..free).rev() {
        moves.extend(kept(path, n, exists).map(|(suffix, file)| (file, with(backup(path, n + 1), suffix))));
    }
    moves.push((path.to_owned(), backup(path, 1)));
    // What is renamed over goes by itself, and is there until then.
    let removed = oldest.filter(|file| !moves.iter().any(|(_, to)| to == file)).collect();
    Shift { removed, renamed: moves }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Writes the chunks into files as the logger does, and gives them back, oldest first.
    fn pieces(chunks: &[Vec<u8>], max: u64) -> Vec<Vec<u8>> {
        let mut files = vec![Vec::new()];
        for chunk in chunks {
            let mut rest = &chunk[..];
            while !rest.is_empty() {
                let last = files.last_mut().expect("never empty");
                let open = last.iter().rev().take_while(|&&b| b != b'\n').count();
                match cut(rest, last.len() as u64, open as u64, max) {
                    Cut::None => {
                        last.extend_from_slice(rest);
                        rest = &[];
                    }
                    Cut::After(n) => {
                        last.extend_from_slice(&rest[..n]);
                        rest = &rest[n..];
                        files.push(Vec::new());
                    }
                    Cut::AtLineStart => {
                        let line = last.split_off(last.len() - open);
                        files.push(line);
                    }
                }
            }
        }
        files
    }

    proptest! {
        #[test]
        fn every_byte_is_written_once_and_files_are_cut_between_lines(
            chunks in prop::collection::vec(prop::collection::vec(prop_oneof![4 => Just(b'a'), 1 => Just(b'\n')], 1..60), 1..40),
            max in 1u64..80,
        ) {
            let files = pieces(&chunks, max);
            prop_assert_eq!(files.concat(), chunks.concat());
            for (n, file) in files.iter().enumerate() {
                prop_assert!(file.len() as u64 <= max);
                // Cut inside a line only where the line alone is longer than a file.
                if n + 1 < files.len() && !file.is_empty() && file.last() != Some(&b'\n') {
                    let line = file.iter().rev().take_while(|&&b| b != b'\n').count();
                    prop_assert!(line == file.len(), "{:?}", files);
                }
            }
        }
    }

    #[test]
    fn the_newest_backup_is_number_one_and_the_oldest_goes() {
        let names = |backups: u32, there: &[&str]| -> (Vec<String>, Vec<String>) {
            let shift = shift(Path::new("l"), backups, &|path| there.iter().any(|name| path == Path::new(name)));
            let moves = shift.renamed.iter().map(|(a, b)| format!("{}>{}", a.display(), b.display())).collect();
            (shift.removed.iter().map(|file| file.display().to_string()).collect(), moves)
        };
        let moves = |backups, there: &[&str]| names(backups, there).1;
        assert_eq!(moves(3, &["l.1", "l.2", "l.3"]), ["l.2>l.3", "l.1>l.2", "l>l.1"]);
        assert_eq!(moves(3, &["l.2"]), ["l>l.1"]);
        assert_eq!(moves(1, &["l.1"]), ["l>l.1"]);
        let packed = names(3, &["l.1", "l.2.gz", "l.3.gz", "l.3.zst"]);
        assert_eq!(packed.0, ["l.3.zst"], "what nothing is renamed over");
        assert_eq!(packed.1, ["l.2.gz>l.3.gz", "l.1>l.2", "l>l.1"]);
        assert_eq!(names(1, &["l.1.gz"]), (vec!["l.1.gz".into()], vec!["l>l.1".into()]));
    }
}
