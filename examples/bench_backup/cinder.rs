//! Cinder's real S3 driver, in a process that is up before anything is measured: its start alone takes seconds.

use crate::measure::{Cost, stored};
use crate::tool::{Data, Made, Store, Tool, emptied};
use crate::world::{ACCESS_KEY, SECRET_KEY, World};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

const VOLUME: &str = "0d0b7f6e-55c5-4b8e-9a51-5a3c0f0b9b1d";
const BUCKET: &str = "cinder";

pub struct Cinder<'a> {
    world: &'a World,
    folder: PathBuf,
    driver: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    last: Option<Value>,
    /// What the start cost, in seconds of CPU; in no other figure.
    pub start: f64,
}

impl<'a> Cinder<'a> {
    pub fn new(world: &'a World) -> Result<Cinder<'a>> {
        let state = world.dir().join("cinder");
        std::fs::create_dir(&state)?;
        let folder = world.s3.folder.join(BUCKET);
        std::fs::create_dir(&folder)?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/cinder_driver.py");
        let mut command = Command::new(&world.python);
        command.arg(script).env("TMPDIR", &state).env("PYTHONDONTWRITEBYTECODE", "1");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(world.dir().join("cinder.log"))?);
        let mut driver = command.spawn().context("cannot run Cinder")?;
        let commands = driver.stdin.take().context("its input is piped")?;
        let answers = BufReader::new(driver.stdout.take().context("its output is piped")?);
        let mut cinder = Cinder { world, folder, driver, commands, answers, last: None, start: 0.0 };
        cinder.ask(&json!({
            "do": "setup", "endpoint": world.s3.endpoint, "access_key": ACCESS_KEY, "secret_key": SECRET_KEY,
            "bucket": BUCKET, "folder": state,
        }))?;
        cinder.start = cinder.cpu()?;
        Ok(cinder)
    }

    fn ask(&mut self, command: &Value) -> Result<Value> {
        writeln!(self.commands, "{command}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let answer: Value = serde_json::from_str(&line).unwrap_or_default();
        let log = || std::fs::read_to_string(self.world.dir().join("cinder.log")).unwrap_or_default();
        let answered = answer.get("ok").cloned();
        answered.with_context(|| format!("Cinder, asked {command}: {line} {}", log()))
    }

    fn measured(&mut self, command: &Value) -> Result<(Cost, Value)> {
        let process = self.driver.id();
        // 5: forget the highest memory so far (proc_pid_clear_refs(5)).
        std::fs::write(format!("/proc/{process}/clear_refs"), "5")?;
        let (begun, before) = (Instant::now(), self.cpu()?);
        let answer = self.ask(command)?;
        let (wall, cpu) = (begun.elapsed().as_secs_f64(), self.cpu()? - before);
        let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        let memory = peak.context("the kernel tells no VmHWM")? * 1024;
        Ok((Cost { cpu, wall, memory }, answer))
    }

    /// Seconds so far, of all its threads and of children that it has waited for.
    fn cpu(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.driver.id()))?;
        let (_, fields) = stat.rsplit_once(')').context("a stat line")?;
        // utime, stime, cutime and cstime are fields 14 to 17 of proc_pid_stat(5); this begins at the third.
        let ticks = fields.split_whitespace().skip(11).take(4).map(str::parse::<u64>);
        let ticks: u64 = ticks.sum::<Result<u64, _>>()?;
        // SAFETY: sysconf only reads a constant of the system.
        Ok(ticks as f64 / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64)
    }
}

impl Tool for Cinder<'_> {
    fn name(&self) -> &str {
        "Cinder to S3"
    }

    fn store(&self) -> Store {
        Store::S3
    }

    fn is_peer(&self) -> bool {
        true
    }

    fn reset(&mut self) -> Result<()> {
        self.last = None;
        emptied(&self.folder)
    }

    fn backup(&mut self, data: &Data) -> Result<Made> {
        let ends = ["_metadata", "_sha256file"];
        let before = stored(&self.folder, &ends)?;
        let (cost, answer) = self.measured(&json!({
            "do": "backup", "image": data.image, "volume": VOLUME, "parent": self.last,
            "size": self.world.size >> 30, "compression": "zstd", "chunk": 52_428_800, "block": 32_768,
        }))?;
        self.last = Some(answer["id"].clone());
        let after = stored(&self.folder, &ends)?;
        Ok(Made { cost, stored: after.0 - before.0, about: after.1 - before.1, read: None })
    }

    fn restore(&mut self, into: &Path) -> Result<(Cost, PathBuf)> {
        let file = into.join("restored");
        File::create(&file)?.set_len(self.world.size)?;
        let last = self.last.clone();
        ensure!(last.is_some(), "nothing was backed up");
        let (cost, _) = self.measured(&json!({"do": "restore", "backup": last, "to": file, "new": true}))?;
        Ok((cost, file))
    }
}

impl Drop for Cinder<'_> {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
