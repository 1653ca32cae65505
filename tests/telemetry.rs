//! What belongs to one call is found by its id in the logs of all processes, and as one trace at a collector.

#[path = "support/collector.rs"]
#[allow(dead_code)]
mod collector;
#[path = "support/driver.rs"]
#[allow(dead_code)]
mod driver;
mod support;

use collector::{Collector, Received};
use driver::{Driver, Use, new_volume};
use serde_json::Value;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use strata::data::DataClient;
use strata::rpc::csi::CreateSnapshotRequest;
use strata::rpc::csi::controller_client::ControllerClient;

/// On a machine that does other things too.
const LIMIT: Duration = Duration::from_secs(90);
const REQUEST: &str = "request-of-the-test";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} never came");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The lines of controller and node.
fn lines(driver: &Driver) -> Vec<Value> {
    let text = std::fs::read_to_string(driver.log()).unwrap();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines = whole.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// A snapshot, as a sidecar that traces takes it.
fn snapshot(driver: &Driver, volume: &str) -> String {
    let answer = driver.call("CreateSnapshot", |channel| {
        let message = CreateSnapshotRequest {
            source_volume_id: volume.to_owned(),
            name: "followed".to_owned(),
            ..Default::default()
        };
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert("x-request-id", REQUEST.parse().unwrap());
        let parent = format!("00-{TRACE}-{CALLER}-01");
        request.metadata_mut().insert("traceparent", parent.parse().unwrap());
        async move { ControllerClient::new(channel).create_snapshot(request).await }
    });
    answer.unwrap().snapshot.unwrap().snapshot_id
}

fn is(line: &Value, fields: &[(&str, &str)]) -> bool {
    fields.iter().all(|(name, value)| line[name] == **value)
}

#[test]
fn a_call_is_followed_from_process_to_process() {
    support::need_root();
    let dir = support::scratch();
    let collector = Collector::start();
    let variables = [
        ("STRATA_LOG_FORMAT", "json"),
        ("RUST_LOG", "info,strata=debug"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "200"),
        // Of the machine that tests run on.
        ("OTEL_SERVICE_NAME", ""),
    ];
    let mut driver = Driver::on_folder(dir.path(), "followed-node", &variables);
    driver.launch();
    let volume = driver.create(new_volume("followed", 1 << 30, Use::Ext4, &[])).unwrap().volume_id;
    let place = dir.path().join("pod");
    driver.attach(&volume, &place, Use::Ext4).unwrap();
    let first = snapshot(&driver, &volume);
    followed_in_logs(&driver, &volume, &first);
    followed_in_traces(&collector);
    // Between two frozen layers there is something to merge.
    driver.snapshot(&volume, "second").unwrap();
    driver.delete_snapshot(&first).unwrap();
    merged_in_logs(&driver, &volume);
    driver.detach(&volume, &place).unwrap();
    driver.delete(&volume).unwrap();
}

fn followed_in_logs(driver: &Driver, volume: &str, snapshot: &str) {
    let volume = volume.rsplit('/').next().unwrap();
    let snapshot = snapshot.rsplit('/').next().unwrap();
    let of_call = [("request_id", REQUEST), ("volume", volume)];
    until("the controller's and the agent's lines", || {
        let all = lines(driver);
        let of_call: Vec<&Value> = all.iter().filter(|line| is(line, &of_call)).collect();
        let controller = [("method", "CreateSnapshot"), ("snapshot", snapshot), ("message", "done")];
        let agent = [("method", "CutVolume"), ("message", "cut")];
        let found = |fields: &[(&str, &str)]| of_call.iter().any(|line| is(line, fields));
        (found(&controller) && found(&agent)).then_some(())
    });
    for line in lines(driver) {
        let spans: Vec<&str> =
            line["spans"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let has_id = line["request_id"].as_str().is_some_and(|id| !id.is_empty());
        assert!(has_id || !(spans.contains(&"call") || spans.contains(&"job")), "{line}");
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
        assert!(!line.as_object().unwrap().keys().any(|name| name.starts_with("otel.")), "{line}");
        // These name their volume from the first line on.
        if line["method"] == "NodeStageVolume" || line["method"] == "CutVolume" {
            assert_eq!(line["volume"], volume, "{line}");
        }
    }
}

/// A job in the background has an id of its own, which its node's agent says, too.
fn merged_in_logs(driver: &Driver, volume: &str) {
    let volume = volume.rsplit('/').next().unwrap();
    let merged = [("message", "layers were merged"), ("job", "tidy"), ("volume", volume)];
    let merged = until("the end of a merge", || lines(driver).into_iter().find(|line| is(line, &merged)));
    let id = merged["request_id"].as_str().expect("an id").to_owned();
    assert_ne!(id, REQUEST);
    let agent = [("request_id", id.as_str()), ("method", "MergeLayers"), ("volume", volume)];
    until("the agent's lines of the merge", || lines(driver).into_iter().find(|line| is(line, &agent)));
}

fn followed_in_traces(collector: &Collector) {
    let find = |name: &str| {
        until(name, || collector.spans().into_iter().find(|span| span.name == name && span.trace == TRACE))
    };
    let call = find("csi.v1.Controller/CreateSnapshot");
    assert_eq!((call.service.as_str(), call.parent.as_str()), ("strata-controller", CALLER));
    let asking = find("agent/cut_volume");
    assert_eq!(asking.service, "strata-controller");
    until("its parents", || is_below(collector, &asking, &call.name).then_some(()));
    let cut = find("strata.agent.v1.NodeAgent/CutVolume");
    assert_eq!(cut.service, "strata-node");
    until("its parent", || is_below(collector, &cut, "agent/cut_volume").then_some(()));
    // The data plane is a third process.
    let start = until("the start of a daemon", || {
        collector.spans().into_iter().find(|span| span.name == "strata.data.v1.Data/StartDaemon")
    });
    let stage = until("the call that staged", || {
        let name = "csi.v1.Node/NodeStageVolume";
        collector.spans().into_iter().find(|span| span.name == name && span.trace == start.trace)
    });
    assert_eq!((start.service.as_str(), stage.service.as_str()), ("strata-data", "strata-node"));
    until("its parents", || is_below(collector, &start, &stage.name).then_some(()));
    let probes = collector.spans().into_iter().filter(|span| span.name.starts_with("csi.v1.Identity"));
    assert_eq!(probes.count(), 0, "nobody wants a trace of each probe");
}

/// Whether a span of that name is somewhere above. A call that was asked again has several.
fn is_below(collector: &Collector, span: &Received, above: &str) -> bool {
    let spans = collector.spans();
    let mut parent = &span.parent;
    for _ in 0..spans.len() {
        let Some(next) = spans.iter().find(|other| other.id == *parent) else { return false };
        if next.name == above {
            return true;
        }
        parent = &next.parent;
    }
    false
}

/// Somebody listens there, and never answers.
#[test]
fn a_collector_that_hangs_holds_up_neither_calls_nor_the_end() {
    let dir = support::scratch();
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", hanging.local_addr().unwrap());
    let socket = dir.path().join("data.sock");
    let log = dir.path().join("log");
    let mut child = Command::new(env!("CARGO_BIN_EXE_strata"))
        .args(["data", "--otlp-endpoint", &url, "--socket"])
        .arg(&socket)
        .arg("--dir")
        .arg(dir.path().join("data"))
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .stdin(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    until("the data plane", || strata::rpc::uds::answers(&socket).then_some(()));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let asked = Instant::now();
    runtime.block_on(async {
        let data = DataClient::new(&socket).unwrap();
        for _ in 0..20 {
            assert!(data.daemons().await.unwrap().is_empty());
        }
    });
    // An export takes ten seconds to be given up.
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    let begun = Instant::now();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = until("its end", || child.try_wait().unwrap());
    assert!(status.success(), "{status}: {}", std::fs::read_to_string(&log).unwrap());
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

/// A wrong address is a clear error, not a process without traces.
#[test]
fn an_address_that_is_none_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_strata"))
        .args(["data", "--otlp-endpoint", "collector:4317"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--otlp-endpoint") && said.contains("http://HOST:PORT"), "{said}");
}
