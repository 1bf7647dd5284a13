//! The schedule of the foreground and background windows (Seyboldt, Carlson and Carpenter 2025, section 3.1), on
//! integers only.
//!
//! The metric in force comes from the foreground sample, which grows with every draw. The background sample holds the
//! latest draws only; when it is full it becomes the foreground. Background windows are short early in warm-up, so that
//! the first draws are forgotten quickly, and grow afterwards. In the final part the metric stays as it is.

use serde::{Deserialize, Serialize};

use super::settings::AdaptSettings;

/// Most draws of the early and of the final part where chains pool what they know. A longer warm-up gives more to the
/// windows between.
const MOST_OF_POOLED: (u64, u64) = (45, 50);

/// The state of the schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Windows {
    early_end: u64,
    final_start: u64,
    window: u64,
}

/// What to do after a draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Whether the draw goes into the samples.
    pub collect: bool,
    /// Whether the background then becomes the foreground.
    pub switch: bool,
    /// Whether there will be no further switch, so that the step size adapts with the symmetric statistic.
    pub late: bool,
}

impl Windows {
    /// The schedule of `tune` warm-up draws.
    pub fn new(tune: u64, settings: &AdaptSettings) -> Self {
        let share = |fraction: f64| (fraction * tune as f64).floor() as u64;
        let (most_early, most_final) =
            if settings.scheme.is_pooled() { MOST_OF_POOLED } else { (u64::MAX, u64::MAX) };
        Windows {
            early_end: share(settings.early_fraction).min(most_early),
            final_start: tune - share(settings.final_fraction).min(tune).min(most_final),
            window: settings.window,
        }
    }

    /// The first draw after the early phase.
    pub fn early_end(&self) -> u64 {
        self.early_end
    }

    /// The first draw of the final part.
    pub fn final_start(&self) -> u64 {
        self.final_start
    }

    /// The warm-up is longer than was planned.
    pub fn extend(&mut self, draws: u64) {
        self.final_start += draws;
    }

    /// Plan for draw `draw` of the warm-up. `background` is the number of points in the background sample, and `usable`
    /// whether this draw adds one.
    pub fn plan(&mut self, draw: u64, background: u64, usable: bool, settings: &AdaptSettings) -> Plan {
        if draw >= self.final_start {
            return Plan { collect: false, switch: false, late: true };
        }
        if draw == self.early_end {
            self.window = self.window.max(background);
        }
        let early = draw < self.early_end;
        let length = if early { settings.early_window } else { self.window };
        let next = if early {
            settings.early_window
        } else {
            (self.window + 1).max((settings.window_growth * self.window as f64).round() as u64)
        };
        // A window that the final part would cut short is not begun: the foreground goes on growing instead.
        let late = draw + next > self.final_start;
        let switch = !late && background + u64::from(usable) >= length;
        if switch && !early {
            self.window = next;
        }
        Plan { collect: usable, switch, late }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::Scheme;

    fn switches(tune: u64) -> Vec<u64> {
        let settings = AdaptSettings::new(Scheme::Diag);
        let mut windows = Windows::new(tune, &settings);
        let mut background = 1;
        let mut at = Vec::new();
        for draw in 0..tune {
            let plan = windows.plan(draw, background, true, &settings);
            background += u64::from(plan.collect);
            if plan.switch {
                background = 0;
                at.push(draw);
            }
        }
        at
    }

    #[test]
    fn early_windows_of_ten_then_growing_ones() {
        // Early until 120; then 80 more, then the next window of 120 would reach beyond 340.
        let at = switches(400);
        assert_eq!(at[..12], [8, 18, 28, 38, 48, 58, 68, 78, 88, 98, 108, 118]);
        assert_eq!(at[12..], [198]);
        // The window after the one of 180 would reach beyond 850.
        assert_eq!(switches(1000)[30..], [378, 498]);
    }

    #[test]
    fn pooled_warm_ups_have_short_windows() {
        let settings = AdaptSettings::default();
        let bounds = |tune| {
            let windows = Windows::new(tune, &settings);
            (windows.early_end(), windows.final_start())
        };
        assert_eq!(bounds(150), (45, 128));
        assert_eq!(bounds(1000), (45, 950));
        assert_eq!(bounds(20), (6, 17));
        let mut windows = Windows::new(150, &settings);
        windows.extend(100);
        assert_eq!(windows.final_start(), 228);
    }

    #[test]
    fn short_schedules_have_no_room_for_windows() {
        assert_eq!(switches(0), []);
        assert_eq!(switches(20), []);
        assert_eq!(switches(60), [8]);
    }

    #[test]
    fn the_final_part_leaves_the_metric_alone() {
        let settings = AdaptSettings::new(Scheme::Diag);
        let mut windows = Windows::new(100, &settings);
        for draw in 85..100 {
            let plan = windows.plan(draw, 500, true, &settings);
            assert_eq!(plan, Plan { collect: false, switch: false, late: true });
        }
    }

    #[test]
    fn unusable_draws_do_not_fill_a_window() {
        let settings = AdaptSettings::new(Scheme::Diag);
        let mut windows = Windows::new(400, &settings);
        let plan = windows.plan(50, 9, false, &settings);
        assert_eq!(plan, Plan { collect: false, switch: false, late: false });
    }
}
