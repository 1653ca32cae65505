//! The data plane, as the controller and the node see it.

use crate::gluster::{Share, Source};
use crate::qsd::{Daemon, DaemonError, DaemonHost, DaemonName};
use crate::rpc::data::data_client::DataClient as Stub;
use crate::rpc::data::{
    Daemon as WireDaemon, KeepDaemonRequest, ListDaemonsRequest, ListDaemonsResponse, ListSharesRequest,
    MountShareRequest, Share as WireShare, ShutdownRequest, StartDaemonRequest, StopDaemonRequest,
    UnmountShareRequest,
};
use crate::rpc::{CallError, Traced, bounded, traced, uds};
use snafu::{ResultExt, Snafu};
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Handle;
use tonic::Code;

/// Looking at what runs.
const LOOK: Duration = Duration::from_secs(15);
/// A daemon's start has 30 s on the other side.
const START: Duration = Duration::from_secs(60);
/// Quitting flushes to the share, then come two signals, each with a deadline of its own.
const STOP: Duration = Duration::from_secs(150);
/// A mount, its preflight and the test of its coherence.
const MOUNT: Duration = Duration::from_secs(180);

/// Why the data plane did not do as asked.
#[derive(Debug, Snafu)]
pub enum DataError {
    /// It cannot be addressed.
    #[snafu(display("{source}"))]
    Socket {
        /// Cause.
        source: uds::UdsError,
    },
    /// It does not answer, or answered with an error.
    #[snafu(display("the data plane could not {doing}: {source}"))]
    Call {
        /// What it was asked for.
        doing: &'static str,
        /// Cause.
        source: CallError,
    },
    /// It answered with something that cannot be.
    #[snafu(display("the data plane answered nonsense: {reason}"))]
    Nonsense {
        /// What is wrong with it.
        reason: String,
    },
}

/// Calls the data plane. Cheap to clone; connects when needed, and again after it was replaced.
#[derive(Clone, Debug)]
pub struct DataClient {
    stub: Stub<Traced>,
}

impl DataClient {
    /// The data plane that listens, or will, on `socket`. Within an async runtime.
    pub fn new(socket: &Path) -> Result<Self, DataError> {
        Ok(DataClient { stub: Stub::new(traced(uds::channel(socket).context(SocketSnafu)?)) })
    }

    /// Mounts a share and proves it safe. The second part of the answer: what the preflight warns of.
    pub async fn mount_share(
        &self,
        source: &Source,
        options: &[String],
    ) -> Result<(Share, Vec<String>), DataError> {
        let request = MountShareRequest { source: source.to_string(), options: options.to_vec() };
        let mut stub = self.stub.clone();
        let answer =
            bounded(MOUNT, stub.mount_share(request)).await.context(CallSnafu { doing: "mount a share" })?;
        let Some(share) = answer.share else {
            return NonsenseSnafu { reason: "a mounted share without a share" }.fail();
        };
        Ok((share_from(share)?, answer.warnings))
    }

    /// The shares that are mounted.
    pub async fn shares(&self) -> Result<Vec<Share>, DataError> {
        let mut stub = self.stub.clone();
        let answer = bounded(LOOK, stub.list_shares(ListSharesRequest {}))
            .await
            .context(CallSnafu { doing: "list the shares" })?;
        answer.shares.into_iter().map(share_from).collect()
    }

    /// Unmounts a share.
    pub async fn unmount_share(&self, key: &crate::gluster::ShareKey) -> Result<(), DataError> {
        let mut stub = self.stub.clone();
        let request = UnmountShareRequest { key: key.to_string() };
        bounded(MOUNT, stub.unmount_share(request)).await.context(CallSnafu { doing: "unmount a share" })?;
        Ok(())
    }

    /// The daemons that run.
    pub async fn daemons(&self) -> Result<Vec<Daemon>, DataError> {
        let answer = self.list_daemons().await.context(CallSnafu { doing: "list its daemons" })?;
        let daemons = answer.daemons.into_iter().map(daemon_from).collect::<Result<_, String>>();
        daemons.map_err(|reason| NonsenseSnafu { reason }.build())
    }

    /// Which start of the data plane this is.
    pub async fn instance(&self) -> Result<String, DataError> {
        Ok(self.list_daemons().await.context(CallSnafu { doing: "say which it is" })?.instance)
    }

    /// Ends the data plane, with `unmount_shares` its mounts too.
    pub async fn shutdown(&self, unmount_shares: bool) -> Result<(), DataError> {
        let mut stub = self.stub.clone();
        bounded(MOUNT, stub.shutdown(ShutdownRequest { unmount_shares }))
            .await
            .context(CallSnafu { doing: "shut down" })?;
        Ok(())
    }

    async fn list_daemons(&self) -> Result<ListDaemonsResponse, CallError> {
        let mut stub = self.stub.clone();
        bounded(LOOK, stub.list_daemons(ListDaemonsRequest {})).await
    }
}

fn share_from(share: WireShare) -> Result<Share, DataError> {
    let nonsense = |reason: String| NonsenseSnafu { reason }.build();
    Ok(Share {
        key: share.key.parse().map_err(|error| nonsense(format!("{error}")))?,
        source: share.source.parse().map_err(|error| nonsense(format!("{error}")))?,
        root: share.root.into(),
    })
}

fn daemon_from(daemon: WireDaemon) -> Result<Daemon, String> {
    Ok(Daemon {
        name: daemon.name.parse().map_err(|error| format!("{error}"))?,
        pid: daemon.pid,
        qmp_socket: daemon.qmp_socket.into(),
        instance: daemon.instance,
    })
}

/// The data plane's daemons, for the blocking domain. Only from blocking threads.
#[derive(Clone, Debug)]
pub struct RemoteDaemons {
    client: DataClient,
    runtime: Handle,
}

impl RemoteDaemons {
    /// `runtime` drives the connection.
    pub fn new(client: DataClient, runtime: Handle) -> Self {
        RemoteDaemons { client, runtime }
    }
}

fn daemon_error(name: &DaemonName, error: CallError) -> DaemonError {
    match error {
        CallError::Unreachable { reason } => DaemonError::Unreachable { reason },
        CallError::Answered { code: Code::FailedPrecondition, message } => {
            DaemonError::Unusable { reason: message }
        }
        CallError::Answered { message, .. } => DaemonError::Process { name: name.clone(), reason: message },
    }
}

impl DaemonHost for RemoteDaemons {
    fn start(&self, name: &DaemonName) -> Result<Daemon, DaemonError> {
        let mut stub = self.client.stub.clone();
        let request = StartDaemonRequest { name: name.to_string() };
        let answer = self
            .runtime
            .block_on(async { bounded(START, stub.start_daemon(request)).await })
            .map_err(|error| daemon_error(name, error))?;
        let nonsense = |reason| DaemonError::Process { name: name.clone(), reason };
        let daemon = answer.daemon.ok_or_else(|| nonsense("started, but not described".to_owned()))?;
        daemon_from(daemon).map_err(nonsense)
    }

    fn keep(&self, name: &DaemonName, lease: Duration) -> Result<(), DaemonError> {
        let mut stub = self.client.stub.clone();
        let lease_seconds = u32::try_from(lease.as_secs()).unwrap_or(u32::MAX);
        let request = KeepDaemonRequest { name: name.to_string(), lease_seconds };
        self.runtime
            .block_on(async { bounded(LOOK, stub.keep_daemon(request)).await })
            .map_err(|error| daemon_error(name, error))?;
        Ok(())
    }

    fn stop(&self, name: &DaemonName) -> Result<(), DaemonError> {
        let mut stub = self.client.stub.clone();
        let request = StopDaemonRequest { name: name.to_string() };
        self.runtime
            .block_on(async { bounded(STOP, stub.stop_daemon(request)).await })
            .map_err(|error| daemon_error(name, error))?;
        Ok(())
    }

    fn find(&self, name: &DaemonName) -> Result<Option<Daemon>, DaemonError> {
        let listed =
            self.runtime.block_on(self.client.list_daemons()).map_err(|error| daemon_error(name, error))?;
        listed
            .daemons
            .into_iter()
            .find(|daemon| daemon.name == name.as_str())
            .map(|daemon| {
                daemon_from(daemon).map_err(|reason| DaemonError::Process { name: name.clone(), reason })
            })
            .transpose()
    }
}
