/*-------------------------------------------------------------------------
 *
 * fuzz_lateness.c
 *	  Test builds: stored sketches of lateness that nobody stored.
 *
 * Counts random rows, saves the sketch, changes its bytes, makes the checksum
 * right and loads it.  It is refused, or it is a sketch: a watermark comes out
 * of it, it takes more rows, it merges, and what is saved of it loads again as
 * the same bytes.
 *
 *-------------------------------------------------------------------------
 */
#include "window/watermark.h"

#ifdef WEIR_TEST

#include "catalog/pg_type.h"
#include "fuzz.h"
#include "port/pg_crc32c.h"
#include "utils/array.h"

PG_FUNCTION_INFO_V1(weir_fuzz_lateness);

#define LONGEST 400

/* version, checksum; see watermark.c */
#define HEADER (1 + sizeof(pg_crc32c))

static void
sign(StringInfo bytes)
{
	pg_crc32c	crc;

	if (bytes->len < HEADER)
		return;
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, bytes->data, 1);
	COMP_CRC32C(crc, bytes->data + HEADER, bytes->len - HEADER);
	FIN_CRC32C(crc);
	memcpy(bytes->data + 1, &crc, sizeof(crc));
}

static void
add_rows(WeirFuzz *fuzz, WeirEventTime *time, const WeirWatermarkRule *rule)
{
	Timestamp	times[32];
	int			n = weir_fuzz_below(fuzz, lengthof(times));

	for (int i = 0; i < n; i++)
		times[i] = (int64) (weir_fuzz_number(fuzz) >> weir_fuzz_below(fuzz, 64));
	weir_event_time_add(time, rule, times, n, INT64CONST(1) << 58);
}

static WeirLateness *
load(const WeirFuzz *fuzz, const char *bytes, Size len)
{
	MemoryContext old = CurrentMemoryContext;
	WeirLateness *volatile lateness = NULL;
	volatile int sqlstate = 0;

	PG_TRY();
	{
		lateness = weir_lateness_load(bytes, len);
	}
	PG_CATCH();
	{
		sqlstate = geterrcode();
		MemoryContextSwitchTo(old);
		FlushErrorState();
	}
	PG_END_TRY();
	if (sqlstate != 0 && sqlstate != ERRCODE_DATA_CORRUPTED &&
		sqlstate != ERRCODE_FEATURE_NOT_SUPPORTED)
		weir_fuzz_differs(fuzz, psprintf("raised %s", unpack_sql_state(sqlstate)),
						  bytes, len);
	return lateness;
}

/*
 * weir_fuzz_lateness(seed bigint, first bigint, rounds bigint) -> bigint[]:
 * sketches loaded, watermarks that moved.
 */
Datum
weir_fuzz_lateness(PG_FUNCTION_ARGS)
{
	int64		first = PG_GETARG_INT64(1);
	int64		rounds = PG_GETARG_INT64(2);
	WeirWatermarkRule rule = {.kind = WEIR_WATERMARK_PERCENTILE, .share = 0.5,
	.idle_timeout = -1};
	WeirFuzz	fuzz;
	Datum		n[2] = {0};

	weir_fuzz_begin(&fuzz, PG_GETARG_INT64(0));
	for (int64 round = first; round < first + rounds; round++)
	{
		WeirEventTime time;
		WeirLateness *other;
		StringInfoData bytes;
		StringInfoData again;
		const char *copy;

		weir_fuzz_round(&fuzz, round);
		weir_event_time_begin(&time, &rule, DT_NOBEGIN, 0);
		add_rows(&fuzz, &time, &rule);
		other = time.lateness == NULL ? weir_lateness_create() : time.lateness;
		initStringInfo(&bytes);
		weir_lateness_save(other, &bytes);
		weir_fuzz_mutate(&fuzz, &bytes, LONGEST, NULL, 0);
		sign(&bytes);
		copy = weir_fuzz_exact(bytes.data, bytes.len);
		time.lateness = load(&fuzz, copy, bytes.len);
		if (time.lateness == NULL)
			continue;
		n[0]++;

		initStringInfo(&again);
		resetStringInfo(&bytes);
		weir_lateness_save(time.lateness, &bytes);
		weir_lateness_save(load(&fuzz, bytes.data, bytes.len), &again);
		if (bytes.len != again.len || memcmp(bytes.data, again.data, bytes.len) != 0)
			weir_fuzz_differs(&fuzz, "what was saved loads as something else",
							  bytes.data, bytes.len);
		add_rows(&fuzz, &time, &rule);
		weir_lateness_merge(time.lateness, other);
		weir_event_time_advance(&time, &rule);
		n[1] += time.watermark != DT_NOBEGIN;
	}
	weir_fuzz_end(&fuzz);
	PG_RETURN_ARRAYTYPE_P(construct_array(n, 2, INT8OID, 8, true,
										  TYPALIGN_DOUBLE));
}

#endif							/* WEIR_TEST */
