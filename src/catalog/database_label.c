/*-------------------------------------------------------------------------
 *
 * database_label.c
 *	  The mark by which the launcher knows databases with views.
 *
 * The launcher is connected to no database and must not visit each of them to
 * look.  A shared security label, provider "weir", value "views", on the
 * database is what it reads instead: it is transactional, lives in a shared
 * catalog, and dies with the database.
 *
 * Inserting into weir_data.views sets it, by a trigger and not by CREATE's
 * code, because restoring a dump inserts there too; so does an update, by which
 * weir.resume() adopts the views of a cloned database.  Dropping the last view
 * leaves it, which costs the launcher one look; dropping the extension removes
 * it.
 *
 * Two sessions that create the first two views at once would both insert the
 * label, and one of them would fail on the catalog's unique index.  A lock that
 * nobody else uses lets the second wait for the first; later views find the
 * label and take no lock.
 *
 * A provider must be registered, although it makes SECURITY LABEL without FOR
 * ambiguous where another one is loaded: pg_dump --create and pg_upgrade
 * write labels out, and pg_upgrade stops at the first error.  For their sake a
 * superuser may set the one value that we use.
 *
 *-------------------------------------------------------------------------
 */
#include "catalog/view_ddl.h"

#include "access/xact.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "commands/seclabel.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"

#define LABEL_PROVIDER "weir"
#define LABEL_VIEWS "views"

PG_FUNCTION_INFO_V1(weir_views_changed);

static bool
has_label(const ObjectAddress *database)
{
	char	   *label = GetSecurityLabel(database, LABEL_PROVIDER);

	return label != NULL && strcmp(label, LABEL_VIEWS) == 0;
}

static void
ensure_label(void)
{
	ObjectAddress database;

	ObjectAddressSet(database, DatabaseRelationId, MyDatabaseId);
	if (has_label(&database))
		return;

	/* objsubid 1 of our extension: a lock tag that core does not use */
	LockDatabaseObject(ExtensionRelationId,
					   get_extension_oid("pg_weir", false), 1, ExclusiveLock);
	if (has_label(&database))
		return;
	SetSecurityLabel(&database, LABEL_PROVIDER, LABEL_VIEWS);
	CommandCounterIncrement();
}

void
weir_remove_label(void)
{
	ObjectAddress database;

	ObjectAddressSet(database, DatabaseRelationId, MyDatabaseId);
	if (has_label(&database))
		SetSecurityLabel(&database, LABEL_PROVIDER, NULL);
}

/*
 * Trigger AFTER INSERT, UPDATE or DELETE on weir_data.views, for the
 * statement.
 */
Datum
weir_views_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by trigger manager",
						"views_changed"),
				 errhint("It belongs to weir_data.views.")));
	if (!TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		ensure_label();
	weir_wake_at_commit();
	return PointerGetDatum(NULL);
}

static void
check_label(const ObjectAddress *object, const char *label)
{
	if (object->classId == DatabaseRelationId && superuser() &&
		(label == NULL || strcmp(label, LABEL_VIEWS) == 0))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("security labels of provider \"%s\" are set by pg_weir only",
					LABEL_PROVIDER),
			 errhint("Leave them alone; they follow the continuous views of a database.")));
}

void
weir_install_label_provider(void)
{
	register_label_provider(LABEL_PROVIDER, check_label);
}
