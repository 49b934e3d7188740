//! The README's quickstart: produce a record, read what the filter keeps. `tests/readme` holds both to the same text.
//!
//! `cargo run --profile fast -p thalweg --example quickstart`, beside a `thalweg dev` with the two example plugins. The
//! first argument is another address.

use anyhow::Result;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "thalweg://localhost:9460".into());
    let client = thalweg::connect(&address).await?;
    let producer = client.producer("flights").build().await?;
    let json = r#"{"carrier":"UA","dep_delay":61}"#;
    let at = producer.send(thalweg::Record::new(json).key("N14228")).await?;
    println!("partition {} offset {:?}", at.partition, at.offset);
    let consumer = client.consumer("flights").group("ops").filter("late@1").build().await?;
    while let Some(record) = consumer.next().await.transpose()? {
        println!("{:?}", record.json::<serde_json::Value>()?);
    }
    Ok(())
}
