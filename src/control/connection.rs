//! One client: what has come from it, what is still to be sent, and how long it may take.

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::door::{Stream, Visitor};
use super::http::{Answer, Decoder, LAST_CHUNK, Refusal, Request, put_chunk};
use crate::supervisor::event::Time;

/// From the first byte of a request to its last.
const TO_SEND: Duration = Duration::from_secs(10);
/// Between two requests.
const IDLE: Duration = Duration::from_secs(30);
/// Without a byte taken of what we have for it.
const TO_TAKE: Duration = Duration::from_secs(30);
/// Unsent events of one stream; a client that is further behind is told so and left.
const MAX_BEHIND: usize = 256 << 10;
/// Events are sent together, but not more than this at once.
const BATCH: usize = 16 << 10;

pub struct Connection {
    stream: Stream,
    /// Which door it came in by.
    pub door: usize,
    pub visitor: Visitor,
    pub serial: u64,
    decoder: Decoder,
    out: Vec<u8>,
    sent: usize,
    doing: Doing,
    /// The socket may have more for us. Readiness is told once, so it is kept until a read finds nothing.
    pub is_readable: bool,
    keep_alive: bool,
    head_only: bool,
    /// When what is going on began, or last moved.
    since: Time,
    has_served: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    Reading,
    /// A request has been taken and its answer is not known yet.
    Waiting,
    /// Events go to it until it leaves.
    Streaming,
    /// The last answer is on its way.
    Closing,
}

/// What a look at the connection gave.
pub enum Step {
    Request(Request),
    /// Nothing to do until it is ready again.
    Blocked,
    /// It has ended, or is of no use any more.
    Over,
}

impl Connection {
    pub fn new(stream: Stream, door: usize, visitor: Visitor, serial: u64, now: Time) -> Connection {
        Connection {
            stream,
            door,
            visitor,
            serial,
            decoder: Decoder::default(),
            out: Vec::new(),
            sent: 0,
            doing: Doing::Reading,
            is_readable: true,
            keep_alive: true,
            head_only: false,
            since: now,
            has_served: false,
        }
    }

    pub fn doing(&self) -> Doing {
        self.doing
    }

    pub fn since(&self) -> Time {
        self.since
    }

    pub fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// Where it comes from, over the network.
    pub fn address(&self) -> Option<IpAddr> {
        match &self.stream {
            Stream::Tcp(stream) => stream.peer_addr().ok().map(|address| address.ip()),
            Stream::Unix(_) => None,
        }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Ends the connection for the other side too while a child that was just forked still holds the descriptor.
    pub fn end(&self) {
        self.stream.shutdown();
    }

    pub fn into_fd(self) -> OwnedFd {
        self.stream.into()
    }

    /// When something has to happen to it, if nothing moves until then.
    pub fn deadline(&self) -> Option<Time> {
        match self.doing {
            _ if self.has_output() => Some(self.since + TO_TAKE),
            Doing::Reading if self.decoder.is_within_request() || !self.has_served => Some(self.since + TO_SEND),
            Doing::Reading => Some(self.since + IDLE),
            Doing::Waiting | Doing::Streaming | Doing::Closing => None,
        }
    }

    /// Its deadline has passed. True if there is an answer to send before it goes.
    pub fn time_out(&mut self, now: Time) -> bool {
        let is_slow = !self.has_output() && self.doing == Doing::Reading && self.decoder.is_within_request();
        if is_slow {
            self.refuse(&Refusal { status: 408, why: "the request did not come within 10 seconds" }, now);
        }
        is_slow
    }

    /// Sends what there is to send, then goes on reading until a request is whole or nothing more comes.
    pub fn step(&mut self, now: Time) -> Step {
        loop {
            if self.flush(now).is_err() {
                return Step::Over;
            }
            match self.doing {
                // Not one more request before this answer is taken: a client cannot make us hold many.
                _ if self.has_output() => return Step::Blocked,
                Doing::Closing => return Step::Over,
                Doing::Waiting | Doing::Streaming => return Step::Blocked,
                Doing::Reading => {}
            }
            match self.decoder.next() {
                Ok(Some(request)) => {
                    self.keep_alive = request.keep_alive;
                    self.head_only = request.method == "HEAD";
                    self.doing = Doing::Waiting;
                    self.since = now;
                    return Step::Request(request);
                }
                Err(refusal) => {
                    self.refuse(&refusal, now);
                    continue;
                }
                Ok(None) if self.decoder.take_wants_continue() => {
                    self.out.extend_from_slice(super::http::CONTINUE);
                    continue;
                }
                Ok(None) => {}
            }
            if !self.is_readable {
                return Step::Blocked;
            }
            match self.fill(now) {
                Ok(0) => return Step::Over,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.is_readable = false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Step::Over,
            }
        }
    }

    fn fill(&mut self, now: Time) -> io::Result<usize> {
        let mut bytes = [0; 16 << 10];
        let length = self.stream.read(&mut bytes)?;
        if !self.decoder.is_within_request() {
            self.since = now;
        }
        self.decoder.push(&bytes[..length]);
        Ok(length)
    }

    /// The answer to the request that was taken last.
    pub fn answer(&mut self, answer: &Answer, now: Time) {
        self.out.extend_from_slice(&answer.encode(self.keep_alive, self.head_only));
        self.doing = if self.keep_alive { Doing::Reading } else { Doing::Closing };
        self.has_served = true;
        self.since = now;
    }

    fn refuse(&mut self, refusal: &Refusal, now: Time) {
        self.keep_alive = false;
        self.head_only = false;
        self.answer(&super::api::failure(refusal.status, refusal.why.to_owned()), now);
    }

    /// Begins an answer in chunks; it is complete at once unless more is to follow.
    pub fn stream_lines(&mut self, lines: &[String], follow: bool, now: Time) {
        self.out.extend_from_slice(&super::http::stream_head());
        self.has_served = true;
        self.since = now;
        if !self.head_only {
            put_chunk(&mut self.out, lines.concat().as_bytes());
        }
        if follow && !self.head_only {
            self.doing = Doing::Streaming;
        } else {
            self.end_stream();
        }
    }

    /// One more line for a stream. True if it is worth sending at once.
    pub fn push_line(&mut self, line: &str, now: Time) -> bool {
        if !self.has_output() {
            self.since = now;
        }
        if self.out.len() - self.sent > MAX_BEHIND {
            let note = super::api::failure(503, "too slow: changes were missed from here on; ask again".into());
            put_chunk(&mut self.out, &note.body);
            self.end_stream();
            return true;
        }
        put_chunk(&mut self.out, line.as_bytes());
        self.out.len() - self.sent > BATCH
    }

    pub fn end_stream(&mut self) {
        if !self.head_only {
            self.out.extend_from_slice(LAST_CHUNK);
        }
        self.doing = Doing::Closing;
    }

    pub fn close_after_answer(&mut self) {
        self.keep_alive = false;
    }

    pub fn wants_head_only(&self) -> bool {
        self.head_only
    }

    pub fn has_output(&self) -> bool {
        self.sent < self.out.len()
    }

    /// Sends what the socket takes. An error means that the client is gone.
    pub fn flush(&mut self, now: Time) -> io::Result<()> {
        while let Some(rest) = self.out.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => {
                    self.sent += length;
                    self.since = now;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if !self.has_output() {
            // An answer about a thousand processes is not kept for the next hundred small ones.
            self.out = Vec::new();
            self.sent = 0;
        } else if self.sent > BATCH {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }
}
