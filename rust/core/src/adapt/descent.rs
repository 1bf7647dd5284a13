//! Out of starts where the log density is absurdly low, before the warm-up begins.
//!
//! Where a start makes an exponential overflow or nearly so, the gradient changes by orders of magnitude over any distance
//! that matters, and no step size lets a chain go far. So each parameter is moved by the same length uphill,
//! x' = x + a sign(g), a growing while it goes well and shrinking where it does not, for as long as the rise of the log
//! density that the gradient promises, a |g|_1, is more than its usual spread. A chain stops far from any mode: within reach
//! of the typical set, where it begins to sample. At a sensible start this costs a few gradients.

/// Length of the first try, the longest one, and factors of the length after a success and after a failure.
const FIRST: f64 = 0.5;
const LONGEST: f64 = 8.0;
const GROWTH: f64 = 2.0;
const SHRINKAGE: f64 = 0.25;

/// Failures in a row that end it, and most gradients.
const MAX_FAILURES: u32 = 12;
const MAX_TRIES: u32 = 200;

/// The least rise of the log density that is worth a try: this, or the number of parameters.
const MIN_RISE: f64 = 20.0;

/// The moves of one chain.
#[derive(Clone, Debug, PartialEq)]
pub struct Descent {
    length: f64,
    slope: f64,
    failures: u32,
    tries: u32,
    least_rise: f64,
}

impl Descent {
    /// At a point with this gradient.
    pub fn new(gradient: &[f64]) -> Self {
        let least_rise = MIN_RISE.max(gradient.len() as f64);
        Descent { length: FIRST, slope: slope(gradient), failures: 0, tries: 0, least_rise }
    }

    /// Whether no further try is worth it.
    pub fn is_over(&self) -> bool {
        // Written so that a slope that is not a number ends it.
        let promising = self.length * self.slope >= self.least_rise;
        !promising || self.failures >= MAX_FAILURES || self.tries >= MAX_TRIES
    }

    /// From a position and its gradient to the position to try next.
    pub fn shift(&self, x: &mut [f64], gradient: &[f64]) {
        for (x, g) in x.iter_mut().zip(gradient) {
            if *g != 0.0 {
                *x += self.length * g.signum();
            }
        }
    }

    /// Take in by how much the log density rose and the gradient at the position that was tried. Whether to go on from
    /// there.
    pub fn update(&mut self, rise: f64, gradient: &[f64]) -> bool {
        self.tries += 1;
        let slope = slope(gradient);
        let moves = rise.is_finite() && rise >= self.least_rise && slope.is_finite();
        if moves {
            self.failures = 0;
            self.slope = slope;
            self.length = (GROWTH * self.length).min(LONGEST);
        } else {
            self.failures += 1;
            self.length *= SHRINKAGE;
        }
        moves
    }
}

/// Sum of absolute values.
fn slope(gradient: &[f64]) -> f64 {
    gradient.iter().map(|g| g.abs()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sensible_start_costs_little() {
        assert!(Descent::new(&[13.0, -13.0, 13.0]).is_over());
        assert!(Descent::new(&[f64::NAN]).is_over());
        let mut descent = Descent::new(&[100.0]);
        assert!(!descent.is_over() && !descent.update(19.0, &[1.0]) && descent.is_over());
    }

    #[test]
    fn it_goes_on_while_the_density_rises() {
        let steep = vec![1e30; 100];
        let mut descent = Descent::new(&steep);
        let mut x = [1.0, 2.0, 3.0];
        descent.shift(&mut x, &[1e30, -1e-30, 0.0]);
        assert_eq!(x, [1.5, 1.5, 3.0]);
        assert!(descent.update(1e29, &steep) && !descent.is_over());
        descent.shift(&mut x, &[1.0, 0.0, 0.0]);
        assert_eq!(x[0], 2.5);
        assert!(!descent.update(f64::NAN, &steep) && !descent.update(99.0, &steep));
        assert!(!descent.update(101.0, &[f64::NAN]) && descent.update(101.0, &[10.0]));
        assert!(descent.is_over());
    }

    #[test]
    fn it_ends() {
        let mut rising = Descent::new(&[1e300]);
        assert_eq!((0..1000).take_while(|_| !rising.is_over() && rising.update(1e6, &[1e300])).count(), 200);
        let mut falling = Descent::new(&[1e300]);
        assert_eq!((0..1000).take_while(|_| !falling.is_over() && !falling.update(-1.0, &[1.0])).count(), 12);
    }

    /// A sum of exponentials that begins near overflow, of parameters with different influence.
    #[test]
    fn it_comes_down_from_an_overflow() {
        let factors = [3.0, -20.0, 0.1];
        let logp = |x: &[f64]| {
            let e = x.iter().zip(factors).map(|(x, f)| f * x).sum::<f64>().exp();
            let g: Vec<f64> = x.iter().zip(factors).map(|(x, f)| -f * e - x).collect();
            (-e - 0.5 * x.iter().map(|x| x * x).sum::<f64>(), g)
        };
        let mut x = vec![2.0, -30.0, 1.0];
        let (mut value, mut g) = logp(&x);
        assert!(value < -1e250);
        let mut descent = Descent::new(&g);
        while !descent.is_over() {
            let mut tried = x.clone();
            descent.shift(&mut tried, &g);
            let (new, new_g) = logp(&tried);
            if descent.update(new - value, &new_g) {
                (x, value, g) = (tried, new, new_g);
            }
        }
        assert!(value > -1e3, "{value}");
    }
}
