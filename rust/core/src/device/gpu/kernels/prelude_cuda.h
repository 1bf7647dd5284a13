// The common subset in CUDA C.
#define KERNEL extern "C" __global__
#define FUNCTION __device__ static inline
#define GLOBAL
#define LOCAL
#define LOCAL_ARRAY(name, length) __shared__ double name[length]
#define BARRIER() __syncthreads()
#define ITEM ((i64)threadIdx.x)
#define GROUP_X ((i64)blockIdx.x)
#define GROUP_Y ((i64)blockIdx.y)
#define HIGH_PRODUCT(a, b) __umulhi(a, b)
#define DOUBLE_OF_BITS(v) __longlong_as_double((long long)(v))
#define BITS_OF_DOUBLE(v) ((u64)__double_as_longlong(v))
typedef long long i64;
typedef unsigned int u32;
typedef unsigned long long u64;
