//! The words for people: why a process is in its state. Written so that a log line can put the name before them.

use std::time::Duration;

use super::event::Exit;
use crate::plan::{Command, CommandKind, Name, Restart};

/// `0.02s`, `0.3s`, `42.0s`, `5m 3s`, `2h 4m`, `3d 2h`.
pub fn length(length: Duration) -> String {
    let secs = length.as_secs();
    match secs {
        0 if !length.is_zero() && length.as_millis() < 100 => format!("{:.2}s", length.as_secs_f64()),
        0..100 => format!("{:.1}s", length.as_secs_f64()),
        100..3600 => format!("{}m {}s", secs / 60, secs % 60),
        3600..86400 => format!("{}h {}m", secs / 3600, secs / 60 % 60),
        _ => format!("{}d {}h", secs / 86400, secs / 3600 % 24),
    }
}

/// `30s`, `1.5s`: a length that someone chose.
pub fn setting(length: Duration) -> String {
    format!("{}s", length.as_secs_f64())
}

/// `exited with code 1 after 0.3s`, `cannot exec ~/httphelo.py: no such file or directory`.
pub fn ended(exit: &Exit, command: &Command, lived: Duration) -> String {
    match exit {
        Exit::CannotExec { stage, .. } => {
            let why = exit.to_string();
            // As it was written, unless quotes make that something else than the program.
            let written = command.line.split_whitespace().next().filter(|word| !word.contains(['\'', '"', '\\']));
            let program = match &command.kind {
                CommandKind::Words(words) => written.or(words.first().map(String::as_str)),
                CommandKind::Simple => written,
                CommandKind::Script => None,
            };
            match (stage.as_str(), program, why.strip_prefix("cannot exec: ")) {
                ("exec", Some(program), Some(rest)) => format!("cannot exec {program}: {rest}"),
                _ => why,
            }
        }
        _ => format!("{exit} after {}", length(lived)),
    }
}

/// `try 2 of 4`, or `try 2` where there is no end to it.
pub fn which_try(failures: u32, policy: &Restart) -> String {
    let next = u64::from(failures) + 1;
    match policy.startretries {
        Some(retries) => format!("try {next} of {}", u64::from(retries) + 1),
        None => format!("try {next}"),
    }
}

/// `waits for db, cache and 3 more`, into a string that is used again.
pub fn waits_for<'a>(text: &mut String, names: impl Iterator<Item = &'a Name>) {
    use std::fmt::Write;
    text.clear();
    let mut count = 0;
    for name in names {
        count += 1;
        if count <= NAMES_SHOWN {
            // Writing to a string cannot fail.
            let _ = write!(text, "{}{name}", if count == 1 { "waits for " } else { ", " });
        }
    }
    if count > NAMES_SHOWN {
        let _ = write!(text, " and {} more", count - NAMES_SHOWN);
    }
}

const NAMES_SHOWN: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_read_as_a_person_would_say_them() {
        let read = |millis| length(Duration::from_millis(millis));
        assert_eq!(read(0), "0.0s");
        assert_eq!(read(20), "0.02s");
        assert_eq!(read(300), "0.3s");
        assert_eq!(read(42_000), "42.0s");
        assert_eq!(read(303_000), "5m 3s");
        assert_eq!(read(7_440_000), "2h 4m");
        assert_eq!(read(266_400_000), "3d 2h");
        assert_eq!(setting(Duration::from_millis(1500)), "1.5s");
    }

    #[test]
    fn a_program_that_cannot_be_executed_is_named() {
        let exit = Exit::CannotExec { stage: "exec".into(), errno: 2 };
        let command = Command { line: "~/missing -x".into(), kind: CommandKind::Words(vec!["/home/u/missing".into()]) };
        assert!(ended(&exit, &command, Duration::ZERO).starts_with("cannot exec ~/missing: no such file"));
    }
}
