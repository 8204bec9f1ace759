//! The actions of supervisorctl that read logs: tail, maintail and fg.

use std::io::{self, BufRead, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::http::Body;
use super::supervisorctl::{Ctl, Done, Info, say, status};
use super::supervisorctl_server::{Socket, Trouble, fault, log_path};
use crate::sys::poll;
use crate::sys::sigwait::Interrupts;
use crate::xmlrpc::Value;

/// Bytes of a log that are shown when no number is given.
const SHOWN: i64 = 1600;
const STATE_RUNNING: i64 = 20;
/// How often `fg` looks whether its process still runs while nothing moves.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long `fg` waits for the last output after the end of its input.
const LAST_WORDS: Duration = Duration::from_millis(500);

pub fn tail(ctl: &mut Ctl, argument: &str) -> Done {
    if !ctl.is_up()? {
        return Ok(());
    }
    let mut words: Vec<&str> = argument.split_whitespace().collect();
    if words.is_empty() || words.len() > 3 {
        let how = if words.is_empty() { "few" } else { "many" };
        ctl.misused(&format!("Error: too {how} arguments"), "tail", status::GENERIC);
        return Ok(());
    }
    let modifier = words[0].starts_with('-').then(|| words.remove(0));
    let (name, channel) = match words.as_slice() {
        [] => {
            ctl.fail("Error: tail requires process name");
            return Ok(());
        }
        [name] => (*name, "stdout".to_owned()),
        [name, .., channel] => (*name, channel.to_lowercase()),
    };
    let method = match channel.as_str() {
        "stdout" => "readProcessStdoutLog",
        "stderr" => "readProcessStderrLog",
        other => {
            ctl.fail(&format!("Error: bad channel '{other}'"));
            return Ok(());
        }
    };
    match how_much(modifier) {
        Ok(How::Follow) => follow(ctl, &log_path(name, &channel)),
        Ok(How::Bytes(bytes)) => {
            let read = ctl.server.call(method, &[name.into(), Value::Int(-bytes), Value::Int(0)]);
            show_log(ctl, name, read)
        }
        Err(wrong) => {
            ctl.fail(&wrong);
            Ok(())
        }
    }
}

pub fn maintail(ctl: &mut Ctl, argument: &str) -> Done {
    if !ctl.is_up()? {
        return Ok(());
    }
    let words: Vec<&str> = argument.split_whitespace().collect();
    if words.len() > 1 {
        ctl.misused("Error: too many arguments", "maintail", status::GENERIC);
        return Ok(());
    }
    match how_much(words.first().copied()) {
        Ok(How::Follow) => follow(ctl, "/mainlogtail"),
        Ok(How::Bytes(bytes)) => {
            let read = ctl.server.call("readLog", &[Value::Int(-bytes), Value::Int(0)]);
            show_log(ctl, "supervisord", read)
        }
        Err(wrong) => {
            ctl.fail(&wrong);
            Ok(())
        }
    }
}

enum How {
    Follow,
    Bytes(i64),
}

/// `-f` or `-100`.
fn how_much(modifier: Option<&str>) -> Result<How, String> {
    match modifier {
        None => Ok(How::Bytes(SHOWN)),
        Some("-f") => Ok(How::Follow),
        Some(text) => {
            let number = text.strip_prefix('-').and_then(|number| number.parse().ok());
            number.map(How::Bytes).ok_or_else(|| format!("Error: bad argument {text}"))
        }
    }
}

fn show_log(ctl: &mut Ctl, name: &str, read: Result<Value, Trouble>) -> Done {
    let fault = match read {
        Ok(text) => {
            say(text.as_str().unwrap_or_default());
            return Ok(());
        }
        Err(Trouble::Fault(fault)) => fault,
        Err(trouble) => return Err(trouble),
    };
    let why = match fault.code {
        fault::NO_FILE => "no log file",
        fault::FAILED => "unknown error reading log",
        fault::BAD_NAME => "no such process name",
        _ => return Err(Trouble::Fault(fault)),
    };
    ctl.fail(&format!("{name}: ERROR ({why})"));
    Ok(())
}

/// Shows what is written from now on, until Ctrl-C or until the server ends it.
fn follow(ctl: &mut Ctl, path: &str) -> Done {
    say("==> Press Ctrl-C to exit <==");
    let interrupts = Interrupts::catch().map_err(trouble)?;
    let Some(mut body) = open_stream(ctl, path)? else { return Ok(()) };
    loop {
        let fds = [interrupts.as_fd(), body.reader.get_ref().as_fd()];
        let patience = has_buffered(&body).then_some(Duration::ZERO);
        let ready = poll::readable(&fds, patience).map_err(trouble)?;
        if ready[0] && interrupts.take() {
            say("");
            return Ok(());
        }
        if (ready[1] || has_buffered(&body)) && !pass_on(&mut body)? {
            return Ok(());
        }
    }
}

/// A stream of a log; if the server refuses, that has been said on stderr, where the original says it.
fn open_stream(ctl: &mut Ctl, path: &str) -> Result<Option<Body<Socket>>, Trouble> {
    let (code, body) = ctl.server.stream(path)?;
    match code {
        200 => Ok(Some(body)),
        401 => Err(Trouble::Unauthorized),
        _ => {
            let _ = writeln!(io::stderr(), "{}{path} Cannot read, status code {code}", ctl.server.url);
            ctl.exit = status::GENERIC;
            Ok(None)
        }
    }
}

/// What has come of a stream goes to stdout at once. False at its end.
fn pass_on(body: &mut Body<Socket>) -> Result<bool, Trouble> {
    let mut bytes = Vec::new();
    let goes_on = body.take_some(&mut bytes).map_err(trouble)?;
    let mut out = io::stdout().lock();
    let written = out.write_all(&bytes).and_then(|()| out.flush());
    // A reader that has left wants no more.
    Ok(goes_on && written.is_ok())
}

/// What came together with the head is not seen by poll.
fn has_buffered(body: &Body<Socket>) -> bool {
    !body.reader.buffer().is_empty()
}

pub fn foreground(ctl: &mut Ctl, argument: &str) -> Done {
    if !ctl.is_up()? {
        return Ok(());
    }
    let names: Vec<&str> = argument.split_whitespace().collect();
    let name = match names.as_slice() {
        [] => {
            ctl.misused("ERROR: no process name supplied", "fg", status::GENERIC);
            return Ok(());
        }
        [name] => *name,
        _ => {
            ctl.fail("ERROR: too many process names supplied");
            return Ok(());
        }
    };
    match is_running(ctl, name) {
        Ok(true) => {}
        Ok(false) => {
            ctl.fail("ERROR: process not running");
            return Ok(());
        }
        Err(Trouble::Fault(f)) if f.code == fault::BAD_NAME => {
            ctl.fail("ERROR: bad process name supplied");
            return Ok(());
        }
        Err(trouble) => return Err(trouble),
    }
    say("==> Press Ctrl-C to exit <==");
    let mut streams = Vec::new();
    for channel in ["stdout", "stderr"] {
        // One of the two may have no log; the other is worth showing.
        let before = ctl.exit;
        streams.extend(open_stream(ctl, &log_path(name, channel))?);
        ctl.exit = before;
    }
    if let Ended::Killed = converse(ctl, name, &mut streams)? {
        say("Process got killed");
    }
    say("Exiting foreground");
    Ok(())
}

enum Ended {
    /// By Ctrl-C or the end of input.
    Left,
    Killed,
}

/// Lines go in, output comes out.
fn converse(ctl: &mut Ctl, name: &str, streams: &mut Vec<Body<Socket>>) -> Result<Ended, Trouble> {
    let interrupts = Interrupts::catch().map_err(trouble)?;
    let mut has_input = true;
    loop {
        let mut fds: Vec<BorrowedFd<'_>> = streams.iter().map(|body| body.reader.get_ref().as_fd()).collect();
        fds.push(interrupts.as_fd());
        if has_input {
            fds.push(ctl.input.get_ref().as_fd());
        }
        let has_typed = has_input && !ctl.input.buffer().is_empty();
        let has_more = has_typed || streams.iter().any(has_buffered);
        let patience = match has_input {
            _ if has_more => Duration::ZERO,
            true => LOOK_EVERY,
            false => LAST_WORDS,
        };
        let ready = poll::readable(&fds, Some(patience)).map_err(trouble)?;
        let (ready_streams, rest) = ready.split_at(streams.len());
        if rest[0] && interrupts.take() {
            return Ok(Ended::Left);
        }
        let is_quiet = !has_more && ready.iter().all(|&is_ready| !is_ready);
        show_output(streams, ready_streams)?;
        if has_input && (has_typed || rest[1]) {
            let mut line = Vec::new();
            has_input = ctl.input.read_until(b'\n', &mut line).map_err(trouble)? > 0;
            if has_input && !send(ctl, name, line)? {
                return Ok(Ended::Killed);
            }
        } else if is_quiet {
            if !is_running(ctl, name)? {
                return Ok(Ended::Killed);
            }
            if !has_input {
                return Ok(Ended::Left);
            }
        }
    }
}

/// Whatever has come; a stream that has ended is dropped.
fn show_output(streams: &mut Vec<Body<Socket>>, ready: &[bool]) -> Done {
    let mut open = Vec::new();
    for (mut body, &is_ready) in streams.drain(..).zip(ready) {
        let is_due = is_ready || has_buffered(&body);
        if !is_due || pass_on(&mut body)? {
            open.push(body);
        }
    }
    *streams = open;
    Ok(())
}

/// One line to the process. False if it does not run any more.
fn send(ctl: &Ctl, name: &str, mut line: Vec<u8>) -> Result<bool, Trouble> {
    if line.last() != Some(&b'\n') {
        line.push(b'\n');
    }
    let text = String::from_utf8_lossy(&line).into_owned();
    match ctl.server.call("sendProcessStdin", &[name.into(), text.into()]) {
        Ok(_) => is_running(ctl, name),
        Err(Trouble::Fault(f)) if f.code == fault::NOT_RUNNING => Ok(false),
        Err(trouble) => Err(trouble),
    }
}

fn is_running(ctl: &Ctl, name: &str) -> Result<bool, Trouble> {
    let info = ctl.server.call("getProcessInfo", &[name.into()])?;
    Ok(Info::of(&info).state == STATE_RUNNING)
}

fn trouble(why: io::Error) -> Trouble {
    Trouble::Other(super::talk::reason(&why))
}
