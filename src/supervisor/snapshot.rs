//! The table as data: for upgrade, recovery and the tests, which restore it before every step.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::event::{Action, Time};
use super::order::Order;
use super::process::Process;
use super::restart::{Dice, StartRate};
use super::{Shutdown, Supervisor};
use crate::plan::Plan;

/// Everything a supervisor knows. Older versions are kept under `tests/snapshots` and must stay readable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    version: u32,
    plan: Plan,
    table: Vec<Process>,
    next_id: u32,
    next_run: u64,
    dice: Dice,
    rate: StartRate,
    shutdown: Option<Shutdown>,
    actions: VecDeque<Action>,
    touched: Option<Time>,
}

impl Supervisor {
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            version: 1,
            plan: self.plan.clone(),
            table: self.table.clone(),
            next_id: self.next_id,
            next_run: self.next_run,
            dice: self.dice.clone(),
            rate: self.rate.clone(),
            shutdown: self.shutdown.clone(),
            actions: self.actions.clone(),
            touched: self.touched,
        }
    }

    pub fn restore(snapshot: Snapshot) -> Supervisor {
        let Snapshot { version: _, plan, table, next_id, next_run, dice, rate, shutdown, actions, touched } = snapshot;
        let mut supervisor = Supervisor {
            plan,
            table,
            index: HashMap::new(),
            order: Order::default(),
            next_id,
            next_run,
            dice,
            rate,
            shutdown,
            actions,
            touched,
        };
        supervisor.rebuild();
        supervisor
    }
}
