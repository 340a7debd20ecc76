-- SPDX-License-Identifier: GPL-2.0-only
-- Is a fault that is lifted at once lifted at once?

local muster = require "muster"
local fault, load = muster.fault, muster.load

local site = muster.site "pair"
local client = load.http { from = "client", url = "http://198.18.8.20:8080/", rate = "1000/s", timeout = "500ms" }

return muster.scenario {
	name = "pair-flash",
	summary = "The only server is lost for as short a time as can be had",
	site = site,
	deadline = "1m",
	load = client,
	steady_state = { settle = "1s", within = "20s", client:error_ratio():below "20%" },
	method = function(run)
		do
			local _ <close> = run:inject(fault.node_loss { node = "server" })
		end
		run:eventually(client:error_ratio():below "20%", { within = "10s" })
	end,
}
