//! Cursors: positions in the event log and in lists, sealed so that they reveal nothing to their holders.
//!
//! A position in the log counts the activity of all uploads on a server, so a plain position would reveal how
//! busy other clients are; a position in a list may be the id of another tenant's row. A sealed position
//! reveals nothing, not even which of two is later, and opens only for the listing and the tenant that it was
//! made for. Sealing is deterministic: clients may compare two ids for equality.
//!
//! The construction uses a synthetic initialization vector (as RFC 5297 does with AES): a code authenticates
//! the position and everything that the cursor is bound to, and the position is masked with a stream that a
//! second key derives from that code. Opening unmasks the position and recomputes the code.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::id::UploadId;
use domain::principal::TenantId;
use subtle::ConstantTimeEq;

use crate::{DerivedKey, DerivedKeys, ServerKeys};

const CODE_PURPOSE: &str = "longshore event cursors v1, code";
const MASK_PURPOSE: &str = "longshore event cursors v1, mask";

/// Length of the code. A forgery succeeds once in 2^80 attempts, and two positions share a code as rarely.
const CODE_BYTES: usize = 10;

/// Maximum length of a position, in bytes: the length of one mask.
const MAX_POSITION_BYTES: usize = 32;

/// The keys that seal and open positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursors {
    codes: DerivedKeys,
    masks: DerivedKeys,
}

/// The listing and the tenant that a cursor is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CursorScope {
    pub tenant: TenantId,
    pub listing: Listing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// The events of one upload.
    EventsOf(UploadId),
    /// The events of all uploads.
    Events,
    Uploads,
    Deliveries,
    HookCalls,
}

impl Cursors {
    pub fn new(keys: &ServerKeys) -> Self {
        Self { codes: keys.derive(CODE_PURPOSE), masks: keys.derive(MASK_PURPOSE) }
    }

    /// Seals a position of at most 32 bytes.
    pub fn seal(&self, scope: CursorScope, position: &[u8]) -> String {
        debug_assert!(position.len() <= MAX_POSITION_BYTES, "a place fits under one mask");
        let code = code(self.codes.newest(), scope, position);
        let mut sealed = code.to_vec();
        sealed.extend(masked(self.masks.newest(), &code, position));
        URL_SAFE_NO_PAD.encode(sealed)
    }

    /// Returns the position if the text was sealed for this scope under any of the keys.
    pub fn open(&self, scope: CursorScope, text: &str) -> Option<Vec<u8>> {
        let sealed = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (given, position) = sealed.split_first_chunk::<CODE_BYTES>()?;
        if position.len() > MAX_POSITION_BYTES {
            return None;
        }
        self.codes.iter().zip(self.masks.iter()).find_map(|(coding, masking)| {
            let position = masked(masking, given, position);
            bool::from(code(coding, scope, &position).ct_eq(given)).then_some(position)
        })
    }
}

/// Returns the code over a position and everything that it is bound to. The prefix before the position has a
/// fixed length for each kind of listing, so no two inputs are equal.
fn code(key: &DerivedKey, scope: CursorScope, position: &[u8]) -> [u8; CODE_BYTES] {
    let mut text = Vec::with_capacity(64);
    match scope.listing {
        Listing::EventsOf(id) => {
            text.push(1);
            text.extend(id.as_bytes());
        }
        Listing::Events => text.push(2),
        Listing::Uploads => text.push(3),
        Listing::Deliveries => text.push(4),
        Listing::HookCalls => text.push(5),
    }
    text.extend(scope.tenant.number().to_be_bytes());
    text.extend(position);
    let mut code = [0; CODE_BYTES];
    code.copy_from_slice(&key.mac(&text)[..CODE_BYTES]);
    code
}

/// Masks or unmasks a position.
fn masked(key: &DerivedKey, code: &[u8; CODE_BYTES], position: &[u8]) -> Vec<u8> {
    position.iter().zip(key.mac(code)).map(|(byte, mask)| byte ^ mask).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    use domain::time::Timestamp;

    fn cursors(byte: u8) -> Cursors {
        Cursors::new(&ServerKeys::generate([byte; 32], [byte; 4]))
    }

    fn upload(byte: u8) -> Listing {
        Listing::EventsOf(UploadId::new(Timestamp::from_unix_ms(1), [byte; 10]))
    }

    fn own(listing: Listing) -> CursorScope {
        CursorScope { tenant: TenantId::DEFAULT, listing }
    }

    #[test]
    fn a_cursor_opens_for_the_listing_and_the_tenant_it_was_made_for() {
        let cursors = cursors(1);
        let made_for = own(upload(1));
        let sealed = cursors.seal(made_for, &7_u64.to_be_bytes());
        assert_eq!(cursors.open(made_for, &sealed), Some(7_u64.to_be_bytes().to_vec()));
        assert_eq!(cursors.seal(made_for, &7_u64.to_be_bytes()), sealed, "one place has one cursor");
        let of_another = CursorScope { tenant: TenantId::from_number(1), ..made_for };
        for other in [own(upload(2)), own(Listing::Events), own(Listing::Uploads), of_another] {
            assert_eq!(cursors.open(other, &sealed), None, "{other:?}");
        }
        assert_eq!(self::cursors(2).open(made_for, &sealed), None, "another server");
    }

    /// Clients keep ids across server updates, so the form must not change by accident. The expected value is
    /// computed by `tests/faults/event_ids.mjs`.
    #[test]
    fn the_form_of_a_cursor_stays() {
        let sealed = cursors(1).seal(own(upload(1)), &7_u64.to_be_bytes());
        assert_eq!(sealed, "wlC4A4IjnyADIEMf12pnwvgy");
    }

    #[test]
    fn what_was_not_sealed_does_not_open() {
        let cursors = cursors(1);
        let all = own(Listing::Events);
        let sealed = cursors.seal(all, &[0; 8]);
        assert!(sealed.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "it fits into a URL");
        for text in ["", "0", "17", "-1", "99999999999999999999", "x y", &"A".repeat(24), &"A".repeat(400)] {
            assert_eq!(cursors.open(all, text), None, "{text}");
        }
        for at in 0..sealed.len() {
            let mut changed = sealed.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(cursors.open(all, std::str::from_utf8(&changed).unwrap()), None, "byte {at}");
            assert_eq!(cursors.open(all, &sealed[..at]), None, "cut at {at}");
        }
    }

    /// The mask hides the position even if two positions differ in one bit, and hides their order.
    #[test]
    fn cursors_of_neighbours_have_nothing_in_common() {
        let cursors = cursors(1);
        let sealed: Vec<Vec<u8>> = (0..1_000_u64)
            .map(|position| cursors.seal(own(Listing::Events), &position.to_be_bytes()))
            .map(|text| URL_SAFE_NO_PAD.decode(text).unwrap())
            .collect();
        for at in 0..CODE_BYTES + 8 {
            let seen: HashSet<u8> = sealed.iter().map(|cursor| cursor[at]).collect();
            assert!(seen.len() > 200, "byte {at} has only {} values", seen.len());
        }
        assert!(!sealed.is_sorted());
    }

    #[test]
    fn cursors_outlive_a_change_of_keys_until_the_old_one_goes() {
        let (old, new) = (ServerKeys::generate([1; 32], [1; 4]), ServerKeys::generate([2; 32], [2; 4]));
        let all = own(Listing::Events);
        let sealed = Cursors::new(&old).seal(all, b"place");
        let both = Cursors::new(&ServerKeys::parse(&(new.to_text() + &old.to_text())).unwrap());
        assert_eq!(both.open(all, &sealed).as_deref(), Some(&b"place"[..]));
        assert_ne!(both.seal(all, b"place"), sealed);
        assert_eq!(Cursors::new(&new).open(all, &sealed), None);
    }
}
