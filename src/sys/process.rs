//! Processes: fork, become, exec, wait, kill.
//!
//! `fork` is only sound in a single-threaded process, since the child gets a copy of every lock and no thread that
//! could release one. hob has no threads (DESIGN §10), so a child may allocate and run ordinary code.

use std::convert::Infallible;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::unistd::{ForkResult, Gid, Uid};

pub use nix::unistd::Pid;

/// Forks. The child gets default signal dispositions and an empty mask, runs `child` and exits with what it
/// returns; it never comes back into the caller's code. fork(2).
///
/// All signals are blocked around the fork: a signal that hit the child before its dispositions are reset would
/// run the parent's handler there, and that handler writes into a pipe that both share.
pub fn fork(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    let mut old = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut old))?;
    // SAFETY: the caller's process has a single thread (see the module's header), so the child may run any code.
    match unsafe { nix::unistd::fork() } {
        Ok(ForkResult::Child) => {
            default_signals();
            let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
            exit_now(child())
        }
        outcome => {
            pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&old), None)?;
            match outcome? {
                ForkResult::Parent { child } => Ok(child),
                ForkResult::Child => unreachable!("handled above"),
            }
        }
    }
}

/// Forks, and both go on with the caller's code: `None` is the child. For a process that becomes a daemon.
pub fn fork_and_go_on() -> io::Result<Option<Pid>> {
    // SAFETY: the caller's process has a single thread (see the module's header), so the child may run any code.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => Ok(None),
        ForkResult::Parent { child } => Ok(Some(child)),
    }
}

/// Ends this process at once: no destructors, no buffers of the parent written twice. _exit(2).
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes any value and does not return.
    unsafe { libc::_exit(code) }
}

/// Sets every signal to its default action, the real-time ones too. By the system call: glibc keeps 32 and 33 to itself
/// and leaves them as they are, and some container runtimes pass 32 on ignored. rt_sigaction(2).
pub fn default_signals() {
    // The kernel's struct sigaction in zeroes, whatever its order: SIG_DFL, no flags, no restorer, an empty mask.
    let default = [0_u64; 4];
    let nowhere: *mut u64 = std::ptr::null_mut();
    for signal in 1..=64 {
        // SAFETY: the kernel reads one struct of at most 32 bytes, the last 8 of them its mask, and writes nothing. Those
        // that cannot be changed (KILL, STOP) give an error, which is fine.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), nowhere, 8_usize) };
    }
}

/// Ignores a signal. signal(2).
pub fn ignore_signal(signal: i32) {
    // SAFETY: SIG_IGN is a valid action for every number.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Empties the mask of blocked signals. sigprocmask(2).
pub fn unblock_signals() {
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// A new session, and with it a process group of its own. setsid(2).
pub fn new_session() -> io::Result<()> {
    nix::unistd::setsid()?;
    Ok(())
}

/// Makes `pid`, which is this process or a child that has not yet called exec, the leader of a process group of its
/// own. setpgid(2).
pub fn lead_group(pid: Pid) -> io::Result<()> {
    Ok(nix::unistd::setpgid(pid, pid)?)
}

/// Takes on a user's groups, group and user for good. The step that failed comes with the error. setgroups(2),
/// setresgid(2), setresuid(2).
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> Result<(), (&'static str, io::Error)> {
    let groups: Vec<Gid> = groups.iter().map(|&g| Gid::from_raw(g)).collect();
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    // An ordinary user that starts something as itself need not, and may not, set its groups.
    if Uid::effective() == uid && !uid.is_root() {
        return Ok(());
    }
    nix::unistd::setgroups(&groups).map_err(|e| ("set groups", e.into()))?;
    nix::unistd::setresgid(gid, gid, gid).map_err(|e| ("set group", e.into()))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(|e| ("set user", e.into()))
}

/// The name of this machine; empty if it has none. gethostname(2).
pub fn host_name() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

pub fn effective_uid() -> u32 {
    Uid::effective().as_raw()
}

pub fn effective_gid() -> u32 {
    Gid::effective().as_raw()
}

pub fn pid() -> Pid {
    nix::unistd::getpid()
}

pub fn parent() -> Pid {
    nix::unistd::getppid()
}

/// Orphans below this process become its children, also when it is not PID 1. prctl(2).
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: takes plain numbers.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })?;
    Ok(())
}

/// The name shown for this process by ps and top, up to 15 bytes. prctl(2).
pub fn set_name(name: &str) {
    if let Ok(name) = CString::new(name) {
        // SAFETY: the kernel reads a C string of at most 16 bytes, and ours ends with NUL.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    }
}

/// One child that has ended, without waiting; `None` when there is none, or no child at all. waitpid(2), and not by nix:
/// it refuses a status whose signal it cannot name (a real-time one), when the child is already reaped.
pub fn reap_one() -> Option<(Pid, Ended)> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place for the kernel to write an int to.
        let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG | libc::__WALL) };
        if pid <= 0 {
            if pid < 0 && Errno::last() == Errno::EINTR {
                continue;
            }
            return None;
        }
        if libc::WIFEXITED(status) {
            return Some((Pid::from_raw(pid), Ended::Code(libc::WEXITSTATUS(status) as u8)));
        }
        if libc::WIFSIGNALED(status) {
            let (signal, core) = (libc::WTERMSIG(status), libc::WCOREDUMP(status));
            return Some((Pid::from_raw(pid), Ended::Signal { signal, core }));
        }
    }
}

/// Whether a child has ended; it is not reaped, so its pid and group stay its own. waitid(2).
pub fn is_over(pid: Pid) -> io::Result<bool> {
    // SAFETY: all zeroes is a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: `info` is a valid place for the kernel to write to.
    Errno::result(unsafe { libc::waitid(libc::P_PID, pid.as_raw() as libc::id_t, &mut info, options) })?;
    // SAFETY: filled in by the kernel for a child that has ended, and zero otherwise.
    Ok(unsafe { info.si_pid() } != 0)
}

/// Waits for one child. waitpid(2).
pub fn wait_for(pid: Pid) -> io::Result<Ended> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place for the kernel to write an int to.
        if unsafe { libc::waitpid(pid.as_raw(), &mut status, libc::__WALL) } < 0 {
            match Errno::last() {
                Errno::EINTR => continue,
                errno => return Err(errno.into()),
            }
        }
        if libc::WIFEXITED(status) {
            return Ok(Ended::Code(libc::WEXITSTATUS(status) as u8));
        }
        if libc::WIFSIGNALED(status) {
            return Ok(Ended::Signal { signal: libc::WTERMSIG(status), core: libc::WCOREDUMP(status) });
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Code(u8),
    Signal { signal: i32, core: bool },
}

impl Ended {
    /// As a shell tells it: the code, or 128 and the signal.
    pub fn status(self) -> i32 {
        match self {
            Ended::Code(code) => code.into(),
            Ended::Signal { signal, .. } => 128 + signal,
        }
    }
}

/// Signals one process. Sound only for a child that has not been reaped, whose pid nobody else can have. kill(2).
pub fn kill(pid: Pid, signal: i32) -> io::Result<()> {
    assert!(pid.as_raw() > 1, "neither a group nor PID 1 nor everybody");
    raw_kill(pid.as_raw(), signal)
}

/// Signals a process group led by a child that has not been reaped. kill(2).
pub fn kill_group(leader: Pid, signal: i32) -> io::Result<()> {
    // As PID 1 in a bare namespace sid and pgid read 0: group 0 would be our own, and group 1 is PID 1's.
    assert!(leader.as_raw() > 1, "not our own group and not everybody");
    raw_kill(-leader.as_raw(), signal)
}

fn raw_kill(target: i32, signal: i32) -> io::Result<()> {
    // SAFETY: takes plain numbers.
    Errno::result(unsafe { libc::kill(target, signal) })?;
    Ok(())
}

/// Makes `fd` descriptor number `number` here, without close-on-exec. dup2(2).
pub fn place_fd(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    if fd.as_raw_fd() == number {
        return keep_on_exec(number);
    }
    // SAFETY: dup2 takes plain numbers; what was `number` before belongs to this forked child alone.
    Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), number) })?;
    Ok(())
}

fn keep_on_exec(number: RawFd) -> io::Result<()> {
    // SAFETY: takes plain numbers.
    Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, 0) })?;
    Ok(())
}

/// A copy of `fd` numbered 10 or more, out of the way of the standard ones, close-on-exec. fcntl(2).
pub fn lift_fd(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: takes plain numbers.
    let copy = Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 10) })?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Takes over a descriptor that the parent process left for this one at a fixed number; `None` if it is not open.
/// To be called once for a number. fcntl(2).
pub fn take_inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: takes plain numbers.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return None;
    }
    // SAFETY: it is open, and the caller promises to be the only one to take it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Replaces the environment of this process, for children it forks and runs by name.
pub fn replace_environment<'a>(env: impl Iterator<Item = (&'a str, &'a str)>) {
    for (name, _) in std::env::vars_os() {
        // SAFETY: single-threaded, see the module's header.
        unsafe { std::env::remove_var(name) };
    }
    for (name, value) in env.filter(|(n, v)| !n.is_empty() && !n.contains(['=', '\0']) && !v.contains('\0')) {
        // SAFETY: single-threaded, and the name and value are ones that setenv(3) takes.
        unsafe { std::env::set_var(name, value) };
    }
}

/// Marks every descriptor from `first` on as close-on-exec. close_range(2), else one by one from /proc/self/fd.
pub fn close_on_exec_from(first: RawFd) {
    // SAFETY: takes plain numbers.
    if unsafe { libc::syscall(libc::SYS_close_range, first as u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } == 0 {
        return;
    }
    for number in open_fds_from(first) {
        // SAFETY: takes plain numbers.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// Closes every descriptor from 3 on but those in `keep`. For a forked child that goes on as another role, and for a
/// program that was started with descriptors it never asked for. close_range(2).
pub fn close_others(keep: &[RawFd]) {
    let mut keep: Vec<RawFd> = keep.iter().copied().filter(|&n| n > 2).collect();
    keep.sort_unstable();
    keep.dedup();
    let mut first = 3;
    for number in keep.into_iter().map(Some).chain([None]) {
        let last = number.map_or(RawFd::MAX, |n| n - 1);
        if first <= last {
            close_from_to(first, last);
        }
        if let Some(number) = number {
            first = number + 1;
        }
    }
}

fn close_from_to(first: RawFd, last: RawFd) {
    // SAFETY: takes plain numbers; the caller owns none of them any more, see `close_others`.
    if unsafe { libc::syscall(libc::SYS_close_range, first as u32, last as u32, 0) } == 0 {
        return;
    }
    for number in open_fds_from(first).into_iter().filter(|&n| n <= last) {
        // SAFETY: as above.
        unsafe { libc::close(number) };
    }
}

fn open_fds_from(first: RawFd) -> Vec<RawFd> {
    match std::fs::read_dir("/proc/self/fd") {
        Ok(entries) => entries
            .flatten()
            .filter_map(|e| e.file_name().to_str()?.parse().ok())
            .filter(|&n: &RawFd| n >= first)
            .collect(),
        Err(_) => (first..4096).collect(),
    }
}

/// Opens /dev/null on those of 0, 1, 2 that are closed, so that no other file ever gets one of these numbers.
pub fn fill_standard_fds() {
    for number in 0..3 {
        // SAFETY: takes plain numbers.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
            // SAFETY: a constant C string; the lowest free number is `number`, since the ones below are open.
            unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
        }
    }
}

/// Replaces this process by a program, as a shell would find and start it; returns only what went wrong, with the step.
///
/// A name without a slash is looked up in the PATH of `env`. A file without a shebang is run by /bin/sh, and one
/// without the x bit by its shebang or /bin/sh (reference/dotcloud.md §2: real build scripts come both ways).
/// execve(2).
pub fn exec(words: &[CString], env: &[CString]) -> (&'static str, Errno) {
    let Some(name) = words.first() else { return ("exec", Errno::EINVAL) };
    if name.as_bytes().contains(&b'/') {
        return exec_file(name, words, env);
    }
    if name.is_empty() {
        return ("exec", Errno::ENOENT);
    }
    let path = env.iter().find_map(|e| e.as_bytes().strip_prefix(b"PATH=")).unwrap_or(DEFAULT_PATH);
    let mut failure = ("exec", Errno::ENOENT);
    for folder in path.split(|&b| b == b':') {
        let mut file = if folder.is_empty() { b".".to_vec() } else { folder.to_vec() };
        file.push(b'/');
        file.extend_from_slice(name.as_bytes());
        let Ok(file) = CString::new(file) else { continue };
        if Path::new(OsStr::from_bytes(file.as_bytes())).is_dir() {
            continue;
        }
        match exec_file(&file, words, env) {
            (_, Errno::ENOENT | Errno::ENOTDIR) => {}
            // Go on looking, as a shell does, but remember that one was there.
            other => failure = other,
        }
    }
    failure
}

/// Replaces this process by the program in a file, under whatever name; returns only what went wrong. execve(2).
pub fn become_program(file: &CStr, words: &[CString], env: &[CString]) -> io::Error {
    raw_exec(file, words, env).into()
}

/// Takes a variable out of this process's own environment, so that nothing it starts has it.
pub fn take_variable(name: &str) -> Option<std::ffi::OsString> {
    let value = std::env::var_os(name)?;
    // SAFETY: this process has a single thread (see the module's header).
    unsafe { std::env::remove_var(name) };
    Some(value)
}

fn exec_file(file: &CString, words: &[CString], env: &[CString]) -> (&'static str, Errno) {
    let errno = raw_exec(file, words, env);
    let path = PathBuf::from(OsStr::from_bytes(file.as_bytes()));
    match errno {
        // Of another machine or broken; a shell would take its bytes for commands.
        Errno::ENOEXEC if head_of(&path).is_none_or(|head| is_binary(&head)) => ("exec", errno),
        Errno::ENOEXEC => exec_interpreter(b"/bin/sh", None, file, words, env),
        Errno::EACCES => match without_x_bit(&path) {
            Some(head) => {
                let (interpreter, argument) = shebang(&head);
                exec_interpreter(interpreter, argument, file, words, env)
            }
            None => ("exec", errno),
        },
        Errno::ENOENT if path.exists() => ("exec the interpreter of the script", errno),
        _ => ("exec", errno),
    }
}

fn exec_interpreter(
    interpreter: &[u8],
    argument: Option<&[u8]>,
    file: &CString,
    words: &[CString],
    env: &[CString],
) -> (&'static str, Errno) {
    let mut line = Vec::with_capacity(words.len() + 2);
    for word in [Some(interpreter), argument].into_iter().flatten() {
        match CString::new(word) {
            Ok(word) => line.push(word),
            Err(_) => return ("exec the interpreter of the script", Errno::ENOEXEC),
        }
    }
    line.push(file.clone());
    line.extend(words.iter().skip(1).cloned());
    let program = line[0].clone();
    ("exec the interpreter of the script", raw_exec(&program, &line, env))
}

fn raw_exec(file: &CStr, words: &[CString], env: &[CString]) -> Errno {
    let result: Result<Infallible, Errno> = nix::unistd::execve(file, words, env);
    match result {
        Ok(never) => match never {},
        Err(errno) => errno,
    }
}

/// The first bytes of a regular file that nobody may execute but we may read.
fn without_x_bit(path: &Path) -> Option<Vec<u8>> {
    use std::os::unix::fs::PermissionsExt;
    let meta = std::fs::metadata(path).ok()?;
    if !meta.is_file() || meta.permissions().mode() & 0o111 != 0 {
        return None;
    }
    // A binary without the x bit is a mistake, not a script.
    head_of(path).filter(|head| !is_binary(head))
}

fn head_of(path: &Path) -> Option<Vec<u8>> {
    use std::io::Read;
    let mut head = Vec::new();
    std::fs::File::open(path).ok()?.take(256).read_to_end(&mut head).ok()?;
    Some(head)
}

/// As bash tells it: a NUL in the first line.
fn is_binary(head: &[u8]) -> bool {
    head.split(|&b| b == b'\n').next().is_some_and(|line| line.contains(&0))
}

/// What a shell has to run a script with that has no x bit; nothing for other files.
pub fn interpreter_of(path: &Path) -> Option<String> {
    let head = without_x_bit(path)?;
    let (interpreter, argument) = shebang(&head);
    let words = [Some(interpreter), argument].into_iter().flatten();
    Some(words.map(String::from_utf8_lossy).collect::<Vec<_>>().join(" "))
}

/// The interpreter of a script and its one argument, as execve(2) reads them; /bin/sh where there is no shebang.
fn shebang(head: &[u8]) -> (&[u8], Option<&[u8]>) {
    let Some(line) = head.strip_prefix(b"#!").and_then(|rest| rest.split(|&b| b == b'\n').next()) else {
        return (b"/bin/sh", None);
    };
    let line = line.trim_ascii();
    match line.iter().position(|b| b" \t".contains(b)) {
        _ if line.is_empty() => (b"/bin/sh", None),
        None => (line, None),
        Some(end) => (&line[..end], Some(line[end..].trim_ascii())),
    }
}

/// Where programs are looked for without a PATH.
pub const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_has_a_nul_in_its_first_line() {
        assert!(is_binary(b"\x7fELF\x02\x01\x01\0\0"));
        assert!(is_binary(b"\xcf\xfa\xed\xfe\x07\0\0\x01"));
        assert!(!is_binary(b"echo h\xc3\xa9llo\n\0payload") && !is_binary(b""));
    }

    #[test]
    fn a_shebang_is_split_as_the_kernel_splits_it() {
        assert_eq!(shebang(b"#!/usr/bin/env python3\nimport x"), (&b"/usr/bin/env"[..], Some(&b"python3"[..])));
        assert_eq!(shebang(b"#! /bin/sh -e -u \n"), (&b"/bin/sh"[..], Some(&b"-e -u"[..])));
        assert_eq!(shebang(b"#!/bin/bash"), (&b"/bin/bash"[..], None));
        assert_eq!(shebang(b"#!\n"), (&b"/bin/sh"[..], None));
        assert_eq!(shebang(b"echo hello\n"), (&b"/bin/sh"[..], None));
    }
}
