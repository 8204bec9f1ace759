//! The control sockets: HTTP/1.1 for whoever may talk to hob.
//!
//! `Control` owns the listening sockets and their clients; the daemon calls it when one of its descriptors is ready, when
//! something changed and when something is due. Nothing in here blocks, and every client is bounded in time, in bytes
//! and in number, so a slow or hostile one costs a few kilobytes. What a request means is in `routes` and `api`; what
//! they may ask of the daemon is `Host`.

mod api;
mod auth;
mod connection;
mod door;
mod events;
mod exchange;
mod guard;
mod http;
mod logs;
mod metrics;
mod names;
mod page;
mod routes;
mod rpc;
mod rpc_info;
mod rpc_own;
#[cfg(test)]
mod tests;
mod throttle;
mod waiters;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use mio::{Interest, Registry, Token};
use serde::{Deserialize, Serialize};

use self::api::{Call, Reply};
use self::connection::{Connection, Doing, Step};
use self::door::{Door, Stream, Visitor};
use self::events::Ring;
use self::exchange::Exchange;
use self::http::{Answer, Request};
use self::throttle::{Throttle, Turn};
use self::waiters::{Client, Finished, Waiters};
use crate::plan::{Plan, Server};
use crate::supervisor::Supervisor;
use crate::supervisor::event::{Change, Event, ProcessId, Run, Time};
use crate::sys::lent::Lent;
use crate::sys::socket_unix;
use crate::{sys, wire};

pub use self::rpc::VERSION as SUPERVISOR_VERSION;

pub use self::logs::{Fetched, LogPiece, LogQuery, Tail, read_piece, serve_logs, serve_tail, too_many_followers};

/// Listening sockets at most; their tokens come first.
const MAX_DOORS: usize = 64;
/// Clients at once; the longest idle one makes room for a newcomer.
const MAX_CLIENTS: usize = 256;
/// Of these, followers of events: each may hold a quarter of a megabyte.
const MAX_STREAMS: usize = 32;
/// Requests of one client and newcomers served before the rest of the daemon has its turn.
const AT_ONCE: usize = 64;
/// After an accept failed for want of descriptors or memory.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);
/// For the logger to tell what it has written.
const COUNT_WITHIN: Duration = Duration::from_secs(1);
/// For the last answers, when hob ends.
const LAST_FLUSH: Duration = Duration::from_millis(300);

/// What the handlers may ask of the daemon.
pub trait Host {
    fn supervisor(&self) -> &Supervisor;
    fn pid(&self, run: Run) -> Option<i32>;
    fn now(&self) -> Time;
    fn info(&self) -> wire::Info;
    fn troubles(&self, id: ProcessId) -> Vec<String>;
    /// Tells the supervisor. What it wants done about it is done after the handler has returned.
    fn feed(&mut self, event: Event);
    /// To the process group of a run.
    fn signal(&mut self, run: Run, signal: i32) -> io::Result<()>;
    /// Begins to read the configuration, of what was deployed or of the home hob was booted with if it says so;
    /// `Control::reload_done` follows.
    fn reload(&mut self, ticket: Ticket, deployed: Option<bool>);
    /// Somebody who may block takes the connection over: `serve_logs`.
    fn stream_logs(&mut self, socket: OwnedFd, query: LogQuery);
    fn shutdown(&mut self);
    /// Begins to become the binary that is on disk now; `Control::upgrade_done` follows.
    fn upgrade(&mut self, ticket: Ticket);

    // What only supervisord's clients ask for.

    /// Makes the supervisor decide about what it was told so far; what it wants done is still done later.
    fn settle(&mut self);
    fn identification(&self) -> String;
    /// It stops, or starts anew.
    fn is_ending(&self) -> bool;
    /// What a supervisord.conf said when it was last read; nothing if there is none.
    fn configured(&self) -> Option<&Plan>;
    fn add_group(&mut self, name: &str) -> Result<(), GroupError>;
    fn remove_group(&mut self, name: &str) -> Result<(), GroupError>;
    /// The processes that an update of this group to what was read last would end.
    fn changed_in_group(&self, name: &str) -> Result<Vec<ProcessId>, GroupError>;
    /// The group becomes what was read last; those processes have to be stopped.
    fn update_group(&mut self, name: &str) -> Result<(), GroupError>;
    /// Whether these start by themselves from now on, over restarts of hob too. The error is a sentence.
    fn set_enabled(&mut self, ids: &[ProcessId], is_enabled: bool) -> io::Result<()>;
    /// Reads the configuration and tells what is different; `Control::ticket_done` follows. So with the next four.
    fn reread(&mut self, ticket: Ticket);
    fn restart(&mut self, ticket: Ticket);
    fn clear_logs(&mut self, ids: &[ProcessId], main: bool, ticket: Ticket);
    fn fetch(&mut self, ticket: Ticket, piece: LogPiece);
    /// Asks the logger; `Control::ticket_done` follows, unless no logger answers.
    fn count_logs(&mut self, ticket: Ticket);
    /// Whether its command can be started; if not, whether it is not there at all, and why.
    fn look_up(&self, id: ProcessId) -> Result<(), (bool, String)>;
    /// Why the last start could not be made.
    fn spawn_error(&self, id: ProcessId) -> Option<String>;
    fn send_stdin(&mut self, id: ProcessId, bytes: &[u8]) -> io::Result<()>;
    fn remote_event(&mut self, kind: &str, data: &str);
    /// Has the logger write what was said so far, also about what is still to be done; `Control::ticket_done` follows.
    /// False if that is not needed, unless something was done.
    fn sync_log(&mut self, ticket: Ticket, has_acted: bool) -> bool;
    /// The file of the daemon's own log.
    fn main_log(&self) -> Option<PathBuf>;
    /// Somebody who may block takes the connection over: `serve_tail`.
    fn follow_log(&mut self, socket: OwnedFd, tail: Tail);
}

/// Why a group cannot be added or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupError {
    Unknown,
    AlreadyAdded,
    StillRunning,
}

/// What something that was asked for with a ticket has come to.
#[derive(Clone, Debug)]
pub enum Done {
    /// Names of groups: new, changed, gone.
    Reread(Result<[Vec<String>; 3], String>),
    Restart(Result<(), String>),
    /// The error, if there was one.
    Cleared(Option<String>),
    Fetched(Fetched),
    /// Bytes written and lost, by process.
    Counted(HashMap<ProcessId, (u64, u64)>),
    Synced,
}

/// Something asked for that takes a while: a reload, a piece of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

pub struct Control {
    doors: Vec<Door>,
    /// Given up for a moment when there is no descriptor left, to tell a newcomer so.
    reserve: Option<OwnedFd>,
    accept_again_at: Option<Time>,
    registry: Option<Registry>,
    first_token: usize,
    own_uid: u32,
    /// Of this machine.
    own_name: String,
    /// What the forms of our pages carry, and nobody else knows.
    token: String,
    clients: Vec<Option<Connection>>,
    next_serial: u64,
    /// Slots with more to do than they got their turn for.
    again: BTreeSet<usize>,
    /// What somebody waits for may be settled although no process has changed: a start that was called off in time, a
    /// process that is not configured any more.
    looks_again: bool,
    waiters: Waiters,
    tickets: BTreeMap<Ticket, Client>,
    /// XML-RPC requests that are not answered yet.
    exchanges: BTreeMap<Client, Exchange>,
    /// Who asks for metrics, and until when they wait for the logger.
    scrapes: BTreeMap<Ticket, (Client, Time)>,
    next_ticket: u64,
    throttle: Throttle,
    /// Those who asked for the shutdown and want to hear that it is done.
    mourners: Vec<Client>,
    ring: Ring,
}

/// What the next binary gets of it; clients are told to come again.
#[derive(Serialize, Deserialize)]
pub struct Handed {
    doors: Vec<door::Handed>,
    recent: Vec<String>,
}

impl Control {
    /// The error is a sentence: `cannot bind /run/hob.sock: in use by pid 812 (hob); is it already running?`
    pub fn bind(servers: &[Server]) -> io::Result<Control> {
        if servers.len() > MAX_DOORS {
            return Err(io::Error::other(format!("cannot listen on more than {MAX_DOORS} sockets")));
        }
        Control::with(servers.iter().map(Door::open).collect::<io::Result<_>>()?)
    }

    fn with(doors: Vec<Door>) -> io::Result<Control> {
        Ok(Control {
            reserve: doors.first().and_then(Door::spare),
            doors,
            accept_again_at: None,
            registry: None,
            first_token: 0,
            own_uid: sys::process::effective_uid(),
            own_name: sys::process::host_name(),
            token: sys::random::bytes::<16>()?.iter().map(|byte| format!("{byte:02x}")).collect(),
            clients: Vec::new(),
            next_serial: 0,
            again: BTreeSet::new(),
            looks_again: false,
            waiters: Waiters::default(),
            tickets: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            scrapes: BTreeMap::new(),
            next_ticket: 0,
            throttle: Throttle::default(),
            mourners: Vec::new(),
            ring: Ring::default(),
        })
    }

    pub fn hand_over<'c>(&'c self, lent: &mut Lent<'c>) -> Handed {
        Handed {
            doors: self.doors.iter().map(|door| door.hand_over(lent)).collect(),
            recent: self.ring.last(usize::MAX).map(str::to_owned).collect(),
        }
    }

    pub fn take_over(handed: Handed) -> io::Result<Control> {
        let mut control = Control::with(handed.doors.into_iter().map(Door::take_over).collect::<io::Result<_>>()?)?;
        handed.recent.into_iter().for_each(|line| control.ring.push(line));
        Ok(control)
    }

    /// Tokens from `first_token` up belong to control.
    pub fn register(&mut self, registry: &Registry, first_token: usize) -> io::Result<()> {
        for (nth, door) in self.doors.iter_mut().enumerate() {
            door.register(registry, Token(first_token + nth))?;
        }
        self.registry = Some(registry.try_clone()?);
        self.first_token = first_token;
        Ok(())
    }

    /// One of our descriptors is ready.
    pub fn ready(&mut self, _registry: &Registry, event: &mio::event::Event, host: &mut dyn Host) {
        let Token(token) = event.token();
        let Some(slot) = token.checked_sub(self.first_token + MAX_DOORS) else {
            return self.accept(token - self.first_token, host);
        };
        let Some(Some(client)) = self.clients.get_mut(slot) else { return };
        client.is_readable |= event.is_readable() || event.is_read_closed();
        // Whoever waits is not read from, so only this tells that it has left. One that has just sent a request
        // and left is served first.
        if event.is_write_closed() && matches!(client.doing(), Doing::Waiting | Doing::Streaming) {
            return self.drop_client(slot);
        }
        self.serve(slot, host);
    }

    /// For waiters and event streams.
    pub fn changed(&mut self, change: &Change, host: &mut dyn Host) {
        let mut line = serde_json::to_string(&api::change_shown(change, host)).unwrap_or_default();
        line.push('\n');
        let now = host.now();
        for (slot, client) in self.clients.iter_mut().enumerate() {
            let Some(client) = client.as_mut().filter(|client| client.doing() == Doing::Streaming) else { continue };
            if client.push_line(&line, now) {
                // An error is found again, and dealt with, at its turn.
                let _ = client.flush(now);
            }
            self.again.insert(slot);
        }
        self.ring.push(line);
        let finished = self.waiters.changed(change.id, host.supervisor(), now);
        self.tell(finished, host);
        self.go_on_with_processes(host);
    }

    /// A process has left the table.
    pub fn removed(&mut self) {
        self.looks_again = true;
    }

    fn go_on_with_processes(&mut self, host: &mut dyn Host) {
        let waiting = self.exchanges.iter().filter(|(_, exchange)| exchange.waits_for_processes());
        for client in waiting.map(|(client, _)| *client).collect::<Vec<_>>() {
            self.go_on(client, host);
        }
    }

    pub fn next_deadline(&self) -> Option<Time> {
        let at_once = (self.looks_again || !self.again.is_empty()).then(Time::default);
        let clients = self.clients.iter().flatten().filter_map(Connection::deadline).min();
        let exchanges = self.exchanges.values().filter_map(Exchange::deadline).min();
        let scrapes = self.scrapes.values().map(|(_, until)| *until).min();
        let held = self.throttle.next_deadline();
        [at_once, clients, exchanges, scrapes, held, self.waiters.next_deadline(), self.accept_again_at]
            .into_iter()
            .flatten()
            .min()
    }

    pub fn handle_timeout(&mut self, now: Time, host: &mut dyn Host) {
        if self.accept_again_at.is_some_and(|at| at <= now) {
            self.accept_again_at = None;
            for door in 0..self.doors.len() {
                self.accept(door, host);
            }
        }
        for slot in std::mem::take(&mut self.again) {
            self.serve(slot, host);
        }
        for slot in 0..self.clients.len() {
            let Some(client) = &mut self.clients[slot] else { continue };
            if client.deadline().is_none_or(|at| at > now) {
                continue;
            }
            if client.time_out(now) { self.serve(slot, host) } else { self.drop_client(slot) }
        }
        for (client, request) in self.throttle.due(now) {
            match request {
                Some(request) if self.client(client).is_some() => self.handle(client.slot, &request, host),
                Some(_) => {}
                None => self.answer(client, &auth::challenge(), host),
            }
            // Its answer may be there by now.
            self.again.insert(client.slot);
        }
        if std::mem::take(&mut self.looks_again) {
            self.waiters.look_soon();
            self.go_on_with_processes(host);
        }
        let finished = self.waiters.handle_timeout(host.supervisor(), now);
        self.tell(finished, host);
        // A logger that does not answer holds nobody up: the rest is worth telling.
        let late: Vec<Ticket> = self.scrapes.iter().filter(|(_, (_, until))| *until <= now).map(|(t, _)| *t).collect();
        for (client, _) in late.iter().filter_map(|ticket| self.scrapes.remove(ticket)).collect::<Vec<_>>() {
            let answer = metrics::answer(host, None);
            self.answer(client, &answer, host);
        }
        let due = self.exchanges.iter().filter(|(_, exchange)| exchange.deadline().is_some_and(|at| at <= now));
        for client in due.map(|(client, _)| *client).collect::<Vec<_>>() {
            self.go_on(client, host);
        }
    }

    /// Something that an XML-RPC method asked for is done.
    pub fn ticket_done(&mut self, ticket: Ticket, done: &Done, host: &mut dyn Host) {
        if let Done::Counted(logs) = done
            && let Some((client, _)) = self.scrapes.remove(&ticket)
        {
            let answer = metrics::answer(host, Some(logs));
            return self.answer(client, &answer, host);
        }
        let owner =
            self.exchanges.iter_mut().find_map(|(c, exchange)| exchange.ticket_done(ticket, done).then_some(*c));
        if let Some(client) = owner {
            self.go_on(client, host);
        }
    }

    /// Carries on with an XML-RPC request, and answers it once that is possible.
    fn go_on(&mut self, client: Client, host: &mut dyn Host) {
        let Some(mut exchange) = self.exchanges.remove(&client) else { return };
        exchange.step(host, &mut self.next_ticket);
        match exchange.answer(host, &mut self.next_ticket) {
            Some(answer) => self.answer(client, &answer, host),
            None => drop(self.exchanges.insert(client, exchange)),
        }
    }

    /// Listens on other sockets from now on, where they are others. What cannot be opened is told and left out.
    pub fn set_servers(&mut self, servers: &[Server]) {
        let Some(registry) = &self.registry else { return };
        let mut before = std::mem::take(&mut self.doors);
        for server in servers.iter().take(MAX_DOORS) {
            let kept = before.iter().position(|door| door.server == *server).map(|at| before.swap_remove(at));
            match kept.map_or_else(|| Door::open(server), Ok) {
                Ok(door) => self.doors.push(door),
                Err(why) => log::error!("{why}"),
            }
        }
        for door in &mut before {
            door.deregister(registry);
            if let Some(file) = door.own_file() {
                let _ = std::fs::remove_file(file);
            }
        }
        for (nth, door) in self.doors.iter_mut().enumerate() {
            door.deregister(registry);
            if let Err(why) = door.register(registry, Token(self.first_token + nth)) {
                log::error!("cannot listen for {}: {}", door.server.name, socket_unix::reason(&why));
            }
        }
        self.reserve = self.doors.first().and_then(Door::spare);
    }

    /// What the reload that this ticket was given for has come to: what changed, or every error.
    pub fn reload_done(&mut self, ticket: Ticket, result: Result<String, Vec<String>>, host: &mut dyn Host) {
        let Some(client) = self.tickets.remove(&ticket) else { return };
        let answer = match result {
            Ok(message) => api::good(&wire::Done { message }),
            Err(errors) => api::failures(422, errors),
        };
        self.answer(client, &answer, host);
    }

    /// What the upgrade that this ticket was given for will come to, or why there is none.
    pub fn upgrade_done(&mut self, ticket: Ticket, result: Result<String, String>, host: &mut dyn Host) {
        let Some(client) = self.tickets.remove(&ticket) else { return };
        let answer = match result {
            Ok(message) => api::good(&wire::Done { message }),
            Err(why) => api::failure(409, why),
        };
        self.answer(client, &answer, host);
    }

    /// Makes each socket file again that has been deleted.
    pub fn rebind(&mut self) {
        let Some(registry) = &self.registry else { return };
        for (nth, door) in self.doors.iter_mut().enumerate().filter(|(_, door)| door.is_lost()) {
            let made = Door::open(&door.server).and_then(|mut made| {
                made.register(registry, Token(self.first_token + nth))?;
                Ok(made)
            });
            match made {
                Ok(made) => {
                    let mut old = std::mem::replace(door, made);
                    old.deregister(registry);
                    log::info!("made the socket of {} again", door.server.name);
                }
                Err(why) => log::error!("{why}"),
            }
        }
        self.reserve = self.doors.first().and_then(Door::spare);
    }

    /// Answers everybody who waits, and removes the socket. Nothing is served after it.
    pub fn goodbye(&mut self) {
        for file in self.doors.iter().filter_map(Door::own_file) {
            let _ = std::fs::remove_file(file);
        }
        self.part("hob has been shut down");
    }

    /// Gives every client what there is for it, and `why` to those for whom there is nothing yet.
    pub fn part(&mut self, why: &str) {
        let mut answers: Vec<(Client, Answer)> = Vec::new();
        answers.extend(self.waiters.end().into_iter().map(|(client, outcomes)| (client, api::good(&outcomes))));
        let reloads = std::mem::take(&mut self.tickets).into_values();
        answers.extend(reloads.map(|client| (client, api::failure(503, why.to_owned()))));
        let done = api::good(&wire::Done { message: "everything is stopped".into() });
        answers.extend(std::mem::take(&mut self.mourners).into_iter().map(|client| (client, done.clone())));
        let now = Time::default();
        for (client, answer) in answers {
            if let Some(connection) = self.client(client) {
                connection.close_after_answer();
                connection.answer(&answer, now);
            }
        }
        let until = sys::clock::since_boot() + LAST_FLUSH;
        for connection in self.clients.iter_mut().flatten() {
            if connection.doing() == Doing::Streaming {
                connection.end_stream();
            }
            while connection.flush(now).is_ok() && connection.has_output() {
                let left = until.saturating_sub(sys::clock::since_boot());
                if left.is_zero() || !sys::fd::is_writable(&connection.fd(), left) {
                    break;
                }
            }
            connection.end();
        }
        self.clients.clear();
    }

    fn accept(&mut self, door: usize, host: &mut dyn Host) {
        for _ in 0..AT_ONCE {
            let Some(accepted) = self.doors.get(door).map(Door::accept) else { return };
            match accepted {
                Ok((stream, visitor)) => self.admit(stream, door, visitor, host),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if is_want(&e) => {
                    // An idle client's descriptor is of more use to the newcomer. Without one, the newcomer is told.
                    let made_room = self.drop_idle(false) || self.turn_one_away(door);
                    if !made_room {
                        log::warn!("cannot accept a client: {}", socket_unix::reason(&e));
                        self.accept_again_at = Some(host.now() + ACCEPT_AGAIN);
                        return;
                    }
                }
                // A client that left before its turn is none of our trouble.
                Err(_) => {}
            }
        }
        // Readiness is told once: there may be more.
        self.accept_again_at = Some(host.now());
    }

    fn admit(&mut self, mut stream: Stream, door: usize, visitor: Visitor, host: &mut dyn Host) {
        let is_full = self.clients.iter().flatten().count() >= MAX_CLIENTS;
        if is_full && !self.drop_idle(true) && !self.drop_guesser() {
            return turn_away(stream);
        }
        let Some(registry) = &self.registry else { return };
        let slot = self.clients.iter().position(Option::is_none).unwrap_or(self.clients.len());
        let token = Token(self.first_token + MAX_DOORS + slot);
        if registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE).is_err() {
            return;
        }
        self.next_serial += 1;
        let client = Connection::new(stream, door, visitor, self.next_serial, host.now());
        match self.clients.get_mut(slot) {
            Some(place) => *place = Some(client),
            None => self.clients.push(Some(client)),
        }
        self.serve(slot, host);
    }

    /// Closes the client that has been idle for longest; if none is, and `streams_too`, the oldest stream.
    fn drop_idle(&mut self, streams_too: bool) -> bool {
        let longest = |wanted: Doing| {
            let those = self.clients.iter().enumerate();
            let those = those.filter_map(|(slot, client)| Some((slot, client.as_ref()?)));
            let those = those.filter(|(_, client)| client.doing() == wanted && !client.has_output());
            those.min_by_key(|(_, client)| client.since()).map(|(slot, _)| slot)
        };
        let found = longest(Doing::Reading).or_else(|| streams_too.then(|| longest(Doing::Streaming)).flatten());
        found.inspect(|&slot| self.drop_client(slot)).is_some()
    }

    /// Whoever waits for having guessed wrong makes room for a newcomer.
    fn drop_guesser(&mut self) -> bool {
        self.throttle.oldest().inspect(|client| self.drop_client(client.slot)).is_some()
    }

    /// Tells one newcomer that there are no descriptors, by means of the one kept for that.
    fn turn_one_away(&mut self, door: usize) -> bool {
        if self.reserve.take().is_none() {
            return false;
        }
        let accepted = self.doors.get(door).map(Door::accept);
        let is_ok = matches!(accepted, Some(Ok(_)));
        if let Some(Ok((stream, _))) = accepted {
            turn_away(stream);
        }
        self.reserve = self.doors.first().and_then(Door::spare);
        is_ok
    }

    /// Carries on with a client until it has nothing more, or has had its turn.
    fn serve(&mut self, slot: usize, host: &mut dyn Host) {
        for _ in 0..AT_ONCE {
            let Some(Some(client)) = self.clients.get_mut(slot) else { return };
            match client.step(host.now()) {
                Step::Blocked => return,
                Step::Over => return self.drop_client(slot),
                Step::Request(request) => self.handle(slot, &request, host),
            }
        }
        self.again.insert(slot);
    }

    fn handle(&mut self, slot: usize, request: &Request, host: &mut dyn Host) {
        let now = host.now();
        self.looks_again |= request.method == "POST";
        let streams = self.clients.iter().flatten().filter(|client| client.doing() == Doing::Streaming).count();
        let Some(Some(client)) = self.clients.get_mut(slot) else { return };
        let id = Client { slot, serial: client.serial };
        let login = self.doors.get(client.door).and_then(|door| door.server.login.as_ref());
        if let Some(login) = login {
            // Who gives no login is asked for one at once; a guess has its price, over the network.
            let guesser = client.address().filter(|_| request.header("authorization").is_some());
            match guesser.map_or(Turn::Now, |address| self.throttle.turn(address, id, request, now)) {
                Turn::Now => {}
                Turn::Later => return,
                Turn::Never => {
                    client.close_after_answer();
                    let why = "too many wrong logins from your address; try again later".to_owned();
                    return client.answer(&api::failure(429, why), now);
                }
            }
            let is_right = auth::admits(login, request);
            match guesser {
                Some(address) if is_right => self.throttle.passed(address),
                Some(address) => {
                    client.close_after_answer();
                    log::warn!("a wrong login for {} from {address}", self.doors[client.door].server.name);
                    return self.throttle.failed(address, id, now);
                }
                None if !is_right => {
                    client.close_after_answer();
                    return client.answer(&auth::challenge(), now);
                }
                None => {}
            }
        }
        let guarded = self.doors.get(client.door).map(|door| guard::check(&door.server, &self.own_name, request));
        if let Some(Err(refusal)) = guarded {
            return client.answer(&refusal, now);
        }
        // Of a supervisord's socket the mode alone decides who may what.
        let is_supervisord = host.supervisor().plan().supervisord.is_some();
        if matches!(client.visitor, Visitor::Stranger(_)) && !is_supervisord {
            let refusal = routes::refusal(client.visitor, self.own_uid, routes::Who::Member, &request.path);
            return client.answer(&refusal, now);
        }
        if request.path.starts_with("/RPC2") {
            return self.handle_rpc(id, request, host);
        }
        if request.path.starts_with("/logtail") || request.path.starts_with("/mainlogtail") {
            return self.handle_tail(id, request, host);
        }
        if page::is_path(&request.path) {
            return self.handle_page(id, request, host);
        }
        let reply = routes::find(request, client.visitor, self.own_uid)
            .and_then(|(route, name)| (route.handler)(&mut Call { host, request, name, ring: &self.ring }));
        match reply {
            Err(answer) | Ok(Reply::Answer(answer)) => client.answer(&answer, now),
            Ok(Reply::Wait { items, timeout }) => {
                let finished = self.waiters.begin(id, items, timeout, host.supervisor(), now);
                if let Some((_, outcomes)) = finished {
                    client.answer(&api::good(&outcomes), now);
                }
            }
            Ok(Reply::Events { follow: true, .. }) if streams >= MAX_STREAMS => {
                client.answer(&api::failure(503, format!("{MAX_STREAMS} clients follow events already")), now);
            }
            Ok(Reply::Events { recent, follow }) => client.stream_lines(&recent, follow, now),
            Ok(Reply::Logs(_)) if client.wants_head_only() => client.stream_lines(&[], false, now),
            Ok(Reply::Logs(query)) => self.pass_on(slot, query, host),
            Ok(Reply::Reload { deployed }) => {
                self.next_ticket += 1;
                let ticket = Ticket(self.next_ticket);
                self.tickets.insert(ticket, id);
                host.reload(ticket, deployed);
            }
            Ok(Reply::Upgrade) => {
                self.next_ticket += 1;
                let ticket = Ticket(self.next_ticket);
                self.tickets.insert(ticket, id);
                host.upgrade(ticket);
            }
            Ok(Reply::Metrics) => {
                self.next_ticket += 1;
                let ticket = Ticket(self.next_ticket);
                self.scrapes.insert(ticket, (id, now + COUNT_WITHIN));
                host.count_logs(ticket);
            }
            Ok(Reply::Shutdown) => self.mourners.push(id),
        }
    }

    fn handle_rpc(&mut self, client: Client, request: &Request, host: &mut dyn Host) {
        let refusal = if request.method != "POST" {
            Some((400, "XML-RPC is spoken with POST"))
        } else if request.header("content-length").is_none() {
            Some((411, "the length of the call is missing"))
        } else if request.header("origin").is_some() && !is_xml(request) {
            // A page of another site can send plain text, but not XML without being asked first.
            Some((415, "from a page of the web only text/xml is taken"))
        } else {
            None
        };
        if let Some((status, why)) = refusal {
            return self.answer_now(client, &refusal_page(status, why), host);
        }
        match Exchange::new(&request.body) {
            Err(why) => self.answer_now(client, &refusal_page(400, &format!("not an XML-RPC call: {why}")), host),
            Ok(exchange) => self.begin(client, exchange, host),
        }
    }

    /// Answers at once if that is possible.
    fn begin(&mut self, client: Client, mut exchange: Exchange, host: &mut dyn Host) {
        exchange.step(host, &mut self.next_ticket);
        match exchange.answer(host, &mut self.next_ticket) {
            Some(answer) => self.answer_now(client, &answer, host),
            None => drop(self.exchanges.insert(client, exchange)),
        }
    }

    fn handle_page(&mut self, client: Client, request: &Request, host: &mut dyn Host) {
        let Some(visitor) = self.client(client).map(|connection| connection.visitor) else { return };
        match page::ask(request, visitor, &self.token, host) {
            page::Reply::Answer(answer) => self.answer_now(client, &answer, host),
            page::Reply::Exchange(exchange) => self.begin(client, exchange, host),
        }
    }

    /// `/logtail/NAME`, `/logtail/NAME/stderr`, `/mainlogtail`.
    fn handle_tail(&mut self, client: Client, request: &Request, host: &mut dyn Host) {
        match logs::tail_of(request, host) {
            Err(answer) => self.answer_now(client, &answer, host),
            Ok(tail) => {
                let Some(socket) = self.take_client(client.slot) else { return };
                host.follow_log(socket, tail);
            }
        }
    }

    fn answer_now(&mut self, client: Client, answer: &Answer, host: &mut dyn Host) {
        let now = host.now();
        if let Some(connection) = self.client(client) {
            connection.answer(answer, now);
        }
    }

    /// The socket of a client that somebody else serves from now on.
    fn take_client(&mut self, slot: usize) -> Option<OwnedFd> {
        let mut client = self.clients.get_mut(slot).and_then(Option::take)?;
        // A forked child keeps the socket open, so closing ours would not end its registration.
        if let Some(registry) = &self.registry {
            let _ = registry.deregister(client.stream());
        }
        Some(client.into_fd())
    }

    fn pass_on(&mut self, slot: usize, query: LogQuery, host: &mut dyn Host) {
        if let Some(socket) = self.take_client(slot) {
            host.stream_logs(socket, query);
        }
    }

    fn tell(&mut self, finished: Vec<Finished>, host: &mut dyn Host) {
        for (client, outcomes) in finished {
            self.answer(client, &api::good(&outcomes), host);
        }
    }

    fn answer(&mut self, client: Client, answer: &Answer, host: &mut dyn Host) {
        let now = host.now();
        if let Some(connection) = self.client(client) {
            connection.answer(answer, now);
            self.serve(client.slot, host);
        }
    }

    fn client(&mut self, client: Client) -> Option<&mut Connection> {
        self.clients.get_mut(client.slot)?.as_mut().filter(|connection| connection.serial == client.serial)
    }

    fn drop_client(&mut self, slot: usize) {
        let Some(mut connection) = self.clients.get_mut(slot).and_then(Option::take) else { return };
        let client = Client { slot, serial: connection.serial };
        self.waiters.forget(client);
        self.throttle.forget(client);
        self.exchanges.remove(&client);
        self.tickets.retain(|_, waiting| *waiting != client);
        self.scrapes.retain(|_, (waiting, _)| *waiting != client);
        self.mourners.retain(|waiting| *waiting != client);
        self.again.remove(&slot);
        if let Some(registry) = &self.registry {
            let _ = registry.deregister(connection.stream());
        }
        connection.end();
        while self.clients.last().is_some_and(Option::is_none) {
            self.clients.pop();
        }
    }
}

/// For clients that expect the small page of supervisord's server.
fn refusal_page(status: u16, why: &str) -> Answer {
    let why = why.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let body = format!("<html><head><title>Error {status}</title></head><body><p>{why}</p></body></html>\n");
    Answer { status, content: "text/html", body: body.into_bytes(), headers: Vec::new() }
}

/// What XML-RPC clients say they send.
fn is_xml(request: &Request) -> bool {
    let content = request.header("content-type").unwrap_or_default();
    let kind = content.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("text/xml") || kind.eq_ignore_ascii_case("application/xml")
}

/// There is no descriptor or memory for one more client.
fn is_want(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM))
}

/// The socket is new and empty, so these few bytes fit.
fn turn_away(mut stream: Stream) {
    let answer = api::failure(503, "too many clients; try again".into());
    let _ = io::Write::write(&mut stream, &answer.encode(false, false));
}
