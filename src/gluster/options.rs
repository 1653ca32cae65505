//! Mount options: those that coherence demands, and those that an operator may add.

use snafu::{Snafu, ensure};
use std::str::FromStr;

/// What the caches of a client would break: one node must see at once what another one wrote.
const COHERENCE: &str = "it would let this node see stale images";
/// What this program sets or decides itself.
const OURS: &str = "the driver sets it itself";
/// What makes a share useless for images.
const WRITABLE: &str = "the driver must be able to write";

/// Options that are refused, and why.
const REFUSED: &[(&str, &str)] = &[
    ("attribute-timeout", COHERENCE),
    ("entry-timeout", COHERENCE),
    ("negative-timeout", COHERENCE),
    ("fopen-keep-cache", COHERENCE),
    ("kernel-writeback-cache", COHERENCE),
    ("auto-invalidation", COHERENCE),
    ("xlator-option", COHERENCE),
    ("fuse-mountopts", COHERENCE),
    ("aux-gfid-mount", OURS),
    ("log-file", OURS),
    ("nofail", OURS),
    ("process-name", OURS),
    ("subdir-mount", OURS),
    ("thin-client", OURS),
    ("transport", OURS),
    ("volfile-check", OURS),
    ("volume-id", OURS),
    ("volume-name", OURS),
    ("ro", WRITABLE),
    ("root-squash", WRITABLE),
    ("worm", WRITABLE),
];

const LOG_LEVELS: &[&str] = &["CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", "TRACE", "NONE"];

/// An option that an operator may add to a share's mount: one word, `key` or `key=value` (G1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOption(String);

/// An option that is none, or that is refused.
#[derive(Debug, Snafu)]
pub enum InvalidOption {
    /// Not one word.
    #[snafu(display("{text:?} is no mount option: write key or key=value, one option at a time"))]
    Malformed {
        /// As given.
        text: String,
    },
    /// It would undo what keeps data safe.
    #[snafu(display("the mount option {key} is refused: {reason}"))]
    Refused {
        /// Its name.
        key: String,
        /// Why.
        reason: &'static str,
    },
    /// GlusterFS knows no such level.
    #[snafu(display("{level:?} is no log level: {}", LOG_LEVELS.join(", ")))]
    LogLevel {
        /// As given.
        level: String,
    },
}

impl MountOption {
    pub(super) fn is_log_level(&self) -> bool {
        self.0.starts_with("log-level=")
    }
}

impl FromStr for MountOption {
    type Err = InvalidOption;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (text, None),
        };
        let key_fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
        // No comma, space or quote: mount(8) and its helper, a shell script, would split or read them.
        let value_fine = |c: char| c.is_ascii_alphanumeric() || "-_.:/[]%+@".contains(c);
        ensure!(
            key.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
                && key.chars().all(key_fine)
                && value.is_none_or(|value| !value.is_empty() && value.chars().all(value_fine)),
            MalformedSnafu { text }
        );
        if let Some((_, reason)) = REFUSED.iter().find(|(refused, _)| *refused == key) {
            return RefusedSnafu { key, reason: *reason }.fail();
        }
        if key == "log-level" {
            let level = value.unwrap_or_default();
            ensure!(LOG_LEVELS.contains(&level), LogLevelSnafu { level });
        }
        Ok(MountOption(text.to_owned()))
    }
}

/// The options of a coherent mount of a volume, and the operator's, as mount(8) takes them.
///
/// Timeouts of 0 alone leave md-cache, which hides another node's writes for up to a second: a node
/// that had looked at an image then opens it without the last flushed data.
pub(super) fn mount_words(volume: &str, extra: &[MountOption]) -> String {
    let mut words = vec![
        "attribute-timeout=0".to_owned(),
        "entry-timeout=0".to_owned(),
        format!("xlator-option={volume}-md-cache.md-cache-timeout=0"),
    ];
    words.extend(extra.iter().map(|option| option.0.clone()));
    words.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("backup-volfile-servers=10.0.0.2:10.0.0.3")]
    #[case("log-level=WARNING")]
    #[case("acl")]
    #[case("reader-thread-count=4")]
    #[case("_netdev")]
    fn an_operators_option_is_passed_on(#[case] text: &str) {
        let option: MountOption = text.parse().unwrap();
        assert!(mount_words("vol", &[option]).ends_with(&format!(",{text}")));
    }

    #[rstest]
    #[case("attribute-timeout=1", "stale")]
    #[case("xlator-option=vol-md-cache.md-cache-timeout=5", "no mount option")]
    #[case("xlator-option=vol", "stale")]
    #[case("fuse-mountopts=attribute_timeout", "stale")]
    #[case("log-file=/etc/passwd", "sets it itself")]
    #[case("ro", "write")]
    fn what_would_undo_safety_is_refused_with_the_reason(#[case] text: &str, #[case] reason: &str) {
        let error = text.parse::<MountOption>().unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }

    #[rstest]
    #[case("")]
    #[case("=x")]
    #[case("key=")]
    #[case("acl,entry-timeout=1")]
    #[case("acl entry-timeout=1")]
    #[case("log-level=$(id)")]
    #[case("log-level=LOUD")]
    #[case("-o")]
    fn what_is_not_one_option_is_refused(#[case] text: &str) {
        assert!(text.parse::<MountOption>().is_err());
    }
}
