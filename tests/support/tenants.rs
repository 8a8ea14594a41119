//! The tenants of all tests.

use simulator::TenantSpec;
use uuid::Uuid;

/// Calls per minute and hour that no test reaches.
pub(crate) const PLENTY: u32 = 1_000_000;

pub(crate) fn id(number: u128) -> Uuid {
    Uuid::from_u128(0xaaaa_0000_0000_4000_8000_0000_0000_0000 + number)
}

/// A healthy tenant that neither our quota nor the service's slows down.
pub(crate) fn spec(number: u128, incidents: usize) -> TenantSpec {
    let spec = TenantSpec::new(id(number), &format!("tenant-{number}"));
    TenantSpec {
        incidents,
        calls_per_minute: PLENTY,
        calls_per_hour: PLENTY,
        graph_calls_per_minute: PLENTY,
        ..spec
    }
}
