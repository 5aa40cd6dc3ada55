// `linear_add` for every weight format: see linear.h for how the work is shared out.
#include "linear_add.h"

#include "linear_kernels.h"

LINEAR_KERNELS(linear_add)
