//! K13: what a controller and a node tell Prometheus of what they really did.

#[path = "support/driver.rs"]
#[allow(dead_code)]
mod driver;
mod support;

use driver::{Driver, Use, new_volume};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// The metrics of controller and node, once they have said where they serve them.
fn scrape(driver: &Driver) -> Vec<String> {
    scrape_of(&driver.log())
}

/// Those of the data plane, which has a log of its own.
fn scrape_data(driver: &Driver) -> String {
    scrape_of(&driver.dir.join("data.log")).concat()
}

fn scrape_of(log: &Path) -> Vec<String> {
    let log = std::fs::read_to_string(log).unwrap();
    let served = log.lines().filter(|line| line.contains("metrics are served"));
    served
        .map(|line| {
            let address = line.split("address=").nth(1).unwrap().split_whitespace().next().unwrap();
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            answer
        })
        .collect()
}

/// Waits until one of the roles tells a series with that value.
fn until(driver: &Driver, series: &str, value: &str) {
    let line = format!("\n{series} {value}\n");
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let told = scrape(driver);
        if told.iter().any(|text| text.contains(&line)) {
            return;
        }
        assert!(Instant::now() < deadline, "no {line:?} in:\n{}", told.join("\n"));
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn calls_pauses_and_shares_are_told() {
    support::need_root();
    let dir = support::scratch();
    let variables = [("STRATA_METRICS_LISTEN", "127.0.0.1:0"), ("NO_COLOR", "1")];
    let mut driver = Driver::on_folder(dir.path(), "metrics-node", &variables);
    let source = format!("dir:{}", dir.path().join("share").display());
    driver.launch();
    assert_eq!(scrape(&driver).len(), 2, "a controller and a node");
    let of_share = format!("{{share=\"{source}\"}}");
    until(&driver, &format!("strata_share_up{of_share}"), "1.0");
    until(&driver, &format!("strata_share_damaged_volumes{of_share}"), "0");
    let volume = driver.create(new_volume("told", 1 << 30, Use::Ext4, &[])).unwrap().volume_id;
    let place = dir.path().join("pod");
    driver.attach(&volume, &place, Use::Ext4).unwrap();
    let id = volume.rsplit('/').next().unwrap();
    let memory = format!("\nstrata_daemon_resident_memory_bytes{{purpose=\"volume\",volume=\"{id}\"}} ");
    let data = scrape_data(&driver);
    let told = data.split(&memory).nth(1).unwrap_or_else(|| panic!("no {memory:?} in:\n{data}"));
    let bytes: f64 = told.lines().next().unwrap().parse().unwrap();
    assert!((1e6..1e10).contains(&bytes), "a storage daemon with {bytes} bytes");
    driver.snapshot(&volume, "told").unwrap();
    let ended = |method: &str, code: &str| {
        format!("strata_csi_call_duration_seconds_count{{method=\"{method}\",code=\"{code}\"}}")
    };
    until(&driver, &ended("CreateVolume", "OK"), "1");
    until(&driver, &ended("NodeStageVolume", "OK"), "1");
    until(&driver, "strata_snapshot_pause_seconds_count{consistency=\"filesystem\"}", "1");
    // The next look at the share finds the volume, and what its snapshot added to it.
    until(&driver, &format!("strata_share_volumes{of_share}"), "1");
    until(&driver, &format!("strata_share_layers_max{of_share}"), "2");
    until(&driver, &format!("strata_share_merges{{share=\"{source}\",state=\"failed\"}}"), "0");
    until(&driver, &format!("strata_share_merge_oldest_timestamp_seconds{of_share}"), "0");
    driver.detach(&volume, &place).unwrap();
    assert!(!scrape_data(&driver).contains(&memory), "the daemon has ended");
    driver.delete(&volume).unwrap();
}
