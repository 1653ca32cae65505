//! What a backup stands on: nothing, its parent, or what the store has of the data that its volume was made from. And what
//! follows from that: which bytes are read.

use super::copies::{self, Whole};
use super::measure;
use super::parent::{self, Basis, Parent};
use super::plan::Wanted;
use super::{Attempt, origin};
use crate::backup::BackupError;
use crate::backup::catalog::Catalog;
use crate::backup::error::NotCopiedSnafu;
use crate::backup::format::Prefix;
use crate::backup::hash_reader::HashReader;
use snafu::ensure;
use std::collections::VecDeque;
use std::sync::Arc;
use uuid::Uuid;

/// Where a backup begins.
pub(super) struct Ground {
    /// Whose hashes are those of what is not read.
    pub known: Option<Parent>,
    /// It is no parent, and these objects of it are copied.
    pub copies: Option<VecDeque<Whole>>,
    pub wanted: Wanted,
    pub block: u64,
    /// What was read to know that.
    pub bytes_read: u64,
    pub full_because: Option<String>,
    pub read_all_because: Option<String>,
}

/// The backup that one is made on, or whose objects are copied.
pub(super) struct Of {
    pub parent: Option<(Uuid, Prefix)>,
    pub copied: Option<(Uuid, Prefix)>,
}

impl Ground {
    pub fn of(&self) -> Of {
        let known = self.known.as_ref().map(|known| (known.id, known.prefix.clone()));
        match &self.copies {
            None => Of { parent: known, copied: None },
            Some(_) => Of { parent: None, copied: known },
        }
    }
}

impl Attempt<'_> {
    pub async fn ground(
        &self,
        catalog: &Catalog,
        basis: Basis,
        use_delta: Result<(), String>,
    ) -> Result<Ground, BackupError> {
        let size = self.source.size();
        let parent = match basis {
            Basis::Full(full_because) => {
                return Ok(Ground {
                    known: None,
                    copies: None,
                    wanted: Wanted::all(size),
                    block: self.options.own_block(size)?,
                    bytes_read: 0,
                    full_because,
                    read_all_because: None,
                });
            }
            Basis::Copied(found) => return self.copied(catalog, *found, use_delta).await,
            Basis::On(parent) => *parent,
        };
        let (wanted, read_all_because) = self.wanted(&parent, use_delta).await?;
        let block = parent.hashes.block();
        let (known, copies, full_because) = (Some(parent), None, None);
        Ok(Ground { known, copies, wanted, block, bytes_read: 0, full_because, read_all_because })
    }

    async fn wanted(
        &self,
        parent: &Parent,
        use_delta: Result<(), String>,
    ) -> Result<(Wanted, Option<String>), BackupError> {
        match use_delta {
            Ok(()) => parent::wanted(self.source, parent, self.options).await,
            Err(reason) => Ok((Wanted::all(self.source.size()), Some(reason))),
        }
    }

    async fn copied(
        &self,
        catalog: &Catalog,
        found: origin::Found,
        use_delta: Result<(), String>,
    ) -> Result<Ground, BackupError> {
        let origin::Found { mut parent, links, because } = found;
        let (size, block) = (self.source.size(), parent.hashes.block());
        let (mut changed, read_all_because) = self.wanted(&parent, use_delta).await?;
        let mut bytes_read = 0;
        if read_all_because.is_some() {
            let (work, known) = (Arc::new(self.work(block)), (parent.id, parent.hashes));
            (changed, bytes_read) = measure::differing(work, known, size, self.progress).await?;
            parent.hashes = self.cancel.or(HashReader::open(catalog, &parent.prefix)).await?;
        }
        let (whole, wanted) = copies::plan(&links, &changed, block, size);
        let reason = format!("no object of backup {} is as the volume is now", parent.id);
        ensure!(!whole.is_empty(), NotCopiedSnafu { reason });
        Ok(Ground {
            known: Some(parent),
            copies: Some(whole.into()),
            wanted,
            block,
            bytes_read,
            full_because: Some(because),
            read_all_because,
        })
    }
}
