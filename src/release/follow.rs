//! Shows a deployment to a person, from the file that it writes: as it goes, or afterwards. Who stops watching does not
//! stop it.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::prepare::Refused;
use super::report::{Event, read};
use super::script::describe;
use super::store::cannot;
use crate::sys::process::{self, Pid};
use crate::sys::sigwait::{self, SignalFd};
use crate::sys::{pidfd, poll};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Lines, and on a terminal what it is at below them.
    Lines,
    /// The events as they are.
    Json,
}

/// Shows what comes until `child` has ended. The result is an exit status: that of the deployment.
pub fn follow(path: &Path, child: Pid, style: Style) -> Result<i32, Refused> {
    let failed = |e: io::Error| Refused::one(111, format!("cannot follow the deployment: {}", describe(&e)));
    let mut screen = Screen::new(style, false);
    let _held = sigwait::hold().map_err(failed)?;
    let signals = SignalFd::new().map_err(failed)?;
    let pidfd = pidfd::open(child.as_raw()).ok();
    let mut at = 0;
    loop {
        let is_over = process::is_over(child).map_err(failed)?;
        loop {
            let (events, next) = read(path, at).map_err(failed)?;
            if events.is_empty() {
                break;
            }
            at = next;
            screen.show(&events).map_err(failed)?;
        }
        if is_over {
            let ended = process::wait_for(child).map_err(failed)?;
            return Ok(screen.status.unwrap_or_else(|| ended.status()));
        }
        screen.tick();
        let fds: Vec<_> = [Some(signals.as_fd()), pidfd.as_ref().map(AsFd::as_fd)].into_iter().flatten().collect();
        poll::readable(&fds, Some(LOOK_EVERY)).map_err(failed)?;
        while let Some(arrived) = signals.take() {
            if [libc::SIGINT, libc::SIGTERM, libc::SIGQUIT, libc::SIGHUP].contains(&arrived.signal) {
                screen.clear();
                let told = "the deployment goes on; follow it with: hob dlogs -f latest";
                let _ = writeln!(io::stderr(), "hob: {told}");
                return Ok(128 + arrived.signal);
            }
        }
    }
}

/// Shows what is there, and what comes while `go_on` says so; not beyond the last event. The result is 0: that it could
/// be shown.
pub fn follow_file(path: &Path, style: Style, go_on: &mut dyn FnMut() -> bool) -> Result<i32, Refused> {
    let mut screen = Screen::new(style, true);
    let mut at = 0;
    let mut last_look = false;
    loop {
        let (events, next) = read(path, at).map_err(|e| cannot("read", path, &e))?;
        at = next;
        screen.show(&events).map_err(|e| cannot("show", path, &e))?;
        let is_over = screen.status.is_some() || last_look;
        if events.is_empty() && is_over {
            screen.clear();
            return Ok(0);
        }
        screen.tick();
        last_look = events.is_empty() && !go_on();
    }
}

struct Screen {
    style: Style,
    zone: TimeZone,
    bar: Option<ProgressBar>,
    colour: bool,
    /// What went wrong is part of what was asked for, and no failure of ours.
    is_record: bool,
    /// What the last event said.
    status: Option<i32>,
}

impl Screen {
    fn new(style: Style, is_record: bool) -> Screen {
        let terminal = io::stdout().is_terminal() && io::stderr().is_terminal();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let bar = (terminal && style == Style::Lines).then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar
        });
        Screen { style, zone: TimeZone::system(), bar, colour: terminal && !no_colour, is_record, status: None }
    }

    fn show(&mut self, events: &[Event]) -> io::Result<()> {
        let mut text = String::new();
        for event in events {
            self.one(event, &mut text);
        }
        if text.is_empty() {
            return Ok(());
        }
        let print = || match io::stdout().lock().write_all(text.as_bytes()) {
            Err(why) if why.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        };
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn one(&mut self, event: &Event, text: &mut String) {
        if let Event::End { status, .. } = event {
            self.status = Some(*status);
        }
        if self.style == Style::Json {
            *text += &serde_json::to_string(event).unwrap_or_default();
            text.push('\n');
            return;
        }
        match event {
            Event::Line { time, of, text: line } => {
                let tag = of.as_ref().map_or_else(|| "-->".to_owned(), |of| format!("[{of}]"));
                let tag = if self.colour { format!("\x1b[36m{tag}\x1b[0m") } else { tag };
                *text += &format!("{} {tag} {}\n", self.clock(*time), plain(line));
            }
            Event::Begin { stage, of, .. } => self.at(&words(stage, of.as_deref())),
            Event::Progress { stage, files, bytes, .. } => {
                self.at(&format!("{}: {files} files, {}", words(stage, None), size(*bytes)));
            }
            Event::Done { .. } | Event::Revision { .. } => {}
            Event::End { time, errors, urls, .. } => {
                self.clear();
                for (name, url) in urls {
                    *text += &format!("{name}: {url}\n");
                }
                for error in errors.iter().map(|error| plain(error)) {
                    if self.is_record {
                        *text += &format!("{} --> {error}\n", self.clock(*time));
                    } else {
                        let _ = writeln!(io::stderr(), "hob: {error}");
                    }
                }
            }
        }
    }

    fn at(&self, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(message.to_owned());
        }
    }

    fn tick(&self) {
        if let Some(bar) = &self.bar {
            bar.tick();
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn clock(&self, time: f64) -> String {
        let at = Timestamp::from_millisecond((time * 1000.0) as i64).unwrap_or(Timestamp::UNIX_EPOCH);
        at.to_zoned(self.zone.clone()).strftime("%H:%M:%S").to_string()
    }
}

/// What a script prints must not reach a terminal as it is: no titles, no cursor moves.
fn plain(line: &str) -> String {
    line.chars().filter(|&c| !c.is_control() || c == '\t').collect()
}

/// What is going on in a stage, for people.
fn words(stage: &str, of: Option<&str>) -> String {
    let doing = match stage {
        "receive" => "receiving the tree",
        "build" => "building",
        "snapshot" => "keeping the build",
        "home" => "copying the home",
        "postinstall" => "running postinstall",
        "stop" => "stopping the old instance",
        "responsive" => "waiting until it is responsive",
        "record" => "writing it down",
        other => other,
    };
    of.map_or_else(|| doing.to_owned(), |of| format!("[{of}] {doing}"))
}

/// `427KB`, as users of the original platform knew it.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes}B"),
        1024..1_048_576 => format!("{}KB", bytes / 1024),
        1_048_576..1_073_741_824 => format!("{:.1}MB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1}GB", bytes as f64 / 1_073_741_824.0),
    }
}

const LOOK_EVERY: Duration = Duration::from_millis(40);
