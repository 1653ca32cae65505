//! Recording fakes of the host's effects, for unit tests of what stands on them.

use super::device::DevNumber;
use super::growfs::{GrowError, Grower};
use super::loopdev::{LoopDevice, LoopDevices, LoopError, LoopOptions};
use super::mkfs::{Content, Formatter, MkfsError};
use super::mount::{FsType, MountError, MountInfo, Mounter};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A host that is only a table: every call is recorded as one line of text.
#[derive(Debug, Default)]
pub struct FakeHost {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<String>,
    mounts: BTreeMap<PathBuf, MountInfo>,
    loops: BTreeMap<PathBuf, PathBuf>,
    contents: BTreeMap<PathBuf, Content>,
    made: u32,
}

impl FakeHost {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every call so far, in order.
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// From now on a probe of `device` answers this; without it a device is blank.
    pub fn set_content(&self, device: &Path, content: Content) {
        self.state().contents.insert(device.to_path_buf(), content);
    }

    /// Everything that is mounted.
    pub fn mounted(&self) -> Vec<PathBuf> {
        self.state().mounts.keys().cloned().collect()
    }
}

impl State {
    fn add_mount(&mut self, source: &Path, target: &Path, fs_type: &str, options: Vec<String>) {
        self.made += 1;
        let (target, source) = (target.to_path_buf(), source.to_path_buf());
        let (dev, root) = (DevNumber { major: 7, minor: self.made }, PathBuf::from("/"));
        let info =
            MountInfo { target: target.clone(), source, fs_type: fs_type.to_owned(), dev, root, options };
        self.mounts.insert(target, info);
    }
}

impl Mounter for FakeHost {
    fn mount(&self, device: &Path, target: &Path, fs: FsType, flags: &[String]) -> Result<(), MountError> {
        let mut state = self.state();
        state.calls.push(format!("mount {} {} {fs} {}", device.display(), target.display(), flags.join(",")));
        state.add_mount(device, target, fs.name(), flags.to_vec());
        Ok(())
    }

    fn bind(&self, source: &Path, target: &Path, readonly: bool) -> Result<(), MountError> {
        let mut state = self.state();
        let mode = if readonly { "ro" } else { "rw" };
        state.calls.push(format!("bind {} {} {mode}", source.display(), target.display()));
        state.add_mount(source, target, "bind", vec![mode.to_owned()]);
        Ok(())
    }

    fn unmount(&self, target: &Path) -> Result<(), MountError> {
        let mut state = self.state();
        state.calls.push(format!("unmount {}", target.display()));
        state.mounts.remove(target);
        Ok(())
    }

    fn find(&self, target: &Path) -> Result<Option<MountInfo>, MountError> {
        Ok(self.state().mounts.get(target).cloned())
    }
}

impl LoopDevices for FakeHost {
    fn attach(&self, file: &Path, options: LoopOptions) -> Result<LoopDevice, LoopError> {
        let mut state = self.state();
        state.calls.push(format!("loop attach {} {options:?}", file.display()));
        state.made += 1;
        let path = PathBuf::from(format!("/dev/loop{}", state.made));
        state.loops.insert(path.clone(), file.to_path_buf());
        Ok(LoopDevice { path })
    }

    fn arm_autoclear(&self, device: &LoopDevice) -> Result<(), LoopError> {
        self.state().calls.push(format!("loop autoclear {}", device.path.display()));
        Ok(())
    }

    fn find_by_backing(&self, file: &Path) -> Result<Vec<LoopDevice>, LoopError> {
        let state = self.state();
        let of_file = state.loops.iter().filter(|(_, backing)| *backing == file);
        Ok(of_file.map(|(path, _)| LoopDevice { path: path.clone() }).collect())
    }

    fn detach(&self, file: &Path) -> Result<(), LoopError> {
        let mut state = self.state();
        state.calls.push(format!("loop detach {}", file.display()));
        state.loops.retain(|_, backing| backing != file);
        Ok(())
    }

    fn refresh_size(&self, device: &LoopDevice) -> Result<u64, LoopError> {
        let mut state = self.state();
        state.calls.push(format!("loop refresh {}", device.path.display()));
        let file = state.loops.get(&device.path).cloned().unwrap_or_default();
        Ok(std::fs::metadata(file).map(|meta| meta.len()).unwrap_or(0))
    }
}

impl Formatter for FakeHost {
    fn probe(&self, device: &Path) -> Result<Content, MkfsError> {
        Ok(self.state().contents.get(device).cloned().unwrap_or(Content::Blank))
    }

    fn make(&self, device: &Path, fs: FsType, options: &[String], force: bool) -> Result<(), MkfsError> {
        let mut state = self.state();
        state.calls.push(format!("mkfs {fs} {} {} {force}", device.display(), options.join(" ")));
        state.contents.insert(device.to_path_buf(), Content::Filesystem(fs.name().to_owned()));
        Ok(())
    }
}

/// Every filesystem fills its device.
impl Grower for FakeHost {
    fn wants_growth(&self, _device: &Path, _fs: FsType) -> Result<bool, GrowError> {
        Ok(false)
    }

    fn check(&self, device: &Path) -> Result<(), GrowError> {
        self.state().calls.push(format!("e2fsck {}", device.display()));
        Ok(())
    }

    fn grow_unmounted(&self, device: &Path) -> Result<(), GrowError> {
        self.state().calls.push(format!("grow {}", device.display()));
        Ok(())
    }

    fn grow_mounted(&self, device: &Path, mounted_at: &Path, fs: FsType) -> Result<(), GrowError> {
        self.state().calls.push(format!("grow {} {} {fs}", device.display(), mounted_at.display()));
        Ok(())
    }
}
