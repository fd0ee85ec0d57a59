//! Imports beside what is there already.

use context_manager_memory::{ContextId, Vectors};
use context_manager_protocol::problem::Code;

use super::*;

impl Fixture {
    async fn exported(&self) -> Vec<ExportedContext> {
        self.engine.export(&mine(&self.engine), None).await.expect("lines")
    }

    async fn import(&self, lines: &[ExportedContext]) -> Imported {
        let lines = (1..).zip(lines.iter().cloned()).collect();
        self.engine.import(&mine(&self.engine), lines).await.expect("an import")
    }

    /// The vectors of all that the lines bring.
    async fn vectors_of(&self, lines: &[ExportedContext]) -> BTreeMap<ContextId, (String, Vectors)> {
        let ids = lines.iter().map(|line| ContextId::new(line.id)).collect();
        let found = self.engine.inner.store.get(self.engine.owner(), ids, now()).await.expect("points");
        found.into_iter().map(|point| (point.context.id, (point.context.text, point.vectors))).collect()
    }
}

#[tokio::test]
async fn an_import_takes_the_place_of_what_has_expired() {
    let fixture = Fixture::new().await;
    let short = |text: &str| json!({"text": text, "level": "long_term", "ttl": "60ms"});
    for text in ["tea", "coffee"] {
        fixture.stored(short(text)).await;
    }
    let living = fixture.stored(json!({"text": "milk", "level": "long_term"})).await;
    let exported = fixture.engine.export(&mine(&fixture.engine), None).await.expect("lines");
    tokio::time::sleep(Duration::from_millis(80)).await;
    assert_eq!(fixture.all().await.len(), 1);

    // One as it was but for its end, one that says something else; and one that is there.
    let lines = exported.into_iter().enumerate().map(|(number, line)| {
        let text = if line.text == "coffee" { "espresso".to_owned() } else { line.text };
        (number + 1, ExportedContext { text, expires_at: None, ttl: None, ..line })
    });
    let imported = fixture.engine.import(&mine(&fixture.engine), lines.collect()).await.expect("imported");
    assert_eq!((imported.imported, imported.unchanged, imported.expired, imported.refused), (2, 1, 0, Vec::new()));
    let mut texts: Vec<String> = fixture.all().await.into_iter().map(|context| context.text).collect();
    texts.sort_unstable();
    assert_eq!(texts, ["espresso", "milk", "tea"]);
    assert_eq!(fixture.engine.collect_garbage(10).await.expect("collected"), 0, "nothing is left of the expired ones");
    assert_eq!(fixture.engine.get(&mine(&fixture.engine), living, None).await.expect("there").version, 1);

    // Another agent's makes way for nobody else.
    let id = fixture.stored(short("whey")).await;
    let lines = fixture.engine.export(&mine(&fixture.engine), None).await.expect("lines");
    let line = lines.into_iter().find(|line| line.id == id).expect("it is exported");
    let other = fixture.reopened("other").await;
    tokio::time::sleep(Duration::from_millis(80)).await;
    let line = ExportedContext { expires_at: None, ttl: None, ..line };
    let imported = other.engine.import(&mine(&other.engine), vec![(1, line)]).await.expect("an answer");
    assert_eq!((imported.imported, imported.unchanged, imported.refused.len()), (0, 0, 1));
}

#[tokio::test]
async fn an_imported_context_takes_the_place_of_as_few_others_as_a_stored_one() {
    let fixture = Fixture::new().await;
    let line = |number: usize, supersedes: usize| {
        let ids: Vec<Uuid> = (0..supersedes).map(|_| Uuid::now_v7()).collect();
        let line = json!({"id": Uuid::now_v7(), "text": "tea", "level": "long_term", "version": 1, "created_at": 5,
            "updated_at": 5, "supersedes": ids});
        (number, message::<ExportedContext>(line))
    };
    let lines = vec![line(1, MOST_SUPERSEDED), line(2, MOST_SUPERSEDED + 1)];
    let imported = fixture.engine.import(&mine(&fixture.engine), lines).await.expect("an import");
    let refused: Vec<_> = imported.refused.iter().map(|line| (line.line, line.code, line.detail.as_str())).collect();
    let expected = (2, Code::FieldInvalid, "supersedes has 17 ids; at most 16 are accepted");
    assert_eq!((imported.imported, refused), (1, vec![expected]));
}

#[tokio::test]
async fn an_imported_line_is_of_no_time_that_is_more_than_a_day_ahead() {
    let fixture = Fixture::new().await;
    let hour = |hours: u64| (now() + Duration::from_hours(hours)).as_millis();
    let line = |number: usize, created_at: i64, updated_at: i64| {
        let line = json!({"id": Uuid::now_v7(), "text": "tea", "level": "long_term", "version": 1,
            "created_at": created_at, "updated_at": updated_at});
        (number, message::<ExportedContext>(line))
    };
    let lines = vec![line(1, hour(23), hour(23)), line(2, i64::MAX, 5), line(3, 5, hour(25))];
    let imported = fixture.engine.import(&mine(&fixture.engine), lines).await.expect("an import");
    let refused: Vec<_> = imported.refused.iter().map(|line| (line.line, line.code)).collect();
    assert_eq!((imported.imported, refused), (1, vec![(2, Code::FieldInvalid), (3, Code::FieldInvalid)]));
    assert!(imported.refused[0].detail.starts_with("created_at is 9223372036854775807, more than a day after now"));
}

#[tokio::test]
async fn an_imported_context_is_found_by_what_stands_before_it_now_and_not_by_what_stood_there() {
    let (fixture, other) = (Fixture::new().await, Fixture::new().await);
    let turn = |text: &str| json!({"text": text, "session": "s", "level": "long_term"});
    fixture.stored(turn("Which instruments are there?")).await;
    let question = fixture.stored(turn("Do you own a violin?")).await;
    let answer = fixture.stored(turn("Yes, since Tuesday!")).await;
    fixture.stored(turn("It is blue.")).await;
    let change = message(json!({"text": "Do you own a bicycle?"}));
    fixture.engine.update(&mine(&fixture.engine), question, change).await.expect("changed");
    let correction = json!({"text": "Since Monday!", "session": "s", "level": "long_term", "supersedes": [answer]});
    fixture.stored(correction).await;

    let lines = fixture.exported().await;
    assert_eq!((lines.len(), other.import(&lines).await.imported), (6, 6), "five contexts and what one of them was");
    let expected = fixture.vectors_of(&lines).await;
    assert_eq!((expected.len(), other.vectors_of(&lines).await), (6, expected));
}

#[tokio::test]
async fn pieces_of_an_import_come_in_any_order() {
    let (fixture, other) = (Fixture::new().await, Fixture::new().await);
    // An export is in the order of ids, which need not be that of a session.
    let turns = ["Do you own a violin?", "Since Tuesday!", "A cello too?", "No, a boat.", "It is blue."];
    for (number, text) in [4, 1, 5, 2, 3].into_iter().zip(turns) {
        let id = format!("0191e7f0-0000-7000-8000-00000000000{number}");
        fixture.stored(json!({"id": id, "text": text, "session": "s", "level": "long_term"})).await;
    }
    let lines = fixture.exported().await;
    for piece in lines.chunks(2) {
        assert_eq!(other.import(piece).await.imported, piece.len());
    }
    let expected = fixture.vectors_of(&lines).await;
    assert_eq!((expected.len(), other.vectors_of(&lines).await), (5, expected.clone()));

    let in_the_middle = lines.last().expect("lines").id;
    other.engine.delete(&mine(&other.engine), in_the_middle).await.expect("deleted");
    assert_ne!(other.vectors_of(&lines[1..2]).await, fixture.vectors_of(&lines[1..2]).await);
    let again = other.import(&lines).await;
    assert_eq!((again.imported, again.unchanged), (1, 4));
    assert_eq!(other.vectors_of(&lines).await, expected);
}
