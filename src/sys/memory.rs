//! Memory of this process that it can do without.

use std::fs;
use std::ops::Range;

/// Gives back what only the start needed: free pages of the heap, and the pages of the executable that were read so
/// far, which come back from the page cache, one fault each, if they are needed again. malloc_trim(3), madvise(2).
pub fn release() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a plain number and touches only memory that nothing is allocated in.
    unsafe {
        libc::malloc_trim(0)
    };
    let Ok(executable) = fs::read_link("/proc/self/exe") else { return };
    let Ok(text) = fs::read_to_string("/proc/self/smaps") else { return };
    for range in unchanged(&text, &executable.to_string_lossy()) {
        // SAFETY: the range is a mapping of a file that nobody can write to through it and that has no page of its own,
        // so each page is what the file has and is read from there again. Nobody changes an executable that runs (ETXTBSY).
        unsafe { libc::madvise(range.start as *mut libc::c_void, range.len(), libc::MADV_DONTNEED) };
    }
}

/// The mappings of a file that are read-only and hold nothing but the file's own pages. proc_pid_smaps(5).
///
/// Read-only is not enough: what the loader has relocated is made read-only afterwards, and is lost when it is dropped,
/// from memory (`Anonymous`) or from where it was swapped out to (`Swap`).
fn unchanged(smaps: &str, file: &str) -> Vec<Range<usize>> {
    let mut found: Vec<(Range<usize>, bool)> = Vec::new();
    let mut is_ours = false;
    for line in smaps.lines() {
        let last = found.last_mut().filter(|_| is_ours);
        if let Some(kilobytes) = line.strip_prefix("Anonymous:") {
            last.into_iter().for_each(|(_, is_unchanged)| *is_unchanged = kilobytes.trim() == "0 kB");
        } else if let Some(kilobytes) = line.strip_prefix("Swap:") {
            last.into_iter().for_each(|(_, is_unchanged)| *is_unchanged &= kilobytes.trim() == "0 kB");
        } else if let Some(range) = range_of(line) {
            is_ours = line.ends_with(file) && line.split_ascii_whitespace().nth(1).is_some_and(is_read_only);
            found.extend(is_ours.then_some((range, false)));
        }
    }
    found.into_iter().filter_map(|(range, is_unchanged)| is_unchanged.then_some(range)).collect()
}

fn is_read_only(permissions: &str) -> bool {
    matches!(permissions, "r--p" | "r-xp")
}

/// `55d0c1a00000-55d0c1a2b000 r--p ...`
fn range_of(line: &str) -> Option<Range<usize>> {
    let (from, to) = line.split_once(' ')?.0.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some(number(from)?..number(to)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_that_are_the_files_own_are_given_back() {
        let smaps = "1000-2000 r--p 00000000 fe:00 1    /bin/hob\nRss: 4 kB\nAnonymous:             0 kB\n\
                     2000-5000 r-xp 00001000 fe:00 1    /bin/hob\nAnonymous:             0 kB\nVmFlags: rd ex\n\
                     5000-6000 r--p 00004000 fe:00 1    /bin/hob\nAnonymous:             4 kB\nSwap:      0 kB\n\
                     5800-5900 r--p 00004000 fe:00 1    /bin/hob\nAnonymous:             0 kB\nSwap:      4 kB\n\
                     6000-7000 rw-p 00005000 fe:00 1    /bin/hob\nAnonymous:             0 kB\n\
                     7000-8000 r-xp 00000000 fe:00 2    /lib/libc.so\nAnonymous:             0 kB\n\
                     8000-9000 rw-p 00000000 00:00 0 \nAnonymous:             0 kB\n";
        assert_eq!(unchanged(smaps, "/bin/hob"), [0x1000..0x2000, 0x2000..0x5000]);
    }

    #[test]
    fn the_program_goes_on_as_before() {
        release();
        assert_eq!(format!("{:?}", unchanged("", "/bin/hob")), "[]");
        release();
    }
}
