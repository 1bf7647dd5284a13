//! Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy
//! as 1, 2, 3"), keyed by the seed and addressed by (chain, draw, purpose, block).
//!
//! A number depends on its address only, so draws are the same for any number of threads, after a resume, and on any
//! device that implements the same integer rounds. Normals come from the Box-Muller transform with our own logarithm,
//! sine and cosine: plain arithmetic that a compiler can vectorise and that gives the same bits on every machine.

use multiversion::multiversion;
use serde::{Deserialize, Serialize};

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// Coordinates come in groups of this many cosines, then as many sines.
const HALF_GROUP: usize = 8;

/// Blocks that are computed in one go: enough for loops over them to be worth vectorising.
const BATCH: usize = 64;

/// What a random number is for. Each purpose has numbers of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The momentum of a transition.
    Momentum,
    /// Directions and selections of a trajectory.
    Trajectory,
    /// The jitter of the step size.
    StepSize,
    /// The momentum of the search for an initial step size.
    StepSizeSearch,
    /// Which points of a trajectory the estimate of the metric uses besides the draw.
    Recycling,
    /// Where a sequence of trajectory lengths starts.
    Lengths,
    /// The momentum of a further transition of the same draw.
    MomentumOf(u32),
    /// Selections in a further transition of the same draw.
    TrajectoryOf(u32),
    /// The momentum of a transition that tunes a kernel, before the draw.
    TuningMomentum(u32),
    /// Selections in a transition that tunes a kernel, before the draw.
    TuningTrajectory(u32),
    /// Which chains of an ensemble are together.
    Places,
}

impl Purpose {
    /// Its place in an address: the kind in the lower eight bits, a number in the others.
    pub fn code(self) -> u32 {
        match self {
            Purpose::Momentum => 0,
            Purpose::Trajectory => 1,
            Purpose::StepSize => 2,
            Purpose::StepSizeSearch => 3,
            Purpose::Recycling => 4,
            Purpose::Lengths => 5,
            Purpose::MomentumOf(i) => 6 | i << 8,
            Purpose::TrajectoryOf(i) => 7 | i << 8,
            Purpose::TuningMomentum(i) => 8 | i << 8,
            Purpose::TuningTrajectory(i) => 9 | i << 8,
            Purpose::Places => 10,
        }
    }
}

/// The address of a stream of random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Seed of the run.
    pub seed: u64,
    /// Index of the chain.
    pub chain: u32,
    /// Index of the draw, warm-up included.
    pub draw: u32,
}

fn round_keys(seed: u64) -> [[u32; 2]; ROUNDS] {
    let mut key = [seed as u32, (seed >> 32) as u32];
    std::array::from_fn(|_| {
        let now = key;
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        now
    })
}

#[inline(always)]
fn philox_one(keys: &[[u32; 2]; ROUNDS], c: [u32; 4]) -> [u32; 4] {
    philox_wide(keys, c.map(u64::from)).map(|word| word as u32)
}

/// As 64-bit numbers with upper halves of zero, which is what the vector instruction for products takes and gives.
#[inline(always)]
fn philox_wide(keys: &[[u32; 2]; ROUNDS], mut c: [u64; 4]) -> [u64; 4] {
    const LOW: u64 = u32::MAX as u64;
    for key in keys {
        let a = (c[0] & LOW) * u64::from(MULTIPLIER[0]);
        let b = (c[2] & LOW) * u64::from(MULTIPLIER[1]);
        c = [(b >> 32) ^ c[1] ^ u64::from(key[0]), b & LOW, (a >> 32) ^ c[3] ^ u64::from(key[1]), a & LOW];
    }
    c
}

/// A sequence of uniform numbers at one address.
#[derive(Clone, Debug)]
pub struct Stream {
    keys: [[u32; 2]; ROUNDS],
    counter: [u32; 4],
    spare: Option<u64>,
}

impl Stream {
    /// The stream for one purpose at one address, from its beginning.
    pub fn new(key: Key, purpose: Purpose) -> Self {
        Stream { keys: round_keys(key.seed), counter: [0, key.draw, key.chain, purpose.code()], spare: None }
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        if let Some(bits) = self.spare.take() {
            return bits;
        }
        let w = philox_one(&self.keys, self.counter);
        self.counter[0] = self.counter[0].wrapping_add(1);
        self.spare = Some(u64::from(w[2]) << 32 | u64::from(w[3]));
        u64::from(w[0]) << 32 | u64::from(w[1])
    }

    /// A uniform number in [0, 1) with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

/// 1.5 * 2^52: adding it to a small number rounds that to an integer, held in the low bits of the sum.
const ROUND: f64 = 6_755_399_441_055_744.0;

/// Natural logarithm of `u` in [2^-52, 1].
///
/// ln(2^k m) = k ln 2 + ln m with m in (1/sqrt 2, sqrt 2] and ln m = 2 atanh(s), s = (m - 1) / (m + 1).
#[inline(always)]
fn ln(u: f64) -> f64 {
    let bits = u.to_bits();
    let mantissa = f64::from_bits(bits & 0x000F_FFFF_FFFF_FFFF | 0x3FF0_0000_0000_0000);
    let big = mantissa > std::f64::consts::SQRT_2;
    let m = if big { 0.5 * mantissa } else { mantissa };
    // The exponent as a float by way of the bits of 2^52 + exponent: no integer conversion, so it vectorises.
    let exponent = f64::from_bits(bits >> 52 | 0x4330_0000_0000_0000) - (4_503_599_627_370_496.0 + 1023.0);
    let k = exponent + if big { 1.0 } else { 0.0 };
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    // |s| <= 0.1716: the first term left out is below 2^-56 of the sum.
    let mut series = 2.0 / 19.0;
    for odd in [17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0] {
        series = series * z + 2.0 / odd;
    }
    k * std::f64::consts::LN_2 + (2.0 * s + s * z * series)
}

/// cos(2 pi u) and sin(2 pi u) for `u` in [0, 1): quarter turns by symmetry, the rest by Taylor series on
/// [-pi/4, pi/4].
#[inline(always)]
fn turn(u: f64) -> (f64, f64) {
    let t = 4.0 * u;
    let rounded = t + ROUND;
    let quarter = rounded.to_bits();
    let a = (t - (rounded - ROUND)) * std::f64::consts::FRAC_PI_2;
    let z = a * a;
    let mut s = 1.0;
    for k in [272.0, 210.0, 156.0, 110.0, 72.0, 42.0, 20.0, 6.0] {
        s = 1.0 - z * (1.0 / k) * s;
    }
    let mut c = 1.0;
    for k in [306.0, 240.0, 182.0, 132.0, 90.0, 56.0, 30.0, 12.0, 2.0] {
        c = 1.0 - z * (1.0 / k) * c;
    }
    s *= a;
    let swap = quarter & 1 != 0;
    let (cos, sin) = if swap { (s, c) } else { (c, s) };
    let negative_cos = ((quarter + 1) & 2) << 62;
    let negative_sin = (quarter & 2) << 62;
    (f64::from_bits(cos.to_bits() ^ negative_cos), f64::from_bits(sin.to_bits() ^ negative_sin))
}

/// The normals of `cos.len()` blocks from block `first` on.
#[inline(always)]
fn box_muller(keys: &[[u32; 2]; ROUNDS], fixed: [u32; 3], first: u32, cos: &mut [f64], sin: &mut [f64]) {
    let n = cos.len().min(sin.len()).min(BATCH);
    let (mut for_radius, mut for_angle) = ([0u64; BATCH], [0u64; BATCH]);
    let one_to_two = |bits: u64| f64::from_bits(bits >> 12 | 0x3FF0_0000_0000_0000);
    for i in 0..n {
        let block = u64::from(first.wrapping_add(i as u32));
        let w = philox_wide(keys, [block, fixed[0].into(), fixed[1].into(), fixed[2].into()]);
        for_radius[i] = w[0] << 32 | w[1];
        for_angle[i] = w[2] << 32 | w[3];
    }
    for i in 0..n {
        let radius = (-2.0 * ln(2.0 - one_to_two(for_radius[i]))).sqrt();
        let (c, s) = turn(one_to_two(for_angle[i]) - 1.0);
        cos[i] = radius * c;
        sin[i] = radius * s;
    }
}

/// Fill `out` with independent standard normals.
///
/// Coordinate j takes its number from block 8 (j / 16) + j % 8: the cosine for the first eight of a group of sixteen,
/// the sine for the others.
pub fn fill_normal(key: Key, purpose: Purpose, out: &mut [f64]) {
    normals(&round_keys(key.seed), [key.draw, key.chain, purpose.code()], out);
}

#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx512bw", "x86_64+avx2", "aarch64+neon"))]
fn normals(keys: &[[u32; 2]; ROUNDS], fixed: [u32; 3], out: &mut [f64]) {
    let (mut cos, mut sin) = ([0.0; BATCH], [0.0; BATCH]);
    let mut first: u32 = 0;
    for part in out.chunks_mut(2 * BATCH) {
        let (groups, rest) = (part.len() / (2 * HALF_GROUP), part.len() % (2 * HALF_GROUP));
        let blocks = groups * HALF_GROUP + rest.min(HALF_GROUP);
        box_muller(keys, fixed, first, &mut cos[..blocks], &mut sin[..blocks]);
        let halves = cos.chunks(HALF_GROUP).zip(sin.chunks(HALF_GROUP));
        for (out, (cos, sin)) in part.chunks_mut(2 * HALF_GROUP).zip(halves) {
            let (for_cos, for_sin) = out.split_at_mut(out.len().min(HALF_GROUP));
            for_cos.copy_from_slice(&cos[..for_cos.len()]);
            for_sin.copy_from_slice(&sin[..for_sin.len()]);
        }
        first = first.wrapping_add(BATCH as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the reference implementation (Random123).
    #[test]
    fn philox_known_answers() {
        let cases = [
            (0u64, [0u32; 4], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            (u64::MAX, [u32::MAX; 4], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                0x299f_31d0_a409_3822,
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (seed, counter, answer) in cases {
            let keys = round_keys(seed);
            assert_eq!(philox_one(&keys, counter), answer);
        }
    }

    #[test]
    fn logarithm_and_turn_are_accurate() {
        for i in 0..100_000u64 {
            let u = (i + 1) as f64 / 100_000.0;
            for u in [u, u * 1e-9 + 1e-15] {
                assert!((ln(u) - u.ln()).abs() <= 4e-16 * (1.0 + u.ln().abs()), "{u}");
            }
            let u = i as f64 / 100_000.0;
            let (c, s) = turn(u);
            let angle = 2.0 * std::f64::consts::PI * u;
            assert!((c - angle.cos()).abs() < 2e-15 && (s - angle.sin()).abs() < 2e-15, "{u}");
        }
        assert_eq!(ln(1.0), 0.0);
    }

    #[test]
    fn normals_have_the_right_moments_and_tails() {
        let n = 2_000_003;
        let mut z = vec![0.0; n];
        let key = Key { seed: 7, chain: 3, draw: 11 };
        fill_normal(key, Purpose::Momentum, &mut z);
        let moment = |k: i32| z.iter().map(|v| v.powi(k)).sum::<f64>() / n as f64;
        let error =
            |k: i32, variance: f64| 5.0 * (variance / n as f64).sqrt() * if k > 0 { 1.0 } else { 0.0 };
        assert!(moment(1).abs() < error(1, 1.0));
        assert!((moment(2) - 1.0).abs() < error(2, 2.0));
        assert!(moment(3).abs() < error(3, 15.0));
        assert!((moment(4) - 3.0).abs() < error(4, 96.0));
        for (quantile, p) in [(1.0, 0.158_655), (2.0, 0.022_750), (3.0, 0.001_349_9)] {
            let got = z.iter().filter(|v| **v > quantile).count() as f64 / n as f64;
            assert!((got - p).abs() < 5.0 * (p / n as f64).sqrt(), "{quantile}: {got}");
        }
    }

    #[test]
    fn normals_do_not_depend_on_how_they_are_cut() {
        let key = Key { seed: 1, chain: 0, draw: 5 };
        let mut whole = vec![0.0; 100];
        fill_normal(key, Purpose::Momentum, &mut whole);
        let mut part = vec![0.0; 37];
        fill_normal(key, Purpose::Momentum, &mut part);
        assert_eq!(part[..], whole[..37]);
    }

    #[test]
    fn addresses_are_independent() {
        let base = Key { seed: 1, chain: 0, draw: 0 };
        let others = [
            Stream::new(Key { seed: 2, ..base }, Purpose::Momentum),
            Stream::new(Key { chain: 1, ..base }, Purpose::Momentum),
            Stream::new(Key { draw: 1, ..base }, Purpose::Momentum),
            Stream::new(base, Purpose::Trajectory),
        ];
        let first: Vec<u64> = (0..4)
            .map({
                let mut s = Stream::new(base, Purpose::Momentum);
                move |_| s.bits()
            })
            .collect();
        for mut other in others {
            assert!((0..4).all(|_| !first.contains(&other.bits())));
        }
    }
}
