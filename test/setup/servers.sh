# test/setup/servers.sh: ./check on servers that are built to find mistakes.  Bash; sourced by ./check, never run.
#
# "assert" is a server with assertions; "sanitize" has them too, and it and the
# extension are built with AddressSanitizer and UBSan.  test/setup/server makes
# both.  Without one, the functions here change nothing about a check.
#
# A report of a sanitizer fails the check wherever it comes from.  They go to
# files of their own: a process that reports may have closed its standard error.

# What runs there: pg_regress, and those that drive the engine hard.  The others
# are about what surrounds it, and would take hours; 058_backpressure measures
# memory, of which a sanitizer keeps what was freed.
SERVER_TAP='020_river 030_tables 031_tables_random 033_push_stream 034_slot_states
	040_event_time 041_event_time_random 043_changelog_table 044_event_time_review
	045_event_time_surface 046_late_backfill 050_checker 051_fuzz 052_state_upgrade
	056_invariants 057_pace 060_eviction'

need_server()
{
	# its programs end without giving back what they have, pg_config too
	[ "$1" != sanitize ] || export ASAN_OPTIONS=detect_leaks=0
	PG_CONFIG=$("$SOURCES/test/setup/server" "$1") || give_up "could not build the server ($1)"
}

# One that is named with --only runs, whichever it is.
wants_on_server()
{
	[ -z "$server" ] || [ "$only" = "$1" ] || [[ " $(echo $SERVER_TAP) " == *" $1 "* ]]
}

# gcc sees more than there is when it optimises less
warnings()
{
	if [ -n "$server" ]; then echo '-Wall -Wextra -Wno-maybe-uninitialized'
	else echo '-Wall -Wextra -Werror'; fi
}

# patience SECONDS: how long that is for the server at hand
patience()
{
	case $server in
	assert) echo $(($1 * 2)) ;;
	sanitize) echo $(($1 * 6)) ;;
	*) echo "$1" ;;
	esac
}

# Everything that is started from now on is told where to report.
begin_reports()
{
	[ "$server" = sanitize ] || return 0
	mkdir "$WORK/reports"
	own "$WORK/reports"
	export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:detect_stack_use_after_return=0:log_path=$WORK/reports/asan
	export UBSAN_OPTIONS=print_stacktrace=1:log_path=$WORK/reports/ubsan
	export WEIR_SANITIZE=1
}

# count_reports TEST: each is a failure of its own, shown once and kept.  What went
# to the log of a server counts, too.
count_reports()
{
	local report bad=0
	[ "$server" = sanitize ] || return 0
	for report in "$WORK/reports"/* "$WORK/log/server.log" "$SRC/tmp_check/log"/*; do
		grep -qE 'ERROR: AddressSanitizer|: runtime error: ' "$report" 2>/dev/null || continue
		bad=$((bad + 1))
		printf 'sanitizer, during %s:\n' "$1"
		grep -E -A 40 -m 1 'ERROR: AddressSanitizer|: runtime error: ' "$report"
		mv "$report" "$WORK/log/report.$1.$bad"
		keep_log "$WORK/log/report.$1.$bad"
	done
	failed=$((failed + bad))
	[ "$bad" = 0 ]
}

# This very script, on such a server, as a part of a long check.
check_on_server()
{
	job env -u PG_CONFIG -u WEIR_LONG "$SOURCES/check" "--$1" >"$WORK/log/$1.out" 2>&1
	sed '$d' "$WORK/log/$1.out"
	read_result "$WORK/log/$1.out"
}
