//! A command line, looked at with a shell's eyes: does it need a shell, and how much of one?
//!
//! In doubt it needs one. Where the answer is `Words`, a shell would make exactly these words of it.

use std::path::Path;

use crate::plan::CommandKind;

/// What is needed to run a line in a home. The error is a whole sentence about the line.
pub fn classify(line: &str, home: &Path) -> Result<CommandKind, String> {
    let line = line.trim_end_matches('\n');
    let mut scan = Scan::new(line, home);
    match scan.run() {
        Ok(()) => {}
        // A here-document may hold anything, and so may what this reader has lost its way in.
        Err(Stop::Shell) => return Ok(CommandKind::Script),
        Err(Stop::Unclosed(_)) if line.contains("<<") => return Ok(CommandKind::Script),
        Err(Stop::Unclosed(quote)) => return Err(format!("the command has a {quote} without its other half")),
    }
    let Some(first) = scan.words.first() else { return Err("the command is empty".to_owned()) };
    let reserved = !first.quoted && (RESERVED.contains(&first.text.as_str()) || first.text == "[");
    if reserved || first.assigns || (!first.expands && BUILTINS.contains(&first.text.as_str())) {
        return Ok(CommandKind::Script);
    }
    if scan.words.iter().any(|word| word.expands) {
        return Ok(CommandKind::Simple);
    }
    Ok(CommandKind::Words(scan.words.into_iter().map(|word| word.text).collect()))
}

/// Why the reading ended before the end.
enum Stop {
    /// Here is something only a shell understands.
    Shell,
    Unclosed(char),
}

#[derive(Default)]
struct Word {
    text: String,
    /// A quote or backslash in it: no longer a reserved word, nor the start of an assignment.
    quoted: bool,
    /// Something in it is for the shell to replace.
    expands: bool,
    /// `NAME=...`
    assigns: bool,
}

struct Scan<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    home: &'a Path,
    words: Vec<Word>,
    word: Option<Word>,
}

impl<'a> Scan<'a> {
    fn new(line: &'a str, home: &'a Path) -> Scan<'a> {
        Scan { rest: line.chars().peekable(), home, words: Vec::new(), word: None }
    }

    fn run(&mut self) -> Result<(), Stop> {
        while let Some(c) = self.rest.next() {
            match c {
                ' ' | '\t' => self.end_word(),
                '|' | '&' | ';' | '<' | '>' | '(' | ')' | '\n' => return Err(Stop::Shell),
                '#' if self.word.is_none() => {
                    // The comment ends at the line's end, and what follows is a second command.
                    if self.rest.any(|c| c == '\n') {
                        return Err(Stop::Shell);
                    }
                }
                '\'' => self.single()?,
                '"' => self.double()?,
                '\\' => match self.rest.next() {
                    Some('\n') => {}
                    Some(c) => self.push_quoted(c),
                    None => return Err(Stop::Shell),
                },
                '$' => self.dollar()?,
                '`' => self.backquote()?,
                '~' => self.tilde(),
                '*' | '?' | '[' | '{' => {
                    self.current().expands = true;
                    self.push(c);
                }
                '=' => self.equals(),
                _ => self.push(c),
            }
        }
        self.end_word();
        Ok(())
    }

    fn single(&mut self) -> Result<(), Stop> {
        self.current().quoted = true;
        loop {
            match self.rest.next() {
                Some('\'') => return Ok(()),
                Some(c) => self.push(c),
                None => return Err(Stop::Unclosed('\'')),
            }
        }
    }

    fn double(&mut self) -> Result<(), Stop> {
        self.current().quoted = true;
        loop {
            match self.rest.next() {
                Some('"') => return Ok(()),
                Some('\\') => match self.rest.next() {
                    Some('\n') => {}
                    Some(c @ ('$' | '`' | '"' | '\\')) => self.push(c),
                    Some(c) => {
                        self.push('\\');
                        self.push(c);
                    }
                    None => return Err(Stop::Unclosed('"')),
                },
                Some('$') => self.dollar()?,
                Some('`') => self.backquote()?,
                Some(c) => self.push(c),
                None => return Err(Stop::Unclosed('"')),
            }
        }
    }

    /// `$NAME` and `${NAME}` are left to the shell. What can hold quotes and commands of its own (`$(...)`, `${X:-...}`,
    /// `$'...'`) is not read any further.
    fn dollar(&mut self) -> Result<(), Stop> {
        self.current().expands = true;
        match self.rest.peek() {
            Some('(' | '\'' | '"') => Err(Stop::Shell),
            Some('{') => {
                self.rest.next();
                loop {
                    match self.rest.next() {
                        Some('}') => return Ok(()),
                        Some(c) if c.is_ascii_alphanumeric() || "_:-+?=./%#@!,".contains(c) => {}
                        _ => return Err(Stop::Shell),
                    }
                }
            }
            _ => Ok(()),
        }
    }

    /// A command within the command: its quoting is its own.
    fn backquote(&mut self) -> Result<(), Stop> {
        Err(Stop::Shell)
    }

    fn tilde(&mut self) {
        let at_start = self.word.is_none();
        let after_mark = self.word.as_ref().is_some_and(|word| word.text.ends_with(['=', ':']));
        match self.rest.peek() {
            None | Some('/' | ' ' | '\t') if at_start => {
                let home = self.home.to_string_lossy();
                self.current().text.push_str(&home);
            }
            _ => {
                // `~name`, or `a=~/b`, which shells disagree about.
                self.current().expands |= at_start || after_mark;
                self.push('~');
            }
        }
    }

    fn equals(&mut self) {
        let word = self.current();
        let name = word.text.strip_suffix('+').unwrap_or(&word.text);
        let name = name.split('[').next().unwrap_or_default();
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        word.assigns |= is_name && !word.quoted;
        word.text.push('=');
    }

    fn push_quoted(&mut self, c: char) {
        self.current().quoted = true;
        self.push(c);
    }

    fn push(&mut self, c: char) {
        self.current().text.push(c);
    }

    fn current(&mut self) -> &mut Word {
        self.word.get_or_insert_default()
    }

    fn end_word(&mut self) {
        self.words.extend(self.word.take());
    }
}

const RESERVED: &[&str] = &[
    "!", "{", "}", "[[", "case", "coproc", "do", "done", "elif", "else", "esac", "fi", "for", "function", "if", "in",
    "select", "then", "time", "until", "while",
];

/// Of sh and bash. A quoted builtin is one all the same.
const BUILTINS: &[&str] = &[
    ".",
    ":",
    "[",
    "alias",
    "bg",
    "bind",
    "break",
    "builtin",
    "caller",
    "cd",
    "chdir",
    "command",
    "compgen",
    "complete",
    "compopt",
    "continue",
    "declare",
    "dirs",
    "disown",
    "echo",
    "enable",
    "eval",
    "exec",
    "exit",
    "export",
    "false",
    "fc",
    "fg",
    "getopts",
    "hash",
    "help",
    "history",
    "jobs",
    "kill",
    "let",
    "local",
    "logout",
    "mapfile",
    "popd",
    "printf",
    "pushd",
    "pwd",
    "read",
    "readarray",
    "readonly",
    "return",
    "set",
    "shift",
    "shopt",
    "source",
    "suspend",
    "test",
    "times",
    "trap",
    "true",
    "type",
    "typeset",
    "ulimit",
    "umask",
    "unalias",
    "unset",
    "wait",
];

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn kind(line: &str) -> CommandKind {
        classify(line, Path::new("/home/a b")).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    fn words(words: &[&str]) -> CommandKind {
        CommandKind::Words(words.iter().map(|word| (*word).to_owned()).collect())
    }

    #[test]
    fn a_line_without_shell_characters_is_its_words() {
        assert_eq!(kind("~/run"), words(&["/home/a b/run"]));
        assert_eq!(kind("node  server.js\t--port 80"), words(&["node", "server.js", "--port", "80"]));
        assert_eq!(kind("./a 'b c' \"d e\" f\\ g '' # h"), words(&["./a", "b c", "d e", "f g", ""]));
        assert_eq!(
            kind("a \"\\$x \\y\" '$HOME' \\* b~ ~ \\~/x"),
            words(&["a", "$x \\y", "$HOME", "*", "b~", "/home/a b", "~/x"])
        );
        assert_eq!(kind("prog --a=b a=b x#y"), words(&["prog", "--a=b", "a=b", "x#y"]));
        assert_eq!(kind("./a \\\n b\n"), words(&["./a", "b"]));
        assert_eq!(kind("python3 -c 'import x; y()'"), words(&["python3", "-c", "import x; y()"]));
        assert_eq!(kind("'if' x"), words(&["if", "x"]));
    }

    #[test]
    fn what_a_shell_replaces_makes_it_simple() {
        let simple = [
            "memcached -p $PORT_MEMCACHED",
            "a \"$X\"",
            "a ${X}",
            "a ${X:-80}",
            "ls *.py",
            "a b?c",
            "a [ab]",
            "~root/x",
            "$PYTHON app.py",
            "a --dir=~/x",
            "a {b,c}",
            "a $",
            "a \"${X}y\" # z",
        ];
        for line in simple {
            assert_eq!(kind(line), CommandKind::Simple, "{line}");
        }
    }

    #[test]
    fn everything_else_is_a_script() {
        let scripts = [
            "VAR=x cmd",
            "V+=x cmd",
            "V[0]=x cmd",
            "cd d && cmd",
            "a | b",
            "a; b",
            "a & ",
            "a > f",
            "a 2>&1",
            "(a)",
            "a `b`",
            "a $(b)",
            "a \"$(b 'c')\"",
            "if a; then b; fi",
            "! a",
            "{ a; }",
            "while :; do a; done",
            "exec a",
            "\"exec\" a",
            ". ~/x",
            "source x",
            "echo hi",
            "true",
            "a\nb",
            "a # c\nb",
            "a $'b'",
            "a ${X:-'}'}",
            "a ${X:-$Y}",
            "cat <<E\nit's\nE",
            "[ -f x ]",
            "trap 'x' TERM",
            "a \\",
            "time a",
            "VAR=x",
        ];
        for line in scripts {
            assert_eq!(kind(line), CommandKind::Script, "{line}");
        }
    }

    #[test]
    fn a_line_that_no_shell_takes_is_an_error() {
        let error = |line| classify(line, Path::new("/")).unwrap_err();
        assert_eq!(error(""), "the command is empty");
        assert_eq!(error("  # only a comment"), "the command is empty");
        assert_eq!(error("a 'b"), "the command has a ' without its other half");
        assert_eq!(error("a \"b"), "the command has a \" without its other half");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]

        /// The pieces cannot run anything: as arguments of printf they are only ever words.
        #[test]
        fn words_are_what_a_shell_makes_of_the_line(
            pieces in proptest::collection::vec("[-a-c0=~#/:.,%+@^!\\]}'\"\\\\ \t\\$\\*]{0,6}|'[a-c \\$*~#;|]*'|\"[a-c '~#;|*]*\"|\\\\[ ;*~#\"']", 0..7)
        ) {
            let line = format!("prog {}", pieces.join(" "));
            let home = "/home/a b";
            if let Ok(CommandKind::Words(words)) = classify(&line, Path::new(home)) {
                let script = format!("printf '%s\\0' {line}");
                for shell in ["sh", "bash"] {
                    let Ok(output) = Command::new(shell).arg("-c").arg(&script).env("HOME", home).output() else { continue };
                    let expected: String = words.iter().map(|word| format!("{word}\0")).collect();
                    prop_assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{}: {}", shell, line);
                }
            }
        }

        #[test]
        fn any_line_has_an_answer(line in "\\PC{0,60}") {
            let _ = classify(&line, Path::new("/home/x"));
        }
    }
}
