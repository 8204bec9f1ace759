//! A supervisord.conf as a whole: what it becomes, and what is said about a bad one.

use std::path::Path;
use std::time::Duration;

use super::environ::Env;
use super::flags::Flags;
use super::supervisord::{Conf, Setting, fits, supervisord_with};
use super::users::Users;
use crate::plan::{Ask, Autorestart, Compress, ExitWhen, Probe, Reach, ReadyBy, Spec};

const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nweb:x:7:7::/srv/web:/bin/sh\n";

/// Reads a file with these contents; its directory is `HERE` in errors.
fn read_with(text: &str, flags: &[&str], more: &[(&str, &str)]) -> Result<Conf, String> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("s.conf"), text).unwrap();
    for (name, text) in more {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let flags = Flags::parse(&flags.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>()).unwrap();
    let env = Env::from([("HOME".to_owned(), "/".to_owned()), ("GREETING".to_owned(), "hello".to_owned())]);
    let file = dir.path().join("s.conf");
    let setting = Setting { file: &file, flags: &flags, env: &env, cwd: Path::new("/tmp"), root: false, seen_in: None };
    let here = dir.path().display().to_string();
    supervisord_with(&setting, Users::from_texts(PASSWD, "web:x:7:\n"))
        .map_err(|problems| problems.0.iter().map(|p| p.message.replace(&here, "HERE")).collect::<Vec<_>>().join("\n"))
}

fn read(text: &str) -> Conf {
    read_with(&format!("[supervisord]\n{text}"), &[], &[]).unwrap_or_else(|why| panic!("{why}"))
}

fn error(text: &str) -> String {
    read_with(&format!("[supervisord]\n{text}"), &[], &[]).expect_err("bad")
}

fn specs(conf: &Conf) -> Vec<String> {
    conf.plan.specs.iter().map(|spec| spec.name.to_string()).collect()
}

fn one(text: &str) -> Spec {
    read(&format!("[program:a]\ncommand=/bin/cat\n{text}")).plan.specs.remove(0)
}

#[test]
fn a_program_without_options_has_supervisords_defaults() {
    let spec = one("");
    assert_eq!(spec.restart.autorestart, Autorestart::Unexpected);
    assert_eq!((spec.restart.startsecs.as_secs(), spec.restart.startretries), (1, Some(3)));
    assert_eq!((spec.restart.exitcodes.as_slice(), spec.stop.signal, spec.stop.wait.as_secs()), (&[0][..], 15, 10));
    assert_eq!(spec.stop.reach, Reach::Child { stop_group: false, kill_group: false });
    assert_eq!((spec.log.max_bytes, spec.log.backups), (50 << 20, 10));
    assert!(spec.log.extras.as_ref().unwrap().auto && spec.log.stderr.unwrap().extras.unwrap().auto);
    assert_eq!((spec.umask, spec.directory.to_str()), (Some(0o022), Some("/tmp")));
}

#[test]
fn groups_come_by_priority_and_take_their_programs_over() {
    let text = "[program:late]\ncommand=x\npriority=900\n[program:b]\ncommand=x\n[program:a]\ncommand=x\n\
        [group:g]\nprograms=b,a\npriority=5\n[eventlistener:l]\ncommand=x\nevents=TICK\n[program:m]\ncommand=x\n";
    let conf = read(text);
    assert_eq!(specs(&conf), ["l", "g:b", "g:a", "late", "m"]);
    let groups: Vec<(&str, i32)> =
        conf.plan.supervisord.as_ref().unwrap().groups.iter().map(|g| (g.name.as_str(), g.priority)).collect();
    assert_eq!(groups, [("l", -1), ("g", 5), ("late", 900), ("m", 999)]);
}

#[test]
fn numprocs_makes_processes_in_the_order_of_their_names() {
    let text = "[program:p]\ncommand=run %(process_num)d of %(numprocs)d\nnumprocs=11\n\
        process_name=%(program_name)s_%(process_num)s\nenvironment=N=\"%(process_num)02d\"\n";
    let conf = read(text);
    assert_eq!(specs(&conf)[..3], ["p:p_0", "p:p_1", "p:p_10"]);
    assert_eq!(conf.plan.specs[2].command.line, "run 10 of 11");
    assert_eq!(conf.plan.specs[1].env["N"], "01");
    assert_eq!(specs(&read("[program:p]\ncommand=x\nnumprocs=0\n")), [""; 0]);
}

#[test]
fn the_environment_has_its_layers_and_is_known_to_expansions() {
    let text = "environment=LEVEL=\"global\",X=\"1\"\n[program:a]\n\
        command=/bin/echo %(ENV_GREETING)s %(ENV_X)s %(ENV_Y)s\nenvironment=LEVEL=\"own\",Y=\"%(ENV_X)s2\"\n";
    let conf = read(text);
    let spec = &conf.plan.specs[0];
    assert_eq!(spec.command.line, "/bin/echo hello 1 12");
    assert_eq!((spec.env["LEVEL"].as_str(), spec.env["Y"].as_str()), ("own", "12"));
    let common = &conf.plan.supervisord.as_ref().unwrap().env;
    assert_eq!((common["LEVEL"].as_str(), common["SUPERVISOR_ENABLED"].as_str()), ("global", "1"));
}

#[test]
fn files_are_included_by_pattern_in_order_and_the_last_value_wins() {
    let main = "[supervisord]\n[include]\nfiles = conf.d/*.conf missing/*.conf\n[program:a]\ncommand=main\n";
    let more = [
        ("conf.d/2.conf", "[program:a]\ncommand=two %(here)s\n"),
        ("conf.d/1.conf", "[program:a]\ncommand=one\n[program:b]\ncommand=b\n"),
        ("conf.d/x.txt", "[program:c]\ncommand=c\n"),
    ];
    let conf = read_with(main, &[], &more).unwrap();
    assert_eq!(specs(&conf), ["a", "b"]);
    assert!(conf.plan.specs[0].command.line.ends_with("/conf.d"), "{}", conf.plan.specs[0].command.line);
    assert_eq!(conf.notes.len(), 3, "{:?}", conf.notes);
}

#[test]
fn a_flag_beats_the_file() {
    let text = "[supervisord]\nidentifier=file\nloglevel=warn\n";
    let conf = read_with(text, &["-i", "flag", "-e", "debug", "-n"], &[]).unwrap();
    assert_eq!((conf.main.identifier.as_str(), conf.main.nodaemon), ("flag", true));
    let why = read_with(text, &["-m", "9x", "-e", "chatty"], &[]).unwrap_err();
    assert_eq!(
        why,
        "invalid value for -e 'chatty': bad logging level name 'chatty'\n\
         invalid value for -m '9x': 9x can not be converted to an octal type"
    );
}

#[test]
fn mistakes_are_told_in_supervisords_words() {
    let in_a = " in section 'program:a' (file: 'HERE/s.conf')";
    for (option, why) in [
        ("startsecs=soon", "invalid literal for int() with base 10: 'soon'"),
        ("autorestart=sometimes", "invalid 'autorestart' value 'sometimes'"),
        ("stopsignal=SIGFOO", "value 'SIGFOO' is not a valid signal name"),
        ("user=nobody-here", "Invalid user name nobody-here"),
        ("user=9999", "Invalid user id 9999"),
        ("stdout_logfile=/no/such/x.log", "The directory named as part of the path /no/such/x.log does not exist"),
        ("environment=A=\"1\",NOVALUE", "Unexpected end of key/value pairs in value 'A=\"1\",NOVALUE'"),
        ("numprocs=2", "%(process_num) must be present within process_name when numprocs > 1"),
        ("stopasgroup=true\nkillasgroup=false", "Cannot set stopasgroup=true and killasgroup=false"),
    ] {
        assert_eq!(error(&format!("[program:a]\ncommand=x\n{option}\n")), format!("{why}{in_a}"), "{option}");
    }
    assert_eq!(
        error("[program:a]\nautostart=no\n"),
        format!("program section program:a does not specify a command{in_a}")
    );
    assert_eq!(
        error("[group:g]\nprograms=a,ghost\n[program:a]\ncommand=x\n"),
        "[group:g] names unknown program or fcgi-program ghost"
    );
    assert_eq!(error("[eventlistener:e]\ncommand=x\n"), "[eventlistener:e] section requires an \"events\" line");
    assert_eq!(
        error("[eventlistener:e]\ncommand=x\nevents=TICK_5,FOO\n"),
        "Unknown event type FOO in [eventlistener:e] events"
    );
    assert_eq!(error("[inet_http_server]\nusername=a\npassword=b\n"), "section [inet_http_server] has no port value");
    assert_eq!(error("[unix_http_server]\nfile=/s\nchmod=0799\n"), "Invalid chmod value 0799");
    assert_eq!(error("loglevel=chatty\n"), "bad logging level name 'chatty'");
    assert_eq!(
        read_with("[program:a]\ncommand=x\n", &[], &[]).unwrap_err(),
        ".ini file does not include supervisord section"
    );
    assert_eq!(
        error("[fcgi-program:f]\ncommand=x\nsocket=/x\n"),
        "Bad socket format /x in [fcgi-program:f] socket in section 'fcgi-program:f' (file: 'HERE/s.conf')"
    );
}

#[test]
fn all_mistakes_are_told_at_once_and_secrets_are_not() {
    let why = error("[program:a]\ncommand=%(ENV_GREETIN)s\nstartsecs=x\n[program:b]\n");
    assert_eq!(why.lines().count(), 3, "{why}");
    assert!(why.contains("did you mean 'ENV_GREETING'?") && !why.contains("hello"), "{why}");
}

#[test]
fn what_nobody_knows_is_a_warning() {
    let conf = read("comand=1\n[program:a]\ncommand=x\nautostrat=1\n[pogram:b]\ncommand=x\n[program:c]\ncommand=x\n");
    let told: Vec<String> = conf.warnings.iter().map(|w| format!("{} {:?}", w.message, w.hint)).collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told.iter().any(|t| t.contains("did you mean \\\"autostart\\\"?")), "{told:?}");
    assert!(told.iter().any(|t| t.contains("did you mean \\\"[program:...]\\\"?")), "{told:?}");
}

#[test]
fn hobs_own_keys_work_in_a_program_too() {
    let main = "[supervisord]\n[program:db]\ncommand=x\n[program:web]\ncommand=x %(ENV_SECRET)s\nafter=db\n\
        restart_delay=250ms\nrestart_delay_max=5s\nnice=5\nnofile=4096\nenvironment_file=%(here)s/web.env\n\
        environment=B=\"own\"\n";
    let conf = read_with(main, &[], &[("web.env", "# a\nexport SECRET=\"s 1\"\nB=filed\n\n")]).unwrap();
    let web = conf.plan.specs.iter().find(|spec| spec.name.process == "web").unwrap();
    assert_eq!(web.after.iter().map(ToString::to_string).collect::<Vec<_>>(), ["db"]);
    assert_eq!((web.restart.delay.as_millis(), web.restart.delay_max.as_secs()), (250, 5));
    assert_eq!((web.limits.nice, web.limits.nofile), (Some(5), Some(4096)));
    assert_eq!((web.command.line.as_str(), web.env["B"].as_str()), ("x s 1", "own"));
    assert!(conf.warnings.is_empty(), "{:?}", conf.warnings);
    let wrong = error("[program:a]\ncommand=x\nafter=nobody\nnice=40\nenvironment_file=/no/such\n");
    assert!(wrong.contains("[program:a] after names unknown program nobody"), "{wrong}");
    assert!(
        wrong.contains("nice \"40\" is not between -20 and 19") && wrong.contains("cannot read /no/such"),
        "{wrong}"
    );
    let optional = read("[program:a]\ncommand=x\nenvironment_file=-/no/such\n");
    assert_eq!(optional.plan.specs.len(), 1);
}

#[test]
fn probes_are_asked_for_with_one_key_for_each_option() {
    let spec = &read(
        "exit_when=any-fatal\n[program:p]\ncommand=x\nnumprocs=2\nprocess_name=p%(process_num)d\n\
         ready_http=http://127.0.0.1:80%(process_num)02d/\nready_within=5s\nhealth_tcp=$HEALTH\nhealth_failures=2\n\
         environment=HEALTH=\"81%(process_num)02d\"\nmemory_limit=64MB\noneshot=true\nstartretries=-1\n\
         timestamps=true\nlog_prefix=on\nlog_format=json\nlog_compress=gzip\nconsole=true\nlogfile_max_total=1GB\n",
    );
    assert_eq!(spec.plan.exit_when, ExitWhen::AnyFatal);
    let spec = &spec.plan.specs[1];
    let ready = spec.ready.as_ref().unwrap();
    let http = Probe { ask: Ask::Http("http://127.0.0.1:8001/".into()), timeout: Duration::from_secs(5) };
    assert_eq!((&ready.by, ready.within.as_secs()), (&ReadyBy::Probe(http), 5));
    let health = spec.health.as_ref().unwrap();
    assert_eq!((&health.probe.ask, health.failures), (&Ask::Tcp("127.0.0.1:8101".into()), 2));
    assert_eq!((spec.memory_limit, spec.restart.oneshot, spec.restart.startretries), (Some(64 << 20), true, None));
    let log = &spec.log;
    assert_eq!((log.timestamps, log.prefix, log.json, log.console), (true, true, true, true));
    assert_eq!((log.compress, log.max_total), (Compress::Gzip, 1 << 30));
    assert_eq!(log.stderr.as_ref().unwrap().compress, Compress::Gzip);
    assert_eq!(one("memory_limit=0\n").memory_limit, None);
    assert_eq!(one("ready_notify=true\n").ready.unwrap().by, ReadyBy::Notify);
    assert_eq!(one("health_every=5s\nhealth_exec=true\n").health.unwrap().probe.ask, Ask::Exec("true".into()));
}

#[test]
fn a_bad_key_of_hobs_own_is_told_with_its_section() {
    for (line, wrong) in [
        ("ready_within=5s", "ready_within needs one of ready_http, ready_tcp, ready_exec, ready_notify, and only one"),
        ("health_tcp=1\nhealth_exec=x", "health_exec needs one of health_http, health_tcp, health_exec, and only one"),
        ("ready_http=https://x/", "cannot ask \"https://x/\": hob asks in plain http; use exec with curl for https"),
        ("ready_tcp=$NOPE:1", "cannot ask \"$NOPE:1\": there is no variable \"NOPE\""),
        ("log_format=xml", "log_format \"xml\" is not one of text, json"),
        ("memory_limit=lots", "memory_limit \"lots\" is not a number of bytes; write 1000, 64KB, 50MB or 2GB"),
        ("restart_delay=%(nope)s", "contains names ('nope') which cannot be expanded"),
    ] {
        let told = error(&format!("[program:a]\ncommand=x\n{line}\n"));
        assert!(told.contains(wrong) && told.contains(" in section 'program:a' (file: 'HERE/s.conf')"), "{told}");
    }
    assert!(error("exit_when=later\n").contains("exit_when \"later\" is not one of never, any-fatal, all-exited"));
    let near = read("[program:a]\ncommand=x\nready_htp=http://x/\n").warnings.remove(0).to_string();
    assert!(near.contains("did you mean \"ready_http\"?"), "{near}");
}

#[test]
fn a_program_gets_the_login_variables_of_its_user_where_that_is_asked_for() {
    let login = "[program:a]\ncommand=x\nuser=web\nenvironment=USER=\"me\"\n";
    let env = |text: &str| read(text).plan.specs.remove(0).env;
    assert!(!env(login).contains_key("HOME"), "as supervisord: that of the daemon");
    for text in [format!("{login}login_environment=true\n"), format!("login_environment=true\n{login}")] {
        let env = env(&text);
        assert_eq!((env["HOME"].as_str(), env["LOGNAME"].as_str()), ("/srv/web", "web"));
        assert_eq!((env["SHELL"].as_str(), env["USER"].as_str()), ("/bin/sh", "me"), "its own wins");
    }
}

#[test]
fn the_folder_of_a_log_may_be_made_later_where_that_is_asked_for() {
    let program = "[program:a]\ncommand=x\nstdout_logfile=/no/such/folder/a.log\n";
    assert!(error(program).contains("does not exist"));
    let spec = read(&format!("create_log_dirs=true\n{program}")).plan.specs.remove(0);
    assert_eq!(spec.log.path.to_str(), Some("/no/such/folder/a.log"));
}

#[test]
fn the_sample_holds_every_key_of_hobs_own_and_none_that_nobody_knows() {
    let sample = super::SAMPLE_SUPERVISORD_CONF;
    let main = sample.split("[rpcinterface").next().unwrap();
    let program = sample.split("[program:").nth(1).unwrap().split("[eventlistener").next().unwrap();
    let has = |text: &str, key: &str| text.lines().any(|line| line.starts_with(&format!(";{key}=")));
    for key in super::own_keys::MAIN_KEYS {
        assert!(has(main, key), "{key} is not in conf/supervisord.conf");
    }
    // Of the questions one is shown, and the others are named.
    for key in super::own_keys::keys().filter(|key| !key.ends_with("_timeout")) {
        assert!(
            has(program, key) || program.contains(&format!("also {key}")) || program.contains(&format!(", {key}")),
            "{key}"
        );
    }
    let open: String = program
        .lines()
        .skip_while(|line| !line.starts_with("; Of hob's own"))
        .filter_map(|line| line.strip_prefix(';').filter(|line| !line.starts_with([' ', '[']) && line.contains('=')))
        .filter(|line| !line.starts_with("after=") && !line.starts_with("environment_file="))
        .map(|line| format!("{line}\n"))
        .collect();
    let conf = read(&format!("[program:theprogramname]\ncommand=x\n{open}"));
    assert!(conf.warnings.is_empty() && open.lines().count() > 20, "{:?}\n{open}", conf.warnings);
}

#[test]
fn patterns_fit_as_the_shell_s_do() {
    for (pattern, name, does) in [
        ("*.conf", "a.conf", true),
        ("*.conf", "a.confx", false),
        ("o??.ini", "one.ini", true),
        ("[a-c]x", "bx", true),
        ("[!a-c]x", "bx", false),
        ("*a*b*", "xxaxxbxx", true),
        ("a*", "", false),
        ("[", "[", true),
        ("**", "", true),
    ] {
        assert_eq!(fits(pattern, name), does, "{pattern} {name}");
    }
    assert!(!fits(&"*a".repeat(50), &"a".repeat(49)));
}
