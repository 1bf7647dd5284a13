//! The loops of the CPU device: one pass over memory each, vectorised for the best instruction set that the machine has.
//!
//! Sums run over eight lanes in a fixed order and nothing is fused, so that every machine gives the same bits.

use multiversion::multiversion;

const LANES: usize = 8;

/// Smallest and largest entry that an inverse mass matrix may have.
const INV_MASS_BOUNDS: (f64, f64) = (1e-20, 1e20);

#[inline(always)]
fn total(lanes: [f64; LANES]) -> f64 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// p' = p + kick g, x' = x + drift inv_mass p'.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx512bw", "x86_64+avx2", "aarch64+neon"))]
#[allow(clippy::too_many_arguments)]
pub fn kick_drift(
    x: &[f64],
    p: &[f64],
    g: &[f64],
    inv_mass: &[f64],
    kick: f64,
    drift: f64,
    x_new: &mut [f64],
    p_new: &mut [f64],
) {
    let n = x.len();
    let (p, g, inv_mass) = (&p[..n], &g[..n], &inv_mass[..n]);
    let (x_new, p_new) = (&mut x_new[..n], &mut p_new[..n]);
    for i in 0..n {
        let half = p[i] + kick * g[i];
        p_new[i] = half;
        x_new[i] = x[i] + drift * (inv_mass[i] * half);
    }
}

/// p += kick g; returns sum of inv_mass p^2.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx512bw", "x86_64+avx2", "aarch64+neon"))]
pub fn kick(p: &mut [f64], g: &[f64], inv_mass: &[f64], kick: f64) -> f64 {
    let n = p.len();
    let (g, inv_mass) = (&g[..n], &inv_mass[..n]);
    let mut lanes = [0.0; LANES];
    let whole = n - n % LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, i) in (start..start + LANES).enumerate() {
            let new = p[i] + kick * g[i];
            p[i] = new;
            lanes[lane] += inv_mass[i] * new * new;
        }
    }
    for (lane, i) in (whole..n).enumerate() {
        let new = p[i] + kick * g[i];
        p[i] = new;
        lanes[lane] += inv_mass[i] * new * new;
    }
    total(lanes)
}

/// (x_b - x_a) . p_a and (x_b - x_a) . p_b.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx512bw", "x86_64+avx2", "aarch64+neon"))]
pub fn span(x_a: &[f64], p_a: &[f64], x_b: &[f64], p_b: &[f64]) -> [f64; 2] {
    let n = x_a.len();
    let (p_a, x_b, p_b) = (&p_a[..n], &x_b[..n], &p_b[..n]);
    let mut a = [0.0; LANES];
    let mut b = [0.0; LANES];
    let whole = n - n % LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, i) in (start..start + LANES).enumerate() {
            let d = x_b[i] - x_a[i];
            a[lane] += d * p_a[i];
            b[lane] += d * p_b[i];
        }
    }
    for (lane, i) in (whole..n).enumerate() {
        let d = x_b[i] - x_a[i];
        a[lane] += d * p_a[i];
        b[lane] += d * p_b[i];
    }
    [total(a), total(b)]
}

/// p = z mass_sqrt, where p holds z on entry; returns sum of z^2, which is p M^-1 p.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx512bw", "x86_64+avx2", "aarch64+neon"))]
pub fn scale_normal(p: &mut [f64], mass_sqrt: &[f64]) -> f64 {
    let n = p.len();
    let mass_sqrt = &mass_sqrt[..n];
    let mut lanes = [0.0; LANES];
    let whole = n - n % LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, i) in (start..start + LANES).enumerate() {
            let z = p[i];
            lanes[lane] += z * z;
            p[i] = z * mass_sqrt[i];
        }
    }
    for (lane, i) in (whole..n).enumerate() {
        let z = p[i];
        lanes[lane] += z * z;
        p[i] = z * mass_sqrt[i];
    }
    total(lanes)
}

/// Welford's update of a mean and a sum of squared deviations; `count` counts the new value. The first value replaces
/// whatever was there.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx512bw", "x86_64+avx2", "aarch64+neon"))]
pub fn welford(mean: &mut [f64], ss: &mut [f64], value: &[f64], count: u64) {
    let n = mean.len();
    let (ss, value) = (&mut ss[..n], &value[..n]);
    if count <= 1 {
        mean.copy_from_slice(value);
        ss.fill(0.0);
        return;
    }
    let weight = 1.0 / count as f64;
    for i in 0..n {
        let before = value[i] - mean[i];
        mean[i] += weight * before;
        ss[i] += before * (value[i] - mean[i]);
    }
}

#[inline(always)]
fn set_mass(inv_mass: &mut f64, mass_sqrt: &mut f64, new: f64) {
    let new = new.clamp(INV_MASS_BOUNDS.0, INV_MASS_BOUNDS.1);
    *inv_mass = new;
    *mass_sqrt = (1.0 / new).sqrt();
}

/// inv_mass = 1 / |g|, clamped; 1 where the gradient is not finite.
pub fn metric_from_gradient(inv_mass: &mut [f64], mass_sqrt: &mut [f64], g: &[f64]) {
    for ((inv_mass, mass_sqrt), g) in inv_mass.iter_mut().zip(mass_sqrt).zip(g) {
        let new = if g.is_finite() { 1.0 / g.abs().clamp(INV_MASS_BOUNDS.0, INV_MASS_BOUNDS.1) } else { 1.0 };
        set_mass(inv_mass, mass_sqrt, new);
    }
}

/// Means and sums of squared deviations of positions and gradients.
pub struct Summary<'a> {
    pub mean_x: &'a [f64],
    pub ss_x: &'a [f64],
    pub mean_g: &'a [f64],
    pub ss_g: &'a [f64],
}

/// Two samples taken together (Chan, Golub and LeVeque 1983).
pub struct Union<'a> {
    pub first: Summary<'a>,
    pub second: Summary<'a>,
    /// Weight of the second sample's sums: 1, or 0 when it is empty.
    pub weight: f64,
    /// n1 n2 / (n1 + n2), the weight of the squared difference of the means.
    pub between: f64,
}

/// inv_mass = (ss_x / ss_g)^(1/2) of the union of two samples.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx512bw", "x86_64+avx2", "aarch64+neon"))]
pub fn fit_fisher_diag(inv_mass: &mut [f64], mass_sqrt: &mut [f64], union: &Union) {
    let n = inv_mass.len();
    let mass_sqrt = &mut mass_sqrt[..n];
    let Union { first, second, weight, between } = union;
    let (mean_x1, ss_x1, mean_g1, ss_g1) =
        (&first.mean_x[..n], &first.ss_x[..n], &first.mean_g[..n], &first.ss_g[..n]);
    let (mean_x2, ss_x2, mean_g2, ss_g2) =
        (&second.mean_x[..n], &second.ss_x[..n], &second.mean_g[..n], &second.ss_g[..n]);
    for i in 0..n {
        let dx = mean_x1[i] - mean_x2[i];
        let dg = mean_g1[i] - mean_g2[i];
        let ss_x = ss_x1[i] + weight * ss_x2[i] + between * (dx * dx);
        let ss_g = ss_g1[i] + weight * ss_g2[i] + between * (dg * dg);
        let ratio = ss_x / ss_g;
        let usable = ratio > 0.0 && ratio < f64::INFINITY;
        let new = ratio.sqrt().max(INV_MASS_BOUNDS.0).min(INV_MASS_BOUNDS.1);
        inv_mass[i] = if usable { new } else { inv_mass[i] };
        mass_sqrt[i] = if usable { (1.0 / new).sqrt() } else { mass_sqrt[i] };
    }
}
