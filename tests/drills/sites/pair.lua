-- SPDX-License-Identifier: GPL-2.0-only
-- pair.lua: a client and one nginx, no director: what a kernel without IPVS can drill.

local options = option { workers = 1 }

local nginx = [[
daemon off;
master_process on;
worker_processes %d;
pid %%{dir}/nginx.pid;
error_log %%{dir}/error.log;
user root;
events { worker_connections 1024; }
http {
	access_log off;
	client_body_temp_path %%{dir}/body;
	proxy_temp_path %%{dir}/proxy;
	fastcgi_temp_path %%{dir}/fastcgi;
	uwsgi_temp_path %%{dir}/uwsgi;
	scgi_temp_path %%{dir}/scgi;
	server {
		listen 0.0.0.0:8080;
		listen [::]:8080;
		location / { return 200 "%%{node}\n"; }
	}
}
]]

return {
	name = "pair",
	summary = "a client and one web server",
	switches = { "lan" },
	nodes = {
		{
			name = "client",
			links = { { dev = "eth0", switch = "lan", addrs = { "198.18.8.10/24", "2001:db8:8::10/64" } } },
		},
		{
			name = "server",
			links = { { dev = "eth0", switch = "lan", addrs = { "198.18.8.20/24", "2001:db8:8::20/64" } } },
			daemons = {
				{
					name = "nginx",
					package = "nginx-light",
					argv = { "nginx", "-c", "%{dir}/nginx.conf", "-p", "%{dir}" },
					files = { ["nginx.conf"] = string.format(nginx, options.workers) },
					ready = { listen = 8080 },
				},
			},
		},
	},
}
