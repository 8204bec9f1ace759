//! Listening sockets that are handed to programs: blocking, and inherited by whoever is given them.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::sys::stat::{Mode, fchmod};

/// Where to listen.
pub enum At<'a> {
    /// What is at the path is replaced; the file gets this mode, owner and group.
    Unix {
        path: &'a Path,
        mode: u32,
        owner: Option<u32>,
        group: Option<u32>,
    },
    Inet(SocketAddr),
}

/// socket(2), bind(2), listen(2). Closed on exec unless it is placed somewhere.
pub fn listen(at: &At<'_>, backlog: Option<u32>) -> io::Result<OwnedFd> {
    let fd = match at {
        At::Unix { path, mode, owner, group } => {
            let fd = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            match fs::remove_file(path) {
                Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
                _ => {}
            }
            // Nobody may connect before it has its owner.
            fchmod(&fd, Mode::from_bits_truncate(0o600))?;
            socket::bind(fd.as_raw_fd(), &UnixAddr::new(*path)?)?;
            if owner.is_some() || group.is_some() {
                std::os::unix::fs::lchown(path, *owner, *group)?;
            }
            fs::set_permissions(path, fs::Permissions::from_mode(*mode))?;
            fd
        }
        // With SO_REUSEADDR, as std has it.
        At::Inet(address) => TcpListener::bind(address)?.into(),
    };
    let backlog = backlog.and_then(|n| i32::try_from(n).ok()).unwrap_or(libc::SOMAXCONN);
    socket::listen(&fd, Backlog::new(backlog).unwrap_or(Backlog::MAXCONN))?;
    Ok(fd)
}
