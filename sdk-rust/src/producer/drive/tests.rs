//! Unit tests of what becomes of records beside their core. Deliveries to real brokers are left to `tests/e2e`.

use thalweg_model::{BatchBuilder, Codec};

use super::super::receipt::{Pending, Receipt};
use super::*;

fn shared(ledger: &Arc<Ledger>) -> Arc<Shared> {
    let counted = Counted { core: ProducerCore::new(thalweg_client_core::ProducerConfig::default(), 1), bytes: 0 };
    Arc::new(Shared {
        core: Mutex::new(counted),
        ledger: ledger.clone(),
        started: Instant::now(),
        topic: Destination { name: "t".into(), is_one_of_many: false },
        wake: Notify::new(),
        ended: AtomicBool::new(false),
        gone: AtomicBool::new(false),
        doubted: AtomicBool::new(false),
        obstacle: Mutex::default(),
        wants_placing: AtomicBool::new(false),
    })
}

async fn outcomes(pending: Arc<Pending>) -> Vec<Result<crate::Delivery>> {
    let waited = tokio::time::timeout(Duration::from_secs(5), Receipt::new(pending).wait());
    waited.await.expect("each has its outcome")
}

#[tokio::test]
async fn records_that_are_being_placed_anew_fail_with_what_places_them() {
    let ledger = Ledger::new(None, 1 << 20);
    let shared = shared(&ledger);
    let pending = Pending::new(1, &ledger);
    pending.admitted(1);
    let record = Record { value: Some("7".into()), ..Default::default() };
    shared.core().push(0, 0, &record, Token { receipt: pending.clone(), at: 0, chosen: None });
    let taken = BeingPlaced::from_core(&shared);
    assert_eq!((taken.records.len(), ledger.unsettled()), (1, 1));
    drop(taken);
    let error = outcomes(pending).await.remove(0).unwrap_err();
    assert_eq!((error.kind(), error.record().unwrap().value_bytes()), (ErrorKind::Closed, Some(&"7".into())));
}

/// What the errors of records say that were sent in one batch, stamped so, and refused with this code.
async fn refused(stamps: &[i64], code: ErrorCode) -> Vec<String> {
    let ledger = Ledger::new(None, 1 << 20);
    let shared = shared(&ledger);
    let pending = Pending::new(stamps.len(), &ledger);
    pending.admitted(stamps.len());
    let mut builder = BatchBuilder::new();
    for timestamp_ms in stamps {
        builder.push(&Record { value: Some("7".into()), timestamp_ms: *timestamp_ms, ..Default::default() });
    }
    let tokens = (0..stamps.len() as u32).map(|at| Token { receipt: pending.clone(), at, chosen: None }).collect();
    let result = Err(Failure::Refused(ApiError::new(code, "the broker's words")));
    shared.settle(vec![Outcome { partition: 0, tokens, batch: builder.build(Codec::None, None), result }]);
    outcomes(pending).await.into_iter().map(|outcome| outcome.unwrap_err().to_string()).collect()
}

#[tokio::test]
async fn of_records_that_are_refused_together_the_one_that_is_wrong_is_told_apart() {
    let other = format!("{SENT_TOGETHER}: the broker's words");
    let wrong = "the broker's words".to_owned();
    let late = ErrorCode::InvalidTimestamp;
    assert_eq!(refused(&[5, 900, 7, 900], late).await, [other.clone(), wrong.clone(), other.clone(), other.clone()]);
    assert_eq!(refused(&[5], late).await, std::slice::from_ref(&wrong));
    // Of any other refusal all are as good as each other.
    assert_eq!(refused(&[5, 900], ErrorCode::TooLarge).await, [wrong.clone(), wrong]);
}
