//! NVIDIA GPUs, through the driver that is found when the program runs.

mod cache;
mod compiler;
mod devices;
mod driver;
mod memory;
mod modules;
pub mod nvrtc;
mod users;

use std::path::PathBuf;

pub use devices::{Device, Driver};
pub use driver::CudaRuntime;

use crate::Result;
use crate::gpu::{Activations, Gpu};

/// How to use CUDA.
#[derive(Debug, Clone, Default)]
pub struct CudaOptions {
    /// Which device, as the driver counts them.
    pub device: usize,
    /// What generated rows are multiplied as; `None` is the faster for so many replies.
    pub activations: Option<Activations>,
    /// How many replies are to be computed at once.
    pub replies: usize,
    /// Where compiled kernels are kept; `None` compiles them in each process.
    pub kernel_cache: Option<PathBuf>,
    /// The NVRTC library, where it is not among the system's.
    pub nvrtc: Option<PathBuf>,
    /// Another device that this one stands in for, in checks.
    pub stand_in: Option<StandIn>,
}

/// A device whose kernels another runs: what is compiled for it and chosen for it, in the memory that
/// a threadgroup has there.
///
/// What it cannot show is how fast that device is, and instructions that are newer than the one
/// that runs them: they are left out, as for a device in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandIn {
    /// Its compute capability, 89 for 8.9.
    pub arch: u32,
    /// Most bytes of shared memory that a block may ask for.
    pub shared_limit: u32,
}

impl StandIn {
    /// The device of compute capability `arch`, but for 9.0, whose own instructions are in machine code alone;
    /// `None` where its shared memory is not known here (CUDA C++ Programming Guide, "Technical Specifications per
    /// Compute Capability").
    pub fn of(arch: u32) -> Option<Self> {
        let kilobytes = match arch {
            75 => 64,
            80 | 87 => 163,
            86 | 89 | 120 | 121 => 99,
            100 | 103 => 227,
            _ => return None,
        };
        Some(Self { arch, shared_limit: kilobytes << 10 })
    }
}

/// Replies at once up to which 8-bit integers are faster (docs/performance.md, "Replies as integers or
/// bfloat16"); devices without warpgroups were not measured.
const MOST_INT8_REPLIES: usize = 8;

impl CudaOptions {
    /// What generated rows are multiplied as on a device that has warpgroups or not.
    fn activations(&self, has_warpgroups: bool) -> Activations {
        let default = match has_warpgroups && self.replies > MOST_INT8_REPLIES {
            true => Activations::Bf16,
            false => Activations::Int8,
        };
        self.activations.unwrap_or(default)
    }
}

/// The CUDA backend.
pub type Cuda = Gpu<CudaRuntime>;

impl Cuda {
    /// Opens a device.
    ///
    /// # Errors
    /// [`crate::Error::Unavailable`] without driver or device.
    pub fn open(options: &CudaOptions) -> Result<Self> {
        Ok(Self::new(CudaRuntime::open(options)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn many_replies_are_multiplied_as_bfloat16_where_warpgroups_do_it() {
        let options = |activations, replies| CudaOptions { activations, replies, ..CudaOptions::default() };
        assert_eq!(options(None, 8).activations(true), Activations::Int8);
        assert_eq!(options(None, 9).activations(true), Activations::Bf16);
        assert_eq!(options(None, 64).activations(false), Activations::Int8);
        assert_eq!(options(Some(Activations::Bf16), 1).activations(false), Activations::Bf16);
        assert_eq!(options(Some(Activations::Int8), 64).activations(true), Activations::Int8);
    }

    #[test]
    fn a_machine_without_the_device_says_so() {
        let options = CudaOptions { device: 1000, ..CudaOptions::default() };
        match Cuda::open(&options) {
            Err(Error::Unavailable { backend: "cuda", .. }) => {}
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("there are no 1001 devices"),
        }
    }

    #[test]
    fn a_missing_compiler_is_named() {
        let error = nvrtc::Nvrtc::load(Some("no/such/libnvrtc.so".as_ref())).err();
        let error = error.expect("the file is not there").to_string();
        assert!(error.contains("no/such/libnvrtc.so"), "{error}");
    }
}
