# The engine with CUDA, as ggufrun builds it: engine.cmake, and two repairs.
#
# Passed to its CMake as -DCMAKE_PROJECT_llama_cpp_INCLUDE=<this file>.

include("${CMAKE_CURRENT_LIST_DIR}/../engine.cmake")

# The driver is looked up when the library runs (cuda-driver.c), not linked: the same build then also works on a machine
# without one, and needs no libcuda.so here, which the packages of PyPI do not have. CMake's FindCUDAToolkit leaves a
# target that exists alone.
add_library(CUDA::cuda_driver INTERFACE IMPORTED GLOBAL)
set(ggufrun_cuda_driver "${CMAKE_CURRENT_LIST_DIR}/cuda-driver.c")

# Instructions that any x86-64 machine of the last ten years has, for a wheel to hand on.
if(GGUFRUN_PORTABLE AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  list(REMOVE_ITEM ggufrun_kernel_flags -march=native -mcpu=native)
  list(APPEND ggufrun_kernel_flags -march=x86-64-v3)
endif()

function(ggufrun_finish_cuda)
  target_sources(ggml-cuda PRIVATE "${ggufrun_cuda_driver}")
  # dlopen is in a library of its own where the C library is older than 2.34
  target_link_libraries(ggml-cuda PRIVATE ${CMAKE_DL_LIBS})
  # Where CUDA's libraries are at run time: beside this package where pip put them, or in the toolkit that built this.
  set_property(TARGET ggml-cuda PROPERTY INSTALL_RPATH "${GGUFRUN_RUN_PATH}")
endfunction()
cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL ggufrun_finish_cuda)
