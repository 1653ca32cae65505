//! What time a store has: ages are told by its clock, not by that of this machine.

use super::{BackendSnafu, PROBE, Store, StoreError};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use snafu::IntoError;
use uuid::Uuid;

/// The folder has the probe's name, so that a listing of it reads nothing else.
const FILE: &str = "/clock";
const BODY: &[u8] = b"written by Strata to learn what time this store has; safe to remove";
/// S3 tells whole seconds, directories the kernel's last tick: no difference of clocks.
const GRAIN: SignedDuration = SignedDuration::from_secs(2);

/// How far the store's clock is ahead of this machine's (negative: behind); never told larger than it is. Stores a
/// small object and removes it again: the repository must be there, and the right to write.
pub(crate) async fn ahead(store: &dyn Store) -> Result<SignedDuration, StoreError> {
    let folder = format!("{PROBE}{}", Uuid::new_v4());
    let key = format!("{folder}{FILE}");
    let earliest = Timestamp::now();
    let stored = store.put(&key, Bytes::from_static(BODY)).await;
    let latest = Timestamp::now();
    let listed = match stored {
        Ok(()) => store.list(&format!("{folder}/")).await,
        Err(error) => Err(error),
    };
    // Also of one whose answer was lost. What stays is a few bytes that a later look for garbage knows.
    if let Err(error) = store.delete(&key).await
        && listed.is_ok()
    {
        tracing::warn!(object = key, %error, "a probe could not be removed");
    }
    let found = listed?.into_iter().find(|object| object.key == key);
    let unlisted = || {
        let source = "it was stored, and a listing does not have it";
        BackendSnafu { operation: "finding", key: &key }.into_error(source.into())
    };
    let found = found.ok_or_else(unlisted)?;
    Ok(difference(found.modified, earliest, latest))
}

/// Stored at `modified` by one clock, and between the other two by another one.
fn difference(modified: Timestamp, earliest: Timestamp, latest: Timestamp) -> SignedDuration {
    let (ahead, behind) = (modified.duration_since(latest), modified.duration_since(earliest));
    match () {
        () if ahead > GRAIN => ahead,
        () if behind < -GRAIN => behind,
        () => SignedDuration::ZERO,
    }
}

/// Whether an object is such a probe, or one of those that try exclusive creation out.
pub(crate) fn is_probe(key: &str) -> bool {
    let name = key.strip_suffix(FILE).unwrap_or(key).strip_prefix(PROBE);
    name.is_some_and(|id| Uuid::try_parse(id).is_ok_and(|uuid| uuid.hyphenated().to_string() == id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::store::ObjectBacked;

    #[test]
    fn a_difference_is_told_no_larger_than_it_is() {
        let at = |second| Timestamp::from_second(second).unwrap();
        for (modified, expected) in [(1000, 0), (1030, 0), (999, 0), (1060, 0), (1160, 100), (900, -100)] {
            let found = difference(at(modified), at(1000), at(1060));
            assert_eq!(found, SignedDuration::from_secs(expected), "{modified}");
        }
    }

    #[tokio::test]
    async fn a_store_of_this_machine_is_not_ahead_and_left_empty() {
        let store = ObjectBacked::memory();
        assert_eq!(ahead(&store).await.unwrap(), SignedDuration::ZERO);
        assert_eq!(store.list("").await.unwrap(), vec![]);
    }

    #[test]
    fn probes_are_known_by_their_names() {
        let id = Uuid::new_v4();
        assert!(is_probe(&format!("{PROBE}{id}")) && is_probe(&format!("{PROBE}{id}/clock")));
        for other in
            [format!("{PROBE}{id}/x"), format!("a/{PROBE}{id}"), PROBE.to_owned(), format!("{PROBE}x")]
        {
            assert!(!is_probe(&other), "{other}");
        }
    }
}
