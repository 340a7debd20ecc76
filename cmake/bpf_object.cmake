# SPDX-License-Identifier: GPL-2.0-only
# bpf_object(SRC DIR OUT_LIST): SRC (NAME.bpf.c) → DIR/NAME.bpf.o → DIR/NAME.skel.h, appended to OUT_LIST.
# No BTF and no vmlinux.h of the building host is used: the sources carry small CO-RE types of their own.
find_program(BPF_CLANG NAMES clang clang-14 REQUIRED)
find_program(BPFTOOL bpftool PATHS /usr/sbin /sbin REQUIRED)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
	set(BPF_ARCH x86)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
	set(BPF_ARCH arm64)
else()
	message(FATAL_ERROR "BPF programs are not known to build for ${CMAKE_SYSTEM_PROCESSOR}")
endif()

function(bpf_object src dir out_list)
	get_filename_component(name ${src} NAME_WE)
	file(MAKE_DIRECTORY ${dir})
	file(GLOB headers CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/bpf/*.h)
	add_custom_command(OUTPUT ${dir}/${name}.skel.h
		COMMAND ${BPF_CLANG} -O2 -g -target bpf -mcpu=v3 -D__TARGET_ARCH_${BPF_ARCH} -Wall -Wextra -Werror
			-Wno-unused-parameter -I${CMAKE_SOURCE_DIR} -I/usr/include/${CMAKE_SYSTEM_PROCESSOR}-linux-gnu
			-c ${src} -o ${dir}/${name}.bpf.o
		COMMAND ${BPFTOOL} gen skeleton ${dir}/${name}.bpf.o name ${name} > ${dir}/${name}.skel.h
		DEPENDS ${src} ${headers}
		COMMENT "BPF ${name}" VERBATIM)
	set(${out_list} ${${out_list}} ${dir}/${name}.skel.h PARENT_SCOPE)
endfunction()
