//! Certificates for tests, good and bad.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use std::path::Path;
use std::time::Duration;

pub(crate) const NODE: &str = "node.csi.strata.dev";
pub(crate) const CONTROLLER: &str = "controller.csi.strata.dev";
const DAY: Duration = Duration::from_secs(86400);

/// An authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// What a certificate is to be like.
pub(crate) struct Wanted<'a> {
    pub(crate) name: &'a str,
    /// Days from now to its end; negative: it has ended.
    pub(crate) days: i64,
    /// Whether it says what it may be used for.
    pub(crate) usages: &'a [ExtendedKeyUsagePurpose],
}

impl Wanted<'_> {
    pub(crate) fn named(name: &str) -> Wanted<'_> {
        Wanted { name, days: 90, usages: &[] }
    }
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("an authority {}", uuid::Uuid::new_v4()));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Writes a folder as a Secret would be mounted: the names are links into a folder that is swapped whole.
    pub(crate) fn write(&self, dir: &Path, wanted: &Wanted<'_>) {
        self.write_trusting(dir, wanted, &[self]);
    }

    /// The same, with others to be trusted.
    pub(crate) fn write_trusting(&self, dir: &Path, wanted: &Wanted<'_>, trusted: &[&Authority]) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([wanted.name.to_owned()]).unwrap();
        params.extended_key_usages = wanted.usages.to_vec();
        let now = std::time::SystemTime::now();
        let span = DAY * u32::try_from(wanted.days.unsigned_abs()).unwrap();
        params.not_before = (now - span - DAY).into();
        params.not_after = (if wanted.days < 0 { now - span } else { now + span }).into();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        let authorities: String = trusted.iter().map(|authority| authority.pem.as_str()).collect();
        let version = format!("..{}", uuid::Uuid::new_v4());
        std::fs::create_dir_all(dir.join(&version)).unwrap();
        for (name, text) in
            [("tls.crt", certificate), ("tls.key", key.serialize_pem()), ("ca.crt", authorities)]
        {
            std::fs::write(dir.join(&version).join(name), text).unwrap();
            if std::fs::symlink_metadata(dir.join(name)).is_err() {
                std::os::unix::fs::symlink(format!("..data/{name}"), dir.join(name)).unwrap();
            }
        }
        std::os::unix::fs::symlink(&version, dir.join("..next")).unwrap();
        std::fs::rename(dir.join("..next"), dir.join("..data")).unwrap();
    }
}
