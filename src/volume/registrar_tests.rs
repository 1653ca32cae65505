use super::*;
use tempfile::TempDir;

/// A share's folders, two nodes' disks.
fn dirs() -> (Layout, [TempDir; 3]) {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    std::fs::create_dir(dirs[0].path().join("nodes")).unwrap();
    (Layout::new(dirs[0].path()), dirs)
}

fn key() -> ShareKey {
    "s1".parse().unwrap()
}

fn stored(layout: &Layout) -> NodeRecord {
    nodes::get(layout, &"n1".parse().unwrap()).unwrap()
}

fn node(dir: &TempDir, boot: &str) -> Registrar {
    let mut registrar =
        Registrar::new("n1".parse().unwrap(), format!("unix://{}/a", dir.path().display()), dir.path())
            .unwrap();
    registrar.own.boot = boot.to_owned();
    registrar.silent_after = Duration::from_millis(200);
    registrar
}

/// A second machine by the same name is refused for as long as the first one says that it lives.
#[test]
fn two_machines_by_one_name_are_noticed_and_the_second_waits_until_the_first_is_silent() {
    let (layout, [_disk, one, other]) = dirs();
    let (first, second) = (node(&one, "boot-1"), node(&other, "boot-2"));
    let answers = |_: &str| panic!("agents of other machines cannot be asked");
    first.beat_on(&layout, &key(), answers).unwrap();
    for _ in 0..3 {
        let refused = second.beat_on(&layout, &key(), answers).unwrap_err();
        assert!(matches!(refused, Error::NodeTaken { .. }), "{refused}");
        assert!(second.allows(&key()).is_err() && first.allows(&key()).is_ok());
        std::thread::sleep(Duration::from_millis(100));
        first.beat_on(&layout, &key(), answers).unwrap();
    }
    second.beat_on(&layout, &key(), answers).unwrap_err();
    std::thread::sleep(Duration::from_millis(250));
    second.beat_on(&layout, &key(), answers).unwrap();
    second.allows(&key()).unwrap();
    // The first one was only cut off: now it is the second.
    first.beat_on(&layout, &key(), answers).unwrap_err();
    assert!(first.allows(&key()).is_err());
}

/// A restart on the same disk, also after a reboot, is the same node at once, and counted.
#[test]
fn a_restart_is_told_and_not_refused() {
    let (layout, [_disk, dir, _]) = dirs();
    let epoch = || stored(&layout).epoch;
    let first = node(&dir, "boot-1");
    first.beat_on(&layout, &key(), |_| true).unwrap();
    first.beat_on(&layout, &key(), |_| true).unwrap();
    assert_eq!(epoch(), 1);
    node(&dir, "boot-2").beat_on(&layout, &key(), |_| true).unwrap();
    assert_eq!(epoch(), 2);
}

/// On one machine an agent that does not answer is gone; one that does is a namesake.
#[test]
fn a_driver_that_is_gone_from_this_machine_leaves_its_name() {
    let (layout, [_disk, one, other]) = dirs();
    node(&one, "boot").beat_on(&layout, &key(), |_| true).unwrap();
    let second = node(&other, "boot");
    second.beat_on(&layout, &key(), |_| true).unwrap_err();
    second.beat_on(&layout, &key(), |_| false).unwrap();
}

#[test]
fn a_node_that_leaves_takes_only_its_own_registration() {
    let (layout, [_disk, one, other]) = dirs();
    let (first, second) = (node(&one, "boot-1"), node(&other, "boot-2"));
    first.beat_on(&layout, &key(), |_| true).unwrap();
    second.leave_on(&layout).unwrap();
    assert_eq!(stored(&layout).home, first.own.home);
    first.leave_on(&layout).unwrap();
    first.leave_on(&layout).unwrap();
    assert!(first.found(&layout).unwrap().is_none());
}
