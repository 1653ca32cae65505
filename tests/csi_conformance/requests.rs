//! Requests as no helper would make them.

use crate::calls::{NODE, mount};
use crate::driver::Driver;
use std::path::Path;
use strata::rpc::csi::volume_capability::AccessMode;
use strata::rpc::csi::volume_capability::access_mode::Mode;
use strata::rpc::csi::*;
use tonic::{Code, Status};

/// A filesystem in that access mode.
pub fn mode(mode: Mode) -> VolumeCapability {
    VolumeCapability { access_mode: Some(AccessMode { mode: mode.into() }), ..mount("ext4") }
}

/// Holds an answer to a code, and to a word of its message.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, word: &str) {
    let status = answer.expect_err("it is to be refused");
    assert_eq!(status.code(), code, "{}", status.message());
    assert!(status.message().contains(word), "{word:?} is not in {:?}", status.message());
}

/// NodePublishVolume of a staged volume.
pub fn publish_request(
    volume: &str,
    staging: &Path,
    target: &Path,
    capability: VolumeCapability,
) -> NodePublishVolumeRequest {
    NodePublishVolumeRequest {
        volume_id: volume.to_owned(),
        staging_target_path: staging.display().to_string(),
        target_path: target.display().to_string(),
        volume_capability: Some(capability),
        ..Default::default()
    }
}

impl Driver {
    /// A volume that is staged at the answered path, but not published to any pod.
    pub async fn staged(&self, name: &str, capability: VolumeCapability) -> (String, std::path::PathBuf) {
        let id = self.create(crate::calls::create_request(name)).await.unwrap().volume_id;
        let staging = self.path(&format!("{name}-staging"));
        self.publish_to(&id, NODE).await.unwrap();
        self.stage(&id, &staging, capability).await.unwrap();
        (id, staging)
    }
}
