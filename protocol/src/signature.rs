//! HTTP Message Signatures (RFC 9421) with `hmac-sha256`, as both sides of the protocol use them.
//!
//! A request carries one signature that covers at least [`REQUIRED`]: method, path, query and the digest of the body. Its
//! parameters `created`, `nonce` and `keyid` must be there. The base is built as in section 2.5 and the comparison takes
//! constant time. Whether a nonce was seen before is for the caller to say: this module keeps nothing.

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderMap;
use sfv::{BareItem, Dictionary, InnerList, ListEntry, ListSerializer, Parser};
use sha2::Sha256;

use crate::{
    digest,
    keyring::{Key, KeyRing},
    problem::Code,
};

/// Header with the covered components and the parameters.
pub const INPUT_HEADER: &str = "signature-input";
/// Header with the signature itself.
pub const HEADER: &str = "signature";
/// Components that every signature must cover.
pub const REQUIRED: [&str; 4] = ["@method", "@path", "@query", "content-digest"];
/// The algorithm's name in the HTTP Signature Algorithms registry.
pub const ALGORITHM: &str = "hmac-sha256";
/// Shortest nonce in bytes; a random one of this length already has 96 bits in Base64.
pub const MIN_NONCE_BYTES: usize = 16;
/// Longest nonce in bytes.
pub const MAX_NONCE_BYTES: usize = 64;
/// Most components that a signature may cover.
const MAX_COMPONENTS: usize = 16;

/// The label that [`sign`] gives its signature. Verification accepts any label.
const LABEL: &str = "sig1";

/// The parts of a request that a signature can cover.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method, such as `POST`.
    pub method: &'a str,
    /// The path as sent, such as `/v1/contexts`.
    pub path: &'a str,
    /// The query as sent, without `?`.
    pub query: Option<&'a str>,
    /// The body; empty if there is none.
    pub body: &'a [u8],
}

/// The headers that make a request a signed one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Value of `Content-Digest`.
    pub content_digest: String,
    /// Value of `Signature-Input`.
    pub signature_input: String,
    /// Value of `Signature`.
    pub signature: String,
}

/// A signature as a request presents it, not verified yet.
#[derive(Clone, Debug)]
pub struct Presented {
    covered: InnerList,
    signature: Vec<u8>,
    created: i64,
    expires: Option<i64>,
    nonce: String,
    key_id: String,
}

/// Why a signature is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A header is not there.
    #[error("the header {0} is missing; sign the request as docs/protocol.md says")]
    Missing(&'static str),
    /// A header does not parse, or says something it must not.
    #[error("{header}: {reason}")]
    Malformed {
        /// The header.
        header: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The key ring has no such key.
    #[error("key {0:?} is not in the key ring; read the key file again, it changes when keys are rotated")]
    UnknownKey(String),
    /// The signature does not verify.
    #[error("the signature does not verify; check the key, and that method, path, query and body are sent as signed")]
    Mismatch,
    /// The digest does not fit the body.
    #[error(transparent)]
    Digest(#[from] digest::Error),
    /// `created` is too far from now.
    #[error(
        "created is {created}, {distance} s away from the sidecar's clock ({now}); at most {window} s are accepted"
    )]
    OutsideWindow {
        /// The parameter.
        created: i64,
        /// The verifier's clock.
        now: i64,
        /// Seconds between them.
        distance: u64,
        /// Most seconds.
        window: u64,
    },
    /// `expires` has passed.
    #[error("the signature expired at {expires}, the sidecar's clock says {now}")]
    Expired {
        /// The parameter.
        expires: i64,
        /// The verifier's clock.
        now: i64,
    },
    /// `created` lies before the verifier's start, when its memory of nonces begins.
    #[error("created is {created}, before this sidecar started ({started}); sign the request anew")]
    BeforeStart {
        /// The parameter.
        created: i64,
        /// When the verifier started.
        started: i64,
    },
}

impl Error {
    /// The code of the problem document.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Missing(_) => Code::SignatureMissing,
            Self::Malformed { .. } | Self::Digest(digest::Error::Malformed) => Code::SignatureMalformed,
            Self::UnknownKey(_) => Code::KeyUnknown,
            Self::Mismatch => Code::SignatureInvalid,
            Self::Digest(digest::Error::Mismatch) => Code::DigestMismatch,
            Self::OutsideWindow { .. } | Self::Expired { .. } => Code::TimestampOutsideWindow,
            Self::BeforeStart { .. } => Code::TimestampBeforeStart,
        }
    }
}

/// Signs a request: `created` is Unix time in seconds, `nonce` a random text of 16 to 64 visible characters.
///
/// # Panics
/// When the nonce has a character outside printable ASCII.
///
/// ```
/// use context_manager_protocol::{keyring::{Key, KeyRing}, signature::{self, Presented, Request}};
///
/// let key = Key::new("k1", vec![42; 32])?;
/// let request = Request { method: "POST", path: "/v1/contexts", query: None, body: b"{}" };
/// let signed = signature::sign(&key, &request, 1_700_000_000, "bm9uY2Utbm9uY2Ux");
///
/// let headers = signed.to_header_map();
/// let presented = Presented::from_headers(&headers)?;
/// presented.check_time(1_700_000_001, 300, 1_600_000_000)?;
/// presented.verify(&KeyRing::new(key), &request, &headers)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn sign(key: &Key, request: &Request<'_>, created: i64, nonce: &str) -> Headers {
    let content_digest = digest::of(request.body);
    let components = REQUIRED.map(|name| format!("\"{name}\"")).join(" ");
    let parameters =
        format!("({components});created={created};nonce=\"{nonce}\";keyid=\"{}\";alg=\"{ALGORITHM}\"", key.id());
    let mut headers = HeaderMap::new();
    headers.insert(digest::HEADER, content_digest.parse().expect("Base64 is a valid header value"));
    let input = format!("{LABEL}={parameters}");
    let covered = parse_input(input.as_bytes()).expect("printable ASCII without quotes is a valid structured field").1;
    let base = signature_base(&covered, request, &headers).expect("the required components are always there");
    let signature = mac(key, base.as_bytes()).finalize().into_bytes();
    Headers { content_digest, signature_input: input, signature: format!("{LABEL}={}", byte_sequence(&signature)) }
}

impl Headers {
    /// Names and values, in lower case as HTTP/2 wants them.
    #[must_use]
    pub fn pairs(&self) -> [(&'static str, &str); 3] {
        [(digest::HEADER, &self.content_digest), (INPUT_HEADER, &self.signature_input), (HEADER, &self.signature)]
    }

    /// The headers as a map.
    ///
    /// # Panics
    /// Never for what [`sign`] made: its values are printable ASCII.
    #[must_use]
    pub fn to_header_map(&self) -> HeaderMap {
        self.pairs()
            .into_iter()
            .map(|(name, value)| (name.parse().expect("a valid name"), value.parse().expect("printable ASCII")))
            .collect()
    }
}

impl Presented {
    /// Reads the signature of a request, without verifying it.
    ///
    /// # Errors
    /// When a header is missing or malformed, a required component is not covered, or a parameter is missing.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, Error> {
        let input = single(headers, INPUT_HEADER)?;
        let signatures = single(headers, HEADER)?;
        single(headers, digest::HEADER)?;
        let (label, covered) = parse_input(input)?;
        let signature = parse_signature(signatures, &label)?;
        check_components(&covered)?;
        if let Some(algorithm) = parameter(&covered, "alg")
            && algorithm.as_string().is_none_or(|name| name.as_str() != ALGORITHM)
        {
            return Err(malformed_input(format!("alg must be \"{ALGORITHM}\"")));
        }
        let created = integer(&covered, "created")?.ok_or_else(|| malformed_input("created is missing"))?;
        let expires = integer(&covered, "expires")?;
        let nonce = text(&covered, "nonce")?;
        if !(MIN_NONCE_BYTES..=MAX_NONCE_BYTES).contains(&nonce.len()) {
            return Err(malformed_input(format!("nonce must have {MIN_NONCE_BYTES} to {MAX_NONCE_BYTES} characters")));
        }
        let key_id = text(&covered, "keyid")?;
        Ok(Self { covered, signature, created, expires, nonce, key_id })
    }

    /// When the signature was made, as Unix time in seconds.
    #[must_use]
    pub const fn created(&self) -> i64 {
        self.created
    }

    /// The number used once.
    #[must_use]
    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    /// Id of the key that is said to have signed.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Checks `created` (and `expires`, if given) against the clock. All are Unix times in seconds; `window` is in seconds.
    ///
    /// # Errors
    /// When `created` lies more than `window` from `now` either way, or before `started`.
    pub const fn check_time(&self, now: i64, window: u64, started: i64) -> Result<(), Error> {
        let distance = now.abs_diff(self.created);
        if distance > window {
            return Err(Error::OutsideWindow { created: self.created, now, distance, window });
        }
        if let Some(expires) = self.expires
            && expires <= now
        {
            return Err(Error::Expired { expires, now });
        }
        if self.created < started {
            return Err(Error::BeforeStart { created: self.created, started });
        }
        Ok(())
    }

    /// Verifies the signature with the key it names, then the digest of the body.
    ///
    /// # Errors
    /// When the key is unknown, the signature does not verify, or the body is another one.
    pub fn verify(&self, keys: &KeyRing, request: &Request<'_>, headers: &HeaderMap) -> Result<(), Error> {
        self.verify_head(keys, request, headers)?;
        verify_body(headers, request.body)
    }

    /// Verifies the signature with the key it names, before the body is there: what is signed is the digest that the head states.
    /// The body that then comes is for [`verify_body`]; the one of `request` is not looked at.
    ///
    /// # Errors
    /// When the key is unknown, or the signature does not verify.
    pub fn verify_head(&self, keys: &KeyRing, request: &Request<'_>, headers: &HeaderMap) -> Result<(), Error> {
        let key = keys.find(&self.key_id).ok_or_else(|| Error::UnknownKey(self.key_id.clone()))?;
        let base = signature_base(&self.covered, request, headers)?;
        mac(key, base.as_bytes()).verify_slice(&self.signature).map_err(|_| Error::Mismatch)
    }
}

/// Checks that a body is the one whose digest a verified head states.
///
/// # Errors
/// When it is another one, or the header is missing or malformed.
pub fn verify_body(headers: &HeaderMap, body: &[u8]) -> Result<(), Error> {
    Ok(digest::verify(single(headers, digest::HEADER)?, body)?)
}

/// The signature base of RFC 9421 section 2.5: a line for each covered component, then the parameters.
fn signature_base(covered: &InnerList, request: &Request<'_>, headers: &HeaderMap) -> Result<String, Error> {
    let mut base = String::with_capacity(256);
    for name in component_names(covered) {
        let value = match name {
            "@method" => request.method.to_owned(),
            "@path" => request.path.to_owned(),
            "@query" => format!("?{}", request.query.unwrap_or_default()),
            _ => field_value(headers, name)?,
        };
        for part in [
            "\"", name, "\": ", &value, "
",
        ] {
            base.push_str(part);
        }
    }
    let mut list = ListSerializer::new();
    list.members([&ListEntry::InnerList(covered.clone())]);
    base.push_str("\"@signature-params\": ");
    base.push_str(&list.finish().expect("the list has one member"));
    Ok(base)
}

/// A field's value as section 2.1 combines it: each line trimmed, joined by a comma and a space.
fn field_value(headers: &HeaderMap, name: &str) -> Result<String, Error> {
    let lines: Vec<_> = headers
        .get_all(name)
        .iter()
        .map(|value| value.to_str().map(str::trim))
        .collect::<Result<_, _>>()
        .map_err(|_| malformed_input(format!("the covered field {name:?} is not printable ASCII")))?;
    if lines.is_empty() {
        return Err(malformed_input(format!("the covered field {name:?} is not in the request")));
    }
    Ok(lines.join(", "))
}

fn mac(key: &Key, base: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.material()).expect("HMAC takes keys of any length (RFC 2104)");
    mac.update(base);
    mac
}

/// The one line of a header; a second one could mean different things to different readers.
fn single<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a [u8], Error> {
    let mut lines = headers.get_all(name).iter();
    let line = lines.next().ok_or(Error::Missing(name))?;
    if lines.next().is_some() {
        return Err(Error::Malformed { header: name, reason: "the header must appear once".to_owned() });
    }
    Ok(line.as_bytes())
}

fn parse_input(input: &[u8]) -> Result<(String, InnerList), Error> {
    let dictionary: Dictionary = Parser::new(input).parse().map_err(|error| malformed_input(error.to_string()))?;
    let mut members = dictionary.into_iter();
    match (members.next(), members.next()) {
        (Some((label, ListEntry::InnerList(covered))), None) => Ok((label.as_str().to_owned(), covered)),
        (Some(_), None) => Err(malformed_input("the member must be a list of components in parentheses")),
        _ => Err(malformed_input("there must be exactly one signature")),
    }
}

fn parse_signature(header: &[u8], label: &str) -> Result<Vec<u8>, Error> {
    let malformed = |reason: String| Error::Malformed { header: HEADER, reason };
    let dictionary: Dictionary = Parser::new(header).parse().map_err(|error| malformed(error.to_string()))?;
    match dictionary.get(label) {
        Some(ListEntry::Item(item)) if dictionary.len() == 1 => item
            .bare_item
            .as_byte_sequence()
            .map(<[u8]>::to_vec)
            .ok_or_else(|| malformed("the signature must be a byte sequence, :BASE64:".to_owned())),
        _ => Err(malformed(format!("there must be exactly one signature, labelled {label:?} as in Signature-Input"))),
    }
}

fn check_components(covered: &InnerList) -> Result<(), Error> {
    let names: Vec<_> = component_names(covered).collect();
    if names.len() != covered.items.len() || covered.items.iter().any(|item| !item.params.is_empty()) {
        return Err(malformed_input("components must be strings without parameters"));
    }
    if names.len() > MAX_COMPONENTS {
        return Err(malformed_input(format!("at most {MAX_COMPONENTS} components can be covered")));
    }
    for (index, name) in names.iter().enumerate() {
        let known = if name.starts_with('@') {
            REQUIRED.contains(name)
        } else {
            !name.bytes().any(|byte| byte.is_ascii_uppercase())
        };
        if !known {
            return Err(malformed_input(format!("the component {name:?} is not supported")));
        }
        if names[..index].contains(name) {
            return Err(malformed_input(format!("the component {name:?} is covered twice")));
        }
    }
    match REQUIRED.iter().find(|required| !names.contains(required)) {
        Some(missing) => Err(malformed_input(format!("the component {missing:?} must be covered"))),
        None => Ok(()),
    }
}

fn component_names(covered: &InnerList) -> impl Iterator<Item = &str> {
    covered.items.iter().filter_map(|item| item.bare_item.as_string().map(sfv::StringRef::as_str))
}

fn parameter<'a>(covered: &'a InnerList, name: &str) -> Option<&'a BareItem> {
    covered.params.get(name)
}

fn integer(covered: &InnerList, name: &str) -> Result<Option<i64>, Error> {
    parameter(covered, name)
        .map(|item| {
            item.as_integer()
                .map(i64::from)
                .ok_or_else(|| malformed_input(format!("{name} must be an integer, Unix time in seconds")))
        })
        .transpose()
}

fn text(covered: &InnerList, name: &str) -> Result<String, Error> {
    parameter(covered, name)
        .and_then(BareItem::as_string)
        .map(|text| text.as_str().to_owned())
        .ok_or_else(|| malformed_input(format!("{name} is missing or not a string")))
}

fn malformed_input(reason: impl Into<String>) -> Error {
    Error::Malformed { header: INPUT_HEADER, reason: reason.into() }
}

fn byte_sequence(bytes: &[u8]) -> String {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    format!(":{}:", BASE64_STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests;
