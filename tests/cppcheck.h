/* SPDX-License-Identifier: GPL-2.0-only */
/* What cppcheck sees in the place of the libraries' macros: it does not read system headers. */
#define json_array_foreach(array, i, v)	      for (i = 0; i < json_array_size(array) && (v = json_array_get(array, i)); i++)
#define json_object_foreach(object, key, v)   for (key = first(object); key && (v = json_object_get(object, key)); key = next(object, key))
#define LIBBPF_OPTS(type, name, ...)	      struct type name = {0}
