//! One XML-RPC request from its first call to its answer: calls of a multicall run one after the other, and each may
//! have to wait for processes or for something that the daemon does meanwhile.

use std::collections::VecDeque;
use std::time::Duration;

use super::http::Answer;
use super::logs::Fetched;
use super::page::{self, Deed};
use super::rpc::{self, Asked, faulted, result};
use super::{Done, Host, Ticket};
use crate::plan::Name;
use crate::supervisor::Process;
use crate::supervisor::event::{Phase, ProcessId, Run, Time};
use crate::xmlrpc::{self, Call, Fault, Value};

/// What a method has come to.
pub enum Outcome {
    Done(Result<Value, Fault>),
    Wait(Waiting),
}

/// What a method waits for.
pub enum Waiting {
    Items {
        items: Vec<Item>,
        shape: Shape,
        /// The results so far, in order of completion.
        done: Vec<Value>,
    },
    Ticket(Ticket),
    Fetch {
        ticket: Ticket,
        is_tail: bool,
    },
    Cleared {
        ticket: Ticket,
        names: Vec<Name>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// True, or the fault.
    One,
    /// An array with a struct for each.
    Many,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Start,
    Stop,
}

/// A process that somebody waits for.
pub struct Item {
    id: ProcessId,
    name: Name,
    shown: String,
    wish: Wish,
    /// The life before the wish; what happens in it is not its outcome.
    old: Option<Run>,
    /// The first life after it.
    begun: Option<Run>,
}

impl Item {
    pub fn new(id: ProcessId, name: Name, shown: String, wish: Wish, old: Option<Run>) -> Item {
        Item { id, name, shown, wish, old, begun: None }
    }

    /// How it went, once that is known.
    fn look(&mut self, host: &dyn Host) -> Option<Result<(), Fault>> {
        let Some(process) = host.supervisor().process(self.id) else {
            return Some(match self.wish {
                Wish::Stop => Ok(()),
                Wish::Start => Err(faulted(rpc::fault::BAD_NAME, &self.shown)),
            });
        };
        match self.wish {
            Wish::Stop => match process.phase() {
                Phase::Stopped | Phase::Exited | Phase::Fatal => Some(Ok(())),
                Phase::Starting | Phase::Running | Phase::Backoff | Phase::Stopping => None,
            },
            Wish::Start => self.look_at_start(process),
        }
    }

    fn look_at_start(&mut self, process: &Process) -> Option<Result<(), Fault>> {
        let spawn_error = || Some(Err(faulted(rpc::fault::SPAWN_ERROR, &self.shown)));
        if let Some(run) = process.run().filter(|run| Some(*run) != self.old) {
            match self.begun {
                None => self.begun = Some(run),
                // The first try is over, and went wrong.
                Some(begun) if begun != run => return spawn_error(),
                Some(_) => {}
            }
        }
        match process.phase() {
            Phase::Running if self.begun.is_some() => Some(Ok(())),
            Phase::Running | Phase::Starting => None,
            Phase::Backoff | Phase::Fatal if self.begun.is_some() || !process.wants_up() => spawn_error(),
            // Its stop comes first, or it waits for others.
            _ if self.begun.is_none() && process.wants_up() => None,
            Phase::Backoff | Phase::Fatal => spawn_error(),
            // A oneshot that has done its work.
            Phase::Exited if process.is_ready() => Some(Ok(())),
            Phase::Exited | Phase::Stopped | Phase::Stopping => {
                Some(Err(faulted(rpc::fault::ABNORMAL_TERMINATION, &self.shown)))
            }
        }
    }
}

/// One request.
pub struct Exchange {
    calls: VecDeque<Result<Call, Fault>>,
    /// For a page; otherwise it is answered in XML.
    deed: Option<Deed>,
    is_multicall: bool,
    results: Vec<Result<Value, Fault>>,
    waiting: Option<Waiting>,
    answer: Option<Result<Value, Fault>>,
    /// A method was called that does something.
    has_acted: bool,
    sync: Sync,
}

/// Whoever reads the log after an answer finds there what the answer is about.
enum Sync {
    NotAsked,
    Asked { ticket: Ticket, until: Time },
    Over,
}

impl Exchange {
    /// The error says why a body is no call.
    pub fn new(body: &[u8]) -> Result<Exchange, String> {
        let call = xmlrpc::decode_call(body).map_err(|why| why.to_string())?;
        let mut exchange = Exchange { is_multicall: call.method == "system.multicall", ..Exchange::empty() };
        if !exchange.is_multicall {
            exchange.calls.push_back(Ok(call));
            return Ok(exchange);
        }
        match call.params.as_slice() {
            [Value::Array(calls)] => exchange.calls.extend(calls.iter().map(one_of_many)),
            _ => exchange.answer = Some(Err(faulted(rpc::fault::INCORRECT_PARAMETERS, ""))),
        }
        Ok(exchange)
    }

    /// What a page has asked for, as calls one after the other.
    pub fn of_page(calls: Vec<Call>, deed: Deed) -> Exchange {
        Exchange { calls: calls.into_iter().map(Ok).collect(), deed: Some(deed), ..Exchange::empty() }
    }

    fn empty() -> Exchange {
        Exchange {
            calls: VecDeque::new(),
            deed: None,
            is_multicall: false,
            results: Vec::new(),
            waiting: None,
            answer: None,
            has_acted: false,
            sync: Sync::NotAsked,
        }
    }

    /// Goes on as far as it can. `next_ticket` numbers what the daemon is asked to do meanwhile.
    pub fn step(&mut self, host: &mut dyn Host, next_ticket: &mut u64) {
        while self.answer.is_none() {
            if self.waiting.is_some() {
                match self.look(host) {
                    Some(outcome) => self.take(outcome),
                    None => return,
                }
                continue;
            }
            let Some(call) = self.calls.pop_front() else {
                self.answer = Some(Ok(Value::Array(Vec::new())));
                return;
            };
            let outcome = match call {
                Err(wrong) => Outcome::Done(Err(wrong)),
                Ok(call) => {
                    *next_ticket += 1;
                    self.has_acted |= !LOOKS_ONLY.iter().any(|prefix| call.method.starts_with(prefix));
                    let mut asked = Asked { host: &mut *host, params: &call.params, ticket: Ticket(*next_ticket) };
                    rpc::call(&mut asked, &call.method, self.deed.is_some())
                }
            };
            match outcome {
                Outcome::Done(outcome) => self.take(outcome),
                Outcome::Wait(waiting) => self.waiting = Some(waiting),
            }
        }
    }

    /// What was asked for with a ticket has been done. False if it was not ours.
    pub fn ticket_done(&mut self, ticket: Ticket, done: &Done) -> bool {
        if let (Sync::Asked { ticket: own, .. }, Done::Synced) = (&self.sync, done)
            && *own == ticket
        {
            self.sync = Sync::Over;
            return true;
        }
        let outcome = match (&self.waiting, done) {
            (Some(Waiting::Ticket(own)), done) if *own == ticket => simple(done),
            (Some(Waiting::Fetch { ticket: own, is_tail }), Done::Fetched(fetched)) if *own == ticket => {
                fetched_value(fetched, *is_tail)
            }
            (Some(Waiting::Cleared { ticket: own, names }), Done::Cleared(error)) if *own == ticket => {
                let outcome = match error {
                    None => Ok(()),
                    Some(why) => Err(faulted(rpc::fault::FAILED, why)),
                };
                Ok(Value::Array(names.iter().map(|name| result(name, &outcome)).collect()))
            }
            _ => return false,
        };
        self.take(outcome);
        true
    }

    /// Whether something that happens to a process may matter.
    pub fn waits_for_processes(&self) -> bool {
        matches!(self.waiting, Some(Waiting::Items { .. }))
    }

    /// When the log is no longer waited for.
    pub fn deadline(&self) -> Option<Time> {
        match self.sync {
            Sync::Asked { until, .. } => Some(until),
            Sync::NotAsked | Sync::Over => None,
        }
    }

    /// The whole answer, once it is known and the log has what led to it.
    pub fn answer(&mut self, host: &mut dyn Host, next_ticket: &mut u64) -> Option<Answer> {
        self.answer.as_ref()?;
        match self.sync {
            Sync::NotAsked => {
                *next_ticket += 1;
                if host.sync_log(Ticket(*next_ticket), self.has_acted) {
                    self.sync = Sync::Asked { ticket: Ticket(*next_ticket), until: host.now() + SYNC_WITHIN };
                    return None;
                }
            }
            Sync::Asked { until, .. } if until > host.now() => return None,
            Sync::Asked { .. } | Sync::Over => {}
        }
        let reply = self.answer.take()?;
        let results = std::mem::take(&mut self.results);
        if let Some(deed) = &self.deed {
            return Some(page::done(deed, &results));
        }
        let reply = reply
            .map(|value| if self.is_multicall { Value::Array(results.into_iter().map(bare).collect()) } else { value });
        let body = xmlrpc::encode_reply(&reply).into_bytes();
        Some(Answer { status: 200, content: "text/xml", body, headers: Vec::new() })
    }

    fn look(&mut self, host: &dyn Host) -> Option<Result<Value, Fault>> {
        let Some(Waiting::Items { items, shape, done }) = &mut self.waiting else { return None };
        let mut one = None;
        items.retain_mut(|item| match item.look(host) {
            None => true,
            Some(outcome) => {
                done.push(result(&item.name, &outcome));
                one = Some(outcome);
                false
            }
        });
        match shape {
            Shape::One => one.map(|outcome| outcome.map(|()| true.into())),
            Shape::Many if items.is_empty() => Some(Ok(Value::Array(std::mem::take(done)))),
            Shape::Many => None,
        }
    }

    fn take(&mut self, outcome: Result<Value, Fault>) {
        self.waiting = None;
        match self.deed.is_some() || self.is_multicall {
            true => self.results.push(outcome),
            false => self.answer = Some(outcome),
        }
    }
}

/// Not in an array of one as other servers do it: clients were written against this one.
fn bare(result: Result<Value, Fault>) -> Value {
    result.unwrap_or_else(|fault| {
        let code = Value::Int(fault.code.into());
        Value::Struct(vec![("faultCode".into(), code), ("faultString".into(), fault.text.into())])
    })
}

/// Methods that change nothing.
const LOOKS_ONLY: &[&str] = &["system.", "supervisor.get", "supervisor.read", "supervisor.tail"];
/// A log that cannot be written holds nobody up for longer.
const SYNC_WITHIN: Duration = Duration::from_millis(50);

fn one_of_many(call: &Value) -> Result<Call, Fault> {
    let bad = |detail| faulted(rpc::fault::INCORRECT_PARAMETERS, detail);
    let method = call.get("methodName").and_then(Value::as_str).ok_or_else(|| bad("No methodName"))?;
    if method == "system.multicall" {
        return Err(bad("Recursive system.multicall forbidden"));
    }
    let params = match call.get("params") {
        None => Vec::new(),
        Some(params) => params.as_array().ok_or_else(|| bad(""))?.to_vec(),
    };
    Ok(Call { method: method.to_owned(), params })
}

fn simple(done: &Done) -> Result<Value, Fault> {
    match done {
        Done::Reread(Ok(groups)) => {
            let names = |group: &Vec<String>| Value::Array(group.iter().map(|name| name.as_str().into()).collect());
            Ok(Value::Array(vec![Value::Array(groups.iter().map(names).collect())]))
        }
        Done::Reread(Err(why)) | Done::Restart(Err(why)) => Err(faulted(rpc::fault::CANT_REREAD, why)),
        Done::Restart(Ok(())) => Ok(true.into()),
        Done::Cleared(None) => Ok(true.into()),
        Done::Cleared(Some(why)) => Err(faulted(rpc::fault::FAILED, why)),
        Done::Fetched(_) | Done::Counted(_) | Done::Synced => Err(faulted(rpc::fault::FAILED, "")),
    }
}

fn fetched_value(fetched: &Fetched, is_tail: bool) -> Result<Value, Fault> {
    if is_tail {
        let size = i64::try_from(fetched.size).unwrap_or(i64::MAX);
        return Ok(Value::Array(vec![fetched.text.as_str().into(), size.into(), fetched.overflow.into()]));
    }
    match &fetched.error {
        None => Ok(fetched.text.as_str().into()),
        Some(path) if fetched.is_missing => Err(faulted(rpc::fault::NO_FILE, path)),
        Some(why) => Err(faulted(rpc::fault::FAILED, why)),
    }
}
