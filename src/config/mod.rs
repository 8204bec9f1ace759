//! Text to plan: dotcloud.yml and hob.toml become one tree with positions, the option table reads it, and `assemble`
//! makes the complete `Plan` of it. A supervisord.conf has a dialect and types of its own and becomes the same plan.
//!
//! Errors come all at once, each with file, line, column and the likely fix. Nothing here runs in the daemon.

mod asks;
mod assemble;
mod buildfile;
mod command;
mod environ;
mod expand;
mod flags;
mod ini;
mod kinds;
mod lenient;
mod lexer;
#[cfg(test)]
mod manual;
mod options;
mod own_conf;
mod own_keys;
mod percent;
mod ports;
mod program;
#[cfg(test)]
mod program_tests;
pub mod proxy;
mod read;
mod search;
mod settings;
mod supervisorctl;
mod supervisord;
mod toml;
mod users;
mod value;
mod yaml;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::plan::Bind;

pub use assemble::{outline, plan, variables};
pub use buildfile::{MAX_INSTANCES, Service, Stack, default_stack, read_bounded, stack};
pub use command::classify as command_kind;
pub use environ::{Env, build_env, environment_files, from_elsewhere, own_env, variable_part};
pub use expand::clean as clean_path;
pub use flags::{Flags, usage as supervisord_usage};
pub use kinds::duration;
pub use ports::Ports;
pub use search::{find as find_supervisord_conf, places as supervisord_conf_places};
pub use settings::{DEFAULT_USER, HomeMode, Overrides, Settings, settings};
pub use supervisorctl::supervisorctl;
pub use supervisord::{Conf, Level, Main, MainLog, Note, Setting, supervisord};
pub use users::Users;
pub use value::{Place, Problem, Problems, Warning};

/// What `echo_supervisord_conf` prints.
pub const SAMPLE_SUPERVISORD_CONF: &str = include_str!("../../conf/supervisord.conf");

/// What hob's reader takes a YAML text for.
#[cfg(test)]
pub fn yaml_as_json(text: &str) -> Result<serde_json::Value, String> {
    let file = std::sync::Arc::from("test.yml");
    let value = yaml::parse(&file, text.as_bytes()).map_err(|problem| problem.to_string())?;
    let json = value.map_or_else(|| "null".to_owned(), |value| value.as_json());
    serde_json::from_str(&json).map_err(|why| why.to_string())
}

/// Where one instance of a service is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    pub service: String,
    pub number: u32,
    /// How many instances there are.
    pub of: u32,
    /// As its processes see it.
    pub home: PathBuf,
    /// The directory that holds the dotcloud.yml.
    pub code: PathBuf,
    pub log_dir: PathBuf,
    pub binds: Vec<Bind>,
    /// The name of the application; nothing: that of the directory of the code.
    pub project: Option<String>,
}

impl Placement {
    /// The name of the instance: `www` while there is one, else `www.0`, `www.1`, ...
    pub fn group(&self) -> String {
        if self.of == 1 { self.service.clone() } else { format!("{}.{}", self.service, self.number) }
    }
}

/// Everything that is wrong or odd in some files, by their names: `*.toml` are settings, `*.conf` and `*.ini` are
/// supervisord's, the rest dotcloud.yml. A
/// trial plan finds what shows only there, such as a user that does not exist.
pub fn check(files: &[PathBuf], flags: &Overrides, own: &Env) -> (Problems, Vec<Warning>) {
    let mut problems = Problems::default();
    let mut warnings = Vec::new();
    let (confs, files): (Vec<&PathBuf>, Vec<&PathBuf>) =
        files.iter().partition(|file| file.extension().is_some_and(|e| e == "conf" || e == "ini"));
    for file in &confs {
        let flags = Flags::default();
        let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        let root = crate::sys::process::effective_uid() == 0;
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
        // That of a home has other rules than supervisord's own.
        let seen_in = file.parent().filter(|_| file.ends_with("supervisor.conf"));
        match supervisord(&Setting { file: &file, flags: &flags, env: own, cwd: &cwd, root, seen_in }) {
            Ok(conf) => warnings.extend(conf.warnings),
            Err(wrong) => problems.0.extend(wrong.0),
        }
    }
    if !confs.is_empty() && files.is_empty() {
        problems.sort();
        return (problems, warnings);
    }
    let (tomls, stacks): (Vec<&PathBuf>, Vec<&PathBuf>) =
        files.into_iter().partition(|file| file.extension().is_some_and(|extension| extension == "toml"));
    let mut loaded = None;
    for file in &tomls {
        let flags = Overrides { config: Some((*file).clone()), ..flags.clone() };
        match settings(&flags, own) {
            Ok(settings) => loaded = Some(settings),
            Err(wrong) => problems.0.extend(wrong.0),
        }
    }
    if tomls.is_empty() {
        match settings(flags, own) {
            Ok(settings) => loaded = Some(settings),
            Err(wrong) => problems.0.extend(wrong.0),
        }
    }
    for file in stacks {
        match check_stack(file, loaded.as_ref(), own) {
            Ok(more) => warnings.extend(more),
            Err(wrong) => problems.0.extend(wrong.0),
        }
    }
    problems.sort();
    (problems, warnings)
}

fn check_stack(file: &Path, settings: Option<&Settings>, own: &Env) -> Result<Vec<Warning>, Problems> {
    let (stack, mut warnings) = stack(file)?;
    if let Some(settings) = settings {
        let placements = assemble::trial_placements(&stack, settings);
        warnings.extend(plan(&stack, &placements, settings, &mut Ports::in_memory(), own)?.1);
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The stack of a text, which must be good.
    pub fn stack(text: &str) -> Stack {
        try_stack(text).unwrap_or_else(|error| panic!("{error}")).0
    }

    /// With the problems as they are shown, the directory left out.
    pub fn try_stack(text: &str) -> Result<(Stack, Vec<String>), String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("dotcloud.yml");
        std::fs::write(&file, text).unwrap();
        let prefix = dir.path().to_string_lossy().into_owned() + "/";
        match super::stack(&file) {
            Ok((stack, warnings)) => Ok((stack, warnings.iter().map(|w| w.to_string().replace(&prefix, "")).collect())),
            Err(problems) => Err(problems.to_string().replace(&prefix, "")),
        }
    }

    #[test]
    fn every_example_is_a_good_stack() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/examples");
        let readme = std::fs::read_to_string(examples.join("README.md")).unwrap();
        let mut count = 0;
        for entry in std::fs::read_dir(&examples).unwrap() {
            let dir = entry.unwrap().path();
            if !dir.is_dir() {
                continue;
            }
            count += 1;
            let (stack, warnings) = super::stack(&dir.join("dotcloud.yml")).unwrap_or_else(|error| panic!("{error}"));
            let name = dir.file_name().unwrap().to_string_lossy().into_owned();
            // The one with a neighbour of another type has no builder either.
            assert_eq!(warnings.len(), usize::from(name == "memcached"), "{warnings:?}");
            assert_eq!(dir.join(&stack.services[0].buildscript).is_file(), name != "memcached", "{}", dir.display());
            assert!(readme.contains(&format!("`{name}`")), "{name}");
        }
        assert_eq!(count, 13);
    }

    #[test]
    fn a_check_tells_the_problems_of_all_files() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        };
        let files = [write("hob.toml", "sokcet = 1\n"), write("dotcloud.yml", "www:\n  type: cusotm\n")];
        let (problems, _) = check(&files, &Overrides::default(), &own_env());
        assert_eq!(problems.0.len(), 2, "{problems}");
        let files = [
            write("hob.toml", ""),
            write("dotcloud.yml", "www:\n  type: custom\n  process: {command: x, user: no-such}\n"),
        ];
        let (problems, _) = check(&files, &Overrides::default(), &own_env());
        assert!(
            problems.to_string().contains("dotcloud.yml:3:31: service \"www\": there is no user \"no-such\""),
            "{problems}"
        );
    }

    pub fn placements(stack: &Stack) -> Vec<Placement> {
        let mut placements = Vec::new();
        for service in &stack.services {
            for number in 0..service.instances {
                let name = format!("{}.{number}", service.name);
                placements.push(Placement {
                    service: service.name.clone(),
                    number,
                    of: service.instances,
                    home: PathBuf::from("/homes").join(&name),
                    code: PathBuf::from("/code/hello"),
                    log_dir: PathBuf::from("/log").join(&name),
                    binds: Vec::new(),
                    project: None,
                });
            }
        }
        placements
    }
}
