//! What every test here uses: a scratch home, a running hob in it, and ways to wait and to look.
//!
//! The tests know hob from outside only: its command line, its socket, its files, and what /proc says. A [`Hob`] that
//! goes out of scope is asked to end and must then have left nothing behind; whatever it did leave is killed.
//! Everything is waited for by condition with a deadline; the deadlines are long because machines are slow, and a
//! test that is green never comes near them.

#![allow(dead_code)]

pub mod supervisord;

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How long something that must happen may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The user that tests which drop privileges run as.
pub const NOBODY: u32 = 65534;

pub fn hob_bin() -> &'static str {
    env!("CARGO_BIN_EXE_hob")
}

/// Says whether what a test needs is here. A machine of the continuous integration must have it all: there it fails
/// instead. Elsewhere the test is skipped, and says so where nobody can overlook it.
#[must_use]
pub fn need(what: &str) -> bool {
    let there = match what {
        "root" => nix::unistd::geteuid().is_root(),
        "loop" => Path::new("/dev/loop-control").exists(),
        program => which(program).is_some(),
    };
    if !there {
        assert!(!in_ci(), "{what} is missing, and nothing may be skipped here");
        eprintln!("\n==== SKIP: {what} is missing, this test proves nothing ====\n");
    }
    there
}

/// True if all of it is here; see [`need`].
#[must_use]
pub fn need_all(what: &[&str]) -> bool {
    what.iter().all(|w| need(w))
}

pub fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|v| v == "true" || v == "1")
}

pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .map(|dir| Path::new(dir).join(program))
        .find(|p| p.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
}

/// A virtual environment of Python with these packages from PyPI, each list of words for one `pip install`; made once,
/// and kept under a name that says which versions it has.
pub fn venv(name: &str, installs: &[&[&str]]) -> Option<PathBuf> {
    if !need("python3") {
        return None;
    }
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if venv.join("complete").exists() {
        return Some(venv);
    }
    let run = |program: &Path, args: &[&str]| {
        Command::new(program).args(args).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let pip = |words: &&[&str]| {
        run(&venv.join("bin/pip"), &[&["install", "-q", "--disable-pip-version-check"], *words].concat())
    };
    let made =
        run(Path::new("python3"), &["-m", "venv", "--clear", &venv.to_string_lossy()]) && installs.iter().all(pip);
    assert!(made || !in_ci(), "cannot make a virtual environment with {installs:?}");
    if !made {
        eprintln!("\n==== SKIP: no virtual environment with {installs:?}, this test proves nothing ====\n");
        return None;
    }
    fs::write(venv.join("complete"), "").expect("the scratch directory takes a file");
    Some(venv)
}

/// The stage prop: one static C program that is every kind of process a test needs; see `prop.c`.
pub fn prop() -> &'static str {
    static PROP: OnceLock<String> = OnceLock::new();
    PROP.get_or_init(|| {
        let out = format!("{}/prop.{}", env!("CARGO_TARGET_TMPDIR"), std::process::id());
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/prop.c");
        for flags in [&["-static"][..], &[]] {
            let done = Command::new("cc").args(["-O1", "-Wall", "-o", &out, source]).args(flags).output();
            if done.expect("cc can be started").status.success() {
                // The name stays the same over runs, so that a test's text does; the pid keeps two runs apart meanwhile.
                let last = format!("{}/prop", env!("CARGO_TARGET_TMPDIR"));
                fs::rename(&out, &last).expect("the scratch directory takes a file");
                return last;
            }
        }
        panic!("cannot compile {source}");
    })
}

/// The fully static release build, for roots with nothing in them. Built once, beside the others (a minute or two when
/// it has to be, as the release profile is what it is); cargo sees to it that it is never an old one.
pub fn static_hob() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let target = "x86_64-unknown-linux-gnu";
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("static");
        let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
        cargo.args(["build", "--locked", "--release", "--quiet", "--target", target, "--target-dir"]).arg(&dir);
        cargo.current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("CARGO_ENCODED_RUSTFLAGS");
        cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
        let ran = run_within(Duration::from_secs(900), &mut cargo);
        assert_eq!(ran.code, 0, "cannot build the static binary: {}", ran.both());
        dir.join(target).join("release/hob")
    });
    built.clone()
}

// ------------------------------------------------------------------------------------------------ waiting

/// Asks until the answer is there.
#[track_caller]
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, what, &mut ask)
}

#[track_caller]
pub fn wait_within<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {limit:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(8));
    }
}

/// For what must not happen: looks again and again for so long.
#[track_caller]
pub fn never_for(length: Duration, what: &str, mut happens: impl FnMut() -> bool) {
    let end = Instant::now() + length;
    while Instant::now() < end {
        assert!(!happens(), "this happened, and must not: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

// ------------------------------------------------------------------------------------------------ commands

/// How a command ended and what it said.
#[derive(Debug)]
pub struct Ran {
    /// 128+N for a signal.
    pub code: i32,
    pub out: String,
    pub err: String,
    pub took: Duration,
}

impl Ran {
    pub fn both(&self) -> String {
        format!("{}{}", self.out, self.err)
    }

    #[track_caller]
    pub fn expect(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "exit status\nstdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    #[track_caller]
    pub fn says(self, word: &str) -> Ran {
        assert!(self.both().contains(word), "{word:?} is not in\nstdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("not JSON ({e}): {}\nstderr: {}", self.out, self.err))
    }
}

pub fn code_of(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Runs to the end, with a deadline.
#[track_caller]
pub fn run(command: &mut Command) -> Ran {
    run_within(Duration::from_secs(90), command)
}

#[track_caller]
pub fn run_within(limit: Duration, command: &mut Command) -> Ran {
    let begin = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    let mut out = child.stdout.take().expect("piped");
    let mut err = child.stderr.take().expect("piped");
    let out = std::thread::spawn(move || read_lossy(&mut out));
    let err = std::thread::spawn(move || read_lossy(&mut err));
    let status = loop {
        if let Some(status) = child.try_wait().expect("our own child") {
            break status;
        }
        if begin.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} did not end within {limit:?}\nstdout: {}", out.join().unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    Ran {
        code: code_of(status),
        out: out.join().expect("reader"),
        err: err.join().expect("reader"),
        took: begin.elapsed(),
    }
}

fn read_lossy(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A shell line, as the person at the terminal would type it.
#[track_caller]
pub fn sh(line: &str) -> Ran {
    run(Command::new("bash").args(["-c", line]))
}

#[track_caller]
pub fn sh_ok(line: &str) -> String {
    let ran = sh(line);
    assert_eq!(ran.code, 0, "{line}\n{}", ran.both());
    ran.out
}

/// Waits for a child with a deadline; kills it if it is late.
pub fn wait_child(child: &mut Child, limit: Duration) -> Option<i32> {
    let end = Instant::now() + limit;
    while Instant::now() < end {
        if let Some(status) = child.try_wait().expect("our own child") {
            return Some(code_of(status));
        }
        std::thread::sleep(Duration::from_millis(4));
    }
    None
}

// ------------------------------------------------------------------------------------------------ /proc

/// State letter and parent of a process; `None` if there is none.
pub fn stat(pid: i32) -> Option<(char, i32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = &text[text.rfind(')')? + 2..];
    let mut words = rest.split(' ');
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

/// A zombie is gone: the machine's own PID 1 may take its time to reap it.
pub fn lives(pid: i32) -> bool {
    !matches!(stat(pid), None | Some(('Z' | 'X', _)))
}

pub fn all_pids() -> Vec<i32> {
    fs::read_dir("/proc")
        .expect("/proc is mounted")
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

pub fn cmdline(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim_end().to_string()
}

pub fn environ(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    bytes.split(|b| *b == 0).map(|v| String::from_utf8_lossy(v).into_owned()).filter(|v| !v.is_empty()).collect()
}

/// Value of one line of /proc/PID/status.
pub fn proc_status(pid: i32, key: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':').map(|v| v.trim().to_string()))
}

/// Everything alive that carries the marker in its words, its environment or its directory.
pub fn alive_with(marker: &str) -> Vec<(i32, String)> {
    let own = std::process::id() as i32;
    let holds = |bytes: &[u8]| bytes.windows(marker.len()).any(|w| w == marker.as_bytes());
    all_pids()
        .into_iter()
        .filter(|pid| *pid != own && lives(*pid))
        .filter(|pid| {
            ["cmdline", "environ"].iter().any(|f| fs::read(format!("/proc/{pid}/{f}")).is_ok_and(|bytes| holds(&bytes)))
                || fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|p| p.to_string_lossy().contains(marker))
        })
        .map(|pid| (pid, cmdline(pid)))
        .collect()
}

pub fn children_of(pid: i32) -> Vec<(i32, char)> {
    all_pids().into_iter().filter_map(|p| stat(p).filter(|s| s.1 == pid).map(|s| (p, s.0))).collect()
}

/// The process and everything below it.
pub fn tree_of(pid: i32) -> Vec<i32> {
    let mut all = vec![pid];
    let mut at = 0;
    while at < all.len() {
        all.extend(children_of(all[at]).into_iter().map(|c| c.0));
        at += 1;
    }
    all
}

pub fn fd_count(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |d| d.count())
}

/// What is open, in words: for a failure's message.
pub fn fds(pid: i32) -> Vec<String> {
    let dir = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut all: Vec<String> = dir
        .map(|e| {
            let to = fs::read_link(e.path()).unwrap_or_default();
            format!("{} {}", e.file_name().to_string_lossy(), to.display())
        })
        .collect();
    all.sort();
    all
}

/// Its own memory in kB: pages of files, which come and go as the kernel likes, are not in it.
pub fn own_kb(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("Anonymous:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// CPU time used so far, user and system.
pub fn cpu(pid: i32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0))
}

pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}

pub fn accepts(port: u16) -> bool {
    std::net::TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), Duration::from_millis(300)).is_ok()
}

// ------------------------------------------------------------------------------------------------ a home

/// A scratch directory with a home, a log and a state directory in it; boots a [`Hob`].
pub struct Home {
    pub dir: tempfile::TempDir,
    env: Vec<(String, String)>,
    args: Vec<String>,
    wrap: Vec<String>,
    with_home: bool,
}

impl Home {
    /// An empty home.
    pub fn bare() -> Home {
        // Short, as a socket's path may have 107 bytes only; readable, as some processes run as another user.
        let dir = tempfile::Builder::new().prefix("hobt.").tempdir_in("/tmp").expect("a scratch directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("our own directory");
        for sub in ["home", "log", "state"] {
            fs::create_dir(dir.path().join(sub)).expect("a fresh directory");
        }
        Home { dir, env: Vec::new(), args: Vec::new(), wrap: Vec::new(), with_home: true }
    }

    /// A home with this dotcloud.yml. `{dir}`, `{home}` and `{prop}` are filled in.
    pub fn new(yml: &str) -> Home {
        let home = Home::bare();
        home.write("dotcloud.yml", yml);
        home
    }

    /// One service `www` with these entries under `processes:`, indented by four already or not at all.
    pub fn with(processes: &str) -> Home {
        let mut yml = String::from("www:\n  type: custom\n  processes:\n");
        let least = processes.lines().filter(|l| !l.trim().is_empty()).map(|l| l.len() - l.trim_start().len()).min();
        for line in processes.lines().filter(|l| !l.trim().is_empty()) {
            let _ = writeln!(yml, "    {}", &line[least.unwrap_or(0)..]);
        }
        Home::new(&yml)
    }

    pub fn fill(&self, text: &str) -> String {
        text.replace("{dir}", &self.marker())
            .replace("{home}", &self.at("").to_string_lossy())
            .replace("{prop}", prop())
    }

    /// The path that marks everything of this test.
    pub fn marker(&self) -> String {
        self.dir.path().to_string_lossy().into_owned()
    }

    /// A path in the home.
    pub fn at(&self, path: &str) -> PathBuf {
        let home = self.dir.path().join("home");
        if path.is_empty() { home } else { home.join(path) }
    }

    /// A path beside the home.
    pub fn beside(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().expect("inside the home")).expect("the home takes a directory");
        fs::write(path, self.fill(text)).expect("the home takes a file");
    }

    pub fn file(self, path: &str, text: &str) -> Home {
        self.write(path, text);
        self
    }

    /// An executable file.
    pub fn script(self, path: &str, text: &str) -> Home {
        self.write(path, text);
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(0o755)).expect("our own file");
        self
    }

    /// Settings, as a hob.toml.
    pub fn settings(self, toml: &str) -> Home {
        fs::write(self.beside("hob.toml"), self.fill(toml)).expect("the scratch directory takes a file");
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> Home {
        self.env.push((key.into(), value.into()));
        self
    }

    /// More words for `hob boot`.
    pub fn arg(mut self, word: &str) -> Home {
        self.args.push(word.into());
        self
    }

    pub fn args(mut self, words: &[&str]) -> Home {
        self.args.extend(words.iter().map(|w| w.to_string()));
        self
    }

    /// `hob boot` without `--home`.
    pub fn without_home(mut self) -> Home {
        self.with_home = false;
        self
    }

    /// A command that ends by exec'ing the rest of its words: `setpriv ...`, `prop hostile ...`.
    pub fn under(mut self, words: &[&str]) -> Home {
        self.wrap.extend(words.iter().map(|w| w.to_string()));
        self
    }

    /// Everything belongs to and hob runs as an ordinary user.
    pub fn run_as_nobody(self) -> Home {
        let all = sh(&format!("chown -R {NOBODY}:{NOBODY} {}", self.marker()));
        assert_eq!(all.code, 0, "{}", all.both());
        self.under(&["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"])
    }

    /// A hob command with the variables that lead to this home's socket, logs and state.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(hob_bin());
        command.args(args);
        self.dress(&mut command);
        command
    }

    pub fn dress(&self, command: &mut Command) {
        for key in ["HOB_HOME", "HOB_LOG", "NOTIFY_SOCKET", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME"] {
            command.env_remove(key);
        }
        command.env("HOB_SOCKET", self.beside("hob.sock"));
        command.env("HOB_LOG_DIR", self.beside("log"));
        command.env("HOB_STATE_DIR", self.beside("state"));
        command.env("HOB_CONFIG", self.beside("hob.toml"));
        command.env("NO_COLOR", "1");
        // Not the dispositions and descriptors of the test runner: those are the business of hygiene.rs.
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
        command.current_dir(self.dir.path());
        if !self.beside("hob.toml").exists() {
            fs::write(self.beside("hob.toml"), "").expect("the scratch directory takes a file");
            let _ = fs::set_permissions(self.beside("hob.toml"), fs::Permissions::from_mode(0o644));
        }
    }

    /// Runs `hob boot` to its own end: for what must be refused.
    #[track_caller]
    pub fn boot_fails(&self) -> Ran {
        run_within(PATIENCE, &mut self.boot_command())
    }

    fn boot_command(&self) -> Command {
        let mut words: Vec<String> = self.wrap.clone();
        words.extend([hob_bin().to_string(), "boot".to_string()]);
        if self.with_home {
            words.extend(["--home".to_string(), self.at("").to_string_lossy().into_owned()]);
        }
        words.extend(self.args.clone());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        self.dress(&mut command);
        command
    }

    /// Boots, and waits until the daemon answers on its socket and has begun its work (postinstall is over).
    #[track_caller]
    pub fn boot(self) -> Hob {
        let hob = self.launch();
        wait_for("the daemon answers and runs", || {
            assert!(hob.is_alive(), "hob ended at once\n{}", hob.diary());
            let info = hob.get("/v1/info");
            (info["state"] == "running").then_some(())
        });
        hob
    }

    /// Boots and does not wait.
    #[track_caller]
    pub fn launch(self) -> Hob {
        let open = |name: &str| fs::File::create(self.beside(name)).expect("the scratch directory takes a file");
        let mut command = self.boot_command();
        command.stdin(Stdio::null()).stdout(open("out")).stderr(open("err"));
        let child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        let pid = child.id() as i32;
        Hob { home: self, child, pid, over: None }
    }
}

// ------------------------------------------------------------------------------------------------ a running hob

/// A running daemon and its home.
pub struct Hob {
    pub home: Home,
    pub child: Child,
    pub pid: i32,
    over: Option<i32>,
}

/// One process, as `status --json` tells it.
#[derive(Clone, Debug)]
pub struct Proc(pub Value);

impl Proc {
    pub fn name(&self) -> &str {
        self.0["name"].as_str().unwrap_or("")
    }
    pub fn state(&self) -> &str {
        self.0["state"].as_str().unwrap_or("")
    }
    pub fn pid(&self) -> Option<i32> {
        self.0["pid"].as_i64().map(|p| p as i32).filter(|p| *p > 0)
    }
    pub fn restarts(&self) -> u64 {
        self.0["restarts"].as_u64().unwrap_or(0)
    }
    pub fn ready(&self) -> bool {
        self.0["ready"].as_bool().unwrap_or(false)
    }
    pub fn why(&self) -> &str {
        self.0["why"].as_str().unwrap_or("")
    }
    pub fn last_exit(&self) -> &str {
        self.0["last_exit"]["text"].as_str().unwrap_or("")
    }
}

impl Hob {
    /// A hob command against this daemon.
    #[track_caller]
    pub fn hob(&self, args: &[&str]) -> Ran {
        run(&mut self.home.command(args))
    }

    /// The same, and it must succeed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> Ran {
        let ran = self.hob(args);
        assert_eq!(ran.code, 0, "hob {args:?}\nstdout: {}\nstderr: {}\n{}", ran.out, ran.err, self.diary());
        ran
    }

    /// A hob command that goes on, like `logs -f`; its output goes to a file beside the home.
    pub fn background(&self, args: &[&str], out: &str) -> Background {
        let path = self.home.beside(out);
        let file = fs::File::create(&path).expect("the scratch directory takes a file");
        let err = file.try_clone().expect("one more descriptor");
        let mut command = self.home.command(args);
        let child = command.stdin(Stdio::null()).stdout(file).stderr(err).spawn().expect("hob can be started");
        Background { child, path }
    }

    #[track_caller]
    pub fn status(&self) -> Vec<Proc> {
        let ran = self.hob(&["status", "--json"]);
        assert!(matches!(ran.code, 0 | 3), "status: {ran:?}\n{}", self.diary());
        list_of(ran.json(), "processes").into_iter().map(Proc).collect()
    }

    /// By its process name, or group:process.
    #[track_caller]
    pub fn process(&self, name: &str) -> Proc {
        let all = self.status();
        let found = all.iter().find(|p| p.name() == name || p.0["process"] == name);
        found.cloned().unwrap_or_else(|| panic!("no process {name} in {all:?}"))
    }

    #[track_caller]
    pub fn wait(&self, name: &str, what: &str, mut ask: impl FnMut(&Proc) -> bool) -> Proc {
        let end = Instant::now() + PATIENCE;
        loop {
            let now = self.process(name);
            if ask(&now) {
                return now;
            }
            assert!(Instant::now() < end, "waited in vain for {name}: {what}; it is {now:?}\n{}", self.diary());
            std::thread::sleep(Duration::from_millis(15));
        }
    }

    #[track_caller]
    pub fn wait_state(&self, name: &str, state: &str) -> Proc {
        self.wait(name, state, |p| p.state() == state)
    }

    /// Waits until it runs and returns its pid.
    #[track_caller]
    pub fn running(&self, name: &str) -> i32 {
        let running = self.wait(name, "RUNNING", |p| p.state() == "RUNNING" && p.pid().is_some());
        running.pid().expect("just seen")
    }

    /// Waits for another run than that of this pid.
    #[track_caller]
    pub fn running_again(&self, name: &str, before: i32) -> i32 {
        let now = self.wait(name, "a new run", |p| p.state() == "RUNNING" && p.pid().is_some_and(|p| p != before));
        now.pid().expect("just seen")
    }

    pub fn log_path(&self, name: &str) -> PathBuf {
        self.home.beside("log").join(name)
    }

    /// A file in the log directory; empty if it is not there yet.
    pub fn log(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path(name)).unwrap_or_default()).into_owned()
    }

    #[track_caller]
    pub fn wait_log(&self, name: &str, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let log = self.log(name);
            if log.contains(text) {
                return log;
            }
            let tail = log.chars().rev().take(2000).collect::<Vec<_>>().into_iter().rev().collect::<String>();
            assert!(Instant::now() < end, "{text:?} never came into {name}, which ends: {tail}\n{}", self.diary());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A file in the home, once it is there and has an end of line.
    #[track_caller]
    pub fn wait_file(&self, path: &str) -> String {
        let full = self.home.at(path);
        wait_for(&format!("a whole line in {}\n{}", full.display(), self.diary()), || {
            fs::read_to_string(&full).ok().filter(|t| t.ends_with('\n'))
        })
    }

    pub fn out(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.home.beside("out")).unwrap_or_default()).into_owned()
    }

    pub fn err(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.home.beside("err")).unwrap_or_default()).into_owned()
    }

    /// What hob itself said, for a failure's message.
    pub fn diary(&self) -> String {
        let err = self.err();
        let lines: Vec<&str> = err.lines().collect();
        format!("---- hob said:\n{}\n----", lines[lines.len().saturating_sub(40)..].join("\n"))
    }

    pub fn is_alive(&self) -> bool {
        lives(self.pid)
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid), signal).expect("hob is there");
    }

    /// GET on the control socket; `Null` while nobody answers.
    pub fn get(&self, path: &str) -> Value {
        self.http("GET", path, None).map_or(Value::Null, |(_, body)| body)
    }

    pub fn http(&self, method: &str, path: &str, body: Option<&str>) -> Option<(u16, Value)> {
        let (status, text) = http(&self.home.beside("hob.sock"), method, path, body)?;
        Some((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// The scratch directory of a hob that has ended, to boot another one in it.
    #[track_caller]
    pub fn into_home(mut self) -> Home {
        assert!(self.over.is_some(), "it has ended");
        std::mem::replace(&mut self.home, Home::bare())
    }

    /// Waits until hob has ended by itself and returns its exit status.
    #[track_caller]
    pub fn wait_end(&mut self) -> i32 {
        self.wait_end_within(PATIENCE)
    }

    #[track_caller]
    pub fn wait_end_within(&mut self, limit: Duration) -> i32 {
        let code = wait_child(&mut self.child, limit);
        let code = code.unwrap_or_else(|| panic!("hob did not end within {limit:?}\n{}", self.diary()));
        self.over = Some(code);
        code
    }

    /// Everything of this test that still runs, hob itself apart.
    pub fn leftovers(&self) -> Vec<(i32, String)> {
        alive_with(&self.home.marker())
    }

    /// `hob shutdown`; hob must end with status 0 and leave nothing.
    #[track_caller]
    pub fn shutdown(mut self) -> Ended {
        let ran = self.hob(&["shutdown"]);
        assert_eq!(ran.code, 0, "shutdown: {ran:?}\n{}", self.diary());
        let code = self.wait_end();
        assert_eq!(code, 0, "hob's exit status\n{}", self.diary());
        self.nothing_is_left();
        Ended { hob: self }
    }

    /// hob has ended: nothing it ever started may be alive.
    #[track_caller]
    pub fn nothing_is_left(&self) {
        let left = self.leftovers();
        assert!(left.is_empty(), "hob ended and left {left:?}\n{}", self.diary());
    }
}

/// After an orderly end: its files can still be looked at.
pub struct Ended {
    hob: Hob,
}

impl Ended {
    /// To boot it again.
    pub fn into_home(self) -> Home {
        self.hob.into_home()
    }
    pub fn log(&self, name: &str) -> String {
        self.hob.log(name)
    }
    pub fn home(&self) -> &Home {
        &self.hob.home
    }
    pub fn err(&self) -> String {
        self.hob.err()
    }
    pub fn out(&self) -> String {
        self.hob.out()
    }
    pub fn log_path(&self, name: &str) -> PathBuf {
        self.hob.log_path(name)
    }
}

impl Drop for Hob {
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        if failing {
            eprintln!("{}", self.diary());
        }
        if self.over.is_none() && lives(self.pid) {
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGTERM);
            let limit = if failing { Duration::from_secs(8) } else { PATIENCE };
            self.over = wait_child(&mut self.child, limit);
        } else if self.over.is_none() {
            self.over = wait_child(&mut self.child, Duration::from_secs(1));
        }
        let late = self.over.is_none();
        if late {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let left = self.leftovers();
        for _ in 0..20 {
            let left = self.leftovers();
            if left.is_empty() {
                break;
            }
            for (pid, _) in left {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if !failing {
            assert!(!late, "hob did not end on SIGTERM within {PATIENCE:?}\n{}", self.diary());
            assert!(left.is_empty(), "hob ended and left {left:?}\n{}", self.diary());
        }
    }
}

/// A command in the background with its output in a file; killed at the end.
pub struct Background {
    pub child: Child,
    pub path: PathBuf,
}

impl Background {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.path).unwrap_or_default()).into_owned()
    }

    #[track_caller]
    pub fn wait_text(&self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let now = self.text();
            if now.contains(text) {
                return now;
            }
            assert!(Instant::now() < end, "{text:?} never came; there is: {now}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A JSON list, bare or under this key.
pub fn list_of(value: Value, key: &str) -> Vec<Value> {
    match value {
        Value::Array(list) => list,
        Value::Object(mut map) => match map.remove(key) {
            Some(Value::Array(list)) => list,
            other => panic!("no list {key}: {other:?} {map:?}"),
        },
        other => panic!("not a list: {other}"),
    }
}

/// One request on a unix socket with `Connection: close`; `None` if nobody answers.
pub fn http(socket: &Path, method: &str, path: &str, body: Option<&str>) -> Option<(u16, String)> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let body = body.unwrap_or("");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: hob\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    let text = read_lossy(&mut stream);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return Some((status, unchunk(body)));
    }
    Some((status, body.to_string()))
}

fn unchunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.split(';').next().unwrap_or("").trim(), 16).unwrap_or(0);
        if size == 0 || rest.len() < size {
            break;
        }
        text.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    text
}

/// A file system mounted for one test; taken away at the end, thawed if need be.
pub struct Mount {
    pub at: PathBuf,
    frozen: bool,
}

impl Mount {
    /// A tmpfs of this many KiB.
    #[track_caller]
    pub fn tmpfs(at: &Path, kib: u64) -> Mount {
        fs::create_dir_all(at).expect("a directory to mount on");
        sh_ok(&format!("mount -t tmpfs -o size={kib}k,mode=755 tmpfs {}", at.display()));
        Mount { at: at.to_path_buf(), frozen: false }
    }

    /// An ext4 in a file of this many MiB, on a loop device, so that it can be frozen.
    #[track_caller]
    pub fn ext4(at: &Path, mib: u64) -> Mount {
        fs::create_dir_all(at).expect("a directory to mount on");
        let image = format!("{}.img", at.display());
        sh_ok(&format!(
            "truncate -s {mib}M {image} && mkfs.ext4 -q -m0 {image} && mount -o loop {image} {}",
            at.display()
        ));
        Mount { at: at.to_path_buf(), frozen: false }
    }

    #[track_caller]
    pub fn freeze(&mut self) {
        sh_ok(&format!("fsfreeze -f {}", self.at.display()));
        self.frozen = true;
    }

    pub fn thaw(&mut self) {
        if self.frozen {
            sh(&format!("fsfreeze -u {}", self.at.display()));
            self.frozen = false;
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.thaw();
        sh(&format!("umount {0} 2>/dev/null || umount -l {0}", self.at.display()));
    }
}

/// Every line of `prop count` in these pieces of one log, oldest first: panics unless they are whole and in order.
/// Returns the first and the last number.
#[track_caller]
pub fn check_numbered(text: &str) -> (u64, u64) {
    let mut first = None;
    let mut last: Option<u64> = None;
    assert!(text.ends_with('\n'), "the log ends inside a line: {:?}", &text[text.len().saturating_sub(120)..]);
    for line in text.lines() {
        assert_eq!(line.len(), 99, "torn line {line:?} after {last:?}");
        let number: u64 = line[9..21].parse().unwrap_or_else(|_| panic!("torn line {line:?} after {last:?}"));
        if let Some(last) = last {
            assert_eq!(number, last + 1, "gap: {last} then {number}");
        }
        first.get_or_insert(number);
        last = Some(number);
    }
    (first.expect("there is a line"), last.expect("there is a line"))
}

/// The pieces of a rotated log joined, oldest first.
pub fn pieces(path: &Path) -> String {
    let mut all = Vec::new();
    for n in (1..200).rev() {
        let piece = PathBuf::from(format!("{}.{n}", path.display()));
        if let Ok(text) = fs::read_to_string(piece) {
            all.push(text);
        }
    }
    all.push(fs::read_to_string(path).unwrap_or_default());
    all.concat()
}
