//! NOTIFY_SOCKET for processes with `ready: {notify: true}`: a datagram socket each, so that a message needs no
//! proof of who sent it. sd_notify(3).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use mio::net::UnixDatagram;
use mio::{Interest, Registry, Token};
use serde::{Deserialize, Serialize};

use crate::plan::{ReadyBy, Spec};
use crate::supervisor::event::ProcessId;
use crate::sys::lent::{Lent, Number};
use crate::sys::process;

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
        self.make_folder()?;
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

    /// The control socket may stand where others can put something in our way, a link to a folder of root's say.
    fn make_folder(&self) -> io::Result<()> {
        if let Some(above) = self.folder.parent() {
            fs::create_dir_all(above)?;
        }
        match fs::DirBuilder::new().mode(0o711).create(&self.folder) {
            Err(why) if why.kind() != io::ErrorKind::AlreadyExists => return Err(why),
            _ => {}
        }
        let meta = fs::symlink_metadata(&self.folder)?;
        if !meta.is_dir() || meta.uid() != process::effective_uid() {
            let why = format!("{} is in the way, which hob did not make", self.folder.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
        fs::set_permissions(&self.folder, fs::Permissions::from_mode(0o711))
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

    /// Reads what has come; true if one of the messages says READY=1. A program that sends without end does not keep the
    /// daemon busy: the rest is told of again.
    pub fn hear(&mut self, registry: &Registry, token: Token, id: ProcessId) -> bool {
        let Some(Socket { socket, .. }) = self.sockets.get_mut(&id) else { return false };
        let mut text = [0; 4096];
        let mut ready = false;
        for _ in 0..MESSAGES_AT_ONCE {
            let Ok(length) = socket.recv(&mut text) else { return ready };
            ready |= text[..length].split(|&b| b == b'\n').any(|line| line == b"READY=1");
        }
        if let Err(why) = registry.reregister(socket, token, Interest::READABLE) {
            log::error!("cannot listen on a notify socket any more: {why}");
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

const MESSAGES_AT_ONCE: usize = 64;

#[cfg(test)]
mod tests {
    use mio::{Events, Poll};

    use super::*;
    use crate::plan::Ready;

    #[test]
    fn a_flood_of_messages_is_read_in_turns_and_none_is_forgotten() {
        let (dir, mut poll) = (tempfile::tempdir().expect("a folder"), Poll::new().expect("a poll"));
        let registry = poll.registry().try_clone().expect("a copy");
        let mut readiness = Readiness::new(&dir.path().join("hob.sock"));
        let (id, token) = (ProcessId(7), Token(7));
        let mut spec = crate::supervisor::world::process("web");
        spec.ready = Some(Ready { by: ReadyBy::Notify, within: std::time::Duration::from_secs(1) });
        readiness.provide(&registry, token, id, &spec).expect("made");
        let path = readiness.path(id).expect("made").to_owned();
        let tx = std::os::unix::net::UnixDatagram::unbound().expect("a socket");
        tx.connect(&path).expect("there");
        let sender = std::thread::spawn(move || {
            for _ in 0..10 * MESSAGES_AT_ONCE {
                tx.send(b"STATUS=x").expect("taken");
            }
            tx.send(b"READY=1").expect("taken");
        });
        let mut events = Events::with_capacity(8);
        let mut ready = false;
        while !ready {
            poll.poll(&mut events, Some(std::time::Duration::from_secs(10))).expect("polls");
            assert!(!events.is_empty(), "the rest is told of");
            ready = readiness.hear(&registry, token, id);
        }
        sender.join().expect("sent");
    }

    #[test]
    fn a_link_in_place_of_the_folder_is_not_followed() {
        let (dir, poll) = (tempfile::tempdir().expect("a folder"), Poll::new().expect("a poll"));
        let theirs = dir.path().join("theirs");
        fs::DirBuilder::new().mode(0o700).create(&theirs).expect("made");
        std::os::unix::fs::symlink(&theirs, dir.path().join("hob.sock.notify")).expect("made");
        let mut readiness = Readiness::new(&dir.path().join("hob.sock"));
        let mut spec = crate::supervisor::world::process("web");
        spec.ready = Some(Ready { by: ReadyBy::Notify, within: std::time::Duration::from_secs(1) });
        let why = readiness.provide(poll.registry(), Token(7), ProcessId(7), &spec).expect_err("refused");
        assert!(why.to_string().ends_with("hob.sock.notify is in the way, which hob did not make"), "{why}");
        assert_eq!(fs::metadata(&theirs).expect("there").permissions().mode() & 0o777, 0o700);
    }
}
