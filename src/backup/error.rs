//! Why a backup, restore or deletion did not happen.

use super::format::{CodecError, FormatError};
use super::store::StoreError;
use crate::image::ReadError;
use crate::image::lock::LockError;
use crate::image::qemu_img::QemuImgError;
use snafu::Snafu;
use std::io;
use std::path::PathBuf;
use uuid::Uuid;

/// What a caller can do about an error; the command line's exit codes follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// It failed; the message says why.
    Failed,
    /// The request contradicts itself.
    Usage,
    /// No such backup or repository.
    NotFound,
    /// Refused: it would destroy or tear something.
    Unsafe,
    /// What is in the repository is not what was stored.
    Damaged,
    /// The caller asked it to stop.
    Cancelled,
}

/// What to do about objects that are not those that were stored.
const BRING_BACK: &str =
    "bring it back from a copy of the repository, or delete the backup and make a full one";

/// One variant per way to fail.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(crate)))]
pub enum BackupError {
    /// The store.
    #[snafu(context(false), display("{source}"))]
    Store {
        /// The store's error.
        source: StoreError,
    },
    /// A manifest or hash file.
    #[snafu(context(false), display("{source}"))]
    Format {
        /// The parser's error.
        source: FormatError,
    },
    /// The source.
    #[snafu(context(false), display("{source}"))]
    Source {
        /// The image's error.
        source: ReadError,
    },
    /// Compression.
    #[snafu(context(false), display("{source}"))]
    Codec {
        /// The codec's error.
        source: CodecError,
    },
    /// Settings that contradict each other (B3), or a volume of no size (B4).
    #[snafu(display("{reason}"))]
    BadRequest {
        /// Which.
        reason: String,
    },
    /// Asked to stop.
    #[snafu(display("cancelled"))]
    Cancelled,
    /// No such backup.
    #[snafu(display("backup {backup} is not in the repository"))]
    NoSuchBackup {
        /// Which.
        backup: Uuid,
    },
    /// A set without manifest: interrupted, or still being written.
    #[snafu(display(
        "backup {backup} is incomplete: it has no manifest; unless it is being made now, delete it"
    ))]
    Incomplete {
        /// Which.
        backup: Uuid,
    },
    /// An ancestor is gone.
    #[snafu(display("backup {backup} needs backup {parent}, which is not in the repository: {BRING_BACK}"))]
    NoParent {
        /// Which.
        backup: Uuid,
        /// What is missing.
        parent: Uuid,
    },
    /// Ancestors that go round, or belong to another volume.
    #[snafu(display(
        "the chain of backup {backup} is damaged: {reason}; restore an earlier backup, delete this one and make a full one"
    ))]
    BadChain {
        /// Which.
        backup: Uuid,
        /// How.
        reason: String,
    },
    /// The listing lacks a chunk of the manifest.
    #[snafu(display("object {key} of backup {backup} is missing: {BRING_BACK}"))]
    MissingObject {
        /// Which backup.
        backup: Uuid,
        /// Which object.
        key: String,
    },
    /// The listing has an object that the manifest does not name.
    #[snafu(display(
        "object {key} lies under the prefix of backup {backup}, whose manifest does not name it: if it is no part of a \
         backup, remove it from the repository"
    ))]
    SurplusObject {
        /// Which backup.
        backup: Uuid,
        /// Which object.
        key: String,
    },
    /// Bytes that are not those that were stored.
    #[snafu(display("object {key} is damaged: {reason}; {BRING_BACK}"))]
    Damaged {
        /// Which object.
        key: String,
        /// Which check failed.
        reason: String,
    },
    /// A backup that cannot be restored whole.
    #[snafu(display(
        "object {key} is damaged: {reason}; with it these bytes of the volume are lost: {ranges} \
         (--damaged zero restores the rest, with zeros there)"
    ))]
    Lost {
        /// Which object.
        key: String,
        /// Which check failed.
        reason: String,
        /// `START-END`, several of them.
        ranges: String,
    },
    /// Its objects went while they were read. After a rebase the same id has other ones.
    #[snafu(display("backup {backup} changed while it was read (rebased or deleted): start again"))]
    Changed {
        /// Which: the one that was asked for, or one that it rests on.
        backup: Uuid,
    },
    /// B7: blocks of different sizes cannot be compared.
    #[snafu(display(
        "backup {parent} has hash blocks of {theirs} bytes, this one would have {ours}: \
         use --hash-block {theirs}, or --parent none for a full backup"
    ))]
    OtherHashBlock {
        /// The parent.
        parent: Uuid,
        /// Its block.
        theirs: u64,
        /// The requested one.
        ours: u64,
    },
    /// Found only while its hashes were taken over.
    #[snafu(display("parent {parent} cannot be used: {reason}"))]
    UnusableParent {
        /// The parent.
        parent: Uuid,
        /// What is wrong with it.
        reason: String,
    },
    /// The store has not copied what a volume's first backup was to take over.
    #[snafu(display("what the repository has of the volume's origin cannot be taken over: {reason}"))]
    NotCopied {
        /// Why.
        reason: String,
    },
    /// What the source told of its changes was not true.
    #[snafu(display(
        "the volume differs from its parent at byte {offset}, which is not recorded as changed"
    ))]
    WrongDelta {
        /// Where.
        offset: u64,
    },
    /// A backup that needs no going on.
    #[snafu(display("backup {backup} is complete: there is nothing to resume"))]
    AlreadyComplete {
        /// Which.
        backup: Uuid,
    },
    /// Another process makes the same backup.
    #[snafu(display(
        "{prefix} is the same backup, made by another process at the same time: let it end, then start again"
    ))]
    MadeTwice {
        /// Its objects.
        prefix: String,
    },
    /// Somebody removed or replaced objects of a backup that was being made.
    #[snafu(display(
        "backup {backup} is not made: what is stored of it was changed meanwhile by another process, such as gc or a \
         deletion ({error}); start again"
    ))]
    ChangedMeanwhile {
        /// Which.
        backup: Uuid,
        /// What is missing or too much.
        error: String,
    },
    /// The last look before a hash file is stored.
    #[snafu(display(
        "the hash file that was made does not fit the volume ({reason}): this is a fault of this program"
    ))]
    HashesShort {
        /// How many there are, and should be.
        reason: String,
    },
    /// An attempt that failed; what it uploaded stays.
    #[snafu(display("{error}; what was uploaded stays: go on with --resume {backup}"))]
    Resumable {
        /// Why it failed.
        error: Box<BackupError>,
        /// Which backup.
        backup: Uuid,
    },
    /// Volumes do not shrink: this is another one.
    #[snafu(display(
        "the volume has {ours} bytes, but {theirs} at backup {parent}: volumes do not shrink; \
         is this the right image? --parent none makes a full backup"
    ))]
    Shrunk {
        /// The parent.
        parent: Uuid,
        /// Size then.
        theirs: u64,
        /// Size now.
        ours: u64,
    },
    /// Other backups need it.
    #[snafu(display(
        "backup {backup} is the parent of {children}: delete those first, or use --rebase to make them whole"
    ))]
    HasDependents {
        /// Which.
        backup: Uuid,
        /// Who needs it.
        children: String,
    },
    /// The failure of an operation, and then of its clean-up.
    #[snafu(display(
        "{error}; and removing what was uploaded failed, objects under {prefix} remain: {source}"
    ))]
    LeftBehind {
        /// The first failure.
        error: Box<BackupError>,
        /// Where.
        prefix: String,
        /// Why they could not be removed.
        source: StoreError,
    },
    /// A deletion that was called off, half-way.
    #[snafu(display(
        "backup {backup} was not deleted ({error}), but its manifest is gone and could not be put back: {source}; \
         it and what is made on it cannot be restored"
    ))]
    NotPutBack {
        /// Which.
        backup: Uuid,
        /// Why it was called off.
        error: Box<BackupError>,
        /// Why the manifest is gone.
        source: StoreError,
    },
    /// Somebody uses what should be backed up.
    #[snafu(display(
        "{} is not backed up: {reason}; what changes while it is read is no copy of any instant",
        path.display()
    ))]
    SourceInUse {
        /// Which.
        path: PathBuf,
        /// By whom.
        reason: String,
    },
    /// It cannot be told who uses what should be backed up.
    #[snafu(display("failed to look for users of {}: {source}", path.display()))]
    SourceUsers {
        /// Which.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// The hold on what is read has ended.
    #[snafu(display(
        "the snapshot was no longer held while it was read (its pin on the share could not be renewed): what was \
         read may be torn; is the share well? Start it again"
    ))]
    SourceLost,
    /// The target is held by a part of a restore that should have ended.
    #[snafu(display("the restored target was not finished: a part of the restore still holds it"))]
    Unfinished,
    /// The target is there, and overwriting it was not asked for; or overwriting it would tear something.
    #[snafu(display("{} is not written to: {reason}", path.display()))]
    UnsafeTarget {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The target failed.
    #[snafu(display("{operation} {} failed: {source}", path.display()))]
    Target {
        /// What was done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// QEMU's locks on the target could not be taken.
    #[snafu(display("{} is not written to: {source}", path.display()))]
    LockTarget {
        /// Which.
        path: PathBuf,
        /// Who holds it, or what failed.
        source: LockError,
    },
    /// qemu-img.
    #[snafu(display("{source}"))]
    QemuImg {
        /// What it said.
        source: QemuImgError,
    },
    /// The object is there, and overwriting it was not asked for.
    #[snafu(display("{object} exists already; --force replaces it"))]
    ObjectExists {
        /// Its URL.
        object: String,
    },
    /// A part of the program died.
    #[snafu(display("a worker stopped: {source}"))]
    Worker {
        /// How.
        source: tokio::task::JoinError,
    },
}

impl BackupError {
    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            BackupError::Store { source: StoreError::NoRepository { .. } }
            | BackupError::NoSuchBackup { .. }
            | BackupError::Incomplete { .. } => ErrorKind::NotFound,
            BackupError::Store { source: StoreError::BadUrl { .. } } | BackupError::BadRequest { .. } => {
                ErrorKind::Usage
            }
            BackupError::UnsafeTarget { .. }
            | BackupError::SourceInUse { .. }
            | BackupError::LockTarget { source: LockError::Held { .. }, .. }
            | BackupError::ObjectExists { .. }
            | BackupError::HasDependents { .. } => ErrorKind::Unsafe,
            BackupError::Store { source: StoreError::TooLarge { .. } }
            | BackupError::Format { .. }
            | BackupError::Damaged { .. }
            | BackupError::Lost { .. }
            | BackupError::MissingObject { .. }
            | BackupError::SurplusObject { .. }
            | BackupError::NoParent { .. }
            | BackupError::BadChain { .. } => ErrorKind::Damaged,
            BackupError::Cancelled => ErrorKind::Cancelled,
            BackupError::AlreadyComplete { .. } => ErrorKind::Usage,
            BackupError::LeftBehind { error, .. } | BackupError::Resumable { error, .. } => error.kind(),
            _ => ErrorKind::Failed,
        }
    }

    /// Whether a set on which this was found is unusable, as opposed to a store that does not answer.
    pub(super) fn is_about_the_set(&self) -> bool {
        let of_the_set = |source: &StoreError| {
            matches!(
                source,
                StoreError::Missing { .. } | StoreError::TooLarge { .. } | StoreError::BadKey { .. }
            )
        };
        !matches!(self, BackupError::Store { source } if !of_the_set(source))
    }
}
