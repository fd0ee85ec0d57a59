use proptest::prelude::*;

use super::*;

const NOW: i64 = 1_700_000_000;
const NONCE: &str = "0123456789abcdef";
const REQUEST: Request<'static> =
    Request { method: "POST", path: "/v1/contexts/search", query: Some("a=1"), body: b"{\"query\":\"x\"}" };

fn key(id: &str, byte: u8) -> Key {
    Key::new(id, vec![byte; 32]).expect("a valid key")
}

fn ring() -> KeyRing {
    KeyRing::with(key("b", 2), Some(key("c", 3)), vec![key("a", 1)]).expect("distinct ids")
}

fn verify(headers: &HeaderMap, request: &Request<'_>) -> Result<(), Error> {
    let presented = Presented::from_headers(headers)?;
    presented.check_time(NOW, 300, NOW - 3_600)?;
    presented.verify(&ring(), request, headers)
}

fn signed() -> HeaderMap {
    sign(&key("b", 2), &REQUEST, NOW, NONCE).to_header_map()
}

/// RFC 9421 appendix B.2.5: the HMAC of the published base with the published key.
#[test]
fn the_published_test_vector_is_reproduced() {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let secret = "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==";
    let key = Key::new("test-shared-secret", BASE64_STANDARD.decode(secret).expect("Base64")).expect("64 bytes");
    let base = "\"date\": Tue, 20 Apr 2021 02:07:55 GMT\n\"@authority\": example.com\n\"content-type\": application/json\n\
        \"@signature-params\": (\"date\" \"@authority\" \"content-type\");created=1618884473;keyid=\"test-shared-secret\"";
    let signature = mac(&key, base.as_bytes()).finalize().into_bytes();
    assert_eq!(byte_sequence(&signature), ":pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=:");
}

#[test]
fn the_values_of_the_documentation_are_right() {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let page = include_str!("../../../docs/protocol.md");
    let secret = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let key = Key::new("k-2026-11", BASE64_STANDARD.decode(secret).expect("Base64")).expect("32 bytes");
    let body = br#"{"query": "where is the exit"}"#;
    let request = Request { method: "POST", path: "/v1/contexts/search", query: None, body };
    let signed = sign(&key, &request, NOW, "4vGm0Yq3yQmJ8d0u");
    let headers = signed.to_header_map();
    let presented = Presented::from_headers(&headers).expect("a signed request");
    let base = signature_base(&presented.covered, &request, &headers).expect("all components");
    for value in [secret, base.as_str(), signed.signature.as_str()] {
        assert!(page.contains(value), "docs/protocol.md lacks {value:?}");
    }
}

#[test]
fn the_base_has_the_form_of_the_rfc() {
    let headers = signed();
    let presented = Presented::from_headers(&headers).expect("a signed request");
    let base = signature_base(&presented.covered, &REQUEST, &headers).expect("all components");
    let digest = digest::of(REQUEST.body);
    assert_eq!(
        base,
        format!(
            "\"@method\": POST\n\"@path\": /v1/contexts/search\n\"@query\": ?a=1\n\"content-digest\": {digest}\n\
             \"@signature-params\": (\"@method\" \"@path\" \"@query\" \"content-digest\");created=1700000000;\
             nonce=\"0123456789abcdef\";keyid=\"b\";alg=\"hmac-sha256\""
        )
    );
}

#[test]
fn every_key_of_the_ring_verifies_and_no_other() {
    for (id, byte) in [("a", 1), ("b", 2), ("c", 3)] {
        let headers = sign(&key(id, byte), &REQUEST, NOW, NONCE).to_header_map();
        assert_eq!(verify(&headers, &REQUEST), Ok(()), "{id}");
    }
    let unknown = sign(&key("d", 4), &REQUEST, NOW, NONCE).to_header_map();
    assert_eq!(verify(&unknown, &REQUEST), Err(Error::UnknownKey("d".to_owned())));
    let forged = sign(&key("b", 9), &REQUEST, NOW, NONCE).to_header_map();
    assert_eq!(verify(&forged, &REQUEST), Err(Error::Mismatch));
}

#[test]
fn a_changed_request_is_refused() {
    for changed in [
        Request { method: "PUT", ..REQUEST },
        Request { path: "/v1/contexts", ..REQUEST },
        Request { query: None, ..REQUEST },
        Request { query: Some("a=2"), ..REQUEST },
    ] {
        assert_eq!(verify(&signed(), &changed), Err(Error::Mismatch), "{changed:?}");
    }
    let other_body = Request { body: b"{}", ..REQUEST };
    assert_eq!(verify(&signed(), &other_body), Err(Error::Digest(digest::Error::Mismatch)));
    let mut other_digest = signed();
    other_digest.insert(digest::HEADER, digest::of(b"{}").parse().expect("a header value"));
    assert_eq!(verify(&other_digest, &other_body), Err(Error::Mismatch));
}

#[test]
fn the_window_is_closed_on_both_sides_and_at_the_start() {
    let at = |created| {
        Presented::from_headers(&sign(&key("b", 2), &REQUEST, created, NONCE).to_header_map()).expect("signed")
    };
    assert!(at(NOW - 300).check_time(NOW, 300, 0).is_ok());
    assert!(at(NOW + 300).check_time(NOW, 300, 0).is_ok());
    assert_eq!(at(NOW - 301).check_time(NOW, 300, 0).map_err(|error| error.code()), Err(Code::TimestampOutsideWindow));
    assert_eq!(at(NOW + 301).check_time(NOW, 300, 0).map_err(|error| error.code()), Err(Code::TimestampOutsideWindow));
    assert_eq!(at(NOW - 1).check_time(NOW, 300, NOW).map_err(|error| error.code()), Err(Code::TimestampBeforeStart));
    assert!(at(NOW).check_time(NOW, 300, NOW).is_ok());
    assert!(at(i64::MIN / 1_000_000).check_time(NOW, 300, NOW).is_err());
}

#[test]
fn malformed_headers_are_refused_with_a_reason() {
    let good = signed();
    for (header, value, expected) in [
        (
            INPUT_HEADER,
            "sig1=();created=1;nonce=\"0123456789abcdef\";keyid=\"b\"",
            "the component \"@method\" must be covered",
        ),
        (INPUT_HEADER, "sig1=1", "parentheses"),
        (INPUT_HEADER, "sig1=(", "signature-input"),
        (
            INPUT_HEADER,
            "sig1=(\"@method\" \"@path\" \"@query\" \"content-digest\" \"@status\");created=1",
            "\"@status\" is not supported",
        ),
        (
            INPUT_HEADER,
            "sig1=(\"@method\" \"@method\" \"@path\" \"@query\" \"content-digest\");created=1",
            "covered twice",
        ),
        (
            INPUT_HEADER,
            "sig1=(\"@method\";req \"@path\" \"@query\" \"content-digest\");created=1",
            "without parameters",
        ),
        (
            INPUT_HEADER,
            "sig1=(\"@method\" \"@path\" \"@query\" \"content-digest\");nonce=\"0123456789abcdef\";keyid=\"b\"",
            "created is missing",
        ),
        (
            INPUT_HEADER,
            "sig1=(\"@method\" \"@path\" \"@query\" \"content-digest\");created=1;nonce=\"short\";keyid=\"b\"",
            "16 to 64",
        ),
        (
            INPUT_HEADER,
            "sig1=(\"@method\" \"@path\" \"@query\" \"content-digest\");created=1;nonce=\"0123456789abcdef\"",
            "keyid is missing",
        ),
        (
            INPUT_HEADER,
            "sig1=(\"@method\" \"@path\" \"@query\" \"content-digest\");created=1;alg=\"none\"",
            "alg must be",
        ),
        (HEADER, "sig2=:AAAA:", "labelled \"sig1\""),
        (HEADER, "sig1=AAAA", "byte sequence"),
        (HEADER, "sig1=:AAAA:, sig2=:AAAA:", "exactly one"),
    ] {
        let mut headers = good.clone();
        headers.insert(header, value.parse().expect("a header value"));
        let error = verify(&headers, &REQUEST).expect_err(value);
        assert!(error.to_string().contains(expected), "{value:?} gave {error}");
        assert_eq!(error.code(), Code::SignatureMalformed, "{value:?}");
    }
    for header in [INPUT_HEADER, HEADER, digest::HEADER] {
        let mut headers = good.clone();
        headers.remove(header);
        assert_eq!(verify(&headers, &REQUEST), Err(Error::Missing(header)));
        let mut twice = good.clone();
        let line = good.get(header).expect("signed").clone();
        twice.append(header, line);
        assert_eq!(verify(&twice, &REQUEST).map_err(|error| error.code()), Err(Code::SignatureMalformed));
    }
}

proptest! {
    /// Whatever stands in the headers, reading them neither panics nor authenticates.
    #[test]
    fn arbitrary_headers_never_authenticate(input in "\\PC{0,120}", signature in "\\PC{0,120}") {
        let mut headers = signed();
        if let (Ok(input), Ok(signature)) = (input.parse(), signature.parse()) {
            headers.insert(INPUT_HEADER, input);
            headers.insert(HEADER, signature);
            prop_assert!(verify(&headers, &REQUEST).is_err());
        }
    }

    /// One flipped bit anywhere in the signature is enough.
    #[test]
    fn a_flipped_bit_is_refused(byte in 0_usize..32, bit in 0_u8..8) {
        let headers = signed();
        let mut presented = Presented::from_headers(&headers).expect("signed");
        presented.signature[byte] ^= 1 << bit;
        prop_assert_eq!(presented.verify(&ring(), &REQUEST, &headers), Err(Error::Mismatch));
        presented.signature.truncate(byte);
        prop_assert_eq!(presented.verify(&ring(), &REQUEST, &headers), Err(Error::Mismatch));
    }
}
