//! Taking everything down, whatever state it is in; done already, or half: the rest.

use super::children::Children;
use super::layout::Layout;
use crate::agent::{AgentClient, CUT_LIMIT};
use crate::attach::Backend;
use crate::cli::driver::{backend, self_test_dir, staging, tools};
use crate::csi::ShareSpec;
use crate::data::{DataClient, RemoteDaemons};
use crate::qsd::{DaemonHost, DaemonName};
use crate::rpc::uds;
use crate::volume::{NodeId, Policy, Registrar, Staging, Tools, VolumeHandle, Volumes};
use anyhow::{Context, Result, bail};
use std::path::Path;
use tokio::runtime::Handle;

/// Takes volumes out of pods, unstages them, ends the data plane, unmounts the shares.
pub(super) async fn run(
    layout: &Layout,
    children: &mut Children,
    node: NodeId,
    specs: Vec<ShareSpec>,
    qemu_img: &Path,
) -> Result<()> {
    let nothing = !layout.node_dir().exists() && !layout.data_dir().exists();
    if nothing && !uds::answers(&layout.data_socket()) {
        return Ok(());
    }
    // A dead data plane is brought back: it knows the mounts and the daemons.
    children.start_data().await?;
    let data = DataClient::new(&layout.data_socket())?;
    for spec in &specs {
        // A share that is away must not keep the volumes of others up; unstaging needs no share.
        if let Err(error) = data.mount_share(&spec.source, &spec.options).await {
            tracing::warn!(share = %spec.source, %error, "attachments on it are not taken back");
        }
    }
    let shares = data.shares().await?;
    let agents = AgentClient::new(Handle::current(), CUT_LIMIT);
    let tools = tools(&data, qemu_img.to_owned(), agents, Policy::default());
    let staging = staging(node.clone(), &layout.node_dir(), &data);
    let node_dir = layout.node_dir();
    let (client, scratch) = (data.clone(), self_test_dir(&layout.node_dir()));
    tokio::task::spawn_blocking(move || {
        // A node that was killed between freeze and thaw left its filesystem frozen: unmounting it would hang.
        if let Err(error) = staging.thaw_leftovers() {
            tracing::error!(%error, "filesystems that a cut left frozen may still be so");
        }
        let volumes = shares.into_iter().map(|share| Volumes::new(share, tools.clone())).collect::<Vec<_>>();
        let failed = let_go_of_all(&staging, &volumes, &node)?;
        if failed > 0 {
            bail!("{failed} volumes are still in use on this node; the data plane stays");
        }
        leave(&volumes, node, &node_dir);
        stop_leftovers(&client, &tools, &scratch)
    })
    .await
    .context("the teardown broke off")??;
    data.shutdown(true).await?;
    children.await_data_end().await?;
    for socket in layout.sockets() {
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", socket.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// How many volumes could not be let go of.
fn let_go_of_all(staging: &Staging, volumes: &[Volumes], node: &NodeId) -> Result<usize> {
    let mut failed = 0;
    for handle in staging.staged()? {
        match let_go(staging, &handle) {
            Ok(()) => {
                tracing::info!(volume = %handle, "unstaged");
                take_back(volumes, &handle, node);
            }
            Err(error) => {
                tracing::error!(volume = %handle, error = format!("{error:#}"), "not unstaged");
                failed += 1;
            }
        }
    }
    Ok(failed)
}

fn let_go(staging: &Staging, handle: &VolumeHandle) -> Result<()> {
    for target in staging.targets(handle)? {
        staging
            .unpublish(handle, &target)
            .with_context(|| format!("cannot unpublish {}", target.display()))?;
    }
    if let Some(path) = staging.staging_path(handle)? {
        staging.unstage(handle, &path)?;
    }
    Ok(())
}

/// The attachment goes with its node. The share may be away: the next attachment finds out, too.
fn take_back(volumes: &[Volumes], handle: &VolumeHandle, node: &NodeId) {
    let Some(volumes) = volumes.iter().find(|volumes| volumes.share().key == handle.share) else { return };
    if let Err(error) = volumes.unpublish(handle.volume, Some(node)) {
        tracing::warn!(volume = %handle, %error, "its attachment to this node stays recorded");
    }
}

/// The node is gone from its shares. One that is away keeps its name until another machine has waited for it.
fn leave(volumes: &[Volumes], node: NodeId, dir: &Path) {
    // Nothing of it was ever written: it never registered.
    if !dir.exists() {
        return;
    }
    let left = Registrar::new(node, String::new(), dir).map_err(anyhow::Error::from).and_then(|registrar| {
        volumes.iter().try_for_each(|volumes| registrar.leave(volumes)).map_err(anyhow::Error::from)
    });
    if let Err(error) = left {
        tracing::warn!(error = format!("{error:#}"), "the node stays registered");
    }
}

/// What a killed controller or node left to the data plane: merges, which are journaled, and a self-test.
fn stop_leftovers(data: &DataClient, tools: &Tools, scratch: &Path) -> Result<()> {
    let daemons = RemoteDaemons::new(data.clone(), Handle::current());
    let name: DaemonName = "selftest".parse().context("the self-test's name")?;
    let daemon = daemons.find(&name)?;
    backend().detach(daemon.as_ref(), scratch)?;
    for daemon in Handle::current().block_on(data.daemons())? {
        tools.daemons.stop(&daemon.name)?;
    }
    match std::fs::remove_dir_all(scratch) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", scratch.display()))
        }
        _ => Ok(()),
    }
}
