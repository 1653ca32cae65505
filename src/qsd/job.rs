//! Block jobs: merging layers inside a storage daemon.
//!
//! Jobs neither finish nor vanish by themselves: the caller looks at a pending one, finalizes it
//! (only then a header is rewritten), and dismisses it once it has read the outcome.

use super::command::{CommandError, field, list, run};
use super::qmp::Client;
use serde_json::{Value, json};

type Result<T, E = CommandError> = std::result::Result<T, E>;

/// A copy of a layer down into another one.
#[derive(Clone, Debug)]
pub struct Commit<'a> {
    /// Name of the job.
    pub job: &'a str,
    /// The top of the chain (the active image's node).
    pub device: &'a str,
    /// The layer that is copied down; with everything between it and `base`.
    pub top: &'a str,
    /// The layer that receives it.
    pub base: &'a str,
    /// What the layer above `top` refers to afterwards: `base`'s name, relative. None when `top` is
    /// the device itself, for then nobody above refers to anything.
    pub backing_file: Option<&'a str>,
    /// Bytes per second; 0 is unlimited.
    pub speed: u64,
}

/// A copy of lower layers up into one.
#[derive(Clone, Debug)]
pub struct Stream<'a> {
    /// Name of the job.
    pub job: &'a str,
    /// The layer that receives them.
    pub node: &'a str,
    /// The layer that it refers to afterwards; everything between is copied. None: everything.
    pub base: Option<&'a str>,
    /// `base`'s name, relative; required with a base.
    pub backing_file: Option<&'a str>,
    /// Bytes per second; 0 is unlimited.
    pub speed: u64,
}

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobStatus {
    /// Copying, or about to.
    Running,
    /// Copied all, and keeps up with new writes until told to complete.
    Ready,
    /// Done but for the last step, which [`job_finalize`] does.
    Pending,
    /// Ending by itself.
    Ending,
    /// Over; see [`JobInfo::error`]. Waits to be dismissed.
    Concluded,
}

/// A job as the daemon lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobInfo {
    /// Its name.
    pub id: String,
    /// `commit` or `stream`.
    pub kind: String,
    /// Where it is.
    pub status: JobStatus,
    /// Bytes done.
    pub current: u64,
    /// Bytes in all, as far as known.
    pub total: u64,
    /// Why it failed.
    pub error: Option<String>,
}

/// Starts a commit.
pub fn commit(client: &mut Client, commit: &Commit<'_>) -> Result<()> {
    let mut arguments = json!({
        "job-id": commit.job,
        "device": commit.device,
        "top-node": commit.top,
        "base-node": commit.base,
        "speed": commit.speed,
        "auto-finalize": false,
        "auto-dismiss": false,
    });
    if let Some(name) = commit.backing_file {
        arguments["backing-file"] = json!(name);
    }
    run(client, &format!("commit {} into {}", commit.top, commit.base), "block-commit", arguments).map(drop)
}

/// Starts a stream.
pub fn stream(client: &mut Client, stream: &Stream<'_>) -> Result<()> {
    let mut arguments = json!({
        "job-id": stream.job,
        "device": stream.node,
        "speed": stream.speed,
        "auto-finalize": false,
        "auto-dismiss": false,
    });
    if let Some(base) = stream.base {
        arguments["base-node"] = json!(base);
    }
    if let Some(name) = stream.backing_file {
        arguments["backing-file"] = json!(name);
    }
    run(client, &format!("stream into {}", stream.node), "block-stream", arguments).map(drop)
}

/// Every job.
pub fn jobs(client: &mut Client) -> Result<Vec<JobInfo>> {
    let command = "query-jobs";
    let answer = run(client, "list the jobs", command, Value::Null)?;
    let info = |job: &Value| {
        let number = |key: &str| job.get(key).and_then(Value::as_u64).unwrap_or(0);
        Ok(JobInfo {
            id: field(job, "id", command)?,
            kind: field(job, "type", command)?,
            status: status_of(&field(job, "status", command)?),
            current: number("current-progress"),
            total: number("total-progress"),
            error: job.get("error").and_then(Value::as_str).map(str::to_owned),
        })
    };
    list(&answer, command)?.iter().map(info).collect()
}

fn status_of(text: &str) -> JobStatus {
    match text {
        "ready" | "standby" => JobStatus::Ready,
        "pending" => JobStatus::Pending,
        "waiting" | "aborting" => JobStatus::Ending,
        "concluded" | "null" => JobStatus::Concluded,
        // created, running, paused
        _ => JobStatus::Running,
    }
}

fn simple(client: &mut Client, job: &str, verb: &'static str) -> Result<()> {
    run(client, &format!("{verb} {job}"), verb, json!({ "id": job })).map(drop)
}

/// Lets a pending job do its last step: from here on the header names the new backing file.
pub fn job_finalize(client: &mut Client, job: &str) -> Result<()> {
    simple(client, job, "job-finalize")
}

/// Forgets a concluded job.
pub fn job_dismiss(client: &mut Client, job: &str) -> Result<()> {
    simple(client, job, "job-dismiss")
}

/// Breaks a job off; nothing that any chain reads has changed.
pub fn job_cancel(client: &mut Client, job: &str) -> Result<()> {
    simple(client, job, "job-cancel")
}

/// Lets a ready commit of the active layer switch over to its base.
pub fn job_complete(client: &mut Client, job: &str) -> Result<()> {
    simple(client, job, "job-complete")
}
