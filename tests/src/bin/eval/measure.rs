//! What is counted: macro means over the questions.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Budgets in tokens for which evidence recall is measured.
pub const BUDGETS: [i64; 3] = [500, 1_000, 2_000];

/// Sums over questions; [`Measures::print`] makes means of them.
#[derive(Debug, Default)]
pub struct Measures {
    questions: f64,
    recall: [f64; 3],
    hit: [f64; 2],
    reciprocal_rank: f64,
    /// Questions and their recall, by category as far as the questions have one.
    by_category: BTreeMap<i64, (f64, [f64; 3])>,
    in_budget: [f64; 3],
    latencies: Vec<Duration>,
    /// Turns of another conversation in an answer.
    pub foreign: usize,
    /// Answers that say they are degraded, by what they say.
    pub degraded: BTreeMap<String, usize>,
}

/// A measured share.
pub struct Mean {
    pub name: &'static str,
    pub value: f64,
}

/// What a share should reach.
pub struct Target {
    /// The name of the [`Mean`].
    name: &'static str,
    least: f64,
}

/// What should be reached on LoCoMo's conversations with the vectors of all-MiniLM-L6-v2 or a better model.
pub const WITH_MODEL: &[Target] = &[
    Target { name: "R@5", least: 72.0 },
    Target { name: "R@10", least: 81.0 },
    Target { name: "R@20", least: 86.0 },
    Target { name: "MRR", least: 0.57 },
    Target { name: "evidence recall in 500 tokens", least: 79.0 },
    Target { name: "evidence recall in 1,000 tokens", least: 85.0 },
    Target { name: "evidence recall in 2,000 tokens", least: 90.0 },
];

/// What should be reached without one: by the built-in vectors, or while the embedding API refuses.
pub const WITHOUT_MODEL: &[Target] = &[Target { name: "R@10", least: 77.0 }];

impl Measures {
    /// Adds a question's ranking.
    pub fn rank(&mut self, ranked: &[&str], evidence: &BTreeSet<String>, category: Option<i64>) {
        self.questions += 1.0;
        let recall = [5, 10, 20].map(|k| recall(ranked.iter().take(k).copied(), evidence));
        add(&mut self.recall, &recall);
        if let Some(category) = category {
            let (questions, sums) = self.by_category.entry(category).or_default();
            *questions += 1.0;
            add(sums, &recall);
        }
        for (sum, k) in self.hit.iter_mut().zip([10, 20]) {
            *sum += f64::from(u8::from(ranked.iter().take(k).any(|id| evidence.contains(*id))));
        }
        if let Some(place) = ranked.iter().position(|id| evidence.contains(*id)) {
            self.reciprocal_rank += 1.0 / to_f64(place + 1);
        }
    }

    /// Adds what a question got within a budget of [`BUDGETS`], and how long that took.
    pub fn budgeted(&mut self, budget: usize, returned: &[&str], evidence: &BTreeSet<String>, took: Duration) {
        self.in_budget[budget] += recall(returned.iter().copied(), evidence);
        self.latencies.push(took);
    }

    /// The means, in percent but for the reciprocal rank.
    pub fn means(&self) -> Vec<Mean> {
        let percent = |sum: f64| 100.0 * sum / self.questions.max(1.0);
        let [r5, r10, r20] = self.recall.map(percent);
        let [h10, h20] = self.hit.map(percent);
        let [b500, b1000, b2000] = self.in_budget.map(percent);
        [
            ("R@5", r5),
            ("R@10", r10),
            ("R@20", r20),
            ("hit@10", h10),
            ("hit@20", h20),
            ("MRR", percent(self.reciprocal_rank) / 100.0),
            ("evidence recall in 500 tokens", b500),
            ("evidence recall in 1,000 tokens", b1000),
            ("evidence recall in 2,000 tokens", b2000),
        ]
        .map(|(name, value)| Mean { name, value })
        .into()
    }

    /// The names of the means that stay below their target.
    pub fn missed(&self, targets: &[Target]) -> Vec<&'static str> {
        let is_missed = |mean: &Mean| least(targets, mean.name).is_some_and(|least| mean.value < least);
        self.means().into_iter().filter(is_missed).map(|mean| mean.name).collect()
    }

    /// Prints a table.
    pub fn print(&mut self, targets: &[Target]) {
        println!("{:<34}{:>9}", "questions with evidence", self.questions);
        for Mean { name, value } in self.means() {
            let shown = if name == "MRR" { format!("{value:.3}") } else { format!("{value:.1} %") };
            let target = least(targets, name).map_or_else(String::new, |least| {
                format!("  target {least}: {}", if value < least { "missed" } else { "met" })
            });
            println!("{name:<34}{shown:>11}{target}");
        }
        for (category, (questions, recall)) in &self.by_category {
            let [r5, r10, r20] = recall.map(|sum| 100.0 * sum / questions);
            let name = format!("category {category}: R@5 / R@10 / R@20");
            println!("{name:<34}{r5:>9.1} / {r10:.1} / {r20:.1} of {questions}");
        }
        self.latencies.sort_unstable();
        for (name, percent) in [("p50", 50), ("p95", 95)] {
            let place = (self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1));
            let millis = self.latencies.get(place).map_or(0.0, |latency| latency.as_secs_f64() * 1_000.0);
            println!("{:<34}{millis:>8.2} ms", format!("latency {name}, embedding cached"));
        }
        println!("{:<34}{:>9}", "answers that say degraded", self.degraded.values().sum::<usize>());
        for (reason, answers) in &self.degraded {
            println!("{:<34}{answers:>9}", format!("  by {reason}"));
        }
        println!("{:<34}{:>9}", "turns of other conversations", self.foreign);
    }
}

fn least(targets: &[Target], name: &str) -> Option<f64> {
    targets.iter().find(|target| target.name == name).map(|target| target.least)
}

/// The share of the evidence that was returned.
fn recall<'a>(returned: impl Iterator<Item = &'a str>, evidence: &BTreeSet<String>) -> f64 {
    let found: BTreeSet<&str> = returned.filter(|id| evidence.contains(*id)).collect();
    to_f64(found.len()) / to_f64(evidence.len().max(1))
}

fn add(sums: &mut [f64; 3], values: &[f64; 3]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += value;
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count of questions or places")]
fn to_f64(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_over_questions_and_recall_over_evidence() {
        let mut measures = Measures::default();
        let evidence = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>();
        // What is returned twice is found once.
        measures.rank(&["b", "b", "c"], &evidence(&["b", "z"]), Some(2));
        measures.rank(&["a", "b", "c"], &evidence(&["a"]), None);
        measures.budgeted(0, &["a"], &evidence(&["a", "b"]), Duration::from_millis(1));
        let means = measures.means();
        let value = |name: &str| means.iter().find(|mean| mean.name == name).map(|mean| mean.value);
        assert_eq!(value("R@5"), Some(75.0));
        assert_eq!(value("hit@10"), Some(100.0));
        assert_eq!(value("MRR"), Some(1.0));
        assert_eq!(measures.by_category, BTreeMap::from([(2, (1.0, [0.5; 3]))]));
        assert_eq!(value("evidence recall in 500 tokens"), Some(25.0));
    }
    #[test]
    fn what_stays_below_its_target_is_named_and_every_target_is_of_a_mean() {
        let mut measures = Measures::default();
        let evidence = BTreeSet::from(["a".to_owned()]);
        // Found at the sixth place: too late for the first five, and for the mean of the reciprocal ranks.
        measures.rank(&["b", "c", "d", "e", "f", "a"], &evidence, None);
        for budget in 0..BUDGETS.len() {
            measures.budgeted(budget, &["a"], &evidence, Duration::from_millis(1));
        }
        assert_eq!(measures.missed(WITH_MODEL), ["R@5", "MRR"]);
        assert_eq!(measures.missed(WITHOUT_MODEL), Vec::<&str>::new());
        let names: Vec<&str> = measures.means().iter().map(|mean| mean.name).collect();
        assert!(WITH_MODEL.iter().chain(WITHOUT_MODEL).all(|target| names.contains(&target.name)), "{names:?}");
    }
}
