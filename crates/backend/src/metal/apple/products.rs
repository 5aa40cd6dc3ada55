//! Products of matrices by the framework's own kernels (Metal Performance Shaders).

use objc2::AnyThread;
use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_metal::MTLCommandBuffer;
use objc2_metal_performance_shaders::{
    MPSDataType, MPSMatrix, MPSMatrixDescriptor, MPSMatrixMultiplication, MPSSupportsMTLDevice,
};

use super::Device;
use super::buffer::MetalBuffer;
use crate::gpu::Matrices;
use crate::metal::failures::Serial;

const FLOAT: usize = size_of::<f32>();

/// Whether the framework has kernels for the device.
pub fn are_on(device: &Device) -> bool {
    // SAFETY: it only asks the device what it is.
    unsafe { MPSSupportsMTLDevice(Some(ProtocolObject::from_ref(device))) }
}

/// Encodes `out = scale * x * w^T`, or that added to `out`, each from an offset on, into a command buffer of
/// which no encoder is open.
pub fn encode(
    device: &Device,
    (commands, serial): (&ProtocolObject<dyn MTLCommandBuffer>, Serial),
    Matrices { rows, cols, outs, scale, adds }: Matrices,
    [x, w, out]: [(&MetalBuffer, usize); 3],
) {
    let x = matrix(x, serial, rows, cols);
    let w = matrix(w, serial, outs, cols);
    let out = matrix(out, serial, rows, outs);
    let (alpha, beta) = (f64::from(scale), if adds { 1.0 } else { 0.0 });
    // SAFETY: the matrices have the sizes that it is made for, `w` as what is transposed, all of floats of
    // this device; `out` overlaps neither of the others. The command buffer keeps what they are made of.
    unsafe {
        let multiply = MPSMatrixMultiplication::alloc();
        let multiply = MPSMatrixMultiplication::initWithDevice_transposeLeft_transposeRight_resultRows_resultColumns_interiorColumns_alpha_beta(
            multiply, device, false, true, rows, outs, cols, alpha, beta,
        );
        multiply.encodeToCommandBuffer_leftMatrix_rightMatrix_resultMatrix(commands, &x, &w, &out);
    }
}

/// Floats of a buffer from an offset on, row by row without gaps.
fn matrix(
    (buffer, offset): (&MetalBuffer, usize),
    serial: Serial,
    rows: usize,
    cols: usize,
) -> Retained<MPSMatrix> {
    let start = buffer.place(offset, rows * cols * FLOAT);
    let memory = buffer.used_by(serial);
    // SAFETY: the range was checked and lies in the buffer.
    unsafe {
        let descriptor = MPSMatrixDescriptor::matrixDescriptorWithRows_columns_rowBytes_dataType(
            rows,
            cols,
            cols * FLOAT,
            MPSDataType::Float32,
        );
        MPSMatrix::initWithBuffer_offset_descriptor(MPSMatrix::alloc(), memory, start, &descriptor)
    }
}
