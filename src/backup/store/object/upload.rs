//! Objects that are sent in parts.

use super::{ExistsSnafu, ObjectBacked, ObjectWriter, Store, StoreError};
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use object_store::{Error, ObjectStoreExt, WriteMultipart};

impl ObjectBacked {
    /// Begins an object that is sent in parts and is there when it is finished.
    pub async fn begin_upload(&self, key: &str, part: usize) -> Result<Upload, StoreError> {
        let begun = self.inner.put_multipart(&self.path(key)?).await;
        let begun = begun.map_err(|e| self.error("beginning the upload of", key, e))?;
        let parts = WriteMultipart::new_with_chunk_size(begun, part);
        Ok(Upload { store: self.clone(), key: key.to_owned(), parts, bytes: 0 })
    }
}

/// An object on its way: not there until it is finished.
#[derive(Debug)]
pub struct Upload {
    store: ObjectBacked,
    key: String,
    parts: WriteMultipart,
    bytes: u64,
}

impl Upload {
    /// Takes bytes, once fewer than `most` parts are under way.
    pub async fn send(&mut self, bytes: Bytes, most: usize) -> Result<(), StoreError> {
        let ready = self.parts.wait_for_capacity(most).await;
        ready.map_err(|e| self.store.error("uploading", &self.key, e))?;
        self.bytes += bytes.len() as u64;
        self.parts.put(bytes);
        Ok(())
    }

    /// Waits until all whole parts have landed.
    pub async fn landed(&mut self) -> Result<(), StoreError> {
        let landed = self.parts.wait_for_capacity(1).await;
        landed.map_err(|e| self.store.error("uploading", &self.key, e))
    }

    /// Makes it an object; if that fails, what was sent is removed.
    pub async fn finish(self) -> Result<(), StoreError> {
        let Upload { store, key, parts, bytes } = self;
        match parts.finish().await {
            // Tried again after an answer that was lost, S3 says that there is no such upload: it became the object.
            Err(e @ Error::NotFound { .. }) => match store.inner.head(&store.path(&key)?).await {
                Ok(found) if found.size == bytes => Ok(()),
                _ => Err(store.error("finishing the upload of", &key, e)),
            },
            done => done.map(drop).map_err(|e| store.error("finishing the upload of", &key, e)),
        }
    }

    /// Removes what was sent.
    pub async fn abort(self) -> Result<(), StoreError> {
        let Upload { store, key, parts, .. } = self;
        match parts.abort().await {
            // Not there: an earlier try, whose answer was lost, has done it.
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(store.error("breaking off the upload of", &key, e)),
        }
    }
}

/// Bytes of one part. Ten thousand of them, the most that S3 takes, are the hashes of some 30 TiB.
const PART: usize = 8 << 20;
/// Parts of one object on their way at a time.
const PARTS_UNDER_WAY: usize = 3;

/// An object that becomes an upload in parts only once it is larger than one.
#[derive(Debug)]
pub(super) struct PartWriter {
    store: ObjectBacked,
    key: String,
    first: BytesMut,
    upload: Option<Upload>,
}

impl PartWriter {
    pub fn new(store: ObjectBacked, key: String) -> Self {
        PartWriter { store, key, first: BytesMut::new(), upload: None }
    }

    async fn take(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        if let Some(upload) = &mut self.upload {
            return upload.send(bytes, PARTS_UNDER_WAY).await;
        }
        self.first.extend_from_slice(&bytes);
        if self.first.len() >= PART {
            let upload = self.upload.insert(self.store.begin_upload(&self.key, PART).await?);
            upload.send(std::mem::take(&mut self.first).freeze(), PARTS_UNDER_WAY).await?;
        }
        Ok(())
    }
}

impl ObjectWriter for PartWriter {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.take(bytes))
    }
    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(async move {
            let Some(upload) = self.upload else {
                return self.store.put_exclusively(&self.key, self.first.freeze()).await;
            };
            // S3 has no exclusive end of an upload that all servers know: names never collide.
            if self.store.is_there(&self.key).await? {
                upload.abort().await?;
                return ExistsSnafu { key: self.key }.fail();
            }
            upload.finish().await
        })
    }
    fn replace(self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(async move {
            match self.upload {
                // After an answer that was lost nothing tells whether what is there is ours or the one before.
                Some(Upload { store, key, parts, .. }) => {
                    let done = parts.finish().await;
                    done.map(drop).map_err(|e| store.error("finishing the upload of", &key, e))
                }
                None => self.store.put(&self.key, self.first.freeze()).await,
            }
        })
    }
    fn abort(self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(async move {
            match self.upload {
                Some(upload) => upload.abort().await,
                None => Ok(()),
            }
        })
    }
}
