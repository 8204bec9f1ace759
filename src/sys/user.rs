//! Whose process this is.

use nix::unistd::{getegid, geteuid};

/// Effective user and group (geteuid(2), getegid(2)).
pub fn effective() -> (u32, u32) {
    (geteuid().as_raw(), getegid().as_raw())
}
