//! From the files to a plan that is in force, at the start and again: the planner is asked, and who waits is told.

use std::io;

use super::planner::{Planner, Wanted};
use super::{Daemon, PLANNER, messages};
use crate::control::{Host, Ticket};
use crate::supervisor::event::Event;
use crate::sys;

/// A plan to make after the one that is being made.
#[derive(Default)]
pub(super) struct ReloadAfter {
    pub(super) tickets: Vec<Ticket>,
    pub(super) deployed: Option<bool>,
}

impl Daemon {
    pub(super) fn plan(&mut self, again: bool) -> io::Result<()> {
        if self.planner.is_some() {
            self.reload_after.get_or_insert_default();
            return Ok(());
        }
        if again {
            self.manager.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", sys::clock::monotonic().as_micros()));
        }
        let (make, before) = (&self.options.make_plan, &self.predecessors);
        let wanted = Wanted { again, deployed: self.deployed_next };
        self.planner = Some(Planner::start(make, wanted, &self.marks, before, self.poll.registry(), PLANNER)?);
        Ok(())
    }

    pub(super) fn hear_planner(&mut self) {
        let Some(planner) = &mut self.planner else { return };
        let Some(result) = planner.ready() else {
            self.manager.say(&format!("STATUS={}", planner.step));
            return;
        };
        if let Some(planner) = self.planner.take() {
            if self.conductor.is_some() {
                // Its end is still to be seen, and is no stranger's.
                self.streamers.push(planner.pid());
            }
            planner.close(self.poll.registry());
        }
        if self.conductor.is_some() {
            return self.hear_conf(result);
        }
        let first = !self.has_plan;
        let answer = match result {
            // Whatever kept the planner from a plan, or that it was ended for this: nobody needs one any more.
            _ if self.supervisor.is_shutting_down() => Err(vec!["hob is stopping".to_owned()]),
            Ok(mut plan) => {
                self.disabled.apply(&mut plan.specs);
                self.predecessors.clear();
                let count = plan.specs.len();
                self.take_relayed(&plan);
                self.has_plan = true;
                self.deployed = self.deployed_next;
                self.feed(Event::Plan(plan));
                self.tidy_soon();
                let count = format!("{count} process{}", if count == 1 { "" } else { "es" });
                self.manager.say(&format!("READY=1\nSTATUS={count}"));
                Ok(count)
            }
            Err(refusal) => {
                // Said plainly, without a log prefix: it is what the person who typed the command waits for.
                for error in &refusal.errors {
                    messages::say(&format!("hob: {error}"));
                }
                if first && self.reload_tickets.is_empty() {
                    self.exit_status = refusal.status;
                    self.begin_shutdown();
                } else {
                    self.manager.say("READY=1\nSTATUS=the configuration was refused, nothing changed");
                }
                Err(refusal.errors)
            }
        };
        self.deployed_next = self.deployed;
        self.answer_reload(&answer);
        if let Some(ReloadAfter { tickets, deployed }) = self.reload_after.take() {
            self.reload_tickets = tickets;
            self.deployed_next = deployed.unwrap_or(self.deployed);
            if let Err(why) = self.plan(true) {
                self.answer_reload(&Err(vec![format!("cannot reload: {why}")]));
            }
        }
    }

    pub(super) fn answer_reload(&mut self, answer: &Result<String, Vec<String>>) {
        for ticket in std::mem::take(&mut self.reload_tickets) {
            self.with_control(|control, daemon| control.reload_done(ticket, answer.clone(), daemon));
        }
    }
}
