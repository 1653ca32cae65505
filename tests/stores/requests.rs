//! What is sent to an S3 server, and what its refusals become.

use crate::faulty::{Fault, Faulty};
use crate::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};
use bytes::Bytes;
use std::process::Command;
use std::time::{Duration, Instant};
use strata::backup::store::{Exclusive, ObjectBacked, S3Options, Store, Timeouts};

const TOKEN: &str = "strata-test-session-token";

pub fn options(endpoint: &str) -> S3Options {
    let second = std::time::Duration::from_secs(1);
    S3Options {
        endpoint: Some(endpoint.to_owned()),
        region: Some("us-east-1".to_owned()),
        credentials: Some((ACCESS_KEY.to_owned(), SECRET_KEY.to_owned())),
        timeouts: Timeouts { connect: second, stall: second, give_up: 8 * second },
        ..S3Options::default()
    }
}

/// For a server that may be slow: a busy machine is no stalled store.
pub fn patient(endpoint: &str) -> S3Options {
    S3Options { timeouts: Timeouts::default(), ..options(endpoint) }
}

pub fn store(endpoint: &str) -> ObjectBacked {
    ObjectBacked::s3("bucket", "", &options(endpoint)).unwrap()
}

/// B15: no server is made to understand checksums or trailers that it did not ask for.
#[tokio::test(flavor = "multi_thread")]
async fn requests_carry_no_checksums_and_bodies_unsigned() {
    let server = S3Server::start();
    let recorder = Faulty::start(&server.endpoint, |_| Fault::None);
    let store = ObjectBacked::s3("bucket", "", &patient(&recorder.endpoint)).unwrap();
    store.ensure().await.unwrap();
    store.put("a/put", Bytes::from(vec![1; 100_000])).await.unwrap();
    store.put_new("a/new", Bytes::from(vec![2; 100_000])).await.unwrap();
    let mut writer = store.begin("a/parts").await.unwrap();
    for _ in 0..3 {
        writer.write(Bytes::from(vec![3; 5 << 20])).await.unwrap();
    }
    writer.finish().await.unwrap();
    assert_eq!(store.get("a/parts", 1 << 30).await.unwrap(), vec![3; 15 << 20]);
    store.list("a/").await.unwrap();
    store.delete("a/put").await.unwrap();
    let seen = recorder.seen();
    for request in &seen {
        for name in request.header_names() {
            let forced =
                name.contains("checksum") || name.contains("trailer") || name.contains("transfer-encoding");
            assert!(!forced && name != "content-md5", "{name} in {request:?}");
        }
        let signed = request.header("x-amz-content-sha256").unwrap_or_default();
        assert!(!signed.starts_with("STREAMING"), "{request:?}");
        if request.method == "PUT" && !request.target.starts_with("/bucket/?") {
            assert_eq!(signed, "UNSIGNED-PAYLOAD", "{request:?}");
            assert!(request.header("content-length").is_some(), "{request:?}");
        }
    }
    let created = seen.iter().filter(|r| r.target == "/bucket/a/new").collect::<Vec<_>>();
    // This server is not exact, and now and then is found out.
    let honoured = store.exclusive().await.unwrap() == Exclusive::Honoured;
    let conditional = created.iter().any(|r| r.header("if-none-match") == Some("*"));
    assert_eq!(conditional, honoured, "{created:?}");
    assert!(seen.iter().any(|r| r.target.contains("partNumber=2")));
    assert!(seen.iter().any(|r| r.method == "DELETE" && r.target == "/bucket/a/put"));
}

/// Both seen from a proxy: names of hosts that nobody else resolves.
#[tokio::test(flavor = "multi_thread")]
async fn buckets_are_addressed_by_host_or_by_path_through_a_proxy() {
    for (virtual_host_style, url) in [
        (true, "http://bucket.store.example:9000/some/key"),
        (false, "http://store.example:9000/bucket/some/key"),
    ] {
        let proxy = Faulty::start("none", |_| Fault::Answer(404, "NoSuchKey"));
        let (endpoint, proxy_url) = ("http://store.example:9000/", Some(proxy.endpoint.clone()));
        let session_token = Some(TOKEN.to_owned());
        let options = S3Options { virtual_host_style, session_token, proxy: proxy_url, ..options(endpoint) };
        let store = ObjectBacked::s3("bucket", "", &options).unwrap();
        let error = store.get("some/key", 10).await.unwrap_err();
        assert!(matches!(error, strata::backup::store::StoreError::Missing { .. }), "{error}");
        let seen = proxy.seen();
        assert_eq!(seen[0].target, url);
        assert_eq!(seen[0].header("x-amz-security-token"), Some(TOKEN));
    }
}

/// Each names cause and remedy, and nothing that is secret.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_name_cause_and_remedy() {
    for (status, code, remedy) in [
        (403, "RequestTimeTooSkewed", "the clock of this machine"),
        (403, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
        (400, "ExpiredToken", "get new credentials"),
        (400, "AuthorizationHeaderMalformed", "--region"),
        (301, "PermanentRedirect", "--region"),
        (403, "AccessDenied", "do not give this right"),
        (403, "QuotaExceeded", "quota"),
    ] {
        let server = Faulty::start("none", move |_| Fault::Answer(status, code));
        let session_token = Some(TOKEN.to_owned());
        let options = S3Options { session_token, ..options(&server.endpoint) };
        let store = ObjectBacked::s3("bucket", "", &options).unwrap();
        let error = store.put("some/key", Bytes::from_static(b"x")).await.unwrap_err();
        let told = error.to_string();
        assert!(told.starts_with("writing some/key failed: ") && told.contains(remedy), "{code}: {told}");
        assert!(told.contains(code) || status == 301, "{code}: {told}");
        for text in [told, format!("{error:?}"), format!("{options:?}"), format!("{store:?}")] {
            assert!(!text.contains(SECRET_KEY) && !text.contains(TOKEN), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_may_not_be_made_and_wrong_keys_are_told() {
    let server = S3Server::start();
    let denies = Faulty::start(&server.endpoint, |r| match r.method.as_str() {
        "PUT" => Fault::Answer(403, "AccessDenied"),
        _ => Fault::None,
    });
    let told = store(&denies.endpoint).ensure().await.unwrap_err().to_string();
    assert!(told.contains("making the bucket") && told.contains("make the bucket yourself"), "{told}");
    let wrong = S3Options {
        credentials: Some((ACCESS_KEY.to_owned(), "not the secret".to_owned())),
        ..options(&server.endpoint)
    };
    let error = ObjectBacked::s3("bucket", "", &wrong).unwrap().ensure().await.unwrap_err().to_string();
    assert!(error.contains("SignatureDoesNotMatch") && error.contains("AWS_SECRET_ACCESS_KEY"), "{error}");
    assert!(!error.contains("not the secret"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_make_no_client_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "no certificate").unwrap();
    let fine = || options("http://127.0.0.1:1");
    for (options, cause) in [
        (S3Options { ca_file: Some(folder.path().join("none.pem")), ..fine() }, "No such file"),
        (S3Options { ca_file: Some(empty), ..fine() }, "it holds no certificate"),
        (S3Options { proxy: Some("http://user:pass word@[".to_owned()), ..fine() }, "the proxy is no URL"),
        (S3Options { endpoint: Some("store.example".to_owned()), ..fine() }, "is no URL"),
    ] {
        let told = ObjectBacked::s3("bucket", "", &options).unwrap_err().to_string();
        assert!(told.contains(cause) && !told.contains("pass word"), "{told}");
    }
    let told = store("http://127.0.0.1:1").get("a", 1).await.unwrap_err().to_string();
    assert!(told.contains("Connection refused") && told.contains("--endpoint"), "{told}");
}

/// Without keys those of a role are taken; without a role it is told that there are none, at once.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_come_from_a_role() {
    let server = S3Server::start();
    store(&server.endpoint).ensure().await.unwrap();
    let agent = Faulty::start("none", |_| Fault::Role);
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "the pod's token").unwrap();
    let list = |role: bool| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
        for (key, _) in std::env::vars().filter(|(key, _)| key.starts_with("AWS_")) {
            command.env_remove(key);
        }
        command.args(["backup", "list", "--repository", "s3://bucket", "--endpoint", &server.endpoint]);
        command.env("AWS_REGION", "us-east-1").env("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1");
        if role {
            command.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/credentials", agent.endpoint));
            command.env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &token);
        }
        command.output().unwrap()
    };
    let by_role = list(true);
    assert!(by_role.status.success(), "{}", String::from_utf8_lossy(&by_role.stderr));
    assert_eq!(agent.seen()[0].header("authorization"), Some("the pod's token"));
    let started = Instant::now();
    let nobody = list(false);
    let told = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert!(!nobody.status.success() && told.contains("AWS_ACCESS_KEY_ID"), "{told}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}
