//! Methods of hob's own at `/RPC2`, for its own supervisorctl. `system.listMethods` does not list them: clients compare
//! that list with supervisord's.

use super::GroupError;
use super::exchange::{Outcome, Wish};
use super::rpc::{Asked, Method, act, done, fail, fault, given, group_done, method};
use crate::supervisor::event::ProcessId;
use crate::xmlrpc::Value;

pub const METHODS: &[Method] = &[
    method!(
        "hob.changedProcesses",
        ["array", "string"],
        0,
        "Tells which processes of a group an update would end.",
        changed
    ),
    method!("hob.setEnabled", ["array", "array", "boolean"], 0, "Whether processes start by themselves.", set_enabled),
    method!("hob.stopProcesses", ["array", "array"], 0, "Stops several processes at once, and waits.", stop),
    method!(
        "hob.updateProcessGroup",
        ["boolean", "string"],
        0,
        "Makes a group what was read last, and leaves alone what is the same.",
        |asked| {
            let name = given!(asked.text(0));
            group_done(asked.host.update_group(&name), &name)
        }
    ),
];

fn changed(asked: &mut Asked<'_>) -> Outcome {
    let name = given!(asked.text(0));
    match asked.host.changed_in_group(&name) {
        Ok(ids) => {
            let full = |id: &ProcessId| {
                let name = &asked.host.supervisor().process(*id)?.spec().name;
                Some(Value::from(format!("{}:{}", name.group, name.process).as_str()))
            };
            done(Value::Array(ids.iter().filter_map(full).collect()))
        }
        Err(GroupError::Unknown | GroupError::AlreadyAdded | GroupError::StillRunning) => fail(fault::BAD_NAME, &name),
    }
}

fn stop(asked: &mut Asked<'_>) -> Outcome {
    let ids = given!(named(asked));
    act(asked, ids, Wish::Stop, true)
}

fn set_enabled(asked: &mut Asked<'_>) -> Outcome {
    let ids = given!(named(asked));
    let Some(is_enabled) = asked.params.get(1).and_then(Value::as_bool) else {
        return fail(fault::INCORRECT_PARAMETERS, "");
    };
    match asked.host.set_enabled(&ids, is_enabled) {
        Ok(()) => {
            let starts = |id: &ProcessId| asked.host.supervisor().process(*id).map(|p| p.spec().autostart.into());
            done(Value::Array(ids.iter().filter_map(starts).collect()))
        }
        Err(why) => fail(fault::FAILED, &why.to_string()),
    }
}

/// The processes that the first argument lists, each as `group:process`.
fn named(asked: &Asked<'_>) -> Result<Vec<ProcessId>, Outcome> {
    let names = asked.params.first().and_then(Value::as_array).ok_or_else(|| fail(fault::INCORRECT_PARAMETERS, ""))?;
    let mut ids = Vec::new();
    for name in names {
        let name = name.as_str().ok_or_else(|| fail(fault::INCORRECT_PARAMETERS, ""))?;
        ids.push(asked.process(name)?);
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_of_them_is_supervisords() {
        let listed = super::super::rpc::METHODS;
        assert!(METHODS.iter().all(|own| own.name.starts_with("hob.")));
        assert!(listed.iter().all(|method| !method.name.starts_with("hob.")) && listed.len() == 41);
    }
}
