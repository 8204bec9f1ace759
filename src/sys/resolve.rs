//! Names of hosts.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use super::{poll, process};

/// The addresses of a host. A name server may not answer for minutes, so a child asks it and is ended after `within`.
/// getaddrinfo(3).
pub fn addresses(host: &str, port: u16, within: Duration) -> io::Result<Vec<SocketAddr>> {
    if host.parse::<IpAddr>().is_ok() || host == "localhost" {
        return Ok((host, port).to_socket_addrs()?.collect());
    }
    let (mut rx, mut tx) = io::pipe()?;
    let child = process::fork(|| {
        process::close_others(&[tx.as_raw_fd()]);
        let found = match (host, port).to_socket_addrs() {
            Ok(found) => found.map(|address| format!("{address}\n")).collect(),
            Err(why) => why.to_string(),
        };
        i32::from(tx.write_all(found.as_bytes()).is_err())
    })?;
    drop(tx);
    let begin = Instant::now();
    let is_answered = loop {
        let left = within.saturating_sub(begin.elapsed());
        if poll::readable(&[rx.as_fd()], Some(left))?[0] {
            break true;
        }
        if left.is_zero() {
            break false;
        }
    };
    let mut text = String::new();
    if is_answered {
        rx.read_to_string(&mut text)?;
    } else {
        let _ = process::kill(child, libc::SIGKILL);
        text = format!("nobody has told its address within {}s", within.as_secs());
    }
    process::wait_for(child)?;
    text.lines().map(|line| line.parse().map_err(|_| io::Error::other(text.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_ask_nobody_and_a_name_that_nobody_has_is_an_error_in_time() {
        let within = Duration::from_secs(2);
        assert_eq!(addresses("127.0.0.1", 80, within).expect("a number"), ["127.0.0.1:80".parse().expect("one")]);
        assert!(!addresses("localhost", 80, within).expect("our own").is_empty());
        let begin = Instant::now();
        assert!(addresses("host.invalid", 80, within).is_err());
        assert!(begin.elapsed() < within + Duration::from_secs(2));
    }
}
