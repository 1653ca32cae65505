//! A volume as Cinder's GlusterFS driver leaves it on a share.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where each layer's own block of 64 KiB lies.
pub const BLOCK: usize = 64 << 10;

pub struct CinderVolume {
    pub id: String,
    pub folder: PathBuf,
    pub snapshots: Vec<String>,
    /// What each snapshot reads back, the oldest first, and then the volume.
    pub states: Vec<Vec<u8>>,
}

fn qemu(program: PathBuf, arguments: &[&str]) {
    let output = Command::new(&program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program:?} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl CinderVolume {
    /// With that many snapshots, each after a write of its own.
    pub fn new(folder: &Path, format: &str, snapshots: usize) -> CinderVolume {
        let id = uuid::Uuid::new_v4().to_string();
        let mut volume =
            CinderVolume { id, folder: folder.to_owned(), snapshots: Vec::new(), states: Vec::new() };
        let base = volume.path("");
        qemu(super::qemu_img(), &["create", "-q", "-f", format, base.to_str().unwrap(), "1G"]);
        let (mut active, mut written, mut now) = (volume.name(""), format, vec![0; 8 * BLOCK]);
        for number in 0..=snapshots {
            let (start, value) = (number * BLOCK / 2, number as u8 + 1);
            now[start..start + BLOCK].fill(value);
            let write = format!("write -P {value} {start} {BLOCK}");
            let file = folder.join(&active);
            qemu(super::qemu_io(), &["-f", written, "-c", &write, file.to_str().unwrap()]);
            volume.states.push(now.clone());
            if number < snapshots {
                let snapshot = uuid::Uuid::new_v4().to_string();
                let overlay = volume.path(&snapshot);
                // Cinder: create with the whole path, then rebase to the name alone.
                let whole = file.to_str().unwrap();
                let overlay_ = overlay.to_str().unwrap();
                qemu(
                    super::qemu_img(),
                    &["create", "-q", "-f", "qcow2", "-b", whole, "-F", written, overlay_],
                );
                qemu(super::qemu_img(), &["rebase", "-u", "-b", &active, "-F", written, overlay_]);
                (active, written) = (volume.name(&snapshot), "qcow2");
                volume.snapshots.push(snapshot);
            }
        }
        if snapshots > 0 {
            volume.write_table(&active);
        }
        volume
    }

    pub fn name(&self, suffix: &str) -> String {
        let dot = if suffix.is_empty() { "" } else { "." };
        format!("volume-{}{dot}{suffix}", self.id)
    }

    pub fn path(&self, suffix: &str) -> PathBuf {
        self.folder.join(self.name(suffix))
    }

    pub fn write_table(&self, active: &str) {
        let entries = self.snapshots.iter().map(|snapshot| (snapshot.clone(), self.name(snapshot)));
        let table: std::collections::BTreeMap<String, String> =
            entries.chain([("active".to_owned(), active.to_owned())]).collect();
        std::fs::write(self.path("info"), serde_json::to_vec_pretty(&table).unwrap()).unwrap();
    }

    /// Every file of it and what is in it.
    pub fn files(&self) -> Vec<(String, u64, Vec<u8>)> {
        use std::os::unix::fs::MetadataExt;
        let entries = std::fs::read_dir(&self.folder).unwrap().flatten();
        let named = entries.filter(|entry| entry.file_name().to_string_lossy().contains(&self.id));
        let mut files: Vec<_> = named
            .map(|entry| {
                let meta = entry.path().symlink_metadata().unwrap();
                let mut bytes = vec![0; 1 << 20];
                let read = std::fs::File::open(entry.path())
                    .and_then(|mut file| std::io::Read::read(&mut file, &mut bytes))
                    .unwrap_or(0);
                bytes.truncate(read);
                (entry.file_name().into_string().unwrap(), meta.ino(), bytes)
            })
            .collect();
        files.sort();
        files
    }
}
