//! Statistics of measured times: medians with their confidence, and rank correlation.

/// How sure the ends of an interval are, before repeated looks: a contest looks at most six times, so that all its
/// intervals hold together with at least 94 %.
pub const CONFIDENCE: f64 = 0.99;

/// A range that the true median lies in, with [`CONFIDENCE`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The low end.
    pub low: f64,
    /// The high end.
    pub high: f64,
}

/// The value below which a share `q` of the values lies, interpolated between neighbours; NaN of no values.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = q.clamp(0.0, 1.0) * (sorted.len().saturating_sub(1)) as f64;
    let (below, above) = (sorted.get(place.floor() as usize), sorted.get(place.ceil() as usize));
    match (below, above) {
        (Some(below), Some(above)) => below + (above - below) * place.fract(),
        _ => f64::NAN,
    }
}

/// The middle value.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The confidence interval of the median, whatever the distribution: the order statistics `j` and `n + 1 - j`, the
/// largest `j` for which fewer than `j` of `n` values lie below the median with probability at most half of what
/// [`CONFIDENCE`] leaves. None for fewer than 8 values.
///
/// # Source
/// Le Boudec, *Performance Evaluation of Computer and Communication Systems* (2010), section 2.2; recommended for
/// run times, which are seldom normal, by Hoefler and Belli, *Scientific Benchmarking of Parallel Computing
/// Systems* (SC 2015).
pub fn median_interval(values: &[f64]) -> Option<Interval> {
    let n = values.len();
    let allowed = (1.0 - CONFIDENCE) / 2.0;
    // The probability that exactly `k` of `n` values lie below the median, in logarithms: 2^-n underflows.
    let mut log_chance = -(n as f64) * std::f64::consts::LN_2;
    let (mut below, mut rank) = (0.0, 0);
    for k in 0..n {
        below += log_chance.exp();
        if below > allowed {
            break;
        }
        rank = k + 1;
        log_chance += (((n - k) as f64) / ((k + 1) as f64)).ln();
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (rank > 0).then(|| Interval { low: sorted[rank - 1], high: sorted[n - rank] })
}

/// Spearman's rank correlation of two rankings of the same things; equal values share their mean rank. None for
/// fewer than three, or where all values of one side are equal.
pub fn rank_correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() != b.len() || a.len() < 3 {
        return None;
    }
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 + 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    let norm = (product(&a, &a) * product(&b, &b)).sqrt();
    (norm > 0.0).then(|| product(&a, &b) / norm)
}

/// The rank of each value, from 1; equal values share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    for tied in order.chunk_by(|&i, &j| values[i] == values[j]) {
        let first = order.iter().position(|i| *i == tied[0]).unwrap_or_default();
        let shared = first as f64 + (tied.len() as f64 + 1.0) / 2.0;
        tied.iter().for_each(|&i| ranks[i] = shared);
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use tile::contract::Draws;

    #[test]
    fn quantiles_interpolate() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!((quantile(&values, 0.0), median(&values), quantile(&values, 1.0)), (1.0, 2.5, 4.0));
        assert_eq!(quantile(&values, 0.25), 1.75);
        assert!(median(&[]).is_nan());
    }

    /// Ranks from sums of binomial coefficients: of 30 values, fewer than 8 are below the median with 0.26 %.
    #[test]
    fn the_interval_has_the_ranks_of_the_binomial_distribution() {
        let ends = |n: usize| {
            let values: Vec<f64> = (1..=n).map(|i| i as f64).collect();
            median_interval(&values).map(|i| (i.low, i.high))
        };
        assert_eq!(ends(7), None);
        assert_eq!(ends(8), Some((1.0, 8.0)));
        assert_eq!(ends(12), Some((2.0, 11.0)));
        assert_eq!(ends(30), Some((8.0, 23.0)));
        assert_eq!(ends(70), Some((24.0, 47.0)));
        assert!(ends(5000).is_some_and(|(low, high)| low > 2400.0 && high < 2600.0));
    }

    #[test]
    fn the_interval_holds_the_median_as_often_as_it_says() {
        let mut draws = Draws::new(5);
        let trials = 2000;
        // Exponentials of normal draws: skewed, as run times are; their median is 1.
        let held = (0..trials).filter(|_| {
            let values: Vec<f64> = (0..20).map(|_| draws.normal().exp()).collect();
            median_interval(&values).is_some_and(|i| i.low <= 1.0 && 1.0 <= i.high)
        });
        let share = held.count() as f64 / f64::from(trials);
        assert!(share > 0.983, "{share}");
    }

    #[test]
    fn correlation_sees_order_alone() {
        let a = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(rank_correlation(&a, &[10.0, 20.0, 1e3, 1e6]), Some(1.0));
        assert_eq!(rank_correlation(&a, &[4.0, 3.0, 2.0, 1.0]), Some(-1.0));
        assert_eq!(rank_correlation(&a, &[5.0; 4]), None);
        assert_eq!(rank_correlation(&a[..2], &[1.0, 2.0]), None);
        // Ranks 1.5, 1.5, 3, 4 against 1, 2, 3, 4.
        let tied = rank_correlation(&[7.0, 7.0, 8.0, 9.0], &a).unwrap_or(0.0);
        assert!((tied - 0.948_683).abs() < 1e-6, "{tied}");
    }
}
