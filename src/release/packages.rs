//! `systempackages`: Debian packages a service wants, installed before its build where hob may, otherwise asked for.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::script::{End, Script, ShowLine, describe};

/// Sees to it that the packages are there; what apt-get prints goes to `show`. The error says what is missing and how
/// to get it.
pub fn provide(names: &[String], root: bool, within: Duration, show: &mut ShowLine<'_>) -> Result<(), String> {
    if let Some(wrong) = names.iter().find(|name| !is_name(name)) {
        return Err(format!("systempackages: {wrong:?} is not the name of a Debian package"));
    }
    let missing: Vec<&String> = names.iter().filter(|name| !is_installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(" ");
    if !root {
        return Err(format!(
            "systempackages: not installed: {list}; run `apt-get install --no-install-recommends {list}` as root, \
             or hob itself as root"
        ));
    }
    if !has_apt() {
        return Err(format!("systempackages: not installed: {list}; there is no apt-get here to install them with"));
    }
    let _policy = Policy::install();
    // Package lists may be missing (a container image) or old; they are fetched when that turns out to matter.
    let install = format!("apt-get install -y --no-install-recommends {list}");
    let mut failed = apt(&install, within, show)?;
    if failed.is_some() {
        // One source of several that cannot be reached is no reason to give up.
        let _ = apt("apt-get update", within, show)?;
        failed = apt(&install, within, show)?;
    }
    failed.map_or(Ok(()), |why| Err(format!("systempackages: apt-get cannot install {list}{why}")))
}

/// What it says is wrong, if anything is. The words need no quoting: names were checked.
fn apt(line: &str, within: Duration, show: &mut ShowLine<'_>) -> Result<Option<String>, String> {
    let mut env: BTreeMap<String, String> = std::env::vars().collect();
    env.insert("DEBIAN_FRONTEND".into(), "noninteractive".into());
    // A lock that another apt-get holds is waited for.
    let line = line.replacen("apt-get", "apt-get -o DPkg::Lock::Timeout=300", 1);
    let script =
        Script { line: &line, folder: Path::new("/"), env: &env, user: None, within, binds: &[], ends_its_group: true };
    let outcome =
        script.run(show, None).map_err(|e| format!("systempackages: cannot run apt-get: {}", describe(&e)))?;
    match outcome.end {
        End::Ended(ended) if ended.status() == 0 => Ok(None),
        End::Ended(_) => {
            let errors = outcome.last.iter().filter_map(|line| line.strip_prefix("E: "));
            Ok(Some(errors.map(|error| format!("; {error}")).collect()))
        }
        End::TookTooLong => Err("systempackages: apt-get took too long".to_owned()),
        End::Interrupted(_) => Err("systempackages: apt-get was interrupted".to_owned()),
    }
}

fn has_apt() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join("apt-get").is_file())
}

/// Whether dpkg has the package installed; a version or architecture in the name counts.
fn is_installed(name: &str) -> bool {
    let (package, version) = name.split_once('=').map_or((name, None), |(package, version)| (package, Some(version)));
    let asked = Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status} ${Version}\\n", "--", package])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let Ok(answer) = asked else { return false };
    let text = String::from_utf8_lossy(&answer.stdout);
    text.lines().any(|line| match line.split_once(' ') {
        Some(("installed", has)) => version.is_none_or(|wanted| wanted == has),
        _ => false,
    })
}

/// Debian policy 5.6.7, with `:arch` and `=version`. Anything else could be an option of apt-get.
fn is_name(name: &str) -> bool {
    let (package, version) = name.split_once('=').map_or((name, "1"), |(package, version)| (package, version));
    let (package, arch) = package.split_once(':').unwrap_or((package, "any"));
    let plain = |text: &str, more: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || more.contains(c))
    };
    let starts_well = package.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let version_is_plain =
        !version.is_empty() && version.chars().all(|c| c.is_ascii_alphanumeric() || ".+-:~".contains(c));
    starts_well && plain(package, "+-.") && plain(arch, "-") && version_is_plain && name.len() <= 200
}

/// While it is there, no package starts a daemon when it is installed (invoke-rc.d asks this file).
struct Policy;

impl Policy {
    fn install() -> Policy {
        lift_policy();
        // Somebody else's has its own mind, and is left alone.
        let _ = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(POLICY)
            .and_then(|mut file| file.write_all(POLICY_TEXT));
        Policy
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        lift_policy();
    }
}

/// Removes what forbids packages to start daemons if it is hob's: also one that was killed has left it.
pub fn lift_policy() {
    if std::fs::read(POLICY).is_ok_and(|text| text == POLICY_TEXT) {
        let _ = std::fs::remove_file(POLICY);
    }
}

const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &[u8] = b"#!/bin/sh\n# hob is installing systempackages\nexit 101\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_packages_reach_apt() {
        for good in ["memcached", "libc6:amd64", "g++", "python3.11", "redis=5:7.0.15-1~deb12u7", "0ad"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-o", "--purge", "a b", "A", "x;y", "/tmp/x.deb", "a=", "a:=1", "./a", "a/testing", "a\n"] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_missing_package_is_a_clear_error_for_an_ordinary_user() {
        let error =
            provide(&["hob-no-such-package".into()], false, Duration::MAX, &mut |_| {}).expect_err("not installed");
        assert!(error.contains("not installed: hob-no-such-package; run `apt-get install"), "{error}");
    }

    #[test]
    fn nothing_is_asked_for_when_nothing_is_wanted() {
        assert_eq!(provide(&[], false, Duration::MAX, &mut |_| {}), Ok(()));
    }
}
