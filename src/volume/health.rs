//! How a volume is: sound, or what is wrong with it.

use std::fmt;

/// What is wrong with a volume. The names are what callers see: they are not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its record cannot be read, or fails its checks.
    RecordDamaged,
    /// Its record, files and image headers do not agree.
    ImageDamaged,
    /// The process that has its image open has ended: every read and write fails until it is staged anew.
    DaemonGone,
    /// Its block device is gone, or has no size any more.
    DeviceMissing,
    /// Its filesystem has gone read-only, as filesystems do after errors.
    FilesystemReadOnly,
    /// Its filesystem answers with an error.
    FilesystemFailed,
    /// A look at its mount has not come back in time.
    NotAnswering,
    /// Its share cannot be used from here.
    ShareUnreachable,
}

/// How a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Nothing is known to be wrong with it.
    Sound,
    /// Somebody has to look after it.
    Abnormal {
        /// One of few.
        reason: Reason,
        /// For a person: cause and remedy.
        message: String,
    },
}

impl Health {
    /// Something is wrong.
    pub fn abnormal(reason: Reason, message: impl fmt::Display) -> Self {
        Health::Abnormal { reason, message: message.to_string() }
    }

    /// The first thing that is wrong counts.
    pub fn or_else(self, next: impl FnOnce() -> Health) -> Health {
        match self {
            Health::Sound => next(),
            abnormal => abnormal,
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Health::Sound => f.write_str("nothing is known to be wrong"),
            Health::Abnormal { reason, message } => write!(f, "{reason:?}: {message}"),
        }
    }
}
