//! Strata's own objects in Kubernetes, and what works on them: backups that are started by snapshots.

pub mod crd;
