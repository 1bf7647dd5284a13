//! Warm-up: step size, metric and the schedule that ties them together.

mod diag;
pub mod step_size;
pub mod windows;

pub use diag::DiagAdaptation;

use serde::{Deserialize, Serialize};

use crate::settings::{Configure, Field, Setting, Value};

/// Settings of the adaptation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdaptSettings {
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
}

impl Default for AdaptSettings {
    fn default() -> Self {
        AdaptSettings {
            target_accept: 0.8,
            initial_step: 0.1,
            max_step_size: std::f64::consts::PI,
            step_size_jitter: 0.1,
            early_window: 10,
            window: 80,
            window_growth: 1.5,
            early_fraction: 0.3,
            final_fraction: 0.15,
        }
    }
}

const fn float(name: &'static str, default: f64, min: f64, max: f64, doc: &'static str) -> Setting {
    Setting { name, default: Value::Float(default), min, max, doc }
}

const fn draws(name: &'static str, default: u64, doc: &'static str) -> Setting {
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
        draws(
            "early_window_switch_freq",
            10,
            "Draws between changes of the estimation window early in warm-up.",
        ),
        draws("window_switch_freq", 80, "Draws in the first estimation window after the early phase."),
        float("window_growth", 1.5, 1.0, 100.0, "Factor by which later estimation windows grow."),
        float("early_fraction", 0.3, 0.0, 1.0, "Share of the warm-up that is its early phase."),
        float(
            "final_fraction",
            0.15,
            0.0,
            1.0,
            "Share of the warm-up, at its end, that adapts the step size only.",
        ),
    ];

    fn field(&mut self, name: &str) -> Option<Field<'_>> {
        Some(match name {
            "target_accept" => Field::Float(&mut self.target_accept),
            "initial_step" => Field::Float(&mut self.initial_step),
            "max_step_size" => Field::Float(&mut self.max_step_size),
            "step_size_jitter" => Field::Float(&mut self.step_size_jitter),
            "early_window_switch_freq" => Field::Int(&mut self.early_window),
            "window_switch_freq" => Field::Int(&mut self.window),
            "window_growth" => Field::Float(&mut self.window_growth),
            "early_fraction" => Field::Float(&mut self.early_fraction),
            "final_fraction" => Field::Float(&mut self.final_fraction),
            _ => return None,
        })
    }
}
