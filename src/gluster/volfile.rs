//! The client's translator graph, as its own mount shows it under `.meta`: the options that are in
//! force, without the servers' command line.

use snafu::{OptionExt, ResultExt, Snafu};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// One translator of the graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Translator {
    pub name: String,
    pub kind: String,
    pub options: BTreeMap<String, String>,
    pub children: Vec<String>,
}

impl Translator {
    /// GlusterFS writes booleans in four ways.
    pub fn is_on(&self, option: &str) -> bool {
        matches!(self.options.get(option).map(String::as_str), Some("on" | "yes" | "true" | "enable" | "1"))
    }
}

/// Why the graph could not be read.
#[derive(Debug, Snafu)]
pub enum VolfileError {
    /// No `.meta` in this mount.
    #[snafu(display("cannot read the active options of the mount from {}: {source}", path.display()))]
    ReadGraph {
        /// The file of the graph.
        path: PathBuf,
        /// From the kernel.
        source: io::Error,
    },
    /// Not the format that GlusterFS writes.
    #[snafu(display("the graph of the mount is not understood at {line:?}"))]
    Syntax {
        /// The line.
        line: String,
    },
}

/// The graph that serves this mount now.
pub(super) fn of_mount(root: &Path) -> Result<Vec<Translator>, VolfileError> {
    let path = root.join(".meta/graphs/active/volfile");
    let text = std::fs::read_to_string(&path).context(ReadGraphSnafu { path })?;
    parse(&text)
}

/// Reads `volume NAME … end-volume` blocks.
pub(super) fn parse(text: &str) -> Result<Vec<Translator>, VolfileError> {
    let mut graph = Vec::new();
    let mut open: Option<Translator> = None;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let syntax = || SyntaxSnafu { line };
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match (word, &mut open) {
            ("volume", None) => open = Some(Translator { name: rest.to_owned(), ..Translator::default() }),
            ("end-volume", Some(_)) => graph.extend(open.take()),
            ("type", Some(translator)) => translator.kind = rest.to_owned(),
            ("subvolumes", Some(translator)) => {
                translator.children = rest.split_whitespace().map(str::to_owned).collect();
            }
            ("option", Some(translator)) => {
                let (key, value) = rest.split_once(' ').with_context(syntax)?;
                translator.options.insert(key.to_owned(), value.trim().to_owned());
            }
            _ => return syntax().fail(),
        }
    }
    match open {
        Some(Translator { name, .. }) => SyntaxSnafu { line: format!("volume {name}") }.fail(),
        None => Ok(graph),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_is_read() {
        let text = "volume v-client-0\n    type protocol/client\n    option strict-locks on\nend-volume\n\n\
                    volume v-dht\n    type cluster/distribute\n    subvolumes v-client-0 v-client-1\nend-volume\n";
        let graph = parse(text).unwrap();
        assert_eq!(graph.len(), 2);
        assert!(graph[0].is_on("strict-locks") && !graph[0].is_on("other"));
        assert_eq!(graph[1].children, ["v-client-0", "v-client-1"]);
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        assert!(parse("volume v\n type x\n").is_err());
        assert!(parse("type x\n").is_err());
        assert!(parse("volume v\n option lonely\nend-volume\n").is_err());
    }
}
