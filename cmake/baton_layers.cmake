# The arrows of ARCHITECTURE.md are part of every build.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
add_custom_target(check_layers ALL
  COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/tools/check_layers.py ${CMAKE_SOURCE_DIR}
  COMMENT "includes against ARCHITECTURE.md" VERBATIM)
add_test(NAME check_layers COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/tools/check_layers_test.py
  WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}/tools)
set_tests_properties(check_layers PROPERTIES LABELS fast)
