//! Memory that the host and the GPU share.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use block2::RcBlock;
use gguf::Bytes;
use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_metal::{MTLBuffer, MTLDevice, MTLResourceOptions};

use super::residency::{Residency, Resident};
use super::{Device, failed};
use crate::metal::failures::Serial;
use crate::{Error, Result};

/// What no-copy buffers must start and end at; a mapping does.
const PAGE: usize = if cfg!(target_arch = "aarch64") { 16 << 10 } else { 4 << 10 };
/// The widest loads of kernels.
const LOAD: usize = 16;

/// Whose memory it is, and where it is kept mapped.
type On<'a> = (&'a Device, Option<&'a Arc<Residency>>);

/// Part of a Metal buffer.
pub struct MetalBuffer {
    /// Before the memory: fields are dropped in their order.
    _resident: Option<Resident>,
    memory: Retained<ProtocolObject<dyn MTLBuffer>>,
    /// Where it begins in `memory`.
    start: usize,
    bytes: usize,
    last_use: Cell<Serial>,
}

// SAFETY: Metal's objects are counted atomically, and the contents are read and written by the one
// thread that has the runtime.
unsafe impl Send for MetalBuffer {}

impl MetalBuffer {
    /// `bytes` of zeroed memory.
    pub fn new((device, residency): On<'_>, what: &str, bytes: usize) -> Result<Self> {
        let most = device.maxBufferLength();
        if bytes > most {
            let reason = format!("one buffer has at most {most} bytes on this device");
            return Err(failed(&format!("allocating {bytes} bytes for {what}"), reason));
        }
        let total = device.recommendedMaxWorkingSetSize();
        let available = total.saturating_sub(device.currentAllocatedSize() as u64);
        let out_of_memory = || Error::OutOfMemory {
            what: what.to_owned(),
            needed: bytes as u64,
            available,
            total,
            advice: "use a smaller model or format, or a shorter context".to_owned(),
        };
        // More than that the framework gives too, and pages it in and out while kernels run.
        if bytes as u64 > available {
            return Err(out_of_memory());
        }
        let memory = device.newBufferWithLength_options(bytes, MTLResourceOptions::StorageModeShared);
        let memory = memory.ok_or_else(out_of_memory)?;
        // SAFETY: it has so many bytes, and nobody else knows of it yet.
        unsafe { memory.contents().cast::<u8>().write_bytes(0, bytes) };
        Ok(Self::of(memory, residency, 0, bytes))
    }

    /// The bytes of a mapped file where they lie, which the device only reads; `None` for other
    /// bytes, and where the device cannot.
    pub fn lent((device, residency): On<'_>, bytes: &Bytes) -> Option<Self> {
        let mapped = bytes.mapping()?.as_slice();
        let (base, at) = (mapped.as_ptr().addr(), bytes.as_ptr().addr());
        if !base.is_multiple_of(PAGE) || !at.is_multiple_of(LOAD) || bytes.is_empty() {
            return None;
        }
        // Whole pages around them. The last page of a mapping is there to its end.
        let first = (at - base) / PAGE * PAGE;
        let pages = (at - base + bytes.len()).next_multiple_of(PAGE) - first;
        if pages > device.maxBufferLength() {
            return None;
        }
        let pointer = NonNull::from(&mapped[first]).cast::<c_void>();
        let owner = bytes.clone();
        // Metal lets go of the block with the buffer, when no command uses it any more.
        let release = RcBlock::new(move |_: NonNull<c_void>, _: usize| {
            let _ = &owner;
        });
        let options = MTLResourceOptions::StorageModeShared;
        // SAFETY: the pages are mapped as long as the block lives, which owns a handle of the mapping
        // that may be dropped on any thread; kernels never write to weights.
        let memory = unsafe {
            device.newBufferWithBytesNoCopy_length_options_deallocator(
                pointer,
                pages,
                options,
                Some(&release),
            )
        };
        Some(Self::of(memory?, residency, at - base - first, bytes.len()))
    }

    fn of(
        memory: Retained<ProtocolObject<dyn MTLBuffer>>,
        residency: Option<&Arc<Residency>>,
        start: usize,
        bytes: usize,
    ) -> Self {
        let resident = residency.and_then(|residency| residency.add(&memory));
        Self { _resident: resident, memory, start, bytes, last_use: Cell::default() }
    }

    /// Its length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The command buffer that uses it last.
    pub fn last_use(&self) -> Serial {
        self.last_use.get()
    }

    /// For commands of the command buffer `serial`.
    pub fn used_by(&self, serial: Serial) -> &ProtocolObject<dyn MTLBuffer> {
        self.last_use.set(serial);
        &self.memory
    }

    /// Where `offset` lies in the Metal buffer; `bytes` must still fit.
    pub fn place(&self, offset: usize, bytes: usize) -> usize {
        let end = offset.checked_add(bytes).filter(|&end| end <= self.bytes);
        assert!(end.is_some(), "{bytes} bytes at {offset} leave a buffer of {}", self.bytes);
        self.start + offset
    }

    /// The host's address of a place.
    pub fn address(&self, place: usize) -> *mut u8 {
        self.memory.contents().as_ptr().cast::<u8>().wrapping_add(place)
    }

    /// Writes.
    ///
    /// # Safety
    /// No command that was encoded and has not ended uses it.
    pub unsafe fn write(&self, offset: usize, bytes: &[u8]) {
        let to = self.address(self.place(offset, bytes.len()));
        // SAFETY: the range was checked; no command uses it, as the caller says, and no other thread.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    /// Reads.
    ///
    /// # Safety
    /// No command that was encoded and has not ended writes to it.
    pub unsafe fn read(&self, offset: usize, bytes: &mut [u8]) {
        let from = self.address(self.place(offset, bytes.len()));
        // SAFETY: as in `write`.
        unsafe { from.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
    }
}
