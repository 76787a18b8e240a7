# examples/lib.sh: what the run scripts of the examples share.  Bash; sourced, never run.
#
# A script says what it needs and what it shows, in SQL files beside it; this
# file builds pg_weir, starts a private PostgreSQL and, for topics, the embedded
# broker, plays the events of the example in quick motion, and lets PostgreSQL
# check the result.  What a reader should see of an example is not here.
#
# Nothing of a run stays: every process is a child of the script and ends with
# it, every file lies in one directory below /tmp.

EXAMPLE=$(cd "$(dirname "$0")" && pwd)
SOURCES=$(cd "$EXAMPLE/../.." && pwd)
. "$SOURCES/test/setup/lib.sh"

WORK= SERVER_PID= BROKER_PID=
CHILDREN=()

# The comment at the head of the script is its manual.
usage()
{
	sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
}

# For scripts without options of their own.
no_options()
{
	case ${1-} in
	'') ;;
	--help | -h) usage; exit 0 ;;
	*) usage >&2; exit 2 ;;
	esac
}

clean_up()
{
	local rc=$? pid
	set +e
	trap - EXIT
	trap '' INT TERM HUP PIPE
	for pid in "${CHILDREN[@]}"; do
		end_process "$pid" TERM 5
	done
	stop_server INT
	stop_broker
	if [ $rc != 0 ] && [ -s "${WORK:-/nonexistent}/log/server.log" ]; then
		warn 'the last words of the server:'
		tail -n 15 "$WORK/log/server.log" >&2
	fi
	[ -z "$WORK" ] || rm -rf "$WORK"
	exit $rc
}

# All that a server needs for views over topics and tables.
server_settings()
{
	cat <<-'END'
	shared_preload_libraries = 'pg_weir'
	wal_level = logical
	max_worker_processes = 16
	fsync = off
	timezone = 'UTC'
	END
}

sql()
{
	PGOPTIONS='-c client_min_messages=warning' "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"
}

# ask QUERY: its one value
ask()
{
	sql -A -t -c "$1"
}

# begin [topic:partitions ...]: until schema.sql has been typed
begin()
{
	trap clean_up EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP PIPE
	need_packages util-linux $BUILD_PACKAGES
	need_postgres 15
	choose_user
	make_work
	build_release
	if [ $# != 0 ]; then
		say 'starting the embedded Kafka broker'
		start_embedded "$@"
	fi
	say 'starting a private PostgreSQL'
	server_settings >"$WORK/server.conf"
	start_server "$WORK/data" "$WORK/server.conf" || die 'the server did not start'
	sql -c 'CREATE EXTENSION pg_weir'
	say 'typing:'
	cat "$EXAMPLE/schema.sql"
	sql -v bootstrap="${WEIR_BOOTSTRAP-}" -f "$EXAMPLE/schema.sql"
}

# wait_for view ...: until each holds all that was sent
wait_for()
{
	local view
	for view in "$@"; do
		ask "SELECT weir.wait_for('$view')" >/dev/null
	done
}

# play FROM TO STEP COMMAND ...: time in quick motion.  feed.sql sends what arrives
# in each step of it (as :from and :to), and the command sees what became of it,
# the end of the step its last word.
play()
{
	local from to
	while IFS='|' read -r from to <&3; do
		sql -v from="$from" -v to="$to" -f "$EXAMPLE/feed.sql"
		"${@:4}" "$to"
	done 3< <(ask "SELECT t, t + interval '$3' FROM generate_series(timestamptz '$1', timestamptz '$2' - interval '$3', '$3') t")
}

# differ FILE [OPTION ...]: the rows that it returns are what is wrong; there must be none
differ()
{
	sql -A -t "${@:2}" -f "$EXAMPLE/$1" >"$WORK/differ" || die "$1 failed"
	[ ! -s "$WORK/differ" ] || { head -n 20 "$WORK/differ" >&2; die 'that is not what PostgreSQL computes'; }
}
