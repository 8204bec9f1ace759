//! Whether a command can be started at all, before a child is made for it: supervisord looks first, and its clients
//! are told which of several things is wrong (reference/supervisord.md §2.4).

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::plan::{CommandKind, Spec};

/// Why it cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    pub errno: Errno,
    pub text: String,
}

impl Missing {
    /// There is no such file, as opposed to one that will not do.
    pub fn is_absent(&self) -> bool {
        self.errno == Errno::ENOENT
    }
}

pub fn look_up(spec: &Spec, base: &BTreeMap<String, String>) -> Result<PathBuf, Missing> {
    let CommandKind::Words(words) = &spec.command.kind else { return Ok(PathBuf::new()) };
    if let Some(why) = spec.program.as_ref().and_then(|program| program.unparsable.as_ref()) {
        let text = format!("can't parse command '{}': {why}", spec.command.line);
        return Err(Missing { errno: Errno::EINVAL, text });
    }
    let Some(name) = words.first() else {
        return Err(Missing { errno: Errno::EINVAL, text: "command is empty".to_owned() });
    };
    let found = if name.contains('/') {
        Some(spec.directory.join(name)).filter(|path| path.exists())
    } else {
        let path = spec.env.get("PATH").or(base.get("PATH")).map_or(DEFAULT_PATH, String::as_str);
        path.split(':').map(|folder| spec.directory.join(folder).join(name)).find(|path| path.exists())
    };
    let Some(path) = found else {
        return Err(Missing { errno: Errno::ENOENT, text: format!("can't find command '{name}'") });
    };
    let shown = if name.contains('/') { Path::new(name) } else { &path };
    let wrong = |errno, what| Err(Missing { errno, text: format!("command at '{}' is {what}", shown.display()) });
    match path.metadata() {
        Ok(meta) if meta.is_dir() => wrong(Errno::EISDIR, "a directory"),
        Ok(meta) if meta.permissions().mode() & 0o111 == 0 => wrong(Errno::EACCES, "not executable"),
        Ok(_) => Ok(path),
        Err(_) => Err(Missing { errno: Errno::EPERM, text: format!("no permission to run command '{name}'") }),
    }
}

const DEFAULT_PATH: &str = "/bin:/usr/bin:/usr/local/bin";
