-- SPDX-License-Identifier: GPL-2.0-only
-- strict.lua: the globals of a scenario and of a site. What is not listed here does not exist, and asking for it is an
-- error that names the nearest thing that does.

local core = ...
local api, raise, stopped = core.api, core.raise, core.stopped
local error, pairs, pcall, rawget, select, setmetatable, tostring, type, xpcall =
	error, pairs, pcall, rawget, select, setmetatable, tostring, type, xpcall
local format, gsub, rep, sub, concat, sort =
	string.format, string.gsub, string.rep, string.sub, table.concat, table.sort
local resume, close = coroutine.resume, coroutine.close
local randomseed = math.randomseed
local ulen = utf8.len

local REP_MAX = 16 * 1024 * 1024
local LOG_MAX = 16 * 1024
local LOG_WAITING = 100

-- Why a name that other Lua programs have is missing.
local absent = {
	os = "a scenario has no clock, process or environment of its own",
	io = "a scenario reads and writes no file",
	debug = "a scenario cannot look into the program that runs it",
	package = "a scenario is one file",
	load = "a scenario is one file, and makes no code",
	loadstring = "a scenario is one file, and makes no code",
	loadfile = "a scenario is one file",
	dofile = "a scenario is one file",
	collectgarbage = "memory is not the scenario's business",
	warn = "write print(...) or run:log(...)",
	sleep = "write run:wait \"5s\"",
}

local function sorted_keys(t)
	local names = {}
	for k in pairs(t) do
		if type(k) == "string" then
			names[#names + 1] = k
		end
	end
	sort(names)
	return names
end

-- " (did you mean "x"?)", or what there is when that is short, or nothing
local function suggest(name, names)
	local near = type(name) == "string" and core.nearest(name, names)
	if near then
		return format(' (did you mean "%s"?)', near)
	elseif #names == 0 then
		return " (there is none)"
	elseif #names <= 12 then
		return format(" (there are: %s)", concat(names, ", "))
	end
	return ""
end

-- The engine is stopping the drill, or the script has computed for too long. No pcall may make it go on as if not.
local function still_running(...)
	local reason = stopped()
	if reason then
		error(reason, 0)
	end
	return ...
end

local safe = {}

function safe.pcall(...)
	return still_running(pcall(...))
end

function safe.xpcall(...)
	return still_running(xpcall(...))
end

-- A finaliser would run whenever the collector likes, in between anything. A scope's end is `<close>`'s business.
function safe.setmetatable(t, mt)
	if type(mt) == "table" and rawget(mt, "__gc") ~= nil then
		raise "__gc: values have no finalisers here; what has to be undone belongs in a <close> variable"
	end
	return setmetatable(t, mt)
end

local function to_text(...)
	local parts = {}
	for i = 1, select("#", ...) do
		parts[i] = tostring((select(i, ...)))
	end
	local text = concat(parts, "\t")
	if #text > LOG_MAX then
		text = sub(text, 1, LOG_MAX) .. "..."
	end
	if not ulen(text) then
		text = gsub(text, "[\x80-\xff]", "?")
	end
	return (gsub(text, "%z", "?"))
end

-- The engine takes nothing but the declaration until there is one: what is printed before that waits for it.
local waiting = {}

local function log(...)
	local message = { op = "log", text = to_text(...), where = core.where() }
	if not waiting then
		core.request(message)
	elseif #waiting < LOG_WAITING then
		waiting[#waiting + 1] = message
	end
end

local function declared()
	local messages = waiting
	waiting = nil
	for i = 1, #messages do
		core.request(messages[i])
	end
end

-- The string table is also what ("x"):method() looks into, so the original itself is changed, once, before any
-- scenario.
string.dump = nil
string.rep = api(function(s, n, sep)
	if type(s) == "string" and type(n) == "number" then
		local size = (#s + (type(sep) == "string" and #sep or 0)) * n
		if size > REP_MAX then
			raise(format("string.rep: a text of %.0f bytes (the limit is %d MiB)", size, REP_MAX // (1024 * 1024)))
		end
	end
	return rep(s, n, sep)
end)
getmetatable("").__metatable = false

-- Without an argument it would seed from the clock, and no run could be repeated.
math.randomseed = api(function(...)
	if select("#", ...) == 0 then
		raise "math.randomseed wants a number; it is seeded already (muster run --seed N)"
	end
	randomseed(...)
end)

function coroutine.resume(...)
	return still_running(resume(...))
end

function coroutine.close(...)
	return still_running(close(...))
end

local function globals()
	local g = {
		_VERSION = _VERSION,
		assert = assert,
		error = error,
		getmetatable = getmetatable,
		ipairs = ipairs,
		next = next,
		pairs = pairs,
		rawequal = rawequal,
		rawget = rawget,
		rawlen = rawlen,
		rawset = rawset,
		select = select,
		setmetatable = api(safe.setmetatable),
		tonumber = tonumber,
		tostring = tostring,
		type = type,
		pcall = safe.pcall,
		xpcall = safe.xpcall,
		string = string,
		table = table,
		math = math,
		utf8 = utf8,
		coroutine = coroutine,
		print = api(log),
	}
	g._G = g
	return g
end

-- Closes the table of globals: reading or writing a name that is not there is a mistake, and most are typing errors.
local function seal(g)
	return setmetatable(g, {
		__metatable = false,
		__index = api(function(_, name)
			local why = absent[name]
			if why then
				raise(format("there is no %s here: %s", name, why))
			end
			raise(format('undeclared name "%s"%s', tostring(name), suggest(name, sorted_keys(g))))
		end),
		__newindex = api(function(_, name)
			raise(format('assignment to the undeclared name "%s": write local %s = ...', tostring(name),
				tostring(name)))
		end),
	})
end

return {
	globals = globals,
	seal = seal,
	suggest = suggest,
	sorted_keys = sorted_keys,
	log = log,
	declared = declared,
}
