//! A merge's steps on the wire.

use super::server::{file_name, parse};
use crate::rpc::agent::merge_layers_request::Step;
use crate::rpc::agent::merge_layers_response::State;
use crate::rpc::agent::merge_work::Direction as WireDirection;
use crate::rpc::agent::{
    MergeFinish, MergeLayersRequest, MergeLayersResponse, MergeLook, MergeStop, MergeWork as WireWork,
};
use crate::volume::record::Direction;
use crate::volume::{MergeCall, MergeReport, MergeStep, MergeWork, NodeId};
use tonic::Status;

pub(super) fn to_request(node: &NodeId, call: &MergeCall) -> MergeLayersRequest {
    let step = match &call.step {
        MergeStep::Start(work) => Step::Start(work_to_wire(work)),
        MergeStep::Look => Step::Look(MergeLook {}),
        MergeStep::Finish => Step::Finish(MergeFinish {}),
        MergeStep::Stop => Step::Stop(MergeStop {}),
    };
    MergeLayersRequest {
        node_id: node.to_string(),
        share_key: call.share.to_string(),
        volume_id: call.volume.to_string(),
        epoch: call.epoch,
        run: call.run.to_string(),
        step: Some(step),
    }
}

fn work_to_wire(work: &MergeWork) -> WireWork {
    let direction = match work.direction {
        Direction::Commit => WireDirection::Commit,
        Direction::Stream => WireDirection::Stream,
        Direction::Flatten => WireDirection::Flatten,
    };
    WireWork {
        direction: direction.into(),
        upper_file: work.upper_file.clone(),
        lower_file: work.lower_file.clone().unwrap_or_default(),
        backing: work.backing.clone().unwrap_or_default(),
        speed: work.speed,
    }
}

pub(super) fn from_request(request: MergeLayersRequest) -> Result<MergeCall, Status> {
    let step = match request.step.ok_or_else(|| Status::invalid_argument("a merge without a step"))? {
        Step::Start(work) => MergeStep::Start(work_from_wire(work)?),
        Step::Look(_) => MergeStep::Look,
        Step::Finish(_) => MergeStep::Finish,
        Step::Stop(_) => MergeStep::Stop,
    };
    Ok(MergeCall {
        share: parse(&request.share_key)?,
        volume: parse(&request.volume_id)?,
        epoch: request.epoch,
        run: parse(&request.run)?,
        step,
    })
}

fn work_from_wire(work: WireWork) -> Result<MergeWork, Status> {
    let direction = match work.direction() {
        WireDirection::Commit => Direction::Commit,
        WireDirection::Stream => Direction::Stream,
        WireDirection::Flatten => Direction::Flatten,
        WireDirection::Unspecified => return Err(Status::invalid_argument("a merge without a direction")),
    };
    let optional = |text: String| (!text.is_empty()).then_some(text);
    Ok(MergeWork {
        direction,
        upper_file: file_name(work.upper_file)?,
        lower_file: optional(work.lower_file).map(file_name).transpose()?,
        backing: optional(work.backing).map(backing_name).transpose()?,
        speed: work.speed,
    })
}

/// A file of the volume's own folder, or one of another volume beside it.
fn backing_name(text: String) -> Result<String, Status> {
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        [file] => file_name((*file).to_owned())?,
        ["..", folder, file] => {
            file_name((*folder).to_owned())?;
            file_name((*file).to_owned())?
        }
        _ => return Err(Status::invalid_argument(format!("{text:?} is no name of a layer"))),
    };
    Ok(text)
}

pub(super) fn to_response(report: MergeReport) -> MergeLayersResponse {
    let mut response = MergeLayersResponse::default();
    let state = match report {
        MergeReport::NotOpen => State::NotOpen,
        MergeReport::Absent => State::Absent,
        MergeReport::Running { done, total } => {
            (response.done, response.total) = (done, total);
            State::Running
        }
        MergeReport::Copied => State::Copied,
        MergeReport::Finished => State::Finished,
        MergeReport::Failed { reason } => {
            response.reason = reason;
            State::Failed
        }
    };
    response.set_state(state);
    response
}

/// None: a state that is unknown here.
pub(super) fn from_response(response: MergeLayersResponse) -> Option<MergeReport> {
    Some(match response.state() {
        State::Unspecified => return None,
        State::NotOpen => MergeReport::NotOpen,
        State::Absent => MergeReport::Absent,
        State::Running => MergeReport::Running { done: response.done, total: response.total },
        State::Copied => MergeReport::Copied,
        State::Finished => MergeReport::Finished,
        State::Failed => MergeReport::Failed { reason: response.reason },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("volume-a.b", true)]
    #[case("../6f1d3c52-8b7a-4d0e-9a41-52c71e0b7a01/volume-a", true)]
    #[case("../../etc/passwd", false)]
    #[case("../../x/volume-a", false)]
    #[case("/etc/passwd", false)]
    #[case("../x/..", false)]
    #[case("json:{}", false)]
    fn a_backing_name_stays_among_the_volumes(#[case] name: &str, #[case] fine: bool) {
        assert_eq!(backing_name(name.to_owned()).is_ok(), fine);
    }

    #[test]
    fn a_call_survives_the_way() {
        let work = MergeWork {
            direction: Direction::Stream,
            upper_file: "volume-u".to_owned(),
            lower_file: Some("volume-l".to_owned()),
            backing: None,
            speed: 7,
        };
        for step in [MergeStep::Start(work), MergeStep::Look, MergeStep::Finish, MergeStep::Stop] {
            let call = MergeCall {
                share: "s1".parse().unwrap(),
                volume: crate::volume::VolumeId::from_name("v"),
                epoch: 3,
                run: uuid::Uuid::new_v4(),
                step,
            };
            assert_eq!(from_request(to_request(&"n1".parse().unwrap(), &call)).unwrap(), call);
        }
    }
}
