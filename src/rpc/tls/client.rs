//! Calls over TLS.

use super::certificates::Certificates;
use super::noting::{Noting, Trouble};
use hyper_util::rt::TokioIo;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// For the name, the connection and the handshake together.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How soon it is noticed that the other side is gone without a word, while a call waits.
#[derive(Clone, Copy, Debug)]
pub struct Liveness {
    /// How often the other side is asked for a sign of life.
    pub every: Duration,
    /// How long that sign may take.
    pub within: Duration,
}

impl Default for Liveness {
    fn default() -> Self {
        Liveness { every: Duration::from_secs(10), within: Duration::from_secs(10) }
    }
}

/// A channel that connects when it is first used. Who answers must have the name that `certificates` expect; each
/// connection uses what their folder holds when it is made. Beside it, what its connection ended with.
pub fn channel(
    host: &str,
    port: u16,
    certificates: Arc<Certificates>,
    liveness: Liveness,
) -> (Channel, Trouble) {
    let (host, noted) = (host.to_owned(), Trouble::default());
    let trouble = noted.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let (host, certificates, trouble) = (host.clone(), Arc::clone(&certificates), noted.clone());
        async move {
            let connected = timeout(CONNECT_LIMIT, connect(&host, port, certificates)).await;
            let late = || format!("no connection within {} s", CONNECT_LIMIT.as_secs());
            let stream =
                connected.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, late())))?;
            Ok::<_, io::Error>(TokioIo::new(Noting { stream, trouble }))
        }
    });
    // The name is never resolved: the connector knows where to go.
    let endpoint = Endpoint::from_static("http://strata.invalid")
        .http2_keep_alive_interval(liveness.every)
        .keep_alive_timeout(liveness.within);
    (endpoint.connect_with_connector_lazy(connector), trouble)
}

async fn connect(host: &str, port: u16, certificates: Arc<Certificates>) -> io::Result<TlsStream<TcpStream>> {
    let reading = Arc::clone(&certificates);
    let current = tokio::task::spawn_blocking(move || reading.current()).await.map_err(io::Error::other)?;
    let connection = TcpStream::connect((host, port)).await?;
    connection.set_nodelay(true)?;
    let connector = TlsConnector::from(Arc::clone(&current.client));
    connector.connect(certificates.peer().clone(), connection).await
}
