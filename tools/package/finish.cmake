# Run by CPack before it packs: what a Debian package has and `make install` has no use for.
execute_process(COMMAND ${CPACK_MHMOE_SOURCE}/tools/package/finish ${CPACK_TEMPORARY_DIRECTORY}/usr
                        "${CPACK_PACKAGE_VERSION}" "${CPACK_PACKAGE_CONTACT}" COMMAND_ERROR_IS_FATAL ANY)
