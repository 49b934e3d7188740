//! Unit tests of what becomes of records beside their core. Deliveries to real brokers are left to `tests/e2e`.

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
    let record = thalweg_model::Record { value: Some("7".into()), ..Default::default() };
    shared.core().push(0, 0, &record, Token { receipt: pending.clone(), at: 0, chosen: None });
    let taken = BeingPlaced::from_core(&shared);
    assert_eq!((taken.records.len(), ledger.unsettled()), (1, 1));
    drop(taken);
    let error = outcomes(pending).await.remove(0).unwrap_err();
    assert_eq!((error.kind(), error.record().unwrap().value_bytes()), (ErrorKind::Closed, Some(&"7".into())));
}
