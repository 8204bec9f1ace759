//! Manifests for Kubernetes: a Deployment for each service, or a StatefulSet where it keeps `~/data`, and a Service for
//! its ports. hob is PID 1 of the pod and runs the processes as it does everywhere; what the cluster decides (how many,
//! where, whether traffic comes) is said in the cluster's words.

use super::MadeFile;
use super::app::{App, Part, Port, label, seconds};
use super::image;
use super::yaml::{Map, Yaml, row};
use crate::plan::{Ask, ExitWhen, Mode, Protocol, ReadyBy, Spec};

/// The manifests and the Containerfile of the image.
pub fn files(app: &mut App) -> Vec<MadeFile> {
    let mut lines = vec![
        format!("The services of {} for Kubernetes. Made by hob export.", app.name),
        format!("The image {} is built by the Containerfile that hob export -o DIR writes beside this.", app.image),
        "A program is reached in its pod only if it listens on all addresses, and not on 127.0.0.1 alone.".to_owned(),
    ];
    if !app.secrets.is_empty() {
        lines.push(format!(
            "What hob env has set is no part of this. Make a Secret of it first:\n  hob env list > secrets.env && kubectl create secret generic {} --from-env-file=secrets.env",
            secret(app)
        ));
    }
    let mut out = app.heading(&lines);
    for at in 0..app.services.len() {
        for document in documents(app, at) {
            out.push_str("---\n");
            out.push_str(&document);
        }
    }
    vec![MadeFile::new("kubernetes.yaml", out), image::containerfile(app), image::ignored(app)]
}

fn secret(app: &App) -> String {
    format!("{}-env", app.name)
}

/// The name of a service in the cluster. `a_b` and `_a_b` would have one, so the later of them gets a number.
fn name_of(app: &App, part: &Part) -> String {
    let mut taken: Vec<String> = Vec::new();
    for other in &app.services {
        let clean = label(&other.service.name, "svc");
        let is_free = |name: &String| !taken.contains(name);
        let numbered = (2..).map(|number| format!("{clean}-{number}"));
        let name = std::iter::once(clean.clone()).chain(numbered).find(is_free).unwrap_or(clean);
        if other.service.name == part.service.name {
            return name;
        }
        taken.push(name);
    }
    label(&part.service.name, "svc")
}

fn documents(app: &mut App, at: usize) -> Vec<String> {
    let part = &app.services[at];
    let (name, subject) = (name_of(app, part), part.service.subject());
    let instances = part.service.instances;
    let labels = Map::new()
        .with("app.kubernetes.io/name", name.as_str())
        .with("app.kubernetes.io/part-of", app.name.as_str())
        .with("app.kubernetes.io/managed-by", "hob-export");
    let chosen =
        Map::new().with("app.kubernetes.io/name", name.as_str()).with("app.kubernetes.io/part-of", app.name.as_str());
    let ports = part.ports();
    let has_data = part.data.is_some();
    let mut out = Vec::new();

    let mut notes = Vec::new();
    if app.exit_when != ExitWhen::Never {
        notes.push(app.lose("hob.toml", "exit_when: a container that has ended is started again, whatever its status; make a Job of it if it is to end"));
    }
    if instances > 1 {
        let one: Vec<String> =
            ports.iter().filter(|port| port.mode != Mode::Balance).map(|port| port.name.clone()).collect();
        notes.push(app.lose(&subject, "every replica is instance 0 to itself (DOTCLOUD_SERVICE_ID)"));
        if !one.is_empty() {
            let told =
                format!("connections to {} go to any replica that is ready, and not to one alone", one.join(", "));
            notes.push(app.lose(&subject, &told));
        }
    }
    let part = &app.services[at];
    if let Some(why) = &part.data {
        notes.insert(0, format!("It keeps ~/data, {why}: a StatefulSet with a volume for its home."));
    }
    let mut spec = Map::new();
    spec.put("replicas", u64::from(instances));
    if has_data {
        spec.put("serviceName", format!("{name}-pods"));
    }
    spec.put("selector", Map::new().with("matchLabels", chosen.clone()));
    let template = Map::new().with("metadata", Map::new().with("labels", labels.clone()));
    spec.put("template", template.with("spec", pod(app, at, &name)));
    if has_data {
        let size = Map::new().with("requests", Map::new().with("storage", "1Gi"));
        let mut claim = Map::new();
        claim.put("metadata", Map::new().with("name", "home"));
        let mut wanted = Map::new();
        wanted.put("accessModes", row(["ReadWriteOnce"]));
        wanted.put_with("resources", size, &["How much is yours to say: the home and its data.".to_owned()]);
        claim.put("spec", wanted);
        spec.put("volumeClaimTemplates", vec![claim.into()]);
    }
    let mut workload = Map::new();
    workload.put_with("apiVersion", "apps/v1", &notes);
    workload.put("kind", if has_data { "StatefulSet" } else { "Deployment" });
    workload.put("metadata", Map::new().with("name", name.as_str()).with("labels", labels.clone()));
    workload.put("spec", spec);
    out.push(workload.write());

    if !ports.is_empty() {
        out.push(service(&name, &labels, &chosen, service_ports(&ports), false));
    }
    if has_data {
        out.push(service(&format!("{name}-pods"), &labels, &chosen, service_ports(&ports), true));
    }
    out
}

/// What others in the cluster connect to; a headless one gives each pod of a StatefulSet its name.
fn service(name: &str, labels: &Map, chosen: &Map, ports: Vec<Yaml>, headless: bool) -> String {
    let mut spec = Map::new();
    if headless {
        spec.put("clusterIP", "None");
    }
    spec.put("selector", chosen.clone());
    if !ports.is_empty() {
        spec.put("ports", ports);
    }
    Map::new()
        .with("apiVersion", "v1")
        .with("kind", "Service")
        .with("metadata", Map::new().with("name", name).with("labels", labels.clone()))
        .with("spec", spec)
        .write()
}

fn service_ports(ports: &[Port]) -> Vec<Yaml> {
    let names = port_names(ports);
    let one = |(port, name): (&Port, &String)| {
        let mut map = Map::new();
        map.put("name", name.as_str());
        map.put("port", u64::from(public(port)));
        map.put("targetPort", name.as_str());
        map.put("protocol", protocol(port));
        if port.protocol == Protocol::Http {
            map.put("appProtocol", "http");
        }
        map.into()
    };
    ports.iter().zip(&names).map(one).collect()
}

/// The first http port of a service is at 80, where everybody looks; the rest keep their numbers.
fn public(port: &Port) -> u16 {
    if port.is_first_http { 80 } else { port.number }
}

fn protocol(port: &Port) -> &'static str {
    if port.protocol == Protocol::Udp { "UDP" } else { "TCP" }
}

/// At most 15 characters (RFC 6335), a letter among them, each once.
fn port_names(ports: &[Port]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for port in ports {
        let clean: String =
            label(&port.name, "p").split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-");
        let clean: String = clean.chars().take(15).collect();
        let clean = clean.trim_end_matches('-');
        let name =
            if names.iter().any(|other| other == clean) { format!("p-{}", port.number) } else { clean.to_owned() };
        names.push(name);
    }
    names
}

fn pod(app: &mut App, at: usize, name: &str) -> Map {
    let part = &app.services[at];
    let grace = part.grace();
    let has_data = part.data.is_some();
    let root = app.needs_root();
    let mut spec = Map::new();
    spec.put_aside("terminationGracePeriodSeconds", grace, "the longest stop, and 5 seconds for hob");
    let mut security = Map::new();
    let uid = image::uid(app);
    if root {
        security.put_aside("runAsUser", 0, "hob becomes the users of its processes");
    } else if let Some(uid) = uid {
        security.put("runAsNonRoot", true).put("runAsUser", uid).put("runAsGroup", uid);
        if has_data {
            security.put("fsGroup", uid);
        }
    }
    security.put("seccompProfile", Map::new().with("type", "RuntimeDefault"));
    let mut notes = Vec::new();
    if !root && uid.is_none() {
        let subject = app.services[at].service.subject();
        let told =
            format!("nobody knows the number of {} here: set runAsUser, and fsGroup for a volume", image::user(app));
        notes.push(app.lose(&subject, &told));
    }
    spec.put_with("securityContext", security, &notes);
    let mut container = Map::new();
    container.put("name", name).put("image", app.image.as_str());
    let words: Vec<Yaml> = app.services[at].boot_words().iter().map(|word| expandable(word).into()).collect();
    if has_data {
        let entry = image::entry(&app.services[at]);
        let note = "A fresh copy of the built home in the volume, beside the ~/data that is there; then hob, as PID 1.";
        container.put_with("command", row(entry.iter().map(|word| expandable(word))), &[note.to_owned()]);
        container.put("args", Yaml::Row(words));
    } else {
        container.put_aside("args", Yaml::Row(words), "of hob boot, PID 1 of the image");
    }
    let ports = app.services[at].ports();
    if !ports.is_empty() {
        let one = |(port, name): (&Port, String)| {
            let map = Map::new().with("name", name).with("containerPort", u64::from(port.number));
            map.with("protocol", protocol(port)).into()
        };
        container.put("ports", ports.iter().zip(port_names(&ports)).map(one).collect::<Vec<Yaml>>());
    }
    let env = environment(app, at);
    if !env.is_empty() {
        container.put("env", env);
    }
    probes(app, at, &mut container);
    if !root {
        container.put("securityContext", unprivileged());
    }
    if has_data {
        let home = app.services[at].home.to_string_lossy().into_owned();
        container.put("volumeMounts", vec![Map::new().with("name", "home").with("mountPath", home).into()]);
    }
    spec.put("containers", vec![container.into()]);
    spec
}

fn unprivileged() -> Map {
    Map::new().with("allowPrivilegeEscalation", false).with("capabilities", Map::new().with("drop", row(["ALL"])))
}

fn environment(app: &mut App, at: usize) -> Vec<Yaml> {
    let part = &app.services[at];
    let subject = part.service.subject();
    let address = |other: &Part, port: &Port| (name_of(app, other), public(port));
    let (mut all, mut lost) = (Vec::new(), Vec::new());
    for variable in app.variables(part, address) {
        if !is_name(&variable.key) {
            lost.push(variable.key);
            continue;
        }
        let mut map = Map::new();
        map.put_with("name", variable.key.as_str(), &variable.notes());
        map.put("value", expandable(&variable.value));
        all.push(map.into());
    }
    for key in lost {
        app.lose(
            &subject,
            &format!("environment: {key} cannot be the name of a variable in Kubernetes; the image has it"),
        );
    }
    for (nth, key) in app.secrets.iter().enumerate() {
        let mut map = Map::new();
        let note = "Set by hob env; the values are in the Secret.".to_owned();
        map.put_with("name", key.as_str(), &(nth == 0).then_some(note).into_iter().collect::<Vec<_>>());
        let from = Map::new().with("name", secret(app)).with("key", key.as_str());
        map.put("valueFrom", Map::new().with("secretKeyRef", from));
        all.push(map.into());
    }
    all
}

/// Whether every Kubernetes takes it for the name of a variable.
fn is_name(key: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    !key.starts_with(|c: char| c.is_ascii_digit()) && key.chars().all(good)
}

/// `$(NAME)` is replaced in arguments and variables, and `$$` is a dollar.
fn expandable(text: &str) -> String {
    text.replace('$', "$$")
}

/// hob asks `ready` and `health` itself, and restarts what fails. The cluster asks too, so as to send traffic only where
/// it is answered, and to replace a container in which a restart does not help.
fn probes(app: &mut App, at: usize, container: &mut Map) {
    let part = &app.services[at];
    let (specs, ports) = (part.specs().to_vec(), part.ports());
    let asked: Vec<&Spec> = specs.iter().filter(|spec| spec.ready.is_some()).collect();
    let mut startup = None;
    match asked.as_slice() {
        [] => {
            if let Some(port) = ports.iter().find(|port| port.protocol != Protocol::Udp) {
                let mut probe = Map::new();
                let socket = Map::new().with("port", u64::from(port.number));
                probe.put_with(
                    "tcpSocket",
                    socket,
                    &["No process says when it is ready: when it takes connections.".to_owned()],
                );
                container.put("readinessProbe", probe.with("periodSeconds", 5));
            }
        }
        [spec] => {
            let ready = spec.ready.as_ref().expect("it has one");
            let (mut probe, timeout) = match &ready.by {
                ReadyBy::Probe(probe) if !matches!(probe.ask, Ask::Exec(_)) => {
                    (handler(part, spec, &probe.ask), probe.timeout)
                }
                ReadyBy::Probe(probe) => (status(&[spec]), probe.timeout),
                ReadyBy::Notify => (status(&[spec]), std::time::Duration::from_secs(5)),
            };
            probe.put("periodSeconds", 5).put("timeoutSeconds", seconds(timeout));
            startup = Some((probe.clone(), ready.within));
            container.put_with("readinessProbe", probe, &[format!("ready of {}", spec.name.process)]);
        }
        several => {
            let mut probe = status(several);
            probe.put("periodSeconds", 5).put("timeoutSeconds", 5);
            let within = several.iter().filter_map(|spec| spec.ready.as_ref()).map(|r| r.within).max();
            startup = within.map(|within| (probe.clone(), within));
            container.put_with(
                "readinessProbe",
                probe,
                &["ready of several processes: hob asks them, and this asks hob".to_owned()],
            );
        }
    }
    let healthy: Vec<&Spec> = specs.iter().filter(|spec| spec.health.is_some()).collect();
    let (probe, note) = match healthy.as_slice() {
        [] => return,
        [spec] if specs.len() == 1 => {
            let health = spec.health.as_ref().expect("it has one");
            let mut probe = handler(part, spec, &health.probe.ask);
            probe.put("periodSeconds", seconds(health.every)).put("timeoutSeconds", seconds(health.probe.timeout));
            probe.put("failureThreshold", u64::from(health.failures));
            (probe, format!("health of {}", spec.name.process))
        }
        several => {
            let names: Vec<&str> = several.iter().map(|spec| spec.name.process.as_str()).collect();
            let words = row(["/usr/local/bin/hob", "info"]);
            let probe = Map::new().with("exec", Map::new().with("command", words));
            let told = format!(
                "hob asks for the health of {} itself and restarts that process alone; a container has one probe and would be restarted as a whole",
                names.join(", ")
            );
            let note = app.lose(&app.services[at].service.subject(), &told);
            (probe.with("periodSeconds", 10).with("timeoutSeconds", 5), note + ". This one asks whether hob answers.")
        }
    };
    if let Some((first, within)) = startup {
        let first = first.with("failureThreshold", (seconds(within) / 5).max(1));
        container.put_with(
            "startupProbe",
            first,
            &["Until it is ready for the first time, health is not asked.".to_owned()],
        );
    }
    container.put_with("livenessProbe", probe, &[note]);
}

/// hob knows who is ready, by whatever sign: status 0 if all of them run.
fn status(specs: &[&Spec]) -> Map {
    let mut words = vec!["/usr/local/bin/hob".to_owned(), "status".to_owned()];
    words.extend(specs.iter().map(|spec| spec.name.process.clone()));
    Map::new().with("exec", Map::new().with("command", row(words)))
}

/// The question of a probe, asked by the cluster. What it has no word for is asked inside the container.
fn handler(part: &Part, spec: &Spec, ask: &Ask) -> Map {
    match ask {
        Ask::Http(url) => match local_http(url) {
            Some((port, path)) => {
                let mut probe = Map::new();
                let get = Map::new().with("path", path).with("port", u64::from(port));
                probe.put_with("httpGet", get, &["200 to 399 is good here; hob takes everything below 500".to_owned()]);
                probe
            }
            None => status(&[spec]),
        },
        Ask::Tcp(to) => {
            match to.rsplit_once(':').and_then(|(host, port)| is_local(host).then(|| port.parse::<u16>().ok())?) {
                Some(port) => Map::new().with("tcpSocket", Map::new().with("port", u64::from(port))),
                None => status(&[spec]),
            }
        }
        Ask::Exec(line) => {
            let words = ["/usr/local/bin/hob", "run", &part.service.name, "--", "/bin/sh", "-c", line];
            Map::new().with("exec", Map::new().with("command", words.map(Yaml::from).to_vec()))
        }
    }
}

/// Port and path of a URL that leads to the container itself.
fn local_http(url: &str) -> Option<(u16, String)> {
    let rest = url.strip_prefix("http://")?;
    let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(at);
    let (host, port) = match host.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (host, 80),
    };
    let path = path.split('#').next().unwrap_or_default();
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    is_local(host).then_some((port, path))
}

fn is_local(host: &str) -> bool {
    matches!(host, "127.0.0.1" | "localhost" | "[::1]" | "::1" | "0.0.0.0")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As in the expansion package of Kubernetes: `$$` is a dollar, `$(NAME)` a variable, any other dollar itself.
    fn expand(text: &str) -> String {
        let mut out = String::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match (c, chars.peek()) {
                ('$', Some('$')) => {
                    chars.next();
                    out.push('$');
                }
                ('$', Some('(')) => panic!("{text:?} refers to a variable"),
                (c, _) => out.push(c),
            }
        }
        out
    }

    proptest! {
        #[test]
        fn nothing_is_expanded(text in "[$()A-Z{} a]{0,20}") {
            prop_assert_eq!(expand(&expandable(&text)), text);
        }
    }

    #[test]
    fn a_url_of_the_container_itself_is_a_port_and_a_path() {
        let asked = |url| local_http(url);
        assert_eq!(asked("http://127.0.0.1:42800/up?x=1#y"), Some((42800, "/up?x=1".into())));
        assert_eq!(asked("http://localhost"), Some((80, "/".into())));
        assert_eq!(asked("http://[::1]:7?x"), Some((7, "/?x".into())));
        assert_eq!((asked("http://db:42800/"), asked("unix:/s:/")), (None, None));
    }

    #[test]
    fn names_of_ports_are_short_and_differ() {
        let port = |name: &str, number| Port {
            name: name.into(),
            protocol: Protocol::Tcp,
            mode: Mode::First,
            number,
            is_first_http: false,
        };
        let names = port_names(&[port("MC", 1), port("mc", 2), port("a_very_long_name_of_a_port", 3), port("22", 4)]);
        assert_eq!(names, ["mc", "p-2", "a-very-long-nam", "p-22"]);
    }
}
