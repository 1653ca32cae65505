//! A pod of the chart: its volumes, its environment and its containers, from its specification in the API.

use super::container::{Container, Mount, Spec};
use super::machine::{ADDRESS, Machine, Network};
use super::programs::Programs;
use crate::cluster::RELEASE_NAMESPACE;
use crate::kubectl::Kubectl;
use anyhow::{Context, Result, bail};
use base64::Engine;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub const NODE: &str = "e2e-node";
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Where pods find the API.
pub struct Api {
    pub port: u16,
    pub authority: PathBuf,
}

pub struct Pod {
    pub name: String,
    pub address: String,
    /// What it was started from.
    pub template: Value,
    pub containers: Vec<Container>,
    // After the processes in it.
    _network: Option<Network>,
}

impl Pod {
    pub fn start(
        name: &str,
        template: &Value,
        kubectl: &Kubectl,
        machine: &mut Machine,
        programs: &Programs,
        api: &Api,
    ) -> Result<Pod> {
        let spec = &template["spec"];
        let network = if spec["hostNetwork"] == true { None } else { Some(machine.network(name)?) };
        let address = network.as_ref().map_or(ADDRESS, |network| &network.address).to_owned();
        let folder = machine.path("pods").join(name);
        let mut volumes = volumes(spec, &folder, kubectl)?;
        if spec["automountServiceAccountToken"] == true {
            volumes.insert(ACCOUNT.to_owned(), account(spec, &folder, kubectl, api)?);
        }
        let mut containers = Vec::new();
        for container in list(&spec["containers"]) {
            let container_name = text(&container["name"])?;
            let spec = Spec {
                hostname: name.to_owned(),
                command: programs.command(container)?,
                environment: environment(container, name, &address, programs, api)?,
                mounts: mounts(container, &volumes, programs)?,
                rights: rights(container),
                network: network.as_ref().map(|network| network.name.clone()),
                folder: folder.join("containers").join(&container_name),
                name: container_name,
            };
            containers.push(Container::start(spec)?);
        }
        Ok(Pod { name: name.to_owned(), address, template: template.clone(), containers, _network: network })
    }

    /// As kubelet ends a pod.
    pub fn end(mut self) -> Result<()> {
        let grace = self.template["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
        for container in &self.containers {
            container.tell_to_end();
        }
        for container in &mut self.containers {
            container.ended(Duration::from_secs(grace))?;
        }
        Ok(())
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).with_context(|| format!("{value} is no text"))
}

/// The folder of each volume.
fn volumes(spec: &Value, folder: &Path, kubectl: &Kubectl) -> Result<HashMap<String, PathBuf>> {
    let mut found = HashMap::new();
    for volume in list(&spec["volumes"]) {
        let name = text(&volume["name"])?;
        let own = folder.join("volumes").join(&name);
        let at = if volume.get("emptyDir").is_some() {
            fs::create_dir_all(&own)?;
            own
        } else if let Some(config) = volume.get("configMap") {
            let map = kubectl.get("configmap", &text(&config["name"])?)?;
            write_files(&own, &map["data"], 0o644, |text| Ok(text.as_bytes().to_vec()))?
        } else if let Some(secret) = volume.get("secret") {
            let object = kubectl.get("secret", &text(&secret["secretName"])?)?;
            let mode = secret["defaultMode"].as_u64().unwrap_or(0o644) as u32;
            write_files(&own, &object["data"], mode, |text| {
                Ok(base64::prelude::BASE64_STANDARD.decode(text)?)
            })?
        } else if let Some(host) = volume.get("hostPath") {
            host_path(host)?
        } else {
            bail!("a volume of a kind that this test does not know: {volume}")
        };
        found.insert(name, at);
    }
    Ok(found)
}

fn host_path(host: &Value) -> Result<PathBuf> {
    let path = PathBuf::from(text(&host["path"])?);
    match host["type"].as_str() {
        Some("DirectoryOrCreate") => fs::create_dir_all(&path)?,
        Some("Directory") if !path.is_dir() => bail!("{} is no directory of the node", path.display()),
        _ => {}
    }
    Ok(path)
}

fn write_files(
    folder: &Path,
    data: &Value,
    mode: u32,
    decode: impl Fn(&str) -> Result<Vec<u8>>,
) -> Result<PathBuf> {
    fs::create_dir_all(folder)?;
    for (name, contents) in data.as_object().into_iter().flatten() {
        let path = folder.join(name);
        fs::write(&path, decode(&text(contents)?)?)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    Ok(folder.to_owned())
}

/// A token, as kubelet asks for it.
fn account(spec: &Value, folder: &Path, kubectl: &Kubectl, api: &Api) -> Result<PathBuf> {
    let name = text(&spec["serviceAccountName"])?;
    let path = format!("/api/v1/namespaces/{RELEASE_NAMESPACE}/serviceaccounts/{name}/token");
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}});
    let answer: Value =
        serde_json::from_str(&kubectl.feed(&["create", "--raw", &path, "-f", "-"], &request.to_string())?)?;
    let files = json!({
        "token": answer["status"]["token"],
        "ca.crt": fs::read_to_string(&api.authority)?,
        "namespace": RELEASE_NAMESPACE,
    });
    write_files(&folder.join("account"), &files, 0o644, |text| Ok(text.as_bytes().to_vec()))
}

fn mounts(container: &Value, volumes: &HashMap<String, PathBuf>, programs: &Programs) -> Result<Vec<Mount>> {
    let mut mounts = programs.mounts();
    for mount in list(&container["volumeMounts"]) {
        let volume = text(&mount["name"])?;
        mounts.push(Mount {
            from: volumes.get(&volume).with_context(|| format!("there is no volume {volume}"))?.clone(),
            at: text(&mount["mountPath"])?,
            propagation: mount["mountPropagation"].as_str().unwrap_or("None").to_owned(),
            readonly: mount["readOnly"] == true,
        });
    }
    if let Some(account) = volumes.get(ACCOUNT) {
        let at = ACCOUNT.replacen("/var/run", "/run", 1);
        mounts.push(Mount { from: account.clone(), at, propagation: "None".into(), readonly: true });
    }
    Ok(mounts)
}

/// As container.sh takes them.
fn rights(container: &Value) -> String {
    let context = &container["securityContext"];
    let root = if context["readOnlyRootFilesystem"] == true { "ro" } else { "rw" };
    if context["privileged"] == true {
        return format!("privileged/{root}");
    }
    let add = list(&context["capabilities"]["add"]).iter().filter_map(Value::as_str);
    let names: Vec<String> = add.map(|name| format!("+{}", name.to_lowercase())).collect();
    format!("{}/{root}", names.join(","))
}

fn environment(
    container: &Value,
    pod: &str,
    address: &str,
    programs: &Programs,
    api: &Api,
) -> Result<Vec<(String, String)>> {
    let mut known = programs.environment();
    known.push(("KUBERNETES_SERVICE_HOST".into(), ADDRESS.into()));
    known.push(("KUBERNETES_SERVICE_PORT".into(), api.port.to_string()));
    known.push(("HOSTNAME".into(), pod.to_owned()));
    for variable in list(&container["env"]) {
        let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            Some("spec.nodeName") => NODE.to_owned(),
            Some("status.podIP") => address.to_owned(),
            Some("metadata.namespace") => RELEASE_NAMESPACE.to_owned(),
            Some("metadata.name") => pod.to_owned(),
            Some(other) => bail!("{other} is a field that this test does not know"),
            None => expand(variable["value"].as_str().unwrap_or_default(), &known),
        };
        known.push((text(&variable["name"])?, value));
    }
    Ok(known)
}

/// `$(NAME)` of what was set before.
fn expand(value: &str, known: &[(String, String)]) -> String {
    known.iter().fold(value.to_owned(), |value, (name, is)| value.replace(&format!("$({name})"), is))
}
