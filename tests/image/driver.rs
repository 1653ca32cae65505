//! The driver's three roles in their containers, and its clients.

use crate::calls::{create_request, mount};
use crate::cluster::Cluster;
use crate::container::{Container, Spec};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use strata::rpc::csi::Volume;
use strata::rpc::csi::controller_client::ControllerClient;
use strata::rpc::csi::node_client::NodeClient;
use strata::rpc::uds;
use tonic::Code;
use tonic::transport::Channel;

/// Longer than a restore of a small volume takes on a busy machine.
const RESTORE: Duration = Duration::from_secs(300);

pub struct Driver {
    // Dropped in this order: nobody loses what they stand on.
    pub controller: Container,
    pub node: Container,
    pub data: Container,
    pub cluster: Cluster,
}

impl Driver {
    /// Starts all roles as the chart says; the controller's container may be changed before.
    pub fn start(change: impl FnOnce(&Cluster, &mut Spec)) -> Driver {
        let cluster = Cluster::new();
        let data = cluster.start_data();
        let mut node = cluster.start(&cluster.spec("node"));
        let mut spec = cluster.spec("controller");
        change(&cluster, &mut spec);
        let mut controller = cluster.start(&spec);
        node.until("serving", |_| serves(&cluster.node_socket()));
        controller.until("serving", |_| serves(&cluster.controller_socket()));
        Driver { controller, node, data, cluster }
    }

    /// A folder for pods' paths.
    pub fn path(&self, name: &str) -> PathBuf {
        let pods = self.cluster.pods();
        std::fs::create_dir_all(&pods).unwrap();
        pods.join(name)
    }

    pub fn controller(&self) -> ControllerClient<Channel> {
        ControllerClient::new(uds::channel(&self.cluster.controller_socket()).unwrap())
    }

    pub fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(uds::channel(&self.cluster.node_socket()).unwrap())
    }

    /// A volume from a backup: asked for until it is whole, as the sidecar does.
    pub async fn restore(&self, name: &str, handle: &str) -> Volume {
        let deadline = Instant::now() + RESTORE;
        loop {
            match self.create_from(name, handle).await {
                Ok(volume) => return volume,
                Err(status) if status.code() == Code::Aborted && Instant::now() < deadline => {}
                Err(status) => panic!("{status}\n{}", self.controller.last_words()),
            }
        }
    }

    /// Waits until the driver has taken up its share: the first call that a sidecar would make.
    pub async fn first_volume(&self, name: &str) -> String {
        let deadline = Instant::now() + RESTORE;
        loop {
            match self.create(create_request(name)).await {
                Ok(volume) => return volume.volume_id,
                Err(status) if status.code() == Code::Unavailable && Instant::now() < deadline => {}
                Err(status) => panic!("{status}\n{}", self.controller.last_words()),
            }
        }
    }

    /// From nothing to a filesystem in a pod.
    pub async fn up(&self, volume: &str, name: &str) -> (PathBuf, PathBuf) {
        self.bring_up(volume, name, mount("ext4")).await
    }
}

fn serves(socket: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}
