# cmake -DSOURCE=DIR -DOUTPUT=FILE -P commit.cmake: writes the header that says which commit a build is of. Run by
# every build, because a commit is no change of any source; the header changes only with it.
set(COMMIT "$Format:%h$") # `git archive` fills this in (.gitattributes): a tarball knows its commit
if(COMMIT MATCHES "Format")
  set(COMMIT "")
  if(EXISTS ${SOURCE}/.git) # else git would speak of a repository that this folder happens to lie in
    execute_process(COMMAND git -C ${SOURCE} describe --always --dirty=+changes --exclude=* OUTPUT_VARIABLE COMMIT
                    OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
endif()
if(COMMIT STREQUAL "")
  set(COMMIT unknown)
endif()
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT "#define MHMOE_COMMIT \"${COMMIT}\"\n")
