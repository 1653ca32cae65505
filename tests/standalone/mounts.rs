//! What the kubelet's mount flags become.

use crate::calls::{NODE, create_request, mount};
use crate::driver::{Driver, script};
use crate::support;
use std::path::Path;
use strata::host::mount::{LinuxMounter, MountInfo, Mounter};
use strata::rpc::csi::VolumeCapability;
use strata::rpc::csi::volume_capability::{AccessType, MountVolume};
use tonic::Code;

const LABEL: &str = r#"context="system_u:object_r:container_file_t:s0:c15,c25""#;
const OTHER_LABEL: &str = r#"context="system_u:object_r:container_file_t:s0:c15,c26""#;

/// The host's mount(8), with a note of each call.
const NOTING: &str = "#!/bin/sh\nprintf '%s\\n' \"$*\" >>\"$(dirname \"$0\")/calls\"\n\
                      PATH=${PATH#*:}\nexec mount \"$@\"\n";

fn flags(flags: &[&str]) -> VolumeCapability {
    let mount_flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    let access = MountVolume { fs_type: "ext4".to_owned(), mount_flags, ..Default::default() };
    VolumeCapability { access_type: Some(AccessType::Mount(access)), ..mount("ext4") }
}

fn mounted(at: &Path) -> MountInfo {
    LinuxMounter.find(at).unwrap().expect("a mount")
}

fn has(mounted: &MountInfo, option: &str) -> bool {
    mounted.options.iter().any(|found| found == option)
}

/// K3: they reach mount(8) one by one, the label's comma in its quotes, and the mount has them, in the pod as well. What is
/// staged with some is not what was asked for with others: CSI has ALREADY_EXISTS for that.
#[tokio::test(flavor = "multi_thread")]
async fn mount_flags_reach_the_mount_and_tell_one_stage_from_another() {
    support::need_root();
    let dir = support::scratch();
    let (images, programs) = (dir.path().join("share"), dir.path().join("programs"));
    std::fs::create_dir(&images).unwrap();
    std::fs::create_dir(&programs).unwrap();
    script(&programs.join("mount"), NOTING);
    let path = format!("PATH={}:{}", programs.display(), std::env::var("PATH").unwrap());
    let source = format!("dir:{}", images.display());
    let driver = Driver::stopped(dir, source, &[]).launched_by(&["env", &path]).started();
    let id = driver.create(create_request("pvc-1")).await.unwrap().volume_id;
    let asked = flags(&["noatime", "nodev", LABEL]);
    let (staging, target) = driver.bring_up(&id, "v", asked.clone()).await;
    let calls = || std::fs::read_to_string(programs.join("calls")).unwrap();
    assert!(calls().contains(&format!("-t ext4 -o noatime,nodev,{LABEL} -- /dev/")), "{}", calls());
    for place in [&staging, &target] {
        let found = mounted(place);
        assert!(has(&found, "noatime") && has(&found, "nodev"), "{found:?}");
    }

    let same = flags(&[LABEL, "nodev", "noatime"]);
    driver.stage(&id, &staging, same).await.expect("their order says nothing");
    for other in [&["noatime", "nodev", OTHER_LABEL][..], &["noatime", "nodev"], &["nodev", LABEL], &[]] {
        let refused = driver.stage(&id, &staging, flags(other)).await.unwrap_err();
        assert_eq!(refused.code(), Code::AlreadyExists, "{other:?}: {}", refused.message());
        assert!(refused.message().contains("mount options"), "{}", refused.message());
    }
    driver.bring_down(&id, &staging, &target).await;

    driver.publish_to(&id, NODE).await.unwrap();
    driver.stage(&id, &staging, flags(&[OTHER_LABEL])).await.unwrap();
    assert!(calls().contains(&format!("-t ext4 -o {OTHER_LABEL} -- /dev/")), "{}", calls());
    assert!(!has(&mounted(&staging), "noatime"));
    driver.unstage(&id, &staging).await.unwrap();
    for several in ["noatime,exec", r#"context="a:b:c",exec,x="""#] {
        let refused = driver.stage(&id, &staging, flags(&[several])).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{several}: {}", refused.message());
    }
    driver.unpublish_from(&id, NODE).await.unwrap();
}
