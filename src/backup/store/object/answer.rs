//! What S3 answers about names: they may be any, also such as are no paths.

use super::Boxed;
use crate::backup::store::{ObjectInfo, Unfinished};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use quick_xml::de::from_str;
use serde::Deserialize;

/// By its root element: what is another answer, or ends in the middle, is none.
#[derive(Deserialize)]
enum Answer {
    ListBucketResult(Listing),
    ListMultipartUploadsResult(Uploading),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listing {
    encoding_type: Option<String>,
    #[serde(default)]
    is_truncated: bool,
    next_continuation_token: Option<String>,
    #[serde(default)]
    contents: Vec<Contents>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Contents {
    key: String,
    size: u64,
    last_modified: Timestamp,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Uploading {
    #[serde(default)]
    is_truncated: bool,
    next_key_marker: Option<String>,
    next_upload_id_marker: Option<String>,
    #[serde(default)]
    upload: Vec<Upload>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Upload {
    key: String,
    upload_id: String,
    initiated: Timestamp,
}

/// A page of a listing.
#[derive(Debug, PartialEq)]
pub(super) struct Page {
    pub objects: Vec<ObjectInfo>,
    /// What to ask for the next one with.
    pub next: Option<String>,
}

impl Page {
    pub fn parse(text: &str) -> Result<Page, Boxed> {
        let Answer::ListBucketResult(found) = parse(text)? else { return Err(OTHER.into()) };
        // Asked for; not every server does it.
        let is_encoded = found.encoding_type.as_deref() == Some("url");
        let decode = |key: String| if is_encoded { unescaped(&key) } else { key };
        let info = |Contents { key, size, last_modified }| ObjectInfo {
            key: decode(key),
            size,
            modified: last_modified,
        };
        let next = found.next_continuation_token.filter(|_| found.is_truncated);
        if found.is_truncated && next.is_none() {
            return Err("the listing has more pages, and does not say how to ask for them".into());
        }
        Ok(Page { objects: found.contents.into_iter().map(info).collect(), next })
    }
}

/// A page of a listing of uploads.
#[derive(Debug, PartialEq)]
pub(super) struct UploadPage {
    pub uploads: Vec<Unfinished>,
    /// Key and id to ask for the next one with.
    pub next: Option<(String, String)>,
}

impl UploadPage {
    /// Of those below `prefix`.
    pub fn parse(text: &str, prefix: &str) -> Result<UploadPage, Boxed> {
        let Answer::ListMultipartUploadsResult(found) = parse(text)? else { return Err(OTHER.into()) };
        let unfinished = |Upload { key, upload_id, initiated }| {
            let key = key.strip_prefix(prefix)?.to_owned();
            Some(Unfinished { key, id: upload_id, size: 0, begun: initiated })
        };
        let given = |marker: Option<String>| marker.filter(|marker| found.is_truncated && !marker.is_empty());
        let next = given(found.next_key_marker).zip(given(found.next_upload_id_marker));
        Ok(UploadPage { uploads: found.upload.into_iter().filter_map(unfinished).collect(), next })
    }
}

const OTHER: &str = "the answer is one to another question";

fn parse(text: &str) -> Result<Answer, Boxed> {
    from_str(text).map_err(|e| format!("the answer is no listing, or ends in the middle: {e}").into())
}

/// Text without the escapes of URLs.
fn unescaped(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_uploads_are_read_from_a_listing() {
        let page = |end: &str| {
            UploadPage::parse(
                &format!(
                    "<?xml version=\"1.0\"?>\n<ListMultipartUploadsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                     <Prefix>a/</Prefix><Upload><Key>a/volume_1/x&amp;y</Key><UploadId>2~z</UploadId>\
                     <Initiator><ID>me</ID></Initiator><Initiated>2026-01-02T03:04:05.000Z</Initiated></Upload>\
                     <Upload><Key>b</Key><UploadId>1</UploadId><Initiated>2026-01-02T03:04:05Z</Initiated></Upload>{end}"
                ),
                "a/",
            )
        };
        let last =
            page("<IsTruncated>false</IsTruncated><NextKeyMarker/></ListMultipartUploadsResult>").unwrap();
        let [upload] = &last.uploads[..] else { panic!("{last:?}") };
        assert_eq!((upload.key.as_str(), upload.id.as_str()), ("volume_1/x&y", "2~z"));
        assert_eq!((upload.begun.to_string().as_str(), last.next), ("2026-01-02T03:04:05Z", None));
        let more = "<NextKeyMarker>b</NextKeyMarker><NextUploadIdMarker>1</NextUploadIdMarker>\
                    <IsTruncated>true</IsTruncated></ListMultipartUploadsResult>";
        assert_eq!(page(more).unwrap().next, Some(("b".to_owned(), "1".to_owned())));
        page("").unwrap_err();
        page("<Upload><Key>a/c</Key></Upload></ListMultipartUploadsResult>").unwrap_err();
    }

    #[test]
    fn a_page_has_any_names_whether_or_not_the_server_escapes_them() {
        let page = |encoding: &str, keys: &[&str], end: &str| {
            let object = |key: &&str| {
                format!(
                    "<Contents><Key>{key}</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified>\
                     <Size>7</Size><StorageClass>STANDARD</StorageClass></Contents>"
                )
            };
            let objects: String = keys.iter().map(object).collect();
            Page::parse(&format!("<ListBucketResult>{encoding}{objects}{end}"))
        };
        let end = "<IsTruncated>false</IsTruncated></ListBucketResult>";
        let names = |page: Page| page.objects.into_iter().map(|object| object.key).collect::<Vec<_>>();
        let encoded = ["a%2F%2Fb", "x+y%2Bz", "%01", "100%25", " %20%zz"];
        let read = page("<EncodingType>url</EncodingType>", &encoded, end).unwrap();
        assert_eq!(names(read), ["a//b", "x y+z", "\u{1}", "100%", "  %zz"]);
        let read = page("", &["a//b", " x+y ", "&#x1;&#9;", "\u{1}", "a&amp;lt;b", "%41"], end).unwrap();
        assert_eq!(names(read), ["a//b", " x+y ", "\u{1}\t", "\u{1}", "a&lt;b", "%41"]);
        let more = "<IsTruncated>true</IsTruncated><NextContinuationToken>t&gt;</NextContinuationToken>\
                    </ListBucketResult>";
        assert_eq!(page("", &[], more).unwrap().next.as_deref(), Some("t>"));
        for wrong in ["", "<IsTruncated>true</IsTruncated></ListBucketResult>"] {
            page("", &["a"], wrong).unwrap_err();
        }
        for wrong in ["a&b", "a<b", "&other;"] {
            page("", &[wrong], end).unwrap_err();
        }
        for wrong in [
            "<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>",
            "<Error><Code>SlowDown</Code></Error>",
            "<ListMultipartUploadsResult></ListMultipartUploadsResult>",
            "",
        ] {
            Page::parse(wrong).unwrap_err();
        }
    }
}
