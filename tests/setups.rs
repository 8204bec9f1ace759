//! Real set-ups, as people run them under supervisord, with the real programs: unchanged, and as good as before.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::supervisord::*;
use crate::support::*;

/// A file below the folder of a supervisord that is to start.
fn put(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().expect("below")).expect("new");
    fs::write(&path, text).expect("written");
    path
}

/// A shell of its own mount namespace, in which something runs in the foreground.
struct Apart {
    child: Child,
}

impl Apart {
    fn start(script: &str) -> Apart {
        let child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-ec", script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("unshare starts");
        Apart { child }
    }

    fn inside(&self, line: &str) -> Ran {
        let pid = self.child.id().to_string();
        run(Command::new("nsenter").args(["--target", &pid, "--mount", "sh", "-c", line]))
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = wait_child(&mut self.child, Duration::from_secs(15));
        let _ = self.child.kill();
    }
}

#[test]
fn debian_s_own_configuration_with_conf_d_runs_as_it_is() {
    // The configuration is that of the package, as it is on this machine.
    if !need_all(&["root", "supervisorctl", "unshare"]) || !Path::new("/etc/supervisor/supervisord.conf").exists() {
        return;
    }
    let (dir, links) = (tempfile::tempdir().expect("a folder"), links());
    let (here, bin) = (dir.path().display(), links.path().display());
    for folder in ["conf.d", "log", "run"] {
        fs::create_dir(dir.path().join(folder)).expect("new");
    }
    put(dir.path(), "conf.d/hello.conf", "[program:hello]\ncommand=/bin/sh -c \"echo hello; exec sleep 1000\"\n");
    let apart = Apart::start(&format!(
        "mount --bind {here}/conf.d /etc/supervisor/conf.d; mount --bind {here}/log /var/log/supervisor; \
         mount --bind {here}/run /run; cd /; exec {bin}/supervisord -n"
    ));
    let ctl = |args: &str| apart.inside(&format!("cd /; {bin}/supervisorctl {args}")).out;
    wait_for("hello", || ctl("status").contains("hello                            RUNNING   pid ").then_some(()));
    assert!(
        fs::read_to_string(dir.path().join("log/supervisord.log"))
            .expect("there")
            .contains("success: hello entered RUNNING")
    );
    let logs = || sh_ok(&format!("cat {here}/log/hello-stdout---supervisor-*.log"));
    wait_for("its output", || (logs() == "hello\n").then_some(()));
    // As a package or an administrator adds one.
    put(dir.path(), "conf.d/more.conf", "[program:more]\ncommand=sleep 1000\n[group:g]\nprograms=more\n");
    assert_eq!(ctl("reread"), "g: available\n");
    assert_eq!(ctl("update"), "g: added process group\n");
    wait_for("more", || ctl("status g:*").contains("RUNNING").then_some(()));
    // Debian's own supervisorctl, which is Python's, speaks with it too.
    let theirs = which("supervisorctl").expect("looked for");
    assert!(
        apart
            .inside(&format!("{} -c /etc/supervisor/supervisord.conf status hello", theirs.display()))
            .out
            .contains("RUNNING")
    );
    assert_eq!(
        fs::read_to_string(dir.path().join("run/supervisord.pid")).expect("there").trim(),
        apart.child.id().to_string()
    );
    assert_eq!(ctl("shutdown"), "Shut down\n");
}

/// Debian's php-fpm has its version in its name.
fn php_fpm() -> Option<String> {
    let found = fs::read_dir("/usr/sbin").into_iter().flatten().flatten();
    let mut names: Vec<String> = found.map(|entry| entry.path().display().to_string()).collect();
    names.retain(|name| name.starts_with("/usr/sbin/php-fpm"));
    names.sort();
    names.pop().or_else(|| {
        let _ = need("php-fpm");
        None
    })
}

#[test]
fn php_fpm_and_nginx_in_one_container_s_configuration() {
    let Some(fpm) = php_fpm().filter(|_| need_all(&["nginx", "curl", "root"])) else { return };
    let (site, port) = (tempfile::tempdir().expect("a folder"), free_port());
    let here = site.path().display().to_string();
    fs::set_permissions(site.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    put(site.path(), "www/index.php", "<?php error_log('asked for'); echo 'six times seven is ', 6 * 7, \"\\n\";");
    put(
        site.path(),
        "fpm.conf",
        &format!(
            "[global]\nerror_log=/proc/self/fd/2\ndaemonize=no\n[www]\nuser=nobody\ngroup=nogroup\n\
             listen={here}/fpm.sock\nlisten.mode=0666\npm=static\npm.max_children=2\ncatch_workers_output=yes\n"
        ),
    );
    put(
        site.path(),
        "nginx.conf",
        &format!(
            "user nobody nogroup;\npid {here}/nginx.pid;\nerror_log /dev/stderr;\nevents {{}}\nhttp {{ access_log /dev/stdout;\n\
             server {{ listen 127.0.0.1:{port}; root {here}/www; location / {{ fastcgi_pass unix:{here}/fpm.sock;\n\
             fastcgi_param SCRIPT_FILENAME $document_root/index.php; fastcgi_param REQUEST_METHOD $request_method; }} }} }}\n"
        ),
    );
    // As found in a hundred Dockerfiles.
    let daemon = Supervisord::start(&format!(
        "[program:php-fpm]\ncommand={fpm} --nodaemonize --fpm-config {here}/fpm.conf\nautostart=true\nautorestart=true\n\
         priority=5\nstdout_logfile=%(here)s/fpm.out\nstdout_logfile_maxbytes=0\nstderr_logfile=%(here)s/fpm.err\n\
         stderr_logfile_maxbytes=0\n\
         [program:nginx]\ncommand=/usr/sbin/nginx -c {here}/nginx.conf -g \"daemon off;\"\nautostart=true\nautorestart=true\n\
         priority=10\nstdout_logfile=%(here)s/nginx.out\nstdout_logfile_maxbytes=0\nstderr_logfile=%(here)s/nginx.err\n"
    ));
    let page = || run(Command::new("curl").args(["-s", &format!("http://127.0.0.1:{port}/")])).out;
    wait_for("the page", || (page() == "six times seven is 42\n").then_some(()));
    // Both write to their own output by its path, which root's child may open and the workers' too.
    wait_for("nginx's line", || daemon.file("nginx.out").contains("GET / HTTP/1.1\" 200").then_some(()));
    wait_for("a worker's line", || daemon.file("fpm.err").contains("asked for").then_some(()));
    // Its workers would hold the socket if it were killed, and no other one would start, whoever supervises it.
    let before = daemon.pid("php-fpm");
    sh_ok(&format!("kill -TERM {before}"));
    wait_for("another master", || {
        (daemon.pid("php-fpm") != before && daemon.state("php-fpm") == "RUNNING").then_some(())
    });
    wait_for("the page again", || (page() == "six times seven is 42\n").then_some(()));
    assert_eq!(daemon.ctl(&["signal", "HUP", "nginx"]), "nginx: signalled\n");
    assert_eq!(daemon.ctl(&["restart", "all"]).lines().count(), 4);
    wait_for("the page once more", || (page() == "six times seven is 42\n").then_some(()));
    assert_eq!(daemon.ctl(&["stop", "all"]).lines().count(), 2);
    assert!(!accepts(port), "nothing listens any more");
}

/// Takes jobs from a folder, as `artisan queue:work` takes them from a database, and ends its job before it ends.
const ARTISAN: &str = r#"<?php
pcntl_async_signals(true);
$quit = false;
pcntl_signal(SIGTERM, function () use (&$quit) { $quit = true; });
echo "worker ", getmypid(), " of ", $argv[1], "\n";
while (!$quit) {
    $jobs = glob(__DIR__ . '/jobs/*');
    foreach ($jobs as $job) {
        $mine = __DIR__ . '/taken/' . basename($job);
        if (!@rename($job, $mine)) continue;
        usleep(100000);
        file_put_contents(__DIR__ . '/done', basename($job) . ' ' . getenv('QUEUE') . "\n", FILE_APPEND | LOCK_EX);
        echo 'Processed: ', basename($job), "\n";
        if ($quit) break;
    }
    usleep(20000);
}
echo "quit after its job\n";
"#;

#[test]
fn laravel_s_queue_workers_share_their_jobs_and_finish_them() {
    if !need("php") {
        return;
    }
    let app = tempfile::tempdir().expect("a folder");
    let here = app.path().display();
    put(app.path(), "artisan", ARTISAN);
    for folder in ["jobs", "taken"] {
        fs::create_dir(app.path().join(folder)).expect("new");
    }
    for n in 0..40 {
        put(app.path(), &format!("jobs/{n:02}"), "");
    }
    // The section of Laravel's own manual.
    let daemon = Supervisord::start(&format!(
        "[program:laravel-worker]\nprocess_name=%(program_name)s_%(process_num)02d\n\
         command=php {here}/artisan queue:work --sleep=3 --tries=3 --max-time=3600\nautostart=true\nautorestart=true\n\
         stopasgroup=true\nkillasgroup=true\nuser=root\nnumprocs=4\nredirect_stderr=true\n\
         stdout_logfile=%(here)s/worker.log\nstdout_logfile_maxbytes=0\nstopwaitsecs=3600\nenvironment=QUEUE=\"default,mail\"\n"
    ));
    wait_for("four workers", || {
        (daemon.ctl(&["status", "laravel-worker:*"]).matches("RUNNING").count() == 4).then_some(())
    });
    assert!(daemon.ctl(&["status"]).starts_with("laravel-worker:laravel-worker_00   RUNNING   pid "));
    // In the middle of their work, as a deployment does it.
    wait_for("some work", || (fs::read_to_string(app.path().join("done")).ok()?.lines().count() > 3).then_some(()));
    let restarted = daemon.ctl(&["restart", "laravel-worker:*"]);
    assert_eq!((restarted.matches(": stopped").count(), restarted.matches(": started").count()), (4, 4), "{restarted}");
    let done = wait_for("all jobs", || {
        let done = fs::read_to_string(app.path().join("done")).ok()?;
        (done.lines().count() >= 40).then_some(done)
    });
    let mut jobs: Vec<&str> = done.lines().collect();
    jobs.sort_unstable();
    jobs.dedup();
    assert_eq!((jobs.len(), done.lines().count()), (40, 40), "each once, and none was cut off");
    assert!(jobs.iter().all(|job| job.ends_with(" default,mail")));
    assert_eq!(daemon.file("worker.log").matches("quit after its job").count(), 4);
}

#[test]
fn celery_with_redis_works_and_stops_warmly() {
    if !need_all(&["redis-server", "python3"]) {
        return;
    }
    let Some(venv) =
        venv("celery-5.4.0-redis-5.2.1", &[&["celery==5.4.0", "kombu==5.4.2", "redis==5.2.1", "packaging==24.1"]])
    else {
        return;
    };
    let (app, port) = (tempfile::tempdir().expect("a folder"), free_port());
    let (here, bin) = (app.path().display().to_string(), venv.join("bin").display().to_string());
    put(
        app.path(),
        "tasks.py",
        &format!(
            "import time\nfrom celery import Celery\nurl = 'redis://127.0.0.1:{port}/0'\n\
             app = Celery('tasks', broker=url, backend=url)\napp.conf.beat_schedule = {{'tick': {{'task': 'tasks.tick', 'schedule': 1.0}}}}\n\
             @app.task\ndef add(x, y):\n    return x + y\n\
             @app.task\ndef slow():\n    open('slow.begun', 'w').close()\n    time.sleep(2)\n    open('slow.done', 'w').close()\n\
             @app.task\ndef tick():\n    open('ticked', 'w').close()\n"
        ),
    );
    // The section of Celery's manual, with the broker and beat beside it.
    let daemon = Supervisord::start(&format!(
        "[program:redis]\ncommand=redis-server --port {port} --bind 127.0.0.1 --save '' --dir {here}\npriority=1\n\
         [program:celery]\ncommand={bin}/celery -A tasks worker --loglevel=INFO --concurrency=2\ndirectory={here}\nnumprocs=1\n\
         stdout_logfile=%(here)s/celery.log\nstderr_logfile=%(here)s/celery.err\nautostart=true\nautorestart=true\n\
         startsecs=1\nstopwaitsecs=600\nstopasgroup=false\nkillasgroup=true\npriority=1000\n\
         [program:celerybeat]\ncommand={bin}/celery -A tasks beat -s {here}/schedule\ndirectory={here}\nautostart=true\n\
         autorestart=true\nstartsecs=1\npriority=999\n\
         [group:app]\nprograms=celery,celerybeat\n"
    ));
    daemon.wait_state("app:celery", "RUNNING");
    let python = |code: &str| {
        run_within(
            Duration::from_secs(60),
            Command::new(venv.join("bin/python")).args(["-c", code]).current_dir(app.path()),
        )
    };
    let sum = python("import tasks; print(tasks.add.delay(40, 2).get(timeout=50))");
    assert_eq!(sum.out.trim(), "42", "{}\n{}", sum.both(), daemon.file("celery.err"));
    wait_for("beat", || app.path().join("ticked").exists().then_some(()));
    python("import tasks; tasks.slow.delay()").expect(0);
    wait_for("the slow task", || app.path().join("slow.begun").exists().then_some(()));
    let stopped = daemon.ctl(&["stop", "app:*"]);
    assert!(stopped.contains("app:celery: stopped") && stopped.contains("app:celerybeat: stopped"), "{stopped}");
    assert!(app.path().join("slow.done").exists(), "a warm shutdown waits for the task");
    assert_eq!(daemon.state("redis"), "RUNNING");
    wait_for("its word", || daemon.file("celery.log").contains("Warm shutdown").then_some(()));
}

#[test]
fn groups_with_includes_and_an_end_of_the_container_as_large_images_have_them() {
    let (conf, links) = (tempfile::tempdir().expect("a folder"), links());
    let here = conf.path().display();
    write_conf(conf.path(), "[include]\nfiles = supervisord.d/*.conf\n");
    let service = |name: &str, extra: &str| {
        format!(
            "[program:{name}]\npriority=10\ndirectory=%(here)s\ncommand=/bin/sh -c \"echo %(program_name)s of %(group_name)s on $GITLAB_HOST; exec sleep 1000\"\n\
             environment=RAILS_ENV=\"production\",HOME=\"{here}\",PATH=\"%(ENV_PATH)s\"\nautostart=true\nautorestart=true\n\
             stopsignal=QUIT\nstdout_logfile={here}/%(program_name)s.log\nredirect_stderr=true\nstartsecs=0\n{extra}"
        )
    };
    // As sameersbn/gitlab's image lays them out: a file for each, and groups over them.
    for (name, extra) in [
        ("puma", ""),
        ("sidekiq", "stopwaitsecs=30\n"),
        ("gitlab-workhorse", ""),
        ("gitaly", ""),
        ("nginx", ""),
        ("cron", ""),
    ] {
        put(conf.path(), &format!("supervisord.d/{name}.conf"), &service(name, extra));
    }
    put(
        conf.path(),
        "supervisord.d/groups.conf",
        "[group:core]\nprograms=gitaly,nginx,cron\npriority=5\n[group:gitlab]\nprograms=puma,sidekiq,gitlab-workhorse\npriority=10\n",
    );
    // The usual recipe for a container that ends with its programs.
    let recipe = "printf \"READY\\n\"; while read line; do kill -3 $PPID; done < /dev/stdin";
    put(
        conf.path(),
        "supervisord.d/exit.conf",
        &format!("[eventlistener:exit_on_any_fatal]\ncommand=bash -c '{recipe}'\nevents=PROCESS_STATE_FATAL\n"),
    );
    put(conf.path(), "supervisord.d/bad.conf", "[program:bad]\ncommand=/bin/false\nautostart=false\nstartretries=0\n");
    let mut child = Command::new(links.path().join("supervisord"))
        .args(["-n", "-c"])
        .arg(conf.path().join("s.conf"))
        .env("GITLAB_HOST", "git.example.com")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("supervisord starts");
    let ctl = |args: &[&str]| {
        run(Command::new(links.path().join("supervisorctl")).arg("-c").arg(conf.path().join("s.conf")).args(args)).out
    };
    wait_for("all six", || (ctl(&["status", "core:*", "gitlab:*"]).matches("RUNNING").count() == 6).then_some(()));
    let text = wait_for("its line", || fs::read_to_string(conf.path().join("puma.log")).ok().filter(|t| !t.is_empty()));
    assert_eq!(text, "puma of gitlab on git.example.com\n");
    let order = ctl(&["stop", "gitlab:*"]);
    assert_eq!(order.lines().count(), 3, "{order}");
    assert_eq!(ctl(&["status", "core:*"]).matches("RUNNING").count(), 3);
    assert_eq!(ctl(&["start", "gitlab:puma"]), "gitlab:puma: started\n");
    ctl(&["start", "bad"]);
    let ended = wait_for("the end", || child.try_wait().expect("our child"));
    let log = fs::read_to_string(conf.path().join("s.log")).expect("there");
    assert!(ended.success() && log.contains("received SIGQUIT indicating exit request"), "{log}");
    let at = |what: &str| log.find(what).unwrap_or_else(|| panic!("{what} is not in {log}"));
    assert!(at("stopped: puma") < at("stopped: nginx"), "the last group first: {log}");
}

/// Takes mail as an SMTP server does, and gives what came.
fn mailbox() -> (u16, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let (tx, rx) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().expect("a socket")).lines();
            let _ = stream.write_all(b"220 here\r\n");
            let mut mail = String::new();
            let mut is_data = false;
            while let Some(Ok(line)) = lines.next() {
                let answer: &[u8] = match (is_data, line.to_ascii_uppercase().as_str()) {
                    (true, ".") => {
                        is_data = false;
                        let _ = tx.send(std::mem::take(&mut mail));
                        b"250 taken\r\n"
                    }
                    (true, _) => {
                        mail.push_str(&line);
                        mail.push('\n');
                        continue;
                    }
                    (false, "DATA") => {
                        is_data = true;
                        b"354 go on\r\n"
                    }
                    (false, "QUIT") => b"221 bye\r\n",
                    (false, _) => b"250 fine\r\n",
                };
                let _ = stream.write_all(answer);
            }
        }
    });
    (port, rx)
}

#[test]
fn superlance_s_other_listeners_work_unchanged() {
    let Some(venv) = python_clients().filter(|_| need_all(&["python3", "ps"])) else { return };
    let bin = venv.join("bin").display().to_string();
    let (smtp, mails) = mailbox();
    let web = free_port();
    let dir = tempfile::tempdir().expect("a folder");
    let here = dir.path().display();
    let listener = |name: &str, command: String, events: &str| {
        format!(
            "[eventlistener:{name}]\ncommand={bin}/{command}\nevents={events}\nbuffer_size=100\nstderr_logfile=%(here)s/{name}.err\n"
        )
    };
    let mail =
        |name: &str| format!("-t dev@example.com -f sv@example.com -s {name} -H 127.0.0.1:{smtp} -e TICK_5 -i 0.05");
    let server = format!(
        "import http.server, socketserver; socketserver.TCPServer.allow_reuse_address = True; \
         http.server.HTTPServer(('127.0.0.1', {web}), http.server.SimpleHTTPRequestHandler).serve_forever()"
    );
    fs::write(dir.path().join("index.html"), "all is well").expect("written");
    let sendmail = put(dir.path(), "sendmail", &format!("#!/bin/sh\ncat >> {here}/mails\n"));
    fs::set_permissions(sendmail, fs::Permissions::from_mode(0o755)).expect("ours");
    let daemon = Supervisord::start(
        &[
            listener("memmon", format!("memmon -p fat=30MB -m dev@example.com -s {here}/sendmail"), "TICK_5"),
            listener("httpok", format!("httpok -p web -t 5 -m dev@example.com -s {here}/sendmail http://127.0.0.1:{web}/index.html"), "TICK_5"),
            listener("fatalmailbatch", format!("fatalmailbatch {}", mail("fatal")), "PROCESS_STATE,TICK_5"),
            listener("crashsms", format!("crashsms {}", mail("crash")), "PROCESS_STATE,TICK_5"),
            format!("[program:fat]\ncommand=python3 -c \"import time; held = b'x' * 60_000_000; time.sleep(1000)\"\nstartsecs=0\n\
                     [program:web]\ncommand=python3 -c \"{server}\"\ndirectory={here}\nstartsecs=1\nstdout_logfile=NONE\nstderr_logfile=NONE\n\
                     [program:hopeless]\ncommand=/bin/false\nstartretries=0\n\
                     [program:crash]\ncommand=/bin/sh -c \"sleep 3; exit 3\"\nstartsecs=1\nautorestart=false\n"),
        ]
        .concat(),
    );
    let (fat, web_pid) = (daemon.pid("fat"), wait_for("web", || Some(daemon.pid("web")).filter(|pid| pid != "0")));
    // What is crashed and what is hopeless come in batches with the ticks.
    let mut seen = String::new();
    while !(seen.contains("Subject: fatal") && seen.contains("Subject: crash")) {
        seen += &mails.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            panic!("no more mail came: {seen}\n{}{}", daemon.file("crashsms.err"), daemon.file("fatalmailbatch.err"))
        });
    }
    assert!(seen.contains("Process hopeless:hopeless failed to start too many times"), "{seen}");
    assert!(seen.contains("crash:crash") && seen.contains("To: dev@example.com"), "{seen}");
    wait_for("memmon to restart it", || (daemon.pid("fat") != fat && daemon.state("fat") == "RUNNING").then_some(()));
    wait_for("its mail", || fs::read_to_string(dir.path().join("mails")).ok().filter(|text| text.contains("fat:fat")));
    assert_eq!(daemon.pid("web"), web_pid, "httpok is content: {}", daemon.file("httpok.err"));
    fs::remove_file(dir.path().join("index.html")).expect("there");
    wait_for("httpok to restart it", || {
        (daemon.pid("web") != web_pid && daemon.state("web") == "RUNNING").then_some(())
    });
    let text = wait_for("its mail", || {
        fs::read_to_string(dir.path().join("mails")).ok().filter(|text| text.contains("Subject: httpok"))
    });
    assert!(text.contains("httpok") && text.contains("web"), "{text}");
    for name in ["memmon", "httpok", "fatalmailbatch", "crashsms"] {
        assert_eq!(daemon.state(name), "RUNNING", "{}", daemon.file(&format!("{name}.err")));
    }
    assert!(!daemon.log().contains("UNKNOWN state"), "{}", daemon.log());
}

#[test]
fn syslog_gets_the_lines_of_programs_and_of_the_daemon() {
    if !need_all(&["root", "unshare", "python3"]) {
        return;
    }
    let (dir, links) = (tempfile::tempdir().expect("a folder"), links());
    let (here, bin) = (dir.path().display(), links.path().display());
    write_conf(
        dir.path(),
        "[program:web]\ncommand=/bin/sh -c \"echo out; echo err >&2; printf open; exec sleep 1000\"\nstdout_syslog=true\nstderr_syslog=true\nstdout_logfile=%(here)s/web.log\n[program:old]\ncommand=/bin/sh -c \"echo spoken; exec sleep 1000\"\nstdout_logfile=syslog\n",
    );
    let conf = fs::read_to_string(dir.path().join("s.conf")).expect("there");
    fs::write(dir.path().join("s.conf"), conf.replacen("s.log", "s.log\n[supervisord]\nlogfile=syslog", 1))
        .expect("written");
    put(
        dir.path(),
        "receive.py",
        "import socket, sys\ns = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\ns.bind('/dev/log')\n\
         out = open(sys.argv[1], 'wb', buffering=0)\nopen(sys.argv[1] + '.ready', 'w').close()\n\
         while True: out.write(s.recv(65536) + b'\\n')\n",
    );
    // A /dev of its own, with what programs need and a log in it.
    let apart = Apart::start(&format!(
        "mkdir {here}/dev; mount -t tmpfs none {here}/dev; cd {here}/dev; \
         for n in null zero full random urandom tty; do touch $n; mount --bind /dev/$n $n; done; \
         ln -s /proc/self/fd fd; ln -s fd/0 stdin; ln -s fd/1 stdout; ln -s fd/2 stderr; mkdir shm; cd /; \
         mount --rbind {here}/dev /dev; python3 {here}/receive.py {here}/messages & \
         while ! test -e {here}/messages.ready; do sleep 0.05; done; {bin}/supervisord -n -c {here}/s.conf; kill $!"
    ));
    let messages = || fs::read_to_string(dir.path().join("messages")).unwrap_or_default();
    // <14> is facility user, priority info (RFC 3164: 1 * 8 + 6).
    for line in [" supervisord: web out", " supervisord: web err", " supervisord: old spoken"] {
        wait_for(line, || messages().lines().any(|l| l.starts_with("<14>") && l.ends_with(line)).then_some(()));
    }
    wait_for("the daemon's own", || {
        messages().lines().any(|l| l.contains(" INFO spawned: 'web' with pid ")).then_some(())
    });
    wait_for("the file too", || fs::read_to_string(dir.path().join("web.log")).ok().filter(|text| text == "out\nopen"));
    assert_eq!(apart.inside(&format!("{bin}/supervisorctl -c {here}/s.conf shutdown")).out, "Shut down\n");
    wait_for("its last words", || messages().contains("stopped: web (terminated by SIGTERM)").then_some(()));
    assert!(
        !dir.path().join("s.log").exists() || fs::read_to_string(dir.path().join("s.log")).expect("read").is_empty()
    );
}

/// The module `supervisorctl` of community.general, out of the package that has it.
fn ansible() -> Option<PathBuf> {
    let venv = venv("ansible-core-2.17.14", &[&["ansible-core==2.17.14"]])?;
    let collections = venv.join("collections");
    if !collections.join("complete").exists() {
        let script = "import sys, zipfile, glob\n\
                      z = zipfile.ZipFile(glob.glob(sys.argv[1] + '/ansible-*.whl')[0])\n\
                      base = 'ansible_collections/community/general/'\n\
                      for n in ['MANIFEST.json', 'FILES.json', 'meta/runtime.yml', 'plugins/modules/supervisorctl.py']:\n\
                      \x20   z.extract(base + n, sys.argv[2])\n\
                      open(sys.argv[2] + '/complete', 'w').close()\n";
        let wheels = tempfile::tempdir().expect("a folder");
        let fetched = run_within(
            Duration::from_secs(300),
            Command::new(venv.join("bin/pip"))
                .args(["download", "-q", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "-d"])
                .arg(wheels.path())
                .arg("ansible==10.7.0"),
        );
        let unpacked =
            Command::new(venv.join("bin/python")).args(["-c", script]).arg(wheels.path()).arg(&collections).status();
        let made = fetched.code == 0 && unpacked.is_ok_and(|status| status.success());
        assert!(made || !in_ci(), "cannot fetch the collection: {}", fetched.both());
        if !made {
            eprintln!("\n==== SKIP: no community.general, this test proves nothing ====\n");
            return None;
        }
    }
    Some(venv)
}

#[test]
fn ansible_s_module_manages_it() {
    let Some(venv) = ansible() else { return };
    let program = |name: &str| format!("[program:{name}]\ncommand=/bin/sleep 1000\nstartsecs=0\n");
    let pool = "[program:pool]\ncommand=/bin/sleep 1000\nnumprocs=2\nprocess_name=%(program_name)s_%(process_num)d\nstartsecs=0\n";
    let daemon = Supervisord::start(&(program("web") + pool));
    let (conf, ctl) = (daemon.dir.path().join("s.conf"), daemon.links.path().join("supervisorctl"));
    let home = tempfile::tempdir().expect("a folder");
    // Whether it changed something; the error otherwise.
    let module = |name: &str, state: &str, more: &str| -> Result<bool, String> {
        let args =
            format!("name={name} state={state} supervisorctl_path={} config={} {more}", ctl.display(), conf.display());
        let ran = run_within(
            Duration::from_secs(60),
            Command::new(venv.join("bin/ansible"))
                .args([
                    "localhost",
                    "-c",
                    "local",
                    "-i",
                    "localhost,",
                    "-o",
                    "-m",
                    "community.general.supervisorctl",
                    "-a",
                    &args,
                ])
                .args(["-e", &format!("ansible_python_interpreter={}", venv.join("bin/python").display())])
                .env("ANSIBLE_COLLECTIONS_PATH", venv.join("collections"))
                .env("ANSIBLE_HOME", home.path())
                .env("ANSIBLE_NOCOLOR", "1")
                .env("ANSIBLE_LOCALHOST_WARNING", "false"),
        );
        let text = ran.both();
        if ran.code == 0 { Ok(text.contains("| CHANGED =>")) } else { Err(text) }
    };
    daemon.wait_state("web", "RUNNING");
    assert_eq!(module("web", "started", ""), Ok(false));
    assert_eq!(module("web", "stopped", ""), Ok(true));
    assert_eq!((module("web", "stopped", ""), daemon.state("web")), (Ok(false), "STOPPED".into()));
    assert_eq!((module("web", "started", ""), daemon.state("web")), (Ok(true), "RUNNING".into()));
    let before = daemon.pid("web");
    assert_eq!(module("web", "restarted", ""), Ok(true));
    assert!(daemon.pid("web") != before && daemon.state("web") == "RUNNING");
    assert_eq!(module("web", "signalled", "signal=CONT"), Ok(true));
    assert_eq!(module("pool:", "restarted", ""), Ok(true));
    assert_eq!(module("pool:pool_1", "stopped", ""), Ok(true));
    assert_eq!(module("pool:", "started", ""), Ok(true));
    // A program that its role has just written into the file.
    write_conf(daemon.dir.path(), &(program("web") + pool + &program("fresh")));
    assert_eq!(module("fresh", "present", ""), Ok(true));
    daemon.wait_state("fresh", "RUNNING");
    assert_eq!(module("fresh", "present", ""), Ok(false));
    let still = module("fresh", "absent", "").expect_err("it runs, and the module does not stop it");
    assert!(still.contains("ERROR: process/group still running: fresh"), "{still}");
    assert_eq!(module("fresh", "absent", "stop_before_removing=true"), Ok(true));
    assert_eq!((module("fresh", "absent", ""), daemon.state("fresh")), (Ok(false), String::from("ERROR")));
    assert!(module("nobody", "started", "").is_err());
}
