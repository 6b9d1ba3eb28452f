# Shared settings and the two helpers every folder uses: qalof_library and qalof_test.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()
if(QALOF_DEPS)
  list(PREPEND CMAKE_PREFIX_PATH ${QALOF_DEPS})
endif()
find_program(QALOF_CCACHE ccache)
if(QALOF_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${QALOF_CCACHE})
endif()

find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(OpenSSL REQUIRED)
include(re2)
qalof_find_re2()
# Every library may become part of libqalof.so, which shows include/qalof alone.
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
# Binaries run where they were built and, moved together, beside each other.
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
# Installed ones still find third-party libraries in QALOF_DEPS.
set(CMAKE_INSTALL_RPATH_USE_LINK_PATH ON)

add_library(qalof_options INTERFACE)
# x86-64-v2 is the baseline; files for newer instruction sets raise it one by one (src/kernels).
# Contraction is off so that a float expression means the same in every file and at every ISA level.
target_compile_options(qalof_options INTERFACE -Wall -Wextra -Wshadow -Wconversion -Werror
                                               -ffp-contract=off -fno-math-errno)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  target_compile_options(qalof_options INTERFACE -march=x86-64-v2)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 14)
  # They warn inside operator+ of std::string (GCC bugs 105329 and 105651).
  target_compile_options(qalof_options INTERFACE -Wno-restrict -Wno-stringop-overflow)
endif()
target_include_directories(qalof_options INTERFACE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/include)
if(QALOF_SANITIZE)
  # g++ 12 warns inside std::regex, which tests use, when sanitizers are on.
  if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
    target_compile_options(qalof_options INTERFACE -Wno-maybe-uninitialized)
  endif()
  target_compile_options(qalof_options INTERFACE -fsanitize=${QALOF_SANITIZE} -fno-omit-frame-pointer
                                                 -fno-sanitize-recover=all)
  target_link_options(qalof_options INTERFACE -fsanitize=${QALOF_SANITIZE})
endif()

# qalof_library(NAME [COLD] [DEPS target...] [SOURCES file...]): the static library of a folder under
# src/, made of SOURCES or else of every .cpp file in it and in its rooms. COLD: its code waits for
# other folders' and for files, and is compiled at -O1, in two thirds of the time.
function(qalof_library name)
  cmake_parse_arguments(ARG "COLD" "" "DEPS;SOURCES" ${ARGN})
  if(NOT ARG_SOURCES)
    file(GLOB_RECURSE ARG_SOURCES CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  endif()
  if(NOT ARG_SOURCES)
    add_library(qalof_${name} INTERFACE)
    target_link_libraries(qalof_${name} INTERFACE ${ARG_DEPS})
    return()
  endif()
  add_library(qalof_${name} STATIC ${ARG_SOURCES})
  target_link_libraries(qalof_${name} PUBLIC ${ARG_DEPS} PRIVATE qalof_options)
  target_include_directories(qalof_${name} PUBLIC ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/include)
  if(ARG_COLD)
    target_compile_options(qalof_${name} PRIVATE $<$<CONFIG:Release>:-O1>)
  endif()
endfunction()

# What all compilations for tests share, at an optimization level for release builds.
function(qalof_test_options target level)
  target_link_libraries(${target} PRIVATE qalof_options GTest::gmock)
  # One header compiled for many of them wants the same flags, and libraries have others.
  set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  if(CMAKE_BUILD_TYPE STREQUAL Release)
    target_compile_options(${target} PRIVATE ${level})
    if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 14)
      # As above: at -O1 it warns inside operator+, where a move is inlined.
      target_compile_options(${target} PRIVATE -Wno-array-bounds)
    endif()
  endif()
endfunction()

# qalof_test(FOLDER [COMPUTES] [BY_SUITE] [DEPS target...]): one test program of every
# tests/FOLDER/*_test.cpp. Most tests wait for the libraries and are compiled at -O0; those that
# compute by themselves (COMPUTES) at -O1. ctest starts the program for every test or, BY_SUITE, for
# every suite: loading PyTorch takes 0.25 s.
function(qalof_test folder)
  cmake_parse_arguments(ARG "COMPUTES;BY_SUITE" "" "DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/${folder}/*_test.cpp)
  if(NOT sources)
    return()
  endif()
  add_executable(${folder}_tests ${sources})
  target_link_libraries(${folder}_tests PRIVATE ${ARG_DEPS} GTest::gtest_main)
  set(level O0)
  if(ARG_COMPUTES)
    set(level O1)
  endif()
  qalof_test_options(${folder}_tests -${level})
  if(ARG_BY_SUITE)  # PyTorch's headers, which no other test includes, are read once
    set_target_properties(${folder}_tests PROPERTIES UNITY_BUILD_BATCH_SIZE 100)
  else()
    target_precompile_headers(${folder}_tests REUSE_FROM test_headers_${level})
  endif()
  target_include_directories(${folder}_tests PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_compile_definitions(${folder}_tests PRIVATE
    QALOF_SOURCE_DIR="${PROJECT_SOURCE_DIR}" QALOF_BINARY_DIR="${CMAKE_BINARY_DIR}")
  if(NOT ARG_BY_SUITE)
    gtest_discover_tests(${folder}_tests DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 600)
    return()
  endif()
  set(suites ${CMAKE_CURRENT_BINARY_DIR}/${folder}_suites.cmake)
  set(included ${CMAKE_CURRENT_BINARY_DIR}/${folder}_include.cmake)
  add_custom_command(TARGET ${folder}_tests POST_BUILD BYPRODUCTS ${suites}
    COMMAND ${CMAKE_COMMAND} -DPROGRAM=$<TARGET_FILE:${folder}_tests> -DOUTPUT=${suites}
            -P ${PROJECT_SOURCE_DIR}/cmake/list_suites.cmake)
  file(WRITE ${included} "if(EXISTS \"${suites}\")
  include(\"${suites}\")
else()
  add_test(${folder}_tests_NOT_BUILT ${folder}_tests_NOT_BUILT)
endif()
")
  set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES ${included})
endfunction()
