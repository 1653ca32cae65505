//! Whose a VolumeBackup is, where Strata is installed more than once in a cluster, under several drivers' names.

use crate::kube::context::Context;
use crate::kube::crd::backup::VolumeBackup;
use crate::kube::crd::snapshot::VolumeSnapshot;
use crate::kube::error::{ApiSnafu, Error};
use crate::kube::trigger::content_of;
use ::kube::{Api, ResourceExt};
use snafu::ResultExt;

/// Whose it is.
pub(super) enum Owner {
    /// This installation's.
    Ours,
    /// That driver's.
    Another(String),
    /// Neither it nor its snapshot tells.
    Unknown,
}

/// By the driver that it names; without one by the driver that has its snapshot.
pub(super) async fn owner(object: &VolumeBackup, context: &Context) -> Result<Owner, Error> {
    let driver = match &object.spec.driver {
        Some(driver) => Some(driver.clone()),
        None => driver_of_snapshot(object, context).await?,
    };
    Ok(match driver {
        Some(driver) if driver == context.settings.driver => Owner::Ours,
        Some(driver) => Owner::Another(driver),
        None => Owner::Unknown,
    })
}

async fn driver_of_snapshot(object: &VolumeBackup, context: &Context) -> Result<Option<String>, Error> {
    let Some(wanted) = &object.spec.volume_snapshot else { return Ok(None) };
    let api: Api<VolumeSnapshot> =
        Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    let found = api.get_opt(&wanted.name).await.context(ApiSnafu { doing: "read a VolumeSnapshot" })?;
    let found = found.filter(|found| wanted.uid.is_none() || wanted.uid == found.metadata.uid);
    let Some(snapshot) = found else { return Ok(None) };
    Ok(content_of(&context.client, &snapshot).await?.map(|content| content.spec.driver))
}
