//! `thalweg produce`: sends what is read, and tells what became of it. What makes records of an input is in `input.rs`.

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::json;
use thalweg::{Acks, Codec, Receipt};
use thalweg_model::counted;
use tokio::sync::mpsc::{UnboundedReceiver, channel, unbounded_channel};

use crate::connect::Connect;
use crate::dev::stopped;
use crate::input::{Chunk, Input, Place};
use crate::output::{Output, done};

/// Sends records: one a line of the input
#[derive(Args)]
pub(crate) struct Produce {
    /// The topic
    topic: String,
    #[command(flatten)]
    input: Input,
    /// Compression of batches: none, gzip, snappy, lz4 or zstd
    #[arg(long, default_value = "none", value_parser = codec)]
    compression: Codec,
    /// When a record counts as sent
    #[arg(long, value_enum, default_value_t = AcksArg::Quorum)]
    acks: AcksArg,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AcksArg {
    /// When it was handed to the connection
    None,
    /// When the leader has appended it
    Leader,
    /// When a majority has fsynced it
    Quorum,
}

fn codec(text: &str) -> Result<Codec, String> {
    Codec::from_name(text).ok_or_else(|| "none, gzip, snappy, lz4 or zstd".to_owned())
}

impl Produce {
    pub(crate) async fn run(self) -> Result<()> {
        let client = self.connect.client().await?;
        let producer = client
            .producer(&self.topic)
            .compression(self.compression)
            .acks(match self.acks {
                AcksArg::None => Acks::None,
                AcksArg::Leader => Acks::Leader,
                AcksArg::Quorum => Acks::Quorum,
            })
            .delivery_timeout(self.connect.timeout())
            .build()
            .await?;
        // Reading blocks, so it has a thread of its own; the channel is what is read ahead.
        let (sender, mut chunks) = channel::<Result<Chunk>>(4);
        let input = self.input;
        std::thread::spawn(move || {
            if let Err(error) = input.read(&sender) {
                let _ = sender.blocking_send(Err(error));
            }
        });
        // The producer's buffer bounds how many receipts wait there.
        let (sent, receipts) = unbounded_channel();
        let mut outcomes = tokio::task::spawn_local(outcomes(receipts));
        let interrupted = stopped()?;
        tokio::pin!(interrupted);
        let mut stopped = Ok(());
        loop {
            let chunk = tokio::select! {
                chunk = chunks.recv() => chunk,
                _ = &mut interrupted => None,
                // A record has failed: no more is read.
                () = sent.closed() => None,
            };
            match chunk {
                None => break,
                Some(Ok(Chunk { place, records })) => match producer.enqueue_batch(records).await {
                    Ok(receipt) => drop(sent.send((place, receipt))),
                    Err(error) => stopped = Err(error.into()),
                },
                Some(Err(error)) => stopped = Err(error),
            }
            if stopped.is_err() {
                break;
            }
        }
        drop(sent);
        let closed = producer.close().await;
        let (stored, failed) = (&mut outcomes).await?;
        let records = counted(stored, "record");
        if let Some((place, error)) = failed {
            // Of a time-out nobody knows; the error says so.
            let failed_at = format!("{place}, the first that failed; {records} of the input are known to be stored");
            return Err(anyhow::Error::from(error).context(failed_at));
        }
        stopped.map_err(|error| error.context(format!("stopped after {records}; what was read before is stored")))?;
        closed?;
        match self.connect.output {
            Output::Json => done(Output::Json, "", &json!({ "topic": self.topic, "records": stored })),
            Output::Table => {
                eprintln!("{records} to {}", self.topic);
                Ok(())
            }
        }
    }
}

/// Waits for what becomes of each record: how many were stored, and the first that was not. Takes no more receipts once
/// one was not, but waits for those that it has.
async fn outcomes(mut receipts: UnboundedReceiver<(Place, Receipt)>) -> (u64, Option<(Place, thalweg::Error)>) {
    let (mut stored, mut failed) = (0, None);
    while let Some((place, receipt)) = receipts.recv().await {
        for (number, outcome) in (0..).zip(receipt.wait().await) {
            match outcome {
                Ok(_) => stored += 1,
                Err(error) if failed.is_none() => {
                    failed = Some((place.plus(number), error));
                    receipts.close();
                }
                Err(_) => {}
            }
        }
    }
    (stored, failed)
}
