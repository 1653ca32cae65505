//! The steps as they are printed, the S3 server, and the commands that a person would type.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// Prints each step with its time.
pub struct Steps {
    begun: Instant,
    lines: Vec<(String, f64)>,
}

impl Steps {
    pub fn new() -> Steps {
        Steps { begun: Instant::now(), lines: Vec::new() }
    }

    pub fn run<T>(&mut self, what: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        print!("{:>6.1} s  {what} … ", self.begun.elapsed().as_secs_f64());
        let _ = std::io::stdout().flush();
        let begun = Instant::now();
        let done = step();
        let seconds = begun.elapsed().as_secs_f64();
        println!("{} ({seconds:.2} s)", if done.is_ok() { "done" } else { "FAILED" });
        self.lines.push((what.to_owned(), seconds));
        done.with_context(|| what.to_owned())
    }

    pub fn note(&self, text: &str) {
        println!("          {text}");
    }

    /// The end: the backups side by side.
    pub fn table(&self, backups: &[(&str, &Made)]) {
        println!(
            "\n{:<14} {:>10} {:>12} {:>12} {:>12} {:>8}",
            "backup", "volume", "read", "changed", "uploaded", "objects"
        );
        for (name, made) in backups {
            let [total, read, changed, uploaded] =
                [made.bytes_total, made.bytes_read, made.bytes_changed, made.bytes_uploaded].map(human);
            println!("{name:<14} {total:>10} {read:>12} {changed:>12} {uploaded:>12} {:>8}", made.objects);
        }
        println!("all steps: {:.1} s", self.begun.elapsed().as_secs_f64());
    }
}

pub fn human(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// An S3 server with a bucket of its own, ended when dropped.
pub struct Bucket {
    child: Child,
    pub endpoint: String,
}

const KEY: &str = "demo";
const SECRET: &str = "demo-secret-key";

impl Bucket {
    pub fn start(folder: &Path) -> Result<Bucket> {
        std::fs::create_dir_all(folder)?;
        let program =
            std::env::var("STRATA_S3_SERVER").context("STRATA_S3_SERVER is not set: run `make demo`")?;
        let mut child = Command::new(program)
            .arg("127.0.0.1:0")
            .arg(folder)
            .envs([("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)])
            .stdout(Stdio::piped())
            .spawn()
            .context("the S3 server does not start")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line)?;
        let endpoint = line.split_whitespace().find(|word| word.starts_with("http://")).map(str::to_owned);
        let endpoint = endpoint.with_context(|| format!("the S3 server says {line:?} and no endpoint"))?;
        Ok(Bucket { child, endpoint })
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `strata backup create -o json` prints.
#[derive(Deserialize)]
pub struct Made {
    pub backup_id: String,
    pub parent_id: Option<String>,
    pub objects: u64,
    pub bytes_total: u64,
    pub bytes_read: u64,
    pub bytes_changed: u64,
    pub bytes_uploaded: u64,
}

impl Made {
    pub fn line(&self) -> String {
        let [read, changed, uploaded] = [self.bytes_read, self.bytes_changed, self.bytes_uploaded].map(human);
        format!("backup {}: read {read}, changed {changed}, uploaded {uploaded}", self.backup_id)
    }
}

fn strata_backup(program: &Path, bucket: &Bucket, verb: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(["backup", verb, "--repository", "s3://demo", "--endpoint", &bucket.endpoint])
        .args(["--region", "us-east-1", "-o", "json"])
        .args(arguments)
        .envs([("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)])
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "strata backup {verb} ended with {}: {text}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// Backs a snapshot up.
pub fn backup(program: &Path, bucket: &Bucket, share: &str, snapshot: &str, parent: &str) -> Result<Made> {
    let arguments = ["--share", share, "--snapshot", snapshot, "--parent", parent];
    let text = strata_backup(program, bucket, "create", &arguments)?;
    serde_json::from_str(&text).with_context(|| format!("unexpected output: {text}"))
}

/// Restores a backup onto a volume's block device.
pub fn restore(program: &Path, bucket: &Bucket, backup_id: &str, device: &Path) -> Result<()> {
    let device = device.to_str().context("a path of ours")?;
    strata_backup(program, bucket, "restore", &["--backup", backup_id, "--to", device, "--in-place"])
        .map(drop)
}

/// Checks a filesystem without changing it.
pub fn e2fsck(device: &Path) -> Result<()> {
    let output = Command::new("e2fsck").args(["-f", "-n"]).arg(device).output()?;
    if !output.status.success() {
        bail!("e2fsck finds the filesystem damaged: {}", String::from_utf8_lossy(&output.stdout));
    }
    Ok(())
}
