# For machines without the package cython-cmake: what CMakeLists.txt needs of it.
function(cython_transpile source)
  cmake_parse_arguments(PARSE_ARGV 1 given "" "LANGUAGE;OUTPUT_VARIABLE" "CYTHON_ARGS")
  cmake_path(GET source STEM name)
  set(output "${CMAKE_CURRENT_BINARY_DIR}/${name}.c")
  add_custom_command(OUTPUT "${output}"
    COMMAND "${Python_EXECUTABLE}" -m cython ${given_CYTHON_ARGS} -o "${output}"
      "${CMAKE_CURRENT_SOURCE_DIR}/${source}"
    DEPENDS "${source}")
  set(${given_OUTPUT_VARIABLE} "${output}" PARENT_SCOPE)
endfunction()
