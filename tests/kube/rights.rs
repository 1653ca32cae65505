//! K14: the chart's rights are enough for `strata backup serve`, and for nothing else.

use crate::apiserver::ApiServer;
use crate::helm::rendered;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

/// Where the chart is installed.
pub const NAMESPACE: &str = "strata-system";
/// Has the rights for backups alone; the chart's own account has the sidecars' besides.
pub const ACCOUNT: &str = "backup-alone";

const KINDS: [&str; 6] = [
    "ServiceAccount",
    "CustomResourceDefinition",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
];

/// Applies what the chart says of rights and definitions, and gives an account the rights of backups alone.
pub async fn apply_chart(server: &ApiServer, values: &str) {
    server.namespace(NAMESPACE).await;
    for manifest in rendered(values).iter().filter(|manifest| KINDS.contains(&manifest.kind.as_str())) {
        server.apply(&manifest.at("").to_string()).await;
    }
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": ACCOUNT, "namespace": NAMESPACE}});
    server.apply(&account.to_string()).await;
    for kind in ["Role", "ClusterRole"] {
        server.apply(&binding(kind).to_string()).await;
    }
}

fn binding(role: &str) -> Value {
    let mut binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": format!("{role}Binding"),
        "metadata": {"name": ACCOUNT},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": "strata-backup"},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}],
    });
    if role == "Role" {
        binding["metadata"]["namespace"] = NAMESPACE.into();
    }
    binding
}

/// A question: `VERBS GROUP/RESOURCE[/SUBRESOURCE] [NAMESPACE[/NAME]]`.
async fn may(client: &Client, question: &str) -> Vec<(String, bool)> {
    let words: Vec<&str> = question.split(' ').collect();
    let (verbs, kind) = (words[0], words[1]);
    let mut parts = kind.split('/').map(str::to_owned);
    let place = words.get(2).copied().unwrap_or("shop");
    let (namespace, name) = place.split_once('/').map_or((place, None), |(space, name)| (space, Some(name)));
    let attributes = ResourceAttributes {
        group: parts.next(),
        resource: parts.next(),
        subresource: parts.next(),
        namespace: Some(namespace.to_owned()),
        name: name.map(str::to_owned),
        ..Default::default()
    };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut answers = Vec::new();
    for verb in verbs.split(',') {
        let asked = ResourceAttributes { verb: Some(verb.to_owned()), ..attributes.clone() };
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(asked), ..Default::default() };
        let review = SelfSubjectAccessReview { spec, ..Default::default() };
        let answer = reviews.create(&PostParams::default(), &review).await.expect("everybody may ask");
        answers.push((format!("{verb} {kind} {place}"), answer.status.expect("an answer").allowed));
    }
    answers
}

async fn expect(client: &Client, allowed: bool, questions: &[&str]) {
    for question in questions {
        for (asked, answer) in may(client, question).await {
            assert_eq!(answer, allowed, "{asked}");
        }
    }
}

const NEEDED: [&str; 13] = [
    "get,list,watch,create,patch,delete snapshot.storage.k8s.io/volumesnapshots",
    "list,watch snapshot.storage.k8s.io/volumesnapshotclasses",
    "get snapshot.storage.k8s.io/volumesnapshotcontents",
    "get,list /persistentvolumeclaims",
    "get /persistentvolumes",
    "create,patch events.k8s.io/events",
    "get,list,watch,create,patch,delete strata.dev/volumebackups",
    "get,list,watch strata.dev/backuprepositories",
    "get,list,watch strata.dev/backupschedules",
    "patch strata.dev/volumebackups/status",
    "patch strata.dev/backuprepositories/status",
    "patch strata.dev/backupschedules/status",
    "get,update coordination.k8s.io/leases strata-system/strata-backup",
];

const REFUSED: [&str; 20] = [
    "list,watch,create,update,patch,delete /secrets strata-system",
    "get,list,watch /secrets",
    "get,list,watch /secrets kube-system",
    "get,update,patch,delete coordination.k8s.io/leases strata-system/csi-provisioner",
    "get,update,create coordination.k8s.io/leases kube-system/kube-scheduler",
    "get,list,create,delete /pods",
    "create /pods/exec",
    "create /pods/eviction",
    "get,list,update,patch,delete /nodes",
    "get,list,create,update /configmaps",
    "create,update,patch,delete,deletecollection /persistentvolumeclaims",
    "list,create,update,patch,delete /persistentvolumes",
    "create,update,patch,delete snapshot.storage.k8s.io/volumesnapshotcontents",
    "patch,update snapshot.storage.k8s.io/volumesnapshots/status",
    "deletecollection snapshot.storage.k8s.io/volumesnapshots",
    "create,update,patch,delete strata.dev/backuprepositories",
    "create,update,patch,delete strata.dev/backupschedules",
    "create /serviceaccounts/token strata-system",
    "create,update,patch,bind,escalate rbac.authorization.k8s.io/clusterroles",
    "create,update,patch,delete apiextensions.k8s.io/customresourcedefinitions",
];

#[tokio::test]
async fn backups_have_the_rights_that_they_need_and_no_others() {
    let server = ApiServer::start().await;
    apply_chart(&server, "shares").await;
    let client = server.client_of(NAMESPACE, ACCOUNT).await;
    expect(&client, true, &NEEDED).await;
    expect(
        &client,
        true,
        &["get /secrets strata-system/any", "create coordination.k8s.io/leases strata-system"],
    )
    .await;
    expect(&client, false, &REFUSED).await;
    // The chart's own account has them as well.
    expect(&server.client_of(NAMESPACE, "strata-controller").await, true, &NEEDED).await;
    for other in ["strata-node", "strata-data"] {
        let client = server.client_of(NAMESPACE, other).await;
        expect(&client, false, &["get /secrets strata-system/any", "get,list strata.dev/volumebackups"])
            .await;
    }
}

#[tokio::test]
async fn only_secrets_that_are_named_are_read_where_names_are_given() {
    let server = ApiServer::start().await;
    apply_chart(&server, "everything").await;
    let client = server.client_of(NAMESPACE, ACCOUNT).await;
    expect(&client, true, &["get /secrets strata-system/off-site-credentials"]).await;
    expect(&client, false, &["get /secrets strata-system/strata-controller-tls"]).await;
}
