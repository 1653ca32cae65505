//! Shares, the volumes on them, and the daemons that have some of them open.

use crate::cli::share;
use crate::gluster::{Share, Source};
use crate::qsd::Daemon;
use crate::qsd::qmp::Client;
use crate::volume::{Error, VolumeId, Volumes};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A daemon serves one client at a time: the node's own calls may wait for us no longer than this.
const QMP: Duration = Duration::from_secs(3);
/// What a daemon tells of itself, and changes nothing.
const QUERIES: [&str; 5] =
    ["query-version", "query-block-exports", "query-named-block-nodes", "query-jobs", "query-iothreads"];

/// What is looked at on a share.
#[derive(Clone, Copy)]
pub(super) enum What {
    /// The records of nodes, as they lie there.
    Nodes,
    /// A line for each volume, damaged ones too.
    List,
    /// All that is known of each.
    Show,
    /// Records, files, headers and locks compared. Changes nothing.
    Check,
}

impl What {
    pub const ALL: [What; 4] = [What::Nodes, What::List, What::Show, What::Check];

    pub fn name(self) -> &'static str {
        match self {
            What::Nodes => "nodes",
            What::List => "volumes",
            What::Show => "volumes-show",
            What::Check => "volumes-check",
        }
    }

    /// What takes longer than `limit` for all volumes leaves some out.
    pub fn look(self, volumes: &Volumes, limit: Duration) -> Result<Value, String> {
        match self {
            What::Nodes => nodes(&volumes.share().root),
            What::List => value(volumes.summaries().map_err(|error| error.to_string())?),
            What::Show => each(volumes, limit, |id| volumes.detail(id)),
            What::Check => each(volumes, limit, |id| volumes.inspect(id)),
        }
    }
}

fn value(of: impl Serialize) -> Result<Value, String> {
    serde_json::to_value(of).map_err(|error| error.to_string())
}

/// As `strata share check`, which mounts the share once more.
pub(super) fn check(source: &Source) -> Result<Value, String> {
    value(share::look(source, &[]).map_err(|failure| failure.message)?)
}

/// Where it is mounted already.
pub(super) fn place(share: &Share) -> Value {
    json!({"key": share.key.to_string(), "source": share.source.to_string(), "root": share.root})
}

fn nodes(root: &Path) -> Result<Value, String> {
    let folder = root.join("nodes");
    let entries = std::fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut found = Map::new();
    for entry in entries.flatten() {
        let text = std::fs::read_to_string(entry.path());
        let read = text.map_err(|error| error.to_string());
        let read = read.and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()));
        let name = entry.file_name().to_string_lossy().into_owned();
        found.insert(name, read.unwrap_or_else(|reason| json!({"unreadable": reason})));
    }
    Ok(Value::Object(found))
}

/// Something of each volume, as many as the time allows; those that are missing are counted.
fn each<T: Serialize>(
    volumes: &Volumes,
    limit: Duration,
    look: impl Fn(VolumeId) -> Result<T, Error>,
) -> Result<Value, String> {
    let deadline = Instant::now() + limit;
    let all = volumes.list().map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    for id in &all {
        if Instant::now() > deadline {
            break;
        }
        found.push(match look(*id) {
            Ok(report) => value(report)?,
            Err(error) => json!({"id": id.to_string(), "error": error.to_string()}),
        });
    }
    Ok(json!({"volumes": all.len(), "looked_at": found.len(), "reports": found}))
}

/// What a daemon is.
pub(super) fn daemon(daemon: &Daemon) -> Value {
    json!({
        "name": daemon.name.as_str(), "pid": daemon.pid, "qmp_socket": daemon.qmp_socket,
        "instance": daemon.instance,
    })
}

/// What a daemon answers.
pub(super) fn queries(socket: PathBuf) -> Result<Value, String> {
    let mut client = Client::connect(&socket, QMP).map_err(|error| error.to_string())?;
    let mut answers = Map::new();
    for query in QUERIES {
        let answer = client.execute(query, Value::Null, QMP);
        let failed = |error: crate::qsd::qmp::QmpError| json!({"error": error.to_string()});
        answers.insert(query.to_owned(), answer.unwrap_or_else(failed));
    }
    Ok(Value::Object(answers))
}
