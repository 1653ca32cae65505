//! The commands that Strata gives a storage daemon, typed.
//!
//! Every node is added with an explicit driver, a file at a time from the bottom up, so that nothing
//! is probed and no header is believed. Node names follow from the file's path: whoever asks later
//! can tell which node is which file without having added it.

use super::qmp::{Client, QmpError};
use crate::image::{Format, ImageRef};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use snafu::{OptionExt, ResultExt, Snafu, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use super::job::{
    Commit, JobInfo, JobStatus, Stream, commit, job_cancel, job_complete, job_dismiss, job_finalize, jobs,
    stream,
};

/// Commands that open, close or switch files: each may wait for the share a few times.
const LIMIT: Duration = Duration::from_secs(60);
/// Node names are 31 characters at most; ours carry a dash, 16 of digest and `-f`.
const MAX_PREFIX: usize = 11;

/// How a chain is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// The top takes writes; jobs may write to the layers below.
    ReadWrite,
    /// Nothing does.
    ReadOnly,
}

/// Why a command failed.
#[derive(Debug, Snafu)]
pub enum CommandError {
    /// The daemon refused or did not answer.
    #[snafu(display("failed to {what}: {source}"))]
    Qmp {
        /// The step.
        what: String,
        /// Cause.
        source: QmpError,
    },
    /// A path or prefix that cannot be given to the daemon.
    #[snafu(display("{text:?} cannot be used: {reason}"))]
    Argument {
        /// As given.
        text: String,
        /// Why not.
        reason: &'static str,
    },
    /// The daemon's answer lacks what it must hold.
    #[snafu(display("the storage daemon's answer to {command} lacks {missing}: {answer}"))]
    Answer {
        /// What was asked.
        command: &'static str,
        /// What is missing.
        missing: &'static str,
        /// A part of the answer.
        answer: String,
    },
    /// There is no such export.
    #[snafu(display("the storage daemon has no export {id:?}"))]
    NoExport {
        /// Its id.
        id: String,
    },
    /// There is no such node, or it is no disk.
    #[snafu(display("the storage daemon tells no size of {node:?}"))]
    NoSize {
        /// The node.
        node: String,
    },
    /// An export's node is none that Strata added.
    #[snafu(display("the storage daemon's node {node:?} belongs to no image file"))]
    NoFile {
        /// The node.
        node: String,
    },
}

type Result<T, E = CommandError> = std::result::Result<T, E>;

impl CommandError {
    /// Whether another process has an image open in a way that does not go with what was asked.
    pub fn is_lock_conflict(&self) -> bool {
        let lock = |desc: &str| desc.contains("Failed to get") && desc.contains("lock");
        matches!(self, CommandError::Qmp { source: QmpError::Command { desc, .. }, .. } if lock(desc))
    }

    /// Whether the daemon itself answered, with a refusal.
    pub fn refused(&self) -> bool {
        matches!(self, CommandError::Qmp { source, .. } if source.refused())
    }
}

/// A block node of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its name.
    pub node_name: String,
    /// Its driver.
    pub driver: String,
    /// Its file, as far as one name tells it.
    pub filename: String,
    /// What it is stacked on, when it has a backing file.
    pub backing: Option<String>,
    /// Size of the disk, in bytes.
    pub size: Option<u64>,
    /// Whether it refuses writes.
    pub read_only: bool,
}

/// An export of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// Its id.
    pub id: String,
    /// The node that it shows now.
    pub node_name: String,
    /// It is going away.
    pub shutting_down: bool,
}

pub(super) fn run(client: &mut Client, what: &str, command: &str, arguments: Value) -> Result<Value> {
    client.execute(command, arguments, LIMIT).context(QmpSnafu { what })
}

pub(super) fn text_of(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| ArgumentSnafu { text: path.to_string_lossy(), reason: "it is no valid UTF-8" })
}

fn digest(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    Sha256::digest(path.as_os_str().as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The name of an image file's format node; the node of the file below it has `-f` appended.
pub fn node_name(prefix: &str, path: &Path) -> Result<String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-';
    ensure!(
        prefix.len() <= MAX_PREFIX
            && prefix.starts_with(|c: char| c.is_ascii_alphabetic())
            && prefix.chars().all(fine),
        ArgumentSnafu {
            text: prefix,
            reason: "a node prefix is a letter and up to 10 letters, digits and dashes"
        }
    );
    Ok(format!("{prefix}-{}", digest(path)))
}

fn add_file(client: &mut Client, node: &str, image: &ImageRef, top: bool, open: Open) -> Result<String> {
    let name = format!("{node}-f");
    let path = text_of(&image.path)?;
    let mut arguments = json!({
        "driver": "file",
        "node-name": name,
        "filename": path,
        // FUSE, and so GlusterFS, lets one synchronous write at a time into a file: with a pool of threads writes
        // queue up. A daemon that gets no context of the kernel's (fs.aio-max-nr) falls back to threads by itself.
        "aio": "native",
        "locking": "on",
        "cache": { "direct": true, "no-flush": false },
        "discard": discard(image, top && open == Open::ReadWrite),
    });
    match (open, top) {
        (Open::ReadOnly, _) => arguments["read-only"] = json!(true),
        // Opened for reading until a job needs more: what only backs us others may read, too.
        (Open::ReadWrite, false) => arguments["auto-read-only"] = json!(true),
        (Open::ReadWrite, true) => {}
    }
    run(client, &format!("open {path}"), "blockdev-add", arguments)?;
    Ok(name)
}

/// Only a writable qcow2 top gives space back. A layer that a job writes to must not: a fully
/// allocated raw base would lose its allocation.
fn discard(image: &ImageRef, writable_top: bool) -> &'static str {
    if writable_top && image.format == Format::Qcow2 { "unmap" } else { "ignore" }
}

fn add_node(
    client: &mut Client,
    prefix: &str,
    image: &ImageRef,
    backing: Option<&str>,
    top: bool,
    open: Open,
) -> Result<String> {
    let node = node_name(prefix, &image.path)?;
    let file = add_file(client, &node, image, top, open)?;
    let arguments = format_options(&node, &file, image, backing, top, open);
    let added = run(
        client,
        &format!("open the {} image {}", image.format, image.path.display()),
        "blockdev-add",
        arguments,
    );
    if let Err(error) = added {
        // Best effort: what matters to the caller is why it failed.
        let _ = run(client, "close the file", "blockdev-del", json!({ "node-name": file }));
        return Err(error);
    }
    Ok(node)
}

fn format_options(
    node: &str,
    file: &str,
    image: &ImageRef,
    backing: Option<&str>,
    top: bool,
    open: Open,
) -> Value {
    let mut options = json!({
        "driver": image.format.driver(),
        "node-name": node,
        "file": file,
        "read-only": !(top && open == Open::ReadWrite),
        "detect-zeroes": "off",
        "discard": discard(image, top && open == Open::ReadWrite),
        "cache": { "direct": true, "no-flush": false },
    });
    if image.format == Format::Qcow2 {
        options["backing"] = json!(backing);
        // Slices of a table instead of whole ones: 16 times less to read for a miss and to write for a flush.
        options["l2-cache-entry-size"] = json!(4096);
        // The top's tables are in every I/O's way; a chain of many layers must not cost as much each. Upper bounds:
        // 32 MiB are all tables of 256 GiB, a smaller image takes less, and only what is used is in memory.
        if top {
            options["cache-size"] = json!(40 << 20);
            options["l2-cache-size"] = json!(32 << 20);
        } else {
            options["cache-size"] = json!(2 << 20);
            options["l2-cache-size"] = json!(1 << 20);
        }
    }
    options
}

/// Gives a layer that is not the top back the way it was opened: for reading, with small caches. A stream leaves the
/// layer that it wrote to open for writing, and locked (QEMU 10.0).
pub fn seal(client: &mut Client, node: &str, image: &ImageRef, backing: Option<&str>) -> Result<()> {
    let options = format_options(node, &format!("{node}-f"), image, backing, false, Open::ReadWrite);
    run(client, &format!("close {node} for writing"), "blockdev-reopen", json!({ "options": [options] }))
        .map(drop)
}

/// Opens a whole chain, top first, and answers the top's node. On failure nothing of it stays open.
pub fn add_chain(client: &mut Client, prefix: &str, chain: &[ImageRef], open: Open) -> Result<String> {
    let mut added: Vec<String> = Vec::new();
    for (index, image) in chain.iter().enumerate().rev() {
        let below = added.last().map(String::as_str);
        match add_node(client, prefix, image, below, index == 0, open) {
            Ok(node) => added.push(node),
            Err(error) => {
                for node in added.iter().rev() {
                    let _ = del_node(client, node);
                }
                return Err(error);
            }
        }
    }
    added.pop().context(ArgumentSnafu { text: "", reason: "a chain has at least one layer" })
}

/// Opens a fresh overlay without its backing file, for [`snapshot`] to stack it.
pub fn add_overlay(client: &mut Client, overlay: &ImageRef) -> Result<String> {
    add_node(client, "overlay", overlay, None, true, Open::ReadWrite)
}

/// Stacks `overlay` on `node`; everything that used `node` uses the overlay from then on.
pub fn snapshot(client: &mut Client, node: &str, overlay: &str) -> Result<()> {
    let what = format!("switch from {node} to {overlay}");
    run(client, &what, "blockdev-snapshot", json!({ "node": node, "overlay": overlay })).map(drop)
}

/// Closes a node and the file below it. Not there: success.
pub fn del_node(client: &mut Client, node: &str) -> Result<()> {
    let present = nodes(client)?;
    // From the top: a file cannot be closed before what stands on it.
    for name in [node.to_owned(), format!("{node}-f")] {
        if present.iter().any(|info| info.node_name == name) {
            run(client, &format!("close {name}"), "blockdev-del", json!({ "node-name": name }))?;
        }
    }
    Ok(())
}

/// Closes every image of ours that nothing stands on any more, but for the chain of `top`.
pub fn close_unused(client: &mut Client, top: &str) -> Result<()> {
    loop {
        let mut closed = false;
        for info in nodes(client)? {
            let name = info.node_name;
            // The file below each image has the image's name and a suffix: they go together.
            if name == top || name.ends_with("-f") || !is_image(&info.driver) {
                continue;
            }
            match run(client, &format!("close {name}"), "blockdev-del", json!({ "node-name": name })) {
                Ok(_) => {
                    let file = json!({ "node-name": format!("{name}-f") });
                    run(client, &format!("close the file of {name}"), "blockdev-del", file)?;
                    closed = true;
                }
                // Something stands on it.
                Err(error) if error.refused() => {}
                Err(error) => return Err(error),
            }
        }
        // What stood on another one is gone now: that one may be free.
        if !closed {
            return Ok(());
        }
    }
}

fn is_image(driver: &str) -> bool {
    [Format::Raw, Format::Qcow2].iter().any(|format| format.driver() == driver)
}

/// Every named node, without what lies below each.
pub fn nodes(client: &mut Client) -> Result<Vec<NodeInfo>> {
    let command = "query-named-block-nodes";
    let answer = run(client, "list the nodes", command, json!({ "flat": true }))?;
    list(&answer, command)?.iter().map(|node| node_info(node, command)).collect()
}

fn node_info(node: &Value, command: &'static str) -> Result<NodeInfo> {
    Ok(NodeInfo {
        node_name: field(node, "node-name", command)?,
        driver: field(node, "drv", command)?,
        filename: field(node, "file", command)?,
        backing: node.get("backing_file").and_then(Value::as_str).map(str::to_owned),
        size: node.pointer("/image/virtual-size").and_then(Value::as_u64),
        read_only: node.get("ro").and_then(Value::as_bool).unwrap_or(false),
    })
}

pub(super) fn list<'a>(answer: &'a Value, command: &'static str) -> Result<&'a Vec<Value>> {
    answer.as_array().with_context(|| lacking(command, "a list", answer))
}

pub(super) fn field(value: &Value, key: &'static str, command: &'static str) -> Result<String> {
    let text = value.get(key).and_then(Value::as_str).map(str::to_owned);
    text.with_context(|| lacking(command, key, value))
}

fn lacking(
    command: &'static str,
    missing: &'static str,
    answer: &Value,
) -> AnswerSnafu<&'static str, &'static str, String> {
    AnswerSnafu { command, missing, answer: answer.to_string().chars().take(200).collect() }
}

/// The image file of a format node of ours.
pub fn file_of(nodes: &[NodeInfo], node: &str) -> Option<PathBuf> {
    let file = format!("{node}-f");
    let info = nodes.iter().find(|info| info.node_name == file && info.driver == "file")?;
    Some(PathBuf::from(&info.filename))
}

/// The format node of ours on an image file, if the file is open.
pub fn node_of(client: &mut Client, file: &Path) -> Result<Option<String>> {
    let nodes = nodes(client)?;
    let of_file = nodes.iter().find(|info| info.driver == "file" && Path::new(&info.filename) == file);
    Ok(of_file.and_then(|info| info.node_name.strip_suffix("-f")).map(str::to_owned))
}

/// Which image file an export writes to at this moment.
pub fn active_file(client: &mut Client, export: &str) -> Result<PathBuf> {
    let node = export_node(client, export)?;
    file_of(&nodes(client)?, &node).context(NoFileSnafu { node })
}

/// Which node an export shows at this moment.
pub fn export_node(client: &mut Client, export: &str) -> Result<String> {
    let found = exports(client)?.into_iter().find(|info| info.id == export);
    Ok(found.context(NoExportSnafu { id: export })?.node_name)
}

/// Shows a node as the file `mountpoint`, which must be there. Only root's own processes can open it.
pub fn export_fuse(
    client: &mut Client,
    id: &str,
    node: &str,
    mountpoint: &Path,
    writable: bool,
    growable: bool,
) -> Result<()> {
    let arguments = json!({
        "type": "fuse",
        "id": id,
        "node-name": node,
        "mountpoint": text_of(mountpoint)?,
        "writable": writable,
        "growable": growable,
        "allow-other": "off",
    });
    let what = format!("export {node} at {}", mountpoint.display());
    run(client, &what, "block-export-add", arguments).map(drop)
}

/// Ends an export and waits until it is gone. Not there: success.
pub fn export_del(client: &mut Client, id: &str) -> Result<()> {
    let is_ours = |info: &ExportInfo| info.id == id;
    let Some(export) = exports(client)?.into_iter().find(is_ours) else { return Ok(()) };
    let what = format!("end the export {id}");
    if !export.shutting_down {
        // Hard: who still has the file open gets errors, and was told to close it before.
        run(client, &what, "block-export-del", json!({ "id": id, "mode": "hard" }))?;
    }
    let deadline = std::time::Instant::now() + LIMIT;
    while exports(client)?.iter().any(is_ours) {
        ensure!(
            std::time::Instant::now() < deadline,
            ArgumentSnafu { text: id, reason: "the export does not end: it is still in use" }
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Every export.
pub fn exports(client: &mut Client) -> Result<Vec<ExportInfo>> {
    let command = "query-block-exports";
    let answer = run(client, "list the exports", command, Value::Null)?;
    let info = |export: &Value| {
        Ok(ExportInfo {
            id: field(export, "id", command)?,
            node_name: field(export, "node-name", command)?,
            shutting_down: export.get("shutting-down").and_then(Value::as_bool).unwrap_or(false),
        })
    };
    list(&answer, command)?.iter().map(info).collect()
}

/// The size of a node's disk, in bytes.
pub fn size_of(client: &mut Client, node: &str) -> Result<u64> {
    let size = nodes(client)?.into_iter().find(|info| info.node_name == node).and_then(|info| info.size);
    size.context(NoSizeSnafu { node })
}

/// Changes the size of a disk.
pub fn resize(client: &mut Client, node: &str, size: u64) -> Result<()> {
    let what = format!("resize {node} to {size} bytes");
    run(client, &what, "block_resize", json!({ "node-name": node, "size": size })).map(drop)
}

/// Asks the daemon to end; it flushes and closes everything first.
pub fn quit(client: &mut Client) -> Result<()> {
    run(client, "end the storage daemon", "quit", Value::Null).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_follow_from_the_path_and_fit() {
        let name = node_name("abcdefghijk", Path::new("/share/volumes/x/volume-x")).unwrap();
        assert_eq!(name, node_name("abcdefghijk", Path::new("/share/volumes/x/volume-x")).unwrap());
        assert!(name.len() + 2 <= 31, "{name}");
        for prefix in ["", "1a", "a_b", "abcdefghijkl"] {
            assert!(node_name(prefix, Path::new("/x")).is_err(), "{prefix:?}");
        }
    }
}
