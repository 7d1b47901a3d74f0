//! NVFP4: 4-bit elements in groups of 16 along a row, an 8-bit scale a group, and where the scales lie.

use tile::contract::{ContractError, Draws, Problem};

/// Elements that share a scale.
pub(crate) const GROUP: usize = 16;

/// Shapes of the scales, for messages.
pub(crate) const SCALES_SHAPE: &str =
    "[1, 1, N, K / 16], or with scales_128x4 [ceil(N / 128), ceil(K / 64), 32, 16]";

/// Shape of the scales of `[rows, columns]` elements: row by row, or in blocks of 128 rows by 4 scales, padded to
/// whole blocks.
pub(crate) fn scales_shape(rows: usize, columns: usize, swizzled: bool) -> Vec<usize> {
    if swizzled {
        vec![rows.div_ceil(128), columns.div_ceil(4 * GROUP), 32, 16]
    } else {
        vec![1, 1, rows, columns / GROUP]
    }
}

/// Where the scale of group `group` of row `row` lies.
///
/// Source: cuBLAS documentation, "1D Block Scaling Factors Layout".
pub(crate) fn scale_offset(row: usize, group: usize, columns: usize, swizzled: bool) -> usize {
    if !swizzled {
        return row * (columns / GROUP) + group;
    }
    let block = row / 128 * columns.div_ceil(4 * GROUP) + group / 4;
    block * 512 + row % 32 * 16 + row % 128 / 32 * 4 + group % 4
}

/// A size is a multiple of a group.
pub(crate) fn whole_groups(problem: &Problem, name: &str) -> Result<(), ContractError> {
    let value = problem.sizes[name];
    if value % GROUP as i64 == 0 {
        return Ok(());
    }
    let reason = format!("it is a multiple of {GROUP}, the elements of a scale");
    Err(ContractError::Size { name: name.to_owned(), value, reason })
}

/// The magnitudes of a small float format, for references: the nearest is found by search.
pub(crate) struct Magnitudes(Vec<f32>);

impl Magnitudes {
    /// f8E4M3FN: 3 bits of mantissa, exponents from -6 on, 448 the largest.
    pub(crate) fn e4m3() -> Magnitudes {
        let normal = |code: i32| (1.0 + (code % 8) as f32 / 8.0) * f32::exp2((code / 8 - 7) as f32);
        let subnormal = |code: i32| code as f32 / 512.0;
        Magnitudes((0..127).map(|code| if code < 8 { subnormal(code) } else { normal(code) }).collect())
    }

    /// f4E2M1FN.
    pub(crate) fn e2m1() -> Magnitudes {
        Magnitudes(vec![0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    }

    /// The nearest value, of two as near the one of even code; the largest magnitude at most. NaN stays.
    pub(crate) fn nearest(&self, value: f32) -> f32 {
        if value.is_nan() {
            return value;
        }
        let magnitude = f64::from(value.abs().min(self.0[self.0.len() - 1]));
        let distance = |code: usize| (f64::from(self.0[code]) - magnitude).abs();
        let better = |a: usize, b: usize| match distance(a).total_cmp(&distance(b)) {
            std::cmp::Ordering::Less => a,
            std::cmp::Ordering::Greater => b,
            std::cmp::Ordering::Equal => {
                if a.is_multiple_of(2) {
                    a
                } else {
                    b
                }
            }
        };
        self.0[(0..self.0.len()).reduce(better).unwrap_or(0)].copysign(value)
    }
}

/// Scales between 1/4 and 4, zero in the padding.
pub(crate) fn random_scales(rows: usize, columns: usize, swizzled: bool, draws: &mut Draws) -> Vec<f64> {
    let mut scales = vec![0.0; scales_shape(rows, columns, swizzled).iter().product()];
    for row in 0..rows {
        for group in 0..columns / GROUP {
            let power = [0.25, 0.5, 1.0, 2.0][draws.below(4)];
            scales[scale_offset(row, group, columns, swizzled)] = power * (1.0 + draws.below(8) as f64 / 8.0);
        }
    }
    scales
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_interleave_rows_32_apart() {
        let at = |row, group| scale_offset(row, group, 128, true);
        assert_eq!([at(0, 0), at(0, 1), at(1, 0), at(32, 0), at(33, 3)], [0, 1, 16, 4, 23]);
        assert_eq!([at(0, 4), at(128, 0), at(128, 4)], [512, 1024, 1536]);
        let mut all: Vec<usize> = (0..256).flat_map(|r| (0..8).map(move |g| at(r, g))).collect();
        all.sort_unstable();
        assert!(all.iter().enumerate().all(|(i, &offset)| i == offset));
    }
}
