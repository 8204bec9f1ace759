//! The file side of a log on real files: what goes wrong, and what must not be lost by it.

use super::*;

fn sink(path: &Path, tune: impl Fn(&mut LogSpec)) -> Sink {
    let mut spec = LogSpec { path: path.to_owned(), ..LogSpec::default() };
    tune(&mut spec);
    Sink::new(spec)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("there")
}

#[test]
fn an_open_line_moves_whole_and_is_cut_rather_than_lost_when_it_cannot_be_moved() {
    for fails in [false, true] {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("web.log");
        let mut sink = sink(&path, |spec| (spec.max_bytes, spec.backups) = (20, 2));
        assert_eq!(sink.write(b"first line 12\nHALF-"), None);
        // A folder that is not empty can take no file's place, not even root's.
        let in_the_way = dir.path().join("web.log.2/x");
        if fails {
            fs::create_dir_all(&in_the_way).expect("made");
            fs::write(dir.path().join("web.log.1"), "older\n").expect("written");
        }
        let news = sink.write(b"OTHER HALF\n");
        assert_eq!(matches!(news, Some(News::Trouble(_))), fails, "{news:?}");
        if fails {
            assert_eq!(read(&path), "first line 12\nHALF-");
            fs::remove_dir_all(dir.path().join("web.log.2")).expect("removed");
            assert_eq!(sink.retry(), Some(News::Recovered { dropped: 0 }));
        }
        assert_eq!((read(&path).as_str(), sink.counts()), ("HALF-OTHER HALF\n", (30, 0)));
        assert_eq!(read(&dir.path().join("web.log.1")), "first line 12\n");
    }
}

#[test]
fn the_line_about_a_gap_stands_where_the_bytes_are_missing_and_no_line_is_torn() {
    for on_full in [OnFull::DropNewest, OnFull::DropOldest] {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("web.log");
        let mut sink = sink(&path, |spec| spec.on_full = on_full);
        assert_eq!(sink.write(b"before\n"), None);
        fs::rename(&path, dir.path().join("kept")).expect("moved");
        fs::create_dir(&path).expect("made");
        sink.reopen();
        // Lines that do not divide what is held.
        let lines: Vec<String> = (0..3 * HELD_MAX / 1000).map(|n| format!("{n:>998}\n")).collect();
        for some in lines.concat().as_bytes().chunks(4096) {
            sink.write(some);
        }
        let (_, lost) = sink.counts();
        fs::remove_dir(&path).expect("removed");
        assert_eq!(sink.retry(), Some(News::Recovered { dropped: lost }));
        assert_eq!(sink.write(b"after\n"), None);
        let text = read(&path);
        let (gaps, whole): (Vec<(usize, &str)>, Vec<_>) = text.lines().enumerate().partition(|l| l.1.starts_with('['));
        let [(at, gap)] = gaps[..] else { panic!("{gaps:?}") };
        assert!(gap.starts_with(&format!("[hob: {lost} bytes lost between ")), "{gap}");
        let whole: Vec<&str> = whole.iter().map(|l| l.1).collect();
        let held = whole.len() - 1;
        assert_eq!(lost as usize + held * 999, lines.len() * 999);
        let expected = if on_full == OnFull::DropNewest { &lines[..held] } else { &lines[lines.len() - held..] };
        assert!(whole[..held].iter().zip(expected).all(|(line, expected)| *line == expected.trim_end()));
        assert_eq!((at, whole[held]), (if on_full == OnFull::DropNewest { held } else { 0 }, "after"));
        assert!(held * 999 > HELD_MAX - 2000);
    }
}

#[test]
fn trouble_with_a_file_ends_when_none_is_wanted_any_more() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("web.log");
    fs::create_dir(&path).expect("made");
    let mut sink = sink(&path, |_| ());
    assert!(matches!(sink.write(b"x\n"), Some(News::Trouble(_))));
    assert!(!sink.is_open() && !sink.is_clean());
    sink.update(LogSpec { path: "".into(), ..LogSpec::default() });
    assert!(sink.is_open() && sink.is_clean() && sink.retry_at().is_none());
}

#[test]
fn a_second_name_of_somebody_elses_file_is_not_written_to() {
    let dir = tempfile::tempdir().expect("a folder");
    let (theirs, path) = (dir.path().join("shadow"), dir.path().join("web.log"));
    fs::write(&theirs, "precious\n").expect("written");
    fs::hard_link(&theirs, &path).expect("linked");
    let meta = fs::metadata(&theirs).expect("there");
    let written = |mode: u32, owner: Option<(u32, u32)>| {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).expect("ours");
        sink(&path, |spec| spec.owner = owner).write(b"+").is_none()
    };
    assert!(!written(0o777, None) && !written(0o775, Some((meta.uid() + 1, meta.gid()))));
    assert_eq!(read(&theirs), "precious\n");
    assert!(written(0o755, None), "only we can have made it");
    assert!(written(0o777, Some((meta.uid(), meta.gid()))), "a copy of his own");
}
