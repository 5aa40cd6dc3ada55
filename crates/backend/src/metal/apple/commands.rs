//! The queue: what is being encoded, and what the device has been given.
//!
//! Dispatches of one encoder may run side by side; one that waits has a barrier before it, behind
//! which it sees what those before it wrote. Between encoders and command buffers Metal tracks for
//! itself which use the same buffers.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_metal::{
    MTLBarrierScope, MTLBlitCommandEncoder, MTLCommandBuffer, MTLCommandBufferStatus, MTLCommandEncoder,
    MTLCommandQueue, MTLComputeCommandEncoder, MTLDispatchType, MTLSize,
};

use super::buffer::MetalBuffer;
use super::graphs::Graphs;
use super::library::Kernel;
use super::residency::Residency;
use super::{Device, failed, products};
use crate::Result;
use crate::gpu::{Matrices, Shape};
use crate::metal::failures::{Failures, Serial};

/// Launches after which the device is given what was encoded, so that it does not wait for the rest.
const LAUNCHES: usize = 64;
/// Estimated operations after which it is, so that fewer command buffers run so long that macOS ends
/// them: a fifth of a second at a tenth of an M1's peak. A single launch may have more.
const OPERATIONS: u64 = 50_000_000_000;
/// Places for buffers, the arguments' among them.
const MAX_BUFFERS: usize = 31;
/// What places and lengths of the device's copies are multiples of.
pub const COPY_ALIGNMENT: usize = 4;

type CommandBuffer = ProtocolObject<dyn MTLCommandBuffer>;

/// One command queue.
pub struct Commands {
    queue: Retained<ProtocolObject<dyn MTLCommandQueue>>,
    residency: Option<Arc<Residency>>,
    /// The last that was committed.
    committed: Serial,
    /// All up to this one have ended.
    done: Serial,
    /// Committed and not known to have ended, the oldest first.
    in_flight: VecDeque<Retained<CommandBuffer>>,
    open: Option<Open>,
    failures: Failures,
}

// SAFETY: Metal's objects are counted atomically; command buffers and encoders may be used from any
// thread, one at a time, as `&mut self` sees to.
unsafe impl Send for Commands {}

/// A command buffer that is being encoded.
struct Open {
    /// Before the buffer: fields are dropped in their order.
    encoder: Encoder,
    buffer: Retained<CommandBuffer>,
    /// Whether the encoder has launches.
    is_running: bool,
    launches: usize,
    operations: u64,
}

/// What is being encoded into it.
enum Encoder {
    Nothing,
    Launches(Retained<ProtocolObject<dyn MTLComputeCommandEncoder>>),
    Copies(Retained<ProtocolObject<dyn MTLBlitCommandEncoder>>),
}

impl Drop for Encoder {
    fn drop(&mut self) {
        // An encoder that is let go of before its end is an exception.
        match self {
            Self::Nothing => {}
            Self::Launches(encoder) => encoder.endEncoding(),
            Self::Copies(encoder) => encoder.endEncoding(),
        }
    }
}

impl Commands {
    /// Nothing is encoded yet.
    pub fn new(
        queue: Retained<ProtocolObject<dyn MTLCommandQueue>>,
        residency: Option<Arc<Residency>>,
    ) -> Self {
        Self {
            queue,
            residency,
            committed: Serial::default(),
            done: Serial::default(),
            in_flight: VecDeque::new(),
            open: None,
            failures: Failures::default(),
        }
    }

    /// The command buffer that is being encoded, or will be next.
    fn next(&self) -> Serial {
        self.committed.next()
    }

    fn open(&mut self) -> Result<&mut Open> {
        if self.open.is_none() {
            let buffer = self.queue.commandBuffer();
            let buffer = buffer.ok_or_else(|| failed("encoding", "the queue gives no command buffer"))?;
            self.open = Some(Open {
                encoder: Encoder::Nothing,
                buffer,
                is_running: false,
                launches: 0,
                operations: 0,
            });
        }
        Ok(self.open.as_mut().expect("it is open now"))
    }

    /// Encodes a launch: `args` as buffer 0, then the buffers.
    pub fn launch(
        &mut self,
        kernel: &Kernel,
        shape: Shape,
        args: &[u32],
        buffers: &[(&MetalBuffer, usize)],
    ) -> Result<()> {
        kernel.check(shape)?;
        if buffers.len() >= MAX_BUFFERS {
            return Err(failed(
                "encoding",
                format!("{} buffers are more than a kernel can have", buffers.len()),
            ));
        }
        let serial = self.next();
        let open = self.open()?;
        let encoder = open.launches()?;
        // Nobody else is in a new encoder; the framework sees to those before it.
        if shape.waits && open.is_running {
            encoder.memoryBarrierWithScope(MTLBarrierScope::Buffers);
        }
        open.is_running = true;
        encoder.setComputePipelineState(kernel.pipeline());
        if !args.is_empty() {
            let bytes = NonNull::from(args).cast::<c_void>();
            // SAFETY: the pointer is to as many bytes, which are copied, and 0 is a place for a buffer.
            unsafe { encoder.setBytes_length_atIndex(bytes, size_of_val(args), 0) };
        }
        for (i, &(buffer, offset)) in buffers.iter().enumerate() {
            let place = buffer.place(offset, 0);
            // SAFETY: both places were checked. That kernels have as many buffers and stay inside of them
            // is what lowering and the checks of a run's inputs see to, and what the emulator tests.
            unsafe { encoder.setBuffer_offset_atIndex(Some(buffer.used_by(serial)), place, i + 1) };
        }
        let size =
            |width: u32, height: u32| MTLSize { width: width as usize, height: height as usize, depth: 1 };
        let groups = size(shape.groups.0, shape.groups.1);
        encoder.dispatchThreadgroups_threadsPerThreadgroup(groups, size(shape.threads, 1));
        open.launches += 1;
        open.operations = open.operations.saturating_add(shape.work.operations);
        if open.launches >= LAUNCHES || open.operations >= OPERATIONS {
            self.commit();
        }
        Ok(())
    }

    /// Encodes a product of matrices, each from an offset on.
    pub fn multiply(
        &mut self,
        device: &Device,
        matrices: Matrices,
        operands: [(&MetalBuffer, usize); 3],
    ) -> Result<()> {
        let serial = self.next();
        let open = self.open()?;
        // It has an encoder of its own; between encoders the framework sees to what waits for what.
        open.encoder = Encoder::Nothing;
        products::encode(device, (&open.buffer, serial), matrices, operands);
        self.count_product();
        Ok(())
    }

    /// Encodes a product of matrices by a graph, each from an offset on.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where the graph cannot be compiled.
    pub fn multiply_by_graph(
        &mut self,
        device: &Device,
        graphs: &mut Graphs,
        matrices: Matrices,
        operands: [(&MetalBuffer, usize); 3],
    ) -> Result<()> {
        // The framework may commit what was encoded by itself.
        if let Some(residency) = &self.residency {
            residency.update();
        }
        let serial = self.next();
        let open = self.open()?;
        open.encoder = Encoder::Nothing;
        let buffer = graphs.encode(device, (&open.buffer, serial), matrices, operands)?;
        if Retained::as_ptr(&buffer) != Retained::as_ptr(&open.buffer) {
            // It did. Part of the product may be in the new one.
            (open.launches, open.operations) = (0, 0);
            let committed = std::mem::replace(&mut open.buffer, buffer);
            self.in_flight.push_back(committed);
            self.committed = serial;
            for (buffer, _) in operands {
                buffer.used_by(serial.next());
            }
        }
        self.count_product();
        Ok(())
    }

    /// Gives the device what was encoded, if that was enough.
    fn count_product(&mut self) {
        let Some(open) = &mut self.open else { return };
        open.launches += 1;
        if open.launches >= LAUNCHES {
            self.commit();
        }
    }

    /// Encodes a copy; in the framework's buffers all numbers are multiples of [`COPY_ALIGNMENT`].
    pub fn copy(
        &mut self,
        (from, from_at): (&MetalBuffer, usize),
        (to, to_at): (&MetalBuffer, usize),
        bytes: usize,
    ) -> Result<()> {
        let (from_at, to_at) = (from.place(from_at, bytes), to.place(to_at, bytes));
        let is_aligned = [from_at, to_at, bytes].iter().all(|n| n.is_multiple_of(COPY_ALIGNMENT));
        assert!(is_aligned, "the device copies whole words only");
        let serial = self.next();
        let encoder = self.open()?.copies()?;
        let (from, to) = (from.used_by(serial), to.used_by(serial));
        // SAFETY: both ranges were checked and lie in their buffers, which the command buffer keeps.
        unsafe {
            encoder
                .copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(from, from_at, to, to_at, bytes);
        }
        Ok(())
    }

    /// Gives the device what was encoded; what comes back ends with it.
    pub fn commit(&mut self) -> Serial {
        if let Some(Open { encoder, buffer, .. }) = self.open.take() {
            drop(encoder);
            if let Some(residency) = &self.residency {
                residency.update();
            }
            buffer.commit();
            self.in_flight.push_back(buffer);
            self.committed = self.next();
        }
        self.committed
    }

    /// Whether all that was encoded up to `serial` has ended.
    pub fn is_done(&mut self, serial: Serial) -> bool {
        let ended = |buffer: &CommandBuffer| {
            matches!(buffer.status(), MTLCommandBufferStatus::Completed | MTLCommandBufferStatus::Error)
        };
        while serial > self.done && self.in_flight.front().is_some_and(|buffer| ended(buffer)) {
            self.retire();
        }
        serial <= self.done
    }

    /// Waits for all up to `serial`, which was committed.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when one of them failed ([`Failures`]).
    pub fn wait(&mut self, serial: Serial) -> Result<()> {
        while serial > self.done && !self.in_flight.is_empty() {
            self.retire();
        }
        let begun = self.begun();
        match self.failures.told_to(serial, begun) {
            None => Ok(()),
            Some(reason) => Err(failed("running kernels", reason)),
        }
    }

    /// Commits what was encoded and waits for all.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn finish(&mut self) -> Result<()> {
        let last = self.commit();
        self.wait(last)
    }

    /// The last command buffer that was begun.
    fn begun(&self) -> Serial {
        if self.open.is_some() { self.next() } else { self.committed }
    }

    /// Waits for the oldest command buffer, and notes how it ended.
    fn retire(&mut self) {
        let Some(buffer) = self.in_flight.pop_front() else { return };
        buffer.waitUntilCompleted();
        self.done = self.done.next();
        if buffer.status() == MTLCommandBufferStatus::Error {
            let error = buffer.error().map(|e| format!("{} (code {})", e.localizedDescription(), e.code()));
            let reason = error.unwrap_or_else(|| "the device does not say why".to_owned());
            let begun = self.begun();
            self.failures.note(self.done, begun, reason);
        }
    }
}

impl Open {
    /// The encoder for launches.
    fn launches(&mut self) -> Result<Retained<ProtocolObject<dyn MTLComputeCommandEncoder>>> {
        if let Encoder::Launches(encoder) = &self.encoder {
            return Ok(encoder.clone());
        }
        // One ends before another begins.
        self.encoder = Encoder::Nothing;
        let encoder = self.buffer.computeCommandEncoderWithDispatchType(MTLDispatchType::Concurrent);
        let encoder = encoder.ok_or_else(|| failed("encoding", "there is no encoder for launches"))?;
        self.encoder = Encoder::Launches(encoder.clone());
        self.is_running = false;
        Ok(encoder)
    }

    /// The encoder for copies.
    fn copies(&mut self) -> Result<Retained<ProtocolObject<dyn MTLBlitCommandEncoder>>> {
        if let Encoder::Copies(encoder) = &self.encoder {
            return Ok(encoder.clone());
        }
        self.encoder = Encoder::Nothing;
        let encoder = self.buffer.blitCommandEncoder();
        let encoder = encoder.ok_or_else(|| failed("encoding", "there is no encoder for copies"))?;
        self.encoder = Encoder::Copies(encoder.clone());
        Ok(encoder)
    }
}
