//! Whether a store honours `If-None-Match: *`. Some ignore it silently, some only under a race.

use crate::backup::store::{Exclusive, PROBE};
use futures::future::join_all;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};
use uuid::Uuid;

/// Tries at the same time: a store that only looks before it writes lets several through.
const RACERS: usize = 4;

/// Writes one object from several sides, and once more; at most one may come through. Nothing where such an object
/// must not be written: there may be a right to write backups nevertheless.
pub(super) async fn exclusive(store: &dyn ObjectStore, prefix: &str) -> Result<Option<Exclusive>, Error> {
    let path = Path::from(format!("{prefix}{PROBE}{}", Uuid::new_v4()));
    let found = match race(store, &path).await {
        Err(Error::PermissionDenied { .. }) => return Ok(None),
        found => found.map(Some),
    };
    // Else it stays, a few bytes that no listing takes for a backup: no reason not to go on.
    if let Err(error) = store.delete(&path).await
        && found.is_ok()
    {
        tracing::warn!(object = path.as_ref(), %error, "a probe could not be removed");
    }
    found
}

async fn race(store: &dyn ObjectStore, path: &Path) -> Result<Exclusive, Error> {
    let attempt = |number: usize| {
        let body = format!("written by Strata to learn what this store does; safe to remove ({number})");
        store.put_opts(path, body.into_bytes().into(), PutMode::Create.into())
    };
    let mut won = 0;
    let raced = join_all((0..RACERS).map(attempt)).await;
    for answer in raced.into_iter().chain([attempt(RACERS).await]) {
        match answer {
            Ok(_) => won += 1,
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
            Err(error) if is_unknown(&error) => return Ok(Exclusive::Ignored),
            Err(error) => return Err(error),
        }
    }
    Ok(if won == 1 { Exclusive::Honoured } else { Exclusive::Ignored })
}

/// A server may also say that it does not know the header.
fn is_unknown(error: &Error) -> bool {
    let text = error.to_string();
    matches!(error, Error::NotImplemented { .. } | Error::NotSupported { .. })
        || ["<Code>NotImplemented</Code>", "<Code>InvalidArgument</Code>", "501 Not Implemented"]
            .iter()
            .any(|code| text.contains(code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn a_store_that_is_exact_is_found_so_and_left_empty() {
        let store = InMemory::new();
        assert_eq!(exclusive(&store, "a/").await.unwrap(), Some(Exclusive::Honoured));
        assert!(store.list(None).try_collect::<Vec<_>>().await.unwrap().is_empty());
    }
}
