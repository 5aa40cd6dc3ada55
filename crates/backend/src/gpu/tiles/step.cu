// All layers of a step of a single generated row in one launch, for one choice of packings.
#define COMPUTING_THREADS 512
#include "step.h"

#if __CUDA_ARCH__ >= 900
extern "C" __global__ void __launch_bounds__(COMPUTING_THREADS + 32 * (STEP_FEEDERS + 1), 1)
    step(const __grid_constant__ StepArgs args, const __grid_constant__ StepMemory memory) {
    run_step(args, memory);
}
#endif
