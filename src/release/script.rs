//! Runs one script of a service (builder, hook, postinstall) to its end: as its user, with its environment, its
//! output shown line by line with the service's name, and with a limit.
//!
//! Scripts come without the x bit, without a shebang, as a path from the tree or as a command line; all of them are
//! meant to run (reference/dotcloud.md §2).

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::plan::{Bind, Identity};
use crate::sys::clock::since_boot;
use crate::sys::process::{self, Ended, Pid};
use crate::sys::sigwait::{self, SignalFd};
use crate::sys::{fd, limits, mount, pidfd, poll};

pub struct Script<'a> {
    /// As it stands in the dotcloud.yml: a path from `folder` or from `~`, or a command line for a shell.
    pub line: &'a str,
    pub folder: &'a Path,
    pub env: &'a BTreeMap<String, String>,
    /// Whom to become; nobody: as hob itself.
    pub user: Option<&'a Identity>,
    pub within: Duration,
    /// What it sees at other paths.
    pub binds: &'a [Bind],
    /// Whether what it leaves running in its process group is ended with it.
    pub ends_its_group: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Ended(Ended),
    TookTooLong,
    /// We were told to stop; the script has been stopped.
    Interrupted(i32),
}

#[derive(Debug)]
pub struct Outcome {
    pub end: End,
    /// The last lines it printed.
    pub last: Vec<String>,
}

impl Script<'_> {
    /// Runs it. Its output goes to `show`, line by line, and as it is to `log`.
    pub fn run(&self, show: &mut ShowLine<'_>, log: Option<&mut dyn Write>) -> io::Result<Outcome> {
        let words = words(self.line, self.folder, self.env)?;
        let (rx, tx) = io::pipe()?;
        let (rx, tx): (OwnedFd, OwnedFd) = (rx.into(), tx.into());
        let null: OwnedFd = std::fs::File::open("/dev/null")?.into();
        let pid = process::fork(|| {
            let (stage, why) = self.become_script(&words, null.as_fd(), tx.as_fd());
            let _ = writeln!(io::stderr(), "cannot {stage}: {}", describe(&why));
            127
        })?;
        drop(tx);
        fd::set_nonblocking(&rx)?;
        let mut output = Output { file: rx.into(), show, line: Vec::new(), tail: Vec::new(), log };
        let early = self.watch(pid, &mut output);
        // The leader is a zombie at most, so the group is still the script's.
        if self.ends_its_group || !matches!(early, Ok(None)) {
            let _ = process::kill_group(pid, libc::SIGKILL);
            let _ = process::kill(pid, libc::SIGKILL);
        }
        let ended = process::wait_for(pid);
        let end = match early? {
            Some(end) => end,
            None => End::Ended(ended?),
        };
        output.finish();
        Ok(Outcome { end, last: output.last_lines(10) })
    }

    /// Until its end (nothing), its limit or a signal to us. Does not reap it.
    fn watch(&self, pid: Pid, output: &mut Output<'_, '_, '_>) -> io::Result<Option<End>> {
        let _held = sigwait::hold()?;
        let signals = SignalFd::new()?;
        let pidfd = pidfd::open(pid.as_raw()).ok();
        // Without a pidfd (an old kernel) its end is looked for every so often.
        let step = if pidfd.is_some() { Duration::MAX } else { Duration::from_millis(20) };
        let deadline = since_boot().saturating_add(self.within);
        let mut open = true;
        let mut told_to_stop: Option<(i32, Duration)> = None;
        loop {
            let until = told_to_stop.map_or(deadline, |(_, kill_at)| kill_at.min(deadline));
            let left = until.saturating_sub(since_boot());
            if left.is_zero() {
                return Ok(Some(told_to_stop.map_or(End::TookTooLong, |(signal, _)| End::Interrupted(signal))));
            }
            let pipe = open.then(|| output.file.as_fd());
            let fds: Vec<BorrowedFd<'_>> =
                [Some(signals.as_fd()), pidfd.as_ref().map(AsFd::as_fd), pipe].into_iter().flatten().collect();
            poll::readable(&fds, Some(left.min(step)))?;
            // Asked before the pipe is read: what it wrote before its end is then in the pipe.
            let is_over = process::is_over(pid)?;
            open = open && output.show_what_there_is();
            while let Some(arrived) = signals.take() {
                if [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT].contains(&arrived.signal) {
                    let _ = process::kill_group(pid, arrived.signal);
                    told_to_stop.get_or_insert((arrived.signal, since_boot() + STOP_WITHIN));
                }
            }
            // Its end decides, not that of the pipe, which something in the background may hold.
            if is_over {
                return Ok(told_to_stop.map(|(signal, _)| End::Interrupted(signal)));
            }
        }
    }

    /// In the child: returns only what went wrong.
    fn become_script(&self, words: &[CString], null: BorrowedFd<'_>, out: BorrowedFd<'_>) -> (&'static str, io::Error) {
        let set_up = || -> Result<(), (&'static str, io::Error)> {
            process::new_session().map_err(|e| ("make a session", e))?;
            for (from, number) in [(null, 0), (out, 1), (out, 2)] {
                process::place_fd(from, number).map_err(|e| ("set up its descriptors", e))?;
            }
            process::close_on_exec_from(3);
            limits::set_umask(0o022);
            if !self.binds.is_empty() {
                let binds = self.binds.iter().map(|bind| (bind.from.as_path(), bind.to.as_path()));
                mount::enter(binds).map_err(|e| ("bind its home", e))?;
            }
            if let Some(Identity { uid, gid, groups, .. }) = self.user {
                process::become_user(*uid, *gid, groups)?;
            }
            // It would be nobody's when hob is killed.
            sigwait::die_with_parent();
            std::env::set_current_dir(self.folder).map_err(|e| ("change to the code tree", e))
        };
        if let Err(failed) = set_up() {
            return failed;
        }
        let env: Vec<CString> = self.env.iter().filter_map(|(k, v)| CString::new(format!("{k}={v}")).ok()).collect();
        let (stage, errno) = process::exec(words, &env);
        (stage, errno.into())
    }
}

/// Takes a line of output, its newline left out.
pub type ShowLine<'a> = dyn FnMut(&[u8]) + 'a;

/// Shows each line on stderr behind a label such as `[www] `.
pub fn on_stderr(label: &str) -> impl FnMut(&[u8]) {
    let label = label.as_bytes().to_vec();
    move |line| {
        let whole = [label.as_slice(), line, b"\n"].concat();
        let _ = io::stderr().write_all(&whole);
    }
}

/// What a script prints, on its way to whoever watches and the log.
struct Output<'a, 's, 'l> {
    file: std::fs::File,
    show: &'a mut ShowLine<'s>,
    /// The line that has not ended yet.
    line: Vec<u8>,
    tail: Vec<u8>,
    log: Option<&'l mut dyn Write>,
}

impl Output<'_, '_, '_> {
    /// False at the end of the output.
    fn show_what_there_is(&mut self) -> bool {
        let mut block = [0; 16 << 10];
        // Bounded, so that a script that never stops printing cannot keep us from its limit.
        for _ in 0..64 {
            match self.file.read(&mut block) {
                Ok(0) => return false,
                Ok(length) => self.show(&block[..length]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return e.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }

    fn show(&mut self, text: &[u8]) {
        if let Some(log) = &mut self.log {
            // A full disk is no reason to fail a script.
            let _ = log.write_all(text);
        }
        self.tail.extend_from_slice(text);
        let over = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..over);
        for piece in text.split_inclusive(|&b| b == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.line.len() >= LINE {
                self.print_line();
            }
        }
    }

    fn print_line(&mut self) {
        if self.line.is_empty() {
            return;
        }
        let line = std::mem::take(&mut self.line);
        (self.show)(line.strip_suffix(b"\n").unwrap_or(&line));
    }

    fn finish(&mut self) {
        self.print_line();
    }

    fn last_lines(&self, most: usize) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.tail);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(most)..].iter().map(|line| (*line).to_owned()).collect()
    }
}

/// What to execute: the file a path means, or a shell with the whole line.
fn words(line: &str, folder: &Path, env: &BTreeMap<String, String>) -> io::Result<Vec<CString>> {
    let line = line.trim();
    let home = env.get("HOME").map_or("/", String::as_str);
    let plain = !line.contains(|c: char| "|&;<>()$`*?[]{}#!\\\n".contains(c));
    let words = plain.then(|| shlex::split(line)).flatten().unwrap_or_default();
    // The whole line may be the path of a file with a blank in its name.
    let whole = file_of(line, folder, home).map(|file| vec![file]);
    let split = || {
        let mut words = words.iter();
        let first = file_of(words.next()?, folder, home)?;
        let rest =
            words.map(|word| word.strip_prefix("~/").map_or_else(|| word.clone(), |rest| format!("{home}/{rest}")));
        Some(std::iter::once(first).chain(rest).collect())
    };
    let shell = if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
    // A script without the x bit is meant to run with words of the shell's behind it too.
    let in_shell = || {
        let first = line.split_whitespace().next().and_then(|word| file_of(word, folder, home).map(|_| word));
        let by = first.and_then(|word| process::interpreter_of(&resolve(word, folder, Path::new(home))));
        by.map_or_else(|| line.to_owned(), |by| format!("{by} {line}"))
    };
    let words = whole.or_else(split).unwrap_or_else(|| vec![shell.to_owned(), "-c".to_owned(), in_shell()]);
    Ok(words.into_iter().map(CString::new).collect::<Result<_, _>>()?)
}

/// The file a word means, in a form that is not looked up in PATH.
fn file_of(word: &str, folder: &Path, home: &str) -> Option<String> {
    let path = resolve(word, folder, Path::new(home));
    if !path.is_file() {
        return None;
    }
    match word.contains('/') && !word.starts_with("~/") {
        true => Some(word.to_owned()),
        false if word.starts_with("~/") => Some(path.to_string_lossy().into_owned()),
        false => Some(format!("./{word}")),
    }
}

/// Where a word of a script's line lies.
pub fn resolve(word: &str, folder: &Path, home: &Path) -> PathBuf {
    match word.strip_prefix("~/") {
        Some(rest) => home.join(rest),
        None => folder.join(word),
    }
}

/// How a script ended, for people.
pub fn told(end: End, within: Duration) -> String {
    match end {
        End::Ended(Ended::Code(code)) => format!("exited with code {code}"),
        End::Ended(Ended::Signal { signal, .. }) => format!("was killed by signal {signal}"),
        End::TookTooLong if within.as_secs() >= 60 && within.as_secs().is_multiple_of(60) => {
            format!("took longer than {} minutes", within.as_secs() / 60)
        }
        End::TookTooLong => format!("took longer than {} s", within.as_secs_f64()),
        End::Interrupted(signal) => format!("was interrupted by signal {signal}"),
    }
}

pub fn describe(why: &io::Error) -> String {
    match why.raw_os_error() {
        Some(errno) => nix::errno::Errno::from_raw(errno).desc().to_lowercase(),
        None => why.to_string(),
    }
}

/// Bytes kept of the end of an output.
const TAIL: usize = 8 << 10;

/// A line longer than this is shown in pieces.
const LINE: usize = 64 << 10;

/// Between passing on a signal and SIGKILL.
const STOP_WITHIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    struct Bench {
        dir: tempfile::TempDir,
        env: BTreeMap<String, String>,
    }

    impl Bench {
        fn new() -> Bench {
            let dir = tempfile::tempdir().expect("a directory");
            let path = std::env::var("PATH").unwrap_or_default();
            let env = [("PATH".to_owned(), path), ("HOME".to_owned(), dir.path().to_string_lossy().into_owned())];
            Bench { dir, env: env.into() }
        }

        fn file(&self, name: &str, text: &str, mode: u32) {
            let path = self.dir.path().join(name);
            std::fs::write(&path, text).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("changed");
        }

        fn run(&self, line: &str, within: Duration) -> (Outcome, String) {
            let script = Script {
                line,
                folder: self.dir.path(),
                env: &self.env,
                user: None,
                within,
                binds: &[],
                ends_its_group: true,
            };
            let mut log = Vec::new();
            let outcome = script.run(&mut |_| {}, Some(&mut log)).expect("started");
            (outcome, String::from_utf8_lossy(&log).into_owned())
        }
    }

    const LONG: Duration = Duration::from_secs(60);
    const GOOD: End = End::Ended(Ended::Code(0));

    #[test]
    fn a_script_runs_with_or_without_x_bit_and_shebang() {
        let bench = Bench::new();
        for (name, text, mode) in [
            ("plain", "echo $0 ran", 0o644),
            ("executable", "echo $0 ran", 0o755),
            ("shebang", "#!/bin/sh\necho $0 ran", 0o644),
            ("both", "#!/bin/sh\necho $0 ran", 0o755),
            ("with blank", "echo $0 ran", 0o644),
        ] {
            bench.file(name, text, mode);
            for line in [name.to_owned(), format!("./{name}"), format!("~/{name}")] {
                let (outcome, log) = bench.run(&line, LONG);
                assert_eq!(outcome.end, GOOD, "{line}: {log}");
                assert!(log.ends_with("ran\n"), "{line}: {log}");
            }
        }
    }

    #[test]
    fn a_path_may_have_arguments_and_a_command_line_is_one_for_a_shell() {
        let bench = Bench::new();
        bench.file("args", "echo \"<$1><$2>\"", 0o644);
        assert_eq!(bench.run("args 'a b' ~/c", LONG).1, format!("<a b><{}/c>\n", bench.dir.path().display()));
        let both = "./args $((1 + 1)) \"$HOME\" && echo good";
        assert_eq!(bench.run(both, LONG).1, format!("<2><{}>\ngood\n", bench.dir.path().display()));
        assert_eq!(bench.run("FOO=1; echo $FOO | tr 1 2", LONG).1, "2\n");
        assert_eq!(bench.run("rm -f ~/args && echo gone", LONG).1, "gone\n");
    }

    #[test]
    fn the_status_and_the_last_lines_of_a_failure_are_kept() {
        let bench = Bench::new();
        let (outcome, _) = bench.run("seq 1 100; echo oh no >&2; exit 3", LONG);
        assert_eq!(outcome.end, End::Ended(Ended::Code(3)));
        assert_eq!(outcome.last.len(), 10);
        assert_eq!(outcome.last.last().map(String::as_str), Some("oh no"));
        let (outcome, _) = bench.run("kill -9 $$", LONG);
        assert_eq!(outcome.end, End::Ended(Ended::Signal { signal: 9, core: false }));
        assert_eq!(bench.run("no-such-command-at-all", LONG).0.end, End::Ended(Ended::Code(127)));
    }

    #[test]
    fn every_byte_of_the_output_reaches_the_log() {
        let bench = Bench::new();
        let (outcome, log) = bench.run("head -c 100000 /dev/zero | tr '\\0' x; echo end", LONG);
        assert_eq!((outcome.end, log.len()), (GOOD, 100_004));
    }

    #[test]
    fn a_script_that_takes_too_long_is_killed_with_what_it_started() {
        let bench = Bench::new();
        let (outcome, log) = bench.run("sleep 1000 & echo $!; trap '' TERM; wait", Duration::from_millis(400));
        assert_eq!(outcome.end, End::TookTooLong);
        assert_eq!(told(outcome.end, Duration::from_millis(400)), "took longer than 0.4 s");
        assert_eq!(told(outcome.end, Duration::from_secs(120)), "took longer than 2 minutes");
        let pid: i32 = log.trim().parse().expect("a pid");
        let deadline = since_boot() + Duration::from_secs(10);
        while crate::sys::proc::stat(pid).is_some_and(|stat| stat.state != b'Z') {
            assert!(since_boot() < deadline, "left behind");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn something_in_the_background_does_not_hold_up_the_end() {
        let began = since_boot();
        let bench = Bench::new();
        assert_eq!(bench.run("sleep 1000 & echo done", LONG).0.end, GOOD);
        assert!(since_boot() - began < Duration::from_secs(20));
    }
}
