//! hob in real containers: runc with a root of its own, as hostile as container platforms make it, and podman with the
//! image of `conf/Containerfile`.
//!
//! The binary is the static release build, the one that is made for this: it runs where there is nothing but itself.
//! Root here lacks CAP_SYS_RESOURCE and the memory and pids controllers are version 1 (reference/platform.md), as on many
//! a build machine; the tests take what they find.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::*;

/// An OCI bundle: a root file system and a config.json, to be run by runc.
struct Bundle {
    home: Home,
    id: String,
    config: Value,
}

/// The system calls that an older kernel does not know or an engine's filter refuses, and hob has another way for.
const NEWER_CALLS: [&str; 9] = [
    "clone3",
    "pidfd_open",
    "pidfd_send_signal",
    "pidfd_getfd",
    "close_range",
    "openat2",
    "statx",
    "faccessat2",
    "rseq",
];

impl Bundle {
    /// A root with the static hob, the stage prop and a home with these processes, and not one file more.
    #[track_caller]
    fn scratch(processes: &str) -> Bundle {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let home = Home::bare();
        let root = home.beside("rootfs");
        fs::create_dir_all(root.join("home")).expect("a fresh directory");
        copy(&static_hob(), &root.join("hob"));
        copy(Path::new(prop()), &root.join("prop"));
        let mut yml = String::from("www:\n  type: custom\n  ports: {}\n  processes:\n");
        for line in processes.lines() {
            yml += &format!("    {line}\n");
        }
        fs::write(root.join("home/dotcloud.yml"), yml).expect("a fresh file");
        let ran = run(runc(&home).arg("spec").current_dir(home.dir.path()));
        assert_eq!(ran.code, 0, "{ran:?}");
        let text = fs::read_to_string(home.beside("config.json")).expect("runc has just written it");
        let mut config: Value = serde_json::from_str(&text).expect("runc writes JSON");
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/hob", "boot", "--home", "/home"]);
        config["root"]["readonly"] = json!(false);
        let id = format!("hobt-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        Bundle { home, id, config }
    }

    /// The same with a shell and its friends.
    #[track_caller]
    fn busybox(processes: &str) -> Bundle {
        let bundle = Bundle::scratch(processes);
        let root = bundle.root();
        for dir in ["bin", "etc", "tmp"] {
            fs::create_dir(root.join(dir)).expect("a fresh directory");
        }
        copy(&which("busybox").expect("asked for with need"), &root.join("bin/busybox"));
        for applet in ["sh", "sleep", "ps", "kill", "cat", "ls", "echo", "id", "setsid", "true", "grep"] {
            symlink("busybox", root.join("bin").join(applet)).expect("a fresh link");
        }
        bundle
            .file("etc/passwd", "root:x:0:0:root:/:/bin/sh\napp:x:1000:1000::/home:/bin/sh\n")
            .file("etc/group", "root:x:0:\napp:x:1000:\nmore:x:2000:app\n")
    }

    fn root(&self) -> PathBuf {
        self.home.beside("rootfs")
    }

    fn file(self, path: &str, text: &str) -> Bundle {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().expect("inside the root")).expect("the root takes a directory");
        fs::write(path, text).expect("the root takes a file");
        self
    }

    fn args(mut self, words: &[&str]) -> Bundle {
        self.config["process"]["args"] = json!(words);
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Value)) -> Bundle {
        change(&mut self.config);
        self
    }

    fn env(self, pair: &str) -> Bundle {
        self.with(|c| c["process"]["env"].as_array_mut().expect("runc spec has one").push(json!(pair)))
    }

    /// With what docker gives root, of which runc's own example leaves out the better half.
    fn capable(self) -> Bundle {
        let names = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "SYS_CHROOT"];
        let names: Vec<String> = names.iter().map(|n| format!("CAP_{n}")).collect();
        let sets = ["bounding", "effective", "permitted"];
        self.with(|c| c["process"]["capabilities"] = sets.iter().map(|set| (set.to_string(), json!(names))).collect())
    }

    /// As a hardened pod runs its programs.
    fn hardened(self) -> Bundle {
        self.env("XDG_RUNTIME_DIR=/run").env("XDG_STATE_HOME=/run/state").with(|c| {
            c["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
            c["process"]["capabilities"] = json!({});
            c["process"]["noNewPrivileges"] = json!(true);
            c["root"]["readonly"] = json!(true);
            c["mounts"].as_array_mut().expect("runc spec has some").push(json!({
                "destination": "/run", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "nodev", "noexec", "mode=755", "size=4m", "uid=1000", "gid=1000"],
            }));
        })
    }

    /// With these calls failing with this error number.
    fn without_calls(self, calls: &[&str], errno: i32) -> Bundle {
        self.with(|c| {
            c["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{ "names": calls, "action": "SCMP_ACT_ERRNO", "errnoRet": errno }],
            });
        })
    }

    fn memory(self, mib: u64) -> Bundle {
        self.with(|c| c["linux"]["resources"]["memory"] = json!({ "limit": mib << 20, "swap": mib << 20 }))
    }

    fn pids(self, most: u64) -> Bundle {
        self.with(|c| c["linux"]["resources"]["pids"] = json!({ "limit": most }))
    }

    #[track_caller]
    fn launch(self) -> Container {
        fs::write(self.home.beside("config.json"), self.config.to_string()).expect("the bundle takes a file");
        let open = |name: &str| fs::File::create(self.home.beside(name)).expect("the bundle takes a file");
        let mut runc = runc(&self.home);
        runc.args(["run", "--preserve-fds", "2", "--bundle"]).arg(self.home.dir.path()).arg(&self.id);
        // Two descriptors that nobody has asked for, as engines happen to leave open.
        let child = Command::new("bash")
            .args(["-c", "exec 3</etc/passwd 4</etc/passwd; exec \"$@\"", "bash"])
            .arg(runc.get_program())
            .args(runc.get_args())
            .stdin(Stdio::null())
            .stdout(open("out"))
            .stderr(open("err"))
            .spawn()
            .expect("runc starts");
        Container { home: self.home, id: self.id, child }
    }

    /// Runs it until hob answers.
    #[track_caller]
    fn boot(self) -> Container {
        let container = self.launch();
        container.wait("hob runs", || {
            let ran = container.hob(&["info", "--json"]);
            (ran.code == 0 && ran.json()["hob"]["state"] == "running").then_some(())
        });
        container
    }

    /// Runs it to its end.
    #[track_caller]
    fn status(self) -> (i32, String) {
        let mut container = self.launch();
        let code = container.end();
        (code, container.said())
    }
}

struct Container {
    home: Home,
    id: String,
    child: Child,
}

impl Container {
    #[track_caller]
    fn exec(&self, words: &[&str]) -> Ran {
        run(runc(&self.home).arg("exec").arg(&self.id).args(words))
    }

    #[track_caller]
    fn hob(&self, words: &[&str]) -> Ran {
        self.exec(&[&["/hob"], words].concat())
    }

    #[track_caller]
    fn status(&self) -> Vec<Proc> {
        let ran = self.hob(&["status", "--json"]);
        assert_eq!(ran.code, 0, "{ran:?}\n{}", self.said());
        list_of(ran.json(), "processes").into_iter().map(Proc).collect()
    }

    #[track_caller]
    fn process(&self, name: &str) -> Proc {
        let all = self.status();
        let found = all.iter().find(|p| p.0["process"] == name).cloned();
        found.unwrap_or_else(|| panic!("no {name} in {all:?}"))
    }

    #[track_caller]
    fn wait_state(&self, name: &str, state: &str) -> Proc {
        self.wait(&format!("{name} is {state}"), || Some(self.process(name)).filter(|p| p.state() == state))
    }

    #[track_caller]
    fn wait<T>(&self, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            assert!(lives(self.child.id() as i32), "the container ended before: {what}\n{}", self.said());
            assert!(Instant::now() < end, "waited in vain for: {what}\n{}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What came out of the container, hob's own words included.
    fn said(&self) -> String {
        ["out", "err"].map(|f| fs::read_to_string(self.home.beside(f)).unwrap_or_default()).concat()
    }

    /// The log of a process, where root's hob has it.
    fn log(&self, process: &str) -> String {
        let path = self.home.beside(&format!("rootfs/var/log/supervisor/{process}.log"));
        String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
    }

    fn runc(&self, words: &[&str]) -> Ran {
        run(runc(&self.home).args(words))
    }

    /// PID 1 as seen from the machine.
    #[track_caller]
    fn pid(&self) -> i32 {
        let ran = self.runc(&["state", &self.id]);
        ran.json()["pid"].as_i64().expect("runc tells the pid") as i32
    }

    /// Everything of the container that is dead and not reaped.
    fn zombies(&self) -> usize {
        tree_of(self.pid()).into_iter().filter(|p| matches!(stat(*p), Some(('Z', _)))).count()
    }

    #[track_caller]
    fn end(&mut self) -> i32 {
        let code = wait_child(&mut self.child, PATIENCE);
        code.unwrap_or_else(|| panic!("the container did not end\n{}", self.said()))
    }

    /// `docker stop`: TERM, and how long it took.
    #[track_caller]
    fn stop(&mut self) -> (i32, Duration) {
        let begin = Instant::now();
        let ran = self.runc(&["kill", &self.id, "TERM"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        (self.end(), begin.elapsed())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Retried: a process that was entered from outside may be reaped late, and runc then calls it running.
        for _ in 0..30 {
            let ran = run(runc(&self.home).args(["delete", "--force", &self.id]));
            if ran.code == 0 || ran.err.contains("does not exist") {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// runc with its own list of containers, which goes with the test.
fn runc(home: &Home) -> Command {
    let mut command = Command::new(which("runc").unwrap_or_else(|| "runc".into()));
    command.arg("--root").arg(home.beside("runc"));
    command
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap_or_else(|e| panic!("cannot copy {} to {}: {e}", from.display(), to.display()));
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).expect("our own file");
}

/// The types of the segments of a 64-bit little-endian ELF file. elf(5).
fn elf_segments(bytes: &[u8]) -> Vec<u32> {
    let number =
        |at: usize, length: usize| bytes[at..at + length].iter().rev().fold(0, |n, b| n << 8 | usize::from(*b));
    assert_eq!(&bytes[..6], b"\x7fELF\x02\x01");
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).map(|n| number(table + n * size, 4) as u32).collect()
}

fn can() -> bool {
    need_all(&["root", "runc", "busybox"])
}

// ---------------------------------------------------------------- the static binary

#[test]
fn the_static_binary_is_small_and_needs_nothing() {
    let path = static_hob();
    let bytes = fs::read(&path).expect("it has just been built");
    // The bar of 5 MB (DESIGN §12), in binary megabytes: the dynamic build is one smaller, which is the C library.
    assert!(bytes.len() <= 5 << 20, "{} bytes", bytes.len());
    assert_eq!(elf_segments(&bytes).iter().find(|kind| **kind == 3), None, "no loader is asked for (PT_INTERP)");
    assert_eq!(run(Command::new(&path).arg("--version")).out, run(Command::new(hob_bin()).arg("--version")).out);
}

#[test]
fn an_empty_root_is_enough() {
    if !can() {
        return;
    }
    let mut container =
        Bundle::scratch("one: /prop count 3\ntwo: {command: /prop orphans 50, user: '1234:5678'}").capable().boot();
    for name in ["one", "two"] {
        container.wait_state(name, "RUNNING");
    }
    container.wait("the output", || container.said().contains("www:two | done").then_some(()));
    let pid = container.process("two").pid().expect("it runs");
    let status = container.exec(&["/prop", "show", &format!("/proc/{pid}/status")]).out;
    assert!(status.contains("Uid:\t1234\t1234\t1234") && status.contains("Groups:\t5678"), "{status}");
    assert_eq!(container.log("one").lines().count(), 3);
    container.wait("no zombie", || (container.zombies() == 0).then_some(()));
    let (code, took) = container.stop();
    assert_eq!(code, 0, "{}", container.said());
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn users_are_found_without_the_c_librarys_plug_ins_which_a_static_binary_cannot_load() {
    if !can() {
        return;
    }
    // glibc's own look-up crashes here: nsswitch names a plug-in, and the user is not in the file before it.
    let users = "passwd: files systemd\ngroup: files systemd\n";
    let container = Bundle::busybox("one: {command: 'sh -c \"id; sleep 1000\"', user: app}\ntwo: sleep 1000")
        .capable()
        .file("etc/nsswitch.conf", users)
        .boot();
    container.wait("its user", || container.log("one").ends_with('\n').then_some(()));
    assert_eq!(container.log("one"), "uid=1000(app) gid=1000(app) groups=1000(app),2000(more)\n");

    // And one that nobody knows is a plain error before anything starts.
    let (code, said) =
        Bundle::busybox("one: {command: sleep 1000, user: ape}").file("etc/nsswitch.conf", users).status();
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("/home/dotcloud.yml:5:") && said.contains("no user \"ape\""), "{said}");
    assert!(said.contains("did you mean \"app\"?"), "{said}");
}

#[test]
fn without_the_capability_to_become_another_user_the_process_says_so_and_hob_lives() {
    if !can() {
        return;
    }
    let mut container = Bundle::busybox("one: {command: sleep 1000, user: app}\ntwo: sleep 1000").boot();
    let one = container.wait_state("one", "FATAL");
    let why = "cannot exec sleep: cannot become user app: operation not permitted (stage setgroups)";
    assert_eq!(one.why(), why);
    container.wait_state("two", "RUNNING");
    assert_eq!(container.stop().0, 0, "{}", container.said());
}

// ---------------------------------------------------------------- what container platforms do

/// Status, logs, crash, restart, orphans and an orderly end: what must work wherever it runs.
#[track_caller]
fn lives_a_whole_life(bundle: Bundle, proc: bool) {
    let mut container = bundle.boot();
    for name in ["steady", "shell", "crash", "orphans"] {
        container.wait_state(name, "RUNNING");
    }
    assert_eq!(container.process("gone").why().split(':').next(), Some("cannot exec /no/such"), "{}", container.said());
    container.wait("the orphans", || container.said().contains("www:orphans | done").then_some(()));
    container.wait("a few restarts", || (container.process("crash").restarts() >= 3).then_some(()));
    assert!(container.process("crash").last_exit().contains("code 3"), "{:?}", container.process("crash"));
    let before = container.process("steady").pid();
    assert_eq!(container.hob(&["restart", "steady"]).code, 0, "{}", container.said());
    assert_ne!(container.process("steady").pid(), before);
    assert_eq!(container.hob(&["stop", "shell"]).code, 0, "{}", container.said());
    // Strangers: entered from outside, one leaves an orphan that ends, and one that goes on.
    assert_eq!(container.exec(&["/bin/sh", "-c", "(sleep 0.2 &) ; setsid sleep 555 >/dev/null 2>&1 & exit 0"]).code, 0);
    let tree = || tree_of(container.pid());
    container.wait("no zombie", || (container.zombies() == 0).then_some(()));
    let programs: Vec<i32> = tree().into_iter().filter(|p| cmdline(*p) == "sleep 1000").collect();
    assert!(!programs.is_empty() && programs.iter().all(|p| fd_count(*p) == 3), "programs have 0, 1 and 2");
    let lines = container.hob(&["logs", "orphans", "-n", "1"]);
    assert!(lines.out.contains("done"), "{lines:?}");
    let shown = container.hob(&["status"]).out;
    assert!(shown.contains("www:steady") && shown.contains("RUNNING"), "{shown}");
    // What /proc tells of them is in it where there is one.
    let row = shown.lines().find(|l| l.contains("www:steady")).expect("it is listed");
    assert_eq!(row.contains('%'), proc, "{shown}");
    let (code, took) = container.stop();
    assert_eq!(code, 0, "{}", container.said());
    assert!(took < Duration::from_secs(4), "{took:?}\n{}", container.said());
    assert!(!container.said().contains("panicked"), "{}", container.said());
}

const A_LIFE: &str = "\
steady: sleep 1000
shell: {command: 'echo $HOME && sleep 1000'}
crash: {command: 'sleep 0.2; exit 3', startsecs: 0, restart_delay: 0, restart_delay_max: 0}
orphans: {command: /prop orphans 100}
gone: {command: /no/such, startretries: 0}";

#[test]
fn it_lives_as_root_with_little_more_than_a_shell() {
    if can() {
        lives_a_whole_life(Bundle::busybox(A_LIFE), true);
    }
}

#[test]
fn it_lives_without_root_without_capabilities_and_with_a_root_that_is_read_only() {
    if can() {
        lives_a_whole_life(Bundle::busybox(A_LIFE).hardened().pids(64).memory(64), true);
    }
}

#[test]
fn it_lives_where_newer_system_calls_are_unknown() {
    if can() {
        lives_a_whole_life(Bundle::busybox(A_LIFE).hardened().without_calls(&NEWER_CALLS, libc::ENOSYS), true);
    }
}

#[test]
fn it_lives_where_newer_system_calls_are_forbidden() {
    if can() {
        let more = ["mount", "unshare", "setns", "ptrace", "bpf", "process_vm_readv", "kcmp", "io_uring_setup"];
        let calls = [&NEWER_CALLS[..], &more].concat();
        lives_a_whole_life(Bundle::busybox(A_LIFE).hardened().without_calls(&calls, libc::EPERM), true);
    }
}

#[test]
fn a_stop_takes_no_longer_than_the_grace_and_leaves_nothing_of_the_container() {
    if !can() {
        return;
    }
    let mut container = Bundle::busybox(
        "one: {command: /prop stubborn 5, stopwaitsecs: 1}\ntwo: {command: '/prop escape /tmp/h sdt mark', stopwaitsecs: 1}",
    )
    .boot();
    container.wait_state("one", "RUNNING");
    container.wait("the helper", || container.exec(&["/bin/cat", "/tmp/h"]).out.ends_with('\n').then_some(()));
    let all = tree_of(container.pid());
    assert!(all.len() > 8, "{all:?}");
    let (code, took) = container.stop();
    assert_eq!(code, 0, "{}", container.said());
    assert!((1.0..4.0).contains(&took.as_secs_f64()), "{took:?}\n{}", container.said());
    wait_for("all of it gone", || all.iter().all(|p| !lives(*p)).then_some(()));
}

#[test]
fn a_container_ends_with_its_programs_status() {
    if !can() {
        return;
    }
    let ends = |toml: &str, processes: &str| Bundle::busybox(processes).file("etc/hob.toml", toml).status();
    let (code, said) = ends("exit_when = \"all-exited\"\n", "one: {command: 'exit 42', autorestart: false}");
    assert_eq!(code, 42, "{said}");
    let (code, said) =
        ends("exit_when = \"any-fatal\"\n", "one: {command: '/prop raise 11', startretries: 0}\ntwo: sleep 1000");
    assert_eq!(code, 128 + 11, "{said}");
    // The tini role, in an empty root.
    for (words, code) in
        [(&["/prop", "flash", "/f", "x", "7"][..], 7), (&["/prop", "raise", "9"], 137), (&["/gone"], 127)]
    {
        let words = [&["/hob", "boot", "--"], words].concat();
        assert_eq!(Bundle::scratch("").args(&words).status().0, code, "{words:?}");
    }
}

#[test]
fn the_kernels_out_of_memory_killer_is_named_and_hob_outlives_it() {
    if !can() {
        return;
    }
    let mut container =
        Bundle::busybox("leak: {command: '/prop eat 500', startsecs: 5}\nother: sleep 1000").memory(48).boot();
    let leak = container.wait_state("leak", "BACKOFF");
    assert!(leak.last_exit().contains("out of memory"), "{leak:?}\n{}", container.said());
    assert!(leak.why().contains("out of memory"), "{leak:?}");
    let other = container.wait_state("other", "RUNNING");
    // Again and again it is the leak that dies, never hob, its logger or the neighbour.
    container.wait("a second time", || (container.process("leak").restarts() >= 2).then_some(()));
    let after = container.process("other");
    assert_eq!((after.pid(), after.restarts()), (other.pid(), 0), "{}", container.said());
    assert!(!container.said().contains("the logger ended"), "{}", container.said());
    // A KILL by hand is not taken for one by the kernel.
    assert_eq!(container.hob(&["stop", "leak"]).code, 0);
    assert_eq!(container.hob(&["signal", "KILL", "other"]).code, 0);
    container.wait("other again", || (container.process("other").restarts() == 1).then_some(()));
    assert!(!container.process("other").last_exit().contains("memory"), "{:?}", container.process("other"));
    assert_eq!(container.stop().0, 0, "{}", container.said());
}

#[test]
fn what_hob_kills_is_not_said_to_be_out_of_memory_for_what_a_child_of_it_has_used() {
    if !can() {
        return;
    }
    let script = "trap '' TERM; /prop eat 500; echo it is over; while :; do sleep 1; done";
    let mut container = Bundle::busybox(&format!("deaf: {{command: {script:?}, stopwaitsecs: 1}}")).memory(48).boot();
    container.wait("the kernel to take the child", || container.said().contains("it is over").then_some(()));
    assert_eq!(container.hob(&["stop", "deaf"]).code, 0);
    let deaf = container.process("deaf");
    assert!(deaf.last_exit().contains("SIGKILL") && !deaf.last_exit().contains("memory"), "{deaf:?}");
    assert_eq!(container.stop().0, 0, "{}", container.said());
}

#[test]
fn where_many_small_processes_use_up_the_memory_it_is_one_of_them_that_goes_and_not_hob() {
    if !can() {
        return;
    }
    // Each of them is smaller than hob itself.
    let processes: Vec<String> = (0..60)
        .map(|n| format!("p{n}: {{command: /prop eat 1, startsecs: 0, restart_delay: 5, restart_delay_max: 5}}"))
        .collect();
    let mut container = Bundle::scratch(&processes.join("\n")).memory(40).launch();
    container.wait("a kill", || container.said().contains("out of memory").then_some(()));
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(2) {
        assert!(matches!(container.child.try_wait(), Ok(None)), "hob itself was killed\n{}", container.said());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!container.said().contains("the logger ended"), "{}", container.said());
    // An orderly stop at the limit.
    let (code, took) = container.stop();
    assert_eq!(code, 0, "{}", container.said());
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn at_the_limit_of_processes_a_start_is_tried_again_and_everything_else_goes_on() {
    if !can() {
        return;
    }
    // hob, its logger, and what runs: the bomb takes the rest, once the planner has left its place.
    let mut container =
        Bundle::busybox("steady: sleep 1000\nbomb: {command: '/prop stubborn 40', after: [steady], stopwaitsecs: 1}\nlate: {command: sleep 1000, autostart: false}")
            .pids(24)
            .launch();
    let socket = format!(
        "/proc/{}/root/run/hob/hob.sock",
        wait_for("PID 1", || {
            let ran = container.runc(&["state", &container.id]);
            (ran.code == 0).then(|| ran.json()["pid"].as_i64()).flatten()
        })
    );
    let ask = |method: &str, path: &str, body: Option<&str>| http(Path::new(&socket), method, path, body);
    container.wait("the limit", || (tree_of(container.pid()).len() == 24).then_some(()));
    // `runc exec` needs a process in there too, so this client stays outside.
    container.wait("an answer", || ask("GET", "/v1/processes", None));
    let answer =
        ask("POST", "/v1/start", Some(r#"{"names": ["late"], "wait": true, "timeout": 5}"#)).expect("an answer");
    assert!(answer.1.contains("BACKOFF: cannot exec") && answer.1.contains("cannot fork"), "{answer:?}");
    let stopped = ask("POST", "/v1/stop", Some(r#"{"names": ["bomb"], "wait": true}"#)).expect("an answer");
    assert!(stopped.1.contains("\"ok\":true"), "{stopped:?}\n{}", container.said());
    container.wait_state("late", "RUNNING");
    container.wait_state("steady", "RUNNING");
    assert_eq!(container.stop().0, 0, "{}", container.said());
}

#[test]
fn a_paused_container_goes_on_where_it_was() {
    if !can() {
        return;
    }
    let mut container =
        Bundle::busybox("one: {command: 'sleep 0.3; exit 1', startsecs: 2, restart_delay: 1}\ntwo: sleep 1000").boot();
    container.wait_state("one", "BACKOFF");
    let two = container.wait_state("two", "RUNNING");
    assert_eq!(container.runc(&["pause", &container.id]).code, 0);
    let before = fs::read_to_string(container.home.beside("err")).expect("there").matches("one: BACKOFF").count();
    // Clocks go on: every timer is overdue afterwards.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(container.runc(&["resume", &container.id]).code, 0);
    container.wait("the next try", || (container.process("one").restarts() > before as u64).then_some(()));
    assert_eq!(container.process("two").pid(), two.pid());
    assert_eq!(container.stop().0, 0, "{}", container.said());
}

// ---------------------------------------------------------------- podman, and the image that is shipped

/// podman with a storage and a configuration of its own.
pub struct Podman {
    pub home: Home,
}

impl Podman {
    #[track_caller]
    pub fn new() -> Podman {
        let home = Home::bare();
        let dir = home.marker();
        // vfs works on any file system. A limit that root may not raise must be given, or runc tries to raise it.
        let storage = format!("[storage]\ndriver=\"vfs\"\nrunroot=\"{dir}/run\"\ngraphroot=\"{dir}/graph\"\n");
        let containers = "[containers]\ndefault_ulimits=[\"nofile=4096:4096\",\"nproc=4096:4096\"]\nnetns=\"none\"\n\
             [engine]\nruntime=\"runc\"\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"file\"\n";
        fs::write(home.beside("storage.conf"), storage).expect("a fresh file");
        fs::write(home.beside("containers.conf"), containers).expect("a fresh file");
        Podman { home }
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("podman");
        command.args(words).current_dir(self.home.dir.path());
        command.env("CONTAINERS_STORAGE_CONF", self.home.beside("storage.conf"));
        command.env("CONTAINERS_CONF", self.home.beside("containers.conf"));
        command
    }

    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> Ran {
        let ran = run(&mut self.command(words));
        assert_eq!(ran.code, 0, "podman {words:?}: {}", ran.both());
        ran
    }

    /// A container in the background, once every process in it runs.
    #[track_caller]
    fn boot(&self, name: &str, options: &[&str]) {
        self.ok(&[&["run", "-d", "--name", name, "--no-healthcheck"], options].concat());
        let begin = Instant::now();
        loop {
            let ran = run(&mut self.command(&["exec", name, "/hob", "status", "--json"]));
            let states: Vec<Value> = if ran.code == 0 { list_of(ran.json(), "processes") } else { Vec::new() };
            if !states.is_empty() && states.iter().all(|p| p["state"] == "RUNNING") {
                return;
            }
            let logs = run(&mut self.command(&["logs", name])).both();
            assert!(begin.elapsed() < PATIENCE, "{ran:?}\n{logs}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = run(&mut self.command(&["rm", "--all", "--force", "--time", "1"]));
        let _ = run(&mut self.command(&["rmi", "--all", "--force"]));
        sh("find /sys/fs/cgroup/*/libpod_parent -depth -type d -exec rmdir {} + 2>/dev/null");
    }
}

/// The `podman run` lines that the Containerfile's head tells its reader, without their first two words and the image.
fn told_runs() -> Vec<Vec<String>> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/Containerfile")).expect("it is shipped");
    text.lines()
        .filter_map(|l| l.strip_prefix("#   podman run ").or(l.strip_prefix("#   podman run")))
        .map(|l| l.split_whitespace().filter(|w| *w != "my-service").map(str::to_owned).collect())
        .collect()
}

#[test]
fn the_shipped_image_builds_and_runs_in_every_way_its_head_tells() {
    if !can() || !need("podman") {
        return;
    }
    let podman = Podman::new();
    // A stand-in for the image that it builds upon, which is somewhere else.
    let base = podman.home.beside("base");
    fs::create_dir_all(base.join("bin")).expect("a fresh directory");
    fs::create_dir_all(base.join("tmp")).expect("a fresh directory");
    copy(&which("busybox").expect("asked for"), &base.join("bin/busybox"));
    for applet in ["sh", "sleep", "cat", "id"] {
        symlink("busybox", base.join("bin").join(applet)).expect("a fresh link");
    }
    sh_ok(&format!("tar -C {0} -cf {0}.tar .", base.display()));
    podman.ok(&["import", "-q", "base.tar", "docker.io/library/debian:stable-slim"]);
    let context = podman.home.beside("context");
    fs::create_dir_all(context.join("home")).expect("a fresh directory");
    copy(&static_hob(), &context.join("hob"));
    let yml =
        "www:\n  type: custom\n  processes:\n    web: {command: 'id -u; sleep 1000'}\n    crash: 'sleep 2; exit 1'\n";
    fs::write(context.join("home/dotcloud.yml"), yml).expect("a fresh file");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/Containerfile");
    podman.ok(&[
        "build",
        "--format",
        "docker",
        "--isolation",
        "chroot",
        "--pull-never",
        "-q",
        "-t",
        "my-service",
        "-f",
        file,
        "context",
    ]);

    let runs = told_runs();
    assert_eq!(runs.len(), 3, "{runs:?}");
    for (n, options) in runs.iter().enumerate() {
        let name = format!("c{n}");
        let mut words: Vec<&str> = options.iter().map(String::as_str).collect();
        words.push("my-service");
        podman.boot(&name, &words);
        let begin = Instant::now();
        podman.ok(&["stop", "--time", "10", &name]);
        assert!(begin.elapsed() < Duration::from_secs(5), "{options:?} took {:?}", begin.elapsed());
        assert_eq!(podman.ok(&["inspect", &name, "--format", "{{.State.ExitCode}}"]).out.trim(), "0", "{options:?}");
        let logs = podman.ok(&["logs", &name]);
        let uid = if options.iter().any(|w| w.starts_with("1000")) { "1000" } else { "0" };
        assert!(logs.out.contains(&format!("www:web   | {uid}\n")), "{options:?}: {logs:?}");
    }
}

#[test]
fn a_home_that_belongs_to_the_image_boots_for_another_user_with_a_warning() {
    if !can() {
        return;
    }
    let mut container =
        Bundle::busybox("one: sleep 1000").hardened().with(|c| c["root"]["readonly"] = json!(false)).boot();
    container.wait_state("one", "RUNNING");
    assert!(
        container.said().contains("cannot write /home/environment.json: permission denied"),
        "{}",
        container.said()
    );
    assert_eq!(container.stop().0, 0, "{}", container.said());
}
