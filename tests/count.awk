# SPDX-License-Identifier: GPL-2.0-only
#
# awk -f tests/count.awk DIR/*.log: says which test cases failed or were skipped, and why, then "PASSED FAILED SKIPPED" on the
# last line. What it reads is cmocka's TAP ("not ok 2 # SKIP name" is how cmocka writes a skip), or of a program that
# speaks no TAP its exit status: 0 passed, 77 skipped with its last line as the reason, else failed. A program that ends before
# all its cases have run, or with an error that no case owns up to, has failed by that. A failure is told with what the case said
# from its last "ERROR: " (cmocka's fail_msg) on, TOLD lines of it at most.
#
# With -v later=WHERE a skip is no skip yet: the program runs again there, and that run counts it.

function rc_of(file, path, line)
{
	path = file
	sub(/\.log$/, ".rc", path)
	line = ""
	if ((getline line < path) <= 0)
		line = "none"
	close(path)
	return line
}

BEGIN { TOLD = 24 }

function begin_file()
{
	errors = 0
	file = FILENAME
	name = file
	sub(/.*\//, "", name)
	sub(/\.log$/, "", name)
	plan = seen = bad = failing = 0
	said = ""
}

function end_file(rc)
{
	rc = rc_of(file)
	if (plan == 0 && seen == 0) {
		if (rc == "0")
			passed++
		else if (rc == "77") {
			skipped++
			printf "skipped: %s: %s\n", name, said == "" ? "no reason given" : said
		} else {
			failed++
			printf "FAILED: %s: exit status %s: %s\n", name, rc, said
		}
		return
	}
	if (seen < plan) {
		failed += plan - seen
		printf "FAILED: %s: ended (exit status %s) with %d of %d cases run: %s\n", name, rc, seen, plan, said
	} else if (rc != "0" && !bad) {
		failed++
		printf "FAILED: %s: exit status %s, though no case failed: %s\n", name, rc, said
	}
}

FNR == 1 {
	if (NR != 1)
		end_file()
	begin_file()
}

/^1\.\.[0-9]+$/ {
	plan = substr($0, 4) + 0
	next
}

/^ERROR: / {
	errors = 0
	telling = 1
}

/^(not )?ok [0-9]+ / { telling = 0 }

telling && errors < TOLD { error[++errors] = $0 }

/^ok [0-9]+ - / {
	errors = 0
	passed++
	seen++
	said = ""
	next
}

/^not ok [0-9]+ # SKIP/ {
	errors = 0
	skipped += later == ""
	seen++
	case = $0
	sub(/^not ok [0-9]+ # SKIP */, "", case)
	reason = said
	sub(/^(skip|skipped|SKIP|SKIP reason|note):? */, "", reason)
	printf "%s: %s: %s: %s\n", later == "" ? "skipped" : "left to " later, name, case, reason == "" ? "no reason given" : reason
	said = ""
	next
}

/^not ok [0-9]+ - / {
	failed++
	seen++
	bad = 1
	case = $0
	sub(/^not ok [0-9]+ - /, "", case)
	printf "FAILED: %s: %s\n", name, case
	for (i = 1; i <= errors; i++)
		printf "        %s\n", error[i]
	errors = 0
	said = ""
	failing = 5 # the lines behind it say where
	next
}

/^# (not )?ok - / {
	next
}

/^# / {
	if (failing > 0) {
		failing--
		printf "        %s\n", substr($0, 3)
	}
	next
}

NF { said = $0 }

END {
	if (NR)
		end_file()
	printf "%d %d %d\n", passed, failed, skipped
}
