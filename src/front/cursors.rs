//! Cursors of lists, which clients pass from one page to the next.
//!
//! A page ends at the last row that was examined, which the client may not be allowed to see. Therefore the
//! position is sealed for its list and tenant: it reveals no id, and opens nowhere else.

use keyring::{CursorScope, Cursors, Listing};

use domain::principal::Principal;
use edge::problem::Problem;
use edge::query;

/// The cursors of one list, for one tenant.
#[derive(Debug)]
pub(super) struct PageCursors<'a> {
    cursors: &'a Cursors,
    scope: CursorScope,
    /// Prefix of the list's cursors, so that people can tell them apart.
    name: &'static str,
}

impl<'a> PageCursors<'a> {
    pub(super) fn in_uploads(cursors: &'a Cursors, principal: &Principal) -> Self {
        Self::of(cursors, principal, Listing::Uploads, "uploads")
    }

    pub(super) fn in_deliveries(cursors: &'a Cursors, principal: &Principal) -> Self {
        Self::of(cursors, principal, Listing::Deliveries, "deliveries")
    }

    pub(super) fn in_hook_calls(cursors: &'a Cursors, principal: &Principal) -> Self {
        Self::of(cursors, principal, Listing::HookCalls, "calls")
    }

    fn of(cursors: &'a Cursors, principal: &Principal, listing: Listing, name: &'static str) -> Self {
        Self { cursors, scope: CursorScope { tenant: principal.tenant, listing }, name }
    }

    /// Returns the cursor for the end of a page, at which the next page begins.
    pub(super) fn cursor(&self, last: &[u8; 16]) -> String {
        format!("{}_{}", self.name, self.cursors.seal(self.scope, last))
    }

    /// Opens a cursor made by [`cursor`](Self::cursor) for the same list and tenant.
    pub(super) fn open(&self, value: &str) -> Result<[u8; 16], Problem> {
        let sealed = value.strip_prefix(self.name).and_then(|rest| rest.strip_prefix('_'));
        let open = sealed.and_then(|sealed| self.cursors.open(self.scope, sealed));
        let open = open.and_then(|open| open.try_into().ok());
        open.ok_or_else(|| query::bad("cursor", value, "it must be the `next` of a page of this list"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use domain::id::UploadId;
    use domain::principal::TenantId;
    use domain::time::Timestamp;
    use keyring::ServerKeys;

    #[test]
    fn a_cursor_is_of_one_list_and_one_tenant_and_tells_no_id() {
        let (cursors, own) = (Cursors::new(&ServerKeys::generate([7; 32], [7; 4])), Principal::server());
        let id = UploadId::new(Timestamp::from_unix_ms(1_795_300_290_123), [3; 10]);
        let page_cursors = PageCursors::in_uploads(&cursors, &own);
        let cursor = page_cursors.cursor(id.as_bytes());
        assert_eq!(page_cursors.open(&cursor).ok().as_ref(), Some(id.as_bytes()));
        assert!(cursor.starts_with("uploads_"), "{cursor}");

        let other = Principal { tenant: TenantId::from_number(1), ..Principal::server() };
        assert!(PageCursors::in_uploads(&cursors, &other).open(&cursor).is_err(), "another tenant's");
        let sealed = cursor.trim_start_matches("uploads_");
        let in_another_list = PageCursors::in_deliveries(&cursors, &own).open(&format!("deliveries_{sealed}"));
        assert!(in_another_list.is_err(), "with any prefix");
        for wrong in [&format!("uploads_{id}"), &format!("deliveries_{sealed}"), sealed, "uploads_", "7", ""] {
            assert!(page_cursors.open(wrong).is_err(), "{wrong}");
        }
    }
}
