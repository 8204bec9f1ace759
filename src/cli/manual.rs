//! hob(1): the table of commands as a manual page, and what belongs to no single command.

use std::io::Write;

/// The page, from the table of commands.
pub fn page(command: clap::Command) -> String {
    let mut out = Vec::new();
    let _ = clap_mangen::Man::new(command.clone()).render(&mut out);
    for sub in command.get_subcommands().filter(|s| !s.is_hide_set()) {
        let _ = writeln!(out, ".SH \"HOB {}\"", sub.get_name().to_uppercase());
        let sub = sub.clone().bin_name(format!("hob {}", sub.get_name()));
        let has_more = sub.has_subcommands();
        let man = clap_mangen::Man::new(sub);
        let _ = man.render_synopsis_section(&mut out);
        let _ = man.render_description_section(&mut out);
        let _ = man.render_options_section(&mut out);
        if has_more {
            let _ = man.render_subcommands_section(&mut out);
        }
    }
    // All commands are on this page, and none has one of its own.
    let mut text = String::from_utf8_lossy(&out).into_owned();
    let mut inline = |command: &clap::Command, prefix: &str| {
        for sub in command.get_subcommands().chain([&clap::Command::new("help")]) {
            let name = sub.get_name().replace('-', r"\-");
            text = text.replace(&format!("\n{prefix}\\-{name}(1)\n"), &format!("\n{} {name}\n", command.get_name()));
        }
    };
    inline(&command, "hob");
    command.get_subcommands().filter(|sub| sub.has_subcommands()).for_each(|sub| inline(sub, sub.get_name()));
    text + END
}

/// What the table does not know.
const END: &str = r#".SH "EXIT STATUS"
.TP
0
Done.
.TP
1
What was asked about is not so: there is no such name, a start or a deployment has failed.
.TP
2
The command line or a configuration is wrong.
.TP
3
Something that was named is not running (status, signal).
.TP
4
The daemon cannot be reached.
.TP
111
The system refused what hob needs.
.PP
hob run, hob pidproxy and hob boot \-\- CMD end as their command does: with its status, or 128 and the number of the
signal that ended it; 127 if it is not there, 126 if it cannot be executed.
hob boot ends with 0, or as exit_when in hob.toml(5) says.
.SH ENVIRONMENT
.TP
HOB_CONFIG, HOB_SOCKET, HOB_STATE_DIR, HOB_LOG_DIR
As the options \-\-config, \-\-socket, \-\-state\-dir and \-\-log\-dir, which are stronger; hob.toml(5) is weaker.
.TP
HOB_HOME
The home: what hob boot boots without \-\-home, and home of hob.toml(5).
.TP
HOB_LOG
How much hob says of itself on its standard error: off, error, warn, info, debug or trace.
.TP
NO_COLOR
If set, there are no colours on a terminal either.
.SH FILES
.TP
\fI/etc/hob.toml\fR, \fI$XDG_CONFIG_HOME/hob/hob.toml\fR
The settings, of root and of an ordinary user.
.TP
\fI/run/hob/hob.sock\fR, \fI/var/lib/hob\fR, \fI/var/log/supervisor\fR
The control socket, the state and the logs, of root.
.TP
\fI$XDG_RUNTIME_DIR/hob/hob.sock\fR, \fI$XDG_STATE_HOME/hob\fR, \fI$XDG_STATE_HOME/hob/log\fR
Those of an ordinary user.
.SH "SEE ALSO"
dotcloud.yml(5), hob.toml(5), hob\-api(7), supervisord(1), supervisorctl(1)
"#;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::CommandFactory;

    use super::super::Cli;
    use super::*;

    #[test]
    fn the_man_page_is_the_table() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/hob.1");
        if std::env::var_os("HOB_REGENERATE").is_some() {
            std::fs::write(&file, page(Cli::command())).expect("man/hob.1 can be written");
        }
        let written = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            written == page(Cli::command()),
            "man/hob.1 is old: HOB_REGENERATE=1 cargo test the_man_page_is_the_table"
        );
    }
}
