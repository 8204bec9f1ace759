//! One command as PID 1, or in front of a process tree that has none: every signal is passed on, every orphan is
//! reaped, and the command's exit status is ours.
//!
//! The command gets a process group of its own, and the terminal if there is one, so that Ctrl-C reaches it and its
//! pipeline without our help. What it leaves behind when it ends is ended too: as subreaper we would otherwise hand
//! strangers to whoever is above us, and as PID 1 the kernel would kill them without a word.

use std::ffi::{CString, OsString};
use std::io::{self, Write};
use std::time::Duration;

use crate::sys::process::{self, Ended, Pid};
use crate::sys::{command, family, sigwait, terminal};

/// Runs the command to its end. The result is an exit status: the command's, 128 and the signal that killed it, 127
/// or 126 if it cannot be executed.
pub fn main(argv: &[OsString]) -> i32 {
    let Some(words) = command::words(argv) else {
        let _ = writeln!(io::stderr(), "hob: cannot boot nothing: usage: hob boot -- COMMAND [ARGS...]");
        return 2;
    };
    match start(&words) {
        Ok(command) => {
            let end = wait_for(command);
            family::end_all(GRACE);
            end.status()
        }
        Err(e) => {
            let _ = writeln!(io::stderr(), "hob: cannot start {}: {e}", words[0].to_string_lossy());
            111
        }
    }
}

fn start(words: &[CString]) -> io::Result<Pid> {
    sigwait::block_all()?;
    if process::pid().as_raw() != 1 {
        process::become_subreaper()?;
    }
    process::fork(|| {
        let _ = process::lead_group(process::pid());
        terminal::take();
        command::exec_program(words)
    })
}

/// Passes signals on and reaps until the command has ended.
fn wait_for(command: Pid) -> Ended {
    loop {
        // Linux delivers one SIGCHLD for many deaths, so go on until there is nothing left.
        let mut ended = None;
        while let Some((pid, end)) = process::reap_one() {
            if pid == command {
                ended = Some(end);
            }
        }
        if let Some(end) = ended {
            return end;
        }
        match sigwait::wait(None) {
            // SIGPIPE can only be our own, for a message nobody reads.
            Some(arrived) if arrived.signal != libc::SIGCHLD && arrived.sender != process::pid().as_raw() => {
                // It has not been reaped, so this is still its pid; that it has just ended shows on the next turn.
                let _ = process::kill(command, arrived.signal);
            }
            _ => {}
        }
    }
}

/// For what the command leaves behind: SIGTERM, this long, SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock::since_boot;

    /// Runs a shell script under the init role in a process of its own; its status.
    fn boot(script: &str) -> Ended {
        let argv = ["/bin/sh", "-c", script].map(OsString::from);
        let pid = process::fork(|| main(&argv)).expect("fork");
        process::wait_for(pid).expect("our child")
    }

    #[test]
    fn the_status_of_the_command_is_the_status_of_init() {
        assert_eq!(boot("exit 0"), Ended::Code(0));
        assert_eq!(boot("exit 42"), Ended::Code(42));
        assert_eq!(boot("kill -KILL $$"), Ended::Code(128 + 9));
        let pid = process::fork(|| main(&["/no/such/program".into()])).expect("fork");
        assert_eq!(process::wait_for(pid).expect("our child"), Ended::Code(127));
        let pid = process::fork(|| main(&["/etc/passwd/x".into()])).expect("fork");
        assert_eq!(process::wait_for(pid).expect("our child"), Ended::Code(126));
    }

    #[test]
    fn every_signal_reaches_the_command() {
        for signal in [libc::SIGHUP, libc::SIGTERM, libc::SIGUSR1, libc::SIGWINCH, libc::SIGRTMIN() + 3] {
            let script = format!("trap 'exit 7' {signal}; kill -{signal} $PPID; sleep 30 & wait; exit 8");
            let argv = ["/bin/bash", "-c", &script].map(OsString::from);
            let pid = process::fork(|| main(&argv)).expect("fork");
            assert_eq!(process::wait_for(pid).expect("our child"), Ended::Code(7), "signal {signal}");
        }
    }

    #[test]
    fn nothing_the_command_left_behind_outlives_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("pid");
        let script = format!("setsid sleep 1000 & echo $! > {0}; (sleep 1000 &) ; exit 5", file.display());
        let began = since_boot();
        assert_eq!(boot(&script), Ended::Code(5));
        assert!(since_boot() - began < GRACE, "they die of SIGTERM");
        let pid: i32 = std::fs::read_to_string(&file).expect("written").trim().parse().expect("a pid");
        assert_eq!(crate::sys::proc::stat(pid), None);
    }
}
