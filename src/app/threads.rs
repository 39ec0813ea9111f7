//! How urgent threads are.

use std::sync::Once;

use rustix::process::setpriority_process;
use rustix::thread::gettid;

/// Lets other threads go before the one that calls this: 0 changes nothing, 19 is the most. Threads it starts
/// afterwards inherit it.
///
/// On Linux the priority of a "process" is that of one thread when it is named by a thread's id. Where it cannot be
/// lowered everything works all the same, only less politely.
pub fn lower_this_thread(niceness: u8) {
    static TOLD: Once = Once::new();
    if let Err(error) = setpriority_process(Some(gettid()), niceness.into()) {
        TOLD.call_once(|| tracing::debug!(error = %error, "could not lower the priority of a thread"));
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::getpriority_process;

    use super::*;

    #[test]
    fn one_thread_and_those_it_starts_are_lowered_and_no_others() {
        let own = || getpriority_process(Some(gettid())).unwrap();
        let before = own();
        let lowered = std::thread::spawn(move || {
            lower_this_thread(15);
            (own(), std::thread::spawn(own).join().unwrap())
        });
        assert_eq!(lowered.join().unwrap(), (15, 15));
        assert_eq!(own(), before);
    }
}
