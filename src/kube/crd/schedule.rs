//! `BackupSchedule`: snapshots and backups at times.

use super::Condition;
use super::backup::DeletionPolicy;
use crate::backup::Retention as Rules;
use jiff::Timestamp;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Takes VolumeSnapshots of the selected claims at times, has them backed up, and removes what no rule keeps.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "strata.dev",
    version = "v1alpha1",
    kind = "BackupSchedule",
    namespaced,
    shortname = "bsched",
    category = "strata",
    status = "BackupScheduleStatus",
    derive = "PartialEq",
    doc = "Takes VolumeSnapshots of the selected claims of its namespace at times, has them backed up, and removes what no rule keeps.",
    printcolumn(name = "Schedule", type_ = "string", json_path = ".spec.schedule"),
    printcolumn(name = "Repository", type_ = "string", json_path = ".spec.repository"),
    printcolumn(name = "Suspend", type_ = "boolean", json_path = ".spec.suspend"),
    printcolumn(name = "Last", type_ = "date", json_path = ".status.lastScheduleTime"),
    printcolumn(name = "Next", type_ = "string", json_path = ".status.nextScheduleTime"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct BackupScheduleSpec {
    /// Minute, hour, day of the month, month, day of the week, as cron has them; or @hourly, @daily, @weekly, @monthly.
    #[schemars(length(min = 1, max = 120))]
    pub schedule: String,
    /// The time zone of the schedule, such as Europe/Berlin; without it UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub time_zone: Option<String>,
    /// The claims, by their labels; an empty selector takes all of the namespace.
    pub selector: ClaimSelector,
    /// The class of the snapshots; without it the default one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub volume_snapshot_class_name: Option<String>,
    /// The BackupRepository.
    #[schemars(length(min = 1, max = 40))]
    pub repository: String,
    /// Which backups stay; without it all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// VolumeSnapshots of each claim that stay after they were backed up: the newest so many.
    #[serde(default = "one")]
    #[schemars(range(max = 100))]
    pub keep_snapshots: u32,
    /// What becomes of the stored data when a VolumeBackup of this schedule is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Nothing new is begun.
    #[serde(default)]
    pub suspend: bool,
}

fn one() -> u32 {
    1
}

/// Which claims.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimSelector {
    /// All of these.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// And all of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
}

/// One demand on labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// With what.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Operator {
    /// One of the values.
    In,
    /// None of them.
    NotIn,
    /// It is there.
    Exists,
    /// It is not.
    DoesNotExist,
}

/// How many complete backups of each claim stay. Hours, days and so on are those of UTC. Each rule keeps the newest backup of
/// each of its last so many periods that have one; a backup stays if any rule keeps it, and the last good one always.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Retention {
    /// The newest so many.
    #[schemars(range(max = 10000))]
    pub keep_last: u32,
    /// Of so many hours.
    #[schemars(range(max = 10000))]
    pub keep_hourly: u32,
    /// Of so many days.
    #[schemars(range(max = 10000))]
    pub keep_daily: u32,
    /// Of so many weeks.
    #[schemars(range(max = 10000))]
    pub keep_weekly: u32,
    /// Of so many months.
    #[schemars(range(max = 10000))]
    pub keep_monthly: u32,
    /// Of so many years.
    #[schemars(range(max = 10000))]
    pub keep_yearly: u32,
    /// A backup that goes, while one that stays is made on it, has that one made whole first, which copies data. Without
    /// this it stays as long as it is needed.
    #[serde(default = "rebase")]
    pub rebase: bool,
}

fn rebase() -> bool {
    true
}

impl Retention {
    /// For the engine.
    pub fn rules(&self) -> Rules {
        Rules {
            last: self.keep_last,
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            yearly: self.keep_yearly,
            within: None,
        }
    }
}

/// What is known of a schedule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupScheduleStatus {
    /// The last time of the schedule at which snapshots were taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::time")]
    pub last_schedule_time: Option<Timestamp>,
    /// The next one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::time")]
    pub next_schedule_time: Option<Timestamp>,
    /// Claims that were selected then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<u32>,
    /// Claims that were left out, for their last backup had not ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<u32>,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The generation of the spec that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Valid`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
