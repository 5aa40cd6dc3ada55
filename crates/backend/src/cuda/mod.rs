//! NVIDIA GPUs, through the driver that is found when the program runs.

mod cache;
mod devices;
mod driver;
mod memory;
mod modules;
pub mod nvrtc;

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
    /// What generated rows are multiplied as.
    pub activations: Activations,
    /// Where compiled kernels are kept; `None` compiles them in each process.
    pub kernel_cache: Option<PathBuf>,
    /// The NVRTC library, where it is not among the system's.
    pub nvrtc: Option<PathBuf>,
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
