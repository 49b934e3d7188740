//! A filter: flights that left more than `minutes` late (60, unless the config is another number).
//!
//! Looks at the JSON value's top-level number `dep_delay`. Null (a cancelled flight) is dropped; a value that does not
//! parse fails.

use thalweg_guest::{Filter, Record, Scalar, Verdict, filter, top_level};

struct Late {
    minutes: f64,
}

impl Filter for Late {
    fn init(config: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(config).map_err(|e| e.to_string())?.trim();
        match text {
            "" => Ok(Late { minutes: 60.0 }),
            _ => match text.parse() {
                Ok(minutes) => Ok(Late { minutes }),
                Err(_) => Err(format!("a number of minutes is expected, not {text:?}")),
            },
        }
    }

    fn filter(&self, record: &Record<'_>) -> Verdict {
        match top_level(record.value.unwrap_or_default(), "dep_delay") {
            Ok(Some(Scalar::Number(delay))) if delay > self.minutes => Verdict::Keep,
            Ok(Some(Scalar::Number(_) | Scalar::Null)) => Verdict::Drop,
            _ => Verdict::Failed,
        }
    }
}

filter!(Late);
