//! What was found, for people.

use std::fmt::Write as _;

use context_manager_protocol::message::{ContextResponse, Retrieved};

/// Characters of a context that are shown on a line.
const SHOWN: usize = 160;

/// The contexts, best first, and what they take of the budget.
pub(super) fn page(found: &ContextResponse, pod: &str) -> String {
    let mut text = String::new();
    for (place, Retrieved { context, score, explanation, .. }) in found.contexts.iter().enumerate() {
        let actor = context.actor.as_ref().map(|actor| format!(", {actor}")).unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}. {score:.3}  {}{actor}  {}", place + 1, context.level.as_str(), context.id);
        let _ = writeln!(text, "   {}", shortened(&context.text));
        for (part, value) in explanation.iter().flatten() {
            let _ = writeln!(text, "      {part}: {value:.3}");
        }
    }
    if found.contexts.is_empty() {
        text.push_str("Nothing is remembered about it.\n");
    }
    let _ = writeln!(text, "\n{} of {} tokens, asked in pod {pod}", found.tokens_used, found.token_budget);
    if !found.degraded.is_empty() {
        let _ = writeln!(text, "Without: {}", found.degraded.join(", "));
    }
    text
}

/// The text on one line, cut between characters; what a terminal would take as a command is left out.
fn shortened(text: &str) -> String {
    let plain: String = text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    let line = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", line[..end].trim_end()),
        None => line,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_shown_with_score_level_and_one_line() {
        let found = serde_json::from_value(serde_json::json!({
            "contexts": [{"id": "00000000-0000-4000-8000-000000000000", "text": "one\n\u{1b}[31mtwo", "level": "long_term", "tokens": 3,
                "version": 1, "occurred_at": 0, "created_at": 0, "updated_at": 0, "score": 0.5}],
            "tokens_used": 3, "token_budget": 600, "tokens_by_level": {}, "left_out": [], "degraded": ["embedding"],
        }))
        .unwrap();
        let text = page(&found, "agent");
        assert!(text.contains("1. 0.500") && text.contains("   one [31mtwo\n"), "{text}");
        assert!(text.contains("3 of 600 tokens, asked in pod agent") && text.contains("Without: embedding"), "{text}");
    }
}
