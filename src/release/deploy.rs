//! Puts one deployment in the place of another, an instance at a time.
//!
//! For each instance: a fresh home, the environment files, postinstall; then the old one is stopped, `~/data` is moved,
//! the new one is launched, and must become responsive. What was done is written down before the next step, so that
//! whoever comes after a crash can take it back; and as long as the last instance does not serve, the old deployment
//! is the one that counts. Anything that goes wrong puts the old instances back.
//!
//! A load balancer passes over an instance before it is stopped, once what it has under way is done, and takes it in
//! again when it is responsive. So a service with several instances answers all the time.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::background::Mark;
use super::build::make_home;
use super::copy;
use super::deployed::{LaidOut, Shelf, lay_out};
use super::homes;
use super::link::Link;
use super::prepare::{self, Refused};
use super::proxy::Balancer;
use super::report::Report;
use super::responsive::{Expects, automatic, wait_until_responsive};
use super::script::describe;
use super::store::{self, Deployed, Generation, Record, Rolling, Running, Scaled, Store, cannot};
use crate::config::{Env, Ports, Service, Settings};
use crate::plan::{ExitWhen, Instance, Protocol, Spec};
use crate::sys::mount;

/// Everything a deployment works with.
pub struct Site<'a> {
    pub store: &'a Store,
    pub settings: &'a Settings,
    /// The environment of the daemon, which instances inherit.
    pub own: &'a Env,
    pub link: &'a Link,
    /// Whether the daemon runs what was deployed already, and not a home it was booted with.
    pub is_deployed: bool,
}

impl Site<'_> {
    /// Whether hob ends by itself some day, and has to be kept from it while instances are replaced.
    pub fn ends_itself(&self) -> bool {
        self.is_deployed && self.settings.exit_when != ExitWhen::Never
    }
}

/// What is to be.
pub struct Wanted {
    pub revision: String,
    /// All services of the stack, in order.
    pub services: Vec<Scaled>,
    /// Those whose instances are replaced; the others stay as they are.
    pub concerned: BTreeSet<String>,
    pub env: BTreeMap<String, String>,
    pub scale: BTreeMap<String, u32>,
}

/// The services of a release as they would run: scaled by hand, else as the dotcloud.yml says.
pub fn scaled(shelf: &mut Shelf<'_>, record: &Record, scale: &BTreeMap<String, u32>) -> Result<Vec<Scaled>, Refused> {
    let mut all = Vec::new();
    for built in &record.services {
        let (_, stack) = shelf.get(&built.revision)?;
        let declared = stack.service(&built.name).map_or(1, |service| service.instances);
        let instances = scale.get(&built.name).copied().unwrap_or(declared);
        all.push(Scaled { name: built.name.clone(), revision: built.revision.clone(), instances });
    }
    Ok(all)
}

/// Deploys; the URLs of what serves then. An error has put everything back.
pub fn deploy(site: &Site<'_>, wanted: &Wanted, report: &mut Report) -> Result<Vec<(String, String)>, Refused> {
    let old = site.store.deployed()?;
    let newest = old.generations.iter().map(|generation| generation.id).max().unwrap_or(0);
    let id = store::now().max(newest + 1);
    let generation = Generation { id, services: wanted.services.clone(), env: wanted.env.clone() };
    let mut now = old.clone();
    now.generations.push(generation.clone());
    let rolling = Rolling { id, revision: wanted.revision.clone(), now, renames: Vec::new() };
    let mut roll = Roll {
        site,
        old: &old,
        generation,
        rolling,
        done: Vec::new(),
        was_deployed: site.is_deployed,
        is_balanced: false,
    };
    let result = roll.all(wanted, report);
    if let Err(refused) = result {
        return Err(roll.put_back(refused, report));
    }
    let deployed = roll.rolling.now;
    // Not earlier: an instance that is put back is to be as it was, and its postinstall does not run again.
    for gone in old.instances.iter().filter(|i| deployed.instance(&i.service, i.number) != Some(i)) {
        end_background(site.store, gone, report);
    }
    // It serves: what is left undone from here on costs disk space only.
    if site.settings.exit_when != ExitWhen::Never
        && let Err(refused) = site.link.reload(true)
    {
        report.say(&format!("warning: exit_when does not hold yet: {}", refused.errors.join("; ")));
    }
    site.store.sweep(&deployed);
    if let Err(refused) = site.store.prune(&deployed, RELEASES_KEPT) {
        report.say(&format!("old releases could not be removed: {}", refused.errors.join("; ")));
    }
    Ok(urls(site, &deployed))
}

pub(super) struct Roll<'a> {
    pub(super) site: &'a Site<'a>,
    old: &'a Deployed,
    generation: Generation,
    pub(super) rolling: Rolling,
    /// What was begun, in order.
    done: Vec<Step>,
    /// Whether the daemon runs what was deployed, at this moment.
    was_deployed: bool,
    /// Whether there is a load balancer before or after.
    pub(super) is_balanced: bool,
}

/// One instance that was touched.
struct Step {
    service: String,
    number: u32,
    /// Where its renames begin.
    renames: usize,
    /// Whether the old one was told to stop.
    stopped: bool,
}

impl Roll<'_> {
    fn all(&mut self, wanted: &Wanted, report: &mut Report) -> Result<(), Refused> {
        let mut shelf = Shelf::new(self.site.store);
        let laid = self.look_ahead(&wanted.concerned, &mut shelf)?;
        for warning in &laid.warnings {
            report.say(&format!("warning: {warning}"));
        }
        for path in hidden_data(&laid, &mount::points()) {
            let told = format!("what is mounted at {} is hidden by the homes of instances", path.display());
            report.say(&format!("warning: {told}; {LINK_DATA}"));
        }
        self.site.store.save_rolling(&self.rolling)?;
        if self.site.ends_itself() {
            // From now on hob does not end because an instance has.
            self.reload(true)?;
        }
        for scaled in self.generation.services.clone() {
            if !wanted.concerned.contains(&scaled.name) {
                continue;
            }
            // New ones first: until they serve, nobody has lost anything.
            let is_new = |number: &u32| self.old.instance(&scaled.name, *number).is_none();
            let (fresh, others): (Vec<u32>, Vec<u32>) = (0..scaled.instances).partition(is_new);
            let now = self.lay_out_now()?;
            let before: Vec<&Instance> = now.plan.instances.iter().filter(|i| i.service == scaled.name).collect();
            let (_, stack) = shelf.get(&scaled.revision)?;
            let Some(service) = stack.service(&scaled.name).cloned() else { continue };
            let mut expects = Expects::of(&service, &before);
            for number in fresh.into_iter().chain(others) {
                let at = laid.plan.instances.iter().position(|i| i.service == scaled.name && i.number == number);
                let Some(at) = at else { continue };
                let specs: Vec<&Spec> =
                    laid.plan.specs.iter().filter(|s| s.name.group == laid.plan.instances[at].name).collect();
                let (instance, files) = (&laid.plan.instances[at], &laid.files[at]);
                let new = New { service: &service, instance, specs, files, scaled: &scaled, expects };
                if let Some(silent) = self.replace(&new, report)? {
                    report.say(&format!("warning: {silent}"));
                    // Nor will the others.
                    expects = Expects::Nothing;
                }
            }
        }
        self.retire(wanted, report)?;
        report.say("Re-routing traffic to the new build...");
        let mut then = self.rolling.now.clone();
        then.revision = Some(wanted.revision.clone());
        then.env.clone_from(&wanted.env);
        then.scale.clone_from(&wanted.scale);
        then.out.clear();
        then.drop_unused();
        report.stage("record", None, |_| self.site.store.commit(&then))?;
        self.rolling.now = then;
        Ok(())
    }

    /// The plan as it will be, and its ports: what is wrong with it shows before anything is touched.
    fn look_ahead(&mut self, concerned: &BTreeSet<String>, shelf: &mut Shelf<'_>) -> Result<LaidOut, Refused> {
        let mut then = self.rolling.now.clone();
        for scaled in self.generation.services.iter().filter(|scaled| concerned.contains(&scaled.name)) {
            for number in 0..scaled.instances {
                let new = self.new_instance(scaled, number, shelf)?;
                put(&mut then, new);
            }
            then.instances.retain(|i| i.service != scaled.name || i.number < scaled.instances);
        }
        let (mut ports, warning) = Ports::load(&self.site.store.root);
        let mut laid = lay_out(self.site.store, &then, self.site.settings, self.site.own, &mut ports)?;
        laid.warnings.extend(warning);
        ports.save().map_err(|e| cannot("write the ports to", &self.site.store.root, &e))?;
        self.data_can_move(&then, &mount::points())?;
        let before = self.lay_out_now()?;
        let none = BTreeSet::new();
        self.is_balanced = Balancer::of(&before.plan, &none, self.site.settings).is_some();
        if let Some(balancer) = Balancer::of(&laid.plan, &none, self.site.settings) {
            balancer.check()?;
            self.is_balanced = true;
        }
        Ok(laid)
    }

    /// `~/data` is moved from home to home, which a mount point cannot be. Better told before anything is stopped.
    fn data_can_move(&self, then: &Deployed, points: &HashSet<PathBuf>) -> Result<(), Refused> {
        let changes = |old: &&Running| then.instance(&old.service, old.number) != Some(*old);
        for old in self.rolling.now.instances.iter().filter(changes) {
            let data = old.home.join("data");
            if points.contains(&data) {
                let name = format!("{}.{}", old.service, old.number);
                let why =
                    format!("{name}: ~/data ({}) is a mount point, which cannot move to a new home", data.display());
                return Err(Refused::one(1, format!("{why}; {LINK_DATA}")));
            }
        }
        Ok(())
    }

    fn new_instance(&self, scaled: &Scaled, number: u32, shelf: &mut Shelf<'_>) -> Result<Running, Refused> {
        let (record, _) = shelf.get(&scaled.revision)?;
        let home = match &record.home {
            Some(_) => self.site.store.bound_home(&scaled.name, number, self.generation.id),
            None => self.site.store.direct_home(&scaled.revision, &scaled.name, number),
        };
        let (service, generation) = (scaled.name.clone(), self.generation.id);
        Ok(Running { service, number, generation, home, seen_at: record.home.clone(), removed: false })
    }

    /// Puts a new instance in the place of an old one, if there is one.
    /// What it should have and does not, but can do without, is told.
    fn replace(&mut self, new: &New<'_>, report: &mut Report) -> Result<Option<String>, Refused> {
        let (service, number) = (&new.scaled.name, new.instance.number);
        let name = format!("{service}.{number}");
        let home = new.instance.real_home().to_owned();
        let old = self.rolling.now.instance(service, number).cloned();
        let store = self.site.store;
        // The same release again where homes are used where they lie: there is only one place.
        let in_place = old.as_ref().is_some_and(|old| old.home == home);
        let fresh = if in_place { beside(&home, ".new") } else { home.clone() };
        report.stage("home", Some(&name), |_| fresh_home(store, new, &fresh))?;
        prepare::make_log_dir(new.instance);
        self.done.push(Step { service: service.clone(), number, renames: self.rolling.renames.len(), stopped: false });
        if in_place {
            self.pass_over(&name, report)?;
            self.stop_old(old.as_ref(), &name, report)?;
            let aside = beside(&home, ".old");
            store::remove(&aside).map_err(|e| cannot("remove", &aside, &e))?;
            self.rename(&home, &aside)?;
            self.rename(&fresh, &home)?;
        }
        let (json, yml) = new.files;
        prepare::write_files(new.instance, json, yml).map_err(|(path, why)| cannot("write", &path, &why))?;
        if let Some(line) = prepare::postinstall_line(new.service, new.instance) {
            report.tell(&name, "Running postinstall script...");
            report.stage("postinstall", Some(&name), |report| {
                let show = &mut |line: &[u8]| report.output(&name, line);
                let mark = Mark::instance(&store.root, self.generation.id, service, number);
                prepare::run_postinstall(&line, new.service, new.instance, self.site.settings, Some(&mark), show)
            })?;
        }
        if !in_place {
            self.pass_over(&name, report)?;
            self.stop_old(old.as_ref(), &name, report)?;
        }
        self.move_data(old.as_ref(), in_place, service, number, &home)?;
        report.tell(&name, "Launching...");
        let running = Running {
            service: service.clone(),
            number,
            generation: self.generation.id,
            home,
            seen_at: (!new.instance.binds.is_empty()).then(|| new.instance.home.clone()),
            removed: false,
        };
        put(&mut self.rolling.now, running);
        self.switch(service, number)?;
        self.site.link.start(&automatic(&new.specs))?;
        report.tell(&name, "Waiting for the instance to become responsive...");
        let silent = report.stage("responsive", Some(&name), |_| {
            wait_until_responsive(self.site, new.instance, &new.specs, new.expects)
        })?;
        self.take_in(&name, report)?;
        Ok(silent)
    }

    fn stop_old(&mut self, old: Option<&Running>, name: &str, report: &mut Report) -> Result<(), Refused> {
        let Some(old) = old else { return Ok(()) };
        if let Some(step) = self.done.last_mut() {
            step.stopped = true;
        }
        let group = group(&self.rolling.now, old);
        report.stage("stop", Some(name), |_| self.site.link.stop(&group))
    }

    /// `~/data`, if there is any, from the old home or from where it was kept meanwhile.
    fn move_data(
        &mut self,
        old: Option<&Running>,
        in_place: bool,
        service: &str,
        number: u32,
        home: &Path,
    ) -> Result<(), Refused> {
        let from = match old {
            Some(old) if in_place => beside(&old.home, ".old").join("data"),
            Some(old) => old.home.join("data"),
            None => self.site.store.parked_data(service, number),
        };
        if fs::symlink_metadata(&from).is_err() {
            return Ok(());
        }
        let to = home.join("data");
        self.note_rename(&from, &to)?;
        // What the builder made is for an instance that has none.
        store::remove(&to).map_err(|e| cannot("remove", &to, &e))?;
        fs::rename(&from, &to).map_err(|e| cannot("move ~/data to", &to, &e))
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Result<(), Refused> {
        self.note_rename(from, to)?;
        fs::rename(from, to).map_err(|e| cannot("move a home to", to, &e))
    }

    fn note_rename(&mut self, from: &Path, to: &Path) -> Result<(), Refused> {
        self.rolling.renames.push((from.to_owned(), to.to_owned()));
        self.site.store.save_rolling(&self.rolling)
    }

    /// Ends the instances that are too many, and those of services that have left the stack.
    fn retire(&mut self, wanted: &Wanted, report: &mut Report) -> Result<(), Refused> {
        let of = |service: &str| wanted.services.iter().find(|scaled| scaled.name == service);
        let leaving: Vec<Running> = self.rolling.now.instances.clone();
        let mut changed = false;
        for running in leaving.into_iter().filter(|running| !running.removed) {
            let name = format!("{}.{}", running.service, running.number);
            match of(&running.service) {
                Some(scaled) if running.number < scaled.instances => continue,
                Some(_) => {
                    self.begin(&running);
                    self.pass_over(&name, report)?;
                    self.stop_old(Some(&running), &name, report)?;
                    self.park(&running)?;
                    let gone = |i: &Running| i.service == running.service && i.number == running.number;
                    self.rolling.now.instances.retain(|i| !gone(i));
                }
                None => {
                    report.tell(&name, "is no longer in dotcloud.yml: stopped, and kept until `hob destroy`");
                    self.begin(&running);
                    self.pass_over(&name, report)?;
                    self.stop_old(Some(&running), &name, report)?;
                    put(&mut self.rolling.now, Running { removed: true, ..running });
                }
            }
            changed = true;
        }
        if changed { self.reload(true) } else { Ok(()) }
    }

    fn begin(&mut self, running: &Running) {
        let (service, number) = (running.service.clone(), running.number);
        self.done.push(Step { service, number, renames: self.rolling.renames.len(), stopped: false });
    }

    /// Keeps `~/data` for the day there is such an instance again.
    fn park(&mut self, running: &Running) -> Result<(), Refused> {
        let (from, to) = (running.home.join("data"), self.site.store.parked_data(&running.service, running.number));
        if fs::symlink_metadata(&from).is_err() {
            return Ok(());
        }
        if fs::symlink_metadata(&to).is_ok() {
            let aside = beside(&to, &format!(".{}", self.generation.id));
            self.rename(&to, &aside)?;
        }
        self.rename(&from, &to)
    }

    /// In the order of the new deployment; what has left the stack comes last.
    pub(super) fn order(&mut self) {
        let place = |service: &str| self.generation.services.iter().position(|scaled| scaled.name == service);
        self.rolling
            .now
            .instances
            .sort_by_key(|i| (place(&i.service).unwrap_or(usize::MAX), i.service.clone(), i.number));
    }

    pub(super) fn reload(&mut self, deployed: bool) -> Result<(), Refused> {
        self.site.store.save_rolling(&self.rolling)?;
        self.site.link.reload(deployed)?;
        self.was_deployed = deployed;
        Ok(())
    }

    /// Puts back the old instances, the last one first, and says what became of it.
    fn put_back(&mut self, mut refused: Refused, report: &mut Report) -> Refused {
        if let Some(error) = refused.errors.first() {
            report.say(error);
        }
        if !self.done.is_empty() {
            report.say("Going back to what ran before...");
        }
        while let Some(step) = self.done.pop() {
            if let Err(more) = self.put_back_one(&step, report) {
                refused.errors.extend(more.errors);
            }
        }
        if let Err(more) = self.site.store.end_rolling() {
            refused.errors.extend(more.errors);
        }
        // The home that hob was booted with, or the rule by which it ends.
        if (!self.site.is_deployed && self.was_deployed || self.site.ends_itself())
            && let Err(more) = self.site.link.reload(self.site.is_deployed)
        {
            refused.errors.extend(more.errors);
        }
        self.site.store.sweep(self.old);
        refused
    }

    fn put_back_one(&mut self, step: &Step, report: &mut Report) -> Result<(), Refused> {
        let name = format!("{}.{}", step.service, step.number);
        let old = self.old.instance(&step.service, step.number);
        let now = self.rolling.now.instance(&step.service, step.number).cloned();
        let is_switched = now.as_ref() != old;
        let mut first = Ok(());
        if let Some(now) = now.as_ref().filter(|_| is_switched) {
            first = self.pass_over(&name, report);
            first = first.and(self.stop_old(Some(now), &name, report));
        }
        // Also of a script that has failed, whose instance nobody knows yet.
        let mark = Mark::instance(&self.site.store.root, self.generation.id, &step.service, step.number);
        if let Err(why) = mark.end() {
            report.say(&format!("{name}: {why}"));
        }
        // Whatever the daemon says: the files have to be right for the next boot.
        store::take_back(&self.rolling.renames[step.renames..])?;
        self.rolling.renames.truncate(step.renames);
        match old {
            Some(old) => put(&mut self.rolling.now, old.clone()),
            None => self.rolling.now.instances.retain(|i| i.service != step.service || i.number != step.number),
        }
        self.site.store.save_rolling(&self.rolling)?;
        first?;
        if is_switched {
            self.switch(&step.service, step.number)?;
        }
        let Some(old) = old.filter(|old| !old.removed && step.stopped) else {
            return self.take_back_in(&name);
        };
        report.tell(&name, "Putting back the instance that ran before...");
        let laid = self.lay_out_now()?;
        let found = laid.plan.instances.iter().find(|i| i.service == old.service && i.number == old.number);
        let Some(instance) = found else { return Ok(()) };
        let specs: Vec<&Spec> = laid.plan.specs.iter().filter(|spec| spec.name.group == instance.name).collect();
        self.site.link.start(&automatic(&specs))?;
        let responsive = wait_until_responsive(self.site, instance, &specs, Expects::Nothing);
        // It is the best there is.
        let taken_in = self.take_back_in(&name);
        responsive.map(|_| ()).and(taken_in)
    }
}

/// A new instance and what is known of it.
struct New<'a> {
    service: &'a Service,
    instance: &'a Instance,
    specs: Vec<&'a Spec>,
    files: &'a (String, String),
    scaled: &'a Scaled,
    expects: Expects,
}

/// Fills a home with what was built.
fn fresh_home(store: &Store, new: &New<'_>, home: &Path) -> Result<(), Refused> {
    let user = new.instance.user.as_ref();
    let failed = |why: String| Refused::one(111, format!("{}: {why}", new.instance.name));
    homes::make_above(home)?;
    store::remove(home).map_err(|e| cannot("remove", home, &e))?;
    make_home(home, user).map_err(|why| failed(format!("cannot make its home: {why}")))?;
    let built = store.built(&new.scaled.revision, &new.scaled.name);
    copy::home(&built, home, user)
        .map_err(|e| failed(format!("cannot copy the home to {}: {}", home.display(), describe(&e))))
}

/// What is mounted where instances would see their `~/data`, and do not, since their home is bound over it.
fn hidden_data(laid: &LaidOut, points: &HashSet<PathBuf>) -> BTreeSet<PathBuf> {
    let bound = laid.plan.instances.iter().filter(|instance| !instance.binds.is_empty());
    bound.map(|instance| instance.home.join("data")).filter(|data| points.contains(data)).collect()
}

/// What the postinstall script of an instance has left running.
pub fn end_background(store: &Store, running: &Running, report: &mut Report) {
    let mark = Mark::instance(&store.root, running.generation, &running.service, running.number);
    match mark.end() {
        Ok(_) => {}
        // It harms less than a deployment that stops half-way.
        Err(why) => report.say(&format!("{}.{}: {why}", running.service, running.number)),
    }
}

/// Puts an instance in its place in the list.
fn put(deployed: &mut Deployed, new: Running) {
    match deployed.instances.iter_mut().find(|i| i.service == new.service && i.number == new.number) {
        Some(place) => *place = new,
        None => deployed.instances.push(new),
    }
}

/// The name of an instance in the plan that it is of.
pub fn group(deployed: &Deployed, running: &Running) -> String {
    let of = deployed.generation(running.generation).and_then(|generation| generation.service(&running.service));
    match of.map_or(1, |scaled| scaled.instances) {
        1 => running.service.clone(),
        _ => format!("{}.{}", running.service, running.number),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// Of the http ports of all that runs.
fn urls(site: &Site<'_>, deployed: &Deployed) -> Vec<(String, String)> {
    let (mut ports, _) = Ports::load(&site.store.root);
    let Ok(laid) = lay_out(site.store, deployed, site.settings, site.own, &mut ports) else { return Vec::new() };
    let removed = |i: &Instance| deployed.instance(&i.service, i.number).is_some_and(|running| running.removed);
    let mut urls = Vec::new();
    for instance in laid.plan.instances.iter().filter(|i| !removed(i)) {
        for port in instance.ports.iter().filter(|port| port.protocol == Protocol::Http) {
            let Some(number) = port.public(instance.number) else { continue };
            let name = if port.front.is_some() { &instance.service } else { &instance.name };
            let url = (name.clone(), port.url(number));
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
    }
    urls
}

const RELEASES_KEPT: usize = 5;
const LINK_DATA: &str = "mount it elsewhere, and let ~/data be a link to it";
