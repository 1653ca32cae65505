//! An S3 server in this process, over real HTTP.

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::host::SingleDomain;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use std::net::SocketAddr;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub const ACCESS_KEY: &str = "strata-test";
pub const SECRET_KEY: &str = "strata-test-secret";

/// Serves a temporary folder until it is dropped.
pub struct S3Server {
    pub endpoint: String,
    runtime: Option<Runtime>,
    folder: TempDir,
}

impl S3Server {
    pub fn start() -> S3Server {
        S3Server::with_keys([(ACCESS_KEY.to_owned(), SECRET_KEY.to_owned())])
    }

    /// For several users.
    pub fn with_keys(keys: impl IntoIterator<Item = (String, String)>) -> S3Server {
        S3Server::serve(keys, None)
    }

    /// Under a name, and under names of buckets below that.
    #[allow(dead_code)]
    pub fn of_domain(domain: &str) -> S3Server {
        S3Server::serve([(ACCESS_KEY.to_owned(), SECRET_KEY.to_owned())], Some(domain))
    }

    fn serve(keys: impl IntoIterator<Item = (String, String)>, domain: Option<&str>) -> S3Server {
        let folder = tempfile::tempdir().unwrap();
        let service = {
            let mut builder = S3ServiceBuilder::new(FileSystem::new(folder.path()).unwrap());
            let mut auth = SimpleAuth::new();
            for (id, secret) in keys {
                auth.register(id, secret.into());
            }
            builder.set_auth(auth);
            if let Some(domain) = domain {
                builder.set_host(SingleDomain::new(domain).unwrap());
            }
            builder.build()
        };
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        // Bound here and now: a test may itself run on a runtime, where nothing may block.
        let listener = std::net::TcpListener::bind(any).unwrap();
        listener.set_nonblocking(true).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let server = Builder::new(TokioExecutor::new());
                    // A client that goes away is no failure of the server.
                    let _ = server.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        S3Server { endpoint, runtime: Some(runtime), folder }
    }
}

impl S3Server {
    /// Parts of uploads that were neither finished nor broken off.
    #[allow(dead_code)]
    pub fn parts(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(".upload")).collect()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
