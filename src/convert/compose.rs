//! A compose file: each service a container of the same image, with hob as PID 1.

use super::MadeFile;
use super::app::{App, Part, Port, seconds};
use super::image;
use super::yaml::{Map, Yaml, row};
use crate::plan::{ExitWhen, Protocol};

/// The compose file, the Containerfile, and a file for the secrets if there are any.
pub fn files(app: &mut App) -> Vec<MadeFile> {
    let mut lines = vec![
        format!("The services of {} for docker compose or podman-compose. Made by hob export.", app.name),
        format!(
            "The image is built by the Containerfile that hob export -o DIR writes beside this; it needs a copy of hob:\n  cp \"$(command -v hob)\" {}",
            in_tree(app, ".hob")
        ),
        "A program is reached in its container only if it listens on all addresses, and not on 127.0.0.1 alone."
            .to_owned(),
    ];
    if !app.secrets.is_empty() {
        lines.push(
            "What hob env has set is no part of this. Write the values into secrets.env:\n  hob env list > secrets.env"
                .to_owned(),
        );
    }
    let mut root = Map::new();
    let (mut services, mut volumes) = (Map::new(), Map::new());
    // The next port of the machine that nobody has: as hob gives them out, but with room for every replica.
    let mut host = 42_800;
    for at in 0..app.services.len() {
        let name = app.services[at].service.name.clone();
        if app.services[at].data.is_some() {
            volumes.put(&format!("{name}-home"), Map::new());
        }
        let (service, notes) = service(app, at, &mut host);
        services.put_with(&name, service, &notes);
    }
    root.put("services", services);
    if !volumes.is_empty() {
        root.put("volumes", volumes);
    }
    let mut files = vec![
        MadeFile::new("compose.yaml", app.heading(&lines) + &root.write()),
        image::containerfile(app),
        image::ignored(app),
    ];
    if !app.secrets.is_empty() {
        let text: String = app.secrets.iter().map(|name| format!("{name}=\n")).collect();
        let text = format!("# The variables that hob env has set. Their values: hob env list\n{text}");
        files.push(MadeFile { name: "secrets.env".into(), text, shown: false, private: true });
    }
    files
}

/// What two services of a compose file share.
fn common(app: &App) -> Map {
    let mut build = Map::new();
    build.put("context", literal(&app.to_tree));
    build.put("dockerfile", literal(&image::in_output(app, "Containerfile")));
    Map::new().with("image", literal(&app.image)).with("build", build)
}

fn service(app: &mut App, at: usize, host: &mut u32) -> (Map, Vec<String>) {
    let mut notes = Vec::new();
    let part = &app.services[at];
    let (name, subject) = (part.service.name.clone(), part.service.subject());
    let (instances, grace, ports) = (part.service.instances, part.grace(), part.ports());
    let has_data = part.data.is_some();
    let mut map = common(app);
    let words: Vec<Yaml> = part.boot_words().iter().map(|word| literal(word).into()).collect();
    if let Some(why) = &part.data {
        notes.push(format!("It keeps ~/data, {why}: its home is a volume."));
        let entry = image::entry(part);
        let note = "A fresh copy of the built home in the volume, beside the ~/data that is there; then hob, as PID 1.";
        map.put_with("entrypoint", row(entry.iter().map(|word| literal(word))), &[note.to_owned()]);
        map.put("command", Yaml::Row(words));
    } else {
        map.put_aside("command", Yaml::Row(words), "of hob boot, PID 1 of the image");
    }
    if !ports.is_empty() {
        let mut own = Vec::new();
        for port in &ports {
            let from = if instances > 1 { format!("{host}-{}", *host + instances - 1) } else { host.to_string() };
            let udp = if port.protocol == Protocol::Udp { "/udp" } else { "" };
            own.push(Yaml::from(format!("{from}:{}{udp}", port.number)));
            *host += instances;
        }
        map.put("ports", own);
    }
    let env = environment(app, at);
    if !env.is_empty() {
        map.put("environment", env);
    }
    if !app.secrets.is_empty() {
        map.put_aside("env_file", row(["secrets.env"]), "what hob env has set");
    }
    let part = &app.services[at];
    if let Some(check) = healthcheck(part) {
        let note = "hob asks ready and health of its processes itself and restarts what fails; this asks hob";
        map.put_with("healthcheck", check, &[note.to_owned()]);
    }
    if app.exit_when == ExitWhen::Never {
        map.put("restart", "unless-stopped");
    } else {
        map.put_aside("restart", "on-failure", "exit_when: hob ends with the status of its program");
    }
    map.put("stop_signal", "SIGTERM");
    map.put_aside("stop_grace_period", format!("{grace}s"), "the longest stop, and 5 seconds for hob");
    if has_data {
        let home = literal(&part.home.to_string_lossy());
        map.put("volumes", vec![Yaml::from(format!("{name}-home:{home}"))]);
    }
    map.put("deploy", Map::new().with("replicas", u64::from(instances)));
    if instances > 1 {
        notes.push(app.lose(&subject, "every replica is instance 0 to itself (DOTCLOUD_SERVICE_ID)"));
        if !ports.is_empty() {
            let told =
                "each replica has a port of the host of its own from the ranges below: put a proxy in front of them";
            notes.push(app.lose(&subject, told));
        }
        if has_data {
            notes.push(app.lose(
                &subject,
                "all replicas share one volume, and with it one ~/data: run one, or give each a service of its own",
            ));
        }
    }
    (map, notes)
}

fn environment(app: &App, at: usize) -> Map {
    let mut env = Map::new();
    let address = |other: &Part, port: &Port| (other.service.name.clone(), port.number);
    for variable in app.variables(&app.services[at], address) {
        env.put_with(&variable.key, literal(&variable.value), &variable.notes());
    }
    env
}

fn healthcheck(part: &Part) -> Option<Map> {
    let asked: Vec<_> = part.specs().iter().filter(|spec| spec.ready.is_some() || spec.health.is_some()).collect();
    if asked.is_empty() {
        return None;
    }
    let mut words = vec!["CMD".to_owned(), "hob".to_owned(), "status".to_owned()];
    words.extend(asked.iter().map(|spec| spec.name.process.clone()));
    let healths = || asked.iter().filter_map(|spec| spec.health.as_ref());
    let every = healths().map(|health| seconds(health.every)).min().unwrap_or(10);
    let retries = healths().map(|health| u64::from(health.failures)).max().unwrap_or(3);
    let timeout = healths().map(|health| seconds(health.probe.timeout)).max().unwrap_or(5);
    let within = asked.iter().filter_map(|spec| spec.ready.as_ref()).map(|ready| seconds(ready.within)).max();
    let mut check = Map::new();
    check.put("test", row(words.iter().map(|word| literal(word))));
    check.put("interval", format!("{every}s")).put("timeout", format!("{timeout}s")).put("retries", retries);
    if let Some(within) = within {
        check.put("start_period", format!("{within}s"));
    }
    Some(check)
}

/// `$NAME` and `${NAME}` are replaced everywhere in a compose file, and `$$` is a dollar.
fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

fn in_tree(app: &App, name: &str) -> String {
    if app.to_tree == "." { name.to_owned() } else { format!("{}/{name}", app.to_tree) }
}
