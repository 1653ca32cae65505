use super::*;
use crate::host::mkfs::Formatter;
use rstest::rstest;

const MIB: u64 = 1 << 20;

fn disk(fs: FsType) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(400 * MIB).unwrap();
    LinuxFormatter.make(file.path(), fs, &[], true).unwrap();
    file
}

#[rstest]
fn a_filesystem_that_leaves_its_device_unused_is_seen(#[values(FsType::Ext4, FsType::Xfs)] fs: FsType) {
    let disk = disk(fs);
    assert!(!LinuxFormatter.wants_growth(disk.path(), fs).unwrap());
    disk.as_file().set_len(400 * MIB + UNUSED_END - 1).unwrap();
    assert!(!LinuxFormatter.wants_growth(disk.path(), fs).unwrap());
    disk.as_file().set_len(700 * MIB).unwrap();
    assert!(LinuxFormatter.wants_growth(disk.path(), fs).unwrap());
}

#[test]
fn an_unmounted_ext4_grows_and_one_that_was_being_grown_is_checked_again() {
    let disk = disk(FsType::Ext4);
    disk.as_file().set_len(700 * MIB).unwrap();
    for _ in 0..2 {
        LinuxFormatter.check(disk.path()).unwrap();
        LinuxFormatter.grow_unmounted(disk.path()).unwrap();
        assert!(!LinuxFormatter.wants_growth(disk.path(), FsType::Ext4).unwrap());
    }
    // As resize2fs leaves it when it is killed.
    let mut debugfs = Command::new("debugfs");
    debugfs.args(["-w", "-R", "set_super_value state 3"]).arg(disk.path());
    exec::run_ok(debugfs, Duration::from_secs(30)).unwrap();
    assert!(LinuxFormatter.wants_growth(disk.path(), FsType::Ext4).unwrap());
    LinuxFormatter.check(disk.path()).unwrap();
    assert!(!LinuxFormatter.wants_growth(disk.path(), FsType::Ext4).unwrap());
}

#[test]
fn another_filesystem_or_none_is_an_error() {
    let disk = disk(FsType::Ext4);
    let found = LinuxFormatter.wants_growth(disk.path(), FsType::Xfs);
    assert!(matches!(found, Err(GrowError::Superblock { .. })), "{found:?}");
    disk.as_file().write_all_at(&[0; 2048], 0).unwrap();
    assert!(LinuxFormatter.wants_growth(disk.path(), FsType::Ext4).is_err());
}

#[test]
fn what_cannot_be_repaired_unasked_is_not_grown() {
    let disk = disk(FsType::Ext4);
    // The root folder's inode, in the first group's inode table, is wiped out with all of its neighbours.
    disk.as_file().write_all_at(&vec![0xFF; 8 << 20], 64 << 10).unwrap();
    let checked = LinuxFormatter.check(disk.path());
    assert!(matches!(checked, Err(GrowError::Check { .. })), "{checked:?}");
}
