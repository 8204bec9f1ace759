//! Which port number is whose, over restarts.
//!
//! Numbers are handed out from 42800 up in the order of declaration, one per service, instance and port, and written
//! down in the state directory. Nothing is probed: a number that another program holds shows when the process binds it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Placement;
use super::buildfile::{PortDecl, Service, Stack, read_bounded};
use super::environ::variable_part;
use super::value::{Place, Problem, Warning};

/// The numbers handed out so far.
#[derive(Debug, Default)]
pub struct Ports {
    /// Where they are written down; nowhere for a trial.
    file: Option<PathBuf>,
    /// `www.0.http`: the number. That of instance 0 is the public one, and `www.behind.http` is there beside it as soon
    /// as a load balancer has it.
    numbers: BTreeMap<String, u16>,
    /// What hob's own environment says, which is never written down.
    given: BTreeMap<String, u16>,
    /// The ports of the last `assign` that a load balancer stands in front of: service and port.
    fronted: BTreeSet<(String, String)>,
    /// Nothing is given back: while a stack is replaced by another, ports of both are in use.
    keeps: bool,
}

impl Ports {
    /// Those in a state directory. A file that cannot be understood is left behind with a warning.
    pub fn load(state_dir: &Path) -> (Ports, Option<Warning>) {
        let file = state_dir.join("ports.json");
        let read = match read_bounded(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(format!("cannot read it: {error}")),
            Ok(bytes) => parse(&bytes),
        };
        let (numbers, warning) = match read {
            Ok(numbers) => (numbers, None),
            Err(why) => {
                let at = Place::file(&Arc::from(file.to_string_lossy()));
                let hint = "ports are allocated afresh";
                (BTreeMap::new(), Some(Problem::new(&at, why).hint(hint)))
            }
        };
        (Ports { file: Some(file), numbers, ..Ports::default() }, warning)
    }

    /// Where they are written down.
    pub fn folder(&self) -> Option<&Path> {
        self.file.as_deref()?.parent()
    }

    /// For a trial: nothing is read or written.
    pub fn in_memory() -> Ports {
        Ports::default()
    }

    /// From now on no port is given back but by `forget`.
    pub fn keep_all(&mut self) {
        self.keeps = true;
    }

    /// Gives back the ports of a service that `is_used` has no use for: the number of the instance and the port's name.
    pub fn forget(&mut self, service: &str, is_used: impl Fn(u32, &str) -> bool) {
        self.numbers.retain(|key, _| {
            let mut parts = key.splitn(3, '.');
            let (of, number, port) = (parts.next(), parts.next().and_then(|n| n.parse().ok()), parts.next());
            of != Some(service) || number.zip(port).is_some_and(|(number, port)| is_used(number, port))
        });
    }

    /// Gives every port of these placements a number. A `PORT_X` in hob's own environment wins where it can only mean
    /// one port: with a load balancer in front, that is the public one. Ports that a service no longer declares are
    /// given back. The error names the port that got none.
    pub fn assign(
        &mut self,
        stack: &Stack,
        placements: &[Placement],
        fronted: &dyn Fn(&PortDecl, u32) -> bool,
        own_env: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        self.fronted.clear();
        let mut wanted: Vec<(String, Option<String>)> = Vec::new();
        // Last, so that the others have the numbers they would have without it.
        let mut behind: Vec<(String, Option<String>)> = Vec::new();
        for placement in placements {
            let Some(service) = stack.service(&placement.service) else { continue };
            for port in &service.ports {
                let is_fronted = fronted(port, placement.of);
                if is_fronted && placement.number == 0 {
                    self.fronted.insert((service.name.clone(), port.name.clone()));
                    behind.push((key_behind(&service.name, &port.name), None));
                }
                let may_be_given = !is_fronted || placement.number == 0;
                let variable = may_be_given.then(|| format!("PORT_{}", variable_part(&port.name)));
                wanted.push((key(&service.name, placement.number, &port.name), variable));
            }
        }
        wanted.extend(behind);
        if !self.keeps {
            self.numbers.retain(|key, _| still_declared(stack, key));
        }
        self.given = given(&wanted, own_env);
        let mut taken: BTreeSet<u16> = self.numbers.values().chain(self.given.values()).copied().collect();
        for (key, _) in wanted {
            if self.given.contains_key(&key) || self.numbers.contains_key(&key) {
                continue;
            }
            let Some(free) = (FIRST..=u16::MAX).find(|number| !taken.contains(number)) else {
                return Err(format!("no port number is left for {key}"));
            };
            taken.insert(free);
            self.numbers.insert(key, free);
        }
        Ok(())
    }

    /// The number that an instance itself listens on; 0 before `assign` has seen it.
    pub fn number(&self, service: &Service, instance: u32, port: &str) -> u16 {
        match instance {
            0 if self.is_fronted(service, port) => self.of(&key_behind(&service.name, port)),
            _ => self.of(&key(&service.name, instance, port)),
        }
    }

    /// The number that a service is reached at, however many instances it has: without a load balancer that of
    /// instance 0.
    pub fn public(&self, service: &Service, port: &str) -> u16 {
        self.of(&key(&service.name, 0, port))
    }

    pub fn is_fronted(&self, service: &Service, port: &str) -> bool {
        self.fronted.contains(&(service.name.clone(), port.to_owned()))
    }

    fn of(&self, key: &str) -> u16 {
        self.given.get(key).or_else(|| self.numbers.get(key)).copied().unwrap_or(0)
    }

    /// Writes the numbers down so that a crash leaves the old file or the new one.
    pub fn save(&self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let mut text = serde_json::to_string_pretty(&self.numbers)?;
        text.push('\n');
        if fs::read(file).is_ok_and(|old| old == text.as_bytes()) {
            return Ok(());
        }
        if let Some(dir) = file.parent() {
            fs::create_dir_all(dir)?;
        }
        let temporary = file.with_extension(format!("json.{}", std::process::id()));
        let written = File::create(&temporary)
            .and_then(|mut out| {
                out.write_all(text.as_bytes())?;
                out.sync_all()
            })
            .and_then(|()| fs::rename(&temporary, file));
        if written.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

fn parse(bytes: &[u8]) -> Result<BTreeMap<String, u16>, String> {
    let numbers: BTreeMap<String, u16> =
        serde_json::from_slice(bytes).map_err(|error| format!("cannot understand it: {error}"))?;
    let different: BTreeSet<u16> = numbers.values().copied().collect();
    if different.len() != numbers.len() || different.first().is_some_and(|least| *least < FIRST) {
        return Err("cannot understand it: a number is there twice or out of range".to_owned());
    }
    Ok(numbers)
}

fn key(service: &str, instance: u32, port: &str) -> String {
    format!("{service}.{instance}.{port}")
}

/// That of instance 0 while its first number is the load balancer's.
fn key_behind(service: &str, port: &str) -> String {
    format!("{service}.behind.{port}")
}

/// Whether the stack knows nothing of the service, or declares the port. Other stacks share the file.
fn still_declared(stack: &Stack, key: &str) -> bool {
    let mut parts = key.splitn(3, '.');
    let (Some(service), Some(_), Some(port)) = (parts.next(), parts.next(), parts.next()) else { return false };
    stack.service(service).is_none_or(|service| service.ports.iter().any(|p| p.name == port))
}

/// The ports that hob's own environment has a number for, unless two of them would share it.
fn given(wanted: &[(String, Option<String>)], own_env: &BTreeMap<String, String>) -> BTreeMap<String, u16> {
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for variable in wanted.iter().filter_map(|(_, variable)| variable.as_deref()) {
        *count.entry(variable).or_default() += 1;
    }
    let number = |variable: &str| own_env.get(variable)?.trim().parse::<u16>().ok().filter(|number| *number > 0);
    wanted
        .iter()
        .filter_map(|(key, variable)| Some((key, variable.as_deref()?)))
        .filter(|(_, variable)| count.get(variable) == Some(&1))
        .filter_map(|(key, variable)| Some((key.clone(), number(variable)?)))
        .collect()
}

const FIRST: u16 = 42_800;

#[cfg(test)]
mod tests {
    use super::super::tests::{placements, stack};
    use super::*;

    const TWO: &str =
        "www:\n  type: custom\n  instances: 2\n  ports: {a: http, b: tcp}\ndb:\n  type: custom\n  ports: {c: udp}\n";

    fn numbers(ports: &Ports, stack: &Stack) -> Vec<u16> {
        let mut all = Vec::new();
        for placement in placements(stack) {
            let service = stack.service(&placement.service).unwrap();
            all.extend(service.ports.iter().map(|port| ports.number(service, placement.number, &port.name)));
        }
        all
    }

    #[test]
    fn numbers_follow_the_declaration_and_stay_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let two = stack(TWO);
        let (mut ports, warning) = Ports::load(dir.path());
        assert_eq!(warning, None);
        ports.assign(&two, &placements(&two), &|_, _| false, &BTreeMap::new()).unwrap();
        assert_eq!(numbers(&ports, &two), [42800, 42801, 42802, 42803, 42804]);
        ports.save().unwrap();
        let turned = stack("db:\n  type: custom\n  ports: {c: udp, d: tcp}\nwww:\n  type: custom\n  ports: {b: tcp}\n");
        let (mut ports, _) = Ports::load(dir.path());
        ports.assign(&turned, &placements(&turned), &|_, _| false, &BTreeMap::new()).unwrap();
        assert_eq!(numbers(&ports, &turned), [42804, 42800, 42801]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_corrupt_file_is_a_warning_and_a_fresh_start() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "[]", "{\"www.0.a\": 80}", "{\"x.0.a\": 42800, \"x.0.b\": 42800}", "{\"x\": \"y\"}"] {
            fs::write(dir.path().join("ports.json"), text).unwrap();
            let (ports, warning) = Ports::load(dir.path());
            assert!(ports.numbers.is_empty() && warning.is_some(), "{text}");
        }
    }

    #[test]
    fn a_service_keeps_its_public_number_when_a_load_balancer_comes_and_goes() {
        let two = stack(TWO);
        let www = &two.services[0];
        let mut ports = Ports::in_memory();
        let seen = |ports: &Ports| [0, 1].map(|n| ports.number(www, n, "a")).map(|n| (n, ports.public(www, "a")));
        ports.assign(&two, &placements(&two), &|_, _| false, &BTreeMap::new()).unwrap();
        assert_eq!(seen(&ports), [(42800, 42800), (42802, 42800)]);
        let is_http = |port: &PortDecl, of: u32| port.protocol == crate::plan::Protocol::Http && of > 1;
        ports.assign(&two, &placements(&two), &is_http, &BTreeMap::new()).unwrap();
        assert_eq!(seen(&ports), [(42805, 42800), (42802, 42800)]);
        assert_eq!((ports.number(www, 0, "b"), ports.is_fronted(www, "b")), (42801, false));
        // One number in hob's own environment can only be the public one.
        let env = BTreeMap::from([("PORT_A".to_owned(), "80".to_owned())]);
        ports.assign(&two, &placements(&two), &is_http, &env).unwrap();
        assert_eq!(seen(&ports), [(42805, 80), (42802, 80)]);
        ports.assign(&two, &placements(&two), &|_, _| false, &BTreeMap::new()).unwrap();
        assert_eq!(seen(&ports), [(42800, 42800), (42802, 42800)]);
        ports.forget("www", |_, _| false);
        assert_eq!(ports.numbers.keys().map(String::as_str).collect::<Vec<_>>(), ["db.0.c"]);
    }

    #[test]
    fn hobs_own_environment_wins_where_it_can_only_mean_one_port() {
        let env = BTreeMap::from([("PORT_C".to_owned(), "9000".to_owned()), ("PORT_A".to_owned(), "9001".to_owned())]);
        let two = stack(TWO);
        let mut ports = Ports::in_memory();
        ports.assign(&two, &placements(&two), &|_, _| false, &env).unwrap();
        assert_eq!(numbers(&ports, &two), [42800, 42801, 42802, 42803, 9000]);
    }
}
