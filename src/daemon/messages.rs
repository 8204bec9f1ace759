//! hob's own messages: to stderr through `log` and `env_logger`, with systemd's `<N>` when stderr is the journal.

use std::env;
use std::io::{self, Write};
use std::time::Duration;

use env_logger::Target;
use log::Level;

use crate::sys;

/// Sets up the logger of this process; `HOB_LOG` chooses what is shown (`debug`, `hob=trace`).
pub fn init(default: &str) {
    let journal = is_journal();
    let filter = env::var("HOB_LOG").unwrap_or_else(|_| default.to_owned());
    let _ = env_logger::Builder::new()
        .parse_filters(&filter)
        .target(Target::Pipe(Box::new(Patient)))
        .format(move |out, record| {
            if journal {
                let priority = match record.level() {
                    Level::Error => 3,
                    Level::Warn => 4,
                    Level::Info => 6,
                    Level::Debug | Level::Trace => 7,
                };
                writeln!(out, "<{priority}>{}", record.args())
            } else {
                writeln!(out, "hob: {}", record.args())
            }
        })
        .try_init();
}

/// One line for the person at the terminal, whatever the log level.
pub fn say(text: &str) {
    let _ = Patient.write_all(format!("{text}\n").as_bytes());
}

fn is_journal() -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(wanted) = env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|m| format!("{}:{}", m.dev(), m.ino()) == wanted)
}

/// stderr, but never waiting for whoever reads it: a terminal that is stopped or a full pipe must not stop hob.
struct Patient;

impl Write for Patient {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if sys::fd::is_writable(&io::stderr(), Duration::ZERO) {
            // A pipe that can be written takes at least PIPE_BUF bytes without blocking.
            return io::stderr().write(&text[..text.len().min(4096)]);
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
