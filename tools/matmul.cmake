# Products of quantized weights, and attention, by kernels of ours (kernels/matmul); nothing else is touched.
#
# Every product of matrices asks ggml-cpu/tiled first. Its three functions, and attention's one, are renamed to
# ggufrun_stock_*, and kernels/matmul has others under their names, which call those for every type, shape and
# operation that it does not have. Each instruction set has an object of its own, compiled for it; which one runs is
# chosen when the engine runs, so this is the same for a build for this machine and for one to hand on.
#
# x86-64 with GCC or Clang; everything else is built as llama.cpp would. Read like engine.cmake, which see; acts once
# the ggml-cpu target exists.

include(CheckCCompilerFlag)

if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64" AND CMAKE_C_COMPILER_ID MATCHES "GNU|Clang" AND NOT MSVC)
  set(ggufrun_matmul "${CMAKE_CURRENT_LIST_DIR}/kernels/matmul")
  set(ggufrun_matmul_exact -ffp-contract=off -fno-math-errno -fno-trapping-math)
  set(ggufrun_matmul_avx2 -mavx2 -mfma -mf16c)
  # What comes later counts: a build for this machine may have more than the object is for.
  set(ggufrun_matmul_avxvnni -mavx2 -mfma -mf16c -mno-avx512f -mavxvnni)
  set(ggufrun_matmul_avx512 -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni)

  # A source for which the compiler lacks a flag is compiled to nothing, without it.
  foreach(name IN ITEMS avx2 avxvnni avx512)
    string(JOIN " " ggufrun_flags ${ggufrun_matmul_${name}})
    check_c_compiler_flag("${ggufrun_flags}" ggufrun_has_${name})
    if(NOT ggufrun_has_${name})
      set(ggufrun_matmul_${name})
    endif()
  endforeach()

  function(ggufrun_add_matmul)
    if(NOT TARGET ggml-cpu)
      return()
    endif()
    set(sources)
    foreach(name IN ITEMS hooks hook_attention panel avx2 avxvnni avx512)
      list(APPEND sources "${ggufrun_matmul}/${name}.c")
    endforeach()
    target_sources(ggml-cpu PRIVATE ${sources})
    set_source_files_properties(${sources} TARGET_DIRECTORY ggml-cpu PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
    foreach(name IN ITEMS avx2 avxvnni avx512)
      set_source_files_properties("${ggufrun_matmul}/${name}.c" TARGET_DIRECTORY ggml-cpu
        PROPERTIES COMPILE_OPTIONS "${ggufrun_matmul_exact};${ggufrun_matmul_${name}}")
    endforeach()
    set(renamed
      ggml_tiled_wdata_size=ggufrun_stock_tiled_wdata_size
      ggml_compute_forward_mul_mat_tiled=ggufrun_stock_mul_mat_tiled
      ggml_compute_forward_mul_mat_id_tiled=ggufrun_stock_mul_mat_id_tiled)
    set(stock "${llama.cpp_SOURCE_DIR}/ggml/src/ggml-cpu")
    set_source_files_properties("${stock}/tiled/tiled.cpp" TARGET_DIRECTORY ggml-cpu
      PROPERTIES COMPILE_DEFINITIONS "${renamed}" SKIP_UNITY_BUILD_INCLUSION ON)
    set_source_files_properties("${stock}/ops.cpp" TARGET_DIRECTORY ggml-cpu PROPERTIES
      COMPILE_DEFINITIONS ggml_compute_forward_flash_attn_ext=ggufrun_stock_flash_attn_ext
      SKIP_UNITY_BUILD_INCLUSION ON)
  endfunction()
  cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL ggufrun_add_matmul)
endif()
