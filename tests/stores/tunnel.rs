//! HTTPS through a proxy that sees a host's name and passes bytes on (CONNECT), with the bucket in the path or in that name.

use crate::contract::job;
use crate::giver::certificate;
use crate::requests::patient;
use crate::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};
use rstest::rstest;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};
use strata::backup::store::{ObjectBacked, S3Options, Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// That nobody resolves.
const HOST: &str = "store.example";

/// Speaks TLS before a server that does not. With the PEM certificate of its signer.
async fn tls(server: &str) -> (SocketAddr, String) {
    let (config, signer) = certificate(&[HOST, &format!("*.{HOST}")]);
    let (acceptor, server) = (TlsAcceptor::from(config), server.trim_start_matches("http://").to_owned());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, server) = (acceptor.clone(), server.clone());
            tokio::spawn(async move {
                let mut inside = TcpStream::connect(server).await?;
                copy_bidirectional(&mut acceptor.accept(socket).await?, &mut inside).await
            });
        }
    });
    (address, signer)
}

/// Listens until the test ends.
struct Proxy {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Whatever host it is asked for, it connects to that one.
    async fn start(to: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://somebody:pass-word@{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let record = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let record = Arc::clone(&record);
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(socket.read_u8().await?);
                    }
                    record.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
                    socket.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
                    copy_bidirectional(&mut socket, &mut TcpStream::connect(to).await?).await
                });
            }
        });
        Proxy { url, asked }
    }

    /// Tunnels to one host were asked for since the last look, and nothing else.
    fn was_asked_for(&self, host: &str) {
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        assert!(!asked.is_empty());
        for head in asked {
            assert!(head.starts_with(&format!("CONNECT {host}:443 HTTP/1.1\r\n")), "{head}");
            let head = head.to_ascii_lowercase();
            assert!(head.contains("proxy-authorization: basic c29tzwjvzhk6cgfzcy13b3jk\r\n"), "{head}");
        }
    }
}

#[rstest]
#[case::in_the_path(false, HOST)]
#[case::in_the_name(true, "bucket.store.example")]
#[tokio::test(flavor = "multi_thread")]
async fn backups_through_a_tunnel(#[case] virtual_host_style: bool, #[case] host: &str) {
    let server = S3Server::of_domain(HOST);
    let (address, signer) = tls(&server.endpoint).await;
    let proxy = Proxy::start(address).await;
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, signer).unwrap();
    let endpoint = format!("https://{HOST}");
    let options = S3Options {
        virtual_host_style,
        ca_file: Some(ca_file.clone()),
        proxy: Some(proxy.url.clone()),
        ..patient(&endpoint)
    };
    let store = ObjectBacked::s3("bucket", "", &options).unwrap();
    store.ensure().await.unwrap();
    job(Arc::new(store)).await;
    proxy.was_asked_for(host);
    // The same by variables.
    let mut list = Command::new(env!("CARGO_BIN_EXE_strata"));
    for (key, _) in
        std::env::vars().filter(|(key, _)| key.starts_with("AWS_") || key.to_lowercase().ends_with("_proxy"))
    {
        list.env_remove(key);
    }
    list.args(["backup", "list", "--repository", "s3://bucket"]);
    list.env("AWS_ENDPOINT_URL_S3", &endpoint).env("AWS_REGION", "us-east-1");
    list.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    list.env("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", virtual_host_style.to_string());
    list.env("AWS_CA_BUNDLE", &ca_file).env("HTTPS_PROXY", &proxy.url);
    let listed = tokio::task::block_in_place(|| list.output()).unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    proxy.was_asked_for(host);
}
