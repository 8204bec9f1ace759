//! How long to wait before the next try, and whether there is one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::{Exit, Time};
use crate::plan::{Autorestart, Restart};

/// What follows the end of a run that nobody asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It was running well: again, at once.
    Again,
    /// It died young, or could not be started this time.
    Later,
    /// That was it: EXITED.
    Enough,
    /// It can never be started as it is: FATAL.
    Hopeless,
}

/// `early` is a death before the start counted as good.
pub fn next(policy: &Restart, exit: &Exit, early: bool) -> Next {
    if let Exit::CannotExec { stage, errno } = exit {
        return if is_passing(stage, *errno) { Next::Later } else { Next::Hopeless };
    }
    let expected = is_expected(policy, exit);
    match policy.autorestart {
        _ if policy.oneshot => Next::Enough,
        Autorestart::Never if early && policy.startretries.is_some() => Next::Later,
        Autorestart::Never => Next::Enough,
        Autorestart::Unexpected if expected => Next::Enough,
        Autorestart::Unexpected | Autorestart::Always if early => Next::Later,
        Autorestart::Unexpected | Autorestart::Always => Next::Again,
    }
}

/// Whether an end is one the spec calls good.
pub fn is_expected(policy: &Restart, exit: &Exit) -> bool {
    matches!(exit, Exit::Code(code) if policy.exitcodes.contains(code))
}

/// A shortage that may be over soon, unlike a program that is not there.
fn is_passing(stage: &str, errno: i32) -> bool {
    use nix::errno::Errno::*;
    stage == "fork"
        || [EAGAIN, ENOMEM, EMFILE, ENFILE, ETXTBSY, EIO, EINTR, ENOSPC, ESTALE, ETIMEDOUT]
            .iter()
            .any(|&e| e as i32 == errno)
}

/// The wait before try number `failures + 1`: doubles from `delay` to `delay_max`, and up to a tenth more, so that
/// many that died together do not come back together.
pub fn backoff(policy: &Restart, failures: u32, dice: &mut Dice) -> Duration {
    let doubled = policy.delay.saturating_mul(1u32.checked_shl(failures.saturating_sub(1).min(20)).unwrap_or(1 << 20));
    let wait = doubled.min(policy.delay_max.max(policy.delay));
    wait + wait.mul_f64(dice.roll() * 0.1)
}

/// A small generator for jitter (xorshift64*): part of the snapshot, so a restored world goes on the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed | 1)
    }

    /// From 0 to 1.
    pub fn roll(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// How many automatic restarts at once there may be: a burst, then so many a second. Keeps 200 processes that die
/// together from taking the machine down with them (reference/peers.md §6, item 6).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartRate {
    tokens: f64,
    counted_at: Time,
}

impl StartRate {
    pub fn new() -> StartRate {
        StartRate { tokens: BURST, counted_at: Time::default() }
    }

    /// Takes one now, or says how long until there is one; the wait is reserved, so the next asker waits longer.
    pub fn take(&mut self, now: Time) -> Option<Duration> {
        self.tokens = (self.tokens + now.since(self.counted_at).as_secs_f64() * A_SECOND).min(BURST);
        self.counted_at = now;
        self.tokens -= 1.0;
        (self.tokens < 0.0).then(|| Duration::from_secs_f64(-self.tokens / A_SECOND))
    }
}

const BURST: f64 = 100.0;
const A_SECOND: f64 = 50.0;
