//! Values of the tree to typed values: the readers that the option table names.
//!
//! A message continues a sentence that begins with the key.

use std::time::Duration;

use super::kinds::{self, Wrong};
use super::options::{At, Opt, ProbeOptions, Question, apply, defaults};
use super::value::{Data, Place, Problem, Problems, Value, quoted};

/// Takes a value over, for the table.
pub fn put<T>(slot: &mut T, value: T) -> Result<(), Problems> {
    *slot = value;
    Ok(())
}

pub fn ask(options: &mut ProbeOptions, at: &Place, question: Question) -> Result<(), Problems> {
    options.asks.push(At { value: question, at: at.clone() });
    Ok(())
}

/// A scalar, read by the reader of its kind.
pub fn scalar<T>(value: &Value, read: impl Fn(&str) -> Result<T, Wrong>) -> Result<T, Problem> {
    let text = text(value)?;
    read(&text).map_err(|wrong| Problem { at: value.at.clone(), message: wrong.message, hint: wrong.hint })
}

/// The source text of a scalar that is there.
pub fn text(value: &Value) -> Result<String, Problem> {
    if let Data::List(_) | Data::Map(_) = value.data {
        return Err(Problem::new(&value.at, format!("must be a single value, not a {}", value.type_word())));
    }
    match value.text() {
        Some(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        _ => Err(Problem::new(&value.at, "has no value").hint("give one, or remove the line")),
    }
}

pub fn located(value: &Value) -> Result<At<String>, Problem> {
    Ok(At { value: text(value)?, at: value.at.clone() })
}

pub fn number<N: TryFrom<i64>>(value: &Value, least: i64, most: i64) -> Result<N, Problem> {
    let n = scalar(value, |text| kinds::whole(text, least, most))?;
    N::try_from(n).map_err(|_| Problem::new(&value.at, format!("{n} is out of range")))
}

/// `auto` is nothing.
pub fn tri(text: &str) -> Result<Option<bool>, Wrong> {
    match text {
        "auto" => Ok(None),
        text => kinds::boolean(text).map(Some).map_err(|mut wrong| {
            wrong.message = format!("{} is not auto, true or false", quoted(text));
            wrong
        }),
    }
}

pub fn positive(text: &str) -> Result<Duration, Wrong> {
    match kinds::duration(text)? {
        // Less would keep hob and the program busy with nothing else.
        length if length < Duration::from_millis(10) => {
            Err(Wrong { message: format!("{} is too short", quoted(text)), hint: Some("at least 10ms".to_owned()) })
        }
        length => Ok(length),
    }
}

pub fn exit_codes(value: &Value) -> Result<Vec<u8>, Problems> {
    match &value.data {
        Data::List(items) => each(items, |item| scalar(item, kinds::exit_code)),
        // supervisord's spelling.
        Data::Scalar(scalar) => {
            let codes = scalar.text.split(',').map(|part| kinds::exit_code(part.trim()));
            let codes: Result<Vec<u8>, Wrong> = codes.collect();
            codes.map_err(|wrong| Problem { at: value.at.clone(), message: wrong.message, hint: wrong.hint }.into())
        }
        Data::Map(_) => Err(Problem::new(&value.at, "must be a list, not a dictionary").into()),
    }
}

/// A list of names; one alone may stand for itself.
pub fn names(value: &Value) -> Result<Vec<At<String>>, Problems> {
    match &value.data {
        Data::List(items) => each(items, located),
        _ => Ok(vec![located(value)?]),
    }
}

pub fn each<T>(items: &[Value], read: impl Fn(&Value) -> Result<T, Problem>) -> Result<Vec<T>, Problems> {
    let mut problems = Problems::default();
    let mut good = Vec::new();
    for item in items {
        match read(item) {
            Ok(value) => good.push(value),
            Err(problem) => problems.push(problem),
        }
    }
    problems.or(good)
}

/// A mapping of variables to single values.
pub fn variables(value: &Value) -> Result<Vec<(String, String)>, Problems> {
    let Some(entries) = value.map() else {
        return Err(Problem::new(&value.at, format!("must be a mapping, not a {}", value.type_word())).into());
    };
    let mut problems = Problems::default();
    let mut good = Vec::new();
    for (key, value) in entries {
        if let Err(problem) = variable_name(&key.text, &key.at) {
            problems.push(problem);
        }
        good.push((key.text.clone(), value.as_variable()));
    }
    problems.or(good)
}

/// Whether a process can be given a variable of that name at all.
pub fn variable_name(name: &str, at: &Place) -> Result<(), Problem> {
    if name.is_empty() || name.contains('=') || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Problem::new(at, format!("{} cannot be the name of a variable", quoted(name))));
    }
    Ok(())
}

pub fn probe(value: &Value, table: &'static [Opt<ProbeOptions>]) -> Result<At<ProbeOptions>, Problems> {
    let mut options = defaults(table);
    let mut problems = apply(table, &mut options, value);
    if problems.0.is_empty() && options.asks.len() != 1 {
        let asks = if table.iter().any(|option| option.key == "notify") {
            "http, tcp, exec or notify"
        } else {
            "http, tcp or exec"
        };
        problems.push(Problem::new(&value.at, format!("needs one of {asks}, and only one")));
    }
    problems.or(At { value: options, at: value.at.clone() })
}
