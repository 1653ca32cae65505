//! What a listing of volumes answers, and how it is told in parts.

use super::shares::Shares;
use super::wire;
use crate::gluster::ShareKey;
use crate::rpc::csi::{ListVolumesRequest, ListVolumesResponse, Volume, list_volumes_response as response};
use crate::volume::{Health, Listed, Reason, VolumeHandle, Volumes};
use std::cmp::Ordering;
use tonic::Status;

/// What is listed: everything after a volume, so that what is made or deleted meanwhile shifts nothing.
#[derive(Debug)]
pub(super) struct VolumeListing {
    after: Option<VolumeHandle>,
    max: usize,
}

impl VolumeListing {
    /// Reads the request. A token that we did not give: ABORTED, start from the beginning (CSI).
    pub(super) fn parse(request: &ListVolumesRequest) -> Result<Self, Status> {
        let max = usize::try_from(request.max_entries)
            .map_err(|_| Status::invalid_argument("max_entries is negative"))?;
        let after = match request.starting_token.as_str() {
            "" => None,
            token => Some(token.parse().map_err(|_| foreign())?),
        };
        Ok(VolumeListing { after, max: if max == 0 { usize::MAX } else { max } })
    }

    /// Looks. Blocking.
    pub(super) fn run(self, shares: &Shares) -> Result<ListVolumesResponse, Status> {
        let all = shares.all()?;
        if let Some(after) = &self.after
            && !all.iter().any(|volumes| volumes.share().key == after.share)
        {
            return Err(foreign());
        }
        let mut entries = Vec::new();
        for volumes in all.iter() {
            let Some(after) = self.within(&volumes.share().key) else { continue };
            let (listed, more) = volumes.list_volumes(after, self.max - entries.len())?;
            entries.extend(listed.into_iter().map(|listed| entry(volumes, listed)));
            if more {
                let next_token = entries.last().and_then(|entry| entry.volume.as_ref());
                let next_token = next_token.map(|volume| volume.volume_id.clone()).unwrap_or_default();
                return Ok(ListVolumesResponse { entries, next_token });
            }
        }
        Ok(ListVolumesResponse { entries, next_token: String::new() })
    }

    /// Where to begin on a share; None if it was told already.
    fn within(&self, share: &ShareKey) -> Option<Option<crate::volume::VolumeId>> {
        let Some(after) = &self.after else { return Some(None) };
        match share.cmp(&after.share) {
            Ordering::Less => None,
            Ordering::Equal => Some(Some(after.volume)),
            Ordering::Greater => Some(None),
        }
    }
}

fn foreign() -> Status {
    Status::aborted("starting_token is none that was given here: start over")
}

/// A damaged volume is told of as well: what is left out would be taken for deleted.
fn entry(volumes: &Volumes, listed: Listed) -> response::Entry {
    let (volume, nodes, health) = match listed {
        Listed::Volume(view) => (wire::volume(&view), wire::nodes(&view), Health::Sound),
        Listed::Damaged(id, error) => {
            tracing::error!(volume = %id, %error, "a damaged volume is listed");
            let volume = Volume { volume_id: volumes.handle(id).to_string(), ..Volume::default() };
            (volume, Vec::new(), Health::abnormal(Reason::RecordDamaged, error))
        }
    };
    let status = response::VolumeStatus {
        published_node_ids: nodes,
        volume_condition: Some(wire::condition(&health)),
    };
    response::Entry { volume: Some(volume), status: Some(status) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn a_foreign_token_is_aborted_and_a_negative_length_refused() {
        for token in ["invalid-token", "../x", "s1/not-a-uuid", "1"] {
            let request = ListVolumesRequest { starting_token: token.to_owned(), max_entries: 0 };
            assert_eq!(VolumeListing::parse(&request).unwrap_err().code(), Code::Aborted, "{token}");
        }
        let request = ListVolumesRequest { max_entries: -1, ..Default::default() };
        assert_eq!(VolumeListing::parse(&request).unwrap_err().code(), Code::InvalidArgument);
    }
}
