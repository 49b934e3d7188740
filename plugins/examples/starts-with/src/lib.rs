//! A filter: records whose value starts with the config. The smallest useful filter, and the one that `bench` measures
//! the cost of a call with.

use thalweg_guest::{Filter, Record, Verdict, filter};

struct StartsWith {
    prefix: Vec<u8>,
}

impl Filter for StartsWith {
    fn init(config: &[u8]) -> Result<Self, String> {
        Ok(StartsWith { prefix: config.to_vec() })
    }

    fn filter(&self, record: &Record<'_>) -> Verdict {
        match record.value.unwrap_or_default().starts_with(&self.prefix) {
            true => Verdict::Keep,
            false => Verdict::Drop,
        }
    }
}

filter!(StartsWith);
