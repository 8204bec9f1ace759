//! The commands around releases: their words, and what they are turned into.

use std::collections::BTreeMap;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;

use super::{Json, Places, absolute, daemon_at, daemon_state_dir, failed, settings, usage};
use crate::client::{self, Failed};
use crate::config::{self, Settings};
use crate::release::commands;
use crate::release::git;
use crate::release::link::Link;
use crate::release::push::{self, Asked, Origin, Style};

#[derive(Subcommand)]
pub enum Deploying {
    /// Build a tree, release it and wait until it serves; the release before stays if anything fails
    Push {
        /// A directory with a dotcloud.yml, an artifact of hob build, a tar archive, or `-` for one on standard input
        /// [default: the current directory or one above it]
        #[arg(value_name = "DIR|ARTIFACT|-")]
        from: Option<PathBuf>,
        /// Build in empty homes instead of those of the last build
        #[arg(long)]
        clean: bool,
        /// Only this service; may be given several times
        #[arg(long = "service", value_name = "NAME")]
        services: Vec<String>,
        /// Push to the hob on another machine, through ssh
        #[arg(long, value_name = "[USER@]HOST")]
        to: Option<String>,
        /// The name of the application [default: that of the directory]
        #[arg(long, value_name = "NAME")]
        project: Option<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Release a revision again without a build: to go back, or to run postinstall again
    Deploy {
        /// A revision or the beginning of one, `latest` or `previous`
        #[arg(value_name = "REV")]
        revision: String,
        #[command(flatten)]
        json: Json,
    },
    /// Show the releases with their time, size and state
    Revisions {
        #[command(flatten)]
        json: Json,
    },
    /// Show what a deployment printed
    Dlogs {
        /// The revision that was deployed, or `latest` for the last deployment of all
        #[arg(value_name = "REV", default_value = "latest")]
        revision: String,
        /// Go on until the deployment has ended
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Show or change the variables of all services; a change redeploys without a build
    Env {
        #[command(subcommand)]
        what: Env,
    },
    /// Change how many instances of a service run
    Scale {
        #[arg(required = true, value_name = "SVC=N", value_parser = scaled)]
        numbers: Vec<(String, u32)>,
        #[command(flatten)]
        json: Json,
    },
    /// End a service and delete its homes and data; it comes back with the next push if the dotcloud.yml has it
    Destroy {
        #[arg(value_name = "SVC")]
        service: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Make a bare git repository that deploys what is pushed to it, or give one a new hook
    ///
    /// What is pushed to the branch that its HEAD names is deployed as by hob push, and the pusher sees the output. If
    /// the deployment fails, the push is refused: the branch stays where it was, as the release does. Other branches are
    /// kept and not deployed. The hook calls this very hob with the paths of now; call this again when they change.
    GitInit {
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// The branch to deploy [default: main, or what it is in a repository that is there]
        #[arg(long, value_name = "NAME")]
        branch: Option<String>,
    },
}

#[derive(Subcommand)]
pub enum Env {
    /// Show the variables
    List {
        #[command(flatten)]
        json: Json,
    },
    /// Set variables
    Set {
        #[arg(required = true, value_name = "K=V", value_parser = variable)]
        variables: Vec<(String, String)>,
        #[command(flatten)]
        json: Json,
    },
    /// Remove variables
    Unset {
        #[arg(required = true, value_name = "K")]
        names: Vec<String>,
        #[command(flatten)]
        json: Json,
    },
}

pub fn run(command: Deploying, places: &Places) -> Result<i32, Failed> {
    let settings = settings(places)?;
    match command {
        Deploying::Push { from, clean, services, to, project, json } => {
            let from = origin(from)?;
            if let Some(host) = to {
                let words = commands::Remote { host, clean, services, project, json: json.json };
                return commands::push_to(&words, &from).map_err(failed);
            }
            deploy(&Asked::Push { from, clean, services, project }, places, settings, json.json)
        }
        Deploying::Deploy { revision, json } => deploy(&Asked::Deploy(revision), places, settings, json.json),
        Deploying::Revisions { json } => {
            let list = commands::revisions(&daemon_state_dir(places, &settings)).map_err(failed)?;
            let text = if json.json { format!("{:#}\n", json!(list)) } else { client::table(&commands::rows(&list)) };
            client::print(&text)?;
            Ok(0)
        }
        Deploying::Dlogs { revision, follow, json } => {
            let style = if json.json { Style::Json } else { Style::Lines };
            commands::dlogs(&daemon_state_dir(places, &settings), &revision, follow, style).map_err(failed)
        }
        Deploying::Env { what: Env::List { json } } => {
            let list = commands::variables(&daemon_state_dir(places, &settings)).map_err(failed)?;
            let text = if json.json {
                let map: serde_json::Map<String, serde_json::Value> =
                    list.into_iter().map(|(name, value)| (name, value.into())).collect();
                format!("{:#}\n", json!(map))
            } else {
                list.iter().map(|(name, value)| format!("{name}={value}\n")).collect()
            };
            client::print(&text)?;
            Ok(0)
        }
        Deploying::Env { what: Env::Set { variables, json } } => {
            let set: BTreeMap<String, String> = variables.into_iter().collect();
            deploy(&Asked::Env { set, unset: Vec::new() }, places, settings, json.json)
        }
        Deploying::Env { what: Env::Unset { names, json } } => {
            let known = commands::variables(&daemon_state_dir(places, &settings)).map_err(failed)?;
            if let Some(unknown) = names.iter().find(|name| !known.iter().any(|(known, _)| known == *name)) {
                return Err(Failed { message: format!("cannot unset {unknown:?}: it is not set"), status: 1 });
            }
            deploy(&Asked::Env { set: BTreeMap::new(), unset: names }, places, settings, json.json)
        }
        Deploying::Scale { numbers, json } => {
            deploy(&Asked::Scale(numbers.into_iter().collect()), places, settings, json.json)
        }
        Deploying::Destroy { service, yes } => {
            if !yes && !is_sure(&service)? {
                return Err(Failed { message: format!("{service} is not destroyed"), status: 1 });
            }
            deploy(&Asked::Destroy(service), places, settings, false)
        }
        Deploying::GitInit { dir, branch } => {
            let reach = git::Reach {
                hob: std::env::current_exe()?,
                settings: settings.files,
                socket: absolute(settings.socket),
                state_dir: absolute(settings.state_dir),
                log_dir: absolute(settings.log_dir),
            };
            client::print(&git::init(&dir, branch.as_deref(), &reach).map_err(failed)?)?;
            Ok(0)
        }
    }
}

/// `hob build -o`.
pub fn build_artifact(dir: &Path, out: PathBuf, places: &Places) -> Result<i32, Failed> {
    let Origin::Tree(dir) = origin(Some(dir.to_owned()))? else {
        return Err(usage(format!("cannot build {}: it is not a directory", dir.display())));
    };
    deploy(&Asked::Artifact { dir, out: absolute(out) }, places, settings(places)?, false)
}

fn deploy(asked: &Asked, places: &Places, settings: Settings, json: bool) -> Result<i32, Failed> {
    let daemon = daemon_at(places)?;
    let ask = move |method: &str, path: &str, body: &[u8]| {
        daemon.ask::<serde_json::Value>(method, path, body).map_err(|failed| (failed.message, failed.status))
    };
    let style = if json { Style::Json } else { Style::Lines };
    push::run(asked, Link::new(Box::new(ask)), settings, style).map_err(failed)
}

/// What is pushed; without a word, the nearest directory above that holds a dotcloud.yml.
fn origin(from: Option<PathBuf>) -> Result<Origin, Failed> {
    let Some(from) = from else {
        let here = std::env::current_dir()?;
        let found = here.ancestors().find(|dir| dir.join("dotcloud.yml").exists());
        return match found {
            Some(dir) => Ok(Origin::Tree(dir.to_owned())),
            None => Err(usage(format!("Couldn't find a dotcloud.yml in {} or above it", here.display()))),
        };
    };
    if from == Path::new("-") {
        if io::stdin().is_terminal() {
            return Err(usage("cannot push from a terminal: send a tar archive to standard input".into()));
        }
        return Ok(Origin::Stdin);
    }
    let shown = from.display().to_string();
    let real = std::fs::canonicalize(&from)
        .map_err(|why| usage(format!("cannot push {shown}: {}", why.to_string().to_lowercase())))?;
    match real.is_dir() {
        true if !real.join("dotcloud.yml").exists() => Err(usage(format!("Couldn't find a dotcloud.yml in {shown}"))),
        true => Ok(Origin::Tree(real)),
        false if real.is_file() => Ok(Origin::Archive(real)),
        false => Err(usage(format!("cannot push {shown}: it is neither a directory nor a file"))),
    }
}

fn is_sure(service: &str) -> Result<bool, Failed> {
    if !io::stdin().is_terminal() {
        return Err(usage(format!("destroying {service} deletes its data: say --yes where nobody can be asked")));
    }
    eprint!("Destroy service {service} with its data? [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn scaled(text: &str) -> Result<(String, u32), String> {
    let (service, number) = text.split_once('=').ok_or("it is written like www=3")?;
    let service = match service.split_once(':') {
        None => service,
        Some((service, "instances")) => service,
        Some(_) => return Err("Action must be \"instances\"".to_owned()),
    };
    let number: u32 = number.parse().map_err(|_| "Instance count must be a number".to_owned())?;
    if !(1..=config::MAX_INSTANCES).contains(&number) {
        return Err(format!("Instance count must be from 1 to {}", config::MAX_INSTANCES));
    }
    Ok((service.to_owned(), number))
}

/// The messages are those of the original (reference/dotcloud.md §3).
fn variable(text: &str) -> Result<(String, String), String> {
    let form = "Environment variables are set like \"foo=bar\".";
    let Some((name, value)) = text.split_once('=').filter(|(name, _)| !name.is_empty()) else {
        return Err(format!("\"{text}\" is an invalid environment variable expression. {form}"));
    };
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !name.chars().all(good) || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(format!("{name:?} cannot be the name of a variable: letters, digits and \"_\", no digit first"));
    }
    if name.starts_with("DOTCLOUD_") || name.starts_with("PORT_") {
        return Err(format!("{name} belongs to hob: names that begin with DOTCLOUD_ or PORT_ cannot be set"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_instances_has_a_service_and_a_bound() {
        assert_eq!(scaled("www=3"), Ok(("www".into(), 3)));
        assert_eq!(scaled("www:instances=3"), Ok(("www".into(), 3)));
        assert_eq!(scaled("www=x"), Err("Instance count must be a number".into()));
        for bad in ["www", "www=0", "www=257", "www:memory=3", "www=-1"] {
            assert!(scaled(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_variable_has_everything_after_the_first_equals_sign() {
        assert_eq!(variable("A=b=c d%"), Ok(("A".into(), "b=c d%".into())));
        assert_eq!(variable("A="), Ok(("A".into(), String::new())));
        for bad in ["A", "=x", "A-B=c", "1A=c", "DOTCLOUD_X=1", "PORT_WWW=1", " A=1"] {
            assert!(variable(bad).is_err(), "{bad}");
        }
    }
}
