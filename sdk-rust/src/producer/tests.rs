//! Unit tests of a producer whose client reaches nobody. Deliveries to real brokers are left to `tests/e2e`.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use thalweg_api::ErrorKind;
#[cfg(not(feature = "codecs"))]
use thalweg_model::Codec;

use crate::Record;
use crate::client::Client;
use crate::lock::lock;

/// What is said on the thread of a test.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Said {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!("{}={value:?} ", field.name());
            }
        }
        let mut text = Text(event.metadata().level().to_string() + " ");
        event.record(&mut text);
        lock(&self.0).push(text.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), what).await.expect("it ends")
}

#[cfg(not(feature = "codecs"))]
#[tokio::test]
async fn a_producer_with_a_codec_that_is_not_built_in_is_refused_when_it_is_made() {
    let made = |codec| Client::unconnected().producer("t").compression(codec).start().map(drop);
    assert_eq!(made(Codec::None), Ok(()));
    for codec in &Codec::ALL[1..] {
        let error = made(*codec).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(text.contains(codec.name()) && text.contains("the feature `codecs` of thalweg"), "{text}");
    }
}

#[test]
fn a_producer_that_is_dropped_with_records_under_way_says_how_many() {
    let said = Said::default();
    tracing::subscriber::with_default(said.clone(), || {
        let producer = Client::unconnected().producer("t").start().unwrap();
        let receipt = producer.submit(["1", "2"].map(Record::new)).unwrap();
        drop(producer);
        drop(receipt);
    });
    let said = lock(&said.0);
    let is_it = |s: &&String| s.starts_with("WARN") && s.contains("\"t\" was dropped") && s.contains("left=2");
    assert_eq!(said.iter().filter(is_it).count(), 1, "{said:?}");
}

/// Whoever waits for an outcome hears of one, though nobody is left who could send.
#[tokio::test]
async fn nobody_waits_for_a_client_that_is_gone() {
    let producer = Client::unconnected().producer("t").start().unwrap();
    let receipt = producer.submit([Record::new("1")]).unwrap();
    let (sending, enqueuing) = (producer.send(Record::new("2")), producer.enqueue(Record::new("3")));
    drop(producer.submit([Record::new("4")]).unwrap());
    let (flushing, closing) = (producer.flush(), producer.close());
    drop(producer);
    let error = in_time(receipt.wait()).await.remove(0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    assert_eq!(error.record().unwrap().value_bytes().unwrap(), &b"1"[..]);
    assert!(error.to_string().contains("before the record was sent. Close the producer first"), "{error}");
    assert!(in_time(sending).await.is_err());
    assert!(in_time(in_time(enqueuing).await.unwrap().wait()).await[0].is_err());
    // Of the one that was dropped it is told here.
    assert!(in_time(flushing).await.is_err());
    in_time(closing).await.unwrap();
}

#[tokio::test]
async fn options_that_leave_no_room_are_refused_by_name() {
    let client = Client::unconnected();
    let largest = 8 << 20;
    for (builder, name) in [
        (client.producer("t").buffer_bytes(0), "buffer_bytes"),
        (client.producer("t").batch_bytes(0), "batch_bytes"),
        (client.producer("t").delivery_timeout(Duration::from_micros(999)), "delivery_timeout"),
        (client.producer("t").batch_bytes(largest + 1), "batch_bytes"),
    ] {
        let error = builder.start().map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(name), "{error}");
    }
    assert!(client.producer("t").batch_bytes(largest).buffer_bytes(1).start().is_ok());
    let error = client.consumer("t").buffer_bytes(0).build().await.map(drop).unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("buffer_bytes"), "{error}");
}
