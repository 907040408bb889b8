/*
 * Prompts to ids, in the order of CLIPTokenizer of transformers 5:
 *
 *   1. special strings that are not "normalized" are cut out of the raw text, the longest at the leftmost place
 *   2. the rest is normalized (text.c), and the other special strings are cut out
 *   3. what is between them falls into pieces: <|startoftext|> and <|endoftext|>, 's 't 're 've 'm 'll 'd, runs of letters, single
 *      numbers, runs of anything else but spaces; the first of these that fits at a place, as long as it can be
 *   4. a piece's UTF-8 bytes become symbols, the last one its word-ending form, and are merged (merge.c)
 *   5. start, as many ids as leave room for the end, end, pads
 *
 * A special string that is found only in step 3 (no special string of this tokenizer) is then cut into "<|", the word and "|>".
 */
#include "lib/tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

struct encoding {
	const struct qd_tokenizer *t;
	struct qd_points raw, normal;
	struct qd_word word;
	int32_t *ids;
	size_t n, cap;
};

static void encoding_release(struct encoding *e)
{
	qd_points_release(&e->raw);
	qd_points_release(&e->normal);
	qd_word_release(&e->word);
	free(e->ids);
}

static enum qd_status push_id(struct encoding *e, uint32_t id)
{
	enum qd_status st;
	QD_PUSH(st, e->ids, e->n, e->cap, (int32_t)id);
out:
	return st;
}

/* ---- pieces ---- */

static enum qd_status push_symbol(struct encoding *e, uint32_t id)
{
	struct qd_word *word = &e->word;
	uint32_t at = (uint32_t)word->n;
	struct qd_symbol symbol = { .id = id, .previous = at ? at - 1 : QD_NONE, .next = at + 1 };
	enum qd_status st;
	QD_PUSH(st, word->symbols, word->n, word->cap, symbol);
out:
	return st;
}

static enum qd_status encode_piece(struct encoding *e, const int32_t *points, size_t n)
{
	struct qd_word *word = &e->word;
	unsigned char bytes[4];
	enum qd_status st = QD_OK;

	word->n = 0;
	for (size_t i = 0; i < n; i++) {
		size_t count = qd_point_bytes(points[i], bytes);
		for (size_t k = 0; k < count; k++)
			QD_TRY(st, push_symbol(e, e->t->byte_ids[i + 1 == n && k + 1 == count][bytes[k]]));
	}
	word->symbols[word->n - 1].next = QD_NONE;
	QD_TRY(st, qd_word_merge(word, &e->t->merges));
	for (uint32_t at = 0; at != QD_NONE; at = word->symbols[at].next)
		QD_TRY(st, push_id(e, word->symbols[at].id));
out:
	return st;
}

/* The length of the first of `words` (NULL at the end) that the text begins with, or 0. */
static size_t begins_with(const int32_t *points, size_t n, const char *const *words)
{
	for (; *words != NULL; words++) {
		size_t length = strlen(*words), i = 0;
		while (i < length && i < n && points[i] == (*words)[i])
			i++;
		if (i == length)
			return length;
	}
	return 0;
}

/* The length of the piece that begins the text, 0 for a space. */
static size_t piece_length(const int32_t *points, size_t n)
{
	static const char *const contractions[] = { "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", NULL };
	enum qd_point_class class = qd_point_class(points[0]);
	size_t length = begins_with(points, n, contractions);

	if (class == QD_POINT_SPACE || length > 0)
		return length;
	for (length = 1; length < n && class != QD_POINT_NUMBER && qd_point_class(points[length]) == class;)
		length++;
	return length;
}

static enum qd_status encode_pieces(struct encoding *e, const int32_t *points, size_t n)
{
	static const char *const spellings[] = { "<|startoftext|>", "<|endoftext|>", NULL };
	enum qd_status st = QD_OK;

	for (size_t i = 0, length; i < n; i += length) {
		length = begins_with(points + i, n - i, spellings);
		if (length > 0) {
			QD_TRY(st, encode_piece(e, points + i, 2));
			QD_TRY(st, encode_piece(e, points + i + 2, length - 4));
			QD_TRY(st, encode_piece(e, points + i + length - 2, 2));
			continue;
		}
		length = piece_length(points + i, n - i);
		if (length > 0)
			QD_TRY(st, encode_piece(e, points + i, length));
		else
			length = 1;
	}
out:
	return st;
}

/* ---- special strings ---- */

static const struct qd_special *special_at(const struct qd_tokenizer *t, bool normalized, const int32_t *points, size_t n)
{
	if (!t->begins[normalized][points[0] & 0xff])
		return NULL;
	for (size_t i = 0; i < t->n_specials; i++) {
		const struct qd_special *special = &t->specials[i];
		size_t length = special->points.n;
		if (special->normalized == normalized && length <= n && special->points.items[0] == points[0] &&
			memcmp(special->points.items, points, length * sizeof(*points)) == 0)
			return special;
	}
	return NULL;
}

/* Gives what lies between the special strings of one kind to `rest`, and their ids to the result. */
static enum qd_status cut(struct encoding *e, const struct qd_points *text, bool normalized,
	enum qd_status (*rest)(struct encoding *e, const int32_t *points, size_t n))
{
	size_t from = 0, i = 0;
	enum qd_status st;

	while (i < text->n) {
		const struct qd_special *special = special_at(e->t, normalized, text->items + i, text->n - i);
		if (special == NULL) {
			i++;
			continue;
		}
		QD_TRY(st, rest(e, text->items + from, i - from));
		QD_TRY(st, push_id(e, special->id));
		from = i += special->points.n;
	}
	st = from < text->n ? rest(e, text->items + from, text->n - from) : QD_OK;
out:
	return st;
}

static enum qd_status encode_plain(struct encoding *e, const int32_t *points, size_t n)
{
	enum qd_status st;

	if (n == 0)
		return QD_OK;
	QD_TRY(st, qd_points_normalize(&e->normal, points, n));
	QD_TRY(st, cut(e, &e->normal, true, encode_pieces));
out:
	return st;
}

/* ---- the whole ---- */

static void fill_ids(const struct encoding *e, int32_t *ids)
{
	const struct qd_tokenizer *t = e->t;
	size_t kept = e->n < t->length - 2 ? e->n : t->length - 2;

	ids[0] = (int32_t)t->start;
	if (kept > 0)
		memcpy(ids + 1, e->ids, kept * sizeof(*ids));
	ids[kept + 1] = (int32_t)t->end;
	for (size_t i = kept + 2; i < t->length; i++)
		ids[i] = (int32_t)t->pad;
}

enum qd_status qd_tokenizer_encode(const struct qd_tokenizer *tokenizer, const char *text, size_t bytes, int32_t *ids, size_t *n)
{
	struct encoding e = { .t = tokenizer };
	enum qd_status st;

	if (bytes > QD_TOKENIZER_MAX_TEXT)
		QD_TRY(st, qd_fail(QD_EINPUT, "the text has %zu bytes, needs at most %zu", bytes, QD_TOKENIZER_MAX_TEXT));
	QD_TRY(st, qd_points_decode(&e.raw, text, bytes));
	QD_TRY(st, cut(&e, &e.raw, false, encode_plain));
	fill_ids(&e, ids);
	if (n != NULL)
		*n = e.n + 2;
out:
	encoding_release(&e);
	return st;
}

size_t qd_tokenizer_length(const struct qd_tokenizer *tokenizer)
{
	return tokenizer->length;
}

size_t qd_tokenizer_size(const struct qd_tokenizer *tokenizer)
{
	return tokenizer->size;
}

void qd_tokenizer_free(struct qd_tokenizer *tokenizer)
{
	if (tokenizer == NULL)
		return;
	for (size_t i = 0; i < tokenizer->n_specials; i++)
		qd_points_release(&tokenizer->specials[i].points);
	free(tokenizer->specials);
	qd_merges_release(&tokenizer->merges);
	free(tokenizer);
}

enum qd_status qd_tokenizer_build(struct qd_tokenizer **out, const struct qd_tokenizer_files *files)
{
	struct qd_vocabulary vocabulary = { 0 };
	struct qd_tokenizer *t = calloc(1, sizeof(*t));
	enum qd_status st = QD_OK;

	*out = NULL;
	if (t == NULL)
		return qd_fail(QD_ENOMEM, "out of memory (%zu bytes)", sizeof(*t));
	QD_TRY(st, qd_tokenizer_read_vocabulary(t, &vocabulary, files));
	QD_TRY(st, qd_tokenizer_read_settings(t, &vocabulary, files));
	*out = t;
	t = NULL;
out:
	qd_tokenizer_free(t);
	qd_strmap_release(&vocabulary.ids);
	return st;
}

enum qd_status qd_tokenizer_open(struct qd_tokenizer **out, const char *folder)
{
	struct qd_tokenizer_files files = { 0 };
	enum qd_status st;

	*out = NULL;
	QD_TRY(st, qd_tokenizer_files_open(&files, folder));
	QD_TRY(st, qd_tokenizer_build(out, &files));
out:
	qd_tokenizer_files_release(&files);
	return st;
}
