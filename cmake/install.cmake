# The installed package: library, headers, command, quipu.pc, find_package(quipu).
include(CMakePackageConfigHelpers)
install(TARGETS quipu EXPORT quipu-targets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/quipu DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(TARGET quipu_command)
  install(TARGETS quipu_command RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(EXPORT quipu-targets NAMESPACE quipu:: FILE quipu-targets.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/quipu)
configure_package_config_file(cmake/quipu-config.cmake.in ${CMAKE_BINARY_DIR}/quipu-config.cmake
                              INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/quipu)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/quipu-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/quipu-config.cmake ${CMAKE_BINARY_DIR}/quipu-config-version.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/quipu)
# relative, so that the installed tree may be moved
file(RELATIVE_PATH QUIPU_PREFIX_FROM_PC /x/${CMAKE_INSTALL_LIBDIR}/pkgconfig /x)
configure_file(cmake/quipu.pc.in ${CMAKE_BINARY_DIR}/quipu.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/quipu.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
