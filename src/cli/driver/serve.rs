//! Serving on a socket until told to stop.

use crate::rpc::uds;
use anyhow::{Context, Result};
use futures::Stream;
use std::future::Future;
use std::io;
use std::os::unix::net::UnixListener;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tonic::transport::server::{Connected, Router};

/// How long calls that are under way may take to end once the process is told to stop. Whatever is cut off
/// is journaled and finished by the next one.
pub const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Each share that hangs keeps some dozens of threads (`csi/lane.rs`), and there may be many. One that waits costs
/// next to nothing.
const BLOCKING_THREADS: usize = 2048;

/// An async runtime. Domain calls run on its blocking threads.
pub fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .context("the async runtime could not be started")
}

/// Listens for SIGTERM and SIGINT from now on, and waits for one of them. Within an async runtime.
pub fn stop_signal() -> Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => tracing::info!("SIGTERM"),
            _ = int.recv() => tracing::info!("SIGINT"),
        }
    })
}

/// Serves a unix socket until `stop`, then lets the calls that are under way end.
pub async fn serve(router: Router, listener: UnixListener, stop: impl Future<Output = ()>) -> Result<()> {
    serve_on(router, uds::incoming(listener).context("cannot listen")?, stop).await
}

/// The same for whatever connections come in.
pub async fn serve_on<C>(
    router: Router,
    incoming: impl Stream<Item = io::Result<C>>,
    stop: impl Future<Output = ()>,
) -> Result<()>
where
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let (told, mut heard) = tokio::sync::watch::channel(false);
    let mut stopping = told.subscribe();
    let server = router.serve_with_incoming_shutdown(incoming, async move {
        // An error means that the sender is gone, which is a stop too.
        let _ = heard.wait_for(|stop| *stop).await;
    });
    let bound = async move {
        let _ = stopping.wait_for(|stop| *stop).await;
        tokio::time::sleep(STOP_LIMIT).await;
    };
    let stop = async move {
        stop.await;
        let _ = told.send(true);
        // Keeps the sender until the server has ended.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = server => served.context("the server failed"),
        () = bound => Ok(()),
        () = stop => Ok(()),
    }
}
