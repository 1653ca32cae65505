//! Helm, as its users call it.

use crate::manifest::Manifest;
use std::path::PathBuf;
use std::process::Command;

/// A real Helm.
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("HELM") {
        return path.into();
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/ensure-helm");
    let output = Command::new(script).output().expect("scripts/ensure-helm runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "this test needs Helm: {said}");
    String::from_utf8(output.stdout).expect("a path").trim().into()
}

/// Runs Helm; what it says, on success or failure.
pub fn helm(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program()).args(arguments).output().expect("helm runs");
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).expect("text")),
        false => Err(format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

/// The chart's folder.
pub fn chart() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("charts/strata")
}

/// The chart with these files of values and these single values.
pub fn render(files: &[PathBuf], set: &[&str]) -> Result<String, String> {
    let chart = chart();
    let mut arguments = vec!["template", "strata", chart.to_str().expect("UTF-8"), "-n", "strata-system"];
    arguments.extend(["--kube-version", "1.33.0"]);
    for file in files {
        arguments.extend(["-f", file.to_str().expect("UTF-8")]);
    }
    for value in set {
        arguments.extend(["--set", value]);
    }
    helm(&arguments)
}

/// Everything that one of the chart's own examples makes.
pub fn rendered(values: &str) -> Vec<Manifest> {
    let text = render(&[chart().join(format!("ci/{values}-values.yaml"))], &[]).unwrap();
    let documents = text.split("\n---\n").map(|part| part.trim_start_matches("---\n"));
    let full =
        documents.filter(|part| part.lines().any(|line| !line.starts_with('#') && !line.trim().is_empty()));
    full.map(Manifest::parse).collect()
}
