//! The cluster, as its operator speaks to it.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(300);
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// kubectl with one kubeconfig and one namespace.
#[derive(Clone)]
pub struct Kubectl {
    kubeconfig: PathBuf,
    namespace: String,
}

impl Kubectl {
    pub fn new(kubeconfig: &Path, namespace: &str) -> Kubectl {
        Kubectl { kubeconfig: kubeconfig.to_owned(), namespace: namespace.to_owned() }
    }

    /// The same for another namespace.
    pub fn within(&self, namespace: &str) -> Kubectl {
        Kubectl { namespace: namespace.to_owned(), ..self.clone() }
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.env("KUBECONFIG", &self.kubeconfig).args(["-n", &self.namespace]).args(arguments);
        command
    }

    /// What kubectl prints.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(arguments);
        let output =
            command.stdin(Stdio::null()).output().context("kubectl does not start: is it installed?")?;
        said(&format!("kubectl {}", arguments.join(" ")), output)
    }

    /// The same with a text as its input.
    pub fn feed(&self, arguments: &[&str], text: &str) -> Result<String> {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("kubectl does not start: is it installed?")?;
        child.stdin.take().expect("a pipe").write_all(text.as_bytes())?;
        said(&format!("kubectl {}", arguments.join(" ")), child.wait_with_output()?)
    }

    pub fn apply(&self, object: &Value) -> Result<()> {
        self.feed(&["apply", "-f", "-"], &object.to_string()).map(drop)
    }

    /// An object, if it is there.
    pub fn find(&self, kind: &str, name: &str) -> Result<Option<Value>> {
        let text = self.run(&["get", kind, name, "--ignore-not-found", "-o", "json"])?;
        if text.trim().is_empty() { Ok(None) } else { Ok(Some(serde_json::from_str(&text)?)) }
    }

    pub fn get(&self, kind: &str, name: &str) -> Result<Value> {
        self.find(kind, name)?.with_context(|| format!("there is no {kind} {name}"))
    }

    /// All objects of a kind; of a namespaced one those of this namespace.
    pub fn list(&self, kind: &str) -> Result<Vec<Value>> {
        let list: Value = serde_json::from_str(&self.run(&["get", kind, "-o", "json"])?)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until an object is as it should be. What never comes is told with the object's last state and events.
    pub fn wait<T>(
        &self,
        kind: &str,
        name: &str,
        what: &str,
        look: impl Fn(&Value) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let object = self.find(kind, name)?;
            if let Some(found) = object.as_ref().and_then(&look) {
                return Ok(found);
            }
            if Instant::now() > deadline {
                let described = self.run(&["describe", kind, name]).unwrap_or_else(|error| error.to_string());
                bail!("{kind} {name} is not {what} after {LIMIT:?}:\n{described}");
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Deletes an object, or `--all` of the namespace, and waits until they are gone.
    pub fn delete(&self, kind: &str, name: &str) -> Result<()> {
        let limit = format!("--timeout={}s", LIMIT.as_secs());
        let deleted = self.run(&["delete", kind, name, "--ignore-not-found", &limit]);
        deleted.map(drop).or_else(|error| {
            let described = self.run(&["describe", kind]).unwrap_or_default();
            bail!("{error:#}\n{described}")
        })
    }
}

/// The output of a program that has to succeed.
pub fn said(what: &str, output: Output) -> Result<String> {
    let error = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{what}: {}: {text}{error}", output.status);
    Ok(text)
}

/// Waits for what is no object.
pub fn eventually(what: &str, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !look()? {
        ensure!(Instant::now() < deadline, "{what}: not after {LIMIT:?}");
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}
