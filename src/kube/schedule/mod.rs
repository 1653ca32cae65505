//! BackupSchedule: snapshots at times, and the end of backups that no rule keeps.

mod cron;
mod reconcile;
mod retention;
mod take;

pub(super) use cron::Times;
pub use reconcile::{failed, of_backup, reconcile};
