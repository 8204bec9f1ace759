//! Waiting until something changes in a directory. inotify(7).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

pub struct Watch {
    inotify: Inotify,
    folder: PathBuf,
}

impl Watch {
    /// Watches a directory and those in it.
    pub fn new(folder: &Path) -> io::Result<Watch> {
        let watch = Watch { inotify: Inotify::init(InitFlags::IN_CLOEXEC)?, folder: folder.to_owned() };
        watch.inotify.add_watch(folder, flags())?;
        watch.add_folders();
        Ok(watch)
    }

    /// Blocks until something has changed since the last call.
    pub fn wait(&mut self) -> io::Result<()> {
        let events = self.inotify.read_events()?;
        // A folder that is new may have files already: the caller looks at everything after each wait.
        if events.iter().any(|e| e.mask.contains(AddWatchFlags::IN_ISDIR)) {
            self.add_folders();
        }
        Ok(())
    }

    fn add_folders(&self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                // Adding one that is watched already changes nothing.
                let _ = self.inotify.add_watch(&entry.path(), flags());
            }
        }
    }
}

fn flags() -> AddWatchFlags {
    AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE
}
