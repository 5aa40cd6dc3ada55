//! Products of matrices by graphs that the framework compiles (Metal Performance Shaders Graph).

use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2::{AnyThread, ClassType, sel};
use objc2_foundation::{NSArray, NSDictionary, NSNumber};
use objc2_metal::MTLCommandBuffer;
use objc2_metal_performance_shaders::{
    MPSCommandBuffer, MPSDataType, MPSNDArray, MPSNDArrayDescriptor, MPSShape,
};
use objc2_metal_performance_shaders_graph::{
    MPSGraph, MPSGraphCompilationDescriptor, MPSGraphDevice, MPSGraphExecutable, MPSGraphOptimization,
    MPSGraphOptions, MPSGraphShapedType, MPSGraphTensor, MPSGraphTensorData,
};

use super::buffer::MetalBuffer;
use super::{Device, failed};
use crate::Result;
use crate::gpu::Matrices;
use crate::metal::failures::Serial;
use crate::metal::kept::Kept;

const FLOAT: usize = size_of::<f32>();
/// Elements of an array are fewer, says the framework.
const MAX_ELEMENTS: usize = 1 << 31;
/// Graphs that are kept: a model has about five sizes of maps, each for ten numbers of rows at most.
const MOST: usize = 64;

type CommandBuffer = ProtocolObject<dyn MTLCommandBuffer>;

/// Whether the framework has what is used here, of macOS 15: arrays that begin within a buffer.
pub fn are_here() -> bool {
    let selector = sel!(initWithBuffer:offset:descriptor:);
    MPSNDArray::class().instance_method(selector).is_some()
        && MPSNDArrayDescriptor::class().instance_method(sel!(setPreferPackedRows:)).is_some()
}

/// Graphs by the sizes that they are for.
pub struct Graphs(Kept<Matrices, Graph>);

/// A compiled product.
struct Graph {
    executable: Retained<MPSGraphExecutable>,
    /// Whether the weight is its first input, of which the framework chooses the order.
    is_weight_first: bool,
}

impl Graphs {
    /// None is compiled yet.
    pub fn new() -> Self {
        Self(Kept::new(MOST))
    }

    /// Encodes `out = scale * x * w^T`, each from an offset on, into a command buffer of which no encoder
    /// is open, compiling it first if need be. The command buffer to go on with: the framework may have
    /// committed the other, and then it has begun another on the same queue.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn encode(
        &mut self,
        device: &Device,
        (commands, serial): (&CommandBuffer, Serial),
        matrices: Matrices,
        [x, w, out]: [(&MetalBuffer, usize); 3],
    ) -> Result<Retained<CommandBuffer>> {
        let Matrices { rows, cols, outs, .. } = matrices;
        let graph = self.0.get(matrices, || compile(device, matrices))?;
        let mut inputs = [tensor(x, serial, rows, cols), tensor(w, serial, outs, cols)];
        if graph.is_weight_first {
            inputs.reverse();
        }
        let inputs = NSArray::from_retained_slice(&inputs);
        let results = NSArray::from_retained_slice(&[tensor(out, serial, rows, outs)]);
        // SAFETY: inputs and results have the shapes and the type that it was compiled for, in its order, and
        // memory of its device, which the command buffer keeps, as it does whatever else is encoded, should the
        // graph be given up; `out` overlaps neither of the others. The command buffer is open and goes on as
        // the one that is given back.
        unsafe {
            let commands = MPSCommandBuffer::commandBufferWithCommandBuffer(commands);
            graph.executable.encodeToCommandBuffer_inputsArray_resultsArray_executionDescriptor(
                &commands,
                &inputs,
                Some(&results),
                None,
            );
            Ok(commands.rootCommandBuffer())
        }
    }
}

/// The product as a graph, compiled for a device.
fn compile(device: &Device, matrices: Matrices) -> Result<Graph> {
    let Matrices { rows, cols, outs, scale, .. } = matrices;
    let what = || format!("compiling a graph for {rows} rows, {cols} columns and {outs} outputs");
    if [(rows, cols), (outs, cols), (rows, outs)].iter().any(|(a, b)| a.saturating_mul(*b) >= MAX_ELEMENTS) {
        return Err(failed(&what(), "the framework takes no matrices so large"));
    }
    let shapes = [shape(rows, cols), shape(outs, cols)];
    // SAFETY: the device is a Metal device, and every tensor is used with the graph that made it, which lives
    // to the end; shapes and types go together, dimensions 0 and 1 are there, and feeds are all placeholders.
    let (executable, weight) = unsafe {
        let graph = MPSGraph::new();
        let [x, w] = shapes
            .each_ref()
            .map(|shape| graph.placeholderWithShape_dataType_name(Some(shape), MPSDataType::Float32, None));
        let transposed = graph.transposeTensor_dimension_withDimension_name(&w, 0, 1, None);
        let product = graph.matrixMultiplicationWithPrimaryTensor_secondaryTensor_name(&x, &transposed, None);
        let scaled = scaled(&graph, product, scale);
        let types = shapes.each_ref().map(|shape| {
            let of_floats = MPSGraphShapedType::alloc();
            MPSGraphShapedType::initWithShape_dataType(of_floats, Some(shape), MPSDataType::Float32)
        });
        let feeds = NSDictionary::from_retained_objects(&[&*x, &*w], &types);
        let executable = graph.compileWithDevice_feeds_targetTensors_targetOperations_compilationDescriptor(
            Some(&MPSGraphDevice::deviceWithMTLDevice(device)),
            &feeds,
            &NSArray::from_retained_slice(&[scaled]),
            None,
            Some(&how()),
        );
        executable.setOptions(MPSGraphOptions::None);
        (executable, w)
    };
    // SAFETY: it only asks for what was compiled.
    let fed = unsafe { executable.feedTensors() }.map(|tensors| tensors.to_vec()).unwrap_or_default();
    match fed.iter().position(|tensor| *tensor == weight) {
        Some(at) if fed.len() == 2 => Ok(Graph { executable, is_weight_first: at == 0 }),
        _ => Err(failed(&what(), format!("it takes {} inputs, which are not those of a product", fed.len()))),
    }
}

/// The product times `scale`.
///
/// # Safety
/// `product` is the graph's.
unsafe fn scaled(
    graph: &MPSGraph,
    product: Retained<MPSGraphTensor>,
    scale: f32,
) -> Retained<MPSGraphTensor> {
    if scale == 1.0 {
        return product;
    }
    // SAFETY: both tensors are the graph's, of one type, and a scalar goes with any shape.
    unsafe {
        let scale = graph.constantWithScalar_dataType(scale.into(), MPSDataType::Float32);
        graph.multiplicationWithPrimaryTensor_secondaryTensor_name(&product, &scale, None)
    }
}

/// How graphs are compiled: at once, and for the GPU alone. At the level above, parts of them may go to the
/// neural engine, which multiplies halves.
fn how() -> Retained<MPSGraphCompilationDescriptor> {
    // SAFETY: these only set what is asked for.
    unsafe {
        let how = MPSGraphCompilationDescriptor::new();
        how.setOptimizationLevel(MPSGraphOptimization::Level0);
        how.setWaitForCompilationCompletion(true);
        how
    }
}

fn shape(rows: usize, cols: usize) -> Retained<MPSShape> {
    NSArray::from_retained_slice(&[rows, cols].map(NSNumber::new_usize))
}

/// Floats of a buffer from an offset on, row by row without gaps.
fn tensor(
    (buffer, offset): (&MetalBuffer, usize),
    serial: Serial,
    rows: usize,
    cols: usize,
) -> Retained<MPSGraphTensorData> {
    let start = buffer.place(offset, rows * cols * FLOAT);
    let memory = buffer.used_by(serial);
    // SAFETY: the range was checked and lies in the buffer, in which rows follow each other.
    unsafe {
        let descriptor =
            MPSNDArrayDescriptor::descriptorWithDataType_shape(MPSDataType::Float32, &shape(rows, cols));
        descriptor.setPreferPackedRows(true);
        let array = MPSNDArray::alloc();
        let array = MPSNDArray::initWithBuffer_offset_descriptor(array, memory, start, &descriptor);
        MPSGraphTensorData::initWithMPSNDArray(MPSGraphTensorData::alloc(), &array)
    }
}
