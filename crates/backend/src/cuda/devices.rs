//! Which devices there are, asked of the driver without using any of them.

use cudarc::driver::{DriverError, result, sys};

use super::driver::failed;
use crate::Result;

/// The driver and the devices it can use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// The newest CUDA that it runs, as in 12.9.
    pub version: (i32, i32),
    /// In the order in which [`super::CudaOptions::device`] counts them.
    pub devices: Vec<Device>,
}

/// A GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// As its maker calls it.
    pub name: String,
    /// Compute capability, as in 9.0.
    pub capability: (i32, i32),
    /// Bytes of memory, used ones included.
    pub memory: u64,
}

impl Driver {
    /// The driver of this machine; `None` where none is installed.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where it is installed but does not work.
    pub fn find() -> Result<Option<Self>> {
        // SAFETY: it only tries to load the driver's library, which has no requirements.
        if !unsafe { sys::is_culib_present() } {
            return Ok(None);
        }
        let mut version = 0;
        // SAFETY: the pointer is to a live integer; the call needs no initialisation.
        unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(failed("asking for the driver"))?;
        let devices = match result::init() {
            Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => Ok(Vec::new()),
            Err(error) => Err(error),
            Ok(()) => result::device::get_count().and_then(|n| (0..n).map(Device::get).collect()),
        };
        let version = (version / 1000, version % 1000 / 10);
        Ok(Some(Self { version, devices: devices.map_err(failed("asking for devices"))? }))
    }
}

impl Device {
    fn get(index: i32) -> Result<Self, DriverError> {
        use sys::CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
        };
        let device = result::device::get(index)?;
        // SAFETY: the device came from `get`.
        let attribute = |which| unsafe { result::device::get_attribute(device, which) };
        Ok(Self {
            name: result::device::get_name(device)?,
            capability: (attribute(MAJOR)?, attribute(MINOR)?),
            // SAFETY: as above.
            memory: unsafe { result::device::total_mem(device) }? as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_machine_can_be_asked() {
        match Driver::find() {
            Ok(None) => {}
            Ok(Some(driver)) => assert!(driver.version.0 > 0 && driver.devices.iter().all(|d| d.memory > 0)),
            Err(error) => assert!(error.to_string().starts_with("cuda: "), "{error}"),
        }
    }
}
