//! A deployment from its beginning to its end, in a process of its own that nobody's terminal can end: receive, build,
//! snapshot, and then `deploy`. Also those that need no build.
//!
//! Two processes: the one that works, and above it one that takes back what a worker has begun that was killed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::background::Mark;
use super::build::{self, Tree, make_home};
use super::copy;
use super::deploy::{self, Site, Wanted, deploy, scaled};
use super::deployed::{Shelf, lay_out};
pub use super::follow::Style;
use super::follow::{follow, size};
use super::homes;
use super::link::{Link, UNREACHABLE};
use super::pack::{self, Manifest};
use super::packages;
use super::prepare::Refused;
use super::report::{Receiving, Report};
use super::script::describe;
use super::store::{self, BuiltService, Lock, Record, Rolling, State, Store, cannot};
use super::unpack::{Unpacked, Unpacker};
use crate::config::{self, Env, Ports, Service, Settings};
use crate::plan::Identity;
use crate::sys::process::{self, Ended, Pid};
use crate::sys::{clock, fd, limits, proc};

/// What is asked for.
#[derive(Clone, Debug)]
pub enum Asked {
    Push {
        from: Origin,
        /// Build in empty homes.
        clean: bool,
        /// These alone; empty for all.
        services: Vec<String>,
        /// The name of the application, where the origin does not tell.
        project: Option<String>,
    },
    /// A revision, `latest` or `previous`.
    Deploy(String),
    /// Variables to set, and to take away.
    Env { set: BTreeMap<String, String>, unset: Vec<String> },
    /// Instances by service.
    Scale(BTreeMap<String, u32>),
    /// A service, with all that is kept of it.
    Destroy(String),
    /// A build of a tree, as a file for another machine.
    Artifact { dir: PathBuf, out: PathBuf },
}

#[derive(Clone, Debug)]
pub enum Origin {
    /// The directory that holds the dotcloud.yml.
    Tree(PathBuf),
    /// A tar archive or an artifact.
    Archive(PathBuf),
    Stdin,
}

/// Begins a deployment and shows it to its end, or until the person has seen enough; the result is an exit status.
pub fn run(asked: &Asked, link: Link, mut settings: Settings, style: Style) -> Result<i32, Refused> {
    let mut is_deployed = true;
    let mut own = config::own_env();
    if !matches!(asked, Asked::Artifact { .. }) {
        let info = link.info()?;
        if info.source == "supervisord" {
            let why =
                format!("cannot deploy to {}: it runs as supervisord, with a configuration of its own", info.socket);
            return Err(Refused::one(2, why));
        }
        // The daemon's word: it may have been started with others.
        settings.state_dir = info.state_dir.into();
        settings.log_dir = info.log_dir.into();
        own = daemon_env(info.pid);
        is_deployed = info.source == "deployed";
        if !is_deployed {
            settings.home_mode = config::HomeMode::Direct;
        }
    }
    let store = Store::at(&settings.state_dir);
    store.create()?;
    let report = Report::create(&store)?;
    let path = report.path.clone();
    let work = Work { store, settings, own, link, is_deployed };
    let failed = |e: io::Error| Refused::one(111, format!("cannot begin a deployment: {}", describe(&e)));
    let guardian = process::fork(move || guard(&work, asked, report)).map_err(failed)?;
    follow(&path, guardian, style)
}

/// The environment of the daemon, which builds and instances inherit: not that of the person who pushes, but for how to
/// reach the network.
fn daemon_env(pid: i32) -> Env {
    let Ok(bytes) = proc::environ(pid, None) else { return config::own_env() };
    let mut env: Env = bytes
        .split(|&byte| byte == 0)
        .filter_map(|pair| std::str::from_utf8(pair).ok()?.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let is_proxy = |name: &str| name.to_ascii_lowercase().ends_with("_proxy");
    env.extend(config::own_env().into_iter().filter(|(name, _)| is_proxy(name)));
    env
}

struct Work {
    store: Store,
    settings: Settings,
    own: Env,
    link: Link,
    is_deployed: bool,
}

/// The upper process: waits its turn, lets a child do the work, and cleans up after it if it was killed.
fn guard(work: &Work, asked: &Asked, mut report: Report) -> i32 {
    process::set_name("hob push");
    let _ = process::new_session();
    process::ignore_signal(libc::SIGPIPE);
    if let Err(why) = detach(asked, &report) {
        report.end(111, &[format!("cannot begin a deployment: {}", describe(&why))], Vec::new());
        return 111;
    }
    let lock = match turn(&work.store, &mut report) {
        Ok(lock) => lock,
        Err(refused) => return work.end(asked, &mut report, &refused),
    };
    let _ = process::become_subreaper();
    if let Err(refused) = work.clean_up(&lock) {
        // What the daemon did not hear of is right at its next boot.
        report.say(&format!("a deployment that was cut short is taken back: {}", refused.errors.join("; ")));
    }
    let Ok(mut twin) = report.twin() else { return 111 };
    let worker = process::fork(|| {
        process::ignore_signal(libc::SIGPIPE);
        let _ = process::become_subreaper();
        match work.work(asked, &mut report) {
            Ok(urls) => {
                report.end(0, &[], urls);
                0
            }
            Err(refused) => work.end(asked, &mut report, &refused),
        }
    });
    match worker.and_then(process::wait_for) {
        Ok(Ended::Code(status)) => status.into(),
        ended => {
            let how = match ended {
                Ok(Ended::Signal { signal, .. }) => format!("the deployment was killed by signal {signal}"),
                _ => "the deployment could not be begun".to_owned(),
            };
            end_what_is_left();
            let mut refused = Refused::one(1, how);
            if let Err(more) = work.clean_up(&lock) {
                refused.errors.extend(more.errors);
            }
            work.end(asked, &mut twin, &refused)
        }
    }
}

/// No terminal any more; what is said by accident goes into the record.
fn detach(asked: &Asked, report: &Report) -> io::Result<()> {
    std::env::set_current_dir("/")?;
    if !matches!(asked, Asked::Push { from: Origin::Stdin, .. }) {
        process::place_fd(File::open("/dev/null")?.as_fd(), 0)?;
    }
    process::place_fd(report.file().as_fd(), 1)?;
    process::place_fd(report.file().as_fd(), 2)
}

fn turn(store: &Store, report: &mut Report) -> Result<Lock, Refused> {
    let mut lock = match store.try_lock()? {
        Some(lock) => lock,
        None => {
            let holder = store.lock_holder();
            let holder = if holder.is_empty() { String::new() } else { format!(" ({holder})") };
            report.say(&format!("another deployment is under way{holder}: waiting until it has ended"));
            store.lock()?
        }
    };
    lock.note(&format!("process {}", process::pid()));
    Ok(lock)
}

/// Ends what was left in the background by a script, in whatever session. For a process whose children are all such.
fn end_what_is_left() {
    let deadline = clock::since_boot() + Duration::from_secs(2);
    while let Some(children) = proc::own_children().filter(|children| !children.is_empty()) {
        for child in children {
            let _ = process::kill(Pid::from_raw(child), libc::SIGKILL);
        }
        // What they had started is ours as soon as they are reaped.
        while process::reap_one().is_some() {}
        if clock::since_boot() > deadline {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Work {
    fn site(&self) -> Site<'_> {
        Site {
            store: &self.store,
            settings: &self.settings,
            own: &self.own,
            link: &self.link,
            is_deployed: self.is_deployed,
        }
    }

    /// Everything that failed on the way is 1; a bad dotcloud.yml is 2, and no daemon 4. The last line says what serves.
    fn end(&self, asked: &Asked, report: &mut Report, refused: &Refused) -> i32 {
        let status = if matches!(refused.status, 2 | 4) { refused.status } else { 1 };
        let what = match asked {
            Asked::Push { .. } | Asked::Deploy(_) => Some("nothing new was deployed"),
            Asked::Env { .. } | Asked::Scale(_) => Some("nothing was changed"),
            Asked::Destroy(_) | Asked::Artifact { .. } => None,
        };
        let told = what.map(|what| format!("{what}: {}", self.what_serves(status)));
        let mut errors: Vec<String> = refused.errors.iter().cloned().chain(told).collect();
        // A hob that is gone says the same to every step.
        errors.dedup();
        report.end(status, &errors, Vec::new());
        status
    }

    fn what_serves(&self, status: i32) -> String {
        let deployed = self.store.deployed().unwrap_or_default();
        let is_there = deployed.instances.iter().any(|instance| !instance.removed);
        match deployed.revision.filter(|_| is_there) {
            _ if !self.is_deployed => "the home that hob was booted with goes on running".to_owned(),
            Some(revision) if status == UNREACHABLE => format!("hob serves {revision} when it runs again"),
            Some(revision) => format!("{revision} goes on serving"),
            None => "nothing was running before".to_owned(),
        }
    }

    fn work(&self, asked: &Asked, report: &mut Report) -> Result<Vec<(String, String)>, Refused> {
        let urls = match asked {
            Asked::Push { from, clean, services, project } => {
                self.push(from, *clean, services, project.as_deref(), report)
            }
            Asked::Deploy(revision) => {
                let record = self.store.find(revision)?;
                report.revision(&record.revision);
                report.say(&format!("Deploying revision {}", record.revision));
                self.redeploy(&record, None, &mut |_, _| {}, report)
            }
            Asked::Env { set, unset } => {
                let change = &mut |env: &mut BTreeMap<String, String>, _: &mut BTreeMap<String, u32>| {
                    env.retain(|name, _| !unset.contains(name));
                    env.extend(set.clone());
                };
                self.change(change, None, report)
            }
            Asked::Scale(numbers) => {
                let change = &mut |_: &mut BTreeMap<String, String>, scale: &mut BTreeMap<String, u32>| {
                    scale.extend(numbers.clone());
                };
                self.change(change, Some(numbers), report)
            }
            Asked::Destroy(service) => self.destroy(service, report),
            Asked::Artifact { dir, out } => self.artifact(dir, out, report),
        }?;
        Ok(urls)
    }

    /// Variables and numbers: the release stays, and nothing is built.
    fn change(
        &self,
        change: &mut Change<'_>,
        scaled: Option<&BTreeMap<String, u32>>,
        report: &mut Report,
    ) -> Result<Vec<(String, String)>, Refused> {
        let mut deployed = self.store.deployed()?;
        let Some(revision) = deployed.revision.clone() else {
            if scaled.is_some() {
                return Err(Refused::one(1, "nothing is deployed yet: hob push DIR".to_owned()));
            }
            change(&mut deployed.env, &mut deployed.scale);
            self.store.save_deployed(&deployed)?;
            report.say("Nothing is deployed yet: the first push has these variables");
            return Ok(Vec::new());
        };
        let record = self.store.find(&revision)?;
        let known: Vec<&str> = record.services.iter().map(|service| service.name.as_str()).collect();
        if let Some(unknown) = scaled.into_iter().flat_map(BTreeMap::keys).find(|name| !known.contains(&name.as_str()))
        {
            return Err(Refused::one(1, format!("no service {unknown:?}; there is {}", known.join(", "))));
        }
        report.revision(&revision);
        // One that was destroyed comes back with a push, not with a variable.
        let is_there = |name: &&str| deployed.instances.iter().any(|i| i.service == **name && !i.removed);
        let concerned: BTreeSet<String> = match scaled {
            Some(numbers) => numbers.keys().cloned().collect(),
            None => known.iter().filter(|name| is_there(name)).map(|name| (*name).to_owned()).collect(),
        };
        self.redeploy(&record, Some(concerned), change, report)
    }

    fn redeploy(
        &self,
        record: &Record,
        concerned: Option<BTreeSet<String>>,
        change: &mut Change<'_>,
        report: &mut Report,
    ) -> Result<Vec<(String, String)>, Refused> {
        let mut deployed = self.store.deployed()?;
        change(&mut deployed.env, &mut deployed.scale);
        let services = scaled(&mut Shelf::new(&self.store), record, &deployed.scale)?;
        let all = || services.iter().map(|service| service.name.clone()).collect();
        let wanted = Wanted {
            revision: record.revision.clone(),
            concerned: concerned.unwrap_or_else(all),
            services,
            env: deployed.env,
            scale: deployed.scale,
        };
        for scaled in wanted.services.iter().filter(|scaled| wanted.concerned.contains(&scaled.name)) {
            let how = if wanted.scale.contains_key(&scaled.name) { "" } else { "default " };
            report.say(&format!("Using {how}scaling for service {} ({} instance(s)).", scaled.name, scaled.instances));
        }
        let urls = deploy(&self.site(), &wanted, report)?;
        report.say("Application fully deployed");
        Ok(urls)
    }

    fn push(
        &self,
        from: &Origin,
        clean: bool,
        only: &[String],
        project: Option<&str>,
        report: &mut Report,
    ) -> Result<Vec<(String, String)>, Refused> {
        let mut record = self.new_record(from, project);
        self.store.save_record(&record)?;
        let mut result = self.make(&mut record, from, clean, only, report).and_then(|concerned| {
            let concerned = Some(concerned);
            self.redeploy(&record, concerned, &mut |_, _| {}, report)
        });
        record.stages = std::mem::take(&mut report.stages);
        match &mut result {
            Ok(_) => self.store.save_record(&record)?,
            Err(refused) => {
                for error in &mut refused.errors {
                    *error = self.as_pushed(error, &record, from);
                }
                record.state = State::Failed;
                record.why = refused.errors.first().cloned();
                // The error before is the one to tell.
                if let Err(more) = self.store.fail(&record) {
                    report.say(&more.errors.join("; "));
                }
            }
        }
        result
    }

    /// The tree's own path in place of that of the copy, which goes with a release that fails.
    fn as_pushed(&self, text: &str, record: &Record, from: &Origin) -> String {
        let code = self.store.code(&record.revision).display().to_string();
        match from {
            Origin::Tree(dir) => text.replace(&code, &dir.display().to_string()),
            Origin::Archive(_) | Origin::Stdin => {
                text.replace(&format!("{code}/"), "").replace(&code, "what was pushed")
            }
        }
    }

    /// Builds a release, writes it into a file and forgets it.
    fn artifact(&self, dir: &Path, out: &Path, report: &mut Report) -> Result<Vec<(String, String)>, Refused> {
        let from = Origin::Tree(dir.to_owned());
        let mut record = self.new_record(&from, None);
        self.store.save_record(&record)?;
        let fresh = out.with_extension("new");
        let result = self.make(&mut record, &from, true, &[], report).and_then(|_| {
            report.stage("pack", None, |report| self.write_artifact(&record, &fresh, report))?;
            fs::rename(&fresh, out).map_err(|e| cannot("write", out, &e))
        });
        let _ = fs::remove_file(&fresh);
        let release = self.store.release(&record.revision);
        store::remove(&release).map_err(|e| cannot("remove", &release, &e))?;
        result?;
        report.say(&format!("{} is ready: hob push {}", out.display(), out.display()));
        Ok(Vec::new())
    }

    fn write_artifact(&self, record: &Record, file: &Path, report: &mut Report) -> Result<(), Refused> {
        let told = |e: io::Error| cannot("write", file, &e);
        let services: Vec<String> = record.services.iter().map(|service| service.name.clone()).collect();
        let home = |name: &String| match &record.home {
            Some(home) => home.clone(),
            None => self.store.direct_home(&record.revision, name, 0),
        };
        let manifest = Manifest {
            version: pack::VERSION,
            revision: record.revision.clone(),
            project: record.project.clone(),
            homes: services.iter().map(home).collect(),
            services,
        };
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o666 & !limits::callers_umask());
        let mut packed = zstd::stream::write::Encoder::new(options.open(file).map_err(told)?, 0).map_err(told)?;
        packed.include_checksum(true).map_err(told)?;
        let built = |name: &str| self.store.built(&record.revision, name);
        let code = self.store.code(&record.revision);
        pack::artifact(&manifest, &code, built, &mut packed, &mut Receiving(report))?;
        packed.finish().and_then(|file| file.sync_all()).map_err(told)
    }

    fn new_record(&self, from: &Origin, project: Option<&str>) -> Record {
        let created = store::now();
        Record {
            revision: self.store.unused_revision(&format!("rsync-{created}")),
            created,
            state: State::Building,
            why: None,
            project: project.map_or_else(|| self.project_of(from), str::to_owned),
            home: None,
            services: Vec::new(),
            size: 0,
            stages: Vec::new(),
        }
    }

    /// The name of an application: that of its directory, else the one that is deployed.
    fn project_of(&self, from: &Origin) -> String {
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let own = match from {
            Origin::Tree(dir) => name(dir),
            Origin::Archive(file) => name(file).map(|name| {
                let stem = name.strip_suffix(".zst").unwrap_or(&name);
                stem.strip_suffix(".tar").unwrap_or(stem).to_owned()
            }),
            Origin::Stdin => None,
        };
        let deployed = || self.store.deployed().ok()?.revision;
        let current = || self.store.record(&deployed()?).ok()?.map(|record| record.project);
        own.or_else(current).unwrap_or_else(|| "hob".to_owned())
    }

    /// Makes a release of what is pushed: the names of the services that are new in it.
    fn make(
        &self,
        record: &mut Record,
        from: &Origin,
        clean: bool,
        only: &[String],
        report: &mut Report,
    ) -> Result<BTreeSet<String>, Refused> {
        let user = build::build_user(&self.settings, &mut config::Users::system())?;
        let unpacked = report.stage("receive", None, |report| self.receive(record, from, user.as_ref(), report))?;
        for what in &unpacked.left_out {
            report.say(&format!("warning: {what}"));
        }
        report.revision(&record.revision);
        let mut tree = build::read(&self.store.code(&record.revision), &self.settings, self.own.clone())?;
        // The build does not see them; who asks for one is told so.
        tree.stack.variables = self.store.deployed()?.env.into_iter().collect();
        for warning in &tree.warnings {
            report.say(&format!("warning: {}", self.as_pushed(&warning.to_string(), record, from)));
        }
        let previous = self.previous_record()?;
        let built = self.which(&tree, only, previous.as_ref(), report)?;
        record.home = homes::seen_at(&self.store, &self.settings, user.as_ref())?;
        if let Some(manifest) = &unpacked.manifest {
            self.take_built(record, manifest, &built, report)?;
        } else {
            let kind = if clean { " (clean build)" } else { "" };
            report.say(&format!("Build started for revision {}{kind}", record.revision));
            for service in tree.stack.services.iter().filter(|service| built.contains(&service.name)) {
                let previous = previous.as_ref().filter(|_| !clean);
                report.stage("build", Some(&service.name), |report| {
                    self.build(&tree, service, record, previous, report)
                })?;
            }
        }
        record.services =
            tree.stack.services.iter().map(|s| self.origin(s, &built, record, previous.as_ref())).collect();
        report.stage("snapshot", None, |_| {
            let of = |service: &BuiltService| homes::size(&self.store.built(&service.revision, &service.name));
            record.size = record.services.iter().map(of).sum();
            // A record that says it is ready must not reach the disk before what it is about.
            let root = File::open(&self.store.root).and_then(|dir| fd::sync_file_system(&dir));
            root.map_err(|e| cannot("sync", &self.store.root, &e))?;
            record.state = State::Ready;
            self.store.save_record(record)
        })?;
        if unpacked.manifest.is_none() {
            let size = size(record.size);
            report.say(&format!("Build completed successfully. Compiled image size is {size}"));
        }
        Ok(built)
    }

    fn previous_record(&self) -> Result<Option<Record>, Refused> {
        match self.store.deployed()?.revision {
            Some(revision) => self.store.record(&revision),
            None => Ok(None),
        }
    }

    /// The services to build: those that are asked for, and those there is no earlier build of.
    fn which(
        &self,
        tree: &Tree,
        only: &[String],
        previous: Option<&Record>,
        report: &mut Report,
    ) -> Result<BTreeSet<String>, Refused> {
        let known: Vec<&str> = tree.stack.services.iter().map(|service| service.name.as_str()).collect();
        if let Some(unknown) = only.iter().find(|name| !known.contains(&name.as_str())) {
            let known = known.join(", ");
            return Err(Refused::one(
                2,
                format!("no custom service {unknown:?} in the dotcloud.yml; there is {known}"),
            ));
        }
        let mut built = BTreeSet::new();
        for name in known {
            let has_earlier = previous.is_some_and(|record| record.services.iter().any(|s| s.name == name));
            let is_asked = only.is_empty() || only.iter().any(|asked| asked == name);
            if !is_asked && !has_earlier {
                report.say(&format!("{name} was never built before, so it is built now"));
            }
            if is_asked || !has_earlier {
                built.insert(name.to_owned());
            }
        }
        Ok(built)
    }

    fn origin(
        &self,
        service: &Service,
        built: &BTreeSet<String>,
        record: &Record,
        previous: Option<&Record>,
    ) -> BuiltService {
        let name = service.name.clone();
        let earlier = previous.into_iter().flat_map(|record| &record.services).find(|s| s.name == name);
        let revision = match earlier {
            Some(earlier) if !built.contains(&name) => earlier.revision.clone(),
            _ => record.revision.clone(),
        };
        BuiltService { name, revision }
    }

    /// Unpacks into the release. A stream of `git archive` names the revision.
    fn receive(
        &self,
        record: &mut Record,
        from: &Origin,
        user: Option<&Identity>,
        report: &mut Report,
    ) -> Result<Unpacked, Refused> {
        let bad = |why: String| Refused::one(1, format!("cannot push: {why}"));
        let incoming = self.store.release(&record.revision).join("code");
        make_home(&incoming, user).map_err(|why| bad(format!("cannot make {why}")))?;
        let start =
            |input: OwnedFd, tells| Unpacker::start(input, &incoming, user, tells).map_err(|e| bad(describe(&e)));
        let unpacked = match from {
            Origin::Tree(dir) => {
                let (rx, tx) = io::pipe().map_err(|e| bad(describe(&e)))?;
                let _ = fd::grow_pipe(&tx, 1 << 20);
                let unpacker = start(rx.into(), false)?;
                let packed = pack::tree(dir, io::BufWriter::with_capacity(256 << 10, tx), &mut Receiving(report));
                let unpacked = unpacker.finish(&mut |_, _| {});
                match (packed, unpacked) {
                    // Who cannot read is to blame for who cannot write, unless nothing could be sent.
                    (Err(refused), Ok(_)) => return Err(refused),
                    (Err(refused), Err(why)) if why.contains("cut short") || why.contains("is empty") => {
                        return Err(refused);
                    }
                    (_, Err(why)) => return Err(bad(why)),
                    (Ok(()), Ok(unpacked)) => unpacked,
                }
            }
            Origin::Archive(file) => {
                let input = File::open(file).map_err(|e| cannot("open", file, &e))?;
                let unpacker = start(input.into(), true)?;
                unpacker.finish(&mut |files, bytes| report.progress("receive", files, bytes)).map_err(bad)?
            }
            Origin::Stdin => {
                let input = io::stdin().as_fd().try_clone_to_owned().map_err(|e| bad(describe(&e)))?;
                let unpacker = start(input, true)?;
                unpacker.finish(&mut |files, bytes| report.progress("receive", files, bytes)).map_err(bad)?
            }
        };
        if let Some(manifest) = &unpacked.manifest {
            self.open_artifact(record, manifest)?;
        } else {
            self.find_root(record, &incoming)?;
        }
        let wished = match (&unpacked.commit, &unpacked.manifest) {
            (Some(commit), _) => Some(format!("git-{}", &commit[..7])),
            (None, Some(manifest)) if is_revision(&manifest.revision) => Some(manifest.revision.clone()),
            (None, _) => None,
        };
        if let Some(wished) = wished {
            self.rename(record, &wished)?;
        }
        Ok(unpacked)
    }

    /// The tree may be in a directory of its own, as in most archives.
    fn find_root(&self, record: &mut Record, incoming: &Path) -> Result<(), Refused> {
        if incoming.join("dotcloud.yml").exists() {
            return Ok(());
        }
        let mut names = fs::read_dir(incoming).into_iter().flatten().flatten();
        if let (Some(only), None) = (names.next(), names.next())
            && only.file_type().is_ok_and(|kind| kind.is_dir())
            && only.path().join("dotcloud.yml").exists()
        {
            let (aside, code) = (incoming.with_file_name("code.new"), incoming);
            fs::rename(only.path(), &aside)
                .and_then(|()| fs::remove_dir(code))
                .and_then(|()| fs::rename(&aside, code))
                .map_err(|e| cannot("unpack", code, &e))?;
            record.project = only.file_name().to_string_lossy().into_owned();
            return Ok(());
        }
        Err(Refused::one(2, "Couldn't find a dotcloud.yml in what was pushed".to_owned()))
    }

    /// Puts `code/built` and `code/code` of an artifact in their places.
    fn open_artifact(&self, record: &mut Record, manifest: &Manifest) -> Result<(), Refused> {
        let release = self.store.release(&record.revision);
        let (whole, aside) = (release.join("code"), release.join("artifact"));
        let moved = fs::rename(&whole, &aside)
            .and_then(|()| fs::rename(aside.join("code"), &whole))
            .and_then(|()| fs::rename(aside.join("built"), release.join("built")));
        moved.map_err(|_| Refused::one(1, "cannot push: there is no build in the artifact".to_owned()))?;
        store::remove(&aside).map_err(|e| cannot("remove", &aside, &e))?;
        record.project.clone_from(&manifest.project);
        Ok(())
    }

    fn rename(&self, record: &mut Record, wished: &str) -> Result<(), Refused> {
        let (old, new) = (record.revision.clone(), self.store.unused_revision(wished));
        record.revision.clone_from(&new);
        let (from, to) = (self.store.release(&old), self.store.release(&new));
        fs::rename(&from, &to).map_err(|e| cannot("name", &to, &e))?;
        self.store.save_record(record)
    }

    /// The homes of an artifact are those of this release.
    fn take_built(
        &self,
        record: &Record,
        manifest: &Manifest,
        built: &BTreeSet<String>,
        report: &mut Report,
    ) -> Result<(), Refused> {
        for name in built {
            if !self.store.built(&record.revision, name).is_dir() {
                return Err(Refused::one(1, format!("cannot push: there is no home of {name} in the artifact")));
            }
        }
        for (name, home) in manifest.services.iter().zip(&manifest.homes) {
            let here = record.home.clone().unwrap_or_else(|| self.store.direct_home(&record.revision, name, 0));
            if here != *home && built.contains(name) {
                let (home, here) = (home.display(), here.display());
                report.tell(name, &format!("warning: it was built in {home} and runs in {here}: paths that its build has written into files may lead nowhere; set home in hob.toml"));
            }
        }
        Ok(())
    }

    fn build(
        &self,
        tree: &Tree,
        service: &Service,
        record: &Record,
        previous: Option<&Record>,
        report: &mut Report,
    ) -> Result<(), Refused> {
        let built = self.store.built(&record.revision, &service.name);
        let home = match &record.home {
            Some(_) => built.clone(),
            None => self.store.direct_home(&record.revision, &service.name, 0),
        };
        homes::make_above(&home)?;
        make_home(&home, tree.user.as_ref())
            .map_err(|why| Refused::one(1, format!("{}: cannot make its home: {why}", service.name)))?;
        // Without a constant path a home that was built elsewhere is full of paths to there.
        if let Some(previous) = previous.filter(|previous| record.home.is_some() && previous.home == record.home)
            && let Some(earlier) = previous.services.iter().find(|s| s.name == service.name)
        {
            let from = self.store.built(&earlier.revision, &earlier.name);
            copy::home(&from, &home, tree.user.as_ref()).map_err(|e| {
                let why = format!("{}: cannot copy the home of the last build: {}", service.name, describe(&e));
                Refused::one(1, format!("{why}; --clean begins with an empty one"))
            })?;
        }
        let site = build::Site { home: &home, seen_at: record.home.as_deref() };
        let show = &mut |name: &str, line: &[u8]| report.output(name, line);
        let result = build::build_service(tree, service, &site, &self.settings, show);
        end_what_is_left();
        // The status of a script is not that of the push.
        result.map_err(|refused| Refused { status: 1, ..refused })?;
        if home != built {
            homes::make_above(&built)?;
            fs::rename(&home, &built).map_err(|e| cannot("keep the build in", &built, &e))?;
        }
        Ok(())
    }

    /// Ends a service that has left the stack, or that one is tired of, with its data.
    fn destroy(&self, service: &str, report: &mut Report) -> Result<Vec<(String, String)>, Refused> {
        let mut deployed = self.store.deployed()?;
        let known: BTreeSet<&str> = deployed.instances.iter().map(|i| i.service.as_str()).collect();
        if !known.contains(service) {
            let known = known.into_iter().collect::<Vec<_>>().join(", ");
            let there = if known.is_empty() { "nothing is deployed".to_owned() } else { format!("there is {known}") };
            return Err(Refused::one(1, format!("no service {service:?}; {there}")));
        }
        for running in deployed.instances.iter().filter(|i| i.service == service) {
            self.link.stop(&deploy::group(&deployed, running))?;
            deploy::end_background(&self.store, running, report);
        }
        deployed.instances.retain(|i| i.service != service);
        deployed.scale.remove(service);
        deployed.drop_unused();
        self.store.commit(&deployed)?;
        self.link.reload(true)?;
        self.store.sweep(&deployed);
        for entry in fs::read_dir(self.store.root.join("data")).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().split('.').next() == Some(service) {
                store::remove(&entry.path()).map_err(|e| cannot("remove", &entry.path(), &e))?;
            }
        }
        let (mut ports, _) = Ports::load(&self.store.root);
        ports.forget(service, |_, _| false);
        ports.save().map_err(|e| cannot("write the ports to", &self.store.root, &e))?;
        report.say(&format!("Service {service} is destroyed"));
        Ok(Vec::new())
    }

    /// After a deployment that was killed: what ran before runs again.
    fn clean_up(&self, lock: &Lock) -> Result<(), Refused> {
        packages::lift_policy();
        let old = self.store.deployed()?;
        let rolling = self.store.rolling()?;
        let rolling = rolling.filter(|rolling| !old.generations.iter().any(|g| g.id == rolling.id));
        let Some(rolling) = rolling else { return self.store.recover(lock) };
        let mut first = Ok(());
        for running in rolling.now.instances.iter().filter(|i| old.instance(&i.service, i.number) != Some(i)) {
            first = first.and(self.link.stop(&deploy::group(&rolling.now, running)));
        }
        let left = Mark::deployment(&self.store.root, rolling.id).end();
        left.unwrap_or_else(|why| {
            log::warn!("{why}");
            0
        });
        // Whatever the daemon says: the files have to be right for the next boot.
        self.store.recover(lock)?;
        first?;
        let ends_itself = self.site().ends_itself();
        if ends_itself {
            // Not before all run again.
            self.store.save_rolling(&Rolling { now: old.clone(), renames: Vec::new(), ..rolling })?;
        }
        self.link.reload(self.is_deployed)?;
        let (mut ports, _) = Ports::load(&self.store.root);
        let laid = lay_out(&self.store, &old, &self.settings, &self.own, &mut ports)?;
        let names = |spec: &crate::plan::Spec| format!("{}:{}", spec.name.group, spec.name.process);
        let automatic: Vec<String> = laid.plan.specs.iter().filter(|spec| spec.autostart).map(names).collect();
        self.link.start(&automatic)?;
        if ends_itself {
            self.store.end_rolling()?;
            self.link.reload(true)?;
        }
        Ok(())
    }
}

/// Changes the variables and the numbers of instances.
type Change<'a> = dyn FnMut(&mut BTreeMap<String, String>, &mut BTreeMap<String, u32>) + 'a;

/// Whether a word from an artifact may be the name of a directory here.
fn is_revision(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (1..=64).contains(&text.len()) && text.chars().all(good) && !text.starts_with('-')
}

/// Says something to the person, whatever follows.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
