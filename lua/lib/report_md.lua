-- SPDX-License-Identifier: GPL-2.0-only
-- report_md.lua: Markdown (CommonMark with GitHub's tables), to paste into a review. Text of a scenario is escaped, so that it can
-- neither format nor link.
local common = ...
local get, have, list = common.get, common.have, common.list

local function md(s)
  s = common.clean(s):gsub("%s+", " ")
  -- "@" mentions people and "#1" refers to other people's issues where this is pasted
  return (s:gsub("[\\`*_{}%[%]<>|~#&@!]", function(c)
    if c == "<" then return "&lt;" end
    if c == ">" then return "&gt;" end
    if c == "&" then return "&amp;" end
    if c == "@" then return "&#64;" end
    return "\\" .. c
  end):gsub("://", ":&#47;/"))
end

-- inside a code span nothing is escaped: the fence has to be longer than any run of backticks in it
local function code(s)
  local longest = 0
  s = common.clean(s):gsub("%s+", " ")
  for run in s:gmatch("`+") do longest = math.max(longest, #run) end
  local fence = string.rep("`", longest + 1)
  return fence .. (longest > 0 and " " or "") .. s .. (longest > 0 and " " or "") .. fence
end

local marks = { pass = "✅", fail = "❌", unknown = "❔" }

return function(r)
  local out = {}
  local function line(s) out[#out + 1] = s or "" end
  local function row(...)
    out[#out + 1] = "| " .. table.concat({ ... }, " | ") .. " |"
  end

  line(string.format("## %s %s: %s", marks[r.verdict] or "⚠️", md(get(r, "run", "scenario") or "?"), md(get(r, "verdict") or "?")))
  line()
  if common.said(get(r, "run", "summary")) then
    line("> " .. md(r.run.summary))
    line()
  end
  local answer, sentence = common.residue(r)
  line(md(get(r, "reason") or ""))
  line()
  line(string.format("Exit %s. Restored: %s (%s).", tostring(get(r, "exit_code") or "?"), answer == "yes" and "yes" or "**" .. answer .. "**",
    sentence))
  line()

  if #list(r.checks) > 0 then
    row("", "check", "measured", "objective", "margin", "evidence")
    row("---", "---", "---:", "---:", "---:", "---")
    for _, c in ipairs(r.checks) do
      row(marks[c.status] or "?", md(c.name), common.measured(c),
        have(c.objective) and common.value(c.unit, c.objective) or "", common.margin(c.unit, c.margin), md(get(c, "evidence") or ""))
    end
    line()
  end

  local rec = r.recovery or {}
  if get(rec, "onset_ns") or get(rec, "onset") then
    line(string.format("**Recovery** after the fault: %srecovered %s%s.",
      common.acts(r) and string.format("detected %s, failed over %s, ", common.moment(get(rec, "detect_ms")),
        common.moment(get(rec, "failover_ms"))) or "", common.moment(get(rec, "recover_ms")),
      have(rec.objective_ms) and " (objective " .. common.ms(rec.objective_ms) .. ")" or ""))
    line()
  end

  local phases = common.phases(r)
  if #phases > 0 then
    row("", "phase", "onset", "detected", "failed over", "recovered", "objective")
    row("---", "---", "---", "---:", "---:", "---:", "---:")
    for _, p in ipairs(phases) do
      row(marks[p.status] or "?", md(p.name), p.onset, p.detected, p.over, p.recovered, p.objective)
    end
    line()
  end

  for _, h in ipairs(common.held(r)) do line("- " .. md(h)) end

  if #list(r.faults) > 0 then
    row("fault", "node", "asked", "measured", "")
    row("---", "---", "---", "---", "---")
    for _, f in ipairs(r.faults) do
      row(md(get(f, "name") or "?"), md(get(f, "node") or "?"), md(common.plain(f.asked)), md(common.plain(f.measured)),
        md(common.proved(f) .. (get(f, "text") and ": " .. f.text or "")))
    end
    line()
  end

  for _, s in ipairs(list(r.services)) do
    row("service " .. md(s.name), "weight", "new connections", "share", "expected")
    row("---", "---:", "---:", "---:", "---:")
    for _, b in ipairs(list(s.backends)) do
      row(md(b.node), have(b.weight) and tostring(b.weight) or "not measured", common.count(b.connections),
        common.percent(b.share), common.percent(b.expected))
    end
    line()
  end

  local l = r.load
  if have(l) then
    line(string.format("**Load** %s requests, %s failed; p50 %s, p99 %s, max %s.", common.count(l.requests),
      common.percent(l.error_ratio), common.ms(l.p50_ms), common.ms(l.p99_ms), common.ms(l.max_ms)))
    line()
  end
  if common.ledger(r) then
    line("**Ledger** " .. md(common.ledger(r)) .. ".")
    line()
  end
  for _, w in ipairs(list(r.waived)) do line("- waived: " .. md(tostring(w))) end
  for _, c in ipairs(common.counted(r)) do line("- counted: " .. md(c)) end
  for _, n in ipairs(common.notes(r)) do line("- note: " .. md(n)) end
  for _, key in ipairs { "diff", "conflicts", "failed" } do
    for _, d in ipairs(list(get(r, "residue", key))) do line("- " .. key .. ": " .. code(d)) end
  end
  for _, s in ipairs(common.pictures(r)) do line("- " .. md(s)) end
  line(string.format("Run %s, kernel %s, lab %s, seed %s. Again: %s", code(get(r, "run", "id") or "?"),
    md(get(r, "run", "kernel") or "?"), md(get(r, "run", "lab") or "?"), md(get(r, "run", "seed") or "?"),
    code(common.again(r))))
  return table.concat(out, "\n") .. "\n"
end
