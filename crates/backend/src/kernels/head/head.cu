// `head` for every weight format: see linear.h for how the work is shared out.
#include "head.h"

#include "linear_kernels.h"

LINEAR_KERNELS(head)
