//! Imports beside what is there already.

use context_manager_protocol::problem::Code;

use super::*;

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
