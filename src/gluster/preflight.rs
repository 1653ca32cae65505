//! What is wrong with a volume's options, each with its cause and the command that mends it.

use super::volfile::{self, Translator, VolfileError};
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// A node that was cut off keeps its locks for about this long; more makes a failover wait for minutes.
const PING_TIMEOUT_MAX: u32 = 30;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Images on this share would be lost sooner or later.
    Refuse,
    /// It works, and something is worse than it need be.
    Warn,
}

/// Something about a share that its operator should mend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// What is wrong and what it leads to.
    pub cause: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; to mend it: {}", self.cause, self.remedy)
    }
}

/// Reads the options that are in force on a fresh mount of the volume.
pub fn preflight(root: &Path, volume: &str) -> Result<Vec<Finding>, VolfileError> {
    Ok(judge(&volfile::of_mount(root)?, volume))
}

fn judge(graph: &[Translator], volume: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let set = |option: &str| format!("gluster volume set {volume} {option}");
    let mut add = |severity, cause: String, remedy: String| {
        findings.push(Finding { severity, cause, remedy });
    };
    let of_kind = |kind: &'static str| graph.iter().filter(move |translator| translator.kind == kind);

    if of_kind("protocol/client").any(|client| !client.is_on("strict-locks")) {
        add(
            Severity::Refuse,
            "client.strict-locks is off: a node that was cut off writes over its successor's data".into(),
            set("client.strict-locks on"),
        );
    }
    if of_kind("features/shard").next().is_some() {
        add(
            Severity::Refuse,
            "features.shard is on: images lose their holes, and growing the volume can corrupt them".into(),
            format!(
                "{} (only while the volume is empty: files written with shards are unreadable without)",
                set("features.shard off")
            ),
        );
    }
    let cached = |cache: &&Translator| cache.options.get("md-cache-timeout").is_none_or(|t| t != "0");
    if of_kind("performance/md-cache").any(|cache| cached(&cache)) {
        add(
            Severity::Refuse,
            "this mount caches metadata: it would open images without what another node just wrote".into(),
            format!(
                "unmount it, so that the driver mounts it anew; or {}",
                set("performance.stat-prefetch off")
            ),
        );
    }
    if of_kind("performance/io-cache").next().is_some() {
        add(
            Severity::Warn,
            "performance.io-cache is on: memory for nothing, since images are read past caches".into(),
            set("performance.io-cache off"),
        );
    }
    let slowest = of_kind("protocol/client")
        .filter_map(|client| {
            client.options.get("ping-timeout").and_then(|text| text.parse().ok()).or(Some(42))
        })
        .max();
    if let Some(seconds) = slowest.filter(|seconds| *seconds > PING_TIMEOUT_MAX) {
        add(
            Severity::Warn,
            format!("network.ping-timeout is {seconds} s: I/O hangs that long when a server is lost"),
            set("network.ping-timeout 20"),
        );
    }
    findings.extend(redundancy(graph, volume));
    findings
}

/// Too few copies, or copies that may part ways.
fn redundancy(graph: &[Translator], volume: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut add = |severity, cause: String, remedy: String| found.push(Finding { severity, cause, remedy });
    if graph.iter().any(|translator| translator.kind == "cluster/disperse") {
        return found;
    }
    let sets: Vec<_> = graph.iter().filter(|translator| translator.kind == "cluster/replicate").collect();
    let Some(copies) = sets.iter().map(|set| set.children.len()).min() else {
        add(
            Severity::Warn,
            "the volume keeps one copy: a lost disk loses its images".into(),
            "use a volume of replica 3".into(),
        );
        return found;
    };
    if copies < 3 {
        add(
            Severity::Warn,
            format!(
                "the volume is of replica {copies}: a lost server can stop it, or leave copies that disagree"
            ),
            "use a volume of replica 3, or with an arbiter".into(),
        );
    }
    // Unset means auto from three copies on.
    let quorum_off = |set: &&Translator| match set.options.get("quorum-type").map(String::as_str) {
        None => set.children.len() < 3,
        Some(kind) => kind == "none",
    };
    if sets.iter().any(quorum_off) {
        // Neither locks nor generations help then: each side grants and sees its own.
        add(
            Severity::Refuse,
            "cluster.quorum-type is none: both sides of a partition write, and one side's data is lost"
                .into(),
            format!("gluster volume set {volume} cluster.quorum-type auto"),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(replicas: usize, edit: impl Fn(&mut Vec<Translator>)) -> Vec<Translator> {
        let mut text = String::new();
        for n in 0..replicas {
            text += &format!(
                "volume v-client-{n}\n type protocol/client\n option ping-timeout 20\n option strict-locks on\nend-volume\n"
            );
        }
        let children: Vec<_> = (0..replicas).map(|n| format!("v-client-{n}")).collect();
        text += &format!(
            "volume v-replicate-0\n type cluster/replicate\n option quorum-type auto\n subvolumes {}\nend-volume\n",
            children.join(" ")
        );
        text += "volume v-md-cache\n type performance/md-cache\n option md-cache-timeout 0\nend-volume\n";
        let mut graph = volfile::parse(&text).unwrap();
        edit(&mut graph);
        graph
    }

    fn only(findings: &[Finding], severity: Severity, word: &str, command: &str) {
        let [finding] = findings else { panic!("{findings:?}") };
        assert_eq!(finding.severity, severity);
        assert!(finding.cause.contains(word) && finding.remedy.contains(command), "{finding}");
    }

    #[test]
    fn a_volume_as_it_should_be_has_no_findings() {
        assert_eq!(judge(&graph(3, |_| ()), "v"), []);
    }

    #[test]
    fn weak_locks_are_refused_when_one_brick_has_them() {
        let weak = graph(3, |graph| drop(graph[1].options.insert("strict-locks".into(), "off".into())));
        only(
            &judge(&weak, "v"),
            Severity::Refuse,
            "strict-locks",
            "gluster volume set v client.strict-locks on",
        );
    }

    #[test]
    fn shards_are_refused() {
        let shard = Translator { kind: "features/shard".into(), ..Translator::default() };
        let sharded = graph(3, |graph| graph.push(shard.clone()));
        only(&judge(&sharded, "v"), Severity::Refuse, "shard", "gluster volume set v features.shard off");
    }

    #[test]
    fn a_metadata_cache_is_refused() {
        let caching = graph(3, |graph| graph.last_mut().unwrap().options.clear());
        only(&judge(&caching, "v"), Severity::Refuse, "caches metadata", "performance.stat-prefetch off");
    }

    #[test]
    fn a_missing_quorum_is_refused() {
        let none = graph(3, |graph| drop(graph[3].options.insert("quorum-type".into(), "none".into())));
        only(&judge(&none, "v"), Severity::Refuse, "partition", "cluster.quorum-type auto");
    }

    /// GlusterFS's default depends on the number of copies.
    #[test]
    fn an_unset_quorum_is_refused_for_two_copies_only() {
        let unset = |copies: usize| {
            let graph = graph(copies, |graph| drop(graph[copies].options.remove("quorum-type")));
            judge(&graph, "v").iter().any(|finding| finding.severity == Severity::Refuse)
        };
        assert!(unset(2) && !unset(3));
    }

    #[test]
    fn a_single_copy_is_a_warning() {
        let plain = graph(1, |graph| drop(graph.remove(1)));
        only(&judge(&plain, "v"), Severity::Warn, "one copy", "replica 3");
    }

    #[test]
    fn two_copies_are_a_warning() {
        only(&judge(&graph(2, |_| ()), "v"), Severity::Warn, "replica 2", "replica 3");
    }

    #[test]
    fn a_long_ping_timeout_is_a_warning() {
        let slow = graph(3, |graph| drop(graph[0].options.insert("ping-timeout".into(), "42".into())));
        only(&judge(&slow, "v"), Severity::Warn, "42 s", "network.ping-timeout 20");
    }
}
