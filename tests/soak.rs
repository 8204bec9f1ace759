//! Everything at once for a while: two hundred processes that crash, flood their logs, ignore their stop signal and leave
//! helpers and orphans behind, while one client starts, stops, restarts and kills them, one watches, one reloads and
//! many misbehave. At the end every byte of every log is accounted for, nothing is left over and nothing has grown.
//!
//! A minute where everything is tested, ten seconds on a developer's machine; `HOB_SOAK_SECONDS=600 cargo test --release
//! soak -- --nocapture` for the long one, which prints its figures.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::*;

const PROCESSES: usize = 200;

fn length() -> Duration {
    let given = std::env::var("HOB_SOAK_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(given.unwrap_or(if in_ci() { 60 } else { 10 }))
}

/// Random numbers that are the same in every run (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

fn name(n: usize) -> String {
    format!("p{n:03}")
}

/// The dotcloud.yml; `round` changes a few of the processes, so that a reload has something to do.
fn yml(dir: &str, round: usize) -> String {
    let mut yml = String::from("www:\n  type: custom\n  processes:\n");
    for n in 0..PROCESSES {
        let (how, more) = match n % 20 {
            0 => ("f", "logfile_maxbytes: 4MB"),
            1 => ("ft", "logfile_maxbytes: 4MB"),
            2 => ("i", "logfile_maxbytes: 100KB"),
            3 => ("h", "logfile_maxbytes: 100KB, startsecs: 1"),
            4 => ("o", "logfile_maxbytes: 100KB"),
            5 => ("t", "logfile_maxbytes: 20KB, health: {exec: /bin/true, every: 1s}"),
            6 => ("t", "logfile_maxbytes: 20KB, startsecs: 1, ready: {exec: /bin/true, within: 5s}"),
            7 => ("t", "logfile_maxbytes: 20KB, drain: 200ms"),
            _ => ("t", "logfile_maxbytes: 50KB, startsecs: 1"),
        };
        let after = if n % 20 == 9 { format!(", after: [{}]", name(n - 1)) } else { String::new() };
        let mode = if n % 50 == 10 { round } else { 0 };
        yml += &format!(
            "    {name}: {{command: '{prop} soak {dir}/lives {name} {n} {how}', restart_delay: 0.05, restart_delay_max: 0.5, \
             stopwaitsecs: 1, environment: {{MODE: {mode}}}, logfile_backups: 5000, {more}{after}}}\n",
            name = name(n),
            prop = prop(),
        );
    }
    yml
}

/// What the clients have seen.
#[derive(Default)]
struct Seen {
    over: AtomicBool,
    orders: AtomicUsize,
    refused: AtomicUsize,
    reloads: AtomicUsize,
    hostile: AtomicUsize,
}

impl Seen {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }
}

/// Whoever gives orders.
fn operator(socket: &Path, seen: &Seen) {
    let mut dice = Dice(42);
    while seen.goes_on() {
        let names: Vec<String> = (0..1 + dice.below(4)).map(|_| name(dice.below(PROCESSES))).collect();
        let (path, body) = match dice.below(10) {
            0..3 => ("/v1/restart", json!({ "names": names, "wait": dice.below(3) == 0, "timeout": 2 })),
            3..5 => ("/v1/stop", json!({ "names": names, "wait": dice.below(3) == 0, "timeout": 2 })),
            5..8 => ("/v1/start", json!({ "names": names, "wait": dice.below(3) == 0, "timeout": 2 })),
            8 => (
                "/v1/signal",
                json!({ "names": names, "signal": (["KILL", "TERM", "STOP", "CONT", "USR1"])[dice.below(5)] }),
            ),
            _ => ("/v1/start", json!({ "names": ["all"], "wait": false })),
        };
        let answer = http(socket, "POST", path, Some(&body.to_string())).expect("hob answers its operator");
        assert_eq!(answer.0, 200, "{path} {body}: {}", answer.1);
        seen.orders.fetch_add(1, Ordering::Relaxed);
        seen.refused.fetch_add(answer.1.matches("\"ok\":false").count(), Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(dice.below(60) as u64));
    }
}

/// Whoever looks at it; returns how long each answer took.
fn watcher(socket: &Path, seen: &Seen) -> Vec<Duration> {
    let mut took = Vec::new();
    while seen.goes_on() {
        let begin = Instant::now();
        let answer = http(socket, "GET", "/v1/processes", None).expect("hob answers");
        took.push(begin.elapsed());
        assert_eq!(answer.0, 200);
        assert_eq!(answer.1.matches("\"process\":").count(), PROCESSES, "all of them, always");
        std::thread::sleep(Duration::from_millis(50));
    }
    took.sort_unstable();
    took
}

/// Clients that never read, never finish their request, or talk nonsense.
fn rabble(socket: &Path, seen: &Seen) {
    let mut dice = Dice(7);
    let mut crowd: Vec<UnixStream> = Vec::new();
    while seen.goes_on() {
        let words: &[u8] = match dice.below(8) {
            0 | 1 => b"GET /v1/events HTTP/1.1\r\nHost: hob\r\n\r\n",
            2 => b"GET /v1/logs?follow=true&lines=1000 HTTP/1.1\r\nHost: hob\r\n\r\n",
            3 => b"GET /v1/proc",
            4 => b"POST /v1/stop HTTP/1.1\r\nHost: hob\r\nContent-Length: 100000\r\n\r\n{\"names\": [",
            5 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is not HTTP\r\n\r\n",
            6 => b"",
            _ => b"POST /v1/stop HTTP/1.1\r\nHost: hob\r\nContent-Length: 33\r\n\r\n{\"names\": [\"p002\"], \"wait\": true }",
        };
        if let Ok(mut stream) = UnixStream::connect(socket) {
            let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
            let _ = stream.write_all(words);
            for _ in 0..if dice.below(6) == 0 { 300 } else { 0 } {
                // Answers that nobody fetches.
                if stream.write_all(b"GET /v1/processes HTTP/1.1\r\nHost: hob\r\n\r\n").is_err() {
                    break;
                }
            }
            crowd.push(stream);
            seen.hostile.fetch_add(1, Ordering::Relaxed);
        }
        while crowd.len() > 40 {
            crowd.swap_remove(dice.below(40));
        }
        std::thread::sleep(Duration::from_millis(20 + dice.below(100) as u64));
    }
}

/// Whoever edits the configuration.
fn editor(hob: &Hob, seen: &Seen) {
    let mut round = 0;
    while seen.goes_on() {
        round += 1;
        // Every third is broken, and must change nothing.
        let text = yml(&hob.home.marker(), round);
        let text = if round % 3 == 0 { text.replacen("soak", "{soak: [", 2).replace("type:", "type") } else { text };
        hob.home.write("dotcloud.yml", &text);
        let answer = hob.http("POST", "/v1/reload", None).expect("hob answers");
        assert_eq!(answer.0 == 200, round % 3 != 0, "{answer:?}");
        seen.reloads.fetch_add(1, Ordering::Relaxed);
        if round % 4 == 0 {
            hob.signal(Signal::SIGUSR2);
        }
        for _ in 0..40 {
            if seen.goes_on() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
    hob.home.write("dotcloud.yml", &yml(&hob.home.marker(), 0));
    assert_eq!(hob.http("POST", "/v1/reload", None).expect("hob answers").0, 200);
}

/// What the daemon and its logger use, second by second.
#[derive(Default)]
struct Usage {
    daemon_kb: Vec<u64>,
    logger_kb: Vec<u64>,
}

impl Usage {
    fn sample(&mut self, daemon: i32, logger: i32) {
        self.daemon_kb.push(own_kb(daemon));
        self.logger_kb.push(own_kb(logger));
    }
}

/// From what it had become after a quarter of the time to what it was in the last quarter, on average.
fn growth(kb: &[u64]) -> i64 {
    let quarter = (kb.len() / 4).max(1);
    let mean = |part: &[u64]| part.iter().sum::<u64>() as i64 / part.len().max(1) as i64;
    mean(&kb[kb.len() - quarter..]) - mean(&kb[quarter.min(kb.len() - 1)..(2 * quarter).min(kb.len())])
}

#[test]
fn two_hundred_unruly_processes_lose_nothing_leave_nothing_and_grow_nothing() {
    let home = Home::bare();
    fs::create_dir(home.beside("lives")).expect("a fresh directory");
    home.write("dotcloud.yml", &yml(&home.marker(), 0));
    let hob = home.settings("log_level = \"warn\"\n").boot();
    let socket = hob.home.beside("hob.sock");
    let logger = wait_for("the logger", || {
        let name = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        children_of(hob.pid).into_iter().map(|c| c.0).find(|p| name(*p).trim() == "hob logger")
    });
    wait_for("each of them has a log", || {
        (0..PROCESSES).all(|n| hob.log_path(&format!("{}.log", name(n))).exists()).then_some(())
    });
    let descriptors = (fd_count(hob.pid), fd_count(logger));

    let seen = Seen::default();
    let mut usage = Usage::default();
    let begin = Instant::now();
    let took = std::thread::scope(|scope| {
        scope.spawn(|| operator(&socket, &seen));
        scope.spawn(|| rabble(&socket, &seen));
        scope.spawn(|| editor(&hob, &seen));
        let watcher = scope.spawn(|| watcher(&socket, &seen));
        while begin.elapsed() < length() && !watcher.is_finished() {
            usage.sample(hob.pid, logger);
            std::thread::sleep(Duration::from_secs(1));
        }
        seen.over.store(true, Ordering::Relaxed);
        watcher.join().expect("the watcher was always answered")
    });
    let worked = (cpu(hob.pid), cpu(logger));

    // Everybody has gone home.
    hob.ok(&["stop", "all"]);
    wait_for("no process and no zombie, the logger alone", || {
        (children_of(hob.pid).iter().map(|c| c.0).collect::<Vec<_>>() == [logger]).then_some(())
    });
    let end = Instant::now() + PATIENCE;
    while fd_count(hob.pid) > descriptors.0 || fd_count(logger) > descriptors.1 {
        let now = (fd_count(hob.pid), fd_count(logger));
        assert!(Instant::now() < end, "{descriptors:?} descriptors before, {now:?} after: {:?}", fds(logger));
        std::thread::sleep(Duration::from_millis(50));
    }
    let restarts: u64 = hob.status().iter().map(Proc::restarts).sum();
    let left: Vec<(i32, String)> = hob.leftovers().into_iter().filter(|l| l.0 != hob.pid && l.0 != logger).collect();
    assert!(left.is_empty(), "{left:?}");
    let log_dir = hob.home.beside("log");
    let ended = hob.shutdown();

    let (mut lives, mut bytes) = (0, 0);
    for n in 0..PROCESSES {
        let account = account(&ended.home().beside("lives"), &name(n));
        lives += account.len();
        bytes += check(&log_dir.join(format!("{}.log", name(n))), &name(n), &account);
    }
    let percent = |n: usize| took[(took.len() - 1) * n / 100];
    eprintln!(
        "soak: {:.0} s, {lives} lives, {restarts} restarts counted, {} orders ({} outcomes refused), {} reloads, {} hostile clients, \
         {:.1} MB of logs, status p50 {:.1?} p99 {:.1?} max {:.1?}; daemon {} kB at most, grown {} kB, cpu {:.1?}; \
         logger {} kB at most, grown {} kB, cpu {:.1?}",
        begin.elapsed().as_secs_f64(),
        seen.orders.into_inner(),
        seen.refused.into_inner(),
        seen.reloads.into_inner(),
        seen.hostile.into_inner(),
        bytes as f64 / 1e6,
        percent(50),
        percent(99),
        percent(100),
        usage.daemon_kb.iter().max().expect("a sample"),
        growth(&usage.daemon_kb),
        worked.0,
        usage.logger_kb.iter().max().expect("a sample"),
        growth(&usage.logger_kb),
        worked.1,
    );
    assert!(lives > PROCESSES && bytes > 1_000_000, "something happened at all");
    assert!(percent(100) < Duration::from_secs(5), "nobody waits: {:?}", percent(100));
    // The random part is what the slow clients hold at a moment: 32 streams and 40 clients, each bounded.
    assert!(growth(&usage.daemon_kb) < 2000, "{:?}", usage.daemon_kb);
    assert!(growth(&usage.logger_kb) < 1000, "{:?}", usage.logger_kb);
    assert!(usage.daemon_kb.iter().all(|kb| *kb < 24_000), "{:?}", usage.daemon_kb);
}

/// One life, as the process itself has written it down: how many lines it had written for sure, and when.
struct Life {
    lines: u64,
    born: u64,
    last: u64,
}

fn account(dir: &Path, name: &str) -> Vec<Life> {
    let bytes = fs::read(dir.join(format!("{name}.lives"))).unwrap_or_default();
    let number = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let lives: Vec<Life> = (0..bytes.len() / 32)
        .map(|n| Life { lines: number(n * 32 + 8), born: number(n * 32 + 16), last: number(n * 32 + 24) })
        .collect();
    for pair in lives.windows(2) {
        assert!(pair[1].born >= pair[0].last, "{name}: two at a time");
    }
    lives
}

/// What one write may have put into the pipe without the process having been able to say so.
const UNSAID: u64 = 40;

/// Every line of every life, once and in order; returns how many bytes that was.
#[track_caller]
fn check(log: &Path, name: &str, lives: &[Life]) -> usize {
    let mut numbers: BTreeMap<u32, PathBuf> = BTreeMap::new();
    let file = log.file_name().expect("a name").to_string_lossy().into_owned();
    for entry in fs::read_dir(log.parent().expect("a directory")).expect("readable").flatten() {
        let other = entry.file_name().to_string_lossy().into_owned();
        if let Some(number) = other.strip_prefix(&format!("{file}.")) {
            numbers.insert(number.parse().unwrap_or_else(|_| panic!("{other}?")), entry.path());
        }
    }
    let mut total = 0;
    let (mut life, mut next) = (0, 0);
    let mut found: Vec<u64> = vec![0; lives.len()];
    for path in numbers.values().rev().chain([&log.to_path_buf()]) {
        let bytes = fs::read(path).unwrap_or_default();
        total += bytes.len();
        assert_eq!(bytes.len() % 100, 0, "{}: whole lines", path.display());
        for line in bytes.chunks_exact(100) {
            let number = |from: usize, to: usize| line[from..to].iter().fold(0, |n, d| n * 10 + u64::from(d - b'0'));
            let told = || String::from_utf8_lossy(line).into_owned();
            assert!(&line[..4] == name.as_bytes() && line[99] == b'\n', "{name}: torn: {}", told());
            let (of, seq) = (number(5, 11) as usize, number(12, 22));
            if of != life {
                assert!(of > life && seq == 0, "{name}: life {life} line {next}, then: {}", told());
                (life, next) = (of, 0);
            }
            assert_eq!(seq, next, "{name}: life {life}: {}", told());
            let fill = b'a' + (seq % 26) as u8;
            assert!(line[23..99].iter().all(|b| *b == fill), "{name}: mixed: {}", told());
            next += 1;
            *found.get_mut(life).unwrap_or_else(|| panic!("{name}: a life that never was: {}", told())) = next;
        }
    }
    for (n, (life, found)) in lives.iter().zip(&found).enumerate() {
        assert!(
            (life.lines..=life.lines + UNSAID).contains(found),
            "{name}: life {n} wrote {} lines, the log has {found}",
            life.lines
        );
    }
    total
}
