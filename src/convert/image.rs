//! The image that containers run: Debian, the built homes of all services, and hob as PID 1.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

use super::app::{App, CODE, HOME, Part, is_root};
use super::{MadeFile, toml, yaml};
use crate::config::{self, Settings};
use crate::plan::ExitWhen;
use crate::sys;

/// The Containerfile.
pub fn containerfile(app: &App) -> MadeFile {
    let mut out = app.heading(&[
        format!("The image of {}: the built home of every service, and hob as PID 1. Made by hob export.", app.name),
        format!("Build it in the tree, the folder with the dotcloud.yml. A static hob runs in any image:\n  cp \"$(command -v hob)\" .hob && podman build -t {} -f {} .", app.image, in_output(app, "Containerfile")),
    ]);
    out.push_str("FROM docker.io/library/debian:stable-slim\n");
    let packages: BTreeSet<&str> =
        app.services.iter().flat_map(|part| part.service.systempackages.iter().map(String::as_str)).collect();
    if !packages.is_empty() {
        let list: Vec<&str> = packages.into_iter().collect();
        let _ = write!(
            out,
            "# systempackages. None of them may start its daemon: hob does that.\n\
             RUN printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d \\\n \
             && apt-get update \\\n \
             && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends {} \\\n \
             && rm -rf /var/lib/apt/lists/*\n",
            list.join(" ")
        );
    }
    let user = user(app);
    if !is_root(&app.user) {
        let _ = writeln!(
            out,
            "RUN id -u {user} >/dev/null 2>&1 || useradd --uid {UID} --create-home --home-dir {HOME} --shell /bin/bash {user}"
        );
    }
    for other in other_users(app) {
        let _ = writeln!(out, "RUN id -u {other} >/dev/null 2>&1 || useradd --system {other}");
    }
    out.push_str("COPY .hob /usr/local/bin/hob\n");
    let lines: Vec<String> = app.settings.lines().map(shell_word).collect();
    let _ = writeln!(out, "RUN printf '%s\\n' \\\n    {} \\\n    > /etc/hob.toml", lines.join(" \\\n    "));
    let _ = writeln!(out, "# hob's own places, for whichever user it runs as.");
    let _ = writeln!(
        out,
        "ENV HOB_CONFIG=/etc/hob.toml HOB_SOCKET=/run/hob/hob.sock HOB_STATE_DIR=/var/lib/hob HOB_LOG_DIR=/var/log/supervisor"
    );
    let _ = writeln!(
        out,
        "RUN mkdir -p {HOME} /run/hob /var/lib/hob /var/log/supervisor \\\n && chown {user}: {HOME} /run/hob /var/lib/hob /var/log/supervisor"
    );
    let _ = writeln!(out, "COPY --chown={user} . {CODE}");
    out.push_str("# Packages, prebuild, buildscript and postbuild of every service; the variables of the run are not there yet.\n");
    let _ = writeln!(out, "RUN hob build {CODE} --home {HOME}");
    if app.needs_root() {
        yaml::comment(
            &mut out,
            0,
            "hob stays root, as some processes run as another user than the rest; it becomes them.",
        );
    } else {
        let _ = writeln!(out, "USER {user}");
    }
    let _ = writeln!(out, "ENTRYPOINT [\"/usr/local/bin/hob\", \"boot\", \"--file\", \"{CODE}/dotcloud.yml\"]");
    match app.services.as_slice() {
        [only] => {
            let words: Vec<String> = only.boot_words().iter().map(|word| format!("\"{word}\"")).collect();
            let _ = writeln!(out, "CMD [{}]", words.join(", "));
        }
        several => {
            yaml::comment(&mut out, 0, "Say which service:");
            for part in several {
                yaml::comment(&mut out, 0, &format!("  podman run {} {}", app.image, part.boot_words().join(" ")));
            }
        }
    }
    out.push_str(
        "# hob passes the stop on to every process, in order, and gives each its own time.\nSTOPSIGNAL SIGTERM\n",
    );
    MadeFile { shown: false, ..MadeFile::new("Containerfile", out) }
}

/// A shell script that puts the built home of a service into a volume at `/volume`, all but the `~/data` that is there:
/// what a push does with the home of an instance.
pub fn refresh(app: &App, part: &Part) -> String {
    let (home, user) = (part.home.display(), user(app));
    format!(
        "set -e\n\
         cd /volume\n\
         find . -mindepth 1 -maxdepth 1 ! -name data ! -name lost+found -exec rm -rf {{}} +\n\
         cd {home}\n\
         keep=; if [ -e /volume/data ]; then keep=data; fi\n\
         find . -mindepth 1 -maxdepth 1 ! -name \"$keep\" -exec cp -a -t /volume {{}} +\n\
         if [ \"$(id -u)\" = 0 ]; then chown {user}: /volume; fi\n"
    )
}

/// The settings that hob needs in an image: what is said of processes and of the application, and no place or password
/// of this machine.
pub fn settings(settings: &Settings) -> String {
    let mut out = String::new();
    if let Some(user) = &settings.user {
        let _ = writeln!(out, "user = {}", toml::string(&user.value));
    }
    match settings.exit_when {
        ExitWhen::Never => {}
        ExitWhen::AnyFatal => out.push_str("exit_when = \"any-fatal\"\n"),
        ExitWhen::AllExited => out.push_str("exit_when = \"all-exited\"\n"),
    }
    if !settings.relay_signals.is_empty() {
        out.push_str("[relay_signals]\n");
        for (signal, names) in &settings.relay_signals {
            let names: Vec<String> = names.iter().map(|name| toml::string(&name.value)).collect();
            let _ = writeln!(out, "{} = [{}]", toml::key(&sys::signal_names::name(*signal)), names.join(", "));
        }
    }
    let defaults = settings.defaults.as_ref().and_then(|defaults| serde_json::from_str(&defaults.as_json()).ok());
    if let Some(Value::Object(defaults)) = defaults
        && !defaults.is_empty()
    {
        out.push_str("[defaults]\n");
        for (key, value) in &defaults {
            let _ = writeln!(out, "{} = {}", toml::key(key), toml::value(value));
        }
    }
    out
}

/// The user of the container, without a group.
pub fn user(app: &App) -> &str {
    app.user.split(':').next().unwrap_or(config::DEFAULT_USER)
}

/// The number of that user, where it is not root.
pub fn uid(app: &App) -> u64 {
    user(app).parse().unwrap_or(UID)
}

fn other_users(app: &App) -> BTreeSet<String> {
    let specs = app.services.iter().flat_map(Part::specs);
    let names = specs.filter_map(|spec| spec.user.as_ref()?.name.split(':').next().map(str::to_owned));
    names.filter(|name| name != user(app) && !is_root(name) && name.parse::<u32>().is_err()).collect()
}

/// A file of the output, from the tree.
pub fn in_output(app: &App, name: &str) -> String {
    if app.to_output == "." { name.to_owned() } else { format!("{}/{name}", app.to_output) }
}

fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// What the user of a container gets where it is not there already.
const UID: u64 = 1000;
