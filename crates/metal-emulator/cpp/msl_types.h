// The part of the Metal Shading Language's library that the kernels use, as far
// as running and checking share it. What is missing fails to compile: add it.
#pragma once

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;

namespace metal {
enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };
}

// `Type<float[8]> &` is a return type, `float[8] &` is not.
template <typename T> using Type = T;
