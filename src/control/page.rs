//! The page at `/`: what runs, buttons for it, and the end of each log (reference/supervisord.md §8).
//!
//! The same for hob's own daemon and for the inet servers of a supervisord.conf. Everything works without JavaScript;
//! with it, the table keeps itself up to date and a log is shown while it is written. What a button does is said in
//! XML-RPC methods, so that they mean one thing only.
//!
//! Actions are taken by POST with a token that only a page of ours knows. Where no browser can be at the other end (a
//! unix socket, and nothing that looks like one), the old links and forms without a token work as they always did; a
//! browser that comes with an old link is asked to confirm.

use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::auth::same;
use super::door::Visitor;
use super::exchange::Exchange;
use super::http::{self, Answer, Request};
use super::metrics::{self, Usage};
use super::{Host, api, guard, rpc, rpc_info};
use crate::supervisor::Process;
use crate::supervisor::event::Phase;
use crate::xmlrpc::{Call, Fault, Value};

/// The head, the style and the script of every page, with places for the rest.
const SKELETON: &str = include_str!("page.html");
const HTML: &str = "text/html; charset=utf-8";
/// Bytes of a log on its page, at least and at most.
const LEAST_LOG: i64 = 1024;
const MOST_LOG: i64 = 1 << 20;

/// What a request for a page leads to.
pub enum Reply {
    Answer(Answer),
    /// The answer is that of the methods in it.
    Exchange(Exchange),
}

/// What a page has asked for, and what its answer tells about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    Act { action: Action, name: String },
    Tail { name: String, limit: i64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Refresh,
    Start,
    Stop,
    Restart,
    ClearLog,
    StopAll,
    RestartAll,
}

const ACTIONS: &[(&str, Action)] = &[
    ("refresh", Action::Refresh),
    ("start", Action::Start),
    ("stop", Action::Stop),
    ("restart", Action::Restart),
    ("clearlog", Action::ClearLog),
    ("stopall", Action::StopAll),
    ("restartall", Action::RestartAll),
];

/// Whether a path is one of ours.
pub fn is_path(path: &str) -> bool {
    matches!(path, "/" | "/index.html" | "/tail.html" | "/ok.html" | "/stylesheets/supervisor.css")
}

/// The reply to a request for one of our paths. `token` is the one that forms carry.
pub fn ask(request: &Request, visitor: Visitor, token: &str, host: &dyn Host) -> Reply {
    let is_post = request.method == "POST";
    if !is_post && !matches!(request.method.as_str(), "GET" | "HEAD") {
        let allow = vec![("Allow", "GET, HEAD, POST".to_owned())];
        return Reply::Answer(Answer { headers: allow, ..api::failure(405, "use GET or POST".into()) });
    }
    match request.path.as_str() {
        "/ok.html" => Reply::Answer(plain("text/plain", "OK")),
        "/stylesheets/supervisor.css" => Reply::Answer(plain("text/css", between("<style>", "</style>"))),
        "/tail.html" => tail(request),
        _ => index(request, is_post, visitor, token, host),
    }
}

fn index(request: &Request, is_post: bool, visitor: Visitor, token: &str, host: &dyn Host) -> Reply {
    let Ok(form) = fields(request, is_post) else {
        return Reply::Answer(api::failure(400, "cannot read the form".into()));
    };
    let field = |name: &str| form.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
    if field("part") == "rows" {
        return Reply::Answer(plain(HTML, &format!("{}<!--rows-->{}", tally(host), rows(host, token))));
    }
    let Some(action) = ACTIONS.iter().find(|(word, _)| *word == field("action")).map(|(_, action)| *action) else {
        return Reply::Answer(match field("action") {
            "" => overview(host, token, field("message")),
            other => api::failure(400, format!("no such action: {:?}", other.chars().take(40).collect::<String>())),
        });
    };
    let name = field("processname").to_owned();
    if action == Action::Refresh {
        return Reply::Answer(told(&format!("Page refreshed at {}", now())));
    }
    let no_browser = matches!(visitor, Visitor::Local(_)) && !guard::is_from_browser(request);
    let has_token = is_post && same(field("token").as_bytes(), token.as_bytes());
    if !no_browser && !has_token {
        return Reply::Answer(confirmation(action, &name, token, is_post));
    }
    let calls = calls(action, &name);
    Reply::Exchange(Exchange::of_page(calls, Deed::Act { action, name }))
}

fn tail(request: &Request) -> Reply {
    let name = request.query("processname").unwrap_or_default().to_owned();
    let limit = request.query("limit").and_then(|limit| limit.trim().parse().ok()).unwrap_or(LEAST_LOG);
    let limit = limit.clamp(LEAST_LOG, MOST_LOG);
    if name.is_empty() {
        return Reply::Answer(log_page("", "No process name found", limit));
    }
    let params = vec![name.as_str().into(), Value::Int(-limit), Value::Int(0)];
    let call = Call { method: "supervisor.readProcessStdoutLog".into(), params };
    Reply::Exchange(Exchange::of_page(vec![call], Deed::Tail { name, limit }))
}

/// What a button does.
fn calls(action: Action, name: &str) -> Vec<Call> {
    let call = |method: &str, params: Vec<Value>| Call { method: format!("supervisor.{method}"), params };
    let on = |method: &str| call(method, vec![name.into()]);
    match action {
        Action::Refresh => vec![],
        Action::Start => vec![on("startProcess")],
        Action::Stop => vec![on("stopProcess")],
        Action::Restart => vec![on("stopProcess"), on("startProcess")],
        Action::ClearLog => vec![on("clearProcessLogs")],
        Action::StopAll => vec![call("stopAllProcesses", vec![])],
        Action::RestartAll => vec![call("stopAllProcesses", vec![]), call("startAllProcesses", vec![])],
    }
}

/// The answer once every method has its result.
pub fn done(deed: &Deed, results: &[Result<Value, Fault>]) -> Answer {
    match deed {
        Deed::Act { action, name } => told(&message(*action, name, results)),
        Deed::Tail { name, limit } => match results.first() {
            Some(Ok(text)) => log_page(name, text.as_str().unwrap_or_default(), *limit),
            Some(Err(fault)) if fault.code == rpc::fault::NO_FILE => {
                log_page(name, &format!("No file for {name}"), *limit)
            }
            Some(Err(fault)) => log_page(name, &format!("ERROR: {}", unexpected(fault)), *limit),
            None => log_page(name, "", *limit),
        },
    }
}

/// In the words that people know from supervisord's page.
fn message(action: Action, name: &str, results: &[Result<Value, Fault>]) -> String {
    let words = match action {
        Action::Refresh => return String::new(),
        Action::StopAll => return format!("All stopped at {}", now()),
        Action::RestartAll => return format!("All restarted at {}", now()),
        Action::ClearLog => format!("Log for {name} cleared"),
        Action::Start => format!("Process {name} started"),
        Action::Stop => format!("Process {name} stopped"),
        Action::Restart => format!("Process {name} restarted"),
    };
    // Whether a restart had something to stop does not matter.
    let Some(Err(fault)) = results.last() else { return words };
    let why = match fault.code {
        rpc::fault::BAD_NAME => return format!("No such process named {name}"),
        rpc::fault::NO_FILE => "no such file",
        rpc::fault::NOT_EXECUTABLE => "file not executable",
        rpc::fault::ALREADY_STARTED => "already started",
        rpc::fault::SPAWN_ERROR => "spawn error",
        rpc::fault::ABNORMAL_TERMINATION => "abnormal termination",
        _ => return format!("ERROR: {}", unexpected(fault)),
    };
    format!("ERROR: Process {name}: {why}")
}

fn unexpected(fault: &Fault) -> String {
    format!("unexpected rpc fault [{}] {}", fault.code, fault.text)
}

/// Back to the table, which shows the message. Relative, so that neither a proxy nor a false `Host` leads elsewhere.
fn told(message: &str) -> Answer {
    let place = format!("index.html?message={}", escape_query(message));
    Answer { status: 303, content: HTML, body: Vec::new(), headers: [headers(), vec![("Location", place)]].concat() }
}

/// For an old link, or a page from before the daemon's last start.
fn confirmation(action: Action, name: &str, token: &str, is_post: bool) -> Answer {
    let word = ACTIONS.iter().find(|(_, known)| *known == action).map_or("", |(word, _)| word);
    let what = match action {
        Action::StopAll => "Stop all processes?".to_owned(),
        Action::RestartAll => "Restart all processes?".to_owned(),
        Action::ClearLog => format!("Clear the log of {}?", escape(name)),
        _ => format!("{}{} {}?", word[..1].to_uppercase(), &word[1..], escape(name)),
    };
    let main = format!(
        "<div class=\"card empty\"><p>{what}</p><form method=\"post\" action=\"index.html\">{}\
         <button class=\"main\" name=\"action\" value=\"{word}\">Yes</button><a class=\"button\" href=\"index.html\">No</a>\
         </form></div>",
        hidden(name, token)
    );
    Answer { status: if is_post { 403 } else { 200 }, ..page("Confirm", "", &main) }
}

fn overview(host: &dyn Host, token: &str, message: &str) -> Answer {
    let is_bad = ["error", "fault", "no such"].iter().any(|word| message.to_lowercase().contains(word));
    let header = format!(
        "<span class=\"tally\">{}</span><form method=\"post\" action=\"index.html\" data-live>{}\
         <a class=\"button\" href=\"index.html?action=refresh\">Refresh</a>\
         <button name=\"action\" value=\"restartall\">Restart all</button>\
         <button name=\"action\" value=\"stopall\">Stop all</button></form>{}",
        tally(host),
        hidden("", token),
        match host.main_log() {
            Some(_) => "<a class=\"button\" href=\"mainlogtail\" data-log=\"\">Daemon log</a>",
            None => "",
        }
    );
    let main = format!(
        "<p id=\"message\" class=\"message{}\"{} role=\"status\">{}</p><div class=\"card\"><table><thead><tr><th>State</th><th>Name</th>\
         <th>Description</th><th class=\"number\">Restarts</th><th class=\"number\">CPU time</th><th class=\"number\">Memory</th>\
         <th></th></tr></thead><tbody>{}</tbody></table></div>\
         <section id=\"log\" class=\"log\" hidden><div class=\"head\"><b></b><button data-tab=\"stdout\">stdout</button>\
         <button data-tab=\"stderr\">stderr</button><button data-close>Close</button></div><pre tabindex=\"0\"></pre></section>",
        if is_bad { " bad" } else { "" },
        if message.is_empty() { " hidden" } else { "" },
        escape(message),
        rows(host, token)
    );
    page("Processes", &header, &main)
}

/// How many there are in each state, in words.
fn tally(host: &dyn Host) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for process in host.supervisor().processes() {
        let state = process.phase().as_str();
        match counts.iter_mut().find(|(known, _)| *known == state) {
            Some((_, count)) => *count += 1,
            None => counts.push((state, 1)),
        }
    }
    counts.sort_by_key(|(state, _)| *state != Phase::Running.as_str());
    let parts = counts.iter().map(|(state, count)| format!("<b>{count}</b> {}", state.to_lowercase()));
    let parts: Vec<String> = [format!("<b>{}</b>", escape(&host.identification()))].into_iter().chain(parts).collect();
    parts.join(" · ")
}

fn rows(host: &dyn Host, token: &str) -> String {
    let mut all: Vec<&Process> = host.supervisor().processes().collect();
    all.sort_by(|a, b| a.spec().name.cmp(&b.spec().name));
    if all.is_empty() {
        return "<tr><td colspan=\"7\" class=\"empty\">No programs to manage</td></tr>".into();
    }
    all.iter().map(|process| row(process, host, token)).collect()
}

fn row(process: &Process, host: &dyn Host, token: &str) -> String {
    let name = process.spec().name.to_string();
    let (shown, linked) = (escape(&name), escape_query(&name));
    let phase = process.phase();
    let info = rpc_info::process(process, host);
    let description = info.get("description").and_then(Value::as_str).unwrap_or_default();
    // Where supervisord has no words, hob has its own.
    let description = if description.is_empty() { process.why() } else { description };
    let troubles: String = host
        .troubles(process.id())
        .iter()
        .map(|trouble| format!("<span class=\"trouble\">{}</span>", escape(trouble)))
        .collect();
    let usage = process.run().and_then(|run| host.pid(run)).and_then(metrics::usage);
    let (cpu, memory) = usage.map_or_else(Default::default, |usage| (cpu_text(&usage), memory_text(&usage)));
    let class = if phase == Phase::Running && !process.is_ready() { "unready" } else { &phase.as_str().to_lowercase() };
    let button = |action: &str, text: &str| format!("<button name=\"action\" value=\"{action}\">{text}</button>");
    let acts = match phase {
        Phase::Running | Phase::Starting | Phase::Backoff => button("restart", "Restart") + &button("stop", "Stop"),
        Phase::Stopped | Phase::Exited | Phase::Fatal => button("start", "Start"),
        Phase::Stopping => String::new(),
    };
    let log = |channel: &str| {
        format!(
            "<a class=\"button\" href=\"logtail/{linked}/{channel}\" data-log=\"{shown}\" data-channel=\"{channel}\">{channel}</a>"
        )
    };
    format!(
        "<tr><td><span class=\"state {class}\">{}</span></td>\
         <td class=\"name\"><a href=\"tail.html?processname={linked}\">{shown}</a></td>\
         <td class=\"text\">{}{troubles}</td><td class=\"number\">{}</td><td class=\"number\">{cpu}</td>\
         <td class=\"number\">{memory}</td><td class=\"act\"><form method=\"post\" action=\"index.html\" data-live>{}{acts}{}{}{}</form>\
         </td></tr>",
        phase.as_str(),
        escape(description),
        process.restarts(),
        hidden(&name, token),
        button("clearlog", "Clear log"),
        log("stdout"),
        log("stderr"),
    )
}

fn cpu_text(usage: &Usage) -> String {
    let secs = usage.cpu_seconds;
    if secs < 60.0 { format!("{secs:.1}s") } else { format!("{}:{:02}", secs as u64 / 60, secs as u64 % 60) }
}

fn memory_text(usage: &Usage) -> String {
    format!("{:.1} MB", usage.resident_bytes as f64 / 1e6)
}

fn log_page(name: &str, text: &str, limit: i64) -> Answer {
    let linked = escape_query(name);
    let header = format!(
        "<span class=\"tally\"><b>{}</b> · the last {limit} bytes</span><span class=\"bar\">\
         <a class=\"button\" href=\"tail.html?processname={linked}&amp;limit={limit}\">Refresh</a>\
         <a class=\"button\" href=\"tail.html?processname={linked}&amp;limit={}\">More</a>\
         <a class=\"button\" href=\"index.html\">All processes</a></span>",
        escape(name),
        limit.saturating_mul(8).min(MOST_LOG)
    );
    page(&format!("Log of {name}"), &header, &format!("<div class=\"log page\"><pre>{}</pre></div>", escape(text)))
}

fn page(title: &str, header: &str, main: &str) -> Answer {
    let header = format!("<h1><a href=\"index.html\">hob</a></h1>{header}");
    let version = concat!("hob ", env!("CARGO_PKG_VERSION"));
    let mut body = String::with_capacity(SKELETON.len() + main.len() + 1024);
    let mut rest = SKELETON;
    // One pass, so that a name with a mark of ours in it stays a name.
    while let Some((before, after)) = rest.split_once("{{") {
        body.push_str(before);
        let (mark, after) = after.split_once("}}").unwrap_or((after, ""));
        body.push_str(&match mark {
            "title" => escape(title),
            "header" => header.clone(),
            "main" => main.to_owned(),
            "footer" => version.to_owned(),
            _ => String::new(),
        });
        rest = after;
    }
    body.push_str(rest);
    Answer { status: 200, content: HTML, body: body.into_bytes(), headers: headers() }
}

fn plain(content: &'static str, text: &str) -> Answer {
    Answer { status: 200, content, body: text.as_bytes().to_vec(), headers: headers() }
}

/// Nothing runs and nothing is loaded but what stands in the page, nobody may frame it, and no form leads elsewhere.
fn headers() -> Vec<(&'static str, String)> {
    static POLICY: OnceLock<String> = OnceLock::new();
    let policy = POLICY.get_or_init(|| {
        let hash = |text: &str| STANDARD.encode(Sha256::digest(text.as_bytes()));
        format!(
            "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; \
             form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
            hash(between("<style>", "</style>")),
            hash(between("<script>", "</script>"))
        )
    });
    vec![
        ("Content-Security-Policy", policy.clone()),
        ("X-Content-Type-Options", "nosniff".into()),
        ("X-Frame-Options", "DENY".into()),
        ("Referrer-Policy", "same-origin".into()),
    ]
}

/// What stands between two marks of the skeleton.
fn between(from: &str, to: &str) -> &'static str {
    SKELETON.split_once(from).and_then(|(_, rest)| rest.split_once(to)).map_or("", |(inner, _)| inner)
}

/// Of the query, and of a form that was posted.
fn fields(request: &Request, is_post: bool) -> Result<Vec<(String, String)>, http::Refusal> {
    let mut all = request.query.clone();
    if is_post {
        all.splice(0..0, http::pairs(std::str::from_utf8(&request.body).unwrap_or_default())?);
    }
    Ok(all)
}

fn hidden(name: &str, token: &str) -> String {
    format!(
        "<input type=\"hidden\" name=\"token\" value=\"{token}\"><input type=\"hidden\" name=\"processname\" value=\"{}\">",
        escape(name)
    )
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\0' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn escape_query(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// As C's ctime writes it, in local time.
fn now() -> String {
    jiff::Zoned::now().strftime("%a %b %e %H:%M:%S %Y").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_tells_what_was_done_or_why_not() {
        let ok = || vec![Ok(true.into())];
        let fault = |code| vec![Err(rpc::faulted(code, "x"))];
        assert_eq!(message(Action::Stop, "a", &ok()), "Process a stopped");
        assert_eq!(message(Action::ClearLog, "g:a", &ok()), "Log for g:a cleared");
        assert_eq!(message(Action::Start, "a", &fault(rpc::fault::BAD_NAME)), "No such process named a");
        assert_eq!(message(Action::Start, "a", &fault(rpc::fault::SPAWN_ERROR)), "ERROR: Process a: spawn error");
        assert_eq!(
            message(Action::Stop, "a", &fault(rpc::fault::FAILED)),
            "ERROR: unexpected rpc fault [30] FAILED: x"
        );
        // What was to be stopped first may have been down.
        let both = [fault(rpc::fault::NOT_RUNNING), ok()].concat();
        assert_eq!(message(Action::Restart, "a", &both), "Process a restarted");
        let both = [ok(), fault(rpc::fault::NO_FILE)].concat();
        assert_eq!(message(Action::Restart, "a", &both), "ERROR: Process a: no such file");
    }

    #[test]
    fn names_cannot_break_out_of_the_page() {
        let nasty = "\"><script>alert(1)</script>'{{main}}";
        let answer = log_page(nasty, nasty, 1024);
        let text = String::from_utf8(answer.body).expect("UTF-8");
        assert_eq!(text.matches("<script>").count(), 1);
        assert!(text.contains("&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;&#39;{{main}}"));
        let told = told("a\r\nSet-Cookie: x=y");
        assert!(told.headers.contains(&("Location", "index.html?message=a%0D%0ASet-Cookie%3A%20x%3Dy".into())));
    }

    #[test]
    fn the_policy_is_of_the_style_and_the_script_that_are_there() {
        let policy = headers()[0].1.clone();
        assert!(
            between("<style>", "</style>").contains("body {") && between("<script>", "</script>").contains("fetch(")
        );
        assert_eq!(policy.matches("sha256-").count(), 2);
        let text = String::from_utf8(page("t", "", "").body).expect("UTF-8");
        assert!(!text.contains(" style=") && !text.contains(" onclick=") && !text.contains("{{"));
    }

    #[test]
    fn each_action_is_said_in_methods() {
        for (word, action) in ACTIONS {
            let calls = calls(*action, "a");
            assert_eq!(calls.is_empty(), *action == Action::Refresh, "{word}");
            assert!(calls.iter().all(|call| rpc::METHODS.iter().any(|method| method.name == call.method)), "{word}");
        }
    }
}
