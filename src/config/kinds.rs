//! The kinds of option values: text to a typed value, or why not. The same for every format.
//!
//! Names shared with supervisord (signals, sizes, octal, exit codes, booleans) read what supervisord reads.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::value::{closest, quoted};
use crate::plan::{Autorestart, ExitWhen};

/// Why a text is not a value of its kind, and the likely fix.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    pub message: String,
    pub hint: Option<String>,
}

type Read<T> = Result<T, Wrong>;

fn wrong<T>(text: &str, what: &str, hint: Option<&str>) -> Read<T> {
    Err(Wrong { message: format!("{} is not {what}", quoted(text)), hint: hint.map(str::to_owned) })
}

/// `yes true on 1`, `no false off 0`, in any case.
pub fn boolean(text: &str) -> Read<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "yes" | "true" | "on" | "1" => Ok(true),
        "no" | "false" | "off" | "0" => Ok(false),
        _ => wrong(text, "true or false", None),
    }
}

pub fn autorestart(text: &str) -> Read<Autorestart> {
    match text.trim().to_ascii_lowercase().as_str() {
        "unexpected" => Ok(Autorestart::Unexpected),
        other => match boolean(other) {
            Ok(true) => Ok(Autorestart::Always),
            Ok(false) => Ok(Autorestart::Never),
            Err(_) => {
                let hint = match other {
                    "always" => Some("did you mean \"true\"?"),
                    "never" => Some("did you mean \"false\"?"),
                    _ => None,
                };
                wrong(text, "true, false or unexpected", hint)
            }
        },
    }
}

pub fn exit_when(text: &str) -> Read<ExitWhen> {
    let words = [("never", ExitWhen::Never), ("any-fatal", ExitWhen::AnyFatal), ("all-exited", ExitWhen::AllExited)];
    word(text, &words)
}

/// A whole number from `least` to `most`; `1_000` is 1000.
pub fn whole(text: &str, least: i64, most: i64) -> Read<i64> {
    let digits = text.trim().replace('_', "");
    match digits.parse::<i64>() {
        Ok(n) if (least..=most).contains(&n) => Ok(n),
        Ok(_) if most == i64::MAX => wrong(text, &format!("at least {least}"), None),
        Ok(_) => wrong(text, &format!("between {least} and {most}"), None),
        Err(_) => wrong(text, "a whole number", None),
    }
}

/// `30s`, `1m30s`, `500ms`, `2h`, `1d`; a bare number, also `0.5`, is seconds.
pub fn duration(text: &str) -> Read<Duration> {
    const HINT: &str = "write 30s, 1m30s or 500ms; a bare number is seconds";
    let no = || wrong(text, "a length of time", Some(HINT));
    let compact = text.trim();
    if compact.is_empty() || !compact.is_ascii() {
        return no();
    }
    let mut total = Duration::ZERO;
    let mut rest = compact;
    let mut smaller_than = u64::MAX;
    while !rest.is_empty() {
        let split = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(split);
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let millis = match unit {
            "ms" => 1,
            "s" => 1000,
            "" if number == compact => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return no(),
        };
        if millis >= smaller_than || !number.starts_with(|c: char| c.is_ascii_digit()) {
            return no();
        }
        smaller_than = millis;
        let Ok(number) = number.parse::<f64>() else { return no() };
        let part = Duration::try_from_secs_f64(number * millis as f64 / 1000.0);
        let Some(sum) = part.ok().and_then(|part| total.checked_add(part)) else { return no() };
        total = sum;
        rest = after;
    }
    if total > LONGEST {
        return wrong(text, "a length of time below ten years", None);
    }
    Ok(total)
}

/// Bytes: a whole number with `KB`, `MB` or `GB` (times 1024), in any case, or none.
pub fn size(text: &str) -> Read<u64> {
    const HINT: &str = "write 1000, 64KB, 50MB or 2GB";
    let compact = text.trim().to_ascii_lowercase();
    let (number, unit) = match compact.get(compact.len().saturating_sub(2)..) {
        Some("kb") => (&compact[..compact.len() - 2], 1u64 << 10),
        Some("mb") => (&compact[..compact.len() - 2], 1 << 20),
        Some("gb") => (&compact[..compact.len() - 2], 1 << 30),
        _ => (compact.as_str(), 1),
    };
    let bytes = number.trim().replace('_', "").parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    match bytes {
        Some(bytes) => Ok(bytes),
        None => wrong(text, "a number of bytes", Some(HINT)),
    }
}

/// Permission bits in octal: `022`, `22`, `0o22`.
pub fn octal(text: &str) -> Read<u32> {
    let digits = text.trim();
    let digits = digits.strip_prefix("0o").or_else(|| digits.strip_prefix("0O")).unwrap_or(digits);
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o777 && !digits.starts_with('+') => Ok(mode),
        _ => wrong(text, "an octal number up to 777", Some("write it as \"022\"")),
    }
}

/// A signal's number, from its name with or without `SIG`, in any case, or its number.
pub fn signal(text: &str) -> Read<i32> {
    let name = text.trim().to_ascii_uppercase();
    let bare = name.strip_prefix("SIG").unwrap_or(&name);
    if let Ok(number) = bare.parse::<i32>() {
        let real_time = (34..=64).contains(&number);
        if Signal::try_from(number).is_ok() || real_time {
            return Ok(number);
        }
    }
    let alias = match bare {
        "CLD" => "CHLD",
        "POLL" => "IO",
        // Names of its signal module that supervisord takes for signals: nothing happens, and hang up.
        "_DFL" => return Ok(0),
        "_IGN" => return Ok(1),
        "RTMIN" => return Ok(34),
        "RTMAX" => return Ok(64),
        bare => bare,
    };
    let short = |signal: Signal| signal.as_str().strip_prefix("SIG").unwrap_or(signal.as_str());
    match Signal::iterator().find(|s| short(*s) == alias) {
        Some(signal) => Ok(signal as i32),
        None => {
            let close = closest(bare, Signal::iterator().map(short));
            Err(Wrong {
                message: format!("{} is not a signal", quoted(text)),
                hint: close.map(|name| format!("did you mean \"{name}\"?")),
            })
        }
    }
}

pub fn exit_code(text: &str) -> Read<u8> {
    let code = whole(text, 0, 255)?;
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}

/// One of a few words.
pub fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Read<T> {
    match words.iter().find(|(word, _)| *word == text.trim()) {
        Some((_, value)) => Ok(*value),
        None => {
            let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let close = closest(text, names.iter().copied());
            Err(Wrong {
                message: format!("{} is not one of {}", quoted(text), names.join(", ")),
                hint: close.map(|name| format!("did you mean \"{name}\"?")),
            })
        }
    }
}

const LONGEST: Duration = Duration::from_secs(10 * 366 * 86_400);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_read_as_written() {
        let good =
            [("30s", 30_000), ("1m30s", 90_000), ("500ms", 500), ("10", 10_000), ("0.5", 500), ("1.5h", 5_400_000)];
        for (text, millis) in good {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "s", "10 s", "1s1m", "-1", "1x", "1m30", "1e9", "9999999d", "..", "١s", "nan", "inf", "1s1s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_supervisords() {
        let good =
            [("50MB", 50 << 20), ("50 mb", 50 << 20), ("1kb", 1024), ("2GB", 2 << 30), ("0", 0), ("1_000", 1000)];
        for (text, bytes) in good {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "MB", "50M", "1.5MB", "-1", "99999999999GB", "1TB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn signals_go_by_name_or_number() {
        for (text, number) in [("TERM", 15), ("sigint", 2), ("9", 9), ("CLD", 17), ("RTMIN", 34), ("40", 40)] {
            assert_eq!(signal(text), Ok(number), "{text}");
        }
        let wrong = signal("TREM").unwrap_err();
        assert_eq!(wrong.message, "\"TREM\" is not a signal");
        assert_eq!(wrong.hint.as_deref(), Some("did you mean \"TERM\"?"));
        for bad in ["", "0", "99", "-1", "33"] {
            assert!(signal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn octal_numbers_are_octal() {
        for text in ["022", "22", "0o22"] {
            assert_eq!(octal(text), Ok(0o22), "{text}");
        }
        for bad in ["", "8", "1000", "-1", "+1", "rw"] {
            assert!(octal(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_reader_panic(text in "\\PC{0,20}") {
            let _ = (boolean(&text), autorestart(&text), whole(&text, 0, 9), duration(&text), size(&text));
            let _ = (octal(&text), signal(&text), exit_code(&text));
        }
    }
}
