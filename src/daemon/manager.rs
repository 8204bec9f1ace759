//! What systemd is told, when it started hob: READY, RELOADING, STOPPING, STATUS, WATCHDOG. sd_notify(3).

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::supervisor::event::Time;

pub struct Manager {
    socket: Option<UnixDatagram>,
    /// How often it wants a sign of life: half of what WATCHDOG_USEC says.
    every: Option<Duration>,
    due: Option<Time>,
}

impl Manager {
    /// From NOTIFY_SOCKET and WATCHDOG_USEC.
    pub fn from_env() -> Manager {
        let socket = env::var("NOTIFY_SOCKET").ok().and_then(|path| {
            let address = match path.strip_prefix('@') {
                Some(name) => SocketAddr::from_abstract_name(name),
                None => SocketAddr::from_pathname(&path),
            };
            let socket = UnixDatagram::unbound().ok()?;
            socket.connect_addr(&address.ok()?).ok()?;
            // A manager that does not read must not hold up what hob is for.
            socket.set_nonblocking(true).ok()?;
            Some(socket)
        });
        let is_others = env::var("WATCHDOG_PID").is_ok_and(|pid| pid != std::process::id().to_string());
        let every = env::var("WATCHDOG_USEC").ok().filter(|_| !is_others && socket.is_some());
        Manager { socket, every: every.and_then(|usec| half(&usec)), due: None }
    }

    pub fn say(&self, text: &str) {
        if let Some(socket) = &self.socket {
            let _ = socket.send(text.as_bytes());
        }
    }

    pub fn next_deadline(&self) -> Option<Time> {
        self.every.map(|_| self.due.unwrap_or_default())
    }

    /// The sign of life, sent from the loop itself: a loop that hangs sends none.
    pub fn handle_timeout(&mut self, now: Time) {
        if let Some(every) = self.every
            && self.due.is_none_or(|due| due <= now)
        {
            self.say("WATCHDOG=1");
            self.due = Some(now + every);
        }
    }
}

/// Half of a number of microseconds; nothing for none.
fn half(usec: &str) -> Option<Duration> {
    let usec = usec.parse().ok().filter(|&usec: &u64| usec > 0)?;
    Some(Duration::from_micros(usec / 2).max(SHORTEST))
}

/// Between two signs of life; the clock of epoll knows nothing shorter.
const SHORTEST: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_of_no_time_is_none_and_one_of_little_does_not_make_the_loop_spin() {
        assert_eq!(half("3000000"), Some(Duration::from_millis(1500)));
        assert_eq!(half("1"), Some(SHORTEST));
        assert_eq!((half("0"), half("-1"), half("soon")), (None, None, None));
    }
}
