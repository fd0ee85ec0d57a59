//! Reads what the example agent printed: how much it found and stored, and its answers.

use anyhow::{Context as _, Result, bail};

use super::input::Input;
use super::screen;

/// What an agent said in one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Contexts that were in memory before it stored anything.
    pub found: usize,
    /// Paragraphs that it stored.
    pub remembered: usize,
    /// Its answers.
    pub answers: Vec<Answer>,
}

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The question.
    pub question: String,
    /// Ids of the contexts, best first.
    pub ids: Vec<String>,
    /// What was printed of it.
    pub text: String,
    /// What could not take part in it.
    pub degraded: bool,
}

/// The whole log of `context-manager-example-agent run`.
pub fn read_run(log: &str) -> Result<Said> {
    let number = |prefix: &str| -> Result<usize> {
        let line = log.lines().find_map(|line| line.strip_prefix(prefix));
        let word = line.and_then(|rest| rest.split_whitespace().next());
        word.and_then(|word| word.parse().ok())
            .with_context(|| format!("the agent printed no line \"{prefix}NUMBER …\""))
    };
    Ok(Said { found: number("found ")?, remembered: number("remembered ")?, answers: read_answers(log) })
}

/// The answers in what the agent printed.
pub fn read_answers(text: &str) -> Vec<Answer> {
    let mut answers: Vec<Answer> = Vec::new();
    for line in text.lines() {
        if let Some(question) = line.strip_prefix("question: ") {
            let question = question.to_owned();
            answers.push(Answer { question, ids: Vec::new(), text: String::new(), degraded: false });
        } else if let Some(answer) = answers.last_mut() {
            let is_first = line.trim_start().split_once(". score ").is_some();
            answer.ids.extend(line.split([' ', ',']).filter(|word| is_first && is_id(word)).map(str::to_owned));
            answer.degraded |= line.starts_with("  degraded: ");
            answer.text.push_str(line);
            answer.text.push('\n');
        }
    }
    answers
}

/// Checks that each question got an answer, a whole one, and where it is known the right one.
pub fn check(answers: &[Answer], input: &Input) -> Result<()> {
    let asked: Vec<_> = answers.iter().map(|answer| answer.question.as_str()).collect();
    if asked != input.questions.iter().map(String::as_str).collect::<Vec<_>>() {
        bail!("the agent answered {asked:?}, but was asked {:?}", input.questions);
    }
    for answer in answers {
        if answer.ids.is_empty() {
            bail!("nothing was retrieved for {:?}", answer.question);
        }
        if answer.degraded {
            bail!("the answer to {:?} is degraded:\n{}", answer.question, answer.text);
        }
    }
    for (answer, word) in answers.iter().zip(input.expected) {
        if !answer.text.contains(word) {
            bail!("the answer to {:?} says nothing of {word:?}:\n{}", answer.question, answer.text);
        }
    }
    screen::checked(&format!("{} questions, each answered from memory, none degraded", answers.len()));
    if !input.expected.is_empty() {
        screen::checked(&format!("the answers are the right ones: they speak of {}", input.expected.join(", ")));
    }
    Ok(())
}

/// Checks that the same contexts came in the same order as before.
pub fn compare(before: &[Answer], after: &[Answer]) -> Result<()> {
    if before.len() != after.len() {
        bail!("{} questions were answered before, {} now", before.len(), after.len());
    }
    for (before, after) in before.iter().zip(after) {
        if (&before.question, &before.ids) != (&after.question, &after.ids) {
            bail!("{:?} was answered by {:?} before, and by {:?} now", before.question, before.ids, after.ids);
        }
    }
    let contexts: usize = after.iter().map(|answer| answer.ids.len()).sum();
    screen::checked(&format!("the same {contexts} contexts in the same order as before"));
    Ok(())
}

/// Whether a word has the form of a UUID.
fn is_id(word: &str) -> bool {
    let dash = |place: usize| [8, 13, 18, 23].contains(&place);
    word.len() == 36
        && word
            .bytes()
            .enumerate()
            .all(|(place, byte)| if dash(place) { byte == b'-' } else { byte.is_ascii_hexdigit() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "found 0 contexts in memory
remembered 14 paragraphs of document.md in 1 signed batches
question: How?
  1. score 0.900, paragraph 3, 0bd5b1f2-8a3c-5d57-9a5e-2f1d3f3f0001
     By RFC 9421, as 0bd5b1f2-8a3c-5d57-9a5e-2f1d3f3f0009 says.
  2. score 0.100, paragraph 4, 0bd5b1f2-8a3c-5d57-9a5e-2f1d3f3f0002
     Else.
  40 of 600 tokens
question: Why?
  nothing is remembered about it
  0 of 600 tokens
  degraded: embedding
";

    #[test]
    fn numbers_and_answers_are_read_from_the_log_and_ids_only_from_heads() {
        let said = read_run(LOG).expect("a whole log");
        assert_eq!((said.found, said.remembered, said.answers.len()), (0, 14, 2));
        let ids = &said.answers[0].ids;
        assert_eq!(ids.iter().map(|id| &id[35..]).collect::<Vec<_>>(), ["1", "2"]);
        assert!(said.answers[1].ids.is_empty() && said.answers[1].degraded && !said.answers[0].degraded);
        assert!(read_run("attempt 1 of 8 failed").is_err());
    }

    #[test]
    fn another_order_of_the_same_contexts_is_not_the_same_answer() {
        let before = read_answers(LOG);
        let mut after = before.clone();
        assert!(compare(&before, &after).is_ok());
        after[0].ids.reverse();
        assert!(compare(&before, &after).is_err());
        assert!(compare(&before, &after[..1]).is_err());
    }

    #[test]
    fn an_answer_that_is_empty_degraded_or_wrong_is_noticed() {
        let input = |questions: &[&str], expected| Input {
            document: "d".into(),
            questions_file: "q".into(),
            questions: questions.iter().map(|&question| question.to_owned()).collect(),
            expected,
            embedding: None,
        };
        let answers = read_answers(LOG);
        assert!(check(&answers, &input(&["How?", "Why?"], &[])).is_err(), "one is empty");
        assert!(check(&answers[..1], &input(&["How?"], &["RFC 9421"])).is_ok());
        assert!(check(&answers[..1], &input(&["How?"], &["RFC 9999"])).is_err());
        assert!(check(&answers[..1], &input(&["How?", "What?"], &[])).is_err(), "one was not answered");
    }
}
