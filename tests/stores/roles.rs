//! Temporary keys: of a role by a token in a file, of the machine's role, of the environment. The real binary, for they come from
//! its environment.

use crate::faulty::{Fault, Faulty, Request};
use crate::giver::{Giver, IMDS_TOKEN, keys, token};
use crate::s3_server::S3Server;
use crate::util::noise;
use jiff::SignedDuration;
use rstest::rstest;
use std::path::Path;
use std::process::{Command, Output};
use uuid::Uuid;

const SESSIONS: usize = 200;
const ROLE: &str = "arn:aws:iam::1:role/backups";
/// Keys of that life are asked for anew, again and again, while a backup of six seconds runs.
const SHORT: SignedDuration = SignedDuration::from_secs(2);
const LONG: SignedDuration = SignedDuration::from_secs(3600);
/// The S3 server's patience with keys that have run out, for a busy machine.
const GRACE: SignedDuration = SignedDuration::from_secs(2);

/// Which session's keys a request is signed with, in a header or in its URL.
fn session(request: &Request) -> Option<usize> {
    let signed =
        request.header("authorization").unwrap_or(&request.target).split_once("Credential=SESSION")?.1;
    signed.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn carries(request: &Request, token: &str) -> bool {
    let in_url = format!("X-Amz-Security-Token={token}");
    request.header("x-amz-security-token") == Some(token)
        || request.target.split(['?', '&']).any(|parameter| parameter == in_url)
}

/// An S3 server that knows the keys of the giver's sessions, each with its own token and for its time only.
fn s3_for(server: &S3Server, giver: &Giver, lifetime: SignedDuration) -> Faulty {
    let ages = giver.ages();
    Faulty::start(&server.endpoint, move |request| {
        let Some(number) = session(request) else { return Fault::Answer(403, "InvalidAccessKeyId") };
        match ages().get(number) {
            _ if !carries(request, &token(number)) => Fault::Answer(400, "InvalidToken"),
            Some(age) if *age <= lifetime + GRACE => Fault::None,
            _ => Fault::Answer(400, "ExpiredToken"),
        }
    })
}

fn strata(endpoint: &str, verb: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.args(["backup", verb, "--repository", "s3://bucket", "--region", "us-east-1"]);
    command.args(["--endpoint", endpoint]).args(arguments).envs(variables.iter().copied()).output().unwrap()
}

/// A backup that takes six seconds if it is to be `slow`.
fn back_up(folder: &Path, endpoint: &str, slow: bool, variables: &[(&str, &str)]) {
    let (image, volume) = (folder.join("image"), Uuid::new_v4().to_string());
    std::fs::write(&image, noise(1, 400_000)).unwrap();
    let create = ["--image", image.to_str().unwrap(), "--format", "raw", "--volume-id", &volume];
    let sizes = ["--chunk-size", "32K", "--hash-block", "4K", "--compression", "none"];
    let rate: &[&str] = if slow { &["--limit-rate", "64K"] } else { &[] };
    let done = strata(endpoint, "create", &[&create[..], &sizes, rate].concat(), variables);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Every session's keys were used, one after the other; the short-lived ones made room for others.
fn used_in_turn(s3: &Faulty, giver: &Giver, short: bool) {
    let issued = giver.ages()().len();
    let sessions: Vec<usize> = s3.seen().iter().map(|request| session(request).unwrap()).collect();
    assert!(sessions.len() > 15, "{sessions:?}");
    assert_eq!(sessions.iter().max(), Some(&(issued - 1)), "{issued} were issued: {sessions:?}");
    if short { assert!(issued > 2, "{issued}") } else { assert_eq!(issued, 1) }
}

/// B15: also the token in the file is another one each time, as Kubernetes has it.
#[rstest]
#[case::short(SHORT)]
#[case::long(LONG)]
fn a_role_by_a_token_in_a_file(#[case] lifetime: SignedDuration) {
    let server = S3Server::with_keys((0..SESSIONS).map(keys));
    let folder = tempfile::tempdir().unwrap();
    let (file, signer) = (folder.path().join("token"), folder.path().join("signer.pem"));
    std::fs::write(&file, "identity-0").unwrap();
    let next = file.clone();
    let rotate = move |number: usize| {
        // In one step, as a projected volume does.
        let new = next.with_extension("new");
        std::fs::write(&new, format!("identity-{}", number + 1)).unwrap();
        std::fs::rename(new, &next).unwrap();
    };
    let (giver, pem) = Giver::tls(lifetime, false, rotate);
    std::fs::write(&signer, pem).unwrap();
    let s3 = s3_for(&server, &giver, lifetime);
    let variables = [
        ("AWS_ROLE_ARN", ROLE),
        ("AWS_ROLE_SESSION_NAME", "a-test"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", file.to_str().unwrap()),
        ("AWS_ENDPOINT_URL_STS", &giver.endpoint),
        ("AWS_CA_BUNDLE", signer.to_str().unwrap()),
    ];
    back_up(folder.path(), &s3.endpoint, lifetime == SHORT, &variables);
    used_in_turn(&s3, &giver, lifetime == SHORT);
    for (number, asked) in giver.asked().iter().enumerate() {
        let line = asked.lines().next().unwrap();
        let role = "RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fbackups&RoleSessionName=a-test";
        assert!(
            line.contains(role) && line.contains(&format!("WebIdentityToken=identity-{number} ")),
            "{line}"
        );
    }
}

#[rstest]
#[case::short(SHORT)]
#[case::long(LONG)]
fn the_role_of_the_machine(#[case] lifetime: SignedDuration) {
    let server = S3Server::with_keys((0..SESSIONS).map(keys));
    let folder = tempfile::tempdir().unwrap();
    let giver = Giver::plain(lifetime);
    let s3 = s3_for(&server, &giver, lifetime);
    let variables = [("AWS_METADATA_ENDPOINT", giver.endpoint.as_str())];
    back_up(folder.path(), &s3.endpoint, lifetime == SHORT, &variables);
    used_in_turn(&s3, &giver, lifetime == SHORT);
    let asked = giver.asked();
    let named = |of: &String| of.to_ascii_lowercase().contains(&format!("metadata-token: {IMDS_TOKEN}"));
    assert!(asked.chunks(3).all(|three| three[0].starts_with("PUT") && three[1..].iter().all(named)));
}

/// Keys and token of the environment, which nobody renews: once they have run out it is told what to do.
#[test]
fn a_token_of_the_environment() {
    let server = S3Server::with_keys((0..SESSIONS).map(keys));
    let folder = tempfile::tempdir().unwrap();
    let giver = Giver::plain(LONG);
    let s3 = s3_for(&server, &giver, LONG);
    let ((id, secret), token) = (keys(0), token(0));
    let with = |token: &str| {
        let variables = [
            ("AWS_ACCESS_KEY_ID", id.as_str()),
            ("AWS_SECRET_ACCESS_KEY", &secret),
            ("AWS_SESSION_TOKEN", token),
        ];
        let done = strata(&s3.endpoint, "list", &[], &variables);
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!told.contains(token) && !told.contains(&secret), "{told}");
        (done.status.success(), told)
    };
    // Not begun, so far.
    assert!(with(&token).1.contains("ExpiredToken: told to say so"), "{:?}", with(&token));
    assert!(with(&token).1.contains("get new credentials"));
    let variables = [("AWS_METADATA_ENDPOINT", giver.endpoint.as_str())];
    back_up(folder.path(), &s3.endpoint, false, &variables);
    assert!(with(&token).0, "{:?}", with(&token));
    assert!(with("somebody else's").1.contains("InvalidToken"));
}

/// The identity is a secret as good as a key.
#[test]
fn an_identity_that_is_refused_is_not_told() {
    let server = S3Server::with_keys((0..SESSIONS).map(keys));
    let folder = tempfile::tempdir().unwrap();
    let (file, signer) = (folder.path().join("token"), folder.path().join("signer.pem"));
    std::fs::write(&file, "identity-0").unwrap();
    let (giver, pem) = Giver::tls(LONG, true, |_| ());
    std::fs::write(&signer, pem).unwrap();
    let variables = [
        ("AWS_ROLE_ARN", ROLE),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", file.to_str().unwrap()),
        ("AWS_ENDPOINT_URL_STS", &giver.endpoint),
        ("AWS_CA_BUNDLE", signer.to_str().unwrap()),
    ];
    let done = strata(&server.endpoint, "list", &[], &variables);
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(!done.status.success() && told.contains("AccessDenied"), "{told}");
    assert!(!told.contains("identity-0"), "{told}");
    let absent =
        [&variables[..1], &[("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere/token")], &variables[2..]].concat();
    let done = strata(&server.endpoint, "list", &[], &absent);
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(!done.status.success() && told.contains("/nowhere/token"), "{told}");
}
