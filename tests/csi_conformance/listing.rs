//! ListVolumes, ControllerGetVolume and GetSnapshot.

use crate::calls::{NODE, create_request};
use crate::driver::Driver;
use crate::requests::refused;
use crate::support;
use std::collections::BTreeSet;
use strata::rpc::csi::*;
use tonic::{Code, Status};

impl Driver {
    async fn page(&self, max: i32, token: &str) -> Result<ListVolumesResponse, Status> {
        let request = ListVolumesRequest { max_entries: max, starting_token: token.to_owned() };
        Ok(self.controller().list_volumes(request).await?.into_inner())
    }

    async fn listed(&self) -> Vec<list_volumes_response::Entry> {
        self.page(0, "").await.unwrap().entries
    }

    async fn get_volume(&self, id: &str) -> Result<ControllerGetVolumeResponse, Status> {
        let request = ControllerGetVolumeRequest { volume_id: id.to_owned() };
        Ok(self.controller().controller_get_volume(request).await?.into_inner())
    }

    async fn get_snapshot(&self, id: &str) -> Result<GetSnapshotResponse, Status> {
        let request = GetSnapshotRequest { snapshot_id: id.to_owned(), ..Default::default() };
        Ok(self.controller().get_snapshot(request).await?.into_inner())
    }
}

fn ids(entries: &[list_volumes_response::Entry]) -> Vec<String> {
    entries.iter().map(|entry| entry.volume.as_ref().unwrap().volume_id.clone()).collect()
}

/// K6: over all shares, in parts of any length, while volumes come and go.
#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_listed_in_parts_while_they_come_and_go() {
    support::need_root();
    let (dir, other) = (support::scratch(), support::scratch());
    let shares = [dir.path().join("share"), other.path().join("second")];
    shares.iter().for_each(|share| std::fs::create_dir(share).unwrap());
    let [first, second] = shares.map(|share| format!("dir:{}", share.display()));
    let driver = Driver::on(dir, first.clone(), &["--share", &second]);
    let mut made = BTreeSet::new();
    for (number, share) in [&first, &second].into_iter().cycle().take(7).enumerate() {
        let parameters = [("share".to_owned(), share.clone())].into();
        let request = CreateVolumeRequest { parameters, ..create_request(&format!("pvc-{number}")) };
        made.insert(driver.create(request).await.unwrap().volume_id);
    }
    assert_eq!(ids(&driver.listed().await), made.iter().cloned().collect::<Vec<_>>());

    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let part = driver.page(2, &token).await.unwrap();
        assert!(part.entries.len() <= 2);
        seen.extend(ids(&part.entries));
        if part.next_token.is_empty() {
            break;
        }
        token = part.next_token;
        // The very volume that the token names goes.
        driver.delete(&token).await.unwrap();
    }
    assert_eq!(seen, made.iter().cloned().collect::<Vec<_>>(), "each once, in order");
    assert_eq!(driver.listed().await.len(), made.len() - 3);

    let no_share = "no-such-share/00000000-0000-4000-8000-000000000000";
    for foreign in ["invalid-token", "../..", no_share] {
        refused(driver.page(0, foreign).await, Code::Aborted, "start over");
    }
    refused(driver.page(-1, "").await, Code::InvalidArgument, "max_entries");
}

/// K6: where a volume is published, at once; volumes that are none (being made, deleted) are not told of.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_tells_where_volumes_are_published() {
    support::need_root();
    let driver = Driver::start();
    let id = driver.create(create_request("published")).await.unwrap().volume_id;
    let nodes =
        |entries: Vec<list_volumes_response::Entry>| entries[0].status.clone().unwrap().published_node_ids;
    for _ in 0..3 {
        assert!(nodes(driver.listed().await).is_empty());
        driver.publish_to(&id, NODE).await.unwrap();
        assert_eq!(nodes(driver.listed().await), [NODE]);
        assert_eq!(driver.get_volume(&id).await.unwrap().status.unwrap().published_node_ids, [NODE]);
        driver.unpublish_from(&id, NODE).await.unwrap();
    }
    // Deleted for its users, while its snapshot keeps its folder.
    let snapshot = driver.snapshot(&id, "kept").await.unwrap();
    driver.delete(&id).await.unwrap();
    assert!(driver.listed().await.is_empty());
    refused(driver.get_volume(&id).await, Code::NotFound, "does not exist");
    assert_eq!(driver.get_snapshot(&snapshot.snapshot_id).await.unwrap().snapshot, Some(snapshot.clone()));
    driver.delete_snapshot(&snapshot.snapshot_id).await.unwrap();
    refused(driver.get_snapshot(&snapshot.snapshot_id).await, Code::NotFound, "does not exist");
    for handle in ["", "x"] {
        let code = if handle.is_empty() { Code::InvalidArgument } else { Code::NotFound };
        refused(driver.get_snapshot(handle).await, code, "");
        refused(driver.get_volume(handle).await, code, "");
    }
    // Of a backup, but for its spelling: a person wrote it, and has to be told. It never names a volume.
    refused(driver.get_snapshot("bak://r/v/b").await, Code::InvalidArgument, "no backup's handle");
    refused(driver.get_volume("bak://r/v/b").await, Code::NotFound, "");
}

/// One damaged record hides no other volume, and is told of as an abnormal one.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_volume_is_told_of_and_hides_no_other() {
    support::need_root();
    let driver = Driver::start();
    let sound = driver.create(create_request("sound")).await.unwrap().volume_id;
    let damaged = driver.create(create_request("damaged")).await.unwrap().volume_id;
    let headless = driver.create(create_request("headless")).await.unwrap().volume_id;
    assert_eq!(driver.listed().await.len(), 3);
    let folder = |id: &str| driver.share_root().join("volumes").join(id.split('/').nth(1).unwrap());
    let record = folder(&damaged).join("volume.json");
    let text = std::fs::read_to_string(&record).unwrap();
    std::fs::write(&record, text.replace("\"generation\"", "\"Generation\"")).unwrap();
    let image = folder(&headless).join(format!("volume-{}", headless.split('/').nth(1).unwrap()));
    std::fs::write(&image, [0u8; 4096]).unwrap();

    let entries = driver.listed().await;
    assert_eq!(entries.len(), 3);
    for entry in entries {
        let (volume, status) = (entry.volume.unwrap(), entry.status.unwrap());
        let condition = status.volume_condition.unwrap();
        assert_eq!(condition.abnormal, volume.volume_id == damaged, "{condition:?}");
        assert!(!condition.abnormal || condition.message.starts_with("RecordDamaged: "), "{condition:?}");
    }
    for (id, reason) in [(&damaged, "RecordDamaged: "), (&headless, "ImageDamaged: ")] {
        let answer = driver.get_volume(id).await.unwrap();
        let condition = answer.status.unwrap().volume_condition.unwrap();
        assert!(condition.abnormal && condition.message.starts_with(reason), "{condition:?}");
    }
    let condition = driver.get_volume(&sound).await.unwrap().status.unwrap().volume_condition.unwrap();
    assert!(!condition.abnormal, "{condition:?}");
    std::fs::write(&record, text).unwrap();
    assert_eq!(driver.listed().await.len(), 3);
    assert!(!driver.get_volume(&damaged).await.unwrap().status.unwrap().volume_condition.unwrap().abnormal);
}
