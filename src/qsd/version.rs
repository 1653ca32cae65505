//! Which qemu-storage-daemon may be trusted with a FUSE export.
//!
//! Some versions corrupt data there under parallel I/O, silently. So the question is not "is it
//! known to be bad" but "is it known to be good".

use super::daemon::{DaemonError, UnusableSnafu};
use crate::host::exec;
use snafu::ensure;
use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A version as the program prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    numbers: (u32, u32, u32),
    /// The distribution's own version, when it names one.
    package: Option<String>,
}

impl Version {
    /// From the first line of `--version`, such as
    /// `qemu-storage-daemon version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)`.
    pub fn parse(text: &str) -> Option<Version> {
        let line = text.lines().next()?;
        let (_, rest) = line.split_once(" version ")?;
        let (numbers, package) = match rest.split_once(" (") {
            Some((numbers, package)) => (numbers, Some(package.trim_end().trim_end_matches(')').to_owned())),
            None => (rest.trim(), None),
        };
        let mut parts = numbers.split('.').map(|part| part.parse::<u32>().ok());
        let numbers = (parts.next()??, parts.next()??, parts.next()??);
        parts.next().is_none().then_some(Version { numbers, package })
    }

    /// Whether its FUSE export was shown to keep what is written to it, or comes after one that was.
    pub fn is_sound(&self) -> bool {
        match self.numbers {
            // 10.0.2 loses writes; 10.0.13 does not.
            (10, 0, patch) => patch >= 13,
            // Between the two series nothing was shown.
            numbers => numbers >= (11, 1, 3),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor, patch) = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        match &self.package {
            Some(package) => write!(f, " ({package})"),
            None => Ok(()),
        }
    }
}

/// Asks the program for its version and refuses one that is not known to be sound.
pub fn require_sound(program: &Path) -> Result<Version, DaemonError> {
    let mut command = Command::new(program);
    command.arg("--version");
    let output = exec::run_ok(command, Duration::from_secs(30)).map_err(|error| {
        let reason = format!(
            "{error}. Install QEMU's storage daemon, or name the program with STRATA_QEMU_STORAGE_DAEMON"
        );
        UnusableSnafu { reason }.build()
    })?;
    judge(program, &String::from_utf8_lossy(&output.stdout))
}

fn judge(program: &Path, text: &str) -> Result<Version, DaemonError> {
    let program = program.display();
    let needed = "needed is 10.0.13 or a later 10.0.x, or 11.1.3 or later (Debian 13 has a sound one)";
    let Some(version) = Version::parse(text) else {
        let reason =
            format!("{program} prints no version that can be understood ({:?}); {needed}", text.trim());
        return UnusableSnafu { reason }.fail();
    };
    let reason = format!(
        "{program} is version {version}, and FUSE exports of that version are not known to keep data intact \
         under parallel writes; {needed}"
    );
    ensure!(version.is_sound(), UnusableSnafu { reason });
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("qemu-storage-daemon version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)\nCopyright", true)]
    #[case("qemu-storage-daemon version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)", false)]
    #[case("qemu-storage-daemon version 10.0.14", true)]
    #[case("qemu-storage-daemon version 10.1.5", false)]
    #[case("qemu-storage-daemon version 11.1.2", false)]
    #[case("qemu-storage-daemon version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)", true)]
    #[case("qemu-storage-daemon version 12.0.0", true)]
    #[case("qemu-storage-daemon version 7.2.15 (Debian 1:7.2+dfsg-7+deb12u13)", false)]
    fn only_versions_known_to_be_sound_pass(#[case] text: &str, #[case] sound: bool) {
        let judged = judge(Path::new("qsd"), text);
        assert_eq!(judged.is_ok(), sound, "{judged:?}");
        if let Err(error) = judged {
            assert!(error.to_string().contains("10.0.13"), "{error}");
        }
    }

    #[test]
    fn a_program_that_prints_nonsense_is_refused() {
        for text in ["", "hello", "qemu-storage-daemon version ten", "x version 1.2.3.4", "x version 11.1"] {
            assert!(judge(Path::new("qsd"), text).is_err(), "{text:?}");
        }
    }
}
