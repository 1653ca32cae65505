//! The port where metrics are asked for. One request, one answer, one connection: all that a scrape needs.

use super::{CONTENT_TYPE, Metrics};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Of a whole scrape.
const LIMIT: Duration = Duration::from_secs(10);
/// More than any scraper's request has.
const LONGEST: usize = 8 << 10;
/// Scrapes at a time; others wait.
const AT_A_TIME: usize = 8;
/// After a connection that could not be taken: there are no descriptors left, perhaps.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers `GET /metrics` on that address, until the runtime ends; the address that is listened on comes back.
pub async fn serve(metrics: Metrics, address: SocketAddr) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    tokio::spawn(async move {
        let permits = std::sync::Arc::new(Semaphore::new(AT_A_TIME));
        loop {
            let Ok(permit) = std::sync::Arc::clone(&permits).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let metrics = metrics.clone();
            tokio::spawn(async move {
                let _permit = permit;
                if let Ok(Err(error)) = tokio::time::timeout(LIMIT, answer(metrics, stream)).await {
                    tracing::debug!(%error, "a scrape broke off");
                }
            });
        }
    });
    Ok(bound)
}

async fn answer(metrics: Metrics, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let head = head(&mut stream).await?;
    let mut words = head.split(' ');
    let (status, kind, body) = match (words.next(), words.next()) {
        (Some("GET"), Some("/metrics")) => {
            // Some figures are looked up at that moment.
            let text = tokio::task::spawn_blocking(move || metrics.text()).await.map_err(io::Error::other)?;
            ("200 OK", CONTENT_TYPE, text)
        }
        (Some("GET"), Some(_)) => ("404 Not Found", "text/plain", "there is /metrics only\n".to_owned()),
        _ => ("400 Bad Request", "text/plain", "GET /metrics\n".to_owned()),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// The request's lines; what follows them is not looked at.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut read = Vec::new();
    while !read.windows(4).any(|end| end == b"\r\n\r\n") {
        if read.len() > LONGEST || stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(String::from_utf8_lossy(&read).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // One that is sent away may be cut off.
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }

    #[tokio::test]
    async fn a_scrape_is_answered_and_nothing_else_is() {
        let address = serve(Metrics::new("test"), "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let answer = ask(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
        assert!(body.contains("strata_build_info{") && body.ends_with("# EOF\n"), "{body}");
        assert!(ask(address, "GET / HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404 "));
        assert!(ask(address, "POST /metrics HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
        assert_eq!(ask(address, &"x".repeat(LONGEST + 2)).await, "");
    }
}
