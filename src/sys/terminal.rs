//! The controlling terminal.

use std::io;

/// Makes our process group the one in the foreground of the terminal on stdin, if there is a terminal. tcsetpgrp(3).
pub fn take() {
    // A background group that does this is stopped by SIGTTOU, unless it ignores that.
    super::process::ignore_signal(libc::SIGTTOU);
    let _ = nix::unistd::tcsetpgrp(io::stdin(), nix::unistd::getpgrp());
    super::process::default_signals();
}
