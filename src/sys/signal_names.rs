//! Signals by the names people use.

use std::str::FromStr;

use nix::sys::signal::Signal;

/// `TERM`, `SIGTERM`, `term` or `15`, up to the last real-time signal. signal(7).
pub fn number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    Signal::from_str(&full).ok().map(|signal| signal as i32)
}

/// `TERM`, or the number of one that has no name of its own.
pub fn name(signal: i32) -> String {
    match Signal::try_from(signal) {
        Ok(known) => known.as_str().trim_start_matches("SIG").to_owned(),
        Err(_) => signal.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_may_be_written_in_any_usual_way() {
        for text in ["TERM", "SIGTERM", "term", "sigterm", "15"] {
            assert_eq!(number(text), Some(15));
        }
        for text in ["TREM", "", "0", "65", "-15", "SIG"] {
            assert_eq!(number(text), None, "{text}");
        }
        assert_eq!((name(1).as_str(), name(40).as_str()), ("HUP", "40"));
    }
}
