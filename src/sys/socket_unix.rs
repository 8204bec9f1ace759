//! Unix stream sockets: a listener that takes over a dead one's file but never a living one's, and who is at the
//! other end of a connection.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::stat::{Mode, fchmod};

/// The longest path a socket address holds; one byte less than `sun_path`, for the final NUL. unix(7).
pub const MAX_PATH: usize = 107;

/// Who is at the other end, as the kernel knew it when the connection was made. SO_PEERCRED, unix(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// In our own pid namespace; 0 when it has no number there.
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

pub fn peer(fd: impl AsFd) -> io::Result<Peer> {
    let credentials = socket::getsockopt(&fd, sockopt::PeerCredentials)?;
    Ok(Peer { pid: credentials.pid(), uid: credentials.uid(), gid: credentials.gid() })
}

/// The other groups of whoever is at the other end; none where the kernel does not tell. SO_PEERGROUPS, Linux 4.13.
pub fn peer_groups(fd: impl AsFd) -> Vec<u32> {
    let mut groups = vec![0u32; 64];
    loop {
        let mut size = (groups.len() * size_of::<u32>()) as libc::socklen_t;
        let fd = fd.as_fd().as_raw_fd();
        // SAFETY: `groups` is a valid place for `size` bytes, and the kernel says how many it needs or has written.
        let got = unsafe {
            libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERGROUPS, groups.as_mut_ptr().cast(), &mut size)
        };
        let count = size as usize / size_of::<u32>();
        match got {
            0 => {
                groups.truncate(count);
                return groups;
            }
            _ if nix::errno::Errno::last() == nix::errno::Errno::ERANGE && count > groups.len() => {
                groups.resize(count, 0);
            }
            _ => return Vec::new(),
        }
    }
}

/// From now on SIGIO, which ends a process that does not catch it, comes when the other end closes, or says anything.
/// For a child that otherwise only waits for something else. fcntl(2), O_ASYNC.
pub fn end_with_peer(fd: BorrowedFd<'_>) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let own = nix::unistd::getpid().as_raw();
    // SAFETY: the descriptor is borrowed for the call, and F_SETOWN takes a plain number.
    nix::errno::Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETOWN, own) })?;
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_ASYNC))?;
    if is_hung_up(fd) {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    Ok(())
}

/// The other end has closed both directions: nothing that is written arrives any more. poll(2).
fn is_hung_up(fd: BorrowedFd<'_>) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(fd, PollFlags::empty())];
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
    poll(&mut fds, PollTimeout::ZERO).is_ok() && fds[0].revents().is_some_and(|got| got.intersects(gone))
}

/// What names a file for as long as it exists, whatever its path: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId(u64, u64);

pub fn file_id(path: &Path) -> Option<FileId> {
    let meta = fs::symlink_metadata(path).ok()?;
    Some(FileId(meta.dev(), meta.ino()))
}

/// A listening socket at `path`, non-blocking and closed on exec, with `mode` and, if given, owner and group; missing
/// folders are made. The file of a listener that is gone is replaced. The error is a sentence that names the path and
/// says why: something still listens there (with its pid), something else is in the way, or the path does not do.
///
/// Two that start at the same moment cannot both take over the same dead file: the folder is locked meanwhile.
pub fn listen(path: &Path, mode: u32, owner: Option<u32>, group: Option<u32>) -> io::Result<OwnedFd> {
    try_listen(path, mode, owner, group)
        .map_err(|e| io::Error::new(e.kind(), format!("cannot bind {}: {}", path.display(), reason(&e))))
}

/// Two that start at the same moment hold it for microseconds. Anybody who may read the folder can lock it as well, so
/// who holds it longer is somebody else, and is not waited for. flock(2).
fn lock_for_a_moment(folder: &Path) -> io::Result<Option<Flock<fs::File>>> {
    let mut file = fs::File::open(folder)?;
    for _ in 0..LOCK_TRIES {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err((back, _)) => file = back,
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    Ok(None)
}

const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

fn try_listen(path: &Path, mode: u32, owner: Option<u32>, group: Option<u32>) -> io::Result<OwnedFd> {
    let length = path.as_os_str().len();
    if length > MAX_PATH {
        let why = format!("its {length} bytes are more than the {MAX_PATH} of a socket path; choose a shorter one");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder)?;
    let lock = lock_for_a_moment(folder)?;
    clear_the_way(path)?;
    let fd = socket(SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    // bind makes the file with the socket's own mode, so it is never open to others, whatever the umask is.
    fchmod(&fd, Mode::from_bits_truncate(0o600))?;
    socket::bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    let finish = || {
        if owner.is_some() || group.is_some() {
            std::os::unix::fs::lchown(path, owner, group)?;
        }
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        Ok(socket::listen(&fd, Backlog::new(1024)?)?)
    };
    let finished: io::Result<()> = finish();
    if finished.is_err() {
        let _ = fs::remove_file(path);
    }
    drop(lock);
    finished.map(|()| fd)
}

/// Removes the file of a listener that is gone; an error when anything else is at `path`.
fn clear_the_way(path: &Path) -> io::Result<()> {
    let meta = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    let in_the_way = |what: &str| Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{what} is in the way")));
    if meta.file_type().is_symlink() {
        // Somebody else's link in a shared folder would make us remove or open what it points at.
        return in_the_way("a symbolic link");
    }
    if !meta.file_type().is_socket() {
        return in_the_way("a file that is not a socket");
    }
    if let Some(pid) = listener_of(path)? {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let name = if name.trim().is_empty() { String::new() } else { format!(" ({})", name.trim()) };
        let why = format!("in use by pid {pid}{name}; is it already running?");
        return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
    }
    fs::remove_file(path)
}

/// The pid of the process that listens at `path`, if there is one and it lives.
fn listener_of(path: &Path) -> io::Result<Option<i32>> {
    let fd = socket(SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    match socket::connect(fd.as_raw_fd(), &UnixAddr::new(path)?) {
        // EAGAIN is a full backlog: somebody listens, but is slow.
        Ok(()) | Err(nix::errno::Errno::EAGAIN) => {}
        Err(nix::errno::Errno::ECONNREFUSED | nix::errno::Errno::ENOENT) => return Ok(None),
        Err(e) => return Err(e.into()),
    }
    let pid = peer(&fd).map_or(0, |peer| peer.pid);
    // A child of a listener that was killed may still hold the descriptor; it will never answer.
    let gone =
        pid > 0 && nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None) == Err(nix::errno::Errno::ESRCH);
    Ok((!gone).then_some(pid))
}

/// A connected socket that never blocks; WouldBlock when the other side's queue is full.
pub fn connect_at_once(path: &Path) -> io::Result<std::os::unix::net::UnixStream> {
    let fd = socket(SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    socket::connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(std::os::unix::net::UnixStream::from(fd))
}

fn socket(flags: SockFlag) -> io::Result<OwnedFd> {
    Ok(socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?)
}

/// An error without the "(os error 2)", in lower case: it stands in the middle of a sentence.
pub fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder for the test")
    }

    #[test]
    fn a_new_socket_has_exactly_the_mode_asked_for_and_its_folder_is_made() {
        let dir = folder();
        let path = dir.path().join("run/hob.sock");
        let _listener = listen(&path, 0o660, None, None).expect("binds");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o7777, 0o660);
    }

    #[test]
    fn the_file_of_a_dead_listener_is_replaced() {
        let dir = folder();
        let path = dir.path().join("hob.sock");
        drop(listen(&path, 0o600, None, None).expect("binds"));
        assert!(path.exists());
        listen(&path, 0o600, None, None).expect("binds again");
    }

    #[test]
    fn a_living_listener_is_named_and_left_alone() {
        let dir = folder();
        let path = dir.path().join("hob.sock");
        let _living = listen(&path, 0o600, None, None).expect("binds");
        let error = listen(&path, 0o600, None, None).expect_err("in use").to_string();
        assert!(error.starts_with(&format!("cannot bind {}: in use by pid {} (", path.display(), std::process::id())));
        assert!(error.ends_with("; is it already running?"), "{error}");
        std::os::unix::net::UnixStream::connect(&path).expect("the first one still answers");
    }

    #[test]
    fn a_file_a_link_and_a_path_too_long_are_refused_with_the_reason() {
        let dir = folder();
        let file = dir.path().join("file");
        fs::write(&file, "precious").expect("written");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).expect("linked");
        let long = dir.path().join("x".repeat(120));
        let why = |path: &Path| listen(path, 0o600, None, None).expect_err("refused").to_string();
        assert!(why(&file).ends_with(": a file that is not a socket is in the way"));
        assert!(why(&link).ends_with(": a symbolic link is in the way"));
        assert!(why(&long).contains("are more than the 107 of a socket path"));
        assert_eq!(fs::read_to_string(&file).expect("still there"), "precious");
    }

    #[test]
    fn a_peer_is_known_by_pid_and_user() {
        let dir = folder();
        let path = dir.path().join("hob.sock");
        let _listener = listen(&path, 0o600, None, None).expect("binds");
        let stream = std::os::unix::net::UnixStream::connect(&path).expect("connects");
        let peer = peer(&stream).expect("has credentials");
        assert_eq!(peer.pid as u32, std::process::id());
        let mut groups = peer_groups(&stream);
        let mut own: Vec<u32> = nix::unistd::getgroups().expect("our own").into_iter().map(|g| g.as_raw()).collect();
        groups.sort_unstable();
        own.sort_unstable();
        assert_eq!(groups, own);
    }
}
