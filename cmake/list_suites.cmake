# Writes a test of ctest for every suite of a GoogleTest program: cmake -DPROGRAM=... -DOUTPUT=... -P
execute_process(COMMAND ${PROGRAM} --gtest_list_tests OUTPUT_VARIABLE listing
                COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[^\n]+" lines "${listing}")
set(tests "")
foreach(line IN LISTS lines)
  if(line MATCHES "^([A-Za-z0-9_/]+)\\.")
    string(APPEND tests "add_test([=[${CMAKE_MATCH_1}]=] \"${PROGRAM}\" "
                        "--gtest_filter=${CMAKE_MATCH_1}.*)\n"
                        "set_tests_properties([=[${CMAKE_MATCH_1}]=] PROPERTIES TIMEOUT 600)\n")
  endif()
endforeach()
file(WRITE "${OUTPUT}" "${tests}")
