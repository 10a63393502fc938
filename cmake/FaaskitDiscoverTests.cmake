# faaskit_discover_tests(TARGET ROOM TIMEOUT LABELS...): each TEST_CASE of a Catch2 program (v2 or v3)
# becomes a test "ROOM: name" that runs in a process of its own. Cases tagged [slow] get the label slow.
#
# Catch2's own catch_discover_tests cuts names at ';', stumbles over brackets, and cannot set properties
# that are lists. And a name that Catch cannot find again runs nothing and passes: here that is a failure.
if(NOT CMAKE_SCRIPT_MODE_FILE)
  set(FAASKIT_DISCOVER_TESTS ${CMAKE_CURRENT_LIST_FILE})
  function(faaskit_discover_tests target room timeout)
    set(tests ${CMAKE_CURRENT_BINARY_DIR}/${target}_tests.cmake)
    add_custom_command(TARGET ${target} POST_BUILD BYPRODUCTS ${tests} VERBATIM
      COMMAND ${CMAKE_COMMAND} -D "PROGRAM=$<TARGET_FILE:${target}>" -D "ROOM=${room}" -D "TIMEOUT=${timeout}"
        -D "LABELS=${ARGN}" -D "FOLDER=${CMAKE_CURRENT_BINARY_DIR}" -D "TESTS=${tests}" -P ${FAASKIT_DISCOVER_TESTS})
    set(include ${CMAKE_CURRENT_BINARY_DIR}/${target}_include.cmake)
    file(WRITE ${include} "if(EXISTS \"${tests}\")
  include(\"${tests}\")
else()
  add_test(\"${room}: not built\" ${target}-is-not-built)
endif()\n")
    set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES ${include})
  endfunction()
  return()
endif()

# From here on: the script that runs after each build of the program.
cmake_minimum_required(VERSION 3.25)

# The names, one list element each; ';' and brackets would upset a list, so others stand for them.
string(ASCII 1 semicolon)
string(ASCII 2 open)
string(ASCII 3 close)
function(list_names out)
  # v2 answers with the number of tests, v3 with 0.
  execute_process(COMMAND ${PROGRAM} ${ARGN} --list-test-names-only
    OUTPUT_VARIABLE names ERROR_VARIABLE errors RESULT_VARIABLE result WORKING_DIRECTORY ${FOLDER})
  if(errors MATCHES "Unrecognised token|Unrecognized token")
    execute_process(COMMAND ${PROGRAM} ${ARGN} --list-tests --verbosity quiet
      OUTPUT_VARIABLE names ERROR_VARIABLE errors RESULT_VARIABLE result WORKING_DIRECTORY ${FOLDER})
  endif()
  if(NOT result MATCHES "^[0-9]+$")
    message(FATAL_ERROR "${PROGRAM} cannot list its tests: ${result}\n${errors}")
  endif()
  string(REPLACE ";" "${semicolon}" names "${names}")
  string(REPLACE "[" "${open}" names "${names}")
  string(REPLACE "]" "${close}" names "${names}")
  string(REGEX REPLACE "\n+" ";" names "${names}")
  list(TRANSFORM names STRIP)
  list(REMOVE_ITEM names "")
  set(${out} "${names}" PARENT_SCOPE)
endfunction()

list_names(names)
list_names(slow "[slow]")
if(NOT names)
  message(FATAL_ERROR "${PROGRAM} has no tests")
endif()

set(script)
foreach(name IN LISTS names)
  set(labels ${ROOM} ${LABELS})
  if(name IN_LIST slow)
    list(APPEND labels slow)
  endif()
  string(REPLACE "${semicolon}" ";" name "${name}")
  string(REPLACE "${open}" "[" name "${name}")
  string(REPLACE "${close}" "]" name "${name}")
  # Backslashes for what has a meaning to Catch.
  string(REPLACE "\\" "\\\\" spec "${name}")
  foreach(special "," "[" "]")
    string(REPLACE "${special}" "\\${special}" spec "${spec}")
  endforeach()
  string(APPEND script "add_test([==[${ROOM}: ${name}]==] [==[${PROGRAM}]==] [==[${spec}]==])
set_tests_properties([==[${ROOM}: ${name}]==] PROPERTIES WORKING_DIRECTORY [==[${FOLDER}]==] TIMEOUT ${TIMEOUT}
  LABELS [==[${labels}]==] SKIP_RETURN_CODE 77 FAIL_REGULAR_EXPRESSION [==[No test cases matched|No tests ran]==])\n")
endforeach()
file(WRITE ${TESTS} "${script}")
