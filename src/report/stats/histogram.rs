//! Sizes in ten bins of equal width on a logarithmic scale, from the smallest size that is not 0 to the largest.
//! The rounding is Python's, so that the bins are memray's.

use std::io::{Result, Write};

use serde::Serialize;

use crate::analysis::stats::Sizes;
use crate::units;

/// The bounds are inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bin {
    min_bytes: u64,
    max_bytes: u64,
    count: u64,
}

const N_BINS: usize = 10;
/// Characters of the longest bar.
const BAR_LEN: u64 = 25;

/// Empty when nothing but empty blocks was allocated.
pub fn bins(sizes: &Sizes) -> Vec<Bin> {
    let smallest = sizes.iter().map(|(size, _)| size).filter(|&size| size > 0).min();
    let (Some(smallest), Some((_, largest))) = (smallest, sizes.extremes()) else { return Vec::new() };
    let (mut low, high) = ((smallest as f64).ln(), (largest as f64).ln());
    if low == high {
        low /= 2.0;
    }
    let step = (high - low) / N_BINS as f64;
    let mut counts = [0; N_BINS];
    for (size, count) in sizes.iter() {
        let bin = if size == 0 || step == 0.0 { 0.0 } else { floor_division((size as f64).ln() - low, step) };
        counts[(bin as usize).min(N_BINS - 1)] += count;
    }
    let mut start = 0;
    let mut bins = Vec::with_capacity(N_BINS);
    for (index, count) in counts.into_iter().enumerate() {
        let end = (low + step * (index + 1) as f64).exp() as u64;
        let is_last = index + 1 == N_BINS;
        bins.push(Bin { min_bytes: start, max_bytes: if is_last { end } else { end.saturating_sub(1) }, count });
        start = end;
    }
    bins
}

/// Python's `//` of positive floats: exact where the quotient is near a whole number.
fn floor_division(dividend: f64, divisor: f64) -> f64 {
    let quotient = (dividend - dividend % divisor) / divisor;
    let floor = quotient.floor();
    if quotient - floor > 0.5 { floor + 1.0 } else { floor }
}

pub fn draw(bins: &[Bin], out: &mut dyn Write) -> Result<()> {
    let most = bins.iter().map(|bin| bin.count).max().unwrap_or(0).max(1);
    let width = bins.iter().map(|bin| bin.count.to_string().len()).max().unwrap_or(0);
    let line = "-".repeat("<= ".len() + 10 + ": ".len() + width + BAR_LEN as usize);
    writeln!(out, "    {line}")?;
    for (index, bin) in bins.iter().enumerate() {
        let is_last = index + 1 == bins.len();
        let (relation, bound) = if is_last { ("<=", bin.max_bytes) } else { ("< ", bin.max_bytes + 1) };
        let bar = "▇".repeat((bin.count * BAR_LEN).div_ceil(most) as usize);
        let row = format!("{relation} {:<10}: {:>width$} {bar}", units::bytes(bound), bin.count);
        writeln!(out, "    {}", row.trim_end())?;
    }
    writeln!(out, "    {line}")
}
