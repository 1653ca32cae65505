//! The domain: volumes, their layers and snapshots, and every change to a chain.
