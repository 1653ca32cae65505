//! `strata certs`: an authority, and certificates of controllers and agents, for those who have no cert-manager.

use super::driver::args::DRIVER;
use super::driver::{controller_name, node_name, private_dir};
use crate::host::fsio::write_atomic;
use anyhow::{Context, Result, ensure};
use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio_rustls::rustls::pki_types::DnsName;
use uuid::Uuid;

/// The folder of controllers' certificates.
pub const CONTROLLER: &str = "controller";
/// The folder of agents' certificates.
pub const NODE: &str = "node";
const AUTHORITY: &str = "ca";
/// What is in each folder.
const FILES: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];
/// With a part of the key's digest: two authorities by one name would be taken for each other, and the key alone is
/// enough to sign again.
const AUTHORITY_NAME: &str = "Strata agents";
const AUTHORITY_DAYS: u32 = 3650;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Clocks of nodes differ.
const BACKDATED: Duration = Duration::from_secs(60 * 60);

/// Makes an authority and certificates of controllers and agents.
///
/// DIR/controller and DIR/node have tls.crt, tls.key and ca.crt, as a Secret has them: each role gets its own folder alone.
/// DIR/ca/tls.key is nobody's but yours: it signs anew when this is called again, which replaces both folders at once, also
/// under processes that use them. Without DIR/ca everything is made anew.
#[derive(Debug, Args)]
pub struct CertsArgs {
    /// Where they are written.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The driver's name, from which the DNS names in the certificates are made.
    #[arg(long, env = "STRATA_DRIVER_NAME", value_name = "NAME", default_value = DRIVER)]
    driver: String,
    /// How long the certificates are valid; the authority is for ten years.
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

impl CertsArgs {
    /// Makes them, and says where they are.
    pub fn run(self) -> Result<()> {
        private_dir(&self.dir)?;
        let authority = Authority::of(&self.dir.join(AUTHORITY))?;
        let roles = [
            (CONTROLLER, controller_name(&self.driver), ExtendedKeyUsagePurpose::ClientAuth),
            (NODE, node_name(&self.driver), ExtendedKeyUsagePurpose::ServerAuth),
        ];
        for (role, name, usage) in roles {
            let folder = self.dir.join(role);
            let files = authority.sign(&name, usage, self.days)?;
            swap(&folder, &files).with_context(|| format!("cannot write {}", folder.display()))?;
            writeln!(std::io::stdout(), "{}: {name}, {} days", folder.display(), self.days)?;
        }
        Ok(())
    }
}

#[cfg(test)]
impl CertsArgs {
    /// As the command line gives them.
    pub fn of(line: &[&str]) -> Self {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: CertsArgs,
        }
        <Line as clap::Parser>::parse_from(line).args
    }
}

/// Who signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    /// The one in a folder, or a new one.
    fn of(folder: &Path) -> Result<Self> {
        let (certificate, key) = (folder.join(FILES[0]), folder.join(FILES[1]));
        if !certificate.exists() && !key.exists() {
            return Authority::make(folder);
        }
        let read = |path: &Path| {
            let remedy = "without it nothing can be signed that is trusted already; move the folder away to begin anew";
            fs::read_to_string(path).with_context(|| format!("cannot read {}: {remedy}", path.display()))
        };
        let text = read(&key)?;
        let pair = KeyPair::from_pem(&text).with_context(|| format!("{} holds no key", key.display()))?;
        Ok(Authority { issuer: Issuer::new(authority_params(&pair), pair), certificate: read(&certificate)? })
    }

    fn make(folder: &Path) -> Result<Self> {
        private_dir(folder)?;
        let key = KeyPair::generate().context("cannot make a key")?;
        let params = authority_params(&key);
        let certificate = params.self_signed(&key).context("cannot make an authority")?.pem();
        // The key first: a certificate without it would be useless for ever.
        write_atomic(&folder.join(FILES[1]), key.serialize_pem().as_bytes())?;
        write_atomic(&folder.join(FILES[0]), certificate.as_bytes())?;
        Ok(Authority { issuer: Issuer::new(params, key), certificate })
    }

    /// What a role's folder is to hold, in the order of [`FILES`].
    fn sign(&self, name: &str, usage: ExtendedKeyUsagePurpose, days: u32) -> Result<[String; 3]> {
        let key = KeyPair::generate().context("cannot make a key")?;
        let fine = DnsName::try_from(name).is_ok();
        ensure!(fine, "no certificate can be for {name:?}: the driver's name must be a DNS name");
        let mut params = CertificateParams::new([name.to_owned()]).context("cannot make a certificate")?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        valid_for(&mut params, days);
        let certificate = params.signed_by(&key, &self.issuer).context("cannot sign a certificate")?;
        Ok([certificate.pem(), key.serialize_pem(), self.certificate.clone()])
    }
}

fn authority_params(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("{AUTHORITY_NAME} {}", short_digest(key)));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, AUTHORITY_DAYS);
    params
}

fn short_digest(key: &KeyPair) -> String {
    Sha256::digest(key.public_key_raw()).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

fn valid_for(params: &mut CertificateParams, days: u32) {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + DAY * days).into();
}

/// All files of a folder at once, as the kubelet swaps those of a Secret: their names are links through `..data`.
fn swap(folder: &Path, files: &[String; 3]) -> Result<()> {
    private_dir(folder)?;
    let version = format!("..{}", Uuid::new_v4());
    private_dir(&folder.join(&version))?;
    for (name, text) in FILES.iter().zip(files) {
        write_atomic(&folder.join(&version).join(name), text.as_bytes())?;
        let link = folder.join(name);
        if let Ok(found) = fs::symlink_metadata(&link) {
            ensure!(found.is_symlink(), "{} is there, and was not made by this command", link.display());
        } else {
            symlink(Path::new("..data").join(name), &link)?;
        }
    }
    let (next, data) = (folder.join(format!("{version}.link")), folder.join("..data"));
    let before = fs::read_link(&data).ok();
    symlink(&version, &next)?;
    fs::rename(&next, &data)?;
    crate::host::fsio::sync_dir(folder)?;
    if let Some(before) = before {
        fs::remove_dir_all(folder.join(before))?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "certs_tests.rs"]
mod tests;
