use super::*;

fn layer(path: &str, format: Format) -> ImageRef {
    ImageRef { path: path.into(), format }
}

#[test]
fn a_chain_names_every_driver_and_ends_explicitly() {
    let chain =
        [layer("/s/a,b", Format::Qcow2), layer("/s/mid", Format::Qcow2), layer("/s/base", Format::Raw)];
    let tree = layer_tree(&chain).unwrap();
    assert_eq!(tree["driver"], "qcow2");
    assert_eq!(tree["file"]["filename"], "/s/a,b");
    assert_eq!(tree["backing"]["backing"]["driver"], "raw");
    let alone = layer_tree(&chain[..1]).unwrap();
    assert!(alone["backing"].is_null() && alone.get("backing").is_some());
    assert!(matches!(layer_tree(&[]), Err(QemuImgError::EmptyChain)));
}
