//! From what is deployed to a plan.
//!
//! Every instance sees the world as it was when it was deployed: the services, their numbers of instances and the
//! variables of that deployment. So a plan is made for each deployment that an instance is of, and each instance is
//! taken from its own. Who is not concerned by a later deployment keeps its environment, and goes on running.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::prepare::Refused;
use super::store::{Deployed, Generation, Record, Running, Store};
use crate::config::{self, Env, Placement, Ports, Settings, Stack, Warning};
use crate::plan::{Bind, Instance, Name, Plan, Spec};

/// A plan, and the environment files of each of its instances.
#[derive(Debug, Default)]
pub struct LaidOut {
    pub plan: Plan,
    /// JSON and YAML, in the order of `plan.instances`.
    pub files: Vec<(String, String)>,
    pub warnings: Vec<Warning>,
}

/// Releases that have been read.
pub struct Shelf<'s> {
    store: &'s Store,
    known: BTreeMap<String, (Record, Stack)>,
}

impl<'s> Shelf<'s> {
    pub fn new(store: &'s Store) -> Shelf<'s> {
        Shelf { store, known: BTreeMap::new() }
    }

    pub fn get(&mut self, revision: &str) -> Result<&(Record, Stack), Refused> {
        if !self.known.contains_key(revision) {
            let record = self.store.record(revision)?;
            let record = record.ok_or_else(|| Refused::one(111, format!("the release {revision} is not there")))?;
            let file = self.store.code(revision).join("dotcloud.yml");
            let (stack, _) = config::stack(&file).map_err(|problems| Refused::config(&problems))?;
            self.known.insert(revision.to_owned(), (record, stack));
        }
        Ok(&self.known[revision])
    }

    /// The services of a deployment, each from its own release.
    pub fn stack(&mut self, generation: &Generation) -> Result<Stack, Refused> {
        let mut whole: Option<Stack> = None;
        for scaled in &generation.services {
            let (_, stack) = self.get(&scaled.revision)?;
            let service = stack.service(&scaled.name).cloned().ok_or_else(|| {
                Refused::one(111, format!("the release {} has no service {}", scaled.revision, scaled.name))
            })?;
            let whole = whole.get_or_insert_with(|| Stack {
                file: stack.file.clone(),
                services: Vec::new(),
                skipped: Vec::new(),
                variables: generation.env.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
            });
            whole.services.push(service);
        }
        whole.ok_or_else(|| Refused::one(111, "a deployment without a service".to_owned()))
    }
}

/// An instance in the plan of its own deployment.
struct Found<'d> {
    running: &'d Running,
    instance: Instance,
    specs: Vec<Spec>,
    files: (String, String),
}

/// Makes the plan of everything that is deployed. Ports keep their numbers, and new ones get theirs in `ports`.
pub fn lay_out(
    store: &Store,
    deployed: &Deployed,
    settings: &Settings,
    own: &Env,
    ports: &mut Ports,
) -> Result<LaidOut, Refused> {
    ports.keep_all();
    let mut shelf = Shelf::new(store);
    let mut laid = LaidOut { plan: Plan { exit_when: settings.exit_when, ..Plan::default() }, ..LaidOut::default() };
    let mut found: Vec<Found<'_>> = Vec::new();
    let used: BTreeSet<u64> = deployed.instances.iter().map(|i| i.generation).collect();
    for generation in deployed.generations.iter().filter(|generation| used.contains(&generation.id)) {
        let stack = shelf.stack(generation)?;
        let placements = placements(store, &mut shelf, deployed, generation, settings)?;
        let (mut plan, warnings) =
            config::plan(&stack, &placements, settings, ports, own).map_err(|problems| Refused::config(&problems))?;
        laid.warnings.extend(warnings);
        laid.plan.relay_signals.append(&mut plan.relay_signals);
        for (instance, placement) in plan.instances.iter().zip(&placements) {
            let here = deployed.instance(&instance.service, instance.number);
            let Some(running) = here.filter(|running| running.generation == generation.id) else { continue };
            let of_group = plan.specs.iter().filter(|spec| spec.name.group == instance.name).cloned();
            let mut specs: Vec<Spec> = of_group.collect();
            let mut instance = instance.clone();
            if running.removed {
                specs.iter_mut().for_each(|spec| spec.autostart = false);
                instance.ports.iter_mut().for_each(|port| port.front = None);
            }
            let files = config::environment_files(&config::variables(&stack, &placements, settings, ports, placement));
            found.push(Found { running, instance, specs, files });
        }
    }
    laid.warnings.dedup();
    found.sort_by_key(|found| deployed.instances.iter().position(|i| i == found.running));
    for Found { instance, specs, files, .. } in found {
        laid.plan.instances.push(instance);
        laid.plan.specs.extend(specs);
        laid.files.push(files);
    }
    join_order(&mut laid.plan);
    config::proxy::add_to(&mut laid.plan, settings, own);
    Ok(laid)
}

/// Every instance of a deployment; those that are of another one meanwhile have a place too, since they are counted.
fn placements(
    store: &Store,
    shelf: &mut Shelf<'_>,
    deployed: &Deployed,
    generation: &Generation,
    settings: &Settings,
) -> Result<Vec<Placement>, Refused> {
    let mut all = Vec::new();
    for scaled in &generation.services {
        let project = shelf.get(&scaled.revision)?.0.project.clone();
        for number in 0..scaled.instances {
            let running = deployed.instance(&scaled.name, number).filter(|running| running.generation == generation.id);
            let log_dir = settings.log_dir.join(format!("{}.{number}", scaled.name));
            let real = running.map_or_else(|| PathBuf::from("/"), |running| running.home.clone());
            let seen_at = running.and_then(|running| running.seen_at.clone());
            let binds = match &seen_at {
                Some(to) => vec![
                    Bind { from: real.clone(), to: to.clone() },
                    Bind { from: log_dir.clone(), to: settings.log_dir.clone() },
                ],
                None => Vec::new(),
            };
            all.push(Placement {
                service: scaled.name.clone(),
                number,
                of: scaled.instances,
                home: seen_at.unwrap_or(real),
                code: store.code(&scaled.revision),
                log_dir,
                binds,
                project: Some(project.clone()),
            });
        }
    }
    Ok(all)
}

/// Names after `after` are those of the deployment that a process is of; what runs may be scaled otherwise by now.
fn join_order(plan: &mut Plan) {
    let names: BTreeSet<Name> = plan.specs.iter().map(|spec| spec.name.clone()).collect();
    let service_of: BTreeMap<&str, &str> =
        plan.instances.iter().map(|i| (i.name.as_str(), i.service.as_str())).collect();
    let meant = |name: &Name| -> Vec<Name> {
        if names.contains(name) {
            return vec![name.clone()];
        }
        // `www` or `www.0`: no service has a dot in its name.
        let service = name.group.split('.').next().unwrap_or_default();
        let is_one = |n: &&Name| n.process == name.process && service_of.get(n.group.as_str()) == Some(&service);
        names.iter().filter(is_one).cloned().collect()
    };
    for spec in &mut plan.specs {
        let mut after: Vec<Name> = spec.after.iter().flat_map(&meant).collect();
        after.retain(|name| *name != spec.name);
        after.dedup();
        spec.after = after;
    }
}
