//! Who is served by whom while one deployment takes the place of another: an instance leaves the load balancer before
//! it is stopped, and comes back when it is responsive.

use super::deploy::Roll;
use super::deployed::{LaidOut, lay_out};
use super::prepare::Refused;
use super::proxy::{self, Balancer};
use super::report::Report;
use crate::config::Ports;
use crate::plan::Protocol;

impl Roll<'_> {
    /// The plan of what runs at the moment.
    pub(super) fn lay_out_now(&self) -> Result<LaidOut, Refused> {
        let (mut ports, _) = Ports::load(&self.site.store.root);
        lay_out(self.site.store, &self.rolling.now, self.site.settings, self.site.own, &mut ports)
    }

    /// From now on nothing new comes to an instance; waits for what it has under way.
    pub(super) fn pass_over(&mut self, name: &str, report: &mut Report) -> Result<(), Refused> {
        if !self.is_balanced || !self.rolling.now.out.insert(name.to_owned()) {
            return Ok(());
        }
        self.site.store.save_rolling(&self.rolling)?;
        let laid = self.lay_out_now()?;
        let balancer = Balancer::of(&laid.plan, &self.rolling.now.out, self.site.settings);
        let Some(balancer) = balancer.filter(|balancer| balancer.passes_over(name)) else { return Ok(()) };
        report.stage("drain", Some(name), |_| {
            balancer.route()?;
            balancer.drain(name);
            Ok(())
        })
    }

    /// The instance serves.
    pub(super) fn take_in(&mut self, name: &str, report: &mut Report) -> Result<(), Refused> {
        if !self.is_balanced || !self.rolling.now.out.remove(name) {
            return Ok(());
        }
        self.site.store.save_rolling(&self.rolling)?;
        let laid = self.lay_out_now()?;
        let balancer = Balancer::of(&laid.plan, &self.rolling.now.out, self.site.settings);
        let Some(balancer) = balancer else { return Ok(()) };
        if let Some(warning) = balancer.serve(self.site.link)? {
            report.say(&warning);
        }
        Ok(())
    }

    /// The same for one of before, with no more than can be had at once: there is nothing to go back to.
    pub(super) fn take_back_in(&mut self, name: &str) -> Result<(), Refused> {
        if !self.is_balanced || !self.rolling.now.out.remove(name) {
            return Ok(());
        }
        self.site.store.save_rolling(&self.rolling)?;
        let laid = self.lay_out_now()?;
        let balancer = Balancer::of(&laid.plan, &self.rolling.now.out, self.site.settings);
        balancer.map_or(Ok(()), |balancer| balancer.route())
    }

    /// Lets the daemon know of another instance in a place. A port that the load balancer had until now is free then,
    /// and one that it has from now on is already served by others.
    pub(super) fn switch(&mut self, service: &str, number: u32) -> Result<(), Refused> {
        self.order();
        if self.is_balanced {
            self.rolling.now.out.insert(format!("{service}.{number}"));
            self.site.store.save_rolling(&self.rolling)?;
            let laid = self.lay_out_now()?;
            if let Some(balancer) = Balancer::of(&laid.plan, &self.rolling.now.out, self.site.settings) {
                balancer.route()?;
                let own = laid.plan.instances.iter().find(|i| i.service == service && i.number == number);
                let direct = own.into_iter().flat_map(|i| &i.ports).filter(|port| port.front.is_none());
                for port in direct.filter(|port| port.protocol != Protocol::Udp) {
                    // Somebody else who has it will show when the instance starts.
                    let _ = proxy::wait_until_free(port.number);
                }
            }
        }
        self.reload(true)
    }
}
