//! Files in folders that may belong to somebody else.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Whether only root and ourselves can put something into a folder. stat(2).
pub fn is_trusted(folder: &Path) -> io::Result<bool> {
    let meta = fs::metadata(folder)?;
    let is_ours = meta.uid() == 0 || meta.uid() == super::process::effective_uid();
    Ok(is_ours && meta.mode() & 0o022 == 0)
}

/// Opens a file for reading. A link is followed only from a trusted folder: elsewhere somebody may have put it there to
/// be shown what is not theirs. Nothing is waited for, a FIFO least of all. open(2), O_NOFOLLOW.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let is_link = fs::symlink_metadata(path)?.is_symlink();
    if is_link && !is_trusted(folder)? {
        return Err(io::Error::other("it is a symbolic link in a folder that others can write to"));
    }
    let no_link = if is_link { 0 } else { libc::O_NOFOLLOW };
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | no_link).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_link_is_followed_only_from_a_folder_that_nobody_else_can_write_to() {
        let dir = tempfile::tempdir().expect("new");
        let (real, folder) = (dir.path().join("real"), dir.path().join("shared"));
        fs::create_dir(&folder).expect("new");
        fs::write(&real, "secret").expect("written");
        let link = folder.join("a.log");
        symlink(&real, &link).expect("new");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("ours");
        let mut text = String::new();
        open_regular(&link).expect("trusted").read_to_string(&mut text).expect("read");
        assert_eq!(text, "secret");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("ours");
        assert!(open_regular(&link).is_err());
        // A link further up is the administrator's.
        let way = dir.path().join("way");
        symlink(&folder, &way).expect("new");
        fs::write(folder.join("b.log"), "log").expect("written");
        assert!(open_regular(&way.join("b.log")).is_ok());
    }

    #[test]
    fn a_fifo_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("new");
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("new");
        assert_eq!(open_regular(&path).expect_err("refused").to_string(), "not a regular file");
    }
}
