//! A connection that was accepted, and what is known of who is at its other end.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use tonic::{Request, Status};

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it called from.
    pub address: SocketAddr,
    /// Why it may not call, although its certificate is genuine.
    pub refused: Option<Arc<str>>,
}

/// An encrypted connection whose other end has shown a certificate of a known authority.
pub struct PeerStream {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// One of the connections that may be open.
    _place: OwnedSemaphorePermit,
    /// When it is heard no longer.
    end: Option<Pin<Box<Sleep>>>,
}

impl PeerStream {
    /// `heard`: for so long, as if the other end had then closed it.
    pub(super) fn new(
        stream: TlsStream<TcpStream>,
        peer: Peer,
        place: OwnedSemaphorePermit,
        heard: Option<Duration>,
    ) -> Self {
        let end = heard.map(|heard| Box::pin(sleep(heard)));
        PeerStream { stream, peer, _place: place, end }
    }
}

/// Lets calls through that came over a [`PeerStream`] from the side that is expected, and no others.
pub fn only_expected_peers(request: Request<()>) -> Result<Request<()>, Status> {
    let refused = match request.extensions().get::<Peer>() {
        Some(Peer { refused: None, .. }) => return Ok(request),
        Some(Peer { refused: Some(reason), .. }) => Arc::clone(reason),
        None => Arc::from("the connection is not secured"),
    };
    Err(Status::permission_denied(&*refused))
}

impl Connected for PeerStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if let Some(end) = &mut self.end
            && end.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
