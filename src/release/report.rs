//! What a deployment says, as JSON lines in its own file: for whoever watches now, and for `hob dlogs` later.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::pack::Watcher;
use super::prepare::Refused;
use super::store::{Stage, Store, cannot, now};
use crate::sys::clock;

/// One line of the file. Times are Unix time in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// It has a revision now.
    Revision { time: f64, revision: String },
    /// Something to read: of an instance or a service, or of the whole.
    Line {
        time: f64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<String>,
        text: String,
    },
    Begin {
        time: f64,
        stage: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<String>,
    },
    /// How far a stage is.
    Progress { time: f64, stage: String, files: u64, bytes: u64 },
    Done {
        time: f64,
        stage: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<String>,
        seconds: f64,
    },
    /// The last one.
    End {
        time: f64,
        /// The exit status.
        status: i32,
        errors: Vec<String>,
        /// `http://127.0.0.1:42800/` by instance.
        urls: Vec<(String, String)>,
    },
}

pub struct Report {
    pub path: PathBuf,
    file: File,
    /// Bytes, so far.
    size: u64,
    pub stages: Vec<Stage>,
    progress_at: Duration,
}

impl Report {
    /// A new file; its name is the time.
    pub fn create(store: &Store) -> Result<Report, Refused> {
        let mut id = now();
        loop {
            let path = store.log(&id.to_string());
            match fs::OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => {
                    return Ok(Report { path, file, size: 0, stages: Vec::new(), progress_at: Duration::ZERO });
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => id += 1,
                Err(e) => return Err(cannot("write", &path, &e)),
            }
        }
    }

    /// Another writer of the same file, for who looks after the first one.
    pub fn twin(&self) -> io::Result<Report> {
        let (path, file) = (self.path.clone(), self.file.try_clone()?);
        Ok(Report { path, file, size: self.size, stages: Vec::new(), progress_at: Duration::ZERO })
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// A line about the whole.
    pub fn say(&mut self, text: &str) {
        self.write(&Event::Line { time: time(), of: None, text: text.to_owned() });
    }

    /// A line about a service or an instance.
    pub fn tell(&mut self, of: &str, text: &str) {
        self.write(&Event::Line { time: time(), of: Some(of.to_owned()), text: text.to_owned() });
    }

    /// A line of a script's output. There may be any number of them: those beyond a bound are not recorded.
    pub fn output(&mut self, of: &str, line: &[u8]) {
        if self.size > OUTPUT_MOST {
            return;
        }
        self.tell(of, &String::from_utf8_lossy(line));
        if self.size > OUTPUT_MOST {
            self.tell(of, "... more than 32 MiB of output: the rest is left out");
        }
    }

    pub fn revision(&mut self, revision: &str) {
        self.write(&Event::Revision { time: time(), revision: revision.to_owned() });
    }

    /// Runs a stage and notes how long it took.
    pub fn stage<T>(
        &mut self,
        name: &str,
        of: Option<&str>,
        run: impl FnOnce(&mut Report) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let (stage, of) = (name.to_owned(), of.map(str::to_owned));
        self.write(&Event::Begin { time: time(), stage: stage.clone(), of: of.clone() });
        let begin = clock::since_boot();
        let result = run(self);
        let seconds = (clock::since_boot().saturating_sub(begin)).as_millis() as f64 / 1000.0;
        self.write(&Event::Done { time: time(), stage: stage.clone(), of: of.clone(), seconds });
        self.stages.push(Stage { name: stage, of, seconds });
        result
    }

    pub fn progress(&mut self, stage: &str, files: u64, bytes: u64) {
        let now = clock::since_boot();
        if now.saturating_sub(self.progress_at) >= PROGRESS_EVERY {
            self.progress_at = now;
            self.write(&Event::Progress { time: time(), stage: stage.to_owned(), files, bytes });
        }
    }

    pub fn end(&mut self, status: i32, errors: &[String], urls: Vec<(String, String)>) {
        self.write(&Event::End { time: time(), status, errors: errors.to_vec(), urls });
    }

    /// A record that cannot be written is no reason to fail what it is about.
    fn write(&mut self, event: &Event) {
        let mut line = serde_json::to_vec(event).unwrap_or_default();
        line.push(b'\n');
        self.size += line.len() as u64;
        let _ = self.file.write_all(&line);
    }
}

/// Watches a tree being packed.
pub struct Receiving<'r>(pub &'r mut Report);

impl Watcher for Receiving<'_> {
    fn packed(&mut self, files: u64, bytes: u64) {
        self.0.progress("receive", files, bytes);
    }

    fn left_out(&mut self, what: String) {
        self.0.say(&format!("left out: {what}"));
    }
}

/// The events of a file from a place on, and where to go on. What is no event (a panic, the words of a library) is a
/// line.
pub fn read(path: &Path, from: u64) -> io::Result<(Vec<Event>, u64)> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut text = Vec::new();
    file.take(4 << 20).read_to_end(&mut text)?;
    let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    let lines = text[..whole].split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let event = |line: &[u8]| {
        serde_json::from_slice(line).unwrap_or_else(|_| Event::Line {
            time: time(),
            of: None,
            text: String::from_utf8_lossy(line).into_owned(),
        })
    };
    Ok((lines.map(event).collect(), from + whole as u64))
}

fn time() -> f64 {
    now() as f64 / 1000.0
}

/// Bytes of a file that output may fill.
const OUTPUT_MOST: u64 = 32 << 20;
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
