//! Takes connections: none of them waits for another one's handshake, and their number is bounded.

use super::certificates::Certificates;
use super::stream::{Peer, PeerStream};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;

/// Two round trips and a signature.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Some dozens of volumes, a controller or two: more than this is nobody's need. Handshakes count.
const MOST_CONNECTIONS: usize = 256;
/// Connections whose certificate is genuine and not the expected one: they are heard so that they learn why not, in places of
/// their own, and for a moment.
const MOST_REFUSED: usize = 16;
const HEARD: Duration = Duration::from_secs(5);
/// Ready connections that the server has not taken yet.
const QUEUE: usize = 16;
/// How long one that was refused is heard, so that it reads why before its connection is reset.
const LINGER: Duration = Duration::from_secs(1);
/// After the kernel had no descriptor for a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Connections whose other end has shown a certificate of our authority. Ends its work when it is dropped. Needs a
/// running async runtime.
pub fn incoming(
    listener: std::net::TcpListener,
    certificates: Arc<Certificates>,
) -> io::Result<ReceiverStream<io::Result<PeerStream>>> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let (ready, taken) = mpsc::channel(QUEUE);
    tokio::spawn(accept(listener, certificates, ready));
    Ok(ReceiverStream::new(taken))
}

async fn accept(
    listener: TcpListener,
    certificates: Arc<Certificates>,
    ready: mpsc::Sender<io::Result<PeerStream>>,
) {
    let places = Places {
        all: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
        refused: Arc::new(Semaphore::new(MOST_REFUSED)),
    };
    loop {
        // Without a place the kernel queues.
        let next = async {
            let place = Arc::clone(&places.all).acquire_owned().await.map_err(io::Error::other)?;
            Ok((listener.accept().await?, place))
        };
        let accepted: io::Result<_> = tokio::select! {
            accepted = next => accepted,
            () = ready.closed() => return,
        };
        match accepted {
            Ok(((connection, address), place)) => {
                let (certificates, ready) = (Arc::clone(&certificates), ready.clone());
                let place = Place { permit: place, refused: Arc::clone(&places.refused) };
                tokio::spawn(async move {
                    if let Some(stream) = greet(connection, address, certificates, place).await {
                        // An error: the server has ended.
                        let _ = ready.send(Ok(stream)).await;
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

struct Places {
    all: Arc<Semaphore>,
    refused: Arc<Semaphore>,
}

/// One among the connections, until it is known to be refused.
struct Place {
    permit: OwnedSemaphorePermit,
    refused: Arc<Semaphore>,
}

async fn greet(
    connection: TcpStream,
    address: SocketAddr,
    certificates: Arc<Certificates>,
    place: Place,
) -> Option<PeerStream> {
    match timeout(HANDSHAKE_LIMIT, handshake(connection, address, certificates, place)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err((error, connection))) => {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                // So do probes of the port.
                tracing::debug!(from = %address, "a connection ended before its handshake did");
            } else {
                tracing::warn!(from = %address, reason = %error, "a connection was refused");
            }
            if let Some(connection) = connection {
                let _ = timeout(LINGER, hear_out(connection)).await;
            }
            None
        }
        Err(_) => {
            tracing::warn!(from = %address, "a connection was refused: its handshake took too long");
            None
        }
    }
}

async fn handshake(
    connection: TcpStream,
    address: SocketAddr,
    certificates: Arc<Certificates>,
    place: Place,
) -> Result<PeerStream, (io::Error, Option<TcpStream>)> {
    // Small messages that are waited for.
    connection.set_nodelay(true).map_err(|error| (error, None))?;
    let reading = Arc::clone(&certificates);
    let current = tokio::task::spawn_blocking(move || reading.current()).await;
    let current = current.map_err(|error| (io::Error::other(error), None))?;
    let acceptor = TlsAcceptor::from(Arc::clone(&current.server));
    let stream = acceptor.accept(connection).into_fallible().await;
    let stream = stream.map_err(|(error, connection)| (error, Some(connection)))?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let refused = certificates.is_peer(shown).err();
    let Some(reason) = refused else {
        return Ok(PeerStream::new(stream, Peer { address, refused: None }, place.permit, None));
    };
    tracing::warn!(from = %address, reason, "calls of this connection will be refused");
    drop(place.permit);
    let full = |_| (io::Error::other(format!("{reason}, and {MOST_REFUSED} others are being told so")), None);
    let permit = place.refused.try_acquire_owned().map_err(full)?;
    let peer = Peer { address, refused: Some(reason.into()) };
    Ok(PeerStream::new(stream, peer, permit, Some(HEARD)))
}

/// The alert is sent; with bytes of the other side unread, closing would reset the connection before that is read.
async fn hear_out(mut connection: TcpStream) -> io::Result<()> {
    connection.shutdown().await?;
    let mut rest = [0; 4096];
    while connection.read(&mut rest).await? > 0 {}
    Ok(())
}

#[cfg(test)]
#[path = "incoming_tests.rs"]
mod tests;
