-- SPDX-License-Identifier: GPL-2.0-only
-- report_junit.lua: the subset of JUnit's XML that Jenkins reads: a check is a testcase; what could not be told is skipped, and
-- the verdict, as a testcase of its own, is an error whenever there is no answer: a run that proved nothing is never green.
local common = ...
local get, list, escape = common.get, common.list, common.escape

-- inside an attribute a parser turns a line break into a blank, unless it is written as a reference
local function attribute(s)
  return (escape(s):gsub("\r?\n", "&#10;"):gsub("\t", "&#9;"):gsub("\r", "&#13;"))
end

local function seconds(v)
  return string.format("%.3f", type(v) == "number" and v or 0)
end

return function(r)
  local cases = {}
  local counts = { failure = 0, error = 0, skipped = 0 }
  local class = "muster." .. (get(r, "run", "scenario") or "run"):gsub("%.", "_")

  local function case(name, kind, message, body, time)
    local head = string.format('    <testcase classname="%s" name="%s" time="%s"', attribute(class), attribute(name),
      seconds(time))

    if not kind then
      cases[#cases + 1] = head .. "/>"
      return
    end
    counts[kind] = counts[kind] + 1
    cases[#cases + 1] = head .. ">"
    if kind == "skipped" then
      cases[#cases + 1] = string.format('      <skipped message="%s"/>', attribute(message))
    else
      cases[#cases + 1] = string.format('      <%s type="%s" message="%s">%s</%s>', kind, attribute(get(r, "verdict") or "?"),
        attribute(message), escape(body or message), kind)
    end
    cases[#cases + 1] = "    </testcase>"
  end

  -- the verdict: "fail" is told by the checks that failed, and once more here for whoever reads this line alone
  if r.verdict == "pass" then
    case("verdict")
  elseif r.verdict == "fail" then
    case("verdict", "failure", get(r, "reason") or "")
  else
    case("verdict", "error", (get(r, "verdict") or "?") .. ": " .. (get(r, "reason") or ""))
  end

  for _, c in ipairs(list(r.checks)) do
    local time = c.use == "eventually" and type(c.measured) == "number" and c.measured / 1000 or 0

    if c.status == "pass" then
      case(c.name, nil, nil, nil, time)
    elseif c.status == "fail" then
      local message = string.format("measured %s, objective %s", common.measured(c),
        common.value(c.unit, c.objective))

      case(c.name, "failure", message, (get(c, "evidence") or "") .. (get(c, "where") and c.where ~= "" and "\nat " .. c.where or ""), time)
    else
      case(c.name, "skipped", "could not be told: " .. (get(c, "evidence") or ""))
    end
  end
  for _, f in ipairs(list(r.faults)) do
    local name = string.format("fault %s on %s bit", get(f, "name") or "?", get(f, "node") or "?")

    if get(f, "proved") == true then
      case(name)
    else
      case(name, "error", common.proved(f) .. ": " .. (get(f, "text") or "there is no evidence"))
    end
  end

  local answer, sentence = common.residue(r)
  local differences = {}
  for _, key in ipairs { "diff", "conflicts", "failed" } do
    for _, d in ipairs(list(get(r, "residue", key))) do differences[#differences + 1] = key .. ": " .. tostring(d) end
  end
  if answer == "yes" then
    case("host restored")
  elseif answer == "no" then
    case("host restored", "failure", sentence, table.concat(differences, "\n"))
  elseif r.exit_code == 5 then
    case("host restored", "error", sentence)
  else
    case("host restored", "skipped", sentence)
  end

  local tests = 2 + #list(r.checks) + #list(r.faults)
  local started = get(r, "run", "started")
  local attributes = string.format(
    'name="%s" tests="%d" failures="%d" errors="%d" skipped="%d" time="%s"%s%s', attribute(class), tests, counts.failure,
    counts.error, counts.skipped, seconds(get(r, "run", "seconds")),
    started and ' timestamp="' .. attribute(started:gsub("%.%d+Z$", "")) .. '"' or "",
    get(r, "run", "host") and ' hostname="' .. attribute(r.run.host) .. '"' or "")
  local properties = {}
  for _, key in ipairs { "id", "seed", "kernel", "lab", "version", "file" } do
    if get(r, "run", key) then
      properties[#properties + 1] = string.format('      <property name="%s" value="%s"/>', key, attribute(r.run[key]))
    end
  end
  for _, w in ipairs(list(r.waived)) do
    properties[#properties + 1] = string.format('      <property name="waived" value="%s"/>', attribute("waived: " .. tostring(w)))
  end
  return table.concat({
    '<?xml version="1.0" encoding="UTF-8"?>',
    string.format('<testsuites tests="%d" failures="%d" errors="%d" skipped="%d">', tests, counts.failure, counts.error,
      counts.skipped),
    "  <testsuite " .. attributes .. ">",
    "    <properties>",
    table.concat(properties, "\n"),
    "    </properties>",
    table.concat(cases, "\n"),
    "  </testsuite>",
    "</testsuites>",
    "",
  }, "\n")
end
