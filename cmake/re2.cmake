# qalof_find_re2(): RE2 as the interface target qalof_re2.
#
# A package that describes itself to CMake or pkg-config brings along what it needs (newer versions
# need Abseil); else header and library are looked for, as in a bare QALOF_DEPS prefix.

function(qalof_find_re2)
  add_library(qalof_re2 INTERFACE)
  find_package(re2 CONFIG QUIET)
  if(TARGET re2::re2)
    target_link_libraries(qalof_re2 INTERFACE re2::re2)
    return()
  endif()
  find_package(PkgConfig QUIET)
  if(PkgConfig_FOUND)
    pkg_check_modules(RE2 QUIET IMPORTED_TARGET re2)
  endif()
  if(RE2_FOUND)
    target_link_libraries(qalof_re2 INTERFACE PkgConfig::RE2)
    return()
  endif()
  find_path(RE2_INCLUDE_DIR re2/re2.h)
  find_library(RE2_LIBRARY re2)
  if(NOT RE2_INCLUDE_DIR OR NOT RE2_LIBRARY)
    message(FATAL_ERROR "RE2 was not found: install libre2-dev (scripts/setup), or point QALOF_DEPS at a prefix that holds it")
  endif()
  target_include_directories(qalof_re2 SYSTEM INTERFACE ${RE2_INCLUDE_DIR})
  target_link_libraries(qalof_re2 INTERFACE ${RE2_LIBRARY})
endfunction()
