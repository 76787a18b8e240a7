/*-------------------------------------------------------------------------
 *
 * read_only.c
 *	  The trigger that keeps users from writing into a continuous view and its
 *	  changelog.
 *
 * It fires for each statement of INSERT, UPDATE, DELETE, MERGE, COPY and
 * TRUNCATE, before any row is looked at.  The worker writes below triggers.
 *
 * Its first argument, the id of the view, plays no part here: by it a restored
 * view finds its catalog row again (adopt_views.c).  The second tells the
 * changelog from the view.
 *
 *-------------------------------------------------------------------------
 */
#include "weir.h"

#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(weir_read_only);

Datum
weir_read_only(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	const char *verb;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by trigger manager",
						"weir.read_only"),
				 errhint("It belongs to continuous views.")));

	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		verb = "insert into";
	else if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		verb = "update";
	else if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		verb = "delete from";
	else
		verb = "truncate";
	if (trigger->tg_trigger->tgnargs > 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot %s changelog \"%s\" of a continuous view", verb,
						RelationGetRelationName(trigger->tg_relation)),
				 errdetail("Its rows tell what became of the rows of the view."),
				 errhint("Old rows are deleted when they are older than weir.changelog_retention of the view.")));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot %s continuous view \"%s\"", verb,
					RelationGetRelationName(trigger->tg_relation)),
			 errdetail("Its rows are what its query returns over its source."),
			 errhint("Write to the source, or use weir.rebuild() to compute the rows again.")));
	return PointerGetDatum(NULL);
}
