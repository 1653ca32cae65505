//! Sets that Cinder wrote become volumes.

use crate::calls::block;
use crate::support;
use crate::support::backups::{CINDER, CINDER_BYTES, cinder_bucket, cinder_handles, folder};
use crate::world::{REPOSITORY, World, digest_of, from};
use std::io::{Read, Seek, SeekFrom};

/// B14, X5: each point of a chain, from the volume's first byte to its last; what is added is zeros.
#[tokio::test(flavor = "multi_thread")]
async fn what_cinder_wrote_becomes_a_volume() {
    become_volumes(&World::new(folder(&cinder_bucket("zstd")))).await;
}

/// The same where volumes are at home.
#[tokio::test(flavor = "multi_thread")]
async fn what_cinder_wrote_becomes_a_volume_on_glusterfs() {
    let share = support::gluster_share().to_string();
    become_volumes(&World::on(support::scratch(), share, folder(&cinder_bucket("zstd")))).await;
}

async fn become_volumes(world: &World) {
    for (index, handle) in cinder_handles("zstd", REPOSITORY).into_iter().enumerate() {
        let name = format!("from-cinder-{index}");
        let id = world.driver.create(from(&handle, &name, 1)).await.unwrap().volume_id;
        let (staging, target) = world.driver.bring_up(&id, &name, block()).await;
        assert_eq!(digest_of(&target, CINDER_BYTES as u64), CINDER[index], "{handle}");
        let mut rest = std::fs::File::open(&target).unwrap();
        rest.seek(SeekFrom::Start(CINDER_BYTES as u64)).unwrap();
        let mut bytes = vec![1; 1 << 20];
        rest.read_exact(&mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0));
        drop(rest);
        world.driver.bring_down(&id, &staging, &target).await;
        world.driver.delete(&id).await.unwrap();
    }
}
