//! What sidecars said to a question, as long as it is asked. One that said yes is not asked again, and those that were not reached come
//! after those that nobody asked yet: so all get asked, however little time each look has.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use super::step::Question;

/// What one sidecar said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It has what it should.
    Yes,
    /// It does not.
    No,
    /// Nothing, and why.
    Nothing(&'static str),
}

/// What the sidecars of a resource said to one question, by the uids of their pods.
#[derive(Debug)]
pub(super) struct Known {
    question: Question,
    /// What it said, and in which turn.
    pods: HashMap<String, (Said, u64)>,
    turn: u64,
}

impl Known {
    /// Nothing is known of this question.
    pub(super) fn nothing(question: &Question) -> Self {
        Self { question: question.clone(), pods: HashMap::new(), turn: 0 }
    }

    /// What a pod said last, if it was asked.
    pub(super) fn of(&self, uid: &str) -> Option<Said> {
        self.pods.get(uid).map(|(said, _)| *said)
    }

    /// Who comes first: those that were never asked, then those that may have it by now, then those that were not reached; of each the one
    /// that was asked the longest time ago. Nothing for one that need not be asked.
    pub(super) fn order(&self, uid: &str) -> Option<(u8, u64)> {
        match self.pods.get(uid) {
            None => Some((0, 0)),
            Some((Said::No, turn)) => Some((1, *turn)),
            Some((Said::Nothing(_), turn)) => Some((2, *turn)),
            Some((Said::Yes, _)) => None,
        }
    }

    /// Takes down what a pod said.
    pub(super) fn note(&mut self, uid: String, said: Said) {
        self.turn += 1;
        self.pods.insert(uid, (said, self.turn));
    }

    /// Forgets pods that are gone.
    pub(super) fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.pods.retain(|uid, _| is_there(uid));
    }
}

/// What is known of all resources, by their uids.
#[derive(Debug, Default)]
pub(in crate::controller) struct Answers(Mutex<HashMap<String, Known>>);

impl Answers {
    /// Takes what is known to a question; what was said to another one is no answer.
    pub(super) fn take(&self, resource: &str, question: &Question) -> Known {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(resource);
        known.filter(|known| known.question == *question).unwrap_or_else(|| Known::nothing(question))
    }

    /// Puts it back.
    pub(super) fn put(&self, resource: &str, known: Known) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(resource.to_owned(), known);
    }

    /// Forgets a resource that asks nothing.
    pub(super) fn forget(&self, resource: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(resource);
    }

    /// Forgets all resources but these.
    pub(in crate::controller) fn keep(&self, is_there: impl Fn(&str) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|resource, _| is_there(resource));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_that_is_gone_has_said_nothing() {
        let (answers, question) = (Answers::default(), Question::Verifies("two".to_owned()));
        for resource in ["here", "gone"] {
            let mut known = answers.take(resource, &question);
            known.note("pod".to_owned(), Said::Yes);
            answers.put(resource, known);
        }
        answers.keep(|resource| resource == "here");
        assert_eq!(answers.take("here", &question).of("pod"), Some(Said::Yes));
        assert_eq!(answers.take("gone", &question).of("pod"), None);
    }

    #[test]
    fn who_was_not_asked_comes_first_and_who_said_yes_no_more() {
        let answers = Answers::default();
        let question = Question::Verifies("two".to_owned());
        let mut known = answers.take("memory", &question);
        for (pod, said) in [("away", Said::Nothing("why")), ("lags", Said::No), ("has", Said::Yes), ("gone", Said::No)]
        {
            known.note(pod.to_owned(), said);
        }
        known.keep(|pod| pod != "gone");
        answers.put("memory", known);
        let mut known = answers.take("memory", &question);
        let first = |known: &Known| {
            let mut pods: Vec<_> =
                ["has", "away", "lags", "new", "gone"].into_iter().filter(|pod| known.order(pod).is_some()).collect();
            pods.sort_by_key(|pod| (known.order(pod), *pod));
            pods.join(" ")
        };
        assert_eq!(first(&known), "gone new lags away");
        known.note("gone".to_owned(), Said::Nothing("why"));
        known.note("new".to_owned(), Said::Yes);
        assert_eq!(first(&known), "lags away gone", "who was asked last comes last");
        answers.put("memory", known);
        assert_eq!(answers.take("memory", &Question::Signs("two".to_owned())).of("has"), None, "another question");
    }
}
