use super::super::own::Side;
use super::super::testing::{Authority, CONTROLLER, NODE, Wanted};
use super::*;
use std::path::Path;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::StreamExt;

const LIMIT: Duration = Duration::from_secs(60);

async fn connect(folder: &Path, at: SocketAddr) -> TlsStream<TcpStream> {
    let certificates = Certificates::open(folder, Side::Client, CONTROLLER, NODE).unwrap();
    let connection = TcpStream::connect(at).await.unwrap();
    let connector = TlsConnector::from(Arc::clone(&certificates.current().client));
    connector.connect(certificates.peer().clone(), connection).await.unwrap()
}

/// Who has a genuine certificate and is no controller takes no place away from controllers, and is not heard for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_refused_hold_no_places() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let folder = |name: &str| dir.path().join(name);
    authority.write(&folder("agent"), &Wanted::named(NODE));
    authority.write(&folder("another-node"), &Wanted::named(NODE));
    authority.write(&folder("controller"), &Wanted::named(CONTROLLER));
    let certificates =
        Arc::new(Certificates::open(&folder("agent"), Side::Server, NODE, CONTROLLER).unwrap());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let mut taken = incoming(listener, certificates).unwrap();
    let (expected, mut served) = mpsc::channel(1);
    // As a server does: each is kept until its other end has closed it, or seems to have.
    tokio::spawn(async move {
        while let Some(Ok(mut stream)) = taken.next().await {
            let expected = expected.clone();
            tokio::spawn(async move {
                if only_refused(&stream) {
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                } else {
                    let _ = expected.send(()).await;
                }
            });
        }
    });
    let mut first = connect(&folder("another-node"), at).await;
    let begun = Instant::now();
    let mut held = Vec::new();
    for _ in 0..MOST_CONNECTIONS {
        held.push(connect(&folder("another-node"), at).await);
    }
    let folder_of_controller = folder("controller");
    let controller =
        timeout(LIMIT, connect(&folder_of_controller, at)).await.expect("others hold all places");
    assert_eq!(timeout(LIMIT, served.recv()).await, Ok(Some(())));
    // Its end is the server's doing: this side sends nothing and waits.
    let ended = timeout(LIMIT, first.read(&mut [0; 16])).await.expect("it is not heard for ever");
    assert!(ended.is_err() || ended.is_ok_and(|read| read == 0));
    assert!(begun.elapsed() >= HEARD - Duration::from_millis(500), "it had time to read why not");
    drop((held, controller));
}

fn only_refused(stream: &PeerStream) -> bool {
    use tonic::transport::server::Connected;
    stream.connect_info().refused.is_some()
}
