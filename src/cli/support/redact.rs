//! Takes credentials out of what goes into a bundle. In doubt too much: what is missing can be asked for.

use regex::{Captures, Regex};
use serde_json::{Map, Value};

const REDACTED: &str = "[redacted]";
/// Shorter values of our own environment would be found everywhere.
const SHORTEST: usize = 6;
/// What the names of secret fields hold, without their separators.
const SECRET: [&str; 12] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "credential",
    "authorization",
    "accesskey",
    "apikey",
    "privatekey",
    "signature",
    "cookie",
];
/// And how the names of fields end that only say where something secret is.
const HARMLESS: [&str; 9] = ["name", "names", "namespace", "ref", "refs", "file", "dir", "path", "url"];
/// Fields of Kubernetes objects that say the object over again.
const COPIES: [&str; 2] = ["managedFields", "kubectl.kubernetes.io/last-applied-configuration"];

/// Knows what a credential looks like, and those of its own environment.
pub(super) struct Redactor {
    known: Vec<String>,
    shapes: Vec<(Regex, &'static str)>,
    pairs: Regex,
    flags: Regex,
    below: Below,
}

/// How a value goes on in the lines below its name, as YAML has it.
struct Below {
    /// What a log puts before each line.
    stamp: Regex,
    /// Before the name.
    indent: Regex,
    first: Regex,
    /// A value that was taken out: it may have been the sign of a block.
    last: Regex,
    end: Regex,
}

/// Whether a field or variable of that name holds a credential.
pub(super) fn is_secret(name: &str) -> bool {
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let holds = SECRET.iter().any(|word| plain.contains(word)) || plain == "pass";
    holds && !HARMLESS.iter().any(|end| plain.ends_with(end))
}

fn shape(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a pattern of ours")
}

impl Redactor {
    /// `environment`: the variables of this process, whose secret values are taken out wherever they are.
    pub fn new(environment: impl IntoIterator<Item = (String, String)>) -> Self {
        let secret =
            environment.into_iter().filter(|(name, value)| is_secret(name) && value.len() >= SHORTEST);
        let known = secret.map(|(_, value)| value).collect();
        let shapes = vec![
            (
                shape(
                    r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY[A-Z ]*-----.*?(?:-----END [A-Z ]*PRIVATE KEY[A-Z ]*-----|\z)",
                ),
                REDACTED,
            ),
            // The rest of one, where a log was cut.
            (shape(r"\A[A-Za-z0-9+/=\s]*-----END [A-Z ]*PRIVATE KEY[A-Z ]*-----"), REDACTED),
            // What begins so is PEM in base64, as kubeconfigs and Secrets have it.
            (shape(r"\bLS0tLS1CRUdJTi[A-Za-z0-9+/=]+"), REDACTED),
            (shape(r#"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/@"'<>]+@"#), "${1}[redacted]@"),
            (shape(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), "${1} [redacted]"),
            (shape(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), REDACTED),
            (shape(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"), REDACTED),
        ];
        let pairs =
            shape(r#"([\w.-]+)(\\*["']?\s*[=:]\s*)("(?:[^"\\]|\\.)*"|\\+"[^"]*"|'[^']*'|[^\s,;&"'}\])\\]+)"#);
        let flags = shape(r"(--[A-Za-z][\w-]*)(\s+)([^\s-]\S*)");
        let below = Below {
            stamp: shape(r"^\d{4}-\d\d-\d\dT[\d:.]+Z "),
            indent: shape(r"^\s*(?:- +)*"),
            first: shape(r#"^["']?([\w.-]+)["']?\s*:(?:\s|$)"#),
            last: shape(r#"([\w.-]+)["']?\s*:\s*\[redacted\](?:\s*[|>][0-9+-]*)?\s*(?:#.*)?$"#),
            end: shape(r"\n|\\n"),
        };
        Redactor { known, shapes, pairs, flags, below }
    }

    /// A text without its credentials.
    pub fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for known in &self.known {
            text = text.replace(known.as_str(), REDACTED);
        }
        for (shape, instead) in &self.shapes {
            text = shape.replace_all(&text, *instead).into_owned();
        }
        let flag = |found: &Captures<'_>| match is_secret(&found[1]) {
            true => format!("{}{}{REDACTED}", &found[1], &found[2]),
            false => found[0].to_owned(),
        };
        self.below.text(&self.pairs(&self.flags.replace_all(&text, flag)))
    }

    /// `NAME=VALUE`, `NAME: VALUE`, `"NAME":"VALUE"`, also within a value: error: password=…
    fn pairs(&self, text: &str) -> String {
        let (mut clean, mut done) = (String::with_capacity(text.len()), 0);
        while let Some(found) = self.pairs.captures_at(text, done) {
            let (name, value) = (&found[1], found.get(3).expect("a pair has a value"));
            clean.push_str(&text[done..value.start()]);
            done = value.start();
            // A dash is the first of a list below its name.
            if is_secret(name) && value.as_str() != "-" {
                clean.push_str(REDACTED);
                done = value.end();
            }
        }
        clean.push_str(&text[done..]);
        clean
    }

    /// The words of a command line.
    pub fn words(&self, words: &[String]) -> Vec<String> {
        let mut is_value = false;
        let word = |word: &String| {
            let hidden = std::mem::replace(
                &mut is_value,
                word.starts_with("--") && is_secret(word) && !word.contains('='),
            );
            if hidden { REDACTED.to_owned() } else { self.text(word) }
        };
        words.iter().map(word).collect()
    }

    /// A document without its credentials.
    pub fn json(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.json(item)),
            Value::Object(fields) => self.fields(fields),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn fields(&self, fields: &mut Map<String, Value>) {
        fields.retain(|name, _| !COPIES.contains(&name.as_str()));
        // A variable of a container.
        let is_secret_variable = fields.get("name").and_then(Value::as_str).is_some_and(is_secret);
        for (name, value) in fields.iter_mut() {
            match is_secret(name) || (is_secret_variable && name == "value") {
                true => hide(value),
                false => self.json(value),
            }
        }
    }
}

impl Below {
    /// Where the value of a secret name in that line would be further in than.
    fn opens(&self, line: &str) -> Option<usize> {
        let indent = self.indent.find(line).map_or(0, |found| found.end());
        let mut found = self.first.captures(&line[indent..]).into_iter().chain(self.last.captures(line));
        found.any(|found| is_secret(&found[1])).then_some(indent)
    }

    /// `password: |`, `password: >-` and `password:`, and the lines that are further in, or a list.
    fn text(&self, text: &str) -> String {
        let (mut clean, mut rest) = (String::with_capacity(text.len()), text);
        let mut secret: Option<usize> = None;
        while !rest.is_empty() {
            // Also as JSON has the end of a line.
            let (stop, next) =
                self.end.find(rest).map_or((rest.len(), rest.len()), |end| (end.start(), end.end()));
            let (line, end) = (&rest[..stop], &rest[stop..next]);
            let (stamp, line) = line.split_at(self.stamp.find(line).map_or(0, |stamp| stamp.end()));
            let inner = line.trim_start();
            let indent = line.len() - inner.len();
            let goes_on = |name: usize| indent > name || indent == name && inner.starts_with("- ");
            clean.push_str(stamp);
            if inner.is_empty() {
                clean.push_str(line);
            } else if secret.is_some_and(goes_on) {
                clean.push_str(&line[..indent]);
                clean.push_str(REDACTED);
            } else {
                secret = self.opens(line);
                clean.push_str(line);
            }
            clean.push_str(end);
            rest = &rest[next..];
        }
        clean
    }
}

/// Everything in it but what only names something.
fn hide(value: &mut Value) {
    match value {
        Value::String(text) => *text = REDACTED.to_owned(),
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::Object(fields) => {
            let named = |name: &str| matches!(name, "name" | "namespace" | "secretName");
            fields.iter_mut().filter(|(name, _)| !named(name)).for_each(|(_, value)| hide(value));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    fn redactor() -> Redactor {
        Redactor::new([("AWS_SESSION_TOKEN".to_owned(), "hunter2-known".to_owned())])
    }

    #[rstest]
    #[case("connect https://me:hunter2@s3.example/b failed")]
    #[case("secret-access-key=hunter2, region=eu")]
    #[case(r#"{"level":"INFO","secretAccessKey":"hunter2","n":1}"#)]
    #[case(r#"{"message":"{\"password\":\"hunter2\"}"}"#)]
    #[case("AWS_SECRET_ACCESS_KEY: 'hunter2'")]
    #[case("strata backup --secret-access-key hunter2 --region eu")]
    #[case("strata --secret-access-key hunter2")]
    #[case("error: password=hunter2")]
    #[case("error: password: hunter2")]
    #[case("s3:\n  password: hunter2")]
    #[case(r#"{"message":"it said \"x\"","token":"hun\"hunter2"}"#)]
    #[case(r#"{"message":"{\\\"a\\\":{\\\"password\\\":\\\"hunter2\\\"}}"}"#)]
    #[case("Authorization: Bearer hunter2hunter2")]
    #[case("GET /b?X-Amz-Signature=hunter2&x=1")]
    #[case("-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----")]
    #[case("-----BEGIN PRIVATE KEY-----\\nhunter2")]
    #[case("hunter2\nhunter2==\n-----END RSA PRIVATE KEY-----\n")]
    #[case(
        "key.asc: |\n  -----BEGIN PGP PRIVATE KEY BLOCK-----\n\n  hunter2\n  -----END PGP PRIVATE KEY BLOCK-----"
    )]
    #[case("client-key-data: LS0tLS1CRUdJTihunter2==")]
    #[case("password: |\n  hunter2\n\n   hunter2")]
    #[case("s3:\n  - region: eu\n    \"secretKey\": >-  # folded\n      hunter2\n      hunter2")]
    #[case("- password: !!binary |\n    hunter2")]
    #[case("password:\n  hunter2 hunter2\n  hunter2")]
    #[case("password: hunter2\n  hunter2")]
    #[case("password: \"hunter2\n  hunter2\"")]
    #[case("tokens:\n- hunter2\n- hunter2")]
    #[case("2026-01-01T00:00:00.123456789Z password: |\n2026-01-01T00:00:00.2Z   hunter2")]
    #[case(r#"{"message":"values: password: |\n  hunter2\n  hunter2"}"#)]
    #[case("the value hunter2-known of the environment")]
    #[case("eyJhbGciOiJSUzI1.eyJhunter2aaaaaa.hunter2")]
    fn credentials_are_taken_out(#[case] text: &str) {
        let found = redactor().text(text);
        assert!(!found.contains("hunter2") && found.contains(REDACTED), "{found}");
    }

    #[rstest]
    #[case("https://s3.example/bucket: 403")]
    #[case("Secret strata-system/keys has no AWS_ACCESS_KEY_ID")]
    #[case("secretName=keys, secretRef: keys, ca-file=/etc/ca.pem")]
    #[case("the token of the lease is old")]
    #[case("secretName: |\n  keys\nca.pem: >\n  text")]
    #[case("volume=a/b snapshot=c request_id=7 reason=\"x y\"")]
    fn what_is_no_credential_stays(#[case] text: &str) {
        assert_eq!(redactor().text(text), text);
    }

    #[test]
    fn what_stands_beside_a_block_stays() {
        let text = "a:\n  password: |\n    hunter2\n  region: eu\n- tokens:\n  - hunter2\n- b: c\n";
        let expected =
            "a:\n  password: [redacted]\n    [redacted]\n  region: eu\n- tokens:\n  [redacted]\n- b: c\n";
        assert_eq!(redactor().text(text), expected);
    }

    #[test]
    fn documents_keep_their_shape() {
        let mut value = json!({
            "metadata": {"managedFields": [1], "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "hunter2", "a": "https://u:hunter2@h/"}},
            "spec": {"secretRef": {"name": "keys"}, "password": "hunter2", "automountServiceAccountToken": true,
                "volumes": [{"secret": {"secretName": "tls", "defaultMode": 256}}],
                "env": [{"name": "S3_PASSWORD", "value": "hunter2"}, {"name": "HOME", "value": "/root"}],
                "credentials": {"user": "hunter2", "all": ["hunter2"]}},
        });
        redactor().json(&mut value);
        let expected = json!({
            "metadata": {"annotations": {"a": "https://[redacted]@h/"}},
            "spec": {"secretRef": {"name": "keys"}, "password": REDACTED, "automountServiceAccountToken": true,
                "volumes": [{"secret": {"secretName": "tls", "defaultMode": 256}}],
                "env": [{"name": "S3_PASSWORD", "value": REDACTED}, {"name": "HOME", "value": "/root"}],
                "credentials": {"user": REDACTED, "all": [REDACTED]}},
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn words_of_a_command_line() {
        let words = ["strata", "--secret-access-key", "hunter2", "--token=hunter2", "--share", "dir:/x"];
        let found = redactor().words(&words.map(str::to_owned));
        assert_eq!(
            found,
            ["strata", "--secret-access-key", REDACTED, "--token=[redacted]", "--share", "dir:/x"]
        );
    }
}
