//! The data plane: share mounts and storage daemons that outlive an upgrade of the driver.
