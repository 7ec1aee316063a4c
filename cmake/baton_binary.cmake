# The binary: the door and every room, with what `cmake --install` puts below a prefix.
add_executable(baton ${CMAKE_SOURCE_DIR}/src/main.cc)
target_link_libraries(baton PRIVATE baton_serve baton_proxy)
set_target_properties(baton PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
include(GNUInstallDirs)
install(TARGETS baton RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
