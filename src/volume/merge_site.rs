//! Where a merge runs: in the daemon that has the volume open on its node, or in a short-lived one of its own.

use super::agents::{AgentError, MergeCall, MergeReport, MergeStep};
use super::chain::{Link, images};
use super::error::*;
use super::id::VolumeId;
use super::merge::daemon_name;
use super::merge_job::{Host, carry_out};
use super::record::{Merge, Site};
use super::volumes::Volumes;
use crate::qsd::command::{self, Open};
use crate::qsd::qmp::Client;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const REACH: Duration = Duration::from_secs(10);
/// A merge whose runner has not been heard of for this long is broken off.
const LEASE: Duration = Duration::from_secs(60);
/// Prefix of the node names in a merge's own daemon.
const PREFIX: &str = "m";

/// Carries out the steps of one merge.
pub(super) enum MergeSite<'a> {
    /// In a daemon of its own.
    Own(OwnDaemon<'a>),
    /// In that of the volume.
    Node(&'a Volumes, VolumeId, Site),
}

pub(super) struct OwnDaemon<'a> {
    volumes: &'a Volumes,
    volume: VolumeId,
    /// None once it was told to end.
    client: Option<Client>,
    folder: PathBuf,
    top: String,
    /// When its lease was last renewed.
    kept: Instant,
}

impl<'a> MergeSite<'a> {
    /// Makes ready what a merge needs. `chain` is what it opens, top first.
    pub(super) fn open(
        volumes: &'a Volumes,
        volume: VolumeId,
        merge: &Merge,
        chain: &[Link],
    ) -> Result<Self, Error> {
        match &merge.at {
            Some(site) => Ok(MergeSite::Node(volumes, volume, site.clone())),
            None => OwnDaemon::start(volumes, volume, chain).map(MergeSite::Own),
        }
    }

    /// Carries out a step.
    pub(super) fn step(&mut self, merge: &Merge, step: MergeStep) -> Result<MergeReport, Error> {
        match self {
            MergeSite::Own(daemon) => daemon.step(merge, &step),
            MergeSite::Node(volumes, volume, site) => {
                volumes.merge_on_node(*volume, site, merge, step).map_err(|source| Error::NodeUnreachable {
                    volume: *volume,
                    node: site.node.clone(),
                    source,
                })
            }
        }
    }

    /// Nothing of the merge runs any more, and its own daemon is gone.
    pub(super) fn close(mut self, merge: &Merge) -> Result<(), Error> {
        match &mut self {
            MergeSite::Own(daemon) => daemon.stop(),
            MergeSite::Node(..) => self.step(merge, MergeStep::Stop).map(drop),
        }
    }
}

impl<'a> OwnDaemon<'a> {
    fn start(volumes: &'a Volumes, volume: VolumeId, chain: &[Link]) -> Result<Self, Error> {
        let name = daemon_name(&volumes.handle(volume));
        // One that is still there belongs to a merge that was broken off.
        volumes.tools.daemons.stop(&name)?;
        let daemon = volumes.tools.daemons.start(&name)?;
        // A controller that dies on another node than the one that takes over cannot be cleaned up after from there.
        volumes.tools.daemons.keep(&name, LEASE)?;
        let opened =
            Client::connect(&daemon.qmp_socket, REACH).map_err(Error::from).and_then(|mut client| {
                let top = command::add_chain(&mut client, PREFIX, &images(chain), Open::ReadWrite)?;
                Ok((client, top))
            });
        match opened {
            Ok((client, top)) => {
                let folder = volumes.layout.volume(volume);
                Ok(OwnDaemon { volumes, volume, client: Some(client), folder, top, kept: Instant::now() })
            }
            Err(error) => {
                volumes.tools.daemons.stop(&name)?;
                Err(error)
            }
        }
    }

    fn step(&mut self, merge: &Merge, step: &MergeStep) -> Result<MergeReport, Error> {
        let Some(client) = &mut self.client else { return Ok(MergeReport::NotOpen) };
        if self.kept.elapsed() > LEASE / 4 {
            let name = daemon_name(&self.volumes.handle(self.volume));
            self.volumes.tools.daemons.keep(&name, LEASE)?;
            self.kept = Instant::now();
        }
        let report = carry_out(&mut Host { client, folder: &self.folder, top: &self.top }, merge.run, step)?;
        if report == MergeReport::Finished {
            // Quitting flushes and closes the files, and frees their locks for the look at the headers.
            self.stop()?;
        }
        Ok(report)
    }

    fn stop(&mut self) -> Result<(), Error> {
        // A daemon talks to one client at a time, and the next one is to tell it to quit.
        self.client = None;
        Ok(self.volumes.tools.daemons.stop(&daemon_name(&self.volumes.handle(self.volume)))?)
    }
}

impl Volumes {
    /// Asks the node that has a volume open for a step of a merge.
    pub(super) fn merge_on_node(
        &self,
        volume: VolumeId,
        site: &Site,
        merge: &Merge,
        step: MergeStep,
    ) -> Result<MergeReport, AgentError> {
        let unknown = |error: Error| AgentError::Unreachable { reason: error.to_string() };
        let registered = self.node(&site.node).map_err(unknown)?;
        let call =
            MergeCall { share: self.share.key.clone(), volume, epoch: site.epoch, run: merge.run, step };
        self.tools.agents.merge(&site.node, &registered.agent, &call)
    }
}
