//! A disk streamed into one object: whole, or not there at all (G13).

use crate::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};
use crate::util::{Bytes, noise, sha256};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use strata::backup::store::{ObjectBacked, S3Options, Store};
use strata::backup::{BackupError, Cancel, Canceller, Export, Progress, SnapshotSource};
use strata::image::{Format, ReadError};

fn bucket(server: &S3Server) -> ObjectBacked {
    let options = S3Options {
        endpoint: Some(server.endpoint.clone()),
        credentials: Some((ACCESS_KEY.to_owned(), SECRET_KEY.to_owned())),
        ..S3Options::default()
    };
    ObjectBacked::s3("disks", "", &options).unwrap()
}

fn export(source: Arc<dyn SnapshotSource>) -> Export {
    Export {
        source,
        chain: Vec::new(),
        qemu_img: "qemu-img".into(),
        format: Format::Raw,
        compress: false,
        force: true,
    }
}

/// Data at both ends and a hole between, in several parts.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; (41 << 20) + 512];
    disk[..18 << 20].copy_from_slice(&noise(1, 18 << 20));
    disk[40 << 20..].copy_from_slice(&noise(2, (1 << 20) + 512));
    disk
}

/// Ends in some way once that much was read.
struct Ending {
    disk: Bytes,
    read: AtomicU64,
    at: u64,
    lost: bool,
    canceller: Canceller,
}

impl SnapshotSource for Ending {
    fn size(&self) -> u64 {
        self.disk.size()
    }
    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        self.disk.data_ranges(range)
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), ReadError> {
        let read = self.read.fetch_add(buffer.len() as u64, Ordering::SeqCst);
        if read > self.at && !self.lost {
            self.canceller.cancel();
        }
        self.disk.read_at(buffer, offset)
    }
    fn is_lost(&self) -> bool {
        self.lost && self.read.load(Ordering::SeqCst) > self.at
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_becomes_one_object_of_several_parts() {
    let server = S3Server::start();
    let store = bucket(&server);
    store.ensure().await.unwrap();
    let disk = disk();
    let progress = Progress::default();
    let exported = export(Arc::new(Bytes(disk.clone())));
    let exported = exported.to_object(&store, "a/disk.raw", &progress, &Cancel::never()).await.unwrap();
    let object = store.get("a/disk.raw", 1 << 30).await.unwrap();
    assert!(object == disk, "{} bytes", object.len());
    assert_eq!((exported.bytes, exported.sha256), (disk.len() as u64, sha256(&disk)));
    assert_eq!(exported.to, "s3://disks/a/disk.raw");
    assert_eq!(progress.state().done, disk.len() as u64);
    assert_eq!(server.parts(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_broken_off_leaves_neither_an_object_nor_parts() {
    let server = S3Server::start();
    let store = bucket(&server);
    store.ensure().await.unwrap();
    store.put("old", "as it was".into()).await.unwrap();
    // Before a hole, and at the last bytes.
    let full = noise(3, 33 << 20);
    for (lost, bytes, at) in
        [(true, disk(), 17), (false, disk(), 17), (true, full.clone(), 31), (false, full, 31)]
    {
        let (canceller, cancel) = Canceller::new();
        let ending = Ending { disk: Bytes(bytes), read: AtomicU64::new(0), at: at << 20, lost, canceller };
        let ended = export(Arc::new(ending)).to_object(&store, "old", &Progress::default(), &cancel).await;
        match ended {
            Err(BackupError::SourceLost) => assert!(lost),
            Err(BackupError::Cancelled) => assert!(!lost),
            other => panic!("{other:?}"),
        }
        assert_eq!(store.get("old", 100).await.unwrap(), "as it was");
        assert_eq!(store.list("").await.unwrap().len(), 1);
        assert_eq!(server.parts(), Vec::<String>::new());
    }
    let mut refused = export(Arc::new(Bytes(disk())));
    refused.force = false;
    let refused = refused.to_object(&store, "old", &Progress::default(), &Cancel::never()).await;
    assert!(matches!(refused, Err(BackupError::ObjectExists { .. })), "{refused:?}");
}
