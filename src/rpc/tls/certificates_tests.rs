use super::super::testing::{Authority, CONTROLLER, NODE, Wanted};
use super::*;
use rstest::rstest;

fn open(dir: &Path, side: Side) -> Result<Certificates, TlsError> {
    let (own, peer) = if side == Side::Server { (NODE, CONTROLLER) } else { (CONTROLLER, NODE) };
    Certificates::open(dir, side, own, peer)
}

/// Said once, in time; what has long to go is not spoken of.
#[rstest]
#[case(Side::Server, 90, false)]
#[case(Side::Server, 5, true)]
#[case(Side::Client, 5, true)]
#[case(Side::Client, -5, true)]
fn a_certificate_that_ends_is_spoken_of_in_time(#[case] side: Side, #[case] days: i64, #[case] told: bool) {
    let dir = tempfile::tempdir().unwrap();
    let name = if side == Side::Server { NODE } else { CONTROLLER };
    let authority = Authority::new();
    authority.write(dir.path(), &Wanted { days, ..Wanted::named(name) });
    let certificates = open(dir.path(), side).unwrap();
    let left = certificates.days_left().unwrap();
    assert!((left - days).abs() <= 1, "{left}");
    let warned = || certificates.kept.lock().unwrap().warned;
    let first = warned();
    assert_eq!(first.is_some(), told);
    certificates.current();
    assert_eq!(warned(), first, "not every time");
    authority.write(dir.path(), &Wanted::named(name));
    certificates.current();
    assert!(warned().is_none(), "renewed");
}

/// The other side may know who signed it.
#[test]
fn a_certificate_of_an_authority_that_is_not_in_the_folder_is_used() {
    let dir = tempfile::tempdir().unwrap();
    Authority::new().write_trusting(dir.path(), &Wanted::named(NODE), &[&Authority::new()]);
    assert!(open(dir.path(), Side::Server).unwrap().days_left().is_some_and(|days| days >= 89));
}

#[rstest]
#[case("tls.crt", None, "tls.crt")]
#[case("tls.key", Some("nonsense"), "private key")]
#[case("ca.crt", Some(""), "ca.crt")]
fn a_folder_that_cannot_be_used_says_which_file_is_wrong(
    #[case] file: &str,
    #[case] text: Option<&str>,
    #[case] reason: &str,
) {
    let dir = tempfile::tempdir().unwrap();
    Authority::new().write(dir.path(), &Wanted::named(NODE));
    let path = dir.path().join("..data").join(file);
    match text {
        Some(text) => std::fs::write(path, text).unwrap(),
        None => std::fs::remove_file(path).unwrap(),
    }
    let error = open(dir.path(), Side::Server).err().unwrap().to_string();
    assert!(error.contains(reason), "{error}");
}

#[test]
fn a_key_of_another_certificate_is_told() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let authority = Authority::new();
    authority.write(one.path(), &Wanted::named(NODE));
    authority.write(two.path(), &Wanted::named(NODE));
    std::fs::copy(two.path().join("tls.key"), one.path().join("..data/tls.key")).unwrap();
    let error = open(one.path(), Side::Server).err().unwrap().to_string();
    assert!(error.contains("tls.key is not the key of tls.crt"), "{error}");
    let name = Certificates::open(two.path(), Side::Server, "10.0.0.1", CONTROLLER).err().unwrap();
    assert!(matches!(name, TlsError::Name { .. }), "{name}");
}
