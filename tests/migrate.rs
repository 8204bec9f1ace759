//! hob migrate: what it makes of a supervisord.conf passes the check, and runs as the file does under the real program.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::supervisord::python_clients;
use crate::support::*;

/// A configuration as Debian lays it out: a main file, and one for each application in conf.d. `{dir}` is filled in.
const MAIN: &str = "; supervisor config file
[unix_http_server]
file={dir}/sv.sock
chmod=0700
[supervisord]
logfile={dir}/log/supervisord.log
pidfile={dir}/sv.pid
childlogdir={dir}/log
environment=GLOBAL=\"a b\",WHO=\"everybody\"
minfds=2048
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{dir}/sv.sock
[include]
files = {dir}/conf.d/*.conf
";

const WEB: &str = "[program:nginx]
command={prop} stamp {dir}/nginx.out \"it's 50%% $HOME ~ *\"
user=nobody
directory={dir}/log
priority=20
autorestart=true
redirect_stderr=true
stdout_logfile={dir}/log/nginx-access.log
stdout_logfile_maxbytes=1MB
stopsignal=QUIT
environment=WHO=\"nginx\",QUOTED=\"say 'hi', 100%%\",EMPTY=\"\"
[program:php-fpm]
command={prop} stamp %(here)s/php.out %(program_name)s-%(group_name)s
priority=10
umask=077
startsecs=0
[group:web]
programs=nginx,php-fpm
priority=5
";

const QUEUE: &str = "[program:laravel-worker]
process_name=%(program_name)s_%(process_num)02d
command={prop} stamp {dir}/queue.out worker%(process_num)d
numprocs=3
numprocs_start=1
autostart=true
autorestart=true
stopwaitsecs=3600
stopasgroup=true
killasgroup=true
environment=NUMBER=\"%(process_num)d\"
[program:cron]
command=sleep 1000
autorestart=false
startretries=0
exitcodes=0,2
nodaemon=1
[program:later]
command=sleep 1001
autostart=false
stdout_logfile=NONE
stderr_logfile=NONE
";

/// What a daemon finds when it starts.
// Without LANG Python would set LC_CTYPE for itself and its children (PEP 538).
const OUTSIDE: [(&str, &str); 4] =
    [("LANG", "C.UTF-8"), ("HOME", "/root"), ("PATH", "/usr/bin:/bin"), ("KEPT", "from outside")];

fn debian() -> Home {
    let home = Home::bare();
    fs::create_dir(home.beside("conf.d")).expect("a fresh folder");
    for (name, text) in [("supervisord.conf", MAIN), ("conf.d/web.conf", WEB), ("conf.d/queue.conf", QUEUE)] {
        fs::write(home.beside(name), home.fill(text)).expect("written");
    }
    sh_ok(&format!("chmod 777 {0} {0}/log {0}/conf.d", home.marker()));
    home
}

fn conf(home: &Home) -> String {
    home.beside("supervisord.conf").display().to_string()
}

#[track_caller]
fn migrated(text: &str) -> (Home, Ran) {
    let home = Home::bare();
    fs::write(home.beside("supervisord.conf"), home.fill(text)).expect("written");
    let ran = run(&mut home.command(&["migrate", &conf(&home)]));
    (home, ran)
}

/// What runs, by its last word, and how it looks from outside.
#[derive(Debug, PartialEq)]
struct Seen {
    words: String,
    uid: String,
    groups: String,
    umask: String,
    directory: String,
    nofile: String,
    env: BTreeMap<String, String>,
}

fn seen(pid: i32) -> Seen {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let nofile = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    let status = |key| proc_status(pid, key).expect("it runs");
    Seen {
        words: cmdline(pid),
        uid: status("Uid"),
        groups: status("Groups"),
        umask: status("Umask"),
        directory: fs::read_link(format!("/proc/{pid}/cwd")).expect("it runs").display().to_string(),
        nofile: nofile.split_whitespace().nth(3).expect("the soft limit").to_owned(),
        env: environ(pid).iter().filter_map(|p| p.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        if wait_child(&mut self.0, PATIENCE).is_none() {
            let _ = self.0.kill();
        }
    }
}

/// The pids of all children, by their command lines.
fn children(home: &Home, parent: i32, least: usize) -> BTreeMap<String, i32> {
    let end = std::time::Instant::now() + PATIENCE / 2;
    let said = || ["sv.out", "err"].map(|name| fs::read_to_string(home.beside(name)).unwrap_or_default()).concat();
    wait_for("all programs run", || {
        let all: BTreeMap<String, i32> = children_of(parent)
            .into_iter()
            .filter(|child| child.1 != 'Z')
            .map(|(pid, _)| (cmdline(pid), pid))
            .filter(|(words, _)| words.contains(" stamp ") || words.starts_with("sleep "))
            .collect();
        assert!(std::time::Instant::now() < end || all.len() >= least, "{all:?}\n{}", said());
        (all.len() >= least).then_some(all)
    })
}

#[test]
fn a_real_configuration_runs_as_it_did_under_the_real_supervisord() {
    if !need("root") {
        return;
    }
    let Some(venv) = python_clients() else { return };
    let home = debian();
    let out = home.beside("migrated");
    let migrate = || {
        let mut command = home.command(&["migrate", &conf(&home), "-o", &out.display().to_string()]);
        run(command.env("HOME", "/root"))
    };
    let ran = migrate().expect(0);
    assert!(ran.out.contains("migrated/dotcloud.yml\n") && ran.out.contains("migrated/hob.toml\n"), "{}", ran.out);
    assert!(ran.err.contains("nodaemon is nobody's key"), "{}", ran.err);
    migrate().expect(1).says("it is there already");
    let mode = fs::metadata(out.join("hob.toml")).expect("written").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "a password may be in it");
    let file = |name: &str| out.join(name).display().to_string();
    run(&mut home.command(&["check", &file("dotcloud.yml"), &file("hob.toml")])).expect(0);

    let log = fs::File::create(home.beside("sv.out")).expect("a fresh file");
    let mut supervisord = Command::new(venv.join("bin/supervisord"));
    supervisord.args(["-n", "-c", &conf(&home)]).current_dir("/").env_clear().envs(OUTSIDE);
    supervisord.stdin(Stdio::null()).stdout(log.try_clone().expect("one more")).stderr(log);
    let theirs = Killed(supervisord.spawn().expect("supervisord starts"));
    let before: Vec<Seen> = children(&home, theirs.0.id() as i32, 6).values().map(|pid| seen(*pid)).collect();
    drop(theirs);

    let mut boot = Command::new(hob_bin());
    home.dress(boot.env_clear());
    boot.args(["boot", "--home", &out.display().to_string()]).env("HOB_CONFIG", out.join("hob.toml")).envs(OUTSIDE);
    let err = fs::File::create(home.beside("err")).expect("a fresh file");
    let ours = Killed(boot.stdin(Stdio::null()).stdout(Stdio::null()).stderr(err).spawn().expect("hob starts"));
    let after: Vec<Seen> = children(&home, ours.0.id() as i32, 6).values().map(|pid| seen(*pid)).collect();
    let status = run(&mut home.command(&["status", "--json"]));
    drop(ours);

    assert_eq!(after.len(), before.len(), "{after:?}");
    for (new, old) in after.iter().zip(&before) {
        let outside = |seen: &Seen| {
            let Seen { words, uid, groups, umask, directory, nofile, .. } = seen;
            // root has its own group anyway.
            let groups = if groups == "0" { "" } else { groups };
            [words, uid, groups, umask, directory, nofile].map(str::to_owned)
        };
        assert_eq!(outside(new), outside(old));
        // The same variables, but for what supervisord adds, and what hob gives each user.
        let given = |key: &str| ["USER", "LOGNAME", "SHELL"].contains(&key);
        for (key, value) in old.env.iter().filter(|(key, _)| !key.starts_with("SUPERVISOR_") && !given(key)) {
            assert_eq!(new.env.get(key), Some(value), "{key} of {}", new.words);
        }
        let known = ["SERVICE_", "DOTCLOUD_", "HOB_RUN", "HOSTNAME", "NO_COLOR"];
        for key in new.env.keys().filter(|key| !old.env.contains_key(*key) && !given(key)) {
            assert!(known.iter().any(|known| key.starts_with(known)), "{key} of {} is new", new.words);
        }
    }
    let names: Vec<String> =
        list_of(status.json(), "processes").iter().map(|p| Proc(p.clone()).name().to_owned()).collect();
    let expected = [
        "main:php-fpm",
        "main:nginx",
        "main:cron",
        "main:laravel-worker_01",
        "main:laravel-worker_02",
        "main:laravel-worker_03",
        "main:later",
    ];
    let (mut sorted, mut wanted) = (names.clone(), expected.to_vec());
    sorted.sort();
    wanted.sort_unstable();
    assert_eq!(sorted, wanted);
}

#[test]
fn defaults_that_differ_are_written_out_and_each_loss_is_told() {
    let home = debian();
    // Where a daemon begins with fewer files than minfds.
    let mut migrate = Command::new("sh");
    migrate.args(["-c", "ulimit -Sn 1024; exec \"$0\" migrate \"$1\"", hob_bin(), &conf(&home)]);
    home.dress(&mut migrate);
    let ran = run(&mut migrate).expect(0);
    let text = &ran.out;
    for line in [
        "    nginx:",
        "      user: nobody",
        "      autorestart: true",
        "      startretries: 3",
        "      stopsignal: QUIT",
        "      nofile: 2048  # minfds",
        "      logfile_maxbytes: 1MB",
        "      exitcodes: [0, 2]",
        "      startretries: 0",
        "      autostart: false",
        "      umask: '077'",
        "      split_stderr: true",
        "      stopwaitsecs: 3600",
        "    laravel-worker_01: &laravel-worker_01",
        "      <<: *laravel-worker_01",
        "        WHO: nginx",
        "        QUOTED: say 'hi', 100%",
        "    GLOBAL: a b",
        "user = \"root\"",
    ] {
        assert!(text.lines().any(|l| l == line), "{line:?} is not in\n{text}");
    }
    // php-fpm starts first in its group, and the group before the others.
    let priority = |name: &str| {
        let at = text.find(&format!("    {name}:")).unwrap_or_else(|| panic!("no {name} in {text}"));
        let line = text[at..].lines().find(|line| line.trim_start().starts_with("priority:"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<i32>().ok())
    };
    assert!(priority("php-fpm") < priority("nginx") && priority("nginx") < priority("cron"), "{text}");
    for told in [
        "nginx-access.log is nginx.log now",
        "web: nginx php-fpm",
        "whole process group",
        "1, 2, 4 seconds",
        "nodaemon=false",
        "directory is / where the file says none",
    ] {
        assert!(text.contains(told), "{told}\n{text}");
    }
    assert!(ran.err.contains("later: stdout_logfile=NONE"), "{}", ran.err);
}

#[test]
fn what_has_no_equivalent_is_told_and_left_out() {
    let (_, ran) = migrated(
        "[supervisord]
[inet_http_server]
port=9001
[program:web]
command=sleep 1
stdout_syslog=true
stdout_capture_maxbytes=1KB
serverurl=http://x:1
[program:broken]
command=sh -c \"never closed
[fcgi-program:php]
command=php-cgi
socket=tcp://127.0.0.1:9002
[eventlistener:memmon]
command=memmon -p web=200MB
events=TICK_60
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[foo:bar]
x=1
",
    );
    let ran = ran.expect(0);
    for told in [
        "[inet_http_server] is left out: hob does not listen without a password",
        "web: syslog",
        "web: capture_maxbytes",
        "web: serverurl=http://x:1",
        "broken is left out: its command cannot be parsed",
        "[fcgi-program:php] is left out",
        "[eventlistener:memmon] (TICK_60) is left out",
        "section [foo:bar] is nobody's",
    ] {
        assert!(ran.err.contains(told), "{told}: {}", ran.err);
        let words: Vec<&str> = told.split(": ").last().unwrap_or(told).split_whitespace().collect();
        let in_file = ran.out.split_whitespace().filter(|word| *word != "#").collect::<Vec<_>>().join(" ");
        assert!(told.contains("foo:bar") || in_file.contains(&words.join(" ")), "{told}: {}", ran.out);
    }
    assert!(
        !ran.out.contains("php-cgi") && !ran.out.contains("    memmon:") && !ran.out.contains("broken:"),
        "{}",
        ran.out
    );
    let (_, ran) = migrated(
        "[supervisord]\nuser=nobody\nloglevel=debug\n[inet_http_server]\nport=*:9001\nusername=u\npassword={SHA}82ab876d1387bfafe46cc1c8a2ef074eae50cb1d\n[unix_http_server]\nfile=/x\nchmod=0770\nchown=root:mail\n[program:a]\ncommand=sleep 1\n",
    );
    let ran = ran.expect(0);
    for line in [
        "listen = \"*:9001\"",
        "listen_user = \"u\"",
        "listen_password = \"{SHA}82ab876d1387bfafe46cc1c8a2ef074eae50cb1d\"",
        "log_level = \"debug\"",
        "user = \"nobody\"",
        "socket_mode = \"0770\"",
        "socket_group = \"8\"",
    ] {
        assert!(ran.out.lines().any(|l| l == line), "{line}\n{}", ran.out);
    }
}

#[test]
fn errors_are_those_of_the_check() {
    for text in [
        "[program:a]\ncommand=x\n",
        "[supervisord]\n[program:a]\ncommand=x\nstartsecs=soon\nstopsignal=TREM\n[program:b]\n",
        "[supervisord]\n[program:a]\ncommand=%(nothing)s\n[group:g]\nprograms=zz\n",
        "not an ini\n",
    ] {
        let (home, ran) = migrated(text);
        let check = run(&mut home.command(&["check", &conf(&home)])).expect(2);
        assert_eq!((ran.code, &ran.err, ran.out.as_str()), (2, &check.err, ""), "{text}");
    }
    let (home, ran) = migrated("[supervisord]\n");
    ran.expect(2).says("no program in it");
    run(&mut home.command(&["migrate", "/no/such.conf"])).expect(2).says("could not find config file /no/such.conf");
}

#[test]
fn whatever_a_program_says_the_result_passes_the_check() {
    // A fixed seed: the same files every time.
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |most: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 20) as usize % most
    };
    let values: &[(&str, &[&str])] = &[
        (
            "command",
            &[
                "sleep 1",
                "echo hi",
                "/bin/sh -c 'a; b' \"$X\"",
                "a=b c",
                "[ x ]",
                "true",
                "x \\; y",
                "'a b' #c",
                "if x",
                "~/run *",
            ],
        ),
        ("process_name", &["%(program_name)s", "all", "a.b_c", "-x"]),
        ("priority", &["1", "999", "-5", "10"]),
        ("autorestart", &["true", "false", "unexpected"]),
        ("startsecs", &["0", "1", "30"]),
        ("startretries", &["0", "3", "1000000000", "-1"]),
        ("exitcodes", &["0", "0,2", "255"]),
        ("stopsignal", &["TERM", "USR2", "KILL", "WINCH"]),
        ("stopwaitsecs", &["0", "10", "3600"]),
        ("stopasgroup", &["true", "false"]),
        ("directory", &["/tmp", "/$x/50%%", "relative"]),
        ("umask", &["022", "0", "777"]),
        ("environment", &["A=\"b\"", "A=\"yes\",B=\"1e3\",C=\"x: y#z\"", "PATH=\"/x:%(ENV_PATH)s\"", "HOME=\"/h\""]),
        ("redirect_stderr", &["true", "false"]),
        ("stdout_logfile", &["NONE", "AUTO", "/dev/stdout", "{dir}/log/x.log", "syslog"]),
        ("stderr_logfile", &["NONE", "AUTO", "/dev/stderr", "{dir}/log/y.log"]),
        ("stdout_logfile_maxbytes", &["0", "1KB", "50MB", "12345"]),
        ("stdout_logfile_backups", &["0", "99"]),
        ("restart_delay", &["250ms", "2s", "90s"]),
        ("ready_tcp", &["127.0.0.1:80", "80"]),
        ("health_http", &["http://127.0.0.1:1/$$x"]),
        ("memory_limit", &["100MB", "1234567"]),
        ("log_format", &["json", "text"]),
        ("log_compress", &["gzip", "zstd"]),
        ("oneshot", &["true", "false"]),
        ("drain", &["1s", "1500ms"]),
        ("nice", &["-5", "19"]),
        ("oom_score_adj", &["-1000", "5"]),
        ("pidfile", &["/run/x.pid"]),
        ("on_full", &["block", "drop_oldest"]),
        ("logfile_max_age", &["7d"]),
    ];
    for _ in 0..60 {
        let mut text = String::from("[supervisord]\n");
        for program in ["a", "web-1", "Über", "x.y"] {
            text += &format!("[program:{program}]\ncommand=sleep 1\n");
            for (key, choices) in values {
                if next(3) == 0 {
                    text += &format!("{key}={}\n", choices[next(choices.len())]);
                }
            }
        }
        text += "[program:many]\ncommand=sleep 1%(process_num)d\nprocess_name=%(program_name)s:%(process_num)d\nnumprocs=2\n".replace("s:%", "s_%").as_str();
        let (home, ran) = migrated(&text);
        assert_eq!(ran.code, 0, "{text}\n{}", ran.err);
        let out = home.beside("out");
        run(&mut home.command(&["migrate", &conf(&home), "-o", &out.display().to_string()])).expect(0);
        let file = |name: &str| out.join(name).display().to_string();
        let check = run(&mut home.command(&["check", &file("dotcloud.yml"), &file("hob.toml")]));
        assert_eq!(check.code, 0, "{}\n{text}\n{}", check.both(), ran.out);
        assert!(Path::new(&file("dotcloud.yml")).exists());
    }
}
