-- SPDX-License-Identifier: GPL-2.0-only
-- muster.lua: what `require "muster"` gives a scenario.
--
-- Faults, settings, loads, probes and predicates are values: checked where they are made, opaque and unchangeable
-- afterwards. Only the method acts, and every act is a request to the engine, which checks it again and answers.
-- Constructors and methods come from the engine's tables (core.changes, core.loads, core.probes); no list stands here.

local core, strict = ...
local api, data, opaque, request = core.api, core.data, core.opaque, core.request
local suggest, sorted_keys = strict.suggest, strict.sorted_keys
local ipairs, pairs, select, tonumber, tostring, type = ipairs, pairs, select, tonumber, tostring, type
local format, find, gsub, match, sub = string.format, string.find, string.gsub, string.match, string.sub
local concat, sort = table.concat, table.sort

-- ── mistakes ─────────────────────────────────────────────────────────────────────────────────

-- At the line of the scenario that called in.
local function fail(...)
	core.raise(format(...))
end

local function fail_at(where, ...)
	core.raise(format(...), where)
end

-- A value as an error message names it.
local function name_of(v)
	local d = data(v)
	if d then
		return d.label
	elseif type(v) == "string" then
		return format('"%s"', #v > 40 and sub(v, 1, 37) .. "..." or v)
	elseif type(v) == "nil" or type(v) == "boolean" then
		return tostring(v)
	elseif type(v) == "number" then
		return format("%.14g", v)
	end
	return "a " .. type(v)
end

local function need_table(who, t)
	if type(t) ~= "table" then
		fail("%s wants a table { name = value, ... }, not %s", who, name_of(t))
	end
end

-- Refuses keys that are not in `known`; `positions`: list entries are welcome too.
local function check_keys(who, t, known, positions)
	local names, given = {}, {}
	for _, k in ipairs(known) do
		names[k] = true
	end
	for k in pairs(t) do
		if type(k) == "string" then
			given[#given + 1] = k
		elseif not (positions and type(k) == "number" and k >= 1 and k <= #t) then
			fail("%s: %s = %s has no place here: arguments have names", who, format("[%s]", tostring(k)),
				name_of(t[k]))
		end
	end
	sort(given)
	for _, k in ipairs(given) do
		if not names[k] then
			fail('%s: unknown key "%s"%s', who, k, suggest(k, known))
		end
	end
end

local function duration(who, v)
	local ns, why = core.duration(v)
	if not ns then
		fail("%s: %s", who, why)
	end
	return ns
end

local function text(who, v)
	if type(v) ~= "string" or v == "" then
		fail("%s wants a text, not %s", who, v == "" and "an empty one" or name_of(v))
	end
	return v
end

-- ── kinds of values ──────────────────────────────────────────────────────────────────────────

-- A metatable for one kind. `methods` are functions of the library; here they become what a scenario may call.
-- `more` are further metamethods.
local function new_kind(kind, methods, more)
	local public = {}
	local mt = {
		__name = "muster." .. kind,
		__metatable = false,
		__tostring = api(function(v)
			return data(v).text
		end),
		__newindex = api(function(v, key)
			fail("%s cannot be changed (%s)", data(v).label, tostring(key))
		end),
	}
	for name, fn in pairs(methods) do
		public[name] = api(function(self, ...)
			local d = data(self)
			if not d or d.kind ~= kind then
				fail("%s is called with a colon: VALUE:%s(...)", name, name)
			end
			return fn(d, self, ...)
		end)
	end
	mt.__index = api(function(v, key)
		local d = data(v)
		local found = public[key]
		if found == nil and d.fields then
			found = d.fields[key]
		end
		if found == nil then
			local names = sorted_keys(public)
			for _, field in ipairs(sorted_keys(d.fields or {})) do
				names[#names + 1] = field
			end
			fail('%s has no "%s"%s', d.label, tostring(key), suggest(key, names))
		end
		return found
	end)
	for event, fn in pairs(more or {}) do
		mt[event] = api(fn)
	end
	return function(d)
		d.kind = kind
		d.text = d.text or d.label
		return opaque(mt, d)
	end
end

-- A table of constructors, "muster.fault" and the like: closed, and helpful about wrong names.
local new_family = new_kind("module", {})

local function family(label, fields)
	return new_family { label = label, fields = fields }
end

-- ── what has been declared so far ────────────────────────────────────────────────────────────

local declaring = true  -- until the file has returned
local the_site          -- data of the site, at most one
local load_names = {}   -- name -> where it was made
local parameters = {}   -- names of muster.param, in order
local the_scenario      -- data of the last muster.scenario, to tell "not returned" from "not made"

local function only_while_declaring(what)
	if not declaring then
		fail("%s belongs at the top of the file: the method acts on what was declared", what)
	end
end

-- ── probes and predicates ────────────────────────────────────────────────────────────────────

local ops = { "below", "above", "at_most", "at_least", "equals", "within" }

local function shown(v)
	return type(v) == "number" and format("%.14g", v) or tostring(v)
end

local new_predicate = new_kind("predicate", {
	over = function(d, _, window)
		return d.make { probe = d.probe, op = d.op, bound = d.bound, bound_text = d.bound_text,
			over = duration(d.text .. ": over", window), over_text = shown(window),
			lasting = d.lasting, lasting_text = d.lasting_text }
	end,
	lasting = function(d, _, time)
		return d.make { probe = d.probe, op = d.op, bound = d.bound, bound_text = d.bound_text,
			over = d.over, over_text = d.over_text,
			lasting = duration(d.text .. ": lasting", time), lasting_text = shown(time) }
	end,
})

local function make_predicate(p)
	local words = format("%s %s %s", p.probe.text, (gsub(p.op, "_", " ")), p.bound_text)
	if p.over then
		words = words .. " over " .. p.over_text
	end
	if p.lasting then
		words = words .. " lasting " .. p.lasting_text
	end
	p.text = words
	p.label = format("the predicate %s", words)
	p.make = make_predicate
	p.json = {
		probe = p.probe.name,
		args = p.probe.args,
		op = p.op,
		bound = p.bound,
		over_ns = p.over,
		lasting_ns = p.lasting or 0,
		text = words,
	}
	return new_predicate(p)
end

local probe_methods = {}
for _, op in ipairs(ops) do
	probe_methods[op] = function(d, _, limit)
		local bound, why = core.bound(d.unit, limit)
		if not bound then
			fail("%s:%s: %s", d.text, op, why)
		end
		return make_predicate { probe = d, op = op, bound = bound, bound_text = shown(limit) }
	end
end

local function compared()
	fail 'a probe is compared with a method: client:p99():below "50ms"'
end

local new_probe = new_kind("probe", probe_methods, { __lt = compared, __le = compared })

-- The arguments of a probe: web:weight "rs2", web:weight("rs2", { ... }), client:p99(), client:p99 { ... }
local function probe_args(probe, label, n, first, rest)
	local args, words = {}, {}
	if n > 0 and (type(first) ~= "table") then
		local position = probe.params[1]
		if not position then
			fail("%s takes no argument, not %s", label, name_of(first))
		end
		args[position] = first
		words[1] = data(first) and data(first).name or shown(first)
		words[1] = type(first) == "number" and words[1] or format('"%s"', words[1])
		first = rest
		n = n - 1
	end
	if n > 1 or (n == 1 and type(first) ~= "table") then
		fail("%s: too many arguments, or %s where a table { name = value } is wanted", label, name_of(first))
	end
	if n == 1 then
		for _, k in ipairs(sorted_keys(first)) do
			words[#words + 1] = format("%s = %s", k, name_of(first[k]))
		end
		for k, v in pairs(first) do
			if args[k] ~= nil then
				fail('%s: "%s" is given twice', label, tostring(k))
			end
			args[k] = v
		end
	end
	return args, concat(words, ", ")
end

local function make_probe(probe, owner, owner_text, ...)
	local label = owner_text .. probe.name
	local args, words = probe_args(probe, label, select("#", ...), ...)
	local checked, why = core.check("probe", probe.subject, probe.name, label, args)
	if not checked then
		fail("%s", why)
	end
	if probe.subject ~= "" then
		checked = core.with(checked, probe.subject, owner)
	end
	return new_probe {
		label = format("the probe %s(%s)", label, words),
		text = format("%s(%s)", label, words),
		name = probe.subject == "" and probe.name or probe.subject .. "." .. probe.name,
		args = checked,
		unit = probe.unit,
		load = probe.subject == "load" and owner or nil,
	}
end

-- The methods that the probe tables give to a subject: "load", "service", "node"
local function subject_methods(subject, methods)
	for _, probe in ipairs(core.probes) do
		if probe.subject == subject then
			methods[probe.name] = function(d, _, ...)
				return make_probe(probe, d.name, d.name .. ":", ...)
			end
		end
	end
	return methods
end

-- ── site, services, nodes ────────────────────────────────────────────────────────────────────

local function is_ipv6(addr)
	return find(addr, ":", 1, true) ~= nil
end

local new_database = new_kind("database", subject_methods("database", {}))

local new_node = new_kind("node", subject_methods("node", {}))

local new_service = new_kind("service", subject_methods("service", {
	-- web:url "/", web:url("/", { family = "ipv6" }): a URL of the first virtual address (of that family)
	url = function(d, _, path, options)
		local who = d.name .. ":url"
		if path == nil then
			path = "/"
		end
		if type(path) ~= "string" or sub(path, 1, 1) ~= "/" or find(path, "[^\x21-\x7e]") then
			fail("%s wants a path that begins with / and has no blanks, not %s", who, name_of(path))
		end
		local family_wanted
		if options ~= nil then
			need_table(who, options)
			check_keys(who, options, { "family" })
			family_wanted = options.family
			if family_wanted ~= nil and family_wanted ~= "ipv4" and family_wanted ~= "ipv6" then
				fail('%s: family is "ipv4" or "ipv6", not %s', who, name_of(family_wanted))
			end
		end
		for _, vip in ipairs(d.service.vips) do
			if family_wanted == nil or is_ipv6(vip) == (family_wanted == "ipv6") then
				return format(is_ipv6(vip) and "http://[%s]:%d%s" or "http://%s:%d%s", vip, d.service.port, path)
			end
		end
		fail("%s: the service has no %s address", who, family_wanted)
	end,
}))

local function lookup(d, what, list, make, name)
	local by_name = {}
	if type(name) ~= "string" then
		fail("%s:%s wants a name, not %s", d.name, what, name_of(name))
	end
	for _, entry in ipairs(list or {}) do
		by_name[entry.name] = entry
	end
	if not by_name[name] then
		fail('site %s has no %s "%s"%s', d.name, what, name, suggest(name, sorted_keys(by_name)))
	end
	return make(by_name[name])
end

local new_site = new_kind("site", {
	service = function(d, _, name)
		return lookup(d, "service", d.site.services, function(service)
			return new_service { name = service.name, [1] = service.name, service = service,
				label = format('the service "%s"', service.name), text = service.name,
				fields = { name = service.name, port = service.port } }
		end, name)
	end,
	database = function(d, _, name)
		return lookup(d, "database", d.site.databases, function(database)
			return new_database { name = database.name, [1] = database.name,
				label = format('the database "%s"', database.name), text = database.name,
				fields = { name = database.name } }
		end, name)
	end,
	node = function(d, _, name)
		return lookup(d, "node", d.site.nodes, function(node)
			return new_node { name = node.name, [1] = node.name, label = format('the node "%s"', node.name),
				text = node.name, fields = { name = node.name } }
		end, name)
	end,
})

-- Runs a site's, a part's or a profile's file, which sees nothing of the scenario: plain Lua, and what `given` adds.
local function evaluate(source, what, given)
	local env = strict.globals()
	for name, value in pairs(given or {}) do
		env[name] = value
	end
	local returned = core.load(source.text, source.file, strict.seal(env))()
	if type(returned) ~= "table" then
		core.raise(format("%s must return a table, not %s", what, name_of(returned)), source.file .. ":1")
	end
	return returned
end

-- `option { name = default, ... }` in a site file: the values with what muster.site(name, { ... }) said
local function site_option(name, given, where)
	local asked = false
	local function option(defaults)
		need_table("option", defaults)
		if asked then
			fail "option is called once, with all options"
		end
		asked = true
		local known, values = sorted_keys(defaults), {}
		for _, k in ipairs(sorted_keys(given)) do
			local v, default = given[k], defaults[k]
			if default == nil then
				fail_at(where, 'site %s has no option "%s"%s', name, k, suggest(k, known))
			end
			if type(default) == "number" and type(v) == "string" then
				v = tonumber(v) or v
			elseif type(default) == "boolean" and (v == "true" or v == "false") then
				v = v == "true"
			end
			if type(v) ~= type(default) then
				fail_at(where, "site %s: option %s wants a %s, not %s", name, k, type(default), name_of(v))
			end
			values[k] = v
		end
		for k, v in pairs(defaults) do
			if values[k] == nil then
				values[k] = v
			end
		end
		return values
	end
	local function finished()
		local first = sorted_keys(given)[1]
		if first and not asked then
			fail_at(where, 'site %s has no option "%s" (it takes none)', name, first)
		end
	end
	return api(option), finished
end

-- `part "NAME"` in a site's or a part's file: the table that lab/parts/NAME.lua returns. What several sites share, and no more:
-- a part is evaluated anew for each who asks.
local part
part = api(function(name)
	text("part", name)
	return evaluate(request { op = "part", name = name }, format("the part %s", name), { part = part })
end)

local function load_site(name, options)
	text("muster.site", name)
	if options == nil then
		options = {}
	end
	need_table("muster.site: options", options)
	check_keys("muster.site: options", options, sorted_keys(options))
	local where = core.where()
	local source = request { op = "site", name = name, options = options }
	local option, finished = site_option(name, options, where)
	local returned = evaluate(source, format("the site %s", name), { option = option, part = part })
	finished()
	local json, why = core.site(returned, name)
	if not json then
		fail_at(source.file .. ":1", "%s", why)
	end
	return json
end

local function site(name, options)
	only_while_declaring "muster.site"
	if the_site then
		fail("a scenario has one site: %s was named at %s", the_site.name, the_site.where)
	end
	local where = core.where()
	local json = load_site(name, options)
	local plain = core.unbox(json)
	the_site = { name = plain.name, label = format("the site %s", plain.name), text = plain.name, site = plain,
		json = json, where = where, fields = { name = plain.name } }
	return new_site(the_site)
end

-- ── loads ────────────────────────────────────────────────────────────────────────────────────

local new_load = new_kind("load", subject_methods("load", {}))

local function unique(name)
	local candidate, n = name, 1
	while load_names[candidate] do
		n = n + 1
		candidate = format("%s-%d", name, n)
	end
	return candidate
end

local function load_constructor(entry)
	local who, names_itself = "load." .. entry.name, false
	for _, p in ipairs(entry.params) do
		names_itself = names_itself or p == "name"
	end
	return api(function(given)
		only_while_declaring(who)
		need_table(who, given)
		local args, name = {}, given.name
		for k, v in pairs(given) do
			if k ~= "name" or names_itself then
				args[k] = v
			end
		end
		if name ~= nil then
			text(who .. ": name", name)
			if not match(name, "^[%a][%w_-]*$") or #name > 31 then
				fail('%s: name = "%s" is not 1 to 31 letters, digits, - and _', who, name)
			end
			if load_names[name] then
				fail('%s: the name "%s" is taken (%s)', who, name, load_names[name])
			end
		end
		local checked, why = core.check("load", "", entry.name, who, args)
		if not checked then
			fail("%s", why)
		end
		name = name or unique(core.unbox(checked).from or entry.name)
		load_names[name] = core.where()
		return new_load {
			name = name, [1] = name, fields = { name = name }, label = format('the load "%s"', name), text = name,
			json = { kind = entry.name, name = name, args = checked, where = core.where() },
		}
	end)
end

-- ── faults and settings ──────────────────────────────────────────────────────────────────────

local new_change = {
	fault = new_kind("fault", {}),
	set = new_kind("setting", {}),
}
new_change.lvs = new_change.set

local changes = {} -- name -> entry
for _, entry in ipairs(core.changes) do
	changes[entry.name] = entry
end

local function check_change(entry, args)
	local checked, why = core.check("change", "", entry.name, entry.name, args)
	if not checked then
		fail("%s", why)
	end
	return checked
end

local function change_constructor(entry)
	return api(function(args)
		need_table(entry.name, args)
		local checked = check_change(entry, args)
		return new_change[entry.family] {
			change = entry.name, args = checked, where = core.where(), label = entry.name,
			text = format("%s { %s }", entry.name, core.describe("change", "", entry.name, checked)),
		}
	end)
end

-- ── baseline ─────────────────────────────────────────────────────────────────────────────────

local function append_unique(list, seen, name)
	if name and not seen[name] then
		seen[name] = true
		list[#list + 1] = name
	end
end

-- What `on` in a profile stands for: the argument it fills in, and the names.
local selectors = {}

function selectors.servers(s)
	local list, seen = {}, {}
	for _, service in ipairs(s.services or {}) do
		for _, server in ipairs(service.servers) do
			append_unique(list, seen, server.node)
		end
	end
	return "node", list
end

function selectors.directors(s)
	local list, seen = {}, {}
	for _, service in ipairs(s.services or {}) do
		append_unique(list, seen, service.director)
		for _, director in ipairs(service.directors or {}) do
			append_unique(list, seen, director)
		end
	end
	return "node", list
end

function selectors.nodes(s)
	local list = {}
	for _, node in ipairs(s.nodes) do
		list[#list + 1] = node.name
	end
	return "node", list
end

-- neither director nor real server: where the loads come from
function selectors.clients(s)
	local list, seen = {}, {}
	for _, serving in ipairs { "servers", "directors" } do
		local _, names = selectors[serving](s)
		for _, name in ipairs(names) do
			seen[name] = true
		end
	end
	for _, node in ipairs(s.nodes) do
		append_unique(list, seen, node.name)
	end
	return "node", list
end

function selectors.services(s)
	local list = {}
	for _, service in ipairs(s.services or {}) do
		list[#list + 1] = service.name
	end
	return "service", list
end

-- the machine itself: what is of all of it
function selectors.host()
	return "node", { "host" }
end

-- A profile's file returns { summary = ..., { on = "servers", "set.sysctl", { values = {...} } }, ... }.
local function expand_profile(name, site_data, into)
	local source = request { op = "profile", name = name }
	local where = core.where()
	local returned = evaluate(source, format("the profile %s", name))
	local function wrong(i, ...)
		fail_at(source.file .. ":1", "profile %s: entry %d: %s", name, i, format(...))
	end
	check_keys(format("profile %s", name), returned, { "summary" }, true)
	for i = 1, #returned do
		local entry = returned[i]
		if type(entry) ~= "table" then
			wrong(i, 'a table { on = ..., "set.NAME", { ... } } is wanted, not %s', name_of(entry))
		end
		check_keys(format("profile %s: entry %d", name, i), entry, { "on", "optional" }, true)
		if entry.optional ~= nil and type(entry.optional) ~= "boolean" then
			wrong(i, "optional is true or false, not %s", name_of(entry.optional))
		end
		local change, args = changes[entry[1]], entry[2] or {}
		if type(entry[1]) ~= "string" or not change or change.family ~= "set" then
			local known = {}
			for _, c in ipairs(core.changes) do
				if c.family == "set" then
					known[#known + 1] = c.name
				end
			end
			wrong(i, "there is no setting %s%s", name_of(entry[1]), suggest(entry[1], known))
		end
		if type(args) ~= "table" then
			wrong(i, "%s wants a table, not %s", entry[1], name_of(args))
		end
		local select_names = type(entry.on) == "string" and selectors[entry.on]
		if not select_names then
			wrong(i, "on = %s%s", name_of(entry.on), suggest(entry.on, sorted_keys(selectors)))
		end
		local key, names = select_names(site_data)
		for _, target in ipairs(names) do
			local all = {}
			for k, v in pairs(args) do
				all[k] = v
			end
			all[key] = target
			local checked, why = core.check("change", "", change.name, change.name, all)
			if not checked then
				wrong(i, "%s", why)
			end
			into[#into + 1] = { change = change.name, args = checked, where = where, optional = entry.optional }
		end
	end
end

-- baseline = "profile"; a setting; or a list of settings with at most one profile's name among them
local function baseline(value, site_data)
	local list, profile, own, out = value, nil, {}, {}
	if type(value) ~= "table" then
		list = { value }
	else
		check_keys("baseline", value, {}, true)
	end
	for i = 1, #list do
		local v = list[i]
		local d = data(v)
		if type(v) == "string" then
			if profile then
				fail('baseline: one profile at a time, not "%s" and "%s"', profile, v)
			end
			profile = v
		elseif d and d.kind == "setting" then
			own[#own + 1] = { change = d.change, args = d.args, where = d.where }
		elseif d and d.kind == "fault" then
			fail("baseline: %s is a fault: what is broken on purpose belongs in the method", d.label)
		else
			fail("baseline wants a profile's name or settings (set.NAME { ... }), not %s", name_of(v))
		end
	end
	if profile then
		expand_profile(profile, site_data, out)
	end
	-- the scenario's own come last, and so win
	for _, change in ipairs(own) do
		out[#out + 1] = change
	end
	return { profile = profile or core.null, changes = core.array(out) }
end

-- ── the scenario ─────────────────────────────────────────────────────────────────────────────

local new_scenario = new_kind("scenario", {})

local scenario_keys = {
	"name", "summary", "site", "baseline", "deadline", "load", "steady_state", "stop_when", "method", "objective",
	"unsafe",
}
local unsafe_keys = { "management-path" }

-- The predicates in the list part of `t`, as JSON; `lasting` says whether that word means something here.
local function predicates(who, t, loads, lasting)
	local out = {}
	for i = 1, #t do
		local d = data(t[i])
		if not d or d.kind ~= "predicate" then
			local hint = d and d.kind == "probe" and ': compare it, as in :below "1%"' or ""
			fail("%s wants predicates, and entry %d is %s%s", who, i, name_of(t[i]), hint)
		end
		if d.lasting and not lasting then
			fail("%s: %s: lasting is for stop_when", who, d.text)
		end
		if d.probe.load and not loads[d.probe.load] then
			fail('%s: %s: the load "%s" is not among the scenario\'s loads (load = ...)', who, d.text, d.probe.load)
		end
		out[i] = d.json
	end
	return core.array(out)
end

local function scenario(t)
	only_while_declaring "muster.scenario"
	local who = "scenario"
	need_table(who, t)
	check_keys(who, t, scenario_keys)
	for _, key in ipairs { "name", "site", "deadline", "method" } do
		if t[key] == nil then
			fail("%s: %s is missing", who, key)
		end
	end
	local name = text("name", t.name)
	if not match(name, "^[%w_-]+$") or #name > 64 then
		fail('name = "%s": 1 to 64 letters, digits, - and _ are wanted', name)
	end
	if t.summary ~= nil then
		text("summary", t.summary)
	end
	local site_data = data(t.site)
	if not site_data or site_data.kind ~= "site" then
		fail('site wants muster.site "NAME", not %s', name_of(t.site))
	end
	if type(t.method) ~= "function" then
		fail("method wants a function, not %s", name_of(t.method))
	end
	local deadline = duration("deadline", t.deadline)
	if deadline == 0 then
		fail "deadline: 0 is no deadline"
	end

	local loads, by_name = {}, {}
	local given = t.load
	if type(given) ~= "table" then
		given = { given }
	else
		check_keys("load", given, {}, true)
	end
	for i = 1, #given do
		local v = given[i]
		local d = data(v)
		if not d or d.kind ~= "load" then
			fail("load wants a load (load.http { ... }) or a list of them, not %s", name_of(v))
		end
		if by_name[d.name] then
			fail('load: "%s" is there twice', d.name)
		end
		by_name[d.name] = true
		loads[#loads + 1] = d.json
	end

	local steady = t.steady_state or {}
	need_table("steady_state", steady)
	check_keys("steady_state", steady, { "settle", "within" }, true)
	local stop = t.stop_when or {}
	if data(stop) then
		stop = { stop }
	end
	need_table("stop_when", stop)
	check_keys("stop_when", stop, {}, true)
	local objective = t.objective or {}
	need_table("objective", objective)
	check_keys("objective", objective, { "rto", "rpo", "error_budget" }, true)
	local budget = core.null
	if objective.error_budget ~= nil then
		local ratio, why = core.bound("ratio", objective.error_budget)
		if not ratio then
			fail("objective: error_budget: %s", why)
		end
		budget = ratio
		if #loads == 0 then
			fail "objective: error_budget needs a load whose errors are counted"
		end
	end
	local rpo = core.null
	if objective.rpo ~= nil then
		rpo = duration("objective: rpo", objective.rpo)
		local ledger = false
		for _, l in ipairs(loads) do
			ledger = ledger or l.kind == "ledger"
		end
		if not ledger then
			fail "objective: rpo needs a ledger (load.ledger) whose writes are read back"
		end
	end
	local unsafe = t.unsafe or {}
	need_table("unsafe", unsafe)
	check_keys("unsafe", unsafe, {}, true)
	for i = 1, #unsafe do
		local what = unsafe[i]
		if what ~= "management-path" then
			fail("unsafe: %s%s", name_of(what), suggest(what, unsafe_keys))
		end
	end

	the_scenario = {
		label = "the scenario",
		text = format("scenario %s", name),
		where = core.where(),
		method = t.method,
		json = {
			name = name,
			summary = t.summary or "",
			site = site_data.json,
			baseline = t.baseline ~= nil and baseline(t.baseline, site_data.site)
				or { profile = core.null, changes = core.array {} },
			deadline_ns = deadline,
			loads = core.array(loads),
			steady_state = {
				settle_ns = duration("steady_state: settle", steady.settle or "5s"),
				within_ns = duration("steady_state: within", steady.within or "60s"),
				predicates = predicates("steady_state", steady, by_name),
			},
			stop_when = predicates("stop_when", stop, by_name, true),
			objective = {
				rto_ns = objective.rto ~= nil and duration("objective: rto", objective.rto) or core.null,
				rpo_ns = rpo,
				error_budget = budget,
				predicates = predicates("objective", objective, by_name),
			},
			unsafe = core.array(unsafe),
		},
		loads = by_name,
	}
	return new_scenario(the_scenario)
end

-- ── parameters ───────────────────────────────────────────────────────────────────────────────

-- muster.param("rate", "300/s"): what `--set rate=...` says, else the default, in the default's type
local function param(name, default)
	only_while_declaring "muster.param"
	text("muster.param", name)
	parameters[#parameters + 1] = name
	local v = core.set[name]
	if v == nil then
		return default
	elseif type(default) == "number" then
		local n = tonumber(v)
		if not n then
			fail("--set %s=%s: a number is wanted", name, v)
		end
		return n
	elseif type(default) == "boolean" then
		if v ~= "true" and v ~= "false" then
			fail("--set %s=%s: true or false is wanted", name, v)
		end
		return v == "true"
	end
	return v
end

local function check_parameters(where)
	local known = {}
	for _, name in ipairs(parameters) do
		known[name] = true
	end
	for _, name in ipairs(sorted_keys(core.set)) do
		if not known[name] then
			fail_at(where, '--set %s: the scenario has no such parameter%s', name, suggest(name, parameters))
		end
	end
end

-- ── the run ──────────────────────────────────────────────────────────────────────────────────

-- Lifting twice is lifting once. When the drill is being stopped the engine undoes everything itself.
local function lift(d)
	if d.lifted or core.stopped() then
		return
	end
	request { op = "lift", handle = d.handle }
	d.lifted = true
end

local new_handle = new_kind("handle", { lift = lift }, {
	__close = function(v)
		lift(data(v))
	end,
})

local function act(op, wanted, value, instead)
	local d = data(value)
	if not d or d.kind ~= wanted then
		local hint = d and d.kind == instead[1] and instead[2] or ""
		fail("run:%s wants a %s, not %s%s", op, wanted, name_of(value), hint)
	end
	local reply = request { op = op, change = d.change, args = d.args }
	return new_handle { handle = reply.handle, lifted = false, label = format("the handle of %s", d.label),
		text = format("%s (in force)", d.text), fields = { name = d.change } }
end

-- eventually and always: a predicate and one duration
local function expect(op, key, value, options)
	local d, who = data(value), "run:" .. op
	if not d or d.kind ~= "predicate" then
		local hint = d and d.kind == "probe" and ': compare it, as in :below "1%"' or ""
		fail("%s wants a predicate, not %s%s", who, name_of(value), hint)
	end
	need_table(format('%s(PREDICATE, { %s = "10s" })', who, key), options)
	check_keys(who, options, { key })
	if options[key] == nil then
		fail("%s: %s is missing", who, key)
	end
	if d.lasting then
		fail("%s: %s: lasting is for stop_when", who, d.text)
	end
	if d.probe.load and not the_scenario.loads[d.probe.load] then
		fail('%s: the load "%s" is not among the scenario\'s loads (load = ...)', who, d.probe.load)
	end
	local ns = duration(format("%s: %s", who, key), options[key])
	return request { op = op, predicate = d.json, [key .. "_ns"] = ns }
end

local new_run = new_kind("run", {
	-- run:phase "node loss", run:phase("node loss", { rto = "5s" }): a name for what comes; its own recovery objective
	phase = function(_, _, name, options)
		text("run:phase", name)
		local rto
		if options ~= nil then
			need_table("run:phase", options)
			check_keys("run:phase", options, { "rto" })
			rto = options.rto ~= nil and duration("run:phase: rto", options.rto) or nil
		end
		request { op = "phase", name = name, rto_ns = rto }
	end,
	inject = function(_, _, fault)
		return act("inject", "fault", fault, { "setting", ": write run:apply(...)" })
	end,
	apply = function(_, _, setting)
		return act("apply", "setting", setting, { "fault", ": write run:inject(...)" })
	end,
	-- true, false, or nil when it could not be told
	eventually = function(_, _, predicate, options)
		return expect("eventually", "within", predicate, options)
	end,
	always = function(_, _, predicate, options)
		return expect("always", "during", predicate, options)
	end,
	-- a number in the probe's unit (ratios 0..1, times in ns), or nil: no data
	sample = function(_, _, probe, options)
		local d = data(probe)
		if not d or d.kind ~= "probe" then
			fail("run:sample wants a probe, not %s", name_of(probe))
		end
		if options ~= nil then
			need_table("run:sample", options)
			check_keys("run:sample", options, { "over" })
		end
		local over = options and options.over
		return request { op = "sample", probe = d.name, args = d.args,
			over_ns = over ~= nil and duration("run:sample: over", over) or nil }
	end,
	wait = function(_, _, time)
		request { op = "wait", ns = duration("run:wait", time) }
	end,
	log = function(_, _, ...)
		strict.log(...)
	end,
})

-- ── the module ───────────────────────────────────────────────────────────────────────────────

local families = { fault = {}, set = {}, lvs = {}, load = {}, probe = {} }
for _, entry in ipairs(core.changes) do
	families[entry.family][entry.short] = change_constructor(entry)
end
for _, entry in ipairs(core.loads) do
	families.load[entry.name] = load_constructor(entry)
end
for _, entry in ipairs(core.probes) do
	if entry.subject == "" then
		families.probe[entry.name] = api(function(...)
			return make_probe(entry, nil, "probe.", ...)
		end)
	end
end

local muster = family("muster", {
	site = api(site),
	scenario = api(scenario),
	param = api(param),
	fault = family("muster.fault", families.fault),
	set = family("muster.set", families.set),
	lvs = family("muster.lvs", families.lvs),
	load = family("muster.load", families.load),
	probe = family("muster.probe", families.probe),
})

local function require_muster(name)
	if name ~= "muster" then
		fail('require %s: there is one module here, "muster"', name_of(name))
	end
	return muster
end

-- Runs a scenario from its text to its end. What goes wrong is raised.
local function run_scenario(file, source)
	local env = strict.globals()
	env.require = api(require_muster)
	local returned = core.load(source, file, strict.seal(env))()
	local d = data(returned)
	if not d or d.kind ~= "scenario" then
		core.raise(format("the file must return muster.scenario { ... }, not %s%s", name_of(returned),
			the_scenario and ": write return in front of it" or ""), the_scenario and the_scenario.where or file .. ":1")
	end
	check_parameters(d.where)
	declaring = false
	the_scenario = d
	request { op = "scenario", scenario = d.json, where = d.where }
	strict.declared()
	d.method(new_run { label = "the run", text = "run" })
end

-- Evaluates a site alone, for `muster lab up`.
local function run_site(name, options)
	request { op = "site-json", site = load_site(name, options) }
end

return { scenario = run_scenario, site = run_site }
