//! kubelet's side of the plugin registration (kubernetes/kubelet, pkg/apis/pluginregistration/v1): the registrar listens
//! in a folder that kubelet watches, is asked what it stands for, and is told whether that was accepted.

use crate::kubectl::LIMIT;
use anyhow::{Context, Result, ensure};
use http::uri::PathAndQuery;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, prost::Message)]
struct InfoRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct PluginInfo {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    endpoint: String,
    #[prost(string, repeated, tag = "4")]
    versions: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RegistrationStatus {
    #[prost(bool, tag = "1")]
    registered: bool,
    #[prost(string, tag = "2")]
    error: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RegistrationStatusResponse {}

/// What kubelet knows of a driver.
#[derive(Clone, Debug)]
pub struct Driver {
    pub name: String,
    pub socket: PathBuf,
}

/// Waits for a registrar that answers, and takes up its driver.
pub async fn register(folder: &Path) -> Result<Driver> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let error = match try_register(folder).await {
            Ok(driver) => return Ok(driver),
            Err(error) => error,
        };
        ensure!(Instant::now() < deadline, "no driver was registered: {error:#}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn try_register(folder: &Path) -> Result<Driver> {
    let sockets = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let socket = sockets.into_iter().next().context("no registrar has made its socket")?;
    let channel = strata::rpc::uds::channel(&socket)?;
    let info: PluginInfo = ask(channel.clone(), "GetInfo", InfoRequest {}).await?;
    ensure!(info.kind == "CSIPlugin", "{info:?}");
    ensure!(info.versions.iter().any(|version| version.starts_with("1.")), "{info:?}");
    let socket = PathBuf::from(&info.endpoint);
    let status = RegistrationStatus { registered: true, error: String::new() };
    let _: RegistrationStatusResponse = ask(channel, "NotifyRegistrationStatus", status).await?;
    Ok(Driver { name: info.name, socket })
}

async fn ask<Q, A>(channel: Channel, method: &str, question: Q) -> Result<A>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await?;
    let path: PathAndQuery = format!("/pluginregistration.Registration/{method}").parse()?;
    let answer = client.unary(tonic::Request::new(question), path, ProstCodec::default()).await?;
    Ok(answer.into_inner())
}
