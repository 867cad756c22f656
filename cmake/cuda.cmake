# The module kvcore/_cuda. KVCORE_CUDA=off never looks for CUDA; auto builds the module where an nvcc
# works that is new enough; on says what is missing where it does not.
set(KVCORE_CUDA "auto" CACHE STRING "The CUDA module: auto, on or off")
set_property(CACHE KVCORE_CUDA PROPERTY STRINGS auto on off)
set(KVCORE_OLDEST_NVCC 12.4)

# Sets KVCORE_NVCC and KVCORE_NVCC_VERSION, or KVCORE_NO_CUDA to the reason why not.
function(kvcore_find_nvcc)
  # Where the compiler lies in the wheels of `pip install 'cuda-toolkit[nvcc,cccl]'`.
  file(GLOB wheels LIST_DIRECTORIES true "${Python_SITELIB}/nvidia/cu[0-9]*/bin")
  find_program(KVCORE_NVCC nvcc HINTS ENV CUDACXX ENV CUDA_HOME ENV CUDA_PATH ${wheels}
    PATHS /usr/local/cuda /opt/cuda PATH_SUFFIXES bin)
  set(reason "")
  if(NOT KVCORE_NVCC)
    set(reason "there is no nvcc on PATH, in CUDA_HOME or in /usr/local/cuda")
  else()
    execute_process(COMMAND "${KVCORE_NVCC}" --version OUTPUT_VARIABLE said RESULT_VARIABLE status
      ERROR_QUIET)
    string(REGEX MATCH "release ([0-9]+\\.[0-9]+)" matched "${said}")
    set(version "${CMAKE_MATCH_1}")
    if(NOT status EQUAL 0 OR NOT matched)
      set(reason "${KVCORE_NVCC} does not tell its version")
    elseif(version VERSION_LESS KVCORE_OLDEST_NVCC)
      set(reason "${KVCORE_NVCC} is of CUDA ${version}, and ${KVCORE_OLDEST_NVCC} is the oldest that will do")
    endif()
  endif()
  set(KVCORE_NVCC_VERSION "${version}" PARENT_SCOPE)
  set(KVCORE_NO_CUDA "${reason}" PARENT_SCOPE)
endfunction()

# Machine code for each generation, and PTX that later ones compile for themselves.
function(kvcore_cuda_architectures nvcc_version)
  if(nvcc_version VERSION_LESS 12.8)
    set(KVCORE_CUDA_ARCHITECTURES 80-real 90 PARENT_SCOPE)
  else()
    set(KVCORE_CUDA_ARCHITECTURES 80-real 90-real 100 PARENT_SCOPE)
  endif()
endfunction()

set(KVCORE_WITH_CUDA OFF)
if(NOT KVCORE_CUDA MATCHES "^(auto|on|off)$")
  message(FATAL_ERROR "KVCORE_CUDA must be auto, on or off, got '${KVCORE_CUDA}'")
elseif(NOT KVCORE_CUDA STREQUAL "off")
  kvcore_find_nvcc()
  if(NOT KVCORE_NO_CUDA)
    kvcore_cuda_architectures(${KVCORE_NVCC_VERSION})
    set(CMAKE_CUDA_ARCHITECTURES ${KVCORE_CUDA_ARCHITECTURES})
    set(ENV{CUDACXX} "${KVCORE_NVCC}")
    # The wheels' nvcc looks for its libraries in lib64, and they are in lib.
    cmake_path(GET KVCORE_NVCC PARENT_PATH bin)
    if(EXISTS "${bin}/../lib/libcudart_static.a" AND NOT EXISTS "${bin}/../lib64")
      set(ENV{CUDAFLAGS} "$ENV{CUDAFLAGS} -L${bin}/../lib")
    endif()
    # nvcc refuses host compilers that are newer than itself, and this is where it shows.
    include(CheckLanguage)
    check_language(CUDA)
    if(NOT CMAKE_CUDA_COMPILER)
      set(KVCORE_NO_CUDA "${KVCORE_NVCC} does not work with ${CMAKE_CXX_COMPILER}")
    endif()
  endif()
  if(NOT KVCORE_NO_CUDA)
    set(KVCORE_WITH_CUDA ON)
  elseif(KVCORE_CUDA STREQUAL "on")
    message(FATAL_ERROR "KVCORE_CUDA=on, but ${KVCORE_NO_CUDA}; install CUDA ${KVCORE_OLDEST_NVCC} "
      "or newer (https://developer.nvidia.com/cuda-downloads), or "
      "pip install 'cuda-toolkit[nvcc,cccl]==13.0.*', or build with KVCORE_CUDA=off")
  else()
    message(STATUS "kvcore is built without CUDA: ${KVCORE_NO_CUDA}")
  endif()
endif()

if(KVCORE_WITH_CUDA)
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
  message(STATUS "kvcore is built with CUDA ${KVCORE_NVCC_VERSION} for ${KVCORE_CUDA_ARCHITECTURES}")

  file(GLOB KVCORE_CUDA_SOURCES CONFIGURE_DEPENDS
    csrc/copy/cuda/*.cu csrc/copy/cuda/*.cpp csrc/bindings/cuda/*.cpp)
  pybind11_add_module(_cuda ${KVCORE_CUDA_SOURCES} csrc/bindings/arguments.cpp
    csrc/bindings/plan_argument.cpp)
  list(TRANSFORM KVCORE_CUDA_ARCHITECTURES REPLACE "^([0-9]+)$" "sm_\\1 compute_\\1"
    OUTPUT_VARIABLE architectures)
  list(TRANSFORM architectures REPLACE "^([0-9]+)-real$" "sm_\\1")
  string(REPLACE ";" " " architectures "${architectures}")
  target_compile_definitions(_cuda PRIVATE "KVCORE_CUDA_ARCHITECTURES=\"${architectures}\"")
  # The runtime is linked statically and finds the driver when it is first called, so the module can
  # be imported where there is neither.
  set_target_properties(_cuda PROPERTIES CUDA_RUNTIME_LIBRARY Static)
  target_include_directories(_cuda SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
  target_link_libraries(_cuda PRIVATE kvcore_core)
  target_link_options(_cuda PRIVATE LINKER:--exclude-libs,ALL)
  install(TARGETS _cuda LIBRARY DESTINATION kvcore)
endif()
