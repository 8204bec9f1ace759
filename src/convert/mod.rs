//! Ways in and out: a dotcloud.yml as manifests, units or a compose file for those who outgrow one machine or hob, and a
//! supervisord.conf as a dotcloud.yml.
//!
//! What the other side has no word for is a comment at its place in the output and a warning, never left out in silence.
//! The same input gives the same output, byte for byte, on every machine. To add a format: a module that makes `Files`
//! of an `App`, and an entry in `Format`.

mod app;
mod compose;
mod daemon;
mod image;
mod kubernetes;
mod supervisord;

mod systemd;
mod toml;
mod tree;
mod units;
mod yaml;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub use app::{App, Asked};
pub use supervisord::migrate;

use crate::config::{Problems, Settings};

/// Whose words a stack is put into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Kubernetes,
    Systemd,
    Compose,
}

/// What has been made of the input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    pub files: Vec<MadeFile>,
    /// What could not be said, for standard error; each stands in the files too.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeFile {
    /// Perhaps in a folder of its own: `a.service.d/b.conf`.
    pub name: String,
    pub text: String,
    /// Whether it goes to standard output where no folder is given.
    pub shown: bool,
    /// For its owner only.
    pub private: bool,
}

impl MadeFile {
    fn new(name: &str, text: String) -> MadeFile {
        MadeFile { name: name.to_owned(), text, shown: true, private: false }
    }
}

/// Puts a stack into the words of another engine.
pub fn export(format: Format, asked: &Asked, settings: &Settings) -> Result<Made, Problems> {
    let mut app = App::read(format, asked, settings)?;
    let files = match format {
        Format::Kubernetes => kubernetes::files(&mut app),
        Format::Compose => compose::files(&mut app),
        Format::Systemd => systemd::files(&mut app),
    };
    Ok(Made { files, warnings: app.lost })
}

/// What standard output shows: one file as it is, several each behind a line with its name.
pub fn shown(made: &Made) -> String {
    let shown: Vec<&MadeFile> = made.files.iter().filter(|file| file.shown).collect();
    match shown.as_slice() {
        [only] => only.text.clone(),
        several => several.iter().map(|file| format!("# {}\n{}", file.name, file.text)).collect::<Vec<_>>().join("\n"),
    }
}

/// Writes the files into a folder, which is made if need be. None that is there is overwritten: it may have been edited.
/// The error says what was in the way; nothing has been written then.
pub fn write(made: &Made, folder: &Path) -> Result<Vec<PathBuf>, String> {
    let told = |path: &Path, why: &io::Error| format!("cannot write {}: {}", path.display(), lower(why));
    fs::create_dir_all(folder).map_err(|why| told(folder, &why))?;
    let paths: Vec<PathBuf> = made.files.iter().map(|file| folder.join(&file.name)).collect();
    if let Some(path) = paths.iter().find(|path| path.symlink_metadata().is_ok()) {
        return Err(format!("cannot write {}: it is there already; remove it or name another folder", path.display()));
    }
    for (file, path) in made.files.iter().zip(&paths) {
        if let Some(above) = path.parent() {
            fs::create_dir_all(above).map_err(|why| told(above, &why))?;
        }
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(if file.private { 0o600 } else { 0o644 });
        options.open(path).and_then(|mut out| out.write_all(file.text.as_bytes())).map_err(|why| told(path, &why))?;
    }
    Ok(paths)
}

fn lower(why: &io::Error) -> String {
    let text = why.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}
