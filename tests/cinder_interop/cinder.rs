//! Cinder's own S3 backup driver in a process beside this one (tests/interop/cinder_driver.py).

use crate::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use tempfile::TempDir;
use uuid::Uuid;

/// Where both sides keep their backups.
pub const BUCKET: &str = "volumebackups";

/// How Cinder makes a backup.
pub struct CinderBackup<'a> {
    pub volume: Uuid,
    pub parent: Option<Uuid>,
    pub compression: &'a str,
    pub chunk: u64,
    pub block: u64,
}

/// What `cinder backup-import` takes of a backup.
pub struct Record<'a> {
    pub id: Uuid,
    pub volume: Uuid,
    pub parent: Option<Uuid>,
    pub prefix: &'a str,
    pub objects: u64,
    pub gigabytes: u64,
}

/// Ends with this value.
pub struct Cinder {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    _folder: TempDir,
}

/// The environment that scripts/ensure-cinder makes; it is made now if it is not there.
fn python() -> PathBuf {
    if let Some(python) = std::env::var_os("STRATA_CINDER_PYTHON").filter(|python| !python.is_empty()) {
        return python.into();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/ensure-cinder");
    let output = Command::new(&script).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{} failed: it says why above", script.display());
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

impl Cinder {
    pub fn start(server: &S3Server) -> Cinder {
        let folder = tempfile::tempdir().unwrap();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/cinder_driver.py");
        let mut child = Command::new(python())
            .arg(program)
            .env_remove("PYTHONPATH")
            .env("HOME", folder.path())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (commands, answers) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut cinder = Cinder { child, commands, answers, _folder: folder };
        let folder = cinder._folder.path().to_owned();
        cinder.ask(&json!({
            "do": "setup", "endpoint": server.endpoint, "access_key": ACCESS_KEY, "secret_key": SECRET_KEY,
            "bucket": BUCKET, "folder": folder,
        }));
        cinder
    }

    /// Cinder's answer, or in words why there is none.
    fn try_ask(&mut self, command: &Value) -> Result<Value, String> {
        let commands = self.commands.as_mut().expect("open until it is dropped");
        writeln!(commands, "{command}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "Cinder's program ended at {command}");
        let answer: Value = serde_json::from_str(&line).unwrap();
        match &answer["error"] {
            Value::String(error) => Err(error.clone()),
            _ => Ok(answer["ok"].clone()),
        }
    }

    fn ask(&mut self, command: &Value) -> Value {
        self.try_ask(command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Backs up a file as a volume; answers the backup's id and prefix.
    pub fn backup(&mut self, image: &Path, made: &CinderBackup) -> (Uuid, String) {
        let size = std::fs::metadata(image).unwrap().len().div_ceil(1 << 30);
        let CinderBackup { volume, parent, compression, chunk, block } = made;
        let answer = self.ask(&json!({
            "do": "backup", "image": image, "volume": volume, "parent": parent, "size": size,
            "compression": compression, "chunk": chunk, "block": block,
        }));
        let text = |key: &str| answer[key].as_str().unwrap().to_owned();
        (text("id").parse().unwrap(), text("prefix"))
    }

    /// Makes a backup of ours known to Cinder. Parents first.
    pub fn import(&mut self, record: &Record) {
        let url = json!({
            "id": record.id, "size": record.gigabytes, "container": BUCKET, "service_metadata": record.prefix,
            "object_count": record.objects, "display_name": null, "display_description": null,
            "volume_id": record.volume, "parent_id": record.parent, "snapshot_id": null, "data_timestamp": null,
            "encryption_key_id": null, "metadata": {}, "driver_info": {},
        });
        let imported = self.ask(&json!({"do": "import", "record": url}));
        assert_eq!(imported, json!(record.id));
    }

    /// Makes a backup known to Cinder by the very text that `backup-import` takes.
    pub fn import_url(&mut self, url: &str) -> Uuid {
        self.ask(&json!({"do": "import", "url": url})).as_str().unwrap().parse().unwrap()
    }

    /// Restores over what is in the file; to a volume that Cinder takes for new and blank, with `new`.
    /// Answers the metadata that the volume got.
    pub fn restore(&mut self, backup: Uuid, to: &Path, new: bool) -> Value {
        self.ask(&json!({"do": "restore", "backup": backup, "to": to, "new": new}))
    }

    pub fn delete(&mut self, backup: Uuid) {
        self.ask(&json!({"do": "delete", "backup": backup}));
    }

    /// Why Cinder does not make that backup.
    pub fn refusal(&mut self, image: &Path, made: &CinderBackup) -> String {
        let size = std::fs::metadata(image).unwrap().len().div_ceil(1 << 30);
        let CinderBackup { volume, parent, compression, chunk, block } = made;
        self.try_ask(&json!({
            "do": "backup", "image": image, "volume": volume, "parent": parent, "size": size,
            "compression": compression, "chunk": chunk, "block": block,
        }))
        .unwrap_err()
    }
}

impl Drop for Cinder {
    fn drop(&mut self) {
        // The end of its input ends it.
        drop(self.commands.take());
        let _ = self.child.wait();
    }
}
