//! Brings the load balancer to follow a plan: writes its configuration, has HAProxy check it, and lets the one that runs
//! take it over without losing a connection.
//!
//! A change of structure is a reload: the new worker process takes the listening sockets from the old one, which ends
//! when its last connection does. Who is passed over is told to the worker itself, with nothing reloaded. The
//! supervisor knows HAProxy as a process like any other; one that is not there reads the file when it starts.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::link::Link;
use super::prepare::Refused;
use super::responsive::last_lines;
use super::script::{End, Script, describe, told};
use super::store::{self, cannot};
use crate::config::proxy::{self, Front, Places};
use crate::config::{Settings, Users};
use crate::plan::{CommandKind, Name, Plan, Spec};
use crate::sys::clock::since_boot;
use crate::sys::proc;
use crate::sys::process::Ended;

/// The load balancer of a plan.
pub struct Balancer<'a> {
    settings: &'a Settings,
    places: Places,
    spec: &'a Spec,
    fronts: Vec<Front>,
    text: String,
    /// Of the structure, in the text.
    tag: String,
}

impl Balancer<'_> {
    /// Nothing, where the plan has none. `out` has those that are to be passed over: `www.0`.
    pub fn of<'a>(plan: &'a Plan, out: &BTreeSet<String>, settings: &'a Settings) -> Option<Balancer<'a>> {
        let own = proxy::name(plan);
        let name = Name { group: own.to_owned(), process: own.to_owned() };
        let spec = plan.specs.iter().find(|spec| spec.name == name)?;
        let fronts = proxy::fronts(plan, out);
        let (text, tag) = proxy::configuration(&fronts, settings, &mut Users::system());
        Some(Balancer { settings, places: Places::of(settings), spec, fronts, text, tag })
    }

    /// Whether nothing new comes to an instance. A single one goes on to be served until it ends.
    pub fn passes_over(&self, server: &str) -> bool {
        let still_comes = |front: &Front| front.servers.iter().any(|s| s.name == server && !front.passes_over(s));
        !self.fronts.iter().any(still_comes)
    }

    /// Has HAProxy look at the configuration, and changes nothing.
    pub fn check(&self) -> Result<(), Refused> {
        if fs::read_to_string(&self.places.file).is_ok_and(|there| there.contains(&self.tag)) {
            return Ok(());
        }
        let file = self.write_beside()?;
        let checked = self.check_file(&file);
        let _ = fs::remove_file(&file);
        checked
    }

    /// Puts the configuration in its place, and lets HAProxy take it over if it runs.
    pub fn route(&self) -> Result<(), Refused> {
        self.write()?;
        if UnixStream::connect(&self.places.master).is_err() {
            return Ok(());
        }
        self.follow().map_err(|why| self.failed(&why))
    }

    /// The same, and waits until it runs and has done so. What is to be told about one that was stopped by hand.
    pub fn serve(&self, link: &Link) -> Result<Option<String>, Refused> {
        self.write()?;
        if self.fronts.is_empty() {
            return Ok(None);
        }
        let Err(why) = self.follow() else { return Ok(None) };
        let name = &self.spec.name.group;
        let state = link.processes(name)?.into_iter().next();
        match state {
            Some(process) if process.state == "STOPPED" => Ok(Some(format!(
                "warning: {name} was stopped, so nobody answers at the public ports: hob start {name}"
            ))),
            Some(process) => Err(self.failed(&format!("{why} ({} {})", process.state, process.why))),
            None => Err(self.failed(&why)),
        }
    }

    /// Waits until no request or connection of an instance is under way, at most for so long as the settings say.
    pub fn drain(&self, server: &str) {
        let until = since_boot() + self.settings.proxy_drain;
        while since_boot() < until && self.sessions(server).is_ok_and(|count| count > 0) {
            thread::sleep(LOOK_EVERY);
        }
    }

    fn write(&self) -> Result<(), Refused> {
        let old = fs::read_to_string(&self.places.file).unwrap_or_default();
        if old == self.text {
            return Ok(());
        }
        let fresh = self.write_beside()?;
        // What differs in states alone has been checked before.
        let checked = if old.contains(&self.tag) { Ok(()) } else { self.check_file(&fresh) };
        let written = checked.and_then(|()| {
            fs::rename(&fresh, &self.places.file).map_err(|why| cannot("write", &self.places.file, &why))
        });
        let _ = fs::remove_file(&fresh);
        written
    }

    fn write_beside(&self) -> Result<std::path::PathBuf, Refused> {
        let dir = &self.places.dir;
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|why| cannot("make", dir, &why))?;
        let fresh = dir.join(format!("new.{}.cfg", std::process::id()));
        store::remove(&fresh).map_err(|why| cannot("remove", &fresh, &why))?;
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&fresh);
        let written = file.and_then(|mut file| file.write_all(self.text.as_bytes()));
        written.map(|()| fresh.clone()).map_err(|why| {
            let _ = fs::remove_file(&fresh);
            cannot("write", &fresh, &why)
        })
    }

    fn check_file(&self, file: &Path) -> Result<(), Refused> {
        let program = self.program();
        let words = [program, "-c", "-f", &file.to_string_lossy()].map(str::to_owned);
        let line = shlex::try_join(words.iter().map(String::as_str)).unwrap_or_default();
        let script = Script {
            line: &line,
            folder: Path::new("/"),
            env: &self.spec.env,
            user: None,
            within: CHECK_WITHIN,
            binds: &[],
            ends_its_group: true,
        };
        let outcome = script
            .run(&mut |_| {}, None)
            .map_err(|why| Refused::one(1, format!("cannot run {program}: {}", describe(&why))))?;
        if outcome.end == End::Ended(Ended::Code(0)) {
            return Ok(());
        }
        let how = told(outcome.end, CHECK_WITHIN);
        let mut errors = vec![format!(
            "{program} does not accept the configuration of the load balancer: {how}; is it HAProxy, 2.4 or newer? (haproxy in hob.toml)"
        )];
        errors.extend(outcome.last.into_iter().map(|line| format!("  {line}")));
        Err(Refused { errors, status: 1 })
    }

    fn program(&self) -> &str {
        match &self.spec.command.kind {
            CommandKind::Words(words) => words.first().map_or("", String::as_str),
            _ => "",
        }
    }

    /// Until the worker that answers has this configuration and all states; otherwise why not.
    fn follow(&self) -> Result<(), String> {
        let until = since_boot() + FOLLOW_WITHIN;
        // One that does not answer is most likely just starting, with the file that is there.
        let mut reload_at = (Duration::ZERO, since_boot() + RELOAD_EVERY);
        loop {
            let running = ask(&self.places.worker, "show info").unwrap_or_default();
            if description(&running) == Some(&self.tag) && self.tell_states()? {
                return Ok(());
            }
            if since_boot() >= until {
                return Err(format!("has not taken over its new configuration within {} s", FOLLOW_WITHIN.as_secs()));
            }
            if since_boot() >= if running.is_empty() { reload_at.1 } else { reload_at.0 } {
                if !running.is_empty() {
                    self.are_free(worker_pid(&running))?;
                }
                let _ = ask(&self.places.master, "reload");
                reload_at = (since_boot() + RELOAD_EVERY, since_boot() + RELOAD_EVERY);
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// False if another worker has taken over meanwhile.
    fn tell_states(&self) -> Result<bool, String> {
        let mut commands = Vec::new();
        for front in &self.fronts {
            for server in &front.servers {
                let state = if front.passes_over(server) { "maint" } else { "ready" };
                commands.push(format!("set server {}/{} state {state}", front.name, server.name));
            }
        }
        for some in commands.chunks(COMMANDS_AT_ONCE) {
            let answer = ask(&self.places.worker, &format!("show info;{}", some.join(";"))).unwrap_or_default();
            if description(&answer) != Some(&self.tag) {
                return Ok(false);
            }
            let said = answer.split_once("\n\n").map_or("", |(_, said)| said.trim());
            if !said.is_empty() {
                return Err(format!("does not take its orders: {said}"));
            }
        }
        Ok(true)
    }

    /// A reload that finds that it cannot listen holds up the other ports for a second, so it is found here.
    fn are_free(&self, own: Option<i32>) -> Result<(), String> {
        for Front { name, number, .. } in &self.fronts {
            // Without the right to look into other users' processes the worker itself could be the one that has it.
            let other = || proc::listener_of(*number).filter(|(pid, _)| Some(*pid) != own);
            if !is_free(*number)
                && other().is_some()
                && !wait_until_free(*number)
                && let Some((pid, holder)) = other()
            {
                return Err(format!("cannot listen on {number} for {name}: it is held by {pid} ({holder})"));
            }
        }
        Ok(())
    }

    /// Those of an instance that are under way, also with workers that only finish what they have.
    fn sessions(&self, server: &str) -> io::Result<u64> {
        let mut count = scur(&ask(&self.places.worker, SERVERS)?, server);
        for pid in old_workers(&ask(&self.places.master, "show proc")?) {
            // One that has ended meanwhile has none.
            count += scur(&ask(&self.places.master, &format!("@!{pid} {SERVERS}")).unwrap_or_default(), server);
        }
        Ok(count)
    }

    fn failed(&self, why: &str) -> Refused {
        let mut errors = vec![format!("{}: {why}", self.spec.name)];
        errors.extend(self.spec.log.file().into_iter().flat_map(last_lines));
        Refused { errors, status: 1 }
    }
}

/// For a plan that is about to be the daemon's: the file has to be there, all else can only be told.
pub fn follow_plan(plan: &Plan, out: &BTreeSet<String>, settings: &Settings) {
    if let Some(Err(refused)) = Balancer::of(plan, out, settings).map(|balancer| balancer.route()) {
        log::error!("{}", refused.errors.join("\n"));
    }
}

/// Waits a moment until nobody listens on a port. False: somebody does.
pub fn wait_until_free(number: u16) -> bool {
    let until = since_boot() + FREE_WITHIN;
    while !is_free(number) {
        if since_boot() >= until {
            return false;
        }
        thread::sleep(LOOK_EVERY);
    }
    true
}

fn is_free(number: u16) -> bool {
    let bound = TcpListener::bind((Ipv4Addr::UNSPECIFIED, number));
    !bound.is_err_and(|why| why.kind() == io::ErrorKind::AddrInUse)
}

/// One line of commands and the answer to it.
fn ask(socket: &Path, commands: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.set_write_timeout(Some(ANSWER_WITHIN))?;
    stream.write_all(format!("{commands}\n").as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn description(info: &str) -> Option<&str> {
    info.lines().find_map(|line| line.strip_prefix("description: ").or_else(|| line.strip_prefix("Description: ")))
}

fn worker_pid(info: &str) -> Option<i32> {
    info.lines().find_map(|line| line.strip_prefix("Pid: "))?.trim().parse().ok()
}

/// The sessions of a server in an answer to `show stat`.
fn scur(csv: &str, server: &str) -> u64 {
    let mut lines = csv.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().trim_start_matches("# ").split(',').collect();
    let column = |name: &str| header.iter().position(|column| *column == name);
    let (Some(name), Some(count)) = (column("svname"), column("scur")) else { return 0 };
    let cells = lines.map(|line| line.split(',').collect::<Vec<_>>());
    let of_it = cells.filter(|cells| cells.get(name) == Some(&server));
    of_it.filter_map(|cells| cells.get(count)?.parse::<u64>().ok()).sum()
}

/// The process ids of workers that only finish what they have, in an answer to `show proc`.
fn old_workers(text: &str) -> Vec<i32> {
    let old = text.lines().skip_while(|line| !line.starts_with("# old workers")).skip(1);
    let old = old.take_while(|line| !line.starts_with('#'));
    old.filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect()
}

/// Of all proxies, those of type 4.
const SERVERS: &str = "show stat -1 4 -1";
const LOOK_EVERY: Duration = Duration::from_millis(20);
const CHECK_WITHIN: Duration = Duration::from_secs(10);
const FOLLOW_WITHIN: Duration = Duration::from_secs(10);
const RELOAD_EVERY: Duration = Duration::from_secs(3);
const FREE_WITHIN: Duration = Duration::from_secs(2);
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
const ANSWER_MAX: u64 = 4 << 20;
/// HAProxy takes lines of 16 KiB.
const COMMANDS_AT_ONCE: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_haproxy_are_understood() {
        let csv = "# pxname,svname,qcur,qmax,scur,smax,\nwww.a,www.0,0,0,3,9,\nwww.a,www.1,0,0,1,9,\n\n";
        assert_eq!((scur(csv, "www.0"), scur(csv, "www.2"), scur("", "www.0")), (3, 0, 0));
        let procs = "#<PID> <type> <reloads>\n1 master 1\n# workers\n7 worker 0\n# old workers\n5 worker 1\n6 worker 2\n# programs\n9 x\n";
        assert_eq!(old_workers(procs), [5, 6]);
        assert_eq!(description("Name: HAProxy\ndescription: hob-1\nTainted: 0\n"), Some("hob-1"));
    }
}
