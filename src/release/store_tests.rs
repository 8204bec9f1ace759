use super::*;
use crate::sys::process;

struct Bench {
    _dir: tempfile::TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::at(dir.path());
        store.create().expect("made");
        Bench { _dir: dir, store }
    }

    fn record(&self, revision: &str, created: u64, state: State, services: &[(&str, &str)]) -> Record {
        let services = services.iter().map(|(name, of)| BuiltService { name: (*name).into(), revision: (*of).into() });
        let record = Record {
            revision: revision.into(),
            created,
            state,
            why: None,
            project: "p".into(),
            home: None,
            services: services.collect(),
            size: 0,
            stages: Vec::new(),
        };
        self.store.save_record(&record).expect("saved");
        fs::create_dir_all(self.store.code(revision)).expect("made");
        record
    }

    fn deploy(&self, revision: &str) -> Deployed {
        let deployed = Deployed { revision: Some(revision.into()), ..Deployed::default() };
        self.store.commit(&deployed).expect("committed");
        deployed
    }
}

fn running(home: &Path) -> Running {
    Running { service: "www".into(), number: 0, generation: 1, home: home.to_owned(), seen_at: None, removed: false }
}

#[test]
fn a_release_is_found_by_name_by_its_beginning_and_by_its_place() {
    let bench = Bench::new();
    assert!(bench.store.find("latest").expect_err("nothing").errors[0].contains("nothing has been pushed"));
    for (revision, created, state) in [
        ("rsync-1", 1, State::Ready),
        ("rsync-22", 2, State::Failed),
        ("git-abc", 3, State::Ready),
        ("rsync-3", 4, State::Ready),
    ] {
        bench.record(revision, created, state, &[]);
    }
    bench.deploy("rsync-3");
    let find = |name: &str| bench.store.find(name).map(|r| r.revision).map_err(|refused| refused.errors[0].clone());
    assert_eq!(find("latest"), Ok("rsync-3".into()));
    assert_eq!(find("previous"), Ok("git-abc".into()));
    assert_eq!(find("git"), Ok("git-abc".into()));
    assert_eq!(find("rsync-1"), Ok("rsync-1".into()));
    assert!(find("rsync").expect_err("several").contains("the beginning of several"));
    assert!(find("rsync-2").expect_err("failed").starts_with("cannot deploy rsync-22"));
    assert!(find("").is_err() && find("../releases/git-abc").is_err() && find(".").is_err());
    // A failed one in between is passed over.
    bench.deploy("git-abc");
    assert_eq!(find("previous"), Ok("rsync-1".into()));
    bench.deploy("rsync-1");
    assert!(find("previous").expect_err("the first").contains("no release before rsync-1"));
}

#[test]
fn what_is_kept_is_the_newest_the_current_and_what_they_need() {
    let bench = Bench::new();
    for n in 1..=8_u64 {
        let revision = format!("r{n}");
        // The newest has a service that was built in the second.
        let services = if n == 8 { vec![("db", "r2"), ("www", "r8")] } else { Vec::new() };
        bench.record(&revision, n, State::Ready, &services);
    }
    let deployed = bench.deploy("r1");
    bench.store.prune(&deployed, 3).expect("pruned");
    let left: Vec<String> = bench.store.records().expect("read").into_iter().map(|r| r.revision).collect();
    assert_eq!(left, ["r1", "r2", "r6", "r7", "r8"]);
}

#[test]
fn a_deployment_that_was_cut_short_is_taken_back() {
    let bench = Bench::new();
    let store = &bench.store;
    let (old, new) = (store.bound_home("www", 0, 1), store.bound_home("www", 0, 2));
    for home in [&old, &new] {
        fs::create_dir_all(home).expect("made");
    }
    fs::create_dir(new.join("data")).expect("made");
    fs::write(new.join("data/precious"), "").expect("written");
    let deployed = Deployed { instances: vec![running(&old)], ..Deployed::default() };
    store.commit(&deployed).expect("committed");
    bench.record("cut", 5, State::Building, &[]);
    let rolling = Rolling {
        id: 2,
        revision: "cut".into(),
        now: Deployed { instances: vec![running(&new)], ..Deployed::default() },
        renames: vec![(old.join("data"), new.join("data"))],
    };
    store.save_rolling(&rolling).expect("saved");
    // While somebody is at it, that is what runs.
    let lock = store.try_lock().expect("asked").expect("free");
    assert_eq!(store.current().expect("read").0, rolling.now);
    drop(lock);
    for _ in 0..2 {
        assert_eq!(store.current().expect("read").0, deployed);
        assert!(old.join("data/precious").exists() && !new.exists());
        assert!(store.rolling().expect("read").is_none());
    }
    let lock = store.lock().expect("free");
    store.recover(&lock).expect("recovered");
    let record = store.record("cut").expect("read").expect("there");
    assert_eq!((record.state, record.why.as_deref()), (State::Failed, Some("it was cut short")));
    assert!(!store.code("cut").exists());
}

#[test]
fn a_deployment_that_was_recorded_counts_although_its_journal_is_still_there() {
    let bench = Bench::new();
    let store = &bench.store;
    let new = store.bound_home("www", 0, 2);
    fs::create_dir_all(new.join("data")).expect("made");
    let generation = Generation { id: 2, services: Vec::new(), env: BTreeMap::new() };
    let deployed = Deployed { generations: vec![generation], instances: vec![running(&new)], ..Deployed::default() };
    let renames = vec![(store.parked_data("www", 0), new.join("data"))];
    store.save_rolling(&Rolling { id: 2, revision: "r".into(), now: deployed.clone(), renames }).expect("saved");
    store.save_deployed(&deployed).expect("saved");
    assert_eq!(store.current().expect("read").0, deployed);
    assert!(new.join("data").exists());
}

#[test]
fn renames_are_taken_back_in_reverse_and_only_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    for name in ["home", "home.new"] {
        fs::create_dir(at(name)).expect("made");
        fs::write(at(name).join("which"), name).expect("written");
    }
    let renames = [(at("home"), at("home.old")), (at("home.new"), at("home"))];
    for done in 0..=2 {
        for (from, to) in &renames[..done] {
            fs::rename(from, to).expect("renamed");
        }
        for _ in 0..2 {
            take_back(&renames).expect("taken back");
            assert_eq!(fs::read_to_string(at("home/which")).expect("there"), "home", "after {done}");
            assert_eq!(fs::read_to_string(at("home.new/which")).expect("there"), "home.new", "after {done}");
        }
    }
}

#[test]
fn a_state_that_cannot_be_understood_is_an_error_with_its_file() {
    let bench = Bench::new();
    fs::write(bench.store.root.join("deployed.json"), "{").expect("written");
    let refused = bench.store.current().expect_err("broken");
    assert!(refused.errors[0].starts_with("cannot understand ") && refused.errors[0].contains("deployed.json"));
}

#[test]
fn files_that_were_not_on_the_disk_yet_when_the_power_went_stop_nobody() {
    let bench = Bench::new();
    bench.record("rsync-1", 1, State::Ready, &[]);
    bench.deploy("rsync-1");
    let cut = bench.record("rsync-2", 2, State::Building, &[]);
    for path in [bench.store.root.join("rolling.json"), bench.store.release(&cut.revision).join("release.json")] {
        fs::write(path, "\0\0\0").expect("ours");
    }
    assert_eq!(bench.store.current().expect("it is there").0.revision.as_deref(), Some("rsync-1"));
    assert!(!bench.store.root.join("rolling.json").exists() && !bench.store.release("rsync-2").exists());
    assert_eq!(bench.store.records().expect("readable").len(), 1);
    // What was written whole and is not understood is another matter.
    fs::write(bench.store.root.join("deployed.json"), "{").expect("ours");
    assert!(bench.store.deployed().expect_err("not JSON").errors[0].contains("cannot understand"));
}

#[test]
fn a_directory_that_may_not_be_written_to_is_removed_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let is_root = user::effective().0 == 0;
    if is_root {
        std::os::unix::fs::chown(dir.path(), Some(65534), Some(65534)).expect("root may");
    }
    // To root every directory is open.
    let child = process::fork(|| {
        let became = !is_root || process::become_user(65534, 65534, &[]).is_ok();
        let inner = dir.path().join("mod/cache");
        let made = fs::create_dir_all(&inner).and_then(|()| fs::write(inner.join("file"), ""));
        let read_only = fs::Permissions::from_mode(0o555);
        let shut = fs::set_permissions(&inner, read_only.clone())
            .and_then(|()| fs::set_permissions(dir.path().join("mod"), read_only));
        let removed = remove(&dir.path().join("mod"));
        i32::from(!(became && made.is_ok() && shut.is_ok() && removed.is_ok()))
    });
    assert_eq!(child.and_then(process::wait_for).expect("our child"), process::Ended::Code(0));
    assert!(!dir.path().join("mod").exists());
}
