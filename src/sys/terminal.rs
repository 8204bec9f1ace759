//! The controlling terminal.

use std::io;

use nix::sys::termios::{self, LocalFlags, SetArg};

/// Makes our process group the one in the foreground of the terminal on stdin, if there is a terminal. tcsetpgrp(3).
pub fn take() {
    // A background group that does this is stopped by SIGTTOU, unless it ignores that.
    super::process::ignore_signal(libc::SIGTTOU);
    let _ = nix::unistd::tcsetpgrp(io::stdin(), nix::unistd::getpgrp());
    super::process::default_signals();
}

/// Runs `ask` while the terminal on stdin, if it is one, does not show what is typed. tcsetattr(3).
pub fn without_echo<T>(ask: impl FnOnce() -> T) -> T {
    let before = termios::tcgetattr(io::stdin());
    if let Ok(mut silent) = before.clone() {
        silent.local_flags.remove(LocalFlags::ECHO);
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &silent);
    }
    let answer = ask();
    if let Ok(before) = before {
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &before);
    }
    answer
}
