//! Several instances behind one public port, with a real HAProxy in front of them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::push::{reboot, tree, waiting, with_free_ports};
use crate::support::*;

/// Says who it is, to http and to tcp: `instance 0 of one`. `/slow` takes a while.
const SERVER: &str = r#"
import os, socketserver, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
me = "instance " + os.environ["DOTCLOUD_SERVICE_ID"] + " of " + open(os.path.expanduser("~/version")).read().strip()
class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/slow":
            time.sleep(0.7)
        if self.path == "/from":
            text = "%s %s" % (self.headers["X-Forwarded-For"], self.headers["X-Forwarded-Proto"])
        else:
            text = me
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())
    def log_message(self, *words):
        pass
class Web(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
class Line(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(me.encode() + b"\n")
        self.request.recv(1)
class Lines(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
if "PORT_SQL" in os.environ:
    threading.Thread(target=Lines(("0.0.0.0", int(os.environ["PORT_SQL"])), Line).serve_forever, daemon=True).start()
time.sleep(float(os.environ.get("SLOW", 0)))
Web(("0.0.0.0", int(os.environ["PORT_WWW"])), Http).serve_forever()
"#;

fn user() -> &'static str {
    if nix::unistd::geteuid().is_root() { "user = \"nobody\"\n" } else { "" }
}

/// A waiting daemon with free numbers for so many instances, the public one first.
fn site(more: &str, ports: &[&str], instances: u32) -> (Hob, Vec<u16>) {
    let home = waiting(&format!("{}{more}", user()));
    let mut keys: Vec<String> = ports.iter().map(|port| format!("www.0.{port}")).collect();
    for port in ports {
        keys.push(format!("www.behind.{port}"));
        keys.extend((1..instances).map(|n| format!("www.{n}.{port}")));
    }
    let numbers = with_free_ports(&home, &keys);
    (home.boot(), numbers)
}

fn version(hob: &Hob, version: &str, more: &str) -> String {
    let yml = format!(
        "www:\n  type: custom\n  buildscript: builder\n  process: {{command: python3 ~/server.py, stopsignal: KILL}}\n{more}"
    );
    tree(
        hob,
        &format!("tree-{version}"),
        &[
            ("dotcloud.yml", &yml),
            ("builder", &format!("cp server.py ~/\necho {version} > ~/version\n")),
            ("server.py", SERVER),
        ],
    )
}

const TWO: &str = "  instances: 2\n  ports: {www: http}\n";

/// One request on a connection of its own: the body of a 200, or what was wrong.
fn get(port: u16, path: &str) -> Result<String, String> {
    let told = |what: &str, e: std::io::Error| format!("{what}: {e}");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(|e| told("connect", e))?;
    request(&mut stream, path, "close")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|e| told("read", e))?;
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err(format!("answer {text:?}")),
    }
}

fn request(stream: &mut TcpStream, path: &str, connection: &str) -> Result<(), String> {
    stream.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
    let text = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: {connection}\r\n\r\n");
    stream.write_all(text.as_bytes()).map_err(|e| format!("write: {e}"))
}

/// Who answers in so many requests, each one's count.
fn shares(port: u16, requests: usize) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    for _ in 0..requests {
        *seen.entry(get(port, "/").unwrap_or_else(|why| why)).or_default() += 1;
    }
    seen
}

fn whole(number: u32, version: &str) -> String {
    format!("instance {number} of {version}")
}

/// Clients that never stop asking: some on a connection for each request, one on the same again and again, one whose
/// requests take long.
struct Hammer {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<(usize, Vec<String>)>>,
    clients: Vec<JoinHandle<()>>,
}

impl Hammer {
    fn on(port: u16) -> Hammer {
        let mut hammer = Hammer { stop: Arc::default(), seen: Arc::default(), clients: Vec::new() };
        for kind in ["/", "/", "/slow", "kept"] {
            let (stop, seen) = (Arc::clone(&hammer.stop), Arc::clone(&hammer.seen));
            hammer.clients.push(thread::spawn(move || {
                let mut kept = None;
                while !stop.load(Ordering::Relaxed) {
                    let answer = if kind == "kept" { again(&mut kept, port) } else { get(port, kind) };
                    let mut seen = seen.lock().expect("nobody panics with it");
                    match answer {
                        Ok(_) => seen.0 += 1,
                        Err(why) => {
                            kept = None;
                            seen.1.push(format!("{kind}: {why}"));
                        }
                    }
                    drop(seen);
                    // Two cores are shared with the servers.
                    thread::sleep(Duration::from_millis(2));
                }
            }));
        }
        hammer
    }

    /// Ends it: how many requests went well, and what was wrong with the others.
    fn stop(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("it does not panic");
        }
        std::mem::take(&mut *self.seen.lock().expect("nobody has it"))
    }
}

/// One more request on the same connection.
fn again(kept: &mut Option<TcpStream>, port: u16) -> Result<String, String> {
    let stream = match kept {
        Some(stream) => stream,
        None => kept.insert(TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?),
    };
    request(stream, "/", "keep-alive")?;
    let mut answer = Vec::new();
    let mut block = [0; 4096];
    loop {
        let length = stream.read(&mut block).map_err(|e| format!("read: {e}"))?;
        answer.extend_from_slice(&block[..length]);
        let text = String::from_utf8_lossy(&answer);
        if length == 0 {
            return Err(format!("the connection ended after {text:?}"));
        }
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            if !head.starts_with("HTTP/1.1 200") {
                return Err(format!("answer {text:?}"));
            }
            if body.starts_with("instance ") && body.len() > "instance 0 of ".len() {
                let body = body.to_owned();
                if head.to_ascii_lowercase().contains("connection: close") {
                    *kept = None;
                }
                return Ok(body);
            }
        }
    }
}

#[test]
fn two_instances_answer_in_turn_at_one_public_port() {
    if !need_all(&["haproxy", "python3"]) {
        return;
    }
    let (hob, ports) = site("", &["www"], 2);
    let url = format!("www: http://127.0.0.1:{}/", ports[0]);
    hob.ok(&["push", &version(&hob, "one", TWO)]).says(&url);
    assert_eq!(shares(ports[0], 10), BTreeMap::from([(whole(0, "one"), 5), (whole(1, "one"), 5)]));
    assert_eq!(get(ports[0], "/from").as_deref(), Ok("127.0.0.1 http"));
    assert_eq!(hob.ok(&["url"]).out, format!("{url}\n"));
    let table = hob.ok(&["ports"]).out;
    assert_eq!(table.matches(&format!("{} (balance)", ports[0])).count(), 2, "{table}");
    hob.ok(&["info", "www"]).says(&format!("balance at http://127.0.0.1:{}/", ports[0]));
    // Each instance has its own.
    for (number, port) in [(0, ports[1]), (1, ports[2])] {
        assert_eq!(get(port, "/"), Ok(whole(number, "one")));
        let json = hob.ok(&["run", &format!("www.{number}"), "--", "cat", "environment.json"]).json();
        assert_eq!(json["PORT_WWW"], port);
        assert_eq!(json["DOTCLOUD_WWW_HTTP_URL"], format!("http://127.0.0.1:{}/", ports[0]));
        assert_eq!(json[format!("DOTCLOUD_WWW_HTTP_URL_{number}")], format!("http://127.0.0.1:{port}/"));
    }
    // A process as any other, whose files are nobody else's.
    hob.running("haproxy");
    hob.ok(&["why", "haproxy"]).says("haproxy.cfg");
    let file = hob.home.beside("state/haproxy/haproxy.cfg");
    let mode = |path: &Path| std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).expect("there").permissions());
    assert_eq!((mode(&file) & 0o777, mode(file.parent().expect("a folder")) & 0o777), (0o600, 0o700));
    // What runs takes a restart, and a hob that was killed, with the same ports.
    hob.ok(&["restart", "haproxy"]);
    wait_for("it is back", || get(ports[0], "/").ok());
    let hob = reboot(hob);
    wait_for("it is back", || get(ports[0], "/").ok());
    hob.shutdown();
    assert!(get(ports[0], "/").is_err());
}

#[test]
fn no_request_fails_while_a_release_replaces_another() {
    if !need_all(&["haproxy", "python3"]) {
        return;
    }
    let (hob, ports) = site("", &["www"], 3);
    hob.ok(&["push", &version(&hob, "one", TWO)]);
    let hammer = Hammer::on(ports[0]);
    hob.ok(&["env", "set", "A=b"]);
    // The port that every service has, which nobody has to listen on; this one does, but not at once.
    hob.ok(&["push", &version(&hob, "two", "  instances: 2\n  environment: {SLOW: 0.7}\n")]);
    assert!(accepts(ports[1]) && accepts(ports[2]), "both serve when it is over");
    hob.ok(&["deploy", "previous"]);
    hob.ok(&["scale", "www=3"]);
    hob.ok(&["scale", "www=2"]);
    // One that is refused, after the first instance has been replaced.
    let bad = version(&hob, "bad", &format!("{TWO}  postinstall: 'test $DOTCLOUD_SERVICE_ID = 0'\n"));
    hob.hob(&["push", &bad]).expect(1);
    let (good, bad) = hammer.stop();
    assert!(bad.is_empty(), "{} of {good}: {:?}\n{}", bad.len(), &bad[..bad.len().min(5)], hob.diary());
    assert!(good > 500, "{good}");
    assert_eq!(shares(ports[0], 4), BTreeMap::from([(whole(0, "one"), 2), (whole(1, "one"), 2)]));
    hob.shutdown();
}

#[test]
fn the_public_port_stays_when_a_service_is_scaled_up_and_down() {
    if !need_all(&["haproxy", "python3"]) {
        return;
    }
    let (hob, ports) = site("", &["www"], 3);
    let url = format!("www: http://127.0.0.1:{}/\n", ports[0]);
    hob.ok(&["push", &version(&hob, "one", "  ports: {www: http}\n")]);
    assert_eq!((hob.ok(&["url"]).out, get(ports[0], "/")), (url.clone(), Ok(whole(0, "one"))));
    assert!(!hob.ok(&["status"]).out.contains("haproxy"), "one instance needs none");
    hob.ok(&["scale", "www=3"]);
    assert_eq!(hob.ok(&["url"]).out, url);
    assert_eq!(shares(ports[0], 9).into_values().collect::<Vec<_>>(), [3, 3, 3]);
    hob.ok(&["scale", "www=1"]);
    assert_eq!((hob.ok(&["url"]).out, get(ports[0], "/")), (url, Ok(whole(0, "one"))));
    assert!(!hob.ok(&["status"]).out.contains("haproxy"));
    hob.shutdown();
}

#[test]
fn hob_ends_with_the_processes_of_the_user_whatever_haproxy_does_and_not_during_a_push() {
    if !need("haproxy") {
        return;
    }
    let (mut hob, _) = site("exit_when = \"all-exited\"", &["www"], 2);
    // No ports: the one that every service has then.
    let yml = "www:\n  type: custom\n  instances: 2\n  process: {command: sleep 1000, autorestart: false}\n";
    let dir = tree(&hob, "sleeps", &[("dotcloud.yml", yml)]);
    hob.ok(&["push", &dir]);
    hob.ok(&["push", &dir]);
    hob.ok(&["scale", "www=1"]);
    hob.ok(&["scale", "www=2"]);
    let haproxy = hob.running("haproxy");
    for name in ["www.0:www", "www.1:www"] {
        let _ = kill(Pid::from_raw(hob.running(name)), Signal::SIGTERM);
    }
    assert_eq!(hob.wait_end(), 128 + 15);
    assert!(!lives(haproxy));
    hob.nothing_is_left();
}

#[test]
fn a_service_without_any_port_has_no_haproxy_however_many_there_are() {
    let (hob, _) = site("", &["www"], 3);
    let yml = "www:\n  type: custom\n  instances: 3\n  ports: {}\n  process: sleep 1000\n";
    hob.ok(&["push", &tree(&hob, "workers", &[("dotcloud.yml", yml)])]);
    let names: Vec<String> = hob.status().iter().map(|process| process.name().to_owned()).collect();
    assert_eq!(names, ["www.0:www", "www.1:www", "www.2:www"]);
    assert!(!hob.home.beside("state/haproxy").exists());
    hob.shutdown();
}

#[test]
fn with_proxy_always_requests_wait_while_the_only_instance_is_replaced() {
    if !need_all(&["haproxy", "python3"]) {
        return;
    }
    let (hob, ports) = site("proxy = \"always\"", &["www"], 2);
    hob.ok(&["push", &version(&hob, "one", "  ports: {www: http}\n")]);
    hob.running("haproxy");
    let stop = Arc::new(AtomicBool::new(false));
    let client = thread::spawn({
        let (stop, port) = (Arc::clone(&stop), ports[0]);
        move || {
            let mut answers: Vec<Result<String, String>> = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                answers.push(get(port, "/"));
                thread::sleep(Duration::from_millis(20));
            }
            answers
        }
    });
    hob.ok(&["scale", "www=2"]);
    hob.ok(&["scale", "www=1"]);
    hob.ok(&["push", &version(&hob, "two", "  ports: {www: http}\n")]);
    assert_eq!(get(ports[0], "/"), Ok(whole(0, "two")));
    stop.store(true, Ordering::Relaxed);
    let answers = client.join().expect("it does not panic");
    // A request that is under way when the only instance is killed has nowhere to go.
    let bad: Vec<_> = answers.iter().filter(|answer| answer.is_err()).collect();
    assert!(bad.len() <= 1, "{bad:?}");
    assert!(answers.len() > 20, "{}", answers.len());
    hob.shutdown();
}

#[test]
fn an_instance_or_haproxy_or_hob_that_is_killed_comes_back_and_the_others_answer() {
    if !need_all(&["haproxy", "python3"]) {
        return;
    }
    let (mut hob, ports) = site("", &["www"], 2);
    let slow = "  instances: 2\n  ports: {www: http}\n";
    hob.ok(&["push", &version(&hob, "one", slow)]);
    // An instance that does not come back by itself.
    let first = hob.running("www.0:www");
    hob.ok(&["stop", "www.0:www"]);
    assert!(!lives(first));
    let begin = Instant::now();
    assert_eq!(shares(ports[0], 20), BTreeMap::from([(whole(1, "one"), 20)]));
    assert!(begin.elapsed() < Duration::from_secs(5), "half of them would have waited: {:?}", begin.elapsed());
    hob.ok(&["start", "www.0:www"]);
    wait_for("it is taken in again", || (get(ports[0], "/") == Ok(whole(0, "one"))).then_some(()));
    // HAProxy, with its worker.
    let master = hob.running("haproxy");
    for pid in tree_of(master) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    hob.running_again("haproxy", master);
    wait_for("it serves", || get(ports[0], "/").ok());
    // The worker alone, and the master alone.
    let worker = children_of(hob.running("haproxy"))[0].0;
    kill(Pid::from_raw(worker), Signal::SIGKILL).expect("it runs");
    wait_for("it serves", || get(ports[0], "/").ok());
    let master = hob.running("haproxy");
    kill(Pid::from_raw(master), Signal::SIGKILL).expect("it runs");
    hob.running_again("haproxy", master);
    wait_for("it serves", || get(ports[0], "/").ok());
    // And hob.
    hob.signal(Signal::SIGKILL);
    hob.wait_end();
    let hob = hob.into_home().boot();
    wait_for("both serve", || (shares(ports[0], 4).into_values().collect::<Vec<_>>() == [2, 2]).then_some(()));
    hob.ok(&["reload"]);
    hob.ok(&["push", &version(&hob, "two", TWO)]);
    assert_eq!(shares(ports[0], 2).len(), 2);
    hob.shutdown();
}

/// What a tcp server says first; the connection stays open as long as the stream does.
fn hello(port: u16) -> Option<(String, TcpStream)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        text.push(byte[0]);
    }
    Some((String::from_utf8_lossy(&text).trim().to_owned(), stream))
}

fn says(port: u16) -> Option<String> {
    hello(port).map(|(text, _)| text)
}

fn with_sql(mode: &str) -> String {
    format!("  instances: 2\n  ports: {{www: http, sql: {mode}}}\n")
}

#[test]
fn a_tcp_port_is_first_unless_it_says_balance_or_failover() {
    if !need_all(&["haproxy", "python3"]) {
        return;
    }
    let (hob, ports) = site("proxy_drain = \"1s\"", &["www", "sql"], 2);
    // www, sql, www behind, www.1, sql behind, sql.1: as `site` asks for them.
    let (public, behind, second) = (ports[1], ports[4], ports[5]);
    hob.ok(&["push", &version(&hob, "one", &with_sql("tcp"))]);
    assert_eq!((says(public), says(second)), (Some(whole(0, "one")), Some(whole(1, "one"))));
    assert!(says(behind).is_none(), "instance 0 has the public port itself");
    let table = hob.ok(&["ports"]).out;
    assert!(table.lines().any(|line| line.starts_with("www.1") && line.contains(&format!("{second}  -"))), "{table}");

    hob.ok(&["push", &version(&hob, "two", &with_sql("{type: tcp, mode: balance}"))]);
    let mut seen: Vec<_> = (0..4).filter_map(|_| says(public)).collect();
    seen.sort();
    let both = [whole(0, "two"), whole(0, "two"), whole(1, "two"), whole(1, "two")];
    assert_eq!(seen, both);
    let url = format!("tcp://127.0.0.1:{public}");
    let json = hob.ok(&["run", "www.1", "--", "cat", "environment.json"]).json();
    assert_eq!((&json["DOTCLOUD_WWW_SQL_URL"], &json["PORT_SQL"]), (&url.into(), &second.into()));

    hob.ok(&["push", &version(&hob, "three", &with_sql("{type: tcp, mode: failover}"))]);
    for _ in 0..4 {
        assert_eq!(says(public), Some(whole(0, "three")));
    }
    // Whoever was with the one that goes down is told, and finds the other one.
    let (_, mut open) = hello(public).expect("it serves");
    hob.ok(&["stop", "www.0:www"]);
    assert_eq!(open.read(&mut [0; 16]).unwrap_or(0), 0, "the connection has ended");
    for _ in 0..4 {
        assert_eq!(says(public), Some(whole(1, "three")));
    }
    // And back, where only one serves at a time.
    let (_, mut open) = hello(public).expect("it serves");
    hob.ok(&["start", "www.0:www"]);
    wait_for("the first one takes over again", || (says(public) == Some(whole(0, "three"))).then_some(()));
    assert_eq!(open.read(&mut [0; 16]).unwrap_or(0), 0, "the stand-in has no clients left");
    hob.ok(&["push", &version(&hob, "four", &with_sql("tcp"))]);
    assert_eq!((says(public), says(second)), (Some(whole(0, "four")), Some(whole(1, "four"))));
    hob.shutdown();
}

#[test]
fn without_haproxy_hob_says_so_once_and_each_instance_has_its_own_port() {
    if !need("python3") {
        return;
    }
    for (more, word) in [
        ("haproxy = \"/no/such/haproxy\"", "no load balancer: /no/such/haproxy is no program (haproxy in hob.toml)"),
        ("proxy = \"never\"", ""),
    ] {
        let (hob, ports) = site(more, &["www"], 2);
        let ran = hob.ok(&["push", &version(&hob, "one", TWO)]);
        let told = ran.out.matches("no load balancer").count();
        assert!(ran.out.contains(word) && told == usize::from(!word.is_empty()), "{}", ran.out);
        assert_eq!(get(ports[0], "/"), Ok(whole(0, "one")));
        assert_eq!(get(ports[2], "/"), Ok(whole(1, "one")));
        let urls = format!("www.0: http://127.0.0.1:{}/\nwww.1: http://127.0.0.1:{}/\n", ports[0], ports[2]);
        assert_eq!(hob.ok(&["url"]).out, urls);
        assert!(!hob.ok(&["status"]).out.contains("haproxy"));
        hob.shutdown();
    }
}

#[test]
fn a_program_that_is_not_haproxy_and_a_port_that_another_has_are_told_and_the_old_release_goes_on() {
    if !need_all(&["haproxy", "python3"]) {
        return;
    }
    let (hob, ports) = site("haproxy = \"{dir}/fake\"", &["www"], 2);
    let fake = hob.home.beside("fake");
    let make = |text: &str| {
        fs::write(&fake, text).expect("written");
        fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    };
    make("#!/bin/sh\necho what is -c\nexit 3\n");
    let one = "  ports: {www: http}\n";
    hob.ok(&["push", &version(&hob, "one", one)]);
    let before = hob.running("www");
    let ran = hob.hob(&["scale", "www=2"]).expect(1).says("does not accept the configuration of the load balancer");
    assert!(ran.err.contains("exited with code 3") && ran.err.contains("what is -c"), "{}", ran.err);
    assert_eq!((hob.running("www"), get(ports[0], "/")), (before, Ok(whole(0, "one"))));
    // The real one; and somebody who takes the public port as soon as the instance leaves it.
    let haproxy = which("haproxy").expect("asked for").display().to_string();
    make(&format!("#!/bin/sh\nexec {haproxy} \"$@\"\n"));
    hob.ok(&["scale", "www=2"]);
    assert_eq!(shares(ports[0], 4).len(), 2);
    hob.ok(&["stop", "haproxy"]);
    let taken = std::net::TcpListener::bind(("0.0.0.0", ports[0])).expect("it is free");
    hob.hob(&["push", &version(&hob, "two", TWO)]).says("warning: haproxy was stopped");
    hob.hob(&["start", "--no-wait", "haproxy"]);
    let ran = hob.hob(&["push", &version(&hob, "three", TWO)]).expect(1);
    assert!(ran.err.contains("haproxy: ") && ran.err.contains("cannot bind socket"), "{}", ran.err);
    drop(taken);
    wait_for("it serves", || (shares(ports[0], 4).keys().any(|text| text.ends_with("of two"))).then_some(()));
    hob.shutdown();
}

/// Ended with the test, however that ends.
struct Up(std::process::Child);

impl Drop for Up {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        wait_child(&mut self.0, PATIENCE);
    }
}

#[test]
fn hob_up_has_its_load_balancer_too() {
    if !need_all(&["haproxy", "python3"]) {
        return;
    }
    let (hob, _) = site("", &["www"], 2);
    let dir = version(&hob, "up", TWO);
    let home = Home::bare();
    // A build that fails makes the folder, and in it free ports find their place.
    let builder = Path::new(&dir).join("builder");
    let good = fs::read_to_string(&builder).expect("there");
    fs::write(&builder, "exit 1\n").expect("ours");
    run(&mut home.command(&["up", &dir])).expect(1);
    fs::write(&builder, good).expect("ours");
    let keys = ["www.0.www", "www.behind.www", "www.1.www"].map(str::to_owned);
    let port = with_free_ports(&home, &keys)[0];
    let folder = fs::read_dir(home.beside("state/up")).expect("made").flatten().next().expect("one").path();
    fs::rename(home.beside("state/ports.json"), folder.join("ports.json")).expect("ours");
    let out = fs::File::create(home.beside("up.out")).expect("fresh");
    let err = out.try_clone().expect("one more");
    let mut up = Up(home.command(&["up", &dir]).stdout(out).stderr(err).spawn().expect("hob starts"));
    let text = || fs::read_to_string(home.beside("up.out")).unwrap_or_default();
    let end = Instant::now() + PATIENCE;
    let both = |seen: BTreeMap<String, usize>| seen.len() == 2 && seen.keys().all(|who| who.starts_with("instance"));
    while !both(shares(port, 4)) {
        assert!(Instant::now() < end && up.0.try_wait().expect("ours").is_none(), "{}", text());
        thread::sleep(Duration::from_millis(50));
    }
    wait_for("it is announced", || text().contains(&format!("www: http://127.0.0.1:{port}/")).then_some(()));
    kill(Pid::from_raw(up.0.id() as i32), Signal::SIGINT).expect("it runs");
    assert_eq!(wait_child(&mut up.0, PATIENCE), Some(0), "{}", text());
    assert!(alive_with(&home.marker()).is_empty());
    hob.shutdown();
}

#[test]
fn an_ordinary_user_has_it_too_and_a_push_that_is_killed_leaves_every_instance_in_it() {
    if !need_all(&["haproxy", "python3"]) {
        return;
    }
    let home = waiting("");
    let keys = ["www.0.www", "www.behind.www", "www.1.www"].map(str::to_owned);
    let ports = with_free_ports(&home, &keys);
    let is_root = nix::unistd::geteuid().is_root();
    let hob = if is_root { home.run_as_nobody() } else { home }.boot();
    let push = |dir: &str| {
        // In the daemon's place, as who pushes is who runs it.
        let words = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"];
        let words = if is_root { &words[..] } else { &["env"] };
        let mut command = std::process::Command::new(words[0]);
        command.args(&words[1..]).arg(hob_bin()).args(["push", dir]);
        hob.home.dress(&mut command);
        command
    };
    run(&mut push(&version(&hob, "one", TWO))).expect(0);
    let (zero, one) = (whole(0, "one"), whole(1, "one"));
    let in_turn = BTreeMap::from([(zero.clone(), 2), (one, 2)]);
    assert_eq!(shares(ports[0], 4), in_turn);
    // A request that keeps the first instance from being stopped.
    let mut slow = TcpStream::connect(("127.0.0.1", ports[0])).expect("it serves");
    request(&mut slow, "/slow", "close").expect("it takes it");
    let dir = version(&hob, "two", TWO);
    let mut command = push(&dir);
    let mut pushing = command.stdout(std::process::Stdio::null()).spawn().expect("hob starts");
    let rolling = || fs::read_to_string(hob.home.beside("state/rolling.json")).unwrap_or_default();
    wait_for("an instance is passed over", || rolling().contains("\"out\": [").then_some(()));
    let worker = wait_for("the worker", || crate::push::push_processes(&hob).into_iter().max());
    kill(Pid::from_raw(worker), Signal::SIGKILL).expect("it runs");
    assert_ne!(wait_child(&mut pushing, PATIENCE), Some(0));
    assert!(!hob.home.beside("state/rolling.json").exists());
    wait_for("both serve", || (shares(ports[0], 4) == in_turn).then_some(()));
    let mut text = String::new();
    slow.read_to_string(&mut text).expect("it answers");
    assert!(text.starts_with("HTTP/1.1 200") || text.is_empty() || text.contains(" 502 "), "{text}");
    run(&mut push(&dir)).expect(0);
    assert_eq!(shares(ports[0], 4).into_keys().collect::<Vec<_>>(), [whole(0, "two"), whole(1, "two")]);
    hob.shutdown();
}
