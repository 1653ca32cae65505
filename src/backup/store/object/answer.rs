//! What S3 answers about names, read as text: they may be any, also such as XML cannot have.

use super::cause::element;
use crate::backup::store::{ObjectInfo, Unfinished};
use jiff::Timestamp;

/// A page of a listing.
#[derive(Debug, PartialEq)]
pub(super) struct Page {
    pub objects: Vec<ObjectInfo>,
    /// What to ask for the next one with.
    pub next: Option<String>,
}

impl Page {
    /// Half a page is none.
    pub fn parse(text: &str) -> Result<Page, &'static str> {
        if !text.contains("</ListBucketResult>") {
            return Err("the answer is no listing, or ends in the middle");
        }
        // Asked for; not every server does it.
        let is_encoded = element(text, "EncodingType") == Some("url");
        let decode = |key: &str| if is_encoded { unescaped(&plain(key)) } else { plain(key) };
        let object = |entry: &str| {
            Some(ObjectInfo {
                key: decode(element(entry, "Key")?),
                size: element(entry, "Size")?.trim().parse().ok()?,
                modified: element(entry, "LastModified")?.trim().parse().ok()?,
            })
        };
        let objects: Option<Vec<ObjectInfo>> = text.split("<Contents>").skip(1).map(object).collect();
        let is_cut = element(text, "IsTruncated").is_some_and(|said| said.trim() == "true");
        let next = element(text, "NextContinuationToken").map(plain).filter(|_| is_cut);
        if is_cut && next.is_none() {
            return Err("the listing has more pages, and does not say how to ask for them");
        }
        Ok(Page { objects: objects.ok_or("an object without name, size or time")?, next })
    }
}

/// An entry of a listing of uploads.
pub(super) fn upload(entry: &str, prefix: &str) -> Option<Unfinished> {
    let key = plain(element(entry, "Key")?);
    let begun = element(entry, "Initiated").and_then(|time| time.parse::<Timestamp>().ok())?;
    Some(Unfinished {
        key: key.strip_prefix(prefix)?.to_owned(),
        id: plain(element(entry, "UploadId")?),
        size: 0,
        begun,
    })
}

/// Text without XML's escapes.
pub(super) fn plain(text: &str) -> String {
    let mut parts = text.split('&');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let escaped = part.split_once(';').and_then(|(name, rest)| Some((character(name)?, rest)));
        match escaped {
            Some((character, rest)) => plain.extend([character.to_string().as_str(), rest]),
            None => plain.extend(["&", part]),
        }
    }
    plain
}

fn character(name: &str) -> Option<char> {
    let number = |text: &str, radix| u32::from_str_radix(text, radix).ok().and_then(char::from_u32);
    match name {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        "amp" => Some('&'),
        _ => match name.strip_prefix('#')? {
            hex if hex.starts_with('x') => number(&hex[1..], 16),
            decimal => number(decimal, 10),
        },
    }
}

/// Text without the escapes of URLs.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let hex = more.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let escaped = hex.filter(|_| *first == b'%').and_then(|two| u8::from_str_radix(two, 16).ok());
        bytes.push(escaped.unwrap_or(if *first == b'+' { b' ' } else { *first }));
        rest = if escaped.is_some() { &more[2..] } else { more };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_upload_is_read_from_a_listing() {
        let text = "<Key>a/volume_1/x&amp;y</Key><UploadId>2~z</UploadId>\
                    <Initiated>2026-01-02T03:04:05.000Z</Initiated></Upload>";
        let read = upload(text, "a/").unwrap();
        assert_eq!((read.key.as_str(), read.id.as_str()), ("volume_1/x&y", "2~z"));
        assert_eq!(read.begun.to_string(), "2026-01-02T03:04:05Z");
        assert_eq!(upload(text, "b/"), None);
    }

    #[test]
    fn a_page_has_any_names_whether_or_not_the_server_escapes_them() {
        let page = |encoding: &str, keys: &[&str], end: &str| {
            let object = |key: &&str| {
                format!(
                    "<Contents><Key>{key}</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified>\
                     <Size>7</Size></Contents>"
                )
            };
            let objects: String = keys.iter().map(object).collect();
            Page::parse(&format!("<ListBucketResult>{encoding}{objects}{end}"))
        };
        let end = "<IsTruncated>false</IsTruncated></ListBucketResult>";
        let names = |page: Page| page.objects.into_iter().map(|object| object.key).collect::<Vec<_>>();
        let encoded = ["a%2F%2Fb", "x+y%2Bz", "%01", "100%25"];
        let read = page("<EncodingType>url</EncodingType>", &encoded, end).unwrap();
        assert_eq!(names(read), ["a//b", "x y+z", "\u{1}", "100%"]);
        let read = page("", &["a//b", "x+y", "&#x1;&#9;", "\u{1}", "a&amp;lt;b", "a&b"], end).unwrap();
        assert_eq!(names(read), ["a//b", "x+y", "\u{1}\t", "\u{1}", "a&lt;b", "a&b"]);
        let more = "<IsTruncated>true</IsTruncated><NextContinuationToken>t&gt;</NextContinuationToken>\
                    </ListBucketResult>";
        assert_eq!(page("", &[], more).unwrap().next.as_deref(), Some("t>"));
        for wrong in ["", "<IsTruncated>true</IsTruncated></ListBucketResult>"] {
            page("", &["a"], wrong).unwrap_err();
        }
        Page::parse("<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>").unwrap_err();
    }
}
