//! The configuration that was read last, and the one that runs: a reread only looks, groups come and go one by one.

use std::collections::HashMap;

use super::auto_logs::{name_logs, unnamed};
use super::conductor::Purpose;
use super::mainlog::CRITICAL;
use super::planner::{Planner, Refusal};
use super::{Daemon, now};
use crate::control::{Done, GroupError, Host, Ticket};
use crate::plan::{Group, Name, Plan, Spec};
use crate::supervisor::Process;
use crate::supervisor::event::{Event, Phase, ProcessId};

impl Daemon {
    pub fn want_reread(&mut self, ticket: Ticket) {
        self.want(Purpose::Reread(ticket));
    }

    pub fn want_restart(&mut self, ticket: Option<Ticket>) {
        self.want(Purpose::Restart(ticket));
    }

    pub fn want_applied(&mut self, ticket: Ticket) {
        self.want(Purpose::Apply(ticket));
    }

    fn want(&mut self, purpose: Purpose) {
        let Some(conductor) = &mut self.conductor else { return };
        conductor.purposes.push_back(purpose);
        if conductor.purposes.len() == 1 {
            self.read_for_first_purpose();
        }
    }

    fn read_for_first_purpose(&mut self) {
        while self.conductor.as_ref().is_some_and(|conductor| !conductor.purposes.is_empty()) {
            let (make, wanted) = (&self.options.make_plan, super::Wanted { again: true, deployed: false });
            match Planner::start(make, wanted, &self.marks, &[], self.poll.registry(), super::PLANNER) {
                Ok(planner) => {
                    self.planner = Some(planner);
                    return;
                }
                Err(why) => {
                    let refusal = Refusal { errors: vec![format!("cannot start a child: {why}")], status: 111 };
                    self.have_read(Err(refusal));
                }
            }
        }
    }

    /// The planner is done.
    pub fn hear_conf(&mut self, result: Result<Plan, Refusal>) {
        self.have_read(result);
        self.read_for_first_purpose();
        self.tidy_soon();
    }

    fn have_read(&mut self, result: Result<Plan, Refusal>) {
        let Some(purpose) = self.conductor.as_mut().and_then(|conductor| conductor.purposes.pop_front()) else {
            return;
        };
        let mut result = result.map_err(|refusal| refusal.errors.join("; "));
        if let Ok(plan) = &mut result {
            self.disabled.apply(&mut plan.specs);
        }
        match (purpose, result) {
            (Purpose::Reread(ticket), Ok(plan)) => {
                let different = self.differences(&plan);
                if let Some(conductor) = &mut self.conductor {
                    conductor.read = plan;
                }
                self.tell_done(ticket, Done::Reread(Ok(different)));
            }
            (Purpose::Reread(ticket), Err(why)) => self.tell_done(ticket, Done::Reread(Err(why))),
            (Purpose::Restart(ticket), Ok(plan)) => {
                if let Some(ticket) = ticket {
                    self.tell_done(ticket, Done::Restart(Ok(())));
                }
                if !self.supervisor.is_shutting_down() {
                    if let Some(conductor) = &mut self.conductor {
                        conductor.next = Some(plan);
                    }
                    self.supervisor.handle(now(), Event::Shutdown { grace: None });
                    self.tell_of_shutdown();
                }
            }
            (Purpose::Restart(ticket), Err(why)) => {
                log::error!(target: CRITICAL, "the configuration is bad, everything stays as it is: {why}");
                if let Some(ticket) = ticket {
                    self.tell_done(ticket, Done::Restart(Err(why)));
                }
            }
            (Purpose::Apply(ticket), Ok(plan)) => {
                let count = plan.specs.len();
                if let Some(conductor) = &mut self.conductor {
                    conductor.read = plan.clone();
                }
                self.run_plan(plan);
                let done = Ok(format!("{count} processes"));
                self.with_control(|control, daemon| control.reload_done(ticket, done, daemon));
            }
            (Purpose::Apply(ticket), Err(why)) => {
                self.with_control(|control, daemon| control.reload_done(ticket, Err(vec![why]), daemon));
            }
        }
    }

    /// At the next turn: whoever asked may still be in the middle of asking.
    fn tell_done(&mut self, ticket: Ticket, done: Done) {
        if let Some(conductor) = &mut self.conductor {
            conductor.done.push((ticket, done));
        }
    }

    /// Groups that are new, changed or gone, compared with what runs.
    fn differences(&self, read: &Plan) -> [Vec<String>; 3] {
        let (mut added, mut changed) = (Vec::new(), Vec::new());
        let active = self.groups();
        let groups: &[Group] = read.supervisord.as_ref().map_or(&[], |own| &own.groups);
        for group in groups {
            match active.iter().find(|other| other.name == group.name) {
                None => added.push(group.name.clone()),
                Some(other) => {
                    let here: Vec<Spec> = specs_of(&read.specs, &group.name).map(unnamed).collect();
                    let running: Vec<Spec> = self
                        .supervisor
                        .processes()
                        .map(Process::spec)
                        .filter(|spec| spec.name.group == group.name)
                        .map(unnamed)
                        .collect();
                    let env = |plan: &Plan| plan.supervisord.as_ref().map(|own| own.env.clone());
                    if group != other || here != running || env(read) != env(self.supervisor.plan()) {
                        changed.push(group.name.clone());
                    }
                }
            }
        }
        let gone = active.iter().map(|group| &group.name);
        let gone = gone.filter(|name| !groups.iter().any(|group| group.name == **name)).cloned().collect();
        [added, changed, gone]
    }

    /// Runs another plan from now on, leaving alone what is the same in both.
    fn run_plan(&mut self, mut plan: Plan) {
        name_logs(&mut plan.specs, plan.supervisord.as_deref(), &self.supervisor);
        let groups = plan.supervisord.as_ref().map(|own| own.groups.clone()).unwrap_or_default();
        let before: Vec<String> = self.groups().iter().map(|group| group.name.clone()).collect();
        self.supervisor.handle(now(), Event::Plan(plan));
        if let Some(conductor) = &mut self.conductor {
            conductor.listeners.set_pools(&groups);
            conductor.set_tick();
        }
        for group in groups.iter().filter(|group| !before.contains(&group.name)) {
            self.announce("PROCESS_GROUP_ADDED", || format!("groupname:{}\n", group.name));
        }
        for name in before.iter().filter(|name| !groups.iter().any(|group| group.name == **name)) {
            self.announce("PROCESS_GROUP_REMOVED", || format!("groupname:{name}\n"));
        }
    }

    pub fn add_conducted_group(&mut self, name: &str) -> Result<(), GroupError> {
        if self.groups().iter().any(|group| group.name == name) {
            return Err(GroupError::AlreadyAdded);
        }
        let read = self.conductor.as_ref().map(|conductor| &conductor.read).ok_or(GroupError::Unknown)?;
        let own = read.supervisord.as_ref().ok_or(GroupError::Unknown)?;
        let group = own.groups.iter().find(|group| group.name == name).ok_or(GroupError::Unknown)?;
        let mut groups = self.groups().to_vec();
        groups.push(group.clone());
        groups.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
        let fresh: Vec<Spec> = specs_of(&read.specs, name).cloned().collect();
        let env = own.env.clone();
        self.run_groups(groups, fresh, Some(env));
        Ok(())
    }

    pub fn remove_conducted_group(&mut self, name: &str) -> Result<(), GroupError> {
        if !self.groups().iter().any(|group| group.name == name) {
            return Err(GroupError::Unknown);
        }
        let is_stopped = |process: &Process| matches!(process.phase(), Phase::Stopped | Phase::Exited | Phase::Fatal);
        if !self.supervisor.processes().filter(|process| process.spec().name.group == name).all(is_stopped) {
            return Err(GroupError::StillRunning);
        }
        let groups = self.groups().iter().filter(|group| group.name != name).cloned().collect();
        self.run_groups(groups, Vec::new(), None);
        Ok(())
    }

    /// The processes that an update of a group ends: those that are not in what was read last, or not as they are. All
    /// of them where the group itself is another one.
    pub fn changed_in_conducted_group(&self, name: &str) -> Result<Vec<ProcessId>, GroupError> {
        let mut processes = self.supervisor.processes().filter(|process| process.spec().name.group == name).peekable();
        if processes.peek().is_none() && !self.groups().iter().any(|group| group.name == name) {
            return Err(GroupError::Unknown);
        }
        let in_place = self.is_updated_in_place(name);
        let read = self.conductor.as_ref().map(|conductor| conductor.read().specs.as_slice()).unwrap_or_default();
        let new: HashMap<&Name, Spec> = specs_of(read, name).map(|spec| (&spec.name, unnamed(spec))).collect();
        let is_same = |spec: &Spec| in_place && new.get(&spec.name) == Some(&unnamed(spec));
        Ok(processes.filter(|process| !is_same(process.spec())).map(Process::id).collect())
    }

    /// Whether single processes can be exchanged: not where all share a socket, a pool, or an environment that is
    /// another one now.
    fn is_updated_in_place(&self, name: &str) -> bool {
        let Some(read) = self.conductor.as_ref().and_then(|conductor| conductor.read().supervisord.as_deref()) else {
            return false;
        };
        let pool_of = |groups: &[Group]| groups.iter().find(|group| group.name == name).map(|group| group.pool.clone());
        let shares = |spec: &Spec| spec.program.as_ref().is_some_and(|program| program.socket.is_some());
        let env = self.supervisor.plan().supervisord.as_ref().map(|own| &own.env);
        pool_of(&read.groups).is_some()
            && pool_of(&read.groups) == pool_of(self.groups())
            && env == Some(&read.env)
            && !self.supervisor.processes().map(Process::spec).any(|spec| spec.name.group == name && shares(spec))
    }

    /// A group becomes what was read last; what is the same in both is left alone. What is to end is to be stopped
    /// before: see `changed_in_conducted_group`.
    pub fn update_conducted_group(&mut self, name: &str) -> Result<(), GroupError> {
        let concerned = self.changed_in_conducted_group(name)?;
        let is_stopped = |id: &ProcessId| {
            let phase = self.supervisor.process(*id).map(Process::phase);
            matches!(phase, None | Some(Phase::Stopped | Phase::Exited | Phase::Fatal))
        };
        if !concerned.iter().all(is_stopped) {
            return Err(GroupError::StillRunning);
        }
        if !self.is_updated_in_place(name) {
            self.remove_conducted_group(name)?;
            return self.add_conducted_group(name);
        }
        let Some(read) = self.conductor.as_ref().map(|conductor| conductor.read().clone()) else { return Ok(()) };
        let Some(own) = &read.supervisord else { return Ok(()) };
        let mut groups = self.groups().to_vec();
        groups.retain(|group| group.name != name);
        groups.extend(own.groups.iter().filter(|group| group.name == name).cloned());
        groups.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
        let mut specs = Vec::new();
        for group in groups.iter().map(|group| &group.name) {
            match group == name {
                true => specs.extend(specs_of(&read.specs, group).cloned()),
                false => {
                    let running = self.supervisor.processes().map(Process::spec);
                    specs.extend(running.filter(|spec| spec.name.group == *group).cloned());
                }
            }
        }
        let mut plan = Plan { specs, ..self.supervisor.plan().clone() };
        if let Some(own) = &mut plan.supervisord {
            own.groups = groups;
        }
        self.run_plan(plan);
        for id in concerned {
            if self.supervisor.process(id).is_some_and(|process| process.spec().autostart) {
                self.feed(Event::Start(id));
            }
        }
        Ok(())
    }

    /// The groups that run, with their processes as they are, and those that are new.
    fn run_groups(
        &mut self,
        groups: Vec<Group>,
        fresh: Vec<Spec>,
        env: Option<std::collections::BTreeMap<String, String>>,
    ) {
        let mut specs = Vec::new();
        for group in &groups {
            let running = self.supervisor.processes().map(Process::spec).filter(|spec| spec.name.group == group.name);
            specs.extend(running.cloned());
            specs.extend(specs_of(&fresh, &group.name).cloned());
        }
        let mut plan = Plan { specs, ..self.supervisor.plan().clone() };
        if let Some(own) = &mut plan.supervisord {
            own.groups = groups;
            // What runs already has its environment; a new one gets what was read last.
            own.env = env.unwrap_or_else(|| own.env.clone());
        }
        self.run_plan(plan);
    }
}

fn specs_of<'s>(specs: &'s [Spec], group: &'s str) -> impl Iterator<Item = &'s Spec> {
    specs.iter().filter(move |spec| spec.name.group == group)
}
