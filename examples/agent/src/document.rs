//! Cuts a document into paragraphs.

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Longest paragraph in bytes; a longer one is cut at a line or a character.
const MAX_BYTES: usize = 4_000;

/// The text with the line ends of Unix, so that blank lines are found in files from elsewhere too.
pub fn with_plain_lines(text: String) -> String {
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text }
}

/// The paragraphs of a text: what blank lines separate, without what is only markup.
pub fn paragraphs(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n\n").map(str::trim).filter(|paragraph| paragraph.chars().any(char::is_alphanumeric)).flat_map(pieces)
}

/// The same document, place and text always have the same id, and another text has another.
pub fn paragraph_id(document: &str, place: usize, paragraph: &str) -> Uuid {
    let digest = Sha256::digest(paragraph.as_bytes());
    let mut name = format!("{document}\n{place}\n").into_bytes();
    name.extend_from_slice(&digest);
    Uuid::new_v5(&Uuid::NAMESPACE_URL, &name)
}

fn pieces(paragraph: &str) -> impl Iterator<Item = &str> {
    let mut rest = paragraph;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = if rest.len() <= MAX_BYTES {
            rest.len()
        } else {
            let most = rest.floor_char_boundary(MAX_BYTES);
            rest[..most].rfind('\n').map_or(most, |line| line + 1)
        };
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some(piece.trim())
    })
    .filter(|piece| !piece.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_lines_separate_paragraphs_and_markup_alone_is_none() {
        let found: Vec<_> = paragraphs("# Title\n\nOne line.\nSame paragraph.\n\n---\n\n\n\nLast.").collect();
        assert_eq!(found, ["# Title", "One line.\nSame paragraph.", "Last."]);
    }

    #[test]
    fn a_file_with_other_line_ends_has_the_same_paragraphs() {
        let text = with_plain_lines("One.\r\nStill one.\r\n\r\nTwo.\r\rThree.".to_owned());
        assert_eq!(paragraphs(&text).collect::<Vec<_>>(), ["One.\nStill one.", "Two.", "Three."]);
    }

    #[test]
    fn a_long_paragraph_is_cut_and_nothing_is_lost() {
        let long = "ä".repeat(5_000);
        let found: Vec<_> = paragraphs(&long).collect();
        assert!(found.iter().all(|piece| piece.len() <= MAX_BYTES));
        assert_eq!(found.concat(), long);
    }

    #[test]
    fn an_id_follows_document_place_and_text() {
        let id = paragraph_id("a.md", 0, "x");
        assert_eq!(id, paragraph_id("a.md", 0, "x"));
        assert!(
            [paragraph_id("b.md", 0, "x"), paragraph_id("a.md", 1, "x"), paragraph_id("a.md", 0, "y")]
                .iter()
                .all(|other| *other != id)
        );
    }
}
