//! The planner role: from files to a plan, with everything that has to be in place before the first process starts.
//!
//! Sequential and blocking, so it runs in a child of the daemon: settings and dotcloud.yml, ports, the environment
//! files, postinstall. Nothing about processes is looked up before postinstall is over: it may create `~/run` and
//! `~/profile` (reference/dotcloud.md §2).

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::background::{self, Mark};
use super::build::named;
use super::deployed::{LaidOut, lay_out};
use super::proxy;
use super::script::{End, Script, ShowLine, describe, on_stderr, told};
use super::store::Store;
use crate::config::{self, Placement, Ports, Service, Settings, Stack};
use crate::plan::{ExitWhen, Instance, Plan};

/// What is to be booted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Source {
    /// One service in a built home.
    Home { home: PathBuf, file: Option<PathBuf>, service: Option<String> },
    /// Every service of a stack, each in its place.
    Stack { file: PathBuf, placements: Vec<Placement> },
    /// What was deployed to the state directory, perhaps nothing yet.
    Deployed,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub errors: Vec<String>,
    /// What hob exits with if this was its first plan.
    pub status: i32,
}

impl Refused {
    pub fn config(problems: &impl ToString) -> Refused {
        Refused { errors: problems.to_string().lines().map(str::to_owned).collect(), status: 2 }
    }

    pub fn one(status: i32, error: String) -> Refused {
        Refused { errors: vec![error], status }
    }
}

/// What a daemon needs to begin.
pub struct Prepared {
    pub plan: Plan,
    /// The numbers that were given out, to be kept with [`save_ports`].
    pub ports: Option<Ports>,
}

/// Makes the plan. A reload (`again`) writes the environment files too, but runs no postinstall.
pub fn prepare(
    source: &Source,
    settings: &Settings,
    again: bool,
    step: &mut dyn FnMut(&str),
) -> Result<Prepared, Refused> {
    let own = config::own_env();
    let (stack, placements) = match source {
        Source::Deployed => return deployed(settings),
        Source::Home { home, file, service } => one_home(home, file.as_deref(), service.as_deref(), settings)?,
        Source::Stack { file, placements } => {
            let stack = read_stack(file)?;
            tell_unbuilt(&stack, placements);
            (stack, placements.clone())
        }
    };
    let (mut ports, warning) = Ports::load(&settings.state_dir);
    warn(warning);
    let (plan, warnings) =
        config::plan(&stack, &placements, settings, &mut ports, &own).map_err(|problems| Refused::config(&problems))?;
    warn(warnings);
    for (instance, placement) in plan.instances.iter().zip(&placements) {
        make_log_dir(instance);
        let mut variables = config::variables(&stack, &placements, settings, &ports, placement);
        let known: BTreeSet<String> = variables.iter().map(|(name, _)| name.clone()).collect();
        let elsewhere = config::from_elsewhere(&stack, &placements, &own);
        variables.extend(elsewhere.into_iter().filter(|(name, _)| !known.contains(name)));
        let (json, yml) = config::environment_files(&variables);
        write_files(instance, &json, &yml).map_err(|(path, why)| {
            Refused::one(111, format!("{}: cannot write {}: {}", instance.name, path.display(), describe(&why)))
        })?;
    }
    let mut has_run = false;
    for instance in plan.instances.iter().filter(|_| !again) {
        if let Some(service) = stack.service(&instance.service) {
            has_run |= postinstall(service, instance, settings, step)?;
        }
    }
    // postinstall may have changed what the files say.
    let plan = match has_run {
        true => config::plan(&stack, &placements, settings, &mut ports, &own).map_err(|p| Refused::config(&p))?.0,
        false => plan,
    };
    let mut plan = plan;
    config::proxy::add_to(&mut plan, settings, &own);
    proxy::follow_plan(&plan, &BTreeSet::new(), settings);
    Ok(Prepared { plan, ports: Some(ports) })
}

/// Keeps the numbers for the next boot, on the disk when it returns. They go by the order of declaration, so the next
/// boot most likely finds the same ones without: nothing needs to wait for the disk.
pub fn save_ports(ports: Option<Ports>) {
    let Some(ports) = ports else { return };
    if let Err(why) = ports.save() {
        let folder = ports.folder().map(|folder| folder.display().to_string()).unwrap_or_default();
        log::warn!("cannot write the ports to {folder}: {}; they may differ next time", describe(&why));
    }
}

/// What is deployed runs as its deployment has left it: postinstall belongs to that.
fn deployed(settings: &Settings) -> Result<Prepared, Refused> {
    let store = Store::at(&settings.state_dir);
    let (deployed, is_rolling) = store.current()?;
    let (mut ports, warning) = Ports::load(&settings.state_dir);
    warn(warning);
    let LaidOut { mut plan, files, warnings } = lay_out(&store, &deployed, settings, &config::own_env(), &mut ports)?;
    if is_rolling {
        // Whoever deploys tells the warnings. Instances end so that others can take their place, and one that fails is
        // replaced by the one before.
        plan.exit_when = ExitWhen::Never;
    } else {
        warn(warnings);
    }
    for (instance, (json, yml)) in plan.instances.iter().zip(&files) {
        make_log_dir(instance);
        if let Err((path, why)) = write_files(instance, json, yml) {
            log::warn!("{}: cannot write {}: {}", instance.name, path.display(), describe(&why));
        }
    }
    proxy::follow_plan(&plan, &deployed.out, settings);
    Ok(Prepared { plan, ports: Some(ports) })
}

/// What `hob up` has no homes for, since the file has changed.
fn tell_unbuilt(stack: &Stack, placements: &[Placement]) {
    for service in &stack.services {
        let placed = placements.iter().filter(|placement| placement.service == service.name).count();
        if placed != service.instances as usize {
            let (subject, file, wanted) = (service.subject(), stack.file.display(), service.instances);
            log::warn!(
                "{subject}: {placed} of {wanted} instances in {file} are built; end this hob and start it again"
            );
        }
    }
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
    named(&home)?;
    let candidates = [home.join("dotcloud.yml"), home.join("code/dotcloud.yml")];
    let found = file.map(Path::to_owned).or_else(|| candidates.into_iter().find(|f| f.exists()));
    let (stack, code) = match found {
        Some(file) => {
            let file = fs::canonicalize(&file).unwrap_or(file);
            named(&file)?;
            (read_stack(&file)?, file.parent().map_or_else(|| home.clone(), Path::to_owned))
        }
        None if ["run", "supervisor.conf"].iter().any(|name| home.join(name).exists()) => {
            (config::default_stack(&home), home.clone())
        }
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
    let placement = Placement {
        service: name,
        number: 0,
        of: 1,
        home,
        code,
        log_dir: settings.log_dir.clone(),
        binds: Vec::new(),
        project: None,
    };
    Ok((stack, vec![placement]))
}

/// environment.json, .yml and .yaml: whole or not at all, and the user's own.
pub fn write_files(instance: &Instance, json: &str, yml: &str) -> Result<(), (PathBuf, io::Error)> {
    for (name, text) in [("environment.json", json), ("environment.yml", yml), ("environment.yaml", yml)] {
        let path = instance.real_home().join(name);
        let is_file = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file());
        if is_file && fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
            continue;
        }
        let write = || -> io::Result<()> {
            let fresh = instance.real_home().join(format!(".{name}.new"));
            let _ = fs::remove_file(&fresh);
            // The home is the user's: root follows no link that waits there.
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
            file.write_all(text.as_bytes())?;
            // By its descriptor: the name may be another file by now.
            if let Some(user) = &instance.user {
                let _ = fchown(&file, Some(user.uid), Some(user.gid));
            }
            fs::rename(&fresh, &path)
        };
        match write() {
            // A home that is read-only, or the image's and not the user's, has what it needs in its variables.
            Err(why) if matches!(why.raw_os_error(), Some(libc::EROFS | libc::EACCES | libc::EPERM)) => {
                log::warn!("{}: cannot write {}: {}", instance.name, path.display(), describe(&why));
            }
            Err(why) => return Err((path, why)),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Runs the postinstall script of a service, if it has one, with the output on stderr and in its log. Whether there was
/// one.
fn postinstall(
    service: &Service,
    instance: &Instance,
    settings: &Settings,
    step: &mut dyn FnMut(&str),
) -> Result<bool, Refused> {
    let Some(line) = postinstall_line(service, instance) else { return Ok(false) };
    step(&format!("postinstall of {}", instance.name));
    log::info!("{}: running postinstall", instance.name);
    run_postinstall(&line, service, instance, settings, None, &mut on_stderr(&format!("[{}] ", instance.name)))?;
    Ok(true)
}

/// The postinstall script of a service, if it has one.
pub fn postinstall_line(service: &Service, instance: &Instance) -> Option<String> {
    let folder = instance.code.join(&service.approot);
    match service.postinstall.as_str() {
        "" if is_executable(&folder.join("postinstall")) => Some("./postinstall".to_owned()),
        "" => {
            if folder.join("postinstall").is_file() {
                let why = "not executable, so it does not run; chmod +x it, or write postinstall: ./postinstall";
                log::warn!("{}: {} is {why}", instance.name, folder.join("postinstall").display());
            }
            None
        }
        // A bare name is one in the code, not in PATH.
        name if folder.join(name).is_file() && !name.contains('/') => Some(format!("./{name}")),
        line => Some(line.to_owned()),
    }
}

/// Runs it in the approot with the run environment. What it leaves running has the mark, or is the daemon's to end.
pub fn run_postinstall(
    line: &str,
    service: &Service,
    instance: &Instance,
    settings: &Settings,
    mark: Option<&Mark>,
    show: &mut ShowLine<'_>,
) -> Result<(), Refused> {
    let folder = instance.code.join(&service.approot);
    if !folder.is_dir() {
        let why = format!("approot {:?} is not a directory of {}", service.approot, instance.code.display());
        return Err(Refused::one(1, format!("{}: cannot run postinstall {line:?}: {why}", instance.name)));
    }
    let mut env = instance.env.clone();
    env.extend(mark.map(|mark| (background::VARIABLE.to_owned(), mark.value().to_owned())));
    let script = Script {
        line,
        folder: &folder,
        env: &env,
        user: instance.user.as_ref(),
        within: settings.postinstall_timeout,
        binds: &instance.binds,
        // A warm-up in the background was always possible; it ends with the instance.
        ends_its_group: false,
    };
    let mut log = open_log(instance);
    let outcome = script.run(show, log.as_mut().map(|log| log as &mut dyn Write)).map_err(|why| {
        Refused::one(1, format!("{}: cannot run postinstall {line:?}: {}", instance.name, describe(&why)))
    })?;
    let status = match outcome.end {
        End::Ended(ended) if ended.status() == 0 => return Ok(()),
        End::Interrupted(signal) => 128 + signal,
        _ => 1,
    };
    let how = told(outcome.end, settings.postinstall_timeout);
    let mut errors = vec![format!("{}: postinstall {line:?} {how}; nothing was started", instance.name)];
    errors.extend(outcome.last.into_iter().map(|line| format!("  {line}")));
    Err(Refused { errors, status })
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// The log of postinstall, for root too: the folder may be the user's, so no link is followed and no FIFO waited for.
fn open_log(instance: &Instance) -> Option<fs::File> {
    let path = instance.log_dir.join("postinstall.log");
    if fs::symlink_metadata(&path).is_ok_and(|meta| meta.len() > LOG_MAX) {
        let _ = fs::rename(&path, instance.log_dir.join("postinstall.log.1"));
    }
    let mut options = fs::OpenOptions::new();
    options.append(true).create(true).mode(0o644).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let log = options.open(&path).and_then(|file| {
        let meta = file.metadata()?;
        // A second name could be one outside.
        if meta.is_file() && meta.nlink() == 1 { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
    });
    log.inspect_err(|why| log::warn!("cannot write {}: {}", path.display(), describe(why))).ok()
}

/// Makes the log directory; one that hob makes is the user's, whose programs may log there themselves.
pub fn make_log_dir(instance: &Instance) {
    let path = &instance.log_dir;
    if path.is_dir() {
        return;
    }
    let made = fs::create_dir_all(path).and_then(|()| match &instance.user {
        Some(user) => std::os::unix::fs::lchown(path, Some(user.uid), Some(user.gid)),
        None => Ok(()),
    });
    if let Err(why) = made {
        log::warn!("cannot make the log directory {}: {}", path.display(), describe(&why));
    }
}

/// postinstall.log is put aside when it is larger.
const LOG_MAX: u64 = 1 << 20;
