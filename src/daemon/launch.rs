//! What happens in a child between fork and exec: the hygiene contract of DESIGN §4, step by step.
//!
//! Each step that fails is told to the daemon by name, over a datagram socket all children share: a failed start is
//! never an "exited with code 127". Where a shell has to source a profile or expand words first, it hands over to
//! `hob __exec`, which does the one exec that counts and reports in the same way.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::marks::{Marks, Owner};
use crate::plan::{Bind, CommandKind, Identity, Spec};
use crate::supervisor::event::ProcessId;
use crate::sys;

/// What a child tells the daemon. The number is that of its run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// It could not become the program.
    Failed { run: u64, stage: String, errno: i32 },
    /// Something short of that: a limit that could not be set.
    Trouble { run: u64, text: String },
    /// The answer of a probe, for people.
    Said { run: u64, text: String },
}

impl Report {
    pub fn run(&self) -> u64 {
        match self {
            Report::Failed { run, .. } | Report::Trouble { run, .. } | Report::Said { run, .. } => *run,
        }
    }

    /// Sends it. A daemon that is gone needs no report.
    pub fn send(&self, socket: &UnixDatagram) {
        if let Ok(text) = serde_json::to_vec(self) {
            let _ = socket.send(&text);
        }
    }
}

/// The longest report; a longer one is not ours.
pub const REPORT_MAX: usize = 2048;

/// What a child needs from the daemon besides its spec.
pub struct Launch<'a> {
    pub run: u64,
    pub spec: &'a Spec,
    /// The environment of the instance.
    pub base_env: &'a BTreeMap<String, String>,
    /// Variables for this run alone.
    pub extra_env: Vec<(String, String)>,
    pub stdout: BorrowedFd<'a>,
    pub stderr: BorrowedFd<'a>,
    pub stdin: BorrowedFd<'a>,
    pub reports: &'a UnixDatagram,
    /// hob's own executable, opened: its path may be closed to the user the child becomes.
    pub exe: BorrowedFd<'a>,
    /// What it sees at other paths.
    pub binds: &'a [Bind],
    /// The limits hob itself was started with; it has raised its own.
    pub nofile: (u64, u64),
    /// For a process that has none of its own.
    pub oom_score_adj: Option<i32>,
    /// By which everything it starts is known to be its own.
    pub marks: &'a Marks,
    pub id: ProcessId,
    /// Runs a daemonizing command and relays signals (`pidfile:`).
    pub pidproxy: fn(&Path, &mut dyn FnMut() -> i32) -> i32,
}

impl Launch<'_> {
    /// Becomes the program. Returns, with an exit status, only when it could not.
    pub fn exec(&self) -> i32 {
        self.report(self.try_exec())
    }

    /// The same in a child that shares the descriptor table of its maker, which it leaves first. All that it is given
    /// must be below `first`.
    pub fn exec_with_fds_below(&self, first: RawFd) -> i32 {
        let own_table = sys::beside::keep_fds_below(first).stage("descriptors");
        self.report(own_table.and_then(|()| self.try_exec()))
    }

    fn report(&self, outcome: Result<i32, Failure>) -> i32 {
        match outcome {
            Ok(status) => status,
            Err(Failure { stage, errno }) => {
                if self.spec.program.is_some() {
                    // To supervisord it is a program like any other that has exited.
                    self.complain(stage, errno);
                } else {
                    Report::Failed { run: self.run, stage: stage.into(), errno: errno as i32 }.send(self.reports);
                }
                127
            }
        }
    }

    fn try_exec(&self) -> Result<i32, Failure> {
        sys::process::new_session().stage("setsid")?;
        for (fd, number) in [(self.stdin, 0), (self.stdout, 1), (self.stderr, 2)] {
            sys::process::place_fd(fd, number).stage("descriptors")?;
        }
        sys::limits::set_umask(self.spec.umask.unwrap_or(0o022));
        self.set_limits();
        self.marks.tag_self(Owner::Process(self.id));
        enter(self.binds)?;
        become_user(self.spec.user.as_ref())?;
        std::env::set_current_dir(&self.spec.directory).stage("chdir")?;
        let Some(pidfile) = &self.spec.pidfile else { return Err(self.exec_command()) };
        sys::process::set_name("hob pidproxy");
        Ok((self.pidproxy)(pidfile, &mut || {
            let Failure { stage, errno } = self.exec_command();
            Report::Failed { run: self.run, stage: stage.into(), errno: errno as i32 }.send(self.reports);
            127
        }))
    }

    /// Where supervisord's users look for it: in the program's own log, in supervisord's words.
    fn complain(&self, stage: &str, errno: Errno) {
        let what = match (stage, &self.spec.command.kind) {
            ("chdir", _) => format!("chdir to {}", self.spec.directory.display()),
            ("exec", CommandKind::Words(words)) => format!("exec {}", words.first().map_or("", String::as_str)),
            (stage, _) => match &self.spec.user {
                // The groups are part of that to supervisord, and who is not root may have no other user.
                Some(user) if stage.starts_with("set") && errno == Errno::EPERM => {
                    return self
                        .complain_that(&format!("setuid to {}: Can't drop privilege as nonroot user", user.uid));
                }
                Some(user) => format!("{stage} to {}", user.uid),
                None => stage.to_owned(),
            },
        };
        self.complain_that(&format!("{what}: {errno:?}"));
    }

    fn complain_that(&self, what: &str) {
        let text = format!("supervisor: couldn't {what}\nsupervisor: child process was not spawned\n");
        let _ = io::Write::write_all(&mut io::stderr(), text.as_bytes());
    }

    /// A limit that may not be set is a trouble of that process, not a reason not to run it.
    fn set_limits(&self) {
        let limits = &self.spec.limits;
        let (soft, hard) = limits.nofile.map_or(self.nofile, |n| (n, n));
        self.warn("nofile", soft, sys::limits::set_nofile(soft, hard));
        if let Some(nice) = limits.nice {
            self.warn("nice", nice, sys::limits::set_nice(nice));
        }
        match (limits.oom_score_adj, self.oom_score_adj) {
            (Some(score), _) => self.warn("oom_score_adj", score, sys::limits::set_oom_score_adj(score)),
            // Nobody has asked for it, so nobody needs to know that /proc is read-only.
            (None, Some(score)) => drop(sys::limits::set_oom_score_adj(score)),
            (None, None) => {}
        }
    }

    fn warn(&self, what: &str, value: impl std::fmt::Display, result: io::Result<()>) {
        if let Err(why) = result {
            let text = format!("cannot set {what} to {value}: {}", describe(&why));
            Report::Trouble { run: self.run, text }.send(self.reports);
        }
    }

    fn exec_command(&self) -> Failure {
        let env = c_env(self.base_env, &self.spec.env, &self.extra_env);
        let profile = self.spec.profile.as_deref().filter(|p| p.exists());
        let command = &self.spec.command;
        let script = match (&command.kind, profile) {
            (CommandKind::Words(words), None) => {
                sys::process::close_on_exec_from(3);
                return exec_words(words.iter().map(|w| w.as_bytes().to_vec()).collect(), &env);
            }
            (CommandKind::Script, profile) => source(profile, "") + &command.line,
            (_, profile) => match self.hand_over_fds() {
                // Only the hand-over may have these two: not what a profile leaves running in the background.
                Ok(exe) => source(profile, " 3>&- 4>&-") + &format!("exec {exe} {STUB} {} {}", self.run, command.line),
                Err(failure) => return failure,
            },
        };
        let shell = if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
        if !matches!(command.kind, CommandKind::Words(_) | CommandKind::Simple) {
            sys::process::close_on_exec_from(3);
        }
        let failure = exec_words(vec![shell.into(), b"-c".to_vec(), script.into_bytes()], &env);
        Failure { stage: "shell", ..failure }
    }

    /// Leaves the report socket as 3 and hob's executable as 4, and says by which path a shell can exec the latter.
    fn hand_over_fds(&self) -> Result<String, Failure> {
        // Copies first: one of the two may stand where the other has to go.
        let report = sys::process::lift_fd(self.reports.as_fd()).stage("descriptors")?;
        let exe = sys::process::lift_fd(self.exe).stage("descriptors")?;
        sys::process::close_on_exec_from(3);
        sys::process::place_fd(report.as_fd(), REPORT_FD).stage("descriptors")?;
        sys::process::place_fd(exe.as_fd(), EXE_FD).stage("descriptors")?;
        let by_fd = format!("/proc/self/fd/{EXE_FD}");
        if Path::new(&by_fd).exists() {
            return Ok(by_fd);
        }
        let path = std::env::current_exe().stage("shell")?;
        Ok(quote(&path.to_string_lossy()))
    }
}

/// `hob __exec RUN WORD...`: the last step of a start that needed a shell.
pub fn exec_stub(mut args: impl Iterator<Item = OsString>) -> i32 {
    let run = args.next().and_then(|n| n.to_str()?.parse().ok()).unwrap_or(0);
    let report = sys::process::take_inherited(REPORT_FD);
    drop(sys::process::take_inherited(EXE_FD));
    sys::process::close_on_exec_from(3);
    let env: Vec<CString> = std::env::vars_os()
        .filter_map(|(k, v)| {
            let mut pair = k.into_vec();
            pair.push(b'=');
            pair.extend(v.into_vec());
            CString::new(pair).ok()
        })
        .collect();
    let words: Vec<Vec<u8>> = args.map(OsStringExt::into_vec).collect();
    let Failure { stage, errno } = exec_words(words, &env);
    if let Some(report) = report {
        Report::Failed { run, stage: stage.into(), errno: errno as i32 }.send(&UnixDatagram::from(report));
    }
    127
}

/// The word by which a shell hands over.
pub const STUB: &str = "__exec";
const REPORT_FD: i32 = 3;
const EXE_FD: i32 = 4;

/// Becomes a user for good, if one is wanted.
pub fn become_user(user: Option<&Identity>) -> Result<(), Failure> {
    let Some(user) = user else { return Ok(()) };
    sys::process::become_user(user.uid, user.gid, &user.groups)
        .map_err(|(step, why)| Failure { stage: stage_of(step), errno: errno_of(&why) })
}

/// Sees what `binds` say from now on; only root can.
pub fn enter(binds: &[Bind]) -> Result<(), Failure> {
    if binds.is_empty() {
        return Ok(());
    }
    sys::mount::enter(binds.iter().map(|bind| (bind.from.as_path(), bind.to.as_path()))).stage("bind its home")
}

/// A step that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// One of those that `Exit::CannotExec` lists.
    pub stage: &'static str,
    pub errno: Errno,
}

trait Stage<T> {
    fn stage(self, stage: &'static str) -> Result<T, Failure>;
}

impl<T> Stage<T> for io::Result<T> {
    fn stage(self, stage: &'static str) -> Result<T, Failure> {
        self.map_err(|why| Failure { stage, errno: errno_of(&why) })
    }
}

/// The name of a step that `sys` tells in words.
fn stage_of(step: &'static str) -> &'static str {
    match step {
        "set groups" => "setgroups",
        "set group" => "setgid",
        "set user" => "setuid",
        "exec the interpreter of the script" => "interpreter",
        other => other,
    }
}

fn errno_of(why: &io::Error) -> Errno {
    Errno::from_raw(why.raw_os_error().unwrap_or(Errno::EINVAL as i32))
}

fn describe(why: &io::Error) -> String {
    errno_of(why).desc().to_lowercase()
}

fn exec_words(words: Vec<Vec<u8>>, env: &[CString]) -> Failure {
    let words: Result<Vec<CString>, _> = words.into_iter().map(CString::new).collect();
    match words {
        Ok(words) => {
            let (stage, errno) = sys::process::exec(&words, env);
            Failure { stage: stage_of(stage), errno }
        }
        Err(_) => Failure { stage: "exec", errno: Errno::EINVAL },
    }
}

fn source(profile: Option<&Path>, redirect: &str) -> String {
    profile.map_or(String::new(), |p| format!(". {}{redirect}\n", quote(&p.to_string_lossy())))
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn c_env(base: &BTreeMap<String, String>, own: &BTreeMap<String, String>, extra: &[(String, String)]) -> Vec<CString> {
    let mut env: BTreeMap<&str, &str> = base.iter().chain(own).map(|(k, v)| (k.as_str(), v.as_str())).collect();
    env.extend(extra.iter().map(|(k, v)| (k.as_str(), v.as_str())));
    env.into_iter().filter_map(|(k, v)| CString::new(format!("{k}={v}")).ok()).collect()
}

/// Opens hob's own executable for children that cannot reach its path.
pub fn open_own_executable() -> io::Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC);
    // Without /proc there is only the path, and argv[0] may be all that is known of it.
    options
        .open("/proc/self/exe")
        .or_else(|_| options.open(std::env::args_os().next().unwrap_or_default()))
        .map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_goes_before_the_instance_and_the_run_before_both() {
        let pairs = |list: &[(&str, &str)]| list.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let (base, own) = (pairs(&[("A", "1"), ("B", "1"), ("C", "1")]), pairs(&[("B", "2"), ("C", "2")]));
        let env = c_env(&base, &own, &[("C".into(), "3".into())]);
        assert_eq!(env, [c"A=1".to_owned(), c"B=2".to_owned(), c"C=3".to_owned()]);
    }

    #[test]
    fn a_profile_with_a_quote_in_its_path_is_still_one_word() {
        assert_eq!(source(Some(Path::new("/h/it's/profile")), " 3>&-"), ". '/h/it'\\''s/profile' 3>&-\n");
    }
}
