//! Reports panics in any task of a run as findings.

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::sync::Once;

thread_local! {
    static CAUGHT: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Does `work`, and returns the panics of this thread during it.
pub fn catch(work: impl FnOnce()) -> Vec<String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let is_caught = CAUGHT.with_borrow_mut(|caught| match caught {
                Some(caught) => {
                    caught.push(panic.to_string());
                    true
                }
                None => false,
            });
            if !is_caught {
                usual(panic);
            }
        }));
    });
    CAUGHT.set(Some(Vec::new()));
    // The panics are in `CAUGHT`, and their remains are dropped with the run.
    let _ = std::panic::catch_unwind(AssertUnwindSafe(work));
    CAUGHT.take().unwrap_or_default()
}
