//! Mount options that carry an SELinux label.
//!
//! Kubelet gives a volume its pod's label so, instead of changing every file:
//! `context="system_u:object_r:container_file_t:s0:c1,c2"`, in double quotes for the comma between the categories, which
//! mount(8) and the kernel read as such. No other option has its commas quoted: the kernel would split it at them.

/// The options of mount(8) whose value is a label.
const KEYS: [&str; 4] = ["context", "fscontext", "defcontext", "rootcontext"];
/// Where the kernel lists its filesystems; that of SELinux is among them only where SELinux is on.
const FILESYSTEMS: &str = "/proc/filesystems";

fn of_label(c: char) -> bool {
    c.is_ascii_graphic() && !['"', '\\'].contains(&c)
}

/// The option's name, if it carries a label, and nothing but that.
fn key(option: &str) -> Option<&str> {
    let (key, value) = option.split_once('=').filter(|(key, _)| KEYS.contains(key))?;
    let quoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let label = quoted.or(Some(value).filter(|value| !value.contains(',')))?;
    (!label.is_empty() && label.chars().all(of_label)).then_some(key)
}

/// Whether a mount option carries a label, and no second option with it.
pub(super) fn carries_label(option: &str) -> bool {
    key(option).is_some()
}

/// A label that was asked for and that the mount does not have.
pub(super) fn lost<'a>(asked: &'a [String], mounted: &[String]) -> Option<&'a str> {
    let has = |wanted: &str| {
        mounted.iter().any(|option| option.split_once('=').is_some_and(|(key, _)| key == wanted))
    };
    asked.iter().map(String::as_str).find(|option| key(option).is_some_and(|key| !has(key)))
}

/// Whether this kernel labels files. Where it does not, mount(8) leaves such options out, and rightly.
pub(super) fn kernel_labels() -> bool {
    std::fs::read_to_string(FILESYSTEMS).is_ok_and(|text| lists_selinux(&text))
}

fn lists_selinux(filesystems: &str) -> bool {
    filesystems.split_whitespace().any(|word| word == "selinuxfs")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const KUBELETS: &str = r#"context="system_u:object_r:container_file_t:s0:c15,c25""#;

    #[rstest]
    #[case(KUBELETS, true)]
    #[case("context=system_u:object_r:container_file_t:s0", true)]
    #[case(r#"rootcontext="a:b:c:s0-s0:c0.c1023""#, true)]
    #[case("context=a:b:c:s0:c1,c2", false)]
    #[case(r#"context="a",exec"#, false)]
    #[case(r#"context="a",exec,x=""#, false)]
    #[case(r#"context="a",context="b""#, false)]
    #[case(r#"context=""#, false)]
    #[case(r#"context="""#, false)]
    #[case(r#"context="a b""#, false)]
    #[case(r#"context="a\"b""#, false)]
    #[case(r#"data="ordered,exec""#, false)]
    #[case("context", false)]
    fn one_label_is_told_from_several_options(#[case] option: &str, #[case] is_one: bool) {
        assert_eq!(carries_label(option), is_one, "{option}");
    }

    #[test]
    fn a_label_that_the_mount_does_not_have_is_noticed() {
        let asked = ["noatime".to_owned(), KUBELETS.to_owned()];
        let split =
            [r#"context="system_u:object_r:container_file_t:s0:c15"#, r#"c25""#, "rw"].map(String::from);
        assert_eq!(lost(&asked, &split), None, "the kernel's list is split at every comma");
        let without = ["noatime", "rw", "seclabel"].map(String::from);
        assert_eq!(lost(&asked, &without), Some(KUBELETS));
        assert_eq!(lost(&asked[..1], &without), None);
    }

    #[test]
    fn a_kernel_with_selinux_is_told_from_one_without() {
        assert!(lists_selinux("nodev\tsysfs\nnodev\tselinuxfs\n\text4\n"));
        assert!(!lists_selinux("nodev\tsysfs\n\text4\n"));
    }
}
