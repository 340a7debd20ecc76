-- SPDX-License-Identifier: GPL-2.0-only
-- No director: the only server falls silent, and its client goes on calling it.

local muster = require "muster"
local fault, load = muster.fault, muster.load

local site = muster.site "pair"
local server = site:node "server"
local client = load.http { from = "client", url = "http://198.18.8.20:8080/", rate = "100/s", timeout = "500ms" }

return muster.scenario {
	name = "pair-attempts",
	site = site,
	deadline = "1m",
	load = client,
	steady_state = { settle = "3s", within = "20s", client:error_ratio():below "1%", server:attempts():above "50/s" },
	method = function(run)
		local _ <close> = run:inject(fault.node_loss { node = "server", how = "silent" })
		run:eventually(client:error_ratio():above "90%", { within = "5s" })
		run:eventually(server:attempts { from = "client" }:above "50/s", { within = "8s" })
		run:eventually(server:attempts():equals "0/s", { within = "4s" })
	end,
}
