//! NOTIFY_SOCKET for processes with `ready: {notify: true}`: a datagram socket each, so that a message needs no
//! proof of who sent it. sd_notify(3).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use mio::net::UnixDatagram;
use mio::{Interest, Registry, Token};
use serde::{Deserialize, Serialize};

use crate::plan::{ReadyBy, Spec};
use crate::supervisor::event::ProcessId;
use crate::sys::lent::{Lent, Number};

pub struct Readiness {
    /// The folder of the sockets, made when the first one is.
    folder: PathBuf,
    sockets: HashMap<ProcessId, Socket>,
}

struct Socket {
    socket: UnixDatagram,
    path: PathBuf,
}

/// The same for the next binary.
#[derive(Serialize, Deserialize)]
pub struct Handed {
    folder: PathBuf,
    sockets: Vec<(ProcessId, PathBuf, Number)>,
}

impl Readiness {
    pub fn new(control_socket: &Path) -> Readiness {
        let mut folder = control_socket.as_os_str().to_owned();
        folder.push(".notify");
        Readiness { folder: folder.into(), sockets: HashMap::new() }
    }

    pub fn hand_over<'r>(&'r self, lent: &mut Lent<'r>) -> Handed {
        let sockets = self.sockets.iter().map(|(id, s)| (*id, s.path.clone(), lent.lend(&s.socket)));
        Handed { folder: self.folder.clone(), sockets: sockets.collect() }
    }

    /// `token` tells that of a process.
    pub fn take_over(handed: Handed, registry: &Registry, token: fn(ProcessId) -> Token) -> io::Result<Readiness> {
        let mut sockets = HashMap::new();
        for (id, path, number) in handed.sockets {
            let mut socket = UnixDatagram::from_std(number.adopt()?.into());
            registry.register(&mut socket, token(id), Interest::READABLE)?;
            sockets.insert(id, Socket { socket, path });
        }
        Ok(Readiness { folder: handed.folder, sockets })
    }

    /// Opens, or closes, the socket of a process as its spec says.
    pub fn provide(&mut self, registry: &Registry, token: Token, id: ProcessId, spec: &Spec) -> io::Result<()> {
        let wanted = spec.ready.as_ref().is_some_and(|r| r.by == ReadyBy::Notify);
        if !wanted {
            self.remove(registry, id);
            return Ok(());
        }
        if self.sockets.contains_key(&id) {
            return Ok(());
        }
        fs::create_dir_all(&self.folder)?;
        fs::set_permissions(&self.folder, fs::Permissions::from_mode(0o711))?;
        let path = self.folder.join(id.0.to_string());
        let _ = fs::remove_file(&path);
        let mut socket = UnixDatagram::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        if let Some(user) = &spec.user {
            chown(&path, Some(user.uid), Some(user.gid))?;
        }
        registry.register(&mut socket, token, Interest::READABLE)?;
        self.sockets.insert(id, Socket { socket, path });
        Ok(())
    }

    pub fn remove(&mut self, registry: &Registry, id: ProcessId) {
        if let Some(mut gone) = self.sockets.remove(&id) {
            let _ = registry.deregister(&mut gone.socket);
            let _ = fs::remove_file(&gone.path);
        }
    }

    pub fn path(&self, id: ProcessId) -> Option<&Path> {
        self.sockets.get(&id).map(|s| s.path.as_path())
    }

    /// Reads all messages; true if one of them says READY=1.
    pub fn hear(&mut self, id: ProcessId) -> bool {
        let Some(Socket { socket, .. }) = self.sockets.get(&id) else { return false };
        let mut text = [0; 4096];
        let mut ready = false;
        while let Ok(length) = socket.recv(&mut text) {
            ready |= text[..length].split(|&b| b == b'\n').any(|line| line == b"READY=1");
        }
        ready
    }

    /// Takes the sockets away.
    pub fn close(&mut self) {
        for (_, gone) in self.sockets.drain() {
            let _ = fs::remove_file(&gone.path);
        }
        let _ = fs::remove_dir(&self.folder);
    }
}
