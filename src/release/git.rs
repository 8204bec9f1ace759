//! `hob git-init`: a bare repository that deploys what is pushed to it.
//!
//! The hook is pre-receive, not post-receive: a deployment that fails then refuses the push. So the branch always names
//! what was deployed last, `git push` exits with an error, and the same commit can be pushed again; after post-receive
//! git would call it up to date. The hook needs a POSIX shell and git, and uses flock(1) where there is one.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::prepare::Refused;
use super::script::describe;
use super::store::cannot;

/// How the hook reaches the daemon. All paths are absolute.
#[derive(Clone, Debug)]
pub struct Reach {
    pub hob: PathBuf,
    pub settings: Vec<PathBuf>,
    pub socket: PathBuf,
    pub state_dir: PathBuf,
    pub log_dir: PathBuf,
}

/// Makes the repository, or gives an existing one a new hook: what to tell about it.
pub fn init(dir: &Path, branch: Option<&str>, reach: &Reach) -> Result<String, Refused> {
    if let Some(branch) = branch {
        let status = git(&["check-ref-format".as_ref(), "--branch".as_ref(), branch.as_ref()])?;
        if !status.is_fine || branch.starts_with('-') {
            return Err(Refused::one(2, format!("cannot deploy branch {branch:?}: no branch can have this name")));
        }
    }
    let is_new = is_empty(dir)?;
    if is_new {
        let branch = format!("--initial-branch={}", branch.unwrap_or("main"));
        asked(&["init".as_ref(), "--quiet".as_ref(), "--bare".as_ref(), branch.as_ref(), "--".as_ref(), dir.as_ref()])?;
    }
    let dir = fs::canonicalize(dir).map_err(|e| cannot("open", dir, &e))?;
    let is_bare = git(&in_dir(&dir, &["rev-parse", "--is-bare-repository"]))?;
    if !is_bare.is_fine || is_bare.out.trim() != "true" {
        let why = if dir.join(".git").exists() { "it has a work tree" } else { "it is not empty" };
        let why = format!(
            "cannot make a bare repository of {}: {why}; name a directory that is not there yet",
            dir.display()
        );
        return Err(Refused::one(2, why));
    }
    let hook = dir.join("hooks/pre-receive");
    match fs::read(&hook) {
        Ok(text) if !text.windows(MARK.len()).any(|part| part == MARK.as_bytes()) => {
            let why = format!("cannot write {}: there is one that hob has not made; move it away", hook.display());
            return Err(Refused::one(1, why));
        }
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(cannot("read", &hook, &e)),
        _ => {}
    }
    let project = dir.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let text = hook_text(reach, project.strip_suffix(".git").unwrap_or(&project), &dir)?;
    write_hook(&hook, &text).map_err(|e| cannot("write", &hook, &e))?;
    // A hooks directory that a user or the machine has set for all repositories would hide this one.
    asked(&in_dir(&dir, &["config", "core.hooksPath", "hooks"]))?;
    if let Some(branch) = branch.filter(|_| !is_new) {
        asked(&in_dir(&dir, &["symbolic-ref", "HEAD", &format!("refs/heads/{branch}")]))?;
    }
    let branch = asked(&in_dir(&dir, &["symbolic-ref", "--short", "HEAD"]))?.trim().to_owned();
    let shown = dir.display();
    let done = if is_new { "is made, and" } else { "was there: its hook is new. It" };
    Ok(format!(
        "{shown} {done} deploys what is pushed to its branch {branch}\n  \
         git remote add hob {shown}    (HOST:{shown} from another machine)\n  git push hob HEAD:{branch}\n"
    ))
}

fn in_dir<'a>(dir: &'a Path, words: &[&'a str]) -> Vec<&'a OsStr> {
    let mut all = vec![OsStr::new("--git-dir"), dir.as_os_str()];
    all.extend(words.iter().map(|word| OsStr::new(*word)));
    all
}

/// Nothing there yet, or a directory with nothing in it.
fn is_empty(dir: &Path) -> Result<bool, Refused> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(Refused::one(2, format!("cannot make a repository at {}: {}", dir.display(), describe(&e)))),
    }
}

/// Whole or not at all: somebody may be pushing.
fn write_hook(hook: &Path, text: &str) -> io::Result<()> {
    let fresh = hook.with_extension("new");
    fs::create_dir_all(hook.parent().unwrap_or(hook))?;
    let _ = fs::remove_file(&fresh);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, hook)
}

/// In a hook of ours, and in no other.
const MARK: &str = "# Written by hob git-init";

fn hook_text(reach: &Reach, project: &str, dir: &Path) -> Result<String, Refused> {
    let quoted = |path: &Path| {
        let text = path.to_str().filter(|text| !text.contains('\n'));
        let text = text.and_then(|text| shlex::try_quote(text).ok().map(std::borrow::Cow::into_owned));
        text.ok_or_else(|| {
            let why = format!("cannot name {path:?} in a hook: it is not UTF-8, or has a line break");
            Refused::one(2, why)
        })
    };
    let hob = quoted(&reach.hob)?;
    let mut words = vec![hob.clone(), "push".to_owned(), "-".to_owned()];
    words.push(quoted(Path::new(&format!("--project={project}")))?);
    let options = reach.settings.iter().map(|file| ("--config", file)).chain([
        ("--socket", &reach.socket),
        ("--state-dir", &reach.state_dir),
        ("--log-dir", &reach.log_dir),
    ]);
    for (option, path) in options {
        words.extend([option.to_owned(), quoted(path)?]);
    }
    let again = quoted(Path::new(&format!("hob git-init {}", dir.display())))?;
    Ok(HOOK
        .replace("@MARK@", MARK)
        .replace("@AGAIN@", &again)
        .replace("@HOB@", &hob)
        .replace("@PUSH@", &words.join(" ")))
}

const HOOK: &str = r#"#!/bin/sh
@MARK@, and written again by it: changes are lost.
# Deploys what is pushed to the branch that HEAD names. A deployment that fails refuses the push.
hob=@HOB@
branch=$(git symbolic-ref --quiet HEAD) || { echo "hob: HEAD names no branch, so nothing is deployed"; exit 0; }
commit=
while read -r old new ref; do
    case $ref in
    "$branch") commit=$new before=$old ;;
    *) echo "hob: ${ref#refs/*/} is kept and not deployed: only ${branch#refs/heads/} is" ;;
    esac
done
[ -n "$commit" ] || exit 0
case $commit in
*[!0]*) ;;
*) echo "hob: ${branch#refs/heads/} is deleted; what is deployed goes on"; exit 0 ;;
esac
if [ ! -x "$hob" ]; then
    echo "hob: cannot deploy: there is no $hob any more; on this machine run again:" @AGAIN@
    exit 1
fi
# Of two pushes at once the second would be deployed, and then be refused by git.
if command -v flock >/dev/null 2>&1; then
    exec 9>hob.lock
    flock -n 9 || { echo "hob: another push is being deployed: try again when it has ended"; exit 1; }
fi
case $before in *[!0]*) ;; *) before= ;; esac
[ "$(git rev-parse --quiet --verify "$branch")" = "$before" ] || { echo "hob: somebody else has pushed meanwhile: fetch, and push again"; exit 1; }
git archive --format=tar "$commit" 9>&- | {
    # A git that a builder calls must find its own repository, not this one.
    unset $(git rev-parse --local-env-vars)
    exec @PUSH@ 9>&-
}
"#;

/// What a git command has said.
struct Said {
    is_fine: bool,
    out: String,
    err: String,
}

fn git(words: &[&OsStr]) -> Result<Said, Refused> {
    let mut command = Command::new("git");
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"] {
        command.env_remove(name);
    }
    let done = command.args(words).stdin(Stdio::null()).output().map_err(|e| {
        let hint = if e.kind() == io::ErrorKind::NotFound { "; install the package git" } else { "" };
        Refused::one(111, format!("cannot run git: {}{hint}", describe(&e)))
    })?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Said { is_fine: done.status.success(), out: text(done.stdout), err: text(done.stderr) })
}

/// What it prints, where it must not fail.
fn asked(words: &[&OsStr]) -> Result<String, Refused> {
    let said = git(words)?;
    if said.is_fine {
        return Ok(said.out);
    }
    let verb = words.iter().map(|word| word.to_string_lossy()).find(|word| !word.starts_with(['-', '/']));
    let mut errors = vec![format!("git {} failed", verb.unwrap_or_default())];
    errors.extend(said.err.lines().map(|line| format!("  {line}")));
    Err(Refused { errors, status: 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_holds_is_no_shell_code_in_the_hook() {
        let reach = Reach {
            hob: "/o'p t/$(id)/hob".into(),
            settings: vec!["/etc/a b.toml".into()],
            socket: "/run/`x`".into(),
            state_dir: "/s".into(),
            log_dir: "/l".into(),
        };
        let text = hook_text(&reach, "it's", Path::new("/r")).expect("it can be written");
        let line = text.lines().find(|line| line.contains(" push - ")).expect("it pushes").trim();
        let words = shlex::split(line.strip_prefix("exec ").expect("exec").strip_suffix(" 9>&-").expect("closed"));
        let wanted = ["/o'p t/$(id)/hob", "push", "-", "--project=it's", "--config", "/etc/a b.toml", "--socket"];
        assert_eq!(words.expect("words")[..7], wanted);
        assert!(!text.contains('@'), "{text}");
        let bad = Reach { socket: "/a\nb".into(), ..reach };
        assert!(hook_text(&bad, "p", Path::new("/r")).is_err());
    }
}
