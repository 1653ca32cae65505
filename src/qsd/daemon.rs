//! Who runs the daemons: a trait, so that the data plane can own them on behalf of the others.

use snafu::{Snafu, ensure};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// A daemon's name, which is also a folder's: a volume's attachment, or a merge.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DaemonName(String);

/// A name that is none.
#[derive(Debug, Snafu)]
#[snafu(display("{text:?} is no daemon name: 1 to 64 characters of a-z, 0-9 and -"))]
pub struct InvalidDaemonName {
    text: String,
}

impl DaemonName {
    /// The name of a daemon for a volume: ids come from names, so that two shares can have the same one.
    pub fn of(purpose: &str, share: &str, volume: uuid::Uuid) -> Self {
        use sha2::{Digest, Sha256};
        let share: String = Sha256::digest(share).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let name = format!("{purpose}-{share}-{volume}");
        name.parse().expect("a purpose of one short word leaves room for a UUID")
    }

    /// What a daemon of that name is for, and the volume's id; as [`DaemonName::of`] put them together.
    pub fn parts(&self) -> Option<(&str, &str)> {
        let (front, volume) = self.0.split_at_checked(self.0.len().checked_sub(36)?)?;
        let (purpose, _share) = front.strip_suffix('-')?.rsplit_once('-')?;
        Some((purpose, volume))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DaemonName {
    type Err = InvalidDaemonName;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        ensure!(
            !text.is_empty() && text.len() <= 64 && text.chars().all(fine),
            InvalidDaemonNameSnafu { text }
        );
        Ok(DaemonName(text.to_owned()))
    }
}

impl fmt::Display for DaemonName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A running daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// Whose it is.
    pub name: DaemonName,
    /// The process.
    pub pid: u32,
    /// Its QMP socket: one client at a time.
    pub qmp_socket: PathBuf,
    /// Differs for every process that ever had this name.
    pub instance: String,
}

/// Why a daemon could not be started, stopped or found.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub))]
pub enum DaemonError {
    /// The program is missing or its version is not known to be sound.
    #[snafu(display("qemu-storage-daemon cannot be used: {reason}"))]
    Unusable {
        /// Cause and remedy.
        reason: String,
    },
    /// The process did not come up or did not end.
    #[snafu(display("storage daemon {name}: {reason}"))]
    Process {
        /// Whose.
        name: DaemonName,
        /// What happened.
        reason: String,
    },
    /// Whoever owns the daemons does not answer.
    #[snafu(display("the data plane does not answer: {reason}"))]
    Unreachable {
        /// What happened.
        reason: String,
    },
}

/// Starts and ends daemons. Blocking; called off the async threads.
pub trait DaemonHost: Send + Sync {
    /// Starts a daemon of that name; one that runs already is answered as it is.
    fn start(&self, name: &DaemonName) -> Result<Daemon, DaemonError>;
    /// From now on it is ended unless this is called again within `lease`, by whoever looks after the daemons: its
    /// owner may die on another machine. Not running: an error.
    fn keep(&self, name: &DaemonName, lease: Duration) -> Result<(), DaemonError>;
    /// Ends it in order (QMP quit, which flushes), then by force. Not running: success.
    fn stop(&self, name: &DaemonName) -> Result<(), DaemonError>;
    /// The running daemon of that name.
    fn find(&self, name: &DaemonName) -> Result<Option<Daemon>, DaemonError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_what_it_was_made_of() {
        let volume = uuid::Uuid::from_u128(7);
        let name = DaemonName::of("merge", "s1", volume);
        assert_eq!(name.parts(), Some(("merge", volume.to_string().as_str())));
        assert_eq!("x".parse::<DaemonName>().unwrap().parts(), None);
    }
}
