-- SPDX-License-Identifier: GPL-2.0-only
-- What comes to the devices is counted, but for the one at which fault.xdp_drop needs the place.
-- how = silent: another fault, which keeps packets off the server; all devices are counted.

local muster = require "muster"
local fault, load = muster.fault, muster.load

local how = muster.param("how", "xdp")
local site = muster.site "pair"
local server, caller = site:node "server", site:node "client"
local client = load.http { from = "client", url = "http://198.18.8.20:8080/", rate = "100/s", timeout = "500ms" }

return muster.scenario {
	name = "pair-packets",
	site = site,
	deadline = "1m",
	load = client,
	steady_state = { settle = "2s", within = "20s", client:error_ratio():below "1%", caller:packets():above "200/s",
		caller:packet_bytes():above "10000/s" },
	method = function(run)
		do
			local _ <close> = run:inject(how == "xdp" and fault.xdp_drop { node = "server" }
				or fault.node_loss { node = "server", how = how })
			run:eventually(client:error_ratio():above "90%", { within = "5s" })
			run:eventually(caller:packets():below "20/s", { within = "5s" })
			-- of the other's device nothing is known
			run:eventually(server:packets():below "20/s", { within = "3s" })
		end
		run:eventually(client:error_ratio():below "1%", { within = "5s" })
		run:eventually(server:packets():above "200/s", { within = "3s" })
	end,
}
