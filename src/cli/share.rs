//! `strata share check`: what is unsafe about a share, and what is on it.

use super::backup::work_folder;
use super::exit::Failure;
use super::output::{self, Output};
use super::size::human;
use crate::gluster::{self, Checked, Finding, InvalidOption, MountOption, Outcome, Severity, Source};
use crate::host::deadline::within;
use crate::volume::{NodeRecord, Survey};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;
use std::process::ExitCode;
use std::time::Duration;

/// Reading a folder of volumes and one file a node.
const SURVEY_LIMIT: Duration = Duration::from_secs(60);
/// Refused as unsafe.
const UNSAFE: u8 = 4;

/// Arguments of `strata share`.
#[derive(Debug, Args)]
pub struct ShareVerbArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Mount a share, say what is unsafe about it and how to mend it, and what is on it. Exit code 4: unsafe.
    Check(CheckArgs),
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// The share: HOST:/VOLUME or dir:/PATH.
    #[arg(value_name = "SOURCE")]
    share: Source,
    /// The mount options that the driver is given for it.
    #[arg(long, value_name = "OPTION[,OPTION…]", value_delimiter = ',')]
    options: Vec<String>,
    /// The shape of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// What is shown. A part that is null could not be found out.
#[derive(Debug, Serialize)]
struct Report {
    share: String,
    /// Whether the driver uses it.
    safe: bool,
    key: Option<String>,
    writable: Outcome,
    options: Outcome,
    coherent: Outcome,
    /// Bytes.
    total: u64,
    free: u64,
    volumes: usize,
    nodes: Vec<Node>,
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Node {
    node: String,
    /// Null: its registration cannot be read; `problem` says why.
    agent: Option<String>,
    heartbeat: Option<Timestamp>,
    age_seconds: Option<i64>,
    /// It has missed several heartbeats: it is down, or cut off from the share.
    silent: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// Runs a verb.
pub fn run(args: &ShareVerbArgs) -> ExitCode {
    let Verb::Check(args) = &args.verb;
    let report = check(&args.share, &args.options);
    let safe = report.as_ref().is_ok_and(|report| report.safe);
    let shown = output::finish(args.output, report, text);
    if shown == ExitCode::SUCCESS && !safe { ExitCode::from(UNSAFE) } else { shown }
}

/// What is to be said of a share.
pub(super) fn look(source: &Source, given: &[String]) -> Result<impl Serialize + use<>, Failure> {
    check(source, given)
}

fn check(source: &Source, given: &[String]) -> Result<Report, Failure> {
    let (options, refused) = options(given)?;
    let folder = work_folder()?;
    let mut checked = gluster::check(source, &options, &folder.mounts()).map_err(Failure::failed)?;
    checked.findings.splice(0..0, refused);
    let root = checked.root.clone();
    let survey = within(SURVEY_LIMIT, "reading the share", move || Survey::of(&root))
        .map_err(Failure::failed)?
        .map_err(Failure::failed)?;
    let report = report(source, &checked, survey);
    // Unmounted before its folder goes.
    drop(checked);
    drop(folder);
    Ok(report)
}

/// Those that can be mounted with, and a finding for each that the driver would refuse.
fn options(words: &[String]) -> Result<(Vec<MountOption>, Vec<Finding>), Failure> {
    let (mut options, mut refused) = (Vec::new(), Vec::new());
    for word in words {
        match word.parse() {
            Ok(option) => options.push(option),
            Err(error @ InvalidOption::Refused { .. }) => refused.push(Finding {
                severity: Severity::Refuse,
                cause: error.to_string(),
                remedy: format!("leave {word} out of the share's options"),
            }),
            Err(error) => return Err(Failure::usage(error)),
        }
    }
    Ok((options, refused))
}

fn report(share: &Source, checked: &Checked, survey: Survey) -> Report {
    let nodes = survey.nodes.into_iter().map(|(node, record)| match record {
        Ok(record) => node_of(&record),
        Err(error) => Node {
            node: node.to_string(),
            agent: None,
            heartbeat: None,
            age_seconds: None,
            silent: true,
            problem: Some(error.to_string()),
        },
    });
    Report {
        share: share.to_string(),
        safe: checked.is_safe(),
        key: checked.key.as_ref().map(ToString::to_string),
        writable: checked.writable,
        options: checked.options,
        coherent: checked.coherent,
        total: survey.room.total,
        free: survey.room.free,
        volumes: survey.volumes,
        nodes: nodes.collect(),
        findings: checked.findings.clone(),
    }
}

fn node_of(record: &NodeRecord) -> Node {
    let age = record.age(Timestamp::now());
    Node {
        node: record.node.to_string(),
        agent: Some(record.agent.clone()),
        heartbeat: Some(record.heartbeat),
        age_seconds: Some(age.as_secs() as i64),
        silent: record.is_silent(Timestamp::now()),
        problem: None,
    }
}

fn text(report: &Report) -> String {
    let outcome = |outcome| match outcome {
        Outcome::Passed => "yes".to_owned(),
        Outcome::Failed => "NO".to_owned(),
        Outcome::NotTried => "not tried".to_owned(),
    };
    let room = format!("{} free of {}", human(report.free), human(report.total));
    let mut text = output::lines(&[
        ("share", report.share.clone()),
        ("key", report.key.clone().unwrap_or_else(|| "none yet: the first driver gives it one".to_owned())),
        ("safe options", outcome(report.options)),
        ("coherent", outcome(report.coherent)),
        ("writable", outcome(report.writable)),
        ("room", room),
        ("volumes", report.volumes.to_string()),
        ("nodes", report.nodes.len().to_string()),
    ]);
    let rows: Vec<Vec<String>> = report.nodes.iter().map(node_row).collect();
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&output::table(&["NODE", "HEARTBEAT", "AGENT"], &rows));
    }
    for Finding { severity, cause, remedy } in &report.findings {
        let word = if *severity == Severity::Refuse { "UNSAFE" } else { "warning" };
        text.push_str(&format!("\n{word}: {cause}\n  to mend it: {remedy}\n"));
    }
    let verdict = if report.safe { "The driver uses this share." } else { "The driver refuses this share." };
    format!("{text}\n{verdict}\n")
}

fn node_row(node: &Node) -> Vec<String> {
    let heard = match (node.age_seconds, &node.problem) {
        (Some(age), _) => format!("{age} s ago{}", if node.silent { ", silent" } else { "" }),
        (None, problem) => problem.clone().unwrap_or_default(),
    };
    vec![node.node.clone(), heard, node.agent.clone().unwrap_or_default()]
}
