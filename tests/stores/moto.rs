//! The contract over moto's server: exact where other servers are not, and with a certificate.

use crate::contract::{contract, job, unfinished};
use crate::mended::mended;
use crate::requests::patient;
use crate::util::{create, noise, restored, small};
use bytes::Bytes;
use jiff::{Timestamp, ToSpan};
use object_store::aws::AmazonS3Builder;
use object_store::multipart::MultipartStore;
use object_store::path::Path as ObjectPath;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use strata::backup::store::{Exclusive, ObjectBacked, S3Options, Store};
use strata::backup::{Cancel, Engine, GcClock, GcOptions, ParentChoice};
use uuid::Uuid;

/// Runs until it is dropped.
struct Moto {
    process: Child,
    address: String,
}

impl Moto {
    fn start(extra: &[&str]) -> Moto {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/ensure-moto");
        let ensured = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
        assert!(ensured.status.success(), "moto's server cannot be had: see above");
        let program = PathBuf::from(String::from_utf8(ensured.stdout).unwrap().trim());
        // Free a moment ago: moto cannot be handed a socket.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).args(extra);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let moto = Moto { process, address: format!("127.0.0.1:{port}") };
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(&moto.address).is_err() {
            assert!(Instant::now() < deadline, "moto does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        moto
    }
}

impl Moto {
    /// An object of any name, as no client of ours would make it. This server asks for no signature.
    fn put_raw(&self, bucket: &str, key: &str) {
        let escaped: String = key.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let mut socket = TcpStream::connect(&self.address).unwrap();
        let head = format!(
            "PUT /{bucket}/{escaped} HTTP/1.1\r\nhost: {}\r\ncontent-length: 3\r\nconnection: close\r\n\r\nodd",
            self.address
        );
        socket.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{key:?}: {answer}");
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_keeps_the_contract_and_is_found_exact() {
    let moto = Moto::start(&[]);
    let options = patient(&format!("http://{}", moto.address));
    let store = ObjectBacked::s3("bucket", "some/prefix", &options).unwrap();
    contract(&store).await;
    assert_eq!(store.exclusive().await.unwrap(), Exclusive::Honoured);
    unfinished(&store).await;
    others_uploads(&options).await;
    job(Arc::new(store.clone())).await;
    mended(Arc::new(store)).await;
    let whole = ObjectBacked::s3("bucket", "", &options).unwrap();
    assert_eq!(whole.list("").await.unwrap(), vec![], "the probe left something");
    beside_names_that_are_no_paths(&moto, &options).await;
}

/// Other programs' names in the same bucket, at its top and between our own.
async fn beside_names_that_are_no_paths(moto: &Moto, options: &S3Options) {
    let store = Arc::new(ObjectBacked::s3("odd", "", options).unwrap());
    store.ensure().await.unwrap();
    let foreign = ["logs//2026/a.txt", "./x", "a/../b", "tab\tand\u{1}", "volume_//x", "a b/100%+&<>"];
    for key in foreign {
        moto.put_raw("odd", key);
    }
    let (engine, data) = (Engine::new(Arc::clone(&store) as _), noise(1, 50_000));
    engine.ensure().await.unwrap();
    let made = create(&engine, &data, &small(Uuid::new_v4(), ParentChoice::None)).await.unwrap();
    assert_eq!(engine.list(None).await.unwrap().len(), 1);
    let report = engine.gc(GcOptions { before: Timestamp::MAX, dry_run: false }, &Cancel::never()).await;
    let (report, mut expected) = (report.unwrap(), foreign.to_vec());
    expected.sort_unstable();
    assert_eq!(
        (report.removed.len(), report.foreign),
        (0, expected.into_iter().map(str::to_owned).collect())
    );
    assert!(restored(&engine, made.backup_id).await == data);
    engine.delete(made.backup_id).await.unwrap();
    assert_eq!(store.list("").await.unwrap().len(), foreign.len());
}

/// Another program sends an object in parts into the repository's folder; this server dates each upload in 2010.
async fn others_uploads(options: &S3Options) {
    let store = Arc::new(ObjectBacked::s3("shared", "some/prefix", options).unwrap());
    store.ensure().await.unwrap();
    let (key_id, secret_key) = options.credentials.clone().unwrap();
    let other = AmazonS3Builder::new()
        .with_endpoint(options.endpoint.clone().unwrap())
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_bucket_name("shared")
        .with_access_key_id(key_id)
        .with_secret_access_key(secret_key)
        .build()
        .unwrap();
    let foreign = ObjectPath::from("some/prefix/a b/100%.bin");
    let id = other.create_multipart(&foreign).await.unwrap();
    let set = format!("volume_{0}/20260101000000/az_nova_backup_{0}", Uuid::new_v4());
    let mut writer = store.begin(&format!("{set}_sha256file")).await.unwrap();
    for _ in 0..3 {
        writer.write(Bytes::from(vec![1; 5 << 20])).await.unwrap();
    }
    drop(writer);
    // The backup is under way: its chunks are new.
    let chunk = format!("{set}-00001");
    store.put(&chunk, Bytes::from_static(b"1")).await.unwrap();
    let engine = Engine::new(Arc::clone(&store) as _);
    let day_old = GcOptions { before: Timestamp::now() - 24.hours(), dry_run: false };
    let report = engine.gc(day_old, &Cancel::never()).await.unwrap();
    assert_eq!((report.removed.len(), report.young.len(), report.foreign.len()), (0, 2, 1), "{report:?}");
    store.delete(&chunk).await.unwrap();
    let report = engine.gc(day_old, &Cancel::never()).await.unwrap();
    assert_eq!((report.removed.len(), report.young.len(), report.foreign.len()), (1, 0, 1), "{report:?}");
    assert_eq!(report.clock, GcClock::Store);
    let left = store.unfinished().await.unwrap();
    assert_eq!(left.iter().map(|upload| upload.id.as_str()).collect::<Vec<_>>(), [id.as_str()]);
    assert_eq!(store.list("").await.unwrap(), vec![], "the probe left something");
}

/// A certificate of nobody known is refused with what to do; with its signer's it is trusted.
#[tokio::test(flavor = "multi_thread")]
async fn a_private_certificate_is_trusted_when_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (ca, ca_key, leaf, leaf_key) = (file("ca.pem"), file("ca.key"), file("leaf.pem"), file("leaf.key"));
    let new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-x509"];
    openssl(&[&["req"], &new[..], &["-subj", "/CN=A signer", "-keyout", &ca_key, "-out", &ca]].concat());
    let named = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"];
    let signed =
        ["-subj", "/CN=A server", "-CA", &ca, "-CAkey", &ca_key, "-keyout", &leaf_key, "-out", &leaf];
    openssl(&[&["req"], &new[..], &named[..], &signed[..]].concat());
    let moto = Moto::start(&["-c", &leaf, "-k", &leaf_key]);
    let endpoint = format!("https://{}", moto.address);
    let error = ObjectBacked::s3("bucket", "", &patient(&endpoint)).unwrap().ensure().await.unwrap_err();
    let told = error.to_string();
    assert!(told.contains("invalid peer certificate") && told.contains("--ca-file"), "{told}");
    let trusting = S3Options { ca_file: Some(ca.into()), ..patient(&endpoint) };
    let store = ObjectBacked::s3("bucket", "", &trusting).unwrap();
    store.ensure().await.unwrap();
    store.put_new("volume_a", Bytes::from_static(b"1")).await.unwrap();
}

fn openssl(arguments: &[&str]) {
    let done = Command::new("openssl").args(arguments).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
