//! What this machine, or this container, tells of itself.

use super::bundle::tail;
use super::redact::{Redactor, is_secret};
use crate::host::exec;
use procfs::process::{Process, all_processes};
use serde_json::{Map, Value, json};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const PROGRAM_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of one log.
const LOG: u64 = 512 << 10;
/// Other programs' variables are nobody's business.
const OURS: [&str; 3] = ["STRATA_", "RUST_LOG", "KUBERNETES_SERVICE_"];

/// Versions: ours, the kernel's, and those of the programs that are called.
pub(super) fn versions(programs: &[PathBuf]) -> Value {
    let kernel = rustix::system::uname();
    let told = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let mut found = Map::new();
    for program in programs {
        let mut command = Command::new(program);
        command.arg("--version");
        let said = match exec::run_ok(command, PROGRAM_LIMIT) {
            Ok(output) => {
                String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
            }
            Err(error) => format!("not known: {error}"),
        };
        found.insert(program.display().to_string(), said.into());
    }
    json!({
        "strata": env!("CARGO_PKG_VERSION"),
        "kernel": told(kernel.release()),
        "machine": told(kernel.machine()),
        "host": told(kernel.nodename()),
        "os": fs::read_to_string("/etc/os-release").unwrap_or_default(),
        "programs": found,
        "taken_at": jiff::Timestamp::now(),
    })
}

/// Strata's processes that can be seen from here, and QEMU's: what they were started with, and what they take.
pub(super) fn processes(redactor: &Redactor) -> Result<Value, String> {
    let all = all_processes().map_err(|error| error.to_string())?;
    let found = all.flatten().filter_map(|process| describe(&process, redactor));
    Ok(found.collect())
}

fn describe(process: &Process, redactor: &Redactor) -> Option<Value> {
    let words = process.cmdline().ok()?;
    let program = Path::new(words.first()?).file_name()?.to_str()?.to_owned();
    let is_ours = ["strata", "qemu-storage-daemon", "qemu-img", "glusterfs"].contains(&program.as_str())
        || words.iter().any(|word| word.contains("qemu-storage-daemon"));
    if !is_ours {
        return None;
    }
    let environment = process.environ().unwrap_or_default();
    let environment: Map<String, Value> = environment
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| OURS.iter().any(|ours| name.starts_with(ours)) && !is_secret(name))
        .map(|(name, value)| (name, value.into()))
        .collect();
    let status = process.status().ok();
    let memory = |of: fn(&procfs::process::Status) -> Option<u64>| status.as_ref().and_then(of);
    Some(json!({
        "pid": process.pid,
        "arguments": redactor.words(&words),
        "environment": environment,
        "resident_kib": memory(|status| status.vmrss),
        "peak_kib": memory(|status| status.vmhwm),
        "threads": status.as_ref().map(|status| status.threads),
        "descriptors": process.fd_count().ok(),
        "state": process.stat().ok().map(|stat| stat.state.to_string()),
    }))
}

/// The loop devices in use.
pub(super) fn loop_devices() -> Result<Value, String> {
    let read = |path: PathBuf| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let entries = fs::read_dir("/sys/block").map_err(|error| format!("/sys/block: {error}"))?;
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let folder = entry.path().join("loop");
        let Some(file) = read(folder.join("backing_file")) else { continue };
        let told = |name: &str| read(folder.join(name));
        found.push(json!({
            "device": entry.file_name().to_string_lossy(), "file": file, "offset": told("offset"),
            "autoclear": told("autoclear"), "direct_io": told("dio"), "sectors": read(entry.path().join("size")),
        }));
    }
    Ok(found.into())
}

/// The end of a file.
pub(super) fn log(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = fs::File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let start = length.saturating_sub(LOG);
    let mut bytes = vec![0; usize::try_from(length - start).unwrap_or(0)];
    file.read_exact_at(&mut bytes, start).map_err(failed)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(if start == 0 { text.into_owned() } else { tail(&text, text.len() - 1).to_owned() })
}

/// Files that are logs, in a folder and those below it. What is mounted there is not looked into: it may hang.
pub(super) fn logs(folder: &Path) -> Vec<PathBuf> {
    let mounts = Process::myself().and_then(|process| process.mountinfo());
    let mounted: Vec<PathBuf> = mounts.into_iter().flatten().map(|mount| mount.mount_point).collect();
    let mut found = Vec::new();
    let mut folders = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            // Links and mounts of shares are not followed.
            let Ok(kind) = entry.file_type() else { continue };
            let name = entry.file_name().to_string_lossy().into_owned();
            if kind.is_file() && (name == "log" || name.ends_with(".log")) {
                found.push(entry.path());
            } else if kind.is_dir() && depth < 2 && !mounted.contains(&entry.path()) {
                folders.push((entry.path(), depth + 1));
            }
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_found_and_read_from_their_end() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("daemons/one");
        fs::create_dir_all(&deep).unwrap();
        fs::write(dir.path().join("other.txt"), "x").unwrap();
        let line = "a line that is not so short\n";
        fs::write(deep.join("log"), line.repeat(40_000)).unwrap();
        let found = logs(dir.path());
        assert_eq!(found, [deep.join("log")]);
        let text = log(&found[0]).unwrap();
        assert!(text.len() as u64 <= LOG && text.starts_with(line) && text.ends_with(line));
        assert!(log(&dir.path().join("none")).unwrap_err().contains("none"));
    }

    #[test]
    fn this_process_is_no_process_of_ours_and_devices_are_listed() {
        assert!(processes(&Redactor::new([])).unwrap().is_array());
        assert!(loop_devices().unwrap().is_array());
        let versions = versions(&["/nonexistent".into()]);
        assert!(versions["programs"]["/nonexistent"].as_str().unwrap().starts_with("not known"));
    }
}
