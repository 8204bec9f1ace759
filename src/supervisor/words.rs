//! The words for people: why a process is in its state. Written so that a log line can put the name before them.

use std::borrow::Cow;
use std::time::Duration;

use super::event::Exit;
use crate::plan::{Command, CommandKind, Name, Restart, Spec};

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

/// `exited with code 1 after 0.3s`, or what [`exit`] says of a start that failed.
pub fn ended(how: &Exit, spec: &Spec, lived: Duration) -> String {
    match how {
        Exit::CannotExec { .. } => exit(how, spec),
        _ => format!("{how} after {}", length(lived)),
    }
}

/// `exited with code 1`; `cannot exec ~/httphelo.py: no such file or directory`; and when an earlier step failed
/// `cannot exec ~/run: cannot change to /srv/old: no such file or directory (stage chdir)`.
pub fn exit(how: &Exit, spec: &Spec) -> String {
    let Exit::CannotExec { stage, errno } = how else { return how.to_string() };
    let (program, why) = (program(&spec.command), nix::errno::Errno::from_raw(*errno).desc().to_lowercase());
    let step = match stage.as_str() {
        "exec" => return format!("cannot exec {program}: {why}"),
        "chdir" => format!("change to {}", spec.directory.display()),
        "setuid" | "setgid" | "setgroups" => match &spec.user {
            Some(user) => format!("become user {}", user.name),
            None => "become its user".to_owned(),
        },
        "interpreter" => "exec the interpreter it names".to_owned(),
        "shell" => "exec the shell for it".to_owned(),
        "setsid" => "make a session".to_owned(),
        "descriptors" => "set up its descriptors".to_owned(),
        other => other.to_owned(),
    };
    format!("cannot exec {program}: cannot {step}: {why} (stage {stage})")
}

/// What was to be executed, as it was written, unless quotes make that something else than the program.
fn program(command: &Command) -> Cow<'_, str> {
    let written = command.line.split_whitespace().next().filter(|word| !word.contains(['\'', '"', '\\']));
    let word = match &command.kind {
        CommandKind::Words(words) => written.or(words.first().map(String::as_str)),
        CommandKind::Simple => written,
        CommandKind::Script => None,
    };
    match word {
        Some(word) => word.into(),
        None if command.line.chars().count() <= LINE_SHOWN => command.line.as_str().into(),
        None => command.line.chars().take(LINE_SHOWN).chain("...".chars()).collect(),
    }
}

/// Characters of a command line that stands for its program.
const LINE_SHOWN: usize = 60;

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
    fn a_start_that_failed_names_the_program_and_the_step_with_what_it_was_about() {
        let mut spec = crate::supervisor::world::process("web");
        spec.command =
            Command { line: "~/missing -x".into(), kind: CommandKind::Words(vec!["/home/u/missing".into()]) };
        spec.directory = "/srv/old".into();
        let told = |spec: &Spec, stage: &str, errno| exit(&Exit::CannotExec { stage: stage.into(), errno }, spec);
        assert_eq!(told(&spec, "exec", 2), "cannot exec ~/missing: no such file or directory");
        assert_eq!(
            told(&spec, "chdir", 2),
            "cannot exec ~/missing: cannot change to /srv/old: no such file or directory (stage chdir)"
        );
        assert_eq!(
            told(&spec, "setuid", 1),
            "cannot exec ~/missing: cannot become its user: operation not permitted (stage setuid)"
        );
        assert_eq!(told(&spec, "fork", 11), "cannot exec ~/missing: cannot fork: try again (stage fork)");
        spec.command = Command { line: format!("cd /x && {}", "y".repeat(80)), kind: CommandKind::Script };
        let clipped = format!("cannot exec cd /x && {}...: cannot exec the shell for it: ", "y".repeat(51));
        assert!(told(&spec, "shell", 13).starts_with(&clipped), "{}", told(&spec, "shell", 13));
    }
}
