// The common subset in OpenCL C.
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#pragma OPENCL FP_CONTRACT OFF
#define KERNEL __kernel
#define FUNCTION static inline
#define GLOBAL __global
#define LOCAL __local
#define LOCAL_ARRAY(name, length) __local double name[length]
#define BARRIER() barrier(CLK_LOCAL_MEM_FENCE)
#define ITEM ((i64)get_local_id(0))
#define GROUP_X ((i64)get_group_id(0))
#define GROUP_Y ((i64)get_group_id(1))
#define HIGH_PRODUCT(a, b) mul_hi(a, b)
#define DOUBLE_OF_BITS(v) as_double(v)
#define BITS_OF_DOUBLE(v) as_ulong(v)
typedef long i64;
typedef uint u32;
typedef ulong u64;
