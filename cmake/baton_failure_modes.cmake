# Every row of docs/failure-modes.md has a test that exists.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
add_test(NAME failure_modes
  COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/tools/check_failure_modes.py ${CMAKE_SOURCE_DIR})
add_test(NAME check_failure_modes COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/tools/check_failure_modes_test.py
  WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}/tools)
set_tests_properties(failure_modes check_failure_modes PROPERTIES LABELS fast)
