//! Units of systemd, for who wants the same processes without hob: a service unit for each, a target for each instance
//! and one for all. systemd then does what hob did, in its own words; where it has none, a comment says so.

use std::fmt::Write as _;
use std::time::Duration;

use super::MadeFile;
use super::app::{App, seconds};
use super::units::{self, Unit, argument, word};
use crate::config::{Env, Service};
use crate::plan::{Ask, Autorestart, ExitWhen, Instance, Name, OnFull, Ready, ReadyBy, Spec};
use crate::sys::signal_names;

/// All units.
pub fn files(app: &mut App) -> Vec<MadeFile> {
    let mut files = vec![MadeFile::new(&format!("{}.target", app.name), main_target(app))];
    for at in 0..app.services.len() {
        for nth in 0..app.services[at].instances.len() {
            let (instance, specs) = app.services[at].instances[nth].clone();
            let postinstall = postinstall(app, at, &instance);
            files.push(MadeFile::new(&format!("{}.target", stem(app, &instance.name)), target(app, &instance, &specs)));
            let before = postinstall.as_ref().map(|file| file.name.clone());
            files.extend(postinstall);
            files.extend(shared(app, &instance, &specs));
            for spec in &specs {
                let text = unit(app, at, &instance, spec, before.as_deref());
                files.push(MadeFile::new(&unit_name(app, &spec.name), text));
            }
        }
    }
    files
}

fn main_target(app: &mut App) -> String {
    let mut unit = Unit::new(&format!("All services of {}. Made by hob export.", app.name));
    let home = app.services.first().map(|part| part.home.clone()).unwrap_or_default();
    let is_alone = app.services.len() == 1 && app.services[0].instances.len() == 1;
    let base = if is_alone { home.as_path() } else { home.parent().unwrap_or(&home) };
    let base = base.to_string_lossy().into_owned();
    unit.note(&format!(
        "Copy the units into /etc/systemd/system, then: systemctl daemon-reload && systemctl enable --now {}.target\n\
         They expect what hob build TREE --home {base} builds, with the tree itself at {base}/code.",
        app.name
    ));
    for part in app.services.iter().filter(|part| part.instances.len() > 1) {
        unit.note(&format!(
            "{} has {} instances: copy its built home to {} for each of them.",
            part.service.name,
            part.instances.len(),
            part.instances
                .iter()
                .map(|(instance, _)| instance.home.display().to_string())
                .collect::<Vec<_>>()
                .join(", ")
        ));
    }
    if !app.secrets.is_empty() {
        let (file, names) = (secrets(app), app.secrets.join(", "));
        unit.note(&format!("What hob env has set is no part of this ({names}). Put it there, for root only:\n  (umask 077; hob env list > {file})"));
    }
    for at in 0..app.services.len() {
        let part = &app.services[at];
        let subject = part.service.subject();
        if let Some(file) = &part.reads_environment {
            let told = format!(
                "{} reads environment.json or environment.yml, which hob writes and systemd does not",
                file.display()
            );
            unit.note(&app.lose(&subject, &told));
        }
        let part = &app.services[at];
        if part.instances.len() > 1 && part.ports().iter().any(|port| port.protocol != crate::plan::Protocol::Udp) {
            let told = "nothing spreads connections over its instances: put a proxy in front of their ports";
            unit.note(&app.lose(&subject, told));
        }
    }
    if app.settings.contains("\n[relay_signals]") {
        unit.note(
            &app.lose("hob.toml", "relay_signals: there is no hob that could pass on signals; use systemctl kill"),
        );
    }
    let when = app.exit_when;
    if when != ExitWhen::Never {
        unit.note(&app.lose("hob.toml", "exit_when: there is no hob that could end"));
    }
    unit.section("Unit");
    unit.put_text("Description", &format!("{}: all services", app.name));
    let all: Vec<String> = instances(app).map(|instance| format!("{}.target", stem(app, &instance.name))).collect();
    unit.put("Wants", all.join(" "));
    unit.section("Install");
    unit.put("WantedBy", "multi-user.target");
    unit.finish()
}

fn instances(app: &App) -> impl Iterator<Item = &Instance> {
    app.services.iter().flat_map(|part| part.instances.iter().map(|(instance, _)| instance))
}

fn target(app: &mut App, instance: &Instance, specs: &[Spec]) -> String {
    let mut unit = Unit::default();
    let (wanted, manual): (Vec<&Spec>, Vec<&Spec>) = specs.iter().partition(|spec| spec.autostart);
    if !manual.is_empty() {
        let names: Vec<String> = manual.iter().map(|spec| unit_name(app, &spec.name)).collect();
        unit.note(&format!("autostart is false for {}: start it with systemctl.", names.join(", ")));
    }
    unit.section("Unit");
    unit.put_text("Description", &format!("{}: {}", app.name, instance.name));
    unit.put("PartOf", format!("{}.target", app.name));
    let names: Vec<String> = wanted.iter().map(|spec| unit_name(app, &spec.name)).collect();
    if !names.is_empty() {
        unit.put("Wants", names.join(" "));
    }
    unit.finish()
}

/// `hello-www.0-queue`; a process that shares its name with its instance has that alone.
fn unit_name(app: &App, name: &Name) -> String {
    if name.group == name.process {
        return format!("{}.service", stem(app, &name.group));
    }
    format!("{}.service", stem(app, &format!("{}-{}", name.group, name.process)))
}

fn stem(app: &App, name: &str) -> String {
    format!("{}-{}", app.name, units::name(name))
}

fn secrets(app: &App) -> String {
    format!("/etc/{}/secrets.env", app.name)
}

/// The postinstall script runs before the processes, in the code.
fn postinstall(app: &mut App, at: usize, instance: &Instance) -> Option<MadeFile> {
    let part = &app.services[at];
    let line = postinstall_line(app, &part.service)?;
    let name = format!("{}-postinstall.service", stem(app, &instance.name));
    let folder = crate::config::clean_path(&instance.code.join(&part.service.approot));
    let mut unit = Unit::default();
    unit.note("hob runs it when it boots; here it runs again whenever its target is started after a stop.");
    unit.section("Unit");
    unit.put_text("Description", &format!("{}: postinstall of {}", app.name, instance.name));
    unit.put("PartOf", format!("{}.target", stem(app, &instance.name)));
    unit.section("Service");
    unit.put("Type", "oneshot");
    unit.put("RemainAfterExit", "yes");
    unit.put("TimeoutStartSec", format!("{}s", seconds(app.postinstall_timeout)));
    let user = instance.user.as_ref().map_or("root", |user| user.name.as_str());
    put_user(&mut unit, user);
    unit.put_text("WorkingDirectory", &folder.to_string_lossy());
    let specs = part_specs(app, at, instance);
    let inline = if shares(&specs) { overridden(&specs, &instance.env) } else { instance.env.clone() };
    environment(app, &mut unit, &inline);
    unit.put("ExecStart", shell(&line));
    Some(MadeFile::new(&name, unit.finish()))
}

fn postinstall_line(app: &App, service: &Service) -> Option<String> {
    let folder = app.dir.join(&service.approot);
    match service.postinstall.as_str() {
        "" => folder.join("postinstall").is_file().then(|| "./postinstall".to_owned()),
        name if folder.join(name).is_file() && !name.contains('/') => Some(format!("./{name}")),
        line => Some(line.to_owned()),
    }
}

fn unit(app: &mut App, at: usize, instance: &Instance, spec: &Spec, postinstall: Option<&str>) -> String {
    let subject = app.services[at].service.process_subject(&spec.name.process);
    let mut unit = Unit::default();
    for told in lost(app, spec) {
        unit.note(&format!("Not in systemd's words: {}", app.lose(&subject, &told)));
    }
    unit.section("Unit");
    unit.put_text("Description", &format!("{}: {}", app.name, spec.name));
    unit.put("PartOf", format!("{}.target", stem(app, &instance.name)));
    let after: Vec<String> = spec.after.iter().map(|name| unit_name(app, name)).collect();
    if let Some(postinstall) = postinstall {
        unit.put("Requires", postinstall);
    }
    let wants: Vec<&str> = after.iter().map(String::as_str).chain(["network-online.target"]).collect();
    unit.put("Wants", wants.join(" "));
    let waits: Vec<String> =
        ["network-online.target".to_owned()].into_iter().chain(postinstall.map(str::to_owned)).chain(after).collect();
    unit.put("After", waits.join(" "));
    start_limit(&mut unit, spec);
    unit.section("Service");
    unit.put("Type", kind(spec));
    if spec.restart.oneshot {
        unit.put("RemainAfterExit", "yes");
    }
    if matches!(&spec.ready, Some(Ready { by: ReadyBy::Notify, .. })) {
        unit.put("NotifyAccess", "all");
    }
    if let Some(pidfile) = &spec.pidfile {
        unit.put_text("PIDFile", &pidfile.to_string_lossy());
    }
    put_user(&mut unit, spec.user.as_ref().map_or("root", |user| user.name.as_str()));
    unit.put_text("WorkingDirectory", &spec.directory.to_string_lossy());
    if let Some(umask) = spec.umask.filter(|umask| *umask != 0o022) {
        unit.put("UMask", format!("{umask:04o}"));
    }
    let specs = part_specs(app, at, instance);
    let mut inline = if shares(&specs) { overridden(&specs, &instance.env) } else { instance.env.clone() };
    inline.extend(spec.env.clone());
    environment(app, &mut unit, &inline);
    unit.put("ExecStart", shell(&with_profile(spec)));
    ready(&mut unit, spec);
    if spec.stop.drain > Duration::ZERO {
        unit.note("drain: the time between the wish to stop and the stop signal");
        unit.put("ExecStop", format!("/bin/sleep {}", seconds(spec.stop.drain)));
    }
    if spec.stop.signal != 15 {
        unit.put("KillSignal", signal(spec.stop.signal));
    }
    unit.put("TimeoutStopSec", format!("{}s", seconds(spec.stop.wait + spec.stop.drain)));
    restart(&mut unit, spec);
    if let Some(nofile) = spec.limits.nofile {
        unit.put("LimitNOFILE", nofile);
    }
    if let Some(bytes) = spec.memory_limit {
        unit.note("memory_limit: the kernel kills it at once, where hob asks it to stop");
        unit.put("MemoryMax", bytes);
    }
    if let Some(nice) = spec.limits.nice {
        unit.put("Nice", nice);
    }
    if let Some(score) = spec.limits.oom_score_adj {
        unit.put("OOMScoreAdjust", score);
    }
    unit.finish()
}

fn put_user(unit: &mut Unit, user: &str) {
    let (user, group) = user.split_once(':').map_or((user, None), |(user, group)| (user, Some(group)));
    unit.put_text("User", user);
    if let Some(group) = group {
        unit.put_text("Group", group);
    }
}

/// What the units of one instance have in common: a drop-in for all whose names begin alike (systemd.unit(5)).
fn shared(app: &App, instance: &Instance, specs: &[Spec]) -> Option<MadeFile> {
    if !shares(specs) {
        return None;
    }
    let own = overridden(specs, &instance.env);
    let common = instance.env.iter().filter(|(key, _)| !own.contains_key(*key));
    let common: Env = common.map(|(key, value)| (key.clone(), value.clone())).collect();
    let mut unit = Unit::default();
    unit.note(&format!("The variables of {}, for all of its units.", instance.name));
    unit.section("Service");
    environment(app, &mut unit, &common);
    Some(MadeFile::new(&format!("{}-.service.d/environment.conf", stem(app, &instance.name)), unit.finish()))
}

/// A process with the name of its instance is the only one, and its unit has all variables itself.
fn shares(specs: &[Spec]) -> bool {
    specs.iter().all(|spec| spec.name.group != spec.name.process)
}

/// Those of the instance's variables that one of its processes has another value for: a drop-in is stronger than the
/// unit, so each unit says these itself.
fn overridden(specs: &[Spec], env: &Env) -> Env {
    let is_own = |key: &String| specs.iter().any(|spec| spec.env.contains_key(key));
    env.iter().filter(|(key, _)| is_own(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn part_specs(app: &App, at: usize, instance: &Instance) -> Vec<Spec> {
    let own = app.services[at].instances.iter().find(|(other, _)| other.name == instance.name);
    own.map(|(_, specs)| specs.clone()).unwrap_or_default()
}

/// What `hob env` has set is stronger than all of them, and stands in a file.
fn environment(app: &App, unit: &mut Unit, env: &Env) {
    for (key, value) in env.iter().filter(|(key, _)| !app.secrets.contains(key)) {
        unit.put("Environment", word(&format!("{key}={value}")));
    }
    if !app.secrets.is_empty() {
        unit.put_text("EnvironmentFile", &secrets(app));
    }
}

fn kind(spec: &Spec) -> &'static str {
    match &spec.ready {
        _ if spec.restart.oneshot => "oneshot",
        _ if spec.pidfile.is_some() => "forking",
        Some(Ready { by: ReadyBy::Notify, .. }) => "notify",
        _ => "exec",
    }
}

fn shell(line: &str) -> String {
    format!("/bin/bash -c {}", argument(line))
}

/// As hob does it: a shell sources the profile, and the program takes its place where the line is a single command.
fn with_profile(spec: &Spec) -> String {
    let mut script = String::new();
    if let Some(profile) = &spec.profile {
        let profile = quoted(&profile.to_string_lossy());
        let _ = writeln!(script, "if [ -e {profile} ]; then . {profile}; fi");
    }
    let exec = if matches!(spec.command.kind, crate::plan::CommandKind::Script) { "" } else { "exec " };
    script + exec + &spec.command.line
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The start is over when it is ready, so what is after it waits for that.
fn ready(unit: &mut Unit, spec: &Spec) {
    let Some(ready) = &spec.ready else { return };
    if let ReadyBy::Probe(probe) = &ready.by {
        let timeout = seconds(probe.timeout);
        let question = match &probe.ask {
            Ask::Tcp(to) => {
                let (host, port) = to.rsplit_once(':').unwrap_or(("127.0.0.1", to));
                let to = quoted(&format!("exec 3<>/dev/tcp/{}/{port}", host.trim_matches(['[', ']'])));
                format!("timeout {timeout} bash -c {to} 2>/dev/null")
            }
            Ask::Http(url) => {
                let url = match url.strip_prefix("unix:").and_then(|rest| rest.split_once(":/")) {
                    Some((socket, path)) => {
                        format!("--unix-socket {} {}", quoted(socket), quoted(&format!("http://localhost/{path}")))
                    }
                    None => quoted(url),
                };
                format!("[ \"$(curl -s -m {timeout} -o /dev/null -w '%{{http_code}}' {url} || echo 999)\" -lt 500 ]")
            }
            Ask::Exec(line) => format!("timeout {timeout} bash -c {}", quoted(line)),
        };
        unit.note("ready: asked until the answer is good");
        unit.put("ExecStartPost", shell(&format!("until {question}; do sleep 0.2; done")));
    }
    unit.put("TimeoutStartSec", format!("{}s", seconds(ready.within)));
}

fn start_limit(unit: &mut Unit, spec: &Spec) {
    match spec.restart.startretries {
        None => {
            unit.note("hob never gives up");
            unit.put("StartLimitIntervalSec", 0);
        }
        Some(retries) => {
            let each = seconds(spec.restart.startsecs + spec.restart.delay);
            unit.note("startretries: so many starts within the time that they take if each fails at once");
            unit.put("StartLimitBurst", retries + 1);
            unit.put("StartLimitIntervalSec", format!("{}s", each * (u64::from(retries) + 1) + 1));
        }
    }
}

fn restart(unit: &mut Unit, spec: &Spec) {
    let restart = &spec.restart;
    let word = match restart.autorestart {
        // It has run to its end; only a failure is a reason for another try.
        _ if restart.oneshot => "on-failure",
        Autorestart::Always => "always",
        Autorestart::Never => "no",
        Autorestart::Unexpected => "on-failure",
    };
    unit.put("Restart", word);
    if word != "no" {
        unit.put("RestartSec", format!("{}ms", restart.delay.as_millis()));
    }
    let expected: Vec<String> = restart.exitcodes.iter().filter(|code| **code != 0).map(u8::to_string).collect();
    if !expected.is_empty() {
        unit.put("SuccessExitStatus", expected.join(" "));
    }
    // For a oneshot systemd allows no such exception.
    if word == "on-failure" && !restart.oneshot {
        // For systemd these four are a clean end.
        let zero = if restart.exitcodes.contains(&0) { "" } else { "0 " };
        unit.put("RestartForceExitStatus", format!("{zero}SIGHUP SIGINT SIGTERM SIGPIPE"));
    }
}

fn signal(number: i32) -> String {
    let name = signal_names::name(number);
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        // Real-time signals: 34 is the first a program has.
        return if number == 34 { "SIGRTMIN".into() } else { format!("SIGRTMIN+{}", number - 34) };
    }
    format!("SIG{name}")
}

/// What was said about a process and has no word here.
fn lost(app: &App, spec: &Spec) -> Vec<String> {
    let (plain, mut all) = (&app.plain, Vec::new());
    if let Some(health) = &spec.health {
        let every = seconds(health.every);
        all.push(format!(
            "health, asked every {every}s: systemd asks nobody (a program can use WatchdogSec= and sd_notify)"
        ));
    }
    let restart = &spec.restart;
    if (restart.delay_max, restart.delay) != (plain.restart.delay_max, plain.restart.delay) {
        all.push("restart_delay grows up to restart_delay_max: here it stays (systemd 254 has RestartSteps= and RestartMaxDelaySec=)".to_owned());
    }
    if restart.startsecs != plain.restart.startsecs && spec.ready.is_none() {
        all.push("startsecs: a start is good as soon as the program is executed".to_owned());
    }
    if spec.priority != plain.priority {
        all.push(format!("priority {}: order is by After= alone", spec.priority));
    }
    if spec.pidfile.is_some()
        && spec.ready.is_some()
        && !matches!(spec.ready, Some(Ready { by: ReadyBy::Probe(_), .. }))
    {
        all.push("ready by notify beside a pidfile: the pid file alone counts".to_owned());
    }
    let (log, usual) = (&spec.log, &plain.log);
    let rotation = (log.max_bytes, log.backups, log.max_total, log.max_age);
    if rotation != (usual.max_bytes, usual.backups, usual.max_total, usual.max_age) {
        all.push("logfile_*: the journal has limits for all units together (journald.conf(5))".to_owned());
    }
    if log.stderr.is_some() {
        all.push("split_stderr: both are in the journal (journalctl -u)".to_owned());
    }
    if log.timestamps || log.prefix || log.json {
        all.push(
            "timestamps, log_prefix, log_format: the journal has both with each line (journalctl -o json)".to_owned(),
        );
    }
    if log.on_full != OnFull::Block {
        all.push("on_full: the journal drops what is too much".to_owned());
    }
    if spec.pidfile.is_some() {
        all.push("pidfile: hob takes a command that stays in front too; Type=forking wants one that returns when the daemon runs".to_owned());
    }
    all
}
