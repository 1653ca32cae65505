//! A real Kubernetes API for a test: etcd and kube-apiserver on free ports of 127.0.0.1, with RBAC, all state in a
//! temporary folder. No controllers run (unless a test starts them): namespaces are not emptied, owners' objects not
//! collected, nothing is bound.
#![allow(dead_code)]

mod assets;
mod audit;
mod controllers;
mod keys;
mod objects;
mod process;

#[allow(unused_imports)]
pub use audit::Asked;
#[allow(unused_imports)]
pub use controllers::Controllers;

use keys::Keys;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use process::{Process, etcd, free_ports, kube_apiserver};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

/// Longer than a start takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
const LOOPBACK: &str = "127.0.0.1";
/// A free port may be taken before it is used.
const TRIES: usize = 3;

/// Ends what it has started when dropped.
pub struct ApiServer {
    server: Mutex<Option<Process>>,
    etcd: Mutex<Process>,
    keys: Keys,
    address: &'static str,
    ports: [u16; 2],
    // Last: its files are in use until the others are dropped.
    folder: tempfile::TempDir,
}

impl ApiServer {
    /// Starts one, and waits until it is ready.
    pub async fn start() -> ApiServer {
        ApiServer::start_on(LOOPBACK).await
    }

    /// One at an address that other network namespaces reach.
    pub async fn start_on(address: &'static str) -> ApiServer {
        // Two providers of cryptography may be linked in: this is the one that the program uses.
        let _ = tokio_rustls::rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut said = String::new();
        for _ in 0..TRIES {
            match ApiServer::try_start(address).await {
                Ok(server) => return server,
                Err(failed) => said = failed,
            }
        }
        panic!("no API server: {said}");
    }

    /// One that the tests of a program use together, in namespaces of their own; the last one ends it.
    pub async fn shared() -> Arc<ApiServer> {
        static SHARED: tokio::sync::Mutex<Weak<ApiServer>> = tokio::sync::Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let server = Arc::new(ApiServer::start().await);
        *shared = Arc::downgrade(&server);
        server
    }

    async fn try_start(address: &'static str) -> Result<ApiServer, String> {
        let parent = std::env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into());
        let folder = tempfile::Builder::new().prefix("strata-api-").tempdir_in(parent).expect("a folder");
        let [port, client, peer] = free_ports();
        let server = ApiServer {
            server: Mutex::new(None),
            etcd: Mutex::new(etcd(folder.path(), client, peer)),
            keys: Keys::make(folder.path(), address),
            address,
            ports: [port, client],
            folder,
        };
        server.kubeconfig_with("admin", server.keys.admin());
        server.launch();
        server.ready().await?;
        // Made in the background, once it is ready.
        while !server.namespaces().await.contains(&"default".to_owned()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(server)
    }

    /// Ends kube-apiserver, as a crash would; etcd and all objects stay.
    pub fn stop(&self) {
        self.server.lock().unwrap().take();
    }

    /// Starts it again at the same address, and does not wait.
    pub fn launch(&self) {
        let [port, etcd] = self.ports;
        let mut server = self.server.lock().unwrap();
        assert!(server.is_none(), "it runs already");
        *server = Some(kube_apiserver(self.folder.path(), &self.keys, (self.address, port), etcd));
    }

    /// A crash of kube-apiserver and its next start, until that is ready.
    pub async fn restart(&self) {
        self.stop();
        self.launch();
        self.ready().await.unwrap();
    }

    /// Waits for /readyz.
    pub async fn ready(&self) -> Result<(), String> {
        let client = self.client().await;
        let deadline = Instant::now() + LIMIT;
        loop {
            let request = http::Request::get("/readyz").body(Vec::new()).expect("a request");
            let answer = client.request_text(request).await;
            if answer.is_ok() {
                return Ok(());
            }
            if let Some(said) = self.ended() {
                return Err(said);
            }
            if Instant::now() > deadline {
                let said = self.server.lock().unwrap().as_ref().map(Process::last_words);
                return Err(format!("not ready ({answer:?}): {}", said.unwrap_or_default()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn ended(&self) -> Option<String> {
        let etcd = self.etcd.lock().unwrap().ended().map(|said| format!("etcd ended: {said}"));
        let server = self.server.lock().unwrap().as_mut().and_then(Process::ended);
        etcd.or(server.map(|said| format!("kube-apiserver ended: {said}")))
    }

    /// Where all of its files are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The processes that run now.
    pub fn processes(&self) -> Vec<u32> {
        let server = self.server.lock().unwrap().as_ref().map(Process::id);
        [self.etcd.lock().unwrap().id()].into_iter().chain(server).collect()
    }

    pub fn url(&self) -> String {
        format!("https://{}:{}", self.address, self.ports[0])
    }

    pub fn port(&self) -> u16 {
        self.ports[0]
    }

    /// The authority of its certificate.
    pub fn authority(&self) -> PathBuf {
        self.keys.path("ca.crt")
    }

    /// The kubeconfig of who may do everything.
    pub fn kubeconfig(&self) -> PathBuf {
        self.keys.path("admin.kubeconfig")
    }

    fn kubeconfig_with(&self, name: &str, token: &str) -> PathBuf {
        self.keys.kubeconfig(name, &self.url(), token)
    }

    /// A client that may do everything, of the runtime that asks for it.
    pub async fn client(&self) -> Client {
        client(self.kubeconfig()).await
    }
}

/// A client with a kubeconfig.
pub async fn client(kubeconfig: PathBuf) -> Client {
    let text = Kubeconfig::read_from(&kubeconfig).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(text, &KubeConfigOptions::default()).await;
    Client::try_from(config.expect("a whole kubeconfig")).expect("a client")
}
