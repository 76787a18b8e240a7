# pg_weir: see README.md.  OBJS is spelled out: a wildcard matches nothing in
# a VPATH build and would link an empty module.
MODULE_big = pg_weir
EXTENSION = pg_weir
DATA = pg_weir--0.1.sql
PGFILEDESC = "pg_weir - continuous views"

OBJS = \
	src/aggregate/aggregate.o \
	src/aggregate/exact_float.o \
	src/aggregate/extreme.o \
	src/aggregate/multiset.o \
	src/aggregate/numeric_sum.o \
	src/aggregate/sums.o \
	src/catalog/accept_function.o \
	src/catalog/accept_query.o \
	src/catalog/adopt_views.o \
	src/catalog/alter_view.o \
	src/catalog/changelog_table.o \
	src/catalog/control_view.o \
	src/catalog/create_view.o \
	src/catalog/database_label.o \
	src/catalog/ddl_hook.o \
	src/catalog/describe_plan.o \
	src/catalog/drop_view.o \
	src/catalog/event_options.o \
	src/catalog/leave_database.o \
	src/catalog/plan_query.o \
	src/catalog/read_only.o \
	src/catalog/rename_column.o \
	src/catalog/run_sql.o \
	src/catalog/start_option.o \
	src/catalog/table_source.o \
	src/catalog/view_options.o \
	src/catalog/view_parts.o \
	src/catalog/weir_catalog.o \
	src/decode/convert.o \
	src/decode/convert_number.o \
	src/decode/convert_time.o \
	src/decode/csv_decode.o \
	src/decode/decoder.o \
	src/decode/fuzz_csv.o \
	src/decode/fuzz_json.o \
	src/decode/json_scan.o \
	src/decode/json_shape.o \
	src/decode/json_text.o \
	src/decode/try_decode.o \
	src/emit/books.o \
	src/emit/changelog.o \
	src/emit/compose.o \
	src/emit/compose_session.o \
	src/emit/compose_windows.o \
	src/emit/project.o \
	src/emit/replace.o \
	src/emit/results.o \
	src/emit/row_image.o \
	src/emit/row_writer.o \
	src/emit/state_reader.o \
	src/emit/states.o \
	src/emit/tidy.o \
	src/emit/try_compose.o \
	src/emit/try_row_image.o \
	src/fdw/fuzz_message.o \
	src/fdw/kafka_encode.o \
	src/fdw/kafka_fdw.o \
	src/fdw/kafka_insert.o \
	src/fdw/kafka_quals.o \
	src/fdw/kafka_scan.o \
	src/fdw/show_message.o \
	src/fdw/stream_fdw.o \
	src/fdw/stream_message.o \
	src/fuzz.o \
	src/monitor/event_time.o \
	src/monitor/progress.o \
	src/monitor/view_functions.o \
	src/monitor/wait_for.o \
	src/pg_weir.o \
	src/runtime/align.o \
	src/runtime/backfill.o \
	src/runtime/backfill_process.o \
	src/runtime/backfill_scan.o \
	src/runtime/change_confirm.o \
	src/runtime/change_feed.o \
	src/runtime/change_sources.o \
	src/runtime/evict.o \
	src/runtime/expire.o \
	src/runtime/fault_point.o \
	src/runtime/feed.o \
	src/runtime/fault_in.o \
	src/runtime/fold.o \
	src/runtime/kept_rows.o \
	src/runtime/late.o \
	src/runtime/mark.o \
	src/runtime/member_failures.o \
	src/runtime/members.o \
	src/runtime/pace.o \
	src/runtime/pinned_settings.o \
	src/runtime/publish.o \
	src/runtime/publish_evicted.o \
	src/runtime/run.o \
	src/runtime/scout.o \
	src/runtime/slot_life.o \
	src/runtime/staged.o \
	src/runtime/view_time.o \
	src/runtime/waits.o \
	src/runtime/watchdog.o \
	src/runtime/weir_commit.o \
	src/runtime/weir_launcher.o \
	src/runtime/weir_shmem.o \
	src/runtime/weir_worker.o \
	src/settings.o \
	src/source/foreign_options.o \
	src/source/kafka_client.o \
	src/source/kafka_handle.o \
	src/source/kafka_option_values.o \
	src/source/kafka_options.o \
	src/source/kafka_probe.o \
	src/source/wal_buffer.o \
	src/source/wal_leaves.o \
	src/source/wal_reader.o \
	src/source/wal_shapes.o \
	src/source/wal_slot.o \
	src/source/wal_tell.o \
	src/source/wal_test.o \
	src/state/budget.o \
	src/state/evicted.o \
	src/state/fuzz_states.o \
	src/state/group_key.o \
	src/state/group_table.o \
	src/state/state_bytes.o \
	src/state/try_states.o \
	src/state/value_store.o \
	src/window/calendar.o \
	src/window/deadlines.o \
	src/window/fuzz_lateness.o \
	src/window/try_event_time.o \
	src/window/try_windows.o \
	src/window/watermark.o \
	src/window/window.o \
	src/window/window_functions.o \
	src/window/window_sizes.o

PG_CPPFLAGS = -I$(srcdir)/src -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers
SHLIB_LINK = -lrdkafka

# make WEIR_TEST=1 compiles the fault points and the movable clock in; a
# production build has neither.
ifdef WEIR_TEST
PG_CPPFLAGS += -DWEIR_TEST
endif

REGRESS = tumble event_options changelog_relation hop cumulate session_window decode definition_language kafka_options kafka_scan kafka_insert view_ddl view_options table_source security
ifdef WEIR_TEST
REGRESS += query_plan push_stream retract row_image window_panes compose watermark
endif
REGRESS_OPTS = --inputdir=$(srcdir)

ISOLATION = view_create view_control
ISOLATION_OPTS = --inputdir=$(srcdir)/test

# Isolation specs cannot read the environment; they find the broker here.
installcheck: export PGOPTIONS := $(PGOPTIONS) -c weir_test.bootstrap=$(WEIR_BOOTSTRAP)

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
srcdir ?= .
include $(PGXS)

# PGXS tracks no headers, and a stale object reads structs that have moved
$(OBJS): $(wildcard $(srcdir)/src/*.h $(srcdir)/src/*/*.h)

# objects live in subfolders, which a VPATH build has to make first
$(OBJS): | $(sort $(dir $(OBJS)))
$(sort $(dir $(OBJS))):
	mkdir -p $@
