//! One RPC's way through this edge: guard, blocking work with a deadline, answer.

use super::inflight::InFlight;
use crate::metrics::Calls;
use crate::rpc::offload;
use crate::trace;
use std::time::Duration;
use tonic::metadata::MetadataMap;
use tonic::{Code, Response, Status};

/// Sidecars' own default deadlines are 10 s (provisioner, attacher) and 60 s (snapshotter).
const SHORT: Duration = Duration::from_secs(8);
const LONG: Duration = Duration::from_secs(50);
/// A restore says how far it is well before any sidecar loses its patience.
const RESTORE: Duration = Duration::from_millis(4500);
/// The kubelet waits two minutes for a volume to be staged.
const NODE: Duration = Duration::from_secs(110);

/// How long an answer may take when the caller names no deadline.
#[derive(Clone, Copy, Debug)]
pub(super) enum Patience {
    Short,
    Long,
    Restore,
    Node,
    /// What a call that has waited for something else first has left of its own.
    Left(Duration),
}

/// Runs the calls of one service.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    calls: InFlight,
    counted: Calls,
}

/// How a call is counted, and what it holds alone.
pub(super) struct Call<'a> {
    pub(super) method: &'static str,
    /// The volume or name that no other call may work on at the same time.
    pub(super) key: &'a str,
    pub(super) patience: Patience,
}

impl Caller {
    /// Whose calls are counted there.
    pub(super) fn counting(counted: Calls) -> Self {
        Caller { calls: InFlight::default(), counted }
    }

    /// Runs `work` on a blocking thread. When its caller will wait no longer the answer is ABORTED, and the
    /// work goes on: the same call later finds it done. Never INTERNAL for that: sidecars take INTERNAL for
    /// "certainly not running" and may undo what is being done.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        call: Call<'_>,
        metadata: &MetadataMap,
        work: impl FnOnce() -> Result<T, Status> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let begun = std::time::Instant::now();
        let counted = self.counted.begin(call.method);
        let guard = match self.calls.begin(call.key) {
            Ok(guard) => guard,
            Err(status) => {
                counted.end(name(status.code()));
                return Err(status);
            }
        };
        let late = || Status::aborted(format!("{} of {} is still running; ask again", call.method, call.key));
        let work = move || {
            let _guard = guard;
            work()
        };
        let answer = offload(limit(call.patience, metadata), late, work).await;
        counted.end(name(answer.as_ref().map_or_else(Status::code, |_| Code::Ok)));
        let took = begun.elapsed().as_millis();
        match &answer {
            Ok(_) => tracing::info!(on = call.key, took_ms = took, "done"),
            Err(status) => {
                tracing::Span::current().record("code", name(status.code()));
                if status.code() != Code::Aborted {
                    trace::failed();
                }
                tracing::warn!(on = call.key, took_ms = took, code = ?status.code(), "{}", status.message());
            }
        }
        answer.map(Response::new)
    }
}

/// As metrics name it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Cancelled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// The default, or a little less than what the caller says it waits.
pub(super) fn limit(patience: Patience, metadata: &MetadataMap) -> Duration {
    let default = match patience {
        Patience::Left(left) => return left,
        Patience::Short => SHORT,
        Patience::Long => LONG,
        Patience::Restore => RESTORE,
        Patience::Node => NODE,
    };
    let asked = metadata.get("grpc-timeout").and_then(|value| parse_timeout(value.to_str().ok()?));
    match asked {
        // The way back takes time too: an answer that comes late says nothing.
        Some(asked) => default.min(asked.saturating_sub((asked / 5).min(Duration::from_secs(2)))),
        None => default,
    }
}

/// At most eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(text: &'static str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", text.parse().unwrap());
        metadata
    }

    #[test]
    fn the_answer_comes_before_the_callers_deadline() {
        assert_eq!(limit(Patience::Short, &MetadataMap::new()), SHORT);
        assert_eq!(limit(Patience::Long, &waiting("10S")), Duration::from_secs(8));
        assert_eq!(limit(Patience::Long, &waiting("1000m")), Duration::from_millis(800));
        assert_eq!(limit(Patience::Short, &waiting("1H")), SHORT);
        assert_eq!(limit(Patience::Short, &waiting("nonsense")), SHORT);
    }

    /// Invariant 4: while work goes on the answer is ABORTED, and so is that of a second call.
    #[tokio::test]
    async fn late_work_is_aborted_and_holds_its_key() {
        let caller = Caller::default();
        let call = || Call { method: "Test", key: "v", patience: Patience::Short };
        let slow = || {
            std::thread::sleep(Duration::from_millis(500));
            Ok(1)
        };
        let answer = caller.run(call(), &waiting("50m"), slow).await;
        assert_eq!(answer.unwrap_err().code(), Code::Aborted);
        let second = caller.run(call(), &waiting("50m"), || Ok(2)).await;
        assert_eq!(second.unwrap_err().code(), Code::Aborted);
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert_eq!(caller.run(call(), &waiting("1S"), || Ok(3)).await.unwrap().into_inner(), 3);
    }
}
