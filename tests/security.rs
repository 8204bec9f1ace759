//! Each row of the table of security in the reference on supervisord (§10), tried on a running one.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::supervisord::*;
use crate::support::*;

/// A supervisord on the network too, with a password unless `inet` says otherwise.
fn listening(inet: &str, programs: &str) -> (Supervisord, u16) {
    let port = free_port();
    let inet = inet.replace("PORT", &port.to_string());
    (Supervisord::start(&format!("[inet_http_server]\n{inet}\n{programs}")), port)
}

const LOGIN: &str = "port=127.0.0.1:PORT\nusername=user\npassword=a long secret";
// user:a long secret
const RIGHT: &str = "Authorization: Basic dXNlcjphIGxvbmcgc2VjcmV0\r\n";
// user:wrong
const WRONG: &str = "Authorization: Basic dXNlcjp3cm9uZw==\r\n";

/// Status and everything that came, of one request.
fn ask(port: u16, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let _ = stream.write_all(request.as_bytes());
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    (text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0), text)
}

fn get(port: u16, path: &str, headers: &str) -> (u16, String) {
    ask(port, &format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{headers}\r\n"))
}

fn call_text(method: &str, params: &str) -> String {
    format!("<?xml version='1.0'?><methodCall><methodName>{method}</methodName><params>{params}</params></methodCall>")
}

fn rpc(port: u16, headers: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let head =
        format!("POST /RPC2 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nContent-Length: {length}\r\n");
    ask(port, &format!("{head}{headers}\r\n{body}"))
}

const XML: &str = "Content-Type: text/xml\r\n";

#[test]
fn only_methods_of_the_table_can_be_called() {
    let (daemon, port) = listening("port=127.0.0.1:PORT", CAT);
    daemon.wait_state("cat", "RUNNING");
    // CVE-2017-11610: names were walked as paths of attributes.
    for method in [
        "supervisor.supervisord.options.warnings.linecache.os.system",
        "supervisor.supervisord.options.execve",
        "supervisor._getAllProcesses",
        "supervisor.__class__",
        "supervisor.",
        ".getState",
        "getState",
        "system.methodHelp.__globals__",
        "supervisor.getState.",
        "hob.",
    ] {
        let (code, text) =
            rpc(port, XML, &call_text(method, "<param><value><string>id &gt; /tmp/x</string></value></param>"));
        assert!(code == 200 && text.contains("UNKNOWN_METHOD"), "{method}: {text}");
    }
    // What is no call at all breaks nothing either.
    let mut seed = 1u64;
    for _ in 0..200 {
        let mut body = call_text("supervisor.getState", "<param><value><int>1</int></value></param>").into_bytes();
        for _ in 0..3 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let at = (seed >> 33) as usize % body.len();
            body[at] = (seed >> 25) as u8;
        }
        let text = String::from_utf8_lossy(&body).into_owned();
        let (code, answer) = rpc(port, XML, &text);
        assert!(code == 200 || code == 400, "{text}: {answer}");
    }
    assert_eq!(daemon.state("cat"), "RUNNING");
}

#[test]
fn without_a_password_the_network_is_not_listened_to() {
    for open in ["port=PORT", "port=*:PORT", "port=0.0.0.0:PORT"] {
        let (daemon, port) = listening(open, CAT);
        assert!(daemon.log().contains("CRIT [inet_http_server] port="), "{}", daemon.log());
        assert_eq!(get(port, "/ok.html", "").0, 200, "this machine can");
        // 127.0.0.2 is this machine too, but not the one address that is listened to.
        assert!(TcpStream::connect(("127.0.0.2", port)).is_err(), "{open}");
        assert!(daemon.log().contains("running without any HTTP authentication checking"));
    }
    for meant in ["port=*:PORT\nallow_anonymous=true", "port=*:PORT\nusername=user\npassword=a long secret"] {
        let (_daemon, port) = listening(meant, CAT);
        assert!(TcpStream::connect(("127.0.0.2", port)).is_ok(), "{meant}");
    }
}

#[test]
fn every_path_asks_for_the_password() {
    let (daemon, port) = listening(LOGIN, CAT);
    daemon.wait_state("cat", "RUNNING");
    let paths = [
        "/",
        "/index.html",
        "/index.html?action=stop&processname=cat",
        "/tail.html?processname=cat",
        "/ok.html",
        "/stylesheets/supervisor.css",
        "/logtail/cat",
        "/logtail/cat/stderr",
        "/mainlogtail",
        "/RPC2",
        "/metrics",
        "/v1/processes",
        "/v1/info",
        "/v1/events",
        "/v1/logs",
        "/v1/health",
        "/nothing",
        "//",
        "/../etc/passwd",
    ];
    for path in paths {
        let (code, text) = get(port, path, "");
        assert!(code == 401 && text.contains("WWW-Authenticate: Basic realm=\"default\""), "{path}: {text}");
        assert!(!text.contains("/bin/cat") && !text.contains("RUNNING"), "{path}: {text}");
    }
    assert_eq!(rpc(port, XML, &call_text("supervisor.shutdown", "")).0, 401);
    for path in ["/", "/metrics", "/v1/processes", "/tail.html?processname=cat"] {
        assert_eq!(get(port, path, RIGHT).0, 200, "{path}");
    }
    assert_eq!(daemon.state("cat"), "RUNNING");
}

#[test]
fn an_empty_user_name_does_not_switch_the_password_off() {
    let (_daemon, port) = listening("port=127.0.0.1:PORT\nusername=\npassword=secret", CAT);
    assert_eq!(get(port, "/", "").0, 401);
    // :wrong and :secret
    assert_eq!(get(port, "/", "Authorization: Basic Ondyb25n\r\n").0, 401);
    assert_eq!(get(port, "/", "Authorization: Basic OnNlY3JldA==\r\n").0, 200);
}

#[test]
fn a_password_may_be_hashed_or_come_from_a_file_or_the_environment() {
    let sha256 = sh_ok("printf 'a long secret' | sha256sum").split_whitespace().next().expect("a sum").to_owned();
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("secret");
    fs::write(&file, "a long secret\n").expect("written");
    for password in [format!("password={{SHA256}}{sha256}"), format!("password_file={}", file.display())] {
        let (_daemon, port) = listening(&format!("port=127.0.0.1:PORT\nusername=user\n{password}"), CAT);
        assert_eq!((get(port, "/", RIGHT).0, get(port, "/", WRONG).0), (200, 401), "{password}");
    }
    let wrong = refused("[inet_http_server]\nport=127.0.0.1:9001\nusername=u\npassword_file=/no/such/file\n");
    assert!(wrong.contains("cannot read password_file /no/such/file: No such file"), "{wrong}");
}

#[test]
fn wrong_logins_cost_their_address_time_and_nobody_else() {
    if !need("curl") {
        return;
    }
    let (daemon, port) = listening(LOGIN, CAT);
    let began = Instant::now();
    assert_eq!(get(port, "/", WRONG).0, 401);
    assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
    // Many at once are no faster than one after the other: 0.5, 1, 2, ... seconds.
    let began = Instant::now();
    let guesses: Vec<_> = (0..4).map(|_| std::thread::spawn(move || get(port, "/", WRONG).0)).collect();
    // In the meantime: who gives no login is asked for one, and elsewhere everything is as fast as ever.
    assert_eq!(get(port, "/", "").0, 401);
    let elsewhere = format!(
        "curl -s -o /dev/null -w '%{{http_code}}' --interface 127.0.0.2 -u 'user:a long secret' http://127.0.0.1:{port}/"
    );
    assert_eq!(sh_ok(&elsewhere), "200");
    assert!(daemon.ctl(&["status"]).contains("cat"));
    assert!(began.elapsed() < Duration::from_millis(400), "{:?}", began.elapsed());
    assert!(guesses.into_iter().all(|guess| guess.join().expect("it ends") == 401));
    assert!(began.elapsed() >= Duration::from_millis(500 + 1000 + 2000), "{:?}", began.elapsed());
    // Its turn comes, and then it is forgiven.
    assert_eq!(get(port, "/", RIGHT).0, 200);
    let began = Instant::now();
    assert_eq!(get(port, "/", RIGHT).0, 200);
    assert!(began.elapsed() < Duration::from_millis(200));
    // A flood is turned away without being looked at.
    get(port, "/", WRONG);
    let (tx, rx) = std::sync::mpsc::channel();
    for _ in 0..40 {
        let tx = tx.clone();
        std::thread::spawn(move || tx.send(get(port, "/", WRONG).0));
    }
    // Those that wait are not waited for.
    for _ in 0..20 {
        assert_eq!(rx.recv_timeout(PATIENCE), Ok(429));
    }
    assert!(daemon.log().contains("a wrong login for inet_http_server from 127.0.0.1"));
}

#[test]
fn the_page_acts_on_a_post_with_its_token_only() {
    let (daemon, port) = listening(LOGIN, CAT);
    daemon.wait_state("cat", "RUNNING");
    let (code, text) = get(port, "/index.html?action=stop&processname=cat", RIGHT);
    assert!(code == 200 && text.contains("<form"), "an old bookmark asks first: {text}");
    let post = |body: &str, headers: &str| {
        let length = body.len();
        ask(
            port,
            &format!(
                "POST / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{RIGHT}{headers}\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{body}"
            ),
        )
    };
    let form = "action=stop&processname=cat";
    for (body, headers) in [
        (form.to_owned(), ""),
        (format!("{form}&token=0123456789abcdef0123456789abcdef"), ""),
        (form.to_owned(), "Origin: http://evil.example\r\n"),
    ] {
        let (code, text) = post(&body, headers);
        assert!(code != 303 && code != 301 && code != 302 || !text.contains("stopped"), "{body}: {text}");
    }
    assert_eq!(daemon.state("cat"), "RUNNING");
    let (_, text) = get(port, "/", RIGHT);
    let token = text.split("name=\"token\" value=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a token");
    let (code, text) = post(&format!("{form}&token={token}"), "");
    // Where it leads does not hang on what the client says the server is called.
    let location = text.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap_or_default();
    assert!(code == 303 && !location.contains("://") && !location.starts_with("//"), "{text}");
    daemon.wait_state("cat", "STOPPED");
}

#[test]
fn a_page_of_another_site_cannot_call_methods_nor_read_answers() {
    let (daemon, port) = listening("port=127.0.0.1:PORT", CAT);
    daemon.wait_state("cat", "RUNNING");
    let stop = call_text("supervisor.stopProcess", "<param><value><string>cat</string></value></param>");
    for (headers, status) in [
        ("Content-Type: text/plain\r\nOrigin: http://evil.example\r\n", 403),
        ("Content-Type: text/xml\r\nOrigin: http://evil.example\r\n", 403),
        ("Content-Type: text/xml\r\nOrigin: null\r\n", 403),
        ("Content-Type: text/xml\r\nSec-Fetch-Site: cross-site\r\n", 403),
    ] {
        let (code, text) = rpc(port, headers, &stop);
        assert_eq!(code, status, "{headers}{text}");
    }
    let own = format!("Origin: http://127.0.0.1:{port}\r\n");
    assert_eq!(rpc(port, &format!("Content-Type: text/plain\r\n{own}"), &stop).0, 415);
    // DNS rebinding: a name of theirs that leads to our address.
    let (code, text) =
        ask(port, &format!("GET /v1/processes HTTP/1.1\r\nHost: evil.example:{port}\r\nConnection: close\r\n\r\n"));
    assert!(code == 421 && !text.contains("/bin/cat"), "{text}");
    assert_eq!(daemon.state("cat"), "RUNNING");
}

/// What a supervisord that must not start says.
fn refused(programs: &str) -> String {
    let (dir, links) = (tempfile::tempdir().expect("a folder"), links());
    write_conf(dir.path(), programs);
    let ran = run(Command::new(links.path().join("supervisord"))
        .args(["-n", "-c"])
        .arg(dir.path().join("s.conf"))
        .env("SUPER_SECRET_TOKEN", "hunter2"));
    assert_eq!(ran.code, 2, "{}", ran.both());
    ran.both()
}

#[test]
fn an_error_of_expansion_tells_no_secret() {
    let told = refused("[program:a]\ncommand=x %(ENV_SUPER_SECRET_TOKE)s\n");
    assert!(told.contains("ENV_SUPER_SECRET_TOKE") && told.contains("ENV_SUPER_SECRET_TOKEN"), "the nearest: {told}");
    assert!(!told.contains("hunter2") && !told.contains("ENV_PATH"), "{told}");
    let daemon = Supervisord::start(CAT);
    write_conf(daemon.dir.path(), "[program:a]\ncommand=x %(ENV_NOPE)s\n");
    let told = daemon.ctl(&["reread"]);
    assert!(told.contains("CANT_REREAD") && !told.contains("ENV_PATH") && !daemon.log().contains("ENV_PATH"), "{told}");
    write_conf(daemon.dir.path(), CAT);
}

#[test]
fn no_plugin_runs_in_the_daemon() {
    for (line, word) in [
        (
            "[rpcinterface:x]\nsupervisor.rpcinterface_factory=os:system\n",
            "os:system cannot be resolved within [rpcinterface:x]",
        ),
        (
            "[eventlistener:x]\ncommand=x\nevents=TICK\nresult_handler=os:system\n",
            "os:system cannot be resolved within [eventlistener:x]",
        ),
    ] {
        let told = refused(line);
        assert!(told.contains(word), "{told}");
    }
}

#[test]
fn root_takes_no_configuration_that_others_can_write() {
    if !need_all(&["root"]) {
        return;
    }
    let (dir, links) = (tempfile::tempdir().expect("a folder"), links());
    // Where it stands in the search path before /etc.
    write_conf(dir.path(), CAT);
    let conf = dir.path().join("supervisord.conf");
    fs::rename(dir.path().join("s.conf"), &conf).expect("ours");
    let start = || {
        let out = Command::new(links.path().join("supervisord")).arg("--test").current_dir(dir.path()).output();
        let out = out.expect("supervisord runs");
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
    };
    assert!(start().contains("supervisord.conf: good"), "{}", start());
    fs::set_permissions(&conf, fs::Permissions::from_mode(0o666)).expect("ours");
    assert!(
        !start().contains(&format!("{}: good", conf.display())) && !start().contains("./supervisord.conf: good"),
        "{}",
        start()
    );
    // One that is included is told of.
    fs::write(dir.path().join("more.conf"), CAT).expect("written");
    fs::set_permissions(dir.path().join("more.conf"), fs::Permissions::from_mode(0o666)).expect("ours");
    let daemon = Supervisord::start(&format!("[include]\nfiles={}/more.conf\n", dir.path().display()));
    assert!(daemon.log().contains("more.conf can be written by others than root"), "{}", daemon.log());
}

#[test]
fn a_link_that_a_user_has_laid_is_not_followed_by_root() {
    if !need_all(&["root"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (theirs, ours) = (dir.path().join("theirs"), dir.path().join("ours"));
    for folder in [&theirs, &ours] {
        fs::create_dir(folder).expect("new");
    }
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    let victim = dir.path().join("victim");
    fs::write(&victim, "precious\n").expect("written");
    symlink(&victim, theirs.join("a.log")).expect("new");
    symlink("/dev/full", theirs.join("c.log")).expect("new");
    std::os::unix::fs::chown(&theirs, Some(NOBODY), Some(NOBODY)).expect("root");
    // An administrator's own link is as good as a file.
    let far = dir.path().join("far.log");
    symlink(&far, ours.join("b.log")).expect("new");
    let program = |name: &str, folder: &Path| {
        format!(
            "[program:{name}]\ncommand=/bin/sh -c \"echo hello; exec sleep 1000\"\nstdout_logfile={}/{name}.log\n",
            folder.display()
        )
    };
    let daemon = Supervisord::start(&[program("a", &theirs), program("c", &theirs), program("b", &ours)].concat());
    wait_for("b's line", || (fs::read_to_string(&far).ok()? == "hello\n").then_some(()));
    let told = "cannot write PATH: it is a symbolic link in a folder that others can write to";
    for name in ["a", "c"] {
        let told = told.replace("PATH", &theirs.join(format!("{name}.log")).display().to_string());
        wait_for("the trouble to be told", || daemon.log().contains(&told).then_some(()));
        daemon.wait_state(name, "RUNNING");
    }
    assert_eq!(fs::read_to_string(&victim).expect("kept"), "precious\n");
}

#[test]
fn an_automatic_log_is_for_the_daemon_s_user_alone_after_clear_and_rotation_too() {
    let daemon = Supervisord::start(
        "[program:a]\ncommand=/bin/sh -c \"for i in 1 2 3 4 5 6 7 8 9; do echo 0123456789; done; exec sleep 1000\"\n\
         stdout_logfile_maxbytes=30\nstartsecs=0\n",
    );
    daemon.wait_state("a", "RUNNING");
    let logs = || -> Vec<std::path::PathBuf> {
        let files = fs::read_dir(daemon.dir.path()).expect("there").flatten().map(|entry| entry.path());
        files.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("a-std"))).collect()
    };
    wait_for("rotated files", || (logs().len() > 3).then_some(()));
    assert!(logs().iter().all(|path| path.metadata().is_ok_and(|meta| meta.mode() & 0o777 == 0o600)));
    assert_eq!(daemon.ctl(&["clear", "a"]), "a: cleared\n");
    assert!(logs().iter().all(|path| path.metadata().is_ok_and(|meta| meta.mode() & 0o777 == 0o600)));
}

#[test]
fn the_socket_is_never_open_to_others_not_even_for_a_moment() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().to_owned();
    let (stop, watched) = (std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)), folder.clone());
    let end = stop.clone();
    let watcher = std::thread::spawn(move || {
        let mut widest = 0;
        while !end.load(std::sync::atomic::Ordering::Relaxed) {
            for entry in fs::read_dir(&watched).into_iter().flatten().flatten() {
                if let Ok(meta) = entry.path().symlink_metadata()
                    && std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type())
                {
                    widest |= meta.mode() & 0o777;
                }
            }
        }
        widest
    });
    let links = links();
    for n in 0..10 {
        write_conf(&folder, CAT);
        let line = format!("umask 0; exec {}/supervisord -n -c {}/s.conf", links.path().display(), folder.display());
        let mut child = Command::new("sh")
            .args(["-c", &line])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        wait_for("the socket", || std::os::unix::net::UnixStream::connect(folder.join("s.sock")).is_ok().then_some(()));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("it runs");
        assert!(child.wait().expect("our child").success(), "start {n}");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let widest = watcher.join().expect("it ends");
    assert!(widest == 0o600 || widest == 0o700, "{widest:o}");
}

#[test]
fn a_client_cannot_make_the_daemon_hold_or_wait_for_more_than_a_little() {
    let (daemon, port) = listening(
        "port=127.0.0.1:PORT",
        "[program:big]\ncommand=/bin/sh -c \"head -c 30000000 /dev/zero; exec sleep 1000\"\nstartsecs=0\nstdout_logfile=%(here)s/big.log\n",
    );
    let memory = || own_kb(daemon.child.id() as i32);
    wait_for("the log", || (daemon.dir.path().join("big.log").metadata().ok()?.len() == 30_000_000).then_some(()));
    let before = memory();
    // A body without an end, one that is only promised, and heads that come a byte at a time.
    let (code, _) = rpc(port, XML, &"x".repeat(20 << 20));
    assert!(code == 413 || code == 0, "{code}");
    let promise =
        "POST /RPC2 HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/xml\r\nContent-Length: 999999999999\r\n\r\n";
    assert_eq!(ask(port, promise).0, 413);
    let slow: Vec<TcpStream> = (0..100)
        .filter_map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
            stream.write_all(b"POST /RPC2 HTTP/1.1\r\nHost: loc").ok()?;
            Some(stream)
        })
        .collect();
    // Values within values, and entities within entities.
    let deep = call_text("supervisor.getState", &"<param><value><array><data><value>".repeat(10_000));
    let (code, text) = rpc(port, XML, &deep);
    assert!(code == 200 || code == 400, "{text}");
    let bomb = "<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;'>]>\
                <methodCall><methodName>supervisor.&b;</methodName></methodCall>";
    let (code, text) = rpc(port, XML, bomb);
    assert!(code == 400 || text.contains("UNKNOWN_METHOD"), "{text}");
    let file = "<?xml version='1.0'?><!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>\
                <methodCall><methodName>system.methodHelp</methodName><params><param><value>&e;</value></param></params></methodCall>";
    let (_, text) = rpc(port, XML, file);
    assert!(!text.contains("root:"), "{text}");
    // A log of 30 MB is not read into the daemon.
    let params = "<param><value><string>big</string></value></param><param><value><int>0</int></value></param><param><value><int>0</int></value></param>";
    let began = Instant::now();
    let reader = std::thread::spawn(move || rpc(port, XML, &call_text("supervisor.readProcessStdoutLog", params)).0);
    assert!(daemon.ctl(&["status", "big"]).contains("RUNNING"));
    assert!(began.elapsed() < Duration::from_secs(5), "others are served meanwhile");
    reader.join().expect("it ends");
    drop(slow);
    wait_for("its memory to be given back", || (memory() < before + 20_000).then_some(()));
}

#[test]
fn programs_get_no_secret_of_the_daemon_where_that_is_asked_for() {
    let (dir, links) = (tempfile::tempdir().expect("a folder"), links());
    write_conf(dir.path(), &format!("[supervisord]\nclean_environment=true\nenvironment=MINE=\"1\"\n{CAT}"));
    let mut child = Command::new(links.path().join("supervisord"))
        .args(["-n", "-c"])
        .arg(dir.path().join("s.conf"))
        .env("AWS_SECRET_ACCESS_KEY", "hunter2")
        .env("LC_ALL", "C.UTF-8")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("supervisord starts");
    let ctl = |args: &[&str]| {
        let out = Command::new(links.path().join("supervisorctl"))
            .arg("-c")
            .arg(dir.path().join("s.conf"))
            .args(args)
            .output();
        String::from_utf8_lossy(&out.expect("supervisorctl runs").stdout).into_owned()
    };
    let pid: i32 = wait_for("cat", || ctl(&["pid", "cat"]).trim().parse().ok().filter(|pid| *pid > 0));
    let environ = environ(pid);
    ctl(&["shutdown"]);
    child.wait().expect("our child");
    for has in ["MINE=1", "LC_ALL=C.UTF-8", "SUPERVISOR_ENABLED=1"] {
        assert!(environ.iter().any(|pair| pair == has), "{has}: {environ:?}");
    }
    assert!(
        environ.iter().any(|pair| pair.starts_with("PATH=")) && !environ.iter().any(|pair| pair.contains("hunter2"))
    );
}
