//! `hob run`: a command, or a login shell, inside an instance: its home, its profile, its variables, its user.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::script::describe;
use crate::sys::{command, mount, process};
use crate::wire::Environment;

/// Becomes the command; comes back only with why it could not. An exec that fails is told and gives 127 or 126.
pub fn main(environment: &Environment, argv: &[OsString]) -> Result<i32, String> {
    let user = environment.user.as_ref();
    if !environment.binds.is_empty() {
        mount::enter(environment.binds.iter().map(|bind| (bind.from.as_path(), bind.to.as_path())))
            .map_err(|why| format!("cannot see {} as the instance does: {}", environment.home, describe(&why)))?;
    }
    if let Some(user) = user {
        process::become_user(user.uid, user.gid, &user.groups)
            .map_err(|(stage, why)| format!("cannot {stage} of {}: {}", user.name, describe(&why)))?;
    }
    std::env::set_current_dir(&environment.home)
        .map_err(|why| format!("cannot change to {}: {}", environment.home, describe(&why)))?;
    let words = words(environment, argv)?;
    Ok(command::exec(&words, &variables(environment)))
}

fn words(environment: &Environment, argv: &[OsString]) -> Result<Vec<CString>, String> {
    let c = |text: &[u8]| CString::new(text).map_err(|_| "cannot run it: it holds a NUL byte".to_owned());
    let profile = environment.profile.as_deref().filter(|path| Path::new(path).is_file());
    let shell = if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
    // `.` looks in PATH for a name without a slash; this one is absolute.
    let source = profile.map_or(String::new(), |path| format!(". {}\n", quote(path)));
    let script = match (argv, source.is_empty()) {
        ([], true) => return Ok(vec![c(login_shell(environment, shell).as_bytes())?]),
        ([], false) => format!("{source}exec {}", quote(&login_shell(environment, shell))),
        // Nothing to source, so nothing for a shell to do.
        (_, true) => return argv.iter().map(|word| c(word.as_bytes())).collect(),
        (_, false) => format!("{source}exec \"$@\""),
    };
    let mut words = vec![c(shell.as_bytes())?, c(b"-c")?, c(script.as_bytes())?, c(b"hob")?];
    for word in argv {
        words.push(c(word.as_bytes())?);
    }
    Ok(words)
}

/// The user's, unless that is one that only says no.
fn login_shell(environment: &Environment, otherwise: &str) -> String {
    let own = environment.user.as_ref().map(|user| user.shell.to_string_lossy().into_owned());
    let own = own.or_else(|| environment.variables.get("SHELL").cloned()).unwrap_or_default();
    let refuses = own.ends_with("/nologin") || own.ends_with("/false") || !Path::new(&own).is_file();
    if refuses { otherwise.to_owned() } else { own }
}

fn variables(environment: &Environment) -> Vec<CString> {
    let mut all = environment.variables.clone();
    // What the person's terminal is, is the person's to say.
    for name in ["TERM", "COLORTERM", "LANG", "LC_ALL", "NO_COLOR"] {
        if let Ok(value) = std::env::var(name) {
            all.entry(name.to_owned()).or_insert(value);
        }
    }
    all.iter().filter_map(|(name, value)| CString::new(format!("{name}={value}")).ok()).collect()
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::Ended;

    fn inside(dir: &Path, profile: bool, argv: &[&str]) -> (Ended, String) {
        let environment = Environment {
            home: dir.to_string_lossy().into_owned(),
            profile: profile.then(|| dir.join("profile").to_string_lossy().into_owned()),
            binds: Vec::new(),
            user: None,
            variables: [("WHO", "you"), ("PATH", "/usr/bin:/bin")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        };
        let argv: Vec<OsString> = argv.iter().map(OsString::from).collect();
        let pid = process::fork(|| main(&environment, &argv).unwrap_or(111)).expect("fork");
        let ended = process::wait_for(pid).expect("our child");
        (ended, std::fs::read_to_string(dir.join("out")).unwrap_or_default())
    }

    #[test]
    fn a_command_gets_the_home_the_variables_and_the_profile() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("profile"), "export WHO=\"$WHO and me\"\n").expect("written");
        let script = "echo \"$PWD $WHO $1\" > out; exit 5";
        let real = std::fs::canonicalize(dir.path()).expect("there");
        for (profile, who) in [(false, "you"), (true, "you and me")] {
            let (ended, out) = inside(dir.path(), profile, &["sh", "-c", script, "x", "a  b'"]);
            assert_eq!((ended, out), (Ended::Code(5), format!("{} {who} a  b'\n", real.display())));
        }
    }

    #[test]
    fn a_command_that_is_not_there_gives_127() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(inside(dir.path(), false, &["no-such-command"]).0, Ended::Code(127));
    }
}
