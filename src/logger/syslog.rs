//! Lines to the system's log daemon: datagrams to /dev/log, as syslog(3) sends them.

use std::os::unix::net::UnixDatagram;

pub struct Syslog {
    socket: Option<UnixDatagram>,
    ident: String,
}

impl Syslog {
    pub fn new(ident: &str) -> Syslog {
        Syslog { socket: None, ident: ident.to_owned() }
    }

    /// Sends one line. A log daemon that is not there, or too slow, loses it: nothing may wait for it.
    pub fn line(&mut self, severity: u8, line: &str) {
        // As RFC 3164 has it, and without a pid, as supervisord sends it: ours would be the logger's.
        let time = jiff::Zoned::now().strftime("%b %e %H:%M:%S").to_string();
        let text = format!("<{}>{time} {}: {line}", FACILITY_USER | severity, self.ident);
        for _ in 0..2 {
            if self.socket.is_none() {
                self.socket = connect();
            }
            let Some(socket) = &self.socket else { return };
            match socket.send(text.as_bytes()) {
                // It was started anew: its old socket is nobody's.
                Err(why) if why.kind() != std::io::ErrorKind::WouldBlock => self.socket = None,
                _ => return,
            }
        }
    }
}

fn connect() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    socket.connect("/dev/log").ok()?;
    Some(socket)
}

const FACILITY_USER: u8 = 1 << 3;
/// Severities of syslog(3).
pub const INFO: u8 = 6;
