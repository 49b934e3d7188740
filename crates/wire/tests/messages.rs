//! Every message against prost-reflect, which reads and writes protobuf by what `thalweg.proto` says and knows nothing
//! of src/message.rs. That `src/thalweg.rs` has the fields of the proto file is the business of tests/generated.rs.

use std::path::Path;

use prost::Message;
use prost::bytes::Bytes;
use protox::prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use thalweg_wire::proto;

fn pool() -> DescriptorPool {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = protox::compile([source.join("thalweg.proto")], [&source]).unwrap();
    DescriptorPool::from_file_descriptor_set(files).unwrap()
}

/// Numbers that look like chance and are the same in every run (xorshift64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // As many bits as chance will have it: varints have ten lengths.
        self.0 >> (self.0 % 64)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// A value that is not the default, which nobody writes.
fn value(field: &FieldDescriptor, chance: &mut Chance, depth: u32) -> Value {
    let number = chance.next().max(1);
    match field.kind() {
        Kind::Bool => Value::Bool(true),
        Kind::Uint32 => Value::U32((number as u32).max(1)),
        Kind::Uint64 => Value::U64(number),
        Kind::Int64 | Kind::Sint64 => Value::I64(number.cast_signed()),
        Kind::Sint32 => Value::I32((number as u32).max(1).cast_signed()),
        Kind::String => Value::String("ü".repeat(1 + number as usize % 200)),
        Kind::Bytes => Value::Bytes(Bytes::from(vec![number as u8; 1 + number as usize % 200])),
        Kind::Message(of) => Value::Message(message(&of, chance, depth + 1)),
        other => panic!("{} is of a kind that this test does not know: {other:?}", field.full_name()),
    }
}

fn message(of: &MessageDescriptor, chance: &mut Chance, depth: u32) -> DynamicMessage {
    let mut made = DynamicMessage::new(of.clone());
    for field in of.fields() {
        // Some fields are left out, and deep down all messages.
        if chance.below(4) == 0 || depth > 3 && matches!(field.kind(), Kind::Message(_)) {
            continue;
        }
        let value = match field.is_list() {
            true => Value::List((0..=chance.below(5)).map(|_| value(&field, chance, depth)).collect()),
            false => value(&field, chance, depth),
        };
        made.set_field(&field, value);
    }
    made
}

fn check<T: Message + Default + PartialEq + std::fmt::Debug>(of: &MessageDescriptor) {
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    for _ in 0..100 {
        let bytes = message(of, &mut chance, 0).encode_to_vec();
        let read = T::decode(&bytes[..]).unwrap_or_else(|e| panic!("{}: {e}", of.name()));
        assert_eq!(read.encode_to_vec(), bytes, "{read:?}");
        assert_eq!(read.encoded_len(), bytes.len(), "{read:?}");
        // A field of a newer version, and the same once more: later values replace, lists grow, messages merge.
        let unknown = [0xfa, 0xff, 0x3f, 1, 7];
        assert_eq!(T::decode(&[&bytes[..], &unknown].concat()[..]).unwrap(), read);
        let twice = [&bytes[..], &bytes].concat();
        let theirs = DynamicMessage::decode(of.clone(), &twice[..]).unwrap().encode_to_vec();
        let mut ours = T::decode(&twice[..]).unwrap();
        assert_eq!(ours.encode_to_vec(), theirs, "{ours:?}");
        for cut in 0..bytes.len().min(40) {
            let theirs = DynamicMessage::decode(of.clone(), &bytes[..cut]).is_ok();
            assert_eq!(T::decode(&bytes[..cut]).is_ok(), theirs, "{} cut to {cut}", of.name());
        }
        ours.clear();
        assert_eq!(ours, T::default());
    }
    assert_eq!(T::default().encode_to_vec(), b"");
}

macro_rules! checks {
    ($($name:ident)*) => {
        #[test]
        fn every_message_is_read_and_written_as_the_proto_file_says() {
            let pool = pool();
            let names: Vec<String> = pool.all_messages().map(|m| m.name().to_owned()).collect();
            assert_eq!(names, [$(stringify!($name)),*], "those of the proto file, in its order");
            $(check::<proto::$name>(&pool.get_message_by_name(concat!("thalweg.", stringify!($name))).unwrap());)*
        }
    };
}

thalweg_wire::for_each_message!(checks);

#[test]
fn an_error_names_message_and_field() {
    // Field 3, a text, as a varint; the text is prost's.
    let error = proto::Hello::decode(&[0x18, 1][..]).unwrap_err();
    let said =
        "failed to decode Protobuf message: Hello.client_id: invalid wire type: Varint (expected LengthDelimited)";
    assert_eq!(error.to_string(), said);
    assert_eq!(
        format!("{:?}", proto::MetadataWatch { topics: vec!["a".into()] }),
        r#"MetadataWatch { topics: ["a"] }"#
    );
}
