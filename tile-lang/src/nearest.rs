//! The name that a user may have meant.

/// The candidate most like `name`, if one is close enough to be worth suggesting.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let score = |candidate: &str| strsim::jaro_winkler(&lower, &candidate.to_lowercase());
    let best = candidates.into_iter().max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(best) > 0.78).then_some(best)
}
