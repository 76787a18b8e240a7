/*-------------------------------------------------------------------------
 *
 * wait_for.c
 *	  weir.wait_for(): until the view holds what its source has now.
 *
 * Runs in a backend.  It puts its question into its place in shared memory and
 * sleeps; the worker asks the source for its end, commits up to there, and
 * answers.  A view that cannot get there by itself (paused, stalled, no worker)
 * raises its own reason at once.
 *
 *-------------------------------------------------------------------------
 */
#include "weir.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/weir_catalog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "runtime/shared.h"
#include "storage/ipc.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* How often a waiting backend looks whether the view has stalled. */
#define LOOK_EVERY_MS 200

PG_FUNCTION_INFO_V1(weir_wait_for);
PG_FUNCTION_INFO_V1(weir_worker_pid);

static void
check_transaction(void)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a standby does not ingest"),
				 errhint("Call weir.wait_for on the primary.")));
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("weir.wait_for cannot run in a transaction that has written"),
				 errdetail("The view could wait for this transaction.")));
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("weir.wait_for must run at READ COMMITTED"),
				 errdetail("The transaction could not see what it has waited for.")));
}

static WeirViewDef *
get_view(Oid relid)
{
	WeirViewDef *def = weir_catalog_view(relid);
	char	   *name = get_rel_name(relid);

	/* while we waited */
	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid),
				 errhint("See weir.views for the continuous views of this database.")));
	if (def == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a continuous view", name),
				 errhint("See weir.views for the continuous views of this database.")));
	return def;
}

/*
 * Raises the stall of a view, if it has one.  A broker that is away (class 08)
 * may come back before the time is up: then the message is returned instead.
 * An error may quote a row of the source: its text is for the owner alone.
 */
static char *
check_stall(const WeirViewDef *def, Oid reader)
{
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(def->id)};
	MemoryContext caller = CurrentMemoryContext;
	char	   *fields[4] = {NULL, NULL, NULL, NULL};

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	/* not read-only, so that each look has a new snapshot */
	if (SPI_execute_with_args("SELECT sqlstate, message, detail, hint"
							  " FROM weir_data.status"
							  " WHERE view_id OPERATOR(pg_catalog.=) $1"
							  " AND sqlstate IS NOT NULL",
							  1, types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read status");
	if (SPI_processed == 1)
		for (int i = 0; i < 4; i++)
		{
			char	   *field = SPI_getvalue(SPI_tuptable->vals[0],
											 SPI_tuptable->tupdesc, i + 1);

			if (field != NULL)
				fields[i] = MemoryContextStrdup(caller, field);
		}
	SPI_finish();
	if (fields[0] != NULL && !has_privs_of_role(reader, def->owner))
	{
		fields[1] = "the view is stalled";
		fields[2] = NULL;
		fields[3] = "Its owner sees in weir.views why.";
	}
	if (fields[0] != NULL && strncmp(fields[0], "08", 2) == 0)
		return fields[1];
	if (fields[0] != NULL)
		ereport(ERROR,
				(errcode(MAKE_SQLSTATE(fields[0][0], fields[0][1], fields[0][2],
									   fields[0][3], fields[0][4])),
				 errmsg_internal("%s", fields[1] ? fields[1] : "the view is stalled"),
				 fields[2] ? errdetail_internal("%s", fields[2]) : 0,
				 fields[3] ? errhint("%s", fields[3]) : 0));
	return NULL;
}

/*
 * Raises what keeps the view from getting there; returns what may pass, or
 * NULL.  weir_data is the extension's: look with its owner's eyes.
 */
static char *
check_view(Oid relid)
{
	char	   *trouble;
	WeirViewDef *def = get_view(relid);
	Oid			save_user;
	int			save_context;

	if (def->paused)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("continuous view \"%s\" is paused", get_rel_name(relid)),
				 errhint("Call weir.resume first.")));
	if (!weir_enabled)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("continuous views do not ingest while weir.enabled is off"),
				 errhint("Set weir.enabled to on and reload the configuration.")));
	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(weir_extension_owner(),
						   save_context | SECURITY_LOCAL_USERID_CHANGE);
	trouble = check_stall(def, save_user);
	SetUserIdAndSecContext(save_user, save_context);
	return trouble;
}

static void
ask(WeirWait *wait, Oid relid)
{
	SpinLockAcquire(&wait->mutex);
	wait->ticket++;
	wait->database = MyDatabaseId;
	wait->view = relid;
	wait->state = WEIR_WAIT_ASKED;
	SpinLockRelease(&wait->mutex);
}

static void
leave(int code, Datum arg)
{
	WeirWait   *wait = (WeirWait *) DatumGetPointer(arg);

	SpinLockAcquire(&wait->mutex);
	wait->state = WEIR_WAIT_NONE;
	SpinLockRelease(&wait->mutex);
}

static void
nudge_worker(const WeirViewDef *def)
{
	WeirSlot   *slot = weir_slot_of(MyDatabaseId, weir_group_of(def));

	LWLockAcquire(weir_shared->lock, LW_SHARED);
	if (slot != NULL && slot->latch != NULL)
		SetLatch(slot->latch);
	LWLockRelease(weir_shared->lock);
}

/* The process that serves a view, 0 if none does. */
static pid_t
get_worker(const WeirViewDef *def)
{
	WeirSlot   *slot = weir_slot_of(MyDatabaseId, weir_group_of(def));
	pid_t		pid = 0;

	if (slot != NULL)
	{
		LWLockAcquire(weir_shared->lock, LW_SHARED);
		pid = slot->pid;
		LWLockRelease(weir_shared->lock);
	}
	return pid;
}

Datum
weir_wait_for(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	Interval   *timeout = PG_GETARG_INTERVAL_P(1);
	TimestampTz give_up;
	WeirViewDef *def;
	WeirWait   *wait;

	if (!weir_preloaded)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pg_weir is not loaded"),
				 errhint("Add pg_weir to shared_preload_libraries and restart the server.")));
	check_transaction();
	if (pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(relid));
	def = get_view(relid);
	give_up = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
													  TimestampTzGetDatum(GetCurrentTimestamp()),
													  IntervalPGetDatum(timeout)));

	wait = &weir_shared->waits[weir_backend_index()];
	ask(wait, relid);
	PG_ENSURE_ERROR_CLEANUP(leave, PointerGetDatum(wait));
	{
		ConditionVariablePrepareToSleep(&weir_shared->answered);
		for (;;)
		{
			bool		held;
			char	   *trouble;

			SpinLockAcquire(&wait->mutex);
			held = wait->state == WEIR_WAIT_HELD;
			SpinLockRelease(&wait->mutex);
			if (held)
				break;
			trouble = check_view(relid);
			if (GetCurrentTimestamp() >= give_up)
				ereport(ERROR,
						(errcode(ERRCODE_QUERY_CANCELED),
						 errmsg("continuous view \"%s\" has not reached the end of its source in time",
								get_rel_name(relid)),
						 trouble ? errdetail_internal("%s", trouble) : 0,
						 get_worker(def) == 0 ?
						 errhint("No worker serves the view; weir.views says why.") :
						 errhint("weir.partitions shows how far it is.")));
			nudge_worker(def);
			(void) ConditionVariableTimedSleep(&weir_shared->answered,
											   LOOK_EVERY_MS, PG_WAIT_EXTENSION);
		}
		ConditionVariableCancelSleep();
	}
	PG_END_ENSURE_ERROR_CLEANUP(leave, PointerGetDatum(wait));
	leave(0, PointerGetDatum(wait));
	PG_RETURN_VOID();
}

Datum
weir_worker_pid(PG_FUNCTION_ARGS)
{
	WeirViewDef *def = weir_catalog_view(PG_GETARG_OID(0));
	pid_t		pid = def != NULL && weir_preloaded ? get_worker(def) : 0;

	if (pid == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT32(pid);
}
