//! `[supervisorctl]` of a supervisord.conf: where the daemon is, and who we are to it (reference/supervisord.md §1.5).
//! `[include]` is not followed, as supervisorctl never did.

use std::path::{Path, PathBuf};

use super::environ::Env;
use super::ini;
use super::percent::Names;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CtlSection {
    pub serverurl: Option<String>,
    pub username: Option<String>,
    pub password: Option<String>,
    pub prompt: Option<String>,
    pub history_file: Option<PathBuf>,
    /// `[ctlplugin:x]` sections, which would be Python code in the client.
    pub plugins: Vec<String>,
}

/// Reads the section of a file. The errors are those that both programs print behind `Error: `.
pub fn supervisorctl(file: &Path, env: &Env) -> Result<CtlSection, String> {
    if !file.exists() {
        return Err(format!("could not find config file {}", file.display()));
    }
    let ini = ini::read(file)?;
    if ini.section("supervisorctl").is_none() {
        return Err(".ini file does not include supervisorctl section".into());
    }
    let home = env.get("HOME").map(PathBuf::from).unwrap_or_default();
    let names = Names::of_env(env);
    let mut with_here = names.clone();
    let here = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    with_here.text("here", &here.parent().unwrap_or(Path::new("/")).to_string_lossy());
    let get = |key: &str, names: &Names| match ini.get("supervisorctl", key) {
        Some(entry) => names.expand(&entry.value, &format!("supervisorctl.{key}")).map(Some),
        None => Ok(None),
    };
    let serverurl = get("serverurl", &with_here)?.map(|url| match url.strip_prefix("unix://") {
        Some(path) => format!("unix://{}", path_of(path, &home).display()),
        None => url,
    });
    Ok(CtlSection {
        serverurl,
        username: get("username", &names)?,
        password: get("password", &names)?,
        prompt: get("prompt", &names)?,
        history_file: get("history_file", &with_here)?
            .filter(|text| !text.is_empty())
            .map(|text| path_of(&text, &home)),
        plugins: ini.sections().filter_map(|s| s.name.strip_prefix("ctlplugin:")).map(str::to_owned).collect(),
    })
}

/// Absolute, without `.` and `..`, `~` expanded.
fn path_of(text: &str, home: &Path) -> PathBuf {
    let path = super::expand::tilde(text, home);
    super::expand::clean(&std::path::absolute(&path).unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<CtlSection, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("s.conf");
        std::fs::write(&file, text).unwrap();
        let env = Env::from([("HOME".to_owned(), "/h".to_owned()), ("PW".to_owned(), "secret".to_owned())]);
        let here = dir.path().display().to_string();
        let hide = |text: String| text.replace(&here, "HERE");
        supervisorctl(&file, &env)
            .map_err(hide)
            .map(|section| CtlSection { serverurl: section.serverurl.map(hide), ..section })
    }

    #[test]
    fn the_section_is_read_with_its_expansions() {
        let section = read(
            "[supervisorctl]\nserverurl = unix://%(here)s/x/../s.sock\nusername = u\npassword = %(ENV_PW)s%%\nprompt = my\nhistory_file = ~/.h\n[ctlplugin:x]\n",
        );
        let expected = CtlSection {
            serverurl: Some("unix://HERE/s.sock".into()),
            username: Some("u".into()),
            password: Some("secret%".into()),
            prompt: Some("my".into()),
            history_file: Some("/h/.h".into()),
            plugins: vec!["x".into()],
        };
        assert_eq!(section, Ok(expected));
        let bare = read("[supervisorctl]\nhistory_file =\n[program:a]\ncommand = date +%Y\n");
        assert_eq!(bare, Ok(CtlSection::default()));
    }

    #[test]
    fn what_is_wrong_is_told_in_the_words_of_the_original() {
        assert_eq!(read("[program:a]\n").unwrap_err(), ".ini file does not include supervisorctl section");
        assert_eq!(
            supervisorctl(Path::new("/no/such"), &Env::new()).unwrap_err(),
            "could not find config file /no/such"
        );
        let error = read("[supervisorctl]\nprompt = %(here)s\n").unwrap_err();
        assert_eq!(
            error,
            "Format string '%(here)s' for 'supervisorctl.prompt' contains names ('here') which cannot be expanded"
        );
        assert!(
            read("[supervisorctl]\nfoo\n").unwrap_err().starts_with("Source contains parsing errors: 'HERE/s.conf'")
        );
    }
}
