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

/// Whether an object that names a driver, or none, is for the installation of this one.
pub fn is_for(named: Option<&str>, driver: &str) -> bool {
    named.is_none_or(|named| named == driver)
}

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
    root(&mut repository).for_each(demand_one_kind_of_store);
    // Part of a handle, which has 128 bytes.
    root(&mut repository).for_each(|root| limit_name(root, 40));
    let mut schedule = schedule::BackupSchedule::crd();
    // The value of a label.
    root(&mut schedule).for_each(|root| limit_name(root, 63));
    vec![repository, schedule, backup::VolumeBackup::crd()]
}

fn root(definition: &mut CustomResourceDefinition) -> impl Iterator<Item = &mut JSONSchemaProps> {
    let schemas = definition.spec.versions.iter_mut().filter_map(|version| version.schema.as_mut());
    schemas.filter_map(|schema| schema.open_api_v3_schema.as_mut())
}

fn demand_one_kind_of_store(root: &mut JSONSchemaProps) {
    let Some(spec) = root.properties.as_mut().and_then(|properties| properties.get_mut("spec")) else {
        return;
    };
    let kinds = ["s3", "directory"];
    let only = |field: &str| JSONSchemaProps {
        required: Some(vec![field.to_owned()]),
        ..JSONSchemaProps::default()
    };
    spec.one_of = Some(kinds.map(only).to_vec());
    for (_, kind) in spec.properties.iter_mut().flatten().filter(|(name, _)| kinds.contains(&name.as_str())) {
        // One that is null would count as there.
        kind.nullable = None;
    }
}

fn limit_name(root: &mut JSONSchemaProps, most: i64) {
    let of = |kind: &str| JSONSchemaProps { type_: Some(kind.to_owned()), ..JSONSchemaProps::default() };
    let name = JSONSchemaProps { max_length: Some(most), ..of("string") };
    let metadata = JSONSchemaProps { properties: Some([("name".to_owned(), name)].into()), ..of("object") };
    root.properties.get_or_insert_default().insert("metadata".to_owned(), metadata);
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

    /// `strata crds` prints what the chart carries; to bring the chart up to date: `strata crds --dir charts/strata/files/crds`.
    #[test]
    fn the_chart_has_the_definitions_of_these_types() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/strata/files/crds");
        let mut found: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        found.sort();
        let files = files().unwrap();
        assert_eq!(found, files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
        for (name, text) in files {
            let there = std::fs::read_to_string(format!("{folder}/{name}")).unwrap();
            assert_eq!(there, text, "{name}: run `strata crds --dir charts/strata/files/crds`");
        }
    }
}
