# Makes one package of all components: faaskit-config.cmake with a targets file per component, and a
# pkg-config file per component. What a component needs is read from what it was linked with, so that
# nobody has to keep a second list.
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/faaskit)
get_property(components GLOBAL PROPERTY FAASKIT_COMPONENTS)
get_property(private_components GLOBAL PROPERTY FAASKIT_PRIVATE_COMPONENTS)
set(public_components ${components})
list(REMOVE_ITEM public_components ${private_components})

# What a consumer has to be told about: the public libraries, and of a static library the private too.
function(faaskit_links component out_public out_private)
  get_target_property(public faaskit_${component} INTERFACE_LINK_LIBRARIES)
  get_target_property(all faaskit_${component} LINK_LIBRARIES)
  get_target_property(type faaskit_${component} TYPE)
  set(private)
  if(type STREQUAL "STATIC_LIBRARY" AND all)
    set(private ${all})
  endif()
  if(NOT public)
    set(public)
  endif()
  # A static library's private ones appear in the interface as $<LINK_ONLY:...>.
  list(FILTER public EXCLUDE REGEX "LINK_ONLY")
  list(REMOVE_ITEM private ${public})
  set(${out_public} ${public} PARENT_SCOPE)
  set(${out_private} ${private} PARENT_SCOPE)
endfunction()

# Relative, so that a prefix can be chosen at install time and moved afterwards.
file(RELATIVE_PATH PC_PREFIX ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
string(REGEX REPLACE "/$" "" PC_PREFIX ${PC_PREFIX})

set(FAASKIT_NEEDS)  # lines for the config file
foreach(component ${components})
  faaskit_links(${component} public private)
  set(needs)
  set(packages)
  set(requires)
  set(requires_private)
  set(libs_private)
  foreach(library ${public} ${private})
    set(pc)
    if(library MATCHES "^faaskit(_|::)(.+)$")
      list(APPEND needs ${CMAKE_MATCH_2})
      set(pc "faaskit-${CMAKE_MATCH_2} = ${PROJECT_VERSION}")
    elseif(library MATCHES "^Boost::")
      list(APPEND packages Boost)  # header-only: nothing for pkg-config
    elseif(library MATCHES "^absl::(.+)$")
      list(APPEND packages absl)
      set(pc "absl_${CMAKE_MATCH_1}")
    elseif(library MATCHES "^protobuf::lib(.+)$")
      list(APPEND packages Protobuf)
      set(pc ${CMAKE_MATCH_1})
    elseif(library STREQUAL "OpenSSL::Crypto")
      list(APPEND packages OpenSSL)
      set(pc libcrypto)
    elseif(library STREQUAL "SQLite::SQLite3")
      list(APPEND packages SQLite3)
      set(pc sqlite3)
    elseif(library STREQUAL "LibArchive::LibArchive")
      list(APPEND packages LibArchive)
      set(pc libarchive)
    elseif(library STREQUAL "Threads::Threads")
      list(APPEND packages Threads)
      list(APPEND libs_private -pthread)
    elseif(library MATCHES "^-l|^[a-z]+$")
      string(REGEX REPLACE "^(-l)?" "-l" flag ${library})
      list(APPEND libs_private ${flag})
    else()
      message(FATAL_ERROR "faaskit_${component} links ${library}: say in FaaskitInstall.cmake how its consumers find it")
    endif()
    if(pc AND library IN_LIST public)
      list(APPEND requires ${pc})
    elseif(pc)
      list(APPEND requires_private ${pc})
    endif()
  endforeach()
  list(REMOVE_DUPLICATES packages)
  string(APPEND FAASKIT_NEEDS "set(faaskit_needs_${component} ${needs})\n")
  string(APPEND FAASKIT_NEEDS "set(faaskit_packages_${component} ${packages})\n")

  install(EXPORT faaskit-${component} NAMESPACE faaskit:: DESTINATION ${package_dir}
    FILE faaskit-${component}-targets.cmake COMPONENT ${component})

  list(JOIN requires ", " PC_REQUIRES)
  list(JOIN requires_private ", " PC_REQUIRES_PRIVATE)
  list(JOIN libs_private " " PC_LIBS_PRIVATE)
  set(PC_COMPONENT ${component})
  configure_file(${PROJECT_SOURCE_DIR}/cmake/faaskit.pc.in faaskit-${component}.pc @ONLY)
  install(FILES ${CMAKE_CURRENT_BINARY_DIR}/faaskit-${component}.pc
    DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT ${component})
endforeach()

string(REGEX MATCH "^[0-9]+\\.[0-9]+" FAASKIT_BOOST_MINOR ${Boost_VERSION})
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/faaskit-config.cmake.in faaskit-config.cmake
  INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(faaskit-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/faaskit-config.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/faaskit-config-version.cmake
  DESTINATION ${package_dir} COMPONENT core)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT core)
