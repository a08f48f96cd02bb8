# Adds sampling/sample.c to libllama: an exported function more, and nothing of llama.cpp touched. A compiler that is
# neither GCC nor Clang builds the engine without it, and ggufrun samples as llama.cpp does.
#
# Read like engine.cmake, which see; acts once the llama target exists.

if(CMAKE_C_COMPILER_ID MATCHES "GNU|Clang")
  set(ggufrun_sampling "${CMAKE_CURRENT_LIST_DIR}/sampling/sample.c")
  function(ggufrun_add_sampling)
    target_sources(llama PRIVATE "${ggufrun_sampling}")
    set_source_files_properties("${ggufrun_sampling}" TARGET_DIRECTORY llama
      PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON COMPILE_OPTIONS "${ggufrun_kernel_flags}")
  endfunction()
  cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL ggufrun_add_sampling)
endif()
