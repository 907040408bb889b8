/*
 * What the files of the tokenizer share: code points (text.c), merges (merge.c), the vocabulary and its files
 * (files.c), special strings and settings (settings.c), and the tokenizer itself (tokenizer.c).
 */
#ifndef QUAD_LIB_TOKENIZER_INTERNAL_H
#define QUAD_LIB_TOKENIZER_INTERNAL_H

#include "lib/tokenizer/tokenizer.h"

/* ---- code points (text.c) ---- */
struct qd_points {
	int32_t *items;
	size_t n, cap;
};
/* Replaces the contents by the code points of UTF-8 text; each maximal part of an invalid sequence becomes U+FFFD. */
QD_CHECK enum qd_status qd_points_decode(struct qd_points *points, const char *text, size_t bytes);
/* Replaces the contents by `from` in normalization form C, runs of white space as one space, every code point in lower case. */
QD_CHECK enum qd_status qd_points_normalize(struct qd_points *points, const int32_t *from, size_t n);
void qd_points_release(struct qd_points *points);
/* The first byte that is not valid UTF-8, or `bytes`. */
size_t qd_utf8_fault(const char *text, size_t bytes);
/* The UTF-8 bytes of a code point, at most 4; returns how many. */
size_t qd_point_bytes(int32_t point, unsigned char *bytes);

enum qd_point_class { QD_POINT_SPACE, QD_POINT_LETTER, QD_POINT_NUMBER, QD_POINT_OTHER };
enum qd_point_class qd_point_class(int32_t point);

/* ---- merges (merge.c) ---- */
struct qd_merge {
	uint32_t left, right, result, rank; /* left QD_NONE: a free place */
};
struct qd_merges {
	struct qd_merge *table;
	size_t n, cap;
};
/* The pair becomes `result`, after all pairs added before. QD_EINPUT when the pair is there already. */
QD_CHECK enum qd_status qd_merges_add(struct qd_merges *merges, uint32_t left, uint32_t right, uint32_t result);
void qd_merges_release(struct qd_merges *merges);

/* The symbols of one piece of text, as a list that merging shortens, and the pairs that wait to be merged. */
struct qd_symbol {
	uint32_t id, previous, next; /* QD_NONE at the ends; id QD_NONE: merged into the symbol on its left */
};
struct qd_waiting {
	uint32_t rank, at, left, right;
};
struct qd_word {
	struct qd_symbol *symbols;
	size_t n, cap;
	struct qd_waiting *heap;
	size_t waiting, heap_cap;
};
/* Merges the pair of the lowest rank, among equals the leftmost, until none is left. The first symbol stays the list's first. */
QD_CHECK enum qd_status qd_word_merge(struct qd_word *word, const struct qd_merges *merges);
void qd_word_release(struct qd_word *word);

/* ---- the tokenizer (tokenizer.c) ---- */
struct qd_special {
	struct qd_points points;
	uint32_t id;
	bool normalized; /* looked for after normalizing, not before */
};
struct qd_tokenizer {
	uint32_t byte_ids[2][256]; /* of each byte's symbol, and of the one that ends a word */
	struct qd_merges merges;
	struct qd_special *specials; /* longest first */
	size_t n_specials, specials_cap;
	bool begins[2][256]; /* whether a special string that is (not) normalized begins with such a low byte of a code point */
	uint32_t start, end, pad;
	size_t length, size;
};
/* Symbols of a text are counted in 32 bits, and a text may grow while it is normalized. */
#define QD_TOKENIZER_MAX_TEXT ((size_t)256 << 20)

/* ---- vocabulary and files (files.c) ---- */
struct qd_vocabulary {
	const char *path; /* for messages */
	struct qd_strmap ids;
	size_t size; /* one more than the largest id */
};
/* What a folder holds; NULL for what is not there. The paths are for messages. */
struct qd_tokenizer_files {
	char *vocab_path, *merges_path, *tokenizer_path, *config_path, *map_path, *added_path;
	json_t *vocab, *tokenizer, *config, *map, *added;
	struct qd_mapping merges;
	struct qd_arena arena; /* of the paths */
};
QD_CHECK enum qd_status qd_tokenizer_files_open(struct qd_tokenizer_files *files, const char *folder);
void qd_tokenizer_files_release(struct qd_tokenizer_files *files);
/* Reads the symbols into `vocabulary` and the merges and byte symbols into `t`. */
QD_CHECK enum qd_status qd_tokenizer_read_vocabulary(
	struct qd_tokenizer *t, struct qd_vocabulary *vocabulary, const struct qd_tokenizer_files *files);

/* ---- special strings and settings (settings.c) ---- */
/* start, end, pad, length, size and the special strings of `t`. */
QD_CHECK enum qd_status qd_tokenizer_read_settings(
	struct qd_tokenizer *t, const struct qd_vocabulary *vocabulary, const struct qd_tokenizer_files *files);

/* qd_tokenizer_open for files that are in memory; nothing of them is kept. */
QD_CHECK enum qd_status qd_tokenizer_build(struct qd_tokenizer **out, const struct qd_tokenizer_files *files);

#endif
