//! What the command line makes on a share, with the command killed at a step and run again.

use crate::driver::{Use, from_snapshot};
use crate::share::{Share, volume_of};
use crate::support::cinder::CinderVolume;
use crate::support::domain::{read_start, write_at};
use crate::support::{qemu_img, qemu_storage_daemon, scratch};
use crate::world::{Disk, World, patiently};
use serde_json::Value;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use strata::volume::steps::Step;
use tempfile::TempDir;

const LENGTH: usize = 300 << 10;

/// A share that commands alone work on.
struct Terminal {
    share: Share,
    root: PathBuf,
    /// Where files are that are imported.
    files: PathBuf,
    _dir: Option<TempDir>,
}

impl Terminal {
    fn new() -> Terminal {
        let dir = scratch();
        let root = dir.path().join("share");
        std::fs::create_dir(&root).unwrap();
        Terminal { share: Share::new(&root), root, files: dir.path().to_owned(), _dir: Some(dir) }
    }

    /// On a world's share.
    fn of(world: &World) -> Terminal {
        let (root, files) = (world.dir.path().join("share"), world.dir.path().to_owned());
        Terminal { share: Share::new(&root), root, files, _dir: None }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
        command.arg("volume").args(arguments).args(["-o", "json", "--share"]);
        command.arg(format!("dir:{}", self.root.display()));
        command.env("STRATA_QEMU_IMG", qemu_img()).env("STRATA_QEMU_STORAGE_DAEMON", qemu_storage_daemon());
        command
    }

    fn dies(&self, step: Step, arguments: &[&str]) {
        let output = self.command(arguments).env("STRATA_CRASH_AT", step.name()).output().unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGKILL), "at {}: {}", step.name(), said(&output));
    }

    fn answers(&self, arguments: &[&str]) -> Value {
        let output = self.command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn refuses(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(4), "{}", said(&output));
        said(&output)
    }

    /// A raw file with something in it.
    fn file(&self, name: &str, value: u8) -> (String, Vec<u8>) {
        let path = self.files.join(name);
        let bytes = vec![value; LENGTH];
        std::fs::File::create(&path).unwrap().set_len((8 << 20) + 512).unwrap();
        write_at(&path, 0, &bytes);
        (path.to_str().unwrap().to_owned(), bytes)
    }

    fn active_reads(&self, handle: &str, bytes: &[u8]) {
        let look = self.share.keep(|| self.share.active_chain(volume_of(handle)), self.files.join("look"));
        assert!(read_start(&look.path, bytes.len()) == bytes, "{handle} is not what it was made from");
        std::fs::remove_file(look.path).unwrap();
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

/// K8: the same command goes on with what is there.
pub fn import(step: Step) {
    again(step, 1);
}

/// Whoever gave up on the first file is not held to it.
pub fn import_another(step: Step) {
    again(step, 2);
}

fn again(step: Step, value: u8) {
    let terminal = Terminal::new();
    let (first, _) = terminal.file("first", 1);
    let (second, bytes) = terminal.file("second", value);
    let arguments = |file| ["import", file, "--name", "vm", "--format", "raw", "--kind", "raw"];
    terminal.dies(step, &arguments(&first));
    assert_eq!(terminal.answers(&["list"]), serde_json::json!([]), "half an import is listed");
    let imported = terminal.answers(&arguments(&second));
    let handle = imported["handle"].as_str().unwrap();
    assert_eq!(imported["capacity"], 1 << 30);
    let volume = volume_of(handle);
    terminal.active_reads(handle, &bytes);
    terminal.share.folder_agrees(volume);
    terminal.share.check(volume);
    assert!(!terminal.share.record(volume).new);
    assert_eq!(terminal.answers(&arguments(&second)), imported);
    let (third, _) = terminal.file("third", 3);
    assert!(terminal.refuses(&arguments(&third)).contains("another file"));
    terminal.share.holds_only(&[volume], &[]);
    assert!(Path::new(&first).exists(), "an import only reads");
}

/// G10: a volume with a snapshot and a clone whose record is damaged, and an image that nobody knows.
pub fn repair(step: Step) {
    let mut world = World::new();
    world.calm();
    let mut disk = world.disk("pvc-source", "raw");
    world.write(&mut disk, 0..10, 1);
    let snapshot = world.snapshot(&disk, "s1");
    let clone = from_snapshot("pvc-clone", &snapshot, Use::Block);
    let clone =
        Disk { id: patiently(|| world.driver.create(clone.clone())).volume_id, now: disk.now.clone() };
    world.write(&mut disk, 4..12, 2);
    world.pause();

    let terminal = Terminal::of(&world);
    let volume = disk.volume();
    let path = world.share.layout.record(volume);
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len() - 100;
    bytes.truncate(end);
    std::fs::write(&path, &bytes).unwrap();
    let stranger = world.share.layout.volume(volume).join("volume-stranger");
    std::fs::write(&stranger, "somebody's").unwrap();
    let (id, lost) = (volume.to_string(), world.share.layout.volume(volume).join("lost+found"));
    terminal.dies(step, &["check", "--repair", &id]);
    let checked = terminal.answers(&["check", "--repair", &id]);
    assert_eq!(checked[0]["problems"], serde_json::json!([]), "{checked}");
    assert_eq!(std::fs::read(lost.join("volume-stranger")).unwrap(), b"somebody's");
    let kept = std::fs::read_dir(world.share.layout.volume(volume)).unwrap().flatten();
    for entry in kept.filter(|entry| entry.file_name().to_string_lossy().contains("damaged")) {
        assert_eq!(std::fs::read(entry.path()).unwrap(), bytes);
        std::fs::remove_file(entry.path()).unwrap();
    }
    std::fs::remove_dir_all(lost).unwrap();

    world.calm();
    world.verify_disk(&disk);
    world.verify_disk(&clone);
    world.write(&mut disk, 0..3, 3);
    world.verify_disk(&disk);
    world.end(&[volume, clone.volume()]);
}

/// G13: the same command exports it, beside the pin that the dead one has left.
pub fn export(step: Step) {
    let terminal = Terminal::new();
    let (file, bytes) = terminal.file("first", 1);
    let imported = terminal.answers(&["import", &file, "--name", "vm", "--format", "raw"]);
    let handle = imported["handle"].as_str().unwrap();
    let (volume, to) = (volume_of(handle), terminal.files.join("flat"));
    let arguments = ["export", handle, "--to", to.to_str().unwrap()];
    terminal.dies(step, &arguments);
    assert!(!to.exists());
    terminal.answers(&arguments);
    assert!(read_start(&to, bytes.len()) == bytes, "it is not what was imported");
    assert_eq!(terminal.share.record(volume).pins.len(), 1);
    terminal.active_reads(handle, &bytes);
    terminal.share.folder_agrees(volume);
    terminal.share.holds_only(&[volume], &[]);
}

/// G16: the same command goes on, wherever it was killed, and no image is ever without a name.
pub fn adopt(step: Step) {
    adopt_again(step, |_, _| ());
}

/// A repair takes half an adoption for no volume that lost its record.
pub fn adopt_repaired(step: Step) {
    adopt_again(step, |terminal, id| {
        let output = terminal.command(&["check", "--repair", id]).output().unwrap();
        let told = said(&output);
        assert!(output.status.code() == Some(1) && told.contains(&format!("import --cinder {id}")), "{told}");
        assert!(!terminal.share.layout.record(id.parse().unwrap()).exists());
    });
}

fn adopt_again(step: Step, between: impl FnOnce(&Terminal, &str)) {
    let terminal = Terminal::new();
    let cinder = CinderVolume::new(&terminal.root, "raw", 2);
    // The share's own folders come with its first use.
    assert_eq!(terminal.answers(&["list"]), serde_json::json!([]));
    let arguments = ["import", "--cinder", &cinder.id];
    terminal.dies(step, &arguments);
    between(&terminal, &cinder.id);
    let adopted = terminal.answers(&arguments);
    let handle = adopted["handle"].as_str().unwrap();
    let volume = volume_of(handle);
    terminal.active_reads(handle, &cinder.states[2]);
    for (index, snapshot) in adopted["snapshots"].as_array().unwrap().iter().enumerate() {
        let chain = terminal.share.snapshot_chain(snapshot.as_str().unwrap());
        let look = terminal.share.keep(|| chain.clone(), terminal.files.join("look"));
        let expected = &cinder.states[index];
        assert!(read_start(&look.path, expected.len()) == *expected, "{snapshot}");
        std::fs::remove_file(look.path).unwrap();
    }
    terminal.share.folder_agrees(volume);
    terminal.share.check(volume);
    assert_eq!(cinder.files(), []);
    let snapshots: Vec<_> = cinder.snapshots.iter().map(|id| id.parse().unwrap()).collect();
    terminal.share.holds_only(&[volume], &snapshots);
    assert_eq!(terminal.answers(&arguments), adopted);
}
