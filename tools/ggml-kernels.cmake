# Compiles ggml-quants.c, the quantization kernels, with SIMD. Nothing else of llama.cpp is touched.
#
# llama.cpp builds that file with plain -O3: the baseline instruction set, and strict float order, which keeps the
# compiler from vectorizing the sums. Passed to its CMake as -DCMAKE_PROJECT_llama_cpp_INCLUDE=<this file>; read right
# after project(llama.cpp), it checks what the compiler takes and sets the options once the ggml-base target exists.
#
# The flags keep the meaning of NaN and infinity (no -ffinite-math-only): a NaN in a checkpoint must still be found.

include(CheckCCompilerFlag)

if(CMAKE_C_COMPILER_ID STREQUAL "GNU")
  set(ggufrun_kernel_flags -march=native -fassociative-math -fno-signed-zeros -fno-trapping-math)
elseif(CMAKE_C_COMPILER_ID MATCHES "Clang")
  set(ggufrun_kernel_flags -march=native -ffast-math -fno-finite-math-only)
  check_c_compiler_flag(-mprefer-vector-width=512 ggufrun_has_vector_width)
  if(ggufrun_has_vector_width)
    list(APPEND ggufrun_kernel_flags -mprefer-vector-width=512)
  endif()
endif()

if(ggufrun_kernel_flags)
  string(JOIN " " ggufrun_kernel_flags_line ${ggufrun_kernel_flags})
  check_c_compiler_flag("${ggufrun_kernel_flags_line}" ggufrun_kernel_flags_work)
endif()

if(ggufrun_kernel_flags_work)
  message(STATUS "ggufrun: quantization kernels with ${ggufrun_kernel_flags_line}")
  function(ggufrun_tune_kernels)
    set_source_files_properties(
      "${llama.cpp_SOURCE_DIR}/ggml/src/ggml-quants.c"
      TARGET_DIRECTORY ggml-base
      PROPERTIES COMPILE_OPTIONS "${ggufrun_kernel_flags}")
  endfunction()
  # ggml-base is added by a directory below; only at the end of the top one does it surely exist.
  cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL ggufrun_tune_kernels)
else()
  message(STATUS "ggufrun: quantization kernels as llama.cpp builds them (${CMAKE_C_COMPILER_ID})")
endif()
