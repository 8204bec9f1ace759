//! What getProcessInfo and getAllConfigInfo tell (reference/supervisord.md §3.5, §3.6), member by member in the order
//! in which supervisord sends them.

use std::time::Duration;

use super::Host;
use super::rpc::log_of;
use crate::plan::{Autorestart, LogSpec, Reach, Spec};
use crate::supervisor::Process;
use crate::supervisor::event::{Exit, Phase, Time};
use crate::sys::clock;
use crate::xmlrpc::Value;

pub fn process(process: &Process, host: &dyn Host) -> Value {
    let (spec, now) = (process.spec(), host.now());
    let wall = clock::wall();
    let unix = |at: Option<Time>| at.map_or(0, |at| seconds(wall.saturating_sub(now.since(at))));
    let phase = process.phase();
    let start = unix(process.last_start());
    // A start that failed before there was a child has no end; while a process runs, its last end was an earlier one.
    let ended = process.last_exit().filter(|(exit, _)| !matches!(exit, Exit::CannotExec { .. }));
    let stop = unix(ended.map(|(_, at)| at));
    let spawn_error = spawn_error(process, host);
    let pid = process.run().and_then(|run| host.pid(run)).unwrap_or(0);
    let path = |stderr| log_of(process, stderr).map(|path| path.display().to_string()).unwrap_or_default();
    let description = match phase {
        Phase::Running => {
            let uptime = process.started_at().map_or(Duration::ZERO, |at| now.since(at));
            format!("pid {pid}, uptime {}", uptime_text(uptime))
        }
        Phase::Stopped | Phase::Exited if start == 0 || stop == 0 => "Not started".to_owned(),
        Phase::Stopped | Phase::Exited => local_time(stop),
        Phase::Fatal | Phase::Backoff if spawn_error.is_empty() => {
            format!("unknown error (try \"tail {}\")", spec.name.process)
        }
        Phase::Fatal | Phase::Backoff => spawn_error.clone(),
        Phase::Starting | Phase::Stopping => String::new(),
    };
    let members: Vec<(&str, Value)> = vec![
        ("name", spec.name.process.as_str().into()),
        ("group", spec.name.group.as_str().into()),
        ("start", start.into()),
        ("stop", stop.into()),
        ("now", seconds(wall).into()),
        ("state", i64::from(phase.code()).into()),
        ("statename", phase.as_str().into()),
        ("spawnerr", spawn_error.into()),
        ("exitstatus", exit_status(process).into()),
        ("logfile", path(false).into()),
        ("stdout_logfile", path(false).into()),
        ("stderr_logfile", path(true).into()),
        ("pid", i64::from(pid).into()),
        ("description", description.into()),
    ];
    structure(members)
}

fn structure(members: Vec<(&str, Value)>) -> Value {
    Value::Struct(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// Why the last start, or the last run, did not go well; cleared by the next start.
fn spawn_error(process: &Process, host: &dyn Host) -> String {
    let Some((exit, _)) = process.last_exit() else { return String::new() };
    match (process.phase(), exit) {
        (Phase::Backoff | Phase::Fatal, Exit::CannotExec { .. }) => {
            host.spawn_error(process.id()).unwrap_or_else(|| exit.to_string())
        }
        (Phase::Backoff | Phase::Fatal, _) => "Exited too quickly (process log may have details)".to_owned(),
        (Phase::Exited, Exit::Code(code)) if process.spec().restart.exitcodes.contains(code) => String::new(),
        (Phase::Exited, _) => format!("Bad exit code {}", exit_status(process)),
        _ => String::new(),
    }
}

/// The last exit code, -1 after a signal. 0 when there is none yet, and for a start that failed.
fn exit_status(process: &Process) -> i64 {
    match (process.phase(), process.last_exit()) {
        // A new run has not ended yet.
        (Phase::Backoff | Phase::Fatal | Phase::Starting | Phase::Running | Phase::Stopping, _) | (_, None) => 0,
        (_, Some((Exit::Code(code), _))) => i64::from(*code),
        (_, Some((Exit::Signal { .. }, _))) => -1,
        (_, Some((Exit::CannotExec { .. } | Exit::Unknown, _))) => 0,
    }
}

fn seconds(length: Duration) -> i64 {
    i64::try_from(length.as_secs()).unwrap_or(i64::MAX)
}

/// As Python prints a length of time: `0:00:05`, `1 day, 2:03:04`, `12 days, 0:00:01`.
pub fn uptime_text(length: Duration) -> String {
    let secs = length.as_secs();
    let (days, hours, minutes) = (secs / 86_400, secs / 3600 % 24, secs / 60 % 60);
    let clock = format!("{hours}:{minutes:02}:{:02}", secs % 60);
    match days {
        0 => clock,
        1 => format!("1 day, {clock}"),
        days => format!("{days} days, {clock}"),
    }
}

/// `Nov 23 03:25 PM`.
pub fn local_time(unix: i64) -> String {
    let at = jiff::Timestamp::from_second(unix).unwrap_or_default();
    at.to_zoned(jiff::tz::TimeZone::system()).strftime("%b %d %I:%M %p").to_string()
}

/// One struct for each process of the configuration that was read last.
pub fn configuration(host: &dyn Host) -> Value {
    let active = host.supervisor();
    let mut all: Vec<(&Spec, bool)> = match host.configured() {
        Some(read) => {
            let groups = active.plan().supervisord.as_ref().map(|own| own.groups.as_slice()).unwrap_or_default();
            read.specs.iter().map(|spec| (spec, groups.iter().any(|group| group.name == spec.name.group))).collect()
        }
        None => active.processes().map(|process| (process.spec(), true)).collect(),
    };
    // Of one name the group that comes first.
    all.sort_by(|(a, _), (b, _)| a.name.process.cmp(&b.name.process));
    Value::Array(all.into_iter().map(|(spec, in_use)| one(spec, in_use, host)).collect())
}

fn one(spec: &Spec, in_use: bool, host: &dyn Host) -> Value {
    let own = host.configured().unwrap_or(host.supervisor().plan()).supervisord.as_ref();
    let group = own.and_then(|own| own.groups.iter().find(|group| group.name == spec.name.group));
    let program = spec.program.as_ref();
    let none = || Value::from("none");
    let number = |n: u64| Value::Int(i64::try_from(n).unwrap_or(i64::MAX));
    let kill_as_group = match spec.stop.reach {
        Reach::Everything => true,
        Reach::Child { kill_group, .. } => kill_group,
    };
    // The running side knows what an automatic log is called.
    let active = in_use.then(|| host.supervisor().processes().find(|p| p.spec().name == spec.name)).flatten();
    let mut members: Vec<(String, Value)> = vec![
        ("autostart".into(), spec.autostart.into()),
        (
            "autorestart".into(),
            match spec.restart.autorestart {
                Autorestart::Always => true.into(),
                Autorestart::Never => false.into(),
                Autorestart::Unexpected => "unexpected".into(),
            },
        ),
        ("directory".into(), program.and_then(|p| p.directory.clone()).map_or_else(none, Value::from)),
        ("uid".into(), spec.user.as_ref().map_or_else(none, |user| i64::from(user.uid).into())),
        ("command".into(), spec.command.line.as_str().into()),
        ("exitcodes".into(), Value::Array(spec.restart.exitcodes.iter().map(|code| i64::from(*code).into()).collect())),
        ("group".into(), spec.name.group.as_str().into()),
        ("group_prio".into(), group.map_or(spec.priority, |group| group.priority).into_value()),
        ("inuse".into(), in_use.into()),
        ("killasgroup".into(), kill_as_group.into()),
        ("name".into(), spec.name.process.as_str().into()),
        ("process_prio".into(), program.map_or(spec.priority, |program| program.priority).into_value()),
        ("redirect_stderr".into(), spec.log.stderr.is_none().into()),
        ("startretries".into(), spec.restart.startretries.map_or(Value::Int(i64::MAX), |n| number(n.into()))),
        ("startsecs".into(), number(spec.restart.startsecs.as_secs())),
        ("stopsignal".into(), i64::from(spec.stop.signal).into()),
        ("stopwaitsecs".into(), number(spec.stop.wait.as_secs())),
        ("serverurl".into(), program.and_then(|p| p.serverurl.clone()).map_or_else(none, Value::from)),
    ];
    for (channel, log) in [("stdout", Some(&spec.log)), ("stderr", spec.log.stderr.as_deref())] {
        let extras = log.and_then(|log| log.extras.as_deref()).cloned().unwrap_or_default();
        let file = || match log.and_then(LogSpec::file) {
            Some(path) => path.display().to_string().into(),
            None if extras.auto => active
                .and_then(|process| log_of(process, channel == "stderr"))
                .map_or(Value::from("auto"), |path| path.display().to_string().into()),
            None => none(),
        };
        let default = (50u64 << 20, 10);
        let (max_bytes, backups) = log.map_or(default, |log| (log.max_bytes, log.backups));
        members.extend([
            (format!("{channel}_capture_maxbytes"), number(extras.capture)),
            (format!("{channel}_events_enabled"), extras.events.into()),
            (format!("{channel}_logfile"), file()),
            (format!("{channel}_logfile_backups"), number(backups.into())),
            (format!("{channel}_logfile_maxbytes"), number(max_bytes)),
            (format!("{channel}_syslog"), extras.syslog.into()),
        ]);
    }
    Value::Struct(members)
}

trait IntoValue {
    fn into_value(self) -> Value;
}

impl IntoValue for i32 {
    fn into_value(self) -> Value {
        Value::Int(self.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptimes_read_as_python_prints_them() {
        let read = |secs| uptime_text(Duration::from_secs(secs));
        assert_eq!((read(5), read(3_605), read(86_399)), ("0:00:05".into(), "1:00:05".into(), "23:59:59".into()));
        assert_eq!((read(93_784), read(1_036_801)), ("1 day, 2:03:04".into(), "12 days, 0:00:01".into()));
    }
}
