//! The shell of supervisorctl: a prompt, and on a terminal line editing, history and completion.

use std::cell::OnceCell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Editor, Helper};

use super::supervisorctl::{Completes, Ctl, Info, all_actions, processes, say};
use super::supervisorctl_server::Server;

/// Lines of history that are kept.
const KEPT: usize = 1000;
/// Of a history file that is read; more is not ours.
const HISTORY_BYTES: u64 = 1 << 20;

/// Until quit, Ctrl-C or the end of input.
pub fn run(ctl: &mut Ctl, prompt: &str, history_file: Option<&Path>) {
    let prompt = format!("{prompt}> ");
    ctl.line("status");
    let is_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    match is_terminal.then(|| Lines::new(history_file)).flatten() {
        Some(mut lines) => {
            while let Some(line) = lines.next(ctl, &prompt) {
                if ctl.line(&line) {
                    break;
                }
            }
            if let Some(file) = history_file {
                lines.save(file);
            }
        }
        None => loop {
            let line = ctl.ask(&prompt).unwrap_or_else(|| "EOF".to_owned());
            if ctl.line(&line) {
                return;
            }
        },
    }
}

/// Lines typed on a terminal.
struct Lines {
    editor: Editor<Words, MemHistory>,
    history: Vec<String>,
}

impl Lines {
    /// Nothing if the terminal cannot do it.
    fn new(history_file: Option<&Path>) -> Option<Lines> {
        let config = Config::builder().completion_type(CompletionType::List).max_history_size(KEPT).ok()?.build();
        let editor = Editor::with_history(config, MemHistory::new()).ok()?;
        let mut lines = Lines { editor, history: Vec::new() };
        for line in history_file.map(read_history).unwrap_or_default() {
            lines.remember(line);
        }
        Some(lines)
    }

    /// `None` after Ctrl-C; the end of input is the line `EOF`.
    fn next(&mut self, ctl: &Ctl, prompt: &str) -> Option<String> {
        // What can be completed is asked for anew after each action, and only if somebody wants it.
        let server = Server { url: ctl.server.url.clone(), login: ctl.server.login.clone() };
        self.editor.set_helper(Some(Words { server, known: OnceCell::new() }));
        match self.editor.readline(prompt) {
            Ok(line) => {
                if !line.trim().is_empty() {
                    self.remember(line.clone());
                }
                Some(line)
            }
            Err(ReadlineError::Eof) => Some("EOF".to_owned()),
            Err(_) => {
                say("");
                None
            }
        }
    }

    fn remember(&mut self, line: String) {
        let _ = self.editor.add_history_entry(line.as_str());
        if self.history.last() != Some(&line) {
            self.history.push(line);
        }
    }

    /// A line each, as Python's readline keeps them, so that both can use the same file.
    fn save(&self, file: &Path) {
        let kept = self.history.len().saturating_sub(KEPT);
        let text: String = self.history[kept..].iter().map(|line| format!("{line}\n")).collect();
        let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file);
        if let Err(why) = opened.and_then(|mut opened| opened.write_all(text.as_bytes())) {
            let _ = writeln!(io::stderr(), "supervisorctl: cannot keep the history in {}: {why}", file.display());
        }
    }
}

fn read_history(file: &Path) -> Vec<String> {
    let mut bytes = Vec::new();
    // A pipe or a device would keep us waiting.
    let is_file = fs::metadata(file).is_ok_and(|meta| meta.is_file());
    if is_file && let Ok(opened) = File::open(file) {
        let _ = opened.take(HISTORY_BYTES).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
}

/// What can be completed.
struct Words {
    server: Server,
    known: OnceCell<Vec<Info>>,
}

impl Words {
    fn processes(&self) -> &[Info] {
        self.known.get_or_init(|| processes(&self.server).unwrap_or_default())
    }

    /// The start of the word at the end of `line`, and what it may become.
    fn complete(&self, line: &str) -> (usize, Vec<String>) {
        let start = line.rfind(char::is_whitespace).map_or(0, |at| at + 1);
        let word = &line[start..];
        let completes = match line[..start].split_whitespace().next() {
            None => Completes::Actions,
            Some(name) => {
                let action = all_actions().find(|action| action.name == name);
                action.map_or(Completes::Nothing, |action| action.completes)
            }
        };
        let mut words: Vec<String> = match completes {
            Completes::Nothing => Vec::new(),
            Completes::Actions => all_actions().map(|action| action.name.to_owned()).collect(),
            Completes::Groups => self.processes().iter().map(|info| info.group.clone()).collect(),
            Completes::Processes => process_words(self.processes(), word),
        };
        words.retain(|candidate| candidate.starts_with(word));
        words.sort();
        words.dedup();
        (start, words.into_iter().map(|word| word + " ").collect())
    }
}

fn process_words(all: &[Info], word: &str) -> Vec<String> {
    let mut words = Vec::new();
    for info in all {
        if word.contains(':') || info.name != info.group {
            words.push(format!("{}:{}", info.group, info.name));
            words.push(format!("{}:*", info.group));
        } else {
            words.push(info.name.clone());
        }
    }
    words
}

impl Completer for Words {
    type Candidate = String;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(Words::complete(self, &line[..pos]))
    }
}

impl Hinter for Words {
    type Hint = String;
}

impl Highlighter for Words {}
impl Validator for Words {}
impl Helper for Words {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_processes_and_groups_are_completed_where_they_belong() {
        let info = |group: &str, name: &str| Info { group: group.into(), name: name.into(), ..Info::default() };
        let known = OnceCell::from(vec![info("web", "web_00"), info("web", "web_01"), info("db", "db")]);
        let words = Words { server: Server { url: String::new(), login: Default::default() }, known };
        let shown = |line: &str| words.complete(line);
        assert_eq!(shown("sta"), (0, vec!["start ".into(), "status ".into()]));
        assert_eq!(
            shown("start "),
            (6, vec!["db ".into(), "web:* ".into(), "web:web_00 ".into(), "web:web_01 ".into()])
        );
        assert_eq!(shown("stop x db:"), (7, vec!["db:* ".into(), "db:db ".into()]));
        assert_eq!(shown("update w"), (7, vec!["web ".into()]));
        assert_eq!(shown("help q"), (5, vec!["quit ".into()]));
        assert_eq!(shown("avail "), (6, vec![]));
        assert_eq!(shown("nonsense x"), (9, vec![]));
    }
}
