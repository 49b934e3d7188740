//! The Rust guide's first record (`docs/guides/rust.md`): sends one, and reads what is there.
//!
//! `cargo run --profile fast -p thalweg --example first`, beside a `thalweg dev`.

use anyhow::Result;
use thalweg::Record;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let address = std::env::var("THALWEG_BROKER").unwrap_or_else(|_| "thalweg://localhost:9460".into());
    let client = thalweg::connect(&address).await?;
    let producer = client.producer("greetings").build().await?;
    let at = producer.send(Record::new(r#"{"hello":"world"}"#).key("me")).await?;
    println!("stored in partition {} at offset {}", at.partition, at.offset.unwrap_or_default());
    producer.close().await?;

    let consumer = client.consumer("greetings").from_beginning().until_end().build().await?;
    while let Some(record) = consumer.next().await.transpose()? {
        println!("{} {:?} {:?}", record.offset(), record.key(), record.text()?);
    }
    Ok(())
}
