# pg_weir: see README.md.  OBJS is spelled out: a wildcard matches nothing in
# a VPATH build and would link an empty module.
MODULE_big = pg_weir
EXTENSION = pg_weir
DATA = pg_weir--0.1.sql
PGFILEDESC = "pg_weir - continuous views"

OBJS = \
	src/pg_weir.o \
	src/settings.o \
	src/aggregate/aggregate.o \
	src/catalog/plan_query.o \
	src/fdw/kafka_encode.o \
	src/fdw/kafka_fdw.o \
	src/fdw/kafka_insert.o \
	src/fdw/kafka_quals.o \
	src/fdw/kafka_scan.o \
	src/source/kafka_client.o \
	src/source/kafka_handle.o \
	src/source/kafka_options.o \
	src/source/kafka_probe.o \
	src/decode/convert.o \
	src/decode/convert_number.o \
	src/decode/convert_time.o \
	src/decode/csv_decode.o \
	src/decode/decoder.o \
	src/decode/json_scan.o \
	src/decode/try_decode.o \
	src/window/tumble.o

PG_CPPFLAGS = -I$(srcdir)/src -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers
SHLIB_LINK = -lrdkafka

# make WEIR_TEST=1 compiles the fault points and the movable clock in; a
# production build has neither.
ifdef WEIR_TEST
PG_CPPFLAGS += -DWEIR_TEST
endif

REGRESS = 
REGRESS_OPTS = --inputdir=$(srcdir)

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
srcdir ?= .
include $(PGXS)

# objects live in subfolders, which a VPATH build has to make first
$(OBJS): | $(sort $(dir $(OBJS)))
$(sort $(dir $(OBJS))):
	mkdir -p $@
