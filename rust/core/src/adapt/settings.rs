//! Settings of the adaptation, and the schemes to choose from.

use serde::{Deserialize, Serialize};

use crate::settings::{Configure, Field, Setting, Value};

/// A way to adapt metric and step size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scheme {
    /// Pooled, with as many eigenvectors as the draws call for.
    #[default]
    Auto,
    /// Pooled, low-rank even where the draws would allow a dense metric.
    LowRank,
    /// Pooled, dense.
    Dense,
    /// Windows of each chain, diagonal by the Fisher divergence.
    Diag,
    /// Windows of each chain, variances of the draws.
    DrawDiag,
    /// Windows of each chain, low-rank by the Fisher divergence.
    LowRankWindows,
    /// Stan's windows, variances of the draws.
    Stan,
    /// Stan's windows, covariance of the draws.
    StanDense,
    /// The first metric throughout; only the step size adapts.
    Fixed,
}

/// What a front end needs to know of a scheme.
#[derive(Clone, Copy, Debug)]
pub struct SchemeInfo {
    /// The scheme.
    pub scheme: Scheme,
    /// Its name.
    pub name: &'static str,
    /// Warm-up draws where the user gives no number.
    pub tune: u64,
    /// What it is.
    pub doc: &'static str,
}

impl Scheme {
    /// All schemes.
    pub const ALL: &'static [SchemeInfo] = &[
        SchemeInfo {
            scheme: Scheme::Auto,
            name: "auto",
            tune: 150,
            doc: "Chains pool their draws and gradients; the metric has as many eigenvectors as these call for, from none \
                  to all.",
        },
        SchemeInfo {
            scheme: Scheme::LowRank,
            name: "low_rank",
            tune: 150,
            doc: "As 'auto', with the estimate in the joint span of leading directions of draws and of gradients, or in all \
                  coordinates where draws allow.",
        },
        SchemeInfo {
            scheme: Scheme::Dense,
            name: "dense",
            tune: 150,
            doc: "As 'auto', with all eigenvectors.",
        },
        SchemeInfo {
            scheme: Scheme::Diag,
            name: "diag",
            tune: 400,
            doc: "A diagonal metric for each chain, from draws and gradients in growing windows.",
        },
        SchemeInfo {
            scheme: Scheme::DrawDiag,
            name: "draw_diag",
            tune: 400,
            doc: "As 'diag', from the variances of the draws alone.",
        },
        SchemeInfo {
            scheme: Scheme::LowRankWindows,
            name: "low_rank_windows",
            tune: 800,
            doc: "A low-rank metric for each chain, from draws and gradients in growing windows.",
        },
        SchemeInfo {
            scheme: Scheme::Stan,
            name: "stan",
            tune: 1000,
            doc: "Stan's warm-up: variances of the draws of each chain in doubling windows.",
        },
        SchemeInfo {
            scheme: Scheme::StanDense,
            name: "stan_dense",
            tune: 1000,
            doc: "As 'stan', with the covariance of the draws.",
        },
        SchemeInfo {
            scheme: Scheme::Fixed,
            name: "fixed",
            tune: 100,
            doc: "The metric that was passed in, or that of the first gradient; only the step size adapts.",
        },
    ];

    /// What is known of the scheme.
    pub fn info(self) -> &'static SchemeInfo {
        // The list holds every scheme, as a test checks; the first stands in rather than a panic.
        Self::ALL.iter().find(|info| info.scheme == self).unwrap_or(&Self::ALL[0])
    }

    /// The scheme of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|info| info.name == name).map(|info| info.scheme)
    }

    /// Whether chains pool what they know.
    pub fn is_pooled(self) -> bool {
        matches!(self, Scheme::Auto | Scheme::LowRank | Scheme::Dense)
    }

    /// Whether its metric can have eigenvectors.
    pub fn is_coupled(self) -> bool {
        !matches!(self, Scheme::Diag | Scheme::DrawDiag | Scheme::Stan)
    }
}

/// Settings of the adaptation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdaptSettings {
    /// The scheme.
    pub scheme: Scheme,
    /// Whether chains share metric and step size, in schemes that are pooled.
    pub pool: bool,
    /// Whether the warm-up may go on where the metric is not good at its end, in schemes that are pooled.
    pub extend: bool,
    /// Mean acceptance statistic that the step size aims at.
    pub target_accept: f64,
    /// First guess of the step size.
    pub initial_step: f64,
    /// Largest step size.
    pub max_step_size: f64,
    /// Half-width of the relative jitter of the step size.
    pub step_size_jitter: f64,
    /// Length of a window in the early phase.
    pub early_window: u64,
    /// Length of the first window of the main phase.
    pub window: u64,
    /// Factor by which windows of the main phase grow.
    pub window_growth: f64,
    /// Share of the warm-up that is the early phase.
    pub early_fraction: f64,
    /// Share of the warm-up, at its end, in which only the step size adapts.
    pub final_fraction: f64,
    /// Largest number of doublings in the first draws, in schemes that are pooled.
    pub early_max_depth: u64,
    /// Eigenvalues between the inverse of this and this are taken for 1.
    pub eigval_cutoff: f64,
    /// Largest number of eigenvectors.
    pub max_rank: u64,
    /// Weight of the identity in the estimate of `low_rank_windows`.
    pub gamma: f64,
}

impl Default for AdaptSettings {
    fn default() -> Self {
        Self::new(Scheme::default())
    }
}

impl AdaptSettings {
    /// The defaults of a scheme.
    pub fn new(scheme: Scheme) -> Self {
        let pooled = scheme.is_pooled();
        AdaptSettings {
            scheme,
            pool: true,
            extend: false,
            target_accept: 0.8,
            initial_step: 0.1,
            max_step_size: std::f64::consts::PI,
            step_size_jitter: 0.1,
            early_window: if pooled { 5 } else { 10 },
            window: if pooled { 20 } else { 80 },
            window_growth: 1.5,
            early_fraction: 0.3,
            final_fraction: 0.15,
            early_max_depth: 6,
            eigval_cutoff: if scheme == Scheme::Auto { 1.5 } else { 2.0 },
            max_rank: u64::from(u32::MAX),
            gamma: 1e-5,
        }
    }
}

const fn float(name: &'static str, default: f64, min: f64, max: f64, doc: &'static str) -> Setting {
    Setting { name, default: Value::Float(default), min, max, doc }
}

const fn count(name: &'static str, default: u64, doc: &'static str) -> Setting {
    Setting { name, default: Value::Int(default), min: 1.0, max: 1e15, doc }
}

impl Configure for AdaptSettings {
    const SETTINGS: &'static [Setting] = &[
        float(
            "target_accept",
            0.8,
            0.01,
            0.999,
            "Mean acceptance statistic that the step size is adapted to; closer to 1 gives smaller steps.",
        ),
        float(
            "initial_step",
            0.1,
            1e-10,
            1e5,
            "Step size from which the search for a first step size starts.",
        ),
        float("max_step_size", std::f64::consts::PI, 1e-10, 1e10, "Largest step size."),
        float(
            "step_size_jitter",
            0.1,
            0.0,
            0.99,
            "The step size of a draw is uniform within this relative distance of the adapted one.",
        ),
        Setting {
            name: "pool",
            default: Value::Bool(true),
            min: 0.0,
            max: 1.0,
            doc: "Whether chains share metric and step size ('auto', 'low_rank' and 'dense'). The draws of a chain \
                  after warm-up depend on other chains only through these.",
        },
        count(
            "early_window_switch_freq",
            5,
            "Draws between changes of the estimation window early in warm-up; 10 for adaptations that are not pooled.",
        ),
        count(
            "window_switch_freq",
            20,
            "Draws in the first estimation window after the early phase; 80 for adaptations that are not pooled.",
        ),
        float("window_growth", 1.5, 1.0, 100.0, "Factor by which later estimation windows grow."),
        float(
            "early_fraction",
            0.3,
            0.0,
            1.0,
            "Share of the warm-up that is its early phase, which has at most 45 draws where chains pool.",
        ),
        float(
            "final_fraction",
            0.15,
            0.0,
            1.0,
            "Share of the warm-up, at its end, that adapts the step size only.",
        ),
        Setting {
            name: "early_maxdepth",
            default: Value::Int(6),
            min: 1.0,
            max: 20.0,
            doc: "Largest number of doublings in the first 20 draws ('auto', 'low_rank' and 'dense').",
        },
        float(
            "mass_matrix_eigval_cutoff",
            1.5,
            1.0,
            1e10,
            "Eigenvalues of the scaled inverse mass matrix between the inverse of this and this are taken for 1; 2 for \
             adaptations other than 'auto'.",
        ),
        Setting {
            name: "max_rank",
            default: Value::Int(u32::MAX as u64),
            min: 0.0,
            max: u32::MAX as f64,
            doc: "Largest number of eigenvectors of the inverse mass matrix; 0 makes it diagonal.",
        },
        float(
            "mass_matrix_gamma",
            1e-5,
            1e-20,
            1e20,
            "Regularisation of the estimate of 'low_rank_windows': weight of the identity beside the sums over draws.",
        ),
    ];

    fn field(&mut self, name: &str) -> Option<Field<'_>> {
        Some(match name {
            "target_accept" => Field::Float(&mut self.target_accept),
            "initial_step" => Field::Float(&mut self.initial_step),
            "max_step_size" => Field::Float(&mut self.max_step_size),
            "step_size_jitter" => Field::Float(&mut self.step_size_jitter),
            "pool" => Field::Bool(&mut self.pool),
            "early_window_switch_freq" => Field::Int(&mut self.early_window),
            "window_switch_freq" => Field::Int(&mut self.window),
            "window_growth" => Field::Float(&mut self.window_growth),
            "early_fraction" => Field::Float(&mut self.early_fraction),
            "final_fraction" => Field::Float(&mut self.final_fraction),
            "early_maxdepth" => Field::Int(&mut self.early_max_depth),
            "mass_matrix_eigval_cutoff" => Field::Float(&mut self.eigval_cutoff),
            "max_rank" => Field::Int(&mut self.max_rank),
            "mass_matrix_gamma" => Field::Float(&mut self.gamma),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheme_has_its_name() {
        for info in Scheme::ALL {
            assert_eq!(Scheme::from_name(info.name), Some(info.scheme));
            assert_eq!(info.scheme.info().name, info.name);
        }
        assert_eq!(Scheme::from_name("flow"), None);
    }
}
