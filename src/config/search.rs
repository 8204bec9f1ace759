//! Where supervisord and supervisorctl look for their configuration without `-c` (reference/supervisord.md §1.6).

use std::env;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// All places, the first that exists wins. The first two are beside the program as it was called.
pub fn places(argv0: &OsStr) -> Vec<PathBuf> {
    let program = program(argv0);
    let above = program.parent().and_then(Path::parent).unwrap_or(Path::new(""));
    vec![
        above.join("etc/supervisord.conf"),
        above.join("supervisord.conf"),
        "supervisord.conf".into(),
        "etc/supervisord.conf".into(),
        "/etc/supervisord.conf".into(),
        "/etc/supervisor/supervisord.conf".into(),
    ]
}

/// The first file there is. As root, one that somebody else can write is passed over and told to `say`: whoever owns
/// the current directory would otherwise choose what root runs.
pub fn find(places: &[PathBuf], own_uid: u32, say: &mut dyn FnMut(String)) -> Option<PathBuf> {
    places.iter().find(|place| place.exists() && (own_uid != 0 || is_safe(place, say))).cloned()
}

fn is_safe(place: &Path, say: &mut dyn FnMut(String)) -> bool {
    let directory = match place.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let is_roots = |meta: Metadata| {
        // Who is in root's group may as well be root.
        let is_closed = meta.mode() & 0o002 == 0 && (meta.mode() & 0o020 == 0 || meta.gid() == 0);
        meta.uid() == 0 && (is_closed || is_sticky_directory(&meta))
    };
    let is_good = place.metadata().is_ok_and(is_roots) && directory.metadata().is_ok_and(is_roots);
    if !is_good {
        say(format!("{} is passed over, since others than root can write it; name it with -c", place.display()));
    }
    is_good
}

/// Nobody but its owner can replace a file there.
fn is_sticky_directory(meta: &Metadata) -> bool {
    meta.is_dir() && meta.mode() & 0o1000 != 0
}

/// The program's path as a shell would have found it.
fn program(argv0: &OsStr) -> PathBuf {
    let name = Path::new(argv0);
    if name.components().count() > 1 {
        return name.to_owned();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file()).unwrap_or_else(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_places_are_those_of_supervisord_in_its_order() {
        let places = places(OsStr::new("/opt/sv/bin/supervisorctl"));
        let shown: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        let expected = [
            "/opt/sv/etc/supervisord.conf",
            "/opt/sv/supervisord.conf",
            "supervisord.conf",
            "etc/supervisord.conf",
            "/etc/supervisord.conf",
            "/etc/supervisor/supervisord.conf",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn root_does_not_take_what_others_can_write() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("supervisord.conf");
        fs::write(&file, "").unwrap();
        let found = |uid| {
            let mut told = Vec::new();
            (find(std::slice::from_ref(&file), uid, &mut |text| told.push(text)), told.len())
        };
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(found(0), (None, 1));
        assert_eq!(found(1000), (Some(file.clone()), 0));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        // Only root's own file is root's; the tests may run as anybody.
        let is_root = fs::metadata(&file).unwrap().uid() == 0;
        assert_eq!(found(0).0.is_some(), is_root);
        assert_eq!(find(&["/no/such".into()], 0, &mut |_| {}), None);
    }
}
