-- SPDX-License-Identifier: GPL-2.0-only
-- What the sites with an LVS service share: nginx as a real server, keepalived's virtual servers, and addresses.

local lvs = {}

-- Each node of a site would have a machine of its own. Here they share one with the load that is put on them, which on a slow machine
-- would keep a server from answering its checker. The higher priority stands in for the machine of its own.
lvs.priority = -10

-- Address with the prefix of the switch's network
function lvs.on_lan(addr)
	return addr .. (addr:find(":", 1, true) and "/64" or "/24")
end

-- Address as one of a host
function lvs.alone(addr)
	return addr .. (addr:find(":", 1, true) and "/128" or "/32")
end

-- nginx as it would be in production, but that it writes to its own folder alone. `backlog` is cut by the kernel to
-- net.core.somaxconn, which a baseline may raise.
local nginx_conf = [[
daemon off;
worker_processes 1;
worker_priority %d;
user root;
pid %%{dir}/nginx.pid;
error_log %%{dir}/error.log;
events { worker_connections 16384; }
http {
	access_log off;
	server_tokens off;
	default_type text/plain;
	keepalive_timeout 60s;
	keepalive_requests 100000;
	client_body_temp_path %%{dir}/body;
	proxy_temp_path %%{dir}/proxy;
	fastcgi_temp_path %%{dir}/fastcgi;
	uwsgi_temp_path %%{dir}/uwsgi;
	scgi_temp_path %%{dir}/scgi;
	server {
		listen 0.0.0.0:%d backlog=%d;
		listen [::]:%d backlog=%d ipv6only=on;
		location / { return 200 "%%{site} %%{node}\n"; }
		location = /version { return 200 "1\n"; }
	}
}
]]

-- opt: port; backlog (65535)
function lvs.nginx(opt)
	local backlog = opt.backlog or 65535

	return {
		name = "nginx",
		package = "nginx-light",
		argv = { "nginx", "-c", "%{dir}/nginx.conf", "-p", "%{dir}", "-e", "%{dir}/error.log" },
		files = { ["nginx.conf"] = nginx_conf:format(lvs.priority, opt.port, backlog, opt.port, backlog) },
		ready = { listen = opt.port },
	}
end

-- A real server in direct routing. It owns the virtual addresses too, on lo, where it must neither answer for them (arp_ignore)
-- nor speak with them (arp_announce); its answers go straight to the client. IPv6 needs no such care: a host answers only for
-- addresses of the device asked.
-- opt: name, addrs, vips, port, backlog
function lvs.real_server(opt)
	local addrs, lo = {}, {}

	for i, addr in ipairs(opt.addrs) do
		addrs[i] = lvs.on_lan(addr)
	end
	for i, vip in ipairs(opt.vips) do
		lo[i] = lvs.alone(vip)
	end
	return {
		name = opt.name,
		links = { { dev = "eth0", switch = "lan", addrs = addrs } },
		lo = lo,
		sysctl = { ["net.ipv4.conf.all.arp_ignore"] = "1", ["net.ipv4.conf.all.arp_announce"] = "2" },
		daemons = { lvs.nginx(opt) },
	}
end

-- A server that falls silent is noticed by a check that is not answered. Each check waits for its answer at most `timeout`, and one
-- failure is looked at a second time, so to notice takes
--     timeout + again + timeout = 0.85 s   and up to `every` more, 1.25 s
-- while a false alarm takes two answers in a row that are later than 400 ms: a hundred times what they take.
local check = { every = "0.4", timeout = "0.4", again = "0.05" }

-- The director's net.ipv4.tcp_retries2. A check whose request is on its way when the server falls silent has to be given up, and
-- keepalived closes every check with SO_LINGER of 5 s: until the request is answered, or TCP gives it up, or those are over, its
-- checker stands still, and checks nobody. 1: TCP gives it up after about 0.6 s (tcp_retries2 in the kernel's ip-sysctl.rst).
lvs.check_retries = "1"

local function health_check(wanted)
	if not wanted then
		return ""
	end
	return string.format([[
		HTTP_GET {
			url {
				path /version
				status_code 200
			}
			connect_timeout %s
			retry 1
			delay_before_retry %s
		}
]], check.timeout, check.again)
end

-- keepalived's virtual servers, one for each virtual address. With checks, a server that does not answer gets weight 0 (`delete`: is
-- taken out of the table), and its weight again when it does; without, nobody withdraws anything.
-- opt: vips, port, scheduler, servers {addrs, weight}, check, delete
function lvs.virtual_servers(opt)
	local text = {}

	for family, vip in ipairs(opt.vips) do
		text[#text + 1] = string.format([[
virtual_server %s %d {
	delay_loop %s
	warmup 0
	lvs_sched %s
	lvs_method DR
	protocol TCP
%s]], vip, opt.port, check.every, opt.scheduler, opt.delete and "" or "\tinhibit_on_failure\n")
		for _, server in ipairs(opt.servers) do
			text[#text + 1] = string.format("\treal_server %s %d {\n\t\tweight %d\n%s\t}\n", server.addrs[family], opt.port,
				server.weight, health_check(opt.check))
		end
		text[#text + 1] = "}\n\n"
	end
	return table.concat(text)
end

-- { node = ..., weight = ... } of each, as a service wants it
function lvs.service_servers(servers)
	local list = {}

	for i, server in ipairs(servers) do
		list[i] = { node = server.name, weight = server.weight }
	end
	return list
end

return lvs
