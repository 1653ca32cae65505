//! What a listing of snapshots answers, and how it is told in parts.

use super::{shares::Shares, wire};
use crate::rpc::csi::{ListSnapshotsRequest, ListSnapshotsResponse, list_snapshots_response::Entry};
use crate::volume::{SnapshotHandle, SnapshotView, VolumeHandle};
use tonic::Status;

/// What is listed.
#[derive(Debug)]
pub(super) struct Listing {
    filter: Filter,
    after: Option<SnapshotHandle>,
    max: usize,
}

#[derive(Debug)]
enum Filter {
    All,
    Volume(VolumeHandle),
    Snapshot(SnapshotHandle, Option<VolumeHandle>),
    /// A handle that no snapshot or volume of ours can have.
    Nothing,
}

impl Listing {
    /// Reads the request. A token that we did not give: ABORTED, start from the beginning (CSI).
    pub(super) fn parse(request: &ListSnapshotsRequest) -> Result<Self, Status> {
        let max = usize::try_from(request.max_entries)
            .map_err(|_| Status::invalid_argument("max_entries is negative"))?;
        let after =
            match request.starting_token.as_str() {
                "" => None,
                token => Some(token.parse().map_err(|_| {
                    Status::aborted("starting_token is none that was given here: start over")
                })?),
            };
        let volume = (!request.source_volume_id.is_empty()).then(|| request.source_volume_id.parse());
        let snapshot = (!request.snapshot_id.is_empty()).then(|| request.snapshot_id.parse());
        let filter = match (snapshot, volume) {
            (Some(Err(_)), _) | (_, Some(Err(_))) => Filter::Nothing,
            (None, None) => Filter::All,
            (None, Some(Ok(volume))) => Filter::Volume(volume),
            (Some(Ok(snapshot)), None) => Filter::Snapshot(snapshot, None),
            (Some(Ok(snapshot)), Some(Ok(volume))) => Filter::Snapshot(snapshot, Some(volume)),
        };
        Ok(Listing { filter, after, max })
    }

    /// Looks. Blocking.
    pub(super) fn run(self, shares: &Shares) -> Result<ListSnapshotsResponse, Status> {
        let mut views = match self.filter {
            Filter::Nothing => Vec::new(),
            Filter::All => {
                let mut views = Vec::new();
                for volumes in shares.all()?.iter() {
                    views.extend(volumes.list_snapshots(None)?);
                }
                views
            }
            Filter::Volume(volume) => match shares.get(&volume.share) {
                Ok(volumes) => volumes.list_snapshots(Some(volume.volume))?,
                Err(status) if status.code() == tonic::Code::NotFound => Vec::new(),
                Err(status) => return Err(status),
            },
            Filter::Snapshot(ref handle, ref volume)
                if volume.as_ref().is_some_and(|volume| *volume != handle.volume_handle()) =>
            {
                Vec::new()
            }
            Filter::Snapshot(handle, _) => match shares.get(&handle.share) {
                Ok(volumes) => volumes.get_snapshot(handle.volume, handle.snapshot)?.into_iter().collect(),
                Err(status) if status.code() == tonic::Code::NotFound => Vec::new(),
                Err(status) => return Err(status),
            },
        };
        views.sort_by(|a, b| a.handle.cmp(&b.handle));
        Ok(page(views, self.after.as_ref(), self.max))
    }
}

/// The entries after a token, so that what is made or deleted meanwhile shifts nothing.
fn page(views: Vec<SnapshotView>, after: Option<&SnapshotHandle>, max: usize) -> ListSnapshotsResponse {
    let mut rest: Vec<SnapshotView> =
        views.into_iter().filter(|view| after.is_none_or(|after| view.handle > *after)).collect();
    let mut next_token = String::new();
    if max > 0 && rest.len() > max {
        rest.truncate(max);
        next_token = rest.last().map(|view| view.handle.to_string()).unwrap_or_default();
    }
    let entries = rest.iter().map(|view| Entry { snapshot: Some(wire::snapshot(view)) }).collect();
    ListSnapshotsResponse { entries, next_token }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::record::Consistency;
    use crate::volume::{SnapshotId, VolumeId};
    use tonic::Code;

    fn view(name: &str) -> SnapshotView {
        SnapshotView {
            handle: SnapshotHandle {
                share: "s1".parse().unwrap(),
                volume: VolumeId::from_name("v"),
                snapshot: SnapshotId::from_name(name),
            },
            name: name.to_owned(),
            size: 1 << 30,
            created_at: jiff::Timestamp::from_second(1_700_000_000).unwrap(),
            consistency: Consistency::Filesystem,
        }
    }

    /// K6: every snapshot once, in parts of any length, also when one goes between two parts.
    #[test]
    fn parts_add_up() {
        let mut views: Vec<_> = ["a", "b", "c", "d", "e"].map(view).into();
        views.sort_by(|a, b| a.handle.cmp(&b.handle));
        let mut seen = Vec::new();
        let mut token = None;
        loop {
            let part = page(views.clone(), token.as_ref(), 2);
            assert!(part.entries.len() <= 2);
            seen.extend(part.entries.into_iter().map(|entry| entry.snapshot.unwrap().snapshot_id));
            // The one that the token names is deleted meanwhile.
            views.retain(|view| view.handle.to_string() != part.next_token);
            match part.next_token.as_str() {
                "" => break,
                next => token = Some(next.parse().unwrap()),
            }
        }
        let distinct: std::collections::BTreeSet<_> = seen.iter().collect();
        assert_eq!((seen.len(), distinct.len()), (5, 5));
    }

    #[test]
    fn a_foreign_token_is_aborted_and_a_foreign_handle_finds_nothing() {
        let request = ListSnapshotsRequest { starting_token: "wrong".to_owned(), ..Default::default() };
        assert_eq!(Listing::parse(&request).unwrap_err().code(), Code::Aborted);
        let request = ListSnapshotsRequest { max_entries: -1, ..Default::default() };
        assert_eq!(Listing::parse(&request).unwrap_err().code(), Code::InvalidArgument);
        for handle in ["../../x", "none"] {
            let request = ListSnapshotsRequest { snapshot_id: handle.to_owned(), ..Default::default() };
            assert!(matches!(Listing::parse(&request).unwrap().filter, Filter::Nothing));
        }
    }
}
