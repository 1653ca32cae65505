//! The objects that operators see, and those of others that are read.

pub mod backup;
pub mod repository;
pub mod schedule;
pub mod size;
pub mod snapshot;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps,
};
use kube::CustomResourceExt;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// One aspect of an object's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which aspect.
    #[serde(rename = "type")]
    pub kind: String,
    /// True, False or Unknown.
    pub status: String,
    /// Why, in one word.
    pub reason: String,
    /// Why, in words.
    pub message: String,
    /// Since when.
    #[schemars(schema_with = "time")]
    pub last_transition_time: Timestamp,
}

/// Sets one condition; its time changes only with its status.
pub fn set_condition(conditions: &mut Vec<Condition>, kind: &str, status: bool, reason: &str, message: &str) {
    let status = if status { "True" } else { "False" };
    let since = conditions.iter().find(|known| known.kind == kind && known.status == status);
    let last_transition_time = since.map_or_else(Timestamp::now, |known| known.last_transition_time);
    conditions.retain(|known| known.kind != kind);
    conditions.push(Condition {
        kind: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time,
    });
}

/// How a time looks in a schema.
fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time", "nullable": true})
}

/// The definitions that Strata brings along.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    let mut repository = repository::BackupRepository::crd();
    demand_one_kind_of_store(&mut repository);
    vec![repository, schedule::BackupSchedule::crd(), backup::VolumeBackup::crd()]
}

/// What the types cannot say: one of two, and names that fit into a handle.
fn demand_one_kind_of_store(definition: &mut CustomResourceDefinition) {
    for version in &mut definition.spec.versions {
        let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        let Some(properties) = schema.and_then(|schema| schema.properties.as_mut()) else { continue };
        if let Some(spec) = properties.get_mut("spec") {
            let only = |field: &str| JSONSchemaProps {
                required: Some(vec![field.to_owned()]),
                ..JSONSchemaProps::default()
            };
            spec.one_of = Some(vec![only("s3"), only("directory")]);
            spec.properties
                .as_mut()
                .and_then(|all| all.get_mut("s3"))
                .into_iter()
                .for_each(|s3| s3.nullable = None);
            spec.properties
                .as_mut()
                .and_then(|all| all.get_mut("directory"))
                .into_iter()
                .for_each(|directory| directory.nullable = None);
        }
        let name = JSONSchemaProps {
            type_: Some("string".to_owned()),
            max_length: Some(40),
            ..JSONSchemaProps::default()
        };
        let metadata = JSONSchemaProps {
            type_: Some("object".to_owned()),
            properties: Some([("name".to_owned(), name)].into()),
            ..JSONSchemaProps::default()
        };
        properties.insert("metadata".to_owned(), metadata);
    }
}

/// The files of the chart's `crds` folder: name and text.
pub fn files() -> Result<Vec<(String, String)>, serde_saphyr::SerializeError> {
    let one = |definition: &CustomResourceDefinition| {
        let name = format!("{}.yaml", definition.metadata.name.as_deref().unwrap_or_default());
        Ok((name, serde_saphyr::to_string(definition)?))
    };
    definitions().iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn walk(at: &str, schema: &Value, check: &mut impl FnMut(&str, &Value)) {
        check(at, schema);
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            walk(&format!("{at}.{name}"), inner, check);
        }
        if schema["items"].is_object() {
            walk(&format!("{at}[]"), &schema["items"], check);
        }
    }

    /// As the API server demands it: a type everywhere, and nothing that only newer servers know.
    #[test]
    fn schemas_are_structural() {
        for definition in definitions() {
            let definition = serde_json::to_value(definition).unwrap();
            let version = &definition["spec"]["versions"][0];
            let mut seen = 0;
            walk("", &version["schema"]["openAPIV3Schema"], &mut |at, schema| {
                seen += 1;
                assert!(schema["type"].is_string(), "{at}: {schema}");
                assert!(schema["x-kubernetes-validations"].is_null(), "{at}: CEL");
                assert!(schema["anyOf"].is_null(), "{at}: {schema}");
            });
            assert!(seen > 10);
            assert!(version["subresources"]["status"].is_object());
            assert!(version["additionalPrinterColumns"].as_array().unwrap().len() > 3);
            assert!(!definition["spec"]["names"]["shortNames"].as_array().unwrap().is_empty());
        }
    }
}
