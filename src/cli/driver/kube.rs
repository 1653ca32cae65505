//! How Kubernetes' API is reached.

use crate::kube::KubeRepositories;
use ::kube::config::{KubeConfigOptions, Kubeconfig};
use ::kube::{Client, Config};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::path::PathBuf;

/// Where a pod finds its namespace.
const OWN_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// How Kubernetes' API is reached, and where Strata runs in it.
#[derive(Clone, Debug, Args)]
pub struct KubeArgs {
    /// How the API is reached; by default as a pod does it.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The namespace that Strata runs in, with the repositories' Secrets and the Lease; by default the pod's own.
    #[arg(long, env = "STRATA_NAMESPACE", value_name = "NAME")]
    namespace: Option<String>,
}

impl KubeArgs {
    /// The namespace that Strata runs in.
    pub fn own_namespace(&self) -> Result<String> {
        if let Some(namespace) = &self.namespace {
            return Ok(namespace.clone());
        }
        let found = std::fs::read_to_string(OWN_NAMESPACE)
            .with_context(|| format!("no --namespace is given, and {OWN_NAMESPACE} cannot be read"))?;
        let found = found.trim();
        ensure!(!found.is_empty(), "{OWN_NAMESPACE} is empty: give --namespace");
        Ok(found.to_owned())
    }

    /// Whether there is an API to ask.
    pub fn is_there(&self) -> bool {
        self.kubeconfig.is_some() || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
    }

    /// Repositories as the cluster's objects say.
    pub async fn repositories(&self) -> Result<KubeRepositories> {
        let namespace = self.own_namespace()?;
        Ok(KubeRepositories::new(self.client().await?, &namespace))
    }

    /// The API, as the file says or as a pod reaches it.
    pub async fn client(&self) -> Result<Client> {
        let config = match &self.kubeconfig {
            None => Config::incluster().context("this is no pod: give --kubeconfig")?,
            Some(path) => {
                let read =
                    Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?;
                Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                    .await
                    .with_context(|| format!("{} names no API server", path.display()))?
            }
        };
        Client::try_from(config).context("the client of the API cannot be set up")
    }
}
