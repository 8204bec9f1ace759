//! Event listeners: which events wait for whom, and what a listener's answers mean (reference/supervisord.md §5.2).
//!
//! Pure, like the rest of the supervisor. A pool is a queue that the processes of one `[eventlistener:x]` share; each of
//! them gets one event at a time, once it is RUNNING and has said `READY`. An event whose listener rejects it or dies
//! with it goes back to the head of the queue of its own pool, and of no other. One that is rejected again and again
//! comes more slowly, and not for ever.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use super::event::{ProcessId, Time};
use crate::plan::{Group, Pool as Subscription};

#[derive(Debug, Default)]
pub struct Listeners {
    next_serial: u64,
    pools: Vec<Pool>,
    deeds: VecDeque<Deed>,
}

/// Something to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// To the stdin of a listener.
    Send(ProcessId, Vec<u8>),
    Warn(String),
    Error(String),
}

#[derive(Debug)]
struct Pool {
    name: String,
    subscription: Subscription,
    next_serial: u64,
    queue: VecDeque<Message>,
    members: Vec<Member>,
    /// Nothing is sent before, after too many rejections.
    hold_until: Option<Time>,
}

#[derive(Clone, Debug)]
struct Message {
    serial: u64,
    pool_serial: u64,
    kind: &'static str,
    payload: Rc<str>,
    rejections: u32,
}

#[derive(Debug)]
struct Member {
    id: ProcessId,
    name: String,
    is_running: bool,
    dialogue: Dialogue,
    /// Bytes that are no whole answer yet.
    heard: Vec<u8>,
}

#[derive(Debug)]
enum Dialogue {
    /// It has to say `READY` before anything else.
    Acknowledged,
    Ready,
    Busy(Message),
    /// It broke the protocol: nothing more is said to it in this life.
    Unknown,
}

impl Listeners {
    /// The pools there are now; what waits in those that stay goes on waiting.
    pub fn set_pools(&mut self, groups: &[Group]) {
        let mut before = std::mem::take(&mut self.pools);
        for group in groups {
            let Some(subscription) = group.pool.clone() else { continue };
            let pool = match before.iter().position(|pool| pool.name == group.name) {
                Some(at) => Pool { subscription, ..before.swap_remove(at) },
                None => Pool {
                    name: group.name.clone(),
                    subscription,
                    next_serial: 0,
                    queue: VecDeque::new(),
                    members: Vec::new(),
                    hold_until: None,
                },
            };
            self.pools.push(pool);
        }
    }

    /// Whether anybody wants events of this kind: what nobody wants need not be made.
    pub fn wants(&self, kind: &str) -> bool {
        self.pools.iter().any(|pool| pool.wants(kind))
    }

    /// An event happened.
    pub fn notify(&mut self, now: Time, server: &str, kind: &'static str, payload: &str) {
        let payload: Rc<str> = payload.into();
        let mut serial = None;
        for pool in self.pools.iter_mut().filter(|pool| pool.wants(kind)) {
            let serial = *serial.get_or_insert_with(|| {
                self.next_serial += 1;
                self.next_serial - 1
            });
            let message =
                Message { serial, pool_serial: pool.next_serial, kind, payload: Rc::clone(&payload), rejections: 0 };
            pool.next_serial += 1;
            pool.make_room(&mut self.deeds);
            pool.queue.push_back(message);
            pool.dispatch(now, server, &mut self.deeds);
        }
    }

    /// A child of a pool was made.
    pub fn begins(&mut self, pool: &str, id: ProcessId, name: &str) {
        self.ends(id);
        if let Some(pool) = self.pools.iter_mut().find(|p| p.name == pool) {
            let name = name.to_owned();
            let member = Member { id, name, is_running: false, dialogue: Dialogue::Acknowledged, heard: Vec::new() };
            pool.members.push(member);
        }
    }

    pub fn runs(&mut self, now: Time, server: &str, id: ProcessId) {
        for pool in &mut self.pools {
            if let Some(member) = pool.members.iter_mut().find(|member| member.id == id) {
                member.is_running = true;
                pool.dispatch(now, server, &mut self.deeds);
            }
        }
    }

    /// It stops or has ended: an event it was busy with is somebody else's now.
    pub fn ends(&mut self, id: ProcessId) {
        for pool in &mut self.pools {
            if let Some(at) = pool.members.iter().position(|member| member.id == id)
                && let Dialogue::Busy(message) = pool.members.swap_remove(at).dialogue
            {
                pool.make_room(&mut self.deeds);
                pool.queue.push_front(message);
            }
        }
    }

    /// After `ends`, when the others may have the event.
    pub fn dispatch(&mut self, now: Time, server: &str) {
        for pool in &mut self.pools {
            pool.dispatch(now, server, &mut self.deeds);
        }
    }

    /// A listener said something.
    pub fn heard(&mut self, now: Time, server: &str, id: ProcessId, bytes: &[u8]) {
        for pool in &mut self.pools {
            if let Some(at) = pool.members.iter().position(|member| member.id == id) {
                pool.members[at].heard.extend_from_slice(bytes);
                while pool.understand(at, now, &mut self.deeds) {}
                pool.dispatch(now, server, &mut self.deeds);
            }
        }
    }

    pub fn next_deadline(&self) -> Option<Time> {
        self.pools.iter().filter_map(|pool| pool.hold_until).min()
    }

    pub fn handle_timeout(&mut self, now: Time, server: &str) {
        for pool in &mut self.pools {
            if pool.hold_until.is_some_and(|until| until <= now) {
                pool.hold_until = None;
                pool.dispatch(now, server, &mut self.deeds);
            }
        }
    }

    pub fn poll_deed(&mut self) -> Option<Deed> {
        self.deeds.pop_front()
    }
}

impl Pool {
    fn wants(&self, kind: &str) -> bool {
        self.subscription.events.iter().any(|event| is_below(kind, event))
    }

    /// So that one more fits.
    fn make_room(&mut self, deeds: &mut VecDeque<Deed>) {
        while self.queue.len() >= self.subscription.buffer_size
            && let Some(lost) = self.queue.pop_front()
        {
            let why = format!("pool {} event buffer overflowed, discarding event {}", self.name, lost.serial);
            deeds.push_back(Deed::Error(why));
        }
    }

    /// Gives waiting events to whoever can take one.
    fn dispatch(&mut self, now: Time, server: &str, deeds: &mut VecDeque<Deed>) {
        if self.hold_until.is_some_and(|until| until > now) {
            return;
        }
        while let Some(member) =
            self.members.iter_mut().find(|member| member.is_running && matches!(member.dialogue, Dialogue::Ready))
            && let Some(message) = self.queue.pop_front()
        {
            let Message { serial, pool_serial, kind, payload, .. } = &message;
            let text = format!(
                "ver:3.0 server:{server} serial:{serial} pool:{} poolserial:{pool_serial} eventname:{kind} len:{}\n{payload}",
                self.name,
                if self.subscription.counts_characters { payload.chars().count() } else { payload.len() }
            );
            deeds.push_back(Deed::Send(member.id, text.into_bytes()));
            member.dialogue = Dialogue::Busy(message);
        }
    }

    /// Takes one whole answer from what a member has said. False if there is none.
    fn understand(&mut self, at: usize, now: Time, deeds: &mut VecDeque<Deed>) -> bool {
        let member = &mut self.members[at];
        match &mut member.dialogue {
            Dialogue::Unknown => {
                member.heard.clear();
                false
            }
            Dialogue::Acknowledged if member.heard.len() < READY.len() => false,
            Dialogue::Acknowledged if member.heard.starts_with(READY) => {
                member.heard.drain(..READY.len());
                member.dialogue = Dialogue::Ready;
                true
            }
            Dialogue::Ready if member.heard.is_empty() => false,
            Dialogue::Acknowledged | Dialogue::Ready => {
                member.give_up(deeds);
                false
            }
            Dialogue::Busy(_) => {
                let Some(end) = member.heard.iter().position(|&b| b == b'\n') else {
                    if member.heard.len() > HEADER_MAX {
                        self.break_off(at, deeds);
                    }
                    return false;
                };
                let number = member.heard.get(7..end).and_then(|text| std::str::from_utf8(text).ok());
                let length = number.and_then(|text| text.trim().parse::<usize>().ok()).filter(|n| *n <= RESULT_MAX);
                let Some(length) = length else {
                    let line = String::from_utf8_lossy(&member.heard[..end.min(80)]).into_owned();
                    deeds.push_back(Deed::Warn(format!("{}: bad result line: '{line}'", member.name)));
                    self.break_off(at, deeds);
                    return false;
                };
                if member.heard.len() < end + 1 + length {
                    return false;
                }
                let is_ok = &member.heard[end + 1..end + 1 + length] == b"OK";
                member.heard.drain(..end + 1 + length);
                let name = member.name.clone();
                if let Dialogue::Busy(message) = std::mem::replace(&mut member.dialogue, Dialogue::Acknowledged)
                    && !is_ok
                {
                    deeds.push_back(Deed::Warn(format!("{name}: event was rejected")));
                    self.rejected(message, now, deeds);
                }
                true
            }
        }
    }

    /// Its answer made no sense: another one gets the event.
    fn break_off(&mut self, at: usize, deeds: &mut VecDeque<Deed>) {
        let member = &mut self.members[at];
        let before = std::mem::replace(&mut member.dialogue, Dialogue::Unknown);
        member.give_up(deeds);
        if let Dialogue::Busy(message) = before {
            self.make_room(deeds);
            self.queue.push_front(message);
        }
    }

    fn rejected(&mut self, mut message: Message, now: Time, deeds: &mut VecDeque<Deed>) {
        message.rejections += 1;
        if message.rejections >= GIVE_UP_AFTER {
            let why = format!("pool {} has rejected event {} {GIVE_UP_AFTER} times", self.name, message.serial);
            deeds.push_back(Deed::Error(format!("{why}, discarding it")));
            return;
        }
        if message.rejections >= SLOW_AFTER {
            self.hold_until = Some(now + SLOWLY);
        }
        self.make_room(deeds);
        self.queue.push_front(message);
    }
}

impl Member {
    fn give_up(&mut self, deeds: &mut VecDeque<Deed>) {
        self.dialogue = Dialogue::Unknown;
        self.heard.clear();
        deeds.push_back(Deed::Warn(format!(
            "{}: has entered the UNKNOWN state and will no longer receive events, this usually indicates the process \
             violated the eventlistener protocol",
            self.name
        )));
    }
}

/// Whether a kind of event is a general one or stands below it.
fn is_below(kind: &str, general: &str) -> bool {
    general == "EVENT" || kind.strip_prefix(general).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

const READY: &[u8] = b"READY\n";
/// A result line that is longer is none.
const HEADER_MAX: usize = 1024;
const RESULT_MAX: usize = 1 << 20;
/// Rejections of one event after which it comes only once in `SLOWLY`, and after which it is dropped.
const SLOW_AFTER: u32 = 5;
const SLOWLY: Duration = Duration::from_secs(1);
const GIVE_UP_AFTER: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(Duration::ZERO);
    const ID: ProcessId = ProcessId(7);

    fn listeners(events: &[&str], buffer_size: usize) -> Listeners {
        let events = events.iter().map(|e| (*e).to_owned()).collect();
        let pool = Some(Subscription { events, buffer_size, counts_characters: false });
        let mut listeners = Listeners::default();
        listeners.set_pools(&[Group { name: "ev".into(), priority: -1, pool }]);
        listeners
    }

    fn ready(listeners: &mut Listeners, id: ProcessId) {
        listeners.begins("ev", id, "ev");
        listeners.runs(NOW, "s", id);
        listeners.heard(NOW, "s", id, b"READY\n");
    }

    /// What was done since, sends as their text.
    fn done(listeners: &mut Listeners) -> Vec<String> {
        std::iter::from_fn(|| listeners.poll_deed())
            .map(|deed| match deed {
                Deed::Send(id, text) => format!("{}> {}", id.0, String::from_utf8_lossy(&text)),
                Deed::Warn(text) => format!("warn {text}"),
                Deed::Error(text) => format!("error {text}"),
            })
            .collect()
    }

    #[test]
    fn an_event_goes_to_a_listener_that_runs_and_is_ready_one_at_a_time() {
        let mut l = listeners(&["PROCESS_STATE", "TICK_5"], 10);
        l.notify(NOW, "s", "TICK_5", "when:5");
        l.notify(NOW, "s", "TICK_60", "when:60");
        l.begins("ev", ID, "ev");
        l.heard(NOW, "s", ID, b"REA");
        l.heard(NOW, "s", ID, b"DY\n");
        assert_eq!(done(&mut l), [""; 0]);
        l.runs(NOW, "s", ID);
        l.notify(NOW, "s", "PROCESS_STATE_EXITED", "é");
        let first = "7> ver:3.0 server:s serial:0 pool:ev poolserial:0 eventname:TICK_5 len:6\nwhen:5";
        assert_eq!(done(&mut l), [first]);
        l.heard(NOW, "s", ID, b"RESULT 2\nOKREADY\n");
        let second = "7> ver:3.0 server:s serial:1 pool:ev poolserial:1 eventname:PROCESS_STATE_EXITED len:2\né";
        assert_eq!(done(&mut l), [second]);
    }

    #[test]
    fn a_rejected_event_comes_again_first_at_once_then_slowly_and_then_no_more() {
        let mut l = listeners(&["EVENT"], 10);
        l.notify(NOW, "s", "TICK_5", "");
        ready(&mut l, ID);
        let mut now = NOW;
        let (mut sends, mut waits) = (0, 0);
        for _ in 0..GIVE_UP_AFTER {
            sends += done(&mut l).iter().filter(|d| d.starts_with("7> ")).count();
            l.heard(now, "s", ID, b"RESULT 4\nFAILREADY\n");
            if let Some(at) = l.next_deadline() {
                (now, waits) = (at, waits + 1);
                l.handle_timeout(now, "s");
            }
        }
        assert_eq!((sends, waits), (GIVE_UP_AFTER as usize, (GIVE_UP_AFTER - SLOW_AFTER) as usize));
        assert!(done(&mut l).last().unwrap().ends_with("times, discarding it"));
        l.notify(now, "s", "TICK_5", "");
        assert_eq!(done(&mut l).len(), 1);
    }

    #[test]
    fn an_event_whose_listener_died_goes_to_the_next_one_with_the_same_numbers() {
        let mut l = listeners(&["EVENT"], 10);
        ready(&mut l, ID);
        l.notify(NOW, "s", "TICK_5", "a");
        l.notify(NOW, "s", "TICK_5", "b");
        let sent = done(&mut l);
        l.ends(ID);
        ready(&mut l, ProcessId(8));
        assert_eq!(done(&mut l), [sent[0].replace("7> ", "8> ")]);
    }

    #[test]
    fn a_full_queue_drops_its_oldest_and_says_so() {
        let mut l = listeners(&["EVENT"], 3);
        for text in ["0", "1", "2", "3", "4"] {
            l.notify(NOW, "s", "TICK_5", text);
        }
        let lost = |n| format!("error pool ev event buffer overflowed, discarding event {n}");
        assert_eq!(done(&mut l), [lost(0), lost(1)]);
        ready(&mut l, ID);
        assert!(done(&mut l)[0].ends_with("\n2"));
    }

    #[test]
    fn whoever_breaks_the_protocol_hears_nothing_more() {
        for bad in [&b"HELLO\n\n"[..], b"READY\nx", b"READY\nRESULT 2\nOK"] {
            let mut l = listeners(&["EVENT"], 10);
            l.begins("ev", ID, "ev");
            l.runs(NOW, "s", ID);
            l.heard(NOW, "s", ID, bad);
            assert!(done(&mut l)[0].starts_with("warn ev: has entered the UNKNOWN state"), "{bad:?}");
            l.notify(NOW, "s", "TICK_5", "");
            assert_eq!(done(&mut l), [""; 0]);
        }
        let mut l = listeners(&["EVENT"], 10);
        ready(&mut l, ID);
        l.notify(NOW, "s", "TICK_5", "");
        done(&mut l);
        l.heard(NOW, "s", ID, b"RESULT many\n");
        assert_eq!(done(&mut l)[0], "warn ev: bad result line: 'RESULT many'");
        l.heard(NOW, "s", ID, &vec![b'x'; 1 << 20]);
        assert_eq!(done(&mut l), [""; 0]);
        ready(&mut l, ProcessId(8));
        assert_eq!(done(&mut l).len(), 1, "the event is somebody else's now");
    }

    #[test]
    fn a_general_event_means_all_below_it_and_no_other() {
        assert!(is_below("PROCESS_STATE_EXITED", "PROCESS_STATE") && is_below("TICK_5", "EVENT"));
        assert!(is_below("TICK_5", "TICK_5") && !is_below("TICK_5", "TICK_60") && !is_below("TICK_60", "TICK_6"));
        assert!(!is_below("PROCESS_LOG_STDOUT", "PROCESS_STATE"));
    }
}
