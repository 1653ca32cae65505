//! What the command line makes on a share, with the command killed at a step and run again.

use crate::share::{Share, volume_of};
use crate::support::domain::{read_start, write_at};
use crate::support::{qemu_img, qemu_storage_daemon, scratch};
use serde_json::Value;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use strata::volume::steps::Step;
use tempfile::TempDir;

pub const LENGTH: usize = 300 << 10;

/// A share that commands alone work on.
pub struct Terminal {
    pub share: Share,
    pub root: PathBuf,
    pub dir: TempDir,
}

impl Terminal {
    pub fn new() -> Terminal {
        let dir = scratch();
        let root = dir.path().join("share");
        std::fs::create_dir(&root).unwrap();
        Terminal { share: Share::new(&root), root, dir }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
        command.arg("volume").args(arguments).args(["-o", "json", "--share"]);
        command.arg(format!("dir:{}", self.root.display()));
        command.env("STRATA_QEMU_IMG", qemu_img()).env("STRATA_QEMU_STORAGE_DAEMON", qemu_storage_daemon());
        command
    }

    pub fn dies(&self, step: Step, arguments: &[&str]) {
        let output = self.command(arguments).env("STRATA_CRASH_AT", step.name()).output().unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGKILL), "at {}: {}", step.name(), said(&output));
    }

    pub fn answers(&self, arguments: &[&str]) -> Value {
        let output = self.command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub fn refuses(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(4), "{}", said(&output));
        said(&output)
    }

    /// A raw file with something in it.
    fn file(&self, name: &str, value: u8) -> (String, Vec<u8>) {
        let path = self.dir.path().join(name);
        let bytes = vec![value; LENGTH];
        std::fs::File::create(&path).unwrap().set_len((8 << 20) + 512).unwrap();
        write_at(&path, 0, &bytes);
        (path.to_str().unwrap().to_owned(), bytes)
    }

    pub fn active_reads(&self, handle: &str, bytes: &[u8]) {
        let look = self.share.keep(&self.share.active_chain(volume_of(handle)), self.dir.path().join("look"));
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
