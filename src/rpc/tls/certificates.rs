//! Certificates that follow their folder.

use super::files::{Files, Identity, NameSnafu, TlsError, UnusableSnafu, provider};
use super::own::{Side, ends, has_name, verdict};
use jiff::{SignedDuration, Timestamp};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::sign::SingleCertAndKey;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, ServerConfig};

/// How often the folder is looked at when nobody connects.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// cert-manager renews when a third of the time is left, 30 days of its usual 90: later than this, nobody does.
const WARN_BEFORE: SignedDuration = SignedDuration::from_hours(14 * 24);
/// How often the same is said again.
const SAY_EVERY: SignedDuration = SignedDuration::from_hours(24);
/// A Secret may be swapped while its files are read one after the other: a second look finds it whole.
const LOOKS: u32 = 3;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);
/// gRPC is HTTP/2.
const PROTOCOL: &[u8] = b"h2";

/// A folder's certificates as they are now, and whom to expect at the other end.
pub struct Certificates {
    dir: PathBuf,
    side: Side,
    own: ServerName<'static>,
    peer: ServerName<'static>,
    kept: Mutex<Kept>,
}

struct Kept {
    files: Files,
    current: Arc<Current>,
    /// What was last wrong with the folder: said once.
    trouble: String,
    /// When the certificate's end was last spoken of.
    warned: Option<Timestamp>,
}

/// What connections that begin now use.
pub(super) struct Current {
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
    /// When our certificate ends, if that can be told.
    pub(super) ends: Option<Timestamp>,
}

impl Certificates {
    /// Reads a folder. `own` is the DNS name that our certificate should have, `peer` the one that the other side's
    /// must have.
    pub fn open(dir: &Path, side: Side, own: &str, peer: &str) -> Result<Self, TlsError> {
        let (own, peer) = (dns_name(own)?, dns_name(peer)?);
        let (files, current) = load(dir, side, &own, LOOKS)?;
        let kept = Kept { files, current: Arc::new(current), trouble: String::new(), warned: None };
        let opened = Certificates { dir: dir.to_owned(), side, own, peer, kept: Mutex::new(kept) };
        opened.current();
        Ok(opened)
    }

    /// Whole days until our certificate ends, less than nothing once it has; None if that cannot be told.
    pub fn days_left(&self) -> Option<i64> {
        let ends = self.current().ends?;
        Some(ends.duration_since(Timestamp::now()).as_hours().div_euclid(24))
    }

    /// The name of the other side.
    pub(super) fn peer(&self) -> &ServerName<'static> {
        &self.peer
    }

    /// Whether a certificate, which was verified already, is the other side's.
    pub(super) fn is_peer(&self, shown: Option<&CertificateDer<'_>>) -> Result<(), String> {
        let shown = shown.ok_or("it showed no certificate")?;
        has_name(shown, &self.peer).map_err(|error| error.to_string())
    }

    /// What the folder holds now; while that cannot be used, what it held before. Reads three small files.
    pub(super) fn current(&self) -> Arc<Current> {
        // Whole values only.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        match self.changed(&kept) {
            Ok(None) => kept.trouble.clear(),
            Ok(Some((files, current))) => {
                tracing::info!(dir = %self.dir.display(), "the certificates have changed, and the new ones are used");
                *kept = Kept { files, current: Arc::new(current), trouble: String::new(), warned: None };
            }
            Err(error) => {
                let trouble = error.to_string();
                if trouble != kept.trouble {
                    tracing::error!(error = trouble, "the certificates of before are used on");
                }
                kept.trouble = trouble;
            }
        }
        self.warn_of_the_end(&mut kept);
        Arc::clone(&kept.current)
    }

    fn changed(&self, kept: &Kept) -> Result<Option<(Files, Current)>, TlsError> {
        if Files::read(&self.dir)? == kept.files {
            return Ok(None);
        }
        // What has been wrong for longer holds up no connection.
        let looks = if kept.trouble.is_empty() { LOOKS } else { 1 };
        load(&self.dir, self.side, &self.own, looks).map(Some)
    }

    fn warn_of_the_end(&self, kept: &mut Kept) {
        let (Some(ends), now) = (kept.current.ends, Timestamp::now()) else { return };
        let left = ends.duration_since(now);
        let said = kept.warned.is_some_and(|warned| now.duration_since(warned) < SAY_EVERY);
        if left > WARN_BEFORE || said {
            return;
        }
        kept.warned = Some(now);
        let dir = self.dir.display();
        if left.is_negative() {
            tracing::error!(%dir, %ends, "the certificate has expired: nobody accepts it until it is renewed");
        } else {
            tracing::warn!(%dir, %ends, days = left.as_hours() / 24, "the certificate ends soon: renew it");
        }
    }
}

/// Looks at the folder for ever, so that a certificate that ends, or a folder that broke, is heard of in time.
pub async fn keep_watch(certificates: Arc<Certificates>) {
    loop {
        let look = Arc::clone(&certificates);
        if let Err(error) = tokio::task::spawn_blocking(move || look.current()).await {
            tracing::error!(%error, "a look at the certificates broke off");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn dns_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    match ServerName::try_from(name.to_owned()) {
        Ok(dns @ ServerName::DnsName(_)) => Ok(dns),
        _ => NameSnafu { name }.fail(),
    }
}

fn load(dir: &Path, side: Side, own: &ServerName<'static>, looks: u32) -> Result<(Files, Current), TlsError> {
    let mut look = 1;
    loop {
        let read = Files::read(dir).and_then(|files| Ok((files.parse(dir)?, files)));
        match read {
            Ok((identity, files)) => {
                // What the other side will find wrong is said here too, where it can be mended. It may know another
                // authority than we do, so that it has the last word.
                if let Err(error) = verdict(&identity, side, own) {
                    tracing::warn!(dir = %dir.display(), %error, "the other side may not accept this certificate");
                }
                return Ok((files, configure(dir, &identity, ends(&identity, side, own))?));
            }
            Err(error) if look >= looks => return Err(error),
            Err(_) => std::thread::sleep(BETWEEN_LOOKS),
        }
        look += 1;
    }
}

fn configure(dir: &Path, identity: &Identity, ends: Option<Timestamp>) -> Result<Current, TlsError> {
    let unusable = |error: &dyn std::fmt::Display| UnusableSnafu { dir, reason: error.to_string() }.build();
    let own = || Arc::new(SingleCertAndKey::from((*identity.own).clone()));
    let roots = Arc::clone(&identity.roots);
    let callers = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider()).build();
    let mut server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| unusable(&error))?
        .with_client_cert_verifier(callers.map_err(|error| unusable(&error))?)
        .with_cert_resolver(own());
    server.alpn_protocols = vec![PROTOCOL.to_vec()];
    // A session that is resumed would not be asked for its certificate again.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| unusable(&error))?
        .with_root_certificates(roots)
        .with_client_cert_resolver(own());
    client.alpn_protocols = vec![PROTOCOL.to_vec()];
    client.resumption = Resumption::disabled();
    Ok(Current { server: Arc::new(server), client: Arc::new(client), ends })
}

#[cfg(test)]
#[path = "certificates_tests.rs"]
mod tests;
