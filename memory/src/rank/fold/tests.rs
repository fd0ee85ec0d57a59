use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::{
    Actor, ContextId, Level, Timestamp,
    context::tests::sample,
    rank::{Parts, Ranked},
};

const DAY: i64 = 86_400_000;

fn ranked(number: u128, text: &str, score: f64) -> Ranked {
    let context = Arc::new(sample(number, Level::LongTerm, text));
    Ranked { context, score, parts: Parts::default(), folded: Vec::new() }
}

/// Places that stay, each with those folded into it.
fn folded(texts: &[&str]) -> Vec<(usize, Vec<usize>)> {
    let of = |(place, text): (u8, &&str)| ranked(place.into(), text, 1.0 / (1.0 + f64::from(place)));
    let place = |id: ContextId| usize::try_from(id.as_uuid().as_u128()).expect("a place");
    let kept = fold((0..).zip(texts).map(of).collect());
    kept.into_iter().map(|one| (place(one.context.id), one.folded.into_iter().map(place).collect())).collect()
}

fn are_folded(a: &str, b: &str) -> bool {
    let one_way = folded(&[a, b]).len() == 1;
    assert_eq!(one_way, folded(&[b, a]).len() == 1, "{a:?} {b:?}");
    one_way
}

/// A sentence of many words around a short one, so that one word less is a small share.
fn in_long(text: &str) -> String {
    // Different words, or else a text repeats its triples.
    let letter = |number: u8| char::from(b'a' + number);
    let word = |place: u8| {
        format!("w{}{}{}", "abcdefghij".repeat(usize::from(1 + place % 7)), letter(place / 26), letter(place % 26))
    };
    let filler: Vec<String> = (0..60).map(word).collect();
    format!("{} {text} {}", filler[..30].join(" "), filler[30..].join(" "))
}

#[test]
fn what_is_compared_is_bounded_and_what_is_left_stays() {
    // Alike in all but a number, so that each would be compared with all before it.
    let text = |number: usize| in_long(&format!("the meter says {number} units"));
    let many = || (0..60_u8).map(|place| ranked(place.into(), &text(place.into()), 1.0 / (1.0 + f64::from(place))));
    let all = Effort(Cell::new(COMPARED));
    assert_eq!(fold_within(&all, many().collect()).len(), 60);
    let spent = COMPARED - all.0.get();
    assert!(spent > 60 * 59 / 2 * text(0).len(), "{spent}: each was compared with each");
    let few = Effort(Cell::new(spent / 100));
    assert_eq!(fold_within(&few, many().collect()).len(), 60);
    assert_eq!(few.0.get(), 0, "no more than that");
    // The best are compared first.
    let doubles = || ["Tea, please!", "tea please", "Green tea", "green tea"].into_iter().zip(0_u8..);
    let doubles = || doubles().map(|(text, place)| ranked(place.into(), text, 1.0 / (1.0 + f64::from(place))));
    let left = |effort| fold_within(&Effort(Cell::new(effort)), doubles().collect()).len();
    assert_eq!([left(COMPARED), left(30), left(0)], [2, 3, 4]);
}

#[test]
fn the_same_in_other_clothes_is_folded() {
    for (a, b) in [
        ("Tea, please!", "tea please"),
        ("The cat sleeps on the sofa.", "the cat sleeps on a sofa"),
        ("I really like green tea", "I like green tea."),
        ("She is painting houses", "She is painting house"),
        ("Ann's bike is red", "Ann's bike is very red"),
        ("Meet me at 15:30.", "Meet me at 15:30!"),
        ("日本語 を 話す", "日本語を話す。"),
    ] {
        let expected = !a.starts_with('日');
        assert_eq!(are_folded(a, b), expected, "{a:?} {b:?}");
    }
}

#[test]
fn what_differs_in_what_counts_is_not_folded() {
    for (a, b) in [
        ("Anna paid the rent", "Anna has not paid the rent"),
        ("Anna paid the rent", "Anna didn't pay the rent"),
        ("I do like olives", "I don't like olives"),
        ("The meeting is on the 15th", "The meeting is on the 16th"),
        ("The meeting is at 15", "The meeting is at 16"),
        ("It costs 1.5 euros", "It costs 15 euros"),
        ("It is -5 degrees", "It is 5 degrees"),
        ("It costs $20", "It costs €20"),
        ("fifteen guests came", "sixteen guests came"),
        ("Anna called", "Anne called"),
        ("Ann called", "Anne called"),
        ("The flight leaves on Monday", "The flight leaves on Tuesday"),
        ("the party is in may", "the party is in june"),
        ("Call me before lunch", "Call me after lunch"),
        ("The door is open", "The door was open"),
        ("I work at the mill", "I worked at the mill"),
        ("She paid.", "She paid?"),
        ("I love it 👍", "I love it 👎"),
        ("Anna paid Bob", "Bob paid Anna"),
        ("He is in the office", "She is in the office"),
        ("用户已付款", "用户未付款"),
        ("Она заплатила", "Она не заплатила"),
    ] {
        assert!(!are_folded(a, b), "{a:?} {b:?}");
    }
}

#[test]
fn a_long_text_with_a_small_change_is_folded_unless_the_change_tells() {
    let base = in_long("we met at the old harbour");
    assert!(are_folded(&base, &in_long("we met at the new harbour")));
    for telling in [
        ("we met at the old harbour", "we never met at the old harbour"),
        ("we met with 15 boats", "we met with 16 boats"),
        ("we met with fifteen boats", "we met with sixteen boats"),
        ("we met at Anna harbour", "we met at Anne harbour"),
        ("we met in may there", "we met in june there"),
        ("Anna met Bob", "Bob met Anna"),
        ("we met before the storm", "we met after the storm"),
        ("we met at 日本 harbour", "we met at 日西 harbour"),
    ] {
        assert!(!are_folded(&in_long(telling.0), &in_long(telling.1)), "{telling:?}");
    }
}

#[test]
fn the_best_stays_and_names_all_others() {
    assert_eq!(folded(&["green tea", "coffee", "Green tea!", "the green tea"]), [(0, vec![2, 3]), (1, vec![])]);
}

#[test]
fn of_equal_scores_the_newest_stays() {
    let at = |number, day: i64| {
        let mut one = ranked(number, "green tea", 0.5);
        Arc::make_mut(&mut one.context).occurred_at = Some(Timestamp::from_millis(day * DAY));
        one
    };
    let kept = fold(vec![at(1, 1), at(2, 3), at(3, 2)]);
    let ids: Vec<u128> = kept[0].folded.iter().map(|id| id.as_uuid().as_u128()).collect();
    assert_eq!((kept.len(), kept[0].context.id.as_uuid().as_u128(), ids), (1, 2, vec![1, 3]));
}

#[test]
fn what_is_relative_in_time_is_the_same_only_on_the_same_day() {
    let at = |number, text: &str, day: i64| {
        let mut one = ranked(number, text, 0.5);
        Arc::make_mut(&mut one.context).occurred_at = Some(Timestamp::from_millis(day * DAY));
        one
    };
    assert_eq!(fold(vec![at(1, "I ran today", 1), at(2, "I ran today", 8)]).len(), 2);
    assert_eq!(fold(vec![at(1, "I ran today", 1), at(2, "I ran today!", 1)]).len(), 1);
    assert_eq!(fold(vec![at(1, "I run", 1), at(2, "I run", 8)]).len(), 1);
}

#[test]
fn other_actors_say_it_for_themselves() {
    let by = |number, actor: &str| {
        let mut one = ranked(number, "I like green tea", 0.5);
        Arc::make_mut(&mut one.context).actor = Actor::new(actor).ok();
        one
    };
    assert_eq!(fold(vec![by(1, "Ann"), by(2, "Bo"), by(3, "ann")]).len(), 2);
}

fn text() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "tea", "Anna", "Anne", "paid", "not", "15", "16", "the", "house", "houses", "was", "is", "never", "green",
        "don't", "may", "?", "日本", "👍", "-5", "5",
    ]);
    prop::collection::vec(word, 0..90).prop_map(|words| words.join(" "))
}

proptest! {
    #[test]
    fn nothing_is_lost_and_nothing_is_there_twice(texts in prop::collection::vec(text(), 0..12)) {
        let kept = folded(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        let mut places: Vec<usize> = kept.iter().flat_map(|(place, folded)| [&[*place][..], folded].concat()).collect();
        places.sort_unstable();
        prop_assert_eq!(places, (0..texts.len()).collect::<Vec<_>>());
        prop_assert!(kept.iter().all(|(place, folded)| folded.iter().all(|other| other > place)));
    }

    #[test]
    fn a_telling_word_more_or_less_is_never_folded(
        text in text(),
        at in 0_usize..90,
        telling in prop::sample::select(vec!["not", "never", "15", "Clara", "tuesday", "seven", "no", "isn't", "未"]),
    ) {
        let mut words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
        words.insert(at.min(words.len()), telling);
        prop_assert!(!are_folded(&text, &words.join(" ")));
    }

    #[test]
    fn a_text_is_folded_into_itself_however_it_is_punctuated(text in text()) {
        let shouted = text.replace(' ', ", ") + ", ";
        prop_assert!(are_folded(&text, &shouted));
    }

    #[test]
    fn shingles_that_are_alike_meet_in_their_first_ones(
        shared in prop::collection::btree_set(0_u64..9_999, 20..200),
        a in prop::collection::btree_set(10_000_u64..11_000, 0..9),
        b in prop::collection::btree_set(11_000_u64..12_000, 0..9),
    ) {
        let sketch = |own: &std::collections::BTreeSet<u64>| {
            let shingles = shared.union(own).map(|hash| hash.wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect();
            Sketch { initials: 0, shingles, stems: OnceCell::new() }
        };
        let (mut a, mut b) = (sketch(&a), sketch(&b));
        a.shingles.sort_unstable();
        b.shingles.sort_unstable();
        prop_assert_eq!(a.is_alike(&b), b.is_alike(&a));
        if a.is_alike(&b) {
            prop_assert!(a.first().iter().any(|hash| b.first().contains(hash)));
        }
    }
}
