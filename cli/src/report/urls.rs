//! Credentials in URLs: user and password before the host, and the values of the query, where keys of APIs stand. A text may hold many URLs;
//! a configuration file is one.

use super::redact::REDACTED;

/// What ends a URL, beside white space and control characters: quotes and escapes of what it stands in.
const END: [char; 4] = ['"', '<', '>', '\\'];

/// The text with what may be a credential taken out of every URL in it. A second time changes nothing.
pub(super) fn without_credentials(text: &str) -> String {
    let ends = |char: char| char.is_whitespace() || char.is_control() || END.contains(&char);
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        clean.push_str(before);
        clean.push_str("://");
        let url = &after[..after.find(ends).unwrap_or(after.len())];
        // Another one may follow without a space: behind a comma, or in a query.
        let end = url.find("://").map_or(url.len(), |at| scheme(url, at));
        push(&mut clean, &url[..end]);
        rest = &after[end..];
    }
    clean.push_str(rest);
    clean
}

/// Where the scheme begins that ends at `end`.
fn scheme(url: &str, end: usize) -> usize {
    let letters = url[..end].bytes().rev().take_while(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte));
    end - letters.count()
}

/// A URL without its scheme.
fn push(clean: &mut String, url: &str) {
    let (authority, rest) = url.split_at(url.find(['/', '?', '#']).unwrap_or(url.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) => {
            clean.push_str(REDACTED);
            clean.push('@');
            clean.push_str(host);
        }
        None => clean.push_str(authority),
    }
    let Some((path, query)) = rest.split_once('?') else {
        clean.push_str(rest);
        return;
    };
    clean.push_str(path);
    let (query, fragment) = query.split_at(query.find('#').unwrap_or(query.len()));
    for (index, parameter) in query.split('&').enumerate() {
        clean.push(if index == 0 { '?' } else { '&' });
        if let Some((name, _)) = parameter.split_once('=') {
            clean.push_str(name);
            clean.push('=');
        }
        if !parameter.is_empty() {
            clean.push_str(REDACTED);
        }
    }
    clean.push_str(fragment);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_password_are_taken_out_of_every_url_of_a_text() {
        let config = "[store.qdrant]\nurl = \"https://qdrant:6334\"\n[embedding]\nurl = \"https://me:p@ss@api.example:8443/v1\"\n";
        let clean = "[store.qdrant]\nurl = \"https://qdrant:6334\"\n[embedding]\nurl = \"https://[redacted]@api.example:8443/v1\"\n";
        assert_eq!(without_credentials(config), clean);
        assert_eq!(without_credentials(clean), clean, "a second time changes nothing");
        assert_eq!(
            without_credentials(r#"{"a":"http://token@one","b":"http://two?x","c":"s3://u:p@three/"}"#),
            r#"{"a":"http://[redacted]@one","b":"http://two?[redacted]","c":"s3://[redacted]@three/"}"#
        );
        assert_eq!(without_credentials("http://a:p@b,http://c:q@d"), "http://[redacted]@b,http://[redacted]@d");
        assert_eq!(without_credentials("http://a:p@b/,http://c:q@d/"), "http://[redacted]@b/,http://[redacted]@d/");
    }

    #[test]
    fn the_values_of_a_query_are_taken_out_and_their_names_stay() {
        for (text, clean) in [
            ("https://api/v1?api-key=KEY&v=2#top", "https://api/v1?api-key=[redacted]&v=[redacted]#top"),
            ("error for url (https://api?KEY)", "error for url (https://api?[redacted]"),
            ("https://api/v1?a=b=c&&d", "https://api/v1?a=[redacted]&&[redacted]"),
            (
                "https://u:p@api?to=https://u:p@other/x",
                "https://[redacted]@api?to=[redacted]https://[redacted]@other/x",
            ),
        ] {
            assert_eq!(without_credentials(text), clean);
            assert_eq!(without_credentials(clean), clean, "a second time changes nothing");
        }
    }

    #[test]
    fn what_is_no_credential_stays() {
        for text in ["", "a@b", "://", "https://", "what? a=b", "image@sha256:ab ://x y@z", "https://[::1]:6334/a@b"] {
            assert_eq!(without_credentials(text), text);
        }
    }
}
