//! What hob itself expands in values: `~` and `$NAME`. Command lines are left to `command` and the shell.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// `~` and `~/x` with the home in front; anything else unchanged.
pub fn tilde(text: &str, home: &Path) -> PathBuf {
    match text.strip_prefix('~') {
        Some("") => home.to_owned(),
        Some(rest) if rest.starts_with('/') => home.join(rest.trim_start_matches('/')),
        _ => PathBuf::from(text),
    }
}

/// Without `.` and `..`, by the text alone.
pub fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out
}

/// A path of an instance: variables, then `~`, and relative to its home.
pub fn path(text: &str, home: &Path, env: &BTreeMap<String, String>) -> Result<PathBuf, String> {
    Ok(home.join(tilde(&variables(text, env)?, home)))
}

/// `$NAME` and `${NAME}` replaced, `$$` is a dollar. The error names the variable that is not there, or says what is
/// wrong with the text.
pub fn variables(text: &str, env: &BTreeMap<String, String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let after = &after[1..];
        if let Some(more) = after.strip_prefix('$') {
            out.push('$');
            rest = more;
            continue;
        }
        let (name, more) = match after.strip_prefix('{') {
            Some(inner) => inner.split_once('}').ok_or_else(|| "\"${\" has no \"}\"".to_owned())?,
            None => after.split_at(after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len())),
        };
        if name.is_empty() {
            return Err("\"$\" without a name; write \"$$\" for a dollar".to_owned());
        }
        match env.get(name) {
            Some(value) => out.push_str(value),
            None => return Err(format!("there is no variable {}", super::value::quoted(name))),
        }
        rest = more;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_and_tildes_are_replaced() {
        let env = BTreeMap::from([("PORT_WWW".to_owned(), "42800".to_owned())]);
        assert_eq!(variables("http://h:$PORT_WWW/${PORT_WWW}$$x", &env).unwrap(), "http://h:42800/42800$x");
        assert_eq!(variables("$PORT_WW", &env).unwrap_err(), "there is no variable \"PORT_WW\"");
        assert_eq!(variables("a$", &env).unwrap_err(), "\"$\" without a name; write \"$$\" for a dollar");
        assert_eq!(variables("${a", &env).unwrap_err(), "\"${\" has no \"}\"");
        let home = Path::new("/h");
        assert_eq!(tilde("~", home), home);
        assert_eq!(tilde("~//x", home), Path::new("/h/x"));
        assert_eq!(tilde("~x", home), Path::new("~x"));
        assert_eq!(path("q", home, &env).unwrap(), Path::new("/h/q"));
    }
}
