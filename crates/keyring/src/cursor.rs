//! Places in the log of events and in lists, sealed, so that they say nothing to those who carry them.
//!
//! A place in the log counts what all uploads of a server have done, so a plain one would tell every reader
//! how busy the others are; a place in a list may be the id of a row of another tenant. A sealed one tells
//! nothing, not even which of two is later, and it opens only for the listing and the tenant it was made for.
//! The same place always gives the same text: a client may compare two ids for equality.
//!
//! The form is that of a synthetic initialization vector (RFC 5297 does the same with AES): a code over all
//! that the cursor is bound to and the place, and the place masked with what a second key makes of that code.
//! Whoever opens it unmasks the place and makes the code again.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::id::UploadId;
use domain::principal::TenantId;
use subtle::ConstantTimeEq;

use crate::{DerivedKey, DerivedKeys, ServerKeys};

const CODE_PURPOSE: &str = "longshore event cursors v1, code";
const MASK_PURPOSE: &str = "longshore event cursors v1, mask";

/// A forged one is right once in 2^80 tries, and two places have one code as seldom.
const CODE_BYTES: usize = 10;

/// The longest place, in bytes: what one mask covers.
const MAX_POSITION_BYTES: usize = 32;

/// What seals places and opens them again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursors {
    codes: DerivedKeys,
    masks: DerivedKeys,
}

/// What a cursor is a place in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CursorScope {
    pub tenant: TenantId,
    pub listing: Listing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// The events of one upload.
    EventsOf(UploadId),
    /// The events of all.
    Events,
    Uploads,
    Deliveries,
    HookCalls,
}

impl Cursors {
    pub fn new(keys: &ServerKeys) -> Self {
        Self { codes: keys.derive(CODE_PURPOSE), masks: keys.derive(MASK_PURPOSE) }
    }

    /// Seals a place of at most 32 bytes.
    pub fn seal(&self, scope: CursorScope, position: &[u8]) -> String {
        debug_assert!(position.len() <= MAX_POSITION_BYTES, "a place fits under one mask");
        let code = code(self.codes.newest(), scope, position);
        let mut sealed = code.to_vec();
        sealed.extend(masked(self.masks.newest(), &code, position));
        URL_SAFE_NO_PAD.encode(sealed)
    }

    /// Returns the place, if the text was sealed for this scope under any of the keys.
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

/// The code over a place and all it is bound to. What stands before the place has one length for each kind of
/// listing, so no two of them read the same.
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

/// Masks a place, or unmasks it.
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

    /// Clients keep ids over updates, so their form may not change by accident. The value is what
    /// `tests/faults/event_ids.mjs` makes.
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

    /// The mask hides the place even where places differ in one bit, and their order.
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
