//! hob as PID 1: in a bare namespace, under bubblewrap, and for one command alone.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::*;

/// hob as PID 1 of a namespace made by `unshare`, on the machine's own root.
struct Pid1 {
    home: Home,
    outer: Child,
    /// hob's pid as seen from here.
    pid: i32,
}

impl Pid1 {
    #[track_caller]
    fn start(home: Home, unshare: &[&str], words: &[&str]) -> Pid1 {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child"]).args(unshare).arg("--");
        command.args(words);
        home.dress(&mut command);
        let out = fs::File::create(home.beside("out")).expect("fresh");
        let err = fs::File::create(home.beside("err")).expect("fresh");
        let outer = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().expect("unshare starts");
        let parent = outer.id() as i32;
        let pid = wait_for("PID 1", || {
            let child = children_of(parent).first()?.0;
            // Until it has become hob it is a copy of unshare.
            fs::read_link(format!("/proc/{child}/exe")).ok().filter(|e| !e.ends_with("unshare")).map(|_| child)
        });
        Pid1 { home, outer, pid }
    }

    #[track_caller]
    fn boot(home: Home) -> Pid1 {
        let dir = home.at("").display().to_string();
        let pid1 =
            Pid1::start(home, &["--mount-proc", "--mount", "--uts", "--ipc"], &[hob_bin(), "boot", "--home", &dir]);
        pid1.wait("the daemon", || http(&pid1.home.beside("hob.sock"), "GET", "/v1/info", None).map(|_| ()));
        pid1
    }

    #[track_caller]
    fn wait<T>(&self, what: &str, ask: impl FnMut() -> Option<T>) -> T {
        let mut ask = ask;
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(t) = ask() {
                return t;
            }
            assert!(Instant::now() < end, "waited in vain for {what}: {}{}", self.text("out"), self.text("err"));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.home.beside(name)).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid), signal).expect("PID 1 is there");
    }

    /// Enters the namespace, as `docker exec` does.
    #[track_caller]
    fn inside(&self, words: &[&str]) -> Ran {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid.to_string(), "-p", "-m", "--"]).args(words);
        self.home.dress(&mut command);
        run(&mut command)
    }

    #[track_caller]
    fn end(&mut self) -> i32 {
        let code = wait_child(&mut self.outer, PATIENCE);
        code.unwrap_or_else(|| panic!("PID 1 did not end: {}{}", self.text("out"), self.text("err")))
    }
}

impl Drop for Pid1 {
    fn drop(&mut self) {
        let _ = self.outer.kill();
        let _ = self.outer.wait();
        for (pid, _) in alive_with(&self.home.marker()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn can() -> bool {
    need_all(&["root", "unshare", "nsenter"])
}

#[test]
fn a_stop_as_pid_1_leaves_nothing_and_strangers_are_reaped_but_not_touched() {
    if !can() {
        return;
    }
    let mut pid1 =
        Pid1::boot(Home::with("one: {command: '{prop} escape {home}/h sdte {dir}', stopwaitsecs: 1}\ntwo: sleep 1000"));
    pid1.wait("the helper", || fs::read_to_string(pid1.home.at("h")).ok().filter(|t| t.ends_with('\n')));
    // A stranger, entered from outside, leaves an orphan that lives on.
    let ran = pid1.inside(&["sh", "-c", "setsid sleep 777 >/dev/null 2>&1 & exit 0"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    // And one that ends at once: it must be reaped although hob never started it.
    pid1.inside(&["sh", "-c", "(sleep 0.1 &) ; exit 0"]);
    let ran = pid1.inside(&[hob_bin(), "stop", "one"]);
    assert_eq!(ran.code, 0, "{ran:?} {}", pid1.text("err"));
    let tree: Vec<String> = tree_of(pid1.pid).into_iter().filter(|p| lives(*p)).map(cmdline).collect();
    assert!(!tree.iter().any(|c| c.contains("stamp")), "the helper is gone: {tree:?}");
    assert!(tree.iter().any(|c| c == "sleep 777"), "the stranger is not touched: {tree:?}");
    pid1.wait("no zombie", || children_of(pid1.pid).iter().all(|c| c.1 != 'Z').then_some(()));
    pid1.signal(Signal::SIGTERM);
    assert_eq!(pid1.end(), 0);
}

#[test]
fn an_upgrade_as_pid_1_goes_on_with_the_same_children_and_duties() {
    if !can() {
        return;
    }
    let mut pid1 = Pid1::boot(Home::with("one: sleep 1000\ntwo: sleep 1000"));
    let status = |pid1: &Pid1| pid1.inside(&[hob_bin(), "status", "--json"]).json();
    let before = pid1.wait("both", || {
        let all = status(&pid1);
        // Before the plan is there, there are none.
        let running = all.as_array()?.iter().filter(|process| process["state"] == "RUNNING").count() == 2;
        running.then(|| all.as_array().map(|all| all.iter().map(|p| p["pid"].clone()).collect::<Vec<_>>()))?
    });
    for _ in 0..3 {
        let ran = pid1.inside(&[hob_bin(), "upgrade"]);
        assert_eq!(ran.code, 0, "{ran:?} {}", pid1.text("err"));
    }
    let after = status(&pid1);
    let after: Vec<_> = after.as_array().expect("a list").iter().map(|process| process["pid"].clone()).collect();
    assert_eq!(after, before);
    pid1.inside(&["sh", "-c", "(sleep 0.1 &) ; exit 0"]);
    pid1.wait("no zombie", || children_of(pid1.pid).iter().all(|c| c.1 != 'Z').then_some(()));
    pid1.signal(Signal::SIGTERM);
    assert_eq!(pid1.end(), 0);
}

#[test]
fn a_container_can_end_when_its_program_does_with_its_status() {
    if !can() {
        return;
    }
    let home = Home::with("one: {command: '{prop} flash {home}/s one 7 300', autorestart: false}")
        .settings("exit_when = \"all-exited\"\n");
    let dir = home.at("").display().to_string();
    let mut pid1 = Pid1::start(home, &["--mount-proc", "--mount"], &[hob_bin(), "boot", "--home", &dir]);
    assert_eq!(pid1.end(), 7, "{}", pid1.text("err"));
}

#[test]
fn a_signal_that_comes_before_the_handlers_is_not_lost() {
    if !can() {
        return;
    }
    // hob is held up before it has done anything: it looks a group up, and getent takes its time.
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT] {
        let home = Home::with("one: sleep 1000")
            .settings("socket_group = \"slow\"\n")
            .script("bin/getent", "#!/bin/sh\necho asked >> {home}/asked\nsleep 0.5\necho slow:x:0:\n");
        let path = format!("{}:/usr/bin:/bin", home.at("bin").display());
        let home = home.env("PATH", &path);
        let dir = home.at("").display().to_string();
        let mut pid1 = Pid1::start(home, &["--mount-proc", "--mount"], &[hob_bin(), "boot", "--home", &dir]);
        pid1.wait("the question", || pid1.home.at("asked").exists().then_some(()));
        pid1.signal(signal);
        assert_eq!(pid1.end(), 0, "{signal}: {}", pid1.text("err"));
    }
}

#[test]
fn it_works_without_proc() {
    if !can() {
        return;
    }
    let home = Home::with("one: {command: '{prop} escape {home}/h s {dir}', stopwaitsecs: 1}\ntwo: sleep 1000");
    let dir = home.at("").display().to_string();
    // /proc is there, but empty.
    let line = format!("mount -t tmpfs none /proc && exec {} boot --home {dir}", hob_bin());
    let mut pid1 = Pid1::start(home, &["--mount"], &["sh", "-c", &line]);
    pid1.wait("the helper", || fs::read_to_string(pid1.home.at("h")).ok().filter(|t| t.ends_with('\n')));
    pid1.wait("an answer", || http(&pid1.home.beside("hob.sock"), "GET", "/v1/info", None).map(|_| ()));
    let ran = run(&mut pid1.home.command(&["restart", "two"]));
    assert_eq!(ran.code, 0, "{ran:?} {}", pid1.text("err"));
    pid1.signal(Signal::SIGTERM);
    assert_eq!(pid1.end(), 0, "{}", pid1.text("err"));
}

// ---------------------------------------------------------------- hob boot -- CMD

fn init(words: &[&str]) -> Ran {
    let home = Home::bare();
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--", hob_bin(), "boot", "--"]).args(words);
    home.dress(&mut command);
    run_within(PATIENCE, &mut command)
}

#[test]
fn boot_with_a_command_ends_with_its_status() {
    if !can() {
        return;
    }
    for code in [0, 1, 2, 3, 7, 42, 100, 126, 127, 128, 200, 255] {
        assert_eq!(init(&["sh", "-c", &format!("exit {code}")]).code, code);
    }
    for signal in [1, 2, 3, 6, 9, 11, 13, 15] {
        let ran = init(&[prop(), "raise", &signal.to_string()]);
        assert_eq!(ran.code, 128 + signal, "{ran:?}");
    }
    let ran = init(&["/no/such/program"]);
    assert!(ran.code == 127 || ran.code == 111, "{ran:?}");
    assert!(ran.err.contains("/no/such/program") && ran.err.contains("no such file"), "{ran:?}");
    // Not run by a shell: it is no script of a service.
    let ran = init(&["/etc/passwd"]);
    assert!(ran.code == 126 && ran.err.contains("cannot exec /etc/passwd: permission denied"), "{ran:?}");
    let ran = init(&["sh", "-c", "echo to stdout; echo to stderr >&2"]);
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("to stdout\n", "to stderr\n"));
}

#[test]
fn boot_with_a_command_forwards_every_signal() {
    if !can() {
        return;
    }
    let home = Home::bare();
    let file = home.beside("got").display().to_string();
    let mut pid1 = Pid1::start(home, &["--mount-proc"], &[hob_bin(), "boot", "--", prop(), "signals", &file]);
    pid1.wait("handlers", || fs::read_to_string(&file).ok().filter(|t| t.contains("begin")));
    let all = [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGALRM,
        Signal::SIGCONT,
        Signal::SIGWINCH,
        Signal::SIGTSTP,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
        Signal::SIGURG,
        Signal::SIGPIPE,
        Signal::SIGIO,
        Signal::SIGPWR,
    ];
    for signal in all {
        pid1.signal(signal);
        let name = signal.as_str().trim_start_matches("SIG");
        let name = if name == "IO" { "POLL" } else { name };
        pid1.wait(name, || {
            let got = fs::read_to_string(&file).unwrap_or_default();
            (got.contains(&format!("{name}\n")) || (name == "POLL" && got.contains("IO\n"))).then_some(())
        });
    }
    pid1.signal(Signal::SIGTERM);
    assert_eq!(pid1.end(), 0);
}

#[test]
fn boot_with_a_command_reaps_orphans_and_also_works_when_it_is_not_pid_1() {
    if !can() {
        return;
    }
    let home = Home::bare();
    let mut pid1 = Pid1::start(home, &["--mount-proc"], &[hob_bin(), "boot", "--", prop(), "orphans", "500"]);
    pid1.wait("the storm", || pid1.text("out").contains("done").then_some(()));
    pid1.wait("no zombie", || children_of(pid1.pid).iter().all(|c| c.1 != 'Z').then_some(()));
    pid1.signal(Signal::SIGTERM);
    assert_eq!(pid1.end(), 128 + 15);

    let home = Home::bare();
    let ran = run_within(PATIENCE, &mut home.command(&["boot", "--", "sh", "-c", "(sleep 0.1 &); exit 5"]));
    assert_eq!(ran.code, 5, "{ran:?}");
}

// ---------------------------------------------------------------- bubblewrap

#[test]
fn it_lives_under_bubblewrap_without_capabilities_without_proc_and_with_a_root_that_is_read_only() {
    if !can() || !need("bwrap") {
        return;
    }
    // The static binary: this root has nothing else than it, the stage prop and the home.
    let home = Home::bare();
    let root = home.beside("root");
    for dir in ["home", "run", "tmp"] {
        fs::create_dir_all(root.join(dir)).expect("a fresh directory");
    }
    fs::copy(static_hob(), root.join("hob")).expect("the root takes a file");
    fs::copy(prop(), root.join("prop")).expect("the root takes a file");
    let yml = "www:\n  type: custom\n  processes:\n    one: {command: '/prop escape /tmp/h sdt mark', stopwaitsecs: 1}\n    two: /prop orphans 40\n";
    fs::write(root.join("home/dotcloud.yml"), yml).expect("the root takes a file");
    let open = |name: &str| fs::File::create(home.beside(name)).expect("fresh");
    let mut outer = Command::new("bwrap")
        .args(["--unshare-all", "--unshare-user", "--uid", "1000", "--gid", "1000", "--as-pid-1", "--die-with-parent"])
        .args(["--cap-drop", "ALL", "--ro-bind"])
        .arg(&root)
        .args(["/", "--tmpfs", "/run", "--tmpfs", "/tmp", "--clearenv"])
        .args(["--setenv", "XDG_RUNTIME_DIR", "/run", "--setenv", "XDG_STATE_HOME", "/run/state"])
        .args(["--", "/hob", "boot", "--home", "/home"])
        .stdin(Stdio::null())
        .stdout(open("out"))
        .stderr(open("err"))
        .spawn()
        .expect("bwrap starts");
    let text = |name: &str| fs::read_to_string(home.beside(name)).unwrap_or_default();
    let pid = wait_for("PID 1", || {
        let below = tree_of(outer.id() as i32);
        below.into_iter().find(|p| cmdline(*p).starts_with("/hob boot"))
    });
    let socket = format!("/proc/{pid}/root/run/hob/hob.sock");
    let processes =
        |state: &str| http(Path::new(&socket), "GET", "/v1/processes", None).map_or(0, |a| a.1.matches(state).count());
    wait_for("both run", || (processes("\"RUNNING\"") == 2).then_some(()));
    wait_for("the storm", || text("out").contains("www:two | done").then_some(()));
    wait_for("the helper", || fs::read_to_string(format!("/proc/{pid}/root/tmp/h")).ok().filter(|t| t.ends_with('\n')));
    let below = tree_of(pid);
    assert!(below.iter().all(|p| matches!(stat(*p), None | Some((_, _))) && stat(*p).is_none_or(|s| s.0 != 'Z')));
    kill(Pid::from_raw(pid), Signal::SIGTERM).expect("PID 1 is there");
    let code = wait_child(&mut outer, PATIENCE);
    assert_eq!(code, Some(0), "{}{}", text("out"), text("err"));
    assert!(below.iter().all(|p| !lives(*p)), "the helper too");
}
