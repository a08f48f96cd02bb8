# The engine with Vulkan, as ggufrun builds it: engine.cmake, and what older headers lack.
#
# Passed to its CMake as -DCMAKE_PROJECT_llama_cpp_INCLUDE=<this file>.

include("${CMAKE_CURRENT_LIST_DIR}/../engine.cmake")

set(ggufrun_vulkan_headers "${CMAKE_CURRENT_LIST_DIR}/vulkan-headers.h")

function(ggufrun_finish_vulkan)
  get_target_property(folder ggml-vulkan SOURCE_DIR)
  set_property(SOURCE "${folder}/ggml-vulkan.cpp" TARGET_DIRECTORY ggml-vulkan
    APPEND PROPERTY COMPILE_OPTIONS "-I${folder}" "-include" "${ggufrun_vulkan_headers}")
endfunction()
cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL ggufrun_finish_vulkan)
