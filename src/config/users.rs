//! Users and groups by name or number.
//!
//! `/etc/passwd` and `/etc/group` are read here, then `getent` is asked, as a child and not for long: getpwnam(3) in a
//! static binary crashes where nsswitch names a plug-in, and a directory server must not stall whoever asks.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::value::{closest, quoted};
use crate::plan::Identity;
use crate::sys::user;

/// The user database, as far as it has been read. Answers are remembered.
pub struct Users {
    passwd: String,
    group: String,
    /// Whether `getent` may be asked for what the files do not have.
    directory: bool,
    known: HashMap<String, Result<Identity, NotFound>>,
    /// Whoever is asked for exists.
    any: bool,
}

/// Why a name is no user, and a name that may have been meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFound {
    pub message: String,
    pub hint: Option<String>,
}

impl Users {
    /// Those of this system.
    pub fn system() -> Users {
        let read = |path| {
            let mut text = Vec::new();
            if let Ok(file) = File::open(path) {
                // What cannot be read is as good as empty: getent may know more.
                let _ = file.take(FILE_LIMIT).read_to_end(&mut text);
            }
            String::from_utf8_lossy(&text).into_owned()
        };
        Users {
            passwd: read("/etc/passwd"),
            group: read("/etc/group"),
            directory: true,
            known: HashMap::new(),
            any: false,
        }
    }

    /// Those of some other machine: every name is taken as it is written, `user` or `user:group`, and has no number.
    pub fn any() -> Users {
        Users { any: true, ..Users::none() }
    }

    /// A database without entries, to stand in while the real one is lent out.
    pub fn none() -> Users {
        Users { passwd: String::new(), group: String::new(), directory: false, known: HashMap::new(), any: false }
    }

    #[cfg(test)]
    pub fn from_texts(passwd: &str, group: &str) -> Users {
        Users { passwd: passwd.to_owned(), group: group.to_owned(), ..Users::none() }
    }

    /// A user from `name`, `uid`, `name:group`, `uid:gid`. A number needs no entry anywhere.
    pub fn find(&mut self, text: &str) -> Result<Identity, NotFound> {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        let found = self.look_up(text);
        self.known.insert(text.to_owned(), found.clone());
        found
    }

    /// Whether the files know a user of that name; the directory is not asked.
    pub fn has(&self, name: &str) -> bool {
        entry(&self.passwd, name).is_some()
    }

    /// The user this process runs as.
    pub fn own(&mut self) -> Identity {
        let (uid, gid) = user::effective();
        match self.find(&uid.to_string()) {
            Ok(identity) => identity,
            Err(_) => bare(uid, gid),
        }
    }

    pub fn group(&mut self, text: &str) -> Result<u32, NotFound> {
        if let Some(gid) = id(text) {
            return Ok(gid);
        }
        let line = entry(&self.group, text).map(str::to_owned).or_else(|| self.getent("group", text));
        line.and_then(|line| id(line.split(':').nth(2)?)).ok_or_else(|| NotFound {
            message: format!("there is no group {}", quoted(text)),
            hint: closest(text, names(&self.group)).map(|name| format!("did you mean \"{name}\"?")),
        })
    }

    fn look_up(&mut self, text: &str) -> Result<Identity, NotFound> {
        if self.any {
            let good = |c: char| c.is_ascii_alphanumeric() || "._-$".contains(c);
            let is_name = |part: &str| part.starts_with(|c| good(c) && c != '-') && part.chars().all(good);
            if text.split(':').count() > 2 || !text.split(':').all(is_name) {
                return Err(NotFound { message: format!("{} is not the name of a user", quoted(text)), hint: None });
            }
            let name = text.to_owned();
            return Ok(Identity { name, shell: PathBuf::from("/bin/bash"), ..bare(u32::MAX, u32::MAX) });
        }
        let (name, group) = match text.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (text, None),
        };
        let mut identity = self.user(name)?;
        if let Some(group) = group {
            identity.gid = self.group(group)?;
            // The group that a number without a name would have had may be anybody's.
            if identity.name == name && id(name).is_some() {
                identity.groups.clear();
            }
            identity.groups.push(identity.gid);
        }
        identity.groups.sort_unstable();
        identity.groups.dedup();
        Ok(identity)
    }

    fn user(&mut self, name: &str) -> Result<Identity, NotFound> {
        let number = id(name);
        let line = match number {
            Some(uid) => self.passwd.lines().find(|line| line.split(':').nth(2).and_then(id) == Some(uid)),
            None => entry(&self.passwd, name),
        };
        if let Some(identity) = line.and_then(parse_passwd) {
            return Ok(self.with_groups(identity));
        }
        if let Some(identity) = self.getent("passwd", name).as_deref().and_then(parse_passwd) {
            let more = self.getent("initgroups", &identity.name).unwrap_or_default();
            let mut identity = self.with_groups(identity);
            identity.groups.extend(more.split_whitespace().skip(1).filter_map(id));
            return Ok(identity);
        }
        // A number that nobody has a name for has a group of the same number, never root's.
        number.map(|uid| bare(uid, uid)).ok_or_else(|| NotFound {
            message: format!("there is no user {}", quoted(name)),
            hint: closest(name, names(&self.passwd)).map(|name| format!("did you mean \"{name}\"?")),
        })
    }

    fn with_groups(&self, mut identity: Identity) -> Identity {
        let member = |line: &str| {
            let mut fields = line.split(':');
            let gid = fields.nth(2).and_then(id)?;
            fields.next()?.split(',').any(|name| name.trim() == identity.name).then_some(gid)
        };
        let mut groups: Vec<u32> = self.group.lines().filter_map(member).take(GROUP_LIMIT).collect();
        groups.push(identity.gid);
        identity.groups = groups;
        identity
    }

    /// The first line of an answer. No directory, no such entry and no answer in time are all nothing.
    fn getent(&self, database: &str, key: &str) -> Option<String> {
        if !self.directory || key.is_empty() || key.starts_with('-') {
            return None;
        }
        let mut child = Command::new("getent")
            .args([database, key])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let answer = answer_of(&mut child);
        // It may have answered, failed or hung; only its end matters now.
        let _ = child.kill();
        let _ = child.wait();
        answer?.lines().next().map(str::to_owned)
    }
}

/// What a child prints, if it is done in time.
fn answer_of(child: &mut Child) -> Option<String> {
    let stdout = child.stdout.take()?;
    let (tx, rx) = mpsc::channel();
    thread::spawn(move || {
        let mut text = Vec::new();
        let read = stdout.take(FILE_LIMIT).read_to_end(&mut text);
        // Nobody listens any more once the time is up.
        let _ = tx.send(read.map(|_| String::from_utf8_lossy(&text).into_owned()));
    });
    rx.recv_timeout(GETENT_TIMEOUT).ok()?.ok()
}

/// The line of a name in a file of the passwd family.
fn entry<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find(|line| line.split(':').next() == Some(name) && !name.is_empty())
}

fn names(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.split(':').next())
}

/// A user or group number. The highest one means "no change" to the kernel and is nobody's.
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX && text.bytes().all(|b| b.is_ascii_digit()))
}

fn parse_passwd(line: &str) -> Option<Identity> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, rest @ ..] = fields.as_slice() else { return None };
    let shell = rest.first().filter(|shell| !shell.is_empty()).unwrap_or(&"/bin/sh");
    let home = if home.is_empty() { "/" } else { home };
    Some(Identity {
        name: (*name).to_owned(),
        uid: id(uid)?,
        gid: id(gid)?,
        groups: Vec::new(),
        home: PathBuf::from(home),
        shell: PathBuf::from(shell),
    })
}

fn bare(uid: u32, gid: u32) -> Identity {
    let (home, shell) = (PathBuf::from("/"), PathBuf::from("/bin/sh"));
    Identity { name: uid.to_string(), uid, gid, groups: vec![gid], home, shell }
}

const FILE_LIMIT: u64 = 16 << 20;
/// NGROUPS_MAX.
const GROUP_LIMIT: usize = 65_536;
const GETENT_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nweb:x:1000:1000::/home/web:\nbroken:x:no\n";
    const GROUP: &str = "root:x:0:\nweb:x:1000:\ndocker:x:998:other,web\nmail:x:8:web\n";

    #[test]
    fn a_name_brings_its_groups_home_and_shell() {
        let web = Users::from_texts(PASSWD, GROUP).find("web").unwrap();
        assert_eq!((web.uid, web.gid, web.groups), (1000, 1000, vec![8, 998, 1000]));
        assert_eq!((web.home.to_str(), web.shell.to_str()), (Some("/home/web"), Some("/bin/sh")));
    }

    #[test]
    fn numbers_and_groups_are_accepted() {
        let mut users = Users::from_texts(PASSWD, GROUP);
        assert_eq!(users.find("1000").unwrap().name, "web");
        let stranger = users.find("4242").unwrap();
        assert_eq!((stranger.uid, stranger.gid, stranger.groups), (4242, 4242, vec![4242]));
        let with_group = users.find("4242:7").unwrap();
        assert_eq!((with_group.gid, with_group.groups), (7, vec![7]));
        assert_eq!(users.find("1000:7").unwrap().groups, [7, 8, 998, 1000]);
        assert_eq!(users.find("web:mail").unwrap().gid, 8);
    }

    #[test]
    fn who_is_not_there_is_an_error_with_a_neighbour() {
        let mut users = Users::from_texts(PASSWD, GROUP);
        let error = users.find("wbe").unwrap_err();
        assert_eq!(error.message, "there is no user \"wbe\"");
        assert_eq!(error.hint.as_deref(), Some("did you mean \"web\"?"));
        for bad in ["", "broken", "web:nogroup", "-1", "+5", "4294967295"] {
            assert!(users.find(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_system_knows_root() {
        assert_eq!(Users::system().find("root").unwrap().uid, 0);
        assert!(Users::system().find("no-such-user-here").is_err());
    }
}
