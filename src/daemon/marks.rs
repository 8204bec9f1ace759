//! How hob knows again what it has started, whatever became of it: two marks that everything below a child inherits.
//!
//! - The variable `HOB_RUN`, which tells people too. A helper that empties its environment is rid of it.
//! - The limit of file locks. Linux has not enforced RLIMIT_LOCKS since 2.4.25 (getrlimit(2)), but keeps it over fork,
//!   exec, setsid and a change of user, lets everybody lower it and shows it to everybody in /proc/PID/limits. So the
//!   number in it can be a tag; only a program that sets this one limit itself is rid of that.
//!
//! A tag is `level.nonce.id` in 8, 32 and 24 bits. The level is one below that of a hob that this one runs under, since
//! a limit can only be lowered: the hard limit then stays the outer one's tag and the soft limit is ours, and both know
//! what is theirs. Where the limit that was inherited leaves no room there is no tag, which is no failure.

use crate::supervisor::event::ProcessId;
use crate::sys::process::{self, Pid};
use crate::sys::{limits, proc};

/// The variable that marks everything a run starts.
pub const VARIABLE: &str = "HOB_RUN";

/// What one hob marks its children with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    nonce: u32,
    /// 0 where there is no room for a tag.
    level: u8,
    /// What hob itself was started with.
    hard: u64,
    daemon: Pid,
}

/// Whose a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Process(ProcessId),
    /// hob's own: the planner with its postinstall script, a launcher.
    Helper,
    /// The logger itself.
    Logger,
}

impl Marks {
    /// The nonce should be one that no other hob of this machine has.
    pub fn new(nonce: u32) -> Marks {
        let hard = limits::locks().map_or(0, |(_, hard)| hard);
        Marks { nonce, level: level_below(hard), hard, daemon: process::pid() }
    }

    pub fn nonce(&self) -> u32 {
        self.nonce
    }

    /// The value of [`VARIABLE`] for a run.
    pub fn value(&self, id: ProcessId, run: u64) -> String {
        format!("{:08x}.{}.{run}", self.nonce, id.0)
    }

    /// Tags this process, a child of the daemon that has just been made, and whatever it starts.
    ///
    /// If the daemon has been killed since, the next one may have looked for what is left already and not have seen
    /// whose this is: so it ends here.
    pub fn tag_self(&self, owner: Owner) {
        if let Some(tag) = self.tag(owner) {
            let hard = if self.hard == limits::UNLIMITED { tag } else { self.hard };
            let _ = limits::set_locks(tag, hard);
        }
        if process::parent() != self.daemon {
            process::exit_now(0);
        }
    }

    fn tag(&self, owner: Owner) -> Option<u64> {
        let id = match owner {
            Owner::Helper => HELPER,
            Owner::Logger => LOGGER,
            Owner::Process(id) if id.0 < LOGGER => id.0,
            Owner::Process(_) => return None,
        };
        (self.level > 0).then(|| u64::from(self.level) << 56 | u64::from(self.nonce) << 24 | u64::from(id))
    }

    /// Whose a process is by its tag.
    pub fn tagged(&self, pid: i32) -> Option<Owner> {
        let (soft, hard) = proc::lock_limits(pid)?;
        [soft, hard].into_iter().find_map(|tag| {
            let (nonce, owner) = split(tag)?;
            (nonce == self.nonce).then_some(owner)
        })
    }

    /// Whose a process is by the environment it was started with.
    pub fn named(&self, environ: &[u8]) -> Option<Owner> {
        let (nonce, id) = parse(environ)?;
        (nonce == self.nonce).then_some(Owner::Process(id))
    }
}

/// The marks on a process: of every hob that it is below, as far as they can be seen.
pub fn all_of(pid: i32) -> Vec<(u32, Owner)> {
    let tags = proc::lock_limits(pid).into_iter().flat_map(|(soft, hard)| [soft, hard]);
    let mut found: Vec<(u32, Owner)> = tags.filter_map(split).collect();
    if found.is_empty() {
        let environ = proc::environ(pid, proc::owner(pid).ok()).unwrap_or_default();
        found.extend(parse(&environ).map(|(nonce, id)| (nonce, Owner::Process(id))));
    }
    found
}

fn level_below(hard: u64) -> u8 {
    match hard {
        limits::UNLIMITED => LEVEL_FIRST,
        hard => ((hard >> 56) as u8).min(LEVEL_FIRST + 1).saturating_sub(1),
    }
}

fn split(tag: u64) -> Option<(u32, Owner)> {
    let level = (tag >> 56) as u8;
    let owner = match tag as u32 & ID_MASK {
        HELPER => Owner::Helper,
        LOGGER => Owner::Logger,
        id => Owner::Process(ProcessId(id)),
    };
    (1..=LEVEL_FIRST).contains(&level).then_some(((tag >> 24) as u32, owner))
}

fn parse(environ: &[u8]) -> Option<(u32, ProcessId)> {
    let value = environ.split(|&b| b == 0).find_map(|v| v.strip_prefix(VARIABLE.as_bytes())?.strip_prefix(b"="))?;
    let mut parts = std::str::from_utf8(value).ok()?.split('.');
    let nonce = u32::from_str_radix(parts.next()?, 16).ok()?;
    Some((nonce, ProcessId(parts.next()?.parse().ok()?)))
}

/// The highest bit stays free: some programs read a limit as a signed number.
const LEVEL_FIRST: u8 = 0x7f;
const ID_MASK: u32 = 0xff_ffff;
/// These stand where the id of a process stands otherwise.
const HELPER: u32 = ID_MASK;
const LOGGER: u32 = ID_MASK - 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn process(id: u32) -> Option<Owner> {
        Some(Owner::Process(ProcessId(id)))
    }

    #[test]
    fn only_the_variable_of_this_hob_counts() {
        let (mine, other) = (Marks::new(0xabc), Marks::new(0xabd));
        let environ = b"PATH=/bin\0HOB_RUN=00000abc.7.12\0HOME=/\0";
        assert_eq!(mine.named(environ), process(7));
        assert_eq!(other.named(environ), None);
        for bad in [&b"HOB_RUN=abc"[..], b"HOB_RUN=abc.x.1", b"XHOB_RUN=abc.7.1", b"", b"HOB_RUN=abc.\xff"] {
            assert_eq!(mine.named(bad), None);
        }
        assert_eq!(mine.value(ProcessId(7), 12), "00000abc.7.12");
    }

    #[test]
    fn a_tag_holds_the_hob_and_the_process_and_fits_below_the_limit_it_goes_under() {
        let marks = |hard| Marks { nonce: u32::MAX, level: level_below(hard), hard, daemon: process::pid() };
        let outer = marks(limits::UNLIMITED);
        let tag = outer.tag(Owner::Process(ProcessId(5))).expect("there is room");
        assert!(tag <= i64::MAX as u64);
        assert_eq!(split(tag), Some((u32::MAX, Owner::Process(ProcessId(5)))));
        let inner = marks(tag);
        let below = inner.tag(Owner::Process(ProcessId(LOGGER - 1))).expect("there is room");
        assert!(below < tag, "a soft limit may not be above its hard one");
        assert_eq!(inner.tag(Owner::Process(ProcessId(HELPER))), None, "ids have 24 bits");
        assert_eq!(split(inner.tag(Owner::Helper).expect("there is room")), Some((u32::MAX, Owner::Helper)));
    }

    #[test]
    fn a_limit_that_somebody_has_set_is_no_tag_and_may_leave_no_room_for_one() {
        for hard in [0, 1024, (1 << 56) - 1] {
            let marks = Marks { nonce: 1, level: level_below(hard), hard, daemon: process::pid() };
            assert_eq!(marks.tag(Owner::Helper), None, "{hard}");
            assert_eq!(split(hard), None);
        }
        assert_eq!(split(limits::UNLIMITED), None);
        assert_eq!(level_below(u64::MAX - 1), LEVEL_FIRST);
    }

    #[test]
    fn a_tagged_child_is_known_again_even_without_its_environment() {
        let marks = Marks::new(0x1234_5678);
        let (rx, tx) = std::io::pipe().expect("a pipe");
        let pid = process::fork(|| {
            marks.tag_self(Owner::Process(ProcessId(9)));
            drop(tx);
            let _ = process::new_session();
            let words = [c"sleep".to_owned(), c"1000".to_owned()];
            let _ = process::exec(&words, &[]);
            1
        });
        let pid = pid.expect("fork");
        // Ends when the child has executed its program.
        let _ = std::io::copy(&mut { rx }, &mut std::io::sink());
        assert_eq!(marks.tagged(pid.as_raw()), process(9));
        assert_eq!(Marks::new(0x1234_5679).tagged(pid.as_raw()), None);
        assert!(all_of(pid.as_raw()).contains(&(0x1234_5678, Owner::Process(ProcessId(9)))));
        process::kill(pid, libc::SIGKILL).expect("our child");
        process::wait_for(pid).expect("our child");
    }
}
