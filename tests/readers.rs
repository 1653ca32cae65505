//! Volumes that nodes only read: many nodes at a time, no writer beside them, and nothing ever changes on the share (K2,
//! invariants 1 to 3). Two nodes, each with folders, daemons, devices and mounts of its own.

mod support;

use rstest::rstest;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata::host::mount::FsType;
use strata::image::lock::{ImageLock, LockError};
use strata::qsd::{DaemonHost, LocalDaemons};
use strata::volume::*;
use support::domain::{Domain, On, read_start, write_at};

const LENGTH: usize = 1 << 20;

struct Node<'a> {
    domain: &'a Domain,
    /// As this node has the share.
    volumes: Volumes,
    id: NodeId,
    staging: Arc<Staging>,
    daemons: Arc<LocalDaemons>,
}

impl Node<'_> {
    fn first(domain: &Domain) -> Node<'_> {
        let (staging, daemons) = (domain.staging.clone(), domain.daemons.clone());
        Node { domain, volumes: domain.volumes.clone(), id: domain.node.clone(), staging, daemons }
    }

    fn second(domain: &Domain) -> Node<'_> {
        let (id, staging, daemons) = domain.add_node("node-2");
        Node { domain, volumes: domain.volumes.clone(), id, staging, daemons }
    }

    fn place(&self, volume: VolumeId) -> PathBuf {
        self.domain.dir.path().join("pods").join(self.id.to_string()).join(volume.to_string())
    }

    fn attach(&self, volume: VolumeId, access: &Access, purpose: Purpose) -> Result<PathBuf, Error> {
        self.volumes.publish(volume, &self.id, purpose)?;
        let place = self.place(volume);
        let (staging_path, target_path) = (place.join("staging"), place.join("target"));
        std::fs::create_dir_all(&staging_path).unwrap();
        let request = StageVolume { volume, staging_path: staging_path.clone(), access: access.clone() };
        self.staging.stage(&self.volumes, &request)?;
        let target = PublishTarget {
            staging_path,
            target_path: target_path.clone(),
            readonly: false,
            sharing: Sharing::ManyTargets,
            access: access.clone(),
        };
        self.staging.publish(&self.domain.volumes.handle(volume), &target)?;
        Ok(target_path)
    }

    fn unstage(&self, volume: VolumeId) {
        let (handle, place) = (self.domain.volumes.handle(volume), self.place(volume));
        self.staging.unpublish(&handle, &place.join("target")).unwrap();
        self.staging.unstage(&handle, &place.join("staging")).unwrap();
    }

    fn detach(&self, volume: VolumeId) {
        self.unstage(volume);
        self.volumes.unpublish(volume, Some(&self.id)).unwrap();
    }

    /// kill -9 of every storage daemon of this node.
    fn kill_daemons(&self) {
        for daemon in self.daemons.list().unwrap() {
            let pid = rustix::process::Pid::from_raw(daemon.pid as i32).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            while self.daemons.find(&daemon.name).unwrap().is_some() {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        for handle in self.staging.staged().unwrap_or_default() {
            let place = self.place(handle.volume);
            let _ = self.staging.unpublish(&handle, &place.join("target"));
            let _ = self.staging.unstage(&handle, &place.join("staging"));
        }
    }
}

fn filesystem(fs: FsType) -> Access {
    Access::Mount { fs, flags: Vec::new() }
}

fn record(domain: &Domain, volume: VolumeId) -> record::Record {
    record::decode(&std::fs::read(domain.volumes.layout().record(volume)).unwrap()).unwrap()
}

fn active_file(domain: &Domain, volume: VolumeId) -> PathBuf {
    let record = record(domain, volume);
    domain.volumes.layout().image(volume, &record.active_layer().unwrap().file)
}

/// Of every image in the volume's folder: its size, its blocks, and when it was written to.
fn images(domain: &Domain, volume: VolumeId) -> Vec<(String, u64, u64, i64, i64)> {
    use std::os::unix::fs::MetadataExt;
    let folder = domain.volumes.layout().volume(volume);
    let look = |name: String| {
        let meta = std::fs::metadata(folder.join(&name)).unwrap();
        (name, meta.size(), meta.blocks(), meta.mtime(), meta.mtime_nsec())
    };
    domain.files(volume).into_iter().map(look).collect()
}

fn is_held(path: &Path) -> bool {
    matches!(ImageLock::write(path), Err(LockError::Held { .. }))
}

/// A filesystem whose writer was cut off: without a replay of its journal it does not mount.
fn interrupted(node: &Node, kind: VolumeKind, fs: FsType) -> VolumeId {
    let volume = node.domain.create("pvc-read", kind);
    let target = node.attach(volume, &filesystem(fs), Purpose::Write).unwrap();
    for number in 0..20 {
        std::fs::write(target.join(format!("file-{number}")), vec![number; LENGTH]).unwrap();
    }
    std::fs::File::open(&target).map(|folder| rustix::fs::syncfs(folder).unwrap()).unwrap();
    node.kill_daemons();
    node.detach(volume);
    volume
}

fn check_files(target: &Path) {
    for number in 0..20 {
        assert!(std::fs::read(target.join(format!("file-{number}"))).unwrap() == vec![number; LENGTH]);
    }
}

/// Two nodes at a time; no write gets through, neither a pod's nor the journal's; then there is one writer again.
#[rstest]
fn many_nodes_read_one_filesystem(
    #[values(FsType::Ext4, FsType::Xfs)] fs: FsType,
    #[values(VolumeKind::Qcow2, VolumeKind::RawSparse)] kind: VolumeKind,
) {
    let domain = Domain::new();
    let (one, two) = (Node::first(&domain), Node::second(&domain));
    let volume = interrupted(&one, kind, fs);
    let before = images(&domain, volume);
    for node in [&one, &two] {
        let target = node.attach(volume, &filesystem(fs), Purpose::Read).unwrap();
        node.attach(volume, &filesystem(fs), Purpose::Read).unwrap();
        check_files(&target);
        let refused = std::fs::write(target.join("new"), "x").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        let stats = node.staging.stats(&domain.volumes.handle(volume), &target).unwrap();
        assert_eq!(stats.health, Health::Sound, "it is read-only because it was asked for so");
    }
    assert!(is_held(&active_file(&domain, volume)), "a writer would not be kept away");
    one.detach(volume);
    check_files(&two.place(volume).join("target"));
    assert!(is_held(&active_file(&domain, volume)));
    two.detach(volume);
    assert!(!is_held(&active_file(&domain, volume)));
    assert!(images(&domain, volume) == before, "reading has changed the volume's images");
    let target = one.attach(volume, &filesystem(fs), Purpose::Write).unwrap();
    check_files(&target);
    std::fs::write(target.join("new"), "x").unwrap();
    one.detach(volume);
    domain.check(volume);
}

/// The device itself refuses writes, also past a pod's mount.
#[rstest]
fn many_nodes_read_one_device(#[values(VolumeKind::Qcow2, VolumeKind::RawSparse)] kind: VolumeKind) {
    let domain = Domain::new();
    let (one, two) = (Node::first(&domain), Node::second(&domain));
    let volume = domain.create("pvc-read", kind);
    let device = one.attach(volume, &Access::Block, Purpose::Write).unwrap();
    write_at(&device, 0, &[7; LENGTH]);
    one.detach(volume);
    let before = images(&domain, volume);
    for node in [&one, &two] {
        let device = node.attach(volume, &Access::Block, Purpose::Read).unwrap();
        assert!(read_start(&device, LENGTH) == [7; LENGTH]);
        let file = std::fs::File::options().write(true).open(&device);
        let written = file.and_then(|mut file| {
            std::io::Write::write_all(&mut file, &[1; 4096]).and_then(|()| file.sync_all())
        });
        assert!(written.is_err(), "the device took a write");
    }
    assert!(is_held(&active_file(&domain, volume)), "a writer would not be kept away");
    for node in [&one, &two] {
        node.detach(volume);
    }
    assert!(!is_held(&active_file(&domain, volume)));
    assert!(images(&domain, volume) == before);
}

/// Whoever is refused hears who is in the way.
#[test]
fn there_is_one_writer_or_there_are_many_readers() {
    let domain = Domain::new();
    let (one, two) = (&domain.node, domain.add_node("node-2").0);
    let (volumes, volume) = (&domain.volumes, domain.create("pvc-mode", VolumeKind::Qcow2));
    let publish = |node: &NodeId, purpose| volumes.publish(volume, node, purpose);
    publish(one, Purpose::Write).unwrap();
    for purpose in [Purpose::Write, Purpose::Read, Purpose::ReadAlone] {
        let refused = publish(&two, purpose).unwrap_err();
        assert!(matches!(&refused, Error::AttachedElsewhere { node, .. } if node == one), "{refused}");
    }
    let other_mode = publish(one, Purpose::Read).unwrap_err();
    assert!(matches!(other_mode, Error::Incompatible { .. }), "{other_mode}");
    volumes.unpublish(volume, Some(one)).unwrap();

    publish(one, Purpose::Read).unwrap();
    publish(one, Purpose::Read).unwrap();
    for purpose in [Purpose::Write, Purpose::ReadAlone] {
        let refused = publish(&two, purpose).unwrap_err();
        assert!(matches!(&refused, Error::ReadElsewhere { node, .. } if node == one), "{refused}");
    }
    publish(&two, Purpose::Read).unwrap();
    let kept = volumes.delete(volume).unwrap_err();
    assert!(matches!(kept, Error::ReadElsewhere { .. }), "{kept}");
    let grown = volumes.expand(volume, Some(2 << 30), None).unwrap_err();
    assert!(matches!(grown, Error::ReadElsewhere { .. }), "{grown}");
    volumes.unpublish(volume, None).unwrap();
    publish(&two, Purpose::ReadAlone).unwrap();
    let refused = publish(one, Purpose::Write).unwrap_err();
    assert!(matches!(&refused, Error::ReadElsewhere { node, .. } if *node == two), "{refused}");
    volumes.unpublish(volume, None).unwrap();
    volumes.delete(volume).unwrap();
}

/// mkfs is a writer's: an empty volume stays empty, and new, until one comes.
#[test]
fn an_empty_volume_has_nothing_to_read() {
    let domain = Domain::new();
    let (node, ext4) = (Node::first(&domain), filesystem(FsType::Ext4));
    let volume = domain.create("pvc-empty", VolumeKind::Qcow2);
    let refused = node.attach(volume, &ext4, Purpose::Read).unwrap_err();
    assert!(refused.to_string().contains("it is empty"), "{refused}");
    assert!(record(&domain, volume).new);
    let device = node.attach(volume, &Access::Block, Purpose::Read).unwrap();
    assert!(read_start(&device, LENGTH) == [0; LENGTH]);
    node.detach(volume);
    assert!(record(&domain, volume).new, "a reader ends nothing");
    node.attach(volume, &ext4, Purpose::Write).unwrap();
    node.detach(volume);
    let elsewhere = node.attach(volume, &filesystem(FsType::Xfs), Purpose::Read).unwrap_err();
    assert!(elsewhere.to_string().contains("ext4"), "{elsewhere}");
    node.attach(volume, &ext4, Purpose::Read).unwrap();
    node.detach(volume);
}

/// Readers stay on the layer that they have open; a snapshot, a clone of it and a merge do not change what they see, and
/// what they have open is not merged.
#[rstest]
fn a_volume_that_is_read_can_be_cut_and_cloned(
    #[values(VolumeKind::Qcow2, VolumeKind::RawSparse)] kind: VolumeKind,
) {
    let domain = Domain::new();
    let (one, two) = (Node::first(&domain), Node::second(&domain));
    let volume = domain.create("pvc-read", kind);
    let device = one.attach(volume, &Access::Block, Purpose::Write).unwrap();
    write_at(&device, 0, &[7; LENGTH]);
    one.detach(volume);
    let device = one.attach(volume, &Access::Block, Purpose::Read).unwrap();
    let first = domain.volumes.snapshot(volume, "s1").unwrap();
    let second = domain.volumes.snapshot(volume, &domain.name("s2")).unwrap();
    assert!(domain.read_snapshot(&first, LENGTH) == [7; LENGTH]);
    assert!(read_start(&device, LENGTH) == [7; LENGTH]);
    let later = two.attach(volume, &Access::Block, Purpose::Read).unwrap();
    assert!(read_start(&later, LENGTH) == [7; LENGTH]);

    let source = VolumeSource::Snapshot(second.handle.clone());
    let clone = domain.create_from("pvc-clone", kind, Some(source));
    let clones = two.attach(clone, &Access::Block, Purpose::Write).unwrap();
    write_at(&clones, 0, &[8; 4096]);
    two.detach(clone);

    let before = record(&domain, volume).layers;
    domain.volumes.delete_snapshot(volume, first.handle.snapshot).unwrap();
    // Refused or put off: what is open is not touched.
    let _ = domain.volumes.tidy(volume);
    assert_eq!(record(&domain, volume).layers, before);
    for node in [&one, &two] {
        assert!(read_start(&node.place(volume).join("target"), LENGTH) == [7; LENGTH]);
        node.detach(volume);
    }
    domain.volumes.tidy(volume).unwrap();
    assert!(record(&domain, volume).layers.len() < before.len(), "nothing was merged after the readers left");
    assert!(domain.read_snapshot(&second, LENGTH) == [7; LENGTH]);
    assert!(domain.read(volume, LENGTH) == [7; LENGTH]);
    domain.check(volume);
}

/// G1, invariants 1 and 3: on GlusterFS with a mount for each node, controllers on both. What one writes, cuts and lets go of,
/// the other has at once, though it had just looked; both read while the volume is cut; it grows on one for the other.
#[rstest]
fn nodes_on_two_mounts_have_one_volume(#[values(VolumeKind::Qcow2, VolumeKind::RawSparse)] kind: VolumeKind) {
    let mut domain = Domain::of(On::Gluster, Policy::default());
    let there = domain.other_mount();
    let (one, mut two) = (Node::first(&domain), Node::second(&domain));
    two.volumes = there;
    let two = two;
    let volume = domain.create("pvc-shared", kind);
    let device = one.attach(volume, &Access::Block, Purpose::Write).unwrap();
    write_at(&device, 0, &[7; LENGTH]);
    // Everything that a stale cache could keep: folder, record, header and data.
    let look = || {
        let folder = two.volumes.layout().volume(volume);
        for file in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if file.is_file() {
                let mut start = Vec::new();
                let file = std::fs::File::open(file).unwrap();
                std::io::Read::read_to_end(&mut std::io::Read::take(file, LENGTH as u64), &mut start)
                    .unwrap();
            }
        }
    };
    look();
    let first = two.volumes.snapshot(volume, &domain.name("s1")).unwrap();
    write_at(&device, 0, &[8; LENGTH]);
    look();
    let clone = domain.create_from("pvc-clone", kind, Some(VolumeSource::Snapshot(first.handle.clone())));
    let copied = two.attach(clone, &Access::Block, Purpose::Read).unwrap();
    assert!(read_start(&copied, LENGTH) == [7; LENGTH]);
    two.detach(clone);
    look();
    one.detach(volume);
    let device = two.attach(volume, &Access::Block, Purpose::Write).unwrap();
    assert!(read_start(&device, LENGTH) == [8; LENGTH]);
    write_at(&device, 0, &[9; LENGTH]);
    two.detach(volume);

    let devices = [&one, &two].map(|node| node.attach(volume, &Access::Block, Purpose::Read).unwrap());
    let second = domain.volumes.snapshot(volume, &domain.name("s2")).unwrap();
    for device in &devices {
        assert!(read_start(device, LENGTH) == [9; LENGTH]);
    }
    one.detach(volume);
    two.detach(volume);
    look();
    domain.volumes.expand(volume, Some(2 << 30), None).unwrap();
    let device = two.attach(volume, &Access::Block, Purpose::Write).unwrap();
    let end = (2 << 30) - LENGTH as u64;
    write_at(&device, end, &[5; LENGTH]);
    two.detach(volume);
    let device = one.attach(volume, &Access::Block, Purpose::Read).unwrap();
    let mut found = vec![0; LENGTH];
    let file = std::fs::File::open(&device).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut found, end).unwrap();
    assert!(found == [5; LENGTH] && read_start(&device, LENGTH) == [9; LENGTH]);
    drop(file);
    one.detach(volume);
    for (snapshot, value) in [(first, 7), (second, 9)] {
        assert!(domain.read_snapshot(&snapshot, LENGTH) == [value; LENGTH]);
    }
    domain.check(volume);
}

/// A node that does not answer keeps what it reads, also after a cut, until its locks are gone.
#[rstest]
fn a_reader_that_does_not_answer_is_not_let_go_of(
    #[values(VolumeKind::Qcow2, VolumeKind::RawSparse)] kind: VolumeKind,
    #[values(false, true)] cut: bool,
) {
    let domain = Domain::new();
    let node = Node::first(&domain);
    let volume = domain.create("pvc-read", kind);
    node.attach(volume, &Access::Block, Purpose::Read).unwrap();
    let (other, _, _) = domain.add_node("node-2");
    domain.volumes.publish(volume, &other, Purpose::Read).unwrap();
    if cut {
        domain.volumes.snapshot(volume, "s1").unwrap();
    }
    domain.unplug_agent(true);
    // One that has never opened it has nothing to let go of.
    domain.volumes.unpublish(volume, Some(&other)).unwrap();
    let refused = domain.volumes.unpublish(volume, Some(&node.id)).unwrap_err();
    assert!(matches!(&refused, Error::NodeUnreachable { node: named, .. } if *named == node.id), "{refused}");
    assert_eq!(domain.volumes.get(volume).unwrap().nodes, std::slice::from_ref(&node.id));
    node.kill_daemons();
    // The kernel takes the locks of a process that was killed a moment after its memory.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while let Err(error) = domain.volumes.unpublish(volume, Some(&node.id)) {
        assert!(std::time::Instant::now() < deadline, "{error}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    domain.unplug_agent(false);
    node.unstage(volume);
}

/// G15: the daemon dies under a reader, or the whole node does: unstaged and staged again, it reads.
#[rstest]
fn a_reader_whose_daemon_died_is_staged_anew(#[values(FsType::Ext4, FsType::Xfs)] fs: FsType) {
    let domain = Domain::new();
    let node = Node::first(&domain);
    let volume = interrupted(&node, VolumeKind::Qcow2, fs);
    let before = images(&domain, volume);
    let access = filesystem(fs);
    node.attach(volume, &access, Purpose::Read).unwrap();
    node.kill_daemons();
    let dead = node.attach(volume, &access, Purpose::Read).unwrap_err();
    assert!(dead.to_string().contains("storage daemon died"), "{dead}");
    node.unstage(volume);
    check_files(&node.attach(volume, &access, Purpose::Read).unwrap());
    // The pods went with the node: nothing is mounted any more, and the notes are still there.
    node.kill_daemons();
    let place = node.place(volume);
    for path in ["target", "staging"] {
        support::run("umount", &["-l", place.join(path).to_str().unwrap()]);
    }
    check_files(&node.attach(volume, &access, Purpose::Read).unwrap());
    node.detach(volume);
    assert!(images(&domain, volume) == before);
}
