//! How a new plan is laid over the table: by name, and so that who is not concerned notices nothing.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Table;
use super::event::{Action, ProcessId};
use super::process::Process;
use crate::plan::{Bind, Name, Plan};

/// Whether anything is different now.
pub fn replan(table: &mut Table, mut plan: Plan) -> bool {
    let specs = std::mem::take(&mut plan.specs);
    let mut changed = table.plan != plan;
    // A process has only what differs from its instance: another environment there is another one for it.
    let (before, after) = (environments(&table.plan), environments(&plan));
    let moved: HashSet<String> =
        after.keys().filter(|&g| before.get(g) != after.get(g)).map(|&g| g.to_owned()).collect();
    table.plan = plan;

    let order_before: Vec<ProcessId> = table.rows.iter().map(Process::id).collect();
    let mut known: HashMap<Name, Process> =
        std::mem::take(&mut table.rows).into_iter().map(|process| (process.name().clone(), process)).collect();
    let mut rows = Vec::with_capacity(specs.len());
    for spec in specs {
        match known.remove(&spec.name) {
            Some(mut process) => {
                changed |= {
                    let moved = moved.contains(&spec.name.group);
                    process.replan(spec, moved, &mut table.common)
                };
                rows.push(process);
            }
            None => {
                let id = ProcessId(table.next_id);
                table.next_id += 1;
                rows.push(Process::new(id, spec, table.common.now));
                table.common.act(Action::Added(id));
            }
        }
    }
    let mut leaving: Vec<Process> = known.into_values().collect();
    leaving.sort_by_key(Process::id);
    for process in &mut leaving {
        changed |= process.leave();
    }
    rows.append(&mut leaving);
    changed |= !rows.iter().map(Process::id).eq(order_before);
    table.rows = rows;
    changed
}

/// What each instance runs in: its binds, since another release is another home at the same path, and its environment but for the command lines in it (`SERVICE_PROCESSES_<NAME>`): a process whose
/// neighbour has another command is not concerned.
fn environments(plan: &Plan) -> HashMap<&str, (BTreeMap<&str, &str>, &[Bind])> {
    let told = |(key, _): &(&str, &str)| !key.starts_with("SERVICE_PROCESS");
    plan.instances
        .iter()
        .map(|instance| {
            let env = instance.env.iter().map(|(key, value)| (key.as_str(), value.as_str())).filter(told);
            (instance.name.as_str(), (env.collect(), instance.binds.as_slice()))
        })
        .collect()
}
