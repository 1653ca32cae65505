//! What a failed request comes down to, for people: the server's code and text, and what to do about it.

use object_store::Error;
use object_store::client::HttpError;
use std::error::Error as StdError;
use std::fmt;

/// A server may answer with a page of HTML.
const MOST: usize = 600;

/// A failure in one line. Holds neither a URL nor a header of the request: both carry signatures.
#[derive(Debug)]
pub(super) struct Cause {
    said: String,
    remedy: Option<&'static str>,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said)?;
        self.remedy.map_or(Ok(()), |remedy| write!(f, " ({remedy})"))
    }
}

impl StdError for Cause {}

impl Cause {
    pub fn of(error: &Error) -> Cause {
        let whole = error.to_string();
        let mut said = match between(&whole, "status code: ", ": ") {
            Some(status) => answered(status, &whole),
            None => http_error(error).unwrap_or_else(|| without_urls(&whole)),
        };
        if let Some(retries) = between(&whole, ", after ", " retries") {
            said += &format!(", after {retries} retries");
        }
        Cause { remedy: remedy(&whole, &said), said }
    }

    /// What a request of our own was answered.
    pub fn of_answer(status: &str, body: &str) -> Cause {
        let said = answered(status, body);
        Cause { remedy: remedy(body, &said), said }
    }
}

/// Whether a server has answered that it will not do this, rather than that it cannot just now.
pub(super) fn is_refusal(error: &Error) -> bool {
    match error {
        Error::NotImplemented { .. }
        | Error::NotSupported { .. }
        | Error::PermissionDenied { .. }
        | Error::Unauthenticated { .. }
        | Error::Precondition { .. } => true,
        Error::Generic { .. } => {
            let whole = error.to_string();
            let status = between(&whole, "status code: ", " ").and_then(|status| status.parse().ok());
            // Too slow, too many: those pass.
            status.is_some_and(|status: u16| {
                (400..500).contains(&status) && !matches!(status, 408 | 429) || status == 501
            })
        }
        _ => false,
    }
}

fn answered(status: &str, body: &str) -> String {
    let part = |name| element(body, name).map(|text| format!(" {text}")).unwrap_or_default();
    let text = match (part("Code"), part("Message")) {
        (code, text) if code.is_empty() && text.is_empty() => String::new(),
        (code, text) => format!(":{code}:{text}"),
    };
    short(format!("the server answered {status}{text}"))
}

fn http_error(error: &Error) -> Option<String> {
    let mut next: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(cause) = next {
        if let Some(http) = cause.downcast_ref::<HttpError>() {
            return http.source().map(|source| short(source.to_string()));
        }
        next = cause.source();
    }
    None
}

/// The text of an XML element, if there is one.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    between(text, &format!("<{name}>"), &format!("</{name}>"))
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(found, _)| found)
}

fn without_urls(text: &str) -> String {
    let words = text.split(' ').map(|word| match word.find("://") {
        Some(_) => word.split('?').next().unwrap_or_default(),
        None => word,
    });
    short(words.collect::<Vec<_>>().join(" "))
}

fn short(mut text: String) -> String {
    if let Some((cut, _)) = text.char_indices().nth(MOST) {
        text.truncate(cut);
        text.push('…');
    }
    text
}

/// No key was given, and the machine's own role was asked for.
const NO_CREDENTIALS: &str = "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give \
     this machine a role";

/// First that is found counts.
const REMEDIES: &[(&str, &str)] = &[
    ("/latest/api/token", NO_CREDENTIALS),
    ("/latest/meta-data", NO_CREDENTIALS),
    ("RequestTimeTooSkewed", "the clock of this machine or of the server is wrong"),
    ("RequestExpired", "the clock of this machine or of the server is wrong"),
    (
        "InvalidAccessKeyId",
        "the server does not know the access key: look at AWS_ACCESS_KEY_ID and the endpoint",
    ),
    ("SignatureDoesNotMatch", "the secret key is another one: look at AWS_SECRET_ACCESS_KEY"),
    ("ExpiredToken", "the session token has expired: get new credentials"),
    ("InvalidToken", "the session token is not valid: look at AWS_SESSION_TOKEN"),
    ("AuthorizationHeaderMalformed", "the bucket is in another region: set --region or AWS_REGION"),
    (
        "PermanentRedirect",
        "the bucket is in another region, or at another endpoint: set --region or --endpoint",
    ),
    ("IllegalLocationConstraint", "the endpoint is of another region: set --region or AWS_REGION"),
    ("incorrectly configured region", "the bucket is in another region: set --region or AWS_REGION"),
    ("QuotaExceeded", "the quota of the store is used up"),
    ("AccessDenied", "the credentials do not give this right"),
    ("403 Forbidden", "the credentials are refused, or do not give this right"),
    ("401 Unauthorized", "the server wants other credentials"),
    ("SlowDown", "the store is overloaded: try again later, or with a limit"),
    ("503 Service Unavailable", "the store is overloaded or under repair: try again later"),
    ("429 Too Many Requests", "the store takes no more requests: try again later, or with a limit"),
    ("507 ", "the store is full"),
    (
        "invalid peer certificate",
        "the server's certificate is signed by nobody known here, or is for another name: \
     give the signer's certificate with --ca-file or AWS_CA_BUNDLE",
    ),
    ("InvalidContentType", "the server speaks plain HTTP there: use http:// in the endpoint"),
    ("dns error", "the endpoint's name does not resolve: look at --endpoint, and at --virtual-host-style"),
    ("Connection refused", "nothing listens there: look at --endpoint and the proxy"),
    ("no byte moved", "the store or the line hangs"),
];

fn remedy(whole: &str, said: &str) -> Option<&'static str> {
    let fits = |(sign, _): &&(&str, &str)| whole.contains(sign) || said.contains(sign);
    REMEDIES.iter().find(fits).map(|(_, remedy)| *remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_with_its_code_its_text_and_a_remedy() {
        let body =
            "<Error><Code>RequestTimeTooSkewed</Code><Message>The difference is too large.</Message></Error>";
        assert_eq!(
            Cause::of_answer("403 Forbidden", body).to_string(),
            "the server answered 403 Forbidden: RequestTimeTooSkewed: The difference is too large. \
             (the clock of this machine or of the server is wrong)"
        );
        assert_eq!(
            Cause::of_answer("418 I'm a teapot", "short and stout").to_string(),
            "the server answered 418 I'm a teapot"
        );
    }

    #[test]
    fn urls_lose_what_signs_them_and_long_answers_their_end() {
        let signed = "GET https://host/bucket?X-Amz-Security-Token=secret failed";
        assert_eq!(without_urls(signed), "GET https://host/bucket failed");
        assert_eq!(short("ä".repeat(1000)).chars().count(), MOST + 1);
    }
}
