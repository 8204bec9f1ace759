//! The types of values in a supervisord.conf, as lenient as supervisord is and with its words when it is not
//! (reference/supervisord.md §1.2).

use std::path::{Path, PathBuf};

use super::expand;
use super::kinds;
use super::users::Users;
use crate::plan::{Autorestart, Identity};

type Read<T> = Result<T, String>;

/// As Python's int() takes it: a sign, blanks around, `1_000`.
pub fn integer(text: &str) -> Read<i64> {
    let wrong = || format!("invalid literal for int() with base 10: '{}'", clip(text));
    let digits = text.trim();
    let bare = digits.strip_prefix(['+', '-']).unwrap_or(digits);
    let is_good = !bare.is_empty() && bare.split('_').all(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()));
    if !is_good {
        return Err(wrong());
    }
    let magnitude: i64 = bare.replace('_', "").parse().map_err(|_| wrong())?;
    Ok(if digits.starts_with('-') { -magnitude } else { magnitude })
}

/// A number of which a negative one means none.
pub fn count(text: &str) -> Read<u32> {
    Ok(u32::try_from(integer(text)?.max(0)).unwrap_or(u32::MAX))
}

pub fn priority(text: &str) -> Read<i32> {
    let number = integer(text)?;
    Ok(number.clamp(i32::MIN.into(), i32::MAX.into()) as i32)
}

pub fn boolean(text: &str) -> Read<bool> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "true" | "on" | "1" => Ok(true),
        "no" | "false" | "off" | "0" => Ok(false),
        _ => Err(format!("not a valid boolean value: '{}'", clip(text))),
    }
}

pub fn autorestart(text: &str) -> Read<Autorestart> {
    if text.eq_ignore_ascii_case("unexpected") {
        return Ok(Autorestart::Unexpected);
    }
    match boolean(text) {
        Ok(true) => Ok(Autorestart::Always),
        Ok(false) => Ok(Autorestart::Never),
        Err(_) => Err(format!("invalid 'autorestart' value '{}'", clip(text))),
    }
}

/// `50MB`: with `KB`, `MB` or `GB`, times 1024. A negative size is none.
pub fn bytes(text: &str) -> Read<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let (number, unit) = [("kb", 1 << 10), ("mb", 1 << 20), ("gb", 1 << 30)]
        .into_iter()
        .find_map(|(suffix, unit)| Some((lower.strip_suffix(suffix)?, unit)))
        .unwrap_or((&lower, 1));
    let number = integer(number).map_err(|_| format!("invalid literal for int() with base 10: '{}'", clip(text)))?;
    Ok(u64::try_from(number.max(0)).unwrap_or(0).saturating_mul(unit))
}

pub fn octal(text: &str) -> Read<u32> {
    let digits = text.trim();
    let bare = digits.strip_prefix("0o").or(digits.strip_prefix("0O")).unwrap_or(digits).replace('_', "");
    let is_good = !bare.is_empty() && bare.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let number = u32::from_str_radix(&bare, 8).ok().filter(|n| is_good && *n <= 0o7777);
    number.ok_or_else(|| format!("{} can not be converted to an octal type", clip(text)))
}

pub fn exit_codes(text: &str) -> Read<Vec<u8>> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let code = |part: &str| integer(part).ok().and_then(|n| u8::try_from(n).ok());
    let codes: Option<Vec<u8>> = text.split(',').map(code).collect();
    codes.ok_or_else(|| format!("not a valid list of exit codes: '{}'", clip(text)))
}

/// A name with or without `SIG`, or a number; also 0, by which nothing is sent, as with kill(1).
pub fn signal(text: &str) -> Read<i32> {
    let trimmed = text.trim();
    if trimmed == "0" {
        return Ok(0);
    }
    kinds::signal(trimmed).map_err(|_| match trimmed.parse::<i64>() {
        Ok(_) => format!("value '{}' is not a valid signal number", clip(text)),
        Err(_) => format!("value '{}' is not a valid signal name", clip(text)),
    })
}

/// The parts of a comma-separated list; a comma too many makes an empty one.
pub fn list(text: &str) -> Vec<String> {
    if text.is_empty() { Vec::new() } else { text.split(',').map(|part| part.trim().to_owned()).collect() }
}

/// A name of a process or a group.
pub fn name(text: &str) -> Read<String> {
    let text = text.trim();
    match text.chars().find(|c| matches!(c, ' ' | ':' | '/')) {
        Some(bad) => Err(format!("Invalid name: '{}' because of character: '{bad}'", clip(text))),
        None => Ok(text.to_owned()),
    }
}

/// A user that exists; a number too must stand in the user database.
pub fn user(text: &str, users: &mut Users) -> Read<Identity> {
    let text = text.trim();
    let is_number = text.parse::<u32>().is_ok();
    // A number that nobody has a name for comes back as its own name.
    let found = users.find(text).ok().filter(|user| !(text.contains(':') || is_number && user.name == text));
    found.ok_or_else(|| match is_number {
        true => format!("Invalid user id {}", clip(text)),
        false => format!("Invalid user name {}", clip(text)),
    })
}

/// `user` or `user:group`, names or numbers: uid and, where given, gid.
pub fn owner(text: &str, users: &mut Users) -> Read<(u32, Option<u32>)> {
    let (name, group) = text.split_once(':').map_or((text, None), |(name, group)| (name, Some(group)));
    let uid = user(name, users)?.uid;
    let gid = group.map(|group| users.group(group.trim()).map_err(|_| format!("Invalid group name {}", clip(group))));
    Ok((uid, gid.transpose()?))
}

pub fn existing_directory(text: &str, home: &Path) -> Read<PathBuf> {
    let path = absolute(text, home);
    if path.is_dir() { Ok(path) } else { Err(format!("{} is not an existing directory", clip(text))) }
}

/// A path whose folder exists.
pub fn path(text: &str, home: &Path) -> Read<PathBuf> {
    let path = absolute(text, home);
    match path.parent() {
        Some(parent) if !parent.is_dir() => {
            Err(format!("The directory named as part of the path {} does not exist", clip(text)))
        }
        _ => Ok(path),
    }
}

/// Absolute, `~` expanded.
pub fn absolute(text: &str, home: &Path) -> PathBuf {
    let path = expand::tilde(text, home);
    std::path::absolute(&path).unwrap_or(path)
}

/// What a log file option names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogFile {
    None,
    Auto,
    Syslog,
    At(PathBuf),
}

pub fn log_file(text: &str, home: &Path) -> Read<LogFile> {
    match text.to_ascii_lowercase().as_str() {
        "" | "none" | "off" => Ok(LogFile::None),
        "auto" => Ok(LogFile::Auto),
        "syslog" => Ok(LogFile::Syslog),
        _ => path(text, home).map(LogFile::At),
    }
}

/// Host and port of `9001`, `:9001`, `*:9001`, `host:port`; an empty host is every address.
pub fn inet(text: &str) -> Read<(String, u16)> {
    let text = text.trim();
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    if port.is_empty() {
        return Err(format!("no port number specified in '{}'", clip(port)));
    }
    let host = host.trim_start_matches('[').trim_end_matches(']').to_lowercase();
    let number = integer(port).ok().and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
    // With a blank behind it, which is in the original.
    let number = number.ok_or_else(|| format!("not a valid port number: '{}' ", clip(port)))?;
    Ok((if host == "*" { String::new() } else { host }, number))
}

fn clip(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_pythons() {
        for (text, number) in [("3", 3), (" -3 ", -3), ("+1_000", 1000), ("007", 7)] {
            assert_eq!(integer(text), Ok(number), "{text}");
        }
        for bad in ["", "x", "1.5", "1__0", "_1", "1_", "--1", "0x10", "1 2", "99999999999999999999"] {
            assert_eq!(integer(bad), Err(format!("invalid literal for int() with base 10: '{bad}'")));
        }
        assert_eq!((count("-1"), count("99999999999")), (Ok(0), Ok(u32::MAX)));
    }

    #[test]
    fn sizes_and_modes_and_codes() {
        for (text, size) in [("50MB", 52_428_800), ("1 kb", 1024), ("2GB", 2 << 30), ("0", 0), ("-5", 0), ("12", 12)] {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for bad in ["", "50M", "1.5MB", "1TB", "MB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert_eq!((octal("022"), octal("22"), octal("0o22"), octal(" 7777 ")), (Ok(18), Ok(18), Ok(18), Ok(0o7777)));
        assert_eq!(octal("089"), Err("089 can not be converted to an octal type".into()));
        assert_eq!((exit_codes("0, 2"), exit_codes("")), (Ok(vec![0, 2]), Ok(vec![])));
        assert_eq!(exit_codes("0,256"), Err("not a valid list of exit codes: '0,256'".into()));
        assert!(exit_codes("0,").is_err());
    }

    #[test]
    fn words_are_taken_in_any_case() {
        assert_eq!((boolean("Yes"), boolean("OFF")), (Ok(true), Ok(false)));
        assert_eq!(boolean("maybe"), Err("not a valid boolean value: 'maybe'".into()));
        assert_eq!(autorestart("UNEXPECTED"), Ok(Autorestart::Unexpected));
        assert_eq!(autorestart("sometimes"), Err("invalid 'autorestart' value 'sometimes'".into()));
        assert_eq!((signal("sigint"), signal("15"), signal("0"), signal("RTMIN")), (Ok(2), Ok(15), Ok(0), Ok(34)));
        assert_eq!(signal("SIGFOO"), Err("value 'SIGFOO' is not a valid signal name".into()));
        assert_eq!(signal("99"), Err("value '99' is not a valid signal number".into()));
        assert!(signal("RTMIN+1").is_err());
        assert_eq!(log_file("None", Path::new("/")), Ok(LogFile::None));
    }

    #[test]
    fn addresses_have_a_port_and_perhaps_a_host() {
        let good = [("9001", "", 9001), (":9001", "", 9001), ("*:9001", "", 9001), ("LocalHost:1", "localhost", 1)];
        for (text, host, port) in good {
            assert_eq!(inet(text), Ok((host.to_owned(), port)), "{text}");
        }
        assert_eq!(inet("[::1]:7"), Ok(("::1".to_owned(), 7)));
        assert_eq!(inet("h:x"), Err("not a valid port number: 'x' ".into()));
        assert_eq!(inet(""), Err("no port number specified in ''".into()));
        assert_eq!(inet("h:"), Err("no port number specified in ''".into()));
        assert_eq!(inet("0"), Err("not a valid port number: '0' ".into()));
        assert!(inet("65536").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_a_reader_panic(text in "\\PC{0,20}") {
            let home = Path::new("/");
            let _ = (integer(&text), bytes(&text), octal(&text), exit_codes(&text), signal(&text), boolean(&text));
            let _ = (inet(&text), log_file(&text, home), name(&text), list(&text), autorestart(&text));
        }
    }
}
