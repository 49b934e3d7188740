//! Every hostile module is contained, and the error names plugin, record and reason.

use std::time::{Duration, Instant};

use thalweg_model::Record;
use thalweg_plugin_host::{AdmitError, Engine, Kind, Partitioner, Profile, admit};

fn source(name: &str) -> Vec<u8> {
    let path = format!("{}/../../plugins/hostile/{name}.wat", env!("CARGO_MANIFEST_DIR"));
    wat::parse_file(path).expect("the module is well-formed")
}

/// Runs a partitioner over 100 records and answers why it failed, after checking that it was stopped in time, that the
/// first record is named, and that an honest module still works on the same engine.
fn failure(name: &str) -> String {
    let mut reasons = Vec::new();
    for profile in [Profile::Broker, Profile::Client] {
        let engine = Engine::new(profile).unwrap();
        let admitted = admit(&source(name), 1 << 20).unwrap();
        assert_eq!(admitted.kind, Kind::Partitioner);
        let module = engine.compile(&admitted.component, Kind::Partitioner, &format!("{name}@1 (digest)")).unwrap();
        let records = vec![Record { value: Some("x".into()), ..Default::default() }; 100];
        let started = Instant::now();
        let reason = match Partitioner::new(&module, b"") {
            Err(error) => error.to_string(),
            Ok(mut partitioner) => {
                let failure = partitioner.partition(&records, 12).unwrap_err();
                assert_eq!(failure.record, 0);
                assert_eq!(
                    partitioner.partition(&records, 12).unwrap_err().record,
                    0,
                    "it fails again, and does no more"
                );
                failure.to_string()
            }
        };
        assert!(started.elapsed() < Duration::from_secs(20), "{name} took {:?}", started.elapsed());
        assert!(reason.contains(&format!("{name}@1 (digest)")), "{reason}");
        reasons.push(reason);
    }
    assert_eq!(reasons[0], reasons[1], "broker and client say the same");
    reasons.pop().unwrap()
}

#[test]
fn an_endless_loop_is_interrupted() {
    assert!(failure("endless-loop").ends_with("failed on record 0: it ran longer than 50 ms of CPU time"));
}

#[test]
fn an_endless_start_function_is_interrupted() {
    assert!(failure("endless-init").ends_with("does not start: it ran longer than 50 ms of CPU time"));
}

#[test]
fn a_trap_fails_the_record() {
    assert!(failure("trap").contains("unreachable"));
}

#[test]
fn memory_stops_at_its_cap() {
    let reason = failure("memory-bomb");
    assert!(reason.contains("it ran longer than 50 ms") || reason.contains("unreachable"), "{reason}");
}

#[test]
fn a_partition_that_does_not_exist_is_named() {
    assert!(failure("wrong-partition").ends_with("it named partition 99, the topic has 12"));
}

#[test]
fn an_oversized_answer_is_refused() {
    let reason = failure("oversized-output");
    assert!(reason.contains("failed on record 0"), "{reason}");
    // One that lies in the guest's memory is refused before it is copied.
    let reason = failure("long-output");
    assert!(reason.contains("failed on record 0: too much data is being copied"), "{reason}");
}

#[test]
fn recursion_ends_with_the_stack() {
    assert!(failure("recursion").contains("stack"));
}

#[test]
fn modules_that_are_no_plugins_are_refused_with_the_reason() {
    let check = |bytes: &[u8]| admit(bytes, 1 << 20).unwrap_err();
    assert!(matches!(check(b"not wasm"), AdmitError::NotWasm(_)));
    assert!(matches!(check(&source("trap")[..50]), AdmitError::NotWasm(_)));
    assert!(matches!(check(&vec![0; (1 << 20) + 1]), AdmitError::TooLarge { .. }));
    assert_eq!(check(&source("wrong-exports")), AdmitError::Exports { found: "`main`".into() });
    assert_eq!(check(&source("forbidden-import")), AdmitError::Import("wasi_snapshot_preview1::clock_time_get".into()));
    let no_memory = wat::parse_str(r#"(module (func (export "init")) (func (export "filter")))"#).unwrap();
    assert!(matches!(check(&no_memory), AdmitError::Contract(_)));
    let four_gigabytes = wat::parse_str(r#"(module (memory i64 1) (func (export "init")))"#).unwrap();
    assert!(matches!(check(&four_gigabytes), AdmitError::NotWasm(_)));
}

#[test]
fn a_module_that_asks_for_four_gigabytes_at_once_does_not_start() {
    let text = std::str::from_utf8(include_bytes!("../../../plugins/hostile/trap.wat")).unwrap();
    let greedy = wat::parse_str(text.replace("\"memory\") 1 1000", "\"memory\") 65536")).unwrap();
    for profile in [Profile::Broker, Profile::Client] {
        let engine = Engine::new(profile).unwrap();
        let admitted = admit(&greedy, 1 << 20).unwrap();
        let started =
            engine.compile(&admitted.component, Kind::Partitioner, "greedy@1").and_then(|m| Partitioner::new(&m, b""));
        assert!(started.is_err());
    }
}

#[test]
fn a_compile_bomb_is_refused_before_it_is_compiled() {
    let mut text = String::from("(module ");
    (0..100_000).for_each(|_| text.push_str("(func)"));
    text.push(')');
    let bomb = wat::parse_str(text).unwrap();
    assert!(
        matches!(admit(&bomb, 4 << 20).unwrap_err(), AdmitError::Compile(what) if what.contains("100000 functions"))
    );
}
