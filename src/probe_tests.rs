use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::thread;

use super::*;

fn ask(ask: Ask, millis: u64) -> (i32, String) {
    run(&Probe { ask, timeout: Duration::from_millis(millis) })
}

/// A server that answers the first connection with `text`, then holds it open.
fn server(text: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut request = [0; 4096];
        let length = stream.read(&mut request).expect("a request");
        assert!(request[..length].starts_with(b"GET /"));
        let _ = stream.write_all(text.as_bytes());
        let _ = stream.read(&mut request);
    });
    port
}

/// A port that refuses.
fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

#[test]
fn every_status_below_500_is_a_good_answer() {
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\n\r\n", (0, "answers with status 200")),
        ("HTTP/1.0 404\n", (0, "answers with status 404")),
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n", (1, "answers with status 503")),
        ("SSH-2.0-OpenSSH\r\n", (1, "the answer is not HTTP: \"SSH-2.0-OpenSSH\\r\"")),
        ("HTTP/1.1 2\r\n", (1, "the answer is not HTTP: \"HTTP/1.1 2\\r\"")),
    ] {
        let (code, text) = ask(Ask::Http(format!("http://127.0.0.1:{}/x?y", server(answer))), 5000);
        assert_eq!((code, text.as_str()), expected, "{answer}");
    }
}

#[test]
fn localhost_needs_no_resolver() {
    let port = server("HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(ask(Ask::Http(format!("http://localhost:{port}")), 5000).0, 0);
    let addresses = resolve("LocalHost:80", &Deadline { at: Duration::ZERO, timeout: Duration::ZERO }).expect("known");
    assert_eq!(addresses.len(), 2);
}

#[test]
fn a_refused_connection_is_told_as_such() {
    let port = closed_port();
    let expected = format!("cannot connect to 127.0.0.1:{port}: connection refused");
    assert_eq!(ask(Ask::Tcp(format!("127.0.0.1:{port}")), 5000), (1, expected));
}

#[test]
fn a_server_that_accepts_and_says_nothing_is_given_up_on() {
    let listener = TcpListener::bind("[::1]:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    assert_eq!(ask(Ask::Tcp(format!("[::1]:{port}")), 5000), (0, "accepts connections".into()));
    let began = since_boot();
    let (code, text) = ask(Ask::Http(format!("http://[::1]:{port}/")), 200);
    assert_eq!((code, text.as_str()), (1, "the answer took longer than 200ms"));
    assert!(since_boot() - began < Duration::from_secs(5));
}

#[test]
fn an_answer_that_drips_in_does_not_outlive_the_time_out() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        while stream.write_all(b"H").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let (code, text) = ask(Ask::Http(format!("http://127.0.0.1:{port}/")), 300);
    assert_eq!((code, text.as_str()), (1, "the answer took longer than 300ms"));
}

#[test]
fn a_unix_socket_is_asked_like_a_port() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("web.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut request = [0; 4096];
        let length = stream.read(&mut request).expect("a request");
        assert!(request[..length].starts_with(b"GET /health HTTP/1.1\r\nHost: localhost\r\n"));
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").expect("written");
    });
    assert_eq!(ask(Ask::Http(format!("unix:{}:/health", path.display())), 5000), (0, "answers with status 204".into()));
    let missing = dir.path().join("none");
    let expected = format!("cannot connect to {}: no such file or directory", missing.display());
    assert_eq!(ask(Ask::Http(format!("unix:{}:/", missing.display())), 5000), (1, expected));
}

#[test]
fn the_status_of_a_command_decides_and_its_last_line_is_the_reason() {
    assert_eq!(ask(Ask::Exec("true".into()), 5000), (0, "the command exited with code 0".into()));
    let said = (1, "the command exited with code 3: no route".to_owned());
    assert_eq!(ask(Ask::Exec("echo one; echo 'no route' >&2; exit 3".into()), 5000), said);
    assert_eq!(ask(Ask::Exec("kill -9 $$".into()), 5000), (1, "the command was killed by signal 9".into()));
    assert_eq!(ask(Ask::Exec("yes | head -c 10000000; exit 1".into()), 20000).0, 1);
}

#[test]
fn a_command_that_hangs_is_killed_with_what_it_started() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("pid");
    let line = format!("sleep 1000 & echo $! > {}; wait", file.display());
    let (code, text) = ask(Ask::Exec(line), 500);
    assert_eq!((code, text.as_str()), (1, "the command took longer than 500ms"));
    let pid: i32 = std::fs::read_to_string(file).expect("written").trim().parse().expect("a pid");
    let deadline = since_boot() + Duration::from_secs(10);
    // Whoever adopts it may take a moment to reap it.
    while proc::stat(pid).is_some_and(|stat| stat.state != b'Z') {
        assert!(since_boot() < deadline, "left behind");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_command_that_leaves_something_in_the_background_is_not_waited_for() {
    let began = since_boot();
    assert_eq!(ask(Ask::Exec("sleep 1000 & exit 0".into()), 60_000).0, 0);
    assert!(since_boot() - began < Duration::from_secs(10));
}

#[test]
fn what_is_no_url_is_refused() {
    for url in ["https://x/", "http://a b/", "http://a:b/", "http://127.0.0.1:99999/", "unix:", "", "http://"] {
        assert_eq!(ask(Ask::Http(url.into()), 1000).0, 1, "{url}");
    }
}
