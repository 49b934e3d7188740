//! Unit tests of what becomes of records beside their core. Deliveries to real brokers are left to `tests/e2e`.

use thalweg_client_core::{ProducerConfig, ProducerCore};
use thalweg_model::Record;

use super::super::destination::Destination;
use super::super::receipt::{Ledger, Pending, Receipt};
use super::*;

/// A session, and a call of so many records, which have their places in its buffer.
fn session(records: usize) -> (Arc<Ledger>, Arc<Shared>, Arc<Pending>) {
    let ledger = Ledger::new(None, 1 << 20);
    let core = ProducerCore::new(ProducerConfig::default(), 1);
    let topic = Destination { name: "t".into(), is_one_of_many: false };
    let shared = Arc::new(Shared::new(core, ledger.clone(), Instant::now(), topic, Arc::default()));
    let pending = Pending::new(records, &ledger);
    pending.admitted(records);
    (ledger, shared, pending)
}

async fn outcomes(pending: Arc<Pending>) -> Vec<Result<crate::Delivery>> {
    let waited = tokio::time::timeout(Duration::from_secs(5), Receipt::new(pending).wait());
    waited.await.expect("each has its outcome")
}

#[tokio::test]
async fn records_that_are_being_placed_anew_fail_with_what_places_them() {
    let (ledger, shared, pending) = session(1);
    let record = Record { value: Some("7".into()), ..Default::default() };
    shared.core().push(0, 0, &record, Token { receipt: pending.clone(), at: 0, chosen: None });
    let taken = BeingPlaced::from_core(&shared);
    assert_eq!((taken.records.len(), ledger.unsettled()), (1, 1));
    drop(taken);
    let error = outcomes(pending).await.remove(0).unwrap_err();
    assert_eq!((error.kind(), error.record().unwrap().value_bytes()), (ErrorKind::Closed, Some(&"7".into())));
}

#[tokio::test]
async fn records_that_cannot_be_placed_now_wait_until_they_are_late() {
    let (ledger, shared, pending) = session(2);
    let unplaced = |at, expires_ms| {
        let token = Token { receipt: pending.clone(), at, chosen: None };
        Unplaced { record: Record::default(), token, since_ms: 0, expires_ms }
    };
    let records = vec![unplaced(0, 0), unplaced(1, 60_000)];
    let taken = BeingPlaced { shared: shared.clone(), records };
    let why = Error::new(ErrorKind::Disconnected, "nobody is there");
    let left = taken.later(&why).await.expect("one is not late");
    assert_eq!((left.records.len(), ledger.unsettled()), (1, 1));
    assert!((1..=60_000).contains(&left.left_ms()));
    let records = vec![Unplaced { expires_ms: 0, ..left.into_records().remove(0) }];
    assert!(BeingPlaced { shared, records }.later(&why).await.is_none());
    for outcome in outcomes(pending).await {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.to_string().contains("nobody is there"), "{error}");
    }
}
