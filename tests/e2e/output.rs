//! What the command prints for programs, against its schemas in `docs/cli`.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use thalweg::Record;
use thalweg_tests::process::{Broker, Cluster, plugin, thalweg};

use crate::client;

/// The schemas of `docs/cli`, one for each command.
fn schema(name: &str) -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli").join(name);
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// What of a document is not as its schema says, with its place. Knows the words of JSON Schema that `docs/cli` uses,
/// and fails on any other: a rule that is not checked is none.
fn faults(schema_of: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut found = Vec::new();
    let Value::Object(rules) = schema_of else { panic!("a schema is an object, {schema_of}") };
    for (word, rule) in rules {
        let is_kept = match word.as_str() {
            "$schema" | "title" | "description" => true,
            "$ref" => {
                found.extend(faults(&schema(rule.as_str().unwrap()), value, at));
                true
            }
            "type" => match rule {
                Value::Array(several) => several.iter().any(|t| is_of(value, t.as_str().unwrap())),
                one => is_of(value, one.as_str().unwrap()),
            },
            "enum" => rule.as_array().unwrap().contains(value),
            "anyOf" => rule.as_array().unwrap().iter().any(|one| faults(one, value, at).is_empty()),
            "minimum" => value.as_i64().is_none_or(|n| n >= rule.as_i64().unwrap()),
            "minItems" => value.as_array().is_none_or(|a| a.len() as u64 >= rule.as_u64().unwrap()),
            "maxItems" => value.as_array().is_none_or(|a| a.len() as u64 <= rule.as_u64().unwrap()),
            "required" => value
                .as_object()
                .is_none_or(|fields| rule.as_array().unwrap().iter().all(|k| fields.contains_key(k.as_str().unwrap()))),
            "additionalProperties" => {
                assert_eq!(rule, false);
                let known = rules["properties"].as_object().unwrap();
                value.as_object().is_none_or(|fields| fields.keys().all(|k| known.contains_key(k)))
            }
            "properties" => {
                for (key, rule) in rule.as_object().unwrap() {
                    found.extend(value.get(key).iter().flat_map(|v| faults(rule, v, &format!("{at}.{key}"))));
                }
                true
            }
            "items" => {
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    found.extend(faults(rule, item, &format!("{at}[{i}]")));
                }
                true
            }
            other => panic!("{at}: the test does not know {other:?}"),
        };
        if !is_kept {
            found.push(format!("{at}: {value} breaks {word}: {rule}"));
        }
    }
    found
}

fn is_of(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("the test does not know the type {other:?}"),
    }
}

#[track_caller]
fn check(name: &str, value: &Value) {
    let faults = faults(&schema(name), value, "");
    assert!(faults.is_empty(), "{name}: {faults:#?}\n{value:#}");
}

/// Runs a command that has to succeed, with `--output json`; answers with what it prints.
#[track_caller]
fn printed(arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(thalweg());
    command.args(arguments).args(["--output", "json"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The lines of `partition dump` of all partitions of a topic.
fn dumped(partitions: &Path, topic: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(partitions).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_str().unwrap().starts_with(topic) {
            let dump = Command::new(thalweg()).args(["partition", "dump"]).arg(entry.path()).output().unwrap();
            lines.extend(String::from_utf8(dump.stdout).unwrap().lines().map(str::to_owned));
        }
    }
    lines
}

#[test]
fn the_check_of_a_schema_finds_what_is_wrong() {
    let topic = serde_json::json!({
        "name": "t", "id": "x", "partitions": 1, "partitioner": null, "retention_ms": -1, "retention_bytes": -1,
        "segment_bytes": 1, "segment_ms": 1, "timestamp_ahead_max_ms": -1,
    });
    check("topic.json", &topic);
    let is_found = |change: &dyn Fn(&mut Value)| {
        let mut changed = topic.clone();
        change(&mut changed);
        !faults(&schema("topic.json"), &changed, "").is_empty()
            && !faults(&schema("topic-list.json"), &vec![topic.clone(), changed].into(), "").is_empty()
    };
    assert!(is_found(&|t| t["partitions"] = "1".into()));
    assert!(is_found(&|t| t["partitions"] = 0.into()));
    assert!(is_found(&|t| t["name"] = Value::Null));
    assert!(is_found(&|t| t["gives up"] = 1.into()));
    assert!(is_found(&|t| drop(t.as_object_mut().unwrap().remove("segment_ms"))));
}

/// Keys are for programs: they begin with a letter and have neither spaces nor capitals.
#[test]
fn the_keys_of_all_schemas_are_in_snake_case() {
    fn keys(value: &Value, found: &mut Vec<String>) {
        if let Some(properties) = value.get("properties").and_then(Value::as_object) {
            found.extend(properties.keys().cloned());
        }
        match value {
            Value::Object(fields) => fields.values().for_each(|v| keys(v, found)),
            Value::Array(all) => all.iter().for_each(|v| keys(v, found)),
            _ => {}
        }
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli");
    let index = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let (mut found, mut files) = (Vec::new(), 0);
    for entry in std::fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".json") {
            keys(&schema(&name), &mut found);
            assert!(index.contains(&format!("({name})")), "README.md does not say whose {name} is");
            files += 1;
        }
    }
    assert!(files > 10 && found.len() > 50);
    let is_snake = |key: &String| key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    assert!(found.iter().all(is_snake), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_commands_print_for_programs_is_as_their_schemas_say() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let broker = Broker::start(&data, 0);
    let connect = ["--broker", &broker.address, "--ca", data.join("tls/ca.pem").to_str().unwrap()].map(str::to_owned);
    let run = |arguments: &[&str], input: &str| {
        let connect: Vec<&str> = connect.iter().map(String::as_str).collect();
        tokio::task::block_in_place(|| printed(&[arguments, &connect].concat(), input))
    };
    let json = |arguments: &[&str], name: &str| -> Value {
        let value = serde_json::from_str(&run(arguments, "")).unwrap();
        check(name, &value);
        value
    };
    let file = folder.path().join("late.wasm");
    std::fs::write(&file, plugin("late.wasm")).unwrap();
    json(&["plugin", "upload", "late", file.to_str().unwrap()], "plugin.json");
    std::fs::write(&file, plugin("by_carrier.wasm")).unwrap();
    json(&["plugin", "upload", "by-carrier", file.to_str().unwrap()], "plugin.json");
    assert_eq!(json(&["plugin", "list"], "plugin-list.json").as_array().unwrap().len(), 2);
    json(&["plugin", "describe", "late"], "plugin.json");

    json(&["topic", "create", "t", "-p", "2", "--retention", "forever"], "topic.json");
    json(&["topic", "create", "placed", "--partitioner", "by-carrier", "--retention-bytes", "9000000"], "topic.json");
    let grown = json(&["topic", "add-partitions", "t", "-p", "3"], "topic.json");
    assert_eq!((&grown["partitions"], &grown["retention_ms"]), (&3.into(), &(-1).into()));
    json(&["topic", "set-partitioner", "placed", "--built-in"], "topic.json");
    assert_eq!(json(&["topic", "list"], "topic-list.json").as_array().unwrap().len(), 2);

    let sent = run(&["produce", "t", "--key-separator", ":"], "a:1\nb:2\nc:3\n");
    let sent: Value = serde_json::from_str(&sent).unwrap();
    check("produce.json", &sent);
    assert_eq!(sent["records"], 3);
    let client = client(&broker).await;
    let producer = client.producer("t").build().await.unwrap();
    let odd = Record::new(vec![0xff]).key("k").header("h", vec![0xfe]).null_header("n");
    producer.send(odd).await.unwrap();
    let records = run(&["consume", "t", "--from-beginning", "--until-end", "--group", "g"], "");
    let records: Vec<Value> = records.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    records.iter().for_each(|record| check("consume.json", record));
    assert!(records.len() == 4 && records.iter().any(|r| r["value"]["base64"] == "/w=="), "{records:?}");

    let described = json(&["topic", "describe", "t"], "topic-describe.json");
    assert_eq!(
        (&described["partitions"][0]["leader"], &described["partitions"][0]["replicas"][0]),
        (&1.into(), &1.into())
    );
    let member = client.consumer("t").group("g").instance("one").build().await.unwrap();
    let read = tokio::time::timeout(std::time::Duration::from_secs(3), member.next()).await;
    assert!(read.is_err(), "all was read before");
    let group = json(&["group", "describe", "g"], "group-describe.json");
    assert_eq!(
        (group["members"][0]["partitions"].as_array().unwrap().len(), &group["partitions"][0]["lag"]),
        (3, &0.into())
    );
    assert_eq!(group["partitions"][0]["member"], group["members"][0]["member"]);
    assert_eq!(group["members"][0]["instance"], "one");
    json(&["group", "list"], "group-list.json");
    member.close().await.unwrap();
    drop(member);
    let leave = ["group", "reset-offsets", "g2", "--topic", "t", "--to-earliest"];
    assert_eq!(json(&[&leave[..], &["--dry-run"]].concat(), "group-reset-offsets.json")["done"], false);
    assert_eq!(json(&leave, "group-reset-offsets.json")["done"], true);
    json(&["group", "describe", "g2"], "group-describe.json");
    json(&["group", "delete", "g2"], "group-delete.json");
    json(&["topic", "delete", "placed"], "topic-delete.json");
    let status = json(&["cluster", "status"], "cluster-status.json");
    assert_eq!((&status["controller"], &status["brokers"][0]["is_alive"]), (&1.into(), &true.into()));
    json(&["cluster", "recover"], "cluster-recover.json");
    assert_eq!(json(&["partition", "elect-leader", "t"], "partition-elect-leader.json")["asked"], 0);
    let mut broker = broker;
    tokio::task::block_in_place(|| assert!(broker.stop()));
    let salvage = printed(&["partition", "salvage", "--data-dir", data.to_str().unwrap()], "");
    check("partition-salvage.json", &serde_json::from_str(&salvage).unwrap());
    let dumped = dumped(&data.join("partitions"), described["topic"]["id"].as_str().unwrap());
    dumped.iter().for_each(|line| check("partition-dump.json", &serde_json::from_str(line).unwrap()));
    assert_eq!(dumped.len(), 4);
}

#[test]
fn what_a_cluster_with_dead_brokers_prints_for_programs_is_as_its_schema_says() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), 3);
    let (address, ca) = (cluster.address(1), folder.path().join("ca.pem"));
    let connect = ["--broker", &address, "--ca", ca.to_str().unwrap()];
    let json = |arguments: &[&str], name: &str| -> Value {
        let value = serde_json::from_str(&printed(&[arguments, &connect[..]].concat(), "")).unwrap();
        check(name, &value);
        value
    };
    json(&["topic", "create", "t"], "topic.json");
    cluster.kill(3);
    std::thread::sleep(std::time::Duration::from_secs(4));
    let described = json(&["topic", "describe", "t"], "topic-describe.json");
    let followers = described["partitions"][0]["followers"].as_array().unwrap().clone();
    assert!(followers.iter().any(|f| f["lag_batches"].is_null() && f["is_active"] == false), "{described:#}");
    json(&["cluster", "status"], "cluster-status.json");
    cluster.kill(2);
    let broken = json(&["cluster", "status"], "cluster-status.json");
    assert_eq!(broken["brokers"].as_array().unwrap().len(), 3, "{broken:#}");
    cluster.kill(1);
    let config = folder.path().join("broker-1/broker.toml");
    let recovered = printed(&["cluster", "recover", "--config", config.to_str().unwrap()], "");
    let recovered: Value = serde_json::from_str(&recovered).unwrap();
    check("cluster-recover-config.json", &recovered);
    assert_eq!((&recovered["done"], &recovered["is_controller"]), (&false.into(), &true.into()));
}
