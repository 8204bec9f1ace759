//! The control socket with a real supervisor, real sockets and a made-up daemon with its own clock.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use super::*;
use crate::plan::*;
use crate::supervisor::event::{Action, Exit, Survivor};

const FIRST: usize = 1000;

struct FakeHost {
    supervisor: Supervisor,
    now: Time,
    /// Children obey their stop signal at once.
    obedient: bool,
    /// What outlives every signal.
    stubborn: Vec<Survivor>,
    signals: Vec<(Run, i32)>,
    tickets: Vec<Ticket>,
    log_queries: Vec<LogQuery>,
    shutdowns: usize,
    decided: Vec<Action>,
}

impl Host for FakeHost {
    fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }
    fn pid(&self, run: Run) -> Option<i32> {
        Some(4000 + run.number as i32)
    }
    fn now(&self) -> Time {
        self.now
    }
    fn info(&self) -> wire::Info {
        wire::Info {
            version: "0".into(),
            pid: 1,
            state: "running".into(),
            uptime: 1.0,
            upgrades: 0,
            log_dir: "/l".into(),
            state_dir: "/s".into(),
            source: "home".into(),
            socket: "/r".into(),
            config: Vec::new(),
        }
    }
    fn troubles(&self, _id: ProcessId) -> Vec<String> {
        Vec::new()
    }
    fn feed(&mut self, event: Event) {
        self.supervisor.handle(self.now, event);
    }
    fn signal(&mut self, run: Run, signal: i32) -> io::Result<()> {
        self.signals.push((run, signal));
        Ok(())
    }
    fn reload(&mut self, ticket: Ticket, _deployed: Option<bool>) {
        self.tickets.push(ticket);
    }
    fn stream_logs(&mut self, socket: OwnedFd, query: LogQuery) {
        self.log_queries.push(query.clone());
        logs::send_logs(socket, &query, |_, line| line("web", b"hello")).expect("the client takes it");
    }
    fn upgrade(&mut self, ticket: Ticket) {
        self.tickets.push(ticket);
    }
    fn shutdown(&mut self) {
        self.shutdowns += 1;
    }
    fn settle(&mut self) {
        while let Some(action) = self.supervisor.poll_action() {
            self.decided.push(action);
        }
    }
    fn identification(&self) -> String {
        "supervisor".into()
    }
    fn is_ending(&self) -> bool {
        self.supervisor.is_shutting_down()
    }
    fn configured(&self) -> Option<&Plan> {
        None
    }
    fn add_group(&mut self, _name: &str) -> Result<(), GroupError> {
        Err(GroupError::AlreadyAdded)
    }
    fn remove_group(&mut self, _name: &str) -> Result<(), GroupError> {
        Err(GroupError::StillRunning)
    }
    fn changed_in_group(&self, _name: &str) -> Result<Vec<ProcessId>, GroupError> {
        Err(GroupError::Unknown)
    }
    fn update_group(&mut self, _name: &str) -> Result<(), GroupError> {
        Err(GroupError::Unknown)
    }
    fn set_enabled(&mut self, _ids: &[ProcessId], _is_enabled: bool) -> io::Result<()> {
        Ok(())
    }
    fn reread(&mut self, ticket: Ticket) {
        self.tickets.push(ticket);
    }
    fn restart(&mut self, ticket: Ticket) {
        self.tickets.push(ticket);
    }
    fn clear_logs(&mut self, _ids: &[ProcessId], _main: bool, ticket: Ticket) {
        self.tickets.push(ticket);
    }
    fn count_logs(&mut self, _: Ticket) {}
    fn fetch(&mut self, ticket: Ticket, _piece: LogPiece) {
        self.tickets.push(ticket);
    }
    fn look_up(&self, _id: ProcessId) -> Result<(), (bool, String)> {
        Ok(())
    }
    fn spawn_error(&self, _id: ProcessId) -> Option<String> {
        None
    }
    fn send_stdin(&mut self, _id: ProcessId, _bytes: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn remote_event(&mut self, _kind: &str, _data: &str) {}
    fn sync_log(&mut self, _ticket: Ticket, _has_acted: bool) -> bool {
        false
    }
    fn main_log(&self) -> Option<PathBuf> {
        None
    }
    fn follow_log(&mut self, _socket: OwnedFd, _tail: Tail) {}
}

struct Bench {
    control: Control,
    host: FakeHost,
    poll: mio::Poll,
    path: PathBuf,
    runs: BTreeMap<String, Run>,
    _dir: tempfile::TempDir,
}

fn spec(group: &str, process: &str) -> Spec {
    Spec {
        name: Name { group: group.into(), process: process.into() },
        command: Command { line: "true".into(), kind: CommandKind::Simple },
        directory: "/".into(),
        env: BTreeMap::new(),
        profile: None,
        user: None,
        umask: None,
        limits: Limits::default(),
        priority: 999,
        autostart: false,
        after: Vec::new(),
        restart: Restart {
            autorestart: Autorestart::Always,
            exitcodes: vec![0],
            startsecs: Duration::from_secs(1),
            startretries: None,
            delay: Duration::from_secs(1),
            delay_max: Duration::from_secs(60),
            oneshot: false,
            backoff: Backoff::Doubling,
        },
        stop: Stop { signal: 15, wait: Duration::from_secs(10), drain: Duration::ZERO, reach: Reach::Everything },
        program: None,
        is_helper: false,
        ready: None,
        health: None,
        memory_limit: None,
        pidfile: None,
        log: LogSpec { path: format!("/l/{process}.log").into(), ..LogSpec::default() },
    }
}

fn instance(name: &str) -> Instance {
    Instance {
        binds: Vec::new(),
        name: name.into(),
        service: name.into(),
        number: 0,
        home: "/h".into(),
        code: "/c".into(),
        log_dir: "/l".into(),
        ports: vec![Port {
            name: "www".into(),
            protocol: Protocol::Http,
            mode: Mode::Balance,
            number: 42800,
            front: None,
        }],
        env: [("SECRET".to_owned(), "x".to_owned())].into(),
        user: None,
    }
}

impl Bench {
    fn with(specs: Vec<Spec>) -> Bench {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("hob.sock");
        let poll = mio::Poll::new().expect("a poll");
        let address = Address::Unix { path: path.clone(), mode: 0o600, owner: None, group: None };
        let server = Server { name: "hob".into(), address, login: None };
        let mut control = Control::bind(&[server]).expect("binds");
        control.register(poll.registry(), FIRST).expect("registers");
        let host = FakeHost {
            supervisor: Supervisor::new(1),
            now: Time(Duration::from_secs(1000)),
            obedient: true,
            stubborn: Vec::new(),
            signals: Vec::new(),
            tickets: Vec::new(),
            log_queries: Vec::new(),
            shutdowns: 0,
            decided: Vec::new(),
        };
        let mut bench = Bench { control, host, poll, path, runs: BTreeMap::new(), _dir: dir };
        let plan = Plan { instances: vec![instance("web")], specs, ..Plan::default() };
        bench.feed(Event::Plan(plan));
        bench
    }

    fn feed(&mut self, event: Event) {
        self.host.feed(event);
        self.act();
    }

    /// What the daemon does between two looks at its descriptors.
    fn act(&mut self) {
        loop {
            let early = (!self.host.decided.is_empty()).then(|| self.host.decided.remove(0));
            let Some(action) = early.or_else(|| self.host.supervisor.poll_action()) else { break };
            match action {
                Action::Spawn(run) => {
                    let process = self.host.supervisor.process(run.job.process()).expect("is in the table");
                    self.runs.insert(process.spec().name.to_string(), run);
                }
                Action::Signal(run, signal) if self.host.obedient => {
                    self.host.feed(Event::Exited(run, Exit::Signal { signal, core: false, oom: false }));
                }
                Action::Sweep(run, _) => self.host.feed(Event::Swept(run, self.host.stubborn.clone())),
                Action::Changed(change) => self.control.changed(&change, &mut self.host),
                Action::Removed(_) => self.control.removed(),
                _ => {}
            }
        }
    }

    fn dies(&mut self, name: &str, exit: Exit) {
        let run = self.runs[name];
        self.feed(Event::Exited(run, exit));
    }

    fn turn(&mut self) {
        let mut events = mio::Events::with_capacity(1024);
        self.poll.poll(&mut events, Some(Duration::ZERO)).expect("polls");
        let registry = self.poll.registry().try_clone().expect("clones");
        for event in &events {
            self.control.ready(&registry, event, &mut self.host);
        }
        self.act();
        self.host.supervisor.handle_timeout(self.host.now);
        self.act();
        self.control.handle_timeout(self.host.now, &mut self.host);
        self.act();
    }

    /// Until nothing is ready any more; what is sent through a local socket has arrived when the send returns.
    fn settle(&mut self) {
        for _ in 0..20 {
            self.turn();
        }
    }

    fn pass(&mut self, secs: f64) {
        self.host.now = self.host.now + Duration::from_secs_f64(secs);
        self.settle();
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).expect("connects");
        stream.set_nonblocking(true).expect("a local socket");
        stream
    }

    fn send(&mut self, request: &str) -> UnixStream {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).expect("takes a small request");
        self.settle();
        stream
    }

    fn post(&mut self, path: &str, body: &str) -> UnixStream {
        self.send(&format!("POST {path} HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    }

    fn get(&mut self, path: &str) -> (u16, String) {
        let mut stream = self.send(&format!("GET {path} HTTP/1.1\r\nHost: hob\r\n\r\n"));
        answer(&mut stream).expect("an answer at once")
    }

    fn clients(&self) -> usize {
        self.control.clients.iter().flatten().count()
    }
}

/// All that has come, and whether the connection has ended.
fn received(stream: &mut UnixStream) -> (String, bool) {
    let mut bytes = Vec::new();
    let ended = match stream.read_to_end(&mut bytes) {
        Ok(_) => true,
        Err(e) => e.kind() != io::ErrorKind::WouldBlock,
    };
    (String::from_utf8_lossy(&bytes).into_owned(), ended)
}

fn answer(stream: &mut UnixStream) -> Option<(u16, String)> {
    let (text, _) = received(stream);
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.trim_end().to_owned()))
}

fn outcomes(stream: &mut UnixStream) -> Option<Vec<(String, bool, String)>> {
    let (status, body) = answer(stream)?;
    assert_eq!(status, 200, "{body}");
    let outcomes: Vec<wire::Outcome> = serde_json::from_str(&body).expect("outcomes");
    Some(outcomes.into_iter().map(|o| (o.name, o.ok, o.message)).collect())
}

fn one(name: &str, ok: bool, message: &str) -> Option<Vec<(String, bool, String)>> {
    Some(vec![(name.into(), ok, message.into())])
}

// Waiters.

#[test]
fn a_start_is_answered_when_the_process_has_stayed_up() {
    let mut bench = Bench::with(vec![spec("web", "web")]);
    let mut client = bench.post("/v1/processes/web/start", "");
    assert_eq!(outcomes(&mut client), None);
    bench.pass(1.1);
    assert_eq!(outcomes(&mut client), one("web", true, "started"));
    let mut again = bench.post("/v1/processes/web/start", "");
    assert_eq!(outcomes(&mut again), one("web", true, "already started"));
}

#[test]
fn a_start_fails_with_its_first_failure_not_with_its_last() {
    let mut bench = Bench::with(vec![spec("web", "web")]);
    let mut client = bench.post("/v1/start", r#"{"names":["web"]}"#);
    bench.host.now = bench.host.now + Duration::from_millis(300);
    bench.dies("web", Exit::Code(1));
    let [(_, ok, message)] = outcomes(&mut client).expect("answered").try_into().expect("one outcome");
    assert!(!ok);
    assert!(message.starts_with("BACKOFF: exited with code 1 after 0.3s, "), "{message}");
}

#[test]
fn a_start_of_something_that_cannot_be_executed_says_why() {
    let mut bench = Bench::with(vec![spec("web", "web")]);
    let mut client = bench.post("/v1/start", r#"{"names":["web"]}"#);
    bench.dies("web", Exit::CannotExec { stage: "exec".into(), errno: 2 });
    let expected = "FATAL: cannot exec true: no such file or directory";
    assert_eq!(outcomes(&mut client), one("web", false, expected));
}

#[test]
fn the_start_of_a_oneshot_waits_for_its_end() {
    let mut once = spec("web", "web");
    once.restart.oneshot = true;
    once.restart.autorestart = Autorestart::Never;
    let mut bench = Bench::with(vec![once]);
    let mut good = bench.post("/v1/start", r#"{"names":["web"]}"#);
    bench.pass(5.0);
    assert_eq!(outcomes(&mut good), None);
    bench.dies("web", Exit::Code(0));
    assert_eq!(outcomes(&mut good), one("web", true, "done, exited with code 0"));
    let mut bad = bench.post("/v1/start", r#"{"names":["web"]}"#);
    bench.dies("web", Exit::Code(3));
    assert!(!outcomes(&mut bad).expect("answered")[0].1);
}

#[test]
fn a_start_waits_for_what_the_process_is_after() {
    let mut worker = spec("web", "worker");
    worker.after = vec![Name { group: "web".into(), process: "db".into() }];
    let mut bench = Bench::with(vec![spec("web", "db"), worker]);
    let mut client = bench.post("/v1/processes/worker/start", "");
    bench.pass(5.0);
    assert_eq!(outcomes(&mut client), None);
    bench.post("/v1/processes/db/start", "");
    bench.pass(1.1);
    bench.pass(1.1);
    assert_eq!(outcomes(&mut client), one("web:worker", true, "started"));
}

#[test]
fn a_start_that_somebody_else_stops_is_answered() {
    let mut bench = Bench::with(vec![spec("web", "web")]);
    let mut client = bench.post("/v1/processes/web/start", "");
    let mut other = bench.post("/v1/processes/web/stop", "");
    assert!(!outcomes(&mut client).expect("answered")[0].1);
    assert_eq!(outcomes(&mut other), one("web", true, "stopped"));
}

#[test]
fn a_start_that_waits_for_others_is_answered_when_it_is_called_off_or_removed() {
    let specs = || {
        let after = vec![Name { group: "web".into(), process: "db".into() }];
        vec![spec("web", "db"), Spec { after, ..spec("web", "front") }]
    };
    let mut bench = Bench::with(specs());
    let mut client = bench.post("/v1/processes/front/start", "");
    assert_eq!(outcomes(&mut client), None);
    bench.post("/v1/processes/front/stop", "");
    let why = "not started: stopped before it could start";
    assert_eq!(outcomes(&mut client), one("web:front", false, why));
    let mut client = bench.post("/v1/processes/front/start", "");
    assert_eq!(outcomes(&mut client), None);
    let plan = Plan { instances: vec![instance("web")], specs: vec![spec("web", "db")], ..Plan::default() };
    bench.feed(Event::Plan(plan));
    bench.turn();
    assert_eq!(outcomes(&mut client), one("web:front", false, "no longer configured"));
}

#[test]
fn a_stop_is_answered_when_nothing_is_left_and_names_what_stays() {
    let mut bench = Bench::with(vec![spec("web", "web")]);
    bench.post("/v1/processes/web/start", "");
    bench.pass(1.1);
    bench.host.stubborn = vec![Survivor { pid: 4711, command: "helper".into() }];
    let mut client = bench.post("/v1/processes/web/stop", "");
    bench.pass(9.0);
    assert_eq!(outcomes(&mut client), None);
    bench.pass(6.1);
    assert_eq!(outcomes(&mut client), one("web", false, "cannot be stopped: 4711 (helper) still there"));
    bench.host.stubborn.clear();
    let mut client = bench.post("/v1/processes/web/stop", "");
    bench.pass(1.1);
    bench.pass(1.1);
    assert!(outcomes(&mut client).is_some_and(|outcomes| outcomes[0].1));
    let mut client = bench.post("/v1/processes/web/stop", "");
    assert_eq!(outcomes(&mut client), one("web", true, "already stopped"));
}

#[test]
fn a_restart_is_answered_by_the_next_life_only() {
    let mut bench = Bench::with(vec![spec("web", "web")]);
    bench.post("/v1/processes/web/start", "");
    bench.pass(1.1);
    bench.host.obedient = false;
    let mut client = bench.post("/v1/processes/web/restart", "");
    bench.pass(3.0);
    assert_eq!(outcomes(&mut client), None);
    let before = bench.runs["web"];
    bench.dies("web", Exit::Code(0));
    assert_ne!(bench.runs["web"], before);
    assert_eq!(outcomes(&mut client), None);
    bench.pass(1.1);
    assert_eq!(outcomes(&mut client), one("web", true, "restarted"));
}

#[test]
fn a_client_that_is_in_no_hurry_gets_its_own_limit_and_one_in_a_hurry_no_wait() {
    let mut bench = Bench::with(vec![spec("web", "web")]);
    let mut hurried = bench.post("/v1/processes/web/start", r#"{"wait":false}"#);
    assert_eq!(outcomes(&mut hurried), one("web", true, "asked to start"));
    bench.pass(1.1);
    bench.host.obedient = false;
    let mut limited = bench.post("/v1/processes/web/stop", r#"{"timeout":2.5}"#);
    bench.pass(2.0);
    assert_eq!(outcomes(&mut limited), None);
    bench.pass(0.6);
    assert_eq!(outcomes(&mut limited), one("web", false, "timed out: STOPPING"));
}

#[test]
fn one_request_for_a_thousand_processes_is_answered_whole() {
    let mut bench = Bench::with((0..1000).map(|n| spec("web", &format!("p{n}"))).collect());
    let mut client = bench.post("/v1/start", r#"{"names":["all"]}"#);
    bench.pass(1.1);
    let mut text = String::new();
    for _ in 0..50 {
        text += &received(&mut client).0;
        bench.turn();
    }
    let body = text.split_once("\r\n\r\n").expect("an answer").1;
    let outcomes: Vec<wire::Outcome> = serde_json::from_str(body).expect("whole");
    assert_eq!(outcomes.iter().filter(|o| o.ok && o.message == "started").count(), 1000);
    assert!(bench.control.waiters.next_deadline().is_none());
}

#[test]
fn a_client_that_leaves_is_not_waited_for() {
    let mut bench = Bench::with(vec![spec("web", "web")]);
    let client = bench.post("/v1/processes/web/start", "");
    assert!(bench.control.waiters.next_deadline().is_some());
    drop(client);
    bench.settle();
    assert!(bench.control.waiters.next_deadline().is_none());
    assert_eq!(bench.clients(), 0);
}

#[test]
fn everybody_who_waits_is_answered_when_hob_ends() {
    let mut bench = Bench::with(vec![spec("web", "web")]);
    let mut starter = bench.post("/v1/processes/web/start", "");
    let mut ender = bench.post("/v1/shutdown", "");
    let mut reloader = bench.post("/v1/reload", "");
    let mut follower = bench.send("GET /v1/events HTTP/1.1\r\n\r\n");
    assert_eq!(bench.host.shutdowns, 1);
    bench.control.goodbye();
    assert_eq!(outcomes(&mut starter), one("web", false, "hob has been shut down"));
    assert_eq!(answer(&mut ender), Some((200, r#"{"message":"everything is stopped"}"#.into())));
    assert_eq!(answer(&mut reloader).map(|(status, _)| status), Some(503));
    let (text, ended) = received(&mut follower);
    assert!(ended && text.ends_with("0\r\n\r\n"));
    assert!(!bench.path.exists());
}

// Handlers.

#[test]
fn processes_are_listed_and_found_by_any_form_of_their_name() {
    let mut bench = Bench::with(vec![spec("web", "hello"), spec("web", "bye")]);
    bench.post("/v1/processes/hello/start", "");
    bench.pass(1.1);
    let (status, body) = bench.get("/v1/processes");
    let all: Vec<wire::Process> = serde_json::from_str(&body).expect("processes");
    assert_eq!((status, all.len()), (200, 2));
    assert_eq!((all[0].name.as_str(), all[0].state.as_str(), all[0].pid), ("web:hello", "RUNNING", Some(4001)));
    assert_eq!((all[0].ready, all[0].uptime, all[0].restarts), (true, Some(1.1), 0));
    assert_eq!((all[1].state.as_str(), all[1].statecode, all[1].pid), ("STOPPED", 0, None));
    assert!(bench.get("/v1/processes/web:bye").1.contains(r#""name":"web:bye""#));
    assert!(bench.get("/v1/processes?name=bye&name=web%3Ahello").1.starts_with(r#"[{"name":"web:hello""#));
    let (status, body) = bench.get("/v1/processes/helo");
    assert_eq!((status, body.as_str()), (404, r#"{"error":"no process \"helo\"; did you mean \"hello\"?"}"#));
    assert_eq!(bench.get("/v1/processes/web").0, 400);
}

#[test]
fn a_signal_reaches_the_run_and_a_stopped_process_gets_none() {
    let mut bench = Bench::with(vec![spec("web", "hello"), spec("web", "bye")]);
    bench.post("/v1/processes/hello/start", "");
    let mut client = bench.post("/v1/signal", r#"{"names":["web:*"],"signal":"hup"}"#);
    let got = outcomes(&mut client).expect("at once");
    assert_eq!(
        got,
        [("web:hello".to_owned(), true, "got HUP".to_owned()), ("web:bye".to_owned(), false, "not running".to_owned())]
    );
    assert_eq!(bench.host.signals, [(bench.runs["web:hello"], 1)]);
    for body in [r#"{"names":["all"]}"#, r#"{"names":["all"],"signal":"TREM"}"#] {
        assert_eq!(answer(&mut bench.post("/v1/signal", body)).expect("at once").0, 400, "{body}");
    }
}

#[test]
fn a_body_that_makes_no_sense_is_refused() {
    let mut bench = Bench::with(vec![spec("web", "web")]);
    for body in [
        "",
        "{}",
        "[]",
        "nonsense",
        "\u{0}",
        r#"{"names":"web"}"#,
        r#"{"names":[],"wait":true}"#,
        r#"{"nmaes":["web"]}"#,
        r#"{"names":["web"],"timeout":-1}"#,
        r#"{"names":["web"],"timeout":1e300}"#,
        r#"{"names":["web"],"signal":"HUP"}"#,
    ] {
        assert_eq!(answer(&mut bench.post("/v1/start", body)).expect("at once").0, 400, "{body}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(answer(&mut bench.post("/v1/start", &deep)).expect("at once").0, 400);
    assert!(bench.runs.is_empty());
}

#[test]
fn an_instance_shows_its_ports_and_to_its_owner_its_environment() {
    let mut bench = Bench::with(vec![spec("web", "web")]);
    assert!(bench.get("/v1/instances").1.contains(r#""url":"http://127.0.0.1:42800/""#));
    assert!(bench.get("/v1/instances/web.0").1.contains(r#""processes":["web"]"#));
    assert!(bench.get("/v1/instances/web/environment").1.contains(r#""SECRET":"x""#));
    assert_eq!(bench.get("/v1/instances/nope").0, 404);
}

#[test]
fn health_is_503_until_everything_that_should_run_does() {
    let mut web = spec("web", "web");
    web.autostart = true;
    let mut bench = Bench::with(vec![web, spec("web", "manual")]);
    assert_eq!(bench.get("/v1/health").0, 503);
    bench.pass(1.1);
    assert_eq!(bench.get("/v1/health"), (200, r#"{"ok":true,"problems":[]}"#.into()));
    bench.dies("web", Exit::CannotExec { stage: "exec".into(), errno: 13 });
    assert_eq!(bench.get("/v1/health").0, 503);
    let mut bench = Bench::with(Vec::new());
    assert_eq!(bench.get("/v1/health").0, 200);
}

#[test]
fn a_reload_answers_what_changed_or_every_error() {
    let mut bench = Bench::with(Vec::new());
    let mut good = bench.post("/v1/reload", "");
    let mut bad = bench.post("/v1/reload", "");
    let mut single = bench.post("/v1/reload", "");
    let [first, second, third] = bench.host.tickets[..] else { panic!("three tickets") };
    bench.control.reload_done(second, Err(vec!["a.yml:1:1: x".into(), "a.yml:2:1: y".into()]), &mut bench.host);
    bench.control.reload_done(third, Err(vec!["a.yml:1:1: x".into()]), &mut bench.host);
    bench.control.reload_done(first, Ok("2 processes".into()), &mut bench.host);
    assert_eq!(answer(&mut good), Some((200, r#"{"message":"2 processes"}"#.into())));
    let errors = r#"{"error":"a.yml:1:1: x","errors":["a.yml:1:1: x","a.yml:2:1: y"]}"#;
    assert_eq!(answer(&mut bad), Some((422, errors.into())));
    assert_eq!(answer(&mut single), Some((422, r#"{"error":"a.yml:1:1: x","errors":["a.yml:1:1: x"]}"#.into())));
}

#[test]
fn logs_are_served_by_somebody_else_who_takes_the_connection() {
    let mut bench = Bench::with(vec![spec("web", "hello")]);
    let (status, body) = bench.get("/v1/logs?name=hello&lines=5&follow=1&since=12.5");
    assert_eq!(status, 200);
    assert!(body.contains(r#"{"name":"web","line":"hello"}"#) && body.ends_with('0'));
    let query = bench.host.log_queries.pop().expect("was asked");
    assert_eq!((query.lines, query.follow, query.since), (Some(5), true, Some(Duration::from_millis(12500))));
    assert_eq!(query.files, [logs::LogFile { name: "web:hello".into(), path: "/l/hello.log".into() }]);
    bench.get("/v1/logs");
    assert_eq!(bench.host.log_queries.pop().expect("was asked").dirs, [PathBuf::from("/l")]);
    assert_eq!(bench.get("/v1/logs?lines=many").0, 400);
    bench.settle();
    assert_eq!(bench.clients(), 0);
}

#[test]
fn events_are_streamed_and_kept_for_later() {
    let mut bench = Bench::with(vec![spec("web", "web")]);
    let mut follower = bench.send("GET /v1/events HTTP/1.1\r\n\r\n");
    bench.post("/v1/processes/web/start", "");
    bench.pass(1.1);
    let (text, ended) = received(&mut follower);
    let tos: Vec<&str> = text.split("\"to\":\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!((tos, ended), (vec!["STARTING", "RUNNING"], false));
    let (_, recent) = bench.get("/v1/events?follow=false&recent=1");
    assert!(recent.contains(r#""to":"RUNNING""#) && !recent.contains(r#""to":"STARTING""#) && recent.ends_with('0'));
}

// Hostile and slow clients.

#[test]
fn a_follower_that_does_not_read_is_told_and_left_and_costs_a_bounded_amount() {
    let mut bench = Bench::with(vec![spec("web", "web")]);
    let mut slow = bench.send("GET /v1/events HTTP/1.1\r\n\r\n");
    bench.post("/v1/processes/web/start", "");
    let change = Change {
        id: ProcessId(0),
        name: Name { group: "web".into(), process: "web".into() },
        from: crate::supervisor::event::Phase::Running,
        to: crate::supervisor::event::Phase::Exited,
        at: bench.host.now,
        why: "x".repeat(1000),
        exit: None,
        tries: 0,
    };
    for _ in 0..5000 {
        bench.control.changed(&change, &mut bench.host);
        bench.control.handle_timeout(bench.host.now, &mut bench.host);
    }
    let mut text = String::new();
    loop {
        let (more, ended) = received(&mut slow);
        text += &more;
        bench.turn();
        if ended {
            break;
        }
    }
    assert!(text.len() < 1 << 20, "{} bytes", text.len());
    assert!(text.ends_with("0\r\n\r\n") && text.contains("too slow: changes were missed"));
}

#[test]
fn a_request_that_is_not_finished_in_time_gets_408_and_an_idle_client_is_closed() {
    let mut bench = Bench::with(Vec::new());
    let mut slow = bench.send("GET /v1/info HT");
    let mut silent = bench.send("");
    let mut idle = bench.send("GET /v1/info HTTP/1.1\r\n\r\n");
    assert_eq!(answer(&mut idle).expect("at once").0, 200);
    bench.pass(9.0);
    assert_eq!(received(&mut slow), (String::new(), false));
    bench.pass(2.0);
    let (text, ended) = received(&mut slow);
    assert!(ended && text.starts_with("HTTP/1.1 408 "));
    assert_eq!(received(&mut silent), (String::new(), true));
    assert!(!received(&mut idle).1);
    bench.pass(20.0);
    assert!(received(&mut idle).1);
    assert_eq!(bench.control.next_deadline(), None);
}

#[test]
fn a_byte_now_and_then_does_not_buy_more_time() {
    let mut bench = Bench::with(Vec::new());
    let mut slow = bench.connect();
    for _ in 0..12 {
        let _ = slow.write_all(b"G");
        bench.pass(1.0);
    }
    assert!(received(&mut slow).1);
}

#[test]
fn requests_sent_together_are_answered_in_order() {
    let mut bench = Bench::with(Vec::new());
    let mut client = bench.send(&"GET /v1/info HTTP/1.1\r\n\r\nHEAD /v1/nope HTTP/1.1\r\n\r\n".repeat(100));
    let (text, ended) = received(&mut client);
    let statuses: Vec<&str> = text.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "404"].repeat(100));
    assert!(!ended);
}

#[test]
fn a_client_that_closes_its_side_still_gets_its_answer() {
    let mut bench = Bench::with(vec![spec("web", "web")]);
    let mut client = bench.connect();
    client.write_all(b"POST /v1/processes/web/start HTTP/1.1\r\n\r\n").expect("sent");
    client.shutdown(std::net::Shutdown::Write).expect("half closed");
    bench.settle();
    bench.pass(1.1);
    assert_eq!(outcomes(&mut client), one("web", true, "started"));
    bench.settle();
    assert_eq!(bench.clients(), 0);
}

#[test]
fn the_longest_idle_client_makes_room_and_one_that_waits_does_not() {
    let mut bench = Bench::with(vec![spec("web", "web")]);
    bench.host.obedient = false;
    let mut waiting = bench.post("/v1/processes/web/start", "");
    let mut others: Vec<UnixStream> = (1..MAX_CLIENTS).map(|_| bench.send("GET /v1/info HTTP/1.1\r\n\r\n")).collect();
    assert_eq!(bench.clients(), MAX_CLIENTS);
    bench.host.now = bench.host.now + Duration::from_millis(1);
    assert_eq!(bench.get("/v1/info").0, 200);
    assert!(received(&mut others[0]).1);
    assert!(!received(&mut others[1]).1);
    assert_eq!(received(&mut waiting), (String::new(), false));
}

#[test]
fn a_deleted_socket_is_made_again_and_somebody_elses_is_left() {
    let mut bench = Bench::with(Vec::new());
    std::fs::remove_file(&bench.path).expect("deleted");
    bench.control.rebind();
    assert_eq!(bench.get("/v1/info").0, 200);
    std::fs::remove_file(&bench.path).expect("deleted");
    std::fs::write(&bench.path, "mine").expect("written");
    bench.control.rebind();
    bench.control.goodbye();
    assert_eq!(std::fs::read_to_string(&bench.path).expect("still there"), "mine");
}

#[test]
fn rubbish_is_refused_and_the_next_client_served() {
    let mut bench = Bench::with(Vec::new());
    for rubbish in
        ["\u{16}\u{3}\u{1}\n\n", "GET / HTTP/9.9\r\n\r\n", "POST /v1/stop HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n"]
    {
        let mut client = bench.send(rubbish);
        let (text, ended) = received(&mut client);
        assert!(ended && text.starts_with("HTTP/1.1 4") || text.starts_with("HTTP/1.1 5"), "{text}");
    }
    assert_eq!(bench.get("/v1/info").0, 200);
}

#[test]
fn a_server_on_the_network_asks_for_its_login_on_every_path_and_takes_the_right_one() {
    let login = Login { username: "user".into(), password: "secret".into() };
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("bound").port();
    drop(free);
    let mut bench = Bench::with(vec![spec("www", "web")]);
    let server = Server {
        name: "inet_http_server".into(),
        address: Address::Inet { host: "127.0.0.1".into(), port },
        login: Some(login),
    };
    bench.control = Control::bind(&[server]).expect("binds");
    bench.control.register(bench.poll.registry(), FIRST).expect("registers");
    let mut ask = |head: &str| {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("connects");
        stream.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).expect("sent");
        stream.set_nonblocking(true).expect("set");
        let mut text = Vec::new();
        for _ in 0..200 {
            // What waits for having guessed wrong gets its turn.
            bench.host.now = bench.host.now + Duration::from_millis(5);
            bench.turn();
            let mut block = [0; 4096];
            match stream.read(&mut block) {
                Ok(0) => break,
                Ok(length) => text.extend_from_slice(&block[..length]),
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        String::from_utf8(text).expect("text")
    };
    for path in ["/v1/info", "/v1/instances/www/environment", "/", "/nothing/here"] {
        let text = ask(&format!("GET {path} HTTP/1.1"));
        assert!(text.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{path}: {text}");
        assert!(text.contains("\r\nWWW-Authenticate: Basic realm=\"default\"\r\n"), "{text}");
    }
    // user:secret, user:wrong
    assert!(ask("GET /v1/info HTTP/1.1\r\nAuthorization: Basic dXNlcjp3cm9uZw==").starts_with("HTTP/1.1 401"));
    assert!(ask("GET /v1/info HTTP/1.1\r\nAuthorization: Basic dXNlcjpzZWNyZXQ=").starts_with("HTTP/1.1 200"));
}
