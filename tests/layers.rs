//! Who may use whom: the arrows of the architecture, read from the source.
//!
//! Looks at the text, not at the compiler's view of it: a path is seen where it is written `crate::name` or in a
//! `use crate::{...}`. Test code (files named `*tests.rs`, and what stands behind `#[cfg(test)]`) may use anything.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A module under `src` and what of hob it may name. A file that is missing here fails the test.
const ARROWS: [(&str, &[&str]); 18] = [
    ("main", &["cli"]),
    (
        "cli",
        &[
            "daemon",
            "config",
            "convert",
            "client",
            "logger",
            "release",
            "probe",
            "pidproxy",
            "init",
            "control",
            "plan",
            "wire",
            "supervisord",
            "getopt",
            "sys",
        ],
    ),
    ("supervisord", &["config", "control", "daemon", "plan", "sys"]),
    ("daemon", &["supervisor", "control", "logger::protocol", "plan", "wire", "sys"]),
    ("control", &["supervisor", "plan", "wire", "xmlrpc", "sys"]),
    ("config", &["plan", "getopt", "sys"]),
    ("convert", &["config", "plan", "sys"]),
    ("client", &["wire", "xmlrpc", "plan", "sys"]),
    ("release", &["config", "wire", "plan", "sys"]),
    ("logger", &["plan", "sys"]),
    ("probe", &["plan", "sys"]),
    ("pidproxy", &["plan", "sys"]),
    ("init", &["sys"]),
    ("supervisor", &["plan"]),
    ("wire", &["plan"]),
    ("xmlrpc", &[]),
    ("getopt", &[]),
    ("plan", &[]),
];

/// What would make the supervisor depend on more than its events and its time.
const NOT_UNDER_SUPERVISOR: [&str; 9] = [
    "Instant::now",
    "SystemTime",
    "std::fs",
    "std::process",
    "std::thread",
    "std::net",
    "std::env",
    "std::os",
    "libc::",
];

#[test]
fn modules_use_only_what_the_architecture_lets_them_use() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let own = module_of(&path);
        let allowed: &[&str] = if own == "sys" {
            &[]
        } else {
            let row = ARROWS.iter().find(|(name, _)| *name == own);
            row.unwrap_or_else(|| panic!("{} is in no row of the table of arrows", path.display())).1
        };
        for used in crate_paths(&code_of(&text)) {
            let first = used.split("::").next().unwrap_or_default();
            if first != own && !allowed.iter().any(|a| used == *a || used.starts_with(&format!("{a}::"))) {
                wrong.push(format!("{}: {own} -> {used}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that must not be:\n{}", wrong.join("\n"));
}

#[test]
fn the_supervisor_has_no_clock_no_file_no_process_and_no_thread() {
    let mut seen = 0;
    for (path, text) in sources() {
        if module_of(&path) != "supervisor" {
            continue;
        }
        seen += 1;
        // `use std::{fs, ...}` would hide the names looked for.
        let code = code_of(&text);
        assert!(!code.contains("use std::{"), "{}: write each std module on its own line", path.display());
        for word in NOT_UNDER_SUPERVISOR {
            assert!(!code.contains(word), "{} names {word}", path.display());
        }
    }
    assert!(seen > 3, "src/supervisor was not looked at");
}

#[test]
fn unsafe_code_is_under_sys_only_and_each_block_says_why_it_is_sound() {
    for (path, text) in sources() {
        let code = code_of(&text);
        let blocks = code.matches("unsafe {").count();
        let reasons = text.matches("SAFETY:").count();
        if module_of(&path) == "sys" {
            assert!(reasons >= blocks, "{}: {blocks} unsafe blocks, {reasons} reasons", path.display());
        } else {
            assert!(blocks == 0 && !code.contains("unsafe fn"), "{} has unsafe code", path.display());
        }
    }
    let main = fs::read_to_string(root().join("src/main.rs")).expect("there");
    assert!(main.contains("#![deny(unsafe_code)]"));
}

#[test]
fn the_reader_of_paths_sees_what_it_must() {
    let code = "use crate::plan::{Plan, Spec};\nuse crate::{wire, logger::protocol::Message, sys::fd};\nlet x = crate::config::load();";
    let seen: BTreeSet<String> = crate_paths(code).into_iter().collect();
    for path in ["wire", "logger::protocol::Message", "sys::fd", "config::load", "plan"] {
        assert!(seen.iter().any(|s| s == path), "{path} is not in {seen:?}");
    }
    let code = code_of("let a = \"crate::x\"; // crate::y\nuse crate::z;\n#[cfg(test)]\nmod tests { use crate::w; }");
    assert_eq!(crate_paths(&code), ["z"]);
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every source file but the test code, with its path below the package.
fn sources() -> Vec<(PathBuf, String)> {
    let mut all = Vec::new();
    let mut dirs = vec![root().join("src")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("src is readable") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_string();
            if path.is_dir() {
                dirs.push(path);
            } else if name.ends_with(".rs") && !name.ends_with("tests.rs") && name != "world.rs" {
                let text = fs::read_to_string(&path).expect("a source file is UTF-8");
                all.push((path.strip_prefix(root()).expect("below it").to_path_buf(), text));
            }
        }
    }
    assert!(all.len() > 20, "src was not found");
    all
}

/// `src/daemon/loop.rs` and `src/daemon.rs` are both `daemon`.
fn module_of(path: &Path) -> String {
    let first = path.components().nth(1).expect("below src").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_string()
}

/// The text without comments, without strings, and without what is compiled for tests only.
fn code_of(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut code = String::new();
    for line in text.lines() {
        let mut in_string = false;
        let mut last = ' ';
        for (at, c) in line.char_indices() {
            if c == '"' && last != '\\' && last != '\'' {
                in_string = !in_string;
            }
            if !in_string && line[at..].starts_with("//") {
                break;
            }
            if !in_string {
                code.push(c);
            }
            last = c;
        }
        code.push('\n');
    }
    code
}

/// What follows each `crate::`, lists in braces taken apart.
fn crate_paths(code: &str) -> Vec<String> {
    let mut all = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with("$") {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut item = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => all.push(std::mem::take(&mut item)),
                    c if depth == 0 && !c.is_whitespace() => item.push(c),
                    _ => {}
                }
            }
            all.push(item);
        } else {
            all.push(rest.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':')).collect());
        }
    }
    let clean = all.into_iter().map(|path| path.trim_end_matches(':').to_string());
    clean.filter(|path| !path.is_empty()).collect()
}
