// `norm_linear` for every weight format: see linear.h for how the work is shared out.
#include "norm_linear.h"

#include "linear_kernels.h"

LINEAR_KERNELS(norm_linear)
