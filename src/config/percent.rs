//! `%(name)s` in the values of a supervisord.conf: Python's `%` formatting with named values
//! (reference/supervisord.md §1.3). Pure text to text.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::value::closest;

/// A padded number of more digits than this is a mistake, not a value.
const MAX_WIDTH: usize = 4096;

/// What stands behind a name. A number can be formatted as text, but text not as a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    Text(String),
    Number(i64),
}

/// The names that a value may use.
#[derive(Clone, Debug, Default)]
pub struct Names(BTreeMap<String, Named>);

impl Names {
    /// The variables of an environment as `ENV_NAME`.
    pub fn of_env<'a>(env: impl IntoIterator<Item = (&'a String, &'a String)>) -> Names {
        let mut names = Names::default();
        names.add_env(env);
        names
    }

    pub fn add_env<'a>(&mut self, env: impl IntoIterator<Item = (&'a String, &'a String)>) {
        for (name, value) in env {
            self.text(&format!("ENV_{name}"), value);
        }
    }

    pub fn text(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), Named::Text(value.to_owned()));
    }

    pub fn number(&mut self, name: &str, value: i64) {
        self.0.insert(name.to_owned(), Named::Number(value));
    }

    /// `text` with every name replaced. `option` is what the error calls it: `program:a.command`.
    pub fn expand(&self, text: &str, option: &str) -> Result<String, String> {
        expand(text, &self.0).map_err(|wrong| {
            let text = shown(text);
            match wrong {
                // Only names that may have been meant: all of them would tell the whole environment (reference §12).
                Wrong::Unknown(name) => {
                    let near = closest(&name, self.0.keys().map(String::as_str));
                    let near = near.map(|near| format!("; did you mean '{near}'?")).unwrap_or_default();
                    format!(
                        "Format string '{text}' for '{option}' contains names ('{}') which cannot be expanded{near}",
                        shown(&name)
                    )
                }
                Wrong::Bad(why) => format!("Format string '{text}' for '{option}' is badly formatted: {why}"),
            }
        })
    }
}

enum Wrong {
    Unknown(String),
    Bad(String),
}

fn bad<T>(why: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong::Bad(why.into()))
}

/// What stands between `%` and the letter of the conversion.
#[derive(Default)]
struct Format {
    left: bool,
    zero: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
}

fn expand(text: &str, names: &BTreeMap<String, Named>) -> Result<String, Wrong> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().enumerate().peekable();
    while let Some((_, c)) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut name = None;
        if chars.next_if(|&(_, c)| c == '(').is_some() {
            let (mut depth, mut inner) = (1, String::new());
            for (_, c) in chars.by_ref() {
                depth += i32::from(c == '(') - i32::from(c == ')');
                if depth == 0 {
                    break;
                }
                inner.push(c);
            }
            if depth > 0 {
                return bad("incomplete format key");
            }
            name = Some(inner);
        }
        let mut format = Format::default();
        while let Some((_, flag)) = chars.next_if(|&(_, c)| "-0+ #".contains(c)) {
            match flag {
                '-' => format.left = true,
                '0' => format.zero = true,
                '+' => format.plus = true,
                ' ' => format.space = true,
                _ => format.alternate = true,
            }
        }
        format.width = digits(&mut chars)?.unwrap_or(0);
        if chars.next_if(|&(_, c)| c == '.').is_some() {
            format.precision = Some(digits(&mut chars)?.unwrap_or(0));
        }
        // The length of a C type means nothing here.
        chars.next_if(|&(_, c)| "hlL".contains(c));
        let Some((at, conversion)) = chars.next() else { return bad("incomplete format") };
        match (conversion, name) {
            ('%', None) => out.push('%'),
            ('%', Some(_)) => return unsupported('%', at),
            (_, Some(name)) => match names.get(&name) {
                Some(value) => out.push_str(&convert(conversion, at, &format, value)?),
                None => return Err(Wrong::Unknown(name)),
            },
            (c, None) if "diouxXeEfFgGcrsa".contains(c) => return bad("a % without a name; write %% for a percent"),
            (_, None) => return unsupported(conversion, at),
        }
    }
    Ok(out)
}

fn digits(chars: &mut std::iter::Peekable<impl Iterator<Item = (usize, char)>>) -> Result<Option<usize>, Wrong> {
    let mut number = None;
    while let Some((_, c)) = chars.next_if(|(_, c)| c.is_ascii_digit()) {
        let value = number.unwrap_or(0) * 10 + (c as usize - '0' as usize);
        if value > MAX_WIDTH {
            return bad("width too big");
        }
        number = Some(value);
    }
    Ok(number)
}

fn unsupported<T>(conversion: char, at: usize) -> Result<T, Wrong> {
    bad(format!("unsupported format character '{conversion}' (0x{:x}) at index {at}", conversion as u32))
}

fn convert(conversion: char, at: usize, format: &Format, value: &Named) -> Result<String, Wrong> {
    match (conversion, value) {
        ('s', Named::Text(text)) => Ok(pad_text(text, format)),
        ('s' | 'r' | 'a', Named::Number(number)) => Ok(pad_text(&number.to_string(), format)),
        ('r' | 'a', Named::Text(text)) => Ok(pad_text(&format!("'{text}'"), format)),
        ('c', Named::Text(text)) if text.chars().count() == 1 => Ok(pad_text(text, format)),
        ('c', Named::Number(number)) => match u32::try_from(*number).ok().and_then(char::from_u32) {
            Some(c) => Ok(pad_text(c.encode_utf8(&mut [0; 4]), format)),
            None => bad("%c arg not in range(0x110000)"),
        },
        ('c', Named::Text(_)) => bad("%c requires int or char"),
        ('d' | 'i' | 'u' | 'o' | 'x' | 'X' | 'f' | 'F' | 'e' | 'E', Named::Text(_)) => {
            bad(format!("%{conversion} format: a real number is required, not str"))
        }
        ('d' | 'i' | 'u' | 'o' | 'x' | 'X', Named::Number(number)) => Ok(pad_integer(conversion, *number, format)),
        ('f' | 'F' | 'e' | 'E', Named::Number(number)) => {
            let precision = format.precision.unwrap_or(6);
            let magnitude = number.unsigned_abs() as f64;
            let digits = match conversion {
                'f' | 'F' => format!("{magnitude:.precision$}"),
                exponent => {
                    let text = format!("{magnitude:.precision$e}");
                    let (mantissa, power) = text.split_once('e').unwrap_or((&text, "0"));
                    format!("{mantissa}{exponent}+{power:0>2}")
                }
            };
            Ok(pad_number(*number < 0, "", &digits, format))
        }
        _ => unsupported(conversion, at),
    }
}

fn pad_text(text: &str, format: &Format) -> String {
    let text: Cow<'_, str> = match format.precision {
        Some(most) => text.chars().take(most).collect::<String>().into(),
        None => text.into(),
    };
    let width = format.width;
    if format.left { format!("{text:<width$}") } else { format!("{text:>width$}") }
}

fn pad_integer(conversion: char, number: i64, format: &Format) -> String {
    let magnitude = number.unsigned_abs();
    let (digits, prefix) = match conversion {
        'o' => (format!("{magnitude:o}"), "0o"),
        'x' => (format!("{magnitude:x}"), "0x"),
        'X' => (format!("{magnitude:X}"), "0X"),
        _ => (magnitude.to_string(), ""),
    };
    let least = format.precision.unwrap_or(0);
    pad_number(number < 0, if format.alternate { prefix } else { "" }, &format!("{digits:0>least$}"), format)
}

/// A sign and a prefix stand before the zeros of the padding.
fn pad_number(is_negative: bool, prefix: &str, digits: &str, format: &Format) -> String {
    let sign = match is_negative {
        true => "-",
        false if format.plus => "+",
        false if format.space => " ",
        false => "",
    };
    let width = format.width;
    if format.zero && !format.left {
        let rest = width.saturating_sub(sign.len() + prefix.len());
        return format!("{sign}{prefix}{digits:0>rest$}");
    }
    let whole = format!("{sign}{prefix}{digits}");
    if format.left { format!("{whole:<width$}") } else { format!("{whole:>width$}") }
}

fn shown(text: &str) -> String {
    let short: String = text.chars().take(200).collect();
    short.replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> Names {
        let mut names = Names::of_env([(&"HOME".to_owned(), &"/root".to_owned())]);
        names.text("program_name", "web");
        names.number("process_num", 7);
        names
    }

    fn expanded(text: &str) -> Result<String, String> {
        names().expand(text, "program:web.command")
    }

    // Expected values are Python's.
    #[test]
    fn names_are_replaced_as_python_does_it() {
        let cases = [
            ("plain", "plain"),
            ("%(program_name)s_%(process_num)02d", "web_07"),
            ("%(process_num)s", "7"),
            ("100%%", "100%"),
            ("%(ENV_HOME)s/x", "/root/x"),
            ("[%(program_name)5s|%(program_name)-5s|%(program_name).2s]", "[  web|web  |we]"),
            (
                "[%(process_num)+d|%(process_num) d|%(process_num)-4d|%(process_num)05d|%(process_num).3d]",
                "[+7| 7|7   |00007|007]",
            ),
            ("%(process_num)x %(process_num)#o %(process_num)ld", "7 0o7 7"),
            ("%(process_num)f %(process_num).1e", "7.000000 7.0e+00"),
            ("%(program_name)r", "'web'"),
        ];
        for (text, expected) in cases {
            assert_eq!(expanded(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_expanded_is_told_without_telling_the_environment() {
        let error = expanded("%(programm_name)s").expect_err("unknown");
        assert_eq!(
            error,
            "Format string '%(programm_name)s' for 'program:web.command' contains names ('programm_name') which cannot be expanded; did you mean 'program_name'?"
        );
        let error = expanded("%(zzz)s").expect_err("unknown");
        assert!(!error.contains("ENV_") && !error.contains("/root"), "{error}");
        let cases = [
            ("date +%Y", "unsupported format character 'Y' (0x59) at index 7"),
            ("%(process_num)%", "unsupported format character '%' (0x25) at index 14"),
            ("50%", "incomplete format"),
            ("%(x", "incomplete format key"),
            ("%(program_name)d", "%d format: a real number is required, not str"),
            ("%s", "a % without a name; write %% for a percent"),
            ("%(process_num)99999d", "width too big"),
        ];
        for (text, why) in cases {
            let error = expanded(text).expect_err(text);
            assert_eq!(error, format!("Format string '{text}' for 'program:web.command' is badly formatted: {why}"));
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[%()a-z0-9.#+ -]{0,40}") {
            let _ = expanded(&text);
        }
    }
}
