//! What images hold: the driver's program and the upstream sidecars.

use super::container::Mount;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// As the chart's values of this cluster have it.
pub const IMAGE: &str = "strata-e2e";
const REMEDY: &str = "E2E_SIDECARS is to be a folder with csi-provisioner, csi-attacher, csi-resizer, csi-snapshotter, \
     snapshot-controller, livenessprobe and csi-node-driver-registrar, and with the snapshot API's definitions in crds/ \
     (docs/e2e.md)";

pub struct Programs {
    sidecars: PathBuf,
    qemu: PathBuf,
}

impl Programs {
    pub fn find() -> Result<Programs> {
        let sidecars = PathBuf::from(std::env::var_os("E2E_SIDECARS").context(REMEDY)?)
            .canonicalize()
            .context(REMEDY)?;
        let qemu =
            std::env::var_os("STRATA_QEMU_IMG").context("STRATA_QEMU_IMG is not set: run `make e2e`")?;
        Ok(Programs { sidecars, qemu: PathBuf::from(qemu).with_file_name("") })
    }

    pub fn sidecar(&self, name: &str) -> Result<PathBuf> {
        let path = self.sidecars.join(name);
        ensure!(path.is_file(), "{} is missing: {REMEDY}", path.display());
        Ok(path)
    }

    pub fn definitions(&self) -> Result<Vec<PathBuf>> {
        let folder = self.sidecars.join("crds");
        let mut found: Vec<PathBuf> =
            std::fs::read_dir(&folder).context(REMEDY)?.flatten().map(|entry| entry.path()).collect();
        found.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
        ensure!(!found.is_empty(), "{} is empty: {REMEDY}", folder.display());
        Ok(found)
    }

    pub fn driver(&self) -> PathBuf {
        PathBuf::from(env!("CARGO_BIN_EXE_strata"))
    }

    /// A container's program and arguments.
    pub fn command(&self, container: &Value) -> Result<Vec<String>> {
        let image = container["image"].as_str().context("a container has an image")?;
        let (repository, tag) = image.rsplit_once(':').unwrap_or((image, ""));
        let name = repository.rsplit('/').next().unwrap_or(repository);
        let program = if name == IMAGE { self.driver() } else { self.sidecar(name)? };
        if name != IMAGE {
            tell_version(&program, tag);
        }
        let arguments = container["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
        Ok(std::iter::once(program.display().to_string()).chain(arguments.map(str::to_owned)).collect())
    }

    /// What every container sees of this machine besides.
    pub fn mounts(&self) -> Vec<Mount> {
        let folder = |path: &Path| path.parent().unwrap_or(path).to_owned();
        // The folder of QEMU's programs is a link to those of one version.
        let qemu = self.qemu.ancestors().nth(2).unwrap_or(&self.qemu).to_owned();
        [self.sidecars.clone(), folder(&self.driver()), qemu]
            .map(|path| Mount {
                at: path.display().to_string(),
                from: path,
                propagation: "None".to_owned(),
                readonly: true,
            })
            .to_vec()
    }

    /// What an image sets; and the mark of the run, by which what is left behind is found.
    pub fn environment(&self) -> Vec<(String, String)> {
        let qemu = |name: &str| self.qemu.join(name).display().to_string();
        let mut variables = vec![
            ("PATH".to_owned(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
            ("STRATA_QEMU_IMG".to_owned(), qemu("qemu-img")),
            ("STRATA_QEMU_STORAGE_DAEMON".to_owned(), qemu("qemu-storage-daemon")),
        ];
        variables.extend(std::env::var("STRATA_RUN").ok().map(|mark| ("STRATA_RUN".to_owned(), mark)));
        variables
    }
}

/// Another one than the chart names is worth knowing; not all of them tell.
fn tell_version(program: &Path, tag: &str) {
    let Ok(output) = Command::new(program).arg("--version").output() else { return };
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && !said.contains(tag) {
        println!("     {}, the chart names {tag}", said.trim());
    }
}
