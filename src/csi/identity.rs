//! The Identity service.

use crate::rpc::csi::identity_server::Identity;
use crate::rpc::csi::plugin_capability::service::Type as ServiceType;
use crate::rpc::csi::plugin_capability::volume_expansion::Type as ExpansionType;
use crate::rpc::csi::plugin_capability::{Service, Type, VolumeExpansion};
use crate::rpc::csi::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest, GetPluginInfoResponse,
    PluginCapability, ProbeRequest, ProbeResponse,
};
use std::collections::HashMap;
use tonic::{Request, Response, Status};

/// Who we are.
#[derive(Clone, Debug)]
pub struct IdentityService {
    name: String,
}

impl IdentityService {
    /// Under the driver name `name`.
    pub fn new(name: String) -> Self {
        IdentityService { name }
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
        // A share that is away is the calls' error, with its reason; restarting this process would not heal it.
        Ok(Response::new(ProbeResponse { ready: Some(true) }))
    }
}
