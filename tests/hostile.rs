//! What is hostile to hob: clients, endless output, a state directory it cannot use, a clock that jumps, orders without
//! sense. One test at least for each of the failure modes 9 to 15 of reference/peers.md §6; the others are elsewhere:
//!
//! | mode | proved by |
//! |---|---|
//! | 9 inheritance | `hygiene`, golden file under eight start conditions; `launch` for users and groups |
//! | 10 unbounded memory | here: deaf clients and a flood of events, a line of a gigabyte, a flood of notifications; `soak` |
//! | 11 control socket | `control`: stale file, two daemons, half and huge requests, EMFILE, long path, strangers, a removed socket; here: links, a full /run, requests bent by chance |
//! | 12 state | here: `ports.json` cut at any byte, a state directory that is full, read-only or no directory, a kill at any moment |
//! | 13 clock | here: a wall clock that steps by years, a time namespace |
//! | 14 shutdown and reload | `supervise`: a cycle, a second TERM; `stop`: stop during start and back-off; here: orders by chance against the real thing, what waits for ever, a postinstall that hangs, a reload that takes a running process away; `supervisor::random_tests` for a million steps of the same in the simulated world |
//! | 15 memory pressure | `containers`: the leak dies and is told, many small processes at the limit, a stop there; here: whom the kernel would take |

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::*;

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

#[track_caller]
fn logger_of(hob: &Hob) -> i32 {
    let name = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    wait_for("the logger", || children_of(hob.pid).into_iter().map(|c| c.0).find(|p| name(*p).trim() == "hob logger"))
}

// ---------------------------------------------------------------- 10 unbounded memory

#[test]
fn a_thousand_clients_that_never_read_and_a_flood_of_events_cost_a_bounded_amount_of_memory() {
    let flood = "{command: /bin/true, startsecs: 0, restart_delay: 0, restart_delay_max: 0}";
    let hob = Home::with(&format!("a: {flood}\nb: {flood}\nc: {flood}\nsteady: sleep 1000"))
        .settings("log_level = \"error\"\n")
        .boot();
    hob.running("steady");
    let before = own_kb(hob.pid);
    let mut deaf = Vec::new();
    for n in 0..1000 {
        let Ok(mut stream) = UnixStream::connect(hob.home.beside("hob.sock")) else { continue };
        let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
        let path = if n % 3 == 0 { "/v1/processes" } else { "/v1/events" };
        let _ = stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: hob\r\n\r\n").as_bytes());
        deaf.push(stream);
    }
    let begin = Instant::now();
    let mut most = 0;
    while begin.elapsed() < Duration::from_secs(4) {
        most = most.max(own_kb(hob.pid));
        let ran = hob.ok(&["status", "steady"]);
        assert!(ran.took < Duration::from_secs(2), "{ran:?}");
    }
    let restarts: u64 = ["a", "b", "c"].iter().map(|p| hob.process(p).restarts()).sum();
    assert!(restarts > 100, "a flood: {restarts}");
    // 32 streams with a quarter of a megabyte each are the most that anybody is behind.
    assert!(most < before + 12_000, "{most} kB after {before} kB");
    drop(deaf);
    hob.shutdown();
}

#[test]
fn a_line_of_a_gigabyte_passes_through_a_few_megabytes() {
    let hob = Home::with(
        "long: {command: 'head -c 1000000000 /dev/zero; echo; echo end; exec sleep 1000', logfile_maxbytes: 20MB, logfile_backups: 2}\n\
         stamped: {command: 'head -c 100000000 /dev/zero; echo; echo end; exec sleep 1000', logfile_maxbytes: 20MB, logfile_backups: 2}",
    )
    .settings("console = true\n")
    .boot();
    let logger = logger_of(&hob);
    let mut most = 0;
    let end = Instant::now() + Duration::from_secs(90);
    let ended = |name: &str| {
        let bytes = fs::read(hob.log_path(name)).unwrap_or_default();
        bytes.ends_with(b"\nend\n")
    };
    while !(ended("long.log") && ended("stamped.log")) {
        most = most.max(own_kb(logger)).max(own_kb(hob.pid));
        assert!(Instant::now() < end, "it never ended\n{}", hob.diary());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(most < 16_000, "{most} kB");
    let kept: u64 = fs::read_dir(hob.home.beside("log"))
        .expect("there")
        .map(|e| e.expect("an entry").metadata().expect("it is").len())
        .sum();
    assert!(kept < 140_000_000, "{kept} bytes are kept of it");
    hob.shutdown();
}

#[test]
fn a_program_that_floods_its_notify_socket_holds_nobody_up() {
    let flood = "{command: '{prop} notifyflood', ready: {notify: true, within: 20s}}";
    let hob = Home::with(&format!("a: {flood}\nb: {flood}\nc: {flood}\nsteady: sleep 1000")).boot();
    for name in ["a", "b", "c", "steady"] {
        hob.running(name);
    }
    for _ in 0..20 {
        let ran = hob.ok(&["status", "steady"]);
        assert!(ran.took < Duration::from_secs(2), "{ran:?}");
    }
    let ran = hob.ok(&["restart", "steady"]);
    assert!(ran.took < Duration::from_secs(5), "{ran:?}");
    let ran = hob.ok(&["stop", "a", "b", "c"]);
    assert!(ran.took < Duration::from_secs(5), "{ran:?}");
    hob.shutdown();
}

// ---------------------------------------------------------------- 11 the control socket

#[test]
fn a_link_in_the_place_of_the_socket_leads_nowhere() {
    let home = Home::with("one: sleep 1000");
    fs::write(home.beside("precious"), "precious").expect("a fresh file");
    symlink(home.beside("precious"), home.beside("hob.sock")).expect("a fresh link");
    let ran = home.boot_fails();
    assert!(ran.code != 0 && ran.err.contains("hob.sock"), "{ran:?}");
    assert_eq!(fs::read_to_string(home.beside("precious")).expect("still there"), "precious");
    assert!(home.beside("hob.sock").is_symlink());
}

#[test]
fn a_lock_that_somebody_else_holds_on_the_folder_of_the_socket_holds_nothing_up() {
    let home = Home::with("one: sleep 1000");
    let folder = fs::File::open(home.dir.path()).expect("our own directory");
    let lock = nix::fcntl::Flock::lock(folder, nix::fcntl::FlockArg::LockExclusive).map_err(|(_, e)| e).expect("free");
    let hob = home.boot();
    let pid = hob.running("one");
    fs::remove_file(hob.home.beside("hob.sock")).expect("it is there");
    hob.signal(Signal::SIGUSR2);
    wait_for("an answer", || hob.get("/v1/info")["pid"].is_number().then_some(()));
    assert_eq!(hob.running("one"), pid);
    drop(lock);
    hob.shutdown();
}

#[test]
fn a_full_run_directory_is_a_clear_error() {
    if !need("root") {
        return;
    }
    let home = Home::with("one: sleep 1000");
    let run = Mount::tmpfs(&home.beside("run"), 64);
    sh_ok(&format!("mount -o remount,nr_inodes=1 {}", run.at.display()));
    let home = home.env("HOB_SOCKET", &run.at.join("hob.sock").display().to_string());
    let ran = home.boot_fails();
    assert_eq!(ran.code, 111, "{ran:?}");
    assert!(ran.err.contains("cannot bind") && ran.err.contains("no space left"), "{ran:?}");
}

#[test]
fn requests_bent_by_chance_change_nothing_and_leave_nothing_open() {
    let hob = Home::with("one: sleep 1000\ntwo: sleep 1000").boot();
    let (one, two) = (hob.running("one"), hob.running("two"));
    let descriptors = fd_count(hob.pid);
    let memory = own_kb(hob.pid);
    let whole = [
        "GET /v1/processes?name=one HTTP/1.1\r\nHost: hob\r\nConnection: close\r\n\r\n",
        "GET /v1/events?follow=false HTTP/1.1\r\nHost: hob\r\nAccept: application/json\r\n\r\n",
        "POST /v1/start HTTP/1.1\r\nHost: hob\r\nContent-Length: 33\r\n\r\n{\"names\": [\"one\"], \"wait\": false}",
        "POST /v1/start HTTP/1.1\r\nHost: hob\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{\"names\": [\"one\"\r\n1\r\n]\r\n1\r\n}\r\n0\r\n\r\n",
        "GET /v1/logs?lines=3 HTTP/1.1\r\nHost: hob\r\nRange: bytes=0-\r\n\r\nGET /v1/info HTTP/1.1\r\nHost: hob\r\n\r\n",
        "POST /RPC2 HTTP/1.1\r\nHost: hob\r\nContent-Type: text/xml\r\nContent-Length: 80\r\n\r\n<?xml version=\"1.0\"?><methodCall><methodName>system.listMethods</methodName></methodCall>",
    ];
    let mut dice = Dice(4711);
    for round in 0..600 {
        let mut bytes = whole[dice.below(whole.len())].as_bytes().to_vec();
        for _ in 0..1 + dice.below(4) {
            let at = dice.below(bytes.len());
            match dice.below(6) {
                0 => bytes[at] = dice.below(256) as u8,
                1 => bytes.truncate(at.max(1)),
                2 => {
                    let piece = bytes[at..(at + 20).min(bytes.len())].to_vec();
                    bytes.splice(at..at, piece);
                }
                3 => drop(bytes.remove(at)),
                4 => bytes.insert(at, b"\r\n\0 :{[%\xff"[dice.below(9)]),
                _ => bytes[at] ^= 1 << dice.below(8),
            }
            if bytes.is_empty() {
                bytes.push(b'G');
            }
        }
        // What it bends into by chance must not be an order that means something else.
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if ["stop", "restart", "shutdown", "signal"].iter().any(|word| text.contains(word)) {
            continue;
        }
        let mut stream =
            UnixStream::connect(hob.home.beside("hob.sock")).unwrap_or_else(|e| panic!("round {round}: {e}"));
        let _ = stream.set_read_timeout(Some(Duration::from_millis(15)));
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = [0; 4096];
        if let Ok(length) = stream.read(&mut answer)
            && length > 0
        {
            assert!(answer.starts_with(b"HTTP/1.1 "), "{text:?}: {:?}", String::from_utf8_lossy(&answer[..length]));
        }
    }
    assert_eq!((hob.running("one"), hob.running("two")), (one, two));
    wait_for("the descriptors to be closed", || (fd_count(hob.pid) <= descriptors).then_some(()));
    assert!(own_kb(hob.pid) < memory + 2000, "{} kB after {memory} kB", own_kb(hob.pid));
    hob.shutdown();
}

// ---------------------------------------------------------------- 12 state

const WITH_PORTS: &str = "www:\n  type: custom\n  ports: {www: http, zmq: tcp}\n  process: sleep 1000\n";

#[test]
fn a_ports_file_cut_at_any_byte_or_of_another_make_is_a_warning_and_made_anew() {
    let hob = Home::new(WITH_PORTS).boot();
    hob.running("www");
    let file = hob.home.beside("state/ports.json");
    let good = fs::read_to_string(&file).expect("it is written");
    hob.shutdown();
    let mut cases: Vec<Vec<u8>> = (0..good.len() - 2).step_by(7).map(|n| good.as_bytes()[..n].to_vec()).collect();
    cases.extend([
        b"\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(),
        b"[1, 2, 3]\n".to_vec(),
        b"{\"version\": 99, \"ports\": {\"www.0.www\": {\"number\": 1}}}\n".to_vec(),
        b"{\"www.0.www\": 99999999}\n".to_vec(),
        b"{\"www.0.www\": -1}\n".to_vec(),
        vec![b'{'; 100_000],
        vec![0xff; 1000],
    ]);
    for case in cases {
        let shown = String::from_utf8_lossy(&case[..case.len().min(60)]).into_owned();
        let home = Home::new(WITH_PORTS);
        fs::write(home.beside("state/ports.json"), &case).expect("a fresh file");
        let hob = home.boot();
        assert!(
            hob.err().contains("ports.json") && hob.err().contains("ports are allocated afresh"),
            "{shown:?}: {}",
            hob.err()
        );
        let file = hob.home.beside("state/ports.json");
        wait_for(&shown, || fs::read_to_string(&file).is_ok_and(|now| now == good).then_some(()));
        hob.shutdown();
    }
}

#[test]
fn a_state_directory_that_is_full_read_only_or_none_costs_a_warning_and_no_more() {
    if !need("root") {
        return;
    }
    let runs = |home: Home, why: &str| {
        let hob = home.boot();
        hob.running("www");
        // They are written when everything has been started.
        wait_for(why, || (hob.err().contains("cannot write the ports to") && hob.err().contains(why)).then_some(()));
        assert_eq!(hob.ok(&["ports", "--json"]).json().as_array().map(Vec::len), Some(2));
        hob.shutdown();
    };
    let home = Home::new(WITH_PORTS);
    let full = Mount::tmpfs(&home.beside("full"), 16);
    sh(&format!("dd if=/dev/zero of={}/fill bs=4k 2>/dev/null", full.at.display()));
    runs(home.env("HOB_STATE_DIR", &full.at.display().to_string()), "no space left on device");
    drop(full);

    let home = Home::new(WITH_PORTS);
    let fixed = Mount::tmpfs(&home.beside("fixed"), 64);
    sh_ok(&format!("mount -o remount,ro {}", fixed.at.display()));
    runs(home.env("HOB_STATE_DIR", &fixed.at.display().to_string()), "read-only file system");
    drop(fixed);

    let home = Home::new(WITH_PORTS);
    fs::write(home.beside("file"), "").expect("a fresh file");
    let path = home.beside("file").display().to_string();
    runs(home.env("HOB_STATE_DIR", &path), "file exists");
}

#[test]
fn a_daemon_killed_at_any_moment_leaves_a_state_that_the_next_boot_understands() {
    let mut dice = Dice(99);
    let home = Home::new(WITH_PORTS);
    let mut home = Some(home);
    for _ in 0..25 {
        let mut hob = home.take().expect("given back").launch();
        std::thread::sleep(Duration::from_micros(dice.below(40_000) as u64));
        let _ = kill(Pid::from_raw(hob.pid), Signal::SIGKILL);
        hob.wait_end();
        // Nobody is left who would end them: a real init would.
        for (pid, _) in alive_with(&hob.home.marker()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        wait_for("all of it gone", || hob.leftovers().is_empty().then_some(()));
        home = Some(hob.into_home());
    }
    let hob = home.expect("given back").boot();
    hob.running("www");
    assert!(!hob.err().contains("ports.json"), "{}", hob.err());
    hob.shutdown();
}

// ---------------------------------------------------------------- 13 the clock

/// The gaps between the moments at which `prop stamp` or `flash` were started, by the monotonic clock.
fn gaps(hob: &Hob, file: &str) -> Vec<f64> {
    let text = fs::read_to_string(hob.home.at(file)).unwrap_or_default();
    let at: Vec<f64> =
        text.lines().filter_map(|l| l.split(' ').nth(2)?.parse::<f64>().ok()).map(|ns| ns / 1e9).collect();
    at.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[test]
fn a_wall_clock_that_steps_by_years_starts_stops_and_kills_nothing() {
    if !need("cc") {
        return;
    }
    let shim = format!("{}/clock.so", env!("CARGO_TARGET_TMPDIR"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/clock.c");
    sh_ok(&format!(
        "cc -O1 -Wall -shared -fPIC -o {shim}.{pid} {source} && mv {shim}.{pid} {shim}",
        pid = std::process::id()
    ));
    let home = Home::with(
        "steady: {command: sleep 1000}\n\
         young: {command: '{prop} flash {home}/young y 1 100', startsecs: 5, restart_delay: 0.6, restart_delay_max: 0.6}\n\
         healthy: {command: sleep 1000, health: {exec: '{prop} flash {home}/health h 0', every: 0.5s}}\n\
         talks: {command: 'while :; do date +%Y; sleep 0.3; done', logfile_maxbytes: 0}",
    );
    let step = home.beside("step");
    fs::write(&step, "0").expect("a fresh file");
    let hob = home.env("LD_PRELOAD", &shim).env("CLOCK_STEP", &step.display().to_string()).boot();
    let pids = [hob.running("steady"), hob.running("healthy"), hob.running("talks")];
    let year = 365 * 86400;
    for step_to in [10 * year, -20 * year, 0, 13 * year, -3600, 40 * year] {
        fs::write(&step, step_to.to_string()).expect("ours");
        std::thread::sleep(Duration::from_millis(1200));
        let shown = hob.hob(&["status"]);
        assert!(shown.code == 0 || shown.code == 3, "{shown:?}");
        let steady = hob.process("steady");
        let uptime = steady.0["uptime"].as_f64().unwrap_or(-1.0);
        assert!((0.0..120.0).contains(&uptime), "{steady:?}");
        let logs = hob.ok(&["logs", "talks", "-n", "2"]);
        assert!(!logs.out.is_empty());
    }
    // The step was real: the program has seen it.
    let years: std::collections::BTreeSet<String> = hob.log("talks.log").lines().map(str::to_owned).collect();
    assert!(years.len() >= 3, "{years:?}");
    assert_eq!([hob.running("steady"), hob.running("healthy"), hob.running("talks")], pids);
    assert!(["steady", "healthy", "talks"].iter().all(|p| hob.process(p).restarts() == 0));
    let (young, health) = (gaps(&hob, "young"), gaps(&hob, "health"));
    assert!(young.len() >= 3 && young.iter().all(|gap| (0.6..8.0).contains(gap)), "{young:?}");
    assert!(health.len() >= 4 && health.iter().all(|gap| (0.4..8.0).contains(gap)), "{health:?}");
    let begin = Instant::now();
    hob.shutdown();
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn in_a_time_namespace_nothing_is_early_or_late() {
    if !need_all(&["root", "unshare"]) {
        return;
    }
    let mut hob = Home::with(
        "steady: {command: sleep 1000}\nyoung: {command: '{prop} flash {home}/young y 1 100', startsecs: 5, restart_delay: 0.6, restart_delay_max: 0.6}",
    )
    .under(&["unshare", "--time", "--boottime", "100000000", "--monotonic", "50000000", "--fork", "--kill-child", "--"])
    .boot();
    let outer = hob.pid;
    hob.pid = wait_for("hob itself", || children_of(outer).first().map(|c| c.0));
    hob.running("steady");
    wait_for("four lives", || (gaps(&hob, "young").len() >= 4).then_some(()));
    let young = gaps(&hob, "young");
    assert!(young.iter().all(|gap| (0.6..8.0).contains(gap)), "{young:?}");
    let steady = hob.process("steady");
    assert!((0.0..60.0).contains(&steady.0["uptime"].as_f64().unwrap_or(-1.0)), "{steady:?}");
    let shown = hob.hob(&["status", "steady"]).expect(0).out;
    assert!(shown.contains("0:00:"), "{shown}");
    assert_eq!(hob.process("steady").restarts(), 0);
    hob.signal(Signal::SIGTERM);
    assert_eq!(hob.wait_end(), 0);
    hob.nothing_is_left();
}

// ---------------------------------------------------------------- 14 shutdown and reload

#[test]
fn orders_by_chance_end_in_what_was_ordered_last_with_one_of_each() {
    for seed in [1, 2, 3] {
        let mut dice = Dice(seed * 7919);
        let mut yml = String::new();
        let count = 12;
        for n in 0..count {
            let line = match n % 6 {
                0 => {
                    "{command: '{prop} soak {dir} NAME 1 t', startsecs: 0, restart_delay: 0.02, restart_delay_max: 0.1}"
                }
                1 => {
                    "{command: '{prop} soak {dir} NAME 2 i', stopwaitsecs: 1, startsecs: 0, restart_delay: 0.02, restart_delay_max: 0.1}"
                }
                2 => {
                    "{command: '{prop} soak {dir} NAME 3 h', stopwaitsecs: 1, startsecs: 1, restart_delay: 0.02, restart_delay_max: 0.1}"
                }
                3 => "{command: '{prop} soak {dir} NAME 4 t', ready: {exec: 'sleep 0.2', within: 5s}, drain: 100ms}",
                4 => "{command: '{prop} soak {dir} NAME 5 t', startsecs: 1, after: [BEFORE]}",
                _ => "{command: '{prop} soak {dir} NAME 6 to', startsecs: 1, autostart: false}",
            };
            yml += &format!(
                "p{n}: {}\n",
                line.replace("NAME", &format!("p{n}")).replace("BEFORE", &format!("p{}", n - n.min(1)))
            );
        }
        let hob = Home::with(&yml).settings("log_level = \"error\"\n").boot();
        let mut up: Vec<bool> = (0..count).map(|n| n % 6 != 5).collect();
        let ask = |path: &str, body: serde_json::Value| {
            let (status, answer) = hob.http("POST", path, Some(&body.to_string())).expect("hob answers");
            assert_eq!(status, 200, "{path} {body}: {answer}");
        };
        for _ in 0..250 {
            let n = dice.below(count);
            let name = format!("p{n}");
            match dice.below(8) {
                0..3 => {
                    up[n] = false;
                    ask("/v1/stop", json!({ "names": [name], "wait": false }));
                }
                3..5 => {
                    up[n] = true;
                    ask("/v1/start", json!({ "names": [name], "wait": false }));
                }
                5 => {
                    up[n] = true;
                    ask("/v1/restart", json!({ "names": [name], "wait": false }));
                }
                6 => ask("/v1/signal", json!({ "names": [name], "signal": "KILL" })),
                _ => ask("/v1/reload", json!({})),
            }
            std::thread::sleep(Duration::from_millis([0, 0, 1, 5, 30][dice.below(5)]));
        }
        for (n, up) in up.iter().enumerate() {
            let name = format!("p{n}");
            if *up {
                // What is after one that is stopped waits for that.
                let waits = |p: &Proc| n % 6 == 4 && p.0["waits_for"][0] == format!("www:p{}", n - 1);
                hob.wait(&name, "it runs, as ordered last", |p| p.state() == "RUNNING" || waits(p));
            } else {
                let last = hob.wait(&name, "it is stopped, as ordered last", |p| p.state() == "STOPPED");
                assert_eq!(last.pid(), None);
            }
        }
        let begin = Instant::now();
        let ended = hob.shutdown();
        assert!(begin.elapsed() < Duration::from_secs(8), "seed {seed}: {:?}", begin.elapsed());
        // Each life begins after the last sign of life of the one before.
        for n in 0..count {
            let bytes = fs::read(ended.home().beside(&format!("p{n}.lives"))).unwrap_or_default();
            let number = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
            for life in 1..bytes.len() / 32 {
                assert!(number(life * 32 + 16) >= number(life * 32 - 8), "seed {seed} p{n}: two at a time");
            }
        }
    }
}

#[test]
fn what_waits_for_something_that_never_comes_can_be_stopped_and_restarted() {
    let hob = Home::with(
        "never: {command: sleep 1000, ready: {exec: /bin/false, within: 1000s}}\nparked: {command: sleep 1000, after: [never]}",
    )
    .boot();
    hob.wait_state("never", "STARTING");
    let ran = hob.hob(&["restart", "parked", "--timeout", "0.5"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("waits for www:never"), "{ran:?}");
    let ran = hob.ok(&["stop", "parked"]);
    assert!(ran.took < Duration::from_secs(2), "{ran:?}");
    let ran = hob.ok(&["stop", "never"]);
    assert!(ran.took < Duration::from_secs(2), "{ran:?}");
    assert_eq!(hob.hob(&["start", "parked", "never", "--no-wait"]).code, 0);
    hob.wait_state("never", "STARTING");
    let begin = Instant::now();
    hob.shutdown();
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
}

#[test]
fn a_postinstall_that_hangs_does_not_hold_up_the_end() {
    let home = Home::new("www:\n  type: custom\n  process: sleep 1000\n  postinstall: sleep 2000\n");
    let mut hob = home.launch();
    wait_for("postinstall", || hob.get("/v1/info")["state"].as_str().filter(|s| s.contains("postinstall")).map(|_| ()));
    assert_eq!(hob.hob(&["status"]).code, 0, "it answers meanwhile");
    hob.signal(Signal::SIGTERM);
    let begin = Instant::now();
    hob.wait_end();
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    hob.nothing_is_left();

    // One that will not hear: the second signal ends it.
    let home = Home::new(
        "www:\n  type: custom\n  process: sleep 1000\n  postinstall: \"trap '' TERM INT; while :; do sleep 0.1; done\"\n",
    );
    let mut hob = home.launch();
    wait_for("postinstall", || hob.get("/v1/info")["state"].as_str().filter(|s| s.contains("postinstall")).map(|_| ()));
    hob.signal(Signal::SIGTERM);
    std::thread::sleep(Duration::from_millis(300));
    if hob.is_alive() {
        hob.signal(Signal::SIGTERM);
    }
    let begin = Instant::now();
    hob.wait_end();
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    hob.nothing_is_left();
}

#[test]
fn a_reload_that_takes_a_running_process_away_stops_it_whole_and_one_during_a_stop_waits_its_turn() {
    let hob =
        Home::with("stays: sleep 1000\ngoes: {command: '{prop} escape {home}/h sdt {dir}', stopwaitsecs: 1}").boot();
    let stays = hob.running("stays");
    let goes = hob.running("goes");
    let helper: i32 = hob.wait_file("h").split(' ').nth(1).and_then(|p| p.parse().ok()).expect("a pid");
    hob.home
        .write("dotcloud.yml", "www:\n  type: custom\n  processes:\n    stays: sleep 1000\n    comes: sleep 1000\n");
    hob.ok(&["reload"]);
    wait_for("it and its helper gone", || (!lives(goes) && !lives(helper)).then_some(()));
    hob.running("comes");
    wait_for("its name gone", || (hob.status().len() == 2).then_some(()));
    assert_eq!(hob.hob(&["status", "goes"]).code, 1);
    assert_eq!((hob.running("stays"), hob.process("stays").restarts()), (stays, 0));

    // A reload that gives a process back while its stop is under way.
    let slow = "    slow: {command: '{prop} stubborn 1', stopwaitsecs: 1}\n";
    let base = "www:\n  type: custom\n  processes:\n    stays: sleep 1000\n";
    hob.home.write("dotcloud.yml", &format!("{base}{slow}"));
    hob.ok(&["reload"]);
    let first = hob.running("slow");
    hob.home.write("dotcloud.yml", base);
    hob.ok(&["reload"]);
    hob.home.write("dotcloud.yml", &format!("{base}{slow}"));
    hob.ok(&["reload"]);
    let second = hob.running_again("slow", first);
    assert!(!lives(first) && lives(second));
    hob.shutdown();
}

// ---------------------------------------------------------------- 15 memory pressure

#[test]
fn the_kernel_would_take_every_process_before_hob() {
    let score = |pid: i32| -> i32 {
        let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("it is alive");
        text.trim().parse().expect("a number")
    };
    let own = score(std::process::id() as i32);
    // Many, as those are started in another way than a few.
    let many: Vec<String> = (0..60).map(|n| format!("p{n}: {{command: sleep 1000, startsecs: 0}}")).collect();
    let hob = Home::with(&format!("{}\nchosen: {{command: sleep 1000, oom_score_adj: {}}}", many.join("\n"), own + 77))
        .boot();
    let processes: Vec<i32> = (0..60).map(|n| hob.running(&format!("p{n}"))).collect();
    assert!(processes.iter().all(|p| score(*p) > own), "{:?}", processes.iter().map(|p| score(*p)).collect::<Vec<_>>());
    assert_eq!(score(hob.running("chosen")), own + 77);
    assert_eq!((score(hob.pid), score(logger_of(&hob))), (own, own));
    hob.ok(&["restart", "p0"]);
    assert!(score(hob.running("p0")) > own);
    hob.shutdown();
}

#[test]
fn a_reload_that_takes_six_hundred_processes_away_leaves_no_descriptor_behind() {
    let few = "www:\n  type: custom\n  processes:\n    stays: sleep 1000\n";
    let many: Vec<String> = (0..600).map(|n| format!("    p{n}: {{command: sleep 1000, startsecs: 0}}\n")).collect();
    let hob = Home::new(few).settings("log_level = \"error\"\n").boot();
    let stays = hob.running("stays");
    let logger = logger_of(&hob);
    let before = (fd_count(hob.pid), fd_count(logger));
    hob.home.write("dotcloud.yml", &format!("{few}{}", many.concat()));
    hob.ok(&["reload"]);
    wait_for("all of them", || (hob.status().iter().filter(|p| p.state() == "RUNNING").count() == 601).then_some(()));
    assert!(fd_count(hob.pid) > before.0 + 600);
    hob.home.write("dotcloud.yml", few);
    hob.ok(&["reload"]);
    let end = Instant::now() + PATIENCE;
    while (fd_count(hob.pid), fd_count(logger)) > before {
        let now = (fd_count(hob.pid), fd_count(logger));
        assert!(Instant::now() < end, "descriptors of hob and its logger: {before:?} before, {now:?} after");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(hob.running("stays"), stays);
    hob.shutdown();
}
