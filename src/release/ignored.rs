//! What of a tree is not pushed: `.dotcloudignore`, in the syntax of rsync's exclude files.
//!
//! A pattern with a slash in front counts from the root of the tree, any other from every directory; one with a slash
//! at its end is for directories. `*` stops at slashes, `**` does not. The last pattern that matches decides, and one
//! behind `!` or `+ ` brings back what an earlier one took away; not out of a directory that is itself left out.

use std::fs;
use std::path::Path;

pub struct Ignored {
    rules: Vec<Rule>,
}

struct Rule {
    pattern: String,
    only_directories: bool,
    brings_back: bool,
}

impl Ignored {
    /// The rules of a tree, and the lines that are none.
    pub fn of(dir: &Path) -> (Ignored, Vec<String>) {
        let text = fs::read(dir.join(FILE)).unwrap_or_default();
        Ignored::read(&String::from_utf8_lossy(&text))
    }

    fn read(text: &str) -> (Ignored, Vec<String>) {
        let mut ignored = Ignored { rules: Vec::new() };
        let mut wrong = Vec::new();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';']));
        // Last, so that nothing brings them back.
        for line in lines.chain([".git", ".hg", "*.pyc"]) {
            match rule(line) {
                Some(rule) => ignored.rules.push(rule),
                None => wrong.push(line.to_owned()),
            }
        }
        (ignored, wrong)
    }

    /// Whether a file or directory, named from the root of the tree, is left out.
    pub fn covers(&self, name: &Path, is_directory: bool) -> bool {
        let name = name.to_string_lossy();
        let matching = |rule: &&Rule| {
            (is_directory || !rule.only_directories) && fast_glob::glob_match(rule.pattern.as_str(), name.as_ref())
        };
        self.rules.iter().rev().find(matching).is_some_and(|rule| !rule.brings_back)
    }
}

fn rule(line: &str) -> Option<Rule> {
    let (line, brings_back) = match (line.strip_prefix("- "), line.strip_prefix("+ ").or(line.strip_prefix('!'))) {
        (Some(rest), _) => (rest.trim_start(), false),
        (None, Some(rest)) => (rest.trim_start(), true),
        (None, None) => (line, false),
    };
    let (line, only_directories) = line.strip_suffix('/').map_or((line, false), |line| (line, true));
    // Braces and a `!` in front are characters like others here.
    let plain = line.replace('{', "\\{").replace('}', "\\}");
    let pattern = match plain.strip_prefix('/') {
        Some(rooted) => rooted.to_owned(),
        None if plain.starts_with("**/") => plain,
        None => format!("**/{plain}"),
    };
    let good = !line.is_empty() && line != "/" && fast_glob::validate(pattern.as_str()).is_ok();
    good.then_some(Rule { pattern, only_directories, brings_back })
}

/// Its name, at the root of a tree.
pub const FILE: &str = ".dotcloudignore";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn covers(text: &str, name: &str) -> bool {
        let (name, is_directory) = name.strip_suffix('/').map_or((name, false), |name| (name, true));
        Ignored::read(text).0.covers(Path::new(name), is_directory)
    }

    #[test]
    fn patterns_count_from_everywhere_or_from_the_root() {
        for (text, yes, no) in [
            ("*.log", &["a.log", "x/y/b.log", ".log"][..], &["a.logs", "log"][..]),
            ("/tmp", &["tmp", "tmp/"], &["x/tmp", "tmpx"]),
            ("tmp/", &["tmp/", "x/tmp/"], &["tmp", "x/tmp"]),
            ("a/b", &["a/b", "x/a/b"], &["a/x/b", "b"]),
            ("/a/*/c", &["a/b/c"], &["a/b/b/c", "x/a/b/c"]),
            ("/a/**/c", &["a/b/c", "a/b/b/c"], &["b/c"]),
            ("file[0-9]?", &["file1x", "d/file9."], &["filex1", "file1"]),
            ("{a}", &["{a}"], &["a"]),
            ("# a\n; b\n\n  c  ", &["c"], &["a", "b", "# a"]),
            ("- a\n", &["a"], &["- a"]),
        ] {
            for name in yes {
                assert!(covers(text, name), "{text:?} {name}");
            }
            for name in no {
                assert!(!covers(text, name), "{text:?} {name}");
            }
        }
    }

    #[test]
    fn the_last_pattern_decides_and_some_things_are_never_pushed() {
        assert!(!covers("*.log\n!kept.log", "kept.log") && covers("*.log\n+ kept.log", "other.log"));
        assert!(covers("!*.log\n*.log", "a.log"));
        for never in [".git/", ".hg/", "x/.git", "a.pyc", "d/b.pyc"] {
            assert!(covers("", never) && covers("!*", never), "{never}");
        }
        assert!(!covers("", ".gitignore") && !covers("", "a.py"));
    }

    #[test]
    fn what_is_no_pattern_is_told() {
        assert_eq!(Ignored::read("good\n[a\n/\n!\n").1, ["[a", "/", "!"]);
    }

    proptest! {
        #[test]
        fn no_pattern_and_no_name_makes_it_panic(text in "[a*?/!{}\\[\\]\\\\.+ \n-]{0,30}", name in "[a./{}\\[]{0,12}") {
            let _ = covers(&text, &name);
        }
    }
}
