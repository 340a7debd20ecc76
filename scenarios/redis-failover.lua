-- SPDX-License-Identifier: GPL-2.0-only
-- The Redis primary is lost while a client writes: is another one elected and written to within 15 s,
-- and is every write still there that was acknowledged?

local muster = require "muster"
local fault, load = muster.fault, muster.load

local how  = muster.param("how", "freeze")       -- stop, kill, freeze, or cut (from everybody)
local rate = muster.param("rate", "20/s")

local site   = muster.site("llm-service", { sentinels = muster.param("sentinels", 3),
                                            min_replicas = muster.param("min_replicas", 0) })
local cache  = site:database "cache"
local ledger = load.ledger { name = "ledger", from = "client", database = "cache", rate = rate, timeout = "1s" }

return muster.scenario {
  name     = "redis-failover",
  summary  = "The Redis primary is lost under writes; a replica must take over, and keep what was acknowledged",
  site     = site,
  deadline = "4m",

  load         = ledger,
  steady_state = { settle = "5s", ledger:error_ratio():below "1%" },

  method = function(run)
    run:phase "primary lost"
    do
      local loss <close> = run:inject(fault.primary_loss { database = "cache", how = how })
      run:eventually(cache:primary "db2":equals(1), { within = "15s" })
      run:eventually(ledger:error_ratio():below "1%", { within = "15s" })
    end

    run:phase "return"                           -- as a replica of the new one; sentinels look at it every 10 s
    run:eventually(cache:replicas():at_least(1), { within = "30s" })
    run:eventually(cache:primaries():equals(1), { within = "10s" })
  end,

  objective = { rto = "15s", rpo = "0s" },
}
