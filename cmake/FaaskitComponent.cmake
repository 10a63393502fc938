# faaskit_component(NAME SOURCES ... HEADERS ... DEPS ... PRIVATE_DEPS ...)
#
# One call per room: target faaskit_NAME, alias faaskit::NAME, installed as component NAME with an
# export set of its own, so that a consumer who asks for one room needs only that room's dependencies.
# HEADERS are the public ones, relative to the project's root (include/faaskit/...).
# PRIVATE_ROOM: linked into other rooms, headers not installed (wire).
# ALWAYS_STATIC: also where the other rooms are shared libraries.
# See FaaskitInstall.cmake for what is made of the components at the end.
function(faaskit_component name)
  cmake_parse_arguments(ARG "PRIVATE_ROOM;ALWAYS_STATIC" "" "SOURCES;HEADERS;DEPS;PRIVATE_DEPS" ${ARGN})
  set(headers ${ARG_HEADERS})
  list(TRANSFORM headers PREPEND ${PROJECT_SOURCE_DIR}/)

  if(ARG_PRIVATE_ROOM OR ARG_ALWAYS_STATIC)
    add_library(faaskit_${name} STATIC ${ARG_SOURCES})
  else()
    add_library(faaskit_${name} ${ARG_SOURCES})
  endif()
  add_library(faaskit::${name} ALIAS faaskit_${name})
  if(headers)
    target_sources(faaskit_${name} PUBLIC
      FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR}/include FILES ${headers})
  endif()
  target_include_directories(faaskit_${name} PRIVATE ${PROJECT_SOURCE_DIR}/src)
  target_compile_features(faaskit_${name} PUBLIC cxx_std_20)
  target_link_libraries(faaskit_${name} PUBLIC ${ARG_DEPS} PRIVATE ${ARG_PRIVATE_DEPS})
  set_target_properties(faaskit_${name} PROPERTIES
    EXPORT_NAME ${name}
    CXX_EXTENSIONS OFF
    CXX_VISIBILITY_PRESET hidden
    VISIBILITY_INLINES_HIDDEN ON
    POSITION_INDEPENDENT_CODE ON
    VERSION ${PROJECT_VERSION}
    SOVERSION ${FAASKIT_SOVERSION}
    INSTALL_RPATH "$ORIGIN"
    VERIFY_INTERFACE_HEADER_SETS ON)

  # A static library names everything it was linked with, so that its consumer can link; a private room
  # is then installed as an archive without headers. A shared library has swallowed it.
  if(ARG_PRIVATE_ROOM AND BUILD_SHARED_LIBS)
    return()
  endif()
  set_property(GLOBAL APPEND PROPERTY FAASKIT_COMPONENTS ${name})
  if(ARG_PRIVATE_ROOM)
    set_property(GLOBAL APPEND PROPERTY FAASKIT_PRIVATE_COMPONENTS ${name})
  endif()
  if(FAASKIT_INSTALL)
    set(header_set)
    if(headers)
      set(header_set FILE_SET HEADERS COMPONENT ${name})
    endif()
    install(TARGETS faaskit_${name} EXPORT faaskit-${name}
      ARCHIVE COMPONENT ${name} LIBRARY COMPONENT ${name} ${header_set})
  endif()
endfunction()
