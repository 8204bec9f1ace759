//! A supervisord.conf as a dotcloud.yml and a hob.toml: one service with all programs, `hob boot --home` of the folder
//! that holds the two. Everything is expanded, as it would be where this runs; what the two take for granted and do not
//! agree about is written out, and what hob's native mode has no word for is a note.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::yaml::{Map, Yaml, row};
use super::{Made, MadeFile, yaml};
use crate::config::{self, Conf, Flags, Note, Place, Problem, Problems, Setting};
use crate::plan::{Ask, Autorestart, CommandKind, Compress, LogSpec, Name, OnFull, Pool, Probe, Reach, ReadyBy, Spec};
use crate::sys::{self, signal_names};

/// Reads the file and all that it includes, as the daemon would.
pub fn migrate(file: &Path) -> Result<Made, Problems> {
    let (flags, env) = (Flags::default(), config::own_env());
    let root = sys::process::effective_uid() == 0;
    // Where a daemon stands.
    let setting = Setting { file, flags: &flags, env: &env, cwd: Path::new("/"), root, seen_in: None };
    let conf = config::supervisord(&setting)?;
    let home = env.get("HOME").cloned().unwrap_or_else(|| "/root".to_owned());
    let mut warnings: Vec<String> = conf.warnings.iter().map(ToString::to_string).collect();
    warnings.extend(conf.notes.iter().filter_map(|note| match note {
        Note::Warning(text) | Note::Critical(text) => Some(text.clone()),
        Note::Info(_) => None,
    }));
    let nofile = sys::limits::get(sys::limits::Limit::NoFile).map_or(u64::MAX, |(soft, _)| soft);
    let mut maker = Maker { file: file.to_owned(), names: names(&conf), home, nofile, conf, warnings };
    let settings = maker.settings(root);
    let (processes, left_out) = maker.processes();
    if processes.is_empty() {
        let label = file.to_string_lossy().into();
        return Err(Problem::new(&Place::file(&label), "cannot migrate it: no program in it that hob can run").into());
    }
    let yml = maker.document(processes, &left_out);
    let files =
        vec![MadeFile::new("dotcloud.yml", yml), MadeFile { private: true, ..MadeFile::new("hob.toml", settings) }];
    Ok(Made { files, warnings: maker.warnings })
}

pub struct Maker {
    pub file: PathBuf,
    pub conf: Conf,
    /// What supervisord leaves to its programs: HOME, and the limit of open files if it does not raise it.
    home: String,
    nofile: u64,
    /// What each process is called now.
    names: BTreeMap<Name, String>,
    pub warnings: Vec<String>,
}

/// Its own name; where two groups have one of that name, the group's with it. Characters that dotcloud.yml(5) does not
/// take become `_`.
fn names(conf: &Conf) -> BTreeMap<Name, String> {
    let specs = &conf.plan.specs;
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for spec in specs {
        *count.entry(spec.name.process.as_str()).or_default() += 1;
    }
    let mut taken = BTreeSet::new();
    let mut names = BTreeMap::new();
    for spec in specs {
        let is_alone = count.get(spec.name.process.as_str()) == Some(&1);
        let full = format!("{}-{}", spec.name.group, spec.name.process);
        let wanted = if is_alone { &spec.name.process } else { &full };
        let good = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        let clean: String = wanted.chars().map(|c| if good(c) { c } else { '_' }).take(90).collect();
        let clean = if clean.starts_with(['-', '.']) || clean == "all" { format!("p{clean}") } else { clean };
        let mut name = clean.clone();
        for number in 2.. {
            if taken.insert(name.clone()) {
                break;
            }
            name = format!("{clean}-{number}");
        }
        names.insert(spec.name.clone(), name);
    }
    names
}

impl Maker {
    /// The processes in their order, and what is left out with the reason.
    fn processes(&mut self) -> (Vec<(String, Yaml)>, Vec<String>) {
        let mut left_out = Vec::new();
        let pools: BTreeMap<String, Pool> = self
            .conf
            .plan
            .supervisord
            .iter()
            .flat_map(|own| &own.groups)
            .filter_map(|group| Some((group.name.clone(), group.pool.clone()?)))
            .collect();
        for (name, pool) in &pools {
            let instead = self
                .conf
                .plan
                .specs
                .iter()
                .find(|spec| spec.name.group == *name)
                .and_then(|spec| instead_of(&spec.command.line));
            let told = format!(
                "[eventlistener:{name}] ({}) is left out: hob's own events are read with hob events{}",
                pool.events.join(", "),
                instead.unwrap_or_default()
            );
            left_out.push(told);
        }
        let ranks = ranks(&self.conf);
        let mut all: Vec<(String, Yaml)> = Vec::new();
        // The last mapping that was written in full: its group, where it stands, and with an anchor.
        let mut model: Option<(String, usize, Map)> = None;
        for spec in self.conf.plan.specs.clone() {
            if pools.contains_key(&spec.name.group) {
                continue;
            }
            let Some(program) = spec.program.clone() else { continue };
            if let Some(why) = &program.unparsable {
                left_out.push(format!("{} is left out: its command cannot be parsed ({why})", spec.name));
                continue;
            }
            if program.socket.is_some() {
                left_out.push(format!("[fcgi-program:{}] is left out: hob passes no socket to a program; let it listen itself, or run it with supervisord's name", spec.name.group));
                continue;
            }
            let words = match &spec.command.kind {
                CommandKind::Words(words) if !words.is_empty() => words.clone(),
                _ => {
                    left_out.push(format!("{} is left out: its command is empty", spec.name));
                    continue;
                }
            };
            let map = self.process(&spec, &words, ranks.get(&spec.name).copied().unwrap_or(999));
            let name = self.names[&spec.name].clone();
            let rest = model.as_ref().filter(|(group, ..)| *group == spec.name.group).and_then(|(_, at, full)| {
                let rest = map.beside(full)?;
                Some((*at, full.clone(), rest))
            });
            match rest {
                Some((at, full, rest)) => {
                    let alias = anchor(&all[at].0);
                    all.push((name, if rest.is_empty() { Yaml::Alias(alias) } else { rest.into() }));
                    all[at].1 = full.into();
                }
                None => {
                    let mut full = map.clone();
                    full.anchor(&anchor(&name));
                    model = Some((spec.name.group.clone(), all.len(), full));
                    all.push((name, map.into()));
                }
            }
        }
        left_out.sort();
        left_out.dedup();
        self.warnings.extend(left_out.iter().cloned());
        (all, left_out)
    }

    fn process(&mut self, spec: &Spec, words: &[String], rank: i32) -> Map {
        let mut map = Map::new();
        let shown = self.names[&spec.name].clone();
        let mut notes = Vec::new();
        let program = spec.program.as_ref().expect("it has one");
        map.put("command", command(words));
        if let Some(user) = &spec.user {
            map.put("user", user.name.as_str());
        }
        let directory = spec.directory.to_string_lossy().into_owned();
        map.put("directory", directory.replace('$', "$$"));
        if !spec.autostart {
            map.put("autostart", false);
        }
        let restart = &spec.restart;
        map.put(
            "autorestart",
            match restart.autorestart {
                Autorestart::Always => Yaml::from(true),
                Autorestart::Never => Yaml::from(false),
                Autorestart::Unexpected => Yaml::from("unexpected"),
            },
        );
        if restart.exitcodes != [0] {
            map.put("exitcodes", Yaml::Row(restart.exitcodes.iter().map(|code| u64::from(*code).into()).collect()));
        }
        if restart.startsecs != Duration::from_secs(1) {
            map.put("startsecs", length(restart.startsecs));
        }
        if let Some(retries) = restart.startretries {
            map.put("startretries", u64::from(retries.min(1_000_000)));
        }
        if restart.delay != Duration::from_secs(1) {
            map.put("restart_delay", length(restart.delay));
        }
        // Without one of its own, supervisord's waits have no longest; what is behind the last retry matters to nobody.
        let grows_to = restart.delay.saturating_mul(restart.startretries.unwrap_or(u32::MAX).clamp(1, 3600));
        let longest = restart.delay_max.min(grows_to);
        if longest > Duration::from_secs(60) {
            map.put("restart_delay_max", length(longest));
        }
        if restart.oneshot {
            map.put("oneshot", true);
        }
        let stop = &spec.stop;
        if stop.signal != 15 {
            map.put("stopsignal", signal_names::name(stop.signal));
        }
        if stop.wait != Duration::from_secs(10) {
            map.put("stopwaitsecs", length(stop.wait));
        }
        if stop.drain > Duration::ZERO {
            map.put("drain", length(stop.drain));
        }
        if let Some(umask) = spec.umask.filter(|umask| *umask != 0o022) {
            map.put("umask", format!("{umask:03o}"));
        }
        self.limits(spec, &mut map);
        if rank != 999 {
            map.put("priority", Yaml::Bare(rank.to_string()));
        }
        let after: Vec<&String> = spec.after.iter().filter_map(|name| self.names.get(name)).collect();
        if !after.is_empty() {
            map.put("after", row(after.iter().map(|name| name.as_str())));
        }
        if let Some(ready) = &spec.ready {
            let mut asked = match &ready.by {
                ReadyBy::Notify => Map::new().with("notify", true),
                ReadyBy::Probe(probe) => question(probe),
            };
            asked.put("within", length(ready.within));
            map.put("ready", asked);
        }
        if let Some(health) = &spec.health {
            let asked = question(&health.probe).with("every", length(health.every));
            map.put("health", asked.with("failures", u64::from(health.failures)));
        }
        if let Some(pidfile) = &spec.pidfile {
            map.put("pidfile", pidfile.to_string_lossy().replace('$', "$$"));
        }
        let environment = self.environment(spec, words);
        if !environment.is_empty() {
            map.put("environment", environment);
        }
        self.log(spec, program.redirect_stderr, &mut map, &mut notes);
        if let Some(url) = &program.serverurl {
            notes.push(format!("serverurl={url}: hob sets no SUPERVISOR_SERVER_URL"));
        }
        let told: Vec<String> = notes.iter().map(|note| format!("{shown}: {note}")).collect();
        self.warnings.extend(told);
        map.comment_first(&notes);
        map
    }

    fn limits(&self, spec: &Spec, map: &mut Map) {
        // supervisord raises its own limit that far if it is lower, and its programs inherit it; hob gives its programs
        // what it was started with.
        let (minfds, is_low) = (self.conf.main.minfds, self.conf.main.minfds > self.nofile);
        match spec.limits.nofile {
            Some(nofile) => drop(map.put("nofile", nofile)),
            None if is_low => drop(map.put_aside("nofile", minfds, "minfds")),
            None => {}
        }
        if let Some(nice) = spec.limits.nice {
            map.put("nice", Yaml::Bare(nice.to_string()));
        }
        if let Some(score) = spec.limits.oom_score_adj {
            map.put("oom_score_adj", Yaml::Bare(score.to_string()));
        }
        if let Some(bytes) = spec.memory_limit {
            map.put("memory_limit", size(bytes));
        }
    }

    /// What it says itself.
    fn environment(&self, spec: &Spec, words: &[String]) -> Map {
        let mut env = self.conf.environments.get(&spec.name).cloned().unwrap_or_default();
        if spec.user.is_some() {
            // A process with a user has the variables of a login from hob, which are stronger than those of the service.
            for key in ["HOME", "USER", "LOGNAME", "SHELL"] {
                if let Some(value) = self.for_all().get(key) {
                    env.entry(key.to_owned()).or_insert_with(|| value.clone());
                }
            }
        }
        // A shell in the command may read these.
        for (key, value) in
            [("SUPERVISOR_PROCESS_NAME", &spec.name.process), ("SUPERVISOR_GROUP_NAME", &spec.name.group)]
        {
            if words.iter().any(|word| word.contains(key)) {
                env.insert(key.to_owned(), value.clone());
            }
        }
        let mut map = Map::new();
        for (key, value) in &env {
            map.put(key, value.as_str());
        }
        map
    }

    /// The variables of all programs.
    fn for_all(&self) -> BTreeMap<String, String> {
        let mut all = self.conf.environment.clone();
        all.entry("HOME".to_owned()).or_insert_with(|| self.home.clone());
        all
    }

    fn log(&self, spec: &Spec, redirects: bool, map: &mut Map, notes: &mut Vec<String>) {
        let log = &spec.log;
        let goes = |log: &LogSpec| log.file().is_some() || log.extras.as_ref().is_some_and(|extras| extras.auto);
        let is_console =
            |log: &LogSpec| log.file().is_some_and(|path| path.starts_with("/dev") || path.starts_with("/proc"));
        let stderr = log.stderr.as_deref();
        if is_console(log) || stderr.is_some_and(is_console) {
            map.put_aside("console", true, "and in its log");
        } else if !goes(log) && !stderr.is_some_and(goes) {
            notes.push("stdout_logfile=NONE: hob keeps a log all the same, of 1 MB at most".to_owned());
            map.put("logfile_maxbytes", "1MB").put("logfile_backups", 0);
        } else {
            let defaults = (50 << 20, 10);
            if log.max_bytes != defaults.0 {
                map.put("logfile_maxbytes", size(log.max_bytes));
            }
            if log.backups != defaults.1 {
                map.put("logfile_backups", u64::from(log.backups.min(10_000)));
            }
            match stderr {
                Some(stderr) if goes(log) && goes(stderr) && !redirects => {
                    map.put("split_stderr", true);
                    if (stderr.max_bytes, stderr.backups) != (log.max_bytes, log.backups) {
                        notes.push(
                            "stderr_logfile_maxbytes and stderr_logfile_backups: the two logs have one size here"
                                .to_owned(),
                        );
                    }
                }
                Some(stderr) if goes(log) != goes(stderr) => {
                    notes.push("one of stdout and stderr is NONE: both are in its log here".to_owned());
                }
                _ => {}
            }
        }
        for (key, value) in [("timestamps", log.timestamps), ("log_prefix", log.prefix)] {
            if value {
                map.put(key, true);
            }
        }
        if log.json {
            map.put("log_format", "json");
        }
        match log.compress {
            Compress::None => {}
            Compress::Gzip => drop(map.put("log_compress", "gzip")),
            Compress::Zstd => drop(map.put("log_compress", "zstd")),
        }
        match log.on_full {
            OnFull::Block => {}
            OnFull::DropOldest => drop(map.put("on_full", "drop_oldest")),
            OnFull::DropNewest => drop(map.put("on_full", "drop_newest")),
        }
        if log.max_total > 0 {
            map.put("logfile_max_total", size(log.max_total));
        }
        if let Some(age) = log.max_age {
            map.put("logfile_max_age", length(age));
        }
        let extras = [Some(log), stderr].into_iter().flatten().filter_map(|log| log.extras.as_deref());
        for extra in extras.collect::<Vec<_>>() {
            let lost = [
                (extra.syslog, "syslog: the log is a file here"),
                (extra.capture > 0, "capture_maxbytes: there are no PROCESS_COMMUNICATION events"),
                (extra.events, "events_enabled: there are no PROCESS_LOG events"),
            ];
            for (is, told) in lost {
                if is && !notes.iter().any(|note| note == told) {
                    notes.push(told.to_owned());
                }
            }
        }
    }

    /// Where the logs are now that had a place of their own.
    fn moved_logs(&self) -> Option<String> {
        let folder = self.log_folder().unwrap_or_else(|| PathBuf::from("/var/log/supervisor"));
        let mut moved = Vec::new();
        for spec in &self.conf.plan.specs {
            let name = &self.names[&spec.name];
            for (log, end) in [(Some(&spec.log), ".log"), (spec.log.stderr.as_deref(), "_error.log")] {
                let Some(path) = log.and_then(LogSpec::file) else { continue };
                let is_device = path.starts_with("/dev") || path.starts_with("/proc");
                if !is_device && path != folder.join(format!("{name}{end}")) {
                    moved.push(format!("  {} is {name}{end} now", path.display()));
                }
            }
        }
        let more = moved.len().saturating_sub(SHOWN);
        moved.truncate(SHOWN);
        moved.extend((more > 0).then(|| format!("  ... and {more} more")));
        (!moved.is_empty()).then(|| {
            format!(
                "Logs are in one folder, log_dir of hob.toml(5), which is {}:\n{}",
                folder.display(),
                moved.join("\n")
            )
        })
    }

    fn document(&mut self, processes: Vec<(String, Yaml)>, left_out: &[String]) -> String {
        let mut out = String::new();
        let specs = &self.conf.plan.specs;
        yaml::comment(
            &mut out,
            0,
            &format!("The programs of {}. Made by hob migrate. See dotcloud.yml(5).", self.file.display()),
        );
        yaml::comment(&mut out, 0, "In a folder with its hob.toml:\n  hob boot --home DIR --config DIR/hob.toml");
        let mut notes = vec![
            "supervisord's defaults are written out where hob has others: autorestart, startretries, split_stderr, directory.".to_owned(),
        ];
        let is_child = |spec: &Spec| matches!(spec.stop.reach, Reach::Child { stop_group: false, .. });
        if specs.iter().any(is_child) {
            notes.push("A stop signal goes to the whole process group, as with stopasgroup and killasgroup; whatever is left after the stop is ended too.".to_owned());
        }
        notes.push("A start that failed is tried again after 1, 2, 4 seconds, and not 1, 2, 3. A program that ends within startsecs with an expected code has ended; for supervisord that was a failed start.".to_owned());
        notes.push("HOME is supervisord's own for all programs, as it was; without that line it would be the home of the service. USER, LOGNAME and SHELL are those of the program's user, where supervisord left its own; SUPERVISOR_* are not set unless a command names them.".to_owned());
        notes.push(
            "What %(...)s stood for when this was made is written out; so are the processes of numprocs.".to_owned(),
        );
        let stands = |spec: &Spec| spec.program.as_ref().is_some_and(|program| program.directory.is_none());
        if self.conf.main.directory.is_none() && specs.iter().any(stands) {
            notes.push("directory is / where the file says none: there a supervisord stands that systemd has started. In a container it may have been the folder of its WORKDIR.".to_owned());
        }
        notes.extend(self.moved_logs());
        let groups: BTreeMap<&str, Vec<&str>> = specs.iter().filter(|spec| spec.name.group != spec.name.process).fold(
            BTreeMap::new(),
            |mut groups, spec| {
                groups.entry(spec.name.group.as_str()).or_insert_with(Vec::new).push(self.names[&spec.name].as_str());
                groups
            },
        );
        let groups: Vec<String> =
            groups.into_iter().map(|(group, names)| format!("  {group}: {}", names.join(" "))).collect();
        if !groups.is_empty() {
            notes.push(format!("There are no groups but the service. Those there were:\n{}", groups.join("\n")));
        }
        for note in notes.iter().chain(left_out) {
            out.push_str("#\n");
            yaml::comment(&mut out, 0, note);
        }
        let mut service = Map::new();
        service.put("type", "custom");
        service.put_aside("ports", Map::new(), "the programs choose their own");
        let mut environment = Map::new();
        for (key, value) in &self.for_all() {
            environment.put(key, value.as_str());
        }
        service.put("environment", environment);
        let mut map = Map::new();
        for (name, process) in processes {
            map.put(&name, process);
        }
        service.put("processes", map);
        out + &Map::new().with("main", service).write()
    }
}

/// What hob has in the place of the listeners of superlance.
fn instead_of(command: &str) -> Option<&'static str> {
    [
        ("memmon", "; for memmon there is memory_limit"),
        ("httpok", "; for httpok there is health"),
        ("fatalmailbatch", "; exit_when ends hob with the first that is FATAL"),
        ("supervisor_stdout", "; console = true copies output"),
        ("supervisor-stdout", "; console = true copies output"),
    ]
    .into_iter()
    .find_map(|(name, told)| command.contains(name).then_some(told))
}

/// The order of start as one number each: by group, then within the group. The numbers stay as they are where that order
/// shows in them.
fn ranks(conf: &Conf) -> BTreeMap<Name, i32> {
    let groups = conf.plan.supervisord.iter().flat_map(|own| &own.groups);
    let of_group: BTreeMap<&str, i32> = groups.map(|group| (group.name.as_str(), group.priority)).collect();
    let keys: Vec<(Name, (i32, i32))> = conf
        .plan
        .specs
        .iter()
        .filter_map(|spec| {
            let own = spec.program.as_ref()?.priority;
            Some((spec.name.clone(), (of_group.get(spec.name.group.as_str()).copied().unwrap_or(own), own)))
        })
        .collect();
    let all: BTreeSet<(i32, i32)> = keys.iter().map(|(_, key)| *key).collect();
    let of_one: BTreeSet<i32> = all.iter().map(|(group, _)| *group).collect();
    // One number in each group: that of the group.
    if of_one.len() == all.len() {
        return keys.into_iter().map(|(name, (group, _))| (name, group)).collect();
    }
    let rank: BTreeMap<(i32, i32), i32> = all.into_iter().zip(1..).collect();
    keys.into_iter().map(|(name, key)| (name, rank[&key])).collect()
}

/// A line that hob takes apart into these words and nothing else: no shell, no variable, no builtin.
fn command(words: &[String]) -> String {
    let quoted = |(nth, word): (usize, &String)| {
        let bare = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+,".contains(c) || (c == '=' && nth > 0);
        let is_bare = !word.is_empty() && word.chars().all(bare);
        if is_bare { word.clone() } else { format!("'{}'", word.replace('\'', r"'\''")) }
    };
    let line = words.iter().enumerate().map(quoted).collect::<Vec<_>>().join(" ");
    match config::command_kind(&line, Path::new("/")) {
        Ok(CommandKind::Words(read)) if read == words => line,
        // A builtin or a reserved word of the shell: by way of env(1) it is the program.
        _ => format!("env {line}"),
    }
}

fn question(probe: &Probe) -> Map {
    let timeout = length(probe.timeout);
    let (key, text) = match &probe.ask {
        Ask::Http(url) => ("http", url.replace('$', "$$")),
        Ask::Tcp(to) => ("tcp", to.replace('$', "$$")),
        Ask::Exec(line) => ("exec", line.clone()),
    };
    Map::new().with(key, text).with("timeout", timeout)
}

fn anchor(name: &str) -> String {
    name.chars().map(|c| if c == '.' { '_' } else { c }).collect()
}

/// As dotcloud.yml(5) writes it: a number is seconds.
fn length(length: Duration) -> Yaml {
    match length.subsec_millis() {
        0 => Yaml::from(length.as_secs()),
        _ => Yaml::from(format!("{}ms", length.as_millis())),
    }
}

fn size(bytes: u64) -> Yaml {
    for (unit, of) in [("GB", 1u64 << 30), ("MB", 1 << 20), ("KB", 1 << 10)] {
        if bytes > 0 && bytes.is_multiple_of(of) {
            return Yaml::from(format!("{}{unit}", bytes / of));
        }
    }
    Yaml::from(bytes)
}

/// Lines of a list that nobody reads to its end.
const SHOWN: usize = 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn hob_takes_a_command_apart_into_the_words_it_was_made_of(words in prop::collection::vec("[a-z$*~'\"\\\\ ;|&<>(){}=%#!?\n-]{0,8}", 1..5)) {
            prop_assume!(!words[0].is_empty());
            let line = command(&words);
            let read = config::command_kind(&line, Path::new("/home")).map_err(TestCaseError::fail)?;
            let with_env = [&["env".to_owned()], words.as_slice()].concat();
            let CommandKind::Words(read) = read else { return Err(TestCaseError::fail(line)) };
            prop_assert!(read == words || read == with_env, "{line}: {read:?}");
        }
    }

    #[test]
    fn a_builtin_is_run_as_the_program_it_is_too() {
        for (words, line) in [
            (&["echo", "a b"][..], "env echo 'a b'"),
            (&["/bin/echo", "~/x", "$A"], "/bin/echo '~/x' '$A'"),
            (&["true"], "env true"),
        ] {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(command(&words), line);
        }
    }

    #[test]
    fn lengths_and_sizes_are_short() {
        let one = |value: Yaml| Map::new().with("x", value).write();
        assert_eq!(
            one(length(Duration::from_millis(250))) + &one(length(Duration::from_secs(90))),
            "x: 250ms\nx: 90\n"
        );
        assert_eq!(one(size(50 << 20)) + &one(size(1500)) + &one(size(0)), "x: 50MB\nx: 1500\nx: 0\n");
    }
}
