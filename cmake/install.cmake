# SPDX-License-Identifier: Apache-2.0
#
# What `cmake --install` puts where: the program, the library with its header and pkg-config file, the man
# page and the bash completion. Everything is relocatable: --prefix may be given at install time.
include(GNUInstallDirs)

install(TARGETS nibble RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS libnibble LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
if(TARGET libnibble_static)
    install(FILES ${CMAKE_CURRENT_BINARY_DIR}/libnibble.a DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
install(FILES include/nibble.h include/nibble_gemm.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(TARGET nibble_cuda) # the engine looks for it there
    install(TARGETS nibble_cuda LIBRARY DESTINATION lib/nibble)
endif()
install(FILES docs/man/nibble.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES docs/completion/nibble.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions
        RENAME nibble)

# The .pc file finds its prefix from where it lies, so that the installed folder can be moved.
file(RELATIVE_PATH NIBBLE_PC_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" NIBBLE_PC_PREFIX "${NIBBLE_PC_PREFIX}")
configure_file(cmake/nibble.pc.in nibble.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/nibble.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
