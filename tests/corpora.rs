//! The fuzz targets' corpora, replayed on stable: what once was interesting never panics again.

use std::path::PathBuf;

use bytes::Bytes;
use thalweg_api::{FetchControl, FetchPush, GroupOpen, MetadataReply};
use thalweg_broker_core::NodeMessage;
use thalweg_control::{GroupRecord, MetadataRecord};
use thalweg_model::RecordBatch;
use thalweg_tests::forge;
use thalweg_wire::FrameDecoder;

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let found: Vec<_> = files.map(|f| std::fs::read(f.unwrap().path()).unwrap()).collect();
    assert!(!found.is_empty(), "{name} has a corpus");
    found
}

#[test]
fn batches() {
    for bytes in corpus("batch") {
        if let Ok(batch) = RecordBatch::parse(bytes.into()) {
            let _ = batch.records();
        }
    }
}

#[test]
fn checks() {
    let mut passed = 0;
    for bytes in corpus("check") {
        if let Ok(batch) = RecordBatch::parse(forge::seal(&bytes))
            && batch.check_records().is_ok()
        {
            passed += 1;
            batch.records().expect("what passed the check can be read");
        }
    }
    assert_eq!(passed, 3, "one honest batch of each codec is in the corpus");
}

#[test]
fn frames() {
    for bytes in corpus("frame") {
        let Some((step, bytes)) = bytes.split_first() else { continue };
        let mut decoder = FrameDecoder::default();
        for mut piece in bytes.chunks((*step as usize).max(1)) {
            while let Ok(Some(frame)) = decoder.next(&mut piece) {
                // As the target does.
                let _ = frame.clone().decode::<MetadataReply>();
                let _ = frame.clone().decode::<FetchControl>();
                let _ = frame.clone().decode::<FetchPush>();
                let _ = frame.clone().decode::<GroupOpen>();
                let _ = frame.into_produce();
            }
        }
    }
}

#[test]
fn peers() {
    for bytes in corpus("peer") {
        let Some((length, rest)) = bytes.split_first_chunk::<2>() else { continue };
        let (head, body) = rest.split_at((u16::from_le_bytes(*length) as usize).min(rest.len()));
        if let Ok(message) = NodeMessage::decode(head, &mut Bytes::copy_from_slice(body)) {
            let (head, batches) = message.encode();
            assert_eq!(NodeMessage::decode(&head, &mut Bytes::from(batches.concat())), Ok(message));
        }
    }
}

#[test]
fn metadata() {
    for bytes in corpus("metadata") {
        if let Ok(record) = MetadataRecord::decode(&bytes) {
            assert_eq!(MetadataRecord::decode(&record.encode()), Ok(record));
        }
    }
}

#[test]
fn groups() {
    for bytes in corpus("group") {
        if let Ok(record) = GroupRecord::decode(&bytes) {
            assert_eq!(GroupRecord::decode(&record.encode()), Ok(record));
        }
    }
}
