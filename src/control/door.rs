//! Where clients come in: sockets in the file system and on the network, behind one type.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use mio::event::Source;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Interest, Registry, Token};

use serde::{Deserialize, Serialize};

use crate::plan::{Address, Server};
use crate::sys::lent::{Lent, Number};
use crate::sys::socket_unix::{self, FileId, Peer};
use crate::sys::{process, resolve};

/// One listening socket, and what the configuration says about it.
pub struct Door {
    pub server: Server,
    listener: Listener,
    /// The file we made; another one at the same path is somebody else's.
    file: Option<FileId>,
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Who a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visitor {
    /// Root, the user hob runs as, or a member of the socket's group, by the word of the kernel.
    Local(Peer),
    /// Of this machine too, and let in only by the mode of the socket.
    Stranger(Peer),
    /// From the network, or a stranger, with the user and password of the server.
    Known,
    /// From the network, to a server that asks for none.
    Anyone,
}

/// The same for the next binary.
#[derive(Serialize, Deserialize)]
pub struct Handed {
    server: Server,
    listener: Number,
    /// Whether the file at its path is the one that we made.
    has_file: bool,
}

impl Door {
    /// The error is a sentence: `cannot bind /run/hob.sock: in use by pid 812 (hob); is it already running?`
    pub fn open(server: &Server) -> io::Result<Door> {
        let (listener, file) = match &server.address {
            Address::Unix { path, mode, owner, group } => {
                let fd = socket_unix::listen(path, *mode, *owner, *group).map_err(|why| match why.kind() {
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                        io::Error::new(why.kind(), format!("{why}; choose another place with --socket or HOB_SOCKET"))
                    }
                    _ => why,
                })?;
                let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(fd));
                (Listener::Unix(listener), socket_unix::file_id(path))
            }
            Address::Inet { host, port } => (Listener::Tcp(listen_tcp(host, *port)?), None),
        };
        Ok(Door { server: server.clone(), listener, file })
    }

    pub fn hand_over<'d>(&'d self, lent: &mut Lent<'d>) -> Handed {
        Handed { server: self.server.clone(), listener: lent.lend(self), has_file: self.own_file().is_some() }
    }

    /// Who waits to be let in goes on waiting.
    pub fn take_over(handed: Handed) -> io::Result<Door> {
        let fd = handed.listener.adopt()?;
        let (listener, file) = match &handed.server.address {
            Address::Unix { path, .. } => {
                let listener = UnixListener::from_std(fd.into());
                (Listener::Unix(listener), handed.has_file.then(|| socket_unix::file_id(path)).flatten())
            }
            Address::Inet { .. } => (Listener::Tcp(TcpListener::from_std(fd.into())), None),
        };
        Ok(Door { server: handed.server, listener, file })
    }

    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match &mut self.listener {
            Listener::Unix(listener) => registry.register(listener, token, Interest::READABLE),
            Listener::Tcp(listener) => registry.register(listener, token, Interest::READABLE),
        }
    }

    pub fn deregister(&mut self, registry: &Registry) {
        let _ = match &mut self.listener {
            Listener::Unix(listener) => registry.deregister(listener),
            Listener::Tcp(listener) => registry.deregister(listener),
        };
    }

    pub fn accept(&self) -> io::Result<(Stream, Visitor)> {
        match &self.listener {
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                let peer = socket_unix::peer(&stream)?;
                let visitor = match is_member(peer, &stream, &self.server) {
                    true => Visitor::Local(peer),
                    false if self.server.login.is_some() => Visitor::Known,
                    false => Visitor::Stranger(peer),
                };
                Ok((Stream::Unix(stream), visitor))
            }
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                // Answers are written whole; waiting for more only delays them.
                let _ = stream.set_nodelay(true);
                let visitor = if self.server.login.is_some() { Visitor::Known } else { Visitor::Anyone };
                Ok((Stream::Tcp(stream), visitor))
            }
        }
    }

    /// The path of our socket file, while it is ours.
    pub fn own_file(&self) -> Option<&Path> {
        match &self.server.address {
            Address::Unix { path, .. } if self.file.is_some() && socket_unix::file_id(path) == self.file => Some(path),
            _ => None,
        }
    }

    /// Whether its file was taken away.
    pub fn is_lost(&self) -> bool {
        matches!(self.server.address, Address::Unix { .. }) && self.own_file().is_none()
    }

    /// A copy of the descriptor, to be given up when a newcomer needs one.
    pub fn spare(&self) -> Option<OwnedFd> {
        self.as_fd().try_clone_to_owned().ok()
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.listener {
            Listener::Unix(listener) => listener.as_fd(),
            Listener::Tcp(listener) => listener.as_fd(),
        }
    }
}

fn is_member(peer: Peer, stream: &UnixStream, server: &Server) -> bool {
    if peer.uid == 0 || peer.uid == process::effective_uid() {
        return true;
    }
    let group = match &server.address {
        Address::Unix { group: Some(group), .. } => *group,
        _ => process::effective_gid(),
    };
    peer.gid == group || socket_unix::peer_groups(stream).contains(&group)
}

/// Nothing else happens meanwhile.
const RESOLVED_WITHIN: Duration = Duration::from_secs(3);

/// An address is in use while the old connections of a dead listener linger, so SO_REUSEADDR, which mio sets.
fn listen_tcp(host: &str, port: u16) -> io::Result<TcpListener> {
    let why =
        |e: io::Error| io::Error::new(e.kind(), format!("cannot bind {host}:{port}: {}", socket_unix::reason(&e)));
    let address = if host.is_empty() {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
    } else {
        let mut found = resolve::addresses(host, port, RESOLVED_WITHIN).map_err(why)?;
        found.sort_by_key(SocketAddr::is_ipv6);
        *found.first().ok_or_else(|| why(io::Error::other("no such host")))?
    };
    TcpListener::bind(address).map_err(why)
}

/// A connection, of either kind.
pub enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    pub fn shutdown(&self) {
        let _ = match self {
            Stream::Unix(stream) => stream.shutdown(Shutdown::Both),
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.read(bytes),
            Stream::Tcp(stream) => stream.read(bytes),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.write(bytes),
            Stream::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Source for Stream {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.register(registry, token, interests),
            Stream::Tcp(stream) => stream.register(registry, token, interests),
        }
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.reregister(registry, token, interests),
            Stream::Tcp(stream) => stream.reregister(registry, token, interests),
        }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.deregister(registry),
            Stream::Tcp(stream) => stream.deregister(registry),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Unix(stream) => stream.as_fd(),
            Stream::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl From<Stream> for OwnedFd {
    fn from(stream: Stream) -> OwnedFd {
        match stream {
            Stream::Unix(stream) => stream.into(),
            Stream::Tcp(stream) => stream.into(),
        }
    }
}
