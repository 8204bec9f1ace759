//! The option table as text: the lists in dotcloud.yml(5) and hob.toml(5), and `conf/hob.toml`.

use super::options::{HEALTH, Opt, PORT, PROCESS, READY, SERVICE};
use super::settings::{SETTINGS, default_options, is_bare_in_toml};

/// The list of keys of a section, in roff: `service`, `port`, `process`, `ready`, `health` or `settings`.
pub fn options_roff(section: &str) -> String {
    match section {
        "service" => SERVICE.iter().map(|key| entry(key.key, key.kind, key.default, key.doc)).collect(),
        "port" => list(PORT),
        "process" => list(PROCESS),
        "ready" => list(READY),
        "health" => list(HEALTH),
        "settings" => list(SETTINGS),
        _ => String::new(),
    }
}

/// `conf/hob.toml`: every option in a comment, with its default where it has one.
pub fn example_settings() -> String {
    let mut out = String::from(
        "# hob.toml(5): the settings of hob. Every option is here, in a comment, with its default.\n\
         # /etc/hob.toml for root, $XDG_CONFIG_HOME/hob/hob.toml otherwise, or where HOB_CONFIG says.\n",
    );
    for option in SETTINGS {
        match option.key {
            "relay_signals" | "defaults" => {}
            key => toml_entry(&mut out, option, EXAMPLES.iter().find(|(k, _)| *k == key).map(|(_, value)| *value)),
        }
    }
    for option in SETTINGS.iter().filter(|option| option.key == "relay_signals") {
        wrap(&mut out, option.doc);
        out.push_str("[relay_signals]\n# USR1 = [\"www\"]\n");
    }
    for option in SETTINGS.iter().filter(|option| option.key == "defaults") {
        wrap(&mut out, option.doc);
        out.push_str("[defaults]\n");
    }
    for option in default_options() {
        toml_entry(&mut out, option, EXAMPLES.iter().find(|(k, _)| *k == option.key).map(|(_, value)| *value));
    }
    out
}

fn toml_entry<T>(out: &mut String, option: &Opt<T>, example: Option<&str>) {
    wrap(out, option.doc);
    let value = match example {
        Some(example) => example.to_owned(),
        None if is_bare_in_toml(option.default) => option.default.to_owned(),
        None => format!("\"{}\"", option.default),
    };
    out.push_str(&format!("# {} = {value}\n", option.key));
}

/// A comment of its own, after a blank line.
fn wrap(out: &mut String, text: &str) {
    let mut line = String::from("\n#");
    for word in text.split_whitespace() {
        if line.len() + word.len() > 98 {
            out.push_str(&line);
            out.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
}

fn list<T>(table: &[Opt<T>]) -> String {
    table.iter().map(|option| entry(option.key, option.kind, option.default, option.doc)).collect()
}

fn entry(key: &str, kind: &str, default: &str, doc: &str) -> String {
    let default = if default.is_empty() { String::new() } else { format!(" [default: {}]", roff(default)) };
    format!(".TP\n\\fB{}\\fR (\\fI{}\\fR){default}\n{}\n", roff(key), roff(kind), roff(doc))
}

/// Text as roff takes it: no line may begin with a control character.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

/// Shown in `conf/hob.toml` for options that have no fixed default.
const EXAMPLES: &[(&str, &str)] = &[
    ("socket", "\"/run/hob/hob.sock\""),
    ("socket_group", "\"root\""),
    ("listen", "\"127.0.0.1:9001\""),
    ("listen_password", "\"a long one\""),
    ("listen_user", "\"admin\""),
    ("state_dir", "\"/var/lib/hob\""),
    ("log_dir", "\"/var/log/supervisor\""),
    ("home", "\"/home/dotcloud\""),
    ("haproxy", "\"/usr/sbin/haproxy\""),
    ("user", "\"dotcloud\""),
    ("project", "\"hello\""),
    ("startretries", "3"),
    ("environment", "{ LANG = \"C.UTF-8\" }"),
    ("directory", "\"~\""),
    ("nofile", "4096"),
    ("nice", "0"),
    ("oom_score_adj", "0"),
    ("ready", "{ tcp = \"127.0.0.1:$PORT_WWW\", within = \"30s\", timeout = \"5s\" }"),
    ("health", "{ http = \"http://127.0.0.1:$PORT_WWW/\", every = \"10s\", failures = 3, timeout = \"5s\" }"),
    ("memory_limit", "\"500MB\""),
    ("logfile_max_age", "\"30d\""),
];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::super::options::{ProcessOptions, defaults};
    use super::super::settings::{Overrides, settings};
    use super::super::value::Value;
    use super::*;

    fn in_tree(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
    }

    /// Compares a file with what it is generated as, or writes it.
    fn agrees(path: &str, expected: &str) {
        let file = in_tree(path);
        if std::env::var_os("HOB_REGENERATE").is_some() {
            fs::write(&file, expected).unwrap();
        }
        let there = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(there == expected, "{path} is out of date: HOB_REGENERATE=1 cargo test config::manual");
    }

    /// A manual page with each marked list replaced by the one of the table.
    fn with_lists(page: &str) -> String {
        let mut out = String::new();
        let mut skipping = false;
        for line in page.lines() {
            if line.starts_with(".\\\" end of options") {
                skipping = false;
            }
            if !skipping {
                out.push_str(line);
                out.push('\n');
            }
            if let Some(section) = line.strip_prefix(".\\\" options: ") {
                out.push_str(&options_roff(section.trim()));
                skipping = true;
            }
        }
        out
    }

    #[test]
    fn the_manual_pages_hold_the_option_table() {
        for (page, lists) in [("man/dotcloud.yml.5", 5), ("man/hob.toml.5", 1)] {
            let text = fs::read_to_string(in_tree(page)).unwrap();
            assert_eq!(text.matches(".\\\" options: ").count(), lists, "{page}");
            assert_eq!(text.matches(".\\\" end of options").count(), lists, "{page}");
            agrees(page, &with_lists(&text));
        }
    }

    #[test]
    fn the_example_settings_hold_every_option_with_its_default() {
        agrees("conf/hob.toml", &example_settings());
    }

    fn own_options(file: &Path) -> (Option<Value>, String) {
        let flags = Overrides { config: Some(file.to_owned()), ..Overrides::default() };
        let env = std::iter::once(("HOME".to_owned(), "/h".to_owned())).collect();
        let settings = settings(&flags, &env).unwrap_or_else(|problems| panic!("{problems}"));
        let rest = format!(
            "{:?}",
            (settings.exit_when, settings.console, settings.log_level, settings.home_mode, settings.socket_mode)
        );
        (settings.defaults, rest)
    }

    #[test]
    fn the_example_settings_are_the_defaults_and_valid_when_uncommented() {
        let example = in_tree("conf/hob.toml");
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty.toml");
        fs::write(&empty, "").unwrap();
        let (as_shipped, rest) = own_options(&example);
        assert_eq!(rest, own_options(&empty).1);
        assert_eq!(ProcessOptions::layered(&[as_shipped.as_ref()]).0, defaults(PROCESS));

        let text = fs::read_to_string(&example).unwrap();
        let uncomment = |line: &str| match line.strip_prefix("# ") {
            Some(option) if option.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) => option.to_owned(),
            _ => line.to_owned(),
        };
        let open: String = text.lines().map(|line| uncomment(line) + "\n").collect();
        let options = SETTINGS.len() - 2 + 1 + default_options().count();
        assert_eq!(open.lines().filter(|line| line.contains(" = ") && !line.starts_with('#')).count(), options);
        let file = dir.path().join("open.toml");
        fs::write(&file, open).unwrap();
        let (open, rest_open) = own_options(&file);
        assert_eq!(rest_open, rest);
        let (open, problems) = ProcessOptions::layered(&[open.as_ref()]);
        assert!(problems.0.is_empty(), "{problems}");
        // What the table gives a default for keeps it.
        let shipped = defaults(PROCESS);
        assert_eq!((open.startsecs, open.exitcodes, open.umask), (shipped.startsecs, shipped.exitcodes, shipped.umask));
        assert_eq!((open.logfile_maxbytes, open.stopsignal), (shipped.logfile_maxbytes, shipped.stopsignal));
    }
}
