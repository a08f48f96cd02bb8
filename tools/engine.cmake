# How the engine (llama-cpp-python and the llama.cpp inside it) is built for ggufrun.
#
# Passed to its CMake as -DCMAKE_PROJECT_llama_cpp_INCLUDE=<this file>, so it is read right after project(llama_cpp).

# The command-line tools' helper library takes half of the compile time, and nothing in the Python package loads it. The
# package switches it on in the cache; an ordinary variable of the same name goes before that.
set(LLAMA_BUILD_COMMON OFF)

# Messages name the source file that they come from: as in llama.cpp's repository, wherever the engine was built. Ninja
# names files by the way from the folder that it builds in, make by their whole path.
include(CheckCCompilerFlag)
check_c_compiler_flag("-ffile-prefix-map=/a/=" ggufrun_has_prefix_map)
if(ggufrun_has_prefix_map)
  set(ggufrun_origin "${CMAKE_SOURCE_DIR}/vendor/llama.cpp/")
  file(RELATIVE_PATH ggufrun_way "${CMAKE_BINARY_DIR}" "${ggufrun_origin}")
  foreach(prefix IN ITEMS "${ggufrun_origin}" "${ggufrun_way}/")
    add_compile_options("$<$<COMPILE_LANGUAGE:C,CXX>:-ffile-prefix-map=${prefix}=>")
  endforeach()
endif()

include("${CMAKE_CURRENT_LIST_DIR}/ggml-kernels.cmake")
include("${CMAKE_CURRENT_LIST_DIR}/sampling.cmake")
include("${CMAKE_CURRENT_LIST_DIR}/matmul.cmake")
