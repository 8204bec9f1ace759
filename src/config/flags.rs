//! The command line of `supervisord`, as classic getopt takes it (reference/supervisord.md §1.6): long names may be
//! abbreviated, a value may stick to its letter, nothing may come twice. One table; the usage text is made of it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::getopt;

/// One flag.
struct Flag {
    /// Its letter; for a flag that has none, one that cannot be typed.
    letter: char,
    long: &'static str,
    /// What the value is called, if there is one.
    value: &'static str,
    doc: &'static str,
}

impl Flag {
    fn as_getopt(&self) -> getopt::Flag {
        let short = if LONG_ONLY.contains(&self.letter) { '\0' } else { self.letter };
        getopt::Flag { short, long: self.long, takes_value: !self.value.is_empty() }
    }
}

const fn flag(letter: char, long: &'static str, value: &'static str, doc: &'static str) -> Flag {
    Flag { letter, long, value, doc }
}

const FLAGS: &[Flag] = &[
    flag('c', "configuration", "FILENAME", "the configuration file; without it the usual places are searched"),
    flag('n', "nodaemon", "", "run in the foreground (same as 'nodaemon=true' in the file)"),
    flag('s', "silent", "", "with -n: do not copy the log to stdout (same as 'silent=true')"),
    flag('h', "help", "", "print this text and exit"),
    flag('v', "version", "", "print the version and exit"),
    flag('u', "user", "USER", "run as this user, by name or number"),
    flag('m', "umask", "UMASK", "the umask of the daemon and its children (default 022)"),
    flag('d', "directory", "DIRECTORY", "change to this directory"),
    flag('l', "logfile", "FILENAME", "the log of the daemon itself"),
    flag('y', "logfile_maxbytes", "BYTES", "the size at which that log is rotated; 0: never"),
    flag('z', "logfile_backups", "NUM", "how many rotated ones are kept"),
    flag('e', "loglevel", "LEVEL", "critical, error, warn, info, debug, trace or blather"),
    flag('j', "pidfile", "FILENAME", "where the pid is written"),
    flag('i', "identifier", "STR", "the name of this supervisord"),
    flag('q', "childlogdir", "DIRECTORY", "the directory of automatic child logs"),
    flag('k', "nocleanup", "", "keep automatic child logs of an earlier run"),
    flag('a', "minfds", "NUM", "the number of open files to make possible"),
    flag('t', "strip_ansi", "", "take escape sequences out of child logs"),
    flag('T', "test", "", "tell what is wrong with the configuration, and exit: 0 if nothing is"),
    flag('p', "minprocs", "NUM", "the number of processes to make possible"),
    flag('o', "profile_options", "LIST", "accepted, and of no effect"),
];

/// Where help stands among them.
const HELP: usize = 3;

/// Flags without a letter of their own.
const LONG_ONLY: &[char] = &['T', 'p', 'o'];

/// What was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    given: BTreeMap<char, String>,
}

impl Flags {
    pub fn has(&self, letter: char) -> bool {
        self.given.contains_key(&letter)
    }

    pub fn value(&self, letter: char) -> Option<&str> {
        self.given.get(&letter).map(String::as_str)
    }

    pub fn configuration(&self) -> Option<PathBuf> {
        self.value('c').map(PathBuf::from)
    }

    /// Reads the words behind the program's name.
    pub fn parse(args: &[String]) -> Result<Flags, String> {
        let mut table: Vec<getopt::Flag> = FLAGS.iter().map(Flag::as_getopt).collect();
        table.push(getopt::Flag { short: '?', long: "", takes_value: false });
        let (given, rest) = getopt::parse(&table, args)?;
        let mut flags = Flags::default();
        for (flag, value) in given {
            // `-?` is help by another letter.
            let own = FLAGS.iter().find(|own| own.long == flag.long).unwrap_or(&FLAGS[HELP]);
            let shown = if flag.short == '\0' { format!("--{}", own.long) } else { format!("-{}", flag.short) };
            flags.put(own, value, &shown)?;
        }
        if rest.is_empty() {
            Ok(flags)
        } else {
            Err(format!("positional arguments are not supported: ['{}']", rest.join("', '")))
        }
    }

    fn put(&mut self, flag: &Flag, value: String, shown: &str) -> Result<(), String> {
        match self.given.insert(flag.letter, value) {
            Some(_) => Err(format!("conflicting command line option '{shown}'")),
            None => Ok(()),
        }
    }
}

/// What `-h` prints.
pub fn usage(program: &str) -> String {
    let mut text =
        format!("{program} -- run a set of applications as daemons.\n\nUsage: {program} [options]\n\nOptions:\n");
    for flag in FLAGS {
        let space = if flag.value.is_empty() { "" } else { " " };
        let short = if LONG_ONLY.contains(&flag.letter) { String::new() } else { format!("-{}/", flag.letter) };
        text.push_str(&format!("{short}--{}{space}{} -- {}\n", flag.long, flag.value, flag.doc));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Flags, String> {
        Flags::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn short_and_long_glued_and_abbreviated() {
        let flags = parse("-nc /x.conf --loglev=debug --minprocs 5 -l/y.log").unwrap();
        assert!(flags.has('n') && !flags.has('s'));
        assert_eq!(flags.configuration(), Some(PathBuf::from("/x.conf")));
        assert_eq!((flags.value('e'), flags.value('p'), flags.value('l')), (Some("debug"), Some("5"), Some("/y.log")));
        assert!(parse("-?").unwrap().has('h'));
    }

    #[test]
    fn what_is_wrong_is_said_as_getopt_says_it() {
        for (text, error) in [
            ("-Z", "option -Z not recognized"),
            ("-p 5", "option -p not recognized"),
            ("--nope", "option --nope not recognized"),
            ("--lo debug", "option --lo not a unique prefix"),
            ("-c", "option -c requires argument"),
            ("--nodaemon=x", "option --nodaemon must not have an argument"),
            ("-n -n", "conflicting command line option '-n'"),
            ("start x", "positional arguments are not supported: ['start', 'x']"),
            ("-n -- x", "positional arguments are not supported: ['x']"),
        ] {
            assert_eq!(parse(text), Err(error.to_owned()), "{text}");
        }
    }
}
