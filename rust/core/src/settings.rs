//! Settings: every part of the sampler declares its own, once, with default, bounds and a line of documentation. Front
//! ends build their keywords, checks and documentation from the declarations.

use serde::{Deserialize, Serialize};

use crate::adapt::{AdaptSettings, pool};
use crate::error::{Error, Result};
use crate::integrate::Integrator;
use crate::kernel::Sampler;
use crate::kernel::hmc::HmcSettings;
use crate::kernel::mams::MamsSettings;
use crate::kernel::nuts::NutsSettings;
use crate::kernel::walnuts::WalnutsSettings;

/// The value of a setting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A real number.
    Float(f64),
    /// A whole number.
    Int(u64),
    /// True or false.
    Bool(bool),
    /// One of these names, of which a default is the first; set by [`Settings::choose`].
    Name(&'static [&'static str]),
}

impl Value {
    fn number(self) -> f64 {
        match self {
            Value::Float(v) => v,
            Value::Int(v) => v as f64,
            Value::Bool(v) => f64::from(u8::from(v)),
            Value::Name(_) => 0.0,
        }
    }
}

/// Something that has one of some names.
pub trait Named {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Change it to that of a name; false if there is none.
    fn choose(&mut self, name: &str) -> bool;
}

/// The place of a setting in its struct.
pub enum Field<'a> {
    /// A real number.
    Float(&'a mut f64),
    /// A whole number.
    Int(&'a mut u64),
    /// True or false.
    Bool(&'a mut bool),
    /// One of some names.
    Name(&'a mut dyn Named),
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
    /// How the kernel of the draws after the warm-up is chosen.
    pub sampler: Sampler,
    /// How steps are made, where the sampler leaves a choice.
    pub integrator: Integrator,
    /// Settings of the no-U-turn sampler.
    pub nuts: NutsSettings,
    /// Settings of the Metropolis-adjusted microcanonical sampler.
    pub mams: MamsSettings,
    /// Settings of Hamiltonian Monte Carlo with trajectories of fixed length.
    pub hmc: HmcSettings,
    /// Settings of the no-U-turn sampler that adapts its steps within a trajectory.
    pub walnuts: WalnutsSettings,
    /// Settings of the adaptation.
    pub adapt: AdaptSettings,
}

impl Settings {
    /// The declarations of all settings that [`Settings::set`] knows.
    pub fn declared() -> impl Iterator<Item = &'static Setting> {
        NutsSettings::SETTINGS
            .iter()
            .chain(AdaptSettings::SETTINGS)
            .chain(MamsSettings::SETTINGS)
            .chain(Integrator::SETTINGS)
            .chain(HmcSettings::SETTINGS)
            .chain(WalnutsSettings::SETTINGS)
    }

    fn field(&mut self, name: &str) -> Option<Field<'_>> {
        self.nuts
            .field(name)
            .or_else(|| self.adapt.field(name))
            .or_else(|| self.mams.field(name))
            .or_else(|| self.integrator.field(name))
            .or_else(|| self.hmc.field(name))
            .or_else(|| self.walnuts.field(name))
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
        let Some(field) = self.field(name) else {
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
            (Field::Name(_), _) | (_, Value::Name(_)) => {
                return Err(Error::Setting(format!("{name} is {value:?}, not one of its names")));
            }
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

    /// Change the setting of a name that has names for values.
    pub fn choose(&mut self, name: &str, value: &str) -> Result<()> {
        match self.field(name) {
            Some(Field::Name(field)) => match field.choose(value) {
                true => Ok(()),
                false => Err(Error::Setting(format!("{name} cannot be {value:?}"))),
            },
            Some(_) => Err(Error::Setting(format!("{name} must be a number, not {value:?}"))),
            None => Err(Error::Setting(format!("there is no setting {name:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_match_the_fields_and_their_defaults() {
        let mut settings = Settings::default();
        for s in Settings::declared() {
            let now = match settings.field(s.name) {
                Some(Field::Float(v)) => Value::Float(*v),
                Some(Field::Int(v)) => Value::Int(*v),
                Some(Field::Bool(v)) => Value::Bool(*v),
                Some(Field::Name(v)) => {
                    let Value::Name(names) = s.default else { panic!("{} has no names", s.name) };
                    assert_eq!(v.name(), names[0], "{}", s.name);
                    assert!(names.iter().all(|name| v.choose(name) && v.name() == *name), "{}", s.name);
                    assert!(!v.choose("no such thing"));
                    continue;
                }
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
