//! The CUDA device that tests run on.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::Result;
use crate::cuda::{Cuda, CudaOptions};

/// The first CUDA device. All tests share its compiled kernels; `nvrtc` is the compiler's file where
/// it is not among the system's libraries.
///
/// # Errors
/// [`crate::Error::Unavailable`] without driver or device.
pub fn cuda(nvrtc: Option<PathBuf>) -> Result<Cuda> {
    let kernel_cache = Some(std::env::temp_dir().join("quarrel-test-kernels"));
    let options = CudaOptions { kernel_cache, nvrtc, ..CudaOptions::default() };
    // As long as one is open, the driver opens others at once.
    static FIRST: Mutex<Option<Cuda>> = Mutex::new(None);
    let mut first = FIRST.lock().unwrap_or_else(PoisonError::into_inner);
    if first.is_none() {
        *first = Some(Cuda::open(&options)?);
    }
    Cuda::open(&options)
}
