-- SPDX-License-Identifier: GPL-2.0-only
-- A change with a record that is larger than a page: a disk that is full has no room for it.

local muster = require "muster"
local site = muster.site "pair"
local before = muster.param("before", "0s")

local members = {}
for i = 1, 600 do
	members[i] = string.format("198.51.%d.%d", 100 + i // 250, i % 250)
end

return muster.scenario {
	name = "pair-fills",
	site = site,
	deadline = "1m",
	method = function(run)
		run:wait(before)
		run:apply(muster.set.ipset { node = "server", name = "large", members = members })
		run:wait "10m"
	end,
}
