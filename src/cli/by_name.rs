//! The programs of supervisord that hob is when it is called by their names (DESIGN §9).

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::client::supervisorctl;
use crate::config;
use crate::control::SUPERVISOR_VERSION;
use crate::getopt::{self, Flag};
use crate::{pidproxy, sys};

/// The role that the name stands for: takes the name as it was called, and its arguments; gives the exit status.
pub fn role(argv0: &OsStr) -> Option<fn(&OsStr, Vec<OsString>) -> i32> {
    match Path::new(argv0).file_name()?.to_str()? {
        "supervisorctl" => Some(supervisorctl),
        "pidproxy" => Some(pidproxy),
        "echo_supervisord_conf" => Some(echo_supervisord_conf),
        _ => None,
    }
}

const CTL_FLAGS: &[Flag] = &[
    Flag { short: 'h', long: "help", takes_value: false },
    Flag { short: '?', long: "", takes_value: false },
    Flag { short: 'v', long: "version", takes_value: false },
    Flag { short: 'c', long: "configuration", takes_value: true },
    Flag { short: 'i', long: "interactive", takes_value: false },
    Flag { short: 's', long: "serverurl", takes_value: true },
    Flag { short: 'u', long: "username", takes_value: true },
    Flag { short: 'p', long: "password", takes_value: true },
    Flag { short: 'r', long: "history_file", takes_value: true },
];

const CTL_HELP: &str = "\
supervisorctl: control the processes of a supervisord.

Usage: supervisorctl [options] [action [arguments]]

  -c, --configuration FILE   the configuration, of which [supervisorctl] is read [default: searched for]
  -s, --serverurl URL        where the server is: unix:///path or http://host:port [default: http://localhost:9001]
  -u, --username NAME        who we are to it [default: that of the file, else $SUPERVISOR_USERNAME]
  -p, --password PASSWORD    and its password; others can see it in ps, so better keep it in the file or in
                             $SUPERVISOR_PASSWORD
  -i, --interactive          begin the shell, which is also what happens without an action
  -r, --history_file FILE    where the shell remembers its lines
  -v, --version              print the version of supervisor that this is like
  -h, --help                 print this

The action `help` lists the actions, `help ACTION` tells about one.
";

fn supervisorctl(argv0: &OsStr, words: Vec<OsString>) -> i32 {
    match ctl_options(argv0, &lossy(words)) {
        Ok(Wanted::Run(options)) => supervisorctl::main(*options),
        Ok(Wanted::Text(text)) => {
            let _ = crate::client::print(&text);
            0
        }
        Err(wrong) => usage(argv0, &wrong),
    }
}

/// What the flags ask for.
enum Wanted {
    Run(Box<supervisorctl::Options>),
    Text(String),
}

fn ctl_options(argv0: &OsStr, words: &[String]) -> Result<Wanted, String> {
    let (given, action) = getopt::parse(CTL_FLAGS, words)?;
    for (nth, (flag, value)) in given.iter().enumerate() {
        match flag.short {
            'h' | '?' => return Ok(Wanted::Text(CTL_HELP.to_owned())),
            'v' => return Ok(Wanted::Text(format!("{SUPERVISOR_VERSION}\n"))),
            's' if !is_url(value) => {
                return Err(format!("invalid value for -s '{value}': value '{value}' is not a URL"));
            }
            _ => {}
        }
        if given[..nth].iter().any(|(earlier, _)| earlier.short == flag.short) {
            return Err(format!("conflicting command line option '-{}'", flag.short));
        }
    }
    let flag = |short: char| given.iter().find(|(flag, _)| flag.short == short).map(|(_, value)| value.clone());
    let file = flag('c').map(PathBuf::from).or_else(|| {
        let places = config::supervisord_conf_places(argv0);
        let (uid, _) = sys::user::effective();
        config::find_supervisord_conf(&places, uid, &mut |why| {
            let _ = writeln!(io::stderr(), "supervisorctl: {why}");
        })
    });
    let env = config::own_env();
    let section = file.map(|file| config::supervisorctl(&file, &env)).transpose()?.unwrap_or_default();
    for plugin in &section.plugins {
        let _ = writeln!(io::stderr(), "supervisorctl: [ctlplugin:{plugin}] is Python code and is not loaded");
    }
    let variable = |name: &str| env.get(name).filter(|value| !value.is_empty()).cloned();
    Ok(Wanted::Run(Box::new(supervisorctl::Options {
        serverurl: flag('s').or(section.serverurl).unwrap_or_else(|| "http://localhost:9001".to_owned()),
        username: flag('u').or(section.username).or_else(|| variable("SUPERVISOR_USERNAME")),
        password: flag('p').or(section.password).or_else(|| variable("SUPERVISOR_PASSWORD")),
        prompt: section.prompt.unwrap_or_else(|| "supervisor".to_owned()),
        history_file: flag('r').map(PathBuf::from).or(section.history_file),
        interactive: flag('i').is_some(),
        action,
    })))
}

/// A scheme, and something behind it (RFC 3986).
fn is_url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    is_scheme && !rest.trim_start_matches('/').is_empty()
}

fn usage(argv0: &OsStr, wrong: &str) -> i32 {
    let _ = writeln!(io::stderr(), "Error: {wrong}\nFor help, use {} -h", argv0.to_string_lossy());
    2
}

fn lossy(words: Vec<OsString>) -> Vec<String> {
    words.into_iter().map(|word| word.to_string_lossy().into_owned()).collect()
}

fn pidproxy(argv0: &OsStr, words: Vec<OsString>) -> i32 {
    match words.as_slice() {
        [pidfile, command @ ..] if !command.is_empty() => pidproxy::main(Path::new(pidfile), command),
        _ => {
            // On stdout and with this status, as the original does it.
            let text = format!("Usage: {} <pidfile name> <command> [<cmdarg1> ...]\n", argv0.to_string_lossy());
            let _ = crate::client::print(&text);
            1
        }
    }
}

/// Whatever is said to it, as the original does.
fn echo_supervisord_conf(_: &OsStr, _: Vec<OsString>) -> i32 {
    let _ = crate::client::print(config::SAMPLE_SUPERVISORD_CONF);
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_known_by_the_last_part_of_its_name() {
        assert!(role(OsStr::new("/usr/bin/supervisorctl")).is_some() && role(OsStr::new("pidproxy")).is_some());
        assert!(role(OsStr::new("hob")).is_none() && role(OsStr::new("/supervisorctl/hob")).is_none());
    }

    #[test]
    fn a_url_is_what_the_original_takes_for_one() {
        for good in ["http://h:1", "unix:///s", "localhost:9001", "foo:x"] {
            assert!(is_url(good), "{good}");
        }
        for bad in ["", "localhost", "http://", "/path", "1a:x", ":x"] {
            assert!(!is_url(bad), "{bad}");
        }
    }
}
