//! `hob build`: a tree becomes built homes, one per custom service.
//!
//! Per service: system packages, prebuild, buildscript, postbuild, in that order, each with `$HOME` the home that is
//! being built and the build environment, which knows nothing of ports and instances. A home is kept between builds:
//! many builders skip what they find done.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::packages;
use super::prepare::Refused;
use super::script::{End, Script, ShowLine, describe, on_stderr, resolve, told};
use crate::config::{self, Env, Service, Settings, Stack, Users};
use crate::plan::{Bind, Identity};

/// A service that has been built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    pub service: String,
    pub home: PathBuf,
}

/// A tree, read and ready to be built.
pub struct Tree {
    /// The absolute path of the directory that holds the dotcloud.yml.
    pub root: PathBuf,
    pub stack: Stack,
    /// Whom scripts run as; nobody: as hob itself.
    pub user: Option<Identity>,
    pub own_user: Identity,
    /// What the scripts inherit.
    pub own: Env,
    pub warnings: Vec<config::Warning>,
}

/// Builds and prints where the homes are, one a line; the result is an exit status.
pub fn main(dir: &Path, home: Option<&Path>, settings: &Settings) -> Result<i32, Refused> {
    let tree = read(dir, settings, config::own_env())?;
    for warning in &tree.warnings {
        log::warn!("{warning}");
    }
    if settings.root && tree.user.is_none() {
        log::warn!("scripts run as root: there is no user \"dotcloud\"; create it, or set user in hob.toml");
    }
    let folder = match home {
        Some(home) => std::path::absolute(home).unwrap_or_else(|_| home.to_owned()),
        None => settings.state_dir.join("build").join(name_of(&tree.root)),
    };
    let only = home.is_some() && tree.stack.services.len() == 1;
    let built = build(&tree, |service| if only { folder.clone() } else { folder.join(service) }, settings)?;
    let mut out = String::new();
    for Built { home, .. } in &built {
        out += &format!("{}\n", home.display());
    }
    io::stdout()
        .write_all(out.as_bytes())
        .map_err(|e| one(111, format!("cannot print the result: {}", describe(&e))))?;
    say("built; boot it with:");
    let file = tree.root.join("dotcloud.yml");
    for Built { service, home, .. } in &built {
        let service = if built.len() == 1 { String::new() } else { format!(" --service {service}") };
        say(&format!("  hob boot --home {}{service} --file {}", shown(home), shown(&file)));
    }
    Ok(0)
}

/// Reads the dotcloud.yml of a tree. Its scripts inherit `own`.
pub fn read(dir: &Path, settings: &Settings, own: Env) -> Result<Tree, Refused> {
    let root =
        fs::canonicalize(dir).map_err(|e| one(2, format!("cannot build {}: {}", dir.display(), describe(&e))))?;
    if !root.is_dir() {
        return Err(one(2, format!("cannot build {}: not a directory", dir.display())));
    }
    named(&root)?;
    let (stack, warnings) = config::stack(&root.join("dotcloud.yml")).map_err(|p| Refused::config(&p))?;
    if stack.services.is_empty() {
        return Err(one(2, format!("cannot build {}: no custom service in it", stack.file.display())));
    }
    let mut users = Users::system();
    let own_user = users.own();
    let user = build_user(settings, &mut users)?;
    Ok(Tree { root, stack, user, own_user, own, warnings })
}

/// Paths go into variables and answers, which are text.
pub fn named(path: &Path) -> Result<(), Refused> {
    match path.to_str() {
        Some(_) => Ok(()),
        None => Err(one(2, format!("cannot use {path:?}: its name is not UTF-8; rename it"))),
    }
}

/// As whom scripts run when hob is root: `user`, else dotcloud if there is one.
pub fn build_user(settings: &Settings, users: &mut Users) -> Result<Option<Identity>, Refused> {
    let wanted = match &settings.user {
        _ if !settings.root => return Ok(None),
        Some(user) => user.value.as_str(),
        None if users.has(config::DEFAULT_USER) => config::DEFAULT_USER,
        None => return Ok(None),
    };
    let found = users.find(wanted).map_err(|not| {
        let hint = not.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        one(2, format!("cannot build as {wanted:?}: {}{hint}", not.message))
    })?;
    Ok((found.uid != 0).then_some(found))
}

/// Builds every service, each into the home that `home` says, with the output on stderr.
pub fn build(tree: &Tree, home: impl Fn(&str) -> PathBuf, settings: &Settings) -> Result<Vec<Built>, Refused> {
    let show: &mut Show<'_> = &mut |service, line| on_stderr(&format!("[{service}] "))(line);
    let mut all = Vec::new();
    for service in &tree.stack.services {
        let home = home(&service.name);
        make_home(&home, tree.user.as_ref())
            .map_err(|why| one(1, format!("{}: cannot make its home: {why}", service.name)))?;
        build_service(tree, service, &Site { home: &home, seen_at: None }, settings, show)?;
        all.push(Built { service: service.name.clone(), home });
    }
    Ok(all)
}

/// Takes the name of a service and a line of output.
pub type Show<'a> = dyn FnMut(&str, &[u8]) + 'a;

/// Where a service is built.
pub struct Site<'a> {
    /// Where the home lies.
    pub home: &'a Path,
    /// The path it is bound over for the scripts; nothing: they see it where it lies.
    pub seen_at: Option<&'a Path>,
}

/// Installs the packages of a service and runs its scripts.
pub fn build_service(
    tree: &Tree,
    service: &Service,
    site: &Site<'_>,
    settings: &Settings,
    show: &mut Show<'_>,
) -> Result<(), Refused> {
    let show: &mut ShowLine<'_> = &mut |line| show(&service.name, line);
    packages::provide(&service.systempackages, settings.root, settings.build_timeout, show)
        .map_err(|why| one(1, format!("{}: {why}", service.name)))?;
    let approot = tree.root.join(&service.approot);
    let steps = [
        ("prebuild", &service.prebuild, &approot),
        ("buildscript", &service.buildscript, &tree.root),
        ("postbuild", &service.postbuild, &approot),
    ];
    let seen = site.seen_at.unwrap_or(site.home);
    let binds: Vec<Bind> =
        site.seen_at.iter().map(|to| Bind { from: site.home.to_owned(), to: to.to_path_buf() }).collect();
    let env = config::build_env(service, seen, tree.user.as_ref().unwrap_or(&tree.own_user), &tree.own);
    let set = tree.stack.variables.iter().map(|(name, _)| name.as_str());
    let names: Vec<&str> = service.environment.iter().map(|(name, _)| name.as_str()).chain(set).collect();
    for (key, line, folder) in steps {
        if line.trim().is_empty() {
            continue;
        }
        if key == "buildscript"
            && !resolve(first_word(line), folder, site.home).is_file()
            && !resolve(line, folder, site.home).is_file()
        {
            let why = format!("{}: cannot find the buildscript {line:?} in {}", service.name, folder.display());
            return Err(one(1, format!("{why}; it is a path from the directory of dotcloud.yml")));
        }
        if !folder.is_dir() {
            let why = format!("{}: cannot run {key} {line:?}", service.name);
            let (approot, root) = (&service.approot, tree.root.display());
            return Err(one(1, format!("{why}: approot {approot:?} is not a directory of {root}")));
        }
        show(format!("{key} {line}").as_bytes());
        let script = Script {
            line,
            folder,
            env: &env,
            user: tree.user.as_ref(),
            within: settings.build_timeout,
            binds: &binds,
            ends_its_group: true,
        };
        let outcome = script
            .run(show, None)
            .map_err(|e| one(111, format!("{}: cannot run {key} {line:?}: {}", service.name, describe(&e))))?;
        let status = match outcome.end {
            End::Ended(ended) if ended.status() == 0 => continue,
            // The script's own is in the message: here 2 and 4 mean something else.
            End::Ended(_) | End::TookTooLong => 1,
            End::Interrupted(signal) => 128 + signal,
        };
        let how = told(outcome.end, settings.build_timeout);
        let mut errors = vec![format!("{}: {key} {line:?} {how}", service.name)];
        errors.extend(outcome.last.iter().map(|line| format!("  {line}")));
        if !matches!(outcome.end, End::Interrupted(_)) {
            errors.extend(run_only_hint(line, folder, site.home, &names, &outcome.last));
        }
        return Err(Refused { errors, status });
    }
    Ok(())
}

fn first_word(line: &str) -> &str {
    line.split_whitespace().next().unwrap_or_default()
}

/// What a script that failed may have stumbled over: a variable that is there only at run time.
fn run_only_hint(line: &str, folder: &Path, home: &Path, names: &[&str], last: &[String]) -> Option<String> {
    let mut text = line.to_owned();
    for path in [resolve(line, folder, home), resolve(first_word(line), folder, home)] {
        let mut bytes = Vec::new();
        if path.is_file()
            && let Ok(file) = fs::File::open(&path)
            && file.take(1 << 20).read_to_end(&mut bytes).is_ok()
        {
            text += "\n";
            text += &String::from_utf8_lossy(&bytes);
            break;
        }
    }
    text += &last.join("\n");
    let used = run_only_names(&text, names);
    if used.is_empty() {
        return None;
    }
    Some(format!(
        "  hint: it uses {}, set only at run time and not in the build: read it in postinstall, ~/profile or the process",
        used.join(", ")
    ))
}

/// The run-only names in a text, each once, at most five: `PORT_X`, `DOTCLOUD_X`, the environment files, and a
/// variable of `environment:` or `hob env set` where it is expanded, or is the key of a program's look into them.
fn run_only_names(text: &str, environment: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut rest = text;
    let mut before = "";
    while let Some(start) = rest.find(is_part) {
        before = if start > 0 { &rest[..start] } else { before };
        rest = &rest[start..];
        let (word, after) = rest.split_at(rest.find(|c| !is_part(c)).unwrap_or(rest.len()));
        let prefixed = ["PORT_", "DOTCLOUD_"].iter().any(|p| word.strip_prefix(p).is_some_and(|w| !w.is_empty()));
        let expanded = environment.contains(&word) && before.ends_with(['$', '{', '\'', '"']);
        let name = match word {
            "environment" => ["json", "yml", "yaml"]
                .iter()
                .find(|kind| after.strip_prefix('.').is_some_and(|a| a.starts_with(**kind)))
                .map(|kind| format!("environment.{kind}")),
            _ => (prefixed || expanded).then(|| word.to_owned()),
        };
        if let Some(name) = name
            && !found.contains(&name)
            && found.len() < 5
        {
            found.push(name);
        }
        (before, rest) = ("", after);
    }
    found
}

/// A directory for a home, which belongs to `user`. One that is there is taken as it is.
///
/// The directories above are hob's own, so nobody can put a link in the way; the last one is opened without following
/// one, and changed by its descriptor.
pub fn make_home(home: &Path, user: Option<&Identity>) -> Result<(), String> {
    let told = |e: io::Error| format!("{}: {}", home.display(), describe(&e));
    if let Some(above) = home.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(above).map_err(told)?;
    }
    let made = match fs::DirBuilder::new().mode(0o755).create(home) {
        Ok(()) => true,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
        Err(e) => return Err(told(e)),
    };
    let open = fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(home);
    let folder = match open {
        Ok(folder) => folder,
        Err(e) if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)) => {
            return Err(format!("{} is not a directory (a link is not followed)", home.display()));
        }
        Err(e) => return Err(told(e)),
    };
    let Some(user) = user else { return Ok(()) };
    let owner = folder.metadata().map_err(told)?.uid();
    if owner == user.uid {
        return Ok(());
    }
    let is_empty = fs::read_dir(home).map_err(told)?.next().is_none();
    if !made && !is_empty {
        let name = &user.name;
        return Err(format!("{} belongs to another user (uid {owner}), and the build runs as {name}", home.display()));
    }
    std::os::unix::fs::fchown(&folder, Some(user.uid), Some(user.gid)).map_err(told)
}

/// A name for what belongs to a tree: that of its directory, and a hash of its path.
pub fn name_of(root: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    // FNV-1a: stable over versions of hob and Rust, and nobody gains by a collision.
    let hash =
        root.as_os_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    let name: String = root
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c))
        .take(40)
        .collect();
    let name = name.trim_start_matches('.');
    format!("{}-{:08x}", if name.is_empty() { "tree" } else { name }, (hash >> 32) ^ (hash & 0xffff_ffff))
}

/// A path as a word of a shell.
fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    shlex::try_quote(&text).map_or_else(|_| text.to_string(), |quoted| quoted.into_owned())
}

pub fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn one(status: i32, error: String) -> Refused {
    Refused { errors: vec![error], status }
}

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;
