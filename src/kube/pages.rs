//! Lists of any length, a page at a time: thousands of objects in one answer are a burden for the API server and for us.

use super::error::has_code;
use ::kube::Api;
use ::kube::api::ListParams;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// Objects of one answer, as the watches have it.
const PAGE: u32 = 500;
/// The rest of a list is forgotten after some minutes: then it is begun anew.
const TRIES: usize = 3;

/// All objects that `wanted` selects.
pub async fn list_all<K>(api: &Api<K>, wanted: &ListParams) -> ::kube::Result<Vec<K>>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut tries = 1;
    loop {
        match list(api, wanted.clone().limit(PAGE)).await {
            Err(error) if has_code(&error, 410) && tries < TRIES => tries += 1,
            listed => return listed,
        }
    }
}

async fn list<K>(api: &Api<K>, mut wanted: ListParams) -> ::kube::Result<Vec<K>>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut all = Vec::new();
    loop {
        let page = api.list(&wanted).await?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => wanted.continue_token = Some(token),
            None => return Ok(all),
        }
    }
}
