use std::os::unix::fs::MetadataExt;

use proptest::prelude::*;

use super::*;

/// One entry of an archive: kind, name, link name, content, mode.
type Entry<'a> = (tar::EntryType, &'a str, &'a str, &'a [u8], u32);

const FILE: tar::EntryType = tar::EntryType::Regular;
const DIR: tar::EntryType = tar::EntryType::Directory;
const SYMLINK: tar::EntryType = tar::EntryType::Symlink;
const HARD: tar::EntryType = tar::EntryType::Link;

/// The archive as bytes, with names that no honest packer writes.
fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, name, link, content, mode) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        header.set_mtime(1_300_000_000);
        let gnu = header.as_gnu_mut().expect("a GNU header");
        gnu.name[..name.len()].copy_from_slice(name.as_bytes());
        gnu.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn manifest() -> Vec<u8> {
    let manifest = Manifest {
        version: VERSION,
        revision: "rsync-1".into(),
        project: "p".into(),
        services: vec!["www".into()],
        homes: vec!["/home/dotcloud".into()],
    };
    serde_json::to_vec(&manifest).expect("JSON")
}

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("in")).expect("made");
        fs::write(dir.path().join("outside"), "outside").expect("written");
        Bench(dir)
    }

    fn unpack(&self, bytes: &[u8]) -> Result<Unpacked, String> {
        unpack(bytes, &self.at(""), &mut |_, _| {})
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join("in").join(name)
    }

    fn is_untouched_outside(&self) -> bool {
        let names = fs::read_dir(self.0.path()).expect("there").count();
        names == 2 && fs::read(self.0.path().join("outside")).is_ok_and(|text| text == b"outside")
    }
}

#[test]
fn files_directories_and_links_come_out_with_modes_and_times() {
    let bench = Bench::new();
    let bytes = archive(&[
        (DIR, "./", "", b"", 0o755),
        (DIR, "sub", "", b"", 0o555),
        (FILE, "./sub/run", "", b"#!/bin/sh\n", 0o750),
        (SYMLINK, "link", "sub/run", b"", 0o777),
        (HARD, "again", "sub/run", b"", 0o750),
        (FILE, "deep/er/file", "", b"x", 0o644),
        (FILE, "deep/er/file", "", b"later", 0o644),
    ]);
    let unpacked = bench.unpack(&bytes).expect("unpacked");
    assert_eq!((unpacked.files, unpacked.bytes, unpacked.left_out.len()), (6, 16, 0));
    let meta = fs::metadata(bench.at("sub/run")).expect("there");
    assert_eq!((meta.mode() & 0o7777, meta.mtime(), meta.nlink()), (0o750, 1_300_000_000, 2));
    assert_eq!(fs::read_link(bench.at("link")).expect("a link"), Path::new("sub/run"));
    assert_eq!(fs::read_to_string(bench.at("deep/er/file")).expect("there"), "later");
    assert_eq!(fs::metadata(bench.at("sub")).expect("there").mode() & 0o777, 0o755, "it can be filled and removed");
}

#[test]
fn nothing_gets_out() {
    let long = "a/".repeat(40) + "x";
    for (entries, word) in [
        (vec![(FILE, "../x", "", &b"evil"[..], 0o644)], "leads out of it"),
        (vec![(FILE, "a/../../outside", "", b"evil", 0o644)], "leads out of it"),
        (vec![(FILE, "/tmp/x", "", b"evil", 0o644)], "leads out of it"),
        (vec![(HARD, "x", "../outside", b"", 0o644)], "not in the archive"),
        (vec![(HARD, "x", "/etc/passwd", b"", 0o644)], "not in the archive"),
        (vec![(SYMLINK, "d", "sub", b"", 0o777), (FILE, "d/x", "", b"evil", 0o644)], "something else"),
        (vec![(SYMLINK, "d", "sub", b"", 0o777), (HARD, "x", "d/x", b"", 0o644)], "not in the archive"),
        (vec![(FILE, "d", "", b"x", 0o644), (FILE, "d/x", "", b"evil", 0o644)], "something else"),
        (vec![(DIR, "d", "", b"", 0o755), (FILE, "d", "", b"evil", 0o644)], "cannot write"),
    ] {
        let bench = Bench::new();
        let why = bench.unpack(&archive(&entries)).expect_err("refused");
        assert!(why.contains(word), "{entries:?}: {why}");
        assert!(bench.is_untouched_outside());
    }
    let bench = Bench::new();
    bench.unpack(&archive(&[(FILE, &long, "", b"x", 0o644)])).expect("deep is not wrong");
}

#[test]
fn what_is_odd_in_a_tree_is_left_out_and_told() {
    let bench = Bench::new();
    let bytes = archive(&[
        (SYMLINK, "out", "/etc/passwd", b"", 0o777),
        (SYMLINK, "up", "../x", b"", 0o777),
        (tar::EntryType::Fifo, "fifo", "", b"", 0o644),
        (tar::EntryType::Char, "null", "", b"", 0o644),
        (FILE, "su", "", b"x", 0o4755),
    ]);
    let unpacked = bench.unpack(&bytes).expect("unpacked");
    assert_eq!(unpacked.left_out.len(), 5, "{unpacked:?}");
    assert_eq!(fs::read_dir(bench.at("")).expect("there").count(), 1);
    assert_eq!(fs::metadata(bench.at("su")).expect("there").mode() & 0o7777, 0o755);
}

#[test]
fn the_same_in_an_artifact_is_refused() {
    let manifest = manifest();
    let head = (FILE, MANIFEST, "", manifest.as_slice(), 0o644);
    for (entry, word) in [
        ((SYMLINK, "built/www/x", "/etc/shadow", &b""[..], 0o777), "leads out of it"),
        ((SYMLINK, "built/www/x", "../../../x", b"", 0o777), "leads out of it"),
        ((SYMLINK, "built/www/x", "/usr/../etc/shadow", b"", 0o777), "leads out of it"),
        ((SYMLINK, "code/x", "/usr/bin/env", b"", 0o777), "leads out of it"),
        ((FILE, "built/www/x", "", b"x", 0o4755), "setuid"),
        ((tar::EntryType::Fifo, "code/x", "", b"", 0o644), "FIFO"),
    ] {
        let why = Bench::new().unpack(&archive(&[head, entry])).expect_err("refused");
        assert!(why.contains(word), "{entry:?}: {why}");
    }
    let good = [
        head,
        (SYMLINK, "built/www/run", "/home/dotcloud/app", b"", 0o777),
        (SYMLINK, "built/www/python", "/usr/bin/python3", b"", 0o777),
        (SYMLINK, "built/www/d/up", "../run", b"", 0o777),
    ];
    let unpacked = Bench::new().unpack(&archive(&good)).expect("good");
    assert_eq!(unpacked.manifest.expect("an artifact").revision, "rsync-1");
}

#[test]
fn an_archive_that_is_cut_short_is_told_wherever_it_is_cut() {
    let whole = archive(&[(FILE, "a", "", &[7; 3000], 0o644), (FILE, "b", "", &[7; 10], 0o644)]);
    Bench::new().unpack(&whole).expect("whole");
    for end in (0..whole.len() - 1024).step_by(100) {
        let bench = Bench::new();
        assert!(bench.unpack(&whole[..end]).is_err(), "cut at {end}");
    }
    let packed = zstd::encode_all(whole.as_slice(), 3).expect("packed");
    Bench::new().unpack(&packed).expect("whole");
    for end in 0..packed.len() {
        assert!(Bench::new().unpack(&packed[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn a_bomb_is_stopped_before_it_has_filled_the_disk() {
    let mut bomb = zstd::Encoder::new(Vec::new(), 1).expect("an encoder");
    let mut header = tar::Header::new_gnu();
    header.set_path("zeroes").expect("a name");
    header.set_size(10 << 30);
    header.set_cksum();
    bomb.write_all(header.as_bytes()).expect("written");
    for _ in 0..400 {
        bomb.write_all(&vec![0; 1 << 20]).expect("written");
    }
    let bomb = bomb.finish().expect("packed");
    let bench = Bench::new();
    assert_eq!(bench.unpack(&bomb), Err("the archive unpacks to more than a hundred times its size".into()));
}

#[test]
fn git_archive_names_its_commit() {
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let text = format!("52 comment={commit}\n");
    let bytes = archive(&[(tar::EntryType::XGlobalHeader, "pax_global_header", "", text.as_bytes(), 0o644)]);
    assert_eq!(Bench::new().unpack(&bytes).expect("unpacked").commit.as_deref(), Some(commit));
    assert_eq!(commit_in("52 comment=../../../../../../../../../../../../../x"), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is changed in an archive: an error or not, but no panic, and nothing outside.
    #[test]
    fn a_damaged_archive_does_no_harm(changes in prop::collection::vec((0usize..6000, any::<u8>()), 0..40), cut in 0usize..7000) {
        let manifest = manifest();
        let mut bytes = archive(&[
            (FILE, MANIFEST, "", &manifest, 0o644),
            (DIR, "code", "", b"", 0o755),
            (FILE, "code/a", "", &[1; 700], 0o644),
            (SYMLINK, "built/www/l", "../www/x", b"", 0o777),
            (HARD, "code/b", "code/a", b"", 0o644),
        ]);
        for (at, byte) in changes {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(cut);
        let bench = Bench::new();
        let _ = bench.unpack(&bytes);
        prop_assert!(bench.is_untouched_outside());
    }

    #[test]
    fn names_are_plain_or_refused(name in "[a./]{0,12}") {
        if let Some(plain) = plain(Path::new(&name)) {
            prop_assert!(plain.components().all(|part| matches!(part, Component::Normal(_))));
        } else {
            prop_assert!(name.starts_with('/') || name.contains(".."));
        }
    }
}
