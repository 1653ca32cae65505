//! Repositories in a JSON file: an object whose keys are their names.

use super::settings::Settings;
use super::{AwaySnafu, Repositories, Repository, RepositoryError, UnknownSnafu, UnusableSnafu};
use crate::backup::Engine;
use crate::backup::store;
use crate::volume::RepositoryName;
use futures::future::BoxFuture;
use snafu::OptionExt;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What others may do with a file of secrets: nothing.
const OTHERS: u32 = 0o077;

type All = BTreeMap<RepositoryName, Settings>;

/// The repositories of a file, which is read at each call: what is changed in it counts at once.
#[derive(Clone, Debug)]
pub struct FileRepositories {
    file: Option<PathBuf>,
}

impl FileRepositories {
    /// Those of a file.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        FileRepositories { file: Some(file.into()) }
    }

    /// None at all.
    pub fn none() -> Self {
        FileRepositories { file: None }
    }

    /// Whether all of the file can be used; the error says what cannot, without a secret.
    pub fn check(&self) -> Result<(), String> {
        let Some(file) = &self.file else { return Ok(()) };
        let all = read(file)?;
        all.iter().try_for_each(|(name, settings)| {
            open(settings).map(drop).map_err(|reason| format!("{}: {name}: {reason}", file.display()))
        })
    }

    fn look(&self, name: &RepositoryName) -> Result<Repository, RepositoryError> {
        let Some(file) = &self.file else {
            let remedy = "none was named; see the option --repositories".to_owned();
            return UnknownSnafu { name: name.clone(), remedy }.fail();
        };
        let all = read(file).map_err(|reason| AwaySnafu { name: name.clone(), reason }.build())?;
        let remedy = format!("add it to {}", file.display());
        let settings = all.get(name).context(UnknownSnafu { name: name.clone(), remedy })?;
        open(settings).map_err(|reason| UnusableSnafu { name: name.clone(), reason }.build())
    }
}

impl Repositories for FileRepositories {
    fn open<'a>(&'a self, name: &'a RepositoryName) -> BoxFuture<'a, Result<Repository, RepositoryError>> {
        Box::pin(async move {
            let (this, wanted) = (self.clone(), name.clone());
            let looked = tokio::task::spawn_blocking(move || this.look(&wanted)).await;
            looked.unwrap_or_else(|error| {
                AwaySnafu { name: name.clone(), reason: format!("the look for it broke off: {error}") }.fail()
            })
        })
    }
}

fn open(settings: &Settings) -> Result<Repository, String> {
    let store = store::open(&settings.url()?, &settings.options()?).map_err(|error| error.to_string())?;
    Ok(Repository { engine: Engine::new(store), limits: settings.limits()? })
}

/// All of the file is right, or none of it counts.
fn read(path: &Path) -> Result<All, String> {
    let shown = path.display();
    let text = fs::read(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    // The message of a value that does not fit quotes it, and it may be a secret; where it stands is enough.
    let wrong = |error: serde_json::Error| {
        let (line, column) = (error.line(), error.column());
        let kind = match error.classify() {
            serde_json::error::Category::Data => "a key or value that does not belong there",
            _ => "no JSON",
        };
        format!("{shown}, line {line}, column {column}: {kind} (see docs/cli.md, \"Repositories\")")
    };
    let all: All = serde_json::from_slice(&text).map_err(wrong)?;
    let mode = fs::metadata(path).map_err(|error| format!("cannot look at {shown}: {error}"))?.permissions();
    if mode.mode() & OTHERS != 0 && all.values().any(Settings::has_secrets) {
        return Err(format!("{shown} holds secrets, and others may read it: chmod 600 it"));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "wJalrXUtnFEMI-very-secret";

    fn write(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    fn name(text: &str) -> RepositoryName {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn a_repository_is_found_by_its_name_and_changes_count_at_once() {
        let file = write(r#"{"nightly": {"repository": "file:///srv/backups", "concurrency": 3}}"#, 0o644);
        let repositories = FileRepositories::new(file.path());
        let found = repositories.open(&name("nightly")).await.unwrap();
        assert_eq!(found.limits.concurrency, 3);
        let gone = repositories.open(&name("weekly")).await.unwrap_err();
        assert!(matches!(gone, RepositoryError::Unknown { .. }), "{gone}");
        fs::write(file.path(), r#"{"weekly": {"repository": "s3://b", "region": "x"}}"#).unwrap();
        repositories.open(&name("weekly")).await.unwrap();
        let gone = FileRepositories::none().open(&name("nightly")).await.unwrap_err().to_string();
        assert!(gone.contains("--repositories"), "{gone}");
    }

    #[tokio::test]
    async fn no_message_has_a_secret() {
        let keys = format!(r#""access-key-id": "id", "secret-access-key": "{SECRET}""#);
        for (text, mode, words) in [
            (format!(r#"{{"r": {{"repository": "s3://b", {keys}}}}}"#), 0o640, "chmod 600"),
            (format!(r#"{{"r": {{"repository": "b", {keys}}}}}"#), 0o600, "is no repository"),
            (format!(r#"{{"r": {{"repository": "s3://b", "{SECRET}": 1}}}}"#), 0o600, "does not belong"),
            (
                format!(r#"{{"r": {{"repository": "s3://b", "memory": "{SECRET}"}}}}"#),
                0o600,
                "does not belong",
            ),
            (
                format!(r#"{{"r": {{"repository": "s3://b", "secret-access-key": "{SECRET}"}}}}"#),
                0o600,
                "together",
            ),
            (
                format!(r#"{{"r": {{"repository": "s3://b", "retry-timeout": 0, {keys}}}}}"#),
                0o600,
                "from 1 to",
            ),
            (format!(r#"{{"r": {SECRET}"#), 0o600, "no JSON"),
        ] {
            let file = write(&text, mode);
            let repositories = FileRepositories::new(file.path());
            let told = repositories.check().unwrap_err();
            let error = repositories.open(&name("r")).await.unwrap_err();
            assert!(!matches!(error, RepositoryError::Unknown { .. }), "{error}");
            for told in [told, error.to_string(), format!("{error:?}")] {
                assert!(told.contains(words) && !told.contains(SECRET), "{told}");
            }
        }
        let fine = write(&format!(r#"{{"r": {{"repository": "s3://b", "region": "x", {keys}}}}}"#), 0o600);
        let found = FileRepositories::new(fine.path()).open(&name("r")).await.unwrap();
        assert!(!format!("{found:?}").contains(SECRET));
    }
}
