//! What `ready` and `health` ask, to what a probe can ask: variables expanded, addresses checked.

use std::path::Path;

use super::environ::Env;
use super::expand;
use super::options::Question;
use super::value::quoted;
use crate::plan::Ask;

/// Nothing is `notify`, which nobody has to ask. The error says what is wrong with the text of the question.
pub fn ask(question: &Question, env: &Env, home: &Path) -> Result<Option<Ask>, String> {
    Ok(Some(match question {
        Question::Notify => return Ok(None),
        Question::Exec(line) => Ask::Exec(line.clone()),
        Question::Http(url) => Ask::Http(http(&expand::variables(url, env)?, home)?),
        Question::Tcp(to) => Ask::Tcp(tcp(&expand::variables(to, env)?)?),
    }))
}

/// As it was written.
pub fn text(question: &Question) -> &str {
    match question {
        Question::Http(text) | Question::Tcp(text) | Question::Exec(text) => text,
        Question::Notify => "",
    }
}

/// A URL that hob's probe can ask.
fn http(url: &str, home: &Path) -> Result<String, String> {
    if let Some(rest) = url.strip_prefix("unix:") {
        let (socket, path) = rest.split_once(':').unwrap_or((rest, "/"));
        let socket = home.join(expand::tilde(socket, home));
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        return Ok(format!("unix:{}:{path}", socket.display()));
    }
    if url.starts_with("https:") {
        return Err("hob asks in plain http; use exec with curl for https".to_owned());
    }
    let rest = url.strip_prefix("http://").ok_or("it must begin with http:// or unix:")?;
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() || host.contains([' ', '@']) || url.chars().any(|c| c.is_control() || c == ' ') {
        return Err("it has no host, or a blank in it".to_owned());
    }
    if let Some((_, port)) = host.rsplit_once(':')
        && !host.ends_with(']')
        && port.parse::<u16>().is_err()
    {
        return Err(format!("{} is not a port number", quoted(port)));
    }
    Ok(url.to_owned())
}

/// `host:port`; a port alone is on this machine.
fn tcp(to: &str) -> Result<String, String> {
    let (host, port) = to.rsplit_once(':').unwrap_or(("", to));
    match port.parse::<u16>() {
        Ok(1..) => Ok(format!("{}:{port}", if host.is_empty() { "127.0.0.1" } else { host })),
        _ => Err(format!("{} is not a port number", quoted(port))),
    }
}
