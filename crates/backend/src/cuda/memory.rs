//! Memory of the device and of the host, freed when dropped, and copies from one to the other.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, result, sys};

use super::driver::failed;
use crate::{Error, Memory, Result};

/// Device memory.
pub struct DeviceBuffer {
    context: Arc<CudaContext>,
    start: sys::CUdeviceptr,
    bytes: usize,
}

impl DeviceBuffer {
    /// `bytes` of memory, at least one, that the stream sets to zero.
    pub(super) fn zeroed(stream: &CudaStream, what: &str, bytes: usize) -> Result<Self> {
        let bytes = bytes.max(1);
        let context = stream.context().clone();
        // SAFETY: the memory is set to zero before anyone can read it.
        let start = unsafe { result::malloc_sync(bytes) };
        let start = start.map_err(|e| match (e.0, memory(&context)) {
            (sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY, Some(Memory { available, total })) => {
                Error::OutOfMemory {
                    what: what.to_owned(),
                    needed: bytes as u64,
                    available,
                    total,
                    advice: "use a smaller model or format, or a shorter context".to_owned(),
                }
            }
            _ => failed(&format!("allocating {bytes} bytes for {what}"))(e),
        })?;
        let buffer = Self { context, start, bytes };
        // SAFETY: the range is the whole allocation.
        let zeroed = unsafe { result::memset_d8_async(start, 0, bytes, stream.cu_stream()) };
        zeroed.map_err(failed("clearing memory"))?;
        Ok(buffer)
    }

    /// The address of `offset`, where `bytes` must still fit.
    pub(super) fn range(&self, offset: usize, bytes: usize) -> sys::CUdeviceptr {
        let end = offset.checked_add(bytes).filter(|&end| end <= self.bytes);
        assert!(end.is_some(), "{bytes} bytes at {offset} leave a buffer of {}", self.bytes);
        self.start + offset as sys::CUdeviceptr
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        // What fails here has failed before: the context is gone.
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: `start` came from `malloc_sync` and is freed once; the
            // driver waits until nothing enqueued uses it.
            let _ = unsafe { result::free_sync(self.start) };
        }
    }
}

/// Free and total memory of a device.
pub(super) fn memory(context: &CudaContext) -> Option<Memory> {
    let (available, total) = context.mem_get_info().ok()?;
    Some(Memory { available: available as u64, total: total as u64 })
}

/// Host memory that the device copies to by itself.
pub(super) struct PinnedMemory {
    context: Arc<CudaContext>,
    start: *mut u8,
    pub bytes: usize,
}

// SAFETY: it owns its memory.
unsafe impl Send for PinnedMemory {}

impl PinnedMemory {
    /// At least `bytes`.
    pub fn new(context: &Arc<CudaContext>, bytes: usize) -> Result<Self> {
        let bytes = bytes.max(1).next_power_of_two();
        // SAFETY: no flags; what is read of it has been written by a copy.
        let start = unsafe { result::malloc_host(bytes, 0) }.map_err(failed("reserving host memory"))?;
        Ok(Self { context: context.clone(), start: start.cast(), bytes })
    }

    /// Frees it if the copies into it are `over`; where that cannot be known the device may
    /// still write to it, and it stays reserved.
    fn free_after(self, over: bool) {
        if !over {
            std::mem::forget(self);
        }
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: `start` came from `malloc_host` and is freed once; copies into it have ended,
            // or it would have been forgotten.
            let _ = unsafe { result::free_host(self.start.cast()) };
        }
    }
}

/// Copies to the host that are under way.
pub struct Fetch {
    /// The end of the copies.
    done: CudaEvent,
    /// Until it is given back.
    memory: Option<PinnedMemory>,
    bytes: usize,
}

impl Fetch {
    /// Enqueues copies of parts of buffers, `(buffer, offset, bytes)`, into memory that they fit into.
    pub(super) fn start(
        stream: &CudaStream,
        memory: PinnedMemory,
        parts: &[(&DeviceBuffer, usize, usize)],
    ) -> Result<Self> {
        let bytes: usize = parts.iter().map(|(.., bytes)| bytes).sum();
        assert!(bytes <= memory.bytes, "{bytes} bytes do not fit into {}", memory.bytes);
        let mark = |()| stream.record_event(None).map_err(failed("marking the end of copies"));
        match enqueue(stream, &memory, parts).and_then(mark) {
            Ok(done) => Ok(Self { done, memory: Some(memory), bytes }),
            Err(error) => {
                // Some copies may be under way.
                memory.free_after(stream.synchronize().is_ok());
                Err(error)
            }
        }
    }

    /// Waits; what was copied, and the memory, to be used again.
    pub(super) fn wait(mut self) -> Result<(Vec<u8>, PinnedMemory)> {
        self.done.synchronize().map_err(failed("waiting for the device"))?;
        let memory = self.memory.take().expect("it is given back once");
        // SAFETY: the copies have ended, and wrote as many bytes.
        let bytes = unsafe { std::slice::from_raw_parts(memory.start, self.bytes) }.to_vec();
        Ok((bytes, memory))
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            memory.free_after(self.done.synchronize().is_ok());
        }
    }
}

/// Enqueues copies, which may be under way even where this fails.
fn enqueue(
    stream: &CudaStream,
    memory: &PinnedMemory,
    parts: &[(&DeviceBuffer, usize, usize)],
) -> Result<()> {
    let mut at = 0;
    for &(buffer, offset, n) in parts {
        let from = buffer.range(offset, n);
        // SAFETY: the part lies in the memory, which lives until the copies have ended.
        let to = unsafe { std::slice::from_raw_parts_mut(memory.start.add(at), n) };
        // SAFETY: as above; the range was checked.
        unsafe { result::memcpy_dtoh_async(to, from, stream.cu_stream()) }
            .map_err(failed("copying from the device"))?;
        at += n;
    }
    Ok(())
}
