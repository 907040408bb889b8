/*
 * Map from strings to uint32_t: open addressing with linear probing at most two thirds full, deletion by moving later entries of
 * the probe run back (so there are no tombstones).
 */
#include "lib/base/base.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct qd_strmap_entry {
	const char *key; /* NULL when free */
	uint32_t hash, value;
};

static uint32_t hash_key(const char *key)
{
	return (uint32_t)XXH3_64bits(key, strlen(key));
}

/* The slot that holds `key`, or the free one where it would go. `cap` is a power of two and never full. */
static uint32_t find_slot(const struct qd_strmap *map, const char *key, uint32_t hash)
{
	uint32_t mask = map->cap - 1, slot = hash & mask;
	while (map->entries[slot].key != NULL && (map->entries[slot].hash != hash || strcmp(map->entries[slot].key, key) != 0))
		slot = (slot + 1) & mask;
	return slot;
}

uint32_t qd_strmap_get(const struct qd_strmap *map, const char *key)
{
	if (!map->cap)
		return QD_NONE;
	const struct qd_strmap_entry *entry = &map->entries[find_slot(map, key, hash_key(key))];
	return entry->key != NULL ? entry->value : QD_NONE;
}

static enum qd_status rehash(struct qd_strmap *map)
{
	if (map->cap > UINT32_MAX / 4)
		return qd_fail(QD_ENOMEM, "out of memory (%u map entries)", map->n);
	struct qd_strmap bigger = { .cap = map->cap ? map->cap * 2 : 16 };
	bigger.entries = calloc(bigger.cap, sizeof(*bigger.entries));
	if (bigger.entries == NULL)
		return qd_fail(QD_ENOMEM, "out of memory (%u map entries)", bigger.cap);
	for (uint32_t i = 0; i < map->cap; i++) {
		const struct qd_strmap_entry *entry = &map->entries[i];
		if (entry->key != NULL)
			bigger.entries[find_slot(&bigger, entry->key, entry->hash)] = *entry;
	}
	free(map->entries);
	map->entries = bigger.entries;
	map->cap = bigger.cap;
	return QD_OK;
}

enum qd_status qd_strmap_put(struct qd_strmap *map, const char *key, uint32_t value)
{
	enum qd_status st = map->n >= map->cap / 3 * 2 ? rehash(map) : QD_OK;
	if (st != QD_OK)
		return st;
	uint32_t hash = hash_key(key);
	struct qd_strmap_entry *entry = &map->entries[find_slot(map, key, hash)];
	if (entry->key == NULL) {
		const char *copy = qd_arena_strdup(&map->keys, key);
		if (copy == NULL)
			return QD_ENOMEM;
		*entry = (struct qd_strmap_entry){ .key = copy, .hash = hash };
		map->n++;
	}
	entry->value = value;
	return QD_OK;
}

void qd_strmap_remove(struct qd_strmap *map, const char *key)
{
	if (!map->cap)
		return;
	uint32_t mask = map->cap - 1, hole = find_slot(map, key, hash_key(key));
	if (map->entries[hole].key == NULL)
		return;
	map->n--;
	for (uint32_t slot = (hole + 1) & mask; map->entries[slot].key != NULL; slot = (slot + 1) & mask) {
		uint32_t home = map->entries[slot].hash & mask;
		/* An entry may fill the hole when the hole lies on its way from its home slot to where it is. */
		if (((slot - home) & mask) >= ((slot - hole) & mask)) {
			map->entries[hole] = map->entries[slot];
			hole = slot;
		}
	}
	map->entries[hole] = (struct qd_strmap_entry){ 0 };
}

void qd_strmap_release(struct qd_strmap *map)
{
	free(map->entries);
	qd_arena_release(&map->keys);
	*map = (struct qd_strmap){ 0 };
}
