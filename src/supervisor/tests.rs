//! What the supervisor promises, told as transcripts of small worlds. The rules that no world may break are in `world`,
//! and `random_tests` looks for one that does.

use std::time::Duration;

use super::event::{Action, Event, Exit, Phase, Time};
use super::world::*;
use super::{Finish, Snapshot, Supervisor};
use crate::plan::{Autorestart, ExitWhen, Name, Plan, Spec};

#[track_caller]
fn tells(world: &mut World, expected: &str) {
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(world.transcript(), expected.join("\n"));
}

/// A world in which one process lives these lives.
fn lived(spec: Spec, lives: impl IntoIterator<Item = Life>) -> World {
    let mut world = World::empty(0);
    world.script(&spec.name.process, lives);
    world.plan([spec]);
    world
}

fn code(code: u8) -> Exit {
    Exit::Code(code)
}

fn killed(signal: i32) -> Exit {
    Exit::Signal { signal, core: false, oom: false }
}

fn named(name: &str) -> Name {
    Name { group: name.to_owned(), process: name.to_owned() }
}

#[test]
fn a_process_that_dies_young_backs_off_and_then_gives_up() {
    let mut world = lived(process("web").start_retries(2), [life().dies(100.ms(), code(1))]);
    world.run_for(60.secs());
    tells(
        &mut world,
        "0.0 web STARTING starts
         0.1 web BACKOFF exited with code 1 after 0.1s, next try in 1.0s (try 2 of 3)
         1.1 web STARTING starts again (try 2 of 3)
         1.2 web BACKOFF exited with code 1 after 0.1s, next try in 2.0s (try 3 of 3)
         3.2 web STARTING starts again (try 3 of 3)
         3.3 web FATAL exited with code 1 after 0.1s, gave up after 3 tries",
    );
    assert_eq!(world.row("web").restarts(), 2);
    assert!(!world.row("web").wants_up());
}

#[test]
fn it_never_gives_up_by_default_and_starts_as_often_as_the_formula_says() {
    let mut world = lived(process("web"), [life().dies(100.ms(), killed(11))]);
    world.run_for(3600.secs());
    let mut at = DAWN;
    for (nth, (started_at, _)) in world.spawns.iter().enumerate() {
        assert_eq!(*started_at, at, "start {nth}");
        at = at + 100.ms() + (1u64 << nth.min(6)).min(60).secs();
    }
    assert!(at > world.now, "and no start is missing");
    assert_eq!(world.row("web").next_try(), Some(at));
    assert_eq!(world.row("web").failures() as usize, world.spawns.len());
}

#[test]
fn a_process_that_was_running_starts_again_at_once() {
    let mut world = lived(process("web"), [life().dies(5.secs(), killed(9)), life()]);
    world.run_for(60.secs());
    tells(
        &mut world,
        "0.0 web STARTING starts
         1.0 web RUNNING up after 1.0s
         5.0 web EXITED killed by SIGKILL (9) after 5.0s, starts again
         5.0 web STARTING starts again (restart 1)
         6.0 web RUNNING up after 1.0s",
    );
}

#[test]
fn a_death_at_the_moment_the_start_counts_as_good_is_no_early_death() {
    let mut world = lived(process("web"), [life().dies(1.secs(), code(1)), life()]);
    world.run_for(1.secs());
    tells(
        &mut world,
        "0.0 web STARTING starts
         1.0 web RUNNING up after 1.0s
         1.0 web EXITED exited with code 1 after 1.0s, starts again
         1.0 web STARTING starts again (restart 1)",
    );
}

#[test]
fn without_startsecs_it_runs_at_once_and_still_does_not_spin() {
    let mut world = lived(process("web").start_secs(Duration::ZERO), [life().dies(5.ms(), code(1))]);
    world.run_for(600.secs());
    assert!((20..40).contains(&world.spawns.len()), "{} starts", world.spawns.len());
    assert_eq!(world.row("web").phase(), Phase::Backoff);
}

#[test]
fn a_program_that_is_missing_is_fatal_at_once_and_one_without_memory_is_tried_again() {
    let mut world = lived(process("web"), [life().cannot_exec(12), life().cannot_exec(2)]);
    world.run_for(60.secs());
    tells(
        &mut world,
        "0.0 web STARTING starts
         0.0 web BACKOFF cannot exec ~/web: out of memory, next try in 1.0s (try 2)
         1.0 web STARTING starts again (try 2)
         1.0 web FATAL cannot exec ~/web: no such file or directory",
    );
}

#[test]
fn who_ends_as_expected_is_left_alone() {
    let mut world = World::empty(0);
    for name in ["never", "unexpected", "once"] {
        world.script(name, [life().dies(100.ms(), code(0))]);
    }
    world.script("failing", [life().dies(100.ms(), code(7))]);
    world.plan([
        process("never").autorestart(Autorestart::Never),
        process("unexpected").autorestart(Autorestart::Unexpected),
        process("once").oneshot(),
        process("failing").autorestart(Autorestart::Never),
    ]);
    world.run_for(60.secs());
    tells(
        &mut world,
        "0.0 never STARTING starts
         0.0 unexpected STARTING starts
         0.0 once STARTING starts
         0.0 failing STARTING starts
         0.1 never EXITED exited with code 0 after 0.1s
         0.1 unexpected EXITED exited with code 0 after 0.1s
         0.1 once EXITED exited with code 0 after 0.1s
         0.1 failing EXITED exited with code 7 after 0.1s, unexpected",
    );
}

#[test]
fn a_stop_signals_waits_kills_and_then_ends_the_helpers_too() {
    let stubborn = life().ignores_stop().leaves(None).leaves(Some(300.ms()));
    let mut world = lived(process("web"), [stubborn]);
    world.run_for(5.secs());
    world.stop("web");
    world.run_for(60.secs());
    tells(
        &mut world,
        "0.0 web STARTING starts
         1.0 web RUNNING up after 1.0s
         5.0 web <- SIGTERM
         5.0 web STOPPING stop asked for; SIGTERM, SIGKILL after 10s
         15.0 web <- SIGKILL
         15.0 web STOPPED stopped: killed by SIGKILL (9)",
    );
}

#[test]
fn what_outlives_its_process_is_named_and_the_process_is_not_stopped_before_it_is() {
    let mut world = lived(process("web"), [life().leaves(None).leaves(Some(3.secs()))]);
    world.run_for(5.secs());
    world.stop("web");
    world.run_for(1.secs());
    let row = world.row("web");
    assert_eq!((row.phase(), row.run(), row.survivors().len()), (Phase::Stopping, None, 2));
    world.run_for(5.secs());
    let row = world.row("web");
    assert_eq!(row.survivors().len(), 1);
    assert!(row.why().starts_with("waits for what it started to end: "), "{}", row.why());
    world.run_for(3.secs());
    assert_eq!(world.row("web").phase(), Phase::Stopping);
    world.run_for(2.secs());
    assert_eq!(world.row("web").phase(), Phase::Stopped);
    assert!(world.row("web").survivors().is_empty());
}

#[test]
fn a_stop_a_start_and_a_stop_again_each_get_their_own_grace() {
    let mut world = lived(process("web"), [life(), life().ignores_stop()]);
    world.run_for(2.secs());
    world.stop("web");
    world.run_for(1.secs());
    world.start("web");
    world.run_for(2.secs());
    world.stop("web");
    world.run_for(60.secs());
    tells(
        &mut world,
        "0.0 web STARTING starts
         1.0 web RUNNING up after 1.0s
         2.0 web <- SIGTERM
         2.0 web STOPPING stop asked for; SIGTERM, SIGKILL after 10s
         2.0 web STOPPED stopped: killed by SIGTERM (15)
         3.0 web STARTING starts again (restart 1)
         4.0 web RUNNING up after 1.0s
         5.0 web <- SIGTERM
         5.0 web STOPPING stop asked for; SIGTERM, SIGKILL after 10s
         15.0 web <- SIGKILL
         15.0 web STOPPED stopped: killed by SIGKILL (9)",
    );
}

#[test]
fn a_start_during_a_stop_is_remembered_and_a_stop_after_it_too() {
    let slow = Life { obeys: Some(3.secs()), ..life() };
    let mut world = lived(process("web"), [slow]);
    world.run_for(2.secs());
    world.stop("web");
    world.start("web");
    world.run_for(5.secs());
    world.stop("web");
    world.start("web");
    world.stop("web");
    world.run_for(60.secs());
    tells(
        &mut world,
        "0.0 web STARTING starts
         1.0 web RUNNING up after 1.0s
         2.0 web <- SIGTERM
         2.0 web STOPPING stop asked for; SIGTERM, SIGKILL after 10s
         5.0 web STOPPED stopped: killed by SIGTERM (15)
         5.0 web STARTING starts again (restart 1)
         6.0 web RUNNING up after 1.0s
         7.0 web <- SIGTERM
         7.0 web STOPPING stop asked for; SIGTERM, SIGKILL after 10s
         10.0 web STOPPED stopped: killed by SIGTERM (15)",
    );
}

#[test]
fn a_stop_in_backoff_ends_what_the_last_run_left_and_a_start_after_it_begins_afresh() {
    let mut world = lived(process("web"), [life().dies(100.ms(), code(1)).leaves(Some(1.secs()))]);
    world.run_for(2.secs());
    world.stop("web");
    world.run_for(5.secs());
    world.start("web");
    world.run_for(200.ms());
    tells(
        &mut world,
        "0.0 web STARTING starts
         0.1 web BACKOFF exited with code 1 after 0.1s, next try in 1.0s (try 2)
         1.1 web STARTING starts again (try 2)
         1.2 web BACKOFF exited with code 1 after 0.1s, next try in 2.0s (try 3)
         2.0 web STOPPING stop asked for; ends what it left behind
         3.0 web STOPPED stopped: exited with code 1
         7.0 web STARTING starts again (restart 2)
         7.1 web BACKOFF exited with code 1 after 0.1s, next try in 1.0s (try 2)",
    );
}

#[test]
fn a_start_in_backoff_tries_at_once() {
    let mut world = lived(process("web"), [life().dies(100.ms(), code(1)), life()]);
    world.run_for(500.ms());
    world.start("web");
    assert_eq!(world.row("web").phase(), Phase::Starting);
    world.run_for(2.secs());
    assert_eq!(world.row("web").phase(), Phase::Running);
}

#[test]
fn a_restart_stops_and_starts_and_one_of_a_fatal_process_sweeps_first() {
    let dies = life().cannot_exec(13);
    let mut world = lived(process("web"), [dies, life()]);
    world.run_for(1.secs());
    world.restart("web");
    world.run_for(2.secs());
    world.restart("web");
    world.run_for(2.secs());
    tells(
        &mut world,
        "0.0 web STARTING starts
         0.0 web FATAL cannot exec ~/web: permission denied
         1.0 web STOPPING restart asked for; ends what it left behind
         1.0 web STOPPED stopped: cannot exec ~/web: permission denied
         1.0 web STARTING starts again (restart 1)
         2.0 web RUNNING up after 1.0s
         3.0 web <- SIGTERM
         3.0 web STOPPING restart asked for; SIGTERM, SIGKILL after 10s
         3.0 web STOPPED stopped: killed by SIGTERM (15)
         3.0 web STARTING starts again (restart 2)
         4.0 web RUNNING up after 1.0s",
    );
}

#[test]
fn asking_for_what_is_already_so_does_nothing() {
    let mut world = World::with([process("web"), process("off").off()]);
    world.run_for(2.secs());
    world.transcript();
    world.start("web");
    world.stop("off");
    world.run_for(60.secs());
    tells(&mut world, "");
}

#[test]
fn dependents_start_last_and_stop_first() {
    let mut world = World::with([process("worker").after("db"), process("db"), process("cache").priority(1)]);
    assert_eq!(world.row("worker").why(), "waits for db");
    assert_eq!(world.supervisor.waits_for(world.id("worker")), [named("db")]);
    world.run_for(5.secs());
    world.shut_down();
    assert_eq!(world.supervisor.waits_for(world.id("db")), [named("worker")]);
    world.run_for(5.secs());
    tells(
        &mut world,
        "0.0 cache STARTING starts
         0.0 db STARTING starts
         1.0 db RUNNING up after 1.0s
         1.0 cache RUNNING up after 1.0s
         1.0 worker STARTING starts
         2.0 worker RUNNING up after 1.0s
         5.0 worker <- SIGTERM
         5.0 worker STOPPING hob shuts down; SIGTERM, SIGKILL after 10s
         5.0 cache <- SIGTERM
         5.0 cache STOPPING hob shuts down; SIGTERM, SIGKILL after 10s
         5.0 worker STOPPED stopped: killed by SIGTERM (15)
         5.0 db <- SIGTERM
         5.0 db STOPPING hob shuts down; SIGTERM, SIGKILL after 10s
         5.0 cache STOPPED stopped: killed by SIGTERM (15)
         5.0 db STOPPED stopped: killed by SIGTERM (15)",
    );
    assert_eq!(world.finish, Some(Finish::default()));
}

#[test]
fn a_stop_or_a_crash_of_one_does_not_stop_those_after_it_but_they_wait_for_it_to_start() {
    let mut world = World::empty(0);
    world.script("worker", [life().dies(10.secs(), code(1)), life()]);
    world.plan([process("db"), process("worker").after("db")]);
    world.run_for(5.secs());
    world.stop("db");
    world.run_for(3.secs());
    assert_eq!(world.row("worker").phase(), Phase::Running);
    world.run_for(10.secs());
    assert_eq!((world.row("worker").phase(), world.row("worker").why()), (Phase::Exited, "waits for db"));
    world.start("db");
    world.run_for(5.secs());
    assert_eq!(world.row("worker").phase(), Phase::Running);
}

#[test]
fn a_batch_of_restarts_keeps_the_order() {
    let mut world = World::with([process("db"), process("worker").after("db")]);
    world.run_for(5.secs());
    world.transcript();
    for name in ["db", "worker"] {
        world.deliver(Event::Restart(world.id(name)));
    }
    world.run_for(10.secs());
    tells(
        &mut world,
        "5.0 worker <- SIGTERM
         5.0 worker STOPPING restart asked for; SIGTERM, SIGKILL after 10s
         5.0 worker STOPPED stopped: killed by SIGTERM (15)
         5.0 db <- SIGTERM
         5.0 db STOPPING restart asked for; SIGTERM, SIGKILL after 10s
         5.0 db STOPPED stopped: killed by SIGTERM (15)
         5.0 db STARTING starts again (restart 1)
         6.0 db RUNNING up after 1.0s
         6.0 worker STARTING starts again (restart 1)
         7.0 worker RUNNING up after 1.0s",
    );
}

#[test]
fn what_is_after_a_oneshot_waits_for_its_good_end() {
    let mut world = World::empty(0);
    world.script("migrate", [life().dies(3.secs(), code(1)), life().dies(2.secs(), code(0))]);
    world.plan([process("web").after("migrate"), process("migrate").oneshot()]);
    world.run_for(60.secs());
    assert_eq!((world.row("web").phase(), world.row("web").why()), (Phase::Stopped, "waits for migrate"));
    world.start("migrate");
    world.run_for(1500.ms());
    assert!(!world.row("migrate").is_ready());
    world.run_for(10.secs());
    assert!(world.row("migrate").is_ready());
    assert_eq!(world.row("web").phase(), Phase::Running);
}

#[test]
fn spawns_come_by_priority_and_then_in_the_order_of_the_plan() {
    let mut supervisor = Supervisor::new(0);
    let specs = vec![process("a"), process("b").priority(5), process("c").priority(1), process("d").priority(5)];
    supervisor.handle(DAWN, Event::Plan(Plan { specs, ..Plan::default() }));
    let mut added = Vec::new();
    let mut spawned = Vec::new();
    while let Some(action) = supervisor.poll_action() {
        match action {
            Action::Added(id) => {
                assert!(spawned.is_empty(), "first the logs");
                added.push(id.0);
            }
            Action::Spawn(run) => spawned.push(run.job.process().0),
            _ => {}
        }
    }
    assert_eq!(added, [1, 2, 3, 4]);
    assert_eq!(spawned, [3, 2, 4, 1]);
}

#[test]
fn it_runs_once_its_probe_says_so_and_a_start_that_takes_too_long_is_an_early_death() {
    let never = life().ready_after(None).ignores_stop();
    let mut world = lived(process("web").probed(5.secs()), [never, life().ready_after(Some(2300.ms()))]);
    world.run_for(60.secs());
    tells(
        &mut world,
        "0.0 web STARTING starts
         5.0 web <- SIGTERM
         5.0 web STOPPING not ready within 5s: connection refused; SIGTERM, SIGKILL after 10s
         15.0 web <- SIGKILL
         15.0 web BACKOFF not ready within 5s: connection refused, next try in 1.0s (try 2)
         16.0 web STARTING starts again (try 2)
         19.1 web RUNNING ready after 3.1s",
    );
}

#[test]
fn it_runs_once_it_notifies_and_what_is_after_it_waits_for_that() {
    let mut world = World::empty(0);
    world.script("db", [life().ready_after(Some(4.secs()))]);
    world.plan([process("db").notifies(30.secs()), process("web").after("db")]);
    world.run_for(3.secs());
    assert_eq!((world.row("db").phase(), world.row("db").is_ready()), (Phase::Starting, false));
    world.run_for(57.secs());
    tells(
        &mut world,
        "0.0 db STARTING starts
         4.0 db RUNNING says it is ready after 4.0s
         4.0 web STARTING starts
         5.0 web RUNNING up after 1.0s",
    );
}

#[test]
fn a_stop_of_a_process_that_fails_to_get_ready_ends_in_stopped() {
    let mut world = lived(process("web").probed(5.secs()), [life().ready_after(None).ignores_stop()]);
    world.run_for(6.secs());
    world.stop("web");
    world.run_for(60.secs());
    assert_eq!(world.row("web").phase(), Phase::Stopped);
    assert_eq!(world.spawns.len(), 1);
}

#[test]
fn a_probe_that_never_answers_is_killed_and_asked_again() {
    let mut world = lived(process("web").probed(20.secs()), [Life { mutes_probes: true, ..life() }]);
    world.run_for(21.secs());
    assert!(
        world.row("web").why().starts_with("not ready within 20s: no answer in time"),
        "{}",
        world.row("web").why()
    );
}

#[test]
fn so_many_bad_answers_in_a_row_are_a_restart() {
    let mut world = lived(process("web").health(10.secs(), 2), [life().sick_after(15.secs()), life()]);
    world.run_for(60.secs());
    tells(
        &mut world,
        "0.0 web STARTING starts
         1.0 web RUNNING up after 1.0s
         31.0 web <- SIGTERM
         31.0 web STOPPING unhealthy: connection refused (2 times in a row); SIGTERM, SIGKILL after 10s
         31.0 web STOPPED stopped: killed by SIGTERM (15)
         31.0 web STARTING starts again (restart 1)
         32.0 web RUNNING up after 1.0s",
    );
}

#[test]
fn a_run_that_is_found_unwell_is_restarted_and_a_late_word_about_it_changes_nothing() {
    let mut world = lived(process("web"), [life(), life()]);
    world.run_for(5.secs());
    let run = world.row("web").run().expect("it runs");
    for _ in 0..2 {
        world.tell(Event::Unwell(run, "memory: 2 MB, its limit is 1 MB".into()));
        world.run_for(5.secs());
    }
    tells(
        &mut world,
        "0.0 web STARTING starts
         1.0 web RUNNING up after 1.0s
         5.0 web <- SIGTERM
         5.0 web STOPPING memory: 2 MB, its limit is 1 MB; SIGTERM, SIGKILL after 10s
         5.0 web STOPPED stopped: killed by SIGTERM (15)
         5.0 web STARTING starts again (restart 1)
         6.0 web RUNNING up after 1.0s",
    );
}

#[test]
fn a_process_that_drains_is_not_ready_and_gets_its_signal_later() {
    let mut world = World::with([process("web").drains(3.secs())]);
    world.run_for(5.secs());
    world.stop("web");
    assert!(!world.row("web").is_ready());
    world.run_for(60.secs());
    tells(
        &mut world,
        "0.0 web STARTING starts
         1.0 web RUNNING up after 1.0s
         5.0 web STOPPING stop asked for; drains for 3s
         8.0 web <- SIGTERM
         8.0 web STOPPED stopped: killed by SIGTERM (15)",
    );
}

#[test]
fn a_second_shutdown_cuts_drains_and_graces_short() {
    let mut world = World::empty(0);
    world.script("web", [life().ignores_stop()]);
    world.plan([process("web"), process("api").drains(5.secs())]);
    world.run_for(5.secs());
    world.transcript();
    world.shut_down();
    world.run_for(2.secs());
    world.tell(Event::Shutdown { grace: Some(1.secs()) });
    world.run_for(60.secs());
    tells(
        &mut world,
        "5.0 api STOPPING hob shuts down; drains for 5s
         5.0 web <- SIGTERM
         5.0 web STOPPING hob shuts down; SIGTERM, SIGKILL after 10s
         7.0 api <- SIGTERM
         7.0 api STOPPED stopped: killed by SIGTERM (15)
         8.0 web <- SIGKILL
         8.0 web STOPPED stopped: killed by SIGKILL (9)",
    );
    assert!(world.finish.is_some());
}

#[test]
fn a_shutdown_ends_although_something_survives_even_sigkill_and_names_it() {
    let mut world = World::empty(0);
    world.script("stuck", [Life { immortal: true, ..life().dies(3.secs(), code(0)).leaves(None) }]);
    world.plan([process("db"), process("stuck").after("db").autorestart(Autorestart::Never)]);
    world.run_for(10.secs());
    world.shut_down();
    world.run_for(60.secs());
    assert!(world.finish.is_some());
    assert_eq!((world.row("stuck").phase(), world.row("stuck").survivors().len()), (Phase::Stopping, 1));
    assert_eq!(world.row("db").phase(), Phase::Stopped);
}

#[test]
fn a_new_plan_touches_only_what_it_changes() {
    let mut world = World::with([process("a"), process("b").after("a"), process("c"), process("e")]);
    world.run_for(9.secs());
    world.transcript();
    let quieter = process("e").tuned(|spec| spec.log.max_bytes = 5);
    let plan = [process("a").command("other"), process("b").after("a").priority(3), process("d"), quieter];
    world.plan(plan.clone());
    world.run_for(9.secs());
    tells(
        &mut world,
        "9.0 b updated
         9.0 e updated
         9.0 c <- SIGTERM
         9.0 c STOPPING no longer in the plan; SIGTERM, SIGKILL after 10s
         9.0 a <- SIGTERM
         9.0 a STOPPING its settings changed; SIGTERM, SIGKILL after 10s
         9.0 d STARTING starts
         9.0 c STOPPED stopped: killed by SIGTERM (15)
         9.0 process 3 removed
         9.0 a STOPPED stopped: killed by SIGTERM (15)
         9.0 a updated
         9.0 a STARTING starts again (restart 1)
         10.0 d RUNNING up after 1.0s
         10.0 a RUNNING up after 1.0s",
    );
    world.same_plan(&Plan { specs: plan.to_vec(), ..Plan::default() });
}

#[test]
fn a_process_stops_by_the_spec_it_was_started_with() {
    let mut world = World::with([process("web").tuned(|spec| spec.stop.signal = 3)]);
    world.run_for(5.secs());
    world.transcript();
    world.plan([process("web").command("other")]);
    world.run_for(500.ms());
    assert!(world.transcript().starts_with("5.0 web <- SIGQUIT"));
    assert_eq!(world.row("web").spec().stop.signal, 15);
}

#[test]
fn a_corrected_command_starts_although_the_old_one_was_fatal_and_a_stopped_one_stays_stopped() {
    let mut world = lived(process("web"), [life().cannot_exec(2), life()]);
    world.run_for(5.secs());
    world.plan([process("web").command("right")]);
    world.run_for(5.secs());
    assert_eq!(world.row("web").phase(), Phase::Running);
    world.stop("web");
    world.run_for(5.secs());
    world.plan([process("web").command("another")]);
    world.run_for(5.secs());
    assert_eq!(world.row("web").phase(), Phase::Stopped);
    assert_eq!(world.row("web").spec().command.line, "another");
}

#[test]
fn a_process_that_leaves_and_returns_before_it_is_gone_keeps_its_place() {
    let slow = Life { obeys: Some(5.secs()), ..life() };
    let mut world = lived(process("web"), [slow]);
    world.run_for(5.secs());
    let id = world.id("web");
    world.plan([]);
    world.run_for(1.secs());
    world.plan([process("web")]);
    world.run_for(10.secs());
    assert_eq!((world.id("web"), world.row("web").phase()), (id, Phase::Running));
    world.plan([]);
    world.run_for(10.secs());
    assert_eq!(world.supervisor.processes().count(), 0);
}

#[test]
fn the_first_fatal_process_ends_hob_and_its_exit_is_the_answer() {
    let mut world = World::empty(0);
    world.script("web", [life().dies(100.ms(), code(7))]);
    let specs = vec![process("web").start_retries(1), process("db")];
    world.whole_plan(Plan { specs, exit_when: ExitWhen::AnyFatal, ..Plan::default() });
    world.run_for(60.secs());
    assert_eq!(world.finish, Some(Finish { exit: Some(code(7)), by: Some(named("web")) }));
}

#[test]
fn a_oneshot_that_fails_ends_hob_and_one_that_succeeds_does_not() {
    for (status, ends) in [(0, false), (3, true)] {
        let mut world = World::empty(0);
        world.script("once", [life().dies(100.ms(), code(status))]);
        let specs = vec![process("once").oneshot(), process("db")];
        world.whole_plan(Plan { specs, exit_when: ExitWhen::AnyFatal, ..Plan::default() });
        world.run_for(60.secs());
        assert_eq!(world.finish.is_some(), ends);
    }
}

#[test]
fn when_all_have_exited_hob_ends_with_the_last_failure() {
    let ended = |statuses: [u8; 3]| {
        let mut world = World::empty(0);
        let mut specs = Vec::new();
        for (nth, status) in statuses.into_iter().enumerate() {
            let name = ["a", "b", "c"][nth];
            world.script(name, [life().dies((nth as u64 + 1).secs(), code(status)).leaves(Some(5.ms()))]);
            specs.push(process(name).autorestart(Autorestart::Never));
        }
        world.whole_plan(Plan { specs, exit_when: ExitWhen::AllExited, ..Plan::default() });
        world.run_for(2.secs());
        assert_eq!(world.finish, None);
        world.run_for(10.secs());
        world.finish.expect("all have exited")
    };
    assert_eq!(ended([1, 2, 0]), Finish { exit: Some(code(2)), by: Some(named("b")) });
    assert_eq!(ended([0, 0, 0]), Finish { exit: Some(code(0)), by: Some(named("c")) });
}

#[test]
fn an_empty_plan_waits_for_a_better_one() {
    let mut world = World::empty(0);
    world.whole_plan(Plan { exit_when: ExitWhen::AllExited, ..Plan::default() });
    world.run_for(60.secs());
    assert_eq!(world.finish, None);
    world.shut_down();
    assert_eq!(world.finish, Some(Finish::default()));
}

#[test]
fn two_hundred_that_crash_together_do_not_all_come_back_together() {
    let mut world = World::empty(7);
    world.chance = Some(|_| life().dies(5.secs(), killed(11)));
    world.plan((0..200).map(|n| process(&format!("p{n}"))));
    world.run_for(5.secs());
    assert_eq!(world.spawns.len(), 300);
    assert_eq!(world.row("p150").phase(), Phase::Backoff);
    assert!(world.row("p150").why().contains("start rate"), "{}", world.row("p150").why());
    world.run_for(1.secs());
    assert_eq!(world.spawns.len(), 350);
    world.run_for(1.secs());
    assert_eq!(world.spawns.len(), 400);
}

#[test]
fn a_late_event_of_an_earlier_life_changes_nothing() {
    let mut world = lived(process("web").probed(5.secs()), [life().dies(3.secs(), code(1))]);
    for _ in 0..100 {
        world.run_for(700.ms());
        world.late_event();
    }
}

#[test]
fn an_event_for_a_process_that_is_not_there_is_no_news() {
    let mut world = World::with([process("web")]);
    let before = world.supervisor.snapshot();
    let nobody = super::event::ProcessId(77);
    world.supervisor.handle(world.now, Event::Start(nobody));
    world.supervisor.handle(
        world.now,
        Event::Exited(super::event::Run { job: super::event::Job::Process(nobody), number: 1 }, code(0)),
    );
    assert_eq!(before, world.supervisor.snapshot());
}

#[test]
fn time_that_goes_backwards_is_no_time() {
    let mut world = World::with([process("web")]);
    world.run_for(5.secs());
    world.supervisor.handle(Time(Duration::ZERO), Event::Stop(world.id("web")));
    world.supervisor.handle_timeout(Time(Duration::ZERO));
    world.run_for(5.secs());
    assert_eq!(world.row("web").phase(), Phase::Stopped);
}

#[test]
fn a_batch_of_a_thousand_starts_takes_a_few_milliseconds() {
    let mut supervisor = Supervisor::new(1);
    let specs = (0..1000).map(|n| process(&format!("p{n}"))).collect();
    // The clock of this test, not of the supervisor.
    let began_at = crate::sys::clock::since_boot();
    supervisor.handle(DAWN, Event::Plan(Plan { specs, ..Plan::default() }));
    let mut spawned = 0;
    while let Some(action) = supervisor.poll_action() {
        spawned += usize::from(matches!(action, Action::Spawn(_)));
    }
    let took = crate::sys::clock::since_boot() - began_at;
    assert_eq!(spawned, 1000);
    println!("1,000 starts decided in {took:?}");
    assert!(took < 500.ms(), "{took:?}");
    let began_at = crate::sys::clock::since_boot();
    for number in 1..=1000 {
        let run = super::event::Run {
            job: super::event::Job::Process(super::event::ProcessId(number)),
            number: number.into(),
        };
        supervisor.handle(DAWN + 2.secs(), Event::Exited(run, code(1)));
        while supervisor.poll_action().is_some() {}
        let _ = supervisor.next_deadline();
    }
    println!("1,000 deaths, one by one, in {:?}", crate::sys::clock::since_boot() - began_at);
}

#[test]
fn a_snapshot_of_version_one_is_still_understood() {
    let text = include_str!("../../tests/snapshots/v1.json");
    let snapshot: Snapshot = serde_json::from_str(text).expect("the shape of version 1 is kept");
    let mut supervisor = Supervisor::restore(snapshot);
    let phases: Vec<String> = supervisor.processes().map(|row| format!("{} {}", row.name(), row.phase())).collect();
    assert_eq!(
        phases,
        [
            "db RUNNING",
            "web STARTING",
            "worker STOPPED",
            "crashes BACKOFF",
            "missing FATAL",
            "once EXITED",
            "slow STOPPING",
            "old STOPPING"
        ]
    );
    let deadline = supervisor.next_deadline().expect("much is due");
    supervisor.handle_timeout(deadline + 100.secs());
    assert!(std::iter::from_fn(|| supervisor.poll_action()).any(|action| matches!(action, Action::Signal(_, 9))));
}

/// To write the example of a new version: `cargo test prints_a_snapshot -- --ignored --nocapture`.
#[test]
#[ignore = "writes the example that the test above reads"]
fn prints_a_snapshot() {
    let mut world = World::empty(5);
    let slow = Life { obeys: Some(8.secs()), ..life() };
    world.script("web", [life().ready_after(None)]);
    world.script("crashes", [life().dies(100.ms(), killed(11))]);
    world.script("missing", [life().cannot_exec(2)]);
    world.script("once", [life().dies(100.ms(), code(3))]);
    world.script("slow", [slow.clone()]);
    world.script("old", [slow]);
    let mut specs = vec![
        process("db").health(10.secs(), 3),
        process("web").probed(60.secs()).after("db"),
        process("worker").after("web"),
        process("crashes").start_retries(9),
        process("missing"),
        process("once").oneshot(),
        process("slow").drains(1.secs()),
        process("old"),
    ];
    world.plan(specs.clone());
    world.run_for(11300.ms());
    world.stop("slow");
    specs.pop();
    specs[3].restart.startretries = Some(8);
    world.supervisor.handle(world.now, Event::Plan(Plan { specs, ..Plan::default() }));
    world.supervisor.poll_action();
    println!("{}", serde_json::to_string(&world.supervisor.snapshot()).expect("plain data"));
}

#[test]
fn a_snapshot_of_another_version_is_refused_with_both_numbers() {
    let mut value = serde_json::to_value(Supervisor::new(1).snapshot()).expect("plain data");
    value["version"] = 99.into();
    let error = serde_json::from_value::<Snapshot>(value).expect_err("there is no version 99").to_string();
    assert!(error.contains("version 99") && error.contains("version 1"), "{error}");
}
