//! Modules that keep to the contract in their own way work as any other, in both profiles.

use thalweg_model::{BatchBuilder, Codec, Record};
use thalweg_plugin_host::{Engine, Filter, Kind, Module, Partitioner, Profile, Verdict, admit};

fn module(profile: Profile, name: &str, kind: Kind) -> Module {
    let path = format!("{}/../../plugins/unusual/{name}.wat", env!("CARGO_MANIFEST_DIR"));
    let admitted = admit(&wat::parse_file(path).expect("the module is well-formed"), 1 << 20).unwrap();
    assert_eq!(admitted.kind, kind);
    Engine::new(profile).unwrap().compile(&admitted.component, kind, name).unwrap()
}

/// Chunk sizes around what one call takes, and calls of one record after another.
const COUNTS: [usize; 6] = [1, 1, 2, 100, 1_000, 2_500];

/// Canonical ABI, "post-return": wasmtime runs it before `call` returns, from then on the answer is the guest's to
/// overwrite.
#[test]
fn a_partitioner_may_free_its_answer_once_it_has_given_it() {
    for profile in [Profile::Broker, Profile::Client] {
        let module = module(profile, "frees-partition", Kind::Partitioner);
        let mut partitioner = Partitioner::new(&module, b"").unwrap();
        for count in COUNTS {
            let records = vec![Record { value: Some("x".into()), ..Default::default() }; count];
            let placed = partitioner.partition(&records, 8).unwrap();
            // 1,000 records are a chunk, which 8 divides.
            let expected: Vec<u32> = (0..count as u32).map(|i| 7 - i % 8).collect();
            assert_eq!(placed, expected, "{profile:?}, {count} records");
        }
    }
}

#[test]
fn a_filter_may_free_its_answer_once_it_has_given_it() {
    for profile in [Profile::Broker, Profile::Client] {
        let module = module(profile, "frees-filter", Kind::Filter);
        let mut filter = Filter::new(&module, b"").unwrap();
        for count in COUNTS {
            let mut builder = BatchBuilder::new();
            (0..count).for_each(|_| builder.push(&Record { value: Some("x".into()), ..Default::default() }));
            let batch = builder.build(Codec::None, None);
            let spans = batch.open().unwrap();
            let (data, header) = (spans.data().clone(), *spans.header());
            let spans: Vec<_> = spans.map(Result::unwrap).collect();
            let run = filter.run(&data, &header, &spans, true);
            assert_eq!(run.failure, None, "{profile:?}, {count} records");
            let expected: Vec<_> = (0..count).map(|i| if i % 2 == 0 { Verdict::Keep } else { Verdict::Drop }).collect();
            assert_eq!(run.verdicts, expected, "{profile:?}, {count} records");
        }
    }
}
