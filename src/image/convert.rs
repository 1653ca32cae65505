//! Copies of whole disks by qemu-img: long, watched, and stopped when asked.

use super::format::{Format, ImageRef};
use super::qemu_img::{EmptyChainSnafu, QemuImg, QemuImgError, RunSnafu, name_of, unexpected};
use crate::host::exec;
use serde_json::Value;
use snafu::{OptionExt, ResultExt};
use std::path::Path;
use std::time::Duration;

/// Some TiB over a slow network. Who waits can stop it before.
const LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);
/// To look where the holes are, not at what is between them.
const LOOK: Duration = Duration::from_secs(600);
/// Features that imago cannot read stay off whatever this QEMU's defaults are.
const PLAIN: &str = "compat=1.1,compression_type=zlib,extended_l2=off,lazy_refcounts=off";

/// A copy to be made.
#[derive(Clone, Copy, Debug)]
pub struct Convert<'a> {
    /// What is read, top first.
    pub chain: &'a [ImageRef],
    /// The file that is written. It is there, so that its mode is the caller's choice.
    pub to: &'a Path,
    /// Its format.
    pub format: Format,
    /// With compressed clusters, qcow2 only.
    pub compress: bool,
    /// The file is an image already, at least as large as what is copied, that reads as zeros.
    pub made: bool,
}

impl QemuImg {
    /// The bytes that a copy of what a chain reads back takes up, holes left out.
    pub fn measure(&self, chain: &[ImageRef]) -> Result<u64, QemuImgError> {
        let (action, path) = ("measure", &chain.first().context(EmptyChainSnafu)?.path);
        let mut command = self.command(action);
        // For raw it would count the holes, too.
        command.args(["--output=json", "-O", Format::Qcow2.driver()]).arg(name_of(chain)?);
        let output = exec::run_ok(command, LOOK).context(RunSnafu { action, path })?;
        let measured: Option<Value> = serde_json::from_slice(&output.stdout).ok();
        let required = measured.and_then(|measured| measured.get("required")?.as_u64());
        required.with_context(|| unexpected(action, path, &output))
    }

    /// Copies what a chain reads back. `go_on` hears which part of it is done, and stops it by "no".
    pub fn convert_watched(
        &self,
        convert: &Convert<'_>,
        go_on: &mut dyn FnMut(f64) -> bool,
    ) -> Result<(), QemuImgError> {
        let mut command = self.command("convert");
        // The default, unsafe, would leave the copy in the page cache when qemu-img ends.
        command.args(["-p", "-t", "writeback", "-O", convert.format.driver()]);
        if convert.made {
            command.args(["-n", "--target-is-zero"]);
        } else if convert.format == Format::Qcow2 {
            command.args(["-o", PLAIN]);
        }
        if convert.compress {
            command.arg("-c");
        }
        command.arg(name_of(convert.chain)?).arg(convert.to);
        let context = RunSnafu { action: "convert to", path: convert.to };
        let output =
            exec::run_watched(command, LIMIT, &mut |printed| go_on(part(printed))).context(context)?;
        exec::succeeded("qemu-img", &output).context(RunSnafu { action: "convert to", path: convert.to })
    }
}

/// The last "(12.34/100%)" that was printed.
fn part(printed: &[u8]) -> f64 {
    let text = String::from_utf8_lossy(&printed[printed.len().saturating_sub(256)..]);
    let number = |text: &str| text.rsplit_once('(')?.1.trim().parse::<f64>().ok();
    text.rsplit_once("/100%)").and_then(|(before, _)| number(before)).unwrap_or(0.0) / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_percentage_counts() {
        assert_eq!(part(b""), 0.0);
        assert_eq!(part(b"    (0.00/100%)\r    (12.50/100%)\r    (13."), 0.125);
        assert_eq!(part(b"    (100.00/100%)\r\n"), 1.0);
    }
}
