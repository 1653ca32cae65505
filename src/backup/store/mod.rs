//! Where backups are kept: a few operations on named objects, behind one trait.
//!
//! An object is put whole or not at all; what was put is durable when `put` returns. Nothing rests
//! on conditional writes alone, which some S3 servers ignore: names never collide. Where a store
//! does honour them, they are used besides. There are no lock objects.

mod clock;
mod local;
mod object;
mod options;
mod url;

pub(super) use clock::{ahead, is_probe};
pub use local::LocalStore;
pub use object::{ObjectBacked, Upload};
pub use options::{S3Options, Timeouts};
pub use url::{RepositoryUrl, open};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use snafu::{IntoError, Snafu};
use std::fmt::Debug;
use std::ops::Range;

/// Objects that are tried out are named so, and removed again.
const PROBE: &str = ".strata-probe-";

/// Deletions at a time.
const DELETIONS: usize = 8;

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectInfo {
    /// Its name.
    pub key: String,
    /// Its bytes.
    pub size: u64,
    /// When it was stored, by the store's clock.
    pub modified: Timestamp,
}

/// What a store does when an object is to be made that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusive {
    /// It refuses, also when several try at the same time.
    Honoured,
    /// It may replace the one that is there: who writes looks first, and a race is not seen.
    Ignored,
}

/// An object that was begun and neither finished nor broken off.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unfinished {
    /// The name it would get; empty where the store does not know it yet.
    pub key: String,
    /// What the store calls it.
    pub id: String,
    /// Bytes that it takes up; 0 where the store does not tell.
    pub size: u64,
    /// When it was begun, by the store's clock.
    pub begun: Timestamp,
}

/// Why a store did not do what it was asked for.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(crate)))]
pub enum StoreError {
    /// No such object.
    #[snafu(display("{key} is not in the repository"))]
    Missing {
        /// Which.
        key: String,
    },
    /// An object of that name is there, and its bytes are others.
    #[snafu(display("{key} is in the repository already, with other bytes: nothing was written over it"))]
    Exists {
        /// Which.
        key: String,
    },
    /// No such bucket or directory.
    #[snafu(display("the repository {repository} does not exist"))]
    NoRepository {
        /// Its URL.
        repository: String,
    },
    /// More bytes than may be there.
    #[snafu(display("{key} has {size} bytes where at most {limit} can be right"))]
    TooLarge {
        /// Which.
        key: String,
        /// As stored.
        size: u64,
        /// As expected.
        limit: u64,
    },
    /// The store will not make this copy, however often it is asked.
    #[snafu(display("the store does not copy {key}: {source}"))]
    CannotCopy {
        /// Of which object.
        key: String,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A name that a store cannot hold, or that leaves it.
    #[snafu(display("{key:?} cannot be an object's name"))]
    BadKey {
        /// Which.
        key: String,
    },
    /// The server or the disk failed.
    #[snafu(display("{operation} {key} failed: {source}"))]
    Backend {
        /// What was asked for.
        operation: &'static str,
        /// Of which object, or under which prefix.
        key: String,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A URL that names no repository.
    #[snafu(display("{url:?} is no repository: write s3://BUCKET[/PREFIX] or file:///DIRECTORY ({reason})"))]
    BadUrl {
        /// As given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The settings make no client.
    #[snafu(display("the S3 client cannot be set up: {source}"))]
    Settings {
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A store of objects.
pub trait Store: Debug + Send + Sync + 'static {
    /// Makes the bucket or directory when it is missing.
    fn ensure(&self) -> BoxFuture<'_, Result<(), StoreError>>;
    /// Stores an object, whole and durable, over one of that name.
    fn put<'a>(&'a self, key: &'a str, body: Bytes) -> BoxFuture<'a, Result<(), StoreError>>;
    /// Stores an object, whole and durable, of a name that is not there yet. [`StoreError::Exists`] if it
    /// is, unless its bytes are these: then an earlier try, whose answer was lost, has done it. Of several
    /// writers with different bytes at the same time one succeeds where the store is [`Exclusive::Honoured`].
    fn put_new<'a>(&'a self, key: &'a str, body: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            match self.get(key, body.len() as u64).await {
                Ok(found) if found == body => Ok(()),
                Ok(_) | Err(StoreError::TooLarge { .. }) => ExistsSnafu { key }.fail(),
                Err(StoreError::Missing { .. }) => self.put(key, body).await,
                Err(error) => Err(error),
            }
        })
    }
    /// Whether `put_new` is exclusive. Tried out at the first call, which needs the right to write.
    fn exclusive(&self) -> BoxFuture<'_, Result<Exclusive, StoreError>> {
        Box::pin(async { Ok(Exclusive::Ignored) })
    }
    /// Reads an object of at most `limit` bytes.
    fn get<'a>(&'a self, key: &'a str, limit: u64) -> BoxFuture<'a, Result<Bytes, StoreError>>;
    /// Reads these bytes of an object; fewer only where it ends before.
    fn get_range<'a>(&'a self, key: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>>;
    /// Begins an object that is written bit by bit, for what does not fit into memory.
    fn begin<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Box<dyn ObjectWriter>, StoreError>>;
    /// Stores an object with the bytes of another one, whole and durable, without them coming through this machine. The
    /// name is not there yet: [`StoreError::Exists`] if it is, whatever its bytes; of two who make the same at the same
    /// time both may succeed. [`StoreError::CannotCopy`] if the store does not do such a thing.
    fn copy<'a>(&'a self, from: &'a str, _to: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            Err(CannotCopySnafu { key: from }.into_error("it has no operation to copy objects".into()))
        })
    }
    /// Removes an object; one that is not there is success.
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), StoreError>>;
    /// Every object whose name begins with `prefix`, in order. `prefix` is text, it may end inside a
    /// name. A repository that does not exist is an error.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<ObjectInfo>, StoreError>>;
    /// What writers that ended without finishing left behind, and what others are writing now: also other
    /// programs', under names that may not even be keys of ours.
    fn unfinished(&self) -> BoxFuture<'_, Result<Vec<Unfinished>, StoreError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    /// Removes one of those; one that is not there is success. Whoever still writes it will fail.
    fn remove_unfinished<'a>(&'a self, _of: &'a Unfinished) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }
}

/// An object on its way: not there until it is finished. One that is dropped is broken off, as far as its store can.
pub trait ObjectWriter: Debug + Send {
    /// Takes the next bytes; waits while too many are on their way.
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), StoreError>>;
    /// Makes it an object, whole and durable, as `put_new` does: [`StoreError::Exists`] if there is one.
    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>>;
    /// The same as `put` does: over one of that name.
    fn replace(self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>>;
    /// Removes what was written.
    fn abort(self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>>;
}

/// Removes objects, several at a time, in no order.
pub(super) fn delete_all(store: &dyn Store, keys: Vec<String>) -> BoxFuture<'_, Result<(), StoreError>> {
    let deletions = stream::iter(keys).map(move |key| async move { store.delete(&key).await });
    Box::pin(deletions.buffer_unordered(DELETIONS).try_collect())
}

/// A name that stays inside the store and means the same in each kind of store. Zones of Cinder are free text, so that
/// blanks, percent signs and letters of any script are fine.
pub(crate) fn check_key(key: &str) -> Result<(), StoreError> {
    let part_fine =
        |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(char::is_control);
    snafu::ensure!(key.len() <= 900 && key.split('/').all(part_fine), BadKeySnafu { key });
    Ok(())
}
