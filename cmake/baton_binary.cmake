# The binary: the door and every room, with what `cmake --install` puts below a prefix.
add_executable(baton ${CMAKE_SOURCE_DIR}/src/main.cc)
target_link_libraries(baton PRIVATE baton_serve baton_proxy baton_top)
set_target_properties(baton PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
include(GNUInstallDirs)
install(TARGETS baton RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(CODE "execute_process(COMMAND ${CMAKE_COMMAND} -D BATON=$<TARGET_FILE:baton> -D OUT=${CMAKE_BINARY_DIR}/texts
  -P ${CMAKE_SOURCE_DIR}/cmake/baton_texts.cmake COMMAND_ERROR_IS_FATAL ANY)")
install(DIRECTORY ${CMAKE_BINARY_DIR}/texts/man1 DESTINATION ${CMAKE_INSTALL_MANDIR})
install(FILES ${CMAKE_BINARY_DIR}/texts/completions/baton DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
install(FILES ${CMAKE_BINARY_DIR}/texts/completions/_baton DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
install(FILES ${CMAKE_BINARY_DIR}/texts/completions/baton.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
