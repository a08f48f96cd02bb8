// The functions of NVIDIA's driver that ggml-cuda calls, each looked up in libcuda.so.1 when it is first called.
//
// Linked, the driver's library would have to be there: on a machine without an NVIDIA card the engine could not even be
// loaded, and the build would need a stand-in for it. CUDA's runtime looks its driver up in the same way.

#include <dlfcn.h>
#include <stddef.h>

// Nobody else in the process shall find these instead of the driver's.
#pragma GCC visibility push(hidden)
#include <cuda.h>

static void * find(const char * name) {
    static void * driver;
    if (driver == NULL) {
        driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    }
    return driver == NULL ? NULL : dlsym(driver, name);
}

// Two steps, so that cuda.h's own renaming of a function (to its second version) also counts for the name.
#define TEXT(name) #name
#define NAME(name) TEXT(name)

#define FORWARD(name, parameters, arguments)                             \
    CUresult CUDAAPI name parameters {                                   \
        static CUresult(CUDAAPI * real) parameters;                      \
        if (real == NULL) {                                              \
            *(void **) &real = find(NAME(name));                         \
        }                                                                \
        return real == NULL ? CUDA_ERROR_NOT_INITIALIZED : real arguments; \
    }

FORWARD(cuGetErrorString, (CUresult error, const char ** text), (error, text))
FORWARD(cuDeviceGet, (CUdevice * device, int ordinal), (device, ordinal))
FORWARD(cuDeviceGetAttribute, (int * value, CUdevice_attribute attribute, CUdevice device), (value, attribute, device))
FORWARD(cuMemAddressReserve, (CUdeviceptr * address, size_t size, size_t alignment, CUdeviceptr wanted, unsigned long long flags),
        (address, size, alignment, wanted, flags))
FORWARD(cuMemAddressFree, (CUdeviceptr address, size_t size), (address, size))
FORWARD(cuMemCreate, (CUmemGenericAllocationHandle * handle, size_t size, const CUmemAllocationProp * properties, unsigned long long flags),
        (handle, size, properties, flags))
FORWARD(cuMemRelease, (CUmemGenericAllocationHandle handle), (handle))
FORWARD(cuMemMap, (CUdeviceptr address, size_t size, size_t offset, CUmemGenericAllocationHandle handle, unsigned long long flags),
        (address, size, offset, handle, flags))
FORWARD(cuMemUnmap, (CUdeviceptr address, size_t size), (address, size))
FORWARD(cuMemSetAccess, (CUdeviceptr address, size_t size, const CUmemAccessDesc * access, size_t count),
        (address, size, access, count))
FORWARD(cuMemGetAllocationGranularity, (size_t * granularity, const CUmemAllocationProp * properties, CUmemAllocationGranularity_flags option),
        (granularity, properties, option))
