-- SPDX-License-Identifier: GPL-2.0-only
-- report_text.lua: the report for a terminal: the verdict first, then what it stands on.
local common = ...
local get, have, list = common.get, common.have, common.list

local words = { pass = "pass", fail = "FAIL", unknown = "  ? " }

local function pad(s, n)
  return s .. string.rep(" ", n - common.length(s))
end

local function width(rows, key, most)
  local n = 0
  for _, r in ipairs(rows) do n = math.max(n, common.length(tostring(r[key] or ""))) end
  return math.min(n, most)
end

return function(r)
  local out = {}
  local function line(fmt, ...)
    -- one line in, one line out: no text may look like a line of ours
    out[#out + 1] = common.oneline(select("#", ...) > 0 and string.format(fmt, ...) or fmt)
  end

  line("%s  %s  (exit %s)", string.upper(get(r, "verdict") or "?"), get(r, "run", "scenario") or "?", tostring(get(r, "exit_code") or "?"))
  if common.said(get(r, "run", "summary")) then line("  %s", r.run.summary) end
  line("  %s", get(r, "reason") or "")

  local checks = list(r.checks)
  if #checks > 0 then
    line("")
    line("checks")
    local w = width(checks, "name", 60)
    for _, c in ipairs(checks) do
      line("  %s  %s  %s", words[c.status] or c.status, pad(c.name, w), get(c, "evidence") or "")
    end
  end

  local rec = r.recovery or {}
  if get(rec, "onset_ns") or get(rec, "onset") then
    local parts = {}
    for _, p in ipairs { { "detect_ms", "detected" }, { "failover_ms", "failed over" }, { "recover_ms", "recovered" } } do
      if p[1] == "recover_ms" or common.acts(r) then
        parts[#parts + 1] = p[2] .. " " .. common.moment(get(rec, p[1]))
      end
    end
    line("")
    line("recovery  %s  (after the fault%s; good to %s)", table.concat(parts, ", "),
      have(rec.objective_ms) and "; objective " .. common.ms(rec.objective_ms) or "", common.ms(get(rec, "resolution_ms") or 100))
    for _, o in ipairs(common.outage(r)) do line("  %s", o) end
  end

  local phases = common.phases(r)
  if #phases > 0 then
    table.insert(phases, 1, { name = "phase", detected = "detected", over = "failed over", recovered = "recovered",
      objective = "objective" })
    local columns = {}
    for _, key in ipairs { "name", "detected", "over", "recovered", "objective" } do
      columns[#columns + 1] = { key = key, w = width(phases, key, 40) }
    end
    for _, p in ipairs(phases) do
      local cells = {}
      for i, c in ipairs(columns) do cells[i] = pad(p[c.key], c.w) end
      line("  %s  %s", words[p.status] or "    ", table.concat(cells, "  "))
    end
  end

  for _, h in ipairs(common.held(r)) do line("  %s", h) end

  for i, f in ipairs(list(r.faults)) do
    if i == 1 then
      line("")
      line("faults")
    end
    line("  %-12s  %s on %s%s", common.proved(f), get(f, "name") or "?", get(f, "node") or "?",
      get(f, "text") and ": " .. f.text or "")
  end

  for _, s in ipairs(list(r.services)) do
    line("")
    line("service %s", s.name)
    for _, b in ipairs(list(s.backends)) do
      line("  %-10s weight %-3s %s, expected %s", b.node, have(b.weight) and tostring(b.weight) or "?",
        have(b.share) and string.format("%s of the new connections (%s)", common.percent(b.share), common.count(b.connections))
          or "share not measured", common.percent(b.expected))
    end
  end

  local l = r.load
  if have(l) then
    local errors = {}
    for _, kind in ipairs { "refused", "reset", "timeout", "status", "other" } do
      if (get(l, kind) or 0) > 0 then errors[#errors + 1] = kind .. " " .. common.count(l[kind]) end
    end
    line("")
    line("load  %s requests, %s failed%s; %s/s asked, %s/s sent", common.count(l.requests), common.percent(l.error_ratio),
      #errors > 0 and " (" .. table.concat(errors, ", ") .. ")" or "",
      have(l.rate_asked) and common.digits(l.rate_asked) or "?",
      have(l.rate_achieved) and common.digits(l.rate_achieved) or "?")
    line("      p50 %s, p90 %s, p99 %s, p99.9 %s, max %s", common.ms(l.p50_ms), common.ms(l.p90_ms), common.ms(l.p99_ms),
      common.ms(l.p999_ms), common.ms(l.max_ms))
  end
  if common.ledger(r) then line("ledger  %s", common.ledger(r)) end
  if get(r, "telemetry", "events") then
    line("telemetry  %s events, %s lost", common.count(r.telemetry.events),
      have(r.telemetry.dropped) and common.count(r.telemetry.dropped) or "an unknown number")
    for _, t in ipairs(common.telemetry(r)) do line("  %s", t) end
  end
  for i, c in ipairs(common.counted(r)) do line("%s%s", i == 1 and "counted  " or "         ", c) end
  local traffic = common.traffic(r)
  if #traffic > 0 then
    line("traffic")
    local columns = {}
    for _, key in ipairs { "node", "way", "peer", "service", "before", "during", "after" } do
      columns[#columns + 1] = { key = key, w = width(traffic, key, 44) }
    end
    for _, row in ipairs(traffic) do
      local cells = {}
      for i, c in ipairs(columns) do cells[i] = pad(row[c.key], c.w) end
      line("  %s", (table.concat(cells, "  "):gsub("%s+$", "")))
    end
  end

  for _, w in ipairs(list(r.waived)) do line("waived: %s", tostring(w)) end
  for _, n in ipairs(common.notes(r)) do line("note  %s", n) end

  local answer, sentence = common.residue(r)
  line("")
  line("restored  %s: %s", answer, sentence)
  for _, key in ipairs { "diff", "conflicts", "failed" } do
    for _, d in ipairs(list(get(r, "residue", key))) do line("  %s%s", key == "diff" and "" or key .. ": ", tostring(d)) end
  end
  for _, s in ipairs(common.pictures(r)) do line("  %s", s) end
  for _, e in ipairs(list(r.errors)) do
    line("error  %s%s", get(e, "text") or "?", get(e, "where") and e.where ~= "" and " (" .. e.where .. ")" or "")
    if get(e, "hint") then line("       %s", e.hint) end
  end

  line("")
  line("run %s  kernel %s  lab %s", get(r, "run", "id") or "?", get(r, "run", "kernel") or "?", get(r, "run", "lab") or "?")
  line("again: %s", common.again(r))
  return table.concat(out, "\n") .. "\n"
end
