//! Looks at objects, as jobs of their own.

use super::error::Error;
use super::names::named;
use crate::trace;
use ::kube::Resource;
use tracing::Instrument;

/// One look at an object: what is said within has its name and an id, and so has why it failed.
pub(super) async fn as_job<K, T>(
    kind: &'static str,
    object: &K,
    look: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error>
where
    K: Resource<DynamicType = ()>,
{
    let span = trace::job(kind);
    span.record("object", named(object));
    let told = async {
        look.await.inspect_err(|error| {
            trace::failed();
            tracing::warn!(%error, "an object was not dealt with; trying again");
        })
    };
    told.instrument(span).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::crd::repository::BackupRepository;
    use tracing_subscriber::layer::SubscriberExt;

    #[tokio::test]
    async fn a_look_has_an_id_of_its_own_and_names_its_object() {
        let subscriber = tracing_subscriber::registry().with(trace::RequestIds);
        let _here = tracing::subscriber::set_default(subscriber);
        let object = BackupRepository::new("main", Default::default());
        let look = || as_job("repository", &object, async { Ok(trace::current_request()) });
        let (one, two) = (look().await.unwrap(), look().await.unwrap());
        assert!(one.is_some() && two.is_some() && one != two, "{one:?} {two:?}");
        assert_eq!(trace::current_request(), None);
        assert_eq!(named(&object), "BackupRepository main");
    }
}
