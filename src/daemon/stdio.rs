//! The ends of pipes that the daemon itself holds in supervisord's mode: the stdin of every process, for those who send
//! to it, and the stdout of event listeners, which speak with the daemon. And the sockets of fcgi-programs.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::plan::{Address, Identity, Socket};
use crate::supervisor::event::ProcessId;
use crate::sys::{self, listener, resolve};

#[derive(Default)]
pub struct Stdio {
    inputs: HashMap<ProcessId, Input>,
    speakers: HashMap<ProcessId, File>,
    /// By group and URL: the processes of one section share it.
    sockets: HashMap<(String, String), OwnedFd>,
}

struct Input {
    pipe: File,
    /// Not taken by the program yet.
    pending: Vec<u8>,
    is_registered: bool,
}

impl Stdio {
    /// A new pipe for the stdin of a process; the other end is for its child.
    pub fn new_input(&mut self, registry: &Registry, id: ProcessId) -> io::Result<OwnedFd> {
        self.close(registry, id);
        let (rx, tx) = io::pipe()?;
        sys::fd::set_nonblocking(&tx)?;
        let pipe = File::from(OwnedFd::from(tx));
        self.inputs.insert(id, Input { pipe, pending: Vec::new(), is_registered: false });
        Ok(rx.into())
    }

    /// A new pipe for what a listener says.
    pub fn new_speaker(
        &mut self,
        registry: &Registry,
        token: Token,
        id: ProcessId,
        user: Option<&Identity>,
    ) -> io::Result<OwnedFd> {
        let (rx, tx) = io::pipe()?;
        sys::fd::set_nonblocking(&rx)?;
        if let Some(user) = user {
            // So that it can open /dev/stdout by path. Only root may give a pipe away.
            let _ = std::os::unix::fs::fchown(&tx, Some(user.uid), Some(user.gid));
        }
        registry.register(&mut SourceFd(&rx.as_raw_fd()), token, Interest::READABLE)?;
        self.speakers.insert(id, File::from(OwnedFd::from(rx)));
        Ok(tx.into())
    }

    /// The child is gone, or the process is.
    pub fn close(&mut self, registry: &Registry, id: ProcessId) {
        if let Some(input) = self.inputs.remove(&id)
            && input.is_registered
        {
            let _ = registry.deregister(&mut SourceFd(&input.pipe.as_raw_fd()));
        }
        if let Some(speaker) = self.speakers.remove(&id) {
            let _ = registry.deregister(&mut SourceFd(&speaker.as_raw_fd()));
        }
    }

    /// Sends bytes to a process. An error means that it has closed its stdin, or takes nothing for long.
    pub fn send(&mut self, registry: &Registry, token: Token, id: ProcessId, bytes: &[u8]) -> io::Result<()> {
        let Some(input) = self.inputs.get_mut(&id) else { return Err(io::ErrorKind::NotFound.into()) };
        if input.pending.len() + bytes.len() > PENDING_MAX {
            return Err(io::ErrorKind::StorageFull.into());
        }
        input.pending.extend_from_slice(bytes);
        let flushed = self.flush(registry, token, id);
        if flushed.is_err() {
            self.drop_input(registry, id);
        }
        flushed
    }

    /// A stdin can take more.
    pub fn writable(&mut self, registry: &Registry, token: Token, id: ProcessId) {
        if self.flush(registry, token, id).is_err() {
            self.drop_input(registry, id);
        }
    }

    fn flush(&mut self, registry: &Registry, token: Token, id: ProcessId) -> io::Result<()> {
        let Some(input) = self.inputs.get_mut(&id) else { return Ok(()) };
        while !input.pending.is_empty() {
            match input.pipe.write(&input.pending) {
                Ok(written) => drop(input.pending.drain(..written)),
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => {
                    if !input.is_registered {
                        let fd = input.pipe.as_raw_fd();
                        registry.register(&mut SourceFd(&fd), token, Interest::WRITABLE)?;
                        input.is_registered = true;
                    }
                    return Ok(());
                }
                Err(why) => return Err(why),
            }
        }
        input.pending = Vec::new();
        Ok(())
    }

    fn drop_input(&mut self, registry: &Registry, id: ProcessId) {
        if let Some(input) = self.inputs.remove(&id)
            && input.is_registered
        {
            let _ = registry.deregister(&mut SourceFd(&input.pipe.as_raw_fd()));
        }
    }

    /// What a listener has said since; bounded, the rest comes with the next look.
    pub fn hear(&mut self, id: ProcessId) -> (Vec<u8>, bool) {
        let Some(speaker) = self.speakers.get_mut(&id) else { return (Vec::new(), false) };
        let mut heard = Vec::new();
        let mut block = [0; 16 << 10];
        while heard.len() < HEARD_MAX {
            match speaker.read(&mut block) {
                Ok(0) => return (heard, false),
                Ok(length) => heard.extend_from_slice(&block[..length]),
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return (heard, false),
            }
        }
        (heard, true)
    }

    /// The listening socket of an fcgi-program, made when the first of its processes starts.
    pub fn socket(&mut self, group: &str, wanted: &Socket) -> io::Result<OwnedFd> {
        let key = (group.to_owned(), wanted.url.clone());
        if let Some(socket) = self.sockets.get(&key) {
            return socket.try_clone();
        }
        log::info!("Creating socket {}", wanted.url);
        let socket = match &wanted.address {
            Address::Unix { path, mode, owner, group } => {
                let at = listener::At::Unix { path, mode: *mode, owner: *owner, group: *group };
                listener::listen(&at, wanted.backlog)?
            }
            Address::Inet { host, port } => {
                let host = if host.is_empty() { "0.0.0.0" } else { host };
                let found = resolve::addresses(host, *port, RESOLVED_WITHIN)?;
                let address = *found.first().ok_or_else(|| io::Error::other("no such host"))?;
                listener::listen(&listener::At::Inet(address), wanted.backlog)?
            }
        };
        let copy = socket.try_clone()?;
        self.sockets.insert(key, socket);
        Ok(copy)
    }

    /// The last process of the section is gone.
    pub fn close_socket(&mut self, group: &str, url: &str) {
        if self.sockets.remove(&(group.to_owned(), url.to_owned())).is_some() {
            log::info!("Closing socket {url}");
        }
    }

    pub fn has_sockets(&self) -> bool {
        !self.sockets.is_empty()
    }
}

/// Nothing else happens meanwhile.
const RESOLVED_WITHIN: Duration = Duration::from_secs(3);
/// Bytes that wait for a program to read its stdin.
const PENDING_MAX: usize = 1 << 20;
/// What is taken of a listener at once.
const HEARD_MAX: usize = 256 << 10;
