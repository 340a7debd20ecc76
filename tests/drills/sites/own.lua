-- SPDX-License-Identifier: GPL-2.0-only
-- own.lua: an inventory site all of whose nodes are one network namespace, the host's: gw is its uplink, adm the way the operator
-- comes in, side a link that nobody depends on. tests/lab/test_mgmt.c makes it.

local function node(name, dev, switch, addr)
	return { name = name, links = { { dev = dev, switch = switch, addrs = { addr } } } }
end

return {
	name = "own",
	summary = "the host itself, by three of its links",
	switches = { "wan", "mgt", "lan" },
	nodes = {
		node("gw", "up0", "wan", "203.0.113.2/24"),
		node("adm", "adm0", "mgt", "192.0.2.2/24"),
		node("side", "side0", "lan", "198.18.0.2/24"),
	},
	services = {
		{ name = "web", port = 80, vips = { "198.18.0.2" }, director = "gw", servers = { { node = "side" } } },
	},
}
