//! `strata probe`: whether a role's process answers.

use super::driver::runtime;
use crate::rpc::bounded;
use crate::rpc::csi::GetPluginInfoRequest;
use crate::rpc::csi::identity_client::IdentityClient;
use crate::rpc::uds;
use anyhow::{Context, Result};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// Asks the controller or node on a CSI socket for a sign of life; no answer is exit code 1. For liveness probes: unlike CSI's
/// Probe it does not ask whether the data plane is there, which no restart of the asked process would bring back.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// The CSI socket.
    #[arg(long, env = "STRATA_CSI_SOCKET", value_name = "PATH", default_value = "/csi/csi.sock")]
    socket: PathBuf,
    /// Seconds to wait for the answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=600))]
    limit: u64,
}

impl ProbeArgs {
    /// Asks once.
    pub fn run(self) -> Result<()> {
        runtime()?.block_on(async {
            let mut client = IdentityClient::new(uds::channel(&self.socket)?);
            let asked = client.get_plugin_info(GetPluginInfoRequest {});
            bounded(Duration::from_secs(self.limit), asked).await.context("no sign of life")?;
            Ok(())
        })
    }
}
