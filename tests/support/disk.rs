//! A storage daemon, its images and its device, all taken down when the test ends, also by a panic.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use strata::attach::{Access, Backend, Device, FuseLoop};
use strata::host::loopdev::KernelLoops;
use strata::host::mount::{LinuxMounter, Mounter};
use strata::image::qemu_img::{Create, Preallocation};
use strata::image::{Format, ImageRef, QemuImg};
use strata::qsd::command::{self, Open};
use strata::qsd::qmp::Client;
use strata::qsd::{Daemon, DaemonHost, DaemonName, LocalDaemons};
use tempfile::TempDir;

pub const LIMIT: Duration = Duration::from_secs(60);

/// One node of a cluster in a folder, with one volume's daemon.
pub struct Rig {
    pub daemons: LocalDaemons,
    pub backend: FuseLoop,
    pub img: QemuImg,
    pub name: DaemonName,
    mounts: Vec<PathBuf>,
    pub dir: TempDir,
}

impl Rig {
    pub fn new(program: &Path) -> Rig {
        super::need_root();
        let dir = super::scratch();
        std::fs::create_dir(dir.path().join("share")).unwrap();
        Rig {
            daemons: LocalDaemons::new(program.to_path_buf(), dir.path().join("qsd")),
            backend: FuseLoop::new(Arc::new(KernelLoops), Arc::new(LinuxMounter)),
            img: QemuImg::new(super::qemu_img()),
            name: "volume".parse().unwrap(),
            mounts: Vec::new(),
            dir,
        }
    }

    pub fn image(&self, name: &str, format: Format) -> ImageRef {
        ImageRef { path: self.dir.path().join("share").join(name), format }
    }

    pub fn create(&self, name: &str, format: Format, size: u64, preallocation: Preallocation) -> ImageRef {
        let image = self.image(name, format);
        self.img.create(&image.path, &Create { format, size, preallocation, backing: None }, LIMIT).unwrap();
        image
    }

    pub fn overlay(&self, name: &str, backing: &ImageRef, size: u64) -> ImageRef {
        let image = self.image(name, Format::Qcow2);
        let file = backing.path.file_name().unwrap().to_str().unwrap().to_owned();
        let backing = Some((file, backing.format));
        let create = Create { format: Format::Qcow2, size, preallocation: Preallocation::Off, backing };
        self.img.create(&image.path, &create, LIMIT).unwrap();
        image
    }

    pub fn client(&self, daemon: &Daemon) -> Client {
        Client::connect(&daemon.qmp_socket, LIMIT).unwrap()
    }

    pub fn work_dir(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    /// Daemon, chain and device.
    pub fn attach(&self, chain: &[ImageRef]) -> (Daemon, Device) {
        let daemon = self.daemons.start(&self.name).unwrap();
        let node = command::add_chain(&mut self.client(&daemon), "vol", chain, Open::ReadWrite).unwrap();
        let device =
            self.backend.attach(&daemon, &node, &self.work_dir(), Access { readonly: false }).unwrap();
        (daemon, device)
    }

    /// Undoes [`Rig::attach`] and expects every step to succeed.
    pub fn detach(&self) {
        let daemon = self.daemons.find(&self.name).unwrap();
        self.backend.detach(daemon.as_ref(), &self.work_dir()).unwrap();
        self.daemons.stop(&self.name).unwrap();
    }

    /// A mount point that is unmounted at the end.
    pub fn mount_point(&mut self) -> PathBuf {
        let path = self.dir.path().join(format!("mnt{}", self.mounts.len()));
        std::fs::create_dir(&path).unwrap();
        self.mounts.push(path.clone());
        path
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for mount in self.mounts.iter().rev() {
            let _ = LinuxMounter.unmount(mount);
        }
        let daemon = self.daemons.find(&self.name).ok().flatten();
        let _ = self.backend.detach(daemon.as_ref(), &self.work_dir());
        for daemon in self.daemons.list().unwrap_or_default() {
            let _ = self.daemons.stop(&daemon.name);
        }
        let _ = LinuxMounter.unmount(&self.work_dir().join("image"));
    }
}
