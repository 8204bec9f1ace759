//! The planner role: from files to a plan, with everything that has to be in place before the first process starts.
//!
//! Sequential and blocking, so it runs in a child of the daemon: settings and dotcloud.yml, ports, the environment
//! files, postinstall. Nothing about processes is looked up before postinstall is over: it may create `~/run` and
//! `~/profile` (reference/dotcloud.md §2).

use std::ffi::CString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::config::{self, Placement, Ports, Service, Settings, Stack};
use crate::plan::{Identity, Instance, Plan};
use crate::sys;

/// What is to be booted.
#[derive(Clone, Debug)]
pub enum Source {
    /// One service in a built home.
    Home { home: PathBuf, file: Option<PathBuf>, service: Option<String> },
    /// Every service of a stack, each in its place.
    Stack { file: PathBuf, placements: Vec<Placement> },
    /// Nothing is deployed yet.
    Nothing,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub errors: Vec<String>,
    /// What hob exits with if this was its first plan.
    pub status: i32,
}

impl Refused {
    fn config(problems: &impl ToString) -> Refused {
        Refused { errors: problems.to_string().lines().map(str::to_owned).collect(), status: 2 }
    }

    fn one(status: i32, error: String) -> Refused {
        Refused { errors: vec![error], status }
    }
}

/// Makes the plan. A reload (`again`) writes the environment files too, but runs no postinstall.
pub fn prepare(source: &Source, settings: &Settings, again: bool, step: &mut dyn FnMut(&str)) -> Result<Plan, Refused> {
    let own = config::own_env();
    let (stack, placements) = match source {
        Source::Nothing => return Ok(Plan { exit_when: settings.exit_when, ..Plan::default() }),
        Source::Home { home, file, service } => one_home(home, file.as_deref(), service.as_deref(), settings)?,
        Source::Stack { file, placements } => (read_stack(file)?, placements.clone()),
    };
    let (mut ports, warning) = Ports::load(&settings.state_dir);
    warn(warning);
    let (plan, warnings) =
        config::plan(&stack, &placements, settings, &mut ports, &own).map_err(|problems| Refused::config(&problems))?;
    warn(warnings);
    if let Err(why) = ports.save() {
        log::warn!("cannot write the ports to {}: {why}; they may differ next time", settings.state_dir.display());
    }
    for (instance, placement) in plan.instances.iter().zip(&placements) {
        let variables = config::variables(&stack, &placements, settings, &ports, placement);
        let (json, yml) = config::environment_files(&variables);
        write_files(instance, &json, &yml).map_err(|(path, why)| {
            Refused::one(111, format!("{}: cannot write {}: {}", instance.name, path.display(), describe(&why)))
        })?;
    }
    if again {
        return Ok(plan);
    }
    for instance in &plan.instances {
        if let Some(service) = stack.service(&instance.service) {
            postinstall(service, instance, step)?;
        }
    }
    // Once more: postinstall may have changed what the files say.
    let (plan, _) =
        config::plan(&stack, &placements, settings, &mut ports, &own).map_err(|problems| Refused::config(&problems))?;
    Ok(plan)
}

fn warn(warnings: impl IntoIterator<Item = config::Warning>) {
    for warning in warnings {
        log::warn!("{warning}");
    }
}

fn read_stack(file: &Path) -> Result<Stack, Refused> {
    let (stack, warnings) = config::stack(file).map_err(|problems| Refused::config(&problems))?;
    warn(warnings);
    Ok(stack)
}

/// The service of a built home: its code tree is the directory of the dotcloud.yml.
fn one_home(
    home: &Path,
    file: Option<&Path>,
    service: Option<&str>,
    settings: &Settings,
) -> Result<(Stack, Vec<Placement>), Refused> {
    let home = fs::canonicalize(home)
        .map_err(|why| Refused::one(2, format!("cannot boot {}: {}", home.display(), describe(&why))))?;
    if !home.is_dir() {
        return Err(Refused::one(2, format!("cannot boot {}: not a directory", home.display())));
    }
    let candidates = [home.join("dotcloud.yml"), home.join("code/dotcloud.yml")];
    let found = file.map(Path::to_owned).or_else(|| candidates.into_iter().find(|f| f.exists()));
    let (stack, code) = match found {
        Some(file) => {
            let file = fs::canonicalize(&file).unwrap_or(file);
            (read_stack(&file)?, file.parent().map_or_else(|| home.clone(), Path::to_owned))
        }
        None if home.join("run").exists() => (config::default_stack(&home), home.clone()),
        None => {
            let why = format!("Couldn't find a dotcloud.yml in {}, and there is no ~/run either", home.display());
            return Err(Refused::one(2, why));
        }
    };
    let known: Vec<&str> = stack.services.iter().map(|s| s.name.as_str()).collect();
    let name = match (service, known.as_slice()) {
        (Some(name), _) if known.contains(&name) => name.to_owned(),
        (Some(name), _) => {
            return Err(Refused::one(2, format!("no custom service {name:?}; there is {}", known.join(", "))));
        }
        (None, [only]) => (*only).to_owned(),
        (None, []) => return Err(Refused::one(2, format!("{}: no custom service in it", stack.file.display()))),
        (None, several) => {
            let why =
                format!("a home holds one service, and there are {}: say which with --service", several.join(", "));
            return Err(Refused::one(2, why));
        }
    };
    let placement = Placement { service: name, number: 0, of: 1, home, code, log_dir: settings.log_dir.clone() };
    Ok((stack, vec![placement]))
}

/// environment.json, .yml and .yaml: whole or not at all, and the user's own.
fn write_files(instance: &Instance, json: &str, yml: &str) -> Result<(), (PathBuf, io::Error)> {
    for (name, text) in [("environment.json", json), ("environment.yml", yml), ("environment.yaml", yml)] {
        let path = instance.home.join(name);
        if fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
            continue;
        }
        let write = || -> io::Result<()> {
            let fresh = instance.home.join(format!(".{name}.new"));
            let _ = fs::remove_file(&fresh);
            // The home is the user's: root follows no link that waits there.
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
            file.write_all(text.as_bytes())?;
            if let Some(user) = &instance.user {
                let _ = chown(&fresh, Some(user.uid), Some(user.gid));
            }
            fs::rename(&fresh, &path)
        };
        match write() {
            // A read-only home has what it needs in its variables.
            Err(why) if why.raw_os_error() == Some(libc::EROFS) => {
                log::warn!("{}: cannot write {name}: read-only file system", instance.name);
            }
            Err(why) => return Err((path, why)),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Runs the postinstall script of a service, if it has one, in its approot with the run environment.
fn postinstall(service: &Service, instance: &Instance, step: &mut dyn FnMut(&str)) -> Result<(), Refused> {
    let folder = instance.code.join(&service.approot);
    let line = match service.postinstall.as_str() {
        "" if is_executable(&folder.join("postinstall")) => "./postinstall".to_owned(),
        "" => return Ok(()),
        // A bare name is one in the code, not in PATH.
        name if folder.join(name).is_file() && !name.contains('/') => format!("./{name}"),
        line => line.to_owned(),
    };
    step(&format!("postinstall of {}", instance.name));
    log::info!("{}: running postinstall", instance.name);
    let (ended, last) = run_script(&line, &folder, instance).map_err(|why| {
        Refused::one(1, format!("{}: cannot run postinstall {line:?}: {}", instance.name, describe(&why)))
    })?;
    let how = match ended {
        Some(sys::process::Ended::Code(0)) => return Ok(()),
        Some(sys::process::Ended::Code(code)) => format!("exited with code {code}"),
        Some(sys::process::Ended::Signal { signal, .. }) => format!("was killed by signal {signal}"),
        None => format!("took longer than {} minutes", POSTINSTALL_WITHIN.as_secs() / 60),
    };
    let mut errors = vec![format!("{}: postinstall {line:?} {how}; nothing was started", instance.name)];
    errors.extend(last.into_iter().map(|line| format!("  {line}")));
    Err(Refused { errors, status: 1 })
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Runs a command line by a shell; its output goes to postinstall.log and to stderr. Returns its end, `None` when it
/// had to be killed for taking too long, and its last lines.
fn run_script(
    line: &str,
    folder: &Path,
    instance: &Instance,
) -> io::Result<(Option<sys::process::Ended>, Vec<String>)> {
    let (mut rx, tx) = io::pipe()?;
    let tx: OwnedFd = tx.into();
    let null: OwnedFd = fs::File::open("/dev/null")?.into();
    let pid = sys::process::fork(|| {
        let failed = child(line, folder, instance, null.as_fd(), tx.as_fd());
        eprintln!("cannot {}: {}", failed.0, describe(&failed.1));
        127
    })?;
    drop(tx);
    let deadline = Instant::now() + POSTINSTALL_WITHIN;
    let mut log = open_log(instance);
    let mut tail = Vec::new();
    let mut block = [0; 8192];
    let ended = loop {
        if Instant::now() > deadline {
            let _ = sys::process::kill_group(pid, libc::SIGKILL);
            let _ = sys::process::wait_for(pid);
            break None;
        }
        if sys::fd::is_readable(&rx, Duration::from_millis(50)) {
            match rx.read(&mut block)? {
                0 => break Some(sys::process::wait_for(pid)?),
                length => {
                    let text = &block[..length];
                    let _ = log.as_mut().map(|log| log.write_all(text));
                    let _ = io::stderr().write_all(text);
                    tail.extend_from_slice(text);
                    let over = tail.len().saturating_sub(4096);
                    tail.drain(..over);
                }
            }
        } else if let Some(ended) = sys::process::has_ended(pid)? {
            // Its end decides, not that of the pipe, which something it has left in the background may hold.
            break Some(ended);
        }
    };
    let tail = String::from_utf8_lossy(&tail);
    let lines: Vec<&str> = tail.lines().collect();
    Ok((ended, lines[lines.len().saturating_sub(10)..].iter().map(|l| (*l).to_owned()).collect()))
}

fn child(
    line: &str,
    folder: &Path,
    instance: &Instance,
    null: std::os::fd::BorrowedFd<'_>,
    out: std::os::fd::BorrowedFd<'_>,
) -> (&'static str, io::Error) {
    let set_up = || -> Result<(), (&'static str, io::Error)> {
        sys::process::new_session().map_err(|why| ("make a session", why))?;
        for (fd, number) in [(null, 0), (out, 1), (out, 2)] {
            sys::process::place_fd(fd, number).map_err(|why| ("set up its descriptors", why))?;
        }
        sys::process::close_on_exec_from(3);
        sys::limits::set_umask(0o022);
        if let Some(Identity { uid, gid, groups, .. }) = &instance.user {
            sys::process::become_user(*uid, *gid, groups)?;
        }
        std::env::set_current_dir(folder).map_err(|why| ("change to the code tree", why))
    };
    if let Err(failed) = set_up() {
        return failed;
    }
    let c = |text: &str| CString::new(text).unwrap_or_default();
    let env: Vec<CString> = instance.env.iter().map(|(k, v)| c(&format!("{k}={v}"))).collect();
    let shell = if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
    // A single word is run without a shell: it may lack the x bit or a shebang.
    let plain = line.chars().all(|ch| ch.is_ascii_alphanumeric() || "./_-".contains(ch));
    let words = if plain { vec![c(line)] } else { vec![c(shell), c("-c"), c(line)] };
    let (stage, errno) = sys::process::exec(&words, &env);
    (stage, errno.into())
}

fn open_log(instance: &Instance) -> Option<fs::File> {
    let path = instance.log_dir.join("postinstall.log");
    fs::create_dir_all(&instance.log_dir).ok()?;
    fs::OpenOptions::new().append(true).create(true).mode(0o644).custom_flags(libc::O_NOFOLLOW).open(path).ok()
}

fn describe(why: &io::Error) -> String {
    match why.raw_os_error() {
        Some(errno) => nix::errno::Errno::from_raw(errno).desc().to_lowercase(),
        None => why.to_string(),
    }
}

/// The original platform's limit (reference/dotcloud.md §2).
const POSTINSTALL_WITHIN: Duration = Duration::from_secs(600);
