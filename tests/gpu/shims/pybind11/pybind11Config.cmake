# For machines without the package pybind11: its headers are among torch's.
execute_process(COMMAND "${Python_EXECUTABLE}" -P -c
  "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
  OUTPUT_VARIABLE torch OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
function(pybind11_add_module name)
  python_add_library(${name} MODULE WITH_SOABI ${ARGN})
  target_include_directories(${name} SYSTEM PRIVATE "${torch}/include")
endfunction()
