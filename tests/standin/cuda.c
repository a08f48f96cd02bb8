// A stand-in for CUDA 13's runtime, cuBLAS and driver: cards that do not exist.
//
// Memory is counted and refused as a card would; nothing is computed. So ggml-cuda's own allocations, of any size of
// model and any number of cards, and its failures can be seen on every machine. tests/standin/__init__.py builds this
// and tells what the variables mean.

#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define CARDS 16
#define MIB ((size_t) 1 << 20)

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    INVALID_DEVICE = 101,
    NO_KERNEL_IMAGE = 209,
};

// What the tests read, in a file, so that it outlives an abort.
struct seen {
    uint64_t used[CARDS], peak[CARDS], refused[CARDS], launches[CARDS];
};

struct card {
    size_t total, told, room;  // bytes: of the card, said to be free, and really free
    double busy;               // the time, in seconds, at which what was launched is done
    int started;
};

static struct card cards[CARDS];
static int count, capability = 90, count_error, no_kernel, lost_error, full_error, noisy;
static size_t copied = SIZE_MAX, code;
static double delay;
static uint64_t lost_after = UINT64_MAX;
static float noise[1 << 16];
static struct seen here, * seen = &here;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread int current;
static __thread int last;

static long long number(const char * name, long long otherwise) {
    const char * text = getenv(name);
    return text && *text ? atoll(text) : otherwise;
}

__attribute__((constructor)) static void read_variables(void) {
    const char * text = getenv("STANDIN_CARDS");
    while (text && *text && count < CARDS) {
        char * end;
        struct card * card = &cards[count++];
        card->total = strtoull(text, &end, 10) * MIB;
        card->told  = *end == ':' ? strtoull(end + 1, &end, 10) * MIB : card->total;
        card->room  = *end == ':' ? strtoull(end + 1, &end, 10) * MIB : card->told;
        text = *end == ',' ? end + 1 : end;
    }
    capability  = (int) number("STANDIN_CAPABILITY", 90);
    count_error = (int) number("STANDIN_COUNT_ERROR", 0);
    no_kernel   = (int) number("STANDIN_NO_KERNEL", 0);
    lost_after  = (uint64_t) number("STANDIN_LOST_AFTER", -1);
    lost_error  = (int) number("STANDIN_LOST_ERROR", 719);
    full_error  = (int) number("STANDIN_FULL_ERROR", OUT_OF_MEMORY);
    copied      = (size_t) number("STANDIN_COPY_UP_TO", -1);
    noisy       = (int) number("STANDIN_NOISE", 0);
    code        = (size_t) number("STANDIN_CODE", 0) * MIB;
    delay       = (double) number("STANDIN_DELAY", 0) * 1e-9;
    for (size_t index = 0; index < sizeof(noise) / sizeof(*noise); index++) {
        noise[index] = (float) (rand() % 20001) / 1000.0f - 10.0f;
    }
    const char * path = getenv("STANDIN_SEEN");
    int file = path ? open(path, O_RDWR | O_CREAT, 0600) : -1;
    if (file >= 0 && ftruncate(file, sizeof(here)) == 0) {
        void * mapped = mmap(NULL, sizeof(here), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        seen = mapped == MAP_FAILED ? &here : mapped;
    }
}

// --- memory ----------------------------------------------------------------------------------------------------------

static int take(int device, size_t size) {
    pthread_mutex_lock(&lock);
    int fits = seen->used[device] + size <= cards[device].room;
    if (fits) {
        seen->used[device] += size;
        if (seen->used[device] > seen->peak[device]) {
            seen->peak[device] = seen->used[device];
        }
    } else {
        seen->refused[device]++;
    }
    pthread_mutex_unlock(&lock);
    return fits;
}

static void give(int device, size_t size) {
    pthread_mutex_lock(&lock);
    seen->used[device] -= size;
    pthread_mutex_unlock(&lock);
}

static int failed(int error) {
    return last = error;
}

// On a card of which nothing is free no program can even begin.
static int full(void) {
    return cards[current].told == 0 ? failed(full_error) : SUCCESS;
}

static int lost(void) {
    return seen->launches[current] > lost_after ? failed(lost_error) : SUCCESS;
}

struct block {
    size_t size;
    int    device;
};

#define HEAD 4096

static void * reserve(size_t size, int protection) {
    void * found = mmap(NULL, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return found == MAP_FAILED ? NULL : found;
}

int cudaMalloc(void ** pointer, size_t size) {
    size_t whole = (size + 511) / 512 * 512;
    if (!take(current, whole)) {
        return failed(OUT_OF_MEMORY);
    }
    struct block * block = reserve(whole + HEAD, PROT_READ | PROT_WRITE);
    *block   = (struct block) { whole, current };
    *pointer = (char *) block + HEAD;
    return SUCCESS;
}

int cudaMallocManaged(void ** pointer, size_t size, unsigned flags) {
    (void) flags;
    return cudaMalloc(pointer, size);
}

int cudaFree(void * pointer) {
    if (pointer) {
        struct block * block = (struct block *) ((char *) pointer - HEAD);
        give(block->device, block->size);
        munmap(block, block->size + HEAD);
    }
    return SUCCESS;
}

int cudaMemGetInfo(size_t * free, size_t * total) {
    if (full() || lost()) {
        return last;
    }
    struct card * card = &cards[current];
    *total = card->total;
    *free  = card->told > seen->used[current] ? card->told - seen->used[current] : 0;
    return SUCCESS;
}

int cudaMallocHost(void ** pointer, size_t size) {
    return posix_memalign(pointer, 4096, size ? size : 1) ? failed(OUT_OF_MEMORY) : SUCCESS;
}

int cudaHostAlloc(void ** pointer, size_t size, unsigned flags) {
    (void) flags;
    return cudaMallocHost(pointer, size);
}

int cudaFreeHost(void * pointer) {
    free(pointer);
    return SUCCESS;
}

int cudaHostRegister(void * pointer, size_t size, unsigned flags) {
    (void) pointer, (void) size, (void) flags;
    return SUCCESS;
}

int cudaHostUnregister(void * pointer) {
    (void) pointer;
    return SUCCESS;
}

int cudaHostGetDevicePointer(void ** device, void * host, unsigned flags) {
    (void) flags;
    *device = host;
    return SUCCESS;
}

enum { TO_HOST = 2 };

// Nothing is computed, so what comes back is zero, or noise where that is asked for.
static int copy(void * to, const void * from, size_t size, int kind) {
    for (size_t done = 0; noisy && kind == TO_HOST && done < size; done += sizeof(noise)) {
        memcpy((char *) to + done, noise, size - done < sizeof(noise) ? size - done : sizeof(noise));
    }
    if (size <= copied && !(noisy && kind == TO_HOST)) {
        memmove(to, from, size);
    }
    return lost();
}

int cudaMemcpyAsync(void * to, const void * from, size_t size, int kind, void * stream) {
    (void) stream;
    return copy(to, from, size, kind);
}

int cudaMemcpyPeerAsync(void * to, int there, const void * from, int here_, size_t size, void * stream) {
    (void) there, (void) here_, (void) stream;
    return copy(to, from, size, 0);
}

int cudaMemcpy2DAsync(void * to, size_t to_pitch, const void * from, size_t from_pitch, size_t width, size_t height,
                      int kind, void * stream) {
    (void) kind, (void) stream;
    for (size_t row = 0; row < height && width * height <= copied; row++) {
        memmove((char *) to + row * to_pitch, (const char *) from + row * from_pitch, width);
    }
    return lost();
}

int cudaMemset(void * pointer, int value, size_t size) {
    if (size <= copied) {
        memset(pointer, value, size);
    }
    return lost();
}

int cudaMemsetAsync(void * pointer, int value, size_t size, void * stream) {
    (void) stream;
    return cudaMemset(pointer, value, size);
}

// --- the driver's virtual memory --------------------------------------------------------------------------------------

struct physical {
    size_t size;
    int    device, held;
};

struct location {
    int type, id;
};

struct properties {  // the beginning of CUmemAllocationProp
    int             type, handles;
    struct location location;
};

#define MAPPINGS 65536
static struct {
    uintptr_t         address;
    struct physical * memory;
} mappings[MAPPINGS];

static void let_go(struct physical * memory) {
    if (--memory->held == 0) {
        give(memory->device, memory->size);
        free(memory);
    }
}

int cuInit(unsigned flags) {
    (void) flags;
    return count ? SUCCESS : 100;
}

int cuDriverGetVersion(int * version) {
    *version = (int) number("STANDIN_DRIVER", 13000);
    return SUCCESS;
}

int cuDeviceGetCount(int * found) {
    *found = count;
    return SUCCESS;
}

int cuDeviceGet(int * device, int index) {
    *device = index;
    return index < count ? SUCCESS : INVALID_DEVICE;
}

int cuDeviceGetName(char * name, int size, int device) {
    snprintf(name, (size_t) size, "Stand-in %d", device);
    return SUCCESS;
}

int cuDeviceGetAttribute(int * value, int attribute, int device) {
    (void) device;
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : 1;
    return SUCCESS;
}

int cuGetErrorString(int error, const char ** text) {
    *text = error == OUT_OF_MEMORY ? "out of memory" : "an error of the stand-in";
    return SUCCESS;
}

int cuMemGetAllocationGranularity(size_t * size, const void * properties, int option) {
    (void) properties, (void) option;
    *size = 2 * MIB;
    return SUCCESS;
}

int cuMemAddressReserve(uintptr_t * address, size_t size, size_t alignment, uintptr_t wanted, unsigned long long flags) {
    (void) alignment, (void) wanted, (void) flags;
    *address = (uintptr_t) reserve(size, PROT_NONE);
    return *address ? SUCCESS : OUT_OF_MEMORY;
}

int cuMemAddressFree(uintptr_t address, size_t size) {
    munmap((void *) address, size);
    return SUCCESS;
}

int cuMemCreate(struct physical ** handle, size_t size, const struct properties * properties, unsigned long long flags) {
    (void) flags;
    if (!take(properties->location.id, size)) {
        return OUT_OF_MEMORY;
    }
    *handle  = malloc(sizeof(**handle));
    **handle = (struct physical) { size, properties->location.id, 1 };
    return SUCCESS;
}

int cuMemRelease(struct physical * memory) {
    let_go(memory);
    return SUCCESS;
}

int cuMemMap(uintptr_t address, size_t size, size_t offset, struct physical * memory, unsigned long long flags) {
    (void) offset, (void) flags;
    mprotect((void *) address, size, PROT_READ | PROT_WRITE);
    for (int index = 0; index < MAPPINGS; index++) {
        if (!mappings[index].memory) {
            mappings[index].address = address;
            mappings[index].memory  = memory;
            memory->held++;
            return SUCCESS;
        }
    }
    return OUT_OF_MEMORY;
}

int cuMemUnmap(uintptr_t address, size_t size) {
    for (int index = 0; index < MAPPINGS; index++) {
        if (mappings[index].memory && mappings[index].address >= address && mappings[index].address < address + size) {
            let_go(mappings[index].memory);
            mappings[index].memory = NULL;
        }
    }
    mprotect((void *) address, size, PROT_NONE);
    return SUCCESS;
}

int cuMemSetAccess(uintptr_t address, size_t size, const void * access, size_t number_) {
    (void) address, (void) size, (void) access, (void) number_;
    return SUCCESS;
}

// --- cards ------------------------------------------------------------------------------------------------------------

int cudaGetDeviceCount(int * found) {
    *found = count_error ? 0 : count;
    return failed(count_error ? count_error : count ? SUCCESS : 100);
}

int cudaSetDevice(int device) {
    if (device < 0 || device >= count) {
        return failed(INVALID_DEVICE);
    }
    current = device;
    return full();
}

int cudaGetDevice(int * device) {
    *device = current;
    return SUCCESS;
}

int cudaGetDeviceProperties(char * properties, int device) {
    // where CUDA 13.0's driver_types.h has the fields that ggml-cuda reads
    memset(properties, 0, 1008);
    snprintf(properties, 256, "Stand-in %d", device);
    memcpy(properties + 288, &cards[device].total, sizeof(size_t));
    const struct {
        int offset, value;
    } fields[] = {
        { 308, 32 },               // warpSize
        { 320, 1024 },             // maxThreadsPerBlock
        { 336, 2147483647 },       // maxGridSize
        { 340, 65535 },
        { 344, 65535 },
        { 360, capability / 10 },  // major
        { 364, capability % 10 },  // minor
        { 384, 132 },              // multiProcessorCount
        { 568, device + 1 },       // pciBusID
    };
    for (size_t index = 0; index < sizeof(fields) / sizeof(*fields); index++) {
        memcpy(properties + fields[index].offset, &fields[index].value, sizeof(int));
    }
    const size_t shared = 48 << 10, most = 227 << 10;
    memcpy(properties + 296, &shared, sizeof(size_t));  // sharedMemPerBlock
    memcpy(properties + 624, &most, sizeof(size_t));    // sharedMemPerMultiprocessor
    memcpy(properties + 672, &most, sizeof(size_t));    // sharedMemPerBlockOptin
    return device < count ? SUCCESS : failed(INVALID_DEVICE);
}

int cudaDeviceGetAttribute(int * value, int attribute, int device) {
    return cuDeviceGetAttribute(value, attribute, device);
}

int cudaDeviceGetPCIBusId(char * text, int size, int device) {
    snprintf(text, (size_t) size, "0000:%02x:00.0", device + 1);
    return SUCCESS;
}

int cudaDeviceCanAccessPeer(int * can, int device, int other) {
    (void) device, (void) other;
    *can = 1;
    return SUCCESS;
}

int cudaDeviceEnablePeerAccess(int other, unsigned flags) {
    (void) other, (void) flags;
    return SUCCESS;
}

int cudaSetDeviceFlags(unsigned flags) {
    (void) flags;
    return SUCCESS;
}

int cudaDeviceReset(void) {
    return SUCCESS;
}

const char * cudaGetErrorString(int error) {
    switch (error) {
        case OUT_OF_MEMORY: return "out of memory";
        case 46: return "CUDA-capable device(s) is/are busy or unavailable";
        case 35: return "CUDA driver version is insufficient for CUDA runtime version";
        case 100: return "no CUDA-capable device is detected";
        case NO_KERNEL_IMAGE: return "no kernel image is available for execution on the device";
        case 214: return "uncorrectable ECC error encountered";
        case 719: return "unspecified launch failure";
        default: return "an error of the stand-in";
    }
}

int cudaGetLastError(void) {
    int error = last;
    last = SUCCESS;
    return error;
}

int cudaPeekAtLastError(void) {
    return last;
}

// --- time -------------------------------------------------------------------------------------------------------------

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double) time.tv_sec + (double) time.tv_nsec * 1e-9;
}

static void wait_until(double when) {
    double left = when - now();
    // the last part is spun away, as CUDA does: to sleep is not exact enough
    if ((left -= 0.002) > 0) {
        struct timespec time = { (time_t) left, (long) ((left - (double) (time_t) left) * 1e9) };
        nanosleep(&time, NULL);
    }
    while (now() < when) {
    }
}

// A graph holds a token's kernels: some hundred.
enum { KERNELS = 100 };

static int launch(int kernels) {
    if (no_kernel) {
        return failed(NO_KERNEL_IMAGE);
    }
    struct card * card = &cards[current];
    if (!card->started) {
        card->started = 1;
        if (!take(current, code)) {
            return failed(OUT_OF_MEMORY);
        }
    }
    seen->launches[current]++;
    card->busy = (card->busy > now() ? card->busy : now()) + delay * kernels;
    return lost();
}

int cudaStreamSynchronize(void * stream) {
    (void) stream;
    wait_until(cards[current].busy);
    return lost();
}

int cudaDeviceSynchronize(void) {
    return cudaStreamSynchronize(NULL);
}

struct event {
    double when;
};

int cudaEventCreateWithFlags(struct event ** event, unsigned flags) {
    (void) flags;
    *event = calloc(1, sizeof(**event));
    return full();
}

int cudaEventDestroy(struct event * event) {
    free(event);
    return SUCCESS;
}

int cudaEventRecord(struct event * event, void * stream) {
    (void) stream;
    event->when = cards[current].busy;
    return SUCCESS;
}

int cudaEventSynchronize(struct event * event) {
    wait_until(event->when);
    return lost();
}

int cudaStreamWaitEvent(void * stream, struct event * event, unsigned flags) {
    (void) stream, (void) flags;
    struct card * card = &cards[current];
    card->busy = card->busy > event->when ? card->busy : event->when;
    return SUCCESS;
}

int cudaStreamCreateWithFlags(void ** stream, unsigned flags) {
    (void) flags;
    *stream = calloc(1, 8);
    return full();
}

int cudaStreamDestroy(void * stream) {
    free(stream);
    return SUCCESS;
}

int cudaStreamIsCapturing(void * stream, int * status) {
    (void) stream;
    *status = 0;
    return SUCCESS;
}

// --- kernels and graphs -----------------------------------------------------------------------------------------------

struct grid {
    unsigned x, y, z;
};

static __thread struct {
    struct grid grid, block;
    size_t      shared;
    void *      stream;
} pushed;

unsigned __cudaPushCallConfiguration(struct grid grid, struct grid block, size_t shared, void * stream) {
    pushed.grid = grid, pushed.block = block, pushed.shared = shared, pushed.stream = stream;
    return 0;
}

int __cudaPopCallConfiguration(struct grid * grid, struct grid * block, size_t * shared, void ** stream) {
    *grid = pushed.grid, *block = pushed.block, *shared = pushed.shared, *stream = pushed.stream;
    return SUCCESS;
}

void ** __cudaRegisterFatBinary(void * binary) {
    static void * handle;
    (void) binary;
    return &handle;
}

void __cudaRegisterFatBinaryEnd(void ** handle) {
    (void) handle;
}

void __cudaUnregisterFatBinary(void ** handle) {
    (void) handle;
}

void __cudaRegisterFunction(void) {}

void __cudaRegisterVar(void) {}

int __cudaGetKernel(const void ** kernel, const void * function) {
    *kernel = function;
    return SUCCESS;
}

int __cudaLaunchKernel(const void * kernel, struct grid grid, struct grid block, void ** arguments, size_t shared,
                       void * stream) {
    (void) kernel, (void) grid, (void) block, (void) arguments, (void) shared, (void) stream;
    return launch(1);
}

int cudaLaunchKernelExC(const void * configuration, const void * function, void ** arguments) {
    (void) configuration, (void) function, (void) arguments;
    return launch(1);
}

int cudaLaunchCooperativeKernel(const void * function, struct grid grid, struct grid block, void ** arguments,
                                size_t shared, void * stream) {
    return __cudaLaunchKernel(function, grid, block, arguments, shared, stream);
}

int cudaFuncGetAttributes(char * attributes, const void * function) {
    (void) function;
    memset(attributes, 0, 144);
    return no_kernel ? failed(NO_KERNEL_IMAGE) : SUCCESS;
}

int cudaFuncSetAttribute(const void * function, int attribute, int value) {
    (void) function, (void) attribute, (void) value;
    return no_kernel ? failed(NO_KERNEL_IMAGE) : SUCCESS;
}

int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int * blocks, const void * function, int threads,
                                                           size_t shared, unsigned flags) {
    (void) function, (void) threads, (void) shared, (void) flags;
    *blocks = 1;
    return no_kernel ? failed(NO_KERNEL_IMAGE) : SUCCESS;
}

int cudaStreamBeginCapture(void * stream, int mode) {
    (void) stream, (void) mode;
    return SUCCESS;
}

int cudaStreamEndCapture(void * stream, void ** graph) {
    (void) stream;
    *graph = calloc(1, 8);
    return SUCCESS;
}

int cudaGraphInstantiate(void ** instance, void * graph, unsigned long long flags) {
    (void) graph, (void) flags;
    *instance = calloc(1, 8);
    return SUCCESS;
}

int cudaGraphExecUpdate(void * instance, void * graph, void * result) {
    (void) instance, (void) graph, (void) result;
    return SUCCESS;
}

int cudaGraphLaunch(void * instance, void * stream) {
    (void) instance, (void) stream;
    return launch(KERNELS);
}

int cudaGraphDestroy(void * graph) {
    free(graph);
    return SUCCESS;
}

int cudaGraphExecDestroy(void * instance) {
    free(instance);
    return SUCCESS;
}

// --- cuBLAS -----------------------------------------------------------------------------------------------------------

int cublasCreate_v2(void ** handle) {
    *handle = calloc(1, 8);
    return SUCCESS;
}

int cublasDestroy_v2(void * handle) {
    free(handle);
    return SUCCESS;
}

const char * cublasGetStatusString(int status) {
    (void) status;
    return "a status of the stand-in";
}

#define SETTING(name) \
    int name(void) {  \
        return 0;     \
    }
SETTING(cublasSetMathMode)
SETTING(cublasSetStream_v2)
SETTING(cublasSetWorkspace_v2)

#define PRODUCT(name)      \
    int name(void) {       \
        return launch(1);   \
    }
PRODUCT(cublasGemmBatchedEx)
PRODUCT(cublasGemmEx)
PRODUCT(cublasGemmStridedBatchedEx)
PRODUCT(cublasSgemmBatched)
PRODUCT(cublasSgemmStridedBatched)
PRODUCT(cublasSgemm_v2)
PRODUCT(cublasStrsmBatched)
