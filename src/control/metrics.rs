//! `/metrics`: the table of processes in the text format of Prometheus.
//!
//! Names in three families: `node_supervisord_*` as node_exporter has them, `supervisor_*` as the exporters of supervisord
//! have them, so that dashboards go on working, and `hob_*` for what those do not tell. Pure but for /proc.

use std::collections::HashMap;
use std::fmt::{Display, Write};

use super::Host;
use super::api::{Call, Reply, process_shown};
use super::http::Answer;
use crate::supervisor::event::ProcessId;
use crate::sys::{clock, proc};
use crate::wire;

/// The format, as Prometheus wants to hear it.
const CONTENT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub fn metrics(_: &mut Call<'_>) -> Result<Reply, Answer> {
    Ok(Reply::Metrics)
}

/// The answer, with bytes written and lost as the logger has told them, if it has.
pub fn answer(host: &dyn Host, logs: Option<&HashMap<ProcessId, (u64, u64)>>) -> Answer {
    let processes: Vec<Sample> = host
        .supervisor()
        .processes()
        .map(|process| {
            let shown = process_shown(process, host);
            let began = shown.uptime.map(|uptime| clock::wall().as_secs_f64() - uptime);
            let log = logs.map(|logs| logs.get(&process.id()).copied().unwrap_or_default());
            Sample { usage: shown.pid.and_then(usage), began, log, shown }
        })
        .collect();
    let body = render(&processes, &host.info()).into_bytes();
    Answer { status: 200, content: CONTENT, body, headers: Vec::new() }
}

/// One process at one moment.
struct Sample {
    shown: wire::Process,
    /// Unix time.
    began: Option<f64>,
    /// Bytes written and lost.
    log: Option<(u64, u64)>,
    usage: Option<Usage>,
}

/// What a running process has used, as /proc tells it.
pub struct Usage {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    threads: u64,
}

pub fn usage(pid: i32) -> Option<Usage> {
    let (tick, page) = proc::units();
    let stat = proc::stat(pid)?;
    Some(Usage { cpu_seconds: stat.ticks as f64 / tick, resident_bytes: stat.resident * page, threads: stat.threads })
}

/// One number of each process. To add one: a line in `METRICS`, and one in hob-api(7).
struct Metric {
    name: &'static str,
    help: &'static str,
    /// None where there is nothing to tell: then the line is left out.
    value: fn(&Sample) -> Option<f64>,
}

const METRICS: &[Metric] = &[
    Metric {
        name: "node_supervisord_up",
        help: "Whether something of the process runs.",
        value: |s| truth(s.shown.pid.is_some()),
    },
    Metric {
        name: "node_supervisord_state",
        help: "The state as supervisord numbers it.",
        value: |s| Some(s.shown.statecode.into()),
    },
    Metric {
        name: "node_supervisord_exit_status",
        help: "The last exit code; -1 for a death by signal.",
        value: |s| Some(exit_status(s)),
    },
    Metric {
        name: "node_supervisord_start_time_seconds",
        help: "Unix time at which the current run began.",
        value: |s| s.began,
    },
    Metric {
        name: "supervisor_process_uptime",
        help: "Seconds since the current run began.",
        value: |s| s.shown.uptime,
    },
    Metric {
        name: "hob_process_restarts_total",
        help: "Runs after the first one.",
        value: |s| Some(s.shown.restarts as f64),
    },
    Metric {
        name: "hob_process_ready",
        help: "Whether it serves: it is ready, and its health probe is content.",
        value: |s| truth(s.shown.ready),
    },
    Metric {
        name: "hob_process_troubled",
        help: "Whether something about it cannot be done, such as writing its log.",
        value: |s| truth(!s.shown.troubles.is_empty()),
    },
    Metric {
        name: "hob_process_cpu_seconds_total",
        help: "Processor time that the current run's first process has used.",
        value: |s| s.usage.as_ref().map(|usage| usage.cpu_seconds),
    },
    Metric {
        name: "hob_process_resident_memory_bytes",
        help: "Resident memory of that process.",
        value: |s| s.usage.as_ref().map(|usage| usage.resident_bytes as f64),
    },
    Metric {
        name: "hob_process_threads",
        help: "Threads of that process.",
        value: |s| s.usage.as_ref().map(|usage| usage.threads as f64),
    },
    Metric {
        name: "hob_process_log_bytes_total",
        help: "Bytes written to its logs since the logger began.",
        value: |s| s.log.map(|(written, _)| written as f64),
    },
    Metric {
        name: "hob_process_log_dropped_bytes_total",
        help: "Bytes of its output that were lost, by on_full, since the logger began.",
        value: |s| s.log.map(|(_, lost)| lost as f64),
    },
];

fn truth(truth: bool) -> Option<f64> {
    Some(f64::from(u8::from(truth)))
}

/// As supervisord tells it: 0 also where nothing is known.
fn exit_status(sample: &Sample) -> f64 {
    match &sample.shown.last_exit {
        Some(exit) if exit.signal.is_some() => -1.0,
        Some(exit) => exit.code.unwrap_or(0).into(),
        None => 0.0,
    }
}

fn render(processes: &[Sample], info: &wire::Info) -> String {
    let mut out = String::new();
    put_head(&mut out, "hob_info", "The daemon.");
    put_line(&mut out, "hob_info", &[("version", &info.version)], 1);
    put_head(&mut out, "hob_uptime_seconds", "Seconds since the daemon began.");
    put_line(&mut out, "hob_uptime_seconds", &[], info.uptime);
    put_head(&mut out, "supervisord_up", "Whether the daemon runs.");
    put_line(&mut out, "supervisord_up", &[], 1);
    put_head(&mut out, "hob_processes", "Processes in each state.");
    for state in STATES {
        let count = processes.iter().filter(|sample| sample.shown.state == state).count();
        put_line(&mut out, "hob_processes", &[("state", state)], count);
    }
    put_head(&mut out, "supervisor_process_info", "1 for a process that runs, with its state.");
    for sample in processes {
        let is_running = sample.shown.state == "RUNNING";
        let status = if is_running { 0.0 } else { exit_status(sample) }.to_string();
        let [name, group] = names(sample);
        let labels = [name, group, ("state", sample.shown.state.as_str()), ("exit_status", &status)];
        put_line(&mut out, "supervisor_process_info", &labels, u8::from(is_running));
    }
    for metric in METRICS {
        put_head(&mut out, metric.name, metric.help);
        for sample in processes {
            if let Some(value) = (metric.value)(sample) {
                put_line(&mut out, metric.name, &names(sample), value);
            }
        }
    }
    out
}

const STATES: [&str; 7] = ["STOPPED", "STARTING", "RUNNING", "BACKOFF", "STOPPING", "EXITED", "FATAL"];

fn names(sample: &Sample) -> [(&'static str, &str); 2] {
    [("name", &sample.shown.process), ("group", &sample.shown.group)]
}

/// What ends in `_total` is a counter, the rest goes up and down.
fn put_head(out: &mut String, name: &str, help: &str) {
    let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn put_line(out: &mut String, name: &str, labels: &[(&str, &str)], value: impl Display) {
    out.push_str(name);
    for (nth, (label, text)) in labels.iter().enumerate() {
        let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(out, "{}{label}=\"{text}\"", if nth == 0 { '{' } else { ',' });
    }
    let _ = writeln!(out, "{} {value}", if labels.is_empty() { "" } else { "}" });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &str, state: &str) -> Sample {
        let shown = serde_json::json!({
            "name": name, "group": "www", "process": name, "state": state, "statecode": 20, "pid": 7, "since": 0.0,
            "uptime": 12.5, "restarts": 3, "ready": true, "last_exit": null, "next_try": null, "why": "", "waits_for": [],
            "survivors": [], "logfile": "/l", "stderr_logfile": null, "command": "x", "troubles": []
        });
        let usage = Some(Usage { cpu_seconds: 0.25, resident_bytes: 4096, threads: 2 });
        Sample {
            shown: serde_json::from_value(shown).expect("a process"),
            began: Some(1000.0),
            log: Some((10, 2)),
            usage,
        }
    }

    fn text(processes: &[Sample]) -> String {
        let info = serde_json::json!({
            "version": "1", "pid": 1, "state": "running", "uptime": 1.5, "log_dir": "", "state_dir": "",
            "source": "home", "socket": "", "config": []
        });
        render(processes, &serde_json::from_value(info).expect("an info"))
    }

    #[test]
    fn each_process_has_a_line_in_each_family() {
        let mut stopped = sample("db", "STOPPED");
        stopped.shown = wire::Process { pid: None, uptime: None, ..stopped.shown };
        (stopped.began, stopped.usage) = (None, None);
        let text = text(&[sample("web", "RUNNING"), stopped]);
        for line in [
            "supervisor_process_info{name=\"web\",group=\"www\",state=\"RUNNING\",exit_status=\"0\"} 1",
            "supervisor_process_info{name=\"db\",group=\"www\",state=\"STOPPED\",exit_status=\"0\"} 0",
            "node_supervisord_up{name=\"db\",group=\"www\"} 0",
            "node_supervisord_start_time_seconds{name=\"web\",group=\"www\"} 1000",
            "supervisor_process_uptime{name=\"web\",group=\"www\"} 12.5",
            "hob_process_resident_memory_bytes{name=\"web\",group=\"www\"} 4096",
            "hob_process_cpu_seconds_total{name=\"web\",group=\"www\"} 0.25",
            "hob_process_log_bytes_total{name=\"web\",group=\"www\"} 10",
            "hob_process_log_dropped_bytes_total{name=\"web\",group=\"www\"} 2",
            "# TYPE hob_process_restarts_total counter",
            "hob_processes{state=\"RUNNING\"} 1",
            "hob_info{version=\"1\"} 1",
            "hob_uptime_seconds 1.5",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("supervisor_process_uptime{name=\"db\""));
    }

    #[test]
    fn a_label_cannot_break_out_of_its_quotes() {
        let text = text(&[sample("a\"b\\c\nd", "RUNNING")]);
        assert!(text.contains("name=\"a\\\"b\\\\c\\nd\""), "{text}");
    }

    #[test]
    fn the_man_page_has_every_metric_with_its_sentence() {
        let page = include_str!("../../man/hob-api.7").replace("\\-", "-").replace("\\&", "").replace("\\(hy", "-");
        for line in text(&[]).lines().filter_map(|line| line.strip_prefix("# HELP ")) {
            let (name, help) = line.split_once(' ').expect("both");
            assert!(page.contains(&format!(".B {name}\n{help}")), "{name}: {help}");
        }
    }
}
