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
    /// `label` is the console prefix. With `stderr` it is the second pipe of a split log and goes to `stderr_path`.
    Open { id: LogId, label: String, spec: LogSpec, stderr: bool },
    /// The options changed; the pipe is the same.
    Update { id: LogId, label: String, spec: LogSpec },
    /// Close and open all files again (SIGUSR2: somebody else rotated them).
    Reopen,
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
}

impl FromLogger {
    /// The log that it is about.
    pub fn id(&self) -> LogId {
        match self {
            FromLogger::Closed { id } | FromLogger::Trouble { id, .. } | FromLogger::Recovered { id, .. } => *id,
        }
    }
}
