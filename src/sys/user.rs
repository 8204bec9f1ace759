//! Whose process this is.

use nix::unistd::{getegid, geteuid, getgroups};

/// Effective user and group (geteuid(2), getegid(2)).
pub fn effective() -> (u32, u32) {
    (geteuid().as_raw(), getegid().as_raw())
}

/// The supplementary groups (getgroups(2)); none if the kernel will not say.
pub fn groups() -> Vec<u32> {
    getgroups().map(|groups| groups.into_iter().map(|gid| gid.as_raw()).collect()).unwrap_or_default()
}
