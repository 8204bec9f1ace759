//! The page at `/`: its buttons with and without JavaScript, and in a real browser.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::*;

// user:secret
const LOGIN: &str = "Authorization: Basic dXNlcjpzZWNyZXQ=\r\n";

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn location(&self) -> String {
        let line = self.head.lines().find_map(|line| line.strip_prefix("Location: "));
        line.unwrap_or_default().replace("%20", " ").replace("%3A", ":")
    }

    /// What the forms of the page carry.
    fn token(&self) -> String {
        let rest = self.body.split_once("name=\"token\" value=\"").expect("a form").1;
        rest.split('"').next().expect("a value").to_owned()
    }
}

fn talk(mut stream: impl Read + Write, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
}

fn hob() -> (Hob, u16) {
    let port = free_port();
    let toml = format!("listen = {port}\nlisten_user = \"user\"\nlisten_password = \"secret\"\n");
    let processes = "talks: 'i=0; while :; do i=$((i+1)); echo line $i of the log; sleep 0.1; done'\n\
                     idle: {command: sleep 1000, autostart: false}\n\
                     broken: {command: /no/such/program, autostart: false, startretries: 0}";
    let hob = Home::with(processes).settings(&toml).boot();
    hob.running("talks");
    (hob, port)
}

fn over_tcp(port: u16, request: &str) -> Answer {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    talk(stream, request)
}

#[test]
fn a_button_works_without_javascript_and_only_with_the_token() {
    let (hob, port) = hob();
    let ask = |method, path: &str, headers: &str, body: &str| {
        over_tcp(port, &request(method, path, &format!("{LOGIN}{headers}"), body))
    };
    assert_eq!(over_tcp(port, &request("GET", "/", "", "")).status, 401);
    let page = ask("GET", "/", "", "");
    assert_eq!(page.status, 200);
    for text in ["www:talks", "www:idle", "RUNNING", "STOPPED", "Content-Security-Policy: default-src 'none'", "DENY"] {
        assert!(page.body.contains(text) || page.head.contains(text), "{text}");
    }
    let form = |action: &str, token: &str| format!("action={action}&processname=www%3Aidle&token={token}");
    let started = ask("POST", "/index.html", "", &form("start", &page.token()));
    // Neither the name of the server nor that of an attacker: a browser stays where it is.
    assert_eq!((started.status, started.location().as_str()), (303, "index.html?message=Process www:idle started"));
    let pid = hob.running("idle");
    let shown = ask("GET", "/index.html?message=Process%20%3Cb%3E", "", "");
    assert!(shown.body.contains("Process &lt;b&gt;"));

    for (method, path, body) in [
        ("POST", "/index.html", form("stop", "")),
        ("POST", "/index.html", form("stop", &"0".repeat(32))),
        ("POST", "/", "action=stopall".to_owned()),
        ("GET", "/index.html?action=stop&processname=www%3Aidle", String::new()),
        ("GET", &format!("/index.html?{}", form("stop", &page.token())), String::new()),
        ("GET", "/?action=stopall", String::new()),
    ] {
        let answer = ask(method, path, "", &body);
        assert_eq!(answer.status, if method == "GET" { 200 } else { 403 }, "{method} {path} {body}");
        assert!(answer.body.contains("Stop"), "it asks: {}", answer.body);
    }
    let foreign = ask("POST", "/index.html", "Origin: http://evil.com\r\n", &form("stop", &page.token()));
    assert_eq!(foreign.status, 403);
    assert_eq!(hob.running("idle"), pid);
    // What the confirmation offers does work.
    let asked = ask("GET", "/index.html?action=restart&processname=www%3Aidle", "", "");
    let done = ask("POST", "/index.html", "", &form("restart", &asked.token()));
    assert_eq!(done.location(), "index.html?message=Process www:idle restarted");
    assert_ne!(hob.running("idle"), pid);

    let failed = ask("POST", "/index.html", "", &form("start", &page.token()).replace("idle", "broken"));
    assert!(failed.location().starts_with("index.html?message=ERROR: Process www:broken: "), "{}", failed.location());
    let unknown = ask("POST", "/index.html", "", &form("start", &page.token()).replace("idle", "ghost"));
    assert_eq!(unknown.location(), "index.html?message=No such process named www:ghost");
    assert_eq!(ask("GET", "/index.html?action=dance", "", "").status, 400);
    assert_eq!(ask("GET", "/ok.html", "", "").body, "OK");
    assert_eq!(ask("GET", "/stylesheets/../../etc/passwd", "", "").status, 404);
    hob.shutdown();
}

#[test]
fn a_log_is_shown_and_cleared() {
    let (hob, port) = hob();
    hob.wait_log("talks.log", "line 5");
    let ask = |path: &str| over_tcp(port, &request("GET", path, LOGIN, ""));
    let tail = ask("/tail.html?processname=www%3Atalks&limit=100000");
    assert!(tail.status == 200 && tail.body.contains("line 1 of the log\nline 2 of the log\n"), "{}", tail.body);
    let unknown = ask("/tail.html?processname=%3Cb%3E");
    assert!(unknown.body.contains("ERROR: unexpected rpc fault [10] BAD_NAME: &lt;b&gt;"), "{}", unknown.body);
    assert!(ask("/tail.html").body.contains("No process name found"));
    let token = ask("/").token();
    let body = format!("action=clearlog&processname=www%3Atalks&token={token}");
    let cleared = over_tcp(port, &request("POST", "/index.html", LOGIN, &body));
    assert_eq!(cleared.location(), "index.html?message=Log for www:talks cleared");
    let log = hob.log("talks.log");
    assert!(!log.contains("line 1 of"), "{log}");
    hob.shutdown();
}

#[test]
fn over_the_unix_socket_old_links_work_unless_a_browser_sends_them() {
    let (hob, _) = hob();
    let ask = |headers: &str| {
        let stream = UnixStream::connect(hob.home.beside("hob.sock")).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        talk(stream, &request("GET", "/index.html?action=start&processname=www%3Aidle", headers, ""))
    };
    for browser in ["User-Agent: Mozilla/5.0\r\n", "Referer: http://x/\r\n", "Sec-Fetch-Site: none\r\n"] {
        let answer = ask(browser);
        assert!(answer.status == 200 && answer.body.contains("Start www:idle?"), "{browser}{}", answer.body);
    }
    assert_eq!(hob.process("idle").state(), "STOPPED");
    assert_eq!(ask("").location(), "index.html?message=Process www:idle started");
    hob.running("idle");
    hob.shutdown();
}

#[test]
fn the_page_works_in_a_real_browser() {
    if !need_all(&["chromium", "python3"]) {
        return;
    }
    let (hob, port) = hob();
    let shot = |name: &str| format!("{}/page-{name}.png", env!("CARGO_TARGET_TMPDIR"));
    let row =
        "[...document.querySelectorAll('tbody tr')].find(r => r.querySelector('.name').textContent === 'www:idle')";
    let state = |state: &str| format!("{row}.querySelector('.state').textContent === '{state}'");
    let click = |action: &str| format!("{row}.querySelector('button[value={action}]').click()");
    let url = format!("http://127.0.0.1:{port}/");
    let steps = json!([
        ["login", "user", "secret"],
        ["size", 1280, 800],
        ["go", url],
        ["eval", "document.querySelectorAll('tbody tr').length"],
        ["shot", shot("light")],
        // With JavaScript: nothing is loaded again, and the table follows.
        ["eval", "window.stays = true"],
        ["eval", click("start")],
        ["until", state("RUNNING")],
        ["until", "document.getElementById('message').textContent"],
        ["eval", "document.querySelector('a[data-log=\"www:talks\"]').click()"],
        ["until", "/line \\d+ of the log\\nline/.test(document.querySelector('#log pre').textContent)"],
        ["eval", "window.before = document.querySelector('#log pre').textContent.length"],
        ["until", "document.querySelector('#log pre').textContent.length > window.before"],
        ["dark", true],
        ["shot", shot("dark")],
        ["eval", "getComputedStyle(document.body).backgroundColor"],
        ["eval", click("stop")],
        ["until", state("STOPPED")],
        ["eval", "window.stays"],
        ["size", 400, 800],
        ["eval", "document.documentElement.scrollWidth <= innerWidth"],
        ["shot", shot("phone")],
        // Without it: the form itself.
        ["size", 1280, 800],
        ["script", false],
        ["go", url],
        ["eval", click("start")],
        ["until", "location.search.includes('message=') && document.querySelector('.message')?.textContent"],
        ["shot", shot("plain")],
    ]);
    let count = steps.as_array().expect("a list").len();
    let mut child = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/browser.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python starts");
    child.stdin.take().expect("piped").write_all(steps.to_string().as_bytes()).expect("it reads");
    let out = child.wait_with_output().expect("it ends");
    let told = String::from_utf8_lossy(&out.stdout).into_owned();
    let results: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(results.len(), count + 1, "{told}");
    let after = |step: &str| {
        let at = steps.as_array().expect("a list").iter().position(|s| s.to_string().contains(step));
        &results[at.unwrap_or_else(|| panic!("no step {step}"))]
    };
    assert_eq!(after("querySelectorAll('tbody tr').length"), 3);
    assert_eq!(results[7], true, "started: {told}");
    assert_eq!(results[8], "Process www:idle started");
    assert_eq!((&results[10], &results[12]), (&json!(true), &json!(true)), "the log is shown while it is written");
    assert_eq!(after("backgroundColor"), "rgb(25, 23, 21)");
    assert_eq!(results[17], true, "stopped: {told}");
    assert_eq!(after("[\"eval\",\"window.stays\"]"), true, "the page was loaded again");
    assert_eq!(after("scrollWidth"), true, "it is too wide for a phone");
    assert_eq!(results[count - 2], "Process www:idle started");
    hob.running("idle");
    // Nothing that the pages' own policy had to stop, and no exception.
    assert_eq!(results[count], json!([]));
    hob.shutdown();
}
