//! NVIDIA GPUs, through the driver that is found when the program runs.

mod cache;
mod driver;
pub mod nvrtc;

use std::path::PathBuf;

pub use driver::CudaRuntime;

use crate::Result;
use crate::gpu::Gpu;

/// How to use CUDA.
#[derive(Debug, Clone, Default)]
pub struct CudaOptions {
    /// Which device, as the driver counts them.
    pub device: usize,
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
