//! Bytes that nobody can guess.

use std::io;

use nix::errno::Errno;

/// getrandom(2); waits for the kernel's pool only in the first moments after the machine's start.
pub fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut out = [0; N];
    // SAFETY: `out` is a valid place for `N` bytes; up to 256 are given at once.
    let got = unsafe { libc::getrandom(out.as_mut_ptr().cast(), N, 0) };
    if Errno::result(got)? as usize == N { Ok(out) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
