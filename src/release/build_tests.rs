use super::*;
use crate::config::Overrides;

struct Bench {
    dir: tempfile::TempDir,
    settings: Settings,
}

impl Bench {
    fn new(files: &[(&str, &str)]) -> Bench {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            let path = dir.path().join("tree").join(name);
            fs::create_dir_all(path.parent().expect("in the tree")).expect("made");
            fs::write(path, text).expect("written");
        }
        let own = [("HOB_STATE_DIR".to_owned(), dir.path().join("state").to_string_lossy().into_owned())];
        let mut settings = config::settings(&Overrides::default(), &own.into()).expect("good settings");
        // As an ordinary user: the tests must not depend on who runs them.
        settings.root = false;
        Bench { dir, settings }
    }

    fn build(&self) -> Result<Vec<Built>, Refused> {
        let tree = read(&self.dir.path().join("tree"), &self.settings, config::own_env())?;
        build(&tree, |service| self.dir.path().join("homes").join(service), &self.settings)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.dir.path().join(path)).unwrap_or_default()
    }
}

const YML: &str = "www:\n  type: custom\n  approot: app\n  prebuild: pre\n  buildscript: app/builder\n  postbuild: \
                   echo post $PWD >> ~/log\n  config: {version: 1.10}\n";

#[test]
fn hooks_run_in_the_approot_and_the_builder_at_the_root_with_the_build_environment() {
    let bench = Bench::new(&[
        ("dotcloud.yml", YML),
        ("app/pre", "echo pre $PWD >> ~/log\n"),
        ("app/builder", "echo build $PWD $SERVICE_APPROOT $SERVICE_CONFIG_VERSION ${PORT_WWW-none} >> ~/log\n"),
    ]);
    let built = bench.build().expect("built");
    let home = bench.dir.path().join("homes/www");
    assert_eq!(built, [Built { service: "www".into(), home }]);
    let root = fs::canonicalize(bench.dir.path().join("tree")).expect("there").display().to_string();
    let expected = format!("pre {root}/app\nbuild {root} app 1.10 none\npost {root}/app\n");
    assert_eq!(bench.read("homes/www/log"), expected);
    // The home is kept.
    bench.build().expect("built again");
    assert_eq!(bench.read("homes/www/log"), expected.repeat(2));
}

#[test]
fn a_builder_that_fails_stops_the_build_and_its_status_and_last_lines_are_told() {
    let bench = Bench::new(&[
        ("dotcloud.yml", "www:\n  type: custom\n  buildscript: b\n  postbuild: touch ~/reached\n"),
        ("b", "echo before\necho oh no >&2\nexit 42\n"),
    ]);
    let refused = bench.build().expect_err("it fails");
    assert_eq!(refused.status, 1);
    assert_eq!(refused.errors, ["www: buildscript \"b\" exited with code 42", "  before", "  oh no"]);
    assert!(!bench.dir.path().join("homes/www/reached").exists());
}

#[test]
fn a_failure_with_a_run_only_variable_says_so() {
    let bench = Bench::new(&[
        ("dotcloud.yml", "db:\n  type: custom\n  buildscript: b\n  environment: {PASS: x}\n"),
        ("b", "sed s/@/${PORT_DB:?}/ conf > ~/conf; echo $PASS; cat ~/environment.json\n"),
    ]);
    let refused = bench.build().expect_err("it fails");
    let hint = refused.errors.last().expect("a hint");
    assert!(hint.contains("it uses PORT_DB, PASS, environment.json, set only at run time"), "{hint}");
}

#[test]
fn run_only_names_are_found_as_whole_words() {
    let names = |text| run_only_names(text, &["PASS"]);
    assert_eq!(names("$PORT_WWW ${PORT_WWW} x$DOTCLOUD_DB_SQL_URL"), ["PORT_WWW", "DOTCLOUD_DB_SQL_URL"]);
    assert_eq!(names("SUPPORT_X MY_PORT_X PORT_ environment.jsn COMPASS PASS $PASSWORD"), [""; 0]);
    for used in ["${PASS}", "os.environ['PASS']", "ENV[\"PASS\"]", "KeyError: 'PASS'"] {
        assert_eq!(names(used), ["PASS"], "{used}");
    }
}

#[test]
fn a_missing_file_is_told_with_where_it_was_looked_for() {
    let bench = Bench::new(&[("dotcloud.yml", "www:\n  type: custom\n  buildscript: www/builder\n")]);
    let refused = bench.build().expect_err("it is missing");
    assert!(refused.errors[0].starts_with("www: cannot find the buildscript \"www/builder\" in "), "{refused:?}");
    let folder = Bench::new(&[("dotcloud.yml", "www:\n  type: custom\n  buildscript: b\n"), ("b/x", "")]);
    let refused = folder.build().expect_err("a directory");
    assert!(refused.errors[0].starts_with("www: cannot find the buildscript \"b\" in "), "{refused:?}");
    let yml = "www:\n  type: custom\n  approot: app\n  prebuild: echo x\n";
    let refused = Bench::new(&[("dotcloud.yml", yml)]).build().expect_err("no approot");
    let told = "www: cannot run prebuild \"echo x\": approot \"app\" is not a directory of ";
    assert!(refused.errors[0].starts_with(told), "{refused:?}");
    let empty = Bench::new(&[("other", "")]);
    let refused = empty.build().expect_err("it is missing");
    assert!(refused.errors[0].contains("Couldn't find a dotcloud.yml in "), "{refused:?}");
    assert_eq!(refused.status, 2);
}

#[test]
fn a_link_in_the_place_of_a_home_is_not_followed() {
    let bench = Bench::new(&[("dotcloud.yml", "www:\n  type: custom\n")]);
    fs::create_dir_all(bench.dir.path().join("homes")).expect("made");
    std::os::unix::fs::symlink("/tmp", bench.dir.path().join("homes/www")).expect("linked");
    let refused = bench.build().expect_err("a link");
    assert!(refused.errors[0].contains("a link is not followed"), "{refused:?}");
}

#[test]
fn a_service_without_a_buildscript_has_an_empty_home() {
    let bench = Bench::new(&[("dotcloud.yml", "www:\n  type: custom\n  process: echo\n")]);
    let built = bench.build().expect("built");
    assert_eq!(fs::read_dir(&built[0].home).expect("a home").count(), 0);
}

#[test]
fn trees_of_one_name_get_different_folders() {
    let name = |path: &str| name_of(Path::new(path));
    assert_ne!(name("/a/app"), name("/b/app"));
    assert!(name("/a/app").starts_with("app-"));
    assert!(!name("/a/..hidden x/").contains(['/', ' ']));
    assert!(name("/").starts_with("tree-"));
}
