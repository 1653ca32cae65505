//! Copies within a store that fails, or does not make them.

use crate::faulty::{Fault, Faulty};
use crate::requests::store;
use crate::s3_server::S3Server;
use bytes::Bytes;
use rstest::rstest;
use strata::backup::store::{Store, StoreError};

/// What passes is asked again; what the server will not do is told from what it cannot do just now.
#[rstest]
#[case::reset(Fault::Reset, true, None)]
#[case::lost_answer(Fault::LoseAnswer, true, None)]
#[case::overloaded(Fault::Answer(503, "SlowDown"), true, None)]
#[case::denied(Fault::Answer(403, "AccessDenied"), false, Some(true))]
#[case::unknown(Fault::Answer(400, "InvalidRequest"), false, Some(true))]
#[case::not_allowed(Fault::Answer(405, "MethodNotAllowed"), false, Some(true))]
#[case::overloaded_for_long(Fault::Answer(503, "SlowDown"), false, Some(false))]
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_fails(#[case] fault: Fault, #[case] passes: bool, #[case] refused: Option<bool>) {
    let server = S3Server::start();
    let direct = store(&server.endpoint);
    direct.ensure().await.unwrap();
    direct.put("from", Bytes::from_static(b"bytes")).await.unwrap();
    let faulty = Faulty::start(&server.endpoint, move |r| match r.header("x-amz-copy-source") {
        Some(_) if r.before == 0 || !passes => fault,
        _ => Fault::None,
    });
    let done = store(&faulty.endpoint).copy("from", "to").await;
    match refused {
        None => {
            done.unwrap();
            assert_eq!(direct.get("to", 9).await.unwrap(), "bytes");
        }
        Some(refused) => {
            let error = done.unwrap_err();
            assert_eq!(matches!(error, StoreError::CannotCopy { .. }), refused, "{error}");
            assert_eq!(direct.list("to").await.unwrap(), vec![]);
        }
    }
    // No byte of the object has come here.
    assert!(faulty.seen().iter().all(|r| r.method == "HEAD" || r.header("x-amz-copy-source").is_some()));
}
