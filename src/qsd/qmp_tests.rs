use super::*;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;

const GREETING: &str = r#"{"QMP":{"version":{},"capabilities":[]}}"#;

/// A daemon that greets and then answers each command with the next group of lines.
fn serve(socket: &Path, answers: Vec<&'static str>) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        writeln!(stream, "{GREETING}").unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        for answer in std::iter::once(r#"{"return":{},"id":1}"#).chain(answers) {
            lines.next().unwrap().unwrap();
            writeln!(stream, "{answer}").unwrap();
        }
        // Until the client has gone.
        lines.next();
    })
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_event_before_the_answer_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("qmp.sock");
    let server = serve(&socket, vec!["{\"event\":\"X\",\"data\":{\"n\":1}}\n{\"return\":7,\"id\":2}"]);
    let mut client = Client::connect(&socket, SECOND).unwrap();
    assert_eq!(client.execute("ask", Value::Null, SECOND).unwrap(), 7);
    let event = client.wait_event(SECOND, |event| event.name == "X").unwrap().unwrap();
    assert_eq!(event.data["n"], 1);
    drop(client);
    server.join().unwrap();
}

#[test]
fn a_refusal_carries_class_and_reason() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("qmp.sock");
    let server = serve(&socket, vec![r#"{"error":{"class":"GenericError","desc":"no such node"},"id":2}"#]);
    let mut client = Client::connect(&socket, SECOND).unwrap();
    let error = client.execute("blockdev-del", Value::Null, SECOND).unwrap_err();
    assert!(error.refused() && error.to_string().contains("no such node"), "{error}");
    drop(client);
    server.join().unwrap();
}

#[test]
fn a_silent_daemon_is_a_timeout_and_a_missing_one_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("qmp.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let error = Client::connect(&socket, Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, QmpError::Timeout { .. }), "{error}");
    let error = Client::connect(&dir.path().join("none"), SECOND).unwrap_err();
    assert!(matches!(error, QmpError::Io { .. }), "{error}");
}

#[test]
fn a_socket_deeper_than_an_address_can_hold_is_reached() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("d".repeat(120));
    std::fs::create_dir(&folder).unwrap();
    let near = dir.path().join("near.sock");
    let server = serve(&near, vec![]);
    std::fs::rename(&near, folder.join("qmp.sock")).unwrap();
    drop(Client::connect(&folder.join("qmp.sock"), SECOND).unwrap());
    server.join().unwrap();
}
