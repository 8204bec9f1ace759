//! `conf/hob.service` under a real systemd: systemd-nspawn boots the machine's own /usr with an empty /etc and /var, and
//! the unit in it as it is shipped.
//!
//! Only two things differ from an installation: the binary lies in /opt, as /usr is read-only here, and times that a test
//! would have to wait out are shorter, by a drop-in.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::*;

/// A booted systemd with the unit in it.
struct Machine {
    home: Home,
    nspawn: Child,
    /// systemd's pid as seen from here.
    init: i32,
    /// nspawn's cgroups have fixed names here, so there is one machine at a time, whoever runs tests.
    _lock: Flock<fs::File>,
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    dotcloud:x:1000:1000::/home/dotcloud:/bin/bash\n\
    other:x:1001:1001::/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
const GROUP: &str = "root:x:0:\ndotcloud:x:1000:\nother:x:1001:\nnogroup:x:65534:\n";

fn unit() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/hob.service")).expect("it is shipped")
}

/// The line that the unit's comment has for one built home.
fn start_of_one_home(unit: &str) -> String {
    let line = unit.lines().find_map(|l| l.strip_prefix("# Boots what was deployed last. For one built home: "));
    line.expect("the comment is there").to_owned()
}

impl Machine {
    /// With the home that `processes` describe at /home/dotcloud, and `dropin` below `[Service]`.
    #[track_caller]
    fn boot(processes: &str, dropin: &str) -> Machine {
        let home = Home::with(processes);
        sh_ok(&format!("chown -R 1000:1000 {}", home.at("").display()));
        let lock = fs::File::create("/tmp/hob-tests.nspawn.lock").expect("a lock file");
        let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| e).expect("the lock");
        clean_cgroups();
        let shipped = unit();
        let dropin = format!("[Service]\nExecStart=\n{}\n{dropin}", start_of_one_home(&shipped));
        let here = |text: &str| text.replace("/usr/local/bin/hob", "/opt/hob");
        fs::write(home.beside("hob.service"), here(&shipped)).expect("a fresh file");
        fs::write(home.beside("test.conf"), here(&dropin)).expect("a fresh file");
        fs::write(home.beside("passwd"), PASSWD).expect("a fresh file");
        fs::write(home.beside("group"), GROUP).expect("a fresh file");
        let bind = |what: &Path, at: &str| format!("{}:{at}", what.display());
        let console = fs::File::create(home.beside("console")).expect("a fresh file");
        let mut command = Command::new("systemd-nspawn");
        command.args(["--directory=/", "--volatile=yes", "--boot", "--register=no", "--keep-unit"]);
        command.args(["--private-network", "--console=pipe", "--quiet"]);
        for (what, at) in [
            (PathBuf::from(hob_bin()), "/opt/hob"),
            (PathBuf::from(prop()), "/opt/prop"),
            (home.beside("hob.service"), "/etc/systemd/system/hob.service"),
            (home.beside("test.conf"), "/etc/systemd/system/hob.service.d/test.conf"),
            (home.beside("passwd"), "/etc/passwd"),
            (home.beside("group"), "/etc/group"),
        ] {
            command.arg("--bind-ro").arg(bind(&what, at));
        }
        command.arg("--bind").arg(bind(&home.at(""), "/home/dotcloud"));
        command.args(["systemd.unit=basic.target", "systemd.wants=hob.service"]);
        command.stdin(Stdio::null()).stdout(console.try_clone().expect("one more")).stderr(console);
        let nspawn = command.spawn().expect("systemd-nspawn starts");
        let outer = nspawn.id() as i32;
        let mut machine = Machine { home, nspawn, init: 0, _lock: lock };
        machine.init = machine.wait("systemd", || {
            let name = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            children_of(outer).into_iter().map(|c| c.0).find(|p| name(*p).trim() == "systemd")
        });
        machine
    }

    #[track_caller]
    fn wait<T>(&self, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            assert!(Instant::now() < end, "waited in vain for: {what}\n{}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[track_caller]
    fn run(&self, words: &[&str]) -> Ran {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init.to_string(), "-m", "-u", "-i", "-n", "-p", "-C", "--"]).args(words);
        command.env_clear().env("PATH", "/usr/bin:/usr/sbin:/opt").env("NO_COLOR", "1");
        run(&mut command)
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> Ran {
        let ran = self.run(words);
        assert_eq!(ran.code, 0, "{words:?}: {ran:?}\n{}", self.said());
        ran
    }

    /// A property of the unit.
    #[track_caller]
    fn show(&self, property: &str) -> String {
        self.run(&["systemctl", "show", "hob", "-p", property, "--value"]).out.trim().to_owned()
    }

    #[track_caller]
    fn wait_show(&self, property: &str, value: &str) {
        self.wait(&format!("{property} is {value}"), || (self.show(property) == value).then_some(()));
    }

    /// The daemon's pid, in its own numbers.
    #[track_caller]
    fn main_pid(&self) -> String {
        self.wait("a main process", || Some(self.show("MainPID")).filter(|p| !p.is_empty() && p != "0"))
    }

    #[track_caller]
    fn running(&self, name: &str) -> i32 {
        let process = self.wait(&format!("{name} runs"), || {
            let ran = self.run(&["/opt/hob", "status", "--json"]);
            let all = if ran.code == 0 { list_of(ran.json(), "processes") } else { Vec::new() };
            all.into_iter().map(Proc).find(|p| p.0["process"] == name && p.state() == "RUNNING")
        });
        process.pid().expect("it runs")
    }

    /// A file in there.
    fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    /// Every process of the unit: its cgroup's, systemd's own list.
    fn of_unit(&self) -> Vec<String> {
        tree_of(self.init)
            .into_iter()
            .filter(|p| lives(*p))
            .filter(|p| fs::read_to_string(format!("/proc/{p}/cgroup")).is_ok_and(|c| c.contains("hob.service")))
            .map(cmdline)
            .collect()
    }

    fn said(&self) -> String {
        let journal = match self.init {
            0 => String::new(),
            _ => self.run(&["journalctl", "-u", "hob", "--no-pager", "-o", "cat"]).out,
        };
        format!(
            "---- console\n{}\n---- journal\n{journal}",
            fs::read_to_string(self.home.beside("console")).unwrap_or_default()
        )
    }

    /// A clean power-off.
    #[track_caller]
    fn power_off(mut self) {
        // SIGRTMIN+4, systemd(1).
        // SAFETY: kill(2) takes plain numbers, and this process is ours.
        unsafe { libc::kill(self.init, libc::SIGRTMIN() + 4) };
        let code = wait_child(&mut self.nspawn, PATIENCE);
        assert_eq!(code, Some(0), "{}", fs::read_to_string(self.home.beside("console")).unwrap_or_default());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.nspawn.try_wait().ok().flatten().is_none() {
            if self.init > 0 {
                // Its PID 1: the rest goes with it.
                let _ = kill(Pid::from_raw(self.init), Signal::SIGKILL);
            }
            let _ = wait_child(&mut self.nspawn, Duration::from_secs(5));
            let _ = self.nspawn.kill();
            let _ = self.nspawn.wait();
        }
        clean_cgroups();
    }
}

/// What nspawn leaves where it cannot ask a system manager for a cgroup.
pub fn clean_cgroups() {
    sh(
        "for d in /sys/fs/cgroup/*/payload /sys/fs/cgroup/*/supervisor /sys/fs/cgroup/payload /sys/fs/cgroup/supervisor; do \
        [ -d $d ] && find $d -depth -type d -exec rmdir {} + 2>/dev/null; done; true",
    );
}

fn can() -> bool {
    need_all(&["root", "systemd-nspawn", "nsenter"])
}

#[test]
fn the_unit_starts_reloads_and_stops_and_leaves_nothing() {
    if !can() {
        return;
    }
    let machine = Machine::boot(
        "one: {command: 'id -un; echo mine > /var/log/supervisor/own.log; exec sleep 1000', startsecs: 0}\n\
         two: {command: /opt/prop escape ~/helper sdt mark, stopwaitsecs: 1, startsecs: 0}\n\
         three: {command: sleep 1000, user: other, nofile: 512, startsecs: 0}",
        "",
    );
    machine.wait_show("ActiveState", "active");
    assert_eq!(machine.show("StatusText"), "3 processes");
    assert_eq!((machine.show("Type"), machine.show("NRestarts")), ("notify".into(), "0".into()));
    let (one, three) = (machine.running("one"), machine.running("three"));
    machine.wait("the helper", || Some(machine.text("/home/dotcloud/helper")).filter(|t| t.ends_with('\n')));

    // Each runs as its user; the user's programs may log beside what hob logs.
    machine.wait("its log", || (machine.text("/var/log/supervisor/one.log") == "dotcloud\n").then_some(()));
    machine.wait("its own log", || (machine.text("/var/log/supervisor/own.log") == "mine\n").then_some(()));
    let status = machine.text(&format!("/proc/{three}/status"));
    assert!(status.contains("Uid:\t1001\t1001\t1001\t1001"), "{status}");
    // Nothing that a program could feel: no filter, no no_new_privs, the usual soft limit.
    assert!(status.contains("NoNewPrivs:\t0"), "{status}");
    let limits = machine.text(&format!("/proc/{one}/limits"));
    assert!(
        limits.lines().any(|l| l.starts_with("Max open files") && l.split_whitespace().nth(3) == Some("1024")),
        "{limits}"
    );
    assert_eq!(machine.show("DevicePolicy"), "auto");
    assert_eq!(machine.show("DeviceAllow"), "", "with a list every other device would be closed");

    // Its places.
    for (path, mode) in [("/run/hob", 0o755), ("/run/hob/hob.sock", 0o600), ("/var/lib/hob", 0o755)] {
        let meta = fs::metadata(machine.path(path)).unwrap_or_else(|e| panic!("{path}: {e}\n{}", machine.said()));
        assert_eq!((meta.mode() & 0o777, meta.uid()), (mode, 0), "{path}");
    }
    assert!(machine.text("/var/lib/hob/ports.json").contains("42800"));

    // hob's words reach the journal with their priority.
    let warnings = machine.ok(&["journalctl", "-u", "hob", "-p", "warning", "--no-pager", "-o", "cat"]).out;
    assert!(!warnings.contains("RUNNING") && !warnings.contains("hob: "), "{warnings}");
    let all = machine.ok(&["journalctl", "-u", "hob", "--no-pager", "-o", "cat"]).out;
    assert!(all.lines().any(|l| l.starts_with("www:one: RUNNING")), "{all}");

    // Reload: a new process starts, the others stay.
    let main = machine.main_pid();
    let yml = fs::read_to_string(machine.home.at("dotcloud.yml")).expect("it is there");
    fs::write(machine.home.at("dotcloud.yml"), format!("{yml}    four: {{command: sleep 1000, startsecs: 0}}\n"))
        .expect("ours");
    machine.ok(&["systemctl", "reload", "hob"]);
    machine.running("four");
    machine.wait_show("StatusText", "4 processes");
    assert_eq!((machine.show("ActiveState"), machine.main_pid()), ("active".into(), main.clone()));
    assert_eq!(machine.running("one"), one);
    // A reload that is refused leaves the unit active and everything as it is.
    fs::write(machine.home.at("dotcloud.yml"), "www: [\n").expect("ours");
    machine.ok(&["systemctl", "reload", "hob"]);
    machine.wait_show("StatusText", "the configuration was refused, nothing changed");
    machine.wait_show("ActiveState", "active");
    assert_eq!((machine.running("one"), machine.main_pid()), (one, main));

    let begin = Instant::now();
    machine.ok(&["systemctl", "stop", "hob"]);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!((machine.show("ActiveState"), machine.show("Result")), ("inactive".into(), "success".into()));
    assert_eq!(machine.show("ExecMainStatus"), "0");
    let left: Vec<String> = tree_of(machine.init).into_iter().filter(|p| lives(*p)).map(cmdline).collect();
    assert!(!left.iter().any(|c| c.contains("stamp") || c.contains("sleep") || c.contains("/opt/hob")), "{left:?}");
    // systemd had nothing to kill.
    let journal = machine.ok(&["journalctl", "-u", "hob", "--no-pager", "-o", "cat"]).out;
    assert!(!journal.contains("Killing process") && !journal.contains("left-over"), "{journal}");
    assert!(!machine.path("/run/hob/hob.sock").exists());
    machine.power_off();
}

#[test]
fn a_daemon_that_is_killed_or_hangs_is_started_again_and_nothing_runs_twice() {
    if !can() {
        return;
    }
    let machine = Machine::boot(
        "one: {command: sleep 1111, startsecs: 0}\ntwo: {command: /opt/prop escape ~/helper sdt mark, startsecs: 0}",
        "WatchdogSec=3s\nRestartSec=100ms\n",
    );
    let copies = |what: &str| machine.of_unit().iter().filter(|c| c.contains(what)).count();
    let both = || {
        machine.running("one");
        machine.wait("one of each", || (copies("sleep 1111") == 1 && copies("stamp") == 1).then_some(()));
    };
    both();
    // It gives its sign of life: nothing happens for more than two of its periods.
    let first = machine.main_pid();
    never_for(Duration::from_secs(6), "a restart", || machine.show("NRestarts") != "0");
    assert_eq!(machine.main_pid(), first);

    machine.ok(&["kill", "-9", &first]);
    machine.wait_show("NRestarts", "1");
    let second = machine.main_pid();
    both();

    // A daemon that hangs: its watchdog runs out.
    machine.ok(&["kill", "-STOP", &second]);
    machine.wait_show("NRestarts", "2");
    both();
    let journal = machine.ok(&["journalctl", "-u", "hob", "--no-pager", "-o", "cat"]).out;
    assert!(journal.to_lowercase().contains("watchdog timeout"), "{journal}");
    assert_eq!(machine.show("ActiveState"), "active");
    machine.power_off();
}

#[test]
fn a_bad_configuration_fails_the_unit_once_and_for_all() {
    if !can() {
        return;
    }
    let machine = Machine::boot("one: {command: sleep 1000, stopwaitsecs: soon}", "RestartSec=50ms\n");
    machine.wait_show("ActiveState", "failed");
    assert_eq!((machine.show("Result"), machine.show("ExecMainStatus")), ("exit-code".into(), "2".into()));
    assert_eq!(machine.show("NRestarts"), "0", "the same file would be refused again");
    let journal = machine.ok(&["journalctl", "-u", "hob", "--no-pager", "-o", "cat"]).out;
    assert!(journal.contains("stopwaitsecs") && journal.contains("soon"), "{journal}");
    machine.power_off();
}

#[test]
fn a_power_off_stops_everything_in_order() {
    if !can() {
        return;
    }
    let machine = Machine::boot(
        "one: {command: /opt/prop onterm 1000, startsecs: 0}\n\
         two: {command: 'trap \"echo two >> ~/order; exit\" TERM; while :; do sleep 0.05; done', after: [one], startsecs: 0}",
        "",
    );
    machine.running("two");
    let log = machine.path("/var/log/supervisor/one.log");
    machine.wait("a handler", || fs::read_to_string(&log).ok().filter(|t| t.contains("waiting")));
    // Its /var goes with it: keep the directory.
    let keep = fs::File::open(&log).expect("it is there");
    let order = fs::File::create_new(machine.home.at("order")).and_then(|_| fs::File::open(machine.home.at("order")));
    sh_ok(&format!("chown 1000 {}", machine.home.at("order").display()));
    machine.power_off();
    let mut bytes = vec![0; 200_000];
    let length = keep.read_at(&mut bytes, 0).expect("still open");
    let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
    assert_eq!(check_numbered(text.strip_prefix("waiting\n").expect("it said so")), (0, 999));
    let mut said = String::new();
    order.expect("ours").read_to_string(&mut said).expect("still open");
    assert_eq!(said, "two\n");
}

#[test]
fn systemd_finds_nothing_to_say_about_the_unit() {
    if !need("systemd-analyze") {
        return;
    }
    let home = Home::bare();
    let file = home.beside("hob.service");
    fs::write(&file, unit().replace("/usr/local/bin/hob", hob_bin())).expect("a fresh file");
    let ran = run(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file));
    let about_us: Vec<&str> = ran.err.lines().filter(|l| l.contains("hob.service")).collect();
    assert!(about_us.is_empty() && ran.code == 0, "{ran:?}");
}

/// The unit that the README has for a user manager.
fn user_unit() -> String {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("it is shipped");
    let begin = readme.find("# ~/.config/systemd/user/hob.service").expect("the README has it");
    readme[begin..].split("```").next().expect("a block").to_owned()
}

#[test]
fn a_user_manager_runs_the_unit_of_the_readme() {
    if !need_all(&["root", "setpriv", "unshare"]) || !need("systemctl") {
        return;
    }
    let home = Home::with(
        "one: {command: sleep 1000, startsecs: 0}\ntwo: {command: '{prop} escape ~/helper sdt mark', stopwaitsecs: 1, startsecs: 0}",
    );
    let xdg = home.beside("xdg");
    fs::create_dir_all(xdg.join("cfg/systemd/user")).expect("a fresh directory");
    let start = format!("{} boot --home {}", hob_bin(), home.at("").display());
    let unit = user_unit()
        .replace("%h/.local/bin/hob boot --home %h", &start)
        .replace("[Service]\n", "[Service]\nRestartSec=100ms\n");
    assert!(unit.contains(&start), "{unit}");
    fs::write(xdg.join("cfg/systemd/user/hob.service"), unit).expect("a fresh file");
    sh_ok(&format!("chown -R 65534:65534 {0} && chmod 700 {0}/xdg", home.marker()));
    let group = format!("/sys/fs/cgroup/unified/hobt.{}", std::process::id());
    let alone = if Path::new("/sys/fs/cgroup/unified").exists() { group } else { group.replace("/unified", "") };
    // A user manager starts only where a system one seems to be, and wants a cgroup that is its own.
    let as_user = format!(
        "export XDG_RUNTIME_DIR={x} XDG_CONFIG_HOME={x}/cfg XDG_STATE_HOME={x}/state HOME={h} NO_COLOR=1
         unset NOTIFY_SOCKET HOB_HOME HOB_CONFIG HOB_SOCKET
         /lib/systemd/systemd --user --log-target=console 2>{x}/log & manager=$!
         until [ -S {x}/systemd/private ]; do sleep .05; done
         show() {{ systemctl --user show hob -p $1 --value; }}
         set -x
         systemctl --user start hob
         echo \"active: $(show ActiveState) $(show StatusText)\"
         {hob} status --json > {x}/status
         systemctl --user reload hob
         for i in $(seq 200); do [ \"$(show ActiveState)\" = active ] && break; sleep .05; done
         echo \"reloaded: $(show ActiveState)\"
         kill -9 $(show MainPID)
         for i in $(seq 200); do [ \"$(show NRestarts) $(show ActiveState)\" = '1 active' ] && break; sleep .05; done
         echo \"again: $(show NRestarts) $(show ActiveState)\"
         systemctl --user stop hob
         echo \"stopped: $(show ActiveState) $(show Result)\"
         kill $manager; wait $manager; exit 0",
        x = xdg.display(),
        h = home.at("").display(),
        hob = hob_bin(),
    );
    fs::write(home.beside("as-user"), as_user).expect("a fresh file");
    let line = format!(
        "mkdir -p {alone} && chown -R 65534 {alone} && (echo $BASHPID > {alone}/cgroup.procs; \
         exec unshare --mount --cgroup --pid --fork --mount-proc --kill-child bash -c '\
         umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; mount -t tmpfs none /run; mkdir -p /run/systemd/system; \
         exec setpriv --reuid 65534 --regid 65534 --clear-groups bash {}'); \
         find {alone} -depth -type d -exec rmdir {{}} +",
        home.beside("as-user").display()
    );
    let ran = sh(&line);
    let log = || fs::read_to_string(xdg.join("log")).unwrap_or_default();
    for wanted in ["active: active 2 processes", "reloaded: active", "again: 1 active", "stopped: inactive success"] {
        assert!(ran.out.lines().any(|l| l == wanted), "{wanted}: {ran:?}\n{}", log());
    }
    let left = alive_with(&home.marker());
    assert!(left.is_empty(), "{left:?}");
}
