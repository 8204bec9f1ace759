//! Children made beside this process: born to the same parent, without a copy of anything.
//!
//! A fork copies the page tables and descriptors of the process that calls it, and both sides then fault on what they
//! touch. A child made here shares the memory of its maker, which waits until the child has become a program, as with
//! vfork(2), so it costs the same however large the maker is (reference/peers.md §3.5).

use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;

/// A row of numbers that forked processes go on sharing, all 0 at first. mmap(2), MAP_SHARED.
pub struct SharedPids {
    at: NonNull<AtomicI32>,
    count: usize,
}

impl SharedPids {
    pub fn new(count: usize) -> io::Result<SharedPids> {
        let bytes = count.max(1) * size_of::<AtomicI32>();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new anonymous mapping at a place the kernel chooses touches nothing that is there.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0)
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(at.cast()).map(|at| SharedPids { at, count }).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    pub fn get(&self, slot: usize) -> i32 {
        self.slot(slot).load(Ordering::Acquire)
    }

    pub fn set(&self, slot: usize, value: i32) {
        self.slot(slot).store(value, Ordering::Release);
    }

    fn slot(&self, slot: usize) -> &AtomicI32 {
        assert!(slot < self.count, "one of the row");
        // SAFETY: inside the mapping, which lives as long as `self`, is aligned to a page and starts as zeroes.
        unsafe { self.at.add(slot).as_ref() }
    }
}

impl Drop for SharedPids {
    fn drop(&mut self) {
        let bytes = self.count.max(1) * size_of::<AtomicI32>();
        // SAFETY: our own mapping; no reference into it outlives `self`.
        unsafe { libc::munmap(self.at.as_ptr().cast(), bytes) };
    }
}

/// Starts a child of this process's parent that runs `child` on `stack` and exits with what that returns. Comes back
/// once the child has called exec or ended. The kernel writes its pid into the slot before its first instruction, so
/// whoever shares the row knows the child however early it dies. clone(2): CLONE_PARENT, CLONE_PARENT_SETTID.
///
/// The descriptor table is shared, so that a large one is not copied: the child must call [`keep_fds_below`] before
/// it changes any. What the child allocates and does not free stays allocated here.
pub fn clone_beside(
    stack: &mut [u8],
    pids: &SharedPids,
    slot: usize,
    child: &mut dyn FnMut() -> i32,
) -> io::Result<()> {
    extern "C" fn enter(child: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `clone_beside` passes this pointer, and what it points to stays in place while its caller waits.
        let child = unsafe { &mut *child.cast::<&mut dyn FnMut() -> i32>() };
        child()
    }
    let mut child = child;
    let flags = libc::CLONE_VM
        | libc::CLONE_VFORK
        | libc::CLONE_PARENT
        | libc::CLONE_FILES
        | libc::CLONE_PARENT_SETTID
        | libc::SIGCHLD;
    let top = stack.as_mut_ptr_range().end;
    // SAFETY: one past the end of a slice is a pointer that may be made, and one aligned down still lies in it.
    let top = unsafe { top.sub(top as usize % 16) };
    let arg: *mut libc::c_void = (&raw mut child).cast();
    // SAFETY: hob has a single thread (DESIGN §10), and this process sleeps until the child no longer uses its memory,
    // so the child may run ordinary code. The stack is the child's alone, grows down from its end, and outlives it.
    Errno::result(unsafe { libc::clone(enter, top.cast(), flags, arg, pids.slot(slot).as_ptr()) })?;
    Ok(())
}

/// Gives this process a descriptor table of its own with only those below `first`, where it shared one.
/// close_range(2), CLOSE_RANGE_UNSHARE; else unshare(2), which copies all of them.
pub fn keep_fds_below(first: RawFd) -> io::Result<()> {
    // SAFETY: takes plain numbers; the table that is changed is a new one, which nobody else has.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first as u32, u32::MAX, libc::CLOSE_RANGE_UNSHARE) };
    if done == 0 {
        return Ok(());
    }
    // SAFETY: takes a plain number.
    Errno::result(unsafe { libc::unshare(libc::CLONE_FILES) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs::File;
    use std::os::fd::{AsFd, AsRawFd};

    use super::*;
    use crate::sys::process::{self, Ended, Pid};

    #[test]
    fn a_child_made_beside_belongs_to_the_parent_and_is_known_before_it_runs() {
        let pids = SharedPids::new(3).expect("a page");
        let shared = File::open("/dev/null").expect("there");
        let number = shared.as_raw_fd();
        // In a process of its own, as other tests of this program have children too.
        let parent = process::fork(|| {
            let Ok(maker) = process::fork(|| {
                let mut stack = vec![0; 64 << 10];
                for slot in 0..3 {
                    let mut child = || {
                        // Its own number is there already, and what it closes stays open for its maker.
                        let known = pids.get(slot) == process::pid().as_raw();
                        let kept = keep_fds_below(3).is_ok() && process::place_fd(shared.as_fd(), 1).is_err();
                        if known && kept { 40 + slot as i32 } else { 1 }
                    };
                    if clone_beside(&mut stack, &pids, slot, &mut child).is_err() {
                        return 2;
                    }
                }
                i32::from(std::fs::read_link(format!("/proc/self/fd/{number}")).is_err())
            }) else {
                return 3;
            };
            let mut expected = BTreeMap::from([(maker, 0)]);
            let mut ended = BTreeMap::new();
            while ended.len() < 4 {
                if let Some((pid, Ended::Code(code))) = process::reap_one() {
                    ended.insert(pid, code);
                }
                std::thread::yield_now();
            }
            expected.extend((0..3).map(|slot| (Pid::from_raw(pids.get(slot)), 40 + slot as u8)));
            if ended == expected { 0 } else { 4 }
        });
        assert_eq!(process::wait_for(parent.expect("forked")).expect("our child"), Ended::Code(0));
    }
}
