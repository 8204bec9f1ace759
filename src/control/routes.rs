//! Every path of the API in one table.
//!
//! To add one: a line here, a handler in `api`, a line in man/hob-api.7 and an entry in conf/openapi.json; a test
//! compares the four.

use super::api::{self, Call, Reply};
use super::door::Visitor;
use super::http::{Answer, Request};
use super::metrics;

#[cfg_attr(not(test), expect(dead_code, reason = "the man page and conf/openapi.json are checked against doc"))]
pub struct Route {
    pub method: &'static str,
    /// A segment in braces takes any one segment.
    pub path: &'static str,
    pub who: Who,
    pub handler: fn(&mut Call<'_>) -> Result<Reply, Answer>,
    pub doc: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Root, the user hob runs as, the group of the socket, and whoever has come in over the network: not everybody
    /// on this machine, even if the mode of the socket says so.
    Member,
    /// Root, the user hob runs as, and whoever has logged in: environments hold passwords.
    Owner,
}

impl Who {
    pub fn admits(self, visitor: Visitor, own_uid: u32) -> bool {
        match (self, visitor) {
            (Who::Member, Visitor::Local(_) | Visitor::Known | Visitor::Anyone) | (Who::Owner, Visitor::Known) => true,
            (Who::Owner, Visitor::Local(peer)) => peer.uid == 0 || peer.uid == own_uid,
            (Who::Member | Who::Owner, Visitor::Stranger(_)) | (Who::Owner, Visitor::Anyone) => false,
        }
    }
}

const fn get(path: &'static str, handler: fn(&mut Call<'_>) -> Result<Reply, Answer>, doc: &'static str) -> Route {
    Route { method: "GET", path, who: Who::Member, handler, doc }
}

const fn post(path: &'static str, handler: fn(&mut Call<'_>) -> Result<Reply, Answer>, doc: &'static str) -> Route {
    Route { method: "POST", path, who: Who::Member, handler, doc }
}

pub const ROUTES: &[Route] = &[
    get("/v1/processes", api::processes, "Lists all processes, or those that are named."),
    get("/v1/processes/{name}", api::process, "Shows one process."),
    post("/v1/processes/{name}/start", api::start, "Starts a process, and waits until it is ready or has failed."),
    post("/v1/processes/{name}/stop", api::stop, "Stops a process, and waits until nothing of it is left."),
    post("/v1/processes/{name}/restart", api::restart, "Restarts a process, and waits until it is ready again."),
    post("/v1/processes/{name}/signal", api::signal, "Sends a signal to the process group of a process."),
    post("/v1/start", api::start, "Starts every process that is named in the body."),
    post("/v1/stop", api::stop, "Stops every process that is named in the body."),
    post("/v1/restart", api::restart, "Restarts every process that is named in the body."),
    post("/v1/signal", api::signal, "Sends a signal to every process that is named in the body."),
    post("/v1/enable", api::enable, "Lets processes start by themselves again, as their configuration says."),
    post("/v1/disable", api::disable, "Keeps processes from starting by themselves, over restarts of hob too."),
    get("/v1/instances", api::instances, "Lists the running copies of services with their ports."),
    get("/v1/instances/{name}", api::instance, "Shows one instance."),
    Route {
        method: "GET",
        path: "/v1/instances/{name}/environment",
        who: Who::Owner,
        handler: api::environment,
        doc: "Shows the home, profile, user and variables of an instance.",
    },
    get("/v1/info", api::info, "Shows the daemon itself."),
    get("/v1/events", api::events, "Streams changes of state, one JSON value a line."),
    get("/v1/logs", api::logs, "Streams log lines, one JSON value a line."),
    post("/v1/reload", api::reload, "Reads the configuration again; only what changed restarts."),
    post(
        "/v1/upgrade",
        api::upgrade,
        "Becomes the binary that is on disk now, if that understands the state of this one; nothing is stopped.",
    ),
    post("/v1/shutdown", api::shutdown, "Stops everything in order, answers, and ends."),
    get("/v1/health", api::health, "Tells by its status whether everything that should run does."),
    get("/metrics", metrics::metrics, "Shows all processes in the text format of Prometheus."),
];

/// The route for a request and what stands for the segment in braces; otherwise the answer that says why not.
pub fn find(request: &Request, visitor: Visitor, own_uid: u32) -> Result<(&'static Route, &str), Answer> {
    let mut allowed: Vec<&str> = Vec::new();
    for route in ROUTES {
        let Some(name) = matches(route.path, &request.path) else { continue };
        let is_head = request.method == "HEAD" && route.method == "GET";
        if request.method != route.method && !is_head {
            allowed.push(route.method);
            if route.method == "GET" {
                allowed.push("HEAD");
            }
            continue;
        }
        if !route.who.admits(visitor, own_uid) {
            return Err(refusal(visitor, own_uid, route.who, &request.path));
        }
        return Ok((route, name));
    }
    if allowed.is_empty() {
        return Err(api::failure(404, format!("no such path: {}; hob-api(7) lists them", clip(&request.path))));
    }
    let allow = allowed.join(", ");
    let why = format!("{} is not possible on {}: use {allow}", clip(&request.method), clip(&request.path));
    Err(Answer { headers: vec![("Allow", allow)], ..api::failure(405, why) })
}

/// The answer for somebody whom the kernel, or a login, has not shown to be who may have this.
pub fn refusal(visitor: Visitor, own_uid: u32, needed: Who, path: &str) -> Answer {
    let who = match visitor {
        Visitor::Local(peer) | Visitor::Stranger(peer) => format!("uid {}", peer.uid),
        Visitor::Known | Visitor::Anyone => "whoever has not logged in".to_owned(),
    };
    let why = match needed {
        Who::Member => format!(
            "{who} may not talk to hob: only root, uid {own_uid} and the group of the socket may; see socket_group in \
             hob.toml(5)"
        ),
        Who::Owner => format!("{who} may not see {}: only root and uid {own_uid} may", clip(path)),
    };
    api::failure(403, why)
}

/// What stands in `path` for the braces of `pattern`, or nothing if there are none.
fn matches<'p>(pattern: &str, path: &'p str) -> Option<&'p str> {
    let (mut pattern, mut path, mut name) = (pattern.split('/'), path.split('/'), "");
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return Some(name),
            (Some("{name}"), Some(segment)) if !segment.is_empty() => name = segment,
            (Some(wanted), Some(segment)) if wanted == segment => {}
            _ => return None,
        }
    }
}

fn clip(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::sys::socket_unix::Peer;

    fn ask(method: &str, path: &str, uid: u32) -> Result<(&'static str, String), (u16, Option<String>)> {
        let request = Request { method: method.into(), path: path.into(), ..Request::default() };
        find(&request, Visitor::Local(Peer { pid: 1, uid, gid: uid }), 500)
            .map(|(route, name)| (route.path, name.to_owned()))
            .map_err(|answer| (answer.status, answer.headers.into_iter().next().map(|(_, allow)| allow)))
    }

    #[test]
    fn a_path_finds_its_route_and_its_name() {
        assert_eq!(ask("GET", "/v1/processes", 0), Ok(("/v1/processes", String::new())));
        assert_eq!(ask("HEAD", "/v1/info", 0), Ok(("/v1/info", String::new())));
        assert_eq!(
            ask("POST", "/v1/processes/www:hello/stop", 0),
            Ok(("/v1/processes/{name}/stop", "www:hello".into()))
        );
    }

    #[test]
    fn what_is_not_there_is_404_and_what_cannot_be_done_there_is_405() {
        for path in ["/", "", "/v1", "/v1/processes/", "/v1/processes//stop", "/v1/info/x", "/V1/info"] {
            assert_eq!(ask("GET", path, 0), Err((404, None)), "{path}");
        }
        assert_eq!(ask("POST", "/v1/info", 0), Err((405, Some("GET, HEAD".into()))));
        assert_eq!(ask("DELETE", "/v1/stop", 0), Err((405, Some("POST".into()))));
    }

    #[test]
    fn a_stranger_gets_nothing_whatever_the_mode_of_the_socket_says() {
        let stranger = Visitor::Stranger(Peer { pid: 1, uid: 501, gid: 501 });
        for route in ROUTES {
            let path = route.path.replace("{name}", "www");
            let request = Request { method: route.method.into(), path, ..Request::default() };
            assert_eq!(find(&request, stranger, 500).err().map(|answer| answer.status), Some(403), "{}", route.path);
        }
    }

    #[test]
    fn only_root_and_our_own_user_see_an_environment() {
        let path = "/v1/instances/www/environment";
        assert!(ask("GET", path, 0).is_ok());
        assert!(ask("GET", path, 500).is_ok());
        assert_eq!(ask("GET", path, 501), Err((403, None)));
        assert!(ask("GET", "/v1/instances/www", 501).is_ok());
    }

    #[test]
    fn each_route_stands_once_in_the_table_with_a_sentence() {
        let unique: BTreeSet<_> = ROUTES.iter().map(|route| (route.method, route.path)).collect();
        assert_eq!(unique.len(), ROUTES.len());
        assert!(ROUTES.iter().all(|route| route.doc.ends_with('.') && route.path.starts_with('/')));
    }

    #[test]
    fn the_man_page_has_every_route_with_its_sentence_and_no_other() {
        let page = include_str!("../../man/hob-api.7").replace("\\-", "-").replace("\\&", "");
        let mut documented = BTreeSet::new();
        let mut lines = page.lines();
        while let Some(line) = lines.next() {
            if let Some(heading) = line.strip_prefix(".SS ").filter(|h| h.starts_with("GET ") || h.starts_with("POST "))
            {
                documented.insert((heading.to_owned(), lines.next().unwrap_or_default().to_owned()));
            }
        }
        let expected: BTreeSet<_> =
            ROUTES.iter().map(|route| (format!("{} {}", route.method, route.path), route.doc.to_owned())).collect();
        assert_eq!(documented, expected);
    }

    #[test]
    fn the_openapi_file_has_every_route_with_its_sentence_and_no_other() {
        let file: serde_json::Value =
            serde_json::from_str(include_str!("../../conf/openapi.json")).expect("openapi.json is JSON");
        let mut documented = BTreeSet::new();
        for (path, methods) in file["paths"].as_object().expect("paths") {
            for (method, operation) in
                methods.as_object().expect("methods").iter().filter(|(key, _)| *key != "parameters")
            {
                let summary = operation["summary"].as_str().unwrap_or_default().to_owned();
                documented.insert((method.to_uppercase(), path.clone(), summary));
            }
        }
        let expected: BTreeSet<_> =
            ROUTES.iter().map(|r| (r.method.to_owned(), r.path.to_owned(), r.doc.to_owned())).collect();
        assert_eq!(documented, expected);
    }

    #[test]
    fn the_openapi_file_has_every_field_of_every_value_and_no_other() {
        let file: serde_json::Value =
            serde_json::from_str(include_str!("../../conf/openapi.json")).expect("openapi.json is JSON");
        let schemas = file["components"]["schemas"].as_object().expect("schemas");
        for (name, schema) in schemas {
            let sample = sample(schema, schemas);
            let again = reread(name, &sample);
            assert_eq!(again.as_ref().ok(), Some(&sample), "{name}: {again:?}");
        }
    }

    /// What a value looks like after our own type has read it and written it again.
    fn reread(name: &str, sample: &serde_json::Value) -> Result<serde_json::Value, serde_json::Error> {
        use crate::wire::*;
        fn through<T: serde::Serialize + for<'a> serde::Deserialize<'a>>(
            sample: &serde_json::Value,
        ) -> Result<serde_json::Value, serde_json::Error> {
            serde_json::to_value(serde_json::from_value::<T>(sample.clone())?)
        }
        match name {
            "Process" => through::<Process>(sample),
            "LastExit" => through::<LastExit>(sample),
            "Instance" => through::<Instance>(sample),
            "Port" => through::<Port>(sample),
            "Environment" => through::<Environment>(sample),
            "Info" => through::<Info>(sample),
            "Event" => through::<Event>(sample),
            "Outcome" => through::<Outcome>(sample),
            "Failure" => through::<Failure>(sample),
            "Act" => through::<Act>(sample),
            "Done" => through::<Done>(sample),
            "Reload" => through::<Reload>(sample),
            "Bind" => through::<crate::plan::Bind>(sample),
            "Health" => through::<Health>(sample),
            "LogLine" => through::<LogLine>(sample),
            other => panic!("no type for {other}"),
        }
    }

    fn sample(schema: &serde_json::Value, all: &serde_json::Map<String, serde_json::Value>) -> serde_json::Value {
        use serde_json::{Value, json};
        if let Some(first) = schema["allOf"].get(0).or(schema["anyOf"].get(0)) {
            return sample(first, all);
        }
        if let Some(reference) = schema["$ref"].as_str() {
            return sample(&all[reference.rsplit('/').next().expect("a name")], all);
        }
        let kind = schema["type"].as_str().or(schema["type"][0].as_str()).expect("a type");
        match kind {
            "string" => json!("x"),
            "integer" => json!(1),
            "number" => json!(1.5),
            "boolean" => json!(true),
            "array" => json!([sample(&schema["items"], all)]),
            "object" => match schema["properties"].as_object() {
                Some(fields) => fields.iter().map(|(name, field)| (name.clone(), sample(field, all))).collect(),
                None if schema["type"].is_array() => Value::Null,
                None => json!({}),
            },
            other => panic!("no sample of {other}"),
        }
    }
}
