//! A small S3 server for the demonstration and for trying things out: `s3_server ADDRESS FOLDER`.
//!
//! Keeps its objects in FOLDER (a bucket is a folder in it), takes requests signed with AWS_ACCESS_KEY_ID
//! and AWS_SECRET_ACCESS_KEY, and prints its endpoint once it can be reached. Port 0 takes a free one. No
//! server for anything that matters: it does not sync, and creates exclusively only where nobody races.

use anyhow::{Context, Result, bail};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use std::io::Write;
use std::path::Path;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, folder] = arguments.as_slice() else { bail!("usage: s3_server ADDRESS FOLDER") };
    let credential = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));

    let store = FileSystem::new(Path::new(folder))
        .map_err(|error| anyhow::anyhow!("cannot keep objects in {folder}: {error:?}"))?;
    let mut service = S3ServiceBuilder::new(store);
    service.set_auth(SimpleAuth::from_single(
        credential("AWS_ACCESS_KEY_ID")?,
        credential("AWS_SECRET_ACCESS_KEY")?,
    ));
    let service = service.build();

    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let mut end = signal(SignalKind::terminate())?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "http://{}", listener.local_addr()?)?;
    stdout.flush()?;

    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = end.recv() => return Ok(()),
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let (socket, _) = accepted.context("cannot accept connections")?;
        let service = service.clone();
        tokio::spawn(async move {
            // A client that goes away is no failure of the server.
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
        });
    }
}
