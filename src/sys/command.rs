//! A command as it was given on our own command line, to be run in our own environment.

use std::ffi::{CString, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;

use super::process;

/// Words as execve(2) wants them; `None` if there are none, or one holds a NUL byte.
pub fn words(argv: &[OsString]) -> Option<Vec<CString>> {
    let words: Result<Vec<CString>, _> = argv.iter().map(|word| CString::new(word.clone().into_vec())).collect();
    words.ok().filter(|words| !words.is_empty())
}

/// Our own environment as execve(2) wants it.
pub fn environment() -> Vec<CString> {
    let pair = |(key, value): (OsString, OsString)| {
        let mut text = key.into_vec();
        text.push(b'=');
        text.extend(value.into_vec());
        CString::new(text).ok()
    };
    std::env::vars_os().filter_map(pair).collect()
}

/// Replaces this process by a program. What comes back is the status a shell gives for the failure (127 not found, 126
/// anything else), which is told on stderr.
pub fn exec(words: &[CString], env: &[CString]) -> i32 {
    let (stage, errno) = process::exec(words, env);
    cannot(stage, words, errno)
}

/// The same in our own environment as execvp(3) does it: what has no x bit is no program.
pub fn exec_program(words: &[CString]) -> i32 {
    let errno = words.first().map_or(Errno::EINVAL, |name| nix::unistd::execvp(name, words).unwrap_err());
    cannot("exec", words, errno)
}

fn cannot(stage: &str, words: &[CString], errno: Errno) -> i32 {
    let name = words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    let _ = writeln!(io::stderr(), "hob: cannot {stage} {name}: {}", errno.desc().to_lowercase());
    if errno == Errno::ENOENT { 127 } else { 126 }
}
