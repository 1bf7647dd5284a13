//! x
#![allow(clippy::unwrap_used)]
use nutpie_core::device::*;
fn main() {
    for name in ["cuda", "opencl:5", "opencl:x", "vulkan", "opencl"] {
        for single in [false, true] {
            let t = std::time::Instant::now();
            match open(name, DeviceOptions { single }) {
                Ok(_) => println!("{name} ok {:?}", t.elapsed()),
                Err(e) => println!("{name}: {e}"),
            }
        }
    }
}
