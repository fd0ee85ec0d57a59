//! A clock that jumps by hours: no replay is let in, whatever way it goes, and what that costs is what docs/faults.md says.

use axum::http::StatusCode;
use context_manager_protocol::problem::Code;

use super::CONTEXTS;
use crate::{
    clock::{jump_to, unix_time},
    testing::{Call, Fixture},
};

const HOURS: i64 = 3 * 3_600;

/// A request that is signed by the clock as it stands.
fn fresh() -> Call {
    Call { created: unix_time(), ..Call::json("POST", CONTEXTS, r#"{"text": "stored at some time"}"#) }
}

async fn refusal(fixture: &Fixture, call: &Call) -> Option<Code> {
    let answer = fixture.send(call.sign()).await;
    if answer.status == StatusCode::CREATED { None } else { Some(answer.problem().code) }
}

#[tokio::test]
async fn a_clock_that_jumps_by_hours_lets_no_replay_in() {
    let fixture = Fixture::new().await;
    let before = fresh();
    assert_eq!(refusal(&fixture, &before).await, None);
    assert_eq!(refusal(&fixture, &before).await, Some(Code::NonceReplayed));

    // Ahead: what was signed before is too old, what is signed by the same clock is taken.
    jump_to(HOURS);
    let ahead = fresh();
    assert_eq!(refusal(&fixture, &before).await, Some(Code::TimestampOutsideWindow));
    assert_eq!(refusal(&fixture, &ahead).await, None);
    assert_eq!(refusal(&fixture, &ahead).await, Some(Code::NonceReplayed));

    // Back again: nonces of that time were forgotten, so that nothing of it is taken, neither a replay nor anything new.
    jump_to(0);
    for call in [&before, &fresh(), &ahead] {
        assert_eq!(refusal(&fixture, call).await, Some(Code::TimestampOutsideWindow));
    }

    // Behind the start: nothing that could have been used before it is taken.
    jump_to(-HOURS);
    assert_eq!(refusal(&fixture, &fresh()).await, Some(Code::TimestampBeforeStart));

    // Where the clock had been, all goes on, and what was used there stays used.
    jump_to(HOURS);
    assert_eq!(refusal(&fixture, &ahead).await, Some(Code::NonceReplayed));
    assert_eq!(refusal(&fixture, &fresh()).await, None);
}

/// A jump within the window forgets nothing: what is replayed at its far end is refused, what is new is taken.
#[tokio::test]
async fn a_clock_that_is_put_right_by_minutes_refuses_only_replays() {
    let fixture = Fixture::new().await;
    let mut used = Vec::new();
    for ahead in [0, 120, 60, 180] {
        jump_to(ahead);
        let call = fresh();
        assert_eq!(refusal(&fixture, &call).await, None, "{ahead}");
        used.push(call);
        for call in &used {
            assert_eq!(refusal(&fixture, call).await, Some(Code::NonceReplayed), "{ahead}");
        }
    }
}
