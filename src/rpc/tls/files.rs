//! What a folder of certificates holds: tls.crt, tls.key and ca.crt, as in a Secret that cert-manager makes.

use snafu::{ResultExt, Snafu, ensure};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, RootCertStore};

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const AUTHORITY: &str = "ca.crt";

/// Why certificates could not be used.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
pub enum TlsError {
    /// A file cannot be read.
    #[snafu(display(
        "cannot read {}: {source}; a folder of certificates holds {CERTIFICATE}, {KEY} and {AUTHORITY}, as `strata \
         certs` or cert-manager make them", path.display()
    ))]
    Read {
        /// The file.
        path: PathBuf,
        /// From the kernel.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[snafu(display("{} holds no {what} in PEM: {reason}", path.display()))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// TLS takes them not, or they do not belong together.
    #[snafu(display("the certificates in {} cannot be used: {reason}", dir.display()))]
    Unusable {
        /// The folder.
        dir: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No certificate can have that name.
    #[snafu(display("{name:?} is no DNS name, so no certificate can have it"))]
    Name {
        /// The name.
        name: String,
    },
}

/// The files' bytes, to tell whether they have changed.
#[derive(PartialEq, Eq)]
pub(super) struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authority: Vec<u8>,
}

/// What the bytes say.
pub(super) struct Identity {
    /// Ours, with its key. They belong together.
    pub(super) own: Arc<CertifiedKey>,
    /// Who signs for the other side.
    pub(super) roots: Arc<RootCertStore>,
}

impl Files {
    pub(super) fn read(dir: &Path) -> Result<Self, TlsError> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read(&path).context(ReadSnafu { path })
        };
        Ok(Files { certificate: read(CERTIFICATE)?, key: read(KEY)?, authority: read(AUTHORITY)? })
    }

    pub(super) fn parse(&self, dir: &Path) -> Result<Identity, TlsError> {
        let unusable = |error: rustls::Error| {
            let reason = match error {
                rustls::Error::InconsistentKeys(_) => format!("{KEY} is not the key of {CERTIFICATE}"),
                error => error.to_string(),
            };
            UnusableSnafu { dir, reason }.build()
        };
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| malformed(&dir.join(KEY), "private key", &error))?;
        let chain = certificates(&self.certificate, &dir.join(CERTIFICATE))?;
        let own = CertifiedKey::from_der(chain, key, &provider()).map_err(unusable)?;
        let mut roots = RootCertStore::empty();
        for authority in certificates(&self.authority, &dir.join(AUTHORITY))? {
            roots.add(authority).map_err(unusable)?;
        }
        Ok(Identity { own: Arc::new(own), roots: Arc::new(roots) })
    }
}

/// The one that the whole program uses.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| malformed(path, "certificate", &error))?;
    ensure!(!found.is_empty(), MalformedSnafu { path, what: "certificate", reason: "there is none" });
    Ok(found)
}

fn malformed(path: &Path, what: &'static str, error: &dyn std::fmt::Display) -> TlsError {
    MalformedSnafu { path, what, reason: error.to_string() }.build()
}
