//! Every byte arrives, in order, through rotation, full disks and frozen disks.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::*;

/// hob's own children that are not processes of the home: the logger among them.
fn helpers_of_hob(hob: &Hob) -> Vec<i32> {
    let own: Vec<i32> = hob.status().iter().filter_map(Proc::pid).collect();
    let hob_exe = fs::read_link(format!("/proc/{}/exe", hob.pid)).ok();
    children_of(hob.pid)
        .into_iter()
        .map(|c| c.0)
        .filter(|p| !own.contains(p) && fs::read_link(format!("/proc/{p}/exe")).ok() == hob_exe)
        .collect()
}

#[test]
fn stdout_and_stderr_share_one_file_in_order() {
    let hob =
        Home::with("one: bash -c 'for i in {1..200}; do echo out $i; echo err $i >&2; done; exec sleep 1000'").boot();
    let log = hob.wait_log("one.log", "err 200\n");
    let want: String = (1..=200).map(|i| format!("out {i}\nerr {i}\n")).collect();
    assert_eq!(log, want);
    hob.shutdown();
}

#[test]
fn split_stderr_makes_two_files() {
    let hob =
        Home::with("one: {command: sh -c 'echo to out; echo to err >&2; exec sleep 1000', split_stderr: true}").boot();
    hob.wait_log("one.log", "to out");
    let err = hob.process("one").0["stderr_logfile"].as_str().expect("it is told").to_string();
    wait_for("stderr's own file", || fs::read_to_string(&err).ok().filter(|t| t == "to err\n"));
    assert_eq!(hob.log("one.log"), "to out\n");
    hob.shutdown();
}

#[test]
fn what_is_written_during_the_stop_is_kept_to_the_last_byte() {
    let hob = Home::with("one: {command: '{prop} onterm 60000', stopwaitsecs: 60}\ntwo: {command: '{prop} onterm 60000', stopwaitsecs: 60}").boot();
    hob.wait_log("one.log", "waiting\n");
    hob.wait_log("two.log", "waiting\n");
    hob.ok(&["stop", "one"]);
    let log = hob.wait_log("one.log", "000000059999 ");
    assert_eq!(check_numbered(log.strip_prefix("waiting\n").expect("first")), (0, 59999));
    let end = hob.shutdown();
    assert_eq!(check_numbered(end.log("two.log").strip_prefix("waiting\n").expect("first")), (0, 59999));
}

#[test]
fn the_last_words_before_an_exit_and_a_line_without_an_end_are_kept() {
    let hob = Home::with(
        "exit: {command: '{prop} countexit 50000 1', autorestart: false}\n\
         open: {command: printf 'no end of line', autorestart: false}\n\
         killed: {command: sh -c 'echo last; kill -9 $$', autorestart: false}",
    )
    .boot();
    hob.wait_state("exit", "EXITED");
    let log = hob.wait_log("exit.log", "000000049999 ");
    assert_eq!(check_numbered(&log), (0, 49999));
    hob.wait_log("open.log", "no end of line");
    hob.wait_log("killed.log", "last\n");
    hob.shutdown();
}

#[test]
fn rotation_keeps_every_line_whole_and_in_order() {
    // 20,000 lines of 100 bytes in files of 100 kB: all of it fits into the 30 that are kept.
    for block in [0, 777, 8192] {
        let hob = Home::with(&format!(
            "one: {{command: '{{prop}} count 20000 {block}', logfile_maxbytes: 100kB, logfile_backups: 30}}"
        ))
        .boot();
        hob.wait_log("one.log", "000000019999 ");
        let path = hob.log_path("one.log");
        assert_eq!(check_numbered(&pieces(&path)), (0, 19999), "block {block}");
        for n in 1..=15 {
            let text =
                fs::read_to_string(format!("{}.{n}", path.display())).unwrap_or_else(|e| panic!("one.log.{n}: {e}"));
            assert!(text.len() <= 110_000, "one.log.{n} has {} bytes", text.len());
            check_numbered(&text);
        }
        hob.shutdown();
    }
}

#[test]
fn rotated_files_are_compressed_and_every_line_is_in_them() {
    if !need_all(&["zstd", "gzip"]) {
        return;
    }
    for (how, end, tool) in [("gzip", "gz", "gzip"), ("zstd", "zst", "zstd")] {
        let hob = Home::with(&format!(
            "one: {{command: '{{prop}} count 20000', logfile_maxbytes: 100kB, logfile_backups: 30, log_compress: {how}}}"
        ))
        .boot();
        hob.wait_log("one.log", "000000019999 ");
        let path = hob.log_path("one.log");
        let at = |n: u32, end: &str| format!("{}.{n}{end}", path.display());
        let last = wait_for("all to be compressed", || {
            let plain = (1..=30).any(|n| fs::exists(at(n, "")).unwrap_or(true));
            let last = (1..=30).take_while(|n| fs::exists(at(*n, &format!(".{end}"))).unwrap_or(false)).last()?;
            (!plain && !fs::exists(format!("{}.new.{end}", path.display())).unwrap_or(true)).then_some(last)
        });
        assert!(last > 10, "{last}");
        let packed: Vec<String> = (1..=last).rev().map(|n| at(n, &format!(".{end}"))).collect();
        let text = sh_ok(&format!("{tool} -dc {}", packed.join(" "))) + &hob.log("one.log");
        assert_eq!(check_numbered(&text), (0, 19999), "{how}");
        // They count as rotated files, and are shown by nobody as logs.
        let shown = hob.ok(&["logs", "-n", "1"]).out;
        assert!(shown.contains("[one] numbered 000000019999 ") && shown.lines().count() == 1, "{shown}");
        hob.shutdown();
    }
}

#[test]
fn what_a_killed_compressor_has_left_is_done_by_the_next_one() {
    let home = Home::with("one: {command: sleep 1000, log_compress: gzip}");
    let log = home.beside("log");
    fs::create_dir_all(&log).expect("new");
    for (name, text) in [("one.log.1", "newer\n"), ("one.log.2", "older\n"), ("one.log.new.gz", "half")] {
        fs::write(log.join(name), text).expect("written");
    }
    let hob = home.boot();
    hob.running("one");
    wait_for("both to be compressed", || {
        let names = ["one.log.1", "one.log.2", "one.log.new.gz"];
        (names.iter().all(|name| !log.join(name).exists()) && log.join("one.log.1.gz").exists()).then_some(())
    });
    assert_eq!(sh_ok(&format!("gzip -dc {0}.2.gz {0}.1.gz", log.join("one.log").display())), "older\nnewer\n");
    hob.shutdown();
}

#[test]
fn each_line_may_become_an_object_on_the_console_too() {
    let hob = Home::with(
        "one: {command: sh -c 'echo hello; echo oops >&2; exec sleep 1000', log_format: json, console: true, split_stderr: true}\n\
         two: {command: sh -c 'echo plain; exec sleep 1000', log_prefix: true}",
    )
    .boot();
    let log = hob.wait_log("one.log", "hello");
    assert!(log.contains("\"name\":\"www:one\",\"stream\":\"stdout\",\"message\":\"hello\"}"), "{log}");
    hob.wait_log("one_error.log", "\"stream\":\"stderr\",\"message\":\"oops\"}");
    assert_eq!(hob.wait_log("two.log", "plain"), "www:two | plain\n");
    wait_for("the console", || {
        hob.out().lines().any(|line| line.starts_with("{\"time\":\"") && line.contains("hello")).then_some(())
    });
    hob.shutdown();
}

#[test]
fn old_files_go_when_there_are_too_many_or_too_many_bytes() {
    let hob = Home::with(
        "few: {command: '{prop} count 20000', logfile_maxbytes: 100kB, logfile_backups: 3}\n\
         cap: {command: '{prop} count 20000', logfile_maxbytes: 100kB, logfile_backups: 50, logfile_max_total: 500kB}\n\
         never: {command: '{prop} count 20000', logfile_maxbytes: 0}",
    )
    .boot();
    for name in ["few", "cap", "never"] {
        hob.wait_log(&format!("{name}.log"), "000000019999 ");
    }
    assert!(hob.log_path("few.log.3").exists() && !hob.log_path("few.log.4").exists());
    let (_, last) = check_numbered(&pieces(&hob.log_path("few.log")));
    assert_eq!(last, 19999);
    let total: u64 = fs::read_dir(hob.home.beside("log"))
        .expect("there")
        .filter_map(|e| e.ok().filter(|e| e.file_name().to_string_lossy().starts_with("cap.log"))?.metadata().ok())
        .map(|m| m.len())
        .sum();
    assert!(total <= 520_000 && total > 300_000, "{total}");
    assert_eq!(check_numbered(&hob.log("never.log")), (0, 19999));
    assert!(!hob.log_path("never.log.1").exists());
    hob.shutdown();
}

#[test]
fn raw_bytes_and_very_long_lines_pass_untouched() {
    let hob = Home::with("one: {command: '{home}/raw', logfile_maxbytes: 0}")
        .script(
            "raw",
            "#!/usr/bin/env python3\nimport os,time\nos.write(1, bytes(range(256))*4)\n\
             b=b'y'*300000\nn=0\nwhile n<len(b): n+=os.write(1,b[n:])\nos.write(1,b'\\nend\\n')\ntime.sleep(1000)\n",
        )
        .boot();
    wait_for("the end", || fs::read(hob.log_path("one.log")).ok().filter(|b| b.ends_with(b"\nend\n")));
    let bytes = fs::read(hob.log_path("one.log")).expect("there");
    let mut want: Vec<u8> = (0..=255u8).collect::<Vec<_>>().repeat(4);
    want.extend(vec![b'y'; 300_000]);
    want.extend(b"\nend\n");
    assert!(bytes == want, "{} bytes, wanted {}", bytes.len(), want.len());
    hob.shutdown();
}

#[test]
fn timestamps_come_before_each_line() {
    let hob = Home::with("one: {command: sh -c 'echo first; echo second; exec sleep 1000', timestamps: true}").boot();
    let log = hob.wait_log("one.log", "second\n");
    let year = sh_ok("date +%Y");
    assert_eq!(log.lines().count(), 2);
    for line in log.lines() {
        assert!(line.starts_with(year.trim()) && line.contains(':') && line.contains(' '), "{line}");
    }
    hob.shutdown();
}

#[test]
fn a_deleted_file_or_directory_comes_back() {
    let hob = Home::with("one: sh -c 'while :; do echo tick; sleep 0.02; done'").boot();
    hob.wait_log("one.log", "tick");
    fs::remove_dir_all(hob.home.beside("log")).expect("our own directory");
    wait_for("the log again", || hob.log("one.log").contains("tick").then_some(()));
    fs::remove_file(hob.log_path("one.log")).expect("just seen");
    wait_for("the file again", || hob.log("one.log").contains("tick").then_some(()));
    hob.running("one");
    hob.shutdown();
}

#[test]
fn usr2_reopens_after_somebody_else_rotated() {
    let hob = Home::with("one: sh -c 'while :; do echo tick; sleep 0.02; done'").boot();
    hob.wait_log("one.log", "tick");
    fs::rename(hob.log_path("one.log"), hob.log_path("moved")).expect("our own file");
    hob.signal(Signal::SIGUSR2);
    wait_for("a new file", || hob.log("one.log").contains("tick").then_some(()));
    let size = fs::metadata(hob.log_path("moved")).expect("there").len();
    never_for(Duration::from_millis(300), "more in the old file", || {
        fs::metadata(hob.log_path("moved")).is_ok_and(|m| m.len() > size + 10)
    });
    hob.shutdown();
}

#[test]
fn a_full_disk_blocks_the_writer_and_recovers_without_a_lost_byte() {
    if !need("root") {
        return;
    }
    let home = Home::with("one: {command: '{prop} count 40000', logfile_maxbytes: 0}\nother: sleep 1000");
    let mount = Mount::tmpfs(&home.beside("log"), 1024);
    let hob = home.boot();
    let other = hob.running("other");
    wait_for("the disk is full", || fs::metadata(hob.log_path("one.log")).ok().filter(|m| m.len() > 1_000_000));
    // The program waits, and everything else goes on.
    wait_for("the trouble is told", || {
        (!hob.process("one").0["troubles"].as_array().is_none_or(Vec::is_empty)).then_some(())
    });
    let (cpu_before, begin) = (cpu(hob.pid), Instant::now());
    let ran = hob.ok(&["status", "other"]);
    assert!(ran.took < Duration::from_secs(3));
    assert_eq!(hob.process("other").pid(), Some(other));
    std::thread::sleep(Duration::from_millis(1500));
    let busy = cpu(hob.pid) - cpu_before;
    assert!(busy < begin.elapsed() / 5, "it spins: {busy:?} in {:?}", begin.elapsed());
    for pid in helpers_of_hob(&hob) {
        let before = cpu(pid);
        std::thread::sleep(Duration::from_millis(500));
        assert!(cpu(pid) - before < Duration::from_millis(150), "a helper spins");
    }
    sh_ok(&format!("mount -o remount,size=16m {}", mount.at.display()));
    let log = hob.wait_log("one.log", "000000039999 ");
    assert_eq!(check_numbered(&log), (0, 39999));
    wait_for("the trouble is over", || {
        hob.process("one").0["troubles"].as_array().is_none_or(Vec::is_empty).then_some(())
    });
    hob.shutdown();
    drop(mount);
}

#[test]
fn last_words_and_the_end_that_come_together_end_the_log_too() {
    let home = Home::with("one: sh -c 'until test -e {home}/go; do sleep 0.01; done; echo last words'");
    let mut hob = home.boot();
    let one = hob.running("one");
    let name = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let logger = children_of(hob.pid).into_iter().map(|c| c.0).find(|pid| name(*pid).trim() == "hob logger");
    let logger = Pid::from_raw(logger.expect("there is one"));
    hob.signal(Signal::SIGKILL);
    hob.wait_end();
    kill(logger, Signal::SIGSTOP).expect("it runs");
    hob.home.write("go", "");
    wait_for("one has ended", || (!lives(one)).then_some(()));
    kill(logger, Signal::SIGCONT).expect("it waits");
    wait_for("the logger has ended", || (!lives(logger.as_raw())).then_some(()));
    assert_eq!(hob.log("one.log"), "last words\n");
}

#[test]
fn a_limit_of_the_size_of_files_is_told_and_ends_no_logger() {
    let hob = Home::with("one: {prop} count 4000 0 0").under(&["prlimit", "--fsize=20000", "--"]).boot();
    wait_for("the trouble", || hob.process("one").0["troubles"].to_string().contains("file too large").then_some(()));
    never_for(Duration::from_millis(500), "the logger ends", || hob.err().contains("the logger ended"));
    hob.shutdown();
}

#[test]
fn a_full_disk_takes_the_oldest_rotated_files_first() {
    if !need("root") {
        return;
    }
    let home = Home::with("one: {command: '{prop} count 60000', logfile_maxbytes: 100kB, logfile_backups: 100}");
    let mount = Mount::tmpfs(&home.beside("log"), 1024);
    let hob = home.boot();
    // 6 MB go through 1 MB without waiting for anybody.
    hob.wait_log("one.log", "000000059999 ");
    let (first, last) = check_numbered(&pieces(&hob.log_path("one.log")));
    assert!(first > 40000 && last == 59999, "{first} {last}");
    hob.shutdown();
    drop(mount);
}

#[test]
fn a_frozen_disk_never_holds_up_status_start_stop_or_shutdown() {
    if !need_all(&["root", "loop", "mkfs.ext4", "fsfreeze"]) {
        return;
    }
    let home = Home::with(
        "one: sh -c 'while :; do echo tick; sleep 0.001; done'\ntwo: {prop} count 100000000 8192\nthree: sleep 1000",
    )
    .settings("[defaults]\nlogfile_maxbytes = \"2MB\"\nlogfile_backups = 2\n");
    let mut mount = Mount::ext4(&home.beside("log"), 32);
    let mut hob = home.boot();
    hob.wait_log("one.log", "tick");
    hob.running("two");
    let three = hob.running("three");
    mount.freeze();
    std::thread::sleep(Duration::from_millis(500));
    let quick = |ran: Ran| {
        assert!(ran.took < Duration::from_secs(4), "{ran:?}");
        ran
    };
    quick(hob.ok(&["status", "three"]));
    quick(hob.ok(&["restart", "three"]));
    assert_ne!(hob.running("three"), three);
    quick(hob.ok(&["stop", "one"]));
    quick(hob.ok(&["stop", "two"]));
    let begin = Instant::now();
    quick(hob.hob(&["shutdown"]));
    wait_for("hob's own end while the disk is frozen", || hob.child.try_wait().expect("our child").map(|_| ()));
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    mount.thaw();
    wait_for("the logger to end after the thaw", || hob.leftovers().is_empty().then_some(()));
    hob.wait_end();
}

#[test]
fn a_frozen_disk_loses_nothing_once_it_thaws() {
    if !need_all(&["root", "loop", "mkfs.ext4", "fsfreeze"]) {
        return;
    }
    let home = Home::with("one: {prop} count 60000 0 20");
    let mut mount = Mount::ext4(&home.beside("log"), 32);
    let hob = home.boot();
    hob.wait_log("one.log", "numbered");
    mount.freeze();
    std::thread::sleep(Duration::from_millis(800));
    mount.thaw();
    let log = hob.wait_log("one.log", "000000059999 ");
    assert_eq!(check_numbered(&log), (0, 59999));
    hob.shutdown();
    drop(mount);
}

#[test]
fn a_logger_that_is_killed_is_replaced_and_no_program_notices() {
    let hob = Home::with("one: {prop} count 30000 0 100").boot();
    hob.wait_log("one.log", "000000001000 ");
    let pid = hob.running("one");
    for _ in 0..3 {
        for helper in helpers_of_hob(&hob) {
            let _ = kill(Pid::from_raw(helper), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(150));
    }
    let log = hob.wait_log("one.log", "000000029999 ");
    assert_eq!(hob.process("one").pid(), Some(pid), "no SIGPIPE");
    // What the dead logger had read and not yet written is all that may be missing.
    let numbers: Vec<u64> = log.lines().filter(|l| l.len() == 99).filter_map(|l| l[9..21].parse().ok()).collect();
    assert!(numbers.windows(2).all(|w| w[0] < w[1]), "in order");
    hob.shutdown();
}

#[test]
fn logs_of_another_user_belong_to_him_and_dev_stdout_opens_by_path() {
    if !need("root") {
        return;
    }
    let hob = Home::with("one: {command: '{prop} openout', user: nobody}").boot();
    hob.wait_log("one.log", "by path to stderr");
    let log = hob.log("one.log");
    assert!(log.contains("by path to stdout") && !log.contains("cannot"), "{log}");
    assert_eq!(fs::metadata(hob.log_path("one.log")).expect("there").uid(), NOBODY);
    hob.shutdown();
}

#[test]
fn logs_f_follows_over_rotation_and_files_that_appear_later() {
    let hob = Home::with(
        "one: {command: '{prop} count 4000 0 300', logfile_maxbytes: 20kB, logfile_backups: 50}\nidle: sleep 1000",
    )
    .boot();
    let follow = hob.background(&["logs", "-f", "-n", "5"], "follow");
    follow.wait_text("numbered");
    // The application's own log, made after the command began.
    fs::write(hob.log_path("access.log"), "GET /early\n").expect("the log directory takes a file");
    follow.wait_text("GET /early");
    let more = fs::OpenOptions::new().append(true).open(hob.log_path("access.log"));
    std::io::Write::write_all(&mut more.expect("there"), b"GET /later\n").expect("it takes a line");
    follow.wait_text("GET /later");
    let text = follow.wait_text("000000003999 ");
    let numbers: Vec<u64> = text
        .lines()
        .filter_map(|l| l.find("numbered ").and_then(|at| l[at + 9..].split(' ').next()?.parse().ok()))
        .collect();
    let first = numbers[0];
    let want: Vec<u64> = (first..4000).collect();
    assert!(numbers == want, "{} lines from {first}, wanted {}", numbers.len(), want.len());
    drop(follow);
    let ran = hob.ok(&["logs", "--json", "-n", "1", "access.log"]);
    assert_eq!(ran.json(), serde_json::json!({"name": "access", "line": "GET /later"}));
    // A process that has written nothing has no file; a name of nothing is a mistake, without a daemon as well.
    assert_eq!(hob.ok(&["logs", "idle"]).out, "");
    hob.hob(&["logs", "acess.log"]).expect(1).says("no log \"acess\"").says("no process \"acess.log\"");
    let home = hob.shutdown().into_home();
    assert_eq!(run(&mut home.command(&["logs", "-n", "1", "access"])).expect(0).out, "[access] GET /later\n");
    run(&mut home.command(&["logs", "acess"])).expect(1).says("no log \"acess\"");
    run(home.command(&["logs"]).env("HOB_LOG_DIR", home.beside("none")))
        .expect(1)
        .says("none: no such file or directory");
}

#[test]
fn the_console_shows_each_line_behind_its_name() {
    let hob = Home::with("one: sh -c 'echo hello; exec sleep 1000'\nlonger: sh -c 'echo there; exec sleep 1000'\nquiet: {command: sh -c 'echo hush; exec sleep 1000', console: false}")
        .settings("console = true\n")
        .boot();
    wait_for("both lines", || {
        let out = hob.out();
        let has = |name: &str, text: &str| {
            out.lines().any(|l| l.starts_with(&format!("www:{name}")) && l.ends_with(&format!("| {text}")))
        };
        (has("one", "hello") && has("longer", "there")).then_some(())
    });
    hob.wait_log("quiet.log", "hush");
    hob.wait_log("one.log", "hello");
    assert!(!hob.out().contains("hush"), "{}", hob.out());
    hob.shutdown();
    let hob = Home::with("one: sh -c 'echo hello; exec sleep 1000'").boot();
    hob.wait_log("one.log", "hello");
    assert!(!hob.out().contains("hello"), "auto is off when it is neither PID 1 nor hob up");
    hob.shutdown();
}

#[test]
fn a_reader_of_hobs_own_messages_that_has_left_costs_nothing() {
    // With a warning before the first start: services of other types.
    let home = Home::new("www:\n  type: custom\n  process: sleep 1000\ndb: {type: mysql}\n").script(
        "../deaf",
        "#!/usr/bin/env python3\nimport os,sys\nr,w=os.pipe()\nos.dup2(w,2)\nos.close(w)\nos.close(r)\nos.execv(sys.argv[1],sys.argv[1:])\n",
    );
    let wrap = home.beside("deaf").display().to_string();
    let hob = home.under(&[&wrap]).boot();
    hob.running("www");
    hob.ok(&["reload"]);
    hob.shutdown();
}

#[test]
fn a_console_that_nobody_reads_holds_nothing_up() {
    // stdout is a pipe that is full for ever.
    let home = Home::with("one: {prop} count 30000").settings("console = true\n").script(
        "../blocked",
        "#!/usr/bin/env python3\nimport os,sys\nr,w=os.pipe()\nos.set_inheritable(r,True)\nos.dup2(w,1)\nos.close(w)\nos.execv(sys.argv[1],sys.argv[1:])\n",
    );
    let wrap = home.beside("blocked").display().to_string();
    let hob = home.under(&[&wrap]).boot();
    hob.running("one");
    hob.ok(&["status", "one"]);
    let log = hob.wait_log("one.log", "000000029999 ");
    assert_eq!(check_numbered(&log), (0, 29999));
    hob.shutdown();
}
