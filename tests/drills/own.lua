-- SPDX-License-Identifier: GPL-2.0-only
-- Is a fault on the host's own links kept off the management path?

local muster = require "muster"
local fault = muster.fault

local site = muster.site "own"
local node = muster.param("node", "gw")
local how = muster.param("how", "silent")
local hold = muster.param("hold", "300ms")
local ttl = muster.param("ttl", "")
local waive = muster.param("waive", "no") == "yes"
-- not on the expected path: recorded, a sample is 0; here nobody counts connections, and it is nil
local surprise = muster.param("surprise", "no") == "yes"

return muster.scenario {
	name = "own",
	summary = "A link of this host falls silent",
	site = site,
	deadline = muster.param("deadline", "30s"),
	unsafe = waive and { "management-path" } or {},
	method = function(run)
		if surprise and run:sample(site:service("web"):balance()) == 0 then
			return
		end
		local _ <close> = run:inject(fault.node_loss { node = node, how = how, ttl = ttl ~= "" and ttl or nil })
		run:wait(hold)
	end,
}
