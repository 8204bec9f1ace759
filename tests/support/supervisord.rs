//! hob by the name of supervisord, in a folder of its own.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use super::{hob_bin, venv, wait_for};

/// A virtual environment with the real supervisor and superlance in it.
pub fn python_clients() -> Option<&'static Path> {
    static VENV: OnceLock<Option<PathBuf>> = OnceLock::new();
    VENV.get_or_init(|| venv("supervisor-4.3.0-superlance-2.0.0", &[&["supervisor==4.3.0", "superlance==2.0.0"]]))
        .as_deref()
}

/// A folder in which hob has the names of supervisord's programs.
pub fn links() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for name in ["supervisord", "supervisorctl", "pidproxy", "echo_supervisord_conf"] {
        symlink(hob_bin(), dir.path().join(name)).expect("a link");
    }
    dir
}

/// A supervisord in a folder of its own, ended when it goes out of scope.
pub struct Supervisord {
    pub dir: tempfile::TempDir,
    pub links: tempfile::TempDir,
    pub child: Child,
}

impl Supervisord {
    pub fn start(programs: &str) -> Supervisord {
        let (dir, links) = (tempfile::tempdir().expect("a folder"), links());
        write_conf(dir.path(), programs);
        let child = spawn(&dir, &links);
        let supervisord = Supervisord { dir, links, child };
        supervisord.wait_up();
        supervisord
    }

    /// Ends, and starts again with the same file.
    pub fn restart(&mut self) {
        self.ctl(&["shutdown"]);
        wait_for("its end", || self.child.try_wait().expect("our child"));
        self.boot();
    }

    /// Starts, where there is none.
    pub fn boot(&mut self) {
        self.child = spawn(&self.dir, &self.links);
        self.wait_up();
    }

    fn wait_up(&self) {
        wait_for("its socket", || {
            self.ctl(&["pid"]).trim().parse::<u32>().is_ok_and(|pid| pid == self.child.id()).then_some(())
        });
    }

    pub fn ctl(&self, args: &[&str]) -> String {
        let conf = self.dir.path().join("s.conf");
        let ctl = self.links.path().join("supervisorctl");
        let out = Command::new(ctl).arg("-c").arg(conf).args(args).output().expect("supervisorctl runs");
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("s.log")).unwrap_or_default()
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, signal).expect("it runs");
    }

    pub fn state(&self, name: &str) -> String {
        self.ctl(&["status", name]).split_whitespace().nth(1).unwrap_or_default().to_owned()
    }

    pub fn pid(&self, name: &str) -> String {
        self.ctl(&["pid", name]).trim().to_owned()
    }
}

impl Drop for Supervisord {
    fn drop(&mut self) {
        self.ctl(&["shutdown"]);
        let ended = wait_for("its end", || self.child.try_wait().expect("our child"));
        assert!(ended.success() || std::thread::panicking(), "{ended}\n{}", self.log());
    }
}

fn spawn(dir: &tempfile::TempDir, links: &tempfile::TempDir) -> Child {
    Command::new(links.path().join("supervisord"))
        .args(["-n", "-c"])
        .arg(dir.path().join("s.conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("supervisord starts")
}

pub fn write_conf(dir: &Path, programs: &str) {
    let here = dir.display();
    let text = format!(
        "[supervisord]\nlogfile={here}/s.log\npidfile={here}/s.pid\nchildlogdir={here}\n\
         [unix_http_server]\nfile={here}/s.sock\n[supervisorctl]\nserverurl=unix://{here}/s.sock\n\
         [rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n\
         {programs}"
    );
    fs::write(dir.join("s.conf"), text).expect("written");
}

impl Supervisord {
    pub fn wait_state(&self, name: &str, state: &str) {
        wait_for(&format!("{name} to be {state}"), || (self.state(name) == state).then_some(()));
    }

    pub fn file(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }
}

/// A program that runs and does nothing.
pub const CAT: &str = "[program:cat]\ncommand=/bin/cat\nstartsecs=0\n";
