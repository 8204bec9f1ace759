//! What a supervisord.conf says about the daemon itself, as a hob.toml.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::supervisord::Maker;
use super::{toml, yaml};
use crate::config::{Level, MainLog};
use crate::plan::{Address, ExitWhen};

impl Maker {
    /// hob.toml, and notes about what belongs there and cannot be said.
    pub fn settings(&mut self, root: bool) -> String {
        let mut out = String::new();
        let mut head = String::new();
        yaml::comment(
            &mut head,
            0,
            &format!("What {} says about the daemon. Made by hob migrate. See hob.toml(5).", self.file.display()),
        );
        yaml::comment(&mut head, 0, "Beside the dotcloud.yml it is read with --config; as /etc/hob.toml, always.");
        let main = self.conf.main.clone();
        let wants_user = main.user.is_some() || self.conf.plan.specs.iter().any(|spec| spec.user.is_some());
        if root || wants_user {
            let user = main.user.as_ref().map_or("root", |user| user.name.as_str());
            let note = "Whom programs run as that do not say: supervisord's own user. hob's default would be dotcloud.";
            setting(&mut out, note, "user", &toml::string(user));
        }
        if let Some(folder) = self.log_folder() {
            let note = "Where most of the logs were. Each is now NAME.log in there.";
            setting(&mut out, note, "log_dir", &toml::string(&folder.to_string_lossy()));
        }
        setting(&mut out, "supervisord copies no program's output to its own.", "console", "false");
        let level = match main.loglevel {
            Level::Critical | Level::Error => Some("error"),
            Level::Warning => Some("warn"),
            Level::Info => None,
            Level::Debug => Some("debug"),
            Level::Trace | Level::Blather => Some("trace"),
        };
        if let Some(level) = level {
            setting(&mut out, "loglevel", "log_level", &toml::string(level));
        }
        match self.conf.plan.exit_when {
            ExitWhen::Never => {}
            ExitWhen::AnyFatal => setting(&mut out, "exit_when", "exit_when", "\"any-fatal\""),
            ExitWhen::AllExited => setting(&mut out, "exit_when", "exit_when", "\"all-exited\""),
        }
        self.servers(&mut out);
        let mut lost = Vec::new();
        match &main.logfile {
            Some(MainLog::File { path, .. }) => lost.push(format!(
                "logfile={}: hob's own messages go to its standard error, which systemd keeps in the journal",
                path.display()
            )),
            Some(MainLog::Syslog) => {
                lost.push("logfile=syslog: hob's own messages go to its standard error".to_owned())
            }
            None => {}
        }
        if !main.nodaemon {
            lost.push(
                "nodaemon=false: hob stays in the foreground; conf/hob.service runs it as a unit of systemd".to_owned(),
            );
        }
        if main.minprocs != 200 {
            lost.push(format!("minprocs={}: hob leaves the limit of processes alone", main.minprocs));
        }
        if main.strip_ansi {
            lost.push("strip_ansi=true: escape sequences stay in the logs".to_owned());
        }
        if !lost.is_empty() {
            out.push('\n');
            yaml::comment(&mut out, 0, "Not here:");
            for told in lost {
                yaml::comment(&mut out, 0, &told);
            }
        }
        head + &out
    }

    fn servers(&mut self, out: &mut String) {
        let servers = self.conf.plan.supervisord.as_ref().map(|own| own.servers.clone()).unwrap_or_default();
        let mut listens = false;
        for server in servers {
            match &server.address {
                Address::Unix { path, mode, group, .. } => {
                    if *mode & 0o070 != 0 {
                        let note = format!(
                            "As {} was; supervisorctl's place is taken by hob status, hob restart and so on.",
                            path.display()
                        );
                        setting(out, &note, "socket_mode", &toml::string(&format!("{:04o}", mode & 0o770)));
                        if let Some(group) = group {
                            let _ = writeln!(out, "socket_group = {}", toml::string(&group.to_string()));
                        }
                    }
                }
                Address::Inet { host, port } => {
                    let host = match host.as_str() {
                        "" => Some("*".to_owned()),
                        "localhost" => Some("127.0.0.1".to_owned()),
                        host => host
                            .parse::<IpAddr>()
                            .ok()
                            .map(|ip| if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }),
                    };
                    let told = match (&host, &server.login) {
                        _ if listens => Some("hob listens at one address"),
                        (None, _) => Some("hob listens at addresses, not at names"),
                        (_, None) => Some("hob does not listen without a password; set listen and listen_password"),
                        (Some(_), Some(_)) => None,
                    };
                    if let Some(told) = told {
                        let told = format!("[{}] is left out: {told}", server.name);
                        out.push('\n');
                        yaml::comment(out, 0, &told);
                        self.warnings.push(told);
                    } else if let (Some(host), Some(login)) = (host, &server.login) {
                        listens = true;
                        setting(
                            out,
                            "The page, the API and /metrics; the XML-RPC of supervisord is at /RPC2 too.",
                            "listen",
                            &toml::string(&format!("{host}:{port}")),
                        );
                        if !login.username.is_empty() {
                            let _ = writeln!(out, "listen_user = {}", toml::string(&login.username));
                        }
                        let _ = writeln!(out, "listen_password = {}", toml::string(&login.password));
                    }
                }
            }
        }
    }

    /// The folder that most logs are in; of automatic ones, where they are made.
    pub fn log_folder(&self) -> Option<PathBuf> {
        let mut count: BTreeMap<PathBuf, usize> = BTreeMap::new();
        let logs = self.conf.plan.specs.iter().flat_map(|spec| [Some(&spec.log), spec.log.stderr.as_deref()]).flatten();
        for log in logs {
            let auto = log.extras.as_ref().is_some_and(|extras| extras.auto);
            let folder = if auto {
                Some(self.conf.main.childlogdir.clone())
            } else {
                log.file().and_then(Path::parent).map(Path::to_owned)
            };
            // Of the folder for temporary files itself nobody thinks as one for logs.
            let is_place = |folder: &PathBuf| {
                let is_special = ["/dev", "/proc"].iter().any(|other| folder.starts_with(other));
                folder.is_absolute() && !is_special && *folder != std::env::temp_dir() && folder != Path::new("/tmp")
            };
            if let Some(folder) = folder.filter(is_place) {
                *count.entry(folder).or_default() += 1;
            }
        }
        // The first by name of those that are equal.
        count.into_iter().rev().max_by_key(|(_, count)| *count).map(|(folder, _)| folder)
    }
}

fn setting(out: &mut String, note: &str, key: &str, value: &str) {
    out.push('\n');
    yaml::comment(out, 0, note);
    let _ = writeln!(out, "{key} = {value}");
}
