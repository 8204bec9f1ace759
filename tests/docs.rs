//! What the documents say is so: commands, options, paths, variables, and the pages themselves.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::*;

fn text(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn pages() -> Vec<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    let all: Vec<String> =
        fs::read_dir(dir).expect("there").map(|e| e.expect("an entry").path().display().to_string()).collect();
    assert!(!all.is_empty());
    all
}

#[test]
fn the_commands_of_the_readme_exist() {
    let readme = text("README.md");
    let home = Home::bare();
    let help = run(&mut home.command(&["--help"])).expect(0).out;
    let known = |word: &str| help.lines().any(|l| l.split_whitespace().next() == Some(word));
    assert!(known("boot"), "{help}");
    let mut seen = 0;
    for part in readme.split(['`', '\n']) {
        let Some(rest) = part.trim().strip_prefix("hob ") else { continue };
        let word: String = rest.chars().take_while(|c| c.is_ascii_lowercase()).collect();
        if word.is_empty()
            || !rest[word.len()..].chars().next().is_none_or(char::is_whitespace)
            || part.contains("hob is")
        {
            continue;
        }
        // Prose in which the name stands ("hob reaps every orphan") is no command line: those stand alone in a line
        // of a code block or between backquotes.
        let code = readme.contains(&format!("`hob {word}")) || readme.contains(&format!("\nhob {word} "));
        if code && word != "reaps" && word != "needs" {
            assert!(known(&word), "README: hob {word} is not a command");
            seen += 1;
        }
    }
    assert!(seen > 5, "the README's commands were not found");
}

#[test]
fn the_files_that_the_readme_names_exist() {
    let readme = text("README.md");
    let mut seen = 0;
    for word in readme.split(|c: char| c.is_whitespace() || "`()[],;'\"".contains(c)) {
        let word = word.trim_end_matches(['.', ':']);
        if ["conf/", "man/", "tests/", ".ci/", "src/"].iter().any(|p| word.starts_with(p)) {
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(word).exists(), "README: {word} does not exist");
            seen += 1;
        }
    }
    assert!(seen > 2);
}

#[test]
fn the_manual_pages_are_without_a_warning() {
    if !need("mandoc") {
        return;
    }
    for page in pages() {
        let ran = run(Command::new("mandoc").args(["-T", "lint", "-W", "error", &page]));
        assert_eq!(ran.code, 0, "{page}: {}", ran.both());
        let ran = run(Command::new("mandoc").args(["-T", "utf8", &page]));
        assert!(ran.out.len() > 200, "{page} is empty");
    }
}

#[test]
fn the_example_settings_pass_the_check() {
    let home = Home::bare();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/hob.toml");
    run(&mut home.command(&["check", path])).expect(0);
}

#[test]
fn every_option_in_the_example_settings_is_a_real_one_and_in_the_manual() {
    let example = text("conf/hob.toml");
    // What stands under [defaults] is an option of a process.
    let manual = [text("man/hob.toml.5"), text("man/dotcloud.yml.5")].concat().replace("\\-", "-");
    let mut seen = 0;
    for line in example.lines() {
        // An option that is commented out: `#name = value`, without a space as in prose.
        let line = line.trim();
        let bare = line.strip_prefix("# ").or(line.strip_prefix('#')).unwrap_or(line);
        let Some((key, _)) = bare.split_once('=') else { continue };
        let key = key.trim();
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            continue;
        }
        assert!(manual.contains(key), "{key} is not in hob.toml(5)");
        seen += 1;
    }
    assert!(seen > 10, "{seen} options found in conf/hob.toml");
}

#[test]
fn documents_name_nothing_of_the_machine_they_were_written_on() {
    let mut files =
        vec!["README.md".to_string(), "CHANGELOG.md".into(), "conf/hob.toml".into(), "conf/hob.service".into()];
    files.extend(["conf/Containerfile".to_string(), ".ci/run".into()]);
    for file in files {
        let text = text(&file);
        for word in ["/work/", "TODO", "FIXME"] {
            assert!(!text.contains(word), "{file} has {word}");
        }
    }
}
