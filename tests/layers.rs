//! Imports go one way, and the domain knows neither gRPC nor Kubernetes nor an async runtime.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each module may import besides itself. A module that is not here fails the test.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("host", &[]),
    ("image", &["host"]),
    ("qsd", &["host", "image"]),
    ("attach", &["host", "image", "qsd"]),
    ("gluster", &["host"]),
    ("volume", &["host", "image", "qsd", "attach", "gluster"]),
    // What a log line or a trace belongs to.
    ("trace", &[]),
    ("rpc", &["trace"]),
    // What a process tells of itself; it asks nobody.
    ("metrics", &[]),
    ("backup", &["host", "image", "qsd", "attach", "gluster", "volume"]),
    ("kube", &["gluster", "volume", "metrics", "trace", "backup"]),
    ("data", &["host", "image", "qsd", "attach", "gluster", "volume", "rpc", "trace"]),
    ("agent", &["host", "image", "qsd", "attach", "gluster", "volume", "rpc", "trace", "metrics", "data"]),
    (
        "csi",
        &[
            "host", "image", "qsd", "attach", "gluster", "volume", "rpc", "trace", "metrics", "backup",
            "data", "agent",
        ],
    ),
    (
        "cli",
        &[
            "host", "image", "qsd", "attach", "gluster", "volume", "rpc", "trace", "metrics", "backup",
            "kube", "data", "agent", "csi",
        ],
    ),
];

/// From here down everything is synchronous and knows no wire.
const DOMAIN: &[&str] = &["host", "image", "qsd", "attach", "gluster", "volume"];
const NOT_IN_DOMAIN: &[&str] = &["tonic", "tokio", "kube", "prost"];

fn source_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(source_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The code without comments: prose may name anything.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The first path segments that follow `crate::`, those of a group in braces too.
fn imported(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, word) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        assert!(before.is_none_or(|c| !is_name(c)), "a crate of that ending: teach this test");
        let rest = code[at + word.len()..].trim_start();
        if let Some(group) = rest.strip_prefix('{') {
            found.extend(group_heads(group));
        } else {
            found.insert(rest.chars().take_while(|c| is_name(*c)).collect());
        }
    }
    found
}

/// The heads of `a::b, c::{d, e}, f}`.
fn group_heads(group: &str) -> Vec<String> {
    let (mut heads, mut head, mut depth) = (Vec::new(), String::new(), 0);
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(std::mem::take(&mut head)),
            c if depth == 0 => head.push(c),
            _ => {}
        }
    }
    heads.push(head);
    let name = |head: String| head.trim().chars().take_while(|c| is_name(*c)).collect::<String>();
    heads.into_iter().map(name).filter(|head| !head.is_empty()).collect()
}

/// Whether the code names that crate: `kube::`, not `my_kube::` nor `kubernetes`.
fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after =
            code[at + name.len()..].trim_start_matches(|c: char| c == '_' || c.is_ascii_alphanumeric());
        before.is_none_or(|c| !is_name(c) && c != '"') && after.starts_with("::")
    })
}

/// What is wrong in one file of that module.
fn violations(module: &str, code: &str) -> Vec<String> {
    let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
        return vec![format!("module {module} has no layer: give it one in tests/layers.rs")];
    };
    let mut wrong: Vec<_> = imported(code)
        .into_iter()
        .filter(|import| import != module && !allowed.contains(&import.as_str()))
        .map(|import| format!("{module} imports {import}"))
        .collect();
    if DOMAIN.contains(&module) {
        let named = NOT_IN_DOMAIN.iter().filter(|name| names_crate(code, name));
        wrong.extend(named.map(|name| format!("{module} names {name}")));
    }
    wrong
}

#[test]
fn nothing_imports_upwards() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut wrong, mut modules) = (Vec::new(), BTreeSet::new());
    for file in source_files(&src) {
        let inner = file.strip_prefix(&src).unwrap();
        let module = inner.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        if module == "lib" || module == "main" {
            continue;
        }
        let found = violations(&module, &code(&fs::read_to_string(&file).unwrap()));
        wrong.extend(found.into_iter().map(|what| format!("{}: {what}", inner.display())));
        modules.insert(module);
    }
    assert!(modules.len() >= MAY_IMPORT.len(), "modules that are gone still have a layer: {modules:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_upward_import_is_found_however_it_is_written() {
    assert_eq!(violations("image", "use crate::volume::Record;"), ["image imports volume"]);
    assert_eq!(violations("gluster", "use crate::{host::{exec, fsio}, csi::code};"), ["gluster imports csi"]);
    assert_eq!(violations("volume", "fn f() -> tonic::Status { crate::rpc::x() }").len(), 2);
    assert_eq!(violations("volume", "use tokio_stream::wrappers;"), ["volume names tokio"]);
    assert_eq!(violations("nowhere", "").len(), 1);
    assert!(
        violations("volume", &code("use crate::host::exec; // like crate::csi and tokio::spawn")).is_empty()
    );
}

/// `Path::exists` answers "no" to every error: on a share that says nothing an image would be taken for gone, and what was
/// begun with it forgotten (invariant 1). The domain asks with `store::exists`.
#[test]
fn the_domain_takes_no_error_for_gone() {
    let asks = |path: &PathBuf| code(&fs::read_to_string(path).unwrap()).contains(".exists()");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/volume");
    let careless: Vec<_> = source_files(&root).into_iter().filter(asks).collect();
    assert_eq!(careless, Vec::<PathBuf>::new());
}
