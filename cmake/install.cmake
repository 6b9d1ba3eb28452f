# What `cmake --install` puts where (docs/install.md), the target `uninstall`, and packages by cpack.
#
# Components: program (qalof), training (qalof-train and what its demo reads), library (libqalof,
# headers and what find_package(qalof) reads) and wheel (qalof as Python's pip installs it).

include(CMakePackageConfigHelpers)

set(doc ${CMAKE_INSTALL_DATAROOTDIR}/doc/qalof)
install(TARGETS qalof DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT program)
install(FILES LICENSE NOTICE CHANGELOG.md packaging/copyright DESTINATION ${doc} COMPONENT program)
# Man page and completions, where they were made.
install(DIRECTORY ${CMAKE_BINARY_DIR}/share/ DESTINATION ${CMAKE_INSTALL_DATAROOTDIR}
        COMPONENT program OPTIONAL)

if(TARGET qalof-train)
  install(TARGETS qalof-train DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT training)
  install(DIRECTORY assets/nano DESTINATION ${CMAKE_INSTALL_DATAROOTDIR}/qalof/assets
          COMPONENT training)
endif()

if(TARGET qalof_shared)
  set(package ${CMAKE_INSTALL_LIBDIR}/cmake/qalof)
  install(TARGETS qalof_shared EXPORT qalof DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT library)
  install(DIRECTORY include/qalof DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT library)
  # Nothing to look for: the library shows no type of other packages.
  install(EXPORT qalof NAMESPACE qalof:: FILE qalofConfig.cmake DESTINATION ${package}
          COMPONENT library)
  write_basic_package_version_file(${CMAKE_BINARY_DIR}/qalofConfigVersion.cmake
                                   COMPATIBILITY SameMinorVersion)
  install(FILES ${CMAKE_BINARY_DIR}/qalofConfigVersion.cmake DESTINATION ${package}
          COMPONENT library)
endif()

add_custom_target(uninstall
  COMMAND ${CMAKE_COMMAND} -D MANIFESTS=${CMAKE_BINARY_DIR} -D PREFIX=${CMAKE_INSTALL_PREFIX}
          -P ${CMAKE_CURRENT_LIST_DIR}/uninstall.cmake)

# A wheel runs on machines without our third-party libraries: it brings all but those of the C
# library.
if(DEFINED SKBUILD_SCRIPTS_DIR)
  set_target_properties(qalof PROPERTIES INSTALL_RPATH "$ORIGIN/../lib/qalof")
  # The old form of the path also holds for the libraries that those libraries need.
  target_link_options(qalof PRIVATE -Wl,--disable-new-dtags)
  install(TARGETS qalof RUNTIME_DEPENDENCY_SET libraries DESTINATION ${SKBUILD_SCRIPTS_DIR}
          COMPONENT wheel)
  install(RUNTIME_DEPENDENCY_SET libraries
          PRE_EXCLUDE_REGEXES "^(ld-linux.*|lib(c|m|dl|rt|pthread))\\.so"
          DESTINATION ${SKBUILD_DATA_DIR}/lib/qalof COMPONENT wheel)
endif()

# The .deb holds the program alone.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME qalof)
set(CPACK_PACKAGE_CONTACT "The QaLoF authors")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "Quantized language models with an adapter per bit width")
set(CPACK_PACKAGE_DESCRIPTION
"Runs, scores and packs GPT-2 and Llama models with integer weights, activations
and K/V caches of 2 to 8 bits, and switches each layer's width, and with it its
LoRA adapter, at run time. Training is a program of its own and not in this
package.")
set(CPACK_COMPONENTS_ALL program)
set(CPACK_COMPONENTS_GROUPING ALL_COMPONENTS_IN_ONE)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
# Loaded when something is downloaded; all else runs without.
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "libcurl4 | libcurl3-gnutls, ca-certificates")
include(CPack)
