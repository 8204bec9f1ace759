//! How answers look: columns, lengths, sizes, colour on a terminal.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

/// Lines on stdout. A reader that has left (`| head`) is no error; anything else ends the command, as what it has to say
/// is lost.
pub fn print(text: &str) -> io::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(why) if why.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(why) => {
            tell!("hob: cannot write to standard output: {}", super::talk::reason(&why));
            std::process::exit(111)
        }
        done => done,
    }
}

/// Pads every column but the last to its widest cell.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |n: usize| rows.iter().filter_map(|r| r.get(n)).map(|c| visible_width(c)).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (n, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if n + 1 < row.len() {
                line.extend(std::iter::repeat_n(' ', widths[n] - visible_width(cell) + 2));
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn visible_width(cell: &str) -> usize {
    let mut escaped = false;
    cell.chars()
        .filter(|&c| {
            let shown = !escaped && c != '\x1b';
            escaped = (escaped || c == '\x1b') && c != 'm';
            shown
        })
        .count()
}

/// Asked once: a table of 1,000 rows would ask the kernel 1,000 times.
pub fn has_colour() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    let is_wanted = || {
        std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|value| value != "dumb")
    };
    *ANSWER.get_or_init(|| io::stdout().is_terminal() && is_wanted())
}

pub fn state(state: &str) -> String {
    let colour = match state {
        "RUNNING" => 32,
        "STARTING" | "STOPPING" | "BACKOFF" => 33,
        "FATAL" => 31,
        _ => 2,
    };
    if has_colour() { format!("\x1b[{colour}m{state}\x1b[0m") } else { state.to_owned() }
}

/// `0:03:20`, `2d 0:03:20`: as supervisorctl shows it, with days.
pub fn uptime(secs: f64) -> String {
    let secs = secs.max(0.0) as u64;
    let (days, rest) = (secs / 86400, secs % 86400);
    let clock = format!("{}:{:02}:{:02}", rest / 3600, rest % 3600 / 60, rest % 60);
    if days > 0 { format!("{days}d {clock}") } else { clock }
}

pub fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes}B"),
        1024..1_048_576 => format!("{}K", bytes >> 10),
        1_048_576..1_073_741_824 => format!("{:.1}M", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1}G", bytes as f64 / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_also_with_colour_in_them() {
        let rows = [["a", "\x1b[32mRUN\x1b[0m", "x"], ["long", "STOPPED", "y"]];
        let rows: Vec<Vec<String>> = rows.iter().map(|r| r.iter().map(|c| (*c).to_owned()).collect()).collect();
        assert_eq!(table(&rows), "a     \x1b[32mRUN\x1b[0m      x\nlong  STOPPED  y\n");
    }

    #[test]
    fn lengths_and_sizes_are_short() {
        assert_eq!((uptime(200.9), uptime(90061.0)), ("0:03:20".into(), "1d 1:01:01".into()));
        assert_eq!((size(12), size(2048), size(3 << 20)), ("12B".into(), "2K".into(), "3.0M".into()));
    }
}
