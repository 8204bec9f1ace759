//! Pieces of logs that somebody has asked for: read by a child each, since reading may block.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Token};

use super::Daemon;
use crate::control::{Done, Fetched, LogPiece, Ticket, read_piece};
use crate::supervisor::event::Time;
use crate::sys;

/// Tokens of the children's pipes.
pub const FETCHES: usize = 1 << 36;
/// Of what a child tells.
const MOST: usize = 64 << 20;

#[derive(Default)]
pub struct Fetches {
    running: HashMap<u64, Fetch>,
    next: u64,
    /// Those that could not be begun; told when nobody is in the middle of something.
    failed: Vec<(Ticket, Fetched)>,
}

struct Fetch {
    ticket: Ticket,
    pipe: File,
    text: Vec<u8>,
}

impl Fetches {
    pub fn next_deadline(&self) -> Option<Time> {
        (!self.failed.is_empty()).then(Time::default)
    }
}

impl Daemon {
    /// `Control::ticket_done` follows.
    pub fn start_fetch(&mut self, ticket: Ticket, piece: &LogPiece) {
        if let Err(why) = self.try_fetch(ticket, piece) {
            let fetched = Fetched { error: Some(why.to_string()), ..Fetched::default() };
            self.fetches.failed.push((ticket, fetched));
        }
    }

    fn try_fetch(&mut self, ticket: Ticket, piece: &LogPiece) -> io::Result<()> {
        let (rx, mut tx) = io::pipe()?;
        let pid = sys::process::fork(|| {
            sys::process::set_name("hob read");
            let _ = sys::process::new_session();
            sys::process::close_others(&[tx.as_raw_fd()]);
            let text = serde_json::to_vec(&read_piece(piece)).unwrap_or_default();
            i32::from(tx.write_all(&text).is_err())
        })?;
        drop(tx);
        self.streamers.push(pid);
        sys::fd::set_nonblocking(&rx)?;
        let number = self.fetches.next;
        self.fetches.next = (number + 1) % (1 << 30);
        let token = Token(FETCHES + number as usize);
        self.poll.registry().register(&mut SourceFd(&rx.as_raw_fd()), token, Interest::READABLE)?;
        let pipe = File::from(OwnedFd::from(rx));
        self.fetches.running.insert(number, Fetch { ticket, pipe, text: Vec::new() });
        Ok(())
    }

    pub fn hear_fetch(&mut self, number: u64) {
        let Some(fetch) = self.fetches.running.get_mut(&number) else { return };
        let mut block = [0; 64 << 10];
        loop {
            match fetch.pipe.read(&mut block) {
                Ok(0) => break,
                Ok(length) if fetch.text.len() < MOST => fetch.text.extend_from_slice(&block[..length]),
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => break,
            }
        }
        let Some(fetch) = self.fetches.running.remove(&number) else { return };
        let _ = self.poll.registry().deregister(&mut SourceFd(&fetch.pipe.as_raw_fd()));
        let fetched = serde_json::from_slice(&fetch.text)
            .unwrap_or_else(|why| Fetched { error: Some(format!("cannot read it: {why}")), ..Fetched::default() });
        self.tell_fetched(fetch.ticket, fetched);
    }

    pub fn tell_failed_fetches(&mut self) {
        for (ticket, fetched) in std::mem::take(&mut self.fetches.failed) {
            self.tell_fetched(ticket, fetched);
        }
    }

    fn tell_fetched(&mut self, ticket: Ticket, fetched: Fetched) {
        let done = Done::Fetched(fetched);
        self.with_control(|control, daemon| control.ticket_done(ticket, &done, daemon));
    }
}
