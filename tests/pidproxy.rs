//! A server that puts itself into the background is held on to: redis and nginx as Debian ships them.

use std::fs;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::*;

fn pid_in(path: &std::path::Path) -> Option<i32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn redis_conf(home: &Home, port: u16) -> String {
    let dir = home.at("").display().to_string();
    let conf = format!(
        "bind 127.0.0.1\nport {port}\ndaemonize yes\npidfile {dir}/redis.pid\ndir {dir}\nlogfile {dir}/redis.log\nsave \"\"\n"
    );
    home.write("redis.conf", &conf);
    format!("{dir}/redis.conf")
}

#[test]
fn pidproxy_relays_signals_to_a_daemonized_redis_and_ends_when_it_ends() {
    if !need("redis-server") {
        return;
    }
    let home = Home::bare();
    let port = free_port();
    let conf = redis_conf(&home, port);
    let file = home.at("redis.pid");
    let mut command = home.command(&["pidproxy", &file.display().to_string(), "redis-server", &conf]);
    let mut proxy = command.stdin(Stdio::null()).spawn().expect("hob starts");
    let server = wait_for("redis", || pid_in(&file).filter(|p| lives(*p) && accepts(port)));
    assert_ne!(server, proxy.id() as i32);
    never_for(std::time::Duration::from_millis(300), "an early end", || proxy.try_wait().expect("ours").is_some());
    kill(Pid::from_raw(proxy.id() as i32), Signal::SIGTERM).expect("it runs");
    let code = wait_child(&mut proxy, PATIENCE);
    let alive = lives(server);
    if alive {
        let _ = kill(Pid::from_raw(server), Signal::SIGKILL);
    }
    assert!(!alive, "redis outlived the signal to its proxy");
    assert_eq!(code, Some(0), "redis ends with 0 on TERM");
}

#[test]
fn pidproxy_notices_the_death_of_its_server_and_ends_with_the_same_status() {
    if !need("redis-server") {
        return;
    }
    let home = Home::bare();
    let port = free_port();
    let conf = redis_conf(&home, port);
    let file = home.at("redis.pid");
    let mut command = home.command(&["pidproxy", &file.display().to_string(), "redis-server", &conf]);
    let mut proxy = command.stdin(Stdio::null()).spawn().expect("hob starts");
    let server = wait_for("redis", || pid_in(&file).filter(|p| lives(*p) && accepts(port)));
    kill(Pid::from_raw(server), Signal::SIGKILL).expect("it runs");
    assert_eq!(wait_child(&mut proxy, PATIENCE), Some(128 + 9));
}

#[test]
fn a_pid_file_that_names_a_stranger_gets_no_signal() {
    let home = Home::bare();
    let mut stranger = Command::new("sleep").arg("1000").spawn().expect("sleep starts");
    fs::write(home.at("old.pid"), format!("{}\n", stranger.id())).expect("ours");
    let file = home.at("old.pid").display().to_string();
    // The command ends at once and never writes a pid of its own.
    let ran = run_within(PATIENCE, &mut home.command(&["pidproxy", &file, "true"]));
    let alive = lives(stranger.id() as i32);
    let _ = stranger.kill();
    let _ = stranger.wait();
    assert!(alive, "the stranger was signalled");
    assert_ne!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("old.pid"), "{ran:?}");
}

#[test]
fn pidproxy_without_a_command_is_a_usage_error_and_a_missing_one_says_so() {
    let home = Home::bare();
    run(&mut home.command(&["pidproxy", "/tmp/x.pid"])).expect(2);
    let file = home.at("none.pid").display().to_string();
    let ran = run_within(PATIENCE, &mut home.command(&["pidproxy", &file, "/no/such/server"]));
    assert_ne!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("/no/such/server"), "{ran:?}");
}

#[test]
fn a_process_with_a_pidfile_is_stopped_restarted_and_watched_through_it() {
    if !need("redis-server") {
        return;
    }
    let home = Home::with(
        "redis: {command: 'redis-server {home}/redis.conf', pidfile: '{home}/redis.pid', restart_delay: 0.1, stopwaitsecs: 10}",
    );
    let port = free_port();
    redis_conf(&home, port);
    let hob = home.boot();
    let file = hob.home.at("redis.pid");
    let next = |old: i32| wait_for("redis", || pid_in(&file).filter(|p| *p != old && lives(*p) && accepts(port)));
    let first = next(0);
    hob.running("redis");
    hob.ok(&["restart", "redis"]);
    let second = next(first);
    assert!(!lives(first));
    kill(Pid::from_raw(second), Signal::SIGKILL).expect("it runs");
    let third = next(second);
    hob.running("redis");
    hob.ok(&["stop", "redis"]);
    assert!(!lives(third), "redis outlived the stop");
    assert!(!accepts(port));
    hob.shutdown();
}

#[test]
fn nginx_in_the_background_is_held_by_its_pid_file_with_its_workers() {
    if !need_all(&["root", "nginx"]) {
        return;
    }
    let port = free_port();
    let hob = Home::with("nginx: {command: 'nginx -c {home}/nginx.conf', pidfile: '{home}/nginx.pid', stopwaitsecs: 10}")
        .file(
            "nginx.conf",
            &format!(
                "pid {{home}}/nginx.pid;\nerror_log {{home}}/error.log;\nworker_processes 2;\nevents {{}}\n\
                 http {{ access_log off; server {{ listen 127.0.0.1:{port}; location / {{ return 200 'hello'; }} }} }}\n"
            ),
        )
        .boot();
    wait_for("nginx", || accepts(port).then_some(()));
    hob.running("nginx");
    let master = pid_in(&hob.home.at("nginx.pid")).expect("it listens");
    let workers: Vec<i32> = children_of(master).into_iter().map(|c| c.0).collect();
    assert_eq!(workers.len(), 2);
    // HUP is relayed: nginx replaces its workers and the master stays.
    hob.ok(&["signal", "HUP", "nginx"]);
    wait_for("new workers", || workers.iter().all(|w| !lives(*w)).then_some(()));
    assert!(lives(master) && accepts(port));
    hob.ok(&["stop", "nginx"]);
    assert!(!lives(master) && !accepts(port));
    hob.shutdown();
}
