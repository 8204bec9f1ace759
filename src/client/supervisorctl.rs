//! supervisorctl: the client of a supervisord, ours or Python's, with the output that scripts match on
//! (reference/supervisord.md §4). Everything it says stands on stdout, also what went wrong.
//!
//! This file has the table of actions, their help, and the way from a line to an action. To add an action: a line in
//! `ACTIONS`, a handler in one of the files beside this one.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;

use super::show::print;
use super::supervisorctl_server::{Login, Server, Trouble, fault};
use super::{supervisorctl_act, supervisorctl_groups, supervisorctl_logs, supervisorctl_shell};
use crate::sys::terminal;
use crate::xmlrpc::Value;

/// What the command line and the configuration say together.
pub struct Options {
    pub serverurl: String,
    pub username: Option<String>,
    pub password: Option<String>,
    pub prompt: String,
    pub history_file: Option<PathBuf>,
    pub interactive: bool,
    /// The action and its arguments, as words.
    pub action: Vec<String>,
}

/// Exit statuses, those of LSB init scripts.
pub mod status {
    pub const GENERIC: i32 = 1;
    pub const INVALID_ARGS: i32 = 2;
    pub const UNIMPLEMENTED: i32 = 3;
    pub const NO_PRIVILEGES: i32 = 4;
    pub const NOT_INSTALLED: i32 = 5;
    pub const NOT_RUNNING: i32 = 7;
    /// Those of the action `status`.
    pub const SOME_STOPPED: i32 = 3;
    pub const UNKNOWN: i32 = 4;
}

pub type Done = Result<(), Trouble>;

pub struct Action {
    pub name: &'static str,
    pub completes: Completes,
    run: Run,
    help: &'static str,
}

#[derive(Clone, Copy)]
enum Run {
    /// With what follows the name on the line.
    Do(fn(&mut Ctl, &str) -> Done),
    Help,
    Leave,
}

/// What the shell completes behind an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completes {
    Nothing,
    Actions,
    Groups,
    Processes,
}

const fn action(
    name: &'static str,
    run: fn(&mut Ctl, &str) -> Done,
    completes: Completes,
    help: &'static str,
) -> Action {
    Action { name, run: Run::Do(run), completes, help }
}

/// In the order of `help`, which does not show itself. The texts are those that users of the original know.
const ACTIONS: &[Action] = &[
    action(
        "add",
        supervisorctl_groups::add,
        Completes::Groups,
        "add <name> [...]\tActivates any updates in config for process/group",
    ),
    action("avail", supervisorctl_groups::avail, Completes::Nothing, "avail\t\t\tDisplay all configured processes"),
    action(
        "clear",
        supervisorctl_act::clear,
        Completes::Processes,
        "clear <name>\t\tClear a process' log files.\n\
         clear <name> <name>\tClear multiple process' log files\n\
         clear all\t\tClear all process' log files",
    ),
    Action { name: "exit", run: Run::Leave, completes: Completes::Nothing, help: "exit\tExit the supervisor shell." },
    action(
        "fg",
        supervisorctl_logs::foreground,
        Completes::Processes,
        "fg <process>\tConnect to a process in foreground mode\n\t\tCtrl-C to exit",
    ),
    Action {
        name: "help",
        run: Run::Help,
        completes: Completes::Actions,
        help: "help\t\tPrint a list of available actions\nhelp <action>\tPrint help for <action>",
    },
    action(
        "maintail",
        supervisorctl_logs::maintail,
        Completes::Nothing,
        "maintail -f \tContinuous tail of supervisor main log file (Ctrl-C to exit)\n\
         maintail -100\tlast 100 *bytes* of supervisord main log file\n\
         maintail\tlast 1600 *bytes* of supervisor main log file\n",
    ),
    action(
        "open",
        open,
        Completes::Nothing,
        "open <url>\tConnect to a remote supervisord process.\n\
         \t\t(for UNIX domain socket, use unix:///socket/path)",
    ),
    action(
        "pid",
        supervisorctl_act::pid,
        Completes::Processes,
        "pid\t\t\tGet the PID of supervisord.\n\
         pid <name>\t\tGet the PID of a single child process by name.\n\
         pid all\t\t\tGet the PID of every child process, one per line.",
    ),
    Action { name: "quit", run: Run::Leave, completes: Completes::Nothing, help: "quit\tExit the supervisor shell." },
    action("reload", supervisorctl_groups::reload, Completes::Nothing, "reload \t\tRestart the remote supervisord."),
    action(
        "remove",
        supervisorctl_groups::remove,
        Completes::Groups,
        "remove <name> [...]\tRemoves process/group from active config",
    ),
    action(
        "reread",
        supervisorctl_groups::reread,
        Completes::Nothing,
        "reread \t\t\tReload the daemon's configuration files without add/remove",
    ),
    action(
        "restart",
        supervisorctl_act::restart,
        Completes::Processes,
        "restart <name>\t\tRestart a process\n\
         restart <gname>:*\tRestart all processes in a group\n\
         restart <name> <name>\tRestart multiple processes or groups\n\
         restart all\t\tRestart all processes\n\
         Note: restart does not reread config files. For that, see reread and update.",
    ),
    action(
        "shutdown",
        supervisorctl_groups::shutdown,
        Completes::Nothing,
        "shutdown \tShut the remote supervisord down.",
    ),
    action(
        "signal",
        supervisorctl_act::signal,
        Completes::Processes,
        "signal <signal name> <name>\t\tSignal a process\n\
         signal <signal name> <gname>:*\t\tSignal all processes in a group\n\
         signal <signal name> <name> <name>\tSignal multiple processes or groups\n\
         signal <signal name> all\t\tSignal all processes",
    ),
    action(
        "start",
        supervisorctl_act::start,
        Completes::Processes,
        "start <name>\t\tStart a process\n\
         start <gname>:*\t\tStart all processes in a group\n\
         start <name> <name>\tStart multiple processes or groups\n\
         start all\t\tStart all processes",
    ),
    action(
        "status",
        supervisorctl_act::status,
        Completes::Processes,
        "status <name>\t\tGet status for a single process\n\
         status <gname>:*\tGet status for all processes in a group\n\
         status <name> <name>\tGet status for multiple named processes\n\
         status\t\t\tGet all process status info",
    ),
    action(
        "stop",
        supervisorctl_act::stop,
        Completes::Processes,
        "stop <name>\t\tStop a process\n\
         stop <gname>:*\t\tStop all processes in a group\n\
         stop <name> <name>\tStop multiple processes or groups\n\
         stop all\t\tStop all processes",
    ),
    action(
        "tail",
        supervisorctl_logs::tail,
        Completes::Processes,
        "tail [-f] <name> [stdout|stderr] (default stdout)\n\
         Ex:\n\
         tail -f <name>\t\tContinuous tail of named process stdout\n\
         \t\t\tCtrl-C to exit.\n\
         tail -100 <name>\tlast 100 *bytes* of process stdout\n\
         tail <name> stderr\tlast 1600 *bytes* of process stderr",
    ),
    action(
        "update",
        supervisorctl_groups::update,
        Completes::Groups,
        "update\t\t\tReload config and add/remove as necessary, and will restart affected programs\n\
         update all\t\tReload config and add/remove as necessary, and will restart affected programs\n\
         update <gname> [...]\tUpdate specific groups",
    ),
    action("version", version, Completes::Nothing, "version\t\t\tShow the version of the remote supervisord process"),
];

/// Actions of our own: `help` lists what users of the original know, and tells about these when they are asked for.
const OWN_ACTIONS: &[Action] = &[
    action(
        "disable",
        supervisorctl_act::disable,
        Completes::Processes,
        "disable [--now] <name> [...]\tKeep processes from starting by themselves; with --now stop them too",
    ),
    action(
        "enable",
        supervisorctl_act::enable,
        Completes::Processes,
        "enable [--now] <name> [...]\tLet processes start by themselves again; with --now start them too",
    ),
];

pub fn all_actions() -> impl Iterator<Item = &'static Action> {
    ACTIONS.iter().chain(OWN_ACTIONS)
}

/// The API that both sides speak; a server of another one is not talked to.
const API_VERSION: &str = "3.0";
/// Of input.
const MAX_LINE: u64 = 1 << 20;

pub struct Ctl {
    pub server: Server,
    /// Somebody is there to answer questions.
    pub is_interactive: bool,
    /// What the process exits with, as the last part of an action that set it has left it.
    pub exit: i32,
    /// Standard input, with a buffer that can be looked at.
    pub input: BufReader<File>,
}

/// Runs one action, or the shell. Returns the exit status.
pub fn main(options: Options) -> i32 {
    let login = Login { username: options.username, password: options.password };
    let is_interactive = options.interactive || options.action.is_empty();
    let Ok(input) = io::stdin().as_fd().try_clone_to_owned().map(File::from) else { return status::GENERIC };
    let server = Server { url: options.serverurl, login };
    let mut ctl = Ctl { server, is_interactive, exit: 0, input: BufReader::new(input) };
    if options.action.is_empty() {
        supervisorctl_shell::run(&mut ctl, &options.prompt, options.history_file.as_deref());
        return 0;
    }
    // Joined and parsed again: `"signal HUP" x` is `signal HUP x` (Ansible relies on it).
    ctl.line(&options.action.join(" "));
    ctl.exit
}

impl Ctl {
    /// One line of input. True if it was the last one.
    pub fn line(&mut self, line: &str) -> bool {
        let line = line.trim();
        if line.is_empty() {
            return false;
        }
        let asked = match line.strip_prefix('?') {
            Some(topic) => format!("help {topic}"),
            None => line.to_owned(),
        };
        let end = asked.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(asked.len());
        let (name, argument) = (&asked[..end], asked[end..].trim());
        let Some(action) = all_actions().find(|action| action.name == name) else {
            if name == "EOF" {
                say("");
                return true;
            }
            say(&format!("*** Unknown syntax: {line}"));
            self.exit = status::GENERIC;
            return false;
        };
        match action.run {
            Run::Do(run) => self.run(run, argument),
            Run::Help => help(argument),
            Run::Leave => {
                say("");
                return true;
            }
        }
        false
    }

    fn run(&mut self, run: fn(&mut Ctl, &str) -> Done, argument: &str) {
        loop {
            let before = self.exit;
            let Err(trouble) = run(self, argument) else { return };
            self.exit = status::GENERIC;
            match trouble {
                Trouble::Unauthorized => {
                    say("Server requires authentication");
                    if !self.is_interactive || !self.ask_login() {
                        return;
                    }
                    self.exit = before;
                }
                Trouble::NoFile => return say(&format!("{} no such file", self.server.url)),
                Trouble::Refused => return say(&format!("{} refused connection", self.server.url)),
                Trouble::Fault(fault) => return say(&format!("ERROR: {}", fault.text)),
                Trouble::Other(why) => return say(&format!("error: {why}")),
            }
        }
    }

    /// False if nobody answers.
    fn ask_login(&mut self) -> bool {
        let Some(username) = self.ask("Username:") else { return false };
        let password = terminal::without_echo(|| self.ask("Password:"));
        say("");
        self.server.login = Login { username: Some(username), password };
        self.server.login.password.is_some()
    }

    /// Whether there is a server that we can talk to; otherwise says why not, and sets the exit status.
    pub fn is_up(&mut self) -> Result<bool, Trouble> {
        let (what, exit) = match self.server.call("getVersion", &[]) {
            Ok(version) if version.as_str() == Some(API_VERSION) => return Ok(true),
            Ok(version) => {
                let theirs = version.as_str().unwrap_or_default();
                let what = format!(
                    "Sorry, this version of supervisorctl expects to talk to a server with API version {API_VERSION}, \
                     but the remote version is {theirs}."
                );
                (what, status::NOT_INSTALLED)
            }
            Err(Trouble::Fault(f)) if f.code == fault::UNKNOWN_METHOD => {
                let what = "Sorry, supervisord responded but did not recognize the supervisor namespace commands that \
                            supervisorctl uses to control it.  Please check that the [rpcinterface:supervisor] section \
                            is enabled in the configuration file (see sample.conf).";
                (what.to_owned(), status::UNIMPLEMENTED)
            }
            Err(Trouble::Refused) => (format!("{} refused connection", self.server.url), status::NO_PRIVILEGES),
            Err(Trouble::NoFile) => (format!("{} no such file", self.server.url), status::NOT_RUNNING),
            Err(trouble) => return Err(trouble),
        };
        say(&what);
        self.exit = exit;
        Ok(false)
    }

    /// For an action that takes none: true if there are arguments, which has then been said.
    pub fn has_arguments(&mut self, action: &str, argument: &str) -> bool {
        if !argument.is_empty() {
            self.misused(&format!("Error: {action} accepts no arguments"), action, status::GENERIC);
        }
        !argument.is_empty()
    }

    /// Says what is wrong with the line, and the help of the action.
    pub fn misused(&mut self, what: &str, action: &str, exit: i32) {
        say(what);
        self.exit = exit;
        help(action);
    }

    pub fn fail(&mut self, why: &str) {
        say(why);
        self.exit = status::GENERIC;
    }

    /// Asks before something that cannot be undone, if somebody is there.
    pub fn confirms(&mut self, question: &str) -> bool {
        !self.is_interactive || self.ask(question).is_some_and(|answer| answer.to_lowercase().starts_with('y'))
    }

    /// A question on stdout and the line that answers it; `None` at the end of input.
    pub fn ask(&mut self, question: &str) -> Option<String> {
        let _ = print(question);
        let _ = io::stdout().flush();
        let mut line = Vec::new();
        match self.input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(length) if length > 0 => Some(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned()),
            _ => None,
        }
    }

    pub fn processes(&self) -> Result<Vec<Info>, Trouble> {
        processes(&self.server)
    }
}

pub fn processes(server: &Server) -> Result<Vec<Info>, Trouble> {
    let all = server.call("getAllProcessInfo", &[])?;
    Ok(all.as_array().unwrap_or_default().iter().map(Info::of).collect())
}

/// What getProcessInfo tells, as far as it is shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Info {
    pub group: String,
    pub name: String,
    pub state: i64,
    pub statename: String,
    pub description: String,
    pub pid: i64,
    /// All of it, as it came.
    pub whole: Option<Value>,
}

impl Info {
    pub fn of(value: &Value) -> Info {
        let number = |key| value.get(key).and_then(Value::as_int).unwrap_or_default();
        Info {
            group: text_of(value, "group"),
            name: text_of(value, "name"),
            state: number("state"),
            statename: text_of(value, "statename"),
            description: text_of(value, "description"),
            pid: number("pid"),
            whole: Some(value.clone()),
        }
    }

    pub fn namespec(&self) -> String {
        namespec(&self.group, &self.name)
    }
}

pub fn text_of(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The argument without one of our own flags, which may stand anywhere, and whether it was there.
pub fn take_flag(argument: &str, flag: &str) -> (String, bool) {
    let rest: Vec<&str> = argument.split_whitespace().filter(|word| *word != flag).collect();
    (rest.join(" "), argument.split_whitespace().any(|word| word == flag))
}

/// For programs: what the server has told, as JSON.
pub fn say_json<'v>(values: impl Iterator<Item = &'v Value>) {
    say(&format!("{:#}", serde_json::Value::Array(values.map(to_json).collect())));
}

fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Int(number) => (*number).into(),
        Value::Bool(truth) => (*truth).into(),
        Value::Double(number) => (*number).into(),
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => items.iter().map(to_json).collect(),
        Value::Struct(members) => members.iter().map(|(name, value)| (name.clone(), to_json(value))).collect(),
    }
}

/// A process as it is shown: `name` when the group has the same one.
pub fn namespec(group: &str, name: &str) -> String {
    if group == name { name.to_owned() } else { format!("{group}:{name}") }
}

/// Group and process of a name as it is written; no process for `g:*` and `g:`.
pub fn split_namespec(text: &str) -> (&str, Option<&str>) {
    match text.split_once(':') {
        Some((group, "" | "*")) => (group, None),
        Some((group, name)) => (group, Some(name)),
        None => (text, Some(text)),
    }
}

/// A line on stdout.
pub fn say(text: &str) {
    // Nobody is left to tell when stdout is broken.
    let _ = print(&format!("{text}\n"));
}

fn help(topic: &str) {
    if let Some(action) = all_actions().find(|action| action.name == topic) {
        return say(action.help);
    }
    if !topic.is_empty() {
        return say(&format!("*** No help on {topic}"));
    }
    let header = "default commands (type help <topic>):";
    say(&format!("\n{header}\n{}", "=".repeat(header.len())));
    say(&format!("{}\n", columns(&shown_actions(), 79)));
}

fn shown_actions() -> Vec<&'static str> {
    ACTIONS.iter().map(|action| action.name).filter(|name| *name != "help").collect()
}

/// Names in as few rows as fit into a width, downwards, two blanks between the columns.
fn columns(names: &[&str], width: usize) -> String {
    for rows in 1..=names.len() {
        let columns: Vec<&[&str]> = names.chunks(rows).collect();
        let widths: Vec<usize> = columns.iter().map(|c| c.iter().map(|n| n.len()).max().unwrap_or(0)).collect();
        if widths.iter().sum::<usize>() + 2 * (columns.len() - 1) > width && rows < names.len() {
            continue;
        }
        let line = |row: usize| {
            let cells = columns.iter().zip(&widths).filter_map(|(c, &w)| Some(format!("{:<w$}", c.get(row)?)));
            cells.collect::<Vec<_>>().join("  ")
        };
        return (0..rows).map(line).collect::<Vec<_>>().join("\n");
    }
    String::new()
}

fn open(ctl: &mut Ctl, argument: &str) -> Done {
    if !argument.starts_with("http://") && !argument.starts_with("unix://") {
        ctl.fail("ERROR: url must be http:// or unix://");
        return Ok(());
    }
    ctl.server.url = argument.to_owned();
    let before = ctl.exit;
    supervisorctl_act::status(ctl, "")?;
    ctl.exit = before;
    Ok(())
}

fn version(ctl: &mut Ctl, argument: &str) -> Done {
    if !ctl.has_arguments("version", argument) && ctl.is_up()? {
        let version = ctl.server.call("getSupervisorVersion", &[])?;
        say(version.as_str().unwrap_or_default());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_shown_as_python_shows_it() {
        assert!(ACTIONS.is_sorted_by_key(|action| action.name));
        // What Python's supervisorctl 4.2.5 prints.
        let expected = "add    exit      open  reload  restart   start   tail   \n\
                        avail  fg        pid   remove  shutdown  status  update \n\
                        clear  maintail  quit  reread  signal    stop    version";
        assert_eq!(columns(&shown_actions(), 79), expected);
    }

    #[test]
    fn names_are_written_and_read_as_supervisord_has_them() {
        assert_eq!(namespec("a", "a"), "a");
        assert_eq!(namespec("g", "a"), "g:a");
        assert_eq!(split_namespec("a"), ("a", Some("a")));
        assert_eq!(split_namespec("g:a:b"), ("g", Some("a:b")));
        assert_eq!(split_namespec("g:*"), ("g", None));
        assert_eq!(split_namespec("g:"), ("g", None));
    }
}
