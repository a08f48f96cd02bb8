# Compiles llama.cpp's quantization kernels with SIMD, for the same bytes. Nothing else of llama.cpp is touched.
#
# llama.cpp builds ggml-quants.c with plain -O3: the baseline instruction set, and sums that a compiler may not
# vectorize. Here
#
# * that file gets this machine's instructions, and leave to ignore floating-point traps and errno, which change no
#   result. -ffp-contract=off keeps it from fusing a product and a sum into one rounding, which would;
# * the K-quants, whose searches gain little from flags, come from ggml-kernels.c beside this file, and ggml-quants.c's
#   own are renamed, for ggml-kernels.c calls them in the rare case.
#
# Measured on one Zen 5 core, GCC 12, million values a second (stock -> here; every byte the same):
#
#             plain          with an importance matrix
#     Q2_K    21 -> 206       9.1 ->  83
#     Q3_K    88 -> 198      29   -> 154
#     Q4_K    20 -> 202      11.5 -> 104
#     Q5_K    23 -> 245      11.2 -> 104
#     Q6_K    39 -> 350      38   -> 342
#     Q8_0   358 -> 635
#     Q5_0   477 -> 988      43   ->  62
#     Q4_0   787 -> 1460     43   ->  62
#
# With AVX2 alone Q4_K reaches 134, with SSE2 60; Clang 16 makes it 222. Flags that let the compiler reorder sums
# (-fassociative-math) bring Q4_K to 66 only, and change up to 4 % of the bytes; neither -ffast-math nor wider vectors,
# unrolling or another tuning add to that.
#
# Passed to llama-cpp-python's CMake as -DCMAKE_PROJECT_llama_cpp_INCLUDE=<this file, or engine.cmake>. It is read right
# after project(llama_cpp), checks what the compiler takes, and acts once the ggml-base target exists. A compiler that
# is neither GCC nor Clang builds what llama.cpp would.

include(CheckCCompilerFlag)

if(CMAKE_C_COMPILER_ID MATCHES "GNU|Clang")
  set(ggufrun_kernel_flags -ffp-contract=off -fno-math-errno -fno-trapping-math)
  check_c_compiler_flag("-ffp-contract=off -fno-math-errno -fno-trapping-math" ggufrun_has_strict_flags)
  # ARM compilers name the machine by -mcpu; older ones of Apple's know neither, and build for NEON, always there.
  check_c_compiler_flag(-march=native ggufrun_has_march)
  check_c_compiler_flag(-mcpu=native ggufrun_has_mcpu)
  if(ggufrun_has_march)
    list(APPEND ggufrun_kernel_flags -march=native)
  elseif(ggufrun_has_mcpu)
    list(APPEND ggufrun_kernel_flags -mcpu=native)
  endif()
  # Some tunings split 512-bit vectors into two, for clocks that no longer fall.
  check_c_compiler_flag(-mprefer-vector-width=512 ggufrun_has_vector_width)
  if(ggufrun_has_vector_width)
    list(APPEND ggufrun_kernel_flags -mprefer-vector-width=512)
  endif()
endif()

if(ggufrun_has_strict_flags)
  string(JOIN " " ggufrun_kernel_flags_line ${ggufrun_kernel_flags})
  message(STATUS "ggufrun: quantization kernels with ${ggufrun_kernel_flags_line}")
  set(ggufrun_kernels "${CMAKE_CURRENT_LIST_DIR}/ggml-kernels.c")
  set(ggufrun_renamed)
  foreach(name IN ITEMS quantize_q2_K quantize_q3_K quantize_q4_K quantize_q5_K quantize_q6_K)
    list(APPEND ggufrun_renamed "${name}=ggufrun_stock_${name}")
  endforeach()

  function(ggufrun_tune_kernels)
    target_sources(ggml-base PRIVATE "${ggufrun_kernels}")
    set(quants "${llama.cpp_SOURCE_DIR}/ggml/src/ggml-quants.c")
    set_source_files_properties("${quants}" "${ggufrun_kernels}" TARGET_DIRECTORY ggml-base
      PROPERTIES COMPILE_OPTIONS "${ggufrun_kernel_flags}")
    set_source_files_properties("${quants}" TARGET_DIRECTORY ggml-base
      PROPERTIES COMPILE_DEFINITIONS "${ggufrun_renamed}")
  endfunction()
  # ggml-base is added by a directory below; only at the end of the top one does it surely exist.
  cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL ggufrun_tune_kernels)
else()
  message(STATUS "ggufrun: quantization kernels as llama.cpp builds them (${CMAKE_C_COMPILER_ID})")
endif()
