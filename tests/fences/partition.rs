//! A node is cut off while it writes; another one takes its volumes; the first one comes back.

use crate::driver::{Driver, Use, new_volume};
use crate::eventually;
use crate::support::writer::{Writer, verify_files};
use crate::support::{qemu_img, run};
use crate::world::{Node, World};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use strata::image::{Format, QemuImg};
use strata::rpc::csi::ControllerUnpublishVolumeRequest;
use strata::rpc::csi::controller_client::ControllerClient;
use tonic::{Code, Status};

const BLOCK: usize = 4096;
const LIMIT: Duration = Duration::from_secs(40);

/// Without strict locks a node that was cut off writes over its successor: such a share is no share.
pub fn weak_locks_are_refused(world: &World) {
    let node = &world.nodes[1];
    let output =
        node.space.command(env!("CARGO_BIN_EXE_strata")).args(["share", "check", &world.share]).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(4), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let remedy = "gluster volume set images client.strict-locks on";
    assert!(said.contains("refuses this share") && said.contains(remedy), "{said}");
    world.gluster(&remedy.split(' ').skip(1).collect::<Vec<_>>());
}

/// The drivers of both nodes; the second has a directory beside the share.
pub fn start(world: &mut World) {
    let (share, other) = (world.share.clone(), format!("dir:{}", world.dir.path().join("other").display()));
    std::fs::create_dir(world.dir.path().join("other")).unwrap();
    let [one, two] = &mut world.nodes[..] else { panic!("two nodes") };
    one.driver.set_shares(&[&share]);
    two.driver.set_shares(&[&share, &other]);
    one.driver.set_environment(&[("STRATA_STOP_AT", "cut-overlay-made")]);
    std::thread::scope(|scope| {
        scope.spawn(|| one.driver.launch());
        scope.spawn(|| two.driver.launch());
    });
}

/// A new volume on the share between the servers.
pub fn create(world: &World, driver: &Driver, name: &str, usage: Use) -> String {
    driver.create(new_volume(name, 1 << 30, usage, &[("share", &world.share)])).unwrap().volume_id
}

/// The file that takes a volume's writes, as a node sees it.
pub fn active_file(world: &World, node: &Node, volume: &str) -> PathBuf {
    let id = volume.split('/').nth(1).unwrap();
    let folder = node.mount_of(&world.share).join("volumes").join(id);
    let table = std::fs::read(folder.join("volume.info")).unwrap();
    let table: serde_json::Value = serde_json::from_slice(&table).unwrap();
    folder.join(table["active"].as_str().unwrap())
}

/// Undamaged. Clusters that a writer had taken and not yet used when it was cut off are lost space, no harm.
pub fn check_image(file: &Path) {
    let report = QemuImg::new(qemu_img()).check(file, Format::Qcow2, LIMIT).unwrap();
    assert_eq!(report.corruptions, 0, "{}: {report:?}", file.display());
}

/// Asks a controller to take a volume from a node.
pub fn unpublish_from(driver: &Driver, volume: &str, node: &str) -> Result<(), Status> {
    let request = ControllerUnpublishVolumeRequest {
        volume_id: volume.to_owned(),
        node_id: node.to_owned(),
        ..Default::default()
    };
    let call = |channel| {
        let request = request.clone();
        async move { ControllerClient::new(channel).controller_unpublish_volume(request).await }
    };
    driver.once(&call).map(drop)
}

/// Takes a volume from a node that is cut off: refused with that node's name until the servers have let go of it.
pub fn take_from(driver: &Driver, volume: &str, node: &str) -> usize {
    let (mut refused, deadline) = (0, Instant::now() + LIMIT);
    loop {
        match unpublish_from(driver, volume, node) {
            Ok(()) => return refused,
            Err(status) if status.code() == Code::Unavailable => {
                assert!(status.message().contains(&format!("node {node}")), "{status:?}");
                refused += 1;
            }
            Err(status) => assert_eq!(status.code(), Code::Aborted, "{status:?}"),
        }
        assert!(Instant::now() < deadline, "the servers do not let go of {node}");
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// Writes blocks and flushes each, past every cache, and says how many were acknowledged.
struct BlockWriter {
    acknowledged: Arc<AtomicU64>,
}

/// As a buffer for direct I/O must lie.
#[repr(align(4096))]
struct Block([u8; BLOCK]);

fn block(fill: u8, number: u64) -> Block {
    let mut block = Block([fill; BLOCK]);
    block.0[..8].copy_from_slice(&number.to_le_bytes());
    block
}

fn direct(device: &Path) -> io::Result<File> {
    File::options().read(true).write(true).custom_flags(libc::O_DIRECT | libc::O_DSYNC).open(device)
}

fn read_block(device: &Path, number: u64) -> [u8; BLOCK] {
    let mut read = block(0, 0);
    direct(device).unwrap().read_exact_at(&mut read.0, number * BLOCK as u64).unwrap();
    read.0
}

impl BlockWriter {
    /// Until the first error.
    fn start(device: &Path) -> BlockWriter {
        let acknowledged = Arc::new(AtomicU64::new(0));
        let (count, file) = (Arc::clone(&acknowledged), direct(device).unwrap());
        std::thread::spawn(move || {
            for number in 0.. {
                if file.write_all_at(&block(b'1', number).0, number * BLOCK as u64).is_err() {
                    return;
                }
                count.store(number + 1, Ordering::SeqCst);
            }
        });
        BlockWriter { acknowledged }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }
}

pub fn a_node_that_is_cut_off_never_writes_again(world: &World) {
    let [one, two] = &world.nodes[..] else { panic!("two nodes") };
    let files = create(world, &one.driver, "files", Use::Ext4);
    let blocks = create(world, &one.driver, "blocks", Use::Block);
    let target = one.space.path(&one.driver.attach(&files, &one.place("files"), Use::Ext4).unwrap());
    let device = one.space.path(&one.driver.attach(&blocks, &one.place("blocks"), Use::Block).unwrap());
    let (writer, block_writer) = (Writer::start(&target), BlockWriter::start(&device));
    eventually("writes", LIMIT, || writer.written() > 20 && block_writer.acknowledged() > 200);
    // What another node saw of the images before must not be what it sees after.
    for volume in [&files, &blocks] {
        let image = active_file(world, two, volume);
        std::fs::read(&image).unwrap();
        run(qemu_img().to_str().unwrap(), &["info", "-U", image.to_str().unwrap()]);
    }
    one.space.cut();
    let refused = take_from(&two.driver, &files, "n1");
    assert!(refused > 0, "a node that may still write was let go of at once");
    take_from(&two.driver, &blocks, "n1");
    let (written, acknowledged) = (writer.written(), block_writer.acknowledged());

    let theirs = two.space.path(&two.driver.attach(&files, &two.place("files"), Use::Ext4).unwrap());
    let their_device = two.space.path(&two.driver.attach(&blocks, &two.place("blocks"), Use::Block).unwrap());
    verify_files(&theirs, written);
    for number in 0..acknowledged {
        assert_eq!(read_block(&their_device, number), block(b'1', number).0, "block {number}");
    }
    let successor = Writer::start(&theirs.join(""));
    let file = direct(&their_device).unwrap();
    for number in 0..200 {
        file.write_all_at(&block(b'2', number).0, number * BLOCK as u64).unwrap();
    }
    successor.goes_on();

    one.space.join();
    one.sees(&world.share);
    every_write_fails(&target, &device);
    successor.goes_on();
    let total = successor.stop();
    verify_files(&theirs, total);
    for number in 0..200 {
        assert_eq!(read_block(&their_device, number), block(b'2', number).0, "block {number} of node 2");
    }
    assert_eq!((writer.written(), block_writer.acknowledged()), (written, acknowledged), "node 1 wrote on");

    drop(file);
    // The way down of the fenced node needs nothing of the share.
    for (volume, name) in [(&files, "files"), (&blocks, "blocks")] {
        one.driver.node_unpublish(volume, &one.place(name).join("target")).unwrap();
        one.driver.unstage(volume, &one.place(name).join("staging")).unwrap();
        two.driver.detach(volume, &two.place(name)).unwrap();
        check_image(&active_file(world, two, volume));
    }
}

/// For some seconds, and through the filesystem as through the device.
fn every_write_fails(target: &Path, device: &Path) {
    let until = Instant::now() + Duration::from_secs(3);
    let mut tries = 0;
    while Instant::now() < until {
        let file = File::create(target.join("late")).and_then(|file| {
            file.write_all_at(b"late", 0)?;
            file.sync_all()
        });
        assert!(file.is_err(), "a file was written by a node that was cut off");
        let written =
            direct(device).and_then(|file| file.write_all_at(&block(b'3', tries).0, tries * BLOCK as u64));
        assert!(written.is_err(), "block {tries} was written by a node that was cut off");
        tries += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
}
