//! supervisord's log: every message of hob in its format, through a pipe to the logger, which writes and rotates it.
//!
//! A line is in the file a moment after it was said. Nothing here waits: when the logger cannot write and the pipe is
//! full, lines are dropped, and how many is said once there is room again.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::logger::protocol::main_line;

struct MainLog {
    /// Who may write: a forked child has closed the pipe and may have something else under its number.
    pid: AtomicU32,
    /// Something was said since the logger was last asked to write it.
    is_dirty: AtomicBool,
    state: Mutex<State>,
}

struct State {
    pipe: Option<File>,
    /// Said before there was a pipe, or while nothing may go into it.
    early: Vec<u8>,
    is_held: bool,
    dropped: u64,
}

static LOG: MainLog = MainLog {
    pid: AtomicU32::new(0),
    is_dirty: AtomicBool::new(false),
    state: Mutex::new(State { pipe: None, early: Vec::new(), is_held: false, dropped: 0 }),
};

/// The target of messages that are more than errors.
pub const CRITICAL: &str = "critical";

/// Takes over the messages of this process, also those said before `open`.
pub fn init(level: LevelFilter) {
    LOG.pid.store(std::process::id(), Ordering::Relaxed);
    if log::set_logger(&LOG).is_ok() {
        log::set_max_level(level);
    }
}

/// From here on lines go into this pipe, which never blocks.
pub fn open(pipe: OwnedFd) {
    if let Ok(mut state) = LOG.state.lock() {
        state.pipe = Some(pipe.into());
        let early = std::mem::take(&mut state.early);
        state.write(&early);
    }
}

/// Keeps what is said from now on back until `go_on`: it is for another file than what is in the pipe.
pub fn hold() {
    if let Ok(mut state) = LOG.state.lock() {
        state.is_held = true;
    }
}

pub fn go_on() {
    if let Ok(mut state) = LOG.state.lock() {
        state.is_held = false;
        let early = std::mem::take(&mut state.early);
        state.write(&early);
    }
}

/// Whether something was said since `clean`.
pub fn is_dirty() -> bool {
    LOG.is_dirty.load(Ordering::Relaxed)
}

pub fn clean() {
    LOG.is_dirty.store(false, Ordering::Relaxed);
}

/// Lets go of the pipe: the logger comes to its end.
pub fn close() {
    if let Ok(mut state) = LOG.state.lock() {
        state.pipe = None;
    }
}

impl Log for MainLog {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // Crates that we use have nothing to say to an operator.
        if !(record.target().starts_with("hob") || record.target() == CRITICAL) {
            return;
        }
        let level = match record.level() {
            _ if record.target() == CRITICAL => "CRIT",
            Level::Error => "ERRO",
            Level::Warn => "WARN",
            Level::Info => "INFO",
            Level::Debug => "DEBG",
            Level::Trace => "TRAC",
        };
        let line = main_line(level, &record.args().to_string());
        if self.pid.load(Ordering::Relaxed) != std::process::id() {
            eprint!("{line}");
            return;
        }
        self.is_dirty.store(true, Ordering::Relaxed);
        if let Ok(mut state) = self.state.lock() {
            state.write(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

impl State {
    fn write(&mut self, bytes: &[u8]) {
        let Some(pipe) = self.pipe.as_mut().filter(|_| !self.is_held) else {
            if self.early.len() < EARLY_MAX {
                self.early.extend_from_slice(bytes);
            }
            return;
        };
        if self.dropped > 0 {
            let note =
                main_line("WARN", &format!("{} bytes of this log were lost: it could not be written", self.dropped));
            if pipe.write(note.as_bytes()).is_ok() {
                self.dropped = 0;
            }
        }
        for part in bytes.chunks(4096) {
            // A pipe takes up to PIPE_BUF bytes whole or not at all.
            if pipe.write(part).is_err() {
                self.dropped += part.len() as u64;
            }
        }
    }
}

const EARLY_MAX: usize = 64 << 10;
