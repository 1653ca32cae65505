//! A repository as its object and its Secret say.

use crate::backup::store::{self, RepositoryUrl, S3Options, Store, StoreError, Timeouts};
use crate::backup::{BackupError, Engine};
use crate::kube::crd::repository::{BackupRepository, S3};
use crate::kube::error::{has_code, said};
use ::kube::{Api, Client};
use k8s_openapi::api::core::v1::Secret;
use snafu::{OptionExt, ResultExt, Snafu, ensure};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// A request is tried again for so long; then the whole backup is, later.
const GIVE_UP: Duration = Duration::from_secs(60);
const ACCESS_KEY: &str = "AWS_ACCESS_KEY_ID";
const SECRET_KEY: &str = "AWS_SECRET_ACCESS_KEY";
const SESSION_TOKEN: &str = "AWS_SESSION_TOKEN";

/// Why a repository cannot be used. None of these texts holds a credential.
#[derive(Debug, Snafu)]
pub enum OpenError {
    /// No such object.
    #[snafu(display("there is no BackupRepository {name}: make it, or name another"))]
    Absent {
        /// Which.
        name: String,
    },
    /// Not for this namespace.
    #[snafu(display(
        "BackupRepository {name} is not for namespace {namespace}: its allowedNamespaces do not name it"
    ))]
    NotAllowed {
        /// Which.
        name: String,
        /// Who asked.
        namespace: String,
    },
    /// Neither a bucket nor a directory.
    #[snafu(display("BackupRepository {name} has neither s3 nor directory"))]
    NoStore {
        /// Which.
        name: String,
    },
    /// The API.
    #[snafu(display("{what} cannot be read: {}", said(source)))]
    Unread {
        /// What was read.
        what: String,
        /// What the API said.
        #[snafu(source(from(::kube::Error, Box::new)))]
        source: Box<::kube::Error>,
    },
    /// The Secret is not what it should be.
    #[snafu(display("Secret {secret} has no {key} (text without line ends)"))]
    BadSecret {
        /// Which.
        secret: String,
        /// What is missing in it.
        key: &'static str,
    },
    /// The CA.
    #[snafu(display("the CA bundle cannot be handed on: {source}"))]
    CaFile {
        /// What failed.
        source: std::io::Error,
    },
    /// The settings make no store.
    #[snafu(display("{source}"))]
    Settings {
        /// What is wrong.
        source: StoreError,
    },
}

impl OpenError {
    /// In one word.
    pub fn reason(&self) -> &'static str {
        match self {
            OpenError::Absent { .. } => "RepositoryAbsent",
            OpenError::NotAllowed { .. } => "RepositoryNotAllowed",
            OpenError::Unread { .. } => "ApiError",
            OpenError::BadSecret { .. } => "BadCredentials",
            OpenError::NoStore { .. } | OpenError::CaFile { .. } | OpenError::Settings { .. } => {
                "BadRepository"
            }
        }
    }
}

/// A repository that is ready for work.
#[derive(Clone, Debug)]
pub struct Opened {
    /// As the object says.
    pub object: BackupRepository,
    /// Its store.
    pub engine: Engine,
}

/// Opens a repository for somebody of that namespace. The API is asked each time: what was changed counts at once.
pub async fn open(
    client: &Client,
    own_namespace: &str,
    name: &str,
    for_namespace: Option<&str>,
) -> Result<Opened, OpenError> {
    let api: Api<BackupRepository> = Api::all(client.clone());
    let object = match api.get(name).await {
        Err(error) if has_code(&error, 404) => return AbsentSnafu { name }.fail(),
        found => found.with_context(|_| UnreadSnafu { what: format!("BackupRepository {name}") })?,
    };
    let allowed = &object.spec.allowed_namespaces;
    if let Some(namespace) = for_namespace {
        let fits = allowed.is_empty() || allowed.iter().any(|allowed| allowed == namespace);
        ensure!(fits, NotAllowedSnafu { name, namespace });
    }
    let store = store_of(client, own_namespace, name, &object).await?;
    Ok(Opened { engine: Engine::new(store), object })
}

async fn store_of(
    client: &Client,
    own_namespace: &str,
    name: &str,
    object: &BackupRepository,
) -> Result<Arc<dyn Store>, OpenError> {
    let (Some(s3), None) = (&object.spec.s3, &object.spec.directory) else {
        let directory = object.spec.directory.as_ref().filter(|_| object.spec.s3.is_none());
        let path = PathBuf::from(&directory.context(NoStoreSnafu { name })?.path);
        return store::open(&RepositoryUrl::Local(path), &S3Options::default()).context(SettingsSnafu);
    };
    let (credentials, session_token) = match &s3.secret_ref {
        None => (None, None),
        Some(secret) => {
            let api: Api<Secret> = Api::namespaced(client.clone(), own_namespace);
            let what = format!("Secret {own_namespace}/{}", secret.name);
            let found = api.get(&secret.name).await.with_context(|_| UnreadSnafu { what })?;
            credentials(&found, &secret.name)?
        }
    };
    let (prefix, bucket) = (s3.prefix.as_deref().unwrap_or_default(), &s3.bucket);
    let url: RepositoryUrl = format!("s3://{bucket}/{prefix}").parse().context(SettingsSnafu)?;
    let ca = s3.ca_bundle.as_deref().map(CaFile::new).transpose().context(CaFileSnafu)?;
    let options = S3Options { credentials, session_token, ..options(s3, ca.as_ref()) };
    // Certificates are read while it is opened; the file goes with `ca`.
    store::open(&url, &options).context(SettingsSnafu)
}

fn options(s3: &S3, ca: Option<&CaFile>) -> S3Options {
    S3Options {
        endpoint: s3.endpoint.clone(),
        region: s3.region.clone(),
        virtual_host_style: !s3.path_style,
        ca_file: ca.map(|ca| ca.0.clone()),
        timeouts: Timeouts { give_up: GIVE_UP, ..Timeouts::default() },
        ..S3Options::default()
    }
}

type Credentials = (Option<(String, String)>, Option<String>);

fn credentials(secret: &Secret, name: &str) -> Result<Credentials, OpenError> {
    let value = |key: &'static str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key))?;
        let text = String::from_utf8(bytes.0.clone()).ok()?;
        let fine = !text.is_empty() && !text.contains(char::is_control);
        fine.then_some(text)
    };
    let demand = |key| value(key).context(BadSecretSnafu { secret: name, key });
    Ok((Some((demand(ACCESS_KEY)?, demand(SECRET_KEY)?)), value(SESSION_TOKEN)))
}

/// Certificates in a file, which goes when this does.
struct CaFile(PathBuf);

impl CaFile {
    fn new(pem: &str) -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("strata-ca-{}.pem", Uuid::new_v4()));
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let file_of = CaFile(path);
        file.write_all(pem.as_bytes())?;
        Ok(file_of)
    }
}

impl Drop for CaFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a file of certificates stays");
        }
    }
}

/// What a store that was opened says of itself.
pub async fn usage(engine: &Engine) -> Result<(u64, u64, u64), BackupError> {
    let sets = engine.catalog().sets(None).await?;
    let complete = crate::backup::catalog::current(&sets);
    let mut volumes: Vec<Uuid> = complete.iter().map(|set| set.prefix.volume()).collect();
    volumes.sort_unstable();
    volumes.dedup();
    let bytes = sets.iter().map(|set| set.stored_bytes()).sum();
    Ok((complete.len() as u64, volumes.len() as u64, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn a_secret_without_its_keys_is_told_without_its_values() {
        let secret = |pairs: &[(&str, &str)]| Secret {
            data: Some(
                pairs.iter().map(|(k, v)| ((*k).to_owned(), ByteString(v.as_bytes().to_vec()))).collect(),
            ),
            ..Secret::default()
        };
        let good = secret(&[(ACCESS_KEY, "AKIA"), (SECRET_KEY, "hidden")]);
        assert_eq!(credentials(&good, "s").unwrap(), (Some(("AKIA".into(), "hidden".into())), None));
        for wrong in
            [secret(&[(ACCESS_KEY, "AKIA")]), secret(&[(ACCESS_KEY, "AKIA"), (SECRET_KEY, "hidden\n")])]
        {
            let error = credentials(&wrong, "s").unwrap_err().to_string();
            assert!(error.contains(SECRET_KEY) && !error.contains("hidden"), "{error}");
        }
    }
}
