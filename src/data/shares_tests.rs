use super::*;

#[test]
fn a_share_is_mounted_once_and_found_again() {
    let (dir, images) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = Source::Dir(images.path().to_owned());
    let shares = MountedShares::new(dir.path());
    let (first, _) = shares.mount(&source, &[]).unwrap();
    assert_eq!(shares.mount(&source, &[]).unwrap().0.key, first.key);
    let successor = MountedShares::new(dir.path());
    successor.adopt();
    assert_eq!(successor.list().len(), 1);
    assert_eq!(successor.list()[0].key, first.key);
    successor.unmount(&first.key).unwrap();
    assert!(successor.list().is_empty());
    let third = MountedShares::new(dir.path());
    third.adopt();
    assert!(third.list().is_empty());
}

/// After a rollback volumes that run need their shares.
#[test]
fn a_list_that_a_newer_version_wrote_more_into_is_found_again() {
    let (dir, images) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let shares = MountedShares::new(dir.path());
    shares.mount(&Source::Dir(images.path().to_owned()), &[]).unwrap();
    let mut list: serde_json::Value = serde_json::from_slice(&fs::read(shares.list_file()).unwrap()).unwrap();
    list["later"] = 1.into();
    list["shares"][0]["later"] = 1.into();
    fs::write(shares.list_file(), list.to_string()).unwrap();
    let successor = MountedShares::new(dir.path());
    successor.adopt();
    assert_eq!(successor.list().len(), 1);
}

#[test]
fn a_share_with_an_open_image_stays() {
    let (dir, images) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let shares = MountedShares::new(dir.path());
    let (share, _) = shares.mount(&Source::Dir(images.path().to_owned()), &[]).unwrap();
    let image = fs::File::create(share.root.join("image")).unwrap();
    let error = shares.unmount(&share.key).unwrap_err();
    assert!(matches!(error, SharesError::InUse { pid, .. } if pid == std::process::id()), "{error}");
    drop(image);
    shares.unmount(&share.key).unwrap();
}

/// G1: one share that fails does not stop the others.
#[test]
fn a_share_that_is_gone_does_not_stop_the_next() {
    let (dir, images) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let gone = tempfile::tempdir().unwrap();
    let shares = MountedShares::new(dir.path());
    shares.mount(&Source::Dir(gone.path().to_owned()), &[]).unwrap();
    shares.mount(&Source::Dir(images.path().to_owned()), &[]).unwrap();
    drop(gone);
    let successor = MountedShares::new(dir.path());
    successor.adopt();
    assert_eq!(successor.list().len(), 1);
}

/// A teardown that is refused changes nothing; after one that is not, nothing comes back.
#[test]
fn once_all_shares_are_unmounted_none_is_mounted_again() {
    let (dir, images) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let others = tempfile::tempdir().unwrap();
    let shares = MountedShares::new(dir.path());
    let (share, _) = shares.mount(&Source::Dir(images.path().to_owned()), &[]).unwrap();
    let image = fs::File::create(share.root.join("image")).unwrap();
    assert!(matches!(shares.unmount_all(), Err(SharesError::InUse { .. })));
    let other = Source::Dir(others.path().to_owned());
    shares.mount(&other, &[]).unwrap();
    drop(image);
    shares.unmount_all().unwrap();
    assert!(shares.list().is_empty());
    assert!(matches!(shares.mount(&other, &[]), Err(SharesError::Ending { .. })));
}
