use serde_json::json;

use super::*;

fn read_sample(sample: Value) -> Conversation {
    conversation(sample, 7).expect("a conversation")
}

/// One session with two turns, and the given questions.
fn asked(qa: &Value) -> Vec<Question> {
    let turns = json!([
        {"speaker": "Ann", "dia_id": "D8:6", "text": "I bake."},
        {"speaker": "Bo", "dia_id": "D9:17", "text": "I row."},
        {"speaker": "Bo", "dia_id": "D11:26", "text": "I swim."},
        {"speaker": "Ann", "dia_id": "D30:05", "text": "I read."},
    ]);
    read_sample(json!({"sample_id": "s", "conversation": {"session_8": turns}, "qa": qa})).questions
}

fn evidence(of: &Value) -> Vec<String> {
    asked(&json!([{"question": "?", "evidence": of}]))[0].evidence.iter().cloned().collect()
}

#[test]
fn malformed_evidence_is_split_and_repaired() {
    assert_eq!(evidence(&json!(["D8:6; D9:17"])), ["D8:6", "D9:17"]);
    assert_eq!(evidence(&json!(["D8:6 D9:17"])), ["D8:6", "D9:17"]);
    assert_eq!(evidence(&json!(["D8:6,D9:17"])), ["D8:6", "D9:17"]);
    assert_eq!(evidence(&json!(["D:11:26"])), ["D11:26"]);
    assert_eq!(evidence(&json!(["(D08:06)"])), ["D8:6"]);
    assert_eq!(evidence(&json!(["d9:17"])), ["D9:17"]);
}

#[test]
fn evidence_is_named_as_its_turn_is_written() {
    assert_eq!(evidence(&json!(["D30:5"])), ["D30:05"]);
    assert_eq!(evidence(&json!(["D30:05"])), ["D30:05"]);
}

#[test]
fn evidence_may_be_null_a_text_nested_or_of_no_turn() {
    assert_eq!(evidence(&json!("D8:6")), ["D8:6"]);
    assert_eq!(evidence(&json!([["D8:6"], "D9:17"])), ["D8:6", "D9:17"]);
    for none in [json!(null), json!([]), json!("D"), json!(["D99:1"]), json!(["D4294967296:1"]), json!({}), json!(3)] {
        assert!(evidence(&none).is_empty(), "{none}");
    }
    assert!(asked(&json!([{"question": "?"}]))[0].evidence.is_empty());
}

#[test]
fn every_question_is_kept_with_its_place() {
    let questions = asked(&json!([
        {"question": "Who bakes?", "evidence": ["D8:6"], "category": 4, "answer": "Ann"},
        {"question": "Unknown?", "evidence": ["D9:9"], "category": "2"},
        {"question": null, "evidence": ["D8:6"]},
        "not an object",
        {"question": "Who flies?", "evidence": ["D9:17"], "category": 5, "adversarial_answer": "Bo"},
    ]));
    let seen: Vec<_> = questions.iter().map(|one| (one.index, one.text.as_str(), one.evidence.len())).collect();
    assert_eq!(seen, [(0, "Who bakes?", 1), (1, "Unknown?", 0), (2, "", 1), (3, "", 0), (4, "Who flies?", 1)]);
    let categories: Vec<_> = questions.iter().map(|question| question.category).collect();
    assert_eq!(categories, [Some(4), Some(2), None, None, Some(5)]);
}

#[test]
fn sessions_have_gaps_and_any_order() {
    let turn = |id: &str| json!([{"speaker": "Ann", "dia_id": id, "text": "Hi."}]);
    let conversation = read_sample(json!({"conversation": {
        "session_10": turn("D10:1"), "session_2": turn("D2:1"), "session_9_date_time": "8 May, 2023", "session_7": [],
        "session_2_summary": "Not a session.", "session_x": turn("X"), "session_4": null, "events_session_3": turn("Y"),
    }}));
    let names: Vec<_> = conversation.sessions.iter().map(|session| session.name.as_str()).collect();
    assert_eq!(names, ["session_2", "session_7", "session_10"]);
    assert_eq!(conversation.sample_id, "conversation-7");
    assert!(conversation.questions.is_empty());
}

#[test]
fn a_missing_time_is_noted_and_not_made_up() {
    let turns = json!([{"speaker": "Ann", "dia_id": "D1:1", "text": "Hi."}]);
    let conversation = read_sample(json!({"conversation": {
        "session_1": turns, "session_2": turns, "session_2_date_time": "1:56 pm on 8 May, 2023",
    }}));
    assert_eq!(
        conversation.sessions.iter().map(|session| session.at).collect::<Vec<_>>(),
        [None, Some(1_683_554_160_000)]
    );
    assert_eq!(conversation.notes, ["no time that can be read: session_1"]);
}

#[test]
fn turns_are_read_whatever_they_lack() {
    let conversation = read_sample(json!({"sample_id": 5, "conversation": {
        "session_1_date_time": "8 May, 2023",
        "session_1": [
            {"speaker": "Ann", "dia_id": "D1:1", "text": "Look!", "blip_caption": "a red bike"},
            {"speaker": "", "dia_id": "D1:2", "text": "", "blip_caption": "a dog"},
            {"dia_id": "D1:3", "text": "Żółć 🚲 日本\u{0}语"},
            {"speaker": "Bo", "dia_id": "D1:4", "text": "  ", "img_url": ["x"]},
            {"speaker": " Bo\nLee ", "text": "No id."},
            {"speaker": "Bo", "dia_id": "D1:1", "text": "The first one's id."},
            {"speaker": "Bo", "dia_id": "D1:5", "text": null, "blip_caption": null},
            "not an object",
        ],
    }}));
    let turn = |speaker: Option<&str>, id: &str, words: &str| Turn {
        speaker: speaker.map(str::to_owned),
        dia_id: id.to_owned(),
        words: words.to_owned(),
    };
    assert_eq!(
        conversation.sessions[0].turns,
        [
            turn(Some("Ann"), "D1:1", "Look! [shared image: a red bike]"),
            turn(None, "D1:2", "[shared image: a dog]"),
            turn(None, "D1:3", "Żółć 🚲 日本 语"),
            turn(Some("Bo Lee"), "D1:#5", "No id."),
            turn(Some("Bo"), "D1:#6", "The first one's id."),
        ]
    );
    assert_eq!((conversation.sample_id.as_str(), conversation.notes.len()), ("5", 1), "{:?}", conversation.notes);
}

#[test]
fn what_is_too_long_is_cut_between_characters() {
    let conversation = read_sample(json!({"conversation": {"session_1": [
        {"speaker": "ж".repeat(500), "dia_id": "D1:1", "text": "語".repeat(60_000)},
    ]}, "qa": [{"question": "語".repeat(9_000)}]}));
    let limits = context_manager_memory::limits::Limits::default();
    assert_eq!(limits.text(&conversation.sessions[0].turns[0].words), Ok(()));
    assert_eq!(limits.query(&conversation.questions[0].text), Ok(()));
    assert_eq!(conversation.sessions[0].turns[0].speaker.as_ref().map(|name| name.chars().count()), Some(128));
}

#[test]
fn a_file_is_a_list_or_one_conversation_and_a_folder_is_all_of_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let one = |id: &str| json!({"sample_id": id, "conversation": {"session_1": [{"dia_id": "D1:1", "text": "Hi."}]}});
    let write = |name: &str, content: String| fs::write(folder.path().join(name), content).expect("a file");
    write("b.json", json!([one("b1"), one("b2")]).to_string());
    write("a.json", format!("\u{feff}{}", one("a")));
    write("notes.txt", "not JSON".to_owned());
    let ids = |path: &Path| -> Vec<String> {
        read(path).expect("conversations").into_iter().map(|conversation| conversation.sample_id).collect()
    };
    assert_eq!(ids(folder.path()), ["a", "b1", "b2"]);
    assert_eq!(ids(&folder.path().join("b.json")), ["b1", "b2"]);
}

#[test]
fn what_is_no_conversation_is_refused_with_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let refusal = |content: &str| {
        let file = folder.path().join("x.json");
        fs::write(&file, content).expect("a file");
        format!("{:#}", read(&file).expect_err("a refusal"))
    };
    assert!(refusal("[1").contains("is not JSON"));
    assert!(refusal("[3]").contains("entry 0 is not a LoCoMo conversation: it is not an object"));
    assert!(refusal("[{}]").contains("no object `conversation`"));
    assert!(refusal(r#"[{"conversation": {"session_1": []}}]"#).contains("has no turn"));
    assert!(refusal("[]").contains("has no conversation"));
}
