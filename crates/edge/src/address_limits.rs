//! Limits on the number of concurrent uses by the clients of one address.
//!
//! The limit applies to an IPv4 address, or to an IPv6 /64, which is what one customer typically has. This
//! machine is not limited, because a proxy on it acts for many clients. The count of an address is removed
//! when it reaches zero.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

use crate::lock::lock;

/// A limit for each address. Clones share their counts.
#[derive(Debug, Clone)]
pub struct AddressLimit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `None`: there is no limit.
    limit: Option<usize>,
    held: Mutex<HashMap<IpAddr, usize>>,
}

/// A slot of an address, released when dropped.
#[derive(Debug, Default)]
pub struct AddressSlot(Option<(Arc<Inner>, IpAddr)>);

/// The limit of the address is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitReached;

impl AddressLimit {
    pub fn new(limit: Option<usize>) -> Self {
        Self(Arc::new(Inner { limit, held: Mutex::default() }))
    }

    /// Takes a slot for a client. A client whose address is unknown is not limited.
    pub fn take(&self, client: Option<IpAddr>) -> Result<AddressSlot, LimitReached> {
        let (Some(limit), Some(holder)) = (self.0.limit, client.and_then(holder)) else {
            return Ok(AddressSlot::default());
        };
        let mut held = self.0.lock();
        let count = held.entry(holder).or_default();
        if *count >= limit {
            return Err(LimitReached);
        }
        *count += 1;
        Ok(AddressSlot(Some((Arc::clone(&self.0), holder))))
    }

    /// Returns the number of slots of one address.
    pub fn limit(&self) -> Option<usize> {
        self.0.limit
    }
}

/// Returns the address that a client's slots are counted for; `None` for this machine.
fn holder(client: IpAddr) -> Option<IpAddr> {
    match client.to_canonical() {
        address if address.is_loopback() => None,
        IpAddr::V6(address) => Some(IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))),
        address @ IpAddr::V4(_) => Some(address),
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        lock(&self.held)
    }
}

impl Drop for AddressSlot {
    fn drop(&mut self) {
        let Some((limit, holder)) = self.0.take() else { return };
        let mut held = limit.lock();
        if let Some(count) = held.get_mut(&holder) {
            *count -= 1;
            if *count == 0 {
                held.remove(&holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn each_address_has_its_share_and_nothing_is_remembered_of_those_that_hold_nothing() {
        let limit = AddressLimit::new(Some(2));
        let first = limit.take(address("192.0.2.1")).unwrap();
        let second = limit.clone().take(address("::ffff:192.0.2.1")).unwrap();
        assert_eq!(limit.take(address("192.0.2.1")).unwrap_err(), LimitReached);
        let _other = limit.take(address("192.0.2.2")).unwrap();
        drop(first);
        let third = limit.take(address("192.0.2.1")).unwrap();
        drop((second, third));
        assert_eq!(limit.0.lock().len(), 1, "that of the other is left");
        let near = limit.take(address("2001:db8::1")).unwrap();
        let far = limit.take(address("2001:db8::ffff:1")).unwrap();
        assert!(limit.take(address("2001:db8::2")).is_err(), "they are in one /64");
        assert!(limit.take(address("2001:db8:0:1::2")).is_ok());
        drop((near, far));
    }

    #[test]
    fn this_machine_has_no_share_and_none_has_without_a_limit() {
        let parts = |limit: &AddressLimit, text| {
            (0..10).filter(|_| limit.take(address(text)).map(std::mem::forget).is_ok()).count()
        };
        for (limit, client, expected) in [
            (Some(1), "127.0.0.9", 10),
            (Some(1), "::1", 10),
            (Some(1), "::ffff:127.0.0.1", 10),
            (Some(1), "10.0.0.1", 1),
            (None, "10.0.0.1", 10),
        ] {
            assert_eq!(parts(&AddressLimit::new(limit), client), expected, "{limit:?} {client}");
        }
        assert!(AddressLimit::new(Some(0)).take(None).is_ok(), "a client without an address has no limit");
    }
}
