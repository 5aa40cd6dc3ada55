//! Who of this process uses a device. Their steps take turns: threadgroups of one launch wait for each other, and of two steps at
//! once each could have processors that the other's need (docs/cuda.md, "Two models on one device").

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::CudaEvent;

/// One of a device's users, as long as it lives.
#[derive(Debug)]
pub(super) struct User(Arc<Mutex<Turns>>);

/// What users of a device share.
#[derive(Debug, Default)]
pub(super) struct Turns {
    n_users: usize,
    /// When the last turn is over, if others may still have to wait for that.
    pub end: Option<Arc<CudaEvent>>,
}

/// Those of each device, by its number.
static DEVICES: Mutex<BTreeMap<usize, Arc<Mutex<Turns>>>> = Mutex::new(BTreeMap::new());

impl User {
    /// One more user of `device`, and what `open` gives, which waits for all turns before: of who was alone nobody knows when
    /// they are over. Meanwhile nobody has a turn, nor records launches, which the driver gives up while somebody waits so.
    ///
    /// # Errors
    /// What `open` says.
    pub fn open<T, E>(device: usize, open: impl FnOnce() -> Result<T, E>) -> Result<(Self, T), E> {
        let user = Self(lock(&DEVICES).entry(device).or_default().clone());
        let mut turns = user.turns();
        turns.n_users += 1;
        let opened = open();
        drop(turns);
        Ok((user, opened?))
    }

    /// This user's turn, until it is dropped.
    pub fn turns(&self) -> MutexGuard<'_, Turns> {
        lock(&self.0)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let mut turns = self.turns();
        turns.n_users -= 1;
        if turns.n_users == 0 {
            // Who comes next waits for the device, which events keep in use.
            turns.end = None;
        }
    }
}

impl Turns {
    /// Whether there are other users.
    pub fn has_others(&self) -> bool {
        self.n_users > 1
    }
}

/// Whoever panicked: values are replaced one at a time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_a_device_know_of_each_other() {
        // No device has such a number.
        let (device, other) = (usize::MAX, usize::MAX - 1);
        let open = |device| User::open(device, || Ok::<_, ()>(())).unwrap().0;
        let has_others = |user: &User| user.turns().has_others();
        let first = open(device);
        let elsewhere = open(other);
        assert!(!has_others(&first) && !has_others(&elsewhere));
        let second = open(device);
        assert!(has_others(&first) && has_others(&second) && !has_others(&elsewhere));
        assert_eq!(User::open(device, || Err::<(), _>("no memory")).unwrap_err(), "no memory");
        drop(first);
        assert!(!has_others(&second));
        drop(second);
        assert!(!has_others(&open(device)));
    }
}
