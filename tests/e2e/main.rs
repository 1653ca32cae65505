//! `make e2e`: Strata in a cluster, from its installation to its removal, with the real sidecars. One scenario, on the
//! cluster that KUBECONFIG names, or on one of host processes (docs/e2e.md).

#[path = "../support/apiserver/mod.rs"]
mod apiserver;
mod cluster;
mod hosts;
mod kubectl;
mod objects;
mod real;
mod scenario;
mod steps;
mod workload;

use anyhow::Result;
use cluster::Cluster;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nfailed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut cluster: Box<dyn Cluster> = match std::env::var("E2E_CLUSTER").as_deref() {
        Ok("real") => Box::new(real::Real::new()?),
        _ => Box::new(hosts::Hosts::start()?),
    };
    scenario::run(&mut *cluster).inspect_err(|_| eprintln!("{}", cluster.last_words()))
}
