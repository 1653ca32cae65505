//! The Identity service.

use crate::rpc::csi::identity_server::Identity;
use crate::rpc::csi::plugin_capability::service::Type as ServiceType;
use crate::rpc::csi::plugin_capability::volume_expansion::Type as ExpansionType;
use crate::rpc::csi::plugin_capability::{Service, Type, VolumeExpansion};
use crate::rpc::csi::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest, GetPluginInfoResponse,
    PluginCapability, ProbeRequest, ProbeResponse,
};
use futures::future::BoxFuture;
use std::collections::HashMap;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Whether what this process needs beside itself is there. To be answered within seconds.
pub type Ready = Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

/// Who we are.
#[derive(Clone)]
pub struct IdentityService {
    name: String,
    ready: Ready,
}

impl IdentityService {
    /// Under the driver name `name`.
    pub fn new(name: String, ready: Ready) -> Self {
        IdentityService { name, ready }
    }
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn get_plugin_info(
        &self,
        _request: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: self.name.clone(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: HashMap::new(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _request: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        let service = Type::Service(Service { r#type: ServiceType::ControllerService.into() });
        let expansion = Type::VolumeExpansion(VolumeExpansion { r#type: ExpansionType::Online.into() });
        let capability = |of| PluginCapability { r#type: Some(of) };
        Ok(Response::new(GetPluginCapabilitiesResponse {
            capabilities: [service, expansion].map(capability).into(),
        }))
    }

    async fn probe(&self, _request: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        // Not an error: those who wait for a plugin (the sidecars) wait on, and end at an error. A share that is away is the
        // calls' own error, with its reason: others may be there.
        Ok(Response::new(ProbeResponse { ready: Some((self.ready)().await) }))
    }
}
