//! `hob why NAME`: the story of one process.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use serde_json::json;

use super::show;
use super::talk::{Daemon, Failed};
use crate::sys::file::open_regular;
use crate::sys::proc;
use crate::wire::{Instance, Process};

pub fn why(daemon: &Daemon, names: &[String], as_json: bool) -> Result<i32, Failed> {
    let (processes, _) = super::processes(daemon, names)?;
    let instances: Vec<Instance> = daemon.get("/v1/instances")?;
    let mut text = String::new();
    let mut list = Vec::new();
    for process in &processes {
        let holders = holders(process, &instances);
        let lines = last_lines(&process.logfile, 10);
        if as_json {
            let mut value = json!(process);
            value["port_holders"] = json!(holders);
            value["last_lines"] = json!(lines);
            list.push(value);
        } else {
            text += &story(process, &holders, &lines);
        }
    }
    super::print(&if as_json { format!("{:#}\n", json!(list)) } else { text })?;
    Ok(0)
}

fn story(p: &Process, holders: &[String], lines: &[String]) -> String {
    let ago = show::uptime(crate::sys::clock::wall().as_secs_f64() - p.since);
    let mut out = format!("{} has been {} for {ago}: {}\n", p.name, show::state(&p.state), p.why);
    let mut say = |what: &str, text: String| out += &format!("  {what:<10} {text}\n");
    say("command", p.command.clone());
    if let Some(pid) = p.pid {
        let ready = if p.ready { "ready" } else { "not ready" };
        say("pid", format!("{pid}, up {}, {ready}", show::uptime(p.uptime.unwrap_or(0.0))));
    }
    if !p.autostart {
        say("autostart", "no".to_owned());
    }
    say("restarts", p.restarts.to_string());
    if !p.waits_for.is_empty() {
        say("waits for", p.waits_for.join(", "));
    }
    if let Some(exit) = &p.last_exit {
        let ago = show::uptime(crate::sys::clock::wall().as_secs_f64() - exit.at);
        say("last exit", format!("{}, {ago} ago", exit.text));
    }
    if let Some(next) = p.next_try {
        say("next try", format!("in {next:.1}s"));
    }
    for survivor in &p.survivors {
        say("survivor", survivor.clone());
    }
    for trouble in &p.troubles {
        say("trouble", trouble.clone());
    }
    for holder in holders {
        say("port", holder.clone());
    }
    say("log", p.logfile.clone());
    for line in lines {
        out += &format!("    {line}\n");
    }
    out
}

/// Who listens on the ports of its instance.
fn holders(process: &Process, instances: &[Instance]) -> Vec<String> {
    let Some(instance) = instances.iter().find(|i| i.name == process.group) else { return Vec::new() };
    let ports = instance.ports.iter().filter(|p| p.protocol != "udp");
    ports
        .map(|port| match proc::listener_of(port.port) {
            Some((pid, command)) => format!("{} ({}) is held by {pid} ({command})", port.port, port.name),
            None => format!("{} ({}) is held by nobody we can see", port.port, port.name),
        })
        .collect()
}

fn last_lines(file: &str, count: usize) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = open_regular(Path::new(file))?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(16 << 10)))?;
        let mut text = Vec::new();
        file.take(16 << 10).read_to_end(&mut text)?;
        Ok(text)
    };
    let text = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|l| (*l).to_owned()).collect()
}
