//! A server between a client and an S3 server, that records what is asked and fails as it is told.

use crate::s3_server::{ACCESS_KEY, SECRET_KEY};
use rustix::net::sockopt::set_socket_linger;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is done.
    None,
    /// Never answered.
    Stall,
    /// The connection is reset; the server never sees it.
    Reset,
    /// The server does it, and then the connection is reset: the answer is lost.
    LoseAnswer,
    /// Refused with this status and code.
    Answer(u16, &'static str),
    /// Answered with the credentials of a role.
    Role,
    /// The answer ends in the middle of its body.
    Truncate,
    /// One byte in the middle of the answer's body is another.
    Flip,
    /// Its body is taken slowly, but taken.
    Slowly,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Path and query; a whole URL if the client takes us for a proxy.
    pub target: String,
    head: String,
    /// Requests of that method and target before it.
    pub before: usize,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        headers.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub fn header_names(&self) -> Vec<String> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.map(|(key, _)| key.to_ascii_lowercase()).collect()
    }

    /// Is it for one of a backup's chunks?
    pub fn is_of_a_chunk(&self) -> bool {
        self.target.contains("_backup_")
            && !self.target.contains("_metadata")
            && !self.target.contains("sha256")
    }
}

type Decide = dyn Fn(&Request) -> Fault + Send + Sync;

/// Listens until the process ends.
pub struct Faulty {
    pub endpoint: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Faulty {
    pub fn start(server: &str, decide: impl Fn(&Request) -> Fault + Send + Sync + 'static) -> Faulty {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let upstream = server.trim_start_matches("http://").to_owned();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (record, decide): (_, Arc<Decide>) = (Arc::clone(&seen), Arc::new(decide));
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (upstream, record, decide) = (upstream.clone(), Arc::clone(&record), Arc::clone(&decide));
                std::thread::spawn(move || {
                    // A client that goes away in the middle is what these tests are about.
                    let _ = serve(socket, &upstream, &record, decide.as_ref());
                });
            }
        });
        Faulty { endpoint, seen }
    }

    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(
    mut socket: TcpStream,
    upstream: &str,
    record: &Mutex<Vec<Request>>,
    decide: &Decide,
) -> std::io::Result<()> {
    let (head, mut body) = read_head(&mut socket)?;
    let mut words = head.lines().next().unwrap_or_default().split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let request = {
        let mut seen = record.lock().unwrap();
        let before = seen.iter().filter(|r: &&Request| r.method == method && r.target == target).count();
        let request = Request { method, target, head: head.clone(), before };
        seen.push(request.clone());
        request
    };
    let fault = decide(&request);
    let length: usize = request.header("content-length").map_or(0, |text| text.parse().unwrap());
    let mut piece = vec![0; 256 << 10];
    while body.len() < length {
        if fault == Fault::Slowly {
            std::thread::sleep(Duration::from_millis(100));
        }
        match socket.read(&mut piece)? {
            0 => return Ok(()),
            read => body.extend_from_slice(&piece[..read]),
        }
    }
    match fault {
        Fault::Stall => {
            // Until the client has had enough.
            while socket.read(&mut piece)? > 0 {}
            return Ok(());
        }
        Fault::Reset => return reset(&socket),
        Fault::Role => {
            let text = format!(
                r#"{{"AccessKeyId":"{ACCESS_KEY}","SecretAccessKey":"{SECRET_KEY}","Token":"of the role",
                "Expiration":"2099-01-01T00:00:00Z"}}"#
            );
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len());
            socket.write_all((head + &text).as_bytes())?;
            return socket.shutdown(Shutdown::Write);
        }
        Fault::Answer(status, code) => {
            let text = format!("<Error><Code>{code}</Code><Message>told to say so</Message></Error>");
            let head = format!(
                "HTTP/1.1 {status} Told\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                text.len()
            );
            socket.write_all(head.as_bytes())?;
            if request.method != "HEAD" {
                socket.write_all(text.as_bytes())?;
            }
            return socket.shutdown(Shutdown::Write);
        }
        _ => {}
    }
    let mut answer = ask(upstream, &head, &body)?;
    let begin = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
    let middle = begin + (answer.len() - begin) / 2;
    match fault {
        Fault::LoseAnswer => return reset(&socket),
        Fault::Truncate if answer.len() > begin => answer.truncate(middle),
        Fault::Flip if answer.len() > begin => answer[middle] ^= 0x55,
        _ => {}
    }
    socket.write_all(&answer)?;
    socket.shutdown(Shutdown::Write)
}

fn read_head(socket: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let (mut read, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let body = read.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&read).into_owned(), body));
        }
        match socket.read(&mut piece)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            more => read.extend_from_slice(&piece[..more]),
        }
    }
}

/// The server's whole answer; it is told to close after it.
fn ask(upstream: &str, head: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(upstream)?;
    let head = head.trim_end().replace("\r\nconnection: keep-alive", "");
    server.write_all(format!("{head}\r\nconnection: close\r\n\r\n").as_bytes())?;
    server.write_all(body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    Ok(answer)
}

fn reset(socket: &TcpStream) -> std::io::Result<()> {
    Ok(set_socket_linger(socket, Some(Duration::ZERO))?)
}
