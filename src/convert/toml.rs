//! TOML for a hob.toml: what of the settings goes elsewhere too, and what a supervisord.conf becomes.

use std::fmt::Write as _;

use serde_json::Value;

/// A basic string.
pub fn string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => drop(write!(out, "\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A value on one line. A null is an empty string, which no option takes.
pub fn value(json: &Value) -> String {
    match json {
        Value::Null => string(""),
        Value::Bool(yes) => yes.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => string(text),
        Value::Array(items) => format!("[{}]", items.iter().map(value).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let pairs: Vec<String> =
                map.iter().map(|(key, item)| format!("{} = {}", self::key(key), value(item))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
    }
}

/// A key, quoted where it is more than a word.
pub fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(bare) { name.to_owned() } else { string(name) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_goes_in_comes_out(name in any::<String>(), text in any::<String>()) {
            let line = format!("{} = {}\n", key(&name), value(&serde_json::json!([text, {&name: text}, 1, true])));
            let read: Value = toml::from_str(&line).map_err(|why| TestCaseError::fail(format!("{line}: {why}")))?;
            prop_assert_eq!(read, serde_json::json!({&name: [text, {&name: text}, 1, true]}));
        }
    }
}
