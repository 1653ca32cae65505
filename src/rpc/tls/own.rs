//! Our own certificate, as the other side will judge it.

use super::files::{Identity, provider};
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::client::{WebPkiServerVerifier, verify_server_name};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::{CertificateError, Error};

/// When no certificate is valid any more: the end of the year 9999, as RFC 5280 has it.
const END_OF_TIME: Duration = Duration::from_secs(253_402_300_799);

/// Which side of the connections this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It listens.
    Server,
    /// It calls.
    Client,
}

/// What the other side would say, if it trusts the same authority.
pub(super) fn verdict(identity: &Identity, side: Side, name: &ServerName<'_>) -> Result<(), Error> {
    verify(identity, side, name, UnixTime::now())
}

/// When it ends, if that can be told: of all checks, the one of its time comes first.
pub(super) fn ends(identity: &Identity, side: Side, name: &ServerName<'_>) -> Option<Timestamp> {
    match verify(identity, side, name, UnixTime::since_unix_epoch(END_OF_TIME)) {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            Timestamp::from_second(not_after.as_secs().try_into().ok()?).ok()
        }
        _ => None,
    }
}

fn verify(identity: &Identity, side: Side, name: &ServerName<'_>, at: UnixTime) -> Result<(), Error> {
    let unfit = |error: &dyn std::fmt::Display| Error::General(error.to_string());
    let (own, above) = identity.own.cert.split_first().ok_or(Error::NoCertificatesPresented)?;
    let roots = Arc::clone(&identity.roots);
    match side {
        Side::Server => {
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider()).build();
            verifier.map_err(|error| unfit(&error))?.verify_server_cert(own, above, name, &[], at).map(drop)
        }
        Side::Client => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            verifier.map_err(|error| unfit(&error))?.verify_client_cert(own, above, at)?;
            has_name(own, name)
        }
    }
}

/// Whether a certificate, which somebody else has verified, has that name.
pub(super) fn has_name(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    verify_server_name(&ParsedCertificate::try_from(certificate)?, name)
}
