use super::*;
use crate::rpc::tls::{Certificates, Side};
use std::os::unix::fs::PermissionsExt;

fn made(dir: &Path, driver: &str) -> Result<()> {
    CertsArgs { dir: dir.to_owned(), driver: driver.to_owned(), days: 30 }.run()
}

fn read(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap()
}

/// What is made can be used, and keys are their owner's alone.
#[test]
fn certificates_of_both_roles_are_made_and_their_keys_are_private() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path(), "csi.example").unwrap();
    for (role, side, own, peer) in [
        (CONTROLLER, Side::Client, "controller.csi.example", "node.csi.example"),
        (NODE, Side::Server, "node.csi.example", "controller.csi.example"),
    ] {
        let folder = dir.path().join(role);
        let opened = Certificates::open(&folder, side, own, peer).unwrap();
        let days = opened.days_left().expect("the authority in ca.crt has signed it");
        assert!((29..=30).contains(&days), "{days}");
        let mode = fs::metadata(folder.join("tls.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let mode = fs::metadata(dir.path().join("ca/tls.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// Called again it renews: other certificates, of the same authority, and nothing of before is left about.
#[test]
fn called_again_it_signs_anew_with_the_same_authority() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path(), DRIVER).unwrap();
    let before =
        ["ca/tls.crt", "node/tls.crt", "node/tls.key", "node/ca.crt"].map(|file| read(dir.path(), file));
    made(dir.path(), DRIVER).unwrap();
    let after =
        ["ca/tls.crt", "node/tls.crt", "node/tls.key", "node/ca.crt"].map(|file| read(dir.path(), file));
    assert!(before[0] == after[0] && before[3] == after[3], "the authority stays");
    assert!(before[1] != after[1] && before[2] != after[2]);
    let folder = dir.path().join(NODE);
    let opened = Certificates::open(&folder, Side::Server, &node_name(DRIVER), &controller_name(DRIVER));
    assert!(opened.unwrap().days_left().is_some(), "what was read back signs as what was made did");
    // Three names, ..data, and what it points to.
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 5);
}

/// Nothing is signed, nor overwritten, that would not fit what is there.
#[test]
fn half_an_authority_and_files_of_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path(), DRIVER).unwrap();
    fs::remove_file(dir.path().join("ca/tls.key")).unwrap();
    let refused = format!("{:#}", made(dir.path(), DRIVER).unwrap_err());
    assert!(refused.contains("ca/tls.key") && refused.contains("move the folder away"), "{refused}");

    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(CONTROLLER)).unwrap();
    fs::write(dir.path().join("controller/tls.key"), "precious").unwrap();
    let refused = format!("{:#}", made(dir.path(), DRIVER).unwrap_err());
    assert!(refused.contains("controller/tls.key"), "{refused}");
    assert_eq!(read(dir.path(), "controller/tls.key"), "precious");
    let refused = format!("{:#}", made(&dir.path().join("x"), "no name").unwrap_err());
    assert!(refused.contains("no name"), "{refused}");
}
