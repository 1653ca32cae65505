//! qemu-img: making, checking, converting and comparing images whose chain nobody may guess.

use super::format::{Format, ImageRef};
use crate::host::exec::{self, ExecError};
use serde_json::{Value, json};
use snafu::{OptionExt, ResultExt, Snafu, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// Whether the space of a new raw image is taken at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preallocation {
    /// Sparse.
    Off,
    /// Fully allocated, written with zeros.
    Full,
}

/// What to make.
#[derive(Clone, Debug)]
pub struct Create {
    /// Format of the new file.
    pub format: Format,
    /// Size of the disk, in bytes.
    pub size: u64,
    /// Of the new file.
    pub preallocation: Preallocation,
    /// Name relative to the new file's folder, and format. Not opened: it may be open elsewhere.
    pub backing: Option<(String, Format)>,
}

/// What `qemu-img check` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckReport {
    /// Neither leaks nor corruptions, and no error while checking.
    pub ok: bool,
    /// Clusters that nothing refers to: lost space, no lost data.
    pub leaks: u64,
    /// Damage.
    pub corruptions: u64,
}

/// Why a qemu-img call failed.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
pub enum QemuImgError {
    /// The new file is there already.
    #[snafu(display("{} exists already: an image is never made over a file", path.display()))]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// qemu-img ended with an error.
    #[snafu(display("failed to {action} {}: {source}", path.display()))]
    Run {
        /// The verb.
        action: &'static str,
        /// The image.
        path: PathBuf,
        /// Cause.
        source: ExecError,
    },
    /// It ended well but printed something unexpected.
    #[snafu(display("qemu-img {action} of {} printed something unexpected: {text}", path.display()))]
    Output {
        /// The verb.
        action: &'static str,
        /// The image.
        path: PathBuf,
        /// What it printed.
        text: String,
    },
    /// A path that cannot be written into JSON.
    #[snafu(display("{} is no valid UTF-8", path.display()))]
    NotText {
        /// The path.
        path: PathBuf,
    },
    /// No layers were given.
    #[snafu(display("a chain without a layer cannot be read"))]
    EmptyChain,
}

/// The qemu-img program.
#[derive(Clone, Debug)]
pub struct QemuImg {
    program: PathBuf,
}

/// For calls that read or write only metadata.
const QUICK: Duration = Duration::from_secs(60);

impl QemuImg {
    /// `program` is a path, or a name to be found on PATH.
    pub fn new(program: PathBuf) -> Self {
        QemuImg { program }
    }

    pub(super) fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(verb);
        command
    }

    /// Makes an image at `path`, which must not exist; the caller gives it a temporary name and renames
    /// it, for a crash leaves a part of it behind. `limit` matters for full preallocation.
    pub fn create(&self, path: &Path, create: &Create, limit: Duration) -> Result<(), QemuImgError> {
        // qemu-img would truncate it.
        ensure!(std::fs::symlink_metadata(path).is_err(), ExistsSnafu { path });
        let mut command = self.command("create");
        command.args(["-q", "-f", create.format.driver()]);
        if let Some((name, format)) = &create.backing {
            command.args(["-u", "-F", format.driver(), "-b", name]);
        }
        let preallocation = match create.preallocation {
            Preallocation::Off => "off",
            Preallocation::Full => "full",
        };
        let mut options = vec![format!("preallocation={preallocation}")];
        if create.format == Format::Qcow2 {
            // Features that imago cannot read stay off whatever this QEMU's defaults are.
            options.push("compat=1.1,compression_type=zlib,extended_l2=off,lazy_refcounts=off".to_owned());
        }
        command.args(["-o", &options.join(",")]).arg("--").arg(path).arg(create.size.to_string());
        exec::run_ok(command, limit).context(RunSnafu { action: "create", path })?;
        Ok(())
    }

    /// Checks one file's metadata. Raw images have none, and are fine.
    pub fn check(&self, path: &Path, format: Format, limit: Duration) -> Result<CheckReport, QemuImgError> {
        if format == Format::Raw {
            return Ok(CheckReport { ok: true, leaks: 0, corruptions: 0 });
        }
        let image = ImageRef { path: path.to_path_buf(), format };
        let mut command = self.command("check");
        // Without its backing files: they are checked on their own, and may be in use.
        command.arg("--output=json").arg(name_of(&[image])?);
        let output = exec::run(command, limit).context(RunSnafu { action: "check", path })?;
        // 2: corrupt, 3: leaks; anything else but 0 means that it could not be checked.
        ensure!(matches!(output.status.code(), Some(0 | 2 | 3)), unexpected("check", path, &output));
        let report: Value = serde_json::from_slice(&output.stdout)
            .ok()
            .with_context(|| unexpected("check", path, &output))?;
        let count = |key: &str| report.get(key).and_then(Value::as_u64).unwrap_or(0);
        let (leaks, corruptions, errors) = (count("leaks"), count("corruptions"), count("check-errors"));
        Ok(CheckReport {
            ok: output.status.success() && leaks + corruptions + errors == 0,
            leaks,
            corruptions,
        })
    }

    /// Makes the disk of a qcow2 image (the top of its chain) larger. Takes QEMU's locks: nobody else may write to it.
    pub fn grow(&self, chain: &[ImageRef], size: u64) -> Result<(), QemuImgError> {
        let path = &chain.first().context(EmptyChainSnafu)?.path;
        let mut command = self.command("resize");
        // With its backing files: what they hold past the old end must not come to light.
        command.args(["-q", "--", &name_of(chain)?, &size.to_string()]);
        exec::run_ok(command, QUICK).context(RunSnafu { action: "grow", path })?;
        Ok(())
    }

    /// Copies what a chain (top first) reads back into one new file.
    pub fn convert(
        &self,
        chain: &[ImageRef],
        to: &Path,
        format: Format,
        limit: Duration,
    ) -> Result<(), QemuImgError> {
        ensure!(std::fs::symlink_metadata(to).is_err(), ExistsSnafu { path: to });
        let mut command = self.command("convert");
        // The default, unsafe, would leave the copy in the page cache when qemu-img ends.
        command.args(["-q", "-t", "writeback", "-O", format.driver()]).arg(name_of(chain)?).arg(to);
        exec::run_ok(command, limit).context(RunSnafu { action: "convert to", path: to })?;
        Ok(())
    }

    /// Whether two chains (top first) read back the same bytes. A longer one differs unless its
    /// surplus is zeros.
    pub fn compare(
        &self,
        one: &[ImageRef],
        other: &[ImageRef],
        limit: Duration,
    ) -> Result<bool, QemuImgError> {
        let path = &one.first().context(EmptyChainSnafu)?.path;
        let mut command = self.command("compare");
        command.arg("-q").args([name_of(one)?, name_of(other)?]);
        let output = exec::run(command, limit).context(RunSnafu { action: "compare", path })?;
        match output.status.code() {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ => Err(unexpected("compare", path, &output).build()),
        }
    }

    /// Rewrites the backing reference of an image that nobody has open; its data stays as it is.
    pub fn rebase_unsafe(
        &self,
        path: &Path,
        format: Format,
        backing: &str,
        backing_format: Format,
    ) -> Result<(), QemuImgError> {
        let mut command = self.command("rebase");
        command.args(["-q", "-u", "-f", format.driver(), "-F", backing_format.driver(), "-b", backing]);
        command.arg("--").arg(path);
        exec::run_ok(command, QUICK).context(RunSnafu { action: "rebase", path })?;
        Ok(())
    }

    /// The program's version line.
    pub fn version(&self) -> Result<String, QemuImgError> {
        let (action, path) = ("ask the version of", &self.program);
        let mut command = Command::new(&self.program);
        command.arg("--version");
        let output = exec::run_ok(command, QUICK).context(RunSnafu { action, path })?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }
}

pub(super) fn unexpected(
    action: &'static str,
    path: &Path,
    output: &Output,
) -> OutputSnafu<&'static str, PathBuf, String> {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let text = format!("{}; {} {}", output.status, stdout.trim(), stderr.trim());
    OutputSnafu { action, path: path.to_path_buf(), text }
}

/// The whole chain with explicit drivers, read-only: what stands in the headers is not looked at.
fn layer_tree(chain: &[ImageRef]) -> Result<Value, QemuImgError> {
    ensure!(!chain.is_empty(), EmptyChainSnafu);
    let mut tree = Value::Null;
    for layer in chain.iter().rev() {
        let path = layer.path.to_str().with_context(|| NotTextSnafu { path: layer.path.clone() })?;
        let file = json!({ "driver": "file", "filename": path });
        tree = match layer.format {
            Format::Raw => json!({ "driver": "raw", "file": file }),
            Format::Qcow2 => json!({ "driver": "qcow2", "file": file, "backing": tree }),
        };
    }
    Ok(tree)
}

/// A file name that is a whole tree of block drivers: nothing is left for QEMU to probe.
pub(super) fn name_of(chain: &[ImageRef]) -> Result<String, QemuImgError> {
    Ok(format!("json:{}", layer_tree(chain)?))
}

#[cfg(test)]
#[path = "qemu_img_tests.rs"]
mod tests;
