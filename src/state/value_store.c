/*-------------------------------------------------------------------------
 *
 * value_store.c
 *	  By-reference values that states own, within the budget.
 *
 * A reference is a DSA pointer to a length word and the bytes, aligned to 8.
 * Values are linked, so that a table can be dropped without visiting its
 * groups.
 *
 *-------------------------------------------------------------------------
 */
#include "state/state.h"

typedef struct Value
{
	dsa_pointer next;
	dsa_pointer prev;
	Size		len;			/* bytes of data */
	char		data[FLEXIBLE_ARRAY_MEMBER];
} Value;

struct WeirValueStore
{
	dsa_area   *area;
	dsa_pointer first;
	Size		bytes;
};

WeirValueStore *
weir_value_store_create(MemoryContext mcxt)
{
	WeirValueStore *store = MemoryContextAllocZero(mcxt, sizeof(*store));

	store->area = weir_state_area();
	store->first = InvalidDsaPointer;
	return store;
}

Size
weir_value_store_bytes(const WeirValueStore *store)
{
	return store->bytes;
}

static inline Value *
value_at(WeirValueStore *store, dsa_pointer pointer)
{
	return (Value *) dsa_get_address(store->area, pointer);
}

WeirValueRef
weir_value_put(WeirValueStore *store, const void *bytes, Size len)
{
	Size		size = offsetof(Value, data) + MAXALIGN(len);
	dsa_pointer pointer;
	Value	   *value;

	pointer = weir_state_allocate(size);
	value = value_at(store, pointer);
	value->len = len;
	if (bytes != NULL)
		memcpy(value->data, bytes, len);
	value->prev = InvalidDsaPointer;
	value->next = store->first;
	if (DsaPointerIsValid(store->first))
		value_at(store, store->first)->prev = pointer;
	store->first = pointer;
	store->bytes += size;
	return pointer;
}

const char *
weir_value_get(WeirValueStore *store, WeirValueRef ref, Size *len)
{
	Value	   *value = value_at(store, ref);

	*len = value->len;
	return value->data;
}

char *
weir_value_edit(WeirValueStore *store, WeirValueRef ref)
{
	return value_at(store, ref)->data;
}

void
weir_value_free(WeirValueStore *store, WeirValueRef ref)
{
	Value	   *value = value_at(store, ref);
	Size		size = offsetof(Value, data) + MAXALIGN(value->len);

	if (DsaPointerIsValid(value->prev))
		value_at(store, value->prev)->next = value->next;
	else
		store->first = value->next;
	if (DsaPointerIsValid(value->next))
		value_at(store, value->next)->prev = value->prev;
	weir_state_free(ref, size);
	store->bytes -= size;
}

void
weir_value_store_empty(WeirValueStore *store)
{
	while (DsaPointerIsValid(store->first))
		weir_value_free(store, store->first);
}

void
weir_value_store_destroy(WeirValueStore *store)
{
	weir_value_store_empty(store);
	pfree(store);
}
