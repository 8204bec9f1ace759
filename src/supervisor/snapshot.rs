//! The table as data: for an upgrade, for recovery after a crash, and to look at.
//!
//! Everything the supervisor knows is in it, moments since boot and actions not yet fetched included, so that a
//! restored supervisor goes on in the middle of a sentence. The version is that of the shape: whoever changes the
//! shape raises it, teaches `Snapshot` to read the one before, and keeps an example of each under `tests/snapshots`.

use serde::{Deserialize, Serialize};

use super::Table;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    version: Version,
    pub(super) table: Table,
}

impl Snapshot {
    pub(super) fn of(table: Table) -> Snapshot {
        Snapshot { version: Version, table }
    }
}

/// The one version that is written. Reading any other is an error, before anything is made of the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
struct Version;

const CURRENT: u32 = 1;

impl From<Version> for u32 {
    fn from(_: Version) -> u32 {
        CURRENT
    }
}

impl TryFrom<u32> for Version {
    type Error = String;

    fn try_from(version: u32) -> Result<Version, String> {
        if version == CURRENT {
            Ok(Version)
        } else {
            Err(format!("cannot read a snapshot of version {version}: this hob knows version {CURRENT}"))
        }
    }
}
