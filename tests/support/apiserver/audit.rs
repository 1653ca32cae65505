//! What service accounts have asked the API for, as it wrote it down itself.

use super::ApiServer;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// One kind of request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    pub verb: String,
    /// `GROUP/RESOURCE[/SUBRESOURCE]`; the core group has no name.
    pub resource: String,
    pub allowed: bool,
}

/// Accounts' requests, without their bodies.
pub(super) fn policy() -> String {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}],
    })
    .to_string()
}

impl ApiServer {
    /// What a service account has asked for so far.
    pub fn asked(&self, namespace: &str, account: &str) -> BTreeSet<Asked> {
        self.audited(namespace, account).iter().filter_map(asked).collect()
    }

    /// The lists that a service account has asked for so far, as it asked: path and query.
    pub fn lists(&self, namespace: &str, account: &str) -> Vec<String> {
        let events = self.audited(namespace, account);
        let lists = events.iter().filter(|event| event["verb"] == "list");
        lists.filter_map(|event| event["requestURI"].as_str().map(str::to_owned)).collect()
    }

    fn audited(&self, namespace: &str, account: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder().join("audit.log")).unwrap_or_default();
        let name = format!("system:serviceaccount:{namespace}:{account}");
        // The last line may be half written.
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.filter(|event| event["user"]["username"] == *name).collect()
    }
}

/// None: a question about the API itself.
fn asked(event: &Value) -> Option<Asked> {
    let of = |name: &str| event["objectRef"][name].as_str();
    let parts = [Some(of("apiGroup").unwrap_or_default()), Some(of("resource")?), of("subresource")];
    Some(Asked {
        verb: event["verb"].as_str()?.to_owned(),
        resource: parts.into_iter().flatten().collect::<Vec<_>>().join("/"),
        allowed: event["annotations"]["authorization.k8s.io/decision"] == "allow",
    })
}
