//! The comparison with other supervisors (tests/bench/bench.py) can be run; its figures are for a calm machine and a
//! person, and none is judged here.

use crate::support::*;

#[test]
fn the_bench_measures_hob() {
    if !need_all(&["python3", "cc"]) {
        return;
    }
    let bench = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/bench.py");
    let words =
        ["run", "start_n,ctl_latency,stop_all", "--sup", "hob", "--runs", "1", "--quiet", "0", "--only", "n=10/1000"];
    let ran = run(std::process::Command::new("python3").arg(bench).args(words).env("HOB_BIN", hob_bin())).expect(0);
    let lines: Vec<serde_json::Value> = ran.out.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!(lines.len(), 5, "{}", ran.out);
    for line in lines {
        assert_eq!(line["ok"], true, "{line}");
    }
}

#[test]
fn the_bench_beside_supervisord_runs() {
    if !need_all(&["python3", "supervisord", "supervisorctl"]) {
        return;
    }
    let bench = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/supervisord.py");
    let words = ["--programs", "5", "--rounds", "1", "--only", "start_stop,status", "--json"];
    let ran = run(std::process::Command::new("python3").arg(bench).arg(hob_bin()).args(words)).expect(0);
    let rows = ran.json()["rows"].as_array().cloned().expect("rows");
    assert_eq!(rows.len(), 4, "{}", ran.out);
    assert!(
        rows.iter().all(|row| row["hob"].as_f64() > Some(0.0) && row["python"].as_f64() > Some(0.0)),
        "{}",
        ran.out
    );
}
