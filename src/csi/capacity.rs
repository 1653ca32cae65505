//! What GetCapacity answers: the same figures that CreateVolume goes by.

use super::request::GIB;
use super::shares::Shares;
use super::{capability, params};
use crate::rpc::csi::{GetCapacityRequest, GetCapacityResponse};
use crate::volume::Volumes;
use tonic::Status;

/// Reads the request and looks. Blocking. Where the volume is to be accessible changes nothing: every node reaches
/// every share.
pub(super) fn of(request: &GetCapacityRequest, shares: &Shares) -> Result<GetCapacityResponse, Status> {
    let class = params::volume(&request.parameters)?;
    if capability::unoffered(&request.volume_capabilities).is_some() {
        return Ok(answer(&[]));
    }
    let asked = match &class.share {
        Some(share) => vec![shares.named(share)?],
        None => shares.some_open()?,
    };
    let mut available = Vec::new();
    for volumes in asked {
        let Some(capacity) = shares.glance_at_capacity(&volumes, Volumes::capacity)? else { continue };
        tracing::debug!(share = %volumes.share().source, %capacity, "room");
        available.push(capacity.available(class.kind));
    }
    if available.is_empty() {
        return Err(Status::unavailable("no share answers; ask again"));
    }
    Ok(answer(&available))
}

/// From what each share can take. Volumes have whole GiB, and lie on one share.
fn answer(available: &[u64]) -> GetCapacityResponse {
    let whole = |bytes: u64| i64::try_from(bytes - bytes % GIB).unwrap_or(i64::MAX);
    let largest = available.iter().copied().map(whole).max().unwrap_or(0);
    let sum = available.iter().copied().map(whole).fold(0, i64::saturating_add);
    GetCapacityResponse {
        available_capacity: sum,
        maximum_volume_size: (largest > 0).then_some(largest),
        minimum_volume_size: (largest > 0).then_some(GIB as i64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_lies_on_one_share_and_has_whole_gibibytes() {
        let two = answer(&[3 * GIB + 1, 2 * GIB - 1]);
        assert_eq!((two.available_capacity, two.maximum_volume_size), (4 << 30, Some(3 << 30)));
        let none = answer(&[GIB - 1, 0]);
        assert_eq!(
            (none.available_capacity, none.maximum_volume_size, none.minimum_volume_size),
            (0, None, None)
        );
    }
}
