//! What a person has disabled: processes that do not start by themselves, whatever their configuration says, until they
//! are enabled again. Kept in a file of the state directory, one `group:process` a line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::plan::{Name, Spec};

#[derive(Clone, Serialize, Deserialize)]
pub struct Disabled {
    file: PathBuf,
    names: BTreeSet<String>,
    /// What their configuration says, for the day they are enabled.
    configured: BTreeMap<String, bool>,
}

impl Disabled {
    /// A file that cannot be read is told, and counts as empty.
    pub fn load(state_dir: &Path) -> Disabled {
        let file = state_dir.join("disabled");
        let mut text = String::new();
        match fs::File::open(&file).and_then(|file| file.take(BYTES_MAX).read_to_string(&mut text)) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => {
                log::warn!("cannot read {}: {why}; nothing counts as disabled", file.display());
            }
            _ => {}
        }
        let names = text.lines().filter(|line| line.contains(':')).map(str::to_owned).collect();
        Disabled { file, names, configured: BTreeMap::new() }
    }

    /// Lets what is disabled not start by itself.
    pub fn apply(&mut self, specs: &mut [Spec]) {
        if self.names.is_empty() {
            return;
        }
        for spec in specs {
            let key = key(&spec.name);
            if self.names.contains(&key) {
                self.configured.insert(key, spec.autostart);
                spec.autostart = false;
            }
        }
    }

    /// Remembers it of these, and tells for each whether it starts by itself from now on. `specs` are what runs.
    pub fn set<'s>(
        &mut self,
        specs: impl Iterator<Item = &'s Spec>,
        is_enabled: bool,
    ) -> io::Result<BTreeMap<Name, bool>> {
        let mut names = self.names.clone();
        let mut starts = BTreeMap::new();
        for spec in specs {
            let key = key(&spec.name);
            if !names.contains(&key) {
                self.configured.insert(key.clone(), spec.autostart);
            }
            if is_enabled {
                names.remove(&key)
            } else {
                names.insert(key.clone())
            };
            let configured = self.configured.get(&key).copied().unwrap_or(spec.autostart);
            starts.insert(spec.name.clone(), is_enabled && configured);
        }
        self.save(&names).map_err(|why| {
            io::Error::new(why.kind(), format!("cannot remember it: cannot write {}: {why}", self.file.display()))
        })?;
        self.names = names;
        Ok(starts)
    }

    /// All of it or nothing: a new file takes the place of the old one.
    fn save(&self, names: &BTreeSet<String>) -> io::Result<()> {
        let new = self.file.with_extension("new");
        if let Some(folder) = self.file.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let mut file = options.open(&new)?;
        file.write_all(names.iter().map(|name| format!("{name}\n")).collect::<String>().as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &self.file)
    }
}

fn key(name: &Name) -> String {
    format!("{}:{}", name.group, name.process)
}

const BYTES_MAX: u64 = 1 << 20;
