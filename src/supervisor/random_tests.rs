//! Worlds by chance: random specs, lives, orders and plans, some with the supervisor rebuilt from its snapshot
//! at every step. The rules they must not break are asserted in `world`.

use std::time::Duration;

use crate::plan::{Autorestart, Plan, Spec};
use crate::supervisor::event::{Event, ProcessId};
use crate::supervisor::world::*;

#[test]
fn no_order_of_events_breaks_the_rules() {
    let mut hours = 0.0;
    let mut steps = 0;
    for seed in 1..=WORLDS {
        let world = whole_world(seed, false);
        hours += world.clock() / 3600.0;
        steps += world.steps;
    }
    println!("{WORLDS} worlds, {steps} steps, {hours:.0} hours");
    assert!(hours > 2000.0, "only {hours:.0} hours");
}

#[test]
fn a_rebuild_from_the_snapshot_at_every_step_changes_nothing() {
    let mut hours = 0.0;
    let mut steps = 0;
    for seed in 1..=REBUILT_WORLDS {
        let (mut plain, mut rebuilt) = (whole_world(seed, false), whole_world(seed, true));
        assert!(plain.transcript() == rebuilt.transcript(), "world {seed} takes another course when it is rebuilt");
        hours += rebuilt.clock() / 3600.0;
        steps += rebuilt.steps;
    }
    println!("{REBUILT_WORLDS} worlds rebuilt at every one of {steps} steps, {hours:.0} hours");
}

/// To look at one: `HOB_WORLD=17 cargo test one_world -- --ignored --nocapture`.
#[test]
#[ignore = "shows one world, action by action"]
fn one_world() {
    let seed = std::env::var("HOB_WORLD").ok().and_then(|seed| seed.parse().ok()).expect("a seed in HOB_WORLD");
    world_of(seed, false, true);
}

const WORLDS: u64 = 1000;
const REBUILT_WORLDS: u64 = 150;

fn whole_world(seed: u64, restores: bool) -> World {
    std::panic::catch_unwind(|| world_of(seed, restores, false))
        .unwrap_or_else(|_| panic!("world {seed} breaks a rule (rebuilt: {restores})"))
}

fn world_of(seed: u64, restores: bool, talks: bool) -> World {
    let mut dice = Dice(seed);
    let mut world = World::empty(dice.roll());
    world.restores = restores;
    world.talks = talks;
    world.chance = Some(some_life);
    let mut plan = Plan::default();
    for _ in 0..1 + dice.below(4) {
        add_spec(&mut plan, &mut dice);
    }
    world.whole_plan(plan.clone());
    for _ in 0..10 + dice.below(20) {
        let pause = dice.of(&[0, 1, 10, 300, 2_000, 15_000, 120_000, 7_200_000]);
        world.run_for(Duration::from_millis(dice.below(pause + 1)));
        someone_does_something(&mut world, &mut plan, &mut dice);
    }
    end(&mut world, &mut dice);
    world
}

fn someone_does_something(world: &mut World, plan: &mut Plan, dice: &mut Dice) {
    let ids: Vec<ProcessId> = world.supervisor.processes().map(|row| row.id()).collect();
    match dice.below(12) {
        0..=6 if !ids.is_empty() => {
            for _ in 0..1 + dice.below(2) {
                let id = dice.of(&ids);
                world.tell(dice.of(&[Event::Start(id), Event::Stop(id), Event::Restart(id)]));
            }
        }
        7..=8 => world.late_event(),
        9 => world.same_plan(plan),
        _ => {
            change_plan(plan, dice);
            world.whole_plan(plan.clone());
        }
    }
}

fn end(world: &mut World, dice: &mut Dice) {
    world.tell(Event::Shutdown { grace: None });
    let mut patience = Duration::ZERO;
    for _ in 0..world.supervisor.processes().count() + 1 {
        patience += MAX_DRAIN + MAX_WAIT + 5.secs();
    }
    if dice.one_in(3) {
        world.run_for(Duration::from_millis(dice.below(8000)));
        world.tell(Event::Shutdown { grace: Some(1.secs()) });
    }
    let began_at = world.now;
    while world.finish.is_none() && world.step(began_at + patience) {}
    assert!(world.finish.is_some(), "the shutdown does not end");
    assert!(world.supervisor.is_shutting_down());
}

fn change_plan(plan: &mut Plan, dice: &mut Dice) {
    let count = plan.specs.len() as u64;
    match dice.below(6) {
        0 | 1 => add_spec(plan, dice),
        2 if count > 0 => {
            let gone = plan.specs.remove(dice.below(count) as usize).name;
            for spec in &mut plan.specs {
                spec.after.retain(|name| *name != gone);
            }
        }
        _ if count > 0 => {
            let spec = &mut plan.specs[dice.below(count) as usize];
            match dice.below(7) {
                0 => spec.log.max_bytes = dice.below(1000),
                1 => spec.priority = dice.below(1000) as i32,
                2 => spec.restart.startsecs = dice.below(3).secs(),
                3 => spec.autostart = !spec.autostart,
                4 => spec.after.clear(),
                5 => spec.log.stderr = dice.of(&[None, Some(Box::new(spec.log.clone()))]),
                _ => spec.command.line = format!("~/v{}", dice.below(3)),
            }
        }
        _ => {}
    }
}

/// One more process, after some of those that are there. A name may come back: that of one that leaves, or left.
fn add_spec(plan: &mut Plan, dice: &mut Dice) {
    let name = format!("p{}", dice.below(8));
    if plan.specs.iter().any(|spec| spec.name.process == name) {
        return;
    }
    let mut spec = some_spec(&name, dice);
    for before in &plan.specs {
        if dice.one_in(3) {
            spec.after.push(before.name.clone());
        }
    }
    plan.specs.push(spec);
}

fn some_spec(name: &str, dice: &mut Dice) -> Spec {
    let mut spec = process(name);
    spec.autostart = !dice.one_in(5);
    spec.priority = dice.of(&[1, 500, 999]);
    spec.restart.autorestart =
        dice.of(&[Autorestart::Always, Autorestart::Always, Autorestart::Unexpected, Autorestart::Never]);
    spec.restart.startsecs = dice.of(&[0, 1000, 1000, 3000]).ms();
    spec.restart.startretries = dice.of(&[None, None, Some(0), Some(3)]);
    spec.restart.delay = dice.of(&[100, 1000, 5000]).ms();
    spec.restart.oneshot = dice.one_in(6);
    spec.stop.wait = dice.of(&[0, 1, 10]).secs();
    spec.stop.drain = dice.of(&[0, 0, 5]).secs();
    match dice.below(8) {
        0 => spec = spec.probed(dice.of(&[1, 30]).secs()),
        1 => spec = spec.notifies(dice.of(&[1, 30]).secs()),
        _ => {}
    }
    if dice.one_in(6) {
        spec = spec.health(dice.of(&[60, 1800]).secs(), 1 + dice.below(3) as u32);
    }
    spec
}

fn some_life(dice: &mut Dice) -> Life {
    use crate::supervisor::event::Exit;
    let mut one = life();
    let exit = match dice.below(6) {
        0 | 1 => Exit::Code(0),
        2 | 3 => Exit::Code(1),
        4 => Exit::Signal { signal: 11, core: true, oom: false },
        _ => Exit::Unknown,
    };
    one = match dice.below(20) {
        0..=2 => one.dies(dice.below(1500).ms(), exit),
        3..=7 => one.dies(dice.of(&[30, 900, 9000]).secs() + dice.below(1000).secs(), exit),
        8 => one.cannot_exec(dice.of(&[2, 12])),
        9 => one.dies(dice.of(&[0, 1000, 3000]).ms(), exit),
        _ => one,
    };
    one.obeys = dice.of(&[Some(1), Some(10), Some(10), Some(1000), Some(4000), None]).map(Length::ms);
    for _ in 0..dice.of(&[0, 0, 0, 1, 2]) {
        one.helpers.push(dice.of(&[Some(1), Some(500), None]).map(Length::ms));
    }
    one.ready_after = dice.of(&[Some(0), Some(400), Some(2000), Some(20_000), None]).map(Length::ms);
    if dice.one_in(3) {
        one.sick_after = Some(dice.below(1000).secs());
    }
    one.mutes_probes = dice.one_in(10);
    one
}
