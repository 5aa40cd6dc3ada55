//! Memory that the device keeps mapped between command buffers, instead of mapping it for each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use objc2::rc::Retained;
use objc2::runtime::{NSObjectProtocol, ProtocolObject};
use objc2::sel;
use objc2_metal::{MTLBuffer, MTLCommandQueue, MTLDevice, MTLResidencySet, MTLResidencySetDescriptor};

use super::{Device, refused};

/// A set of buffers, of macOS 15 and later.
pub struct Residency {
    set: Retained<ProtocolObject<dyn MTLResidencySet>>,
    /// Whether something was added or removed since the framework was told to look.
    is_changed: AtomicBool,
    bytes: AtomicU64,
    /// The most that it may have.
    limit: u64,
}

// SAFETY: Metal's objects are counted atomically, and the set is changed by the one thread that has
// the runtime and its buffers.
unsafe impl Send for Residency {}
// SAFETY: as above.
unsafe impl Sync for Residency {}

impl Residency {
    /// An empty set for all command buffers of `queue`; `None` before macOS 15 and where the device
    /// refuses one: there the framework looks after all buffers by itself.
    pub fn new(device: &Device, queue: &ProtocolObject<dyn MTLCommandQueue>) -> Option<Arc<Self>> {
        if !device.respondsToSelector(sel!(newResidencySetWithDescriptor:error:)) {
            return None;
        }
        let descriptor = MTLResidencySetDescriptor::new();
        let set = device.newResidencySetWithDescriptor_error(&descriptor);
        let set = set.map_err(refused("making a residency set"));
        let set = set.inspect_err(|error| tracing::warn!("memory is not kept resident: {error}")).ok()?;
        queue.addResidencySet(&set);
        let limit = device.recommendedMaxWorkingSetSize();
        Some(Arc::new(Self { set, is_changed: AtomicBool::new(false), bytes: AtomicU64::new(0), limit }))
    }

    /// Adds a buffer, if all together is no more than the device recommends: what is mapped beyond
    /// that would push out everything else.
    pub fn add(self: &Arc<Self>, memory: &ProtocolObject<dyn MTLBuffer>) -> Option<Resident> {
        let bytes = memory.length() as u64;
        if self.bytes.load(Ordering::Relaxed).saturating_add(bytes) > self.limit {
            return None;
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.set.addAllocation(ProtocolObject::from_ref(memory));
        self.is_changed.store(true, Ordering::Relaxed);
        Some(Resident { residency: self.clone(), memory: memory.into() })
    }

    /// Has the framework map what was added and unmap what was removed, before a command buffer.
    pub fn update(&self) {
        if self.is_changed.swap(false, Ordering::Relaxed) {
            self.set.commit();
            self.set.requestResidency();
        }
    }
}

/// A buffer's place in the set, left when dropped.
pub struct Resident {
    residency: Arc<Residency>,
    memory: Retained<ProtocolObject<dyn MTLBuffer>>,
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.residency.bytes.fetch_sub(self.memory.length() as u64, Ordering::Relaxed);
        self.residency.set.removeAllocation(ProtocolObject::from_ref(&*self.memory));
        self.residency.is_changed.store(true, Ordering::Relaxed);
    }
}
