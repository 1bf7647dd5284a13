//! Settings: every part of the sampler declares its own, once, with default, bounds and a line of documentation. Front
//! ends build their keywords, checks and documentation from the declarations.

use serde::{Deserialize, Serialize};

use crate::adapt::{AdaptSettings, pool};
use crate::error::{Error, Result};
use crate::kernel::nuts::NutsSettings;

/// The value of a setting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A real number.
    Float(f64),
    /// A whole number.
    Int(u64),
    /// True or false.
    Bool(bool),
}

impl Value {
    fn number(self) -> f64 {
        match self {
            Value::Float(v) => v,
            Value::Int(v) => v as f64,
            Value::Bool(v) => f64::from(u8::from(v)),
        }
    }
}

/// The place of a setting in its struct.
pub enum Field<'a> {
    /// A real number.
    Float(&'a mut f64),
    /// A whole number.
    Int(&'a mut u64),
    /// True or false.
    Bool(&'a mut bool),
}

/// Declaration of a setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Keyword of the setting.
    pub name: &'static str,
    /// Default value, which also gives the type.
    pub default: Value,
    /// Smallest value allowed.
    pub min: f64,
    /// Largest value allowed.
    pub max: f64,
    /// What it does.
    pub doc: &'static str,
}

/// A part of the sampler that has settings.
pub trait Configure {
    /// The declarations.
    const SETTINGS: &'static [Setting];

    /// Where the setting of this name is kept.
    fn field(&mut self, name: &str) -> Option<Field<'_>>;
}

/// Everything that determines the draws of a run, but for the density and the initial points.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Seed of the random numbers.
    pub seed: u64,
    /// Number of warm-up draws of each chain.
    pub tune: u64,
    /// Number of draws of each chain after warm-up.
    pub draws: u64,
    /// Settings of the transition kernel.
    pub nuts: NutsSettings,
    /// Settings of the adaptation.
    pub adapt: AdaptSettings,
}

impl Settings {
    /// The declarations of all settings that [`Settings::set`] knows.
    pub fn declared() -> impl Iterator<Item = &'static Setting> {
        NutsSettings::SETTINGS.iter().chain(AdaptSettings::SETTINGS)
    }

    /// Warm-up draws that a chain may make at most.
    pub fn longest_tune(&self) -> u64 {
        if self.adapt.extend { self.tune.max(pool::LONGEST_TUNE) } else { self.tune }
    }

    /// Change the setting of a name.
    pub fn set(&mut self, name: &str, value: Value) -> Result<()> {
        let Some(declared) = Self::declared().find(|s| s.name == name) else {
            return Err(Error::Setting(format!("there is no setting {name:?}")));
        };
        let Some(field) = self.nuts.field(name).or_else(|| self.adapt.field(name)) else {
            return Err(Error::Internal(format!("the setting {name:?} is declared but not kept")));
        };
        let number = value.number();
        // Written so that NaN is out of bounds.
        if !(number >= declared.min && number <= declared.max) {
            return Err(Error::Setting(format!(
                "{name} must be between {} and {}, not {number}",
                declared.min, declared.max
            )));
        }
        match (field, value) {
            (Field::Bool(field), Value::Bool(v)) => *field = v,
            (Field::Bool(_), _) | (_, Value::Bool(_)) => {
                let needed =
                    if matches!(declared.default, Value::Bool(_)) { "True or False" } else { "a number" };
                return Err(Error::Setting(format!("{name} must be {needed}")));
            }
            (Field::Float(field), _) => *field = number,
            (Field::Int(field), Value::Int(v)) => *field = v,
            (Field::Int(_), Value::Float(_)) => {
                return Err(Error::Setting(format!("{name} must be a whole number, not {number}")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_match_the_fields_and_their_defaults() {
        let mut settings = Settings::default();
        for s in Settings::declared() {
            let now = match settings.nuts.field(s.name).or_else(|| settings.adapt.field(s.name)) {
                Some(Field::Float(v)) => Value::Float(*v),
                Some(Field::Int(v)) => Value::Int(*v),
                Some(Field::Bool(v)) => Value::Bool(*v),
                None => panic!("{} is declared but not kept", s.name),
            };
            assert_eq!(now, s.default, "{}", s.name);
            let number = s.default.number();
            assert!(s.min <= number && number <= s.max && !s.doc.is_empty(), "{}", s.name);
        }
    }

    #[test]
    fn values_out_of_bounds_and_of_the_wrong_type_are_refused() {
        let mut settings = Settings::default();
        for (name, value) in [
            ("target_accept", Value::Float(1.5)),
            ("target_accept", Value::Float(f64::NAN)),
            ("maxdepth", Value::Int(0)),
            ("maxdepth", Value::Float(2.5)),
            ("maxdepth", Value::Bool(true)),
            ("pool", Value::Int(1)),
            ("no_such_thing", Value::Int(1)),
        ] {
            assert!(matches!(settings.set(name, value), Err(Error::Setting(_))), "{name} {value:?}");
        }
        settings.set("target_accept", Value::Float(0.9)).unwrap();
        assert_eq!(settings.adapt.target_accept, 0.9);
    }
}
