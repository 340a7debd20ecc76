# SPDX-License-Identifier: GPL-2.0-only
# generate_tables(DIR OUT_LIST): the registries, from the file names alone; one file each in DIR, so that a test
# which needs one of them does not pull in all the others.
#
#	fault_X.c set_X.c lvs_X.c lab_X.c   const struct change_ops   change_fault_X, change_set_X, change_lvs_X, change_lab_X
#	probe_X.c                      const struct probe_ops    probe_X[]
#	load_X.c, source_X.c           const struct source_ops   load_X, source_X
#	snapshot_X.c                   const struct snapshot_ops snapshot_X
#	cmd_X.c                        const struct cmd          cmd_X
function(generate_tables dir out_list)
	set(written)
	macro(registry kind type prefix suffix address)
		set(names)
		foreach(room ${ROOMS})
			foreach(pattern ${ARGN})
				file(GLOB files CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${room}/${pattern}_*.c)
				foreach(f ${files})
					get_filename_component(name ${f} NAME_WE)
					list(APPEND names ${name})
				endforeach()
			endforeach()
		endforeach()
		list(SORT names)
		set(externs "")
		set(rows "")
		foreach(name ${names})
			string(APPEND externs "extern const struct ${type} ${prefix}${name}${suffix};\n")
			string(APPEND rows "\t${address}${prefix}${name},\n")
		endforeach()
		file(CONFIGURE OUTPUT ${dir}/table_${kind}.c @ONLY CONTENT "/* generated from the file names */
#include \"engine/${kind}.h\"

${externs}
const struct ${type} *const ${kind}_table[] = {
${rows}\tNULL,
};
")
		list(APPEND written ${dir}/table_${kind}.c)
	endmacro()
	registry(change change_ops "change_" "" "&" fault set lvs lab)
	registry(probe probe_ops "" "[]" "" probe)
	registry(source source_ops "" "" "&" load source)
	registry(snapshot snapshot_ops "" "" "&" snapshot)
	registry(cmd cmd "" "" "&" cmd)
	set(${out_list} ${written} PARENT_SCOPE)
endfunction()
