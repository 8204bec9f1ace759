//! XML-RPC as a codec: calls and replies from bytes and to bytes. No socket, no clock; both ends of the wire use it.
//!
//! What is written is laid out as Python's xmlrpc.client does it, line by line, since some home-made clients of
//! supervisord read it with regular expressions (reference/supervisord.md §3.1). What is read is bounded in depth and
//! in number, a document type is refused, and no entity but the five of XML is known, so nothing can grow.

use std::fmt;

use base64::Engine;
use quick_xml::Reader;
use quick_xml::events::{BytesRef, Event};

/// Values within values.
const MAX_DEPTH: usize = 32;
/// Values in one call. A reply is bounded by who reads its bytes.
const MAX_CALL_VALUES: usize = 10_000;

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Sent as 32 bits, the nearest there is (reference §3.1: larger ones broke the reply).
    Int(i64),
    Bool(bool),
    Double(f64),
    /// Any text. What XML cannot carry is sent as U+FFFD.
    String(String),
    Array(Vec<Value>),
    /// Members in order. When read, a name may come twice; the last one counts.
    Struct(Vec<(String, Value)>),
}

impl Value {
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(number) => Some(*number),
            Value::Bool(truth) => Some(i64::from(*truth)),
            // JavaScript knows no other numbers.
            Value::Double(number) if number.fract() == 0.0 && number.abs() < 1e15 => Some(*number as i64),
            _ => None,
        }
    }

    /// PHP clients send 1 for true.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(truth) => Some(*truth),
            Value::Int(number) => Some(*number != 0),
            _ => None,
        }
    }

    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }

    /// A member of a struct.
    pub fn get(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Struct(members) => members.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value),
            _ => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::String(text)
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Value {
        Value::Bool(truth)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Int(number)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    pub method: String,
    pub params: Vec<Value>,
}

/// An error as the protocol has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub code: i32,
    pub text: String,
}

/// What supervisord's faults are numbered (reference/supervisord.md §3.2).
pub mod fault {
    pub const UNKNOWN_METHOD: i32 = 1;
    pub const INCORRECT_PARAMETERS: i32 = 2;
    pub const BAD_ARGUMENTS: i32 = 3;
    pub const SIGNATURE_UNSUPPORTED: i32 = 4;
    pub const SHUTDOWN_STATE: i32 = 6;
    pub const BAD_NAME: i32 = 10;
    pub const BAD_SIGNAL: i32 = 11;
    pub const NO_FILE: i32 = 20;
    pub const NOT_EXECUTABLE: i32 = 21;
    pub const FAILED: i32 = 30;
    pub const ABNORMAL_TERMINATION: i32 = 40;
    pub const SPAWN_ERROR: i32 = 50;
    pub const ALREADY_STARTED: i32 = 60;
    pub const NOT_RUNNING: i32 = 70;
    pub const SUCCESS: i32 = 80;
    pub const ALREADY_ADDED: i32 = 90;
    pub const STILL_RUNNING: i32 = 91;
    pub const CANT_REREAD: i32 = 92;
}

/// Why bytes are no call or no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

type Read<T> = Result<T, Malformed>;

fn malformed<T>(why: impl Into<String>) -> Read<T> {
    Err(Malformed(why.into()))
}

pub fn encode_call(method: &str, params: &[Value]) -> String {
    let mut out = String::from("<?xml version='1.0'?>\n<methodCall>\n<methodName>");
    put_text(&mut out, method);
    out.push_str("</methodName>\n");
    put_params(&mut out, params);
    out.push_str("</methodCall>\n");
    out
}

pub fn encode_reply(reply: &Result<Value, Fault>) -> String {
    let mut out = String::from("<?xml version='1.0'?>\n<methodResponse>\n");
    match reply {
        Ok(value) => put_params(&mut out, std::slice::from_ref(value)),
        Err(fault) => {
            let code = Value::Int(fault.code.into());
            let members = vec![("faultCode".to_owned(), code), ("faultString".to_owned(), fault.text.as_str().into())];
            out.push_str("<fault>\n");
            put_value(&mut out, &Value::Struct(members));
            out.push_str("</fault>\n");
        }
    }
    out.push_str("</methodResponse>\n");
    out
}

fn put_params(out: &mut String, params: &[Value]) {
    out.push_str("<params>\n");
    for param in params {
        out.push_str("<param>\n");
        put_value(out, param);
        out.push_str("</param>\n");
    }
    out.push_str("</params>\n");
}

fn put_value(out: &mut String, value: &Value) {
    out.push_str("<value>");
    match value {
        Value::Int(number) => {
            let number = (*number).clamp(i32::MIN.into(), i32::MAX.into());
            out.push_str(&format!("<int>{number}</int>"));
        }
        Value::Bool(truth) => out.push_str(&format!("<boolean>{}</boolean>", u8::from(*truth))),
        Value::Double(number) => out.push_str(&format!("<double>{number:?}</double>")),
        Value::String(text) => {
            out.push_str("<string>");
            put_text(out, text);
            out.push_str("</string>");
        }
        Value::Array(items) => {
            out.push_str("<array><data>\n");
            for item in items {
                put_value(out, item);
            }
            out.push_str("</data></array>");
        }
        Value::Struct(members) => {
            out.push_str("<struct>\n");
            for (name, value) in members {
                out.push_str("<member>\n<name>");
                put_text(out, name);
                out.push_str("</name>\n");
                put_value(out, value);
                out.push_str("</member>\n");
            }
            out.push_str("</struct>");
        }
    }
    out.push_str("</value>\n");
}

/// A control character in a log made the whole reply unreadable (#638, #1293 of supervisord).
fn put_text(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\t' | '\n' | '\r' | '\u{20}'..='\u{fffd}' | '\u{10000}'.. => out.push(c),
            _ => out.push('\u{fffd}'),
        }
    }
}

/// A call; without `<params>` it has no arguments.
pub fn decode_call(bytes: &[u8]) -> Read<Call> {
    let text = decode_text(bytes)?;
    let mut reader = Parser::new(&text, MAX_CALL_VALUES);
    reader.open("methodCall")?;
    let (mut method, mut params) = (None, Vec::new());
    while let Some(name) = reader.child()? {
        match name.as_str() {
            "methodName" if method.is_none() => method = Some(reader.text()?.trim().to_owned()),
            "params" if params.is_empty() => params = reader.params()?,
            other => return malformed(format!("<{other}> where it does not belong")),
        }
    }
    reader.end()?;
    match method {
        Some(method) if !method.is_empty() => Ok(Call { method, params }),
        _ => malformed("there is no methodName"),
    }
}

pub fn decode_reply(bytes: &[u8]) -> Read<Result<Value, Fault>> {
    let text = decode_text(bytes)?;
    let mut reader = Parser::new(&text, usize::MAX);
    reader.open("methodResponse")?;
    let reply = match reader.child()?.as_deref() {
        Some("params") => match reader.params()?.pop() {
            Some(value) => Ok(value),
            None => return malformed("a reply without a value"),
        },
        Some("fault") => {
            reader.open("value")?;
            let fault = reader.value()?;
            reader.close()?;
            let code = fault.get("faultCode").and_then(Value::as_int).and_then(|code| i32::try_from(code).ok());
            match (code, fault.get("faultString").and_then(Value::as_str)) {
                (Some(code), Some(text)) => Err(Fault { code, text: text.to_owned() }),
                _ => return malformed("a fault without its code and text"),
            }
        }
        _ => return malformed("neither a value nor a fault"),
    };
    reader.close()?;
    reader.end()?;
    Ok(reply)
}

/// UTF-8, or what PHP's encoder names by default.
fn decode_text(bytes: &[u8]) -> Read<String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let declaration = bytes.split(|&b| b == b'>').next().unwrap_or_default().to_ascii_lowercase();
    let says = |name: &[u8]| declaration.starts_with(b"<?xml") && declaration.windows(name.len()).any(|w| w == name);
    if says(b"iso-8859-1") || says(b"latin1") {
        return Ok(bytes.iter().map(|&b| char::from(b)).collect());
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(why) => malformed(format!("not UTF-8 at byte {}", why.valid_up_to())),
    }
}

struct Parser<'t> {
    xml: Reader<&'t [u8]>,
    depth: usize,
    values_left: usize,
}

impl<'t> Parser<'t> {
    fn new(text: &'t str, values: usize) -> Parser<'t> {
        let mut xml = Reader::from_str(text);
        xml.config_mut().expand_empty_elements = true;
        Parser { xml, depth: 0, values_left: values }
    }

    fn next(&mut self) -> Read<Event<'t>> {
        loop {
            match self.xml.read_event() {
                Ok(Event::Comment(_) | Event::PI(_) | Event::Decl(_)) => {}
                Ok(Event::DocType(_)) => return malformed("a document type is not allowed"),
                Ok(event) => return Ok(event),
                Err(why) => return malformed(format!("byte {}: {why}", self.xml.error_position())),
            }
        }
    }

    /// The next child of the element we are in, or `None` at its end. Nothing but blanks may come before it.
    fn child(&mut self) -> Read<Option<String>> {
        loop {
            match self.next()? {
                Event::Start(tag) => return Ok(Some(tag.name().as_ref().to_owned())),
                Event::End(_) => return Ok(None),
                Event::Text(text) if text.xml10_content().trim().is_empty() => {}
                Event::Eof => return malformed("it ends too early"),
                _ => return malformed(format!("text where it does not belong, byte {}", self.xml.buffer_position())),
            }
        }
    }

    fn open(&mut self, wanted: &str) -> Read<()> {
        match self.child()? {
            Some(name) if name == wanted => Ok(()),
            Some(name) => malformed(format!("<{name}> in place of <{wanted}>")),
            None => malformed(format!("<{wanted}> is missing")),
        }
    }

    fn close(&mut self) -> Read<()> {
        match self.child()? {
            None => Ok(()),
            Some(name) => malformed(format!("<{name}> where it does not belong")),
        }
    }

    /// Nothing but blanks may follow.
    fn end(&mut self) -> Read<()> {
        loop {
            match self.next()? {
                Event::Eof => return Ok(()),
                Event::Text(text) if text.xml10_content().trim().is_empty() => {}
                _ => return malformed("something follows the end"),
            }
        }
    }

    /// All text up to the end of the element we are in.
    fn text(&mut self) -> Read<String> {
        let mut out = String::new();
        loop {
            match self.next()? {
                Event::End(_) => return Ok(out),
                Event::Eof => return malformed("it ends too early"),
                Event::Start(tag) => return malformed(format!("<{}> within text", tag.name().as_ref())),
                event => put_decoded(&mut out, &event)?,
            }
        }
    }

    fn params(&mut self) -> Read<Vec<Value>> {
        let mut all = Vec::new();
        while let Some(name) = self.child()? {
            if name != "param" {
                return malformed(format!("<{name}> in place of <param>"));
            }
            self.open("value")?;
            all.push(self.value()?);
            self.close()?;
        }
        Ok(all)
    }

    /// From behind `<value>` to behind `</value>`.
    fn value(&mut self) -> Read<Value> {
        if self.depth == MAX_DEPTH {
            return malformed(format!("values within values, more than {MAX_DEPTH} deep"));
        }
        self.values_left = match self.values_left.checked_sub(1) {
            Some(left) => left,
            None => return malformed(format!("more than {MAX_CALL_VALUES} values")),
        };
        self.depth += 1;
        let mut bare = String::new();
        let value = loop {
            match self.next()? {
                // Bare text is a string.
                Event::End(_) => break Value::String(bare),
                Event::Start(tag) if bare.trim().is_empty() => {
                    let value = self.typed(tag.name().as_ref())?;
                    self.close()?;
                    break value;
                }
                Event::Start(tag) => return malformed(format!("<{}> within text", tag.name().as_ref())),
                Event::Eof => return malformed("it ends too early"),
                event => put_decoded(&mut bare, &event)?,
            }
        };
        self.depth -= 1;
        Ok(value)
    }

    fn typed(&mut self, name: &str) -> Read<Value> {
        match name {
            "array" => self.array(),
            "struct" => self.members(),
            "int" | "i4" | "i8" => {
                let text = self.text()?;
                text.trim().parse().map(Value::Int).or_else(|_| malformed(format!("{:?} is no integer", clip(&text))))
            }
            "double" => {
                let text = self.text()?;
                text.trim().parse().map(Value::Double).or_else(|_| malformed(format!("{:?} is no number", clip(&text))))
            }
            "boolean" => Ok(Value::Bool(self.text()?.trim() == "1")),
            "base64" => {
                let text: String = self.text()?.split_ascii_whitespace().collect();
                let bytes = base64::prelude::BASE64_STANDARD.decode(text).or_else(|_| malformed("bad base64"))?;
                Ok(Value::String(String::from_utf8_lossy(&bytes).into_owned()))
            }
            // string, dateTime.iso8601, and whatever else there may be.
            _ => Ok(Value::String(self.text()?)),
        }
    }

    fn array(&mut self) -> Read<Value> {
        self.open("data")?;
        let mut items = Vec::new();
        while let Some(name) = self.child()? {
            if name != "value" {
                return malformed(format!("<{name}> in an array"));
            }
            items.push(self.value()?);
        }
        self.close()?;
        Ok(Value::Array(items))
    }

    fn members(&mut self) -> Read<Value> {
        let mut members = Vec::new();
        while let Some(tag) = self.child()? {
            if tag != "member" {
                return malformed(format!("<{tag}> in a struct"));
            }
            self.open("name")?;
            let name = self.text()?;
            self.open("value")?;
            members.push((name, self.value()?));
            self.close()?;
        }
        Ok(Value::Struct(members))
    }
}

fn put_decoded(out: &mut String, event: &Event<'_>) -> Read<()> {
    match event {
        Event::Text(text) => out.push_str(&text.xml10_content()),
        Event::CData(text) => out.push_str(&text.xml10_content()),
        Event::GeneralRef(reference) => out.push(resolve(reference)?),
        _ => return malformed("something unexpected within text"),
    }
    Ok(())
}

fn resolve(reference: &BytesRef<'_>) -> Read<char> {
    if let Ok(Some(c)) = reference.resolve_char_ref() {
        return Ok(c);
    }
    match &*reference.xml10_content() {
        "amp" => Ok('&'),
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        other => malformed(format!("&{}; is unknown", clip(other))),
    }
}

fn clip(text: &str) -> &str {
    text.char_indices().nth(40).map_or(text, |(at, _)| &text[..at])
}

#[cfg(test)]
#[path = "xmlrpc_tests.rs"]
mod tests;
