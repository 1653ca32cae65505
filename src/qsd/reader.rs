//! Commands for what only reads: a throw-away overlay, and a lock that a raw image would not get by itself.

use super::command::{CommandError, node_name, run, text_of};
use super::qmp::Client;
use crate::image::{Format, ImageRef};
use serde_json::json;

/// Keeps writers away from an image that this daemon reads. A qcow2 image does so by itself. A raw one tolerates
/// them; but a quorum, even one of a single member that nobody reads through, does not tolerate that a member is
/// written to behind its back, and so the file gets QEMU's lock. It goes with the daemon.
pub fn exclude_writers(client: &mut Client, prefix: &str, image: &ImageRef) -> Result<(), CommandError> {
    if image.format == Format::Qcow2 {
        return Ok(());
    }
    let arguments = json!({
        "driver": "quorum",
        "node-name": format!("{prefix}-hold"),
        "children": [node_name(prefix, &image.path)?],
        "vote-threshold": 1,
        "read-only": true,
    });
    run(client, "keep writers away", "blockdev-add", arguments).map(drop)
}

/// Opens an overlay that takes what a journal replays, and goes when the daemon does: no flush is worth its time.
/// `backing` is the node that it stands on; its header names none.
pub fn add_scratch(
    client: &mut Client,
    prefix: &str,
    file: &std::path::Path,
    backing: &str,
) -> Result<String, CommandError> {
    let (node, path) = (node_name(prefix, file)?, text_of(file)?);
    let what = format!("open {path}");
    let arguments = json!({
        "driver": "qcow2",
        "node-name": node,
        "backing": backing,
        "discard": "unmap",
        "cache": { "direct": false, "no-flush": true },
        "file": {
            "driver": "file",
            "node-name": format!("{node}-f"),
            "filename": path,
            "aio": "threads",
            "locking": "on",
            "discard": "unmap",
            "cache": { "direct": false, "no-flush": true },
        },
    });
    run(client, &what, "blockdev-add", arguments)?;
    Ok(node)
}
