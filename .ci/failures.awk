# What the failed tests in the output of "go test -v" said, and what ended a package.
/^=== (RUN|CONT|NAME) / { test = $3; next }
/^ *--- FAIL: / { failed[++n] = $3; print; next }
/^FAIL\t|^panic: |DATA RACE/ { print }
/_test\.go:[0-9]+: |testing\.go:[0-9]+: |^        / { said[test] = said[test] substr($0, 1, 300) "\n" }
END { for (i = 1; i <= n; i++) printf "%s:\n%s", failed[i], said[failed[i]] }
