//! Clocks: one that only goes forward, for every decision, and the wall clock, only to show to people.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The time since the machine booted, suspends included (CLOCK_BOOTTIME, clock_gettime(2)).
pub fn since_boot() -> Duration {
    read(ClockId::CLOCK_BOOTTIME)
}

/// CLOCK_MONOTONIC, which systemd counts in.
pub fn monotonic() -> Duration {
    read(ClockId::CLOCK_MONOTONIC)
}

/// Unix time.
pub fn wall() -> Duration {
    read(ClockId::CLOCK_REALTIME)
}

fn read(clock: ClockId) -> Duration {
    // Neither clock can fail on a kernel that runs Rust programs; zero would only make things look early.
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}
