# Injected with -DCMAKE_PROJECT_INCLUDE= on machines whose ROS 2 comes from PyPI: the wheels' imported targets name
# include directories of the machine that built them (/opt/python/...), which CMake refuses. Dropped when the
# top-level project has been read, before anything is generated; a no-op where every directory exists.

function(a2p_drop_missing_include_dirs)
  get_property(targets DIRECTORY "${CMAKE_SOURCE_DIR}" PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(directories ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(NOT directories)
      continue()
    endif()
    set(existing)
    foreach(directory IN LISTS directories)
      if(directory MATCHES "\\$<" OR EXISTS "${directory}")
        list(APPEND existing "${directory}")
      endif()
    endforeach()
    set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${existing}")
  endforeach()
endfunction()

if(PROJECT_NAME STREQUAL CMAKE_PROJECT_NAME)
  cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL a2p_drop_missing_include_dirs)
endif()
