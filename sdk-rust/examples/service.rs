//! The Rust guide's service (`docs/guides/rust.md`): takes orders over HTTP and ships them. SIGTERM ends it.
//!
//! `cargo run --profile fast -p thalweg --example service`, beside a `thalweg dev`.

use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use serde::Deserialize;
use thalweg::{Consumer, ConsumerRecord, Producer, Record};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::timeout;

#[derive(Deserialize)]
struct Order {
    id: String,
    customer: String,
}

/// A line in a file stands here for your database.
async fn ship(record: &ConsumerRecord, order: &Order) -> Result<()> {
    let line = format!("{} {} {}\n", record.partition(), record.offset(), order.id);
    let append = move || {
        let path = env::var("SHIPPED").unwrap_or_else(|_| "shipped.txt".into());
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        file.write_all(line.as_bytes())?;
        file.sync_all()
    };
    Ok(tokio::task::spawn_blocking(append).await??)
}

async fn work(consumer: Consumer, rejected: Producer) -> Result<()> {
    while let Some(record) = consumer.next().await.transpose()? {
        let wrong = match record.json::<Order>() {
            Ok(Some(order)) => {
                ship(&record, &order).await?;
                continue;
            }
            Ok(None) => "an order has a value".to_owned(),
            Err(error) => error.to_string(),
        };
        // It will not get better by itself, and must not keep the others.
        rejected.send(record.to_record().header("error", wrong)).await?;
    }
    Ok(())
}

async fn take_order(State(producer): State<Producer>, body: String) -> (StatusCode, String) {
    let order: Order = match serde_json::from_str(&body) {
        Ok(order) => order,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()),
    };
    match producer.send(Record::new(body).key(order.customer)).await {
        Ok(at) => {
            let answer = serde_json::json!({ "partition": at.partition, "offset": at.offset });
            (StatusCode::CREATED, answer.to_string())
        }
        Err(error) if error.is_retriable() => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let address = env::var("THALWEG_BROKER").unwrap_or_else(|_| "thalweg://localhost:9460".into());
    let client = thalweg::connect(&address).await?;
    let producer = client.producer("orders").delivery_timeout(Duration::from_secs(10)).build().await?;
    let rejected = client.producer("orders-rejected").delivery_timeout(Duration::from_secs(10)).build().await?;
    let consumer = client.consumer("orders").group("shipping").build().await?;

    // A service whose worker has failed would take orders that nobody ships: it ends, too.
    let (worker_ends, worker_ended) = oneshot::channel::<()>();
    let working = work(consumer.clone(), rejected.clone());
    let worker = tokio::spawn(async move {
        let _worker_ends = worker_ends;
        working.await
    });

    let port: u16 = env::var("PORT").map_or(Ok(8000), |port| port.parse())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on {}", listener.local_addr()?.port());
    let app = Router::new().route("/orders", post(take_order)).with_state(producer.clone());
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = worker_ended => {}
        }
    };
    // No new requests; those that have come are answered first.
    axum::serve(listener, app).with_graceful_shutdown(stop).await?;

    // What the worker has in hand may be finished; then its loop ends.
    consumer.stop();
    let worked = timeout(Duration::from_secs(10), worker).await;
    consumer.close().await?;
    producer.close().await?;
    rejected.close().await?;
    worked.context("the worker had not finished in time")?.context("the worker panicked")?
}
