# SPDX-License-Identifier: GPL-2.0-only
# embed_files(OUT FILE...): OUT defines `const struct embedded embedded_files[]` (engine/embedded.h).
# Run as a script (-P) it writes the file; called, it arranges for that.
function(embed_files out)
	add_custom_command(OUTPUT ${out}
		COMMAND ${CMAKE_COMMAND} -DOUT=${out} "-DFILES=${ARGN}" -DROOT=${CMAKE_SOURCE_DIR}
			-P ${CMAKE_SOURCE_DIR}/cmake/embed.cmake
		WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}
		DEPENDS ${ARGN} ${CMAKE_SOURCE_DIR}/cmake/embed.cmake
		COMMENT "Embedding the Lua files" VERBATIM)
endfunction()

if(CMAKE_SCRIPT_MODE_FILE AND DEFINED OUT)
	set(body "/* generated */\n#include \"engine/embedded.h\"\n\n")
	set(table "")
	set(n 0)
	foreach(file ${FILES})
		file(READ ${ROOT}/${file} hex HEX)
		string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
		string(APPEND body "static const unsigned char file_${n}[] = {${bytes}0};\n")
		string(APPEND table "\t{\"${file}\", (const char *)file_${n}, sizeof(file_${n}) - 1},\n")
		math(EXPR n "${n} + 1")
	endforeach()
	string(APPEND body "\nconst struct embedded embedded_files[] = {\n${table}\t{0},\n};\n")
	file(WRITE ${OUT} "${body}")
endif()
