//! A partitioner: each tenant has partitions of its own, and within them a key keeps its place.
//!
//! The config names them, first to last: `acme=0-1,globex=2`. The tenant is the record's header `tenant`. A record of
//! an unknown tenant cannot be placed: the send fails.

use thalweg_guest::{Partitioner, Record, murmur2, partitioner};

struct Tenant {
    name: String,
    first: u32,
    last: u32,
}

struct ByTenant {
    tenants: Vec<Tenant>,
}

impl Partitioner for ByTenant {
    fn init(config: &[u8]) -> Result<Self, String> {
        let config = std::str::from_utf8(config).map_err(|e| e.to_string())?;
        let number = |text: &str| text.parse::<u32>().map_err(|e| format!("{text:?}: {e}"));
        let tenant = |part: &str| {
            let no_tenant = || format!("{part:?} is not TENANT=FIRST or TENANT=FIRST-LAST");
            let (name, range) = part.split_once('=').ok_or_else(no_tenant)?;
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (number(first)?, number(last)?);
            match first <= last {
                true => Ok(Tenant { name: name.to_owned(), first, last }),
                false => Err(format!("{part:?} ends before it begins")),
            }
        };
        Ok(ByTenant { tenants: config.split(',').map(tenant).collect::<Result<_, _>>()? })
    }

    fn partition(&self, record: &Record<'_>, partitions: u32) -> u32 {
        let name = record.headers().find(|(key, _)| *key == "tenant").and_then(|(_, value)| value);
        let name = name.expect("a header \"tenant\"");
        let tenant = self.tenants.iter().find(|t| t.name.as_bytes() == name).expect("a tenant of the config");
        assert!(tenant.last < partitions, "the topic has the tenant's partitions");
        let place = murmur2(record.key.unwrap_or_default()) & 0x7fff_ffff;
        tenant.first + place % (tenant.last - tenant.first + 1)
    }
}

partitioner!(ByTenant);
