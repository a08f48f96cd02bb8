# Compiles llama.cpp's quantization kernels with SIMD, for the same bytes. Nothing else of llama.cpp is touched.
#
# llama.cpp builds ggml-quants.c with plain -O3: the baseline instruction set, and sums that a compiler may not
# vectorize. Here
#
# * that file gets this machine's instructions, and leave to ignore floating-point traps and errno, which change no
#   result. -ffp-contract=off keeps it from fusing a product and a sum into one rounding, which would;
# * the types whose encoding is a search, which gains little from flags, come from kernels/ beside this file. Of what
#   that has, ggml-quants.c's own is renamed to ggufrun_stock_*: some of kernels/ calls it in the rare case, and tests
#   compare the two.
#
# Measured on one Zen 5 core, GCC 12, million values a second (stock -> here; every byte the same):
#
#               plain          with an importance matrix
#     Q2_K      23 ->  224       10 ->  86
#     Q3_K      98 ->  207       32 -> 161
#     Q4_K      21 ->  212       12 -> 109
#     Q5_K      24 ->  245       12 -> 104
#     Q6_K      42 ->  370       40 -> 356
#     Q4_0     825 -> 1547       44 -> 330
#     Q4_1    1248 -> 1606       12 -> 125
#     Q5_0     500 -> 1041       45 -> 334
#     Q5_1     718 -> 1135       12 -> 126
#     Q8_0     368 ->  668
#     IQ4_NL     5.9 -> 229       6.0 -> 212
#     IQ4_XS     5.9 -> 222       5.8 -> 196
#     IQ3_S      4.1 ->  45       4.1 ->  45
#     IQ3_XXS    2.7 ->  28       2.7 ->  28
#     IQ2_S      5.8 ->  54       5.8 ->  53
#     IQ2_XS                      2.1 ->  28
#     IQ2_XXS                     3.8 ->  38
#     IQ1_S                       8.2 ->  55
#     IQ1_M      9.1 ->  48       8.4 ->  43
#     TQ1_0    517 -> 3199
#     TQ2_0    481 -> 3836
#
# The tables that the IQ1, IQ2 and IQ3 types look up, made once a process, take 0.01 to 0.03 s instead of 0.1 (IQ3), 0.9 to
# 4 (IQ2) and 8 s (IQ1) of a core.
#
# With AVX2 alone Q4_K reaches 141, IQ4_XS 138, IQ3_S 30, IQ2_XS 19; with SSE2 alone 64, 54, 9 and 5. What flags alone bring
# is in docs/experiments.md.
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
  file(GLOB ggufrun_kernels "${CMAKE_CURRENT_LIST_DIR}/kernels/*.c")
  # What kernels/ defines in its place. The last ones make, free and use the tables of the IQ types.
  set(ggufrun_renamed)
  foreach(name IN ITEMS
      quantize_q2_K quantize_q3_K quantize_q4_K quantize_q5_K quantize_q6_K
      quantize_q4_0 quantize_q4_1 quantize_q5_0 quantize_q5_1 quantize_tq1_0 quantize_tq2_0
      quantize_iq4_nl quantize_iq4_xs quantize_iq3_xxs quantize_iq3_s
      quantize_iq2_xxs quantize_iq2_xs quantize_iq2_s quantize_iq1_s quantize_iq1_m
      iq2xs_init_impl iq2xs_free_impl iq3xs_init_impl iq3xs_free_impl
      quantize_row_iq3_xxs_ref quantize_row_iq3_s_ref quantize_row_iq2_s_ref)
    list(APPEND ggufrun_renamed "${name}=ggufrun_stock_${name}")
  endforeach()

  function(ggufrun_tune_kernels)
    target_sources(ggml-base PRIVATE ${ggufrun_kernels})
    set(quants "${llama.cpp_SOURCE_DIR}/ggml/src/ggml-quants.c")
    set_source_files_properties("${quants}" ${ggufrun_kernels} TARGET_DIRECTORY ggml-base
      PROPERTIES COMPILE_OPTIONS "${ggufrun_kernel_flags}")
    set_source_files_properties("${quants}" TARGET_DIRECTORY ggml-base
      PROPERTIES COMPILE_DEFINITIONS "${ggufrun_renamed}")
  endfunction()
  # ggml-base is added by a directory below; only at the end of the top one does it surely exist.
  cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL ggufrun_tune_kernels)
else()
  message(STATUS "ggufrun: quantization kernels as llama.cpp builds them (${CMAKE_C_COMPILER_ID})")
endif()
