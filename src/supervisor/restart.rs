//! How long to wait before the next try, and when to stop trying.
//!
//! A process that was RUNNING starts again at once. One that dies before its start counts as good waits: `delay`,
//! doubling up to `delay_max`, with a little chance so that processes that died together do not come back together.
//! A stable run clears the account; `startretries` bounds it. All automatic restarts together pass one gate, `Rate`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::{Exit, Time};
use crate::plan::{Autorestart, Backoff, Restart};

/// What follows a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    AtOnce,
    After(Duration),
    /// It has ended as it should, or as nobody wants to change.
    Ended,
    GiveUp,
}

/// The account of one process: what its recent deaths say about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Starts that failed since the last stable run.
    pub failures: u32,
    /// Deaths in a row that came within a second, though RUNNING.
    quick: u32,
}

/// A run has ended by itself after `lived`; `early` if its start had not yet counted as good.
pub fn after_death(policy: &Restart, record: &mut Record, exit: &Exit, lived: Duration, early: bool) -> Verdict {
    if policy.backoff == Backoff::Linear {
        return after_death_by_supervisord(policy, record, exit, lived, early);
    }
    if let Exit::CannotExec { .. } = exit {
        return if exit.is_passing() { try_later(policy, record) } else { Verdict::GiveUp };
    }
    if policy.oneshot || (policy.autorestart == Autorestart::Unexpected && expected(policy, exit)) {
        return Verdict::Ended;
    }
    if policy.autorestart == Autorestart::Never && (!early || policy.startretries.is_none()) {
        return Verdict::Ended;
    }
    if early {
        return try_later(policy, record);
    }
    record.ran(policy, lived);
    if record.quick >= QUICK_DEATHS { try_later(policy, record) } else { Verdict::AtOnce }
}

/// supervisord's rules (reference/supervisord.md §2.3), but for a limit where it has none: a program that is RUNNING at
/// once and dies at once is restarted no more than once a second.
fn after_death_by_supervisord(
    policy: &Restart,
    record: &mut Record,
    exit: &Exit,
    lived: Duration,
    early: bool,
) -> Verdict {
    if policy.oneshot && expected(policy, exit) {
        return Verdict::Ended;
    }
    if early || matches!(exit, Exit::CannotExec { .. }) {
        return try_later(policy, record);
    }
    record.ran(policy, lived);
    record.failures = 0;
    match policy.autorestart {
        Autorestart::Never => Verdict::Ended,
        Autorestart::Unexpected if expected(policy, exit) => Verdict::Ended,
        _ if record.quick >= QUICK_DEATHS => Verdict::After(policy.delay),
        _ => Verdict::AtOnce,
    }
}

/// A run was ended because it did not become ready in time.
pub fn after_no_readiness(policy: &Restart, record: &mut Record) -> Verdict {
    if policy.oneshot || (policy.autorestart == Autorestart::Never && policy.startretries.is_none()) {
        return Verdict::Ended;
    }
    try_later(policy, record)
}

/// Whether a process that ends so has done what it was asked to.
pub fn expected(policy: &Restart, exit: &Exit) -> bool {
    matches!(exit, Exit::Code(code) if policy.exitcodes.contains(code))
}

impl Record {
    /// A run that was RUNNING is over.
    pub fn ran(&mut self, policy: &Restart, lived: Duration) {
        if lived >= policy.startsecs.max(policy.delay) {
            self.failures = 0;
        }
        // With `startsecs: 0` every start is good at once; without this one that dies at once would spin.
        self.quick = if lived < QUICK { self.quick.saturating_add(1) } else { 0 };
    }
}

fn try_later(policy: &Restart, record: &mut Record) -> Verdict {
    record.failures = record.failures.saturating_add(1);
    match policy.startretries {
        Some(retries) if record.failures > retries => Verdict::GiveUp,
        _ => Verdict::After(delay(policy, record.failures)),
    }
}

/// The wait before the try that follows so many failures.
fn delay(policy: &Restart, failures: u32) -> Duration {
    let factor = match policy.backoff {
        Backoff::Doubling => 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX),
        Backoff::Linear => failures,
    };
    policy.delay.saturating_mul(factor).min(policy.delay_max)
}

/// The gate for automatic restarts: `BURST` at once, then one in every `GAP`. It hands out moments, so nobody queues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// How much of the burst was used up `at` that moment; it comes back as time passes.
    used: Duration,
    at: Time,
}

impl Rate {
    /// The moment at which one more restart may happen: `now`, or later.
    pub fn reserve(&mut self, now: Time) -> Time {
        self.used = self.used.saturating_sub(now.since(self.at)) + GAP;
        self.at = now;
        now + self.used.saturating_sub(GAP * BURST)
    }
}

/// A little chance (xorshift64*). Seed 0 stays 0 for ever and gives none, which tests are glad of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chance(pub u64);

impl Chance {
    /// `length` and up to a tenth more.
    pub fn stretch(&mut self, length: Duration) -> Duration {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40;
        length.saturating_add((length / 10).mul_f64(drawn as f64 / (1u64 << 24) as f64))
    }
}

const QUICK: Duration = Duration::from_secs(1);
const QUICK_DEATHS: u32 = 10;
const GAP: Duration = Duration::from_millis(20);
const BURST: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Restart {
        Restart {
            autorestart: Autorestart::Always,
            exitcodes: vec![0],
            startsecs: Duration::from_secs(1),
            startretries: None,
            delay: Duration::from_secs(1),
            delay_max: Duration::from_secs(60),
            oneshot: false,
            backoff: Backoff::Doubling,
        }
    }

    #[test]
    fn early_deaths_wait_twice_as_long_each_time_up_to_the_maximum_and_never_overflow() {
        let mut record = Record::default();
        let mut waits = Vec::new();
        for _ in 0..100 {
            match after_death(&policy(), &mut record, &Exit::Code(1), Duration::ZERO, true) {
                Verdict::After(wait) => waits.push(wait.as_secs()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(waits[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
        assert!(waits[8..].iter().all(|wait| *wait == 60));
    }

    #[test]
    fn so_many_retries_follow_the_first_failure_and_then_it_gives_up() {
        for retries in 0..5 {
            let policy = Restart { startretries: Some(retries), ..policy() };
            let mut record = Record::default();
            let mut die = || after_death(&policy, &mut record, &Exit::Code(1), Duration::ZERO, true);
            let tries = 1 + (0..100).take_while(|_| die() != Verdict::GiveUp).count() as u32;
            assert_eq!(tries, retries + 1);
        }
    }

    #[test]
    fn a_stable_run_clears_the_account_and_a_short_one_does_not() {
        let mut record = Record { failures: 5, quick: 0 };
        assert_eq!(
            after_death(&policy(), &mut record, &Exit::Code(1), Duration::from_millis(999), false),
            Verdict::AtOnce
        );
        assert_eq!(record.failures, 5);
        after_death(&policy(), &mut record, &Exit::Code(1), Duration::from_secs(1), false);
        assert_eq!(record, Record::default());
    }

    #[test]
    fn a_program_that_is_missing_is_fatal_and_one_without_memory_is_tried_again() {
        let cannot = |errno| Exit::CannotExec { stage: "exec".into(), errno };
        let verdict = |policy: &Restart, errno| {
            after_death(policy, &mut Record::default(), &cannot(errno), Duration::ZERO, false)
        };
        let never = Restart { autorestart: Autorestart::Never, ..policy() };
        for policy in [policy(), never, Restart { oneshot: true, ..policy() }] {
            for permanent in [errno::ENOENT, errno::EACCES, errno::ENOEXEC] {
                assert_eq!(verdict(&policy, permanent), Verdict::GiveUp);
            }
            for passing in [errno::EAGAIN, errno::ENOMEM, errno::ETXTBSY] {
                assert_eq!(verdict(&policy, passing), Verdict::After(Duration::from_secs(1)));
            }
        }
    }

    /// Numbers of errno on Linux, which these tests are about.
    mod errno {
        pub const ENOENT: i32 = 2;
        pub const ENOEXEC: i32 = 8;
        pub const EAGAIN: i32 = 11;
        pub const ENOMEM: i32 = 12;
        pub const EACCES: i32 = 13;
        pub const ETXTBSY: i32 = 26;
    }

    #[test]
    fn who_wants_no_restart_ends_and_who_wants_it_only_when_unexpected_ends_on_an_expected_code() {
        let verdict = |policy: &Restart, code, early| {
            after_death(policy, &mut Record::default(), &Exit::Code(code), Duration::from_secs(5), early)
        };
        let never = Restart { autorestart: Autorestart::Never, ..policy() };
        assert_eq!(verdict(&never, 1, true), Verdict::Ended);
        assert_eq!(verdict(&never, 1, false), Verdict::Ended);
        let tried = Restart { startretries: Some(3), ..never };
        assert_eq!(verdict(&tried, 1, true), Verdict::After(Duration::from_secs(1)));
        assert_eq!(verdict(&tried, 1, false), Verdict::Ended);
        let unexpected = Restart { autorestart: Autorestart::Unexpected, exitcodes: vec![0, 2], ..policy() };
        assert_eq!(verdict(&unexpected, 2, true), Verdict::Ended);
        assert_eq!(verdict(&unexpected, 2, false), Verdict::Ended);
        assert_eq!(verdict(&unexpected, 1, false), Verdict::AtOnce);
        let once = Restart { oneshot: true, ..policy() };
        assert_eq!(verdict(&once, 1, true), Verdict::Ended);
    }

    #[test]
    fn ten_deaths_within_a_second_each_back_off_though_every_start_was_good() {
        let policy = Restart { startsecs: Duration::ZERO, ..policy() };
        let mut record = Record::default();
        let mut die = || after_death(&policy, &mut record, &Exit::Code(1), Duration::from_millis(5), false);
        for _ in 0..9 {
            assert_eq!(die(), Verdict::AtOnce);
        }
        assert_eq!(die(), Verdict::After(Duration::from_secs(1)));
        assert_eq!(die(), Verdict::After(Duration::from_secs(2)));
    }

    #[test]
    fn supervisord_waits_one_two_three_seconds_and_counts_every_early_end_as_a_failure() {
        let policy = Restart {
            backoff: Backoff::Linear,
            delay_max: Duration::MAX,
            startretries: Some(3),
            autorestart: Autorestart::Never,
            ..policy()
        };
        let mut record = Record::default();
        let mut die = |exit| after_death(&policy, &mut record, &exit, Duration::ZERO, true);
        let wait = |secs| Verdict::After(Duration::from_secs(secs));
        assert_eq!(die(Exit::Code(0)), wait(1));
        assert_eq!(die(Exit::CannotExec { stage: "exec".into(), errno: errno::ENOENT }), wait(2));
        assert_eq!(die(Exit::Code(1)), wait(3));
        assert_eq!(die(Exit::Code(0)), Verdict::GiveUp);
    }

    #[test]
    fn under_supervisords_rules_a_program_that_was_running_is_never_given_up() {
        let policy = Restart {
            backoff: Backoff::Linear,
            startretries: Some(0),
            startsecs: Duration::ZERO,
            autorestart: Autorestart::Unexpected,
            ..policy()
        };
        let mut record = Record::default();
        let mut die = |code| after_death(&policy, &mut record, &Exit::Code(code), Duration::from_millis(5), false);
        assert!((0..9).all(|_| die(1) == Verdict::AtOnce));
        assert!((0..20).all(|_| die(1) == Verdict::After(Duration::from_secs(1))));
        assert_eq!(die(0), Verdict::Ended);
    }

    #[test]
    fn a_hundred_restarts_pass_at_once_and_then_fifty_a_second() {
        let mut rate = Rate::default();
        let now = Time(Duration::from_millis(3));
        let moments: Vec<Time> = (0..200).map(|_| rate.reserve(now)).collect();
        assert_eq!(moments.iter().filter(|moment| **moment == now).count(), 100);
        assert_eq!(moments[199].since(now), Duration::from_secs(2));
        assert_eq!(rate.reserve(now + Duration::from_secs(10)), now + Duration::from_secs(10));
    }

    #[test]
    fn chance_adds_up_to_a_tenth_and_seed_zero_nothing() {
        let second = Duration::from_secs(1);
        let mut chance = Chance(42);
        let drawn: Vec<Duration> = (0..1000).map(|_| chance.stretch(second)).collect();
        assert!(drawn.iter().all(|wait| *wait >= second && *wait < Duration::from_millis(1100)));
        assert!(drawn.iter().any(|wait| *wait > Duration::from_millis(1090)));
        assert!(drawn.iter().any(|wait| *wait < Duration::from_millis(1010)));
        assert_eq!(Chance(0).stretch(second), second);
    }
}
