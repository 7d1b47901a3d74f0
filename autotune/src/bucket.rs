//! Shape buckets: ranges of sizes that one record serves. Together they cover every length, so that no new
//! sequence length needs tuning again.

use indexmap::IndexMap;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// The values of one size that a record serves, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The least.
    pub first: i64,
    /// The greatest.
    pub last: i64,
}

impl Extent {
    /// One value.
    pub fn exactly(value: i64) -> Extent {
        Extent { first: value, last: value }
    }

    /// The bucket of a length: above a power of two and up to the next one.
    pub fn around(value: i64) -> Extent {
        let Some(last) = u64::try_from(value).ok().and_then(u64::checked_next_power_of_two) else {
            return Extent::exactly(value);
        };
        let last = i64::try_from(last).unwrap_or(i64::MAX);
        match last {
            0 | 1 => Extent::exactly(value),
            last => Extent { first: last / 2 + 1, last },
        }
    }

    /// Whether it holds a value.
    pub fn contains(&self, value: i64) -> bool {
        (self.first..=self.last).contains(&value)
    }
}

/// A bucket: an extent for each size it restricts; a size it does not name may be anything.
pub type Bucket = IndexMap<String, Extent>;

/// The bucket of a problem: of each size its name, whether every value is tuned apart, and the value. Sizes tuned
/// in ranges go up to the next power of two.
pub fn bucket_of<'a>(sizes: impl IntoIterator<Item = (&'a str, bool, i64)>) -> Bucket {
    let extent = |exact, value| if exact { Extent::exactly(value) } else { Extent::around(value) };
    sizes.into_iter().map(|(name, exact, value)| (name.to_owned(), extent(exact, value))).collect()
}

/// Whether a bucket holds a problem.
pub fn holds(bucket: &Bucket, sizes: &IndexMap<String, i64>) -> bool {
    bucket.iter().all(|(name, extent)| sizes.get(name).is_some_and(|&v| extent.contains(v)))
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return write!(f, "{}", self.first);
        }
        write!(f, "[{}, {}]", self.first, self.last)
    }
}

impl Serialize for Extent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.first == self.last {
            return serializer.serialize_i64(self.first);
        }
        [self.first, self.last].serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Extent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ExtentVisitor;
        impl<'de> Visitor<'de> for ExtentVisitor {
            type Value = Extent;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number or [first, last]")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Extent, E> {
                Ok(Extent::exactly(value))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Extent, E> {
                i64::try_from(value).map(Extent::exactly).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Extent, A::Error> {
                let first = seq.next_element()?.ok_or_else(|| de::Error::invalid_length(0, &self))?;
                let last = seq.next_element()?.ok_or_else(|| de::Error::invalid_length(1, &self))?;
                if seq.next_element::<i64>()?.is_some() {
                    return Err(de::Error::invalid_length(3, &self));
                }
                Ok(Extent { first, last })
            }
        }
        deserializer.deserialize_any(ExtentVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_every_length_once() {
        let mut last = 0;
        for value in 1..5000 {
            let bucket = Extent::around(value);
            assert!(bucket.contains(value), "{value}: {bucket}");
            assert!(bucket.first == last + 1 || bucket.last == last, "{value}: {bucket} after {last}");
            last = bucket.last;
        }
        assert!(Extent::around(i64::MAX).contains(i64::MAX));
        assert!(Extent::around(0).contains(0) && Extent::around(-3).contains(-3));
    }

    #[test]
    fn the_ends_of_a_bucket() {
        assert_eq!(Extent::around(4096), Extent { first: 2049, last: 4096 });
        assert_eq!(Extent::around(4097), Extent { first: 4097, last: 8192 });
        assert_eq!(Extent::around(1), Extent::exactly(1));
    }
}
