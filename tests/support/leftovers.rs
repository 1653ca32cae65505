//! What a test could leave behind on the machine.

use std::path::Path;

/// Mounts, loop devices and processes that have to do with a folder.
pub fn leftovers(folder: &Path) -> Vec<String> {
    let root = folder.display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut left: Vec<String> =
        mounts.lines().filter(|line| line.contains(&root)).map(|line| format!("mount {line}")).collect();
    for device in std::fs::read_dir("/sys/block").unwrap().flatten() {
        let backing = std::fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
        if backing.contains(&root) {
            left.push(format!("loop device {:?} on {}", device.file_name(), backing.trim()));
        }
    }
    left.extend(processes(folder).into_iter().map(|(pid, line)| format!("process {pid} {}", line.join(" "))));
    left
}

/// Every process but this one that has the folder in its command line, or as its own folder.
pub fn processes(folder: &Path) -> Vec<(u32, Vec<String>)> {
    let root = folder.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let words = line.split(|b| *b == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        let line: Vec<String> = words.collect();
        let cwd = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        let named = line.iter().any(|word| word.contains(&root)) || cwd.starts_with(folder);
        if named && pid != std::process::id() {
            found.push((pid, line));
        }
    }
    found
}
