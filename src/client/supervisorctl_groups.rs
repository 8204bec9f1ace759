//! The actions of supervisorctl on the configuration and on the daemon: avail, reread, update, add, remove, reload,
//! shutdown.

use std::collections::{BTreeMap, BTreeSet};

use super::supervisorctl::{Ctl, Done, namespec, say, say_json, status, take_flag, text_of};
use super::supervisorctl_server::{Trouble, fault};
use crate::xmlrpc::Value;

pub fn avail(ctl: &mut Ctl, argument: &str) -> Done {
    let (argument, as_json) = take_flag(argument, "--json");
    if ctl.has_arguments("avail", &argument) {
        return Ok(());
    }
    let all = match ctl.server.call("getAllConfigInfo", &[]) {
        Err(Trouble::Fault(f)) if f.code == fault::SHUTDOWN_STATE => {
            ctl.fail("ERROR: supervisor shutting down");
            return Ok(());
        }
        other => other?,
    };
    if as_json {
        say_json(all.as_array().unwrap_or_default().iter());
        return Ok(());
    }
    for info in all.as_array().unwrap_or_default() {
        let is = |key: &str| info.get(key).and_then(Value::as_bool).unwrap_or(false);
        let number = |key: &str| info.get(key).and_then(Value::as_int).unwrap_or_default();
        let name = namespec(&text_of(info, "group"), &text_of(info, "name"));
        let in_use = if is("inuse") { "in use" } else { "avail" };
        let start = if is("autostart") { "auto" } else { "manual" };
        say(&format!("{name:<32} {in_use:<9} {start:<9} {}:{}", number("group_prio"), number("process_prio")));
    }
    Ok(())
}

/// What reloadConfig found: groups that were added, changed and removed.
struct Changes {
    added: Vec<String>,
    changed: Vec<String>,
    removed: Vec<String>,
}

fn reload_config(ctl: &Ctl) -> Result<Changes, Trouble> {
    let reply = ctl.server.call("reloadConfig", &[])?;
    let lists = reply.as_array().and_then(|outer| outer.first()).and_then(Value::as_array).unwrap_or_default();
    let list = |at: usize| {
        let names = lists.get(at).and_then(Value::as_array).unwrap_or_default();
        names.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    Ok(Changes { added: list(0), changed: list(1), removed: list(2) })
}

pub fn reread(ctl: &mut Ctl, argument: &str) -> Done {
    if ctl.has_arguments("reread", argument) {
        return Ok(());
    }
    let changes = match reload_config(ctl) {
        Err(Trouble::Fault(f)) if f.code == fault::SHUTDOWN_STATE => {
            ctl.fail("ERROR: supervisor shutting down");
            return Ok(());
        }
        other => other?,
    };
    let mut told: BTreeMap<&str, &str> = BTreeMap::new();
    let lists = [(&changes.added, "available"), (&changes.changed, "changed"), (&changes.removed, "disappeared")];
    for (names, word) in lists {
        told.extend(names.iter().map(|name| (name.as_str(), word)));
    }
    if told.is_empty() {
        say("No config updates to processes");
    }
    for (name, word) in told {
        say(&format!("{name}: {word}"));
    }
    Ok(())
}

pub fn update(ctl: &mut Ctl, argument: &str) -> Done {
    let changes = match reload_config(ctl) {
        Err(Trouble::Fault(f)) if f.code == fault::SHUTDOWN_STATE => {
            ctl.fail("ERROR: already shutting down");
            return Ok(());
        }
        other => other?,
    };
    let mut wanted: Vec<&str> = argument.split_whitespace().collect();
    if wanted.contains(&"all") {
        wanted.clear();
    }
    if !wanted.is_empty() {
        let mut known: BTreeSet<String> = ctl.processes()?.into_iter().map(|info| info.group).collect();
        known.extend(changes.added.iter().cloned());
        let unknown: BTreeSet<&str> = wanted.iter().copied().filter(|name| !known.contains(*name)).collect();
        for name in unknown {
            ctl.fail(&format!("ERROR: no such group: {name}"));
        }
    }
    let is_wanted = |name: &&String| wanted.is_empty() || wanted.contains(&name.as_str());
    for name in changes.removed.iter().filter(is_wanted) {
        let results = on_group(ctl, "stopProcessGroup", name)?;
        say(&format!("{name}: stopped"));
        let has_failed = |result: &Value| result.get("status").and_then(Value::as_int) == Some(fault::FAILED.into());
        if results.as_array().unwrap_or_default().iter().any(has_failed) {
            say(&format!("{name}: has problems; not removing"));
            ctl.exit = status::GENERIC;
            continue;
        }
        on_group(ctl, "removeProcessGroup", name)?;
        say(&format!("{name}: removed process group"));
    }
    for name in changes.changed.iter().filter(is_wanted) {
        if update_in_place(ctl, name)? {
            continue;
        }
        on_group(ctl, "stopProcessGroup", name)?;
        say(&format!("{name}: stopped"));
        on_group(ctl, "removeProcessGroup", name)?;
        on_group(ctl, "addProcessGroup", name)?;
        say(&format!("{name}: updated process group"));
    }
    for name in changes.added.iter().filter(is_wanted) {
        on_group(ctl, "addProcessGroup", name)?;
        say(&format!("{name}: added process group"));
    }
    Ok(())
}

/// A hob exchanges only the processes of a group that are others now. False from any other server.
fn update_in_place(ctl: &Ctl, name: &str) -> Result<bool, Trouble> {
    let Some(concerned) = ctl.server.call_hob("changedProcesses", &[name.into()])? else { return Ok(false) };
    ctl.server.call_hob("stopProcesses", &[concerned])?;
    // As the original says it, also where nothing had to be stopped: scripts compare these lines.
    say(&format!("{name}: stopped"));
    ctl.server.call_hob("updateProcessGroup", &[name.into()])?;
    say(&format!("{name}: updated process group"));
    Ok(true)
}

fn on_group(ctl: &Ctl, method: &str, name: &str) -> Result<Value, Trouble> {
    ctl.server.call(method, &[name.into()])
}

pub fn add(ctl: &mut Ctl, argument: &str) -> Done {
    for name in argument.split_whitespace() {
        match on_group(ctl, "addProcessGroup", name) {
            Ok(_) => say(&format!("{name}: added process group")),
            Err(Trouble::Fault(f)) => match f.code {
                // What was wanted is so: no failure.
                fault::ALREADY_ADDED => say("ERROR: process group already active"),
                fault::SHUTDOWN_STATE => ctl.fail("ERROR: shutting down"),
                fault::BAD_NAME => ctl.fail(&format!("ERROR: no such process/group: {name}")),
                _ => return Err(Trouble::Fault(f)),
            },
            Err(trouble) => return Err(trouble),
        }
    }
    Ok(())
}

pub fn remove(ctl: &mut Ctl, argument: &str) -> Done {
    for name in argument.split_whitespace() {
        match on_group(ctl, "removeProcessGroup", name) {
            Ok(_) => say(&format!("{name}: removed process group")),
            Err(Trouble::Fault(f)) => match f.code {
                fault::STILL_RUNNING => ctl.fail(&format!("ERROR: process/group still running: {name}")),
                fault::BAD_NAME => ctl.fail(&format!("ERROR: no such process/group: {name}")),
                _ => return Err(Trouble::Fault(f)),
            },
            Err(trouble) => return Err(trouble),
        }
    }
    Ok(())
}

pub fn reload(ctl: &mut Ctl, argument: &str) -> Done {
    let question = "Really restart the remote supervisord process y/N? ";
    if ctl.has_arguments("reload", argument) || !ctl.confirms(question) {
        return Ok(());
    }
    match ctl.server.call("restart", &[]) {
        Ok(_) => say("Restarted supervisord"),
        Err(Trouble::Fault(f)) if f.code == fault::SHUTDOWN_STATE => ctl.fail("ERROR: already shutting down"),
        Err(trouble) => return Err(trouble),
    }
    Ok(())
}

pub fn shutdown(ctl: &mut Ctl, argument: &str) -> Done {
    let question = "Really shut the remote supervisord process down y/N? ";
    if ctl.has_arguments("shutdown", argument) || !ctl.confirms(question) {
        return Ok(());
    }
    match ctl.server.call("shutdown", &[]) {
        Ok(_) => say("Shut down"),
        Err(Trouble::Fault(f)) if f.code == fault::SHUTDOWN_STATE => say("ERROR: already shutting down"),
        Err(trouble @ (Trouble::NoFile | Trouble::Refused)) => {
            let what = if matches!(trouble, Trouble::NoFile) { "no such file" } else { "refused connection" };
            ctl.fail(&format!("ERROR: {} {what} (already shut down?)", ctl.server.url));
        }
        Err(trouble) => return Err(trouble),
    }
    Ok(())
}
