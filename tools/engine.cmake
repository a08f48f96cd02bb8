# How the engine (llama-cpp-python and the llama.cpp inside it) is built for ggufrun.
#
# Passed to its CMake as -DCMAKE_PROJECT_llama_cpp_INCLUDE=<this file>, so it is read right after project(llama_cpp).

# The command-line tools' helper library takes half of the compile time, and nothing in the Python package loads it. The
# package switches it on in the cache; an ordinary variable of the same name goes before that.
set(LLAMA_BUILD_COMMON OFF)

include("${CMAKE_CURRENT_LIST_DIR}/ggml-kernels.cmake")
include("${CMAKE_CURRENT_LIST_DIR}/sampling.cmake")
