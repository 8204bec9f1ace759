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
    if !is_root(&app.user) && user.parse::<u32>().is_err() {
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
    let owner = owner(app);
    let _ = writeln!(
        out,
        "RUN mkdir -p {HOME} /run/hob /var/lib/hob /var/log/supervisor \\\n && chown {owner} {HOME} /run/hob /var/lib/hob /var/log/supervisor"
    );
    let _ = writeln!(out, "COPY --chown={user} . {CODE}");
    out.push_str("# Packages, prebuild, buildscript and postbuild of every service; the variables of the run are not there yet.\n");
    let _ = write!(out, "RUN hob build {CODE} --home {HOME}");
    let keeps: Vec<&Part> = app.services.iter().filter(|part| part.data.is_some()).collect();
    if !keeps.is_empty() {
        let _ = write!(out, " \\\n && mkdir {BUILT}");
    }
    for part in &keeps {
        let (home, built) = (part.home.display(), built(part));
        let _ = write!(out, " \\\n && mv {home} {built} && mkdir {home} && chown {owner} {home}");
    }
    out.push('\n');
    if !keeps.is_empty() {
        yaml::comment(
            &mut out,
            0,
            "A home with ~/data is a volume. At each start it becomes a fresh copy of the built one, all but its ~/data: \
             what a push does. A volume at ~/data itself would be there, and empty, before a program has made it.",
        );
        let lines: Vec<String> = refresh(app).lines().map(shell_word).collect();
        let _ = writeln!(
            out,
            "RUN printf '%s\\n' \\\n    {} \\\n    > {REFRESH} && chmod +x {REFRESH}",
            lines.join(" \\\n    ")
        );
    }
    if app.needs_root() {
        yaml::comment(
            &mut out,
            0,
            "hob stays root, as some processes run as another user than the rest; it becomes them.",
        );
    } else {
        let _ = writeln!(out, "USER {user}");
    }
    match app.services.as_slice() {
        [only] => {
            let _ = writeln!(out, "ENTRYPOINT {}", json(&entry(only)));
            let _ = writeln!(out, "CMD {}", json(&only.boot_words()));
        }
        several => {
            let _ = writeln!(out, "ENTRYPOINT {}", json(&hob_boot()));
            yaml::comment(&mut out, 0, "Say which service:");
            for part in several {
                let words = part.boot_words().join(" ");
                let line = match part.data {
                    None => format!("  podman run {} {words}", app.image),
                    Some(_) => {
                        let (name, home) = (&part.service.name, part.home.display());
                        let rest = entry(part)[1..].join(" ");
                        format!(
                            "  podman run -v {name}-home:{home} --entrypoint {REFRESH} {} {rest} {words}",
                            app.image
                        )
                    }
                };
                yaml::comment(&mut out, 0, &line);
            }
        }
    }
    out.push_str(
        "# hob passes the stop on to every process, in order, and gives each its own time.\nSTOPSIGNAL SIGTERM\n",
    );
    MadeFile { shown: false, ..MadeFile::new("Containerfile", out) }
}

/// What does not go into the image: what a push leaves out of a tree, and the values of secrets.
pub fn ignored(app: &App) -> MadeFile {
    let mut out = app.heading(&[
        "What is not part of the image: .dotcloudignore, and the values of secrets. Made by hob export.".to_owned(),
    ]);
    let text = config::read_bounded(&app.dir.join(".dotcloudignore")).unwrap_or_default();
    for line in String::from_utf8_lossy(&text).lines().chain([".git", ".hg", "*.pyc", "secrets.env"]) {
        out.extend(pattern(line).map(|pattern| pattern + "\n"));
    }
    MadeFile { shown: false, ..MadeFile::new("Containerfile.dockerignore", out) }
}

/// A pattern of rsync's as one of Docker's, which all count from the root.
fn pattern(line: &str) -> Option<String> {
    let line = line.trim();
    if line.starts_with(['#', ';']) {
        return None;
    }
    let (line, mark) = match (line.strip_prefix("- "), line.strip_prefix("+ ").or(line.strip_prefix('!'))) {
        (Some(rest), _) => (rest.trim_start(), ""),
        (None, Some(rest)) => (rest.trim_start(), "!"),
        (None, None) => (line, ""),
    };
    let line = line.trim_end_matches('/');
    match line.strip_prefix('/') {
        _ if line.is_empty() => None,
        Some(rooted) => Some(format!("{mark}{rooted}")),
        None if line.starts_with("**/") => Some(format!("{mark}{line}")),
        None => Some(format!("{mark}**/{line}")),
    }
}

/// What a container of a service begins with, before the words of hob boot.
pub fn entry(part: &Part) -> Vec<String> {
    let mut words = Vec::new();
    if part.data.is_some() {
        words.extend([REFRESH.to_owned(), built(part), part.home.to_string_lossy().into_owned()]);
    }
    words.extend(hob_boot());
    words
}

fn hob_boot() -> Vec<String> {
    ["/usr/local/bin/hob", "boot", "--file", "/code/dotcloud.yml"].map(str::to_owned).to_vec()
}

/// Where the built home of a service is whose own is a volume.
fn built(part: &Part) -> String {
    format!("{BUILT}/{}", part.service.name)
}

/// The script that makes a home in a volume afresh and then becomes what is to run.
fn refresh(app: &App) -> String {
    format!(
        "#!/bin/sh\n\
         # refresh BUILT HOME CMD...: HOME becomes a copy of BUILT, but for its ~/data; then CMD runs.\n\
         set -e\n\
         built=$1 home=$2\n\
         shift 2\n\
         cd \"$home\"\n\
         if [ \"$(id -u)\" = 0 ]; then chown {} .; fi\n\
         find . -mindepth 1 -maxdepth 1 ! -name data ! -name lost+found -exec rm -rf {{}} +\n\
         keep=\n\
         if [ -e data ]; then keep=data; fi\n\
         cd \"$built\"\n\
         find . -mindepth 1 -maxdepth 1 ! -name \"$keep\" -exec cp -a -t \"$home\" {{}} +\n\
         cd /\n\
         exec \"$@\"\n",
        owner(app)
    )
}

fn json(words: &[String]) -> String {
    serde_json::Value::from(words.to_vec()).to_string().replace("\",\"", "\", \"")
}

/// The settings that hob needs in an image: what is said of processes and of the application, and no place or password
/// of this machine.
pub fn settings(settings: &Settings) -> String {
    let mut out = String::new();
    if let Some(user) = &settings.user {
        let _ = writeln!(out, "user = {}", toml::string(&user.value));
    }
    if let Some(console) = settings.console {
        let _ = writeln!(out, "console = {console}");
    }
    if settings.log_level != "info" {
        let _ = writeln!(out, "log_level = {}", toml::string(&settings.log_level));
    }
    for (key, length, usual) in [
        ("build_timeout", settings.build_timeout, 15 * 60),
        ("postinstall_timeout", settings.postinstall_timeout, 10 * 60),
    ] {
        if length.as_secs() != usual {
            let _ = writeln!(out, "{key} = \"{}ms\"", length.as_millis());
        }
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

/// The number of that user. Of one that Debian may have already nobody knows it here.
pub fn uid(app: &App) -> Option<u64> {
    let user = user(app);
    user.parse().ok().or((user == config::DEFAULT_USER).then_some(UID))
}

/// As chown(1) takes it: with the user's own group.
fn owner(app: &App) -> String {
    let user = user(app);
    if user.parse::<u32>().is_ok() { format!("{user}:{user}") } else { format!("{user}:") }
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

const BUILT: &str = "/built";
const REFRESH: &str = "/usr/local/bin/refresh";
/// What the user of a container gets where it is not there already.
const UID: u64 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_a_push_become_those_of_an_image() {
        for (line, expected) in [
            ("*.log", Some("**/*.log")),
            ("/tmp", Some("tmp")),
            ("cache/", Some("**/cache")),
            ("+ /keep/me", Some("!keep/me")),
            ("!x", Some("!**/x")),
            ("- **/y", Some("**/y")),
            ("# no", None),
            ("", None),
            ("/", None),
        ] {
            assert_eq!(pattern(line).as_deref(), expected, "{line}");
        }
    }
}
