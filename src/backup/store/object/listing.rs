//! Listing: by a prefix that is text, and past names that are no paths (`a//b`, `./x`, control characters), which
//! other programs may have put into the same bucket.

use super::s3::Bucket;
use super::{BackendSnafu, ObjectBacked, ObjectInfo, READS, StoreError, no_such_bucket};
use futures::StreamExt;
use jiff::Timestamp;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{Error, ObjectMeta};
use snafu::IntoError;

impl ObjectBacked {
    /// Every object whose name begins with `prefix`, in order.
    pub(super) async fn list_prefix(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let whole = format!("{}{prefix}", self.prefix);
        let mut found = match &self.s3 {
            Some(s3) => self.list_bucket(s3, &whole).await?,
            None => self.list_memory(&whole).await?,
        };
        // Whatever the server made of the prefix.
        found.retain(|object| object.key.starts_with(&whole));
        for object in &mut found {
            object.key.drain(..self.prefix.len());
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Asks for one page, and makes the bucket when it is missing.
    pub(super) async fn ensure_bucket(&self, s3: &Bucket) -> Result<(), StoreError> {
        let one = PaginatedListOptions { max_keys: Some(1), ..PaginatedListOptions::default() };
        match s3.client.list_paginated(Some(&format!("{}volume_", self.prefix)), one).await {
            Ok(_) => Ok(()),
            Err(e) if has_names_that_are_no_paths(&e) => Ok(()),
            Err(e) if no_such_bucket(&e) => s3.create(&self.label).await,
            Err(e) => Err(self.error("opening", &self.label, e)),
        }
    }

    async fn list_bucket(&self, s3: &Bucket, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let mut found = Vec::new();
        let (mut page_token, mut broken_off): (Option<String>, usize) = (None, 0);
        loop {
            let options =
                PaginatedListOptions { page_token: page_token.clone(), ..PaginatedListOptions::default() };
            let page = match s3.client.list_paginated(Some(prefix).filter(|p| !p.is_empty()), options).await {
                Ok(page) => page,
                Err(e) if has_names_that_are_no_paths(&e) => return s3.list_as_text(prefix).await,
                // `object_store` asks again for an answer, not for the rest of one.
                Err(e) if is_broken_off(&e) && broken_off + 1 < READS => {
                    broken_off += 1;
                    continue;
                }
                Err(e) => return Err(self.error("listing", prefix, e)),
            };
            found.extend(page.result.objects.into_iter().map(info));
            match page.page_token {
                None => return Ok(found),
                Some(next) if page_token.as_ref() == Some(&next) => {
                    let reason = "the server gives the same page again and again";
                    return Err(BackendSnafu { operation: "listing", key: prefix }.into_error(reason.into()));
                }
                Some(next) => page_token = Some(next),
            }
        }
    }

    async fn list_memory(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let folder = prefix.rsplit_once('/').map(|(folder, _)| Path::from(folder));
        let mut stream = self.inner.list(folder.as_ref());
        let mut found = Vec::new();
        while let Some(next) = stream.next().await {
            found.push(info(next.map_err(|e| self.error("listing", prefix, e))?));
        }
        Ok(found)
    }
}

fn info(meta: ObjectMeta) -> ObjectInfo {
    let modified = Timestamp::from_millisecond(meta.last_modified.timestamp_millis());
    let modified = modified.unwrap_or(Timestamp::UNIX_EPOCH);
    ObjectInfo { key: meta.location.to_string(), size: meta.size, modified }
}

/// The server stopped in the middle of a page.
fn is_broken_off(error: &Error) -> bool {
    let first: &dyn std::error::Error = error;
    let mut causes = std::iter::successors(Some(first), |cause| cause.source());
    causes.any(|cause| cause.to_string().contains("response body error"))
}

/// `object_store` takes each name of a page for a path, and gives the page up for one that is none; or the XML, for a
/// character that XML cannot have.
fn has_names_that_are_no_paths(error: &Error) -> bool {
    matches!(error, Error::InvalidPath { .. }) || error.to_string().contains("invalid list response")
}
