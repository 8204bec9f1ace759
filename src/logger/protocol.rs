//! What the daemon and the logger say to each other, over a SOCK_SEQPACKET pair: one JSON value a message.

use serde::{Deserialize, Serialize};

use crate::plan::LogSpec;

/// Names one log pipe between the daemon and the logger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogId(pub u64);

/// From the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToLogger {
    /// Read this pipe until its end. The read end comes along as the message's one descriptor (SCM_RIGHTS).
    /// `label` is the console prefix. With `stderr` it is the second pipe of a split log.
    Open { id: LogId, label: String, spec: LogSpec, stderr: bool },
    /// The options changed; the pipe is the same.
    Update { id: LogId, label: String, spec: LogSpec },
    /// What was started has started: give back the memory that took.
    Tidy,
    /// Close and open all files again (SIGUSR2: somebody else rotated them).
    Reopen,
    /// Make the file if it is not there: its program starts.
    Touch { id: LogId },
    /// Write what is in the pipe of the main log, then say `Synced`.
    Sync { ticket: u64 },
    /// Remove what these logs have so far, then say `Cleared`.
    Clear { ids: Vec<LogId>, ticket: u64 },
    /// Tell how much went into each log, in one or more `Counted`.
    Count { ticket: u64 },
    /// Another logger takes over: read no more, write what was read, then exit.
    LetGo,
    /// The daemon has closed its write ends: write what is there, end each pipe at its EOF, then exit. After
    /// `within_ms` exit even if a pipe is still held open, once all that can be read at that moment is written.
    Finish { within_ms: u64 },
}

/// From the logger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromLogger {
    /// This pipe has reached its end and all of it is written: the daemon's duplicate can go.
    Closed {
        id: LogId,
    },
    /// This log cannot be written; said once, until it can be again.
    Trouble {
        id: LogId,
        error: String,
    },
    Recovered {
        id: LogId,
        dropped_bytes: u64,
    },
    Synced {
        ticket: u64,
    },
    Cleared {
        ticket: u64,
        error: Option<String>,
    },
    /// What was written and what was lost since this logger began; `last` ends it.
    Counted {
        ticket: u64,
        logs: Vec<(LogId, u64, u64)>,
        last: bool,
    },
    /// Part of the text of an event; `last` ends it.
    Said {
        id: LogId,
        what: Said,
        text: String,
        last: bool,
    },
}

/// What a program has said, for those who listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// Between the tags of capture mode.
    Message,
    /// Anything.
    Output,
}

/// The longest text of one `Said`.
pub const SAID_MAX: usize = 4 << 10;
/// The most logs in one `Counted`.
pub const COUNTED_MAX: usize = 400;
/// The most logs in one `Clear`.
pub const CLEARED_MAX: usize = 2000;
/// The longest message of the logger, with every character of a text escaped.
pub const FROM_LOGGER_MAX: usize = 32 << 10;

/// The daemon's own log, in supervisord's mode.
pub const MAIN: LogId = LogId(1);

/// A line of that log: `2026-01-31 12:00:00,123 INFO text`.
pub fn main_line(level: &str, text: &str) -> String {
    let now = jiff::Zoned::now();
    format!("{},{:03} {level} {text}\n", now.strftime("%Y-%m-%d %H:%M:%S"), now.millisecond())
}

impl FromLogger {
    /// The log whose state it tells, so that a later one takes its place.
    pub fn of_log(&self) -> Option<LogId> {
        match self {
            FromLogger::Closed { id } | FromLogger::Trouble { id, .. } | FromLogger::Recovered { id, .. } => Some(*id),
            FromLogger::Synced { .. }
            | FromLogger::Cleared { .. }
            | FromLogger::Counted { .. }
            | FromLogger::Said { .. } => None,
        }
    }
}
