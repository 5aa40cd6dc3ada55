//! Who of this process uses a device, and what they must not do at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// One of a device's users, as long as it lives.
#[derive(Debug)]
pub(super) struct User(Arc<()>);

/// Those of each device, by its number.
static USERS: Mutex<BTreeMap<usize, Weak<()>>> = Mutex::new(BTreeMap::new());

/// Held by [`alone`].
static ALONE: Mutex<()> = Mutex::new(());

/// Nobody else of this process who asks for it has it: who records launches, and who waits for all that a device does. The
/// driver gives up a recording while which somebody waits so, whichever thread or stream it is of.
pub(super) fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl User {
    /// One more user of `device`.
    pub fn of(device: usize) -> Self {
        // What is half done cannot be seen: one value is replaced.
        let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        let users = users.entry(device).or_default();
        let user = users.upgrade().unwrap_or_default();
        *users = Arc::downgrade(&user);
        Self(user)
    }

    /// Whether there are others.
    pub fn is_one_of_several(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_a_device_know_of_each_other() {
        // No device has such a number.
        let (device, other) = (usize::MAX, usize::MAX - 1);
        let first = User::of(device);
        let elsewhere = User::of(other);
        assert!(!first.is_one_of_several() && !elsewhere.is_one_of_several());
        let second = User::of(device);
        assert!(first.is_one_of_several() && second.is_one_of_several() && !elsewhere.is_one_of_several());
        drop(first);
        assert!(!second.is_one_of_several());
        drop(second);
        assert!(!User::of(device).is_one_of_several());
    }
}
