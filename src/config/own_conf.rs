//! `~/supervisor.conf`: a home that brings one runs what it says, in place of the processes of its dotcloud.yml (DESIGN
//! §3). The file is supervisord's; what is made of it lives by hob's rules: its profile is sourced, its logs are in the
//! log directory, a stop leaves nothing behind.

use std::path::{Path, PathBuf};

use super::flags::Flags;
use super::supervisord::{Setting, supervisord};
use super::value::{Place, Problem, Problems, Warning};
use crate::plan::{Backoff, Instance, LogSpec, Name, Plan, Reach, Spec};

/// Replaces the processes of every instance whose home has the file. `template` gives what hob's own settings say
/// about a log of that name.
pub fn replace(
    plan: &mut Plan,
    root: bool,
    template: &dyn Fn(&Instance, &str) -> Option<LogSpec>,
) -> Result<Vec<Warning>, Problems> {
    let (mut problems, mut warnings) = (Problems::default(), Vec::new());
    for instance in &plan.instances {
        let file = instance.real_home().join("supervisor.conf");
        if !file.is_file() {
            continue;
        }
        let flags = Flags::default();
        let setting = Setting {
            file: &file,
            flags: &flags,
            env: &instance.env,
            cwd: &instance.home,
            root: false,
            seen_in: Some(&instance.home),
        };
        match supervisord(&setting) {
            Ok(conf) => {
                warnings.extend(conf.warnings);
                let own = conf.plan.supervisord.map(|own| own.groups).unwrap_or_default();
                for group in own.iter().filter(|group| group.pool.is_some()) {
                    let label = file.to_string_lossy().into();
                    let why = format!("[eventlistener:{}] is left out: there is no supervisord here", group.name);
                    warnings.push(Problem::new(&Place::file(&label), why));
                }
                let is_program = |spec: &Spec| !own.iter().any(|g| g.pool.is_some() && g.name == spec.name.group);
                plan.specs.retain(|spec| spec.name.group != instance.name);
                let specs: Vec<Spec> = conf.plan.specs.into_iter().filter(is_program).collect();
                for spec in &specs {
                    let process = name_of(spec, &specs);
                    plan.specs.push(adapted(spec.clone(), process, instance, root, template));
                }
            }
            Err(wrong) => problems.0.extend(wrong.0),
        }
    }
    problems.or(warnings)
}

/// Its own name, and where two groups have one of that name, the group's with it.
fn name_of(spec: &Spec, all: &[Spec]) -> String {
    let is_alone = all.iter().filter(|other| other.name.process == spec.name.process).count() == 1;
    if is_alone { spec.name.process.clone() } else { format!("{}-{}", spec.name.group, spec.name.process) }
}

fn adapted(
    mut spec: Spec,
    process: String,
    instance: &Instance,
    root: bool,
    template: &dyn Fn(&Instance, &str) -> Option<LogSpec>,
) -> Spec {
    let has_log = spec.log.file().is_some() || spec.log.extras.as_ref().is_some_and(|extras| extras.auto);
    let mut log = template(instance, &process).unwrap_or(spec.log);
    if !has_log {
        (log.path, log.stderr) = (PathBuf::new(), None);
    }
    if let Some(program) = spec.program.take() {
        spec.priority = program.priority;
    }
    spec.env.retain(|key, value| !key.starts_with("SUPERVISOR_") && instance.env.get(key) != Some(value));
    spec.restart.backoff = Backoff::Linear;
    spec.stop.reach = Reach::Everything;
    spec.user = spec.user.filter(|_| root).or_else(|| instance.user.clone());
    Spec { name: Name { group: instance.name.clone(), process }, profile: Some(profile(&instance.home)), log, ..spec }
}

fn profile(home: &Path) -> PathBuf {
    home.join("profile")
}
