//! The life of one readiness or health probe: ask, wait for the answer, ask again.
//!
//! A question is asked in a process of its own, so it is a run like any other; its exit code is the answer. The probe
//! keeps its own timeout. Should it not, it is killed here, again and again: a probe that hangs is an answer too.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Common;
use super::event::{Action, Exit, Job, Run, Time};

/// A question that is asked until somebody is content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inquiry {
    step: Step,
    /// Bad answers in a row.
    failures: u32,
    /// The last bad answer, in words; empty before the first.
    note: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Step {
    Idle { ask_at: Time },
    Asked { run: Run, overdue_at: Time, said: Option<String> },
}

impl Inquiry {
    pub fn new(ask_at: Time) -> Inquiry {
        Inquiry { step: Step::Idle { ask_at }, failures: 0, note: String::new() }
    }

    pub fn deadline(&self) -> Time {
        match self.step {
            Step::Idle { ask_at } => ask_at,
            Step::Asked { overdue_at, .. } => overdue_at,
        }
    }

    /// Its deadline has come: asks, or ends a probe that should have ended itself.
    pub(super) fn due(&mut self, job: Job, timeout: Duration, common: &mut Common) {
        match &mut self.step {
            Step::Idle { .. } => {
                let run = common.new_run(job);
                common.act(Action::Spawn(run));
                self.step = Step::Asked { run, overdue_at: common.now + timeout + MERCY, said: None };
            }
            Step::Asked { run, overdue_at, said } => {
                common.act(Action::Signal(*run, super::SIGKILL));
                *overdue_at = common.now + MERCY;
                *said = Some("no answer in time".to_owned());
            }
        }
    }

    /// The probe that has been asked.
    pub fn run(&self) -> Option<Run> {
        match self.step {
            Step::Idle { .. } => None,
            Step::Asked { run, .. } => Some(run),
        }
    }

    /// What the probe of that run tells people. Whether it was ours.
    pub fn said(&mut self, from: Run, note: &str) -> bool {
        match &mut self.step {
            Step::Asked { run, said, .. } if *run == from => {
                *said = Some(note.chars().take(NOTE_MAX).collect());
                true
            }
            _ => false,
        }
    }

    /// A probe has ended: what it means, or `None` if it was not ours. The next question comes after `pause`, which
    /// gets the number of bad answers so far.
    pub fn answered(&mut self, by: Run, exit: &Exit, now: Time, pause: impl Fn(u32) -> Duration) -> Option<bool> {
        let Step::Asked { run, said, .. } = &mut self.step else { return None };
        if *run != by {
            return None;
        }
        let good = *exit == Exit::Code(0);
        if good {
            self.failures = 0;
        } else {
            self.failures = self.failures.saturating_add(1);
            self.note = said.take().unwrap_or_else(|| format!("the probe {exit}"));
        }
        self.step = Step::Idle { ask_at: now + pause(self.failures) };
        Some(good)
    }

    /// Nobody wants to know any more.
    pub(super) fn cancel(&self, common: &mut Common) {
        if let Step::Asked { run, .. } = self.step {
            common.act(Action::Signal(run, super::SIGKILL));
        }
    }

    pub fn failures(&self) -> u32 {
        self.failures
    }

    pub fn note(&self) -> &str {
        if self.note.is_empty() { "no answer yet" } else { &self.note }
    }
}

/// Between two readiness probes: often at first, for most are ready soon.
pub fn ready_pause(failures: u32) -> Duration {
    let mut pause = Duration::from_millis(250);
    for _ in 1..failures.min(5) {
        pause = pause * 3 / 2;
    }
    pause.min(Duration::from_secs(1))
}

/// Between two health probes; not so short that asking is all the machine does.
pub fn health_pause(every: Duration) -> Duration {
    every.max(Duration::from_millis(100))
}

/// How long a probe may exceed its own timeout, and how often it is killed then.
const MERCY: Duration = Duration::from_secs(1);
/// Characters of a note that are kept.
const NOTE_MAX: usize = 200;
