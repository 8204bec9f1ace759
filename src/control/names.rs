//! What a person calls a process, resolved: `hello`, `www:hello`, `www.0:hello`, `www.0`, `www`, `www:*`, `all`, and
//! patterns such as `www*` or `www:worker_?`, which stand for all that they fit.
//!
//! In this order, the first that fits wins: `all`; a name as it is shown; a group (an instance, or all instances of a
//! service); a process's own name. A short form that fits several processes of different groups is an error that
//! lists them: nobody should stop the wrong one by being brief.

use std::collections::{BTreeSet, HashMap};

use crate::plan::{Instance, Name};

/// Why names could not be resolved: a sentence for each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// At least one name is not known at all (as opposed to: fits too many).
    pub is_unknown: bool,
    pub errors: Vec<String>,
}

/// Places in `table` of all that `wanted` names, in the order of the table, each once. All or nothing: one bad name
/// among good ones resolves to errors only.
pub fn resolve<'a>(
    wanted: impl IntoIterator<Item = &'a str>,
    table: &[&Name],
    instances: &[Instance],
) -> Result<Vec<usize>, Unresolved> {
    let index = Index::new(table, instances);
    let mut found = BTreeSet::new();
    let mut unresolved = Unresolved { is_unknown: false, errors: Vec::new() };
    for name in wanted {
        match index.find(name) {
            Found::All => found.extend(0..table.len()),
            Found::Some(places) => found.extend(places),
            Found::TooMany(places) => {
                let candidates: Vec<String> = places.iter().map(|&at| table[at].to_string()).collect();
                unresolved.errors.push(format!("{name:?} is ambiguous: {}", one_of(&candidates)));
            }
            Found::Nothing => {
                unresolved.is_unknown = true;
                // To look for a near miss takes a while; nobody reads a hundred of them.
                let known = if unresolved.errors.len() < 10 { index.all_names() } else { Vec::new() };
                unresolved.errors.push(unknown(name, "process", known));
            }
        }
    }
    if unresolved.errors.is_empty() { Ok(found.into_iter().collect()) } else { Err(unresolved) }
}

/// The place of the one instance that `wanted` names: `www.0`, or `www` while there is one.
pub fn resolve_instance(wanted: &str, instances: &[Instance]) -> Result<usize, Unresolved> {
    let numbered = |i: &Instance| wanted == i.name || wanted == format!("{}.{}", i.service, i.number);
    if let Some(at) = instances.iter().position(numbered) {
        return Ok(at);
    }
    let copies: Vec<usize> = (0..instances.len()).filter(|&at| instances[at].service == wanted).collect();
    match copies.as_slice() {
        [at] => Ok(*at),
        [] => {
            let names: Vec<&str> = instances.iter().map(|i| i.name.as_str()).collect();
            Err(Unresolved { is_unknown: true, errors: vec![unknown(wanted, "instance", names)] })
        }
        several => {
            let candidates: Vec<String> = several.iter().map(|&at| instances[at].name.clone()).collect();
            // The words of the original.
            let error = format!(
                "There are multiple instances of service {wanted:?}. Please specify the full instance name: {}",
                one_of(&candidates)
            );
            Err(Unresolved { is_unknown: false, errors: vec![error] })
        }
    }
}

enum Found {
    All,
    Some(Vec<usize>),
    TooMany(Vec<usize>),
    Nothing,
}

/// Made once for a request, so that 1,000 names in a table of 1,000 take no million comparisons.
struct Index<'t> {
    shown: HashMap<String, usize>,
    groups: HashMap<&'t str, Vec<usize>>,
    /// `www`, `www.0` to the groups they mean.
    aliases: HashMap<String, Vec<&'t str>>,
    processes: HashMap<&'t str, Vec<usize>>,
    table: Vec<&'t Name>,
}

impl<'t> Index<'t> {
    fn new(table: &[&'t Name], instances: &'t [Instance]) -> Index<'t> {
        let mut index = Index {
            shown: HashMap::new(),
            groups: HashMap::new(),
            aliases: HashMap::new(),
            processes: HashMap::new(),
            table: table.to_vec(),
        };
        for (at, name) in table.iter().enumerate() {
            index.shown.insert(name.to_string(), at);
            index.groups.entry(&name.group).or_default().push(at);
            index.processes.entry(&name.process).or_default().push(at);
        }
        for instance in instances {
            index.aliases.entry(instance.service.clone()).or_default().push(&instance.name);
            index.aliases.entry(format!("{}.{}", instance.service, instance.number)).or_default().push(&instance.name);
        }
        index
    }

    fn find(&self, wanted: &str) -> Found {
        if matches!(wanted, "all" | "*") {
            return Found::All;
        }
        if let Some((group, process)) = wanted.split_once(':')
            && !(group.contains(['*', '?']) || process != "*" && process.contains(['*', '?']))
        {
            return self.find_in(group, process);
        }
        if let Some(&at) = self.shown.get(wanted) {
            return Found::Some(vec![at]);
        }
        if wanted.contains(['*', '?']) {
            return self.find_pattern(wanted);
        }
        let group = self.group(wanted);
        let short = self.processes.get(wanted).cloned().unwrap_or_default();
        match (group.is_empty(), short.as_slice()) {
            (true, []) => Found::Nothing,
            (true, [at]) => Found::Some(vec![*at]),
            (true, _) => Found::TooMany(short),
            (false, _) if short.iter().all(|at| group.contains(at)) => Found::Some(group),
            (false, _) => Found::TooMany(group.into_iter().chain(short).collect::<BTreeSet<_>>().into_iter().collect()),
        }
    }

    fn find_in(&self, group: &str, process: &str) -> Found {
        let group = self.group(group);
        if process == "*" || process.is_empty() {
            return if group.is_empty() { Found::Nothing } else { Found::Some(group) };
        }
        let places: Vec<usize> = group.into_iter().filter(|&at| self.table[at].process == process).collect();
        match places.len() {
            0 => Found::Nothing,
            1 => Found::Some(places),
            _ => Found::TooMany(places),
        }
    }

    /// `*` is any text, `?` any character, in a whole name, or a process's own.
    fn find_pattern(&self, pattern: &str) -> Found {
        let fits = |name: &Name| {
            let whole = format!("{}:{}", name.group, name.process);
            [&whole, &name.process, &name.to_string()].iter().any(|text| fast_glob::glob_match(pattern, text))
        };
        let places: Vec<usize> = (0..self.table.len()).filter(|&at| fits(self.table[at])).collect();
        if places.is_empty() { Found::Nothing } else { Found::Some(places) }
    }

    /// All processes of a group, by its name or as a service or a numbered instance.
    fn group(&self, wanted: &str) -> Vec<usize> {
        let by_name = self.groups.get(wanted);
        if let Some(places) = by_name {
            return places.clone();
        }
        let groups = self.aliases.get(wanted).into_iter().flatten();
        groups.filter_map(|group| self.groups.get(group)).flatten().copied().collect()
    }

    fn all_names(&self) -> Vec<&str> {
        let shown = self.shown.keys().map(String::as_str);
        let aliases = self.aliases.keys().map(String::as_str);
        shown.chain(self.groups.keys().copied()).chain(self.processes.keys().copied()).chain(aliases).collect()
    }
}

fn one_of(candidates: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = candidates.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if candidates.len() > SHOWN {
        text.push_str(&format!(" and {} more", candidates.len() - SHOWN));
    }
    text
}

fn unknown(wanted: &str, what: &str, mut known: Vec<&str>) -> String {
    // A name comes from outside: a long one is not repeated whole, nor compared.
    let shown: String = wanted.chars().take(80).collect();
    known.sort_unstable();
    let worth_it = if wanted.len() <= 80 { wanted.chars().count().div_ceil(3) } else { 0 };
    let near = known.iter().filter(|name| name.len().abs_diff(wanted.len()) <= worth_it);
    match near.map(|name| (distance(&shown, name), *name)).min() {
        Some((distance, name)) if distance <= worth_it => format!("no {what} {shown:?}; did you mean {name:?}?"),
        _ => format!("no {what} {shown:?}; `hob status` lists them"),
    }
}

/// How many letters must be inserted, left out, replaced or swapped with their neighbour to get from one to the other.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().take(80).collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (i, &a) in from.iter().enumerate() {
        let mut line = vec![i + 1];
        for (j, &b) in to.iter().enumerate() {
            let mut best = (last[j] + usize::from(a != b)).min(last[j + 1] + 1).min(line[j] + 1);
            if i > 0 && j > 0 && a == to[j - 1] && from[i - 1] == b {
                best = best.min(before[j - 1] + 1);
            }
            line.push(best);
        }
        before = std::mem::replace(&mut last, line);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn instance(name: &str, service: &str, number: u32) -> Instance {
        Instance {
            binds: Vec::new(),
            name: name.into(),
            service: service.into(),
            number,
            home: "/h".into(),
            code: "/c".into(),
            log_dir: "/l".into(),
            ports: Vec::new(),
            env: BTreeMap::new(),
            user: None,
        }
    }

    /// `www` runs twice with two processes each; `db` once with one of its own name; `mail` once with three.
    fn names(wanted: &[&str]) -> Result<Vec<String>, Vec<String>> {
        let instances = [
            instance("www.0", "www", 0),
            instance("www.1", "www", 1),
            instance("db", "db", 0),
            instance("mail", "mail", 0),
        ];
        let table: Vec<Name> = [
            ("www.0", "hello"),
            ("www.0", "bye"),
            ("www.1", "hello"),
            ("www.1", "bye"),
            ("db", "db"),
            ("mail", "mail"),
            ("mail", "queue"),
            ("mail", "smtp"),
        ]
        .map(|(group, process)| Name { group: group.into(), process: process.into() })
        .into();
        let table: Vec<&Name> = table.iter().collect();
        resolve(wanted.iter().copied(), &table, &instances)
            .map(|places| places.into_iter().map(|at| table[at].to_string()).collect())
            .map_err(|unresolved| unresolved.errors)
    }

    #[test]
    fn every_form_a_person_may_type_finds_its_processes() {
        let cases: &[(&str, &[&str])] = &[
            ("queue", &["mail:queue"]),
            ("mail:queue", &["mail:queue"]),
            ("mail.0:queue", &["mail:queue"]),
            ("www.0:hello", &["www.0:hello"]),
            ("www.1", &["www.1:hello", "www.1:bye"]),
            ("www.1:*", &["www.1:hello", "www.1:bye"]),
            ("www", &["www.0:hello", "www.0:bye", "www.1:hello", "www.1:bye"]),
            ("www:*", &["www.0:hello", "www.0:bye", "www.1:hello", "www.1:bye"]),
            ("db", &["db"]),
            ("db.0", &["db"]),
            ("db:db", &["db"]),
            ("mail", &["mail"]),
            ("mail:*", &["mail", "mail:queue", "mail:smtp"]),
            ("mail:", &["mail", "mail:queue", "mail:smtp"]),
            ("www*:hello", &["www.0:hello", "www.1:hello"]),
            ("mail:s*", &["mail:smtp"]),
            ("d?", &["db"]),
            ("*e*", &["www.0:hello", "www.0:bye", "www.1:hello", "www.1:bye", "mail:queue"]),
        ];
        for (wanted, expected) in cases {
            assert_eq!(names(&[wanted]).as_deref(), Ok(&expected.map_strings()[..]), "{wanted}");
        }
        assert_eq!(names(&["all"]).map(|all| all.len()), Ok(8));
    }

    trait MapStrings {
        fn map_strings(&self) -> Vec<String>;
    }

    impl MapStrings for &[&str] {
        fn map_strings(&self) -> Vec<String> {
            self.iter().map(|text| text.to_string()).collect()
        }
    }

    #[test]
    fn each_process_comes_once_in_the_order_of_the_table() {
        assert_eq!(
            names(&["smtp", "queue", "mail:*"]),
            Ok(vec!["mail".into(), "mail:queue".into(), "mail:smtp".into()])
        );
    }

    #[test]
    fn a_short_form_that_fits_several_lists_them() {
        assert_eq!(names(&["hello"]), Err(vec!["\"hello\" is ambiguous: www.0:hello, www.1:hello".into()]));
        assert_eq!(names(&["www:bye"]), Err(vec!["\"www:bye\" is ambiguous: www.0:bye, www.1:bye".into()]));
    }

    #[test]
    fn an_unknown_name_is_told_with_the_nearest_known_one_and_stops_the_others_too() {
        assert_eq!(
            names(&["db", "qeuue", "www.0:helo", "zebra"]),
            Err(vec![
                "no process \"qeuue\"; did you mean \"queue\"?".into(),
                "no process \"www.0:helo\"; did you mean \"www.0:hello\"?".into(),
                "no process \"zebra\"; `hob status` lists them".into(),
            ])
        );
        let long = "x".repeat(100_000);
        assert!(names(&[&long]).expect_err("unknown")[0].len() < 200);
    }

    #[test]
    fn an_instance_is_found_by_its_name_its_number_or_its_service_while_that_has_one() {
        let instances = [instance("www.0", "www", 0), instance("www.1", "www", 1), instance("db", "db", 0)];
        assert_eq!(resolve_instance("www.1", &instances), Ok(1));
        assert_eq!(resolve_instance("db", &instances), Ok(2));
        assert_eq!(resolve_instance("db.0", &instances), Ok(2));
        let errors = |name| resolve_instance(name, &instances).expect_err("not one").errors;
        let told =
            "There are multiple instances of service \"www\". Please specify the full instance name: www.0, www.1";
        assert_eq!(errors("www"), [told]);
        assert_eq!(errors("dbb"), ["no instance \"dbb\"; did you mean \"db\"?"]);
    }
}
