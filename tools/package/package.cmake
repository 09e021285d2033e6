# `make package`: CPack makes a Debian package of what is installed. Its dependencies are those that dpkg-shlibdeps finds.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME mhmoe)
set(CPACK_PACKAGE_CONTACT "mhmoe maintainers <mhmoe@localhost>") # as Debian's own tools: who builds it may say
if(DEFINED ENV{DEBEMAIL})
  set(CPACK_PACKAGE_CONTACT "$ENV{DEBFULLNAME} <$ENV{DEBEMAIL}>")
endif()
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "train and examine sparse mixture-of-experts language models")
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION
"Trains decoder-only language models with dense, sparse (SMoE) and multi-head
mixture-of-experts (MH-MoE) layers on CPUs, compares them seed by seed, shows
which experts text goes to, measures them on zero-shot tasks and lets them
write.
.
The program mhmoe comes with its manual and completions, the library with its
header and files for pkg-config and CMake.")
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${CMAKE_CURRENT_LIST_DIR}/triggers)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE
                                                WORLD_READ WORLD_EXECUTE)
set(CPACK_PRE_BUILD_SCRIPTS ${CMAKE_CURRENT_LIST_DIR}/finish.cmake)
set(CPACK_MHMOE_SOURCE ${CMAKE_SOURCE_DIR})
include(CPack)
