//! The planner: a forked child that reads the configuration, runs postinstall and hands over a plan.
//!
//! Everything about that can block, crash or eat memory (a home on a network disk, a hostile YAML file, a script),
//! so none of it happens in the daemon.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use serde::{Deserialize, Serialize};

use super::marks::{Marks, Owner};
use super::predecessor::{self, Predecessor};
use crate::plan::Plan;
use crate::sys;
use crate::sys::process::Pid;

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Every error, one a line when printed.
    pub errors: Vec<String>,
    /// What hob exits with if this was its first plan: 2 for a bad configuration, 1 for a script that failed, 111.
    pub status: i32,
}

/// Makes a plan, blocking. The second argument gets each step for people, the third the result; what need not be over
/// before the first start (a file that must reach the disk) can be done after it.
pub type MakePlan = dyn Fn(Wanted, &mut dyn FnMut(&str), &mut dyn FnMut(Result<Plan, Refusal>));

/// Which plan is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// It is not the first one.
    pub again: bool,
    /// That of what was deployed, whatever hob was booted with.
    pub deployed: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    Step(String),
    Done(Result<Plan, Refusal>),
}

pub struct Planner {
    pid: Pid,
    rx: PipeReader,
    text: Vec<u8>,
    pub step: String,
    result: Option<Result<Plan, Refusal>>,
}

impl Planner {
    pub fn start(
        make: &MakePlan,
        wanted: Wanted,
        marks: &Marks,
        predecessors: &[Predecessor],
        registry: &Registry,
        token: Token,
    ) -> io::Result<Planner> {
        let (rx, tx) = io::pipe()?;
        let daemon = sys::process::pid();
        let pid = sys::process::fork(|| {
            sys::process::set_name("hob plan");
            let _ = sys::process::new_session();
            // Whoever read what hob says may have left; a warning that nobody hears must not cost the plan.
            sys::process::ignore_signal(libc::SIGPIPE);
            marks.tag_self(Owner::Helper);
            sys::process::close_others(&[tx.as_raw_fd()]);
            // A daemon that is gone needs no plan.
            let send = |mut tx: &PipeWriter, message: &Message| {
                let mut line = serde_json::to_vec(message).unwrap_or_default();
                line.push(b'\n');
                let _ = tx.write_all(&line);
            };
            if !predecessors.is_empty() {
                send(&tx, &Message::Step("ending what a hob that was killed has left".to_owned()));
                for stat in predecessor::end_leftovers(predecessors, daemon) {
                    log::error!("cannot end {}, which a hob that was killed has left", predecessor::named(&stat));
                }
            }
            make(wanted, &mut |step| send(&tx, &Message::Step(step.to_owned())), &mut |result| {
                send(&tx, &Message::Done(result))
            });
            0
        })?;
        sys::fd::set_nonblocking(&rx)?;
        registry.register(&mut SourceFd(&rx.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Planner { pid, rx, text: Vec::new(), step: "reading the configuration".into(), result: None })
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Reads what there is; the result, once it is complete.
    pub fn ready(&mut self) -> Option<Result<Plan, Refusal>> {
        let mut block = [0; 16 << 10];
        let ended = loop {
            match self.rx.read(&mut block) {
                Ok(0) => break true,
                Ok(length) if self.text.len() + length <= PLAN_MAX => self.text.extend_from_slice(&block[..length]),
                Ok(_) => return Some(Err(refusal("the plan is larger than 64 MiB"))),
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => break false,
                Err(why) => return Some(Err(refusal(&format!("cannot read the plan: {why}")))),
            }
        };
        while let Some(end) = self.text.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = self.text.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(Message::Step(step)) => self.step = step,
                Ok(Message::Done(result)) => self.result = Some(result),
                Err(why) => return Some(Err(refusal(&format!("cannot read the plan: {why}")))),
            }
        }
        match self.result.take() {
            None if ended => Some(Err(refusal("the planner ended without a plan"))),
            result => result,
        }
    }

    pub fn close(self, registry: &Registry) {
        let _ = registry.deregister(&mut SourceFd(&self.rx.as_raw_fd()));
    }
}

fn refusal(why: &str) -> Refusal {
    Refusal { errors: vec![why.to_owned()], status: 111 }
}

/// A plan of 1,000 processes has about 2 MB.
const PLAN_MAX: usize = 64 << 20;
