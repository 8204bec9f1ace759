//! Bad input: a clear error with its place, exit status 2, never a panic, and nothing that runs is disturbed.

use std::fs;
use std::time::Duration;

use crate::support::*;

/// `hob check FILE` on this text.
#[track_caller]
fn check_bytes(bytes: &[u8]) -> Ran {
    let home = Home::bare();
    fs::write(home.at("dotcloud.yml"), bytes).expect("a fresh home");
    let ran = run_within(
        Duration::from_secs(20),
        &mut home.command(&["check", &home.at("dotcloud.yml").display().to_string()]),
    );
    assert!(!ran.both().contains("panicked"), "{ran:?}");
    assert_ne!(ran.code, 101, "{ran:?}");
    assert!(ran.both().len() < 100_000, "{} bytes of errors", ran.both().len());
    ran
}

#[track_caller]
fn refuses(text: &str, words: &[&str]) {
    let ran = check_bytes(text.as_bytes());
    assert_eq!(ran.code, 2, "{text:?} gives {ran:?}");
    for word in words {
        assert!(ran.both().to_lowercase().contains(&word.to_lowercase()), "{word:?} for {text:.200?}: {}", ran.both());
    }
}

#[test]
fn a_good_file_is_good() {
    let ran = check_bytes(b"www:\n  type: custom\n  processes: {a: ~/a, b: {command: ~/b, after: [a]}}\n");
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn an_empty_file_a_list_and_a_word_are_refused() {
    refuses("", &["empty"]);
    refuses("# only a comment\n", &["empty"]);
    refuses("- a\n- b\n", &["dictionary", "list", "dotcloud.yml"]);
    refuses("just words\n", &["dictionary", "string"]);
    refuses("www:\n", &["dictionary", "nothing", ":1:"]);
    refuses("www: hello\n", &["dictionary", "string"]);
    refuses("{}\n", &["empty"]);
    refuses("www: []\n", &["Expected a type dictionary but got an empty list"]);
    refuses("www: ''\n", &["Expected a type dictionary but got an empty string"]);
    refuses("www:\n  type: custom\n  systempackages: {}\n", &["Expected a type list but got an empty dictionary"]);
}

#[test]
fn a_directory_stands_for_its_dotcloud_yml_and_a_supervisor_conf_needs_no_supervisord_section() {
    let home = Home::with("one: sleep 1").file("supervisor.conf", "[program:one]\ncommand=sleep 1\nstopsignal=TREM\n");
    let dir = home.at("").display().to_string();
    run(&mut home.command(&["check", &dir])).expect(0).says("dotcloud.yml: good");
    let conf = home.at("supervisor.conf").display().to_string();
    run(&mut home.command(&["check", &conf])).expect(2).says("TREM");
    fs::write(&conf, "[program:one]\ncommand=sleep 1\n").expect("ours");
    run(&mut home.command(&["check", &conf])).expect(0).says("supervisor.conf: good");
}

#[test]
fn process_options_are_checked() {
    let with =
        |option: &str| format!("www:\n  type: custom\n  processes:\n    a:\n      command: ~/a\n      {option}\n");
    refuses(&with("stopsignal: TREM"), &["TREM", "TERM", ":6:"]);
    refuses(&with("stopwaitsecs: soon"), &["stopwaitsecs", "soon", ":6:"]);
    refuses(&with("autorestart: sometimes"), &["autorestart", "sometimes"]);
    refuses(&with("comand: ~/b"), &["comand", "command"]);
    refuses(&with("umask: '999'"), &["umask", "999"]);
    refuses(&with("after: [nobody]"), &["nobody"]);
    refuses(&with("user: no-such-user-here"), &["no-such-user-here"]);
    refuses(&with("ready: {http: 'http://x/', tcp: '1'}"), &["ready"]);
    refuses(&with("ready: {}"), &["ready"]);
    refuses(&with("exitcodes: [999]"), &["exitcodes", "999"]);
    refuses(&with("nice: 77"), &["nice", "77"]);
    refuses(&with("logfile_maxbytes: -3"), &["logfile_maxbytes"]);
    refuses(&with("startsecs: 1e400"), &["startsecs"]);
    refuses("www:\n  type: custom\n  processes:\n    a: {startsecs: 1}\n", &["command"]);
    refuses("www:\n  type: custom\n  processes:\n    'a b/c': ~/a\n", &["a b/c"]);
    refuses("www:\n  type: custom\n  processes:\n    ../../etc: ~/a\n", &["etc"]);
    refuses("www:\n  type: custom\n  processes:\n    a: \"~/a 'never closed\"\n", &["without its other half", ":4:"]);
}

#[test]
fn all_errors_come_at_once() {
    let text = "www:\n  type: custom\n  processes:\n    a: {command: ~/a, stopsignal: TREM}\n    b: {command: ~/b, umask: 'xyz'}\n  ports: {p: smtp}\n";
    let ran = check_bytes(text.as_bytes()).expect(2);
    for (word, place) in [("TREM", ":4:"), ("xyz", ":5:"), ("smtp", ":6:")] {
        let line = ran.both().lines().find(|l| l.contains(word)).map(str::to_string);
        assert!(line.is_some_and(|l| l.contains(place)), "{word} {place}: {ran:?}");
    }
}

#[test]
fn broken_yaml_is_refused_with_its_place() {
    refuses("www:\n\ttype: custom\n", &["tab", ":2"]);
    refuses("www:\n  type: custom\nwww:\n  type: custom\n", &["duplicate", "www"]);
    refuses("www:\n  type: custom\n  type: custom\n", &["duplicate", "type"]);
    refuses("www: {type: custom\n", &[":"]);
    refuses("www:\n  type: 'custom\n", &[":"]);
    refuses("www:\n  type: *nothing\n", &["alias", ":2:"]);
    refuses("www:\n  type: custom\n---\nmore: {type: custom}\n", &["document"]);
}

#[test]
fn an_alias_bomb_is_refused_quickly() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let refs = format!("*a{}", n - 1);
        text += &format!("a{n}: &a{n} [{}]\n", [refs.as_str(); 10].join(", "));
    }
    let ran = check_bytes(text.as_bytes()).expect(2);
    assert!(ran.took < Duration::from_secs(5), "{:?}", ran.took);
}

#[test]
fn ten_megabytes_deep_nesting_bad_utf8_and_nul_are_refused_quickly() {
    let big = format!("www:\n  type: custom\n  note: {}\n", "y".repeat(10 << 20));
    let ran = check_bytes(big.as_bytes()).expect(2);
    assert!(ran.took < Duration::from_secs(5), "{:?}", ran.took);
    check_bytes(b"www:\n  type: custom\n  note: \xff\xfe\n").expect(2).says("UTF-8");
    check_bytes(b"www:\n  type: cus\0tom\n").expect(2);
    check_bytes("[".repeat(100_000).as_bytes()).expect(2);
    check_bytes(format!("a:\n{}", (1..5000).map(|n| format!("{}b:\n", " ".repeat(n))).collect::<String>()).as_bytes())
        .expect(2);
}

#[test]
fn files_that_are_not_files_are_clear_errors() {
    let home = Home::bare();
    for path in ["/dev/zero", "/", "/no/such/file.yml", "/proc/self/mem"] {
        let ran = run_within(Duration::from_secs(10), &mut home.command(&["check", path]));
        assert_eq!(ran.code, 2, "{path}: {ran:?}");
        assert!(ran.both().contains(path), "{path}: {ran:?}");
    }
}

#[test]
fn a_path_that_is_not_utf8_is_refused_as_such() {
    use std::os::unix::ffi::OsStrExt;
    let home = Home::bare();
    let dir = home.beside("").join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    fs::create_dir(&dir).expect("fresh");
    fs::write(dir.join("dotcloud.yml"), "www: {type: custom}\n").expect("fresh");
    for words in [&["boot", "--home"][..], &["up"], &["build"]] {
        run(home.command(words).arg(&dir)).expect(2).says("its name is not UTF-8");
    }
}

#[test]
fn boot_refuses_the_same_with_status_2_and_starts_nothing() {
    let home = Home::new("www:\n  type: custom\n  process: touch {dir}/started\nbad:\n  type: costum\n");
    let ran = home.boot_fails().expect(2);
    assert!(ran.err.contains("costum"), "{ran:?}");
    assert!(!home.beside("started").exists());
    let home = Home::with("one: sleep 1").settings("no_such_setting = 1\n");
    home.boot_fails().expect(2).says("no_such_setting").says(":1");
    let home = Home::with("one: sleep 1").settings("socket = [\n");
    home.boot_fails().expect(2).says("hob.toml");
}

#[test]
fn a_reload_with_a_bad_file_changes_nothing_and_says_why() {
    let hob = Home::with("one: sleep 1000\ntwo: sleep 1000").boot();
    let (one, two) = (hob.running("one"), hob.running("two"));
    for bad in [
        "",
        "- list\n",
        "www:\n  type: custom\n  processes:\n    one: {command: sleep 5, stopsignal: TREM}\n",
        "www: [\n",
    ] {
        fs::write(hob.home.at("dotcloud.yml"), bad).expect("ours");
        let ran = hob.hob(&["reload"]);
        assert_eq!(ran.code, 2, "{bad:?}: {ran:?}");
        assert!(ran.both().contains("dotcloud.yml"), "{ran:?}");
        hob.signal(nix::sys::signal::Signal::SIGHUP);
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!((hob.running("one"), hob.running("two")), (one, two));
    }
    fs::remove_file(hob.home.at("dotcloud.yml")).expect("ours");
    assert_eq!(hob.hob(&["reload"]).code, 2);
    assert_eq!((hob.running("one"), hob.running("two")), (one, two));
    hob.shutdown();
}

#[test]
fn random_damage_to_a_good_file_never_panics() {
    // A fixed seed: the same damages every time.
    let good =
        fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/examples/processes/dotcloud.yml")).expect("the example");
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..60 {
        let mut bytes = good.clone();
        for _ in 0..=next() % 4 {
            let at = (next() % bytes.len() as u64) as usize;
            match next() % 3 {
                0 => bytes[at] = (next() % 256) as u8,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, b"\t:{[*&!|>'\"-\n"[(next() % 13) as usize]),
            }
        }
        let ran = check_bytes(&bytes);
        assert!(matches!(ran.code, 0 | 2), "{ran:?}");
    }
}
