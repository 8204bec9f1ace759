//! Real processes: each test forks the role and lets it run real shell scripts.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::sys::process::place_fd;

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        Bench { dir: tempfile::tempdir().expect("a directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Starts the proxy on the file `pid` with a script that runs in the directory; its messages go to `said`.
    fn start(&self, within: Duration, script: &str) -> Pid {
        let (pidfile, said, dir) = (self.path("pid"), self.path("said"), self.dir.path().to_owned());
        let words = ["/bin/bash", "-c", script].map(|w| std::ffi::CString::new(w).expect("no NUL"));
        process::fork(|| {
            let file = File::create(said).expect("a file");
            place_fd(file.as_fd(), 2).expect("dup2");
            drop(file);
            std::env::set_current_dir(dir).expect("it is there");
            let options = Options { pidfile: &pidfile, within };
            run(&options, || command::exec(&words, &command::environment())).status()
        })
        .expect("fork")
    }

    fn end(&self, pid: Pid) -> i32 {
        let fd = pidfd::open(pid.as_raw()).expect("not reaped");
        let ended = poll::readable(&[fd.as_fd()], Some(LONG + LONG)).expect("poll");
        assert_eq!(ended, [true], "it never ends; {}", self.read("said"));
        match process::wait_for(pid).expect("our child") {
            Ended::Code(code) => code.into(),
            signal => panic!("{signal:?}: {}", self.read("said")),
        }
    }

    fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = since_boot() + Duration::from_secs(10);
        while !is_so() {
            assert!(since_boot() < deadline, "never {what}; {}", self.read("said"));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

const LONG: Duration = Duration::from_secs(20);

/// A server that writes its pid to `pid` and then its own script.
fn daemon(script: &str) -> String {
    format!("setsid bash -c 'echo $BASHPID > pid.new; mv pid.new pid; {script}' </dev/null & ")
}

const WAIT: &str = "touch up; while :; do sleep 0.02; done";

#[test]
fn a_daemon_gets_the_signals_and_its_status_is_ours() {
    let bench = Bench::new();
    let script = format!("trap \"echo hup >> got\" HUP; trap \"exit 7\" TERM; {WAIT}");
    let proxy = bench.start(LONG, &(daemon(&script) + "exit 0"));
    bench.until("up", || bench.path("up").exists());
    process::kill(proxy, libc::SIGHUP).expect("alive");
    bench.until("hup", || bench.read("got") == "hup\n");
    process::kill(proxy, libc::SIGTERM).expect("alive");
    assert_eq!(bench.end(proxy), 7, "{}", bench.read("said"));
}

#[test]
fn a_signal_before_the_pid_file_is_kept_for_the_daemon() {
    let bench = Bench::new();
    let script = "(setsid bash -c 'trap \"exit 9\" TERM; touch up; for i in {1..20}; do sleep 0.02; done; \
                  echo $BASHPID > pid; while :; do sleep 0.02; done' &) ; exit 0";
    let proxy = bench.start(LONG, script);
    bench.until("up", || bench.path("up").exists());
    process::kill(proxy, libc::SIGTERM).expect("alive");
    assert_eq!(bench.end(proxy), 9, "{}", bench.read("said"));
}

#[test]
fn a_daemon_that_is_killed_gives_128_and_the_signal() {
    let bench = Bench::new();
    let proxy = bench.start(LONG, &daemon("sleep 0.1; kill -SEGV $BASHPID"));
    assert_eq!(bench.end(proxy), 128 + libc::SIGSEGV);
}

#[test]
fn as_a_role_of_the_daemon_it_dies_of_what_the_server_died_of() {
    let bench = Bench::new();
    let (pidfile, script) = (bench.path("pid"), daemon("sleep 0.1; kill -KILL $BASHPID"));
    let words = ["/bin/bash", "-c", &script].map(|w| std::ffi::CString::new(w).expect("no NUL"));
    let proxy = process::fork(|| {
        std::env::set_current_dir(bench.dir.path()).expect("it is there");
        role(&pidfile, &mut || command::exec(&words, &command::environment()))
    });
    let end = process::wait_for(proxy.expect("fork")).expect("our child");
    assert_eq!(end, Ended::Signal { signal: libc::SIGKILL, core: false });
}

#[test]
fn a_command_that_fails_before_the_pid_file_gives_its_status() {
    let bench = Bench::new();
    fs::write(bench.path("pid"), "garbage").expect("written");
    assert_eq!(bench.end(bench.start(LONG, "exit 3")), 3);
    assert!(bench.read("said").contains("exited with code 3 before"), "{}", bench.read("said"));
    assert_eq!(bench.end(bench.start(LONG, "kill -9 $$")), 128 + 9);
}

#[test]
fn a_stale_file_that_names_a_stranger_gets_an_error_and_the_stranger_no_signal() {
    let bench = Bench::new();
    let mut stranger = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
    fs::write(bench.path("pid"), format!("{}\n", stranger.id())).expect("written");
    let proxy = bench.start(LONG, "trap 'exit 0' TERM; touch up; while :; do sleep 0.02; done");
    bench.until("up", || bench.path("up").exists());
    process::kill(proxy, libc::SIGTERM).expect("alive");
    assert_eq!(bench.end(proxy), 1);
    assert!(bench.read("said").contains("was not started by this command"), "{}", bench.read("said"));
    assert_eq!(stranger.try_wait().expect("our child"), None, "the stranger got a signal");
    stranger.kill().expect("our child");
    stranger.wait().expect("our child");
}

#[test]
fn a_stale_file_is_only_waited_over_until_the_daemon_has_written_its_own() {
    let bench = Bench::new();
    fs::write(bench.path("pid"), "1").expect("written");
    let proxy = bench.start(LONG, &format!("sleep 0.1; {}", daemon(&format!("trap \"exit 6\" TERM; {WAIT}"))));
    bench.until("up", || bench.path("up").exists());
    process::kill(proxy, libc::SIGTERM).expect("alive");
    assert_eq!(bench.end(proxy), 6, "{}", bench.read("said"));
}

#[test]
fn a_file_that_never_names_the_daemon_ends_everything_with_a_clear_error() {
    let cases: [(&str, &str); 6] = [
        (":", "is not there"),
        ("mkdir pid", "is not a regular file"),
        ("mkfifo pid", "is not a regular file"),
        ("ln -s pid pid", "cannot be read"),
        ("head -c 100000 /dev/zero > pid", "holds 100000 bytes"),
        ("echo hello > pid", "does not begin with a pid but with \"hello\""),
    ];
    for (make, told) in cases {
        let bench = Bench::new();
        let script = format!("{make}; setsid sleep 1000 & echo $! > sleeper; wait");
        let proxy = bench.start(Duration::from_millis(900), &script);
        assert_eq!(bench.end(proxy), 1, "{make}");
        let said = bench.read("said");
        assert!(said.contains("cannot find the server within 900ms") && said.contains(told), "{make}: {said}");
        let sleeper = bench.read("sleeper").trim().parse().expect("a pid");
        assert_eq!(proc::stat(sleeper), None, "{make}: left behind");
    }
}

#[test]
fn a_wrapper_that_restarts_its_daemon_is_followed_to_the_new_pid() {
    let bench = Bench::new();
    // The wrapper lives through SIGTERM, as mysqld_safe does, and ends when its daemon has ended well.
    let script = "trap : TERM; for n in 1 2; do bash -c 'trap \"exit 0\" TERM; echo $BASHPID > pid; touch up$0; \
                  while :; do sleep 0.02; done' $n && exit 0; done; exit 9";
    let proxy = bench.start(LONG, script);
    bench.until("up", || bench.path("up1").exists());
    let first: i32 = bench.read("pid").trim().parse().expect("a pid");
    process::kill(Pid::from_raw(first), libc::SIGKILL).expect("alive");
    bench.until("up again", || bench.path("up2").exists());
    assert_ne!(bench.read("pid").trim(), first.to_string());
    process::kill(proxy, libc::SIGTERM).expect("alive");
    assert_eq!(bench.end(proxy), 0, "{}", bench.read("said"));
}

#[test]
fn a_successor_named_in_the_file_is_followed_when_the_old_daemon_ends() {
    let bench = Bench::new();
    let new = "bash -c \"trap \\\"exit 4\\\" TERM; echo \\$BASHPID > pid; touch up; while :; do sleep 0.02; done\" &";
    let proxy = bench.start(LONG, &daemon(&format!("sleep 0.1; {new} while [ ! -e up ]; do sleep 0.02; done; exit 0")));
    bench.until("up", || bench.path("up").exists());
    std::thread::sleep(Duration::from_millis(100));
    process::kill(proxy, libc::SIGTERM).expect("alive");
    assert_eq!(bench.end(proxy), 4, "{}", bench.read("said"));
}

#[test]
fn a_foreground_server_that_writes_its_own_pid_is_the_server() {
    let bench = Bench::new();
    let proxy = bench.start(LONG, "trap 'exit 11' USR1; echo $BASHPID > pid; while :; do sleep 0.02; done");
    bench.until("written", || bench.path("pid").exists());
    process::kill(proxy, libc::SIGUSR1).expect("alive");
    assert_eq!(bench.end(proxy), 11);
}

#[test]
fn the_first_line_of_a_pid_file_is_what_counts() {
    let read = |text: &[u8]| parse_pid(text).ok();
    assert_eq!(read(b"4711"), Some(4711));
    assert_eq!(read(b" 4711 \r\n/var/lib/postgresql\n5432\n"), Some(4711));
    for wrong in [&b""[..], b"\n", b"0", b"-1", b"+5", b"12x", b"1 2", b"99999999999", b"4294967297", b"\xff\xfe"] {
        assert_eq!(read(wrong), None, "{wrong:?}");
    }
}

proptest! {
    #[test]
    fn no_text_gives_a_pid_that_is_a_group_or_everybody(text in proptest::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(pid) = parse_pid(&text) {
            prop_assert!(pid > 0);
        }
    }
}
