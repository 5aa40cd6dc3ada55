//! A few values that are slow to make, by what they were made for.

/// At most so many, the one used longest ago given up for another.
#[derive(Debug)]
pub struct Kept<K, V> {
    most: usize,
    /// The one used last stands last.
    values: Vec<(K, V)>,
}

impl<K: PartialEq, V> Kept<K, V> {
    /// None yet; `most` is at least 1.
    pub fn new(most: usize) -> Self {
        Self { most, values: Vec::new() }
    }

    /// The value of `key`, made if it is not there.
    ///
    /// # Errors
    /// What `make` says.
    pub fn get<E>(&mut self, key: K, make: impl FnOnce() -> Result<V, E>) -> Result<&V, E> {
        let known = self.values.iter().position(|(other, _)| *other == key);
        let value = match known {
            Some(at) => self.values.remove(at),
            None => (key, make()?),
        };
        if self.values.len() >= self.most {
            self.values.remove(0);
        }
        self.values.push(value);
        Ok(&self.values.last().expect("one was just added").1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys whose values had to be made.
    fn made(most: usize, keys: &[u32]) -> Vec<u32> {
        let (mut kept, mut made) = (Kept::new(most), Vec::new());
        for &key in keys {
            let value = kept.get(key, || {
                made.push(key);
                Ok::<_, ()>(10 * key)
            });
            assert_eq!(value, Ok(&(10 * key)));
        }
        made
    }

    #[test]
    fn what_was_used_longest_ago_is_given_up() {
        assert_eq!(made(3, &[1, 2, 3, 1, 2, 3]), [1, 2, 3]);
        assert_eq!(made(3, &[1, 2, 3, 1, 4, 1, 3, 2]), [1, 2, 3, 4, 2]);
        assert_eq!(made(1, &[1, 1, 2, 1]), [1, 2, 1]);
    }

    #[test]
    fn what_cannot_be_made_takes_no_place() {
        let mut kept = Kept::new(1);
        assert_eq!(kept.get(1, || Ok::<_, &str>("one")), Ok(&"one"));
        assert_eq!(kept.get(2, || Err("no")), Err("no"));
        assert_eq!(kept.get(1, || Err("it is there")), Ok(&"one"));
    }
}
