//! The image: its archive, unpacked as a container runtime would.

use crate::support::{run, scratch};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;

pub struct Image {
    /// The root of its filesystem.
    pub root: PathBuf,
    /// What a runtime reads: Env, User, Entrypoint, Labels.
    pub config: Value,
    _folder: TempDir,
}

impl Image {
    /// Unpacked once for all tests of the program.
    pub fn get() -> &'static Image {
        static IMAGE: OnceLock<Image> = OnceLock::new();
        IMAGE.get_or_init(|| {
            let archive = std::env::var_os("STRATA_TEST_IMAGE")
                .expect("this test needs the image: run `T=image make test`, which builds it");
            Image::unpack(Path::new(&archive))
        })
    }

    fn unpack(archive: &Path) -> Image {
        let folder = scratch();
        let layout = folder.path().join("layout");
        std::fs::create_dir(&layout).unwrap();
        untar(archive, &layout);
        let blob = |digest: &Value| {
            let digest = digest.as_str().unwrap().strip_prefix("sha256:").expect("a digest");
            layout.join("blobs/sha256").join(digest)
        };
        let json = |path: &Path| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
        let index = json(&layout.join("index.json"));
        let manifest = json(&blob(&index["manifests"][0]["digest"]));
        let config = json(&blob(&manifest["config"]["digest"]));
        let root = folder.path().join("root");
        std::fs::create_dir(&root).unwrap();
        for layer in manifest["layers"].as_array().unwrap() {
            untar(&blob(&layer["digest"]), &root);
        }
        std::fs::remove_dir_all(&layout).unwrap();
        Image { root, config: config["config"].clone(), _folder: folder }
    }

    /// The words of one of the configuration's lists.
    pub fn words(&self, key: &str) -> Vec<String> {
        let words = self.config[key].as_array().unwrap_or_else(|| panic!("the image has no {key}"));
        words.iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    }

    pub fn label(&self, name: &str) -> &str {
        self.config["Labels"][name].as_str().unwrap_or_else(|| panic!("no label {name}"))
    }
}

fn untar(archive: &Path, into: &Path) {
    run("tar", &["-C", into.to_str().unwrap(), "-xpf", archive.to_str().unwrap()]);
}
