//! Asks the memory and prints what it knows, for a person to read: the question, the best contexts with their scores, and
//! how much of the token budget they take.

use std::fmt::Write as _;

use anyhow::Result;
use context_manager_protocol::message::{ContextRequest, ContextResponse, Filter, Retrieved};

use crate::client::Client;

/// How many tokens of memory a prompt may take; a real agent would choose by its model.
const BUDGET: i64 = 600;
/// Most contexts of an answer.
const CONTEXTS: i64 = 3;
/// Characters of a context that are printed.
const SHOWN: usize = 160;

/// Asks and prints one question after the other.
pub async fn all(client: &Client, questions: &[String]) -> Result<()> {
    for question in questions {
        let request = ContextRequest {
            query: question.clone(),
            token_budget: Some(BUDGET),
            limit: Some(CONTEXTS),
            levels: None,
            session: None,
            filter: Filter::default(),
            min_score: None,
            as_of: None,
            scope: None,
            scopes: Vec::new(),
            explain: false,
        };
        let found: ContextResponse = client.post("/v1/contexts/search", &request).await?;
        print!("{}", printed(question, &found));
    }
    Ok(())
}

fn printed(question: &str, found: &ContextResponse) -> String {
    let mut text = format!("question: {question}\n");
    for (place, Retrieved { context, score, .. }) in found.contexts.iter().enumerate() {
        let paragraph = context.metadata.get("paragraph").map(|number| format!("paragraph {number}, "));
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  {}. score {score:.3}, {}{}\n     {}",
            place + 1,
            paragraph.unwrap_or_default(),
            context.id,
            shortened(&context.text)
        );
    }
    if found.contexts.is_empty() {
        text.push_str("  nothing is remembered about it\n");
    }
    let _ = writeln!(text, "  {} of {} tokens", found.tokens_used, found.token_budget);
    if !found.degraded.is_empty() {
        let _ = writeln!(text, "  degraded: {}", found.degraded.join(", "));
    }
    text
}

/// The text on one line, cut between characters.
fn shortened(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", line[..end].trim_end()),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(contexts: &[&str], degraded: &[&str]) -> ContextResponse {
        let contexts: Vec<_> = contexts
            .iter()
            .enumerate()
            .map(|(place, text)| {
                serde_json::json!({
                    "id": format!("00000000-0000-4000-8000-{place:012}"), "text": text, "level": "long_term",
                    "metadata": {"paragraph": place + 1}, "tokens": 3, "version": 1, "occurred_at": 0, "created_at": 0,
                    "updated_at": 0, "score": 0.5,
                })
            })
            .collect();
        let all = serde_json::json!({"contexts": contexts, "tokens_used": 6, "token_budget": 600,
            "tokens_by_level": {}, "left_out": [], "degraded": degraded});
        serde_json::from_value(all).expect("the protocol's own form")
    }

    #[test]
    fn an_answer_shows_rank_score_place_and_id() {
        let text = printed("What?", &answer(&["one", "two\nlines"], &[]));
        assert_eq!(
            text,
            "question: What?\n  1. score 0.500, paragraph 1, 00000000-0000-4000-8000-000000000000\n     one\n  \
             2. score 0.500, paragraph 2, 00000000-0000-4000-8000-000000000001\n     two lines\n  6 of 600 tokens\n"
        );
    }

    #[test]
    fn an_empty_or_degraded_answer_says_so() {
        let text = printed("What?", &answer(&[], &["embedding"]));
        assert!(text.contains("nothing is remembered") && text.contains("degraded: embedding"), "{text}");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let short = shortened(&"ä".repeat(SHOWN + 1));
        assert_eq!(short.chars().count(), SHOWN + 1);
        assert!(short.ends_with('…'));
    }
}
