//! A bounded map whose values are made once, by whoever asks first, while others wait.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// See the module. The value used longest ago makes room for a new one; an error is told to all that wait for it,
/// and is not kept.
pub(super) struct OnceMap<K, V, E> {
    capacity: usize,
    state: Mutex<State<K, V, E>>,
}

struct State<K, V, E> {
    entries: HashMap<K, Entry<V, E>>,
    clock: u64,
}

struct Entry<V, E> {
    cell: Arc<OnceLock<Result<V, E>>>,
    used: u64,
}

impl<K: Clone + Eq + Hash, V: Clone, E: Clone> OnceMap<K, V, E> {
    pub fn new(capacity: usize) -> Self {
        OnceMap { capacity, state: Mutex::new(State { entries: HashMap::new(), clock: 0 }) }
    }

    /// The value of a key; `make` makes it, unless it is there or another thread is making it.
    pub fn get_or_make(&self, key: &K, make: impl FnOnce() -> Result<V, E>) -> Result<V, E> {
        let (cell, _evicted) = self.cell(key);
        let made = cell.get_or_init(make).clone();
        if made.is_err() {
            let mut state = self.state();
            if state.entries.get(key).is_some_and(|entry| Arc::ptr_eq(&entry.cell, &cell)) {
                state.entries.remove(key);
            }
        }
        made
    }

    /// How many values there are or are being made.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.state().entries.len()
    }

    fn state(&self) -> MutexGuard<'_, State<K, V, E>> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The place of a key's value, and what made room for it: to be dropped without the lock, since dropping a
    /// value may take long.
    #[expect(clippy::type_complexity, reason = "named nowhere else")]
    fn cell(&self, key: &K) -> (Arc<OnceLock<Result<V, E>>>, Option<Entry<V, E>>) {
        let mut state = self.state();
        state.clock += 1;
        let now = state.clock;
        if let Some(entry) = state.entries.get_mut(key) {
            entry.used = now;
            return (entry.cell.clone(), None);
        }
        let evicted = (state.entries.len() >= self.capacity).then(|| {
            let done = state.entries.iter().filter(|(_, entry)| entry.cell.get().is_some());
            let oldest = done.min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone())?;
            state.entries.remove(&oldest)
        });
        let cell = Arc::<OnceLock<_>>::default();
        state.entries.insert(key.clone(), Entry { cell: cell.clone(), used: now });
        (cell, evicted.flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn threads_share_one_making() {
        let (map, made) = (OnceMap::<u32, u32, ()>::new(8), AtomicUsize::new(0));
        let start = Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    let value = map.get_or_make(&1, || {
                        made.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(std::time::Duration::from_millis(20));
                        Ok(7)
                    });
                    assert_eq!(value, Ok(7));
                });
            }
        });
        assert_eq!(made.into_inner(), 1);
    }

    #[test]
    fn errors_are_not_kept() {
        let map = OnceMap::<u32, u32, &str>::new(8);
        assert_eq!(map.get_or_make(&1, || Err("no")), Err("no"));
        assert_eq!(map.len(), 0);
        assert_eq!(map.get_or_make(&1, || Ok(1)), Ok(1));
        assert_eq!(map.get_or_make(&1, || Err("not asked")), Ok(1));
    }

    #[test]
    fn a_panic_leaves_the_place_to_the_next() {
        let map = OnceMap::<u32, u32, ()>::new(8);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = map.get_or_make(&1, || panic!("compiler bug"));
        }));
        assert!(panicked.is_err());
        assert_eq!(map.get_or_make(&1, || Ok(5)), Ok(5));
    }

    #[test]
    fn the_value_used_longest_ago_goes_and_is_dropped() {
        let map = OnceMap::<u32, Arc<u32>, ()>::new(2);
        let make = |n: u32| move || Ok(Arc::new(n));
        let (one, two) = (map.get_or_make(&1, make(1)).unwrap(), map.get_or_make(&2, make(2)).unwrap());
        map.get_or_make(&1, || unreachable!("it is there")).unwrap();
        map.get_or_make(&3, make(3)).unwrap();
        assert_eq!(map.len(), 2);
        assert_eq!((Arc::strong_count(&one), Arc::strong_count(&two)), (2, 1));
        let again = map.get_or_make(&2, make(20)).unwrap();
        assert_eq!(*again, 20);
    }
}
