//! Automatic logs: files whose names are made up when a process is added, and that go when it does.

use std::collections::HashMap;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;

use super::Daemon;
use crate::plan::{LogSpec, Spec, Supervisord};
use crate::supervisor::Supervisor;

impl Daemon {
    pub(super) fn remove_automatic_logs(&self, spec: &Spec) {
        if self.conductor.as_ref().is_none_or(|conductor| conductor.nocleanup) {
            return;
        }
        for log in [Some(&spec.log), spec.log.stderr.as_deref()].into_iter().flatten() {
            if log.extras.as_ref().is_some_and(|extras| extras.auto) && log.file().is_some() {
                remove_with_backups(log);
            }
        }
    }
}

/// As the configuration has it: an automatic log has no name there.
pub(super) fn unnamed(spec: &Spec) -> Spec {
    let mut spec = spec.clone();
    let clear = |log: &mut LogSpec| {
        if log.extras.as_ref().is_some_and(|extras| extras.auto) {
            log.path = PathBuf::new();
        }
    };
    clear(&mut spec.log);
    if let Some(stderr) = &mut spec.log.stderr {
        clear(stderr);
    }
    spec
}

/// Gives automatic logs their names; a process that runs already keeps its own.
pub(super) fn name_logs(specs: &mut [Spec], own: Option<&Supervisord>, running: &Supervisor) {
    let Some(own) = own else { return };
    let before: HashMap<&crate::plan::Name, &Spec> =
        running.processes().map(|process| (&process.spec().name, process.spec())).collect();
    for spec in specs {
        let process = spec.name.process.clone();
        let old = before.get(&spec.name).map(|spec| &spec.log);
        name_log(&mut spec.log, old, own, &process, "stdout");
        if let Some(stderr) = &mut spec.log.stderr {
            name_log(stderr, old.and_then(|log| log.stderr.as_deref()), own, &process, "stderr");
        }
    }
}

fn name_log(log: &mut LogSpec, old: Option<&LogSpec>, own: &Supervisord, process: &str, channel: &str) {
    let is_auto = |log: &LogSpec| log.extras.as_ref().is_some_and(|extras| extras.auto);
    if !is_auto(log) || log.file().is_some() {
        return;
    }
    log.path = match old.filter(|old| is_auto(old) && old.file().is_some()) {
        Some(old) => old.path.clone(),
        None => {
            // Whose it is stands in the name: a daemon of the same identifier leaves it alone.
            let (pid, chance) = (std::process::id(), chance());
            own.childlogdir.join(format!("{process}-{channel}---{}-{pid}_{chance}.log", own.identifier))
        }
    };
}

/// Eight letters and digits that nobody can foresee.
fn chance() -> String {
    let mut number = std::collections::hash_map::RandomState::new().build_hasher().finish();
    let mut text = String::new();
    for _ in 0..8 {
        text.push(char::from(b"abcdefghijklmnopqrstuvwxyz0123456789"[(number % 36) as usize]));
        number /= 36;
    }
    text
}

fn remove_with_backups(log: &LogSpec) {
    let _ = fs::remove_file(&log.path);
    for n in 1..=log.backups.min(1000) {
        let names = ["", ".gz", ".zst"].map(|suffix| format!("{}.{n}{suffix}", log.path.display()));
        if !names.map(|name| fs::remove_file(name).is_ok()).contains(&true) {
            break;
        }
    }
}
