/*
 * Byte-pair merging: the pairs in a hash table, and a word's symbols in a linked list beside a heap of the neighbours that merge.
 *
 * The heap's least entry is the pair of lowest rank, among equals the leftmost. An entry is out of date when one of its two symbols
 * has been merged since; every merge adds the pairs with its two new neighbours, so that n symbols take O(n log n).
 */
#include "lib/tokenizer/internal.h"

#include <stdlib.h>

/* ---- the table: open addressing, at most two thirds full ---- */

static size_t hash_pair(uint32_t left, uint32_t right)
{
	uint64_t h = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15u;
	h ^= h >> 32;
	return (size_t)(h * 0xd6e8feb86659fd93u >> 20);
}

/* Where the pair is, or the free place where it would go. */
static size_t find_place(const struct qd_merges *merges, uint32_t left, uint32_t right)
{
	size_t mask = merges->cap - 1, place = hash_pair(left, right) & mask;
	const struct qd_merge *table = merges->table;

	while (table[place].left != QD_NONE && (table[place].left != left || table[place].right != right))
		place = (place + 1) & mask;
	return place;
}

/* NULL when the pair does not merge. */
static const struct qd_merge *find_merge(const struct qd_merges *merges, uint32_t left, uint32_t right)
{
	if (merges->n == 0)
		return NULL;
	const struct qd_merge *found = &merges->table[find_place(merges, left, right)];
	return found->left == QD_NONE ? NULL : found;
}

static enum qd_status enlarge(struct qd_merges *merges)
{
	struct qd_merges bigger = { .n = merges->n, .cap = merges->cap ? merges->cap * 2 : 1024 };
	size_t bytes;

	if (qd_mul_overflow(bigger.cap, sizeof(*bigger.table), &bytes) || (bigger.table = malloc(bytes)) == NULL)
		return qd_fail(QD_ENOMEM, "out of memory (%zu merges)", bigger.cap);
	for (size_t i = 0; i < bigger.cap; i++)
		bigger.table[i].left = QD_NONE;
	for (size_t i = 0; i < merges->cap; i++) {
		const struct qd_merge *merge = &merges->table[i];
		if (merge->left != QD_NONE)
			bigger.table[find_place(&bigger, merge->left, merge->right)] = *merge;
	}
	free(merges->table);
	*merges = bigger;
	return QD_OK;
}

enum qd_status qd_merges_add(struct qd_merges *merges, uint32_t left, uint32_t right, uint32_t result)
{
	if (merges->n >= QD_NONE - 1)
		return qd_fail(QD_EINPUT, "there are %zu merges before it, needs at most %u", merges->n, QD_NONE - 1);
	enum qd_status st = merges->n >= merges->cap / 3 * 2 ? enlarge(merges) : QD_OK;
	if (st != QD_OK)
		return st;
	struct qd_merge *place = &merges->table[find_place(merges, left, right)];
	if (place->left != QD_NONE)
		return qd_fail(QD_EINPUT, "the same pair is merge %u already", place->rank + 1);
	*place = (struct qd_merge){ .left = left, .right = right, .result = result, .rank = (uint32_t)merges->n++ };
	return QD_OK;
}

void qd_merges_release(struct qd_merges *merges)
{
	free(merges->table);
	*merges = (struct qd_merges){ 0 };
}

/* ---- the heap ---- */

static bool before(const struct qd_waiting *a, const struct qd_waiting *b)
{
	return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static enum qd_status heap_push(struct qd_word *word, struct qd_waiting entry)
{
	enum qd_status st = qd_grow(&word->heap, &word->heap_cap, word->waiting + 1, sizeof(*word->heap));
	if (st != QD_OK)
		return st;
	size_t i = word->waiting++;
	for (; i > 0 && before(&entry, &word->heap[(i - 1) / 2]); i = (i - 1) / 2)
		word->heap[i] = word->heap[(i - 1) / 2];
	word->heap[i] = entry;
	return QD_OK;
}

static struct qd_waiting heap_pop(struct qd_word *word)
{
	struct qd_waiting *heap = word->heap, top = heap[0], last = heap[--word->waiting];
	size_t i = 0;

	for (size_t child; (child = 2 * i + 1) < word->waiting; i = child) {
		if (child + 1 < word->waiting && before(&heap[child + 1], &heap[child]))
			child++;
		if (!before(&heap[child], &last))
			break;
		heap[i] = heap[child];
	}
	heap[i] = last;
	return top;
}

/* ---- merging ---- */

/* The symbol at `at` and the one after it wait if they merge at all; `at` may be QD_NONE. */
static enum qd_status consider(struct qd_word *word, const struct qd_merges *merges, uint32_t at)
{
	if (at == QD_NONE || word->symbols[at].next == QD_NONE)
		return QD_OK;
	uint32_t left = word->symbols[at].id, right = word->symbols[word->symbols[at].next].id;
	const struct qd_merge *merge = find_merge(merges, left, right);
	if (merge == NULL)
		return QD_OK;
	return heap_push(word, (struct qd_waiting){ .rank = merge->rank, .at = at, .left = left, .right = right });
}

static bool out_of_date(const struct qd_word *word, const struct qd_waiting *entry)
{
	const struct qd_symbol *left = &word->symbols[entry->at];
	return left->id != entry->left || left->next == QD_NONE || word->symbols[left->next].id != entry->right;
}

/* The symbol at `at` takes the place of itself and the next one. */
static void join(struct qd_word *word, uint32_t at, uint32_t result)
{
	struct qd_symbol *left = &word->symbols[at], *right = &word->symbols[left->next];

	left->id = result;
	left->next = right->next;
	right->id = QD_NONE;
	if (left->next != QD_NONE)
		word->symbols[left->next].previous = at;
}

enum qd_status qd_word_merge(struct qd_word *word, const struct qd_merges *merges)
{
	enum qd_status st = QD_OK;

	word->waiting = 0;
	for (size_t i = 0; i < word->n; i++)
		QD_TRY(st, consider(word, merges, (uint32_t)i));
	while (word->waiting > 0) {
		struct qd_waiting entry = heap_pop(word);
		if (out_of_date(word, &entry))
			continue;
		join(word, entry.at, find_merge(merges, entry.left, entry.right)->result);
		QD_TRY(st, consider(word, merges, word->symbols[entry.at].previous));
		QD_TRY(st, consider(word, merges, entry.at));
	}
out:
	return st;
}

void qd_word_release(struct qd_word *word)
{
	free(word->symbols);
	free(word->heap);
	*word = (struct qd_word){ 0 };
}
