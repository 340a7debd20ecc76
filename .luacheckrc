-- SPDX-License-Identifier: GPL-2.0-only
std = "lua54"
max_line_length = false
ignore = { "581" } -- "not (x > y)" is meant: NaN is none of both
exclude_files = { "build*" }
-- `local loss <close> = run:inject(...)` is used by being in scope
files["scenarios"] = { ignore = { "211" } }
files["tests/drills"] = { ignore = { "211" } }
-- what a site file is given
files["lab/sites"] = { read_globals = { "option", "part" } }
files["lab/parts"] = { read_globals = { "part" } }
files["tests/drills/sites"] = { read_globals = { "option", "part" } }
-- takes away from the standard library what a scenario must not have
files["lua/lib/strict.lua"] = { globals = { "string", "math", "coroutine" } }
