//! The files of one API server: keys, who it knows, what it writes down.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The group that RBAC lets do everything.
const ADMINISTRATORS: &str = "system:masters";

pub struct Keys {
    folder: PathBuf,
    admin: String,
}

impl Keys {
    /// Writes all that the server, which has this address, reads into a folder.
    pub fn make(folder: &Path, address: &str) -> Keys {
        let keys = Keys { folder: folder.to_owned(), admin: uuid::Uuid::new_v4().to_string() };
        let authority_key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "the test's authority");
        keys.write("ca.crt", &authority.self_signed(&authority_key).unwrap().pem());
        let key = KeyPair::generate().unwrap();
        let names = [address, "localhost", "kubernetes.default.svc"].map(str::to_owned);
        let server = CertificateParams::new(names).unwrap();
        let certificate = server.signed_by(&key, &Issuer::new(authority, authority_key)).unwrap();
        keys.write("server.crt", &certificate.pem());
        keys.write("server.key", &key.serialize_pem());
        let accounts = KeyPair::generate().unwrap();
        keys.write("accounts.key", &accounts.serialize_pem());
        keys.write("accounts.pub", &accounts.public_key_pem());
        keys.write("tokens.csv", &format!("{},admin,admin,{ADMINISTRATORS}\n", keys.admin));
        keys.write("audit.json", &super::audit::policy());
        keys
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        // Helm warns of one that others may read.
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The token of who may do everything.
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// A kubeconfig of whoever has that token.
    pub fn kubeconfig(&self, name: &str, url: &str, token: &str) -> PathBuf {
        let text = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {
                "server": url, "certificate-authority": self.path("ca.crt"),
            }}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
            "current-context": "test",
        });
        let file = format!("{name}.kubeconfig");
        self.write(&file, &text.to_string());
        self.path(&file)
    }
}
