//! What a deployment asks the daemon, over its socket like any client.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::prepare::Refused;
use crate::sys::clock::since_boot;
use crate::wire::{Done, Info, Outcome, Process};

/// One request and its answer: method, path, body; otherwise the message and the exit status for it.
pub type Ask = dyn Fn(&str, &str, &[u8]) -> Result<Value, (String, i32)>;

pub struct Link {
    ask: Box<Ask>,
}

/// No answer of the daemon.
pub const UNREACHABLE: i32 = 4;

impl Link {
    pub fn new(ask: Box<Ask>) -> Link {
        Link { ask }
    }

    pub fn info(&self) -> Result<Info, Refused> {
        self.send("GET", "/v1/info", &Value::Null)
    }

    /// Lets the daemon read what is to run now. `deployed` says whether that is what was deployed, or the home it was
    /// booted with.
    pub fn reload(&self, deployed: bool) -> Result<(), Refused> {
        self.patiently(|| self.send::<Done>("POST", "/v1/reload", &json!({ "deployed": deployed }))).map(|_| ())
    }

    /// Stops the processes of an instance and waits until nothing of them is left. One that is not there is stopped.
    pub fn stop(&self, group: &str) -> Result<(), Refused> {
        let body = json!({ "names": [format!("{group}:*")], "wait": true });
        match self.patiently(|| self.send::<Vec<Outcome>>("POST", "/v1/stop", &body)) {
            Ok(outcomes) => match outcomes.iter().find(|outcome| !outcome.ok) {
                Some(bad) => Err(Refused::one(1, format!("{}: cannot be stopped: {}", bad.name, bad.message))),
                None => Ok(()),
            },
            Err(refused) if refused.status == 1 => Ok(()),
            Err(refused) => Err(refused),
        }
    }

    /// Starts processes, without waiting.
    pub fn start(&self, names: &[String]) -> Result<(), Refused> {
        if names.is_empty() {
            return Ok(());
        }
        let body = json!({ "names": names, "wait": false });
        self.patiently(|| self.send::<Vec<Outcome>>("POST", "/v1/start", &body)).map(|_| ())
    }

    pub fn processes(&self, group: &str) -> Result<Vec<Process>, Refused> {
        self.patiently(|| self.send("GET", &format!("/v1/processes?name={group}%3A%2A"), &Value::Null))
    }

    fn send<T: serde::de::DeserializeOwned>(&self, method: &str, path: &str, body: &Value) -> Result<T, Refused> {
        let text = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let answer = (self.ask)(method, path, &text)
            .map_err(|(message, status)| Refused { errors: message.lines().map(str::to_owned).collect(), status })?;
        serde_json::from_value(answer).map_err(|why| Refused::one(111, format!("cannot read hob's answer: {why}")))
    }

    /// A daemon that has died is usually there again soon (systemd, a container's restart), and goes on where it was.
    fn patiently<T>(&self, ask: impl Fn() -> Result<T, Refused>) -> Result<T, Refused> {
        let until = since_boot() + BACK_WITHIN;
        loop {
            match ask() {
                // 111 is an answer that broke off.
                Err(refused) if matches!(refused.status, UNREACHABLE | 111) && since_boot() < until => {
                    thread::sleep(Duration::from_millis(100));
                }
                other => return other,
            }
        }
    }
}

const BACK_WITHIN: Duration = Duration::from_secs(10);
