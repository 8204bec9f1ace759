//! The actions of supervisorctl on processes: status, pid, start, stop, restart, signal, clear.

use std::io::{self, Write};

use super::supervisorctl::{Ctl, Done, Info, namespec, say, say_json, split_namespec, status, take_flag, text_of};
use super::supervisorctl_server::{Trouble, fault};
use crate::xmlrpc::Value;

/// States in which nothing runs nor will by itself: STOPPED, EXITED, FATAL, UNKNOWN.
const STOPPED_STATES: [i64; 4] = [0, 100, 200, 1000];

pub fn status(ctl: &mut Ctl, argument: &str) -> Done {
    if !ctl.is_up()? {
        ctl.exit = status::UNKNOWN;
        return Ok(());
    }
    let (argument, as_json) = take_flag(argument, "--json");
    let all = ctl.processes()?;
    let mut shown: Vec<&Info> = Vec::new();
    let names = names_of(&argument, &all);
    if names.is_empty() || names.iter().any(|name| name == "all") {
        shown.extend(&all);
    } else {
        for name in &names {
            let before = shown.len();
            let (group, process) = split_namespec(name);
            shown.extend(all.iter().filter(|info| info.group == group && process.is_none_or(|p| info.name == p)));
            if shown.len() == before {
                let what = match process {
                    None => format!("{group}: ERROR (no such group)"),
                    Some(_) => format!("{name}: ERROR (no such process)"),
                };
                if as_json {
                    let _ = writeln!(io::stderr(), "{what}");
                } else {
                    say(&what);
                }
                ctl.exit = status::UNKNOWN;
            }
        }
    }
    if as_json {
        say_json(shown.iter().filter_map(|info| info.whole.as_ref()));
        shown.retain(|info| STOPPED_STATES.contains(&info.state));
        if !shown.is_empty() {
            ctl.exit = status::SOME_STOPPED;
        }
        return Ok(());
    }
    let width = shown.iter().map(|info| info.namespec().chars().count()).max().unwrap_or(0).max(30) + 3;
    for info in &shown {
        say(&format!("{:<width$}{:<10}{}", info.namespec(), info.statename, info.description));
    }
    if shown.iter().any(|info| STOPPED_STATES.contains(&info.state)) {
        ctl.exit = status::SOME_STOPPED;
    }
    Ok(())
}

pub fn pid(ctl: &mut Ctl, argument: &str) -> Done {
    if !ctl.is_up()? {
        return Ok(());
    }
    if argument.is_empty() {
        let pid = ctl.server.call("getPID", &[])?;
        say(&pid.as_int().unwrap_or_default().to_string());
        return Ok(());
    }
    let names = ctl.names(argument)?;
    if names.iter().any(|name| name == "all") {
        for info in ctl.processes()? {
            say(&info.pid.to_string());
        }
        return Ok(());
    }
    for name in &names {
        match ctl.server.call("getProcessInfo", &[name.as_str().into()]) {
            Ok(info) => {
                let pid = Info::of(&info).pid;
                say(&pid.to_string());
                if pid == 0 {
                    ctl.exit = status::NOT_RUNNING;
                }
            }
            Err(Trouble::Fault(f)) if f.code == fault::BAD_NAME => ctl.fail(&format!("No such process {name}")),
            Err(trouble) => return Err(trouble),
        }
    }
    Ok(())
}

/// An action on one process, on a group, or on all.
struct Verb {
    name: &'static str,
    done: &'static str,
    one: &'static str,
    /// Empty if there is none for a group.
    group: &'static str,
    all: &'static str,
    /// The fault that is as good as success: nothing was to be done.
    harmless: i32,
    /// Exit statuses for a name that is missing, and for a group that does not exist.
    no_name: i32,
    no_such_group: i32,
}

const START: Verb = Verb {
    name: "start",
    done: "started",
    one: "startProcess",
    group: "startProcessGroup",
    all: "startAllProcesses",
    harmless: fault::ALREADY_STARTED,
    no_name: status::INVALID_ARGS,
    no_such_group: status::INVALID_ARGS,
};

const STOP: Verb = Verb {
    name: "stop",
    done: "stopped",
    one: "stopProcess",
    group: "stopProcessGroup",
    all: "stopAllProcesses",
    harmless: fault::NOT_RUNNING,
    no_name: status::GENERIC,
    no_such_group: status::GENERIC,
};

const SIGNAL: Verb = Verb {
    name: "signal",
    done: "signalled",
    one: "signalProcess",
    group: "signalProcessGroup",
    all: "signalAllProcesses",
    harmless: fault::SUCCESS,
    no_name: status::GENERIC,
    no_such_group: status::GENERIC,
};

const CLEAR: Verb = Verb {
    name: "clear",
    done: "cleared",
    one: "clearProcessLogs",
    group: "",
    all: "clearAllProcessLogs",
    harmless: fault::SUCCESS,
    no_name: status::GENERIC,
    no_such_group: status::GENERIC,
};

pub fn start(ctl: &mut Ctl, argument: &str) -> Done {
    on_names(ctl, "start", &[&START], argument)
}

pub fn stop(ctl: &mut Ctl, argument: &str) -> Done {
    on_names(ctl, "stop", &[&STOP], argument)
}

/// All are stopped before the first one is started.
pub fn restart(ctl: &mut Ctl, argument: &str) -> Done {
    let (argument, width) = take_width(argument);
    if width == 0 || argument.is_empty() {
        return on_names(ctl, "restart", &[&STOP, &START], &argument);
    }
    if !ctl.is_up()? {
        return Ok(());
    }
    roll(ctl, &argument, width)
}

/// `--rolling` is `--rolling=1`; 0 is none.
fn take_width(argument: &str) -> (String, usize) {
    let (argument, is_rolling) = take_flag(argument, "--rolling");
    let width = |word: &str| word.strip_prefix("--rolling=")?.parse().ok().filter(|width| *width > 0);
    match argument.split_whitespace().find_map(|word| Some((word, width(word)?))) {
        Some((word, width)) => (take_flag(&argument, word).0, width),
        None => (argument, usize::from(is_rolling)),
    }
}

/// So many at a time, the next only once these run again; the first that does not ends it, and the others stay as they
/// are.
fn roll(ctl: &mut Ctl, argument: &str, width: usize) -> Done {
    let all = ctl.processes()?;
    let mut names: Vec<String> = Vec::new();
    for name in names_of(argument, &all) {
        match split_namespec(&name) {
            _ if name == "all" => names.extend(all.iter().map(Info::namespec)),
            (group, None) if all.iter().any(|info| info.group == group) => {
                names.extend(all.iter().filter(|info| info.group == group).map(Info::namespec));
            }
            _ => names.push(name),
        }
    }
    for (nth, some) in names.chunks(width).enumerate() {
        act(ctl, &STOP, some, &[])?;
        act(ctl, &START, some, &[])?;
        let rest = &names[names.len().min((nth + 1).saturating_mul(width))..];
        if ctl.exit != 0 && !rest.is_empty() {
            say(&format!("ERROR: not restarted: {}", rest.join(" ")));
        }
        if ctl.exit != 0 {
            break;
        }
    }
    Ok(())
}

pub fn enable(ctl: &mut Ctl, argument: &str) -> Done {
    set_enabled(ctl, "enable", argument)
}

pub fn disable(ctl: &mut Ctl, argument: &str) -> Done {
    set_enabled(ctl, "disable", argument)
}

/// Whether processes start by themselves, and with `--now` whether they run.
fn set_enabled(ctl: &mut Ctl, action: &str, argument: &str) -> Done {
    let (argument, now) = take_flag(argument, "--now");
    if !ctl.is_up()? {
        return Ok(());
    }
    if argument.is_empty() {
        ctl.misused(&format!("Error: {action} requires a process name"), action, status::INVALID_ARGS);
        return Ok(());
    }
    let is_enabled = action == "enable";
    let all = ctl.processes()?;
    let mut known: Vec<&Info> = Vec::new();
    for name in names_of(&argument, &all) {
        let (group, process) = split_namespec(&name);
        let is_meant =
            |info: &&Info| name == "all" || info.group == group && process.is_none_or(|process| info.name == process);
        let before = known.len();
        known.extend(all.iter().filter(is_meant));
        if known.len() == before {
            ctl.fail(&format!("{name}: ERROR (no such process)"));
        }
    }
    let names = known.iter().map(|info| format!("{}:{}", info.group, info.name).as_str().into()).collect();
    let Some(starts) = ctl.server.call_hob("setEnabled", &[Value::Array(names), is_enabled.into()])? else {
        ctl.fail(&format!("ERROR: only a hob can {action} processes, and {} is none", ctl.server.url));
        return Ok(());
    };
    for (info, starts) in known.iter().zip(starts.as_array().unwrap_or_default()) {
        say(&format!("{}: {action}d", info.namespec()));
        if is_enabled && starts.as_bool() == Some(false) {
            say(&format!("{}: does not start by itself all the same: autostart=false", info.namespec()));
        }
    }
    let shown: Vec<String> = known.iter().map(|info| info.namespec()).collect();
    let verb = if is_enabled { &START } else { &STOP };
    if now { act(ctl, verb, &shown, &[]) } else { Ok(()) }
}

pub fn clear(ctl: &mut Ctl, argument: &str) -> Done {
    on_names(ctl, "clear", &[&CLEAR], argument)
}

fn on_names(ctl: &mut Ctl, action: &str, verbs: &[&Verb], argument: &str) -> Done {
    if !ctl.is_up()? {
        return Ok(());
    }
    if argument.is_empty() {
        let exit = verbs.first().map_or(status::GENERIC, |verb| verb.no_name);
        ctl.misused(&format!("Error: {action} requires a process name"), action, exit);
        return Ok(());
    }
    let names = ctl.names(argument)?;
    verbs.iter().try_for_each(|verb| act(ctl, verb, &names, &[]))
}

pub fn signal(ctl: &mut Ctl, argument: &str) -> Done {
    if !ctl.is_up()? {
        return Ok(());
    }
    let Some((signal, names)) = argument.split_once(char::is_whitespace) else {
        ctl.misused("Error: signal requires a signal name and a process name", "signal", status::GENERIC);
        return Ok(());
    };
    let names = ctl.names(names)?;
    act(ctl, &SIGNAL, &names, &[signal.into()])
}

fn act(ctl: &mut Ctl, verb: &Verb, names: &[String], rest: &[Value]) -> Done {
    if names.iter().any(|name| name == "all") {
        let results = ctl.server.call(verb.all, rest)?;
        show_results(ctl, verb, &results);
        return Ok(());
    }
    for name in names {
        let params = |name: &str| [&[name.into()], rest].concat();
        let (group, process) = split_namespec(name);
        if process.is_none() && !verb.group.is_empty() {
            match ctl.server.call(verb.group, &params(group)) {
                Ok(results) => show_results(ctl, verb, &results),
                Err(Trouble::Fault(f)) if f.code == fault::BAD_NAME => {
                    say(&format!("{group}: ERROR (no such group)"));
                    ctl.exit = verb.no_such_group;
                }
                Err(trouble) => return Err(trouble),
            }
            continue;
        }
        // `clear g:*` is not possible, and the original says so in these words.
        let shown = namespec(group, process.unwrap_or("None"));
        match ctl.server.call(verb.one, &params(name)) {
            Ok(_) => say(&format!("{shown}: {}", verb.done)),
            Err(Trouble::Fault(f)) => show_result(ctl, verb, &shown, f.code, &f.text),
            Err(trouble) => return Err(trouble),
        }
    }
    Ok(())
}

fn show_results(ctl: &mut Ctl, verb: &Verb, results: &Value) {
    for result in results.as_array().unwrap_or_default() {
        let code = result.get("status").and_then(Value::as_int).and_then(|code| i32::try_from(code).ok());
        let shown = namespec(&text_of(result, "group"), &text_of(result, "name"));
        show_result(ctl, verb, &shown, code.unwrap_or(fault::FAILED), &text_of(result, "description"));
    }
}

fn show_result(ctl: &mut Ctl, verb: &Verb, name: &str, code: i32, description: &str) {
    say(&result_line(verb, name, code, description));
    if code != verb.harmless && code != fault::SUCCESS {
        ctl.exit = match code {
            fault::SPAWN_ERROR | fault::ABNORMAL_TERMINATION | fault::NOT_RUNNING => status::NOT_RUNNING,
            _ => status::GENERIC,
        };
    }
}

fn result_line(verb: &Verb, name: &str, code: i32, description: &str) -> String {
    let why = match code {
        fault::SUCCESS => return format!("{name}: {}", verb.done),
        fault::BAD_NAME => "no such process",
        fault::BAD_SIGNAL => "bad signal name",
        fault::NO_FILE => "no such file",
        fault::NOT_EXECUTABLE => "file is not executable",
        fault::ALREADY_STARTED => "already started",
        fault::SPAWN_ERROR => "spawn error",
        fault::ABNORMAL_TERMINATION => "abnormal termination",
        fault::NOT_RUNNING => "not running",
        fault::FAILED if verb.name == "clear" => "failed",
        // As the original shows it for stop and signal.
        fault::FAILED if verb.name != "start" => return description.to_owned(),
        _ => description,
    };
    format!("{name}: ERROR ({why})")
}

impl Ctl {
    /// The names in an argument, with patterns such as `web_*` replaced by what they match.
    fn names(&self, argument: &str) -> Result<Vec<String>, Trouble> {
        if argument.split_whitespace().any(is_pattern) {
            return Ok(names_of(argument, &self.processes()?));
        }
        Ok(argument.split_whitespace().map(str::to_owned).collect())
    }
}

/// `g:*` is a group, for the server.
fn is_pattern(name: &str) -> bool {
    let (group, process) = split_namespec(name);
    group.contains(['*', '?']) || process.is_some_and(|process| process.contains(['*', '?']))
}

/// A pattern that matches nothing stays, so that it is told as an unknown name.
fn names_of(argument: &str, all: &[Info]) -> Vec<String> {
    let mut names = Vec::new();
    for name in argument.split_whitespace() {
        let before = names.len();
        if is_pattern(name) {
            names.extend(all.iter().map(Info::namespec).filter(|spec| matches(name.as_bytes(), spec.as_bytes())));
        }
        if names.len() == before {
            names.push(name.to_owned());
        }
    }
    names
}

/// `*` is any text, `?` any byte.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on after the last star, should the rest not fit.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match retry {
                Some((after, from)) => {
                    retry = Some((after, from + 1));
                    (p, t) = (after, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names_as_they_are_shown() {
        let info = |group: &str, name: &str| Info { group: group.into(), name: name.into(), ..Info::default() };
        let all = [info("web", "web_00"), info("web", "web_01"), info("db", "db")];
        assert_eq!(names_of("web:*1 d? db", &all), ["web:web_01", "db", "db"]);
        assert_eq!(names_of("* x*", &all), ["web:web_00", "web:web_01", "db", "x*"]);
        // The group itself is left to the server.
        assert_eq!(names_of("web:* web:", &all), ["web:*", "web:"]);
        assert!(matches(b"a*b*c", b"aXbYbc") && !matches(b"a*b*c", b"aXbYb") && matches(b"**", b""));
    }

    #[test]
    fn each_fault_has_its_words() {
        assert_eq!(result_line(&START, "a", fault::SUCCESS, "OK"), "a: started");
        assert_eq!(result_line(&START, "a", fault::NO_FILE, ""), "a: ERROR (no such file)");
        assert_eq!(result_line(&START, "a", fault::SHUTDOWN_STATE, "SHUTDOWN_STATE"), "a: ERROR (SHUTDOWN_STATE)");
        assert_eq!(result_line(&STOP, "a", fault::FAILED, "FAILED: why"), "FAILED: why");
        assert_eq!(result_line(&CLEAR, "a", fault::FAILED, "FAILED: why"), "a: ERROR (failed)");
    }
}
