//! The node's part of a merge: its steps inside the daemon that has the volume open.

use super::agents::{MergeCall, MergeReport};
use super::error::Error;
use super::id::VolumeHandle;
use super::merge_job::{Host, carry_out};
use super::stage::Staging;
use crate::attach::EXPORT;
use crate::qsd::command;

impl Staging {
    /// Carries out a step of a merge. Can be repeated.
    pub fn merge(&self, call: &MergeCall) -> Result<MergeReport, Error> {
        let handle = VolumeHandle { share: call.share.clone(), volume: call.volume };
        self.alone(&handle, || {
            let Some((local, mut client)) = self.reach(&handle, call.epoch)? else {
                return Ok(MergeReport::NotOpen);
            };
            let top = command::export_node(&mut client, EXPORT)?;
            let mut host = Host { client: &mut client, folder: &local.folder, top: &top };
            carry_out(&mut host, call.run, &call.step)
        })
    }
}
