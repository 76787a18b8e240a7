# test/setup/lib.sh: what ./check, ./demo, the examples and the benchmarks share.  Bash; sourced, never run.
#
# It finds out what a machine lacks and installs it, makes a private copy of
# PostgreSQL to install the extension into, and starts and stops servers and
# brokers for the script that sources it.
#
# What it deliberately does not do: touch a server that already runs, install
# anything of ours into the machine's own PostgreSQL, or name a registry: apt,
# Maven and debootstrap go wherever this machine is configured to go.
#
# The one rule of all processes here: each is a direct child, started with a
# parent-death signal and known by its pid, so that neither Ctrl-C nor kill -9
# of the script leaves one behind.

say()  { printf '%s\n' "== $*"; }
warn() { printf '%s\n' "$*" >&2; }
die()  { warn "${0##*/}: $*"; exit 1; }

# ---------------------------------------------------------------- privileges

as_root()
{
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "needs root or sudo for: $*"
	fi
}

# PostgreSQL refuses to run as root.  WEIR_USER is whom root steps down to.
choose_user()
{
	if [ "$(id -u)" != 0 ]; then
		WEIR_USER=$(id -un)
	elif id postgres >/dev/null 2>&1; then
		WEIR_USER=postgres
	else
		WEIR_USER=nobody
	fi
}

# The words that put a command under WEIR_USER, dying with this shell: to be
# expanded in front of a command, so that $! is the command's own pid.
step_down()
{
	STEP_DOWN=(setpriv --pdeathsig "${1:-TERM}")
	if [ "$(id -u)" = 0 ]; then
		STEP_DOWN+=(--reuid "$(id -u "$WEIR_USER")"
			--regid "$(id -g "$WEIR_USER")" --init-groups)
	fi
}

as_user()
{
	step_down TERM
	"${STEP_DOWN[@]}" "$@"
}

# ---------------------------------------------------------------- packages

have_package()
{
	[ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# need_packages name ...: install those that are missing, and say which
need_packages()
{
	local missing=() p
	for p in "$@"; do
		have_package "$p" || missing+=("$p")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	command -v apt-get >/dev/null ||
		die "please install ${missing[*]} (this is no Debian: no apt-get)"
	say "installing ${missing[*]}"
	without_default_cluster apt_install "${missing[@]}" ||
		die "could not install ${missing[*]}"
}

apt_install()
{
	local log
	log=$(mktemp)
	# another ./check may be at it
	if as_root flock -w 1800 /tmp/pg_weir.apt.lock \
		env DEBIAN_FRONTEND=noninteractive sh -c \
		'apt-get -q update && apt-get -q -y --no-install-recommends install "$@"' \
		sh "$@" </dev/null >"$log" 2>&1
	then
		rm -f "$log"
	else
		tail -n 30 "$log" >&2
		rm -f "$log"
		return 1
	fi
}

# Debian's postgresql package makes and starts a cluster as it is installed.
# Nobody asked us for one, so that is switched off while we install.
without_default_cluster()
{
	local d=/etc/postgresql-common/createcluster.d rc=0 made=
	if ! have_package postgresql-common; then
		as_root mkdir -p $d
		printf 'create_main_cluster = false\n' |
			as_root tee $d/pg_weir.conf >/dev/null
		made=yes
	fi
	"$@" || rc=$?
	[ -z "$made" ] || as_root rm -f $d/pg_weir.conf
	return $rc
}

BUILD_PACKAGES="gcc make libc6-dev librdkafka-dev"
TAP_PACKAGES="perl libipc-run-perl"
JAVA_PACKAGES="openjdk-17-jre-headless maven"

need_java()
{
	if ! command -v java >/dev/null || ! command -v mvn >/dev/null; then
		need_packages $JAVA_PACKAGES
	fi
}

# Sets PG_CONFIG and PG_MAJOR, installing version $1 if there is no pg_config.
need_postgres()
{
	if [ -z "${PG_CONFIG:-}" ]; then
		PG_CONFIG=/usr/lib/postgresql/$1/bin/pg_config
		if [ ! -x "$PG_CONFIG" ] || [ ! -x "${PG_CONFIG%/*}/postgres" ] ||
			[ ! -e "$("$PG_CONFIG" --pgxs)" ]; then
			need_packages "postgresql-$1" "postgresql-server-dev-$1"
		fi
	fi
	PG_CONFIG=$(command -v "$PG_CONFIG") || die "no such program: $PG_CONFIG"
	PG_MAJOR=$("$PG_CONFIG" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
}

# ---------------------------------------------------------------- the work place

# WORK: everything that a run writes, gone at its end.  Short, because the path
# of a Unix socket has 107 bytes; below /tmp itself, because WEIR_USER must reach it.
make_work()
{
	WORK=$(mktemp -d "${WEIR_WORK:-/tmp}/pg_weir.XXXXXX")
	mkdir "$WORK/home" "$WORK/sock" "$WORK/log"
	chmod 755 "$WORK"
	own "$WORK"
}

own()
{
	[ "$(id -u)" != 0 ] || chown -R "$WEIR_USER:" "$@"
}

# Copy the sources, committed or not but never what git ignores: the build then
# leaves no trace in the tree, and may run as another user.
copy_sources()
{
	local from=$1 to=$2
	mkdir -p "$to"
	(
		cd "$from"
		if ! git -c safe.directory='*' ls-files -z -co --exclude-standard 2>/dev/null |
			tar --null --no-recursion --ignore-failed-read -T - -cf - 2>/dev/null |
			tar -xf - -C "$to" 2>/dev/null || [ ! -e "$to/LICENSE" ]; then
			tar --exclude=./.git -cf - . | tar -xf - -C "$to"
		fi
	)
	own "$to"
}

# A private copy of PostgreSQL.  The programs find their files relative to
# themselves, so copies of the programs amid links to everything else make an
# installation of its own: what we install there nobody else sees, several
# checks can run at once, and no root is needed.  Sets PG_CONFIG and PG_BIN.
private_postgres()
{
	local root=$1 dir
	for dir in bindir pkglibdir sharedir; do
		dir=$("$PG_CONFIG" "--$dir")
		mkdir -p "$root$dir"
		cp -as "$dir/." "$root$dir"
	done
	for dir in libdir includedir includedir-server pkgincludedir; do
		dir=$("$PG_CONFIG" "--$dir")
		[ -d "$dir" ] || continue
		mkdir -p "$root${dir%/*}"
		[ -e "$root$dir" ] || ln -s "$dir" "$root$dir"
	done
	PG_BIN=$root$("$PG_CONFIG" --bindir)
	rm -rf "$PG_BIN"
	mkdir -p "$PG_BIN"
	cp -L "$("$PG_CONFIG" --bindir)"/* "$PG_BIN"
	PG_CONFIG=$PG_BIN/pg_config
	# an older pg_weir of the machine would hide a file that ours lacks
	rm -rf "$("$PG_CONFIG" --pkglibdir)"/pg_weir.so \
		"$("$PG_CONFIG" --sharedir)"/extension/pg_weir* \
		"$("$PG_CONFIG" --pkglibdir)"/bitcode/pg_weir*
	own "$root"
}

# build_release: pg_weir as it is released, installed into a private copy of
# PostgreSQL, and the tools of the tests.  Sets SRC, WEIR_TOOLS, PG_CONFIG, PG_BIN.
#
# A caller who runs several such scripts one after the other over the same
# sources names a directory in WEIR_BUILD: the first builds there, the others
# take what they find.
build_release()
{
	local log=$WORK/log/build.log home=${WEIR_BUILD:-$WORK}
	SRC=$home/src
	WEIR_TOOLS=$SRC/test/lib
	if [ -e "$home/built" ]; then
		PG_BIN=$home/pg$("$PG_CONFIG" --bindir)
		PG_CONFIG=$PG_BIN/pg_config
		return
	fi
	say "building pg_weir for PostgreSQL $PG_MAJOR"
	copy_sources "$SOURCES" "$SRC"
	private_postgres "$home/pg"
	{
		as_user make -s -C "$WEIR_TOOLS" clean all &&
			as_user make -s -C "$SRC" with_llvm=no PG_CONFIG="$PG_CONFIG" clean &&
			as_user make -s -C "$SRC" -j2 with_llvm=no PG_CONFIG="$PG_CONFIG" all &&
			as_user make -s -C "$SRC" with_llvm=no PG_CONFIG="$PG_CONFIG" install
	} >"$log" 2>&1 </dev/null || { tail -n 40 "$log" >&2; die 'the build failed'; }
	touch "$home/built"
}

# ---------------------------------------------------------------- servers

# The first free port from $1 on, below the range from which the kernel takes
# the ports of outgoing connections.
free_port()
{
	local port=$1
	while [ "$port" -lt 32000 ]; do
		if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
			echo "$port"
			return
		fi
		port=$((port + 1))
	done
	die "no free port from $1 on"
}

# start_server DIR [CONF-FILE]: initdb and start; sets SERVER_PID, PGHOST,
# PGPORT, PGUSER, PGDATABASE.  It listens on a socket in WORK only.
start_server()
{
	local data=$1 conf=${2:-} i
	export PGHOST=$WORK/sock PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
	as_user env HOME="$WORK/home" "$PG_BIN/initdb" -D "$data" -U postgres -A trust \
		--no-locale -E UTF8 --no-sync >"$WORK/log/initdb.log" 2>&1 </dev/null ||
		{ cat "$WORK/log/initdb.log" >&2; die "initdb failed"; }
	{
		printf "listen_addresses = ''\n"
		printf "unix_socket_directories = '%s'\n" "$PGHOST"
		printf 'port = %s\n' "$PGPORT"
		[ -z "$conf" ] || cat "$conf"
	} >>"$data/postgresql.conf"
	step_down INT
	HOME=$WORK/home "${STEP_DOWN[@]}" "$PG_BIN/postgres" -D "$data" \
		</dev/null >>"$WORK/log/server.log" 2>&1 &
	SERVER_PID=$!
	for i in $(seq 600); do
		if "$PG_BIN/pg_isready" -q; then
			return 0
		fi
		kill -0 "$SERVER_PID" 2>/dev/null || break
		sleep 0.1
	done
	tail -n 30 "$WORK/log/server.log" >&2
	return 1
}

# start_embedded topic:partitions ...: sets BROKER_PID, WEIR_BOOTSTRAP
start_embedded()
{
	local file=$WORK/bootstrap i
	step_down TERM
	"${STEP_DOWN[@]}" "$WEIR_TOOLS/weir_broker" --file="$file" "$@" \
		</dev/null >>"$WORK/log/broker.log" 2>&1 &
	BROKER_PID=$!
	for i in $(seq 100); do
		[ ! -s "$file" ] || break
		kill -0 "$BROKER_PID" 2>/dev/null || break
		sleep 0.1
	done
	[ -s "$file" ] || { cat "$WORK/log/broker.log" >&2; die "the embedded broker did not start"; }
	WEIR_BOOTSTRAP=$(cat "$file")
	export WEIR_BOOTSTRAP
}

# start_real topic:partitions ...: Apache Kafka; needs WEIR_KAFKA_HOME
start_real()
{
	local port t
	port=$(free_port $((27000 + RANDOM % 4000)))
	WEIR_BOOTSTRAP=127.0.0.1:$port
	export WEIR_BOOTSTRAP
	step_down TERM
	HOME=$WORK/home "${STEP_DOWN[@]}" "$SOURCES/test/lib/kafka_real" "$WORK/kafka" "$port" \
		</dev/null >>"$WORK/log/broker.log" 2>&1 &
	BROKER_PID=$!
	"$WEIR_TOOLS/weir_produce" --bootstrap="$WEIR_BOOTSTRAP" --ping --timeout=90 ||
		{ tail -n 30 "$WORK/log/broker.log" >&2; die "Apache Kafka did not start"; }
	for t in "$@"; do
		"$WEIR_TOOLS/weir_produce" --bootstrap="$WEIR_BOOTSTRAP" \
			--topic="${t%:*}" --create="${t##*:}"
	done
}

# end_process pid signal seconds: send it, wait for it, then insist
end_process()
{
	local pid=${1:-} i
	[ -n "$pid" ] && kill -0 "$pid" 2>/dev/null || return 0
	kill "-$2" "$pid" 2>/dev/null || return 0
	for i in $(seq $(($3 * 10))); do
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.1
	done
	kill -KILL "$pid" 2>/dev/null || :
	wait "$pid" 2>/dev/null || :
}

stop_server() { end_process "${SERVER_PID:-}" "${1:-INT}" 20; SERVER_PID=; }
stop_broker() { end_process "${BROKER_PID:-}" TERM 10; BROKER_PID=; }

# ---------------------------------------------------------------- Kafka

# Fetch Apache Kafka once a machine, and lend it to WEIR_USER, who may not be
# able to look into the caller's home.  Sets WEIR_KAFKA_HOME.
need_kafka()
{
	local home
	need_java
	home=$("$1/test/setup/kafka") || die "could not fetch Apache Kafka"
	WEIR_KAFKA_HOME=$home
	if [ "$(id -u)" = 0 ]; then
		WEIR_KAFKA_HOME=$WORK/kafka-home
		cp -al "$home" "$WEIR_KAFKA_HOME" 2>/dev/null ||
			{ rm -rf "$WEIR_KAFKA_HOME"; cp -a "$home" "$WEIR_KAFKA_HOME"; }
	fi
	export WEIR_KAFKA_HOME
}
