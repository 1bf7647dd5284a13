//! The devices that are there.
#![allow(dead_code, clippy::panic, clippy::print_stderr)]

use nutpie_core::device::{Cpu, Device, DeviceOptions, open};

/// A device with the exactness of its arithmetic, relative to the size of numbers.
pub struct Candidate {
    pub name: &'static str,
    pub single: bool,
    /// Of sums and products of numbers of order one.
    pub exactness: f64,
    /// Of a metric that couples parameters, whose directions the CPU device rounds.
    pub coupled_exactness: f64,
}

impl Candidate {
    pub fn open(&self) -> Box<dyn Device> {
        match self.name {
            "cpu" => Box::new(Cpu::new()),
            name => open(name, DeviceOptions { single: self.single }).unwrap_or_else(|e| panic!("{e}")),
        }
    }
}

/// The GPU devices of this machine in double and single precision. Those that NUTPIE_TEST_DEVICES names, separated by commas,
/// must be there; others that are missing are named and left out.
pub fn gpus() -> Vec<Candidate> {
    let wanted = std::env::var("NUTPIE_TEST_DEVICES").unwrap_or_default();
    let mut found = Vec::new();
    for name in ["opencl", "cuda"] {
        match open(name, DeviceOptions::default()) {
            Ok(_) => {
                let [double, single] = [1e-13, 1e-6];
                found.push(Candidate { name, single: false, exactness: double, coupled_exactness: double });
                found.push(Candidate { name, single: true, exactness: single, coupled_exactness: single });
            }
            Err(e) if wanted.split(',').any(|wanted| wanted == name) => panic!("{name} is wanted: {e}"),
            Err(e) => eprintln!("{name} is left out: {e}"),
        }
    }
    found
}

/// All devices.
pub fn all() -> Vec<Candidate> {
    let mut found = gpus();
    found.insert(0, Candidate { name: "cpu", single: false, exactness: 1e-13, coupled_exactness: 1e-5 });
    found
}
