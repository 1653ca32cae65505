//! Shares: where images live. Source and identity, mount, preflight, coherence.

mod check;
pub mod coherence;
mod identity;
mod mount;
mod neighbours;
mod open;
mod options;
mod place;
mod preflight;
mod share;
mod volfile;

pub use check::{Checked, Outcome, check};
pub use coherence::CoherenceError;
pub use identity::{IdentityError, establish};
pub use mount::{MountError, StillWanted};
pub use open::{ShareError, abandon, close, open, open_while, prove_writable};
pub use options::{InvalidOption, MountOption};
pub use place::mount_point;
pub use preflight::{Finding, Severity};
pub use share::{InvalidShareKey, InvalidSource, Share, ShareKey, Source};
pub use volfile::VolfileError;
