/*-------------------------------------------------------------------------
 *
 * weir_catalog.h
 *	  Definitions of continuous views as the catalog tables hold them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_CATALOG_H
#define WEIR_CATALOG_H

#include "weir.h"
#include "nodes/parsenodes.h"

typedef enum WeirOnError
{
	WEIR_ON_ERROR_DEAD_LETTER,
	WEIR_ON_ERROR_STOP
} WeirOnError;

/* Options of a view, defaults filled in. */
typedef struct WeirViewOptions
{
	int64		commit_interval;	/* microseconds */
	WeirOnError on_error;
} WeirViewOptions;

/* One row of weir_data.views, resolved. */
typedef struct WeirViewDef
{
	char		id[WEIR_ID_LEN + 1];
	Oid			relid;			/* v */
	Oid			owner;			/* of v */
	Oid			query_view;		/* weir_data.query_<id> */
	Oid			state_table;	/* weir_data.state_<id> */
	Oid			source;			/* the stream in FROM */
	bool		paused;
	List	   *settings;		/* pinned: String name, String value, ... */
	WeirViewOptions options;
} WeirViewDef;

/*
 * All views of this database whose parts exist, in CurrentMemoryContext.
 * Needs a transaction; takes no lock on the views.
 */
extern List *weir_catalog_views(void);

/* NULL when relid is no continuous view. */
extern WeirViewDef *weir_catalog_view(Oid relid);

/* Q of a view, a copy. */
extern Query *weir_catalog_query(Oid query_view);

/* True when the extension is installed here. */
extern bool weir_catalog_exists(void);

/* Oid of a table of weir_data by name, InvalidOid if missing. */
extern Oid	weir_data_table(const char *name);

/*
 * catalog/ddl_hook.c: the ProcessUtility and object access hooks; called
 * once, from _PG_init.
 */
extern void weir_install_ddl_hooks(void);

#endif							/* WEIR_CATALOG_H */
