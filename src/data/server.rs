//! Serves mounts and storage daemons to the controller and the node of this machine.

use super::shares::{MountedShares, SharesError};
use crate::gluster::{Share, ShareKey, Source};
use crate::qsd::{Daemon, DaemonError, DaemonHost, DaemonName, LocalDaemons};
use crate::rpc::data::data_server::Data;
use crate::rpc::data::{
    Daemon as WireDaemon, KeepDaemonRequest, KeepDaemonResponse, ListDaemonsRequest, ListDaemonsResponse,
    ListSharesRequest, ListSharesResponse, MountShareRequest, MountShareResponse, Share as WireShare,
    ShutdownRequest, ShutdownResponse, StartDaemonRequest, StartDaemonResponse, StopDaemonRequest,
    StopDaemonResponse, UnmountShareRequest, UnmountShareResponse,
};
use crate::rpc::{chain, offload};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tonic::{Request, Response, Status};
use uuid::Uuid;

/// Above every bound inside: this only ends waiting for a thread that the kernel does not give back.
const LIMIT: Duration = Duration::from_secs(175);

/// The Data service.
#[derive(Clone)]
pub struct DataService {
    shares: Arc<MountedShares>,
    daemons: Arc<LocalDaemons>,
    stop: Arc<Notify>,
    instance: Uuid,
}

impl DataService {
    /// `stop` is notified when the process is asked to end.
    pub fn new(shares: Arc<MountedShares>, daemons: Arc<LocalDaemons>, stop: Arc<Notify>) -> Self {
        DataService { shares, daemons, stop, instance: Uuid::new_v4() }
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&DataService) -> Result<T, Status> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let service = self.clone();
        let late = || Status::deadline_exceeded("the work goes on; ask again");
        Ok(Response::new(offload(LIMIT, late, move || work(&service)).await?))
    }
}

fn parse<T: FromStr>(text: &str) -> Result<T, Status>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| Status::invalid_argument(error.to_string()))
}

fn shares_status(error: &SharesError) -> Status {
    let message = chain(error);
    match error {
        SharesError::Option { .. } => Status::invalid_argument(message),
        SharesError::Busy { .. } => Status::aborted(message),
        SharesError::InUse { .. } => Status::failed_precondition(message),
        SharesError::Open { .. }
        | SharesError::Silent { .. }
        | SharesError::List { .. }
        | SharesError::Ending { .. } => Status::unavailable(message),
    }
}

impl DataService {
    /// Unmounts the shares, for good, once no daemon runs.
    fn let_go(&self, unmount: bool) -> Result<(), Status> {
        let daemons = self.daemons.list().map_err(|error| daemon_status(&error))?;
        if let Some(daemon) = daemons.first() {
            let message = format!("storage daemon {} runs: unstage its volume first", daemon.name);
            return Err(Status::failed_precondition(message));
        }
        if let Some(share) = self.shares.list().first().filter(|_| !unmount) {
            let message = format!("share {} is mounted", share.source);
            return Err(Status::failed_precondition(message));
        }
        self.shares.unmount_all().map_err(|error| shares_status(&error))
    }
}

fn daemon_status(error: &DaemonError) -> Status {
    let message = match error {
        // The client puts the name in front again.
        DaemonError::Process { reason, .. } | DaemonError::Unusable { reason } => reason.clone(),
        DaemonError::Unreachable { .. } => chain(error),
    };
    match error {
        // The client turns this one back into "unusable".
        DaemonError::Unusable { .. } => Status::failed_precondition(message),
        DaemonError::Process { .. } | DaemonError::Unreachable { .. } => Status::unknown(message),
    }
}

fn wire_share(share: &Share) -> WireShare {
    WireShare {
        source: share.source.to_string(),
        key: share.key.to_string(),
        root: share.root.display().to_string(),
    }
}

fn wire_daemon(daemon: &Daemon) -> WireDaemon {
    WireDaemon {
        name: daemon.name.to_string(),
        pid: daemon.pid,
        qmp_socket: daemon.qmp_socket.display().to_string(),
        instance: daemon.instance.clone(),
    }
}

#[tonic::async_trait]
impl Data for DataService {
    async fn mount_share(
        &self,
        request: Request<MountShareRequest>,
    ) -> Result<Response<MountShareResponse>, Status> {
        let request = request.into_inner();
        let source: Source = parse(&request.source)?;
        self.run(move |service| {
            let (share, warnings) =
                service.shares.mount(&source, &request.options).map_err(|error| shares_status(&error))?;
            Ok(MountShareResponse { share: Some(wire_share(&share)), warnings })
        })
        .await
    }

    async fn unmount_share(
        &self,
        request: Request<UnmountShareRequest>,
    ) -> Result<Response<UnmountShareResponse>, Status> {
        let key: ShareKey = parse(&request.into_inner().key)?;
        self.run(move |service| {
            service.shares.unmount(&key).map_err(|error| shares_status(&error))?;
            Ok(UnmountShareResponse {})
        })
        .await
    }

    async fn list_shares(
        &self,
        _request: Request<ListSharesRequest>,
    ) -> Result<Response<ListSharesResponse>, Status> {
        let shares = self.shares.list().iter().map(wire_share).collect();
        Ok(Response::new(ListSharesResponse { shares }))
    }

    async fn start_daemon(
        &self,
        request: Request<StartDaemonRequest>,
    ) -> Result<Response<StartDaemonResponse>, Status> {
        let name: DaemonName = parse(&request.into_inner().name)?;
        self.run(move |service| {
            let daemon = service.daemons.start(&name).map_err(|error| daemon_status(&error))?;
            Ok(StartDaemonResponse { daemon: Some(wire_daemon(&daemon)) })
        })
        .await
    }

    async fn keep_daemon(
        &self,
        request: Request<KeepDaemonRequest>,
    ) -> Result<Response<KeepDaemonResponse>, Status> {
        let request = request.into_inner();
        let name: DaemonName = parse(&request.name)?;
        let lease = Duration::from_secs(request.lease_seconds.into());
        self.run(move |service| {
            service.daemons.keep(&name, lease).map_err(|error| daemon_status(&error))?;
            Ok(KeepDaemonResponse {})
        })
        .await
    }

    async fn stop_daemon(
        &self,
        request: Request<StopDaemonRequest>,
    ) -> Result<Response<StopDaemonResponse>, Status> {
        let name: DaemonName = parse(&request.into_inner().name)?;
        self.run(move |service| {
            service.daemons.stop(&name).map_err(|error| daemon_status(&error))?;
            Ok(StopDaemonResponse {})
        })
        .await
    }

    async fn list_daemons(
        &self,
        _request: Request<ListDaemonsRequest>,
    ) -> Result<Response<ListDaemonsResponse>, Status> {
        self.run(|service| {
            let daemons = service.daemons.list().map_err(|error| daemon_status(&error))?;
            let daemons = daemons.iter().map(wire_daemon).collect();
            Ok(ListDaemonsResponse { daemons, instance: service.instance.to_string() })
        })
        .await
    }

    async fn shutdown(
        &self,
        request: Request<ShutdownRequest>,
    ) -> Result<Response<ShutdownResponse>, Status> {
        let unmount = request.into_inner().unmount_shares;
        self.run(move |service| {
            // One that is being started now is seen, and none comes after.
            service.daemons.start_no_more();
            match service.let_go(unmount) {
                // Here, and not with the answer: there is a way on also when nobody waits for that any more.
                Ok(()) => service.stop.notify_one(),
                Err(refused) => {
                    service.daemons.start_again();
                    return Err(refused);
                }
            }
            Ok(ShutdownResponse {})
        })
        .await
    }
}
