//! Hands out temporary keys over HTTP(S): as STS does for a token in a file, and as a machine's metadata service does.

use jiff::{SignedDuration, Timestamp};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

pub const IMDS_TOKEN: &str = "token-of-the-metadata-service";

/// The keys of session `number`, as the S3 server must know them.
pub fn keys(number: usize) -> (String, String) {
    (format!("SESSION{number}"), format!("secret-of-session-{number}"))
}

pub fn token(number: usize) -> String {
    format!("token-of-session-{number}")
}

/// Answers until the process ends.
pub struct Giver {
    pub endpoint: String,
    state: Arc<State>,
}

struct State {
    lifetime: SignedDuration,
    /// Refuses everybody.
    refuses: bool,
    /// Heads of requests.
    asked: Mutex<Vec<String>>,
    /// When each session was begun.
    issued: Mutex<Vec<Timestamp>>,
    /// Called with the number of each new session.
    at_issue: Box<dyn Fn(usize) + Send + Sync>,
}

impl Giver {
    pub fn plain(lifetime: SignedDuration) -> Giver {
        let (listener, address) = listen();
        let giver = Giver::new(format!("http://{address}"), lifetime, false, Box::new(|_| ()));
        let state = Arc::clone(&giver.state);
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let _ = state.answer(socket);
            }
        });
        giver
    }

    /// With the PEM certificate of its signer.
    pub fn tls(
        lifetime: SignedDuration,
        refuses: bool,
        at_issue: impl Fn(usize) + Send + Sync + 'static,
    ) -> (Giver, String) {
        let (listener, address) = listen();
        let (config, signer) = certificate(&["127.0.0.1"]);
        let giver = Giver::new(format!("https://{address}"), lifetime, refuses, Box::new(at_issue));
        let state = Arc::clone(&giver.state);
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = StreamOwned::new(connection, socket);
                // A client that goes away asks again.
                if state.answer(&mut stream).is_ok() {
                    stream.conn.send_close_notify();
                    let _ = stream.flush();
                }
            }
        });
        (giver, signer)
    }

    fn new(
        endpoint: String,
        lifetime: SignedDuration,
        refuses: bool,
        at_issue: Box<dyn Fn(usize) + Send + Sync>,
    ) -> Giver {
        let (asked, issued) = Default::default();
        Giver { endpoint, state: Arc::new(State { lifetime, refuses, asked, issued, at_issue }) }
    }

    pub fn asked(&self) -> Vec<String> {
        self.state.asked.lock().unwrap().clone()
    }

    /// How long ago each session was begun.
    pub fn ages(&self) -> Arc<dyn Fn() -> Vec<SignedDuration> + Send + Sync> {
        let state = Arc::clone(&self.state);
        Arc::new(move || {
            let issued = state.issued.lock().unwrap();
            issued.iter().map(|begun| Timestamp::now().duration_since(*begun)).collect()
        })
    }
}

impl State {
    fn answer(&self, mut stream: impl Read + Write) -> std::io::Result<()> {
        let (mut head, mut piece) = (Vec::new(), [0; 4096]);
        while !head.windows(4).any(|four| four == b"\r\n\r\n") {
            match stream.read(&mut piece)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                read => head.extend_from_slice(&piece[..read]),
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let (status, body) = self.body(&head);
        self.asked.lock().unwrap().push(head);
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
        stream.write_all((head + &body).as_bytes())?;
        stream.flush()
    }

    fn body(&self, head: &str) -> (&'static str, String) {
        let line = head.lines().next().unwrap_or_default();
        let authorised =
            head.to_ascii_lowercase().contains(&format!("x-aws-ec2-metadata-token: {IMDS_TOKEN}"));
        if self.refuses {
            let text = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>Not authorized to perform \
                        sts:AssumeRoleWithWebIdentity</Message></Error></ErrorResponse>";
            ("403 Forbidden", text.to_owned())
        } else if line.starts_with("POST /?Action=AssumeRoleWithWebIdentity") {
            ("200 OK", self.by_sts())
        } else if line.starts_with("PUT /latest/api/token ") {
            ("200 OK", IMDS_TOKEN.to_owned())
        } else if !authorised {
            ("401 Unauthorized", String::new())
        } else if line.starts_with("GET /latest/meta-data/iam/security-credentials/ ") {
            ("200 OK", "the-role".to_owned())
        } else if line.starts_with("GET /latest/meta-data/iam/security-credentials/the-role ") {
            ("200 OK", self.by_metadata())
        } else {
            ("404 Not Found", String::new())
        }
    }

    /// Its number and until when it holds.
    fn issue(&self) -> (usize, Timestamp) {
        let mut issued = self.issued.lock().unwrap();
        issued.push(Timestamp::now());
        (self.at_issue)(issued.len() - 1);
        (issued.len() - 1, Timestamp::now() + self.lifetime)
    }

    fn by_sts(&self) -> String {
        let (number, until) = self.issue();
        let ((id, secret), token) = (keys(number), token(number));
        format!(
            "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
             <AccessKeyId>{id}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>\
             <SessionToken>{token}</SessionToken><Expiration>{until}</Expiration>\
             </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
        )
    }

    fn by_metadata(&self) -> String {
        let (number, until) = self.issue();
        let ((id, secret), token) = (keys(number), token(number));
        format!(
            r#"{{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":"{id}","SecretAccessKey":"{secret}",
            "Token":"{token}","Expiration":"{until}"}}"#
        )
    }
}

fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// A server's, for these names, and its signer's in PEM.
pub fn certificate(names: &[&str]) -> (Arc<ServerConfig>, String) {
    let mut signer = CertificateParams::new(Vec::new()).unwrap();
    signer.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let signer_key = KeyPair::generate().unwrap();
    let signer_pem = signer.self_signed(&signer_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let named = CertificateParams::new(names.iter().copied().map(str::to_owned).collect::<Vec<_>>()).unwrap();
    let signed = named.signed_by(&key, &Issuer::new(signer, signer_key)).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    (Arc::new(config.with_single_cert(vec![signed.der().clone()], key).unwrap()), signer_pem)
}
