# What `cmake --install` puts in place, in three components that become three Debian packages.
include(CMakePackageConfigHelpers)

# ---- library ------------------------------------------------------------------------------
install(TARGETS quipu EXPORT quipu-targets
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT library NAMELINK_COMPONENT development)

# ---- development: headers, quipu.pc, find_package(quipu) -----------------------------------
install(DIRECTORY include/quipu DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT development)
install(EXPORT quipu-targets NAMESPACE quipu:: FILE quipu-targets.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/quipu COMPONENT development)
configure_package_config_file(cmake/quipu-config.cmake.in ${CMAKE_BINARY_DIR}/quipu-config.cmake
                              INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/quipu)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/quipu-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/quipu-config.cmake ${CMAKE_BINARY_DIR}/quipu-config-version.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/quipu COMPONENT development)
# relative, so that the installed tree may be moved
file(RELATIVE_PATH QUIPU_PREFIX_FROM_PC /x/${CMAKE_INSTALL_LIBDIR}/pkgconfig /x)
configure_file(cmake/quipu.pc.in ${CMAKE_BINARY_DIR}/quipu.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/quipu.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT development)

# ---- command, with the manual that it prints of itself ---------------------------------------
install(TARGETS quipu_command RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT command)
set(manual ${CMAKE_BINARY_DIR}/manual)
file(MAKE_DIRECTORY ${manual})
function(quipu_manual form file folder)
  add_custom_command(OUTPUT ${manual}/${file} DEPENDS quipu_command VERBATIM
                     COMMAND sh -c "\"$1\" manual \"$2\" >\"$3\"" sh $<TARGET_FILE:quipu_command> ${form}
                             ${manual}/${file})
  set_property(GLOBAL APPEND PROPERTY quipu_manual_files ${manual}/${file})
  install(FILES ${manual}/${file} DESTINATION ${folder} COMPONENT command)
endfunction()
quipu_manual(man quipu.1 ${CMAKE_INSTALL_MANDIR}/man1)
quipu_manual(bash quipu ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
set(zsh_functions site-functions)
if(CMAKE_INSTALL_PREFIX STREQUAL "/usr" AND EXISTS /etc/debian_version)
  set(zsh_functions vendor-completions) # where Debian's zsh looks
endif()
quipu_manual(zsh _quipu ${CMAKE_INSTALL_DATADIR}/zsh/${zsh_functions})
quipu_manual(fish quipu.fish ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
get_property(manual_files GLOBAL PROPERTY quipu_manual_files)
add_custom_target(manual ALL DEPENDS ${manual_files})

# ---- Debian packages: scripts/package ---------------------------------------------------------
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME quipu)
set(CPACK_PACKAGE_CONTACT "quipu <quipu@localhost>")
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_ALL library development command)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(library_package libquipu${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
set(CPACK_DEBIAN_LIBRARY_PACKAGE_NAME ${library_package})
set(CPACK_DEBIAN_LIBRARY_PACKAGE_SECTION libs)
set(CPACK_DEBIAN_LIBRARY_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME libquipu-dev)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SHLIBDEPS OFF)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS "${library_package} (= ${PROJECT_VERSION})")
set(CPACK_DEBIAN_COMMAND_PACKAGE_NAME quipu)
set(CPACK_COMPONENT_LIBRARY_DESCRIPTION "deep-learning engine for sequence models: shared library")
set(CPACK_COMPONENT_DEVELOPMENT_DESCRIPTION "deep-learning engine for sequence models: C and C++ headers")
set(CPACK_COMPONENT_COMMAND_DESCRIPTION "train, run and compare sequence models: the command")
include(CPack)
