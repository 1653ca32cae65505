//! One try: from the plan to a backup in the repository.

use super::failure::Failure;
use super::plan::{self, Plan};
use super::status::StatusWriter;
use crate::backup::{
    BackupError, Cancel, Canceller, CreateReport, Limits, PinnedReader, Progress, ProgressState,
    VerifyOptions, Which,
};
use crate::kube::context::Context;
use crate::kube::crd::backup::{Phase, Verification, VolumeBackupStatus};
use crate::kube::repository::Opened;
use crate::metrics::Moved;
use crate::trace;
use crate::volume::{BackupHandle, Pinned, Writer};
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// How often progress is told.
const TELL: Duration = Duration::from_secs(3);

/// What one try works with.
pub(super) struct Try<'a> {
    pub context: &'a Context,
    pub pinned: &'a Arc<Pinned>,
    pub canceller: &'a Canceller,
    pub cancel: &'a Cancel,
}

impl Try<'_> {
    /// Makes the backup and notes in the status what came of it, without writing its end.
    pub async fn make(&self, writer: &mut StatusWriter, opened: Opened) -> Result<(), Failure> {
        let mut full_because = None;
        loop {
            let is_full = full_because.is_some();
            let plan = plan::plan(self.context, writer, opened.clone(), self.pinned, is_full).await?;
            let (id, volume) = (plan.id, plan.options.volume);
            if plan.is_done {
                self.adopt(writer, &plan).await?;
            } else {
                self.begin(writer, &plan).await?;
                match self.create(writer, &plan).await {
                    Ok(report) => note(&mut writer.status, report, full_because),
                    // With that parent it cannot be: then without.
                    Err(error) if !is_full && is_about_the_parent(&error, &plan) => {
                        full_because = Some(error.to_string());
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            self.verify(writer, &opened, id).await?;
            let repository = writer.object.spec.repository.parse();
            let repository =
                repository.map_err(|error| Failure::stays("BadRepository", format!("{error}")))?;
            let handle = BackupHandle { writer: Writer::Strata, repository, volume, backup: id };
            writer.status.handle = Some(handle.to_string());
            return Ok(());
        }
    }

    /// Before the first byte: whoever goes on with it, or removes it, knows its id.
    async fn begin(&self, writer: &mut StatusWriter, plan: &Plan) -> Result<(), Failure> {
        let parent = match plan.options.parent {
            crate::backup::ParentChoice::Backup(parent) => Some(parent),
            _ => None,
        };
        let status = &mut writer.status;
        status.phase = Phase::Running;
        status.message = None;
        status.retry_at = None;
        status.progress = Some(0);
        status.backup_id = Some(plan.id);
        status.parent_id = parent;
        tracing::Span::current().record("backup", tracing::field::display(plan.id));
        status.started_at = Some(Timestamp::now());
        writer.write().await?;
        let on = parent.map_or("as a full one".to_owned(), |parent| format!("on {parent}"));
        let note = format!("backup {} begins, {on}", plan.id);
        self.context.events.of_backup(&writer.object, false, "BackupStarted", &note).await;
        Ok(())
    }

    async fn create(&self, writer: &mut StatusWriter, plan: &Plan) -> Result<CreateReport, BackupError> {
        let pinned = Arc::clone(self.pinned);
        let opened = tokio::task::spawn_blocking(trace::within(move || PinnedReader::open(pinned))).await;
        let source = Arc::new(opened.map_err(|source| BackupError::Worker { source })??);
        let (engine, options) = (plan.opened.engine.clone(), plan.options.clone());
        let (progress, cancel) = (Progress::default(), self.cancel.clone());
        let counted = progress.clone();
        let runtime = tokio::runtime::Handle::current();
        // On a thread of its own: what is told of it may have to wait for the API.
        let mut work = tokio::task::spawn_blocking(trace::within(move || {
            runtime.block_on(engine.create(source, &options, &counted, &cancel))
        }));
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + TELL, TELL);
        let mut moving = self.context.counts.moving(&writer.object.spec.repository);
        loop {
            tokio::select! {
                done = &mut work => {
                    let done = done.map_err(|source| BackupError::Worker { source })?;
                    // Its report has what is stored beside the chunks, too.
                    moving.has(done.as_ref().map_or_else(|_| moved(&progress.state()), in_all));
                    return done;
                }
                _ = ticks.tick() => {
                    moving.has(moved(&progress.state()));
                    show(&mut writer.status, &progress.state());
                    match writer.write().await {
                        // Gone, or another's now.
                        Err(failure) if failure.is_cancelled => self.canceller.cancel(),
                        Err(failure) => tracing::warn!(error = failure.message, "progress was not written"),
                        Ok(()) => {}
                    }
                }
            }
        }
    }

    /// What an earlier process made, as far as the repository tells.
    async fn adopt(&self, writer: &mut StatusWriter, plan: &Plan) -> Result<(), Failure> {
        let found = plan.opened.engine.show(plan.id).await?;
        let status = &mut writer.status;
        status.backup_id = Some(plan.id);
        status.parent_id = found.backup.parent_id;
        status.bytes_total = Some(found.bytes_total);
        status.bytes_changed = Some(found.backup.bytes_changed);
        status.bytes_uploaded = Some(found.backup.bytes_stored);
        Ok(())
    }

    async fn verify(&self, writer: &mut StatusWriter, opened: &Opened, id: Uuid) -> Result<(), Failure> {
        let Some(percent) = opened.object.spec.verify_percent else { return Ok(()) };
        let options = VerifyOptions {
            which: Which::Backup(id),
            data: f64::from(percent) / 100.0,
            seed: id.as_u128() as u64,
            limits: Limits::default(),
        };
        let report = opened.engine.verify(&options, &Progress::default(), self.cancel).await?;
        let damage: Vec<String> = report
            .damage
            .iter()
            .take(3)
            .map(|damage| format!("{}: {}", damage.object, damage.reason))
            .collect();
        let message = (!damage.is_empty()).then(|| damage.join("; "));
        let checked_at = Timestamp::now();
        writer.status.verification =
            Some(Verification { good: report.good, percent, checked_at, message: message.clone() });
        match message {
            None => Ok(()),
            Some(message) => Err(Failure::stays("Damaged", format!("what was stored is damaged: {message}"))),
        }
    }
}

/// Settings that do not go together with the parent's, or a volume that was smaller: not the store, nor the snapshot.
fn is_about_the_parent(error: &BackupError, plan: &Plan) -> bool {
    let has_parent = plan.options.parent != crate::backup::ParentChoice::None;
    let kind = match error {
        BackupError::Resumable { error, .. } => error.as_ref(),
        other => other,
    };
    has_parent
        && matches!(
            kind,
            BackupError::OtherHashBlock { .. } | BackupError::Shrunk { .. } | BackupError::BadRequest { .. }
        )
}

fn in_all(report: &CreateReport) -> Moved {
    Moved { read: report.bytes_read, changed: report.bytes_changed, uploaded: report.bytes_uploaded }
}

fn moved(state: &ProgressState) -> Moved {
    Moved { read: state.read, changed: state.changed, uploaded: state.transferred }
}

fn show(status: &mut VolumeBackupStatus, state: &ProgressState) {
    status.progress = Some(state.percent() as u32);
    status.bytes_total = Some(state.total);
    status.bytes_read = Some(state.read);
    status.bytes_changed = Some(state.changed);
    status.bytes_uploaded = Some(state.transferred);
    status.bytes_per_second = Some(state.rate() as u64);
}

fn note(status: &mut VolumeBackupStatus, report: CreateReport, full_because: Option<String>) {
    status.backup_id = Some(report.backup_id);
    status.parent_id = report.parent_id;
    status.bytes_total = Some(report.bytes_total);
    status.bytes_read = Some(report.bytes_read);
    status.bytes_changed = Some(report.bytes_changed);
    status.bytes_uploaded = Some(report.bytes_uploaded);
    status.copied_from = report.copied_from;
    status.bytes_copied = report.copied_from.map(|_| report.bytes_copied);
    let rate = if report.seconds > 0.0 { report.bytes_total as f64 / report.seconds } else { 0.0 };
    status.bytes_per_second = Some(rate as u64);
    status.full_because = full_because.or(report.full_because);
    status.read_all_because = report.read_all_because;
}
