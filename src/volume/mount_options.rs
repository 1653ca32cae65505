//! Whether a volume is staged with the mount options that are asked for: an SELinux label is one of them, and a pod of
//! another label must not be told that its volume is ready.

use super::error::*;
use super::local::Local;
use super::stage::Access;

impl Access {
    /// The options, whatever order they were given in: kubelet keeps them in a set.
    pub(super) fn mount_options(&self) -> Vec<String> {
        let mut options = match self {
            Access::Mount { flags, .. } => flags.clone(),
            Access::Block => Vec::new(),
        };
        options.sort();
        options.dedup();
        options
    }
}

impl Local {
    /// CSI: staged already, but incompatible with the capability.
    pub(super) fn has_options_of(&self, access: &Access) -> Result<(), Error> {
        let wanted = access.mount_options();
        let volume = self.handle.volume;
        let Some(options) = self.mount_options.as_ref().filter(|options| **options != wanted) else {
            return Ok(());
        };
        let reason = format!(
            "it is staged with the mount options {options:?}, and {wanted:?} were asked for; unstage it first"
        );
        IncompatibleSnafu { volume, reason }.fail()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::mount::FsType;
    use rstest::rstest;

    fn local(kept: Option<&str>) -> Local {
        let text = serde_json::json!({
            "schema": 1,
            "handle": format!("s1/{}", uuid::Uuid::nil()),
            "folder": "/share/volumes/x",
            "epoch": 1,
            "staging_path": "/staging",
            "filesystem": "ext4",
            "daemon_instance": null,
            "device": null,
            "staged": true,
            "freezing": false,
            "targets": [],
        });
        let local: Local = serde_json::from_value(text).unwrap();
        Local { mount_options: kept.map(|kept| mount(kept).mount_options()), ..local }
    }

    fn mount(flags: &str) -> Access {
        let flags = flags.split_whitespace().map(str::to_owned).collect();
        Access::Mount { fs: FsType::Ext4, flags }
    }

    const LABEL: &str = r#"noatime context="a:b:c:s0:c1,c2""#;

    #[rstest]
    #[case(Some(LABEL), LABEL, true)]
    #[case(Some("noatime nodev"), "nodev noatime noatime", true)]
    #[case(Some(LABEL), r#"noatime context="a:b:c:s0:c1,c3""#, false)]
    #[case(Some(LABEL), "noatime", false)]
    #[case(Some(""), LABEL, false)]
    #[case(None, LABEL, true)]
    fn other_options_are_another_stage(#[case] kept: Option<&str>, #[case] asked: &str, #[case] same: bool) {
        let found = local(kept).has_options_of(&mount(asked));
        assert_eq!(found.is_ok(), same, "{found:?}");
        assert!(same || matches!(found, Err(Error::Incompatible { .. })), "{found:?}");
    }
}
