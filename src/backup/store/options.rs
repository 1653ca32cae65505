//! How S3 is reached.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// What the AWS_* variables do not say, or say otherwise.
#[derive(Clone, Default)]
pub struct S3Options {
    /// Access key and secret key.
    pub credentials: Option<(String, String)>,
    /// That came with temporary credentials.
    pub session_token: Option<String>,
    /// Of a server that is not Amazon's.
    pub endpoint: Option<String>,
    /// The region to sign for.
    pub region: Option<String>,
    /// `http://BUCKET.HOST/…` where the default for an endpoint is `http://HOST/BUCKET/…`.
    pub virtual_host_style: bool,
    /// PEM certificates to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// `http://[USER:PASSWORD@]HOST:PORT`, for all but what NO_PROXY names. Without it HTTPS_PROXY and
    /// HTTP_PROXY count.
    pub proxy: Option<String>,
    /// How long to wait for what.
    pub timeouts: Timeouts,
}

/// How long to wait for what. There is no deadline for a request whose bytes move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Duration,
    /// Without any byte moving, either way.
    pub stall: Duration,
    /// From a request's begin, after which it is not tried again. Below the 15 minutes for which a
    /// signature holds.
    pub give_up: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            give_up: Duration::from_secs(180),
        }
    }
}

/// Without the secrets.
impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Options")
            .field("access_key", &self.credentials.as_ref().map(|(key, _)| key))
            .field("session_token", &self.session_token.as_ref().map(|_| "…"))
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("virtual_host_style", &self.virtual_host_style)
            .field("ca_file", &self.ca_file)
            .field("proxy", &self.proxy.as_ref().map(|_| "…"))
            .field("timeouts", &self.timeouts)
            .finish()
    }
}
