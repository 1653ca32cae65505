//! The whole: one process leads, and all that is due is done by watches.

use super::backup::{self, Jobs};
use super::clock::Clock;
use super::context::{Context, OpenVolumes, Settings};
use super::crd::backup::VolumeBackup;
use super::crd::repository::BackupRepository;
use super::crd::schedule::BackupSchedule;
use super::crd::snapshot::{VolumeSnapshot, VolumeSnapshotClass};
use super::due::Wanted;
use super::error::{BrokenSnafu, Error};
use super::events::Events;
use super::figures::{Objects, figures};
use super::lease::{Election, LeaseSettings};
use super::names;
use super::repository;
use super::schedule;
use super::trigger::{self, WithClasses};
use crate::metrics::{BackupCounts, Metrics};
use ::kube::runtime::controller::{Action, Controller};
use ::kube::runtime::reflector::{self, ObjectRef, Store};
use ::kube::runtime::watcher;
use ::kube::runtime::{WatchStreamExt, controller};
use ::kube::{Api, Client, Resource};
use futures::{Stream, StreamExt};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Backups that are under way are told to stop, and get so long for it.
const STOP: Duration = Duration::from_secs(8);

/// What the whole is made of.
pub struct Parts {
    /// The API.
    pub client: Client,
    /// The shares.
    pub shares: Arc<dyn OpenVolumes>,
    /// How it works.
    pub settings: Settings,
    /// Who leads.
    pub lease: LeaseSettings,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What is told of it.
    pub metrics: Metrics,
}

/// Waits until this process leads, works until `stop`, and lets the next one lead. An error: it leads no longer, or a part of it
/// broke off; it must end, for another may be at work, or is to be.
pub async fn serve(parts: Parts, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let mut election = Election::new(parts.client.clone(), parts.lease);
    tokio::pin!(stop);
    let counts = BackupCounts::new(&parts.metrics);
    tracing::info!("waiting for the Lease");
    tokio::select! {
        () = election.win() => {}
        () = &mut stop => return Ok(()),
    }
    tracing::info!("this process leads");
    counts.leads(true);
    let jobs = Jobs::new(parts.settings.workers, parts.settings.per_node);
    let events = Events::new(parts.client.clone(), &parts.settings.driver, &parts.settings.identity);
    let context = Arc::new(Context {
        client: parts.client,
        shares: parts.shares,
        settings: parts.settings,
        jobs,
        clock: parts.clock,
        events,
        counts,
        wanted: Wanted::default(),
    });
    // Ends with this function, whichever way that ends.
    let mut work = JoinSet::new();
    let stores = spawn_all(&mut work, &context);
    let driver = context.settings.driver.clone();
    let wanted = context.wanted.clone();
    parts.metrics.look(move || figures(&stores.objects(&driver, &wanted)));
    let lost = tokio::select! {
        lost = election.keep() => Some(lost),
        Some(ended) = work.join_next() => {
            let reason = ended.map_or_else(|error| error.to_string(), |()| "a watch has ended".to_owned());
            Some(BrokenSnafu { reason }.build())
        }
        () = &mut stop => None,
    };
    // First nothing new is begun.
    work.shutdown().await;
    context.counts.leads(false);
    if let Some(lost) = lost {
        context.jobs.stop_all(Duration::ZERO).await;
        return Err(lost);
    }
    context.jobs.stop_all(STOP).await;
    election.release().await
}

/// All objects as they were last seen.
struct Stores {
    backups: Store<VolumeBackup>,
    repositories: Store<BackupRepository>,
    schedules: Store<BackupSchedule>,
}

impl Stores {
    fn objects(&self, driver: &str, wanted: &Wanted) -> Objects {
        Objects {
            driver: driver.to_owned(),
            backups: self.backups.state(),
            repositories: self.repositories.state(),
            schedules: self.schedules.state(),
            wanted: wanted.clone(),
        }
    }
}

fn spawn_all(work: &mut JoinSet<()>, context: &Arc<Context>) -> Stores {
    let client = || context.client.clone();
    let (classes, class_writer) = reflector::store();
    let class_watch = watcher(Api::<VolumeSnapshotClass>::all(client()), watcher::Config::default());
    let class_watch = reflector::reflector(class_writer, class_watch.default_backoff());
    work.spawn(class_watch.for_each(|event| async {
        if let Err(error) = event {
            tracing::warn!(%error, "VolumeSnapshotClasses are watched anew");
        }
    }));
    let with = Arc::new(WithClasses { context: Arc::clone(context), classes });
    let snapshots = Controller::new(Api::<VolumeSnapshot>::all(client()), watcher::Config::default());
    let schedules = Controller::new(Api::<BackupSchedule>::all(client()), watcher::Config::default())
        .watches(
            Api::<VolumeBackup>::all(client()),
            watcher::Config::default().labels(names::SCHEDULE),
            schedule::of_backup,
        )
        .reconcile_all_on(context.clock.jumps());
    let schedule_store = schedules.store();
    work.spawn(async move {
        // Asked once: of several who wait for one store not each is woken.
        know_classes(&with).await;
        tokio::join!(
            drive(snapshots.run(trigger::reconcile, trigger::failed, Arc::clone(&with))),
            drive(schedules.run(schedule::reconcile, schedule::failed, Arc::clone(&with))),
        );
    });
    let repositories = Controller::new(Api::<BackupRepository>::all(client()), watcher::Config::default());
    let backups = Controller::new(Api::<VolumeBackup>::all(client()), watcher::Config::default());
    let stores =
        Stores { backups: backups.store(), repositories: repositories.store(), schedules: schedule_store };
    work.spawn(drive(repositories.run(repository::reconcile, repository::failed, Arc::clone(context))));
    work.spawn(drive(backups.run(backup::reconcile, backup::failed, Arc::clone(context))));
    stores
}

/// A snapshot that is looked at before its class is known would go without its backup.
async fn know_classes(with: &WithClasses) {
    if let Err(error) = with.classes.wait_until_ready().await {
        tracing::error!(%error, "VolumeSnapshotClasses are not watched");
        std::future::pending().await
    }
}

/// Runs a controller for ever. Its watches begin anew by themselves, with growing waits.
async fn drive<K>(
    results: impl Stream<Item = Result<(ObjectRef<K>, Action), controller::Error<Error, watcher::Error>>>,
) where
    K: Resource<DynamicType = ()> + DeserializeOwned + Debug + Clone,
{
    results
        .for_each(|result| async {
            match result {
                Ok((object, _)) => tracing::trace!(%object, "looked at"),
                // Told where it happened.
                Err(controller::Error::ReconcilerFailed(..)) => {}
                // Deleted since it was asked for.
                Err(controller::Error::ObjectNotFound(_)) => {}
                Err(error) => tracing::warn!(%error, "a watch is begun anew"),
            }
        })
        .await;
}
