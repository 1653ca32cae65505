//! Where an agent listens, as its node has registered it.

use snafu::{OptionExt, Snafu};
use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

/// Where an agent listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentAddress {
    /// A unix socket of this machine: `unix:///PATH`.
    Unix(PathBuf),
    /// Over the network, with mutual TLS: `https://HOST:PORT`.
    Network {
        /// An IP address or a DNS name.
        host: String,
        /// The port.
        port: u16,
    },
}

/// A text that is no address of an agent.
#[derive(Debug, Snafu)]
pub enum InvalidAddress {
    /// Of no known form.
    #[snafu(display("{text:?} is no address of an agent: unix:///PATH or https://HOST:PORT"))]
    Form {
        /// What was given.
        text: String,
    },
    /// IPv6 without brackets, with what may be a port or its last part.
    #[snafu(display(
        "{text:?} may be an IPv6 address or one with a port: write [{host}]:{port}, or [{text}] if {port} belongs to it"
    ))]
    Ambiguous {
        /// What was given.
        text: String,
        /// Before the last colon.
        host: String,
        /// Behind it.
        port: String,
    },
}

impl AgentAddress {
    /// Anything but `https://`, which the agent's own TLS stands for: HOST, HOST:PORT, IPv6 bare or in brackets. In
    /// brackets an IPv4 address is taken, too, so that one template serves both families.
    pub fn network(text: &str, usual_port: u16) -> Result<Self, InvalidAddress> {
        let invalid = || FormSnafu { text };
        if let Some((host, port)) = ambiguous(text, usual_port) {
            return AmbiguousSnafu { text, host, port }.fail();
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(AgentAddress::Network { host: address.to_string(), port: usual_port });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().ok().filter(|port| *port > 0).with_context(invalid)?)
            }
            _ => (text, usual_port),
        };
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(inner) => inner.parse::<IpAddr>().ok().with_context(invalid)?.to_string(),
            None => Some(host).filter(|host| is_host(host)).with_context(invalid)?.to_owned(),
        };
        Ok(AgentAddress::Network { host, port })
    }
}

/// Parts of an IPv6 address without brackets that has a port, or looks so: one part too many, or the usual port as the
/// last one.
fn ambiguous(text: &str, usual_port: u16) -> Option<(&str, &str)> {
    let (host, port) = text.rsplit_once(':')?;
    let address = host.parse::<Ipv6Addr>().is_ok();
    let one_too_many = text.parse::<Ipv6Addr>().is_err();
    (address && (one_too_many || port == usual_port.to_string())).then_some((host, port))
}

/// An IPv4 address or a DNS name.
fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (1..=63).contains(&label.len()) && label.chars().all(fine) && !label.starts_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

impl FromStr for AgentAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        if let Some(path) = text.strip_prefix("unix://").filter(|path| path.starts_with('/')) {
            return Ok(AgentAddress::Unix(path.into()));
        }
        let rest = text.strip_prefix("https://").context(FormSnafu { text })?;
        // A registered address always has its port.
        AgentAddress::network(rest, 0)
            .ok()
            .filter(|address| !matches!(address, AgentAddress::Network { port: 0, .. }))
            .context(FormSnafu { text })
    }
}

impl Display for AgentAddress {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            AgentAddress::Unix(path) => write!(f, "unix://{}", path.display()),
            AgentAddress::Network { host, port } if host.contains(':') => {
                write!(f, "https://[{host}]:{port}")
            }
            AgentAddress::Network { host, port } => write!(f, "https://{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("unix:///run/strata/agent.sock")]
    #[case("https://10.0.0.7:9808")]
    #[case("https://[fd00::7]:9808")]
    #[case("https://node-7.example:9808")]
    fn a_registered_address_is_read_as_it_was_written(#[case] text: &str) {
        assert_eq!(text.parse::<AgentAddress>().unwrap().to_string(), text);
    }

    #[rstest]
    #[case("")]
    #[case("unix://run/agent.sock")]
    #[case("tcp://10.0.0.7:9808")]
    #[case("http://10.0.0.7:9808")]
    #[case("https://10.0.0.7")]
    #[case("https://10.0.0.7:0")]
    #[case("https://10.0.0.7:99999")]
    #[case("https://10.0.0.7:9808/path")]
    #[case("https://user@10.0.0.7:9808")]
    #[case("https://fd00::7")]
    #[case("https://[fd00::7]")]
    #[case("https://[nonsense]:1")]
    #[case("https://:9808")]
    fn anything_else_is_refused(#[case] text: &str) {
        assert!(text.parse::<AgentAddress>().is_err());
    }

    /// What the downward API gives is an address without a port, of either family.
    #[rstest]
    #[case("10.0.0.7", "https://10.0.0.7:9808")]
    #[case("10.0.0.7:1", "https://10.0.0.7:1")]
    #[case("fd00::7", "https://[fd00::7]:9808")]
    #[case("[fd00::7]", "https://[fd00::7]:9808")]
    #[case("[fd00::7]:1", "https://[fd00::7]:1")]
    #[case("[10.0.0.7]", "https://10.0.0.7:9808")]
    #[case("[fd00::7:9808]", "https://[fd00::7:9808]:9808")]
    #[case("fd00::9808", "https://[fd00::9808]:9808")]
    #[case("node-7.example", "https://node-7.example:9808")]
    fn a_port_that_is_not_said_is_the_usual_one(#[case] text: &str, #[case] address: &str) {
        assert_eq!(AgentAddress::network(text, 9808).unwrap().to_string(), address);
    }

    /// What comes of an address and a port that are put together without looking at the family.
    #[rstest]
    #[case("fd00::7:9808", "[fd00::7]:9808")]
    #[case("fd00::7:9808", "[fd00::7:9808]")]
    #[case("fd00:1:2:3:4:5:6:7:9808", "[fd00:1:2:3:4:5:6:7]:9808")]
    #[case("fd00:1:2:3:4:5:6:7:44", "[fd00:1:2:3:4:5:6:7]:44")]
    fn ipv6_that_may_have_a_port_is_refused_with_its_remedy(#[case] text: &str, #[case] remedy: &str) {
        let error = AgentAddress::network(text, 9808).unwrap_err().to_string();
        assert!(error.contains(remedy), "{error}");
    }
}
