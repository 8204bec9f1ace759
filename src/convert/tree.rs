//! What the files of a pushed tree mention. A dotcloud.yml does not say whether a service keeps data or reads the
//! environment files: its scripts do.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Text files of a tree, small enough to have been written by hand; the dotcloud.yml, which speaks of all services, is
/// none of them.
pub struct Tree {
    /// Paths below the root, and their text.
    files: Vec<(PathBuf, String)>,
}

impl Tree {
    /// Reads so many files at most, in the order of their names. What cannot be read is as good as empty.
    pub fn read(root: &Path) -> Tree {
        let mut files = Vec::new();
        let mut folders = BTreeSet::from([PathBuf::new()]);
        let (mut looked_at, mut room) = (0, TOTAL);
        while let Some(folder) = folders.pop_first() {
            let Ok(entries) = fs::read_dir(root.join(&folder)) else { continue };
            let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).take(FILES).collect();
            names.sort();
            for name in names {
                looked_at += 1;
                if looked_at > FILES {
                    return Tree { files };
                }
                let path = folder.join(&name);
                // A link leads to what is looked at anyhow, or out of the tree.
                let Ok(meta) = fs::symlink_metadata(root.join(&path)) else { continue };
                if meta.is_dir() && !SKIPPED.contains(&name.to_string_lossy().as_ref()) {
                    folders.insert(path);
                } else if meta.is_file()
                    && path != Path::new("dotcloud.yml")
                    && meta.len() <= SIZE
                    && room > meta.len()
                    && let Some(text) = text_of(&root.join(&path))
                {
                    room -= meta.len();
                    files.push((path, text));
                }
            }
        }
        Tree { files }
    }

    /// The first file below `folder` in which `finds` finds something.
    pub fn mentions(&self, folder: &Path, finds: impl Fn(&Path, &str) -> bool) -> Option<&Path> {
        let below =
            |path: &Path| folder == Path::new(".") || path.starts_with(folder.strip_prefix(".").unwrap_or(folder));
        self.files.iter().find(|(path, text)| below(path) && finds(path, text)).map(|(path, _)| path.as_path())
    }
}

fn text_of(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(SIZE).read_to_end(&mut bytes).ok()?;
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

/// Whether a text speaks of `~/data`.
pub fn speaks_of_data(text: &str) -> bool {
    ["~/data", "$HOME/data", "${HOME}/data", "/home/dotcloud/data"].iter().any(|name| {
        text.match_indices(name).any(|(at, _)| {
            // `~/database` is something else.
            !text[at + name.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '-' || c == '.')
        })
    })
}

/// Whether a text speaks of the files with the variables.
pub fn speaks_of_environment_files(text: &str) -> bool {
    ["environment.json", "environment.yml", "environment.yaml"].iter().any(|name| text.contains(name))
}

const FILES: usize = 2_000;
const SIZE: u64 = 256 << 10;
const TOTAL: u64 = 16 << 20;
/// What nobody has written.
const SKIPPED: &[&str] = &[".git", ".hg", ".svn", "node_modules", ".venv", "target", "__pycache__"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_data_and_nothing_longer() {
        for text in ["[ -d ~/data ]", "x=$HOME/data/db", "--dir=${HOME}/data", "~/data"] {
            assert!(speaks_of_data(text), "{text}");
        }
        for text in ["~/database", "~/data.new", "$HOME/data-old", "/data", "data"] {
            assert!(!speaks_of_data(text), "{text}");
        }
    }

    #[test]
    fn a_service_is_judged_by_the_files_of_its_own_folder() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("db/run", "cd ~/data"), ("www/run", "true"), ("node_modules/x", "~/data")] {
            fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
            fs::write(dir.path().join(name), text).unwrap();
        }
        let tree = Tree::read(dir.path());
        assert_eq!(tree.mentions(Path::new("."), |_, t| speaks_of_data(t)), Some(Path::new("db/run")));
        assert_eq!(tree.mentions(Path::new("./db"), |_, t| speaks_of_data(t)), Some(Path::new("db/run")));
        assert_eq!(tree.mentions(Path::new("www"), |_, t| speaks_of_data(t)), None);
    }
}
